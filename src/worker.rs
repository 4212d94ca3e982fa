//! Worker: one thread that owns calls completely: their UDP, their agents' sockets, their 20 ms tick.
//!
//! The thread runs a single-threaded runtime. Its tasks share the calls by `Rc` and borrow them only between two awaits;
//! no frame leaves the thread. The control plane sends [`Command`]s and gets [`Report`]s.

mod command;
mod handle;
pub mod placement;
mod answering;
mod browsers;
mod phones;
mod endpoints;
pub mod ports;
mod sockets;
pub(crate) mod call_media;
mod tick;
mod slots;
pub mod load;
mod capacity;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use patchcord_media::bridge::Speaker;
use patchcord_media::peer::Identity;
use serde_json::Value;
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::agent::notice::Notice;
use crate::agent::port::{AgentPort, PortUser};
use crate::agent::{self, Dial, SocketOptions};
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::prompts::PromptLibrary;
use crate::pulse;
use crate::recordings::Recordings;
use crate::settings::CurrentSettings;
use crate::telemetry::shown;
use call_media::CallMedia;
pub use command::{Answer, BrowserAnswer, BrowserCommand, Command, MakeOffer, MediaOptions, Report, TakenFragment};
use endpoints::{Endpoint, Endpoints};
use handle::WorkerStatus;
pub use handle::{ANSWERS_WITHIN, Place, WorkerHandle};
use load::{Load, LoadLimits, Measured};
use ports::Ports;
use slots::Slots;
use sockets::PortSockets;
use tick::Tick;

/// What all workers share.
#[derive(Clone)]
pub struct WorkerOptions {
    /// The certificate of this process.
    pub identity: Arc<Identity>,
    /// The address that sockets are bound to and the address in our SDP answer, one pair for each family.
    pub addresses: Vec<(IpAddr, IpAddr)>,
    /// The UDP ports of all workers together.
    pub ports: RangeInclusive<u16>,
    /// Whether media may flow to loopback and private addresses.
    pub allow_private: bool,
    /// The media timeouts.
    pub silence: Silence,
    /// The load from which on a worker takes no new calls.
    pub load: LoadLimits,
    /// For the sockets of agents and participants.
    pub sockets: SocketOptions,
    /// The prompts that commands name.
    pub prompts: PromptLibrary,
    /// None if the folder cannot be used and no route records.
    pub recordings: Option<Recordings>,
    /// The routes that commands name.
    pub settings: CurrentSettings,
}

/// The media timeouts: how long nothing may arrive from the caller.
#[derive(Clone, Copy, Debug)]
pub struct Silence {
    /// Until a warning, for either of the two below.
    pub warn_after: Duration,
    /// Until the end of the call, without an answer to our connectivity checks: the caller is gone.
    pub consent_lost_after: Duration,
    /// Until the end of the call, without RTP and RTCP though the checks are answered: a muted phone may pause for a
    /// while.
    pub end_after: Duration,
}

/// Starts worker `index` of `workers`. The thread ends when the last handle is dropped.
pub fn start(
    options: WorkerOptions,
    index: usize,
    workers: usize,
) -> std::io::Result<(WorkerHandle, std::thread::JoinHandle<()>)> {
    let (handle, inbox) = WorkerHandle::new();
    let status = handle.status.clone();
    let (started, has_started) = std::sync::mpsc::channel();
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        let worker = Rc::new(Worker {
            endpoints: RefCell::new(Endpoints::new(Ports::new(options.ports.clone(), index, workers))),
            sockets: RefCell::default(),
            media: RefCell::default(),
            agents: RefCell::default(),
            tick: Tick::new(&status.pulse),
            options,
            index,
            status,
        });
        // A local runtime: a `LocalSet` on an ordinary one costs a second poll for every packet.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
        let ready = runtime.and_then(|runtime| {
            let _inside = runtime.enter();
            let slots = Slots::new(tick::SLOT)?;
            Ok((runtime, slots))
        });
        // `start` waits for the outcome.
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
    endpoints: RefCell<Endpoints>,
    /// The sockets of the open ports, by the same index.
    sockets: RefCell<Vec<Rc<PortSockets>>>,
    media: RefCell<HashMap<CallId, Rc<CallMedia>>>,
    /// The tasks of all agents, also of those that are leaving.
    agents: RefCell<JoinSet<()>>,
    tick: Tick,
    /// The number of this worker.
    index: usize,
    status: Arc<WorkerStatus>,
}

impl Worker {
    async fn serve(self: Rc<Self>, mut inbox: mpsc::Receiver<Command>, slots: Slots) {
        let ticking = tokio::task::spawn_local({
            let worker = self.clone();
            async move {
                // Both end together: a worker without its tick must not seem alive.
                let Err(error) = tokio::select! {
                    failed = worker.tick.run(slots) => failed,
                    never = worker.beat() => Ok(never),
                };
                error!(%error, "the timer of a worker failed: its calls are silent");
            }
        });
        while let Some(command) = inbox.recv().await {
            self.perform(command);
        }
        ticking.abort();
        // All calls have ended. Each agent's close has its own deadline.
        let mut agents = self.agents.take();
        while agents.join_next().await.is_some() {}
    }

