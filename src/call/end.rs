//! End reasons: why a call ended, and whose fault it was.

use std::fmt;

pub use patchcord_media::bridge::MediaFailure;

use super::agent_failure::{AgentFailure, AgentFailureKind};
use super::refusal::RefusalCode;

/// Why a call ended. Every call has exactly one reason.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The caller hung up after talking.
    CallerHungUp,
    /// The caller hung up, or Meta gave up ringing, before we accepted.
    CallerGaveUp,
    /// The callee hung up after talking.
    CalleeHungUp,
    /// The callee declined the call.
    CalleeDeclined,
    /// Meta gave up ringing.
    NoAnswer,
    /// The callee's phone rang for as long as it may.
    RingTimedOut,
    /// Meta refused connect, or could not be reached with it.
    ConnectFailed(GraphTrouble),
    /// Meta's answer does not fit our offer; the text says why, without the answer's contents.
    AnswerRefused(String),
    /// A queued call was not placed before its `expires_at`.
    QueueExpired,
    /// A queued call could not be placed any more when its turn came; the text says why.
    OrderRefused(String),
    /// A queued call was not permitted any more when its turn came, so Meta was not asked; the code and a text that say why.
    NotPermitted(RefusalCode, String),
    /// Meta ended the call as failed, with its error code where it gave one.
    EndedByMeta { code: Option<i64> },
    /// The agent hung up: `bye`, or a normal close of its socket.
    AgentHungUp,
    /// No agent of the route could be reached.
    NoAgent(AgentFailure),
    /// The agent was lost, and no attempt was left.
    AgentLost(AgentFailure),
    /// The route's prompt was played to its end.
    PromptFinished,
    /// The application ended the call.
    HungUpByApi,
    /// The application ended the call at Meta itself.
    TerminatedByApp,
    /// The application did not accept the call although media and agent were ready.
    NotAcceptedByApp,
    /// The application declined the call, in its own words.
    RejectedByApi(String),
    /// The offer cannot be answered; the text says why, without the offer's contents.
    OfferRefused(String),
    /// The service has no room for another call.
    Overloaded(Shortage),
    /// The number that was called is at its limit of live calls.
    NumberOverloaded,
    /// Meta refused our answer, or could not be reached with it.
    PreAcceptFailed(GraphTrouble),
    /// Meta refused accept, or could not be reached with it.
    AcceptFailed(GraphTrouble),
    /// Media did not come up, or stopped.
    MediaFailed(MediaFailure),
    /// Media and agent were not both ready within the accept window.
    AcceptTimedOut,
    /// The call reached the longest duration allowed.
    MaxDuration,
    /// The service is stopping.
    ShuttingDown,
    /// The service was killed or crashed during the call; the next start ended it.
    ServiceLost,
    /// A failure of ours, such as a bug or a stuck worker.
    InternalError,
}

/// The resource that another call would need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortage {
    /// The limit of live calls is reached.
    Calls,
    /// All ports of a worker have a call from the same remote address.
    Ports,
    /// The system gives no more sockets: out of file descriptors or memory.
    Sockets,
    /// The media workers are overloaded.
    Load,
    /// The calls that the media workers have will take all of their processor time.
    Capacity,
    /// The store's disk has less free space than `store.min_free`.
    Disk,
}

/// Whose fault an ending is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An ordinary ending.
    Nobody,
    /// The phone or network of the person on WhatsApp.
    Caller,
    /// The agent.
    Agent,
    /// Meta.
    Meta,
    /// Our configuration or capacity.
    Operator,
    /// Our software.
    Patchcord,
}

/// Why a request to Graph failed, after all retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GraphTrouble {
    /// Meta refused it, with its error code where it gave one.
    Refused(Option<i64>),
    /// Every attempt timed out: Meta may or may not have done it.
    Unknown,
    /// No connection to Graph.
    Unreachable,
    /// No socket for a connection to Graph: our own shortage.
    NoSockets,
}

