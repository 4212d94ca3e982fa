//! WebhookClock: how old a webhook is, judged by Meta's clock, and the warnings about ours.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Instant, UNIX_EPOCH};

use tracing::warn;

use crate::clock;
use crate::throttle::Throttle;
use crate::whatsapp::clock::ClockSkew;

/// A `connect` older than this is a late retry: Meta has given the call up.
const STALE_AFTER_S: i64 = 60;
/// A clock further off than this deserves a warning: it takes half of the time that a `connect` may take.
const SKEW_WARNING_S: i64 = 30;

/// Our clock against Meta's.
pub(super) struct WebhookClock {
    skew: Mutex<ClockSkew>,
    stale_warnings: Throttle,
    skew_warnings: Throttle,
}

impl WebhookClock {
    pub fn new(now: Instant) -> Self {
        Self {
            skew: Mutex::new(ClockSkew::new(unix_ms(), now)),
            stale_warnings: Throttle::default(),
            skew_warnings: Throttle::default(),
        }
    }

    /// Notes the timestamp of a signed webhook, and warns if our clock is off.
    pub fn observe(&self, stamp: u64, now: Instant) {
        let ahead = {
            let mut skew = self.skew();
            skew.observe(stamp, now);
            skew.ahead_s(unix_ms() / 1000, now)
        };
        metrics::gauge!("patchcord_clock_ahead_seconds").set(ahead as f64);
        if ahead.abs() >= SKEW_WARNING_S && self.skew_warnings.admit(now).is_some() {
            let direction = if ahead > 0 { "fast" } else { "slow" };
            warn!(
                clock.ahead_s = ahead,
                "this machine's clock is {} s {direction} by the timestamps of Meta's webhooks: set it (NTP). Until \
                 then the age of calls is judged by Meta's clock",
                ahead.abs()
            );
        }
    }

    /// Whether a `connect` is too old to be answered. One without a timestamp is fresh.
    pub fn is_stale(&self, stamp: Option<u64>, received_at: Instant) -> bool {
        let Some(age) = stamp.map(|stamp| self.skew().age_s(stamp, received_at)) else { return false };
        let is_stale = age > STALE_AFTER_S;
        if is_stale && let Some(held_back) = self.stale_warnings.admit(received_at) {
            warn!(
                webhook.age_s = age,
                webhooks.held_back = held_back,
                "a call was not answered: by this machine's clock its webhook came {age} s after it was sent. Is this \
                 machine's clock right? If not, set it (NTP); if it is, the webhook came late, because the service \
                 was down or the way from Meta to it is slow"
            );
        }
        is_stale
    }

    fn skew(&self) -> MutexGuard<'_, ClockSkew> {
        self.skew.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Our clock in milliseconds since 1970; Meta stamps its webhooks with whole seconds.
fn unix_ms() -> i64 {
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
