//! Waits: before an event is retried, and before an endpoint that is down is probed again.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

/// So many consecutive failures, of any events, mean that the endpoint is down rather than that an event is bad.
const DOWN_AFTER: u32 = 10;

/// `first`, doubled for each of `failures` after the first, at most `longest`. Half of it is fixed, the other half is
/// jitter, so that events refused together spread out.
pub(super) fn wait(first: Duration, longest: Duration, failures: u32, chance: &mut StdRng) -> Duration {
    let doubled = first.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1)));
    doubled.min(longest).mul_f64(chance.random_range(0.5..=1.0))
}

/// A circuit breaker for one endpoint. While it is down, one request at a time probes it, so that ten thousand
/// waiting events cost one request now and then and not ten thousand.
#[derive(Debug, Default)]
pub(super) struct Gate {
    failures_in_a_row: u32,
    closings: u32,
    closed_at: Option<Instant>,
    opens_at: Option<Instant>,
}

impl Gate {
    pub(super) fn is_down(&self) -> bool {
        self.failures_in_a_row >= DOWN_AFTER
    }

    /// Number of requests allowed in flight.
    pub(super) fn seats(&self, parallel: usize) -> usize {
        if self.is_down() { 1 } else { parallel }
    }

    /// Time of the next allowed request, if not now.
    pub(super) fn closed_until(&self, now: Instant) -> Option<Instant> {
        self.opens_at.filter(|opens_at| *opens_at > now)
    }

    /// Whether the endpoint was down.
    pub(super) fn succeeded(&mut self) -> bool {
        std::mem::take(self).is_down()
    }

    /// A request that left at `left_at` failed. Gives the number of this closing if the gate closes now; requests that
    /// left before it closed do not count.
    pub(super) fn failed(&mut self, left_at: Instant) -> Option<u32> {
        if self.closed_at.is_some_and(|closed_at| left_at <= closed_at) {
            return None;
        }
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if !self.is_down() {
            return None;
        }
        self.closings = self.closings.saturating_add(1);
        Some(self.closings)
    }

    /// No request leaves before `until`.
    pub(super) fn close(&mut self, now: Instant, until: Instant) {
        self.closed_at = Some(now);
        self.opens_at = self.opens_at.max(Some(until));
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn waits_double_up_to_the_longest_and_half_of_each_is_chance() {
        let mut chance = StdRng::seed_from_u64(1);
        for failures in 1..=80 {
            let full = SECOND.saturating_mul(2_u32.saturating_pow(failures - 1)).min(HOUR);
            let wait = wait(SECOND, HOUR, failures, &mut chance);
            assert!(wait >= full / 2 && wait <= full, "{failures}: {wait:?}");
        }
    }

    #[test]
    fn many_failures_of_one_moment_close_the_gate_once_and_a_success_opens_it() {
        let start = Instant::now();
        let mut gate = Gate::default();
        let closings: Vec<u32> = (0..32)
            .filter_map(|_| {
                let closing = gate.failed(start)?;
                gate.close(start + SECOND, start + 2 * SECOND);
                Some(closing)
            })
            .collect();
        assert_eq!(closings, [1]);
        assert_eq!((gate.seats(32), gate.closed_until(start + SECOND)), (1, Some(start + 2 * SECOND)));
        assert_eq!(gate.closed_until(start + 2 * SECOND), None);
        assert_eq!(gate.failed(start + 2 * SECOND), Some(2));
        assert!(gate.succeeded());
        assert_eq!((gate.seats(32), gate.closed_until(start)), (32, None));
        assert!(!gate.succeeded());
    }
}
