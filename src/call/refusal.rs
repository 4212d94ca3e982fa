//! Refusals: why a command was not performed, by stable codes.

use std::time::{Duration, SystemTime};

/// Why a command was not performed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// What to do about it, for people.
    pub message: String,
    /// When the next attempt is allowed, where a limit of Meta's says it.
    pub next_allowed_at: Option<SystemTime>,
    /// Meta's error code, where Meta refused.
    pub meta_error_code: Option<i64>,
    /// When the same command may succeed, where that is known.
    pub retry_after: Option<Duration>,
}

/// A stable code. Agents, the control API and decisions share them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalCode {
    /// The command is malformed, or no call could do it.
    InvalidCommand,
    /// No such action exists.
    UnknownAction,
    /// No call has this id, or its record has expired.
    CallNotFound,
    /// The call is over.
    CallEnded,
    /// The call is not queued any more: it is being placed.
    AlreadyPlaced,
    /// The action needs a call that is accepted.
    CallNotAccepted,
    /// The action needs a call that rings.
    CallAlreadyAccepted,
    /// The action needs an agent on the line.
    NoAgent,
    /// No transfer is under way.
    NoTransfer,
    /// Another transfer is under way.
    TransferUnderWay,
    /// The call has tried as many agents as one call may.
    TooManyAttempts,
    /// As many commands of this agent wait as may.
    TooManyCommands,
    /// As many participants are in the call as may be.
    TooManyGuests,
    /// As many pages are connected to the call as may be.
    TooManyBrowsers,
    /// Only the agent that has the caller gives commands.
    NotAllowed,
    /// The caller is not on hold.
    NotOnHold,
    /// No prompt is playing.
    NothingPlays,
    /// No digits are being gathered.
    NothingGathers,
    /// The caller's phone did not negotiate telephone-event.
    DtmfUnsupported,
    /// The call is being recorded.
    AlreadyRecording,
    /// The call is not being recorded.
    NotRecording,
    /// The recordings folder cannot be used.
    RecordingUnavailable,
    /// No prompt has this name.
    UnknownPrompt,
    /// No route has this name, or its `agent` cannot be dialled.
    UnknownRoute,
    /// No queue has this name.
    UnknownQueue,
    /// No API key of an agent has this id.
    UnknownAgent,
    /// No business number has this id.
    UnknownNumber,
    /// No participant has this id.
    UnknownGuest,
    /// The URL is no address of an agent.
    InvalidUrl,
    /// `[egress] allow` does not list the host, or its address is private.
    UrlNotAllowed,
    /// The host of the URL has no address.
    UrlUnresolved,
    /// An SDP offer cannot be used.
    OfferRefused,
    /// Meta's SDP answer to an offer of ours cannot be used.
    AnswerRefused,
    /// Another live call has this wacid.
    WacidInUse,
    /// The token has no such WebRTC session, or it is over.
    SessionNotFound,
    /// `If-Match` names another ICE session than the present one.
    PreconditionFailed,
    /// No UDP port is free for a page.
    NoMediaPort,
    /// The API key lacks the scope.
    MissingScope,
    /// The API key is unknown, or is so since a reload.
    KeyUnknown,
    /// The API key has expired.
    KeyExpired,
    /// No API key is configured.
    ApiClosed,
    /// The API key has made too many requests.
    RateLimited,
    /// The person does not permit calls from the business number.
    NoPermission,
    /// The person has been asked for permission as often as Meta allows.
    RequestLimit,
    /// The person has been called as often as Meta allows.
    CallLimit,
    /// The person permits calls for good: there is nothing to ask for.
    AlreadyPermitted,
    /// Meta has no business-initiated calls for numbers of this country.
    CountryNotSupported,
    /// Meta has paused the number's calls for low quality.
    CallingPaused,
    /// The person cannot be reached on WhatsApp.
    PersonUnreachable,
    /// Permissions are looked up faster than Meta takes it.
    LookupLimit,
    /// Meta refused the request for another reason.
    RefusedByMeta,
    /// Meta cannot be reached, or gave no readable answer.
    MetaUnavailable,
    /// The business number has placed as many calls within a second as it may.
    NumberRateLimited,
    /// The business number has placed as many calls within 24 h as it may.
    NumberDayLimit,
    /// As many calls that the business number placed live as may.
    NumberBusy,
    /// As many calls of the business number are queued as may be.
    QueueFull,
    /// The service or the business number has no room for another call.
    Overloaded,
    /// The store cannot be read or written at present.
    StoreUnavailable,
    /// The service is stopping.
    ShuttingDown,
    /// The call did not answer in time and may still do it.
    NoAnswer,
    /// A bug in Patchcord: see the log.
    InternalError,
}

