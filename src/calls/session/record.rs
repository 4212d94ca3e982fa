//! LiveRecord: what a session keeps of its call: the record in the store, the stages, and the status that the API reads.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::call::description::CallDescription;
use crate::call::end::EndReason;
use crate::call::event::{CallId, Stages};
use crate::call::signaling::Signaling;
use crate::call::usage::{Tokens, UsageMeter};
use crate::call::{Attempt, Call};
use crate::calls::snapshot::{AgentFacts, StatusSender, TransferFacts};
use crate::clock;
use crate::queue::QueueName;
use crate::recordings::RecordingId;
use crate::store::{CallRecord, Store, Written};
use crate::twilio::status::StatusCallback;
use crate::whatsapp::WaCallId;
use crate::whatsapp::graph::CallbackData;

/// The record of one live call.
pub(super) struct LiveRecord {
    record: CallRecord,
    /// The first write of the record; accept waits for it.
    first_write: Written,
    stages: Stages,
    usage: UsageMeter,
    received_at: Instant,
    status: StatusSender,
    store: Store,
}

/// Who is on our side of a call.
pub(super) struct People {
    pub agent: Option<AgentFacts>,
    pub transfer: Option<TransferFacts>,
    pub queue: Option<QueueName>,
}

impl LiveRecord {
    pub fn new(
        call: &CallId,
        description: &CallDescription,
        route: &str,
        (received_at, began_at): (Instant, SystemTime),
        status: StatusSender,
        store: Store,
    ) -> Self {
        let record = CallRecord::new(call.as_str(), description.clone(), route, began_at);
        let (first_write, stages, usage) = (Written::already(), Stages::default(), UsageMeter::default());
        Self { record, first_write, stages, usage, received_at, status, store }
    }

    /// Continues the record of an earlier process.
    pub fn resume(&mut self, record: CallRecord) {
        self.record = record;
    }

    pub fn record(&self) -> &CallRecord {
        &self.record
    }

    pub fn first_write(&self) -> Written {
        self.first_write.clone()
    }

    pub fn set_first_write(&mut self, write: Written) {
        self.first_write = write;
    }

    pub fn stages(&self) -> &Stages {
        &self.stages
    }

    pub fn received_at(&self) -> Instant {
        self.received_at
    }

    /// Notes when a stage was reached. The status has it before any event says so.
    pub fn reach(&mut self, stage: impl FnOnce(&mut Stages) -> &mut Option<Duration>) {
        stage(&mut self.stages).get_or_insert(self.received_at.elapsed());
        self.status.send_modify(|status| status.stages = self.stages);
    }

    /// Shows how the call stands in its status.
    pub fn show(&self, call: &Call, people: People) {
        self.status.send_modify(|status| {
            status.state = call.state_name();
            (status.agent, status.transfer, status.queue) = (people.agent, people.transfer, people.queue);
            status.client_state.clone_from(&self.record.client_state);
        });
    }

    pub fn show_quality(&self, quality: Value) {
        self.status.send_modify(|status| status.quality = quality);
    }

    pub fn show_hold(&self, is_held: bool) {
        self.status.send_modify(|status| status.is_held = is_held);
    }

    /// Of a call that the application has us place, or signals.
    pub fn set_tracker(&mut self, tracker: Option<&CallbackData>) {
        self.record.tracker = tracker.map(|data| data.as_str().to_owned());
    }

    pub fn set_signaling(&mut self, signaling: Signaling) {
        self.record.signaling = signaling;
    }

    /// Meta has named a call that we place: the next process can end it.
    pub fn named(&mut self, wacid: &WaCallId) {
        let known = &mut self.record.description.wacid;
        *known = Some(wacid.as_str().to_owned());
        self.status.send_modify(|status| status.wacid.clone_from(known));
        self.store.call_updated(self.record.clone());
    }

    /// Meta may have a call that ends without a name from it.
    pub fn set_unnamed(&mut self, is_unnamed: bool) {
        self.record.may_be_at_meta = is_unnamed;
    }

    /// Before the first write.
    pub fn begin_with(&mut self, client_state: String) {
        self.record.client_state = Some(client_state);
    }

    pub fn name_status_callback(&self, callback: &StatusCallback) {
        self.store.name_status_callback(&self.record.call_id, callback.to_json());
    }

    pub fn keep_client_state(&mut self, client_state: String) {
        self.record.client_state = Some(client_state);
        self.status.send_modify(|status| status.client_state.clone_from(&self.record.client_state));
        self.store.call_updated(self.record.clone());
    }

    /// Meta has our answer: the next process must not answer the call again.
    pub fn answered(&self) {
        self.store.call_answered(&self.record.call_id);
    }

    pub fn accepted(&mut self) {
        self.record.accepted_at = Some(clock::wall());
        // The outcome of pre_accept may have been unknown.
        self.answered();
        self.store.call_updated(self.record.clone());
    }

    /// An agent of a queue has the caller.
    pub fn agent_joined(&mut self, agent: &str) {
        if !self.record.agents.iter().any(|known| known == agent) {
            self.record.agents.push(agent.to_owned());
            self.status.send_modify(|status| status.agents.clone_from(&self.record.agents));
            self.store.call_updated(self.record.clone());
        }
    }

    pub fn model_joined(&mut self, attempt: Attempt, model: String) {
        self.usage.joined(attempt, model, clock::now());
        self.show_usage();
    }

    /// The agent of this attempt has left; it need not be a model.
    pub fn model_left(&mut self, attempt: Attempt) {
        self.usage.left(attempt, clock::now());
        self.show_usage();
    }

    /// A crash loses no more than what one response used.
    pub fn model_used(&mut self, attempt: Attempt, tokens: Tokens) {
        if self.usage.used(attempt, tokens) {
            self.show_usage();
            self.record.usage = self.usage.sums(clock::now());
            self.store.call_updated(self.record.clone());
        }
    }

    fn show_usage(&self) {
        self.status.send_modify(|status| status.usage.clone_from(&self.usage));
    }

    pub fn recording_began(&mut self, id: &RecordingId) {
        self.store.recording_began(id.as_str(), &self.record.call_id);
        self.status.send_modify(|status| status.recordings.push(id.as_str().to_owned()));
    }

    pub fn add_recording(&mut self, id: &RecordingId) {
        self.record.recordings.push(id.as_str().to_owned());
        self.store.call_updated(self.record.clone());
    }

    pub fn end(&mut self, reason: &EndReason, sound: &Value) {
        self.record.usage = self.usage.sums(clock::now());
        self.record.end(reason, &self.stages, sound);
    }

    pub fn has_ended(&self) -> bool {
        self.record.end.is_some()
    }
}
