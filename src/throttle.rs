//! Throttle: a log line that unauthenticated clients can cause at will is written once a minute, with a count.
//!
//! No crate, because it is a dozen lines, and a `tracing` layer would not put the number into the next line.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// One kind of log line. Cheap to ask, from any thread.
#[derive(Debug, Default)]
pub(crate) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    written_at: Option<Instant>,
    held_back: u64,
}

impl Throttle {
    const PERIOD: Duration = Duration::from_secs(60);

    /// The number of lines held back since the last one, if this line may be written now.
    pub(crate) fn admit(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.written_at.is_some_and(|at| now.saturating_duration_since(at) < Self::PERIOD) {
            state.held_back += 1;
            return None;
        }
        state.written_at = Some(now);
        Some(std::mem::take(&mut state.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_is_written_and_says_how_many_were_not() {
        let start = Instant::now();
        let throttle = Throttle::default();
        let admitted: Vec<_> = (0..=120).map(|second| throttle.admit(start + Duration::from_secs(second))).collect();
        let written: Vec<_> = admitted.iter().enumerate().filter_map(|(at, held)| Some((at, (*held)?))).collect();
        assert_eq!(written, [(0, 0), (60, 59), (120, 59)]);
    }
}
