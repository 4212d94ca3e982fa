//! Queues: callers wait for agents, agents wait for callers. A pure state machine like [`Call`](crate::call::Call).
//!
//! All queues are one value, because an agent that serves two of them rings for one caller at a time. Inputs and time go
//! in through [`Queues::handle`], [`Queues::answer`] and [`Queues::handle_timeout`]; what is to be done comes out of
//! [`Queues::poll_action`]. After every input no caller waits unoffered while an agent that may take it is idle, no caller
//! rings at two agents, and each caller leaves exactly once: connected, abandoned, overflowed or, where it wants one agent
//! by name, told that this agent was not reached.

pub mod action;
mod agent;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use action::{Action, OverflowReason, Progress, RingEnd, Unreached};
use agent::{Agent, Presence};

use crate::call::Attempt;
use crate::call::event::CallId;

/// How long an agent rings that is called by name and serves no queue whose rules could say it.
const RING_BY_NAME: Duration = Duration::from_secs(20);
/// Returning callers that are remembered with their last agent; the oldest is forgotten first.
const REMEMBERED_CALLERS: usize = 10_000;

/// A queue by its name in the configuration.
pub type QueueName = Arc<str>;
/// An agent by the name it signed in with.
pub type AgentName = Arc<str>;
/// A tag that a caller may need and an agent may have.
pub type Skill = Arc<str>;
/// Something that is the same for each call of one caller, and does not give its number away.
pub type CallerKey = Arc<str>;

/// The rules of one queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueOptions {
    /// How long one agent rings before the next one does.
    pub ring_timeout: Duration,
    /// How long an agent is left alone after a call.
    pub wrap_up: Duration,
    /// Callers that may wait; one more overflows at once.
    pub max_waiting: usize,
    /// How long a caller may wait before it overflows.
    pub max_wait: Duration,
    /// Whether a caller waits or overflows when no agent of the queue is signed in.
    pub unstaffed: Unstaffed,
    /// How long a returning caller's last agent is preferred to all others; zero for never.
    pub sticky_for: Duration,
    /// From one announcement of the caller's position to the next; None for no announcements.
    pub announce_every: Option<Duration>,
    /// An answer within this time counts as within the service level.
    pub service_level: Duration,
    /// Offers in a row that an agent may miss; then it is away until it says otherwise.
    pub max_missed: u32,
}

/// The policy for callers while no agent of their queue is signed in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unstaffed {
    /// They wait for one.
    #[default]
    Wait,
    /// They overflow.
    Overflow,
}

/// One attempt of a call to reach a person. During a transfer a call has two: the agent that it has, and the next one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlaceId {
    /// Whose.
    pub call: CallId,
    /// Which of its attempts.
    pub attempt: Attempt,
}

/// A caller that is to reach a person.
#[derive(Clone, Debug)]
pub struct Entry {
    /// What it is known by.
    pub place: PlaceId,
    /// Who may take it.
    pub wanted: Wanted,
    /// Finds its last agent.
    pub caller: Option<CallerKey>,
}

/// Who may take a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any agent of this queue that has these skills. The caller waits for one.
    AnyOf {
        /// Where it waits.
        queue: QueueName,
        /// What an agent must have to be offered the call.
        skills: BTreeSet<Skill>,
    },
    /// This agent, if it is idle now. Nobody waits for one agent.
    Agent(AgentName),
}

/// An agent's shift.
#[derive(Clone, Debug)]
pub struct SignIn {
    /// Who.
    pub agent: AgentName,
    /// Whose callers it takes.
    pub queues: BTreeSet<QueueName>,
    /// What it can do.
    pub skills: BTreeSet<Skill>,
}