impl EndReason {
    /// The stable name in events, metrics and the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller_hung_up",
            Self::CallerGaveUp => "caller_gave_up",
            Self::CalleeHungUp => "callee_hung_up",
            Self::CalleeDeclined => "callee_declined",
            Self::NoAnswer | Self::RingTimedOut => "no_answer",
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_006))) => "no_permission",
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_001))) => "callee_unreachable",
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_003))) => "callee_busy",
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_012))) => "call_limit",
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_013))) => "country_not_supported",
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_014))) => "calling_paused",
            Self::ConnectFailed(_) => "connect_failed",
            Self::AnswerRefused(_) => "answer_refused",
            Self::QueueExpired => "queue_expired",
            Self::OrderRefused(_) => "order_refused",
            // Those of Meta's refusals have the same names.
            Self::NotPermitted(code, _) => code.name(),
            Self::EndedByMeta { .. } => "ended_by_meta",
            Self::AgentHungUp => "agent_hung_up",
            Self::NoAgent(_) => "no_agent",
            Self::AgentLost(_) => "agent_lost",
            Self::PromptFinished => "prompt_finished",
            Self::HungUpByApi => "hung_up_by_api",
            Self::TerminatedByApp => "terminated_by_app",
            Self::NotAcceptedByApp => "not_accepted_by_app",
            Self::RejectedByApi(_) => "rejected_by_api",
            Self::OfferRefused(_) => "offer_refused",
            Self::Overloaded(_) => "overloaded",
            Self::NumberOverloaded => "number_overloaded",
            Self::PreAcceptFailed(_) => "pre_accept_failed",
            Self::AcceptFailed(_) => "accept_failed",
            Self::MediaFailed(MediaFailure::NeverConnected) => "media_never_connected",
            Self::MediaFailed(MediaFailure::FingerprintMismatch) => "fingerprint_mismatch",
            Self::MediaFailed(MediaFailure::HandshakeFailed) => "handshake_failed",
            Self::MediaFailed(MediaFailure::Silent) => "media_lost",
            Self::MediaFailed(MediaFailure::ClosedByPeer) => "media_closed",
            Self::AcceptTimedOut => "accept_timed_out",
            Self::MaxDuration => "max_duration",
            Self::ShuttingDown => "shutting_down",
            Self::ServiceLost => "service_lost",
            Self::InternalError => "internal_error",
        }
    }

    /// Whom an operator should look at first.
    pub fn fault(&self) -> Fault {
        match self {
            Self::CallerHungUp
            | Self::CallerGaveUp
            | Self::CalleeHungUp
            | Self::CalleeDeclined
            | Self::NoAnswer
            | Self::RingTimedOut
            | Self::ConnectFailed(GraphTrouble::Refused(Some(138_001 | 138_003)))
            | Self::QueueExpired
            | Self::AgentHungUp
            | Self::PromptFinished
            | Self::HungUpByApi
            | Self::TerminatedByApp
            | Self::RejectedByApi(_)
            | Self::MaxDuration
            | Self::ShuttingDown => Fault::Nobody,
            Self::NoAgent(AgentFailure { kind: AgentFailureKind::NotConfigured, .. })
            | Self::OrderRefused(_)
            | Self::NotPermitted(..)
            | Self::Overloaded(_)
            | Self::NotAcceptedByApp
            | Self::NumberOverloaded => Fault::Operator,
            Self::NoAgent(_) | Self::AgentLost(_) => Fault::Agent,
            // 138021 and 138023 are Meta's words for "no sound came from the business".
            Self::EndedByMeta { code: Some(138_021 | 138_023) } => Fault::Patchcord,
            Self::EndedByMeta { code: Some(138_019 | 138_020 | 138_022) } => Fault::Caller,
            Self::EndedByMeta { .. } | Self::OfferRefused(_) | Self::AnswerRefused(_) => Fault::Meta,
            // The app calls whom it may not call, or more often than it may.
            Self::ConnectFailed(GraphTrouble::Refused(Some(
                138_002 | 138_005 | 138_006 | 138_012 | 138_013 | 138_014 | 131_030,
            ))) => Fault::Operator,
            Self::PreAcceptFailed(trouble) | Self::AcceptFailed(trouble) | Self::ConnectFailed(trouble) => {
                match trouble {
                    GraphTrouble::Refused(Some(0 | 10 | 33 | 190 | 138_000 | 131_044 | 131_055)) => Fault::Operator,
                    GraphTrouble::Refused(Some(100 | 138_008)) => Fault::Patchcord,
                    GraphTrouble::NoSockets => Fault::Operator,
                    GraphTrouble::Refused(_) | GraphTrouble::Unknown | GraphTrouble::Unreachable => Fault::Meta,
                }
            }
            Self::MediaFailed(MediaFailure::NeverConnected) => Fault::Operator,
            Self::MediaFailed(_) => Fault::Caller,
            Self::AcceptTimedOut => Fault::Agent,
            Self::ServiceLost | Self::InternalError => Fault::Patchcord,
        }
    }

    /// Who ended the call: `caller`, `callee`, `agent`, `app`, `meta`, or `patchcord`.
    pub fn hung_up_by(&self) -> &'static str {
        match self {
            Self::CallerHungUp | Self::CallerGaveUp => "caller",
            Self::AgentHungUp => "agent",
            Self::HungUpByApi | Self::TerminatedByApp | Self::RejectedByApi(_) => "app",
            Self::CalleeHungUp | Self::CalleeDeclined => "callee",
            Self::EndedByMeta { .. } | Self::NoAnswer => "meta",
            Self::NoAgent(_)
            | Self::AgentLost(_)
            | Self::PromptFinished
            | Self::OfferRefused(_)
            | Self::AnswerRefused(_)
            | Self::QueueExpired
            | Self::OrderRefused(_)
            | Self::NotPermitted(..)
            | Self::RingTimedOut
            | Self::Overloaded(_)
            | Self::NumberOverloaded
            | Self::PreAcceptFailed(_)
            | Self::AcceptFailed(_)
            | Self::ConnectFailed(_)
            | Self::MediaFailed(_)
            | Self::AcceptTimedOut
            | Self::NotAcceptedByApp
            | Self::MaxDuration
            | Self::ShuttingDown
            | Self::ServiceLost
            | Self::InternalError => "patchcord",
        }
    }

    /// A sentence for the application; for a rejection its own words.
    pub fn detail(&self) -> String {
        if let Self::RejectedByApi(why) = self
            && !why.is_empty()
        {
            return why.clone();
        }
        self.to_string()
    }

    /// Meta's error code, where one ended the call.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only these endings carry a code of Meta's")]
    pub fn meta_error_code(&self) -> Option<i64> {
        match self {
            Self::EndedByMeta { code }
            | Self::PreAcceptFailed(GraphTrouble::Refused(code))
            | Self::AcceptFailed(GraphTrouble::Refused(code))
            | Self::ConnectFailed(GraphTrouble::Refused(code)) => *code,
            _ => None,
        }
    }

    /// Whether the call is over at Meta, so that no request has to end it there.
    pub fn is_over_at_meta(&self) -> bool {
        matches!(
            self,
            Self::CallerHungUp
                | Self::CallerGaveUp
                | Self::CalleeHungUp
                | Self::CalleeDeclined
                | Self::NoAnswer
                | Self::EndedByMeta { .. }
                | Self::TerminatedByApp
        )
    }
}

