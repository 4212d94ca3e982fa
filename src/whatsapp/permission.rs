//! Call permissions in Meta's words: the reply of a person in a webhook, and Graph's answer to a look-up.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::integer;
use super::{Hidden, Party, PhoneNumberId};

/// `interactive.type: call_permission_reply` in a webhook of the field `messages`.
#[derive(Clone, PartialEq, Eq)]
pub struct PermissionReply {
    /// The business number.
    pub phone_number_id: Option<PhoneNumberId>,
    /// The business number as shown.
    pub display_phone_number: Option<String>,
    /// Who replied.
    pub from: Party,
    /// Meta's id of the message.
    pub message_id: Option<String>,
    /// Unix seconds, by Meta's clock.
    pub timestamp: Option<u64>,
    /// The reply.
    pub response: PermissionResponse,
    /// Whether the person did nothing: Meta's own rules reply.
    pub is_automatic: bool,
    /// The message that the person answered: Meta's id of our request, or of the person's call.
    pub answers: Option<String>,
}

/// What is replied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermissionResponse {
    /// Calls are permitted, until then if a time is given (Unix seconds).
    Accept {
        /// None for good.
        expires_at: Option<u64>,
    },
    /// Calls are not permitted.
    Reject,
}

impl std::fmt::Debug for PermissionReply {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PermissionReply")
            .field("from", &self.from)
            .field("message_id", &Hidden::of(self.message_id.as_deref()))
            .field("timestamp", &self.timestamp)
            .field("response", &self.response)
            .field("is_automatic", &self.is_automatic)
            .field("answers", &Hidden::of(self.answers.as_deref()))
            .finish_non_exhaustive()
    }
}

/// Meta lets one of the numbers place no calls for a while: `RESTRICTED_BUSINESS_INITIATED_CALLING`.
#[derive(Clone, PartialEq, Eq)]
pub struct CallsPaused {
    /// The number as shown.
    pub display_phone_number: String,
    /// Unix seconds.
    pub until: u64,
}

impl std::fmt::Debug for CallsPaused {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CallsPaused").field("until", &self.until).finish_non_exhaustive()
    }
}

/// How a permission stands, by Graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermissionStatus {
    /// There is none.
    None,
    /// For a time.
    Temporary,
    /// For good.
    Permanent,
}

/// Graph's answer to `GET …/call_permissions`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallPermissions {
    /// The permission.
    pub status: PermissionStatus,
    /// Unix seconds; of a temporary permission.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
    /// `send_call_permission_request`.
    pub send_request: GraphAction,
    /// `start_call`.
    pub start_call: GraphAction,
}

/// What Graph says of one action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphAction {
    /// `can_perform_action`.
    pub can_perform: bool,
    /// Its limits, at most `MOST_LIMITS`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<GraphLimit>,
}

/// One limit of an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GraphLimit {
    /// `time_period` in seconds.
    pub period_s: u64,
    /// `max_allowed`.
    pub max_allowed: u32,
    /// `current_usage`.
    pub current_usage: u32,
    /// `limit_expiration_time` in Unix seconds; only where the limit is reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<u64>,
}

impl GraphAction {
    /// Meta documents two.
    const MOST_LIMITS: usize = 8;
}

impl CallPermissions {
    /// Reads Graph's reply; None if it says nothing that is known here.
    pub(super) fn from_json(reply: &Value) -> Option<Self> {
        let permission = &reply["permission"];
        let status = match permission["status"].as_str()?.to_ascii_lowercase().as_str() {
            "no_permission" => PermissionStatus::None,
            "temporary" => PermissionStatus::Temporary,
            "permanent" => PermissionStatus::Permanent,
            _ => return None,
        };
        // The sample has one name, the table another.
        let expires_at = seconds(&permission["expiration_time"]).or_else(|| seconds(&permission["expiration"]));
        Some(Self {
            status,
            expires_at: expires_at.filter(|_| status == PermissionStatus::Temporary),
            send_request: action(reply, "send_call_permission_request"),
            start_call: action(reply, "start_call"),
        })
    }
}

