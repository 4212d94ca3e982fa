//! Actions: what a call tells the shell to do and to report.
//!
//! The requests to Meta of a call with [`Signaling::External`](super::Signaling) are the application's: the shell hands it
//! our SDP for pre_accept and connect, tells it when to accept, and leaves reject and terminate to it.

use std::sync::Arc;
use std::time::Duration;

use super::agent_failure::AgentFailure;
use super::attempt::Attempt;
use super::end::EndReason;

/// One thing that the shell does. Actions are performed in their order.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Have a worker answer the offer; reply with [`Input::Answered`](super::Input::Answered).
    AnswerOffer,
    /// Send pre_accept with this answer; reply with [`Input::PreAccepted`](super::Input::PreAccepted).
    PreAccept(Arc<str>),
    /// Send accept with the same bytes as pre_accept; reply with [`Input::Accepted`](super::Input::Accepted).
    Accept(Arc<str>),
    /// Have a worker make the offer of a call that we place; reply with [`Input::Offered`](super::Input::Offered).
    MakeOffer,
    /// Send connect with this offer; reply with [`Input::Connected`](super::Input::Connected).
    Connect(Arc<str>),
    /// Have the worker connect media to Meta's answer.
    ApplyAnswer(Arc<str>),
    /// Decline the call at Meta, which has no answer of ours.
    Reject,
    /// End the call at Meta, which has our answer or our offer, or may have it.
    Terminate,
    /// Dial the agent of this attempt.
    Dial { attempt: Attempt },
    /// Dial the agent of this attempt while the present one stays.
    DialBeside { attempt: Attempt },
    /// Have the caller wait in the queue, or for the person, of this attempt; the agent joins as a dialled one does.
    EnterQueue { attempt: Attempt },
    /// The same while the present agent stays.
    EnterQueueBeside { attempt: Attempt },
    /// Disconnect the agent of this attempt, dialled or joined, or leave its queue.
    DropAgent { attempt: Attempt, reason: LeaveReason },
    /// Give the caller to the agent that was dialled beside another.
    Promote { attempt: Attempt },
    /// Put the caller on hold; agents hear each other.
    Hold,
    /// Caller and agent hear each other again.
    Unhold,
    /// Start RTP, as Meta confirmed accept, and tell the agent that the caller hears it.
    StartSound,
    /// Play the prompts of this attempt; reply with [`Input::PromptFinished`](super::Input::PromptFinished).
    PlayPrompts { attempt: Attempt },
    /// Play ringback until the first agent joins.
    PlayRingback,
    /// Play hold music until another agent joins.
    PlayHold,
    /// Play the music of this attempt's queue, or the hold music for a person, until the agent joins.
    PlayQueueHold { attempt: Attempt },
    /// Close the peer, the agent's socket and everything the call holds.
    Release(EndReason),
    /// Publish progress.
    Report(Progress),
}

/// Progress of a live call, for events, log and metrics; its end is [`Action::Release`].
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Meta acknowledged our answer.
    PreAccepted,
    /// ICE and DTLS are done.
    MediaConnected,
    /// An agent joined.
    AgentJoined { attempt: Attempt },
    /// The connection to an agent broke, and is tried again.
    AgentInterrupted { attempt: Attempt, failure: AgentFailure },
    /// The agent is back after so long.
    AgentRejoined { attempt: Attempt, away: Duration },
    /// An agent refused, could not be reached, or was lost.
    AgentFailed { attempt: Attempt, failure: AgentFailure },
    /// An agent left without a failure.
    AgentLeft { attempt: Attempt, reason: LeaveReason },
    /// Another agent has the caller; None if the first agent was lost before.
    Transferred { from: Option<Attempt>, to: Attempt },
    /// The first agent has the caller again. None means that the transfer was cancelled, or the second agent hung up.
    TransferFailed { from: Attempt, to: Attempt, failure: Option<AgentFailure> },
    /// The callee's phone rings.
    Ringing,
    /// Meta confirmed accept, or the callee accepted and media are up.
    Accepted,
}

/// Why an agent was disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveReason {
    /// It failed, and another takes its place.
    Failed,
    /// The application connected another.
    Replaced,
    /// The application disconnected it.
    Disconnected,
    /// It handed the caller over.
    Transferred,
    /// The transfer to it was cancelled.
    Cancelled,
    /// It hung up.
    HungUp,
}

impl LeaveReason {
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
