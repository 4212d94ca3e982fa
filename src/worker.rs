//! Worker: one thread that owns calls whole: their UDP, their agents' sockets, their 20 ms tick.
//!
//! The thread runs a single-threaded runtime. Its tasks share the calls by `Rc`, borrow them only between two awaits,
//! and no frame ever leaves the thread. The control plane sends [`Command`]s and gets [`Report`]s.

pub mod leg;
pub mod load;
pub mod placement;
pub mod ports;
mod slots;
mod sockets;
#[cfg(test)]
mod tests;
mod tick;

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use patchcord_media::bridge::{PlaybackId, Speaker};
use patchcord_media::gather::Gathered;
use patchcord_media::mixer::ParticipantId;
use patchcord_media::peer::{Consent, Identity, LocalAddress, Peer, PeerOptions};
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::quality::Quality;
use patchcord_media::sdp::Offer;
use serde_json::Value;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::agent::notice::Notice;
use crate::agent::port::{AgentPort, PortUser};
use crate::agent::{self, Dial, SocketOptions};
use crate::call::Attempt;
use crate::call::agent_failure::AgentFailure;
use crate::call::command::{CallCommand, Owner};
use crate::call::description::CallDescription;
use crate::call::end::{EndReason, MediaFailure, Shortage};
use crate::call::event::{CallEvent, CallId};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::route::BargeIn;
use crate::descriptors;
use crate::prompts::PromptLibrary;
use crate::pulse::{self, Pulse};
use crate::recordings::{RecordingId, RecordingResult, Recordings};
use crate::settings::CurrentSettings;
use crate::telemetry::shown;
use leg::{About, Leg, Line};
use load::{Load, LoadLimits, Measured};
use ports::Ports;
use slots::Slots;
use sockets::PortSockets;
use tick::Tick;

/// Commands waiting for a worker. A full queue makes the control plane wait; the worker empties it between packets.
const COMMAND_QUEUE: usize = 1024;
/// A worker takes a command between two packets and answers at once. One that has not done so is stuck.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Four beats of its pulse.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// What all workers share.
#[derive(Clone)]
pub struct WorkerOptions {
    /// The certificate of this process.
    pub identity: Arc<Identity>,
    /// What the sockets are bound to, and the address the answer gives instead, one pair for each family.
    pub addresses: Vec<(IpAddr, IpAddr)>,
    /// All workers' ports together.
    pub ports: RangeInclusive<u16>,
    /// Whether callers may be at loopback and private addresses.
    pub allow_private: bool,
    /// When nothing is received from the caller: a warning, then the end.
    pub silence: Silence,
    /// From when on a worker takes no new calls.
    pub load: LoadLimits,
    /// For the sockets of agents and third parties.
    pub sockets: SocketOptions,
    /// For commands that name one.
    pub prompts: PromptLibrary,
    /// Where recordings go; None where the folder cannot be used and no route records.
    pub recordings: Option<Recordings>,
    /// For commands that name a route.
    pub settings: CurrentSettings,
}

/// How long nothing may come from the caller.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Until a warning, of either kind.
    pub warn_after: Duration,
    /// No answer to our connectivity checks until the call's end: the caller is gone.
    pub consent_lost_after: Duration,
    /// No RTP and no RTCP until the call's end, though the checks are answered: a muted phone may pause for a while.
    pub end_after: Duration,
}