fn action(reply: &Value, name: &str) -> GraphAction {
    let actions = reply["actions"].as_array().map_or(&[][..], Vec::as_slice);
    // Without a word on it, nothing forbids it.
    let Some(action) = actions.iter().find(|action| action["action_name"] == name) else {
        return GraphAction { can_perform: true, limits: Vec::new() };
    };
    let limits = action["limits"].as_array().map_or(&[][..], Vec::as_slice);
    GraphAction {
        can_perform: action["can_perform_action"].as_bool().unwrap_or(true),
        limits: limits.iter().filter_map(limit).take(GraphAction::MOST_LIMITS).collect(),
    }
}

fn limit(limit: &Value) -> Option<GraphLimit> {
    let count = |value: &Value| integer(value).and_then(|count| u32::try_from(count).ok());
    Some(GraphLimit {
        period_s: period(limit["time_period"].as_str()?)?,
        max_allowed: count(&limit["max_allowed"])?,
        current_usage: count(&limit["current_usage"]).unwrap_or(0),
        expires_at: seconds(&limit["limit_expiration_time"]),
    })
}

/// A duration of ISO 8601 without years and months, in seconds.
fn period(text: &str) -> Option<u64> {
    let mut rest = text.strip_prefix('P')?;
    let mut sum: u64 = 0;
    let mut is_time = false;
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            (rest, is_time) = (time, true);
            continue;
        }
        let unit_at = rest.find(|letter: char| !letter.is_ascii_digit())?;
        let (count, unit) = rest.split_at(unit_at);
        let unit_s = match (unit.chars().next()?, is_time) {
            ('W', false) => 7 * 86_400,
            ('D', false) => 86_400,
            ('H', true) => 3600,
            ('M', true) => 60,
            ('S', true) => 1,
            _ => return None,
        };
        sum = sum.checked_add(count.parse::<u64>().ok()?.checked_mul(unit_s)?)?;
        rest = &unit[1..];
    }
    (sum > 0).then_some(sum)
}

fn seconds(value: &Value) -> Option<u64> {
    integer(value).and_then(|seconds| u64::try_from(seconds).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const REPLY: &str = include_str!("../../tests/fixtures/whatsapp/graph-call-permissions-response.json");

    #[test]
    fn metas_reply_is_read_whole() {
        let found = CallPermissions::from_json(&serde_json::from_str(REPLY).unwrap()).unwrap();
        let limit = |period_s, max_allowed, current_usage, expires_at| GraphLimit {
            period_s,
            max_allowed,
            current_usage,
            expires_at,
        };
        assert_eq!(
            found,
            CallPermissions {
                status: PermissionStatus::Temporary,
                expires_at: Some(1_745_343_479),
                send_request: GraphAction {
                    can_perform: true,
                    limits: vec![limit(86_400, 1, 0, None), limit(604_800, 2, 1, None)],
                },
                start_call: GraphAction {
                    can_perform: false,
                    limits: vec![limit(86_400, 100, 100, Some(1_745_622_600))],
                },
            }
        );
        let stored = serde_json::to_string(&found).unwrap();
        assert_eq!(serde_json::from_str::<CallPermissions>(&stored).unwrap(), found);
    }

    #[test]
    fn the_other_name_of_the_expiry_and_missing_parts_are_read_too() {
        let reply = json!({ "permission": { "status": "temporary", "expiration": "1745343479" } });
        let found = CallPermissions::from_json(&reply).unwrap();
        assert_eq!(found.expires_at, Some(1_745_343_479));
        assert!(found.start_call.can_perform && found.send_request.can_perform);
        let permanent = json!({ "permission": { "status": "permanent", "expiration_time": 7 } });
        assert_eq!(CallPermissions::from_json(&permanent).unwrap().expires_at, None);
        for unreadable in [json!({}), json!({ "permission": { "status": "maybe" } }), json!([])] {
            assert_eq!(CallPermissions::from_json(&unreadable), None);
        }
    }

    #[test]
    fn periods_are_iso_8601() {
        for (text, seconds) in [
            ("PT24H", Some(86_400)),
            ("P7D", Some(604_800)),
            ("P1W", Some(604_800)),
            ("P1DT1H1M1S", Some(90_061)),
            ("P", None),
            ("PT", None),
            ("P1M", None),
            ("PT99999999999999999999H", None),
            ("24h", None),
            ("P7", None),
            ("PT1é", None),
        ] {
            assert_eq!(period(text), seconds, "{text}");
        }
    }
}
