//! Meta's webhooks about calls: one POST becomes a list of notices.
//!
//! Meta repeats, batches and reorders webhooks, omits fields and adds new ones. So everything but a
//! call's id and event is optional here, unknown kinds are named and skipped, and one malformed call
//! does not affect the others. `Call` decides whether a notice is late or repeated.

mod read;
mod subscription;

pub use subscription::{SubscriptionRefused, verify_subscription};

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::MetaError;
use super::permission::{CallsPaused, PermissionReply};
use super::{Hidden, Party, PhoneNumberId, WaCallId, repair};

/// Meta sends up to 3 MB in one POST. Source: Meta, "Webhooks from Meta".
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Graph puts up to 1000 updates into one POST. Notices beyond this bound are dropped, which one
/// `Malformed` notice reports.
const MAX_NOTICES: usize = 4000;

/// Parses a webhook body with a verified signature into notices, in their order.
///
/// A string that is cut in the middle of a character costs that character and nothing else, and so does any other value
/// that JSON does not have. An error means that the body as a whole cannot be parsed. Meta repeats a refused body for days.
pub fn parse(body: &[u8]) -> Result<Vec<Notice>, WebhookError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(WebhookError::TooLarge);
    }
    let envelope = repair::read(body).map_err(|_| WebhookError::NotJson)?;
    if !envelope["entry"].is_array() {
        return Err(WebhookError::NotAWebhook);
    }
    Ok(read::notices(&envelope, MAX_NOTICES))
}

/// One statement of a webhook.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// A user calls us, or our own call got its answer: with the SDP.
    Connect(Box<Connect>),
    /// A call is over.
    Terminate(Box<Terminate>),
    /// The progress of a call that we placed.
    Status(Box<CallStatus>),
    /// Somebody permits calls, or does so no longer.
    PermissionReply(Box<PermissionReply>),
    /// Meta lets one of the numbers place no calls for a while.
    CallsPaused(Box<CallsPaused>),
    /// A webhook field about something else, such as `messages`.
    NotOurs {
        /// The field's name.
        field: String,
    },
    /// A field, event or status that this version does not know; to be counted and skipped. Names are cut
    /// to 64 letters, digits and `_.:-`.
    Unknown {
        /// The field's name; `calls` for a new kind of call event.
        field: String,
        /// The event's name, or `status:…` for a call status; empty when the field itself is unknown.
        event: String,
    },
    /// A call without a required field.
    Malformed {
        /// What is wrong with it.
        why: Malformation,
    },
}

impl Notice {
    /// Time at which Meta sent it, in Unix seconds, if known.
    pub fn timestamp(&self) -> Option<u64> {
        match self {
            Self::Connect(connect) => connect.timestamp,
            Self::Terminate(terminate) => terminate.timestamp,
            Self::Status(status) => status.timestamp,
            // Not those by which Meta's clock is read.
            Self::PermissionReply(_) | Self::CallsPaused(_) => None,
            Self::NotOurs { .. } | Self::Unknown { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// `event: connect`. Media is being set up; it does not mean that the call was picked up.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// The call.
    pub call_id: WaCallId,
    /// The business number. Always there in captures.
    pub phone_number_id: Option<PhoneNumberId>,
    /// The business number as shown, in digits, sometimes with a leading `+`.
    pub display_phone_number: Option<String>,
    /// The direction. Inferred from the SDP's type if Meta omits it.
    pub direction: Direction,
    /// Who dialled.
    pub from: Party,
    /// Who was dialled.
    pub to: Party,
    /// Time at which Meta sent it, in Unix seconds. A repeated delivery keeps its first time.
    pub timestamp: Option<u64>,
    /// The SDP.
    pub session: Session,
    /// The payload of the call button that was pressed.
    pub cta_payload: Option<String>,
    /// The payload of the deep link that was opened.
    pub deeplink_payload: Option<String>,
    /// The callback data of our `connect` request.
    pub biz_opaque_callback_data: Option<String>,
}

/// `event: terminate`. It may come before the `connect` of the same call.
#[derive(Clone, PartialEq)]
pub struct Terminate {
    /// The call.
    pub call_id: WaCallId,
    /// The business number.
    pub phone_number_id: Option<PhoneNumberId>,
    /// The direction, if Meta gives it.
    pub direction: Option<Direction>,
    /// Who dialled.
    pub from: Party,
    /// Who was dialled.
    pub to: Party,
    /// When the call ended, in Unix seconds.
    pub timestamp: Option<u64>,
    /// Meta's summary of the call. An unanswered call is `Completed` too.
    pub status: TerminateStatus,
    /// When it was picked up, in Unix seconds; only for calls that were.
    pub start_time: Option<u64>,
    /// When it ended, in Unix seconds; only for calls that were picked up.
    pub end_time: Option<u64>,
    /// Seconds; only for calls that were picked up.
    pub duration_seconds: Option<u64>,
    /// Why it failed, each reason once.
    pub errors: Vec<MetaError>,
    /// The payload of the call button that was pressed.
    pub cta_payload: Option<String>,
    /// The payload of the deep link that was opened.
    pub deeplink_payload: Option<String>,
    /// The callback data of our `accept` or `connect` request.
    pub biz_opaque_callback_data: Option<String>,
}

/// `statuses[]` on the field `calls`: the progress of a call that we placed.
#[derive(Clone, PartialEq)]
pub struct CallStatus {
    /// The call.
    pub call_id: WaCallId,
    /// The business number.
    pub phone_number_id: Option<PhoneNumberId>,
    /// Its progress.
    pub progress: Progress,
    /// Time, in Unix seconds.
    pub timestamp: Option<u64>,
    /// The called user.
    pub recipient: Party,
    /// What our `connect` request carried.
    pub biz_opaque_callback_data: Option<String>,
}

/// An SDP and its type.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Offer for a call to us, answer for a call by us.
    pub sdp_type: SdpType,
    /// The SDP as Meta wrote it, with CRLF line ends; empty when a call to us came without one.
    pub sdp: String,
}

/// The type of an SDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SdpType {
    /// To be answered.
    Offer,
    /// Answers our offer.
    Answer,
}

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Direction {
    /// A WhatsApp user calls the business.
    UserInitiated,
    /// The business calls a WhatsApp user.
    BusinessInitiated,
}

/// Meta's summary of an ended call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminateStatus {
    /// Ended without an error, answered or not.
    Completed,
    /// Ended by an error.
    Failed,
    /// Refused by the person called.
    Rejected,
    /// Omitted, or unknown to this version.
    Unstated,
}