/// An input to the queues. One that names an unknown call or agent is ignored.
#[derive(Clone, Debug)]
pub enum Input {
    /// A caller waits from now on.
    Entered(Entry),
    /// The caller hung up, or was put through elsewhere.
    Left(PlaceId),
    /// The agent and the caller have finished.
    Finished(PlaceId),
    /// The agent answered, and its page could not connect: the caller waits again, as long as if it had never left.
    Returned(PlaceId),
    /// The agent is there, and away until [`Input::Available`]. Signing in again changes its queues and skills.
    SignedIn(SignIn),
    /// The agent has gone; a conversation goes on.
    SignedOut(AgentName),
    /// The agent takes calls, also before its wrap-up time is over.
    Available(AgentName),
    /// The agent takes no calls after this one.
    Away(AgentName),
    /// The agent does not want this call.
    Declined(AgentName, CallId),
}

/// An answer to a call that does not ring at this agent, or not any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this call does not ring for you any more")]
pub struct NotOffered;

/// All queues and their agents.
#[derive(Debug)]
pub struct Queues {
    queues: BTreeMap<QueueName, Queue>,
    agents: BTreeMap<AgentName, Agent>,
    /// In the order in which they came, of all queues.
    waiting: VecDeque<Waiting>,
    last_agents: LastAgents,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
struct Queue {
    options: QueueOptions,
    counts: snapshot::Counts,
}

#[derive(Debug)]
struct Waiting {
    entry: Entry,
    entered_at: Instant,
    /// None for a caller that wants one agent, whose ring has an end.
    overflow_at: Option<Instant>,
    announce_at: Option<Instant>,
    ring: Option<Ring>,
    /// Who let it ring in vain: offered it again only when nobody else is free.
    missed_by: BTreeSet<AgentName>,
    /// Who does not want it: not offered it again.
    declined_by: BTreeSet<AgentName>,
}

#[derive(Debug)]
struct Ring {
    agent: AgentName,
    until: Instant,
}

impl Queues {
    /// Queues without callers and agents.
    pub fn new(options: impl IntoIterator<Item = (QueueName, QueueOptions)>) -> Self {
        let queue = |options| Queue { options, counts: snapshot::Counts::default() };
        Self {
            queues: options.into_iter().map(|(name, options)| (name, queue(options))).collect(),
            agents: BTreeMap::new(),
            waiting: VecDeque::new(),
            last_agents: LastAgents::default(),
            actions: VecDeque::new(),
        }
    }

