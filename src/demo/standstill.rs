//! Standstills of the machine, which no service can compensate.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock;

/// Half a frame of audio, so that no relevant standstill is missed.
const STEP: Duration = Duration::from_millis(10);
/// Shorter ones are absorbed by buffers.
const NOTEWORTHY: Duration = Duration::from_millis(100);

/// Measures on a thread of its own, which only sleeps and wakes.
pub(super) struct Watch {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Duration>,
}

impl Watch {
    pub fn start() -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let thread = std::thread::Builder::new().name("standstill".to_owned()).spawn(move || {
            let mut steps = Steps::from(clock::now());
            loop {
                let end = stopped.recv_timeout(STEP);
                steps.woke(clock::now());
                if end != Err(RecvTimeoutError::Timeout) {
                    return steps.longest;
                }
            }
        })?;
        Ok(Self { stop, thread })
    }

    /// The longest standstill since the start.
    pub fn end(self) -> Duration {
        drop(self.stop);
        // The thread does not panic; without a figure nothing is shown.
        self.thread.join().unwrap_or_default()
    }
}

/// The note on a failure on a machine with this longest standstill.
pub(super) fn excuse(longest: Duration) -> Option<String> {
    (longest > NOTEWORTHY).then(|| {
        let milliseconds = longest.as_millis();
        format!("the machine stood still for {milliseconds} ms during the call: run it again when it is less busy")
    })
}

/// Consecutive sleeps of [`STEP`].
struct Steps {
    woke_at: Instant,
    /// How much longer than a step the longest took.
    longest: Duration,
}

impl Steps {
    fn from(now: Instant) -> Self {
        Self { woke_at: now, longest: Duration::ZERO }
    }

    fn woke(&mut self, now: Instant) {
        let late = now.saturating_duration_since(self.woke_at).saturating_sub(STEP);
        self.longest = self.longest.max(late);
        self.woke_at = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn longest(steps: &[u32]) -> Duration {
        let mut now = Instant::now();
        let mut watched = Steps::from(now);
        for step in steps {
            now += *step * MS;
            watched.woke(now);
        }
        watched.longest
    }

    #[test]
    fn the_longest_delay_counts_and_delays_do_not_add_up() {
        assert_eq!(longest(&[10, 10, 10]), Duration::ZERO);
        assert_eq!(longest(&[11, 290, 60, 12]), 280 * MS);
        assert_eq!(longest(&[60, 60, 60, 60]), 50 * MS);
        assert_eq!(longest(&[10, 3]), Duration::ZERO, "the last step is cut short");
    }

    #[test]
    fn only_a_long_standstill_is_told() {
        assert_eq!(excuse(Duration::ZERO), None);
        assert_eq!(excuse(100 * MS), None);
        let told = "the machine stood still for 280 ms during the call: run it again when it is less busy";
        assert_eq!(excuse(280 * MS).as_deref(), Some(told));
    }

    #[test]
    fn a_watch_ends_when_it_is_told_to() -> std::io::Result<()> {
        let began = Instant::now();
        let stood_still = Watch::start()?.end();
        assert!(stood_still <= began.elapsed());
        Ok(())
    }
}
