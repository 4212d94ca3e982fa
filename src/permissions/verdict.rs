//! Verdicts: whether a call or a request is allowed now, and when the next one is.

use std::time::Duration;

use super::Moment;
use super::fact::What;
use super::ledger::{Ledger, Status, TOO_MANY_CALLS, TOO_MANY_REQUESTS};
use super::rules::{BELIEVED_FOR, DAY, Rules, WEEK};
use crate::whatsapp::permission::{CallPermissions, GraphAction};

/// Why something is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The person does not permit calls.
    NoPermission,
    /// The person has been asked as often as Meta allows.
    RequestLimit,
    /// The person has been called as often as Meta allows.
    CallLimit,
    /// A permanent permission exists: there is nothing to ask for.
    AlreadyPermitted,
}

impl Reason {
    /// As in problems and in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoPermission => "no_permission",
            Self::RequestLimit => "request_limit",
            Self::CallLimit => "call_limit",
            Self::AlreadyPermitted => "already_permitted",
        }
    }
}

/// Something is not allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Forbidden {
    /// Why.
    pub reason: Reason,
    /// When it is allowed again; None if no time brings it. For a missing permission, when the person may be asked.
    pub next_allowed_at: Option<Moment>,
}

/// One of Meta's limits, and how far it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The rolling window.
    pub period: Duration,
    /// The most in one window.
    pub max: u32,
    /// Those in the present window that are known.
    pub used: u32,
    /// When the oldest of them leaves the window, if the limit is reached.
    pub free_at: Option<Moment>,
}

impl Ledger {
    /// Whether the person may be called, as far as is known. What is not known is allowed: Graph decides.
    pub fn may_call(&self, rules: &Rules, now: Moment) -> Result<(), Forbidden> {
        match self.status(rules, now) {
            Status::Permanent | Status::Temporary(_) | Status::Unknown => {}
            Status::Expired(_) | Status::Absent | Status::Denied | Status::Revoked => {
                let next_allowed_at = match self.may_request(rules, now) {
                    Ok(()) => Some(now),
                    Err(forbidden) => forbidden.next_allowed_at,
                };
                return Err(Forbidden { reason: Reason::NoPermission, next_allowed_at });
            }
        }
        let graph = self.word(|found| &found.start_call, TOO_MANY_CALLS, now);
        judge(graph, &self.call_limits(rules, now), Reason::CallLimit)
    }

    /// Whether the person may be asked, as far as is known.
    pub fn may_request(&self, rules: &Rules, now: Moment) -> Result<(), Forbidden> {
        if self.status(rules, now) == Status::Permanent {
            return Err(Forbidden { reason: Reason::AlreadyPermitted, next_allowed_at: None });
        }
        let graph = self.word(|found| &found.send_request, TOO_MANY_REQUESTS, now);
        judge(graph, &self.request_limits(rules, now), Reason::RequestLimit)
    }

    /// The limit of connected calls.
    pub fn call_limits(&self, rules: &Rules, now: Moment) -> [Limit; 1] {
        let calls: Vec<Moment> = self.times(|what| *what == What::CallAnswered { placed: true }).collect();
        let max = self.max_of(|found| &found.start_call, DAY).unwrap_or(rules.calls_per_day);
        [limit(&calls, DAY, max, now)]
    }

    /// The limits of permission requests. A connected call begins them anew.
    pub fn request_limits(&self, rules: &Rules, now: Moment) -> [Limit; 2] {
        let reset = self.last_connected();
        let requests = self.times(|what| *what == What::Requested);
        let requests: Vec<Moment> = requests.filter(|at| reset.is_none_or(|reset| *at > reset)).collect();
        let max = |period, usual| self.max_of(|found| &found.send_request, period).unwrap_or(usual);
        [
            limit(&requests, DAY, max(DAY, rules.requests_per_day), now),
            limit(&requests, WEEK, max(WEEK, rules.requests_per_week), now),
        ]
    }