    /// Takes one input.
    pub fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Entered(entry) => self.enter(entry, now),
            Input::Left(place) => self.leave(&place, now),
            Input::Finished(place) => self.finish(&place, now),
            Input::Returned(place) => self.take_back(&place, now),
            Input::SignedIn(sign_in) => self.sign_in(sign_in, now),
            Input::SignedOut(agent) => self.sign_out(&agent, now),
            Input::Available(agent) => self.become_available(&agent, now),
            Input::Away(agent) => self.go_away(&agent),
            Input::Declined(agent, call) => self.decline(&agent, &call, now),
        }
        self.assign(now);
    }

    /// The agent takes the call that rings for it. The first answer wins; a later one, from another tab or after the
    /// ring's end, is refused.
    pub fn answer(&mut self, agent: &AgentName, call: &CallId, now: Instant) -> Result<(), NotOffered> {
        let rings_here = |waiting: &Waiting| waiting.entry.place.call == *call && waiting.rings_at(agent);
        let index = self.waiting.iter().position(rings_here).ok_or(NotOffered)?;
        let Some(mut waiting) = self.waiting.remove(index) else { return Err(NotOffered) };
        waiting.ring = None;
        let Entry { place, wanted, caller } = waiting.entry.clone();
        let waited = now.saturating_duration_since(waiting.entered_at);
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.answered(waiting);
        }
        self.actions.push_back(Action::Connect { agent: agent.clone(), place: place.clone() });
        let Wanted::AnyOf { queue, .. } = wanted else { return Ok(()) };
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.counts.answered(waited, queue.options.service_level);
            if let Some(caller) = caller.filter(|_| !queue.options.sticky_for.is_zero()) {
                self.last_agents.remember(caller, agent.clone(), now + queue.options.sticky_for);
            }
        }
        self.report(&place, Progress::Answered { queue, agent: agent.clone(), waited });
        Ok(())
    }

    /// To be called when [`Queues::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.end_rings(now);
        self.overflow_the_patient(now);
        self.announce(now);
        self.agents.values_mut().for_each(|agent| agent.handle_timeout(now));
        self.assign(now);
    }

    /// When [`Queues::handle_timeout`] wants to be called, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let callers = self.waiting.iter().flat_map(|waiting| {
            [waiting.overflow_at, waiting.announce_at, waiting.ring.as_ref().map(|ring| ring.until)]
        });
        let agents = self.agents.values().map(Agent::poll_timeout);
        callers.chain(agents).flatten().min()
    }

    /// Nothing was done for `gap`, by our own fault: to be called before [`Queues::handle_timeout`]. Each deadline is that
    /// much later, so that nobody misses a ring that the page was never shown.
    pub fn stood_still(&mut self, gap: Duration) {
        for waiting in &mut self.waiting {
            if let Some(at) = &mut waiting.overflow_at {
                *at += gap;
            }
            if let Some(ring) = &mut waiting.ring {
                ring.until += gap;
            }
        }
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn enter(&mut self, entry: Entry, now: Instant) {
        if self.waiting.iter().any(|waiting| waiting.entry.place == entry.place) {
            return;
        }
        match entry.wanted.clone() {
            Wanted::AnyOf { queue, .. } => self.enter_queue(entry, &queue, now),
            Wanted::Agent(agent) => self.call_by_name(entry, agent, now),
        }
    }

    fn enter_queue(&mut self, entry: Entry, name: &QueueName, now: Instant) {
        let Some(queue) = self.queues.get(name) else { return };
        let options = &queue.options;
        let (overflow_at, announce_at) = (now + options.max_wait, options.announce_every.map(|every| now + every));
        let count = self.waiting.iter().filter(|waiting| waiting.entry.queue() == Some(name)).count();
        let is_staffed = self.agents.values().any(|agent| agent.serves(name));
        let refusal = match options.unstaffed {
            Unstaffed::Overflow if !is_staffed => Some(OverflowReason::NoAgents),
            Unstaffed::Overflow | Unstaffed::Wait if count >= options.max_waiting => Some(OverflowReason::Full),
            Unstaffed::Overflow | Unstaffed::Wait => None,
        };
        let place = entry.place.clone();
        self.report(&place, Progress::Entered { queue: name.clone(), position: count + 1 });
        match refusal {
            Some(reason) => self.overflow(&place, name, Duration::ZERO, reason),
            None => self.waiting.push_back(Waiting {
                overflow_at: Some(overflow_at),
                announce_at,
                ..Waiting::new(entry, now)
            }),
        }
    }

    /// Rings at this agent, or says at once why it cannot be reached.
    fn call_by_name(&mut self, entry: Entry, name: AgentName, now: Instant) {
        let free = self.agents.get(&name).map_or(Err(Unreached::SignedOut), Agent::is_free_for_a_call_by_name);
        match free {
            Ok(()) => {
                let mut waiting = Waiting::new(entry, now);
                self.ring(&mut waiting, name, now);
                self.waiting.push_back(waiting);
            }
            Err(why) => self.actions.push_back(Action::Unreached { place: entry.place, why }),
        }
    }

    fn leave(&mut self, place: &PlaceId, now: Instant) {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.entry.place == *place) else {
            return self.finish(place, now);
        };
        let Some(mut waiting) = self.waiting.remove(index) else { return };
        self.stop_ring(&mut waiting, RingEnd::CallerLeft, now);
        let waited = now.saturating_duration_since(waiting.entered_at);
        let Some(name) = waiting.entry.queue().cloned() else { return };
        if let Some(queue) = self.queues.get_mut(&name) {
            queue.counts.abandoned += 1;
        }
        self.report(place, Progress::Abandoned { queue: name, waited });
    }

    fn finish(&mut self, place: &PlaceId, now: Instant) {
        let Some(name) = self.agent_of(place) else { return };
        let wrap_up = self.rules_of(&name, place).map_or(Duration::ZERO, |rules| rules.wrap_up);
        self.release(&name, wrap_up, now);
    }

    /// The agent's next call is not this one: its page has just failed.
    fn take_back(&mut self, place: &PlaceId, now: Instant) {
        let Some(name) = self.agent_of(place) else { return };
        let Some(mut waiting) = self.release(&name, Duration::ZERO, now) else { return };
        let Some(queue) = waiting.entry.queue().cloned() else {
            return self.actions.push_back(Action::Unreached { place: place.clone(), why: Unreached::NoAnswer });
        };
        if let Some(queue) = self.queues.get_mut(&queue) {
            let waited = now.saturating_duration_since(waiting.entered_at);
            queue.counts.take_back(waited, queue.options.service_level);
        }
        let every = self.queues.get(&queue).and_then(|queue| queue.options.announce_every);
        waiting.announce_at = every.map(|every| now + every);
        waiting.missed_by.insert(name.clone());
        let index = self.waiting.iter().position(|other| other.entered_at > waiting.entered_at);
        self.waiting.insert(index.unwrap_or(self.waiting.len()), waiting);
        self.report(place, Progress::Returned { queue, agent: name });
        self.overflow_the_patient(now);
        self.overflow_unstaffed(now);
    }

    /// Who has the caller of this place.
    fn agent_of(&self, place: &PlaceId) -> Option<AgentName> {
        self.agents.iter().find(|(_, agent)| agent.has(place).is_some()).map(|(name, _)| name.clone())
    }

    /// The rules under which this agent has this caller: those of its queue, or for a call by name those of the first of
    /// the agent's queues.
    fn rules_of(&self, name: &AgentName, place: &PlaceId) -> Option<&QueueOptions> {
        let agent = self.agents.get(name)?;
        self.rules_for(agent.has(place)?, agent)
    }

    fn rules_for(&self, entry: &Entry, agent: &Agent) -> Option<&QueueOptions> {
        let queue = entry.queue().or_else(|| agent.queues().first())?;
        self.queues.get(queue).map(|queue| &queue.options)
    }

    /// Gives the caller that the agent had.
    fn release(&mut self, name: &AgentName, wrap_up: Duration, now: Instant) -> Option<Waiting> {
        let agent = self.agents.get_mut(name)?;
        let had = agent.finished(wrap_up, now);
        if agent.has_left() {
            self.agents.remove(name);
        }
        had
    }

    fn sign_in(&mut self, SignIn { agent, queues, skills }: SignIn, now: Instant) {
        let queues = queues.into_iter().filter(|queue| self.queues.contains_key(queue)).collect();
        self.agents.entry(agent).or_default().sign_in(queues, skills);
        // It may have been the last agent of a queue that it serves no more.
        self.overflow_unstaffed(now);
    }

    fn sign_out(&mut self, name: &AgentName, now: Instant) {
        self.take_ring_from(name, RingEnd::AgentLeft, now);
        let Some(agent) = self.agents.get_mut(name) else { return };
        agent.sign_out();
        if agent.has_left() {
            self.agents.remove(name);
        }
        self.overflow_unstaffed(now);
    }

    fn become_available(&mut self, name: &AgentName, now: Instant) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.become_available(now);
        }
    }

    fn go_away(&mut self, name: &AgentName) {
        if let Some(agent) = self.agents.get_mut(name) {
            agent.go_away();
        }
    }

    fn decline(&mut self, agent: &AgentName, call: &CallId, now: Instant) {
        if self.waiting.iter().any(|waiting| waiting.entry.place.call == *call && waiting.rings_at(agent)) {
            self.take_ring_from(agent, RingEnd::Declined, now);
        }
    }

    fn take_ring_from(&mut self, agent: &AgentName, end: RingEnd, now: Instant) {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.rings_at(agent)) {
            self.end_ring_of(index, end, now);
        }
    }

    fn end_rings(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            let is_over = waiting.ring.as_ref().is_some_and(|ring| ring.until <= now);
            if !is_over || self.end_ring_of(index, RingEnd::Missed, now) {
                index += 1;
            }
        }
    }

    /// Nobody has answered this caller. Says whether it waits for somebody else.
    fn end_ring_of(&mut self, index: usize, end: RingEnd, now: Instant) -> bool {
        let Some(mut waiting) = self.waiting.remove(index) else { return false };
        self.stop_ring(&mut waiting, end, now);
        match waiting.entry.wanted {
            Wanted::AnyOf { .. } => {
                self.waiting.insert(index, waiting);
                true
            }
            Wanted::Agent(_) => {
                self.actions.push_back(Action::Unreached { place: waiting.entry.place, why: end.into() });
                false
            }
        }
    }

    fn overflow_the_patient(&mut self, now: Instant) {
        self.overflow_where(OverflowReason::WaitedTooLong, now, |_, waiting, _| {
            waiting.overflow_at.is_some_and(|at| at <= now)
        });
    }

    /// The last agent of a queue has gone.
    fn overflow_unstaffed(&mut self, now: Instant) {
        self.overflow_where(OverflowReason::NoAgents, now, |queues, _, queue| {
            let overflows = |queue: &Queue| queue.options.unstaffed == Unstaffed::Overflow;
            queues.queues.get(queue).is_some_and(overflows) && !queues.agents.values().any(|agent| agent.serves(queue))
        });
    }

    fn overflow_where(
        &mut self,
        reason: OverflowReason,
        now: Instant,
        is_meant: impl Fn(&Self, &Waiting, &QueueName) -> bool,
    ) {
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            let Some(queue) = waiting.entry.queue().filter(|queue| is_meant(self, waiting, queue)).cloned() else {
                index += 1;
                continue;
            };
            let Some(mut waiting) = self.waiting.remove(index) else { return };
            self.stop_ring(&mut waiting, RingEnd::Overflowed, now);
            let waited = now.saturating_duration_since(waiting.entered_at);
            self.overflow(&waiting.entry.place, &queue, waited, reason);
        }
    }

    fn overflow(&mut self, place: &PlaceId, queue: &QueueName, waited: Duration, reason: OverflowReason) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.counts.overflowed += 1;
        }
        self.actions.push_back(Action::Overflow { place: place.clone(), reason });
        self.report(place, Progress::Overflowed { queue: queue.clone(), waited, reason });
    }

    fn announce(&mut self, now: Instant) {
        let mut ahead: BTreeMap<&QueueName, usize> = BTreeMap::new();
        for waiting in &mut self.waiting {
            let Some(queue) = waiting.entry.queue() else { continue };
            let position = ahead.entry(queue).or_default();
            *position += 1;
            let every = self.queues.get(queue).and_then(|queue| queue.options.announce_every);
            if let (Some(at), Some(every)) = (waiting.announce_at, every)
                && at <= now
            {
                waiting.announce_at = Some(now + every);
                self.actions.push_back(Action::Announce { place: waiting.entry.place.clone(), position: *position });
            }
        }
    }

    /// Offers each caller, the longest waiting first, to the best agent that is idle.
    fn assign(&mut self, now: Instant) {
        let mut idle = self.agents.values().filter(|agent| agent.is_idle()).count();
        for index in 0..self.waiting.len() {
            if idle == 0 {
                return;
            }
            let waiting = &self.waiting[index];
            if waiting.ring.is_none()
                && let Some(agent) = self.best_agent(waiting, now)
                && let Some(mut waiting) = self.waiting.remove(index)
            {
                self.ring(&mut waiting, agent, now);
                self.waiting.insert(index, waiting);
                idle -= 1;
            }
        }
    }

    /// One who has not missed this call before, then the caller's last agent, then the longest idle.
    fn best_agent(&self, waiting: &Waiting, now: Instant) -> Option<AgentName> {
        let last = waiting.entry.caller.as_ref().and_then(|caller| self.last_agents.of(caller, now));
        let candidates = self.agents.iter().filter_map(|(name, agent)| {
            let since = agent.idle_since()?;
            let may_take = agent.may_take(&waiting.entry) && !waiting.declined_by.contains(name);
            may_take.then_some((waiting.missed_by.contains(name), last != Some(name), since, name))
        });
        candidates.min().map(|(.., name)| name.clone())
    }

    fn ring(&mut self, waiting: &mut Waiting, name: AgentName, now: Instant) {
        let Some(agent) = self.agents.get(&name) else { return };
        let ring_timeout = self.rules_for(&waiting.entry, agent).map_or(RING_BY_NAME, |rules| rules.ring_timeout);
        let (place, queue) = (waiting.entry.place.clone(), waiting.entry.queue().cloned());
        if let Some(agent) = self.agents.get_mut(&name) {
            agent.rings(place.call.clone());
        }
        waiting.ring = Some(Ring { agent: name.clone(), until: now + ring_timeout });
        self.actions.push_back(Action::Ring { agent: name.clone(), call: place.call.clone() });
        if let Some(queue) = queue {
            self.report(&place, Progress::Offered { queue, agent: name });
        }
    }

    fn stop_ring(&mut self, waiting: &mut Waiting, end: RingEnd, now: Instant) {
        let Some(Ring { agent: name, .. }) = waiting.ring.take() else { return };
        let rules = self.agents.get(&name).and_then(|agent| self.rules_for(&waiting.entry, agent));
        let most = rules.map_or(u32::MAX, |rules| rules.max_missed);
        if let Some(agent) = self.agents.get_mut(&name) {
            agent.stops_ringing(end, most, now);
        }
        let place = waiting.entry.place.clone();
        self.actions.push_back(Action::StopRinging { agent: name.clone(), call: place.call.clone(), end });
        match end {
            RingEnd::Missed | RingEnd::Declined => {
                let by = if end == RingEnd::Missed { &mut waiting.missed_by } else { &mut waiting.declined_by };
                by.insert(name.clone());
                if let Some(queue) = waiting.entry.queue().cloned() {
                    self.report(&place, Progress::Missed { queue, agent: name, end });
                }
            }
            RingEnd::CallerLeft | RingEnd::AgentLeft | RingEnd::Overflowed => {}
        }
    }

    fn report(&mut self, place: &PlaceId, progress: Progress) {
        self.actions.push_back(Action::Report { place: place.clone(), progress });
    }
}

