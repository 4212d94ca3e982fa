//! Placement: which worker takes the next call.

use std::time::Instant;

use super::WorkerHandle;

/// The emptiest of the workers that run and have room. If none runs, the call finds out whether that lasts: the whole
/// process may have been frozen a moment ago. If none has room, the call is to be rejected.
pub fn best(workers: &[WorkerHandle], now: Instant) -> WorkerHandle {
    let rank = |worker: &&WorkerHandle| (worker.is_late(now), worker.shortage().is_some(), worker.calls());
    workers.iter().min_by_key(rank).expect("a service has at least one worker").clone()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::time::Duration;

    use super::*;
    use crate::call::end::Shortage;

    /// Which of three with so many calls is chosen, when they last ran so many milliseconds ago.
    fn chosen(calls: [usize; 3], silent_ms: [u64; 3]) -> usize {
        chosen_beside(calls, silent_ms, [false; 3])
    }

    fn chosen_beside(calls: [usize; 3], silent_ms: [u64; 3], overloaded: [bool; 3]) -> usize {
        let start = Instant::now();
        let now = start + Duration::from_secs(100);
        let workers = [0, 1, 2].map(|_| WorkerHandle::played().0);
        for (worker, (calls, silent_ms)) in workers.iter().zip(calls.into_iter().zip(silent_ms)) {
            worker.status.calls.store(calls, Ordering::Relaxed);
            worker.pulse().beat(now - Duration::from_millis(silent_ms));
        }
        for (worker, is_overloaded) in workers.iter().zip(overloaded) {
            worker.status.is_overloaded.store(is_overloaded, Ordering::Relaxed);
        }
        let best = best(&workers, now);
        workers.iter().position(|worker| worker.commands.same_channel(&best.commands)).unwrap()
    }

    #[test]
    fn the_emptiest_worker_that_runs_is_chosen() {
        assert_eq!(chosen([3, 1, 2], [0, 250, 0]), 1);
        assert_eq!(chosen([3, 0, 2], [0, 1100, 900]), 2);
        assert_eq!(chosen([3, 0, 2], [1100, 9000, 1100]), 1, "none runs: one is as good as another");
    }

    #[test]
    fn places_are_taken_up_to_the_capacity_and_freed() {
        let (worker, _inbox) = WorkerHandle::played();
        worker.status.capacity.store(2, Ordering::Relaxed);
        let places = [worker.take_place(), worker.take_place()];
        assert_eq!(worker.shortage(), Some(Shortage::Capacity));
        let (other, _inbox) = WorkerHandle::played();
        let _places = [(); 3].map(|()| other.take_place());
        assert_eq!(best(&[worker.clone(), other], Instant::now()).calls(), 3);
        drop(places);
        assert_eq!((worker.shortage(), worker.calls()), (None, 0));
    }

    #[test]
    fn a_worker_with_too_much_to_do_is_passed_over_unless_the_others_are_stuck() {
        assert_eq!(chosen_beside([3, 1, 2], [0; 3], [false, true, false]), 2);
        assert_eq!(chosen_beside([3, 1, 2], [1100, 0, 1100], [false, true, false]), 1);
        assert_eq!(chosen_beside([3, 1, 2], [0; 3], [true; 3]), 1);
    }
}
