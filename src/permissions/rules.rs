//! Meta's limits of permission requests and calls, each with its source.

use std::time::Duration;

use super::country::is_test_number;

/// One day of Meta's limits: a rolling window.
pub const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// One week of them.
pub const WEEK: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Graph's word without a time is believed for this long; then Graph is asked again. The person may permit calls in the
/// profile of the business at any time, and Meta's word of it may not reach us.
pub const BELIEVED_FOR: Duration = Duration::from_secs(60);

/// The limits between one business number and one person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Permission requests in 24 h. A connected call resets the count.
    pub requests_per_day: u32,
    /// Permission requests in 7 days. A connected call resets the count.
    pub requests_per_week: u32,
    /// Connected calls of ours in 24 h, whatever the permission.
    pub calls_per_day: u32,
    /// Calls left unanswered in a row after which WhatsApp asks the person whether to go on.
    pub warned_after: u32,
    /// Calls left unanswered in a row after which Meta revokes the permission.
    pub revoked_after: u32,
}

impl Rules {
    /// Of a usual number. Source: Meta, "User call permissions" (2026-06): one request in 24 h and two in 7 days, 100
    /// connected calls in 24 h, a nudge after two unanswered calls and revocation after four.
    pub const USUAL: Self =
        Self { requests_per_day: 1, requests_per_week: 2, calls_per_day: 100, warned_after: 2, revoked_after: 4 };

    /// Of Meta's public test numbers and sandboxes. Source: Meta, "Calling API: Overview" (2026-06): 25 requests a day and
    /// 100 a week, a nudge after five unanswered calls and revocation after ten.
    pub const TEST_NUMBER: Self =
        Self { requests_per_day: 25, requests_per_week: 100, calls_per_day: 100, warned_after: 5, revoked_after: 10 };

    /// Of the business number that is shown as `display_phone_number`, if it is known.
    pub fn of(display_phone_number: Option<&str>) -> Self {
        match display_phone_number {
            Some(number) if is_test_number(number) => Self::TEST_NUMBER,
            Some(_) | None => Self::USUAL,
        }
    }
}
