//! Moment: a time with the precision of the store.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(i64);

impl Moment {
    /// Unix seconds, as Meta gives them.
    pub fn of_seconds(seconds: u64) -> Self {
        Self(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000))
    }

    /// So much later.
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)))
    }

    /// So much earlier.
    pub fn minus(self, time: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)))
    }

    /// RFC 3339, UTC. A time that no calendar of RFC 3339 has is shown as its last second.
    pub fn rfc3339(self) -> String {
        /// 9999-12-31T23:59:59Z.
        const LAST_MS: u64 = 253_402_300_799_000;
        let ms = u64::try_from(self.0).unwrap_or(0).min(LAST_MS);
        humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
    }

    /// The time.
    pub fn time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(u64::try_from(self.0).unwrap_or(0))
    }

    /// Milliseconds since 1970.
    pub fn ms(self) -> i64 {
        self.0
    }
}

impl From<i64> for Moment {
    fn from(ms: i64) -> Self {
        Self(ms)
    }
}

impl From<SystemTime> for Moment {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }
}
