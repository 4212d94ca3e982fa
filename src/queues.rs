//! The shell around [`Queues`]: one task owns them, sessions and agents talk to it by message.
//!
//! A session [enters](QueuesHandle::enter) its caller and keeps the [`Ticket`]; dropping the ticket takes the caller out, or
//! ends the agent's conversation. An agent is signed in while one of its [`Attendance`]s lives, and [`RELOAD`] longer.

mod attendance;
mod ticket;
pub mod phones;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

pub use attendance::{AgentNews, Attendance};
pub use ticket::{Ticket, TicketNews};

use crate::call::event::CallId;
use crate::clock;
use crate::pulse::{Pulse, Standstills};
use crate::queue::snapshot::{AgentSnapshot, QueueSnapshot, RingSnapshot};
use crate::queue::{
    Action, AgentName, Entry, Input, NotOffered, PlaceId, Progress, QueueName, QueueOptions, Queues, SignIn, Skill,
};
use attendance::Attendances;
use ticket::Tickets;

/// Messages waiting for the task; senders wait for room.
const COMMANDS: usize = 1024;
/// How long an agent without a stream is still signed in: a page that reloads is back in this time.
pub const RELOAD: Duration = Duration::from_secs(20);
/// For the task to answer, which it does at once.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// How often the metrics of waiting callers are renewed.
const FIGURES_EVERY: Duration = Duration::from_secs(5);

/// One queue as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSetup {
    /// Its rules.
    pub options: QueueOptions,
    /// What its callers hear, and need of an agent.
    pub room: WaitingRoom,
    /// SIP users whose phones ring for its callers.
    pub sip_users: BTreeSet<String>,
}

/// What the callers of a queue hear, and need of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingRoom {
    /// The prompt that they hear.
    pub hold: String,
    /// Their position is announced by the prompt of this name, a hyphen and the position, if there is one.
    pub announce: String,
    /// What an agent must have to be offered them.
    pub skills: BTreeSet<Skill>,
}

/// The way to the queues. Cheap to clone.
#[derive(Clone, Debug)]
pub struct QueuesHandle {
    commands: mpsc::Sender<Command>,
    rooms: Arc<BTreeMap<QueueName, WaitingRoom>>,
}

/// A signed-in agent, and the call that rings for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentView {
    /// How it stands.
    pub agent: AgentSnapshot,
    /// What rings.
    pub ring: Option<RingSnapshot>,
}

/// The service is stopping, or the queues' task does not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queues do not answer")]
pub struct Unavailable;

