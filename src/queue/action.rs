//! Outputs of the queues: actions for the shell, and progress to report.

use std::time::Duration;

use super::{AgentName, PlaceId, QueueName};
use crate::call::event::CallId;

/// What the shell is to do, in this order.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Show the call to the agent; its answer is [`Queues::answer`](super::Queues::answer).
    Ring { agent: AgentName, call: CallId },
    /// The call does not ring at the agent any more.
    StopRinging { agent: AgentName, call: CallId, end: RingEnd },
    /// Agent and caller hear each other.
    Connect { agent: AgentName, place: PlaceId },
    /// Put the caller through to what follows the queue in its route.
    Overflow { place: PlaceId, reason: OverflowReason },
    /// The agent that the caller wants does not take it.
    Unreached { place: PlaceId, why: Unreached },
    /// Tell the caller its position, from 1.
    Announce { place: PlaceId, position: usize },
    /// Tell the outside.
    Report { place: PlaceId, progress: Progress },
}

/// Why a ring ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingEnd {
    /// The agent did not answer within `ring_timeout`.
    Missed,
    /// The agent does not want the call.
    Declined,
    /// The agent signed out.
    AgentLeft,
    /// The caller hung up or was put through elsewhere.
    CallerLeft,
    /// The caller has waited too long.
    Overflowed,
}

/// Why a caller left a queue for what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverflowReason {
    /// `max_waiting` callers wait already.
    Full,
    /// It waited for `max_wait`.
    WaitedTooLong,
    /// No agent of the queue is signed in.
    NoAgents,
}

/// Why an agent that was called by name did not take the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreached {
    /// It is not signed in, or has just left.
    #[error("not signed in")]
    SignedOut,
    /// It takes no calls.
    #[error("away")]
    Away,
    /// Another call rings or is on, or its wrap-up goes on.
    #[error("has another call, or wraps one up")]
    Busy,
    /// It did not answer, or its page did not connect.
    #[error("did not answer")]
    NoAnswer,
    /// It does not want the call.
    #[error("declined the call")]
    Declined,
}

impl From<RingEnd> for Unreached {
    fn from(end: RingEnd) -> Self {
        match end {
            RingEnd::Declined => Self::Declined,
            RingEnd::AgentLeft => Self::SignedOut,
            // The last two end a caller's place, and nobody is told.
            RingEnd::Missed | RingEnd::CallerLeft | RingEnd::Overflowed => Self::NoAnswer,
        }
    }
}

/// What the outside may know of a caller in a queue.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It is at this position, from 1.
    Entered { queue: QueueName, position: usize },
    /// It rings at an agent.
    Offered { queue: QueueName, agent: AgentName },
    /// The agent let it ring in vain, or declined.
    Missed { queue: QueueName, agent: AgentName, end: RingEnd },
    /// The agent has it.
    Answered { queue: QueueName, agent: AgentName, waited: Duration },
    /// The agent answered and could not connect; the caller waits again.
    Returned { queue: QueueName, agent: AgentName },
    /// The caller gave up.
    Abandoned { queue: QueueName, waited: Duration },
    /// It goes on to what follows the queue.
    Overflowed { queue: QueueName, waited: Duration, reason: OverflowReason },
}

impl Progress {
    /// The queue.
    pub fn queue(&self) -> &QueueName {
        match self {
            Self::Entered { queue, .. }
            | Self::Offered { queue, .. }
            | Self::Missed { queue, .. }
            | Self::Answered { queue, .. }
            | Self::Returned { queue, .. }
            | Self::Abandoned { queue, .. }
            | Self::Overflowed { queue, .. } => queue,
        }
    }

    /// The event's type.
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::Entered { .. } => "queue.entered",
            Self::Offered { .. } => "queue.offered",
            Self::Missed { .. } => "queue.missed",
            Self::Answered { .. } => "queue.answered",
            Self::Returned { .. } => "queue.returned",
            Self::Abandoned { .. } => "queue.abandoned",
            Self::Overflowed { .. } => "queue.overflowed",
        }
    }
}

impl RingEnd {
    /// The stable name in events and for pages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Missed => "missed",
            Self::Declined => "declined",
            Self::AgentLeft => "agent_left",
            Self::CallerLeft => "caller_left",
            Self::Overflowed => "overflowed",
        }
    }
}

impl OverflowReason {
    /// The stable name in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::WaitedTooLong => "waited_too_long",
            Self::NoAgents => "no_agents",
        }
    }
}