/// What the control plane asks of a worker.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
pub enum Command {
    /// Answer an offer; the call lives on this worker from then on.
    Answer(Answer),
    /// Connect an agent to the call.
    Dial { call: CallId, attempt: Attempt, dial: Box<Dial> },
    /// Connect an agent that is to take over from the one on the line.
    DialBeside { call: CallId, attempt: Attempt, dial: Box<Dial> },
    /// The agent that was dialled beside another has the caller from now on.
    Promote { call: CallId, attempt: Attempt },
    /// The caller hears hold music and the agents are among themselves, or it is over.
    Hold { call: CallId, held: bool },
    /// Leave the agent of `attempt`.
    DropAgent { call: CallId, attempt: Attempt, reason: &'static str },
    /// Meta accepted: start the RTP line.
    StartSound { call: CallId },
    /// Play prompts in place of an agent, until they end or one joins.
    StandIn { call: CallId, prompts: Vec<Prompt>, repeat: Repeat },
    /// Do what the application asks; the reply is its ids, or why not.
    Perform { call: CallId, command: CallCommand, owner: Owner, reply: oneshot::Sender<Result<Value, Refusal>> },
    /// Answer the command of an agent.
    AnswerAgent { call: CallId, attempt: Attempt, request_id: Value, outcome: Result<Value, Refusal> },
    /// Tell the agent what happened.
    TellAgent { call: CallId, event: Box<CallEvent> },
    /// The call is over. The reply is its sound in figures.
    Release { call: CallId, reason: &'static str, reply: oneshot::Sender<Value> },
}

/// The first command of every call.
pub struct Answer {
    /// Our id.
    pub call: CallId,
    /// What Meta offers.
    pub offer: Offer,
    /// What agents are told of the call.
    pub description: Box<CallDescription>,
    /// Whether we listen for the caller's speech.
    pub barge_in: BargeIn,
    /// Whether the call is recorded from accept on.
    pub record: bool,
    /// The prompt of a caller on hold.
    pub hold: String,
    /// Where the call's reports go. Each is sent once; the queue has room for all a sane call can send.
    pub reports: mpsc::Sender<Report>,
    /// The SDP answer.
    pub reply: oneshot::Sender<Result<Arc<str>, EndReason>>,
}

/// What a worker tells a call.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Debug)]
pub enum Report {
    /// ICE and DTLS are done.
    MediaConnected,
    /// Nothing has come from the caller for some seconds, or it came back.
    MediaSilent(bool),
    /// Sound can flow no more.
    MediaFailed(MediaFailure),
    /// The call's sound stands still by a mistake of ours.
    Broken,
    /// The agent of `attempt` is listening.
    AgentJoined { attempt: Attempt },
    /// The agent of `attempt` could not be reached, or is gone.
    AgentFailed { attempt: Attempt, failure: AgentFailure },
    /// The agent of `attempt` hung up.
    AgentHungUp { attempt: Attempt },
    /// The agent of `attempt` asks for something that the call decides; it is answered.
    Asked { attempt: Attempt, request_id: Value, command: CallCommand },
    /// The agent wants all events of the call on its socket.
    EventsWanted,
    /// The prompts that stood in for an agent were played to their end.
    PromptsFinished,
    /// A playback is over.
    PlaybackFinished { id: PlaybackId, owner: Owner, completed: bool },
    /// A gather is over.
    Gathered { id: u64, owner: Owner, protected: bool, gathered: Gathered },
    /// A third party is there.
    GuestJoined { guest: ParticipantId },
    /// A third party could not be reached, or is gone by itself.
    GuestLeft { guest: ParticipantId, reason: &'static str, detail: Option<Arc<str>> },
    /// How good the call sounds: at first, and whenever it is of another level.
    Quality(Quality),
    /// The caller begins or stops to speak.
    Speech { started: bool },
    /// A recording was begun; what becomes of it is told when its file is closed.
    RecordingStarted { id: RecordingId, result: oneshot::Receiver<RecordingResult> },
    /// The caller pressed a key; without the digit when it is none of the application's business.
    Dtmf { digit: Option<char>, duration_ms: u32 },
}

/// The control plane's end of a worker.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    commands: mpsc::Sender<Command>,
    calls: Arc<AtomicUsize>,
    is_overloaded: Arc<AtomicBool>,
    pulse: Arc<Pulse>,
}

impl WorkerHandle {
    /// Sends a command. An error means that the worker's thread is gone, or stuck.
    pub async fn send(&self, command: Command) -> Result<(), EndReason> {
        let sent = tokio::time::timeout(ANSWERS_WITHIN, self.commands.send(command)).await;
        sent.ok().and_then(Result::ok).ok_or(EndReason::InternalError)
    }

    /// When it last ran.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Whether it has not run for so long that it may be stuck: no call is to be put there.
    pub fn is_late(&self, now: Instant) -> bool {
        self.pulse.silent_for(now) > LATE_AFTER
    }

    /// Whether it can carry no more calls.
    pub fn is_overloaded(&self) -> bool {
        self.is_overloaded.load(Ordering::Relaxed)
    }

    /// How many calls live there.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// A worker whose part a test plays.
    #[cfg(test)]
    pub(crate) fn played() -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let (calls, is_overloaded, pulse) = Default::default();
        (Self { commands, calls, is_overloaded, pulse }, inbox)
    }
}

/// Starts worker `index` of `workers`. The thread ends when the last handle is dropped.
pub fn start(
    options: WorkerOptions,
    index: usize,
    workers: usize,
) -> std::io::Result<(WorkerHandle, std::thread::JoinHandle<()>)> {
    let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
    let calls = Arc::new(AtomicUsize::new(0));
    let pulse = Arc::new(Pulse::default());
    let is_overloaded = Arc::new(AtomicBool::new(false));
    let handle =
        WorkerHandle { commands, calls: calls.clone(), is_overloaded: is_overloaded.clone(), pulse: pulse.clone() };
    let (started, has_started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let worker = Rc::new(Worker {
            ports: RefCell::new(Ports::new(options.ports.clone(), index, workers)),
            sockets: RefCell::new(Vec::new()),
            legs: RefCell::new(HashMap::new()),
            legs_by_ufrag: RefCell::new(HashMap::new()),
            agents: RefCell::new(JoinSet::new()),
            tick: Tick::new(&pulse),
            options,
            index,
            calls,
            is_overloaded,
            pulse,
        });
        // A runtime of local tasks alone; a set of them on an ordinary one is asked for twice whenever a packet comes.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let ready = runtime.and_then(|runtime| {
            let _inside = runtime.enter();
            let slots = Slots::new(tick::SLOT)?;
            Ok((runtime, slots))
        });
        // Whoever starts us waits for this word.
        match ready {
            Ok((runtime, slots)) => {
                let _ = started.send(Ok(()));
                runtime.block_on(worker.serve(inbox, slots));
            }
            Err(error) => drop(started.send(Err(error))),
        }
    })?;
    has_started.recv().unwrap_or_else(|_| Err(std::io::Error::other("the worker's thread has ended")))?;
    Ok((handle, thread))
}

