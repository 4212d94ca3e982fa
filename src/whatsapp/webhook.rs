//! What Meta's webhooks tell about calls: one POST becomes a list of notices.
//!
//! Meta doubles, batches and reorders webhooks, leaves fields out and adds new ones. So everything but a
//! call's id and event may be missing here, what is unknown is named and skipped, and one call that makes
//! no sense does not harm the others. Whether a notice is late or double is for `Call` to decide.

mod read;
mod subscription;

pub use subscription::{SubscriptionRefused, verify_subscription};

use std::fmt;

use serde::{Deserialize, Serialize};

use super::error::MetaError;
use super::{Hidden, Party, PhoneNumberId, WaCallId, mend};

/// Meta sends up to 3 MB in one POST. Source: Meta, "Webhooks from Meta".
pub const MAX_BODY_BYTES: usize = 3 * 1024 * 1024;

/// Graph puts up to 1000 updates into one POST. What is beyond this bound is dropped, and said so by one
/// `Malformed` notice.
const MAX_NOTICES: usize = 4000;

/// Reads one webhook body, whose signature has been verified, into notices in the order in which they stand.
///
/// A string that is cut in the middle of a character costs that character and nothing else, and so does any other value
/// that JSON does not have. An error means that the body as a whole cannot be read. Meta sends a body that was refused again, for days.
pub fn parse(body: &[u8]) -> Result<Vec<Notice>, WebhookError> {
    if body.len() > MAX_BODY_BYTES {
        return Err(WebhookError::TooLarge);
    }
    let envelope = mend::read(body).map_err(|_| WebhookError::NotJson)?;
    if !envelope["entry"].is_array() {
        return Err(WebhookError::NotAWebhook);
    }
    Ok(read::notices(&envelope, MAX_NOTICES))
}

/// One thing that a webhook tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Notice {
    /// Somebody calls us, or our own call got its answer: here is the SDP.
    Connect(Box<Connect>),
    /// A call is over, whoever ended it.
    Terminate(Box<Terminate>),
    /// How far a call of ours has got.
    Status(Box<CallStatus>),
    /// A webhook field that has nothing to do with calls, such as `messages`.
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
    /// A call that lacks what it cannot do without.
    Malformed {
        /// What is wrong with it.
        why: Malformation,
    },
}

impl Notice {
    /// When Meta sent it, in Unix seconds, where that is known.
    pub fn timestamp(&self) -> Option<u64> {
        match self {
            Self::Connect(connect) => connect.timestamp,
            Self::Terminate(terminate) => terminate.timestamp,
            Self::Status(status) => status.timestamp,
            Self::NotOurs { .. } | Self::Unknown { .. } | Self::Malformed { .. } => None,
        }
    }
}

/// `event: connect`. Media is being set up; it does not mean that anybody has picked up.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Connect {
    /// The call.
    pub call_id: WaCallId,
    /// The business number. Always there in captures.
    pub phone_number_id: Option<PhoneNumberId>,
    /// The business number as shown, in digits, sometimes with a leading `+`.
    pub display_phone_number: Option<String>,
    /// Who dialled. Inferred from the SDP's type where Meta leaves it out.
    pub direction: Direction,
    /// Who dialled.
    pub from: Party,
    /// Who was dialled.
    pub to: Party,
    /// When Meta sent it, in Unix seconds. A late delivery keeps its first time.
    pub timestamp: Option<u64>,
    /// The SDP.
    pub session: Session,
    /// The payload of the call button that was pressed.
    pub cta_payload: Option<String>,
    /// The payload of the deep link that was opened.
    pub deeplink_payload: Option<String>,
    /// What our own `connect` request carried.
    pub biz_opaque_callback_data: Option<String>,
}

/// `event: terminate`. It may come before the `connect` of the same call.
#[derive(Clone, PartialEq)]
pub struct Terminate {
    /// The call.
    pub call_id: WaCallId,
    /// The business number.
    pub phone_number_id: Option<PhoneNumberId>,
    /// Who dialled, where Meta tells.
    pub direction: Option<Direction>,
    /// Who dialled.
    pub from: Party,
    /// Who was dialled.
    pub to: Party,
    /// When the call ended, in Unix seconds.
    pub timestamp: Option<u64>,
    /// How Meta sums the call up. An unanswered call is `Completed` too.
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
    /// What our `accept` or `connect` request carried.
    pub biz_opaque_callback_data: Option<String>,
}

/// `statuses[]` on the field `calls`: the progress of a call that we placed.
#[derive(Clone, PartialEq)]
pub struct CallStatus {
    /// The call.
    pub call_id: WaCallId,
    /// The business number.
    pub phone_number_id: Option<PhoneNumberId>,
    /// How far it has got.
    pub progress: Progress,
    /// When, in Unix seconds.
    pub timestamp: Option<u64>,
    /// Whom we called.
    pub recipient: Party,
    /// What our `connect` request carried.
    pub biz_opaque_callback_data: Option<String>,
}

/// An SDP and what it is.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// Offer for a call to us, answer for a call by us.
    pub sdp_type: SdpType,
    /// The SDP as Meta wrote it, with CRLF line ends; empty when a call to us came without one.
    pub sdp: String,
}

/// Which half of the SDP exchange this is.
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

/// How Meta sums up an ended call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminateStatus {
    /// Ended without an error, answered or not.
    Completed,
    /// Ended by an error.
    Failed,
    /// Refused by the person called.
    Rejected,
    /// Left out, or a word that this version does not know.
    Unstated,
}

/// How far a call of ours has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The user's phone rings.
    Ringing,
    /// The user picked up: the only sign of it.
    Accepted,
    /// The user refused; a `terminate` follows.
    Rejected,
}

/// What is wrong with one call of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformation {
    /// An entry, a change, a call or a status of the wrong JSON type.
    #[error("a part of the webhook has another shape than Meta's pages say")]
    Shape,
    /// No `id`, or one that cannot be one.
    #[error("a call without a usable id")]
    CallId,
    /// No `event`.
    #[error("a call without an event")]
    Event,
    /// A `phone_number_id` that cannot be one.
    #[error("a phone number id that is not digits")]
    PhoneNumberId,
    /// A connect without SDP.
    #[error("a connect without an SDP")]
    Session,
    /// An offer for a call of ours, or an answer to a call to us.
    #[error("a connect whose SDP type does not fit its direction")]
    SdpType,
    /// The rest of an overlong list, dropped.
    #[error("more notices than one webhook can hold")]
    TooMany,
}

/// Why a whole webhook cannot be read.
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
    /// As [`Connect::from_stored`] reads it: for the store alone, because all of it is personal.
    pub fn to_stored(&self) -> String {
        serde_json::to_string(self).expect("a connect is texts, numbers and names of variants")
    }

    /// Reads what [`Connect::to_stored`] wrote; `None` if it is something else.
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
