//! Load: whether a worker can carry another call. Pure; time is an argument.
//!
//! In an overloaded worker even the most punctual tick is late, or the thread never idles. What lasts a moment only is a
//! hiccup of the machine and changes nothing. Load that is still to come is `Capacity`'s part.

use std::time::{Duration, Instant};

use super::capacity::Capacity;

/// How long measurements must agree before they change the state: longer than a hiccup, and short enough that few calls
/// arrive meanwhile.
const LASTS: Duration = Duration::from_secs(2);
/// The most that one measurement counts for; a longer period was a standstill of the worker.
const LONGEST_PERIOD: Duration = Duration::from_millis(500);

/// The limits above which a worker is overloaded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LoadLimits {
    /// The lateness of the most punctual tick of a period.
    pub lateness: Duration,
    /// The share of one core that the worker's thread takes, from 0 to 1.
    pub share: f64,
}

/// The measurement of one period.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// The lateness of the most punctual tick; zero without calls.
    pub lateness: Duration,
    /// The share of one core, from 0 to 1; None where the system does not measure it.
    pub share: Option<f64>,
    /// Whether the worker must get no new calls.
    pub is_overloaded: bool,
    /// The number of calls up to which it may get new ones.
    pub capacity: usize,
}

/// The load of one worker.
#[derive(Debug)]
pub struct Load {
    limits: LoadLimits,
    /// The end of the last period, and the thread's processor time then.
    measured: (Instant, Option<Duration>),
    is_overloaded: bool,
    capacity: Capacity,
    /// How long measurements have contradicted `is_overloaded`.
    contradicted_for: Duration,
}

impl Load {
    /// The load of a worker that starts now. `processor` is the processor time of its thread so far.
    pub fn new(limits: LoadLimits, now: Instant, processor: Option<Duration>) -> Self {
        let capacity = Capacity::new(limits.share);
        Self { limits, measured: (now, processor), is_overloaded: false, capacity, contradicted_for: Duration::ZERO }
    }

    /// Ends a period. `lateness` is that of its most punctual tick, `talking` the number of calls that talk,
    /// `processor` the processor time of the thread so far.
    pub fn measure(
        &mut self,
        lateness: Option<Duration>,
        talking: usize,
        processor: Option<Duration>,
        now: Instant,
    ) -> Measured {
        let (before, processor_before) = std::mem::replace(&mut self.measured, (now, processor));
        let period = now.saturating_duration_since(before);
        let used = processor.zip(processor_before).map(|(now, before)| now.saturating_sub(before));
        let share = used.filter(|_| !period.is_zero()).map(|used| used.div_duration_f64(period));
        let lateness = lateness.unwrap_or_default();
        let is_much = lateness > self.limits.lateness || share.is_some_and(|share| share > self.limits.share);
        if let Some(share) = share {
            self.capacity.measure(share, talking, period.min(LONGEST_PERIOD));
        }
        self.contradicted_for = match is_much == self.is_overloaded {
            true => Duration::ZERO,
            false => self.contradicted_for + period.min(LONGEST_PERIOD),
        };
        if self.contradicted_for >= LASTS {
            (self.is_overloaded, self.contradicted_for) = (is_much, Duration::ZERO);
        }
        // Without a measured share nothing is known of the calls' cost.
        let capacity = share.map_or(usize::MAX, |_| self.capacity.calls());
        Measured { lateness, share, is_overloaded: self.is_overloaded, capacity }
    }
}

/// The processor time of this thread so far.
#[cfg(target_os = "linux")]
pub(super) fn processor_time() -> Option<Duration> {
    use rustix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::ThreadCPUTime).try_into().ok()
}

#[cfg(not(target_os = "linux"))]
pub(super) fn processor_time() -> Option<Duration> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(250);
    const LIMITS: LoadLimits = LoadLimits { lateness: Duration::from_millis(10), share: 0.9 };

    /// A worker and its clocks.
    struct Script {
        load: Load,
        now: Instant,
        processor: Duration,
    }

    impl Script {
        fn new() -> Self {
            let (now, processor) = (Instant::now(), Duration::from_secs(7));
            Self { load: Load::new(LIMITS, now, Some(processor)), now, processor }
        }

        /// So many periods like this one; says whether the worker is overloaded after them.
        fn pass(&mut self, periods: u32, lateness_ms: Option<u64>, share: f64) -> bool {
            self.period(periods, PERIOD, lateness_ms, share)
        }

        fn period(&mut self, periods: u32, length: Duration, lateness_ms: Option<u64>, share: f64) -> bool {
            for _ in 0..periods {
                self.now += length;
                self.processor += length.mul_f64(share);
                let measured =
                    self.load.measure(lateness_ms.map(Duration::from_millis), 0, Some(self.processor), self.now);
                assert!(measured.share.is_some_and(|measured| (measured - share).abs() < 0.001));
            }
            self.load.is_overloaded
        }
    }

    #[test]
    fn lateness_or_a_thread_without_rest_that_lasts_is_overload() {
        for (lateness_ms, share) in [(Some(11), 0.5), (Some(1), 0.95), (None, 1.0)] {
            let mut script = Script::new();
            assert!(!script.pass(7, lateness_ms, share));
            assert!(script.pass(1, lateness_ms, share), "{lateness_ms:?} {share}");
            // It ends as slowly as it began, so that it does not flicker.
            assert!(script.pass(7, Some(1), 0.5));
            assert!(!script.pass(1, Some(1), 0.5));
        }
        assert!(!Script::new().pass(100, Some(10), 0.9), "the limits themselves are allowed");
    }

    #[test]
    fn a_hiccup_is_no_overload() {
        let mut script = Script::new();
        for _ in 0..20 {
            assert!(!script.pass(7, Some(500), 1.0), "almost 2 s");
            assert!(!script.pass(1, Some(0), 0.3));
        }
        // A standstill of a minute is one measurement.
        assert!(!script.period(1, Duration::from_secs(60), Some(30_000), 1.0));
        assert!(!script.pass(5, Some(11), 1.0));
        assert!(script.pass(1, Some(11), 1.0));
    }

    #[test]
    fn a_worker_without_calls_recovers_and_one_without_clocks_has_its_ticks() {
        let mut script = Script::new();
        script.pass(8, Some(50), 1.0);
        assert!(!script.pass(8, None, 0.0));
        let mut load = Load::new(LIMITS, script.now, None);
        let measured = (1..=8).map(|period| load.measure(Some(PERIOD), 9, None, script.now + PERIOD * period)).last();
        let capacity = usize::MAX;
        assert_eq!(measured, Some(Measured { lateness: PERIOD, share: None, is_overloaded: true, capacity }));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn processor_time_is_the_threads_own() {
        let before = processor_time().unwrap();
        std::thread::spawn(|| while processor_time().unwrap() < Duration::from_millis(50) {}).join().unwrap();
        let after = processor_time().unwrap();
        assert!(after - before < Duration::from_millis(50), "another thread's time counted");
    }
}
