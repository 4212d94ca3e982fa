//! The state of the queues, for supervisors and metrics.

use std::time::{Duration, Instant};

use super::agent::Agent;
use super::{AgentName, Presence, QueueName, Queues};
use crate::call::event::CallId;

/// The state of an agent that has a caller.
const TALKING: &str = "talking";

/// Since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Callers that an agent took.
    pub answered: u64,
    /// Of those, within the service level.
    pub answered_in_time: u64,
    /// Callers that gave up.
    pub abandoned: u64,
    /// Callers that went on to what follows the queue.
    pub overflowed: u64,
}

impl Counts {
    pub(super) fn answered(&mut self, waited: Duration, service_level: Duration) {
        self.answered += 1;
        self.answered_in_time += u64::from(waited <= service_level);
    }

    /// An answer whose agent could not connect is none.
    pub(super) fn take_back(&mut self, waited: Duration, service_level: Duration) {
        self.answered -= 1;
        self.answered_in_time = self.answered_in_time.saturating_sub(u64::from(waited <= service_level));
    }

    /// The share of answered and abandoned callers that were answered in time; None before the first.
    pub fn service_level(&self) -> Option<f64> {
        let all = self.answered + self.abandoned;
        (all > 0).then(|| self.answered_in_time as f64 / all as f64)
    }
}

/// One queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueSnapshot {
    /// Its name in the configuration.
    pub name: QueueName,
    /// Who waits, the longest waiting first.
    pub waiting: Vec<WaitingSnapshot>,
    /// Who is signed in.
    pub agents: Vec<AgentSnapshot>,
    /// Since the start.
    pub counts: Counts,
}

/// One caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitingSnapshot {
    /// Its call.
    pub call: CallId,
    /// Since it entered.
    pub waited: Duration,
    /// Where it rings.
    pub rings_at: Option<AgentName>,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentSnapshot {
    /// As it signed in.
    pub name: AgentName,
    /// `away`, `idle`, `ringing`, `talking` or `wrap_up`.
    pub state: &'static str,
    /// What rings, or whom it talks with.
    pub call: Option<CallId>,
    /// The agent's last call until it answers the next one.
    pub last_call: Option<CallId>,
    /// When its wrap-up time is over.
    pub until: Option<Instant>,
}

/// A call that rings at an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingSnapshot {
    /// Which.
    pub call: CallId,
    /// Where its caller waits; None if it wants this agent.
    pub queue: Option<QueueName>,
    /// Since the caller entered.
    pub waited: Duration,
    /// Until it counts as missed.
    pub left: Duration,
}

impl QueueSnapshot {
    /// How long the first has waited; zero when nobody does.
    pub fn longest_wait(&self) -> Duration {
        self.waiting.first().map_or(Duration::ZERO, |first| first.waited)
    }
}

impl Queues {
    /// How every queue stands, by name.
    pub fn snapshot(&self, now: Instant) -> Vec<QueueSnapshot> {
        let of = |name: &QueueName, counts| QueueSnapshot {
            name: name.clone(),
            waiting: self.waiting_in(name, now),
            agents: self.agents_of(name),
            counts,
        };
        self.queues.iter().map(|(name, queue)| of(name, queue.counts)).collect()
    }

    /// How an agent stands; None if it is not signed in.
    pub fn agent(&self, name: &AgentName) -> Option<AgentSnapshot> {
        self.agents.get(name).map(|agent| AgentSnapshot::of(name, agent))
    }

    /// The call that rings at an agent.
    pub fn ring_at(&self, name: &AgentName, now: Instant) -> Option<RingSnapshot> {
        self.waiting.iter().find_map(|waiting| {
            let ring = waiting.ring.as_ref().filter(|ring| ring.agent == *name)?;
            Some(RingSnapshot {
                call: waiting.entry.place.call.clone(),
                queue: waiting.entry.queue().cloned(),
                waited: now.saturating_duration_since(waiting.entered_at),
                left: ring.until.saturating_duration_since(now),
            })
        })
    }

    fn waiting_in(&self, queue: &QueueName, now: Instant) -> Vec<WaitingSnapshot> {
        let waiting = self.waiting.iter().filter(|waiting| waiting.entry.queue() == Some(queue));
        let snapshot = waiting.map(|waiting| WaitingSnapshot {
            call: waiting.entry.place.call.clone(),
            waited: now.saturating_duration_since(waiting.entered_at),
            rings_at: waiting.ring.as_ref().map(|ring| ring.agent.clone()),
        });
        snapshot.collect()
    }

    fn agents_of(&self, queue: &QueueName) -> Vec<AgentSnapshot> {
        let agents = self.agents.iter().filter(|(_, agent)| agent.queues().contains(queue));
        agents.map(|(name, agent)| AgentSnapshot::of(name, agent)).collect()
    }
}

impl AgentSnapshot {
    fn of(name: &AgentName, agent: &Agent) -> Self {
        let (state, call, until) = match agent.presence() {
            Presence::Away => ("away", None, None),
            Presence::Idle { .. } => ("idle", None, None),
            Presence::Ringing { call } => ("ringing", Some(call.clone()), None),
            Presence::Talking { with } => (TALKING, Some(with.entry.place.call.clone()), None),
            Presence::WrapUp { until } => ("wrap_up", None, Some(*until)),
        };
        Self { name: name.clone(), state, call, last_call: agent.last_call().cloned(), until }
    }

    /// The call that the agent is talking in; None while one only rings.
    pub fn own_call(&self) -> Option<&CallId> {
        self.call.as_ref().filter(|_| self.state == TALKING)
    }
}
