//! Events of a call: one envelope for every kind.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;

use super::end::EndReason;
use super::usage::ModelUsage;

/// Our own id of a call: `call_` and a ULID, so ids sort by the time the call began. It holds nothing personal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CallId(String);

impl CallId {
    /// A new id.
    pub fn generate() -> Self {
        Self(format!("call_{}", new_ulid().to_string().to_lowercase()))
    }

    /// Reads an id; None for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let ulid = text.strip_prefix("call_")?;
        let is_lower = !ulid.bytes().any(|byte| byte.is_ascii_uppercase());
        (is_lower && ulid::Ulid::from_string(ulid).is_ok()).then(|| Self(text.to_owned()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A new ULID whose 128 bits are a UUID of version 7 as well (RFC 9562, section 5.7). Agents of other platforms know calls by
/// UUIDs, and many libraries refuse one without a version.
pub(crate) fn new_ulid() -> ulid::Ulid {
    const VERSION: u128 = 0xf << 76;
    const VARIANT: u128 = 0b11 << 62;
    ulid::Ulid(ulid::Ulid::new().0 & !VERSION & !VARIANT | 7 << 76 | 0b10 << 62)
}

impl std::fmt::Display for CallId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// One event of one call.
#[derive(Clone, Debug, Serialize)]
pub struct CallEvent {
    /// Unique, `evt_` and a ULID.
    pub id: String,
    /// Such as `call.accepted`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// RFC 3339, UTC.
    pub occurred_at: String,
    /// The call.
    pub call_id: CallId,
    /// Counts the events of this call from 1 without gaps.
    pub sequence: u64,
    /// What the application keeps with the call, at the time of the event.
    pub client_state: Option<String>,
    /// The fields of this kind.
    pub data: Value,
}

impl CallEvent {
    /// An event that happened at this time.
    pub fn new(
        call_id: CallId,
        sequence: u64,
        kind: &'static str,
        client_state: Option<String>,
        data: Value,
        occurred_at: SystemTime,
    ) -> Self {
        Self {
            id: format!("evt_{}", ulid::Ulid::new().to_string().to_lowercase()),
            kind,
            occurred_at: humantime::format_rfc3339_millis(occurred_at).to_string(),
            call_id,
            sequence,
            client_state,
            data,
        }
    }
}

/// When each stage of a call was reached, counted from the webhook, or from the request to place it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stages {
    /// Our SDP was ready.
    pub answered: Option<Duration>,
    /// pre_accept left for Meta.
    pub pre_accept_sent: Option<Duration>,
    /// Meta confirmed pre_accept.
    pub pre_accepted: Option<Duration>,
    /// The callee's phone rang, for a call that we place.
    pub ringing: Option<Duration>,
    /// ICE and DTLS were done.
    pub media_connected: Option<Duration>,
    /// The first agent joined.
    pub agent_joined: Option<Duration>,
    /// Meta confirmed accept.
    pub accepted: Option<Duration>,
    /// The call ended.
    pub ended: Option<Duration>,
}

impl Stages {
    /// The stages reached, in milliseconds, as the events carry them.
    pub fn to_json(&self) -> Value {
        let ms = |stage: Option<Duration>| stage.map(|at| (at.as_secs_f64() * 1e6).round() / 1e3);
        serde_json::json!({
            "answered_ms": ms(self.answered),
            "pre_accept_sent_ms": ms(self.pre_accept_sent),
            "pre_accepted_ms": ms(self.pre_accepted),
            "ringing_ms": ms(self.ringing),
            "media_connected_ms": ms(self.media_connected),
            "agent_joined_ms": ms(self.agent_joined),
            "accepted_ms": ms(self.accepted),
            "ended_ms": ms(self.ended),
        })
    }
}

/// What was measured of a call.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'c> {
    /// Counters and quality of the audio.
    pub sound: &'c Value,
    /// What its speech models have used.
    pub usage: &'c [ModelUsage],
}

impl Figures<'_> {
    /// Of a call that had no audio.
    pub const NONE: Self = Self { sound: &Value::Null, usage: &[] };
}

/// The data of `call.ended`. `terminate_at_meta` is whether the application has to end a call at Meta that it signals.
pub fn ended_data(reason: &EndReason, stages: &Stages, figures: Figures<'_>, terminate_at_meta: Option<bool>) -> Value {
    let talked = stages.ended.zip(stages.accepted).map(|(ended, accepted)| ended.saturating_sub(accepted));
    let mut data = serde_json::json!({
        "reason": reason.name(),
        "fault": reason.fault().name(),
        "detail": reason.detail(),
        "hung_up_by": reason.hung_up_by(),
        "meta_error_code": reason.meta_error_code(),
        "talked_ms": talked.map(|talked| talked.as_millis() as u64),
        "stages": stages.to_json(),
        "sound": figures.sound,
        "usage": figures.usage,
    });
    if let Some(is_left) = terminate_at_meta {
        data["terminate_at_meta"] = is_left.into();
    }
    data
}
