//! Pacing: how many calls each business number places in a second and in a day and has live; pure.
//!
//! A day is a rolling window of 24 h, as Meta counts.
//!
//! At most `per_second` calls of a number start within any second. Calls that are placed at once may use them in a burst;
//! queued ones are spaced evenly, so that they leave room for the others.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::routes::PlacingLimits;
use crate::whatsapp::PhoneNumberId;

const SECOND: Duration = Duration::from_secs(1);
/// Of Meta's limit of new calls.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The pace of every number that has placed a call.
#[derive(Default)]
pub(super) struct Pacing(HashMap<PhoneNumberId, Pace>);

#[derive(Default)]
struct Pace {
    /// When its calls of the last second started, the oldest first: at most `per_second`.
    starts: VecDeque<Instant>,
    /// When each call of the last day leaves it, the oldest first: at most `per_day`. An earlier process may have placed them,
    /// before this machine's clock began.
    day: VecDeque<Instant>,
    /// Queued calls that are about to start; they count as live.
    reserved: usize,
}

/// Why a number starts no call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// It has started as many calls in a second as it may; the next may start at this time.
    PerSecond { until: Instant },
    /// It has started as many calls in a day as it may; the next may start at this time.
    PerDay { until: Instant },
    /// As many placed calls live as may.
    Live,
}

impl Pacing {
    /// An earlier process placed a call of the number so long ago. The oldest comes first.
    pub fn placed_before(&mut self, number: &PhoneNumberId, age: Duration, now: Instant) {
        let remaining = DAY.saturating_sub(age);
        if !remaining.is_zero() {
            self.0.entry(number.clone()).or_default().day.push_back(now + remaining);
        }
    }

    /// Meta did not take a call that was started, so it does not count it either.
    pub fn not_taken(&mut self, number: &PhoneNumberId) {
        if let Some(pace) = self.0.get_mut(number) {
            pace.day.pop_back();
        }
    }

    /// Counts a call that starts now, while `live` placed calls of the number live.
    pub fn start(
        &mut self,
        number: &PhoneNumberId,
        limits: &PlacingLimits,
        live: usize,
        now: Instant,
    ) -> Result<(), Held> {
        let pace = self.0.entry(number.clone()).or_default();
        pace.has_room(limits, live)?;
        pace.take_turn(limits, now)
    }

    /// The same for a queued call, which lives from [`begin`](Self::begin) on; [`release`](Self::release) gives the place
    /// back.
    pub fn reserve(
        &mut self,
        number: &PhoneNumberId,
        limits: &PlacingLimits,
        live: usize,
        now: Instant,
    ) -> Result<(), Held> {
        let pace = self.0.entry(number.clone()).or_default();
        pace.has_room(limits, live)?;
        let spacing = SECOND / limits.per_second.max(1);
        if let Some(until) = pace.starts.back().map(|last| *last + spacing).filter(|until| now < *until) {
            return Err(Held::PerSecond { until });
        }
        pace.take_turn(limits, now)?;
        pace.reserved += 1;
        Ok(())
    }

    /// A reserved call lives now, and is counted as such.
    pub fn begin(&mut self, number: &PhoneNumberId) {
        if let Some(pace) = self.0.get_mut(number) {
            pace.reserved = pace.reserved.saturating_sub(1);
        }
    }

    /// A reserved call is not placed after all.
    pub fn release(&mut self, number: &PhoneNumberId) {
        self.begin(number);
        if let Some(pace) = self.0.get_mut(number) {
            pace.starts.pop_back();
            pace.day.pop_back();
        }
    }
}

impl Pace {
    fn has_room(&self, limits: &PlacingLimits, live: usize) -> Result<(), Held> {
        if live + self.reserved >= limits.live { Err(Held::Live) } else { Ok(()) }
    }

    fn take_turn(&mut self, limits: &PlacingLimits, now: Instant) -> Result<(), Held> {
        while self.starts.front().is_some_and(|start| now.saturating_duration_since(*start) >= SECOND) {
            self.starts.pop_front();
        }
        while self.day.front().is_some_and(|leaves| now >= *leaves) {
            self.day.pop_front();
        }
        if let Some(until) = in_the_way(&self.day, limits.per_day) {
            return Err(Held::PerDay { until });
        }
        if let Some(start) = in_the_way(&self.starts, limits.per_second as usize) {
            return Err(Held::PerSecond { until: start + SECOND });
        }
        self.starts.push_back(now);
        self.day.push_back(now + DAY);
        Ok(())
    }
}

