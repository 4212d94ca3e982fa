//! A permission as the API shows it.

use std::time::Duration;

use serde::Serialize;
use utoipa::ToSchema;

use crate::call::refusal::Refusal;
use crate::http::api::rfc3339;
use crate::permissions::fact::{Fact, What};
use crate::permissions::service::Found;
use crate::permissions::verdict::Limit;
use crate::permissions::{Moment, Person, SentRequest, Standing, Status};

/// Facts that are shown; the newest.
const MOST_SHOWN: usize = 50;

/// One person's permission to be called from one business number.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct PermissionView {
    /// Meta's id of the business number.
    phone_number_id: String,
    user: UserView,
    /// `permanent`, `temporary`, `none` (there is none, or it ran out), `denied` (the person refused the last request),
    /// `revoked`, or `unknown`.
    status: &'static str,
    /// When a temporary permission runs out, or has: RFC 3339, UTC.
    expires_at: Option<String>,
    /// How it came about, or was lost: `reply` (the person), `automatic` (Meta's rules: the person called you, or left four
    /// calls unanswered), `graph` (Meta's answer to a look-up).
    source: Option<&'static str>,
    /// When it came about, or was lost.
    since: Option<String>,
    /// When Meta was last asked.
    checked_at: Option<String>,
    /// Calls of yours in a row that were not answered. After two WhatsApp asks the person whether to go on; after four Meta
    /// revokes the permission.
    unanswered_calls: u32,
    /// Whether the person has been asked by WhatsApp whether to go on: the next calls should be answered.
    is_warned: bool,
    may_request: VerdictView,
    may_call: VerdictView,
    /// What happened, the newest first; at most 50 entries.
    history: Vec<FactView>,
}

/// A person.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct UserView {
    /// The phone number in digits.
    wa_id: Option<String>,
    /// The business-scoped user id.
    user_id: Option<String>,
}

/// Whether something is allowed now.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct VerdictView {
    /// As far as is known.
    allowed: bool,
    /// Why not: a code such as `request_limit`.
    reason: Option<&'static str>,
    /// The same for people, with what to do.
    detail: Option<String>,
    /// When it is allowed again; for `no_permission`, when the person may be asked.
    next_allowed_at: Option<String>,
    limits: Vec<LimitView>,
}

/// One of Meta's limits, in a rolling window.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct LimitView {
    /// `24h` or `7d`.
    period: &'static str,
    max: u32,
    /// Those in the present window that are known here.
    used: u32,
}

/// One thing that happened.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct FactView {
    /// RFC 3339, UTC.
    at: String,
    /// `requested`, `granted`, `denied`, `revoked`, `call_answered`, `call_unanswered`, `looked_up` or `refused`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Of a permission: `reply`, `automatic` or `graph`.
    source: Option<&'static str>,
    /// Of a temporary permission.
    expires_at: Option<String>,
    /// Our id of the call.
    call_id: Option<String>,
    /// Meta's id of the request: of the one that was sent, or that was answered.
    request_id: Option<String>,
    /// Meta's error code, of a refusal.
    meta_error_code: Option<i64>,
}

/// A request that Meta has taken.
#[derive(Serialize, ToSchema)]
pub(in crate::http::api) struct RequestView {
    /// Meta's id of the message. The event of the reply repeats it as `request_id`. It contains the person's number.
    message_id: String,
    /// Meta's id of the business number.
    phone_number_id: String,
    user: UserView,
    /// RFC 3339, UTC.
    sent_at: String,
}

impl PermissionView {
    pub(super) fn of(found: &Found) -> Self {
        let Found { ledger, rules, now, .. } = found;
        let (standing, status) = (ledger.standing(rules), ledger.status(rules, *now));
        let (since, source) = match standing {
            Standing::Unknown => (None, None),
            Standing::Granted { since, source, .. } | Standing::Revoked { since, source } => {
                (Some(since), Some(source.name()))
            }
            Standing::Denied { since } => (Some(since), Some("reply")),
            Standing::Absent { since } => (Some(since), Some("graph")),
        };
        let expires_at = match status {
            Status::Temporary(until) | Status::Expired(until) => Some(until.rfc3339()),
            Status::Permanent | Status::Absent | Status::Denied | Status::Revoked | Status::Unknown => None,
        };
        let unanswered_calls = ledger.unanswered(rules);
        Self {
            phone_number_id: found.phone_number_id.clone(),
            user: UserView::of(&found.person),
            status: status.name(),
            expires_at,
            source,
            since: since.map(Moment::rfc3339),
            checked_at: ledger.last_look_up().map(|(at, _)| at.rfc3339()),
            unanswered_calls,
            is_warned: unanswered_calls >= rules.warned_after,
            may_request: VerdictView::of(found.may_request(), &ledger.request_limits(rules, *now)),
            may_call: VerdictView::of(found.may_call(), &ledger.call_limits(rules, *now)),
            history: ledger.facts().iter().rev().take(MOST_SHOWN).map(FactView::of).collect(),
        }
    }
}

impl UserView {
    fn of(person: &Person) -> Self {
        Self { wa_id: person.wa_id.clone(), user_id: person.user_id.clone() }
    }
}

impl VerdictView {
    fn of(verdict: Result<(), Refusal>, limits: &[Limit]) -> Self {
        let refusal = verdict.err();
        Self {
            allowed: refusal.is_none(),
            reason: refusal.as_ref().map(|refusal| refusal.code.name()),
            next_allowed_at: refusal.as_ref().and_then(|refusal| refusal.next_allowed_at).map(rfc3339),
            detail: refusal.map(|refusal| refusal.message),
            limits: limits.iter().map(LimitView::of).collect(),
        }
    }
}

impl LimitView {
    fn of(limit: &Limit) -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let period = if limit.period > DAY { "7d" } else { "24h" };
        Self { period, max: limit.max, used: limit.used }
    }
}

impl FactView {
    fn of(fact: &Fact) -> Self {
        let mut view = Self {
            at: fact.at.rfc3339(),
            kind: "",
            source: None,
            expires_at: None,
            call_id: None,
            request_id: None,
            meta_error_code: None,
        };
        match &fact.what {
            What::Requested => (view.kind, view.request_id) = ("requested", fact.id.clone()),
            What::Granted { until, source, answers } => {
                (view.kind, view.source, view.request_id) = ("granted", Some(source.name()), answers.clone());
                view.expires_at = until.map(Moment::rfc3339);
            }
            What::Denied { answers } => {
                (view.kind, view.source, view.request_id) = ("denied", Some("reply"), answers.clone());
            }
            What::Revoked { source } => (view.kind, view.source) = ("revoked", Some(source.name())),
            What::CallAnswered { .. } => (view.kind, view.call_id) = ("call_answered", fact.id.clone()),
            What::CallUnanswered => (view.kind, view.call_id) = ("call_unanswered", fact.id.clone()),
            What::LookedUp(found) => {
                (view.kind, view.source) = ("looked_up", Some("graph"));
                view.expires_at = found.expires_at.map(|seconds| Moment::of_seconds(seconds).rfc3339());
            }
            What::Refused { code, .. } => {
                (view.kind, view.source, view.meta_error_code) = ("refused", Some("graph"), Some(*code));
            }
        }
        view
    }
}

impl RequestView {
    pub(super) fn of(sent: SentRequest, phone_number_id: &str) -> Self {
        Self {
            message_id: sent.message_id,
            phone_number_id: phone_number_id.to_owned(),
            user: UserView::of(&sent.person),
            sent_at: sent.at.rfc3339(),
        }
    }
}
