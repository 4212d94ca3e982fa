//! Pulse: whether an event loop of ours runs, and how long it was stalled.
//!
//! A loop beats while it runs. It is stalled when the process is frozen, its thread is stuck, or the machine gives it no
//! time. It reads nothing meanwhile, so that time must not count against a remote end: its data may wait in our
//! sockets. Deadlines are extended by it before they are checked.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::error::Elapsed;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use crate::clock;

/// Four consecutive beats must be missed before a loop counts as stalled.
const BEAT_EVERY: Duration = Duration::from_millis(250);
/// A shorter gap is a hiccup, which every deadline has room for.
const STANDSTILL: Duration = Duration::from_secs(1);

/// The heartbeat of one loop, readable from any thread.
#[derive(Debug, Default)]
pub struct Pulse(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Time of the last beat; None before the loop has begun.
    beaten_at: Option<Instant>,
    /// Standstills are counted up to this time.
    looked_at: Option<Instant>,
    stood_still: Duration,
}

impl Pulse {
    /// Records a beat.
    pub fn beat(&self, now: Instant) {
        let mut state = self.state();
        state.look(now);
        state.looked_at = state.looked_at.max(Some(now));
        state.beaten_at = state.beaten_at.max(Some(now));
    }

    /// Beats for ever. The watched loop must poll it.
    pub async fn keep(&self) -> Infallible {
        let mut beats = beats();
        loop {
            beats.tick().await;
            self.beat(clock::now());
        }
    }

    /// Time since the last beat; zero before the first.
    pub fn silent_for(&self, now: Instant) -> Duration {
        self.state().beaten_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// Total time of standstills. Must be called on the loop itself, because it implies that the loop runs.
    pub fn stood_still(&self, now: Instant) -> Duration {
        let mut state = self.state();
        state.look(now);
        state.stood_still
    }

    /// Each step leaves the state whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The interval of beats.
pub fn beats() -> Interval {
    let mut beats = interval(BEAT_EVERY);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

impl State {
    fn look(&mut self, now: Instant) {
        let Some(looked_at) = self.looked_at else { return };
        let gap = now.saturating_duration_since(looked_at);
        if gap > STANDSTILL {
            self.stood_still += gap;
        }
        self.looked_at = Some(looked_at.max(now));
    }
}

/// Reports each standstill of a loop once.
#[derive(Clone, Debug)]
pub struct Standstills {
    pulse: Arc<Pulse>,
    told: Duration,
}

impl Standstills {
    /// Standstills from now on.
    pub fn of(pulse: &Arc<Pulse>, now: Instant) -> Self {
        Self { pulse: pulse.clone(), told: pulse.stood_still(now) }
    }

    /// The standstill since the last call, if any.
    pub fn next(&mut self, now: Instant) -> Option<Duration> {
        let in_all = self.pulse.stood_still(now);
        let gap = in_all.saturating_sub(std::mem::replace(&mut self.told, in_all));
        (!gap.is_zero()).then_some(gap)
    }

    /// Waits for `work` with a deadline, which begins again after a standstill of the loop.
    pub async fn timeout<F: Future>(&mut self, within: Duration, work: F) -> Result<F::Output, Elapsed> {
        let mut work = pin!(work);
        loop {
            match timeout(within, work.as_mut()).await {
                Err(_) if self.next(clock::now()).is_some() => {}
                done => return done,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_gap_is_counted_once_whoever_sees_it_first() {
        let (pulse, start) = (Arc::new(Pulse::default()), Instant::now());
        assert_eq!(pulse.stood_still(start + 60 * SECOND), Duration::ZERO, "it has not begun");
        pulse.beat(start);
        let (mut early, mut other) = (Standstills::of(&pulse, start), Standstills::of(&pulse, start));
        assert_eq!(early.next(start + SECOND), None, "a hiccup");
        let woken = start + 13 * SECOND;
        assert_eq!(early.next(woken), Some(12 * SECOND));
        pulse.beat(woken);
        assert_eq!(early.next(woken), None);
        assert_eq!(other.next(woken + SECOND / 2), Some(12 * SECOND));
        assert_eq!(Standstills::of(&pulse, woken).next(woken), None);
        // By its own beat.
        pulse.beat(woken + 5 * SECOND);
        assert_eq!((early.next(woken + 5 * SECOND), pulse.stood_still(woken)), (Some(9 * SECOND / 2), 33 * SECOND / 2));
    }

    #[test]
    fn only_a_beat_ends_silence() {
        let (pulse, start) = (Pulse::default(), Instant::now());
        assert_eq!(pulse.silent_for(start + SECOND), Duration::ZERO, "it has not begun");
        pulse.beat(start);
        pulse.stood_still(start + 3 * SECOND);
        assert_eq!(pulse.silent_for(start + 3 * SECOND), 3 * SECOND);
        // Another thread may have read the clock a moment earlier.
        pulse.beat(start + 3 * SECOND);
        pulse.beat(start + 2 * SECOND);
        assert_eq!(pulse.silent_for(start + 2 * SECOND), Duration::ZERO);
        assert_eq!(pulse.silent_for(start + 4 * SECOND), SECOND);
    }

    #[tokio::test]
    async fn a_wait_in_which_we_stood_still_begins_again() {
        let pulse = Arc::new(Pulse::default());
        pulse.beat(Instant::now());
        let mut standstills = Standstills::of(&pulse, Instant::now());
        let started = Instant::now();
        let waiting = standstills.timeout(SECOND / 2, std::future::pending::<()>());
        let frozen = async { std::thread::sleep(SECOND * 3 / 2) };
        let (waited, ()) = tokio::join!(waiting, frozen);
        assert!(waited.is_err());
        assert!(started.elapsed() >= 2 * SECOND, "{:?}", started.elapsed());
        assert_eq!(standstills.timeout(SECOND, std::future::ready(7)).await, Ok(7));
    }
}
