//! The queue of writes to the store's thread, and its bounds.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

#[cfg(test)]
use rusqlite::Connection;
use tracing::error;

use super::StoreError;
use super::job::Job;

/// The queue to the thread. Bounded by count and bytes of everything that is not committed yet, in the channel or
/// kept back by a failure; on overflow a write gets [`StoreError::Full`].
pub(super) struct Queue {
    pub(super) jobs: Sender<Message>,
    pub(super) load: Arc<Load>,
}

pub(super) enum Message {
    Job(Job),
    Close,
    /// Run immediately, outside of any group: tests fill the disk and empty it this way.
    #[cfg(test)]
    Now(Box<dyn FnOnce(&Connection) + Send>),
}

/// Waiting writes, and their bounds.
pub(super) struct Load {
    pub(super) most_jobs: usize,
    pub(super) most_bytes: usize,
    pub(super) jobs: AtomicUsize,
    pub(super) bytes: AtomicUsize,
    pub(super) is_full_told: AtomicBool,
    /// Start of the present failure to write the file.
    pub(super) failing_since: Mutex<Option<Instant>>,
    /// Whether less than the floor is free on the disk.
    pub(super) is_low: AtomicBool,
}

impl Load {
    pub(super) fn new(most_jobs: usize, most_bytes: usize) -> Self {
        let (jobs, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (is_full_told, failing_since) = (AtomicBool::new(false), Mutex::new(None));
        let is_low = AtomicBool::new(false);
        Self { most_jobs, most_bytes, jobs, bytes, is_full_told, failing_since, is_low }
    }

    pub(super) fn failing_since(&self) -> Option<Instant> {
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_failing_since(&self, since: Option<Instant>) {
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        let failing_for = since.map_or(Duration::ZERO, |since| since.elapsed());
        metrics::gauge!("patchcord_store_failing_seconds").set(failing_for.as_secs_f64());
    }

    fn reserve(&self, bytes: usize, share: usize) -> bool {
        let jobs = self.jobs.fetch_add(1, Ordering::AcqRel) + 1;
        let bytes_now = self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let has_room = jobs <= self.most_jobs * share && bytes_now <= self.most_bytes * share;
        if !has_room {
            self.release(bytes);
        }
        has_room
    }

    pub(super) fn release(&self, bytes: usize) {
        let left = self.jobs.fetch_sub(1, Ordering::AcqRel) - 1;
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if left < self.most_jobs / 2 {
            self.is_full_told.store(false, Ordering::Release);
        }
    }
}

impl Queue {
    /// The share of call records, in multiples of the bound: a lost call is worse than a lost event.
    pub(super) const CALLS_SHARE: usize = 2;
    /// The share of events and everything else.
    pub(super) const USUAL_SHARE: usize = 1;

    pub(super) fn send(&self, job: Job, share: usize) -> Result<(), StoreError> {
        let bytes = job.bytes;
        if !self.load.reserve(bytes, share) {
            metrics::counter!("patchcord_store_overflows_total").increment(1);
            if !self.load.is_full_told.swap(true, Ordering::AcqRel) {
                error!("the store's queue is full: {} writes wait; refusing new ones", self.load.most_jobs);
            }
            return Err(StoreError::Full);
        }
        self.jobs.send(Message::Job(job)).map_err(|_| {
            self.load.release(bytes);
            StoreError::Closed
        })
    }

    /// Earlier writes are still written.
    pub(super) fn close(&self) {
        // The thread may have ended already.
        let _ = self.jobs.send(Message::Close);
    }

    #[cfg(test)]
    pub(super) fn do_now(&self, run: impl FnOnce(&Connection) + Send + 'static) {
        self.jobs.send(Message::Now(Box::new(run))).expect("the thread lives");
    }

    /// How long the file has been unwritable.
    pub(super) fn failing_for(&self) -> Option<Duration> {
        self.load.failing_since().map(|since| since.elapsed())
    }

    pub(super) fn is_low(&self) -> bool {
        self.load.is_low.load(Ordering::Acquire)
    }

    /// Number of writes that are not committed yet.
    pub(super) fn waiting(&self) -> usize {
        self.load.jobs.load(Ordering::Acquire)
    }
}
