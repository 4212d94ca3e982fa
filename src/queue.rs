//! Queues: callers wait for agents, agents wait for callers. A pure state machine like [`Call`](crate::call::Call).
//!
//! All queues are one value, because an agent that serves two of them rings for one caller at a time. Inputs and time go
//! in through [`Queues::handle`], [`Queues::answer`] and [`Queues::handle_timeout`]; what is to be done comes out of
//! [`Queues::poll_action`]. After every input no caller waits unoffered while an agent that may take it is idle, no caller
//! rings at two agents, and each caller leaves exactly once: connected, abandoned or overflowed.

pub mod action;
mod agent;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use action::{Action, OverflowReason, Progress, RingEnd};
use agent::{Agent, Presence};

use crate::call::event::CallId;

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

/// A caller that enters a queue.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its call.
    pub call: CallId,
    /// Where it waits.
    pub queue: QueueName,
    /// Finds its last agent.
    pub caller: Option<CallerKey>,
    /// What an agent must have to be offered the call.
    pub skills: BTreeSet<Skill>,
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
    Left(CallId),
    /// The agent and the caller of this call have finished.
    Finished(CallId),
    /// The agent answered, and its page could not connect: the caller waits again, as long as if it had never left.
    Returned(CallId),
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
    overflow_at: Instant,
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
            Input::Left(call) => self.leave(&call, now),
            Input::Finished(call) => self.finish(&call, now),
            Input::Returned(call) => self.take_back(&call, now),
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
        let rings_here = |waiting: &Waiting| {
            waiting.entry.call == *call && waiting.ring.as_ref().is_some_and(|ring| ring.agent == *agent)
        };
        let place = self.waiting.iter().position(rings_here).ok_or(NotOffered)?;
        let Some(mut waiting) = self.waiting.remove(place) else { return Err(NotOffered) };
        waiting.ring = None;
        let queue = waiting.entry.queue.clone();
        let waited = now.saturating_duration_since(waiting.entered_at);
        if let Some(queue) = self.queues.get_mut(&queue) {
            queue.counts.answered(waited, queue.options.service_level);
            if let Some(caller) = waiting.entry.caller.clone().filter(|_| !queue.options.sticky_for.is_zero()) {
                self.last_agents.remember(caller, agent.clone(), now + queue.options.sticky_for);
            }
        }
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.answered(waiting);
        }
        self.actions.push_back(Action::Connect { agent: agent.clone(), call: call.clone() });
        self.report(call, Progress::Answered { queue, agent: agent.clone(), waited });
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
            [Some(waiting.overflow_at), waiting.announce_at, waiting.ring.as_ref().map(|ring| ring.until)]
        });
        let agents = self.agents.values().map(Agent::poll_timeout);
        callers.chain(agents).flatten().min()
    }

    /// Nothing was done for `gap`, by our own fault: to be called before [`Queues::handle_timeout`]. Each deadline is that
    /// much later, so that nobody misses a ring that the page was never shown.
    pub fn stood_still(&mut self, gap: Duration) {
        for waiting in &mut self.waiting {
            waiting.overflow_at += gap;
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
        let is_known = self.waiting.iter().any(|waiting| waiting.entry.call == entry.call);
        let Some(queue) = self.queues.get(&entry.queue).filter(|_| !is_known) else { return };
        let options = &queue.options;
        let (overflow_at, announce_at) = (now + options.max_wait, options.announce_every.map(|every| now + every));
        let count = self.waiting.iter().filter(|waiting| waiting.entry.queue == entry.queue).count();
        let is_staffed = self.agents.values().any(|agent| agent.serves(&entry.queue));
        let refusal = match options.unstaffed {
            Unstaffed::Overflow if !is_staffed => Some(OverflowReason::NoAgents),
            Unstaffed::Overflow | Unstaffed::Wait if count >= options.max_waiting => Some(OverflowReason::Full),
            Unstaffed::Overflow | Unstaffed::Wait => None,
        };
        let (call, queue) = (entry.call.clone(), entry.queue.clone());
        self.report(&call, Progress::Entered { queue: queue.clone(), position: count + 1 });
        match refusal {
            Some(reason) => self.overflow(&call, &queue, Duration::ZERO, reason),
            None => {
                let (missed_by, declined_by) = Default::default();
                self.waiting.push_back(Waiting {
                    entry,
                    entered_at: now,
                    overflow_at,
                    announce_at,
                    ring: None,
                    missed_by,
                    declined_by,
                });
            }
        }
    }

    fn leave(&mut self, call: &CallId, now: Instant) {
        let Some(place) = self.waiting.iter().position(|waiting| waiting.entry.call == *call) else {
            return self.finish(call, now);
        };
        let Some(mut waiting) = self.waiting.remove(place) else { return };
        self.stop_ring(&mut waiting, RingEnd::CallerLeft, now);
        let waited = now.saturating_duration_since(waiting.entered_at);
        if let Some(queue) = self.queues.get_mut(&waiting.entry.queue) {
            queue.counts.abandoned += 1;
        }
        self.report(call, Progress::Abandoned { queue: waiting.entry.queue, waited });
    }

    fn finish(&mut self, call: &CallId, now: Instant) {
        let Some((name, queue)) = self.talks_with(call) else { return };
        let wrap_up = self.queues.get(&queue).map_or(Duration::ZERO, |queue| queue.options.wrap_up);
        self.release(&name, wrap_up, now);
    }

    /// The agent's next call is not this one: its page has just failed.
    fn take_back(&mut self, call: &CallId, now: Instant) {
        let Some((name, queue)) = self.talks_with(call) else { return };
        let Some(mut waiting) = self.release(&name, Duration::ZERO, now) else { return };
        if let Some(queue) = self.queues.get_mut(&queue) {
            let waited = now.saturating_duration_since(waiting.entered_at);
            queue.counts.take_back(waited, queue.options.service_level);
        }
        let every = self.queues.get(&queue).and_then(|queue| queue.options.announce_every);
        waiting.announce_at = every.map(|every| now + every);
        waiting.missed_by.insert(name.clone());
        let place = self.waiting.iter().position(|other| other.entered_at > waiting.entered_at);
        self.waiting.insert(place.unwrap_or(self.waiting.len()), waiting);
        self.report(call, Progress::Returned { queue, agent: name });
        self.overflow_the_patient(now);
        self.overflow_unstaffed(now);
    }

    fn talks_with(&self, call: &CallId) -> Option<(AgentName, QueueName)> {
        self.agents.iter().find_map(|(name, agent)| Some((name.clone(), agent.talks_in(call)?)))
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
        let rings = |waiting: &&Waiting| {
            waiting.entry.call == *call && waiting.ring.as_ref().is_some_and(|ring| ring.agent == *agent)
        };
        if self.waiting.iter().find(rings).is_some() {
            self.take_ring_from(agent, RingEnd::Declined, now);
        }
    }

    fn take_ring_from(&mut self, agent: &AgentName, end: RingEnd, now: Instant) {
        let rings = |waiting: &Waiting| waiting.ring.as_ref().is_some_and(|ring| ring.agent == *agent);
        let Some(place) = self.waiting.iter().position(rings) else { return };
        self.with_waiting(place, |queues, waiting| queues.stop_ring(waiting, end, now));
    }

    fn end_rings(&mut self, now: Instant) {
        for place in 0..self.waiting.len() {
            if self.waiting[place].ring.as_ref().is_some_and(|ring| ring.until <= now) {
                self.with_waiting(place, |queues, waiting| queues.stop_ring(waiting, RingEnd::Missed, now));
            }
        }
    }

    fn overflow_the_patient(&mut self, now: Instant) {
        self.overflow_where(OverflowReason::WaitedTooLong, now, |_, waiting| waiting.overflow_at <= now);
    }

    /// The last agent of a queue has gone.
    fn overflow_unstaffed(&mut self, now: Instant) {
        self.overflow_where(OverflowReason::NoAgents, now, |queues, waiting| {
            let queue = &waiting.entry.queue;
            let overflows = |queue: &Queue| queue.options.unstaffed == Unstaffed::Overflow;
            queues.queues.get(queue).is_some_and(overflows) && !queues.agents.values().any(|agent| agent.serves(queue))
        });
    }

    fn overflow_where(&mut self, reason: OverflowReason, now: Instant, is_meant: impl Fn(&Self, &Waiting) -> bool) {
        let mut place = 0;
        while let Some(waiting) = self.waiting.get(place) {
            if !is_meant(self, waiting) {
                place += 1;
                continue;
            }
            let Some(mut waiting) = self.waiting.remove(place) else { return };
            self.stop_ring(&mut waiting, RingEnd::Overflowed, now);
            let waited = now.saturating_duration_since(waiting.entered_at);
            self.overflow(&waiting.entry.call, &waiting.entry.queue, waited, reason);
        }
    }

    fn overflow(&mut self, call: &CallId, queue: &QueueName, waited: Duration, reason: OverflowReason) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.counts.overflowed += 1;
        }
        self.actions.push_back(Action::Overflow { call: call.clone(), reason });
        self.report(call, Progress::Overflowed { queue: queue.clone(), waited, reason });
    }

    fn announce(&mut self, now: Instant) {
        let mut ahead: BTreeMap<&QueueName, usize> = BTreeMap::new();
        for waiting in &mut self.waiting {
            let position = ahead.entry(&waiting.entry.queue).or_default();
            *position += 1;
            let every = self.queues.get(&waiting.entry.queue).and_then(|queue| queue.options.announce_every);
            if let (Some(at), Some(every)) = (waiting.announce_at, every)
                && at <= now
            {
                waiting.announce_at = Some(now + every);
                self.actions.push_back(Action::Announce { call: waiting.entry.call.clone(), position: *position });
            }
        }
    }

    /// Offers each caller, the longest waiting first, to the best agent that is idle.
    fn assign(&mut self, now: Instant) {
        let mut idle = self.agents.values().filter(|agent| agent.is_idle()).count();
        for place in 0..self.waiting.len() {
            if idle == 0 {
                return;
            }
            let waiting = &self.waiting[place];
            if waiting.ring.is_none()
                && let Some(agent) = self.best_agent(waiting, now)
            {
                self.with_waiting(place, |queues, waiting| queues.ring(waiting, agent, now));
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

    fn ring(&mut self, waiting: &mut Waiting, agent: AgentName, now: Instant) {
        let Some(queue) = self.queues.get(&waiting.entry.queue) else { return };
        let Some(ringing) = self.agents.get_mut(&agent) else { return };
        ringing.rings(waiting.entry.call.clone());
        waiting.ring = Some(Ring { agent: agent.clone(), until: now + queue.options.ring_timeout });
        let (call, queue) = (waiting.entry.call.clone(), waiting.entry.queue.clone());
        self.actions.push_back(Action::Ring { agent: agent.clone(), call: call.clone() });
        self.report(&call, Progress::Offered { queue, agent });
    }

    fn stop_ring(&mut self, waiting: &mut Waiting, end: RingEnd, now: Instant) {
        let Some(Ring { agent, .. }) = waiting.ring.take() else { return };
        let queue = self.queues.get(&waiting.entry.queue);
        let most = queue.map_or(u32::MAX, |queue| queue.options.max_missed);
        if let Some(ringing) = self.agents.get_mut(&agent) {
            ringing.stops_ringing(end, most, now);
        }
        let call = waiting.entry.call.clone();
        self.actions.push_back(Action::StopRinging { agent: agent.clone(), call: call.clone(), end });
        match end {
            RingEnd::Missed | RingEnd::Declined => {
                let by = if end == RingEnd::Missed { &mut waiting.missed_by } else { &mut waiting.declined_by };
                by.insert(agent.clone());
                self.report(&call, Progress::Missed { queue: waiting.entry.queue.clone(), agent, end });
            }
            RingEnd::CallerLeft | RingEnd::AgentLeft | RingEnd::Overflowed => {}
        }
    }

    /// Works on one caller as if it stood outside.
    fn with_waiting(&mut self, place: usize, work: impl FnOnce(&mut Self, &mut Waiting)) {
        let Some(mut waiting) = self.waiting.remove(place) else { return };
        work(self, &mut waiting);
        self.waiting.insert(place, waiting);
    }

    fn report(&mut self, call: &CallId, progress: Progress) {
        self.actions.push_back(Action::Report { call: call.clone(), progress });
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
