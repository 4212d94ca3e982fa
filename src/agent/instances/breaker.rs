//! Breaker: whether an address that has failed is dialled before others. Pure.

use std::time::{Duration, Instant};

/// So many consecutive failures open it. One may be a network's hiccup, and two a restart.
const OPENS_AFTER: u32 = 3;
/// How long it stays open; twice as long after each probe that fails.
const FIRST_COOL_DOWN: Duration = Duration::from_secs(10);
/// The longest. A server that is repaired must not wait longer for its first call.
const LONGEST_COOL_DOWN: Duration = Duration::from_secs(60);

/// The breaker of one address.
#[derive(Clone, Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    opened: Option<Opened>,
}

#[derive(Clone, Copy, Debug)]
struct Opened {
    until: Instant,
    cool_down: Duration,
    /// A call tries whether it is back.
    is_probed: bool,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// The address is dialled.
    Closed,
    /// The address has failed too often: others are dialled before it.
    Open {
        /// When one call may try it.
        until: Instant,
    },
    /// One call may try it, or does; the others dial other addresses before it.
    HalfOpen,
}

impl Breaker {
    pub fn state(&self, now: Instant) -> BreakerState {
        match self.opened {
            None => BreakerState::Closed,
            Some(Opened { until, .. }) if now < until => BreakerState::Open { until },
            Some(_) => BreakerState::HalfOpen,
        }
    }

    /// Consecutive failures.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// Whether a call may dial the address before others.
    pub fn admits(&self, now: Instant) -> bool {
        self.opened.is_none_or(|opened| now >= opened.until && !opened.is_probed)
    }

    /// A call dials the address. Says whether it is the probe: then [`succeeded`](Self::succeeded),
    /// [`failed`](Self::failed) or [`left`](Self::left) follows.
    pub fn dialled(&mut self, now: Instant) -> bool {
        let is_probe = self.opened.is_some() && self.admits(now);
        if let Some(opened) = self.opened.as_mut().filter(|_| is_probe) {
            opened.is_probed = true;
        }
        is_probe
    }

    /// An agent joined there.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// No agent could be reached there, or one was lost.
    pub fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        let cool_down = match self.opened {
            None if self.failures < OPENS_AFTER => return,
            None => FIRST_COOL_DOWN,
            // Calls that were dialled, or talked, before it opened.
            Some(opened) if now < opened.until => return,
            Some(opened) => (opened.cool_down * 2).min(LONGEST_COOL_DOWN),
        };
        self.opened = Some(Opened { until: now + cool_down, cool_down, is_probed: false });
    }

    /// The call of the probe ended before anything was known.
    pub fn left(&mut self) {
        if let Some(opened) = &mut self.opened {
            opened.is_probed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn opened(now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        (0..OPENS_AFTER).for_each(|_| breaker.failed(now));
        breaker
    }

    #[test]
    fn it_opens_after_three_consecutive_failures() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            breaker.failed(now);
            breaker.failed(now);
            assert_eq!((breaker.state(now), breaker.failures()), (BreakerState::Closed, 2));
            breaker.succeeded();
        }
        let breaker = opened(now);
        assert_eq!(breaker.state(now), BreakerState::Open { until: now + FIRST_COOL_DOWN });
        assert!(!breaker.admits(now));
    }

    #[test]
    fn after_the_cool_down_one_call_probes_it_and_the_outcome_counts() {
        let start = Instant::now();
        let mut breaker = opened(start);
        assert!(!breaker.dialled(start + 9 * SECOND), "dialled as the last resort, which is no probe");
        let mut now = start + 10 * SECOND;
        assert_eq!(breaker.state(now), BreakerState::HalfOpen);
        assert!(breaker.admits(now) && breaker.dialled(now) && !breaker.admits(now));
        breaker.left();
        assert!(breaker.admits(now), "its caller hung up, and the next call probes");
        for cool_down in [20, 40, 60, 60] {
            assert!(breaker.dialled(now));
            breaker.failed(now);
            assert_eq!(breaker.state(now), BreakerState::Open { until: now + cool_down * SECOND });
            now += cool_down * SECOND;
        }
        assert!(breaker.dialled(now));
        breaker.succeeded();
        assert_eq!((breaker.state(now), breaker.failures()), (BreakerState::Closed, 0));
    }

    #[test]
    fn many_failures_of_one_moment_open_it_once() {
        let now = Instant::now();
        let mut breaker = opened(now);
        (0..100).for_each(|_| breaker.failed(now + SECOND));
        assert_eq!(breaker.state(now + SECOND), BreakerState::Open { until: now + FIRST_COOL_DOWN });
    }

    proptest! {
        #[test]
        fn at_most_one_probe_is_under_way_and_one_is_always_possible_in_the_end(
            steps in prop::collection::vec((0u8..4, 0u64..30_000), 1..80),
        ) {
            let (mut breaker, mut now, mut is_probing) = (Breaker::default(), Instant::now(), false);
            for (step, milliseconds) in steps {
                now += Duration::from_millis(milliseconds);
                match step {
                    0 => {
                        let probes = breaker.dialled(now);
                        prop_assert!(!(probes && is_probing), "two probes");
                        is_probing |= probes;
                    }
                    1 => {
                        breaker.succeeded();
                        is_probing = false;
                    }
                    2 => {
                        let was_open = matches!(breaker.state(now), BreakerState::Open { .. });
                        breaker.failed(now);
                        is_probing &= was_open;
                    }
                    _ if is_probing => {
                        breaker.left();
                        is_probing = false;
                    }
                    _ => {}
                }
                prop_assert!(breaker.failures() < OPENS_AFTER || breaker.state(now) != BreakerState::Closed);
            }
            if is_probing {
                breaker.left();
            }
            prop_assert!(breaker.admits(now + LONGEST_COOL_DOWN));
        }
    }
}
