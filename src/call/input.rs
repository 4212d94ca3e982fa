//! What goes into a call: news of the world, and what the application asks of its course.

use std::sync::Arc;

use super::Target;
use super::agent_failure::AgentFailure;
use super::end::{EndReason, GraphTrouble, MediaFailure};

/// What the world tells the call.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug)]
pub enum Input {
    /// The worker made our SDP answer, or could not.
    Answered(Result<Arc<str>, EndReason>),
    /// The last word of Graph, all retries done.
    PreAccepted(Result<(), GraphTrouble>),
    /// The last word of Graph, all retries done.
    Accepted(Result<(), GraphTrouble>),
    /// ICE and DTLS are done: sound can flow.
    MediaConnected,
    /// Sound can flow no more, or never could.
    MediaFailed(MediaFailure),
    /// The agent dialled as `attempt` is listening.
    AgentJoined { attempt: usize },
    /// The agent dialled as `attempt` could not be reached, or is gone.
    AgentFailed { attempt: usize, failure: AgentFailure },
    /// The agent of `attempt` hung up.
    AgentHungUp { attempt: usize },
    /// The prompt that stood in for an agent was heard to its end.
    PromptFinished,
    /// Meta's `terminate` webhook. `error` is the first Meta error code of a failed call.
    Terminated { failed: bool, error: Option<i64> },
    /// What the application had to decide is decided.
    Decided,
    /// Someone on our side ends the call: the API, a drain, a shutdown.
    HangUp(EndReason),
}

/// What the application asks of the call's course. Whom it names is tried in that order, as further attempts.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Accept as soon as sound can flow: with the route's agents, with others, or with nobody.
    Accept { with: AcceptWith },
    /// Decline a call that was not accepted. The words are the application's own.
    Reject { why: String },
    /// Put the caller through to others from now on.
    Connect { targets: Vec<Target> },
    /// Leave the caller without an agent.
    Disconnect,
    /// Hand the caller over; warm, both agents talk first.
    Transfer { targets: Vec<Target>, warm: bool },
    /// The first agent leaves.
    CompleteTransfer,
    /// The second agent leaves.
    CancelTransfer,
}

/// Who is on the line of a call that the application accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptWith {
    /// As the route says.
    Route,
    /// Others than the route says.
    Others(Vec<Target>),
    /// Nobody: the application plays, gathers and connects.
    Nobody,
}
