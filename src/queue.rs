//! Queues: callers wait for agents, agents wait for callers. A pure state machine like [`Call`](crate::call::Call).
//!
//! All queues are one value, because an agent that serves two of them rings for one caller at a time. Inputs and time go
//! in through [`Queues::handle`], [`Queues::answer`] and [`Queues::handle_timeout`]; what is to be done comes out of
//! [`Queues::poll_action`]. After every input no caller waits unoffered while an agent that may take it is idle, no caller
//! rings at two agents, and each caller leaves exactly once: connected, abandoned, overflowed or, where it wants one agent
//! by name, told that this agent was not reached.

pub mod action;
mod agent;
mod input;
mod last_agents;
mod options;
mod overflow;
mod ringing;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use action::{Action, OverflowReason, Progress, RingEnd, Unreached};
use agent::{Agent, Presence};
pub use input::{Entry, Input, NotOffered, PlaceId, SignIn, Wanted};
use last_agents::LastAgents;
pub use options::{QueueOptions, Unstaffed};

use crate::call::event::CallId;

/// A queue by its name in the configuration.
pub type QueueName = Arc<str>;
/// An agent by the name it signed in with.
pub type AgentName = Arc<str>;
/// A tag that a caller may need and an agent may have.
pub type Skill = Arc<str>;
/// Something that is the same for each call of one caller, and does not give its number away.
pub type CallerKey = Arc<str>;

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

    fn report(&mut self, place: &PlaceId, progress: Progress) {
        self.actions.push_back(Action::Report { place: place.clone(), progress });
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
