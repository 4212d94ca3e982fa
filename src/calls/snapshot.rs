//! CallSnapshot: a live call as the API reads it, without waiting for its session.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;
use tokio::sync::watch;

use crate::call::description::CallDescription;
use crate::call::event::{CallId, Stages};
use crate::call::signaling::Signaling;
use crate::call::usage::UsageMeter;
use crate::call::{Attempt, TransferStage};
use crate::queue::QueueName;

/// What does not change while a call lives.
#[derive(Clone)]
pub struct CallFacts {
    /// Our id.
    pub id: CallId,
    /// Who calls whom: personal, for API bodies, never for logs.
    pub description: CallDescription,
    /// The tracker that the application gave a call that it placed or signals.
    pub tracker: Option<String>,
    /// Who exchanges its messages with Meta.
    pub signaling: Signaling,
    /// The name of the route.
    pub route: String,
    /// By the wall clock.
    pub began_at: SystemTime,
    /// By the monotonic clock.
    pub received_at: Instant,
}

/// What changes while a call lives.
#[derive(Clone)]
pub struct CallStatus {
    /// Meta's id of a call that we place, once Meta has named it.
    pub wacid: Option<String>,
    /// As [`Call::state_name`](crate::call::Call::state_name) says.
    pub state: &'static str,
    /// When each stage was reached.
    pub stages: Stages,
    /// The agent that has the caller.
    pub agent: Option<AgentFacts>,
    /// The transfer that is under way.
    pub transfer: Option<TransferFacts>,
    /// The queue in which the caller waits, or from which its agent took it.
    pub queue: Option<QueueName>,
    /// Whether the caller is on hold.
    pub is_held: bool,
    /// The last estimate, as in `call.quality`; null before the first.
    pub quality: Value,
    /// What the application keeps with the call.
    pub client_state: Option<String>,
    /// Ids of its recordings, the first one first.
    pub recordings: Vec<String>,
    /// Agents of queues that had the caller, by name.
    pub agents: Vec<String>,
    /// What its speech models have used.
    pub usage: UsageMeter,
}

/// An agent of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFacts {
    /// The attempt that reached it.
    pub attempt: Attempt,
    /// `person` at a page of a queue's agent, otherwise as [`AgentTarget::kind`](crate::agent::AgentTarget::kind) says.
    pub kind: &'static str,
    /// The name of a person, or the address without secrets.
    pub name: String,
}

/// A transfer that is under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferFacts {
    /// The agent that is to take over; a queue while nobody of it has answered.
    pub to: AgentFacts,
    /// How far it has come.
    pub stage: TransferStage,
}

impl CallStatus {
    /// Of a new call.
    pub fn new(is_placed: bool) -> Self {
        Self {
            wacid: None,
            state: if is_placed { "placing" } else { "answering" },
            stages: Stages::default(),
            agent: None,
            transfer: None,
            queue: None,
            is_held: false,
            quality: Value::Null,
            client_state: None,
            recordings: Vec::new(),
            agents: Vec::new(),
            usage: UsageMeter::default(),
        }
    }
}

/// One live call at one moment.
#[derive(Clone)]
pub struct CallSnapshot {
    /// What does not change.
    pub facts: Arc<CallFacts>,
    /// What changes.
    pub status: CallStatus,
}

impl CallSnapshot {
    /// From the webhook until now.
    pub fn duration(&self) -> Duration {
        self.facts.received_at.elapsed()
    }

    /// From accept until now.
    pub fn talked(&self) -> Option<Duration> {
        self.status.stages.accepted.map(|accepted| self.duration().saturating_sub(accepted))
    }
}

/// The session's end of a status.
pub type StatusSender = watch::Sender<CallStatus>;
