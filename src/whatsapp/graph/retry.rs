//! Retries: whether, after which wait, and which refusals mean that the request was performed already.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::attempt::Outcome;
use super::{Action, GraphOptions};
use crate::whatsapp::error::{MetaError, MetaErrorClass, MetaErrorCode};

/// An attempt with less time than this would only time out.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(50);

/// The waits between the attempts of one request, within its budget.
pub(super) struct Waits<'a> {
    options: &'a GraphOptions,
    chance: &'a Mutex<StdRng>,
    deadline: Instant,
    backoff: Duration,
}

impl<'a> Waits<'a> {
    pub(super) fn new(options: &'a GraphOptions, chance: &'a Mutex<StdRng>, now: Instant) -> Self {
        Self { options, chance, deadline: now + options.budget, backoff: options.first_backoff }
    }

    /// The process was frozen for `gap`: the budget ends that much later, at most as if it began now.
    pub(super) fn stood_still(&mut self, gap: Duration, now: Instant) {
        self.deadline = (self.deadline + gap).min(now + self.options.budget);
    }

    /// Deadline of the attempt that starts now.
    pub(super) fn attempt_timeout(&self, now: Instant) -> Duration {
        self.options.attempt_timeout.min(self.deadline.saturating_duration_since(now))
    }

    /// The wait before the next attempt; `None` if there is none, because it cannot help, could do
    /// harm, or would not fit into the budget.
    pub(super) fn before_next(&mut self, action: Action, last: &Outcome, now: Instant) -> Option<Duration> {
        let least = match last {
            Outcome::Success(_) => return None,
            Outcome::Refused { error, .. } if !can_change(error) => return None,
            Outcome::Unknown(_) if !action.may_follow_an_unknown_end() => return None,
            // Nothing hangs on a look-up but its caller, who learns to ask slower.
            Outcome::Refused { .. } if action == Action::LookUp && slows_number(last).is_some() => return None,
            Outcome::Refused { retry_after: Some(wait), .. } => self.options.shortest_wait.max(*wait),
            Outcome::Refused { .. } | Outcome::Unknown(_) | Outcome::Unreachable(_) | Outcome::NoSockets(_) => {
                self.options.shortest_wait
            }
        };
        let time_left = self.deadline.saturating_duration_since(now).checked_sub(SHORTEST_ATTEMPT)?;
        let spread = time_left.checked_sub(least)?;
        Some(least + self.next_jitter().min(spread))
    }

    /// The latest time at which an attempt may begin.
    pub(super) fn latest_attempt(&self) -> Instant {
        self.deadline.checked_sub(SHORTEST_ATTEMPT).unwrap_or(self.deadline)
    }

    /// Full jitter: any part of the backoff, so that requests refused together do not return together.
    fn next_jitter(&mut self) -> Duration {
        let share = self.chance.lock().unwrap_or_else(PoisonError::into_inner).random_range(0.0..=1.0);
        let jitter = self.backoff.mul_f64(share);
        self.backoff = (self.backoff * 2).min(self.options.longest_backoff);
        jitter
    }
}

/// The wait that a rate limit demands of the number; None if the refusal is not a rate limit.
pub(super) fn slows_number(last: &Outcome) -> Option<(&MetaError, Duration)> {
    let Outcome::Refused { error, retry_after } = last else { return None };
    let is_too_many = error.http_status == Some(429) || is_rate_limit(error);
    is_too_many.then_some((error, retry_after.unwrap_or_default()))
}

fn is_rate_limit(error: &MetaError) -> bool {
    matches!(
        error.meaning(),
        MetaErrorCode::AppRateLimit | MetaErrorCode::AccountRateLimit | MetaErrorCode::NumberThroughput
    )
}

/// Whether the same request may succeed a moment later.
///
/// The code takes precedence over the HTTP status, because Meta also sends 500 for an answer that came too late.
pub(super) fn can_change(error: &MetaError) -> bool {
    use MetaErrorClass as Class;
    match error.meaning().class() {
        Class::Retry => true,
        Class::FixRequest
        | Class::Config
        | Class::Account
        | Class::Permission
        | Class::User
        | Class::State
        | Class::Timing
        | Class::OurMedia
        | Class::CallerSide => false,
        Class::BackOff | Class::Unknown => {
            let status = error.http_status.unwrap_or_default();
            is_rate_limit(error) || error.is_transient == Some(true) || status == 429 || status >= 500
        }
    }
}

/// Whether a refusal means that the call is already in the state that `action` would bring about.
///
/// Meta documents no code for such refusals, so they are recognised by their text. An
/// accept of a call that has ended also says "already", and is a failure.
pub(super) fn is_done_before(action: Action, error: &MetaError) -> bool {
    if !matches!(error.meaning().class(), MetaErrorClass::FixRequest | MetaErrorClass::State | MetaErrorClass::Unknown)
    {
        return false;
    }
    // Code 100 with subcode 33 is about the business number, not about the call.
    if error.subcode == Some(33) {
        return false;
    }
    let texts = [error.message.as_deref(), error.details.as_deref()];
    let text = texts.into_iter().flatten().collect::<Vec<_>>().join(" ").to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let is_already = says(&["already"]);
    let is_rejected = is_already && says(&["reject"]);
    let is_over = is_already && says(&["terminat", "ended", "complet", "cancel", "fail", "hung up"]);
    let is_gone = says(&["not found", "does not exist", "no longer", "has ended", "been terminated", "no call with"]);
    match action {
        Action::Connect | Action::SendMessage | Action::LookUp => false,
        Action::PreAccept | Action::Accept => is_already && !is_over && !is_rejected && !is_gone,
        Action::Reject | Action::Terminate => is_over || is_rejected || is_gone,
    }
}
