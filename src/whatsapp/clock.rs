//! The age of Meta's webhooks, even if our clock is wrong or is set at run time. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The least age within this time is one observation, so that a burst of retries counts once.
const SLOT: Duration = Duration::from_secs(5);
/// Older observations expire, because clocks drift.
const WINDOW: Duration = Duration::from_secs(600);
/// Observations this close agree: punctual webhooks take a second or two, late ones any time.
const AGREEMENT_S: i64 = 5;

/// An estimate of how far our clock is ahead of Meta's, from the timestamps of signed webhooks.
///
/// A webhook's age by our clock is its delay and our clock's error together. A delay is never negative, so the least
/// age seen bounds the error from above. Late webhooks alone would be a poor bound: after an outage Meta repeats
/// webhooks that are minutes old. So the least age is taken as the error only if another observation agrees with it.
///
/// Our clock is read once; from then on a monotonic clock counts, so that setting the clock changes nothing.
#[derive(Debug)]
pub struct ClockSkew {
    began: Instant,
    /// The reading of our clock at that instant, in Unix milliseconds: with whole seconds, all ages could be one too low.
    began_ms: i64,
    slots: VecDeque<Slot>,
    ahead_s: i64,
}

#[derive(Debug)]
struct Slot {
    began: Instant,
    least_age_s: i64,
}

impl ClockSkew {
    /// Without observations. `unix_ms` is the present reading of our clock.
    pub fn new(unix_ms: i64, now: Instant) -> Self {
        Self { began: now, began_ms: unix_ms, slots: VecDeque::new(), ahead_s: 0 }
    }

    /// Takes the timestamp of a signed webhook that arrives now.
    pub fn observe(&mut self, stamp: u64, now: Instant) {
        while self.slots.front().is_some_and(|slot| now.saturating_duration_since(slot.began) > WINDOW) {
            self.slots.pop_front();
        }
        let age_s = self.counted_s(now).saturating_sub_unsigned(stamp);
        match self.slots.back_mut() {
            Some(slot) if now.saturating_duration_since(slot.began) < SLOT => {
                slot.least_age_s = slot.least_age_s.min(age_s);
            }
            _ => self.slots.push_back(Slot { began: now, least_age_s: age_s }),
        }
        self.ahead_s = self.estimate();
    }

    /// The age of a timestamp by Meta's clock, in seconds, as far as it is known.
    pub fn age_s(&self, stamp: u64, now: Instant) -> i64 {
        self.counted_s(now).saturating_sub_unsigned(stamp).saturating_sub(self.ahead_s)
    }

    /// How many seconds our clock, which reads `unix_s` now, is ahead of Meta's; negative if it is behind.
    pub fn ahead_s(&self, unix_s: i64, now: Instant) -> i64 {
        unix_s.saturating_sub(self.counted_s(now)).saturating_add(self.ahead_s)
    }

    /// The reading of our clock if it had not been set.
    fn counted_s(&self, now: Instant) -> i64 {
        let elapsed_ms = now.saturating_duration_since(self.began).as_millis() as u64;
        self.began_ms.saturating_add_unsigned(elapsed_ms).div_euclid(1000)
    }

