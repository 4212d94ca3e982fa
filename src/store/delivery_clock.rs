//! The clock of deliveries: it follows the wall clock forward and never goes back.

use std::time::Instant;

/// Deliveries have wall-clock times, because they outlive the process. If the wall clock were set back, everything that
/// waits would wait for the length of the jump too. So when the wall clock is set back, this one goes on from where it was.
#[derive(Debug)]
pub(super) struct DeliveryClock {
    read_at: Instant,
    /// The reading at that instant, in ms since 1970.
    read_ms: i64,
}

impl DeliveryClock {
    /// Starts at the present wall time.
    pub(super) fn new(wall_ms: i64, now: Instant) -> Self {
        Self { read_at: now, read_ms: wall_ms }
    }

    /// The reading in ms since 1970, at the wall time `wall_ms`.
    pub(super) fn read(&mut self, wall_ms: i64, now: Instant) -> i64 {
        let passed = now.saturating_duration_since(self.read_at);
        let counted = self.read_ms.saturating_add(i64::try_from(passed.as_millis()).unwrap_or(i64::MAX));
        if wall_ms > counted {
            (self.read_at, self.read_ms) = (now, wall_ms);
            return wall_ms;
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_clock_set_back_goes_on_and_one_set_forward_is_followed() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut clock = DeliveryClock::new(1_000_000, start);
        assert_eq!(clock.read(1_000_500, at(500)), 1_000_500);
        assert_eq!(clock.read(1_000, at(1000)), 1_001_000, "an hour back");
        assert_eq!(clock.read(2_000, at(2000)), 1_002_000);
        assert_eq!(clock.read(5_000_000, at(3000)), 5_000_000, "and forward");
        assert_eq!(clock.read(1_004_000, at(4000)), 5_001_000);
    }

    proptest! {
        #[test]
        fn it_never_goes_back_and_never_stands(walls in proptest::collection::vec(any::<i64>(), 1..50)) {
            let start = Instant::now();
            let mut clock = DeliveryClock::new(0, start);
            let mut last = 0;
            for (second, wall) in walls.into_iter().enumerate() {
                let now = clock.read(wall / 2, start + Duration::from_secs(second as u64 + 1));
                prop_assert!(now >= last + 1000, "{now} after {last}");
                last = now;
            }
        }
    }
}
