//! Background work: decoding sound files takes seconds of processor time, and calls take precedence.

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use tracing::debug;

/// A tenth of the weight of a thread of normal priority, which preempts this one as soon as it has work. At the lowest
/// priority (19) an upload would wait for minutes on a machine whose cores are busy.
#[cfg(target_os = "linux")]
const NICE: i32 = 10;

/// Runs one job at a time, on a thread of low priority. Clones share the turn.
#[derive(Clone, Default)]
pub(super) struct Background {
    turn: Arc<Mutex<()>>,
}

impl Background {
    /// Waits for its turn and for the job's end. If no thread can be started, the job runs on this one.
    pub(super) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let work = Mutex::new(Some(work));
        let begin = || work.lock().unwrap_or_else(PoisonError::into_inner).take();
        thread::scope(|scope| {
            let thread = thread::Builder::new().name("prompts".to_owned()).spawn_scoped(scope, || {
                give_way();
                begin().map(|work| work())
            });
            let done = match thread {
                Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                Err(_) => begin().map(|work| work()),
            };
            done.expect("the job runs once")
        })
    }
}

/// Lowers the priority of this thread only. A thread cannot raise it again, so this one ends with the job.
#[cfg(target_os = "linux")]
fn give_way() {
    use rustix::process::{getpriority_process, setpriority_process};
    let lowered = getpriority_process(None).and_then(|nice| setpriority_process(None, nice.max(NICE)));
    if let Err(error) = lowered {
        debug!("prompts are decoded at normal priority: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn give_way() {
    debug!("prompts are decoded at normal priority");
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn work_runs_at_a_lower_priority_and_leaves_that_of_others_alone() {
        let priority = || rustix::process::getpriority_process(None).unwrap();
        let before = priority();
        assert_eq!(Background::default().run(priority), before.max(NICE));
        assert_eq!(priority(), before);
    }

    #[test]
    fn one_piece_of_work_runs_at_a_time() {
        let (background, running) = (Background::default(), AtomicUsize::new(0));
        let work = || {
            let others = running.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
            running.fetch_sub(1, Ordering::SeqCst);
            others
        };
        let most = thread::scope(|scope| {
            let all: Vec<_> = (0..4).map(|_| scope.spawn(|| (0..5).map(|_| background.run(work)).max())).collect();
            all.into_iter().filter_map(|thread| thread.join().unwrap()).max()
        });
        assert_eq!(most, Some(0));
    }

    #[test]
    fn a_panic_reaches_who_waits_and_the_next_has_its_turn() {
        let background = Background::default();
        let failed = std::panic::catch_unwind(|| background.run::<()>(|| panic!("the work failed")));
        assert!(failed.is_err());
        assert_eq!(background.run(|| 1), 1);
    }
}
