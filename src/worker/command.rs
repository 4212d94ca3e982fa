//! The messages between the control plane and a worker: commands to it, reports from it.

use std::sync::Arc;
use std::time::Duration;

use patchcord_media::bridge::PlaybackId;
use patchcord_media::gather::Gathered;
use patchcord_media::mixer::ParticipantId;
use patchcord_media::prompt::{Prompt, Repeat};
use patchcord_media::quality::Estimate;
use patchcord_media::sdp::{Answer as SdpAnswer, Fragment, Offer};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::agent::{AgentTarget, BrowserId, Dial};
use crate::browser::token::{TokenDigest, WebRtcRole};
use crate::call::Attempt;
use crate::call::agent_failure::AgentFailure;
use crate::call::command::{CommandResult, CourseCommand, Owner, SoundCommand};
use crate::call::description::CallDescription;
use crate::call::end::{EndReason, MediaFailure};
use crate::call::event::{CallEvent, CallId};
use crate::call::refusal::Refusal;
use crate::call::route::BargeIn;
use crate::call::usage::Tokens;
use crate::recordings::{RecordingId, RecordingResult};

/// A command of the control plane to a worker.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
pub enum Command {
    /// Answer an offer; this worker owns the call from then on.
    Answer(Answer),
    /// Say whether a port is free for a call that we place.
    HasPort { reply: oneshot::Sender<bool> },
    /// Make the offer of a call that we place; this worker owns the call from then on.
    Offer(MakeOffer),
    /// Connect the media of a call that we place to Meta's answer. The reply is why they cannot be.
    ApplyAnswer { call: CallId, answer: Box<SdpAnswer>, reply: oneshot::Sender<Result<(), EndReason>> },
    /// Meta has named a call that we place: agents that are dialled from now on get this description.
    Describe { call: CallId, description: Box<CallDescription> },
    /// Connect an agent to the call.
    Dial { call: CallId, attempt: Attempt, dial: Box<Dial> },
    /// Connect a successor of the agent.
    DialBeside { call: CallId, attempt: Attempt, dial: Box<Dial> },
    /// The successor has the caller from now on.
    Promote { call: CallId, attempt: Attempt },
    /// Put the caller on hold, so that the agents talk alone; or end the hold.
    Hold { call: CallId, held: bool },
    /// Dismiss the agent of `attempt`.
    DropAgent { call: CallId, attempt: Attempt, reason: &'static str },
    /// Meta accepted: start the RTP line.
    StartSound { call: CallId },
    /// Play prompts in place of an agent, until they end or one joins.
    StandIn { call: CallId, prompts: Vec<Prompt>, repeat: Repeat },
    /// Perform a command of the application. The reply is its ids, or why it was refused.
    Perform {
        call: CallId,
        command: SoundCommand,
        owner: Owner,
        reply: oneshot::Sender<Result<CommandResult, Refusal>>,
    },
    /// Answer the command of an agent.
    AnswerAgent { call: CallId, attempt: Attempt, request_id: Value, outcome: Result<CommandResult, Refusal> },
    /// Send an event to the agent.
    TellAgent { call: CallId, event: Box<CallEvent> },
    /// Dial a participant that came by itself. The reply is why it cannot be.
    Participate {
        call: CallId,
        role: WebRtcRole,
        target: Box<AgentTarget>,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Answer a page, or change or end its connection.
    Browser { call: CallId, command: BrowserCommand },
    /// End the call's media. The reply is the figures of its audio.
    Release { call: CallId, reason: &'static str, reply: oneshot::Sender<Value> },
}

/// The first command of a call that Meta offers.
pub struct Answer {
    /// Meta's SDP offer.
    pub offer: Offer,
    /// The facts of the call.
    pub media: MediaOptions,
    /// Where the call's reports go. Each is sent once; the queue has room for all that a sane call sends.
    pub reports: mpsc::Sender<Report>,
    /// The SDP answer.
    pub reply: oneshot::Sender<Result<Arc<str>, EndReason>>,
}

/// The first command of a call that we place.
pub struct MakeOffer {
    /// The facts of the call.
    pub media: MediaOptions,
    /// As in [`Answer`].
    pub reports: mpsc::Sender<Report>,
    /// The SDP offer.
    pub reply: oneshot::Sender<Result<Arc<str>, EndReason>>,
}

/// A request of a page about its connection. Each but the first names the token that the connection was made with.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
pub enum BrowserCommand {
    /// Answer an offer. A participant is dialled too; an agent is dialled by the call.
    Answer { offer: Box<Offer>, role: WebRtcRole, token: TokenDigest, reply: BrowserReply<BrowserAnswer> },
    /// Take candidates or restart ICE. The reply is that of [`TakenFragment`].
    TakeFragment {
        browser: BrowserId,
        token: TokenDigest,
        /// The ETag of the ICE session that candidates are for; None for whichever there is, or a restart.
        etag: Option<String>,
        fragment: Fragment,
        reply: BrowserReply<TakenFragment>,
    },
    /// The page leaves.
    Leave { browser: BrowserId, token: TokenDigest, reply: BrowserReply<()> },
}

/// Takes the outcome of a [`BrowserCommand`].
pub type BrowserReply<T> = oneshot::Sender<Result<T, Refusal>>;

/// Our answer to a page.
#[derive(Clone, Debug)]
pub struct BrowserAnswer {
    /// The number of the connection within the call.
    pub browser: BrowserId,
    /// Names the ICE session.
    pub etag: String,
    /// Our SDP answer.
    pub sdp: String,
}

/// The outcome of a fragment.
#[derive(Clone, Debug)]
pub enum TakenFragment {
    /// Candidates were added.
    Candidates,
    /// ICE restarts: our fragment, and the ETag of the new session.
    #[expect(missing_docs, reason = "the line above says what they are")]
    Restarts { fragment: String, etag: String },
}

/// What the media of a call depend on.
pub struct MediaOptions {
    /// Our id of the call.
    pub call: CallId,
    /// For its agents.
    pub description: Box<CallDescription>,
    /// Whether the caller's speech is detected, and what it does.
    pub barge_in: BargeIn,
    /// Whether the call is recorded from accept on.
    pub record: bool,
    /// The prompt that a caller on hold hears.
    pub hold: String,
}

/// A report of a worker to the session of a call.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Debug)]
pub enum Report {
    /// ICE and DTLS are done.
    MediaConnected,
    /// No media has arrived from the caller for some seconds, or media arrive again.
    MediaSilent(bool),
    /// The caller's voice was received for a second before accept.
    VoiceBeforeAccept,
    /// The media have failed for good.
    MediaFailed(MediaFailure),
    /// A bug ended the call's media.
    Broken,
    /// The agent of `attempt` is listening.
    AgentJoined { attempt: Attempt },
    /// The connection to the agent of `attempt` broke, and is tried again for `back_within` at most.
    AgentInterrupted { attempt: Attempt, failure: AgentFailure, back_within: Duration },
    /// The agent of `attempt` could not be reached, or is gone.
    AgentFailed { attempt: Attempt, failure: AgentFailure },
    /// The agent of `attempt` hung up.
    AgentHungUp { attempt: Attempt },
    /// The agent of `attempt` gives a command that the call decides; it waits for the answer.
    Asked { attempt: Attempt, request_id: Value, command: CourseCommand },
    /// The model of `attempt` has used this for a response.
    ModelUsed { attempt: Attempt, tokens: Tokens },
    /// The agent wants all events of the call on its socket.
    EventsWanted,
    /// The prompts that stood in for an agent were played to their end.
    PromptsFinished,
    /// A playback has ended.
    PlaybackFinished { id: PlaybackId, owner: Owner, completed: bool },
    /// A gather has ended.
    Gathered { id: u64, owner: Owner, protected: bool, gathered: Gathered },
    /// A participant is listening.
    ParticipantJoined { participant: ParticipantId },
    /// A participant could not be reached, or has left.
    ParticipantLeft {
        participant: ParticipantId,
        reason: &'static str,
        detail: Option<Arc<str>>,
        /// The code with which a SIP phone refused.
        sip_code: Option<u16>,
    },
    /// The quality of the call's audio.
    Quality(Estimate),
    /// The caller is on hold, or not any more.
    Held(bool),
    /// The caller started or stopped speaking.
    Speech { started: bool },
    /// A recording started. `result` comes when its file is closed.
    RecordingStarted { id: RecordingId, result: oneshot::Receiver<RecordingResult> },
    /// The caller pressed a key; without the digit if the application must not learn it.
    Dtmf { digit: Option<char>, duration_ms: u32 },
}

impl Report {
    /// Whether the course of the call depends on it. These find room in the queue whatever else an agent's commands
    /// report.
    pub(super) fn is_vital(&self) -> bool {
        match self {
            Self::MediaConnected
            | Self::VoiceBeforeAccept
            | Self::MediaFailed(_)
            | Self::Broken
            | Self::AgentJoined { .. }
            | Self::AgentInterrupted { .. }
            | Self::AgentFailed { .. }
            | Self::AgentHungUp { .. }
            | Self::Asked { .. }
            | Self::PromptsFinished
            | Self::Held(_)
            | Self::RecordingStarted { .. } => true,
            Self::MediaSilent(_)
            | Self::ModelUsed { .. }
            | Self::EventsWanted
            | Self::PlaybackFinished { .. }
            | Self::Gathered { .. }
            | Self::ParticipantJoined { .. }
            | Self::ParticipantLeft { .. }
            | Self::Quality(_)
            | Self::Speech { .. }
            | Self::Dtmf { .. } => false,
        }
    }
}