impl Refusal {
    /// A refusal with a sentence that says what to do.
    pub fn new(code: RefusalCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), next_allowed_at: None, meta_error_code: None, retry_after: None }
    }

    /// The same, with the time after which the command may succeed.
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after: Some(wait), ..self }
    }
}

impl RefusalCode {
    /// Every code, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::InvalidCommand,
        Self::UnknownAction,
        Self::CallNotFound,
        Self::CallEnded,
        Self::AlreadyPlaced,
        Self::CallNotAccepted,
        Self::CallAlreadyAccepted,
        Self::NoAgent,
        Self::NoTransfer,
        Self::TransferUnderWay,
        Self::TooManyAttempts,
        Self::TooManyCommands,
        Self::TooManyGuests,
        Self::TooManyBrowsers,
        Self::NotAllowed,
        Self::NotOnHold,
        Self::NothingPlays,
        Self::NothingGathers,
        Self::DtmfUnsupported,
        Self::AlreadyRecording,
        Self::NotRecording,
        Self::RecordingUnavailable,
        Self::UnknownPrompt,
        Self::UnknownRoute,
        Self::UnknownQueue,
        Self::UnknownAgent,
        Self::UnknownNumber,
        Self::UnknownGuest,
        Self::InvalidUrl,
        Self::UrlNotAllowed,
        Self::UrlUnresolved,
        Self::OfferRefused,
        Self::AnswerRefused,
        Self::WacidInUse,
        Self::SessionNotFound,
        Self::PreconditionFailed,
        Self::NoMediaPort,
        Self::MissingScope,
        Self::KeyUnknown,
        Self::KeyExpired,
        Self::ApiClosed,
        Self::RateLimited,
        Self::NoPermission,
        Self::RequestLimit,
        Self::CallLimit,
        Self::AlreadyPermitted,
        Self::CountryNotSupported,
        Self::CallingPaused,
        Self::PersonUnreachable,
        Self::LookupLimit,
        Self::RefusedByMeta,
        Self::MetaUnavailable,
        Self::NumberRateLimited,
        Self::NumberDayLimit,
        Self::NumberBusy,
        Self::QueueFull,
        Self::Overloaded,
        Self::StoreUnavailable,
        Self::ShuttingDown,
        Self::NoAnswer,
        Self::InternalError,
    ];

    /// The name on the wire, in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidCommand => "invalid_command",
            Self::UnknownAction => "unknown_action",
            Self::CallNotFound => "call_not_found",
            Self::CallEnded => "call_ended",
            Self::AlreadyPlaced => "already_placed",
            Self::CallNotAccepted => "call_not_accepted",
            Self::CallAlreadyAccepted => "call_already_accepted",
            Self::NoAgent => "no_agent",
            Self::NoTransfer => "no_transfer",
            Self::TransferUnderWay => "transfer_under_way",
            Self::TooManyAttempts => "too_many_attempts",
            Self::TooManyCommands => "too_many_commands",
            Self::TooManyGuests => "too_many_guests",
            Self::TooManyBrowsers => "too_many_browsers",
            Self::NotAllowed => "not_allowed",
            Self::NotOnHold => "not_on_hold",
            Self::NothingPlays => "nothing_plays",
            Self::NothingGathers => "nothing_gathers",
            Self::DtmfUnsupported => "dtmf_unsupported",
            Self::AlreadyRecording => "already_recording",
            Self::NotRecording => "not_recording",
            Self::RecordingUnavailable => "recording_unavailable",
            Self::UnknownPrompt => "unknown_prompt",
            Self::UnknownRoute => "unknown_route",
            Self::UnknownQueue => "unknown_queue",
            Self::UnknownAgent => "unknown_agent",
            Self::UnknownNumber => "unknown_number",
            Self::UnknownGuest => "unknown_guest",
            Self::InvalidUrl => "invalid_url",
            Self::UrlNotAllowed => "url_not_allowed",
            Self::UrlUnresolved => "url_unresolved",
            Self::OfferRefused => "offer_refused",
            Self::AnswerRefused => "answer_refused",
            Self::WacidInUse => "wacid_in_use",
            Self::SessionNotFound => "session_not_found",
            Self::PreconditionFailed => "precondition_failed",
            Self::NoMediaPort => "no_media_port",
            Self::MissingScope => "missing_scope",
            Self::KeyUnknown => "key_unknown",
            Self::KeyExpired => "key_expired",
            Self::ApiClosed => "api_closed",
            Self::RateLimited => "rate_limited",
            Self::NoPermission => "no_permission",
            Self::RequestLimit => "request_limit",
            Self::CallLimit => "call_limit",
            Self::AlreadyPermitted => "already_permitted",
            Self::CountryNotSupported => "country_not_supported",
            Self::CallingPaused => "calling_paused",
            Self::PersonUnreachable => "person_unreachable",
            Self::LookupLimit => "lookup_limit",
            Self::RefusedByMeta => "refused_by_meta",
            Self::MetaUnavailable => "meta_unavailable",
            Self::NumberRateLimited => "number_rate_limited",
            Self::NumberDayLimit => "number_day_limit",
            Self::NumberBusy => "number_busy",
            Self::QueueFull => "queue_full",
            Self::Overloaded => "overloaded",
            Self::StoreUnavailable => "store_unavailable",
            Self::ShuttingDown => "shutting_down",
            Self::NoAnswer => "no_answer",
            Self::InternalError => "internal_error",
        }
    }

    /// The HTTP status of a response with this code.
    pub fn http_status(self) -> u16 {
        match self {
            Self::KeyUnknown | Self::KeyExpired => 401,
            Self::MissingScope | Self::ApiClosed => 403,
            Self::UnknownAction | Self::CallNotFound | Self::SessionNotFound => 404,
            Self::CallEnded
            | Self::AlreadyPlaced
            | Self::CallNotAccepted
            | Self::CallAlreadyAccepted
            | Self::NoAgent
            | Self::NoTransfer
            | Self::TransferUnderWay
            | Self::TooManyAttempts
            | Self::TooManyCommands
            | Self::TooManyGuests
            | Self::TooManyBrowsers
            | Self::NotAllowed
            | Self::NotOnHold
            | Self::NothingPlays
            | Self::NothingGathers
            | Self::DtmfUnsupported
            | Self::AlreadyRecording
            | Self::NotRecording
            | Self::WacidInUse
            | Self::NoPermission
            | Self::RequestLimit
            | Self::CallLimit
            | Self::AlreadyPermitted
            | Self::CountryNotSupported
            | Self::CallingPaused
            | Self::PersonUnreachable => 409,
            Self::InvalidCommand
            | Self::UnknownPrompt
            | Self::UnknownRoute
            | Self::UnknownQueue
            | Self::UnknownAgent
            | Self::UnknownNumber
            | Self::UnknownGuest
            | Self::InvalidUrl
            | Self::UrlNotAllowed
            | Self::UrlUnresolved
            | Self::OfferRefused
            | Self::AnswerRefused => 422,
            Self::PreconditionFailed => 412,
            Self::RateLimited
            | Self::LookupLimit
            | Self::NumberRateLimited
            | Self::NumberDayLimit
            | Self::NumberBusy
            | Self::QueueFull => 429,
            Self::InternalError => 500,
            Self::RefusedByMeta | Self::MetaUnavailable => 502,
            Self::RecordingUnavailable
            | Self::NoMediaPort
            | Self::Overloaded
            | Self::StoreUnavailable
            | Self::ShuttingDown => 503,
            Self::NoAnswer => 504,
        }
    }

    /// The code of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_with_its_status() {
        let page = include_str!("../../docs/api-and-events.md");
        for code in RefusalCode::ALL {
            let row = format!("| `{}` | {} |", code.name(), code.http_status());
            assert!(page.contains(&row), "docs/api-and-events.md lacks the row {row}");
            assert_eq!(RefusalCode::of_name(code.name()), Some(*code));
        }
    }
}