/// A worker on its own thread.
pub(crate) struct Worker {
    options: WorkerOptions,
    ports: RefCell<Ports<Rc<Leg>>>,
    /// Beside the open ports, by the same index.
    sockets: RefCell<Vec<Rc<PortSockets>>>,
    legs: RefCell<HashMap<CallId, Rc<Leg>>>,
    /// By the local ufrag, to place checks from addresses that the offer did not list.
    legs_by_ufrag: RefCell<HashMap<String, Rc<Leg>>>,
    /// Tasks of agents that are here or on their way out.
    agents: RefCell<JoinSet<()>>,
    tick: Tick,
    /// Its number among the workers.
    index: usize,
    calls: Arc<AtomicUsize>,
    is_overloaded: Arc<AtomicBool>,
    pulse: Arc<Pulse>,
}

impl Worker {
    async fn serve(self: Rc<Self>, mut inbox: mpsc::Receiver<Command>, slots: Slots) {
        let ticking = tokio::task::spawn_local({
            let worker = self.clone();
            async move {
                // Without its tick a worker has no pulse.
                let Err(error) = tokio::select! {
                    failed = worker.tick.run(slots) => failed,
                    never = worker.beat() => Ok(never),
                };
                error!(%error, "a worker's timer fails: its calls are silent");
            }
        });
        while let Some(command) = inbox.recv().await {
            self.perform(command);
        }
        ticking.abort();
        // All calls are over: each agent's farewell has its own deadline.
        let mut agents = self.agents.take();
        while agents.join_next().await.is_some() {}
    }

    /// Shows that it runs, and what it has to do.
    async fn beat(&self) -> Infallible {
        let mut beats = pulse::beats();
        let mut load = Load::new(self.options.load, Instant::now(), load::processor_time());
        loop {
            beats.tick().await;
            let now = Instant::now();
            self.pulse.beat(now);
            self.tick.forgive_standstill(now);
            self.show(load.measure(self.tick.take_lateness(), load::processor_time(), now));
        }
    }

    fn show(&self, measured: Measured) {
        let (index, Measured { lateness, share, is_overloaded }) = (self.index, measured);
        metrics::gauge!("patchcord_worker_lateness_seconds", "worker" => index.to_string()).set(lateness.as_secs_f64());
        if let Some(share) = share {
            metrics::gauge!("patchcord_worker_processor_share", "worker" => index.to_string()).set(share);
        }
        if self.is_overloaded.swap(is_overloaded, Ordering::Relaxed) == is_overloaded {
            return;
        }
        let share = share.unwrap_or_default() * 100.0;
        match is_overloaded {
            true => warn!(
                "worker {index} is overloaded and takes no new calls: its tick is {} late, and it takes \
                 {share:.0} % of a core",
                shown(lateness)
            ),
            false => info!("worker {index} takes calls again"),
        }
    }

