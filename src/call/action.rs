//! What comes out of a call: what the shell is to do, and what it is to tell.

use std::sync::Arc;

use super::agent_failure::AgentFailure;
use super::end::EndReason;

/// What the shell is to do, in this order.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Have a worker answer the offer; reply with [`Input::Answered`](super::Input::Answered).
    AnswerOffer,
    /// Tell Meta; reply with [`Input::PreAccepted`](super::Input::PreAccepted).
    PreAccept(Arc<str>),
    /// Tell Meta, with the very bytes of pre_accept; reply with [`Input::Accepted`](super::Input::Accepted).
    Accept(Arc<str>),
    /// Tell Meta that we decline: it has no answer of ours.
    Reject,
    /// Tell Meta that the call is over: it has our answer.
    Terminate,
    /// Dial `targets[attempt]`.
    Dial { attempt: usize },
    /// Dial `targets[attempt]` while the agent on the line keeps its seat.
    DialBeside { attempt: usize },
    /// Leave the agent of `attempt`, dialling or joined.
    DropAgent { attempt: usize, left: Left },
    /// The agent that was dialled beside another has the caller from now on.
    Promote { attempt: usize },
    /// The caller hears hold music, and the agents are among themselves.
    Hold,
    /// Caller and agent hear each other again.
    Unhold,
    /// Meta has accepted: start the RTP line and tell the agent that it is heard.
    StartSound,
    /// Play the prompts of `targets[attempt]`; reply with [`Input::PromptFinished`](super::Input::PromptFinished) when they have ended.
    PlayPrompts { attempt: usize },
    /// Play ringback until the first agent joins.
    PlayRingback,
    /// Play hold music until another agent joins.
    PlayHold,
    /// Close the peer, the agent's socket and everything the call holds.
    Release(EndReason),
    /// Tell the outside.
    Report(Progress),
}

/// What the outside may know of a living call; the end comes as [`Action::Release`].
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Meta acknowledged our answer.
    PreAccepted,
    /// ICE and DTLS are done.
    MediaConnected,
    /// Who joined, by its place among the targets.
    AgentJoined { attempt: usize },
    /// Who was refused, not reached or lost.
    AgentFailed { attempt: usize, failure: AgentFailure },
    /// Who left without having failed.
    AgentLeft { attempt: usize, left: Left },
    /// Whose caller it is now; the first agent may have been gone.
    Transferred { from: Option<usize>, to: usize },
    /// Whose caller it is again, and why; no failure means that somebody wanted it so.
    TransferFailed { from: usize, to: usize, failure: Option<AgentFailure> },
    /// Meta confirmed accept.
    Accepted,
}

/// Why an agent left that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// Another takes its place, because it failed.
    Failed,
    /// Another takes its place, because the application wants it.
    Replaced,
    /// The application wants nobody in its place.
    Disconnected,
    /// It has handed the caller over.
    Transferred,
    /// It was not handed the caller after all.
    Cancelled,
    /// It said goodbye.
    HungUp,
}

impl Left {
    /// The stable name in events and for the agent.
    pub fn name(self) -> &'static str {
        match self {
            Self::Failed | Self::Replaced => "replaced",
            Self::Disconnected => "disconnected",
            Self::Transferred => "transferred",
            Self::Cancelled => "transfer_cancelled",
            Self::HungUp => "agent_hung_up",
        }
    }
}
