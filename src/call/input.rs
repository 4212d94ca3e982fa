//! Inputs of a call: what happened, and the requests of the application.

use std::sync::Arc;
use std::time::Duration;

use super::agent_failure::AgentFailure;
use super::end::{EndReason, GraphTrouble, MediaFailure};
use super::{Attempt, AttemptKind};

/// Something that happened.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug)]
pub enum Input {
    /// The worker made our SDP answer, or failed to.
    Answered(Result<Arc<str>, EndReason>),
    /// The outcome of pre_accept after all retries.
    PreAccepted(Result<(), GraphTrouble>),
    /// The outcome of accept after all retries, or the application's word that Meta took its accept.
    Accepted(Result<(), GraphTrouble>),
    /// ICE and DTLS are done: media can flow.
    MediaConnected,
    /// Media stopped, or never came up.
    MediaFailed(MediaFailure),
    /// The agent of `attempt` is listening.
    AgentJoined { attempt: Attempt },
    /// The connection to the agent of `attempt` broke. It is tried again for `back_within` at most: then
    /// [`AgentJoined`](Self::AgentJoined) or [`AgentFailed`](Self::AgentFailed) follows.
    AgentInterrupted { attempt: Attempt, failure: AgentFailure, back_within: Duration },
    /// The agent of `attempt` could not be reached, or is lost.
    AgentFailed { attempt: Attempt, failure: AgentFailure },
    /// The agent of `attempt` hung up.
    AgentHungUp { attempt: Attempt },
    /// The prompts played to their end.
    PromptFinished,
    /// Meta's `terminate` webhook. `error` is the first Meta error code of a failed call; `picked_up` is whether Meta
    /// counted a duration, which it does once it has our accept, also if its reply has not reached us.
    Terminated { failed: bool, error: Option<i64>, picked_up: bool },
    /// The application's decision is carried out, or failed.
    Decided,
    /// The worker made the offer of a call that we place, or failed to.
    Offered(Result<Arc<str>, EndReason>),
    /// The outcome of connect.
    Connected(Result<(), GraphTrouble>),
    /// Meta's answer to our offer.
    AnswerReceived(Arc<str>),
    /// The callee's phone rings.
    CalleeRings,
    /// The callee accepted: by Meta's status, or because the callee is heard.
    PickedUp,
    /// The callee declined.
    Declined,
    /// Our side ends the call: an API command, a drain, a shutdown.
    HangUp(EndReason),
}

/// A request of the application. Its attempts are tried in their order.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Accept as soon as media can flow.
    Accept { with: AcceptWith },
    /// Decline a call that was not accepted, in the application's words.
    Reject { why: String },
    /// Put the caller through to other agents.
    Connect { attempts: Vec<AttemptKind> },
    /// Another agent takes the place of the present one once it has joined; until then, and if it fails, nothing changes. A
    /// call that rings is put through to it, and accepted once it is ready.
    TakeOver,
    /// Leave the caller without an agent.
    Disconnect,
    /// Hand the caller over. In a warm transfer both agents talk first.
    Transfer { attempts: Vec<AttemptKind>, warm: bool },
    /// The first agent leaves.
    CompleteTransfer,
    /// The second agent leaves.
    CancelTransfer,
}

/// Which agents get a call that the application accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AcceptWith {
    /// Those of the route.
    Route,
    /// These.
    Others(Vec<AttemptKind>),
    /// None: the application plays, gathers and connects.
    Nobody,
}