    fn perform(self: &Rc<Self>, command: Command) {
        match command {
            Command::Answer(answer) => self.answer(answer),
            Command::Dial { call, attempt, dial } => {
                self.with_leg(&call, |leg| self.dial(leg, PortUser::Agent { attempt }, Speaker::Agent, *dial));
            }
            Command::DialBeside { call, attempt, dial } => self.with_leg(&call, |leg| leg.dial_beside(attempt, *dial)),
            Command::Promote { call, attempt } => self.with_leg(&call, |leg| leg.promote(attempt)),
            // Whoever was to be on hold, or was, may have left.
            Command::Hold { call, held: true } => self.with_leg(&call, |leg| drop(leg.hold(&[]))),
            Command::Hold { call, held: false } => self.with_leg(&call, |leg| drop(leg.unhold())),
            Command::AnswerAgent { call, attempt, request_id, outcome } => {
                self.with_leg(&call, |leg| leg.answer_agent(attempt, request_id, outcome));
            }
            Command::DropAgent { call, attempt, reason } => {
                self.with_leg(&call, |leg| leg.drop_agent(Some(attempt), reason));
            }
            Command::StartSound { call } => self.with_leg(&call, |leg| leg.start_sound()),
            Command::StandIn { call, prompts, repeat } => {
                self.with_leg(&call, |leg| leg.stand_in(prompts, repeat));
            }
            Command::Perform { call, command, owner, reply } => {
                let leg = self.legs.borrow().get(&call).cloned();
                let done = leg.map_or(Err(Refusal::new(RefusalCode::CallEnded, "the call has ended")), |leg| {
                    leg.contained(|| leg.perform(command, owner)).unwrap_or(Err(Refusal::new(
                        RefusalCode::InternalError,
                        "the call ends by a mistake in the program",
                    )))
                });
                // Whoever asked may have gone.
                let _ = reply.send(done);
            }
            Command::TellAgent { call, event } => {
                self.with_leg(&call, |leg| leg.tell_agent(Notice::Event(event)));
            }
            Command::Release { call, reason, reply } => self.release(&call, reason, reply),
        }
    }

    /// A command may come for a call that is gone; then there is nothing to do.
    fn with_leg(&self, call: &CallId, act: impl FnOnce(&Rc<Leg>)) {
        let leg = self.legs.borrow().get(call).cloned();
        if let Some(leg) = leg {
            leg.contained(|| act(&leg));
        }
    }

    fn answer(self: &Rc<Self>, answer: Answer) {
        let Answer { call, offer, description, barge_in, record, hold, reports, reply } = answer;
        let worker = Rc::downgrade(self);
        let WorkerOptions { prompts, recordings, .. } = self.options.clone();
        let pulse = self.pulse.clone();
        let about = About { call, description, barge_in, record, hold, prompts, recordings, reports, pulse, worker };
        // Nobody but this call has touched what a mistake leaves half done.
        let answered = catch_unwind(AssertUnwindSafe(|| self.seat(about, &offer)));
        let answered = answered.unwrap_or(Err(EndReason::InternalError));
        // The session may have given up; its Release follows.
        let _ = reply.send(answered);
    }

    fn seat(self: &Rc<Self>, about: About, offer: &Offer) -> Result<Arc<str>, EndReason> {
        let now = Instant::now();
        let remotes = &offer.remote_candidates();
        let (port, sockets) = self.open_port(remotes, now).map_err(EndReason::Overloaded)?;
        let options = PeerOptions {
            identity: self.options.identity.clone(),
            addresses: self.local_addresses(&sockets),
            allow_private: self.options.allow_private,
            ssrc: rand::random(),
            consent: Consent {
                warn_after: self.options.silence.warn_after,
                fail_after: self.options.silence.consent_lost_after,
            },
        };
        let (peer, answer) =
            Peer::answer(&options, offer, now).map_err(|error| EndReason::OfferRefused(error.to_string()))?;
        let call = about.call.clone();
        let line = Line { sockets, port, silence: self.options.silence };
        let leg = Rc::new(Leg::new(about, peer, offer, options.ssrc, line, now));
        for remote in remotes {
            self.ports.borrow_mut().take(port, *remote, leg.clone(), now);
        }
        self.legs.borrow_mut().insert(call, leg.clone());
        self.legs_by_ufrag.borrow_mut().insert(leg.ufrag(), leg.clone());
        self.calls.store(self.legs.borrow().len(), Ordering::Relaxed);
        leg.settle();
        self.tick.add(leg);
        Ok(answer.into())
    }

