//! WorkerLink: a session's side of the worker that its call lives on.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tracing::error;

use crate::call::end::EndReason;
use crate::call::event::CallId;
use crate::clock;
use crate::pulse::{Pulse, Standstills};
use crate::telemetry::shown;
use crate::worker::{ANSWERS_WITHIN, Command, Place, Report, WorkerHandle};

/// Reports of the worker that wait for the session.
const REPORTS: usize = 256;

/// The worker of one call, and its reports.
pub(super) struct WorkerLink {
    call: CallId,
    worker: WorkerHandle,
    /// Until the call's release.
    place: Option<Place>,
    /// Given to the worker with the call.
    report_sender: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
    pulse: Arc<Pulse>,
}

impl WorkerLink {
    pub fn new(call: CallId, worker: WorkerHandle, pulse: Arc<Pulse>) -> Self {
        let (report_sender, reports) = mpsc::channel(REPORTS);
        let place = Some(worker.take_place());
        Self { call, worker, place, report_sender, reports, pulse }
    }

    /// An error means that the worker's thread is gone, or stuck.
    pub async fn send(&self, command: Command) -> Result<(), EndReason> {
        self.worker.send(command).await
    }

    /// Removes the call from the worker, which answers with the figures of its sound.
    pub async fn release(&mut self, reason: &EndReason) -> Option<serde_json::Value> {
        let place = self.place.take();
        let (reply, figures) = oneshot::channel();
        self.send(Command::Release { call: self.call.clone(), reason: reason.name(), reply }).await.ok()?;
        let figures = self.answer(figures).await;
        drop(place);
        figures
    }

    /// Removes the call from the worker without waiting for its answer. A worker that is gone holds no call.
    pub async fn abandon(&self) {
        let (reply, _) = oneshot::channel();
        let reason = EndReason::InternalError.name();
        let _ = self.send(Command::Release { call: self.call.clone(), reason, reply }).await;
    }

    /// Waits for an answer of the worker. A worker that is stuck must not hold the call up: None after a deadline.
    pub fn answer<T>(&self, reply: oneshot::Receiver<T>) -> impl Future<Output = Option<T>> + use<T> {
        let mut standstills = Standstills::of(&self.pulse, clock::now());
        async move {
            let answer = standstills.timeout(ANSWERS_WITHIN, reply).await;
            if answer.is_err() {
                error!(
                    "a worker does not answer within {}: it is stuck, and its calls are silent",
                    shown(ANSWERS_WITHIN)
                );
                metrics::counter!("patchcord_worker_answers_missed_total").increment(1);
            }
            answer.ok()?.ok()
        }
    }

    pub fn report_sender(&self) -> mpsc::Sender<Report> {
        self.report_sender.clone()
    }

    pub async fn next_report(&mut self) -> Option<Report> {
        self.reports.recv().await
    }

    /// A report that has arrived already.
    pub fn queued_report(&mut self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    pub fn is_overloaded(&self) -> bool {
        self.worker.is_overloaded()
    }
}
