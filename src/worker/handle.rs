//! The handle of a worker: sends commands, and shows how the worker is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::command::Command;
use crate::call::end::{EndReason, Shortage};
use crate::pulse::Pulse;

/// Commands waiting for a worker. A full queue makes the control plane wait; the worker empties it between packets.
const COMMAND_QUEUE: usize = 1024;
/// A worker takes a command between two packets and answers at once. One that has not done so is stuck.
pub const ANSWERS_WITHIN: Duration = Duration::from_secs(2);
/// Four beats of the pulse.
const LATE_AFTER: Duration = Duration::from_secs(1);

/// The control plane's end of a worker. Clones lead to the same one.
#[derive(Clone, Debug)]
pub struct WorkerHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: Arc<WorkerStatus>,
}

/// What a worker shows of itself.
#[derive(Debug, Default)]
pub(super) struct WorkerStatus {
    /// Places that are taken.
    pub calls: AtomicUsize,
    /// The number of calls up to which it may get new ones.
    pub capacity: AtomicUsize,
    pub is_overloaded: AtomicBool,
    pub pulse: Arc<Pulse>,
}

/// A call's place on a worker, from its admission on. Dropping it frees the place.
#[derive(Debug)]
pub struct Place(Arc<WorkerStatus>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

impl WorkerHandle {
    /// A worker that is to be started, and the end of its queue of commands.
    pub(super) fn new() -> (Self, mpsc::Receiver<Command>) {
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        // Until the worker has measured, which it does first of all.
        let status = WorkerStatus { capacity: AtomicUsize::new(usize::MAX), ..WorkerStatus::default() };
        (Self { commands, status: Arc::new(status) }, inbox)
    }

    /// Sends a command. An error means that the worker's thread is gone, or stuck.
    pub async fn send(&self, command: Command) -> Result<(), EndReason> {
        let sent = tokio::time::timeout(ANSWERS_WITHIN, self.commands.send(command)).await;
        sent.ok().and_then(Result::ok).ok_or(EndReason::InternalError)
    }

    /// Whether a port is free for a call that we place. False also if it does not answer.
    pub async fn has_port(&self) -> bool {
        let (reply, answer) = oneshot::channel();
        if self.send(Command::HasPort { reply }).await.is_err() {
            return false;
        }
        matches!(tokio::time::timeout(ANSWERS_WITHIN, answer).await, Ok(Ok(true)))
    }

    /// The heartbeat of its thread.
    pub fn pulse(&self) -> &Arc<Pulse> {
        &self.status.pulse
    }

    /// Whether it has not run for so long that it may be stuck. It gets no call then.
    pub fn is_late(&self, now: Instant) -> bool {
        self.status.pulse.silent_for(now) > LATE_AFTER
    }

    /// Whether it has had too much to do for some time.
    pub fn is_overloaded(&self) -> bool {
        self.status.is_overloaded.load(Ordering::Relaxed)
    }

    /// What it lacks for another call.
    pub fn shortage(&self) -> Option<Shortage> {
        if self.is_overloaded() {
            Some(Shortage::Load)
        } else if self.calls() >= self.status.capacity.load(Ordering::Relaxed) {
            Some(Shortage::Capacity)
        } else {
            None
        }
    }

    /// Takes a place for a call. What the worker lacks is the caller's to ask first.
    pub fn take_place(&self) -> Place {
        self.status.calls.fetch_add(1, Ordering::Relaxed);
        Place(self.status.clone())
    }

    /// The calls that have a place on it.
    pub fn calls(&self) -> usize {
        self.status.calls.load(Ordering::Relaxed)
    }

    /// A worker whose part a test plays.
    #[cfg(test)]
    pub(crate) fn played() -> (Self, mpsc::Receiver<Command>) {
        Self::new()
    }
}
