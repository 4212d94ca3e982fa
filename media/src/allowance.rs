//! Allowance: bounds received audio to real time, plus a burst after a network stall.
//!
//! Otherwise an authenticated sender could send hours of audio in minutes, and every listener would pay for it.

use std::time::{Duration, Instant};

/// Audio that may arrive at once. Audio that a network delays for longer is worthless.
const BURST: Duration = Duration::from_secs(3);

/// How much audio may still arrive.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: Duration,
    counted_at: Instant,
}

impl Allowance {
    pub fn new(now: Instant) -> Self {
        Self { left: BURST, counted_at: now }
    }

    /// Spends `audio` and returns true, or returns false if less is left. The allowance grows by a quarter more than real
    /// time, to recover from a burst and to tolerate a fast clock.
    pub fn spend(&mut self, audio: Duration, now: Instant) -> bool {
        let passed = now.saturating_duration_since(self.counted_at).min(BURST);
        self.counted_at = self.counted_at.max(now);
        self.left = (self.left + passed + passed / 4).min(BURST);
        let left = self.left.checked_sub(audio);
        self.left = left.unwrap_or(self.left);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Duration = Duration::from_millis(20);

    #[test]
    fn a_fast_clock_and_a_burst_now_and_then_pass_for_an_hour() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        for frame in 0..180_000u32 {
            // 2 s of every 20 s come late and all at once.
            let in_period = frame % 1000;
            let at = if in_period < 100 { frame - in_period + 100 } else { frame };
            assert!(allowance.spend(FRAME, start + Duration::from_micros(19_990) * at), "frame {frame}");
        }
    }

    #[test]
    fn a_flood_is_cut_to_little_more_than_real_time() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        let taken = (0..600_000u32).filter(|packet| allowance.spend(FRAME, start + FRAME * *packet / 200)).count();
        assert!((3150..=3900).contains(&taken), "{taken} frames in a minute of 3000");
    }
}