/// Why an answer is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The call does not ring at this agent.
    #[error(transparent)]
    NotOffered(#[from] NotOffered),
    /// The queues do not answer.
    #[error(transparent)]
    Unavailable(#[from] Unavailable),
}

enum Command {
    Enter { entry: Entry, news: mpsc::Sender<TicketNews> },
    Return(PlaceId),
    Leave(PlaceId),
    Attend { sign_in: SignIn, news: mpsc::Sender<AgentNews>, number: u64 },
    Depart { agent: AgentName, number: u64 },
    SetAvailable { agent: AgentName, available: bool },
    Answer { agent: AgentName, call: CallId, reply: oneshot::Sender<Result<(), NotOffered>> },
    Decline { agent: AgentName, call: CallId, reply: oneshot::Sender<Result<(), NotOffered>> },
    View { agent: AgentName, reply: oneshot::Sender<Option<AgentView>> },
    Snapshot(oneshot::Sender<Vec<QueueSnapshot>>),
}

impl QueuesHandle {
    /// Starts the task; it ends when the last handle, ticket and attendance is dropped. The pulse is that of the runtime.
    pub fn start(
        queues: impl IntoIterator<Item = (QueueName, QueueSetup)>,
        pulse: &Arc<Pulse>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (commands, inbox) = mpsc::channel(COMMANDS);
        let (mut options, mut rooms) = (Vec::new(), BTreeMap::new());
        for (name, queue) in queues {
            options.push((name.clone(), queue.options));
            rooms.insert(name, queue.room);
        }
        let desk = Desk::new(options, pulse);
        (Self { commands, rooms: Arc::new(rooms) }, tokio::spawn(desk.run(inbox)))
    }

    /// The names of all queues.
    pub fn names(&self) -> impl Iterator<Item = &QueueName> {
        self.rooms.keys()
    }

    /// What the callers of a queue hear; None if there is no such queue.
    pub fn room(&self, queue: &QueueName) -> Option<&WaitingRoom> {
        self.rooms.get(queue)
    }

    /// The caller waits from now on, in a queue that has a [room](Self::room), or rings at the agent that it wants.
    pub async fn enter(&self, entry: Entry) -> Result<Ticket, Unavailable> {
        let (ticket, news) = Ticket::new(entry.place.clone(), self.commands.clone());
        self.send(Command::Enter { entry, news }).await?;
        Ok(ticket)
    }

    /// The agent is signed in, and away until it says otherwise. A second attendance of one agent, such as another tab,
    /// gets the same messages.
    pub async fn attend(&self, sign_in: SignIn) -> Result<Attendance, Unavailable> {
        let (attendance, news) = Attendance::new(sign_in.agent.clone(), self.commands.clone());
        self.send(Command::Attend { sign_in, news, number: attendance.number() }).await?;
        Ok(attendance)
    }

    /// The agent takes calls, or does not.
    pub async fn set_available(&self, agent: AgentName, available: bool) -> Result<(), Unavailable> {
        self.send(Command::SetAvailable { agent, available }).await
    }

    /// The agent takes the call that rings for it.
    pub async fn answer(&self, agent: AgentName, call: CallId) -> Result<(), AnswerError> {
        let (reply, answered) = oneshot::channel();
        self.send(Command::Answer { agent, call, reply }).await?;
        Ok(received(answered).await??)
    }

    /// The agent does not want the call that rings for it.
    pub async fn decline(&self, agent: AgentName, call: CallId) -> Result<(), AnswerError> {
        let (reply, declined) = oneshot::channel();
        self.send(Command::Decline { agent, call, reply }).await?;
        Ok(received(declined).await??)
    }

    /// How an agent stands; None if it is not signed in.
    pub async fn agent(&self, agent: AgentName) -> Result<Option<AgentView>, Unavailable> {
        let (reply, view) = oneshot::channel();
        self.send(Command::View { agent, reply }).await?;
        received(view).await
    }

    /// How all queues stand.
    pub async fn snapshot(&self) -> Result<Vec<QueueSnapshot>, Unavailable> {
        let (reply, snapshot) = oneshot::channel();
        self.send(Command::Snapshot(reply)).await?;
        received(snapshot).await
    }

    async fn send(&self, command: Command) -> Result<(), Unavailable> {
        let sent = tokio::time::timeout(ANSWERS_WITHIN, self.commands.send(command)).await;
        sent.map_err(|_| Unavailable)?.map_err(|_| Unavailable)
    }
}

async fn received<T>(reply: oneshot::Receiver<T>) -> Result<T, Unavailable> {
    tokio::time::timeout(ANSWERS_WITHIN, reply).await.map_err(|_| Unavailable)?.map_err(|_| Unavailable)
}

/// What the task owns.
struct Desk {
    queues: Queues,
    tickets: Tickets,
    attendances: Attendances,
    /// Freezes of our process, which count against no caller and no agent.
    standstills: Standstills,
}

impl Desk {
    fn new(options: impl IntoIterator<Item = (QueueName, QueueOptions)>, pulse: &Arc<Pulse>) -> Self {
        Self {
            queues: Queues::new(options),
            tickets: Tickets::default(),
            attendances: Attendances::default(),
            standstills: Standstills::of(pulse, clock::now()),
        }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Command>) {
        let mut figures = tokio::time::interval(FIGURES_EVERY);
        loop {
            let deadline = [self.queues.poll_timeout(), self.attendances.poll_timeout()].into_iter().flatten().min();
            let due = async {
                match deadline {
                    Some(at) => tokio::time::sleep_until(at.into()).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => self.take(command, clock::now()),
                    None => return,
                },
                () = due => self.handle_timeout(clock::now()),
                _ = figures.tick() => self.show_figures(&self.queues.snapshot(clock::now())),
            }
            self.perform();
        }
    }

    fn take(&mut self, command: Command, now: Instant) {
        self.forgive_standstill();
        match command {
            Command::Enter { entry, news } => {
                self.tickets.insert(entry.place.clone(), news);
                self.queues.handle(Input::Entered(entry), now);
            }
            Command::Return(place) => self.queues.handle(Input::Returned(place), now),
            Command::Leave(place) => {
                self.tickets.remove(&place);
                self.queues.handle(Input::Left(place), now);
            }
            Command::Attend { sign_in, news, number } => self.attend(sign_in, news, number, now),
            Command::Depart { agent, number } => self.attendances.depart(&agent, number, now),
            Command::SetAvailable { agent, available: true } => self.queues.handle(Input::Available(agent), now),
            Command::SetAvailable { agent, available: false } => self.queues.handle(Input::Away(agent), now),
            Command::Answer { agent, call, reply } => {
                // The page that asked may be gone; its attempt has a deadline of its own.
                let _ = reply.send(self.queues.answer(&agent, &call, now));
            }
            Command::Decline { agent, call, reply } => {
                let rings = self.queues.ring_at(&agent, now).is_some_and(|ring| ring.call == call);
                let _ = reply.send(rings.then_some(()).ok_or(NotOffered));
                self.queues.handle(Input::Declined(agent, call), now);
            }
            Command::View { agent, reply } => {
                let ring = self.queues.ring_at(&agent, now);
                let _ = reply.send(self.queues.agent(&agent).map(|agent| AgentView { agent, ring }));
            }
            Command::Snapshot(reply) => {
                let _ = reply.send(self.queues.snapshot(now));
            }
        }
        self.show_states(now);
    }

    fn attend(&mut self, sign_in: SignIn, news: mpsc::Sender<AgentNews>, number: u64, now: Instant) {
        let agent = sign_in.agent.clone();
        self.queues.handle(Input::SignedIn(sign_in), now);
        self.attendances.insert(agent.clone(), number, news);
        self.show_states(now);
        if let Some(ring) = self.queues.ring_at(&agent, now) {
            self.attendances.greet(&agent, number, AgentNews::Ringing(ring));
        }
    }

    fn handle_timeout(&mut self, now: Instant) {
        if self.forgive_standstill() {
            // What was said meanwhile is read first.
            return;
        }
        for agent in self.attendances.take_departed(now) {
            self.queues.handle(Input::SignedOut(agent), now);
        }
        self.queues.handle_timeout(now);
        self.show_states(now);
    }

    /// Whether deadlines were moved.
    fn forgive_standstill(&mut self) -> bool {
        let gap = self.standstills.next(clock::now());
        if let Some(gap) = gap {
            self.queues.stood_still(gap);
            self.attendances.stood_still(gap);
        }
        gap.is_some()
    }

    fn perform(&mut self) {
        while let Some(action) = self.queues.poll_action() {
            match action {
                Action::Ring { agent, call } => {
                    if let Some(ring) = self.queues.ring_at(&agent, clock::now()).filter(|ring| ring.call == call) {
                        self.attendances.tell(&agent, &AgentNews::Ringing(ring));
                    }
                }
                Action::StopRinging { agent, call, end } => {
                    self.attendances.tell(&agent, &AgentNews::RingStopped { call, end: Some(end) });
                }
                Action::Connect { agent, place } => {
                    // The other tabs of the agent ring no more either.
                    self.attendances.tell(&agent, &AgentNews::RingStopped { call: place.call.clone(), end: None });
                    self.tickets.tell(&place, TicketNews::Answered(agent));
                }
                Action::Overflow { place, reason } => self.tickets.tell(&place, TicketNews::Overflowed(reason)),
                Action::Unreached { place, why } => self.tickets.tell(&place, TicketNews::Unreached(why)),
                Action::Announce { place, position } => self.tickets.tell(&place, TicketNews::Position(position)),
                Action::Report { place, progress } => self.report(&place, progress),
            }
        }
    }

    fn report(&mut self, place: &PlaceId, progress: Progress) {
        let (queue, event) = (progress.queue().to_string(), progress.event_type());
        metrics::counter!("patchcord_queue_events_total", "queue" => queue, "event" => event).increment(1);
        self.tickets.tell(place, TicketNews::Progress(progress));
    }

    /// Sends each agent its state, and the state of the queues to the metrics.
    fn show_states(&mut self, now: Instant) {
        let queues = self.queues.snapshot(now);
        self.show_figures(&queues);
        let mut seen = BTreeSet::new();
        for agent in queues.iter().flat_map(|queue| &queue.agents) {
            if seen.insert(agent.name.clone()) {
                self.attendances.show(agent);
            }
        }
    }

    fn show_figures(&self, queues: &[QueueSnapshot]) {
        for queue in queues {
            let name = queue.name.to_string();
            metrics::gauge!("patchcord_queue_waiting", "queue" => name.clone()).set(queue.waiting.len() as f64);
            metrics::gauge!("patchcord_queue_longest_wait_seconds", "queue" => name.clone())
                .set(queue.longest_wait().as_secs_f64());
            if let Some(level) = queue.counts.service_level() {
                metrics::gauge!("patchcord_queue_service_level_ratio", "queue" => name.clone()).set(level);
            }
            for state in ["away", "idle", "ringing", "talking", "wrap_up"] {
                let count = queue.agents.iter().filter(|agent| agent.state == state).count();
                metrics::gauge!("patchcord_queue_agents", "queue" => name.clone(), "state" => state).set(count as f64);
            }
        }
    }
}

/// By agent and a number that is never used twice.
type Numbered<T> = BTreeMap<u64, T>;
