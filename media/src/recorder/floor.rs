//! Floor: the smallest value of the last seconds, which is the lateness of packets that met no queue on their way.

/// One second of 48 kHz ticks.
const SECOND: i64 = 48_000;

/// Network bursts are shorter. A clock that is wrong by 200 ppm moves 1.6 ms in this time.
const SECONDS: usize = 8;

/// Of this many packets at least one met no queue; a caller in DTX sends 20 in the window.
const ENOUGH: u32 = 10;

/// The minimum over the last eight seconds. Times and values are in 48 kHz ticks.
#[derive(Debug, Clone)]
pub(super) struct Floor {
    /// One for each second, by the second's number modulo [`SECONDS`].
    buckets: [Bucket; SECONDS],
    /// The second of the newest value.
    second: i64,
    since: i64,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    least: i64,
    count: u32,
}

const EMPTY: Bucket = Bucket { least: i64::MAX, count: 0 };

impl Floor {
    /// No values yet.
    pub(super) fn new(at: i64) -> Self {
        Self { buckets: [EMPTY; SECONDS], second: at.div_euclid(SECOND), since: at }
    }

    /// Takes one value, measured at `at`.
    pub(super) fn note(&mut self, at: i64, value: i64) {
        let second = at.div_euclid(SECOND).max(self.second);
        for passed in (self.second + 1..=second).rev().take(SECONDS) {
            self.buckets[place_of(passed)] = EMPTY;
        }
        self.second = second;
        let bucket = &mut self.buckets[place_of(second)];
        bucket.least = bucket.least.min(value);
        bucket.count = bucket.count.saturating_add(1);
    }

    /// The smallest value, 0 before there is one.
    pub(super) fn least(&self) -> i64 {
        let least = self.buckets.iter().map(|bucket| bucket.least).min();
        least.filter(|least| *least != i64::MAX).unwrap_or(0)
    }

    /// Whether a high floor is reliable: the window spans enough time and packets.
    pub(super) fn is_certain(&self, at: i64) -> bool {
        let count = self.buckets.iter().fold(0_u32, |sum, bucket| sum.saturating_add(bucket.count));
        at - self.since >= SECONDS as i64 * SECOND && count >= ENOUGH
    }

    /// Adds `by` to all values.
    pub(super) fn shift(&mut self, by: i64) {
        for bucket in self.buckets.iter_mut().filter(|bucket| bucket.count > 0) {
            bucket.least += by;
        }
    }
}

fn place_of(second: i64) -> usize {
    second.rem_euclid(SECONDS as i64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_eight_seconds_is_known_and_older_ones_are_forgotten() {
        let mut floor = Floor::new(0);
        floor.note(0, -5);
        floor.note(SECOND, 7);
        assert_eq!(floor.least(), -5);
        floor.note(7 * SECOND, 9);
        assert_eq!(floor.least(), -5);
        floor.note(8 * SECOND, 9);
        assert_eq!(floor.least(), 7);
        floor.note(1_000_000 * SECOND, 3);
        assert_eq!(floor.least(), 3);
    }

    #[test]
    fn it_is_certain_only_with_enough_time_and_packets() {
        let mut floor = Floor::new(0);
        (0..9).for_each(|_| floor.note(0, 1));
        assert!(!floor.is_certain(8 * SECOND));
        floor.note(SECOND, 1);
        assert!(!floor.is_certain(8 * SECOND - 1));
        assert!(floor.is_certain(8 * SECOND));
    }
}
