//! Missed: what an agent that reads too slowly has missed of the caller, and when it is told.

use std::time::{Duration, Instant};

/// A slow agent is told at most so often.
const TOLD_APART: Duration = Duration::from_secs(5);

/// The sound that was dropped and not told of yet.
#[derive(Debug, Default)]
pub(super) struct Missed {
    untold: Duration,
    told_at: Option<Instant>,
}

impl Missed {
    /// So much more was dropped. Gives all that the agent is to be told of now.
    pub fn add(&mut self, dropped: Duration, now: Instant) -> Option<Duration> {
        self.untold += dropped;
        let is_due = self.told_at.is_none_or(|told_at| now.saturating_duration_since(told_at) >= TOLD_APART);
        if self.untold.is_zero() || !is_due {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_told_at_once_and_then_of_all_together_now_and_then() {
        let (mut missed, start, frame) = (Missed::default(), Instant::now(), Duration::from_millis(20));
        assert_eq!(missed.add(Duration::ZERO, start), None);
        assert_eq!(missed.add(frame, start), Some(frame));
        assert_eq!(missed.add(frame, start + TOLD_APART / 2), None);
        assert_eq!(missed.add(frame, start + TOLD_APART), Some(2 * frame));
        assert_eq!(missed.add(Duration::ZERO, start + 3 * TOLD_APART), None);
    }
}
