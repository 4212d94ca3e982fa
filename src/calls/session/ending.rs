//! The end of a call: its media are released, its record is completed, and listeners, store and agents learn of it.

use serde_json::Value;
use tracing::info;

use super::Session;
use crate::call::end::EndReason;
use crate::call::event::{Figures, ended_data};
use crate::telemetry::shown;

impl Session {
    pub(super) async fn release(&mut self, reason: &EndReason) {
        self.abandon_queues();
        let sound = self.worker.release(reason).await.unwrap_or(Value::Null);
        self.record.reach(|stages| &mut stages.ended);
        self.close_recordings().await;
        self.end(reason, &sound).await;
    }

    /// A call that we placed and nobody answered: Meta counts them. It is stored before the end is, and in its order.
    fn note_if_unanswered(&self, reason: &EndReason) {
        let stages = self.record.stages();
        let rang = stages.ringing.is_some() || matches!(reason, EndReason::CalleeDeclined | EndReason::NoAnswer);
        if stages.accepted.is_none() && rang {
            self.meta.call_unanswered(&self.context.origin);
        }
    }

    /// Counts, logs, stores and publishes the end.
    pub(super) async fn end(&mut self, reason: &EndReason, sound: &Value) {
        metrics::counter!("patchcord_calls_total", "reason" => reason.name(), "fault" => reason.fault().name())
            .increment(1);
        info!(
            call.end_reason = reason.name(),
            call.fault = reason.fault().name(),
            "call {} ended after {}: {reason}",
            self.context.id,
            shown(self.record.received_at().elapsed())
        );
        self.note_if_unanswered(reason);
        self.record.end(reason, sound);
        let figures = Figures { sound, usage: &self.record.record().usage };
        let terminate_at_meta = self.app_signaling.ended(&self.context.origin, reason);
        let data = ended_data(reason, self.record.stages(), figures, terminate_at_meta);
        self.events.emit_end(self.record.record(), data).await;
        // Its agent sees the end before it is free again.
        self.queue.leave();
    }
}
