//! Events of permissions, in the envelope of all events; they are of a person and not of a call.

use serde::Serialize;
use serde_json::{Value, json};

use super::fact::{Fact, What};
use super::ledger::{Ledger, Standing};
use super::rules::Rules;
use super::{Moment, Person};

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The person may be called from now on.
    Granted,
    /// The person refused a request.
    Denied,
    /// The person may no longer be called.
    Revoked,
}

impl Kind {
    /// Its type in the envelope.
    pub fn name(self) -> &'static str {
        match self {
            Self::Granted => "permission.granted",
            Self::Denied => "permission.denied",
            Self::Revoked => "permission.revoked",
        }
    }

    pub(super) fn of(standing: Standing) -> Option<Self> {
        match standing {
            Standing::Granted { .. } => Some(Self::Granted),
            Standing::Denied { .. } => Some(Self::Denied),
            Standing::Revoked { .. } => Some(Self::Revoked),
            Standing::Unknown | Standing::Absent { .. } => None,
        }
    }

    pub(super) fn of_fact(what: &What) -> Option<Self> {
        match what {
            What::Granted { .. } => Some(Self::Granted),
            What::Denied { .. } => Some(Self::Denied),
            What::Revoked { .. } => Some(Self::Revoked),
            What::Requested
            | What::CallAnswered { .. }
            | What::CallUnanswered
            | What::LookedUp(_)
            | What::Refused { .. } => None,
        }
    }
}

/// One event of one person's permission.
#[derive(Clone, Debug, Serialize)]
pub struct PermissionEvent {
    /// Unique, `evt_` and a ULID.
    pub id: String,
    /// Such as `permission.granted`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// RFC 3339, UTC.
    pub occurred_at: String,
    /// Null: it is of no call.
    pub call_id: Option<String>,
    /// Null, for the same reason.
    pub sequence: Option<u64>,
    /// Null, for the same reason.
    pub client_state: Option<String>,
    /// The fields of this kind.
    pub data: Value,
}

impl PermissionEvent {
    /// The event that this fact makes.
    pub fn of(kind: Kind, fact: &Fact, ledger: &Ledger, rules: &Rules, who: (&str, &Person)) -> Self {
        let (phone_number_id, person) = who;
        let standing = ledger.standing(rules);
        let (until, source) = match standing {
            Standing::Granted { until, source, .. } => (until, source.name()),
            Standing::Revoked { source, .. } => (None, source.name()),
            Standing::Denied { .. } => (None, "reply"),
            Standing::Unknown | Standing::Absent { .. } => (None, "graph"),
        };
        let request = match &fact.what {
            What::Granted { answers, .. } | What::Denied { answers } => answers.as_deref(),
            What::Revoked { .. }
            | What::Requested
            | What::CallAnswered { .. }
            | What::CallUnanswered
            | What::LookedUp(_)
            | What::Refused { .. } => None,
        };
        let is_permanent = kind == Kind::Granted && until.is_none();
        Self {
            id: format!("evt_{}", ulid::Ulid::new().to_string().to_lowercase()),
            kind: kind.name(),
            occurred_at: fact.at.rfc3339(),
            call_id: None,
            sequence: None,
            client_state: None,
            data: json!({
                "phone_number_id": phone_number_id,
                "user": { "wa_id": person.wa_id, "user_id": person.user_id },
                "permanent": is_permanent,
                "expires_at": until.map(Moment::rfc3339),
                "source": source,
                "request_id": request,
                "unanswered_calls": ledger.unanswered(rules),
            }),
        }
    }
}