    fn local_addresses(&self, sockets: &PortSockets) -> Vec<LocalAddress> {
        let advertised = self.options.addresses.iter().map(|(_, advertised)| *advertised);
        sockets
            .addresses()
            .zip(advertised)
            .map(|(socket, ip)| LocalAddress { socket, advertised: SocketAddr::new(ip, socket.port()) })
            .collect()
    }

    /// A port where none of the remotes sits, with its sockets open.
    fn open_port(self: &Rc<Self>, remotes: &[SocketAddr], now: Instant) -> Result<(usize, Rc<PortSockets>), Shortage> {
        loop {
            let placed = self.ports.borrow_mut().place(remotes, now).ok_or(Shortage::Ports)?;
            if !placed.is_new {
                return Ok((placed.port, self.sockets.borrow()[placed.port].clone()));
            }
            let listen = self.options.addresses.iter().map(|(listen, _)| SocketAddr::new(*listen, placed.number));
            match PortSockets::open(listen) {
                Ok(sockets) => {
                    descriptors::shortage_is_over();
                    let sockets = Rc::new(sockets);
                    self.sockets.borrow_mut().push(sockets.clone());
                    sockets::spawn_readers(self, placed.port, &sockets);
                    return Ok((placed.port, sockets));
                }
                Err(error) if sockets::is_held_by_others(&error) => {
                    warn!(
                        port = placed.number,
                        "UDP port {} cannot be opened and is passed over: {error}", placed.number
                    );
                    self.ports.borrow_mut().discard_newest();
                }
                Err(error) => {
                    descriptors::tell_shortage(&error);
                    self.ports.borrow_mut().put_back_newest();
                    return Err(Shortage::Sockets);
                }
            }
        }
    }

    /// One datagram of a socket of `port`.
    fn receive(&self, port: usize, socket: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) {
        let seated = self.ports.borrow().at(port, &from).cloned();
        let Some(leg) = seated.or_else(|| self.seat_newcomer(port, from, datagram, now)) else {
            metrics::counter!("patchcord_datagrams_unknown_total").increment(1);
            return;
        };
        leg.receive(socket, from, datagram, now);
    }

    /// A full-ICE caller may check from an address its offer did not list: its STUN request names our ufrag, which
    /// anybody on the path can read, and is signed with our password, which only the caller knows.
    fn seat_newcomer(&self, port: usize, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<Rc<Leg>> {
        // Anybody's bytes: a mistake in reading them would end every call of this worker.
        let ufrag = catch_unwind(|| patchcord_media::peer::stun_request_ufrag(datagram)).ok().flatten()?;
        let leg = self.legs_by_ufrag.borrow().get(ufrag).cloned()?;
        let may_sit = leg.port() == port && leg.may_take_another_address() && leg.is_authentic_stun(datagram);
        if !may_sit || !self.ports.borrow_mut().take(port, from, leg.clone(), now) {
            return None;
        }
        leg.takes_another_address();
        Some(leg)
    }

    fn dial(&self, leg: &Rc<Leg>, user: PortUser, speaker: Speaker, dial: Dial) {
        let mut agents = self.agents.borrow_mut();
        while agents.try_join_next().is_some() {}
        let Dial { agent, max_buffer } = dial;
        let slot = leg.add_agent(user, speaker);
        let port = AgentPort::new(leg.clone(), slot, agent.profile, max_buffer);
        agent::spawn(&mut agents, agent, port, self.options.sockets.clone());
    }

    fn release(&self, call: &CallId, reason: &'static str, reply: oneshot::Sender<Value>) {
        let now = Instant::now();
        let Some(leg) = self.legs.borrow_mut().remove(call) else {
            let _ = reply.send(Value::Null);
            return;
        };
        self.legs_by_ufrag.borrow_mut().remove(&leg.ufrag());
        self.tick.remove(&leg);
        leg.contained(|| {
            leg.drop_agent(None, reason);
            leg.drop_guests(None, reason);
            leg.close(now);
        });
        self.ports.borrow_mut().leave(leg.port(), |seated| Rc::ptr_eq(seated, &leg), now);
        self.calls.store(self.legs.borrow().len(), Ordering::Relaxed);
        // The session is gone only when the whole service stops.
        let _ = reply.send(leg.contained(|| leg.figures()).unwrap_or_default());
    }
}
