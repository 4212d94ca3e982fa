//! A token bucket: a burst after a rest, then a steady rate.
//!
//! No crate, because `governor` brings a clock of its own, and this is twenty lines that take time as an argument.

use std::time::{Duration, Instant};

/// The bucket and its rate.
pub(super) struct Bucket {
    per_second: f64,
    most: f64,
    left: f64,
    at: Option<Instant>,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn new(per_second: f64, most: f64) -> Self {
        Self { per_second, most, left: most, at: None }
    }

    /// Takes one token, or gives the time until there is one.
    pub(super) fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.look(now)?;
        self.left -= 1.0;
        Ok(())
    }

    /// The same without taking it.
    pub(super) fn look(&mut self, now: Instant) -> Result<(), Duration> {
        let since = self.at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.left = (self.left + since.as_secs_f64() * self.per_second).min(self.most);
        self.at = Some(now);
        if self.left < 1.0 {
            return Err(Duration::from_secs_f64((1.0 - self.left) / self.per_second));
        }
        Ok(())
    }

    /// Tokens left at the last look.
    pub(super) fn left(&self) -> f64 {
        self.left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_burst_and_then_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100.0, 200.0);
        assert_eq!((0..1000).filter(|_| bucket.take(start).is_ok()).count(), 200);
        assert_eq!(bucket.take(start), Err(Duration::from_millis(10)));
        let later = start + Duration::from_secs(1);
        assert_eq!((0..1000).filter(|_| bucket.take(later).is_ok()).count(), 100);
    }
}