/// The call that must leave the window before another may start. A reload may have lowered the limit.
fn in_the_way(window: &VecDeque<Instant>, most: usize) -> Option<Instant> {
    let over = (window.len() + 1).saturating_sub(most);
    over.checked_sub(1).and_then(|index| window.get(index)).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn number(id: &str) -> PhoneNumberId {
        PhoneNumberId::parse(id).unwrap()
    }

    fn limits(per_second: u32, live: usize) -> PlacingLimits {
        PlacingLimits { per_second, live, ..PlacingLimits::default() }
    }

    #[test]
    fn calls_at_once_come_in_bursts_and_queued_ones_evenly() {
        let (mut pacing, now, limits) = (Pacing::default(), Instant::now(), limits(4, 100));
        let (ours, other) = (number("1"), number("2"));
        for _ in 0..4 {
            assert_eq!(pacing.start(&ours, &limits, 0, now), Ok(()));
        }
        let until = now + SECOND;
        assert_eq!(pacing.start(&ours, &limits, 0, now + 999 * MS), Err(Held::PerSecond { until }));
        assert_eq!(pacing.start(&ours, &limits, 0, until), Ok(()));

        assert_eq!(pacing.reserve(&other, &limits, 0, now), Ok(()));
        let until = now + 250 * MS;
        assert_eq!(pacing.reserve(&other, &limits, 0, now + 249 * MS), Err(Held::PerSecond { until }));
        assert_eq!(pacing.reserve(&other, &limits, 0, until), Ok(()));
    }

    #[test]
    fn reserved_calls_are_live_and_a_released_one_has_never_started() {
        let (mut pacing, now, limits) = (Pacing::default(), Instant::now(), limits(100, 2));
        let ours = number("1");
        assert_eq!(pacing.reserve(&ours, &limits, 1, now), Ok(()));
        assert_eq!(pacing.start(&ours, &limits, 1, now), Err(Held::Live));
        pacing.release(&ours);
        assert_eq!(pacing.reserve(&ours, &limits, 1, now), Ok(()), "no time has passed");
        pacing.begin(&ours);
        assert_eq!(pacing.start(&ours, &limits, 2, now), Err(Held::Live));
        assert_eq!(pacing.start(&ours, &limits, 1, now), Ok(()));
    }

    #[test]
    fn a_day_has_no_more_calls_than_it_may_whoever_placed_them() {
        let (mut pacing, now, ours) = (Pacing::default(), Instant::now(), number("1"));
        let limits = PlacingLimits { per_day: 3, ..limits(100, 100) };
        let hour = Duration::from_secs(60 * 60);
        for age in [30 * hour, 23 * hour, 2 * hour] {
            pacing.placed_before(&ours, age, now);
        }
        assert_eq!(pacing.start(&ours, &limits, 0, now), Ok(()));
        assert_eq!(pacing.start(&ours, &limits, 0, now + SECOND), Err(Held::PerDay { until: now + hour }));
        let fewer = PlacingLimits { per_day: 2, ..limits };
        assert_eq!(pacing.reserve(&ours, &fewer, 0, now + SECOND), Err(Held::PerDay { until: now + 22 * hour }));
        assert_eq!(pacing.reserve(&ours, &limits, 0, now + hour), Ok(()));
        assert_eq!(pacing.start(&ours, &limits, 0, now + 2 * hour), Err(Held::PerDay { until: now + 22 * hour }));
        pacing.release(&ours);
        assert_eq!(pacing.start(&ours, &limits, 0, now + 2 * hour), Ok(()), "the queued call was not placed");
        pacing.not_taken(&ours);
        assert_eq!(pacing.start(&ours, &limits, 0, now + 3 * hour), Ok(()), "Meta refused one");
        assert_eq!(pacing.start(&number("2"), &limits, 0, now + 3 * hour), Ok(()));
    }

    #[test]
    fn a_lowered_limit_holds_at_once() {
        let (mut pacing, now) = (Pacing::default(), Instant::now());
        for ms in 0..10 {
            assert_eq!(pacing.start(&number("1"), &limits(10, 100), 0, now + ms * MS), Ok(()));
        }
        let until = now + SECOND + 8 * MS;
        let held = pacing.start(&number("1"), &limits(2, 100), 0, now + 20 * MS);
        assert_eq!(held, Err(Held::PerSecond { until }));
        assert_eq!(pacing.start(&number("1"), &limits(2, 100), 0, until), Ok(()));
    }

    proptest! {
        #[test]
        fn no_second_has_more_starts_than_it_may_and_who_waits_as_told_may_start(
            per_second in 1u32..8,
            steps in prop::collection::vec((0u64..400, any::<bool>()), 1..80),
        ) {
            let (mut pacing, mut now, limits) = (Pacing::default(), Instant::now(), limits(per_second, 1000));
            let ours = number("1");
            let mut starts: Vec<Instant> = Vec::new();
            for (wait, is_queued) in steps {
                now += Duration::from_millis(wait);
                let attempt = |pacing: &mut Pacing, now| match is_queued {
                    true => pacing.reserve(&ours, &limits, 0, now).inspect(|()| pacing.begin(&ours)),
                    false => pacing.start(&ours, &limits, 0, now),
                };
                match attempt(&mut pacing, now) {
                    Ok(()) => starts.push(now),
                    Err(Held::PerSecond { until }) => {
                        prop_assert!(until > now && until <= now + SECOND);
                        now = until;
                        // The spacing of queued calls may have hidden that the second is full.
                        if attempt(&mut pacing, now).is_ok() {
                            starts.push(now);
                        } else {
                            prop_assert!(is_queued);
                        }
                    }
                    Err(Held::Live | Held::PerDay { .. }) => prop_assert!(false),
                }
            }
            for (index, start) in starts.iter().enumerate() {
                let within = starts[index..].iter().take_while(|other| **other < *start + SECOND).count();
                prop_assert!(within <= per_second as usize);
            }
        }
    }
}