    /// Beats the pulse and measures the load, as long as the thread runs.
    async fn beat(&self) -> Infallible {
        let mut beats = pulse::beats();
        let mut load = Load::new(self.options.load, clock::now(), load::processor_time());
        loop {
            beats.tick().await;
            let now = clock::now();
            self.status.pulse.beat(now);
            self.tick.forgive_standstill(now);
            let talking = self.media.borrow().values().filter(|media| media.is_accepted()).count();
            self.show(load.measure(self.tick.take_lateness(), talking, load::processor_time(), now));
        }
    }

    fn show(&self, measured: Measured) {
        let (index, Measured { lateness, share, is_overloaded, capacity }) = (self.index, measured);
        self.status.capacity.store(capacity, Ordering::Relaxed);
        metrics::gauge!("patchcord_worker_lateness_seconds", "worker" => index.to_string()).set(lateness.as_secs_f64());
        if let Some(share) = share {
            metrics::gauge!("patchcord_worker_processor_share", "worker" => index.to_string()).set(share);
        }
        if capacity < usize::MAX {
            metrics::gauge!("patchcord_worker_capacity_calls", "worker" => index.to_string()).set(capacity as f64);
        }
        if self.status.is_overloaded.swap(is_overloaded, Ordering::Relaxed) == is_overloaded {
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
            // The task that asks may be gone.
            Command::HasPort { reply } => drop(reply.send(self.endpoints.borrow().has_empty_port(clock::now()))),
            Command::Offer(offer) => self.offer(offer),
            // The session may have given up.
            Command::ApplyAnswer { call, answer, reply } => drop(reply.send(self.apply_answer(&call, &answer))),
            Command::Describe { call, description } => self.with_media(&call, |media| media.describe(*description)),
            Command::Dial { call, attempt, dial } => {
                self.with_media(&call, |media| self.dial(media, PortUser::Agent { attempt }, Speaker::Agent, *dial));
            }
            Command::DialBeside { call, attempt, dial } => {
                self.with_media(&call, |media| media.dial_beside(attempt, *dial));
            }
            Command::Promote { call, attempt } => self.with_media(&call, |media| media.promote(attempt)),
            // The agent may have left meanwhile.
            Command::Hold { call, held: true } => self.with_media(&call, |media| drop(media.hold(&[]))),
            Command::Hold { call, held: false } => self.with_media(&call, |media| drop(media.unhold())),
            Command::AnswerAgent { call, attempt, request_id, outcome } => {
                self.with_media(&call, |media| media.answer_agent(attempt, request_id, outcome));
            }
            Command::DropAgent { call, attempt, reason } => {
                self.with_media(&call, |media| media.drop_agent(Some(attempt), reason));
            }
            Command::StartSound { call } => self.with_media(&call, |media| media.start_sound()),
            Command::StandIn { call, prompts, repeat } => {
                self.with_media(&call, |media| media.stand_in(prompts, repeat));
            }
            Command::Perform { call, command, owner, reply } => {
                let media = self.media.borrow().get(&call).cloned();
                let ended = || Refusal::new(RefusalCode::CallEnded, "the call has ended");
                let broken = || Refusal::new(RefusalCode::InternalError, "the call ends because of a bug in Patchcord");
                let done = media.ok_or_else(ended).and_then(|media| {
                    media.contained(|| media.perform(command, owner)).unwrap_or_else(|| Err(broken()))
                });
                // The sender may be gone.
                let _ = reply.send(done);
            }
            Command::TellAgent { call, event } => {
                self.with_media(&call, |media| media.tell_agent(Notice::Event(event)));
            }
            Command::Participate { call, role, target, reply } => {
                // The request behind it may be gone.
                let _ = reply.send(self.participate(&call, role, *target));
            }
            Command::Browser { call, command } => self.browser_command(&call, command),
            Command::Release { call, reason, reply } => self.release(&call, reason, reply),
        }
    }

    /// A command may arrive after its call has ended; then there is nothing to do.
    fn with_media(&self, call: &CallId, act: impl FnOnce(&Rc<CallMedia>)) {
        let media = self.media.borrow().get(call).cloned();
        if let Some(media) = media {
            media.contained(|| act(&media));
        }
    }

    /// Takes one datagram of a socket of `port`.
    fn receive(&self, port: usize, socket: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) {
        let endpoint = self.endpoints.borrow_mut().find(port, from, datagram, now);
        match endpoint {
            Some(Endpoint { media, id }) => media.receive(id, (socket, from), datagram, now),
            None => metrics::counter!("patchcord_datagrams_unknown_total").increment(1),
        }
    }

    fn dial(&self, media: &Rc<CallMedia>, user: PortUser, speaker: Speaker, dial: Dial) {
        let mut agents = self.agents.borrow_mut();
        while agents.try_join_next().is_some() {}
        let slot = media.add_agent(user, speaker);
        let port = AgentPort::new(media.clone(), slot, dial.max_buffer);
        agent::spawn(&mut agents, dial.target, port, self.options.sockets.clone());
    }

    fn release(&self, call: &CallId, reason: &'static str, reply: oneshot::Sender<Value>) {
        let now = clock::now();
        let Some(media) = self.media.borrow_mut().remove(call) else {
            let _ = reply.send(Value::Null);
            return;
        };
        self.tick.remove(&media);
        media.contained(|| {
            media.drop_agent(None, reason);
            media.drop_participants(None, reason);
            media.close(now);
        });
        for id in media.endpoints() {
            self.endpoints.borrow_mut().remove(&Endpoint { media: media.clone(), id }, now);
        }
        // The session is gone only when the whole service stops.
        let _ = reply.send(media.contained(|| media.figures()).unwrap_or_default());
    }
}