    fn last_connected(&self) -> Option<Moment> {
        self.times(|what| matches!(what, What::CallAnswered { .. })).next_back()
    }

    /// What Graph allows at most, as it last said: Meta has changed its limits three times in a year.
    fn max_of(&self, action: impl Fn(&CallPermissions) -> &GraphAction, period: Duration) -> Option<u32> {
        let (_, found) = self.last_look_up()?;
        action(found).limits.iter().find(|limit| limit.period_s == period.as_secs()).map(|limit| limit.max_allowed)
    }

    /// Graph's last word on an action, if it is still to be believed.
    fn word(&self, action: impl Fn(&CallPermissions) -> &GraphAction, limit_code: i64, now: Moment) -> Word {
        // What was connected or sent since then has changed it.
        let changed_at = self.times(|what| !what.is_word()).next_back();
        let is_current = |at: Moment| changed_at.is_none_or(|changed| changed < at);
        let last = self.facts().iter().rev().find_map(|fact| match &fact.what {
            What::LookedUp(found) => Some((fact.at, of_action(action(found)))),
            What::Refused { code, until } if *code == limit_code => Some((fact.at, Said { can: false, until: *until })),
            What::Refused { .. }
            | What::Requested
            | What::Granted { .. }
            | What::Denied { .. }
            | What::Revoked { .. }
            | What::CallAnswered { .. }
            | What::CallUnanswered => None,
        });
        match last {
            Some((at, Said { can: true, .. })) if is_current(at) && now < at.plus(BELIEVED_FOR) => Word::Allowed,
            Some((at, Said { can: false, until: Some(until) })) if now < until && self.is_not_reset_since(at) => {
                Word::Until(until)
            }
            Some((at, Said { can: false, until: None })) if is_current(at) && now < at.plus(BELIEVED_FOR) => {
                Word::Until(at.plus(BELIEVED_FOR))
            }
            Some(_) | None => Word::Nothing,
        }
    }

    fn is_not_reset_since(&self, at: Moment) -> bool {
        self.last_connected().is_none_or(|connected| connected <= at)
    }
}

/// What Graph said of an action.
struct Said {
    can: bool,
    until: Option<Moment>,
}

/// What it means now.
enum Word {
    Nothing,
    Allowed,
    Until(Moment),
}

/// `can_perform_action` is also false without a permission; a limit is meant where one is reached.
fn of_action(action: &GraphAction) -> Said {
    let reached = action.limits.iter().filter(|limit| limit.current_usage >= limit.max_allowed);
    let until = reached.clone().filter_map(|limit| limit.expires_at).max().map(Moment::of_seconds);
    Said { can: action.can_perform || reached.count() == 0, until }
}

fn judge(graph: Word, limits: &[Limit], reason: Reason) -> Result<(), Forbidden> {
    let ours = limits.iter().filter_map(|limit| limit.free_at).max();
    let next_allowed_at = match (graph, ours) {
        (Word::Allowed, _) | (Word::Nothing, None) => return Ok(()),
        (Word::Until(graph), ours) => graph.max(ours.unwrap_or(graph)),
        (Word::Nothing, Some(ours)) => ours,
    };
    Err(Forbidden { reason, next_allowed_at: Some(next_allowed_at) })
}

/// `times` are sorted.
fn limit(times: &[Moment], period: Duration, max: u32, now: Moment) -> Limit {
    let began = now.minus(period);
    let in_window = &times[times.partition_point(|at| *at <= began)..];
    let used = u32::try_from(in_window.len()).unwrap_or(u32::MAX);
    let freeing = in_window.len().checked_sub(max as usize).and_then(|at| in_window.get(at));
    // Where nothing is allowed at all, no time is known.
    let free_at = freeing.map(|at| at.plus(period)).filter(|_| max > 0);
    Limit { period, max, used, free_at }
}