/// The progress of a call that we placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The user's phone rings.
    Ringing,
    /// The user picked up; there is no other sign of it.
    Accepted,
    /// The user refused; a `terminate` follows.
    Rejected,
}

/// Why one part of a webhook is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    /// An entry, a change, a call or a status of the wrong JSON type.
    #[error("a part of the webhook does not have the documented structure")]
    Shape,
    /// No `id`, or an invalid one.
    #[error("a call without a usable id")]
    CallId,
    /// No `event`.
    #[error("a call without an event")]
    Event,
    /// An invalid `phone_number_id`.
    #[error("a phone number id that is not digits")]
    PhoneNumberId,
    /// A connect without SDP.
    #[error("a connect without an SDP")]
    Session,
    /// An offer for a call that we placed, or an answer to a call to us.
    #[error("a connect whose SDP type does not fit its direction")]
    SdpType,
    /// The rest of an overlong list, dropped.
    #[error("more notices than one webhook can hold")]
    TooMany,
}

/// Why a whole webhook cannot be parsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    /// Above [`MAX_BODY_BYTES`].
    #[error("the webhook is larger than 3 MiB")]
    TooLarge,
    /// Not JSON.
    #[error("the webhook is not JSON")]
    NotJson,
    /// JSON, but without the list `entry`.
    #[error("the webhook has no list of entries")]
    NotAWebhook,
}

impl Connect {
    /// Serialises it for [`Connect::from_stored`]: for the store only, because all of it is personal.
    pub fn to_stored(&self) -> String {
        serde_json::to_string(self).expect("a connect is texts, numbers and names of variants")
    }

    /// Reads what [`Connect::to_stored`] wrote; `None` for anything else.
    pub fn from_stored(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

impl fmt::Debug for Connect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connect")
            .field("direction", &self.direction)
            .field("from", &self.from)
            .field("timestamp", &self.timestamp)
            .field("session", &self.session)
            .field("cta_payload", &Hidden::of(self.cta_payload.as_deref()))
            .field("deeplink_payload", &Hidden::of(self.deeplink_payload.as_deref()))
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Terminate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Terminate")
            .field("direction", &self.direction)
            .field("timestamp", &self.timestamp)
            .field("status", &self.status)
            .field("duration_seconds", &self.duration_seconds)
            .field("errors", &self.errors)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for CallStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CallStatus")
            .field("progress", &self.progress)
            .field("timestamp", &self.timestamp)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} of {} bytes", self.sdp_type, self.sdp.len())
    }
}

#[cfg(test)]
mod tests;
