//! Health: whether the control plane and the media workers run, for liveness and readiness probes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::pulse::Pulse;

/// Callers of a stuck worker hear nothing; Meta ends such a call after 20 s.
const MEDIA_LATE: Duration = Duration::from_secs(2);
/// Webhooks and deadlines wait while the control plane is stuck, and live calls go on.
const CONTROL_LATE: Duration = Duration::from_secs(5);

/// The pulses of a service.
#[derive(Clone, Debug)]
pub struct Health {
    control: Arc<Pulse>,
    workers: Vec<Arc<Pulse>>,
}

impl Health {
    /// Watches these loops.
    pub fn of(control: Arc<Pulse>, workers: Vec<Arc<Pulse>>) -> Self {
        Self { control, workers }
    }

    /// A sentence about the first stuck loop, if any.
    pub fn stuck(&self, now: Instant) -> Option<String> {
        let stands_still = |pulse: &Pulse, late: Duration| Some(pulse.silent_for(now)).filter(|silent| *silent > late);
        let control = stands_still(&self.control, CONTROL_LATE).map(|silent| ("the control plane".to_owned(), silent));
        let worker = |(index, pulse): (usize, &Arc<Pulse>)| {
            stands_still(pulse, MEDIA_LATE).map(|silent| (format!("media worker {index}"), silent))
        };
        let (name, silent) = control.or_else(|| self.workers.iter().enumerate().find_map(worker))?;
        Some(format!("stuck: {name} has not run for {:.1} s", silent.as_secs_f64()))
    }

    /// Whether at least one worker could take a call.
    pub fn takes_calls(&self, now: Instant) -> bool {
        self.workers.iter().any(|pulse| pulse.silent_for(now) <= MEDIA_LATE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_loop_has_its_patience() {
        let start = Instant::now();
        let at = |tenths: u32| start + Duration::from_millis(100) * tenths;
        let pulses: Vec<Arc<Pulse>> = (0..3).map(|_| Arc::default()).collect();
        let health = Health::of(pulses[0].clone(), pulses[1..].to_vec());
        assert_eq!((health.stuck(start), health.takes_calls(start)), (None, true), "they have not begun");
        pulses.iter().for_each(|pulse| pulse.beat(start));
        assert_eq!(health.stuck(at(20)), None);
        pulses[1].beat(at(20));
        let told = health.stuck(at(21));
        assert_eq!(told.as_deref(), Some("stuck: media worker 1 has not run for 2.1 s"));
        assert!(health.takes_calls(at(21)), "the other one runs");
        assert!(!health.takes_calls(at(41)));
        pulses[1..].iter().for_each(|pulse| pulse.beat(at(50)));
        assert_eq!(health.stuck(at(50)), None);
        assert_eq!(health.stuck(at(51)).as_deref(), Some("stuck: the control plane has not run for 5.1 s"));
        pulses[0].beat(at(51));
        assert_eq!((health.stuck(at(51)), health.takes_calls(at(51))), (None, true));
    }
}