    /// The estimated error: the least age observed, once two observations agree on it.
    fn estimate(&self) -> i64 {
        let (mut least, mut second) = (i64::MAX, i64::MAX);
        for age_s in self.slots.iter().map(|slot| slot.least_age_s) {
            second = second.min(age_s.max(least));
            least = least.min(age_s);
        }
        let is_agreed = second.saturating_sub(least) <= AGREEMENT_S;
        if is_agreed { least } else { self.ahead_s.min(least) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: i64 = 1_790_963_543;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// The estimate after each observation: the second of arrival, and the age by our clock.
    fn believed(observations: &[(u64, i64)]) -> Vec<i64> {
        let start = Instant::now();
        let mut skew = ClockSkew::new(NOW_S * 1000, start);
        let observe = |&(second, age_s): &(u64, i64)| {
            let (now, unix_s) = (start + seconds(second), NOW_S + second as i64);
            skew.observe((unix_s - age_s) as u64, now);
            skew.ahead_s(unix_s, now)
        };
        observations.iter().map(observe).collect()
    }

    #[test]
    fn a_clock_ahead_is_known_from_two_moments_that_agree() {
        assert_eq!(believed(&[(0, 91), (1, 92), (30, 90), (60, 93)]), [0, 0, 90, 90]);
    }

    #[test]
    fn a_right_clock_stays_right_whatever_comes_late() {
        assert_eq!(believed(&[(0, 1), (10, 300), (20, 302), (30, 2), (40, 170)]), [0, 0, 0, 1, 1]);
    }

    /// After an outage Meta repeats what it could not deliver, with the timestamps of then.
    #[test]
    fn retries_of_all_ages_are_no_skew() {
        assert_eq!(believed(&[(0, 300), (0, 200), (1, 255), (8, 170), (20, 120), (40, 90)]), [0; 6]);
        // The same webhook again is older, not evidence.
        assert_eq!(believed(&[(0, 120), (10, 130), (30, 150), (70, 190)]), [0; 4]);
    }

    #[test]
    fn a_clock_behind_is_known_at_once_because_nothing_comes_before_it_is_sent() {
        assert_eq!(believed(&[(0, -89), (10, -88)]), [-89, -89]);
    }

    #[test]
    fn the_least_age_bounds_what_was_believed() {
        assert_eq!(believed(&[(0, 91), (10, 91), (20, 1), (30, 1)]), [0, 91, 1, 1]);
    }

    #[test]
    fn a_clock_that_drifts_is_followed_and_a_quiet_time_forgets_nothing() {
        assert_eq!(believed(&[(0, 1), (10, 1), (400, 20), (650, 21)]), [0, 1, 1, 20]);
        assert_eq!(believed(&[(0, 91), (10, 91), (90_000, 92)]), [0, 91, 91]);
    }

    #[test]
    fn a_call_is_as_old_as_metas_clock_says() {
        let start = Instant::now();
        let mut skew = ClockSkew::new((NOW_S + 90) * 1000, start);
        let stamp = NOW_S as u64;
        assert_eq!(skew.age_s(stamp, start + seconds(1)), 91, "nothing is known yet");
        skew.observe(stamp, start + seconds(1));
        skew.observe(stamp + 30, start + seconds(31));
        assert_eq!(skew.age_s(stamp + 59, start + seconds(60)), 0);
        assert_eq!(skew.age_s(stamp - 240, start + seconds(60)), 299, "and what is old stays old");
    }

    #[test]
    fn fractions_of_a_second_count() {
        let start = Instant::now();
        let skew = ClockSkew::new(NOW_S * 1000 + 900, start);
        assert_eq!(skew.age_s(NOW_S as u64 - 300, start + Duration::from_millis(200)), 301);
    }

    #[test]
    fn a_clock_that_is_set_while_we_run_changes_no_age_and_is_right_from_then_on() {
        let start = Instant::now();
        let mut skew = ClockSkew::new(NOW_S * 1000, start);
        skew.observe(NOW_S as u64 - 1, start);
        let later = start + seconds(100);
        assert_eq!(skew.age_s(NOW_S as u64 + 98, later), 2);
        // Set forward by 90 s, and back.
        assert_eq!(skew.ahead_s(NOW_S + 190, later), 90);
        assert_eq!(skew.ahead_s(NOW_S + 100, later), 0);
        assert_eq!(skew.ahead_s(NOW_S - 3500, later), -3600);
    }

    #[test]
    fn what_is_remembered_is_bounded_and_no_timestamp_is_too_wild() {
        let start = Instant::now();
        let mut skew = ClockSkew::new(i64::MAX, start);
        for second in 0..100_000 {
            skew.observe([0, u64::MAX, 1][second as usize % 3], start + seconds(second));
        }
        assert!(skew.slots.len() <= 121, "{}", skew.slots.len());
        skew.age_s(u64::MAX, start);
        skew.ahead_s(i64::MIN, start);
    }
}