impl fmt::Display for EndReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CallerHungUp => write!(f, "the caller hung up"),
            Self::CallerGaveUp => write!(f, "the caller hung up before the call was accepted"),
            Self::CalleeHungUp => write!(f, "the callee hung up"),
            Self::CalleeDeclined => write!(f, "the callee declined the call"),
            Self::NoAnswer => write!(f, "the callee did not answer until Meta gave up ringing"),
            Self::RingTimedOut => write!(f, "the callee did not answer within ring_timeout"),
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_006))) => {
                write!(
                    f,
                    "the person has not permitted calls from this number (Meta's error 138006): send a permission request \
                     first"
                )
            }
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_001))) => {
                write!(f, "the person cannot be called on WhatsApp (Meta's error 138001)")
            }
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_003))) => {
                write!(f, "a call between this number and the person is under way already (Meta's error 138003)")
            }
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_012))) => write!(
                f,
                "the person has been called as often in a day as Meta allows (Meta's error 138012): GET /v1/permissions \
                 says when the next call is allowed"
            ),
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_013))) => write!(
                f,
                "Meta has no business-initiated calls for numbers of this country (Meta's error 138013): call from another \
                 number"
            ),
            Self::ConnectFailed(GraphTrouble::Refused(Some(138_014))) => write!(
                f,
                "Meta has paused this number's calls for low quality (Meta's error 138014): the number's settings at Meta \
                 say until when"
            ),
            Self::ConnectFailed(trouble) => write!(f, "connect failed: {trouble}"),
            Self::AnswerRefused(why) => write!(f, "Meta's answer cannot be used: {why}"),
            Self::QueueExpired => write!(f, "the call was not placed before it expired in the queue"),
            Self::OrderRefused(why) => write!(f, "the queued call cannot be placed any more: {why}"),
            Self::NotPermitted(_, why) => write!(f, "the queued call was not placed: {why}"),
            Self::EndedByMeta { code: Some(code) } => write!(f, "Meta ended the call with error {code}"),
            Self::EndedByMeta { code: None } => write!(f, "Meta ended the call as failed"),
            Self::AgentHungUp => write!(f, "the agent hung up"),
            Self::NoAgent(failure) => write!(f, "no agent could take the call: the last one {failure}"),
            Self::AgentLost(failure) => write!(f, "the agent was lost: it {failure}"),
            Self::PromptFinished => write!(f, "the prompt was played to its end"),
            Self::HungUpByApi => write!(f, "the application ended the call"),
            Self::TerminatedByApp => write!(f, "the application ended the call at Meta"),
            Self::NotAcceptedByApp => {
                write!(f, "media and agent were ready, and the application did not accept the call at Meta in time")
            }
            // The application's words may be personal, and this text is logged.
            Self::RejectedByApi(_) => write!(f, "the application declined the call"),
            Self::OfferRefused(why) => write!(f, "the offer cannot be answered: {why}"),
            Self::Overloaded(shortage) => write!(f, "the service has no room for another call: {shortage}"),
            Self::NumberOverloaded => write!(f, "the number that was called has no room for another call"),
            Self::PreAcceptFailed(trouble) => write!(f, "pre_accept failed: {trouble}"),
            Self::AcceptFailed(trouble) => write!(f, "accept failed: {trouble}"),
            Self::MediaFailed(MediaFailure::NeverConnected) => {
                write!(f, "no media connection came up; is UDP to and from the advertised address open?")
            }
            Self::MediaFailed(MediaFailure::FingerprintMismatch) => {
                write!(f, "the peer's certificate does not match its offer")
            }
            Self::MediaFailed(MediaFailure::HandshakeFailed) => write!(f, "the DTLS handshake failed"),
            Self::MediaFailed(MediaFailure::Silent) => write!(f, "nothing was received from the caller for too long"),
            Self::MediaFailed(MediaFailure::ClosedByPeer) => write!(f, "the caller's side closed the media connection"),
            Self::AcceptTimedOut => write!(f, "media and agent were not both ready in time"),
            Self::MaxDuration => write!(f, "the call reached its longest duration"),
            Self::ShuttingDown => write!(f, "the service is stopping"),
            Self::ServiceLost => write!(f, "the service was lost in the middle of the call"),
            Self::InternalError => write!(f, "an internal error"),
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Calls => "calls.max_calls is reached",
            Self::Ports => "media.ports has no free port for another call from this address",
            Self::Sockets => "the system gives no more sockets",
            Self::Load => "the media workers are overloaded",
            Self::Capacity => "the calls admitted before will take media.max_load_percent of each media worker's core",
            Self::Disk => "less than store.min_free is left on the store's disk",
        })
    }
}

impl fmt::Display for GraphTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(Some(code)) => write!(f, "Meta refused with error {code}"),
            Self::Refused(None) => write!(f, "Meta refused"),
            Self::Unknown => write!(f, "Meta did not answer in time"),
            Self::Unreachable => write!(f, "Meta could not be reached"),
            Self::NoSockets => write!(f, "the system gives no more sockets (nofile)"),
        }
    }
}

impl Fault {
    /// The stable name in events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Caller => "caller",
            Self::Agent => "agent",
            Self::Meta => "meta",
            Self::Operator => "operator",
            Self::Patchcord => "patchcord",
        }
    }
}