impl Entry {
    /// Where the caller waits; None if it wants one agent.
    pub fn queue(&self) -> Option<&QueueName> {
        match &self.wanted {
            Wanted::AnyOf { queue, .. } => Some(queue),
            Wanted::Agent(_) => None,
        }
    }
}

impl Waiting {
    fn new(entry: Entry, now: Instant) -> Self {
        Self {
            entry,
            entered_at: now,
            overflow_at: None,
            announce_at: None,
            ring: None,
            missed_by: BTreeSet::new(),
            declined_by: BTreeSet::new(),
        }
    }

    fn rings_at(&self, agent: &AgentName) -> bool {
        self.ring.as_ref().is_some_and(|ring| ring.agent == *agent)
    }
}

/// Who had a caller last, for callers that come again.
#[derive(Debug, Default)]
struct LastAgents {
    agents: BTreeMap<CallerKey, (AgentName, Instant)>,
    oldest_first: VecDeque<CallerKey>,
}

impl LastAgents {
    fn of(&self, caller: &CallerKey, now: Instant) -> Option<&AgentName> {
        self.agents.get(caller).filter(|(_, until)| now < *until).map(|(agent, _)| agent)
    }

    fn remember(&mut self, caller: CallerKey, agent: AgentName, until: Instant) {
        if self.agents.insert(caller.clone(), (agent, until)).is_none() {
            self.oldest_first.push_back(caller);
        }
        if self.oldest_first.len() > REMEMBERED_CALLERS
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.agents.remove(&oldest);
        }
    }
}
