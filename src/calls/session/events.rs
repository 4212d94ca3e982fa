//! What the handle learns of a call: events to the store and to whoever listens, and lines of the log.

use std::time::{Duration, SystemTime};

use patchcord_media::quality::Level;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{Session, WRITTEN_WITHIN};
use crate::call::command::Owner;
use crate::call::end::EndReason;
use crate::call::event::CallEvent;
use crate::call::{Input, Progress};
use crate::recordings::RecordingResult;
use crate::store::EventRecord;
use crate::telemetry::shown;
use crate::whatsapp::webhook::Connect;
use crate::worker::call_media::quality_json;
use crate::worker::{Command, Report};

/// For the recording's file to be closed, after the call. A disk that takes longer is told as a problem of its own.
const RECORDING_CLOSED_WITHIN: Duration = Duration::from_secs(5);

impl Session {
    /// The call is over at Meta and its agent is gone; what is told of it waits for the files, so that its end comes last.
    pub(super) async fn close_recordings(&mut self) {
        // What the worker reported before it let the call go.
        while let Ok(report) = self.reports.1.try_recv() {
            self.read_report(report);
        }
        let deadline = tokio::time::Instant::now() + RECORDING_CLOSED_WITHIN;
        while !self.recordings.is_empty() {
            match tokio::time::timeout_at(deadline, self.recordings.join_next()).await {
                Ok(Some(done)) => self.recording_finished(done.ok().flatten()),
                Ok(None) | Err(_) => break,
            }
        }
        for id in std::mem::take(&mut self.recording) {
            warn!(recording.id = %id, "recording {id} is not written yet: the disk does not answer");
            let data = json!({ "recording_id": id, "complete": false, "problem": "the disk does not answer" });
            self.emit("call.recording_finished", data);
        }
    }

    pub(super) fn recording_finished(&mut self, result: Option<RecordingResult>) {
        if let Some(result) = result {
            self.recording.retain(|id| *id != result.id);
            self.store.recording_finished(&result);
            self.emit("call.recording_finished", json!(result));
        }
    }

    /// What the call's state machine must know is its input; the rest is told at once.
    pub(super) fn read_report(&mut self, report: Report) -> Option<Input> {
        match report {
            Report::MediaConnected => {
                self.stages.media_connected.get_or_insert(self.received_at.elapsed());
                return Some(Input::MediaConnected);
            }
            Report::AgentJoined { attempt } => {
                self.stages.agent_joined.get_or_insert(self.received_at.elapsed());
                return Some(Input::AgentJoined { attempt });
            }
            Report::Broken => return Some(Input::HangUp(EndReason::InternalError)),
            Report::MediaFailed(failure) => return Some(Input::MediaFailed(failure)),
            Report::AgentFailed { attempt, failure } => return Some(Input::AgentFailed { attempt, failure }),
            Report::AgentHungUp { attempt } => return Some(Input::AgentHungUp { attempt }),
            Report::PromptsFinished => return Some(Input::PromptFinished),
            Report::MediaSilent(silent) => self.media_silent(silent),
            Report::Dtmf { digit, duration_ms } => {
                // The agent has a message of its own for it.
                self.emit_faces("call.dtmf", json!({ "digit": digit, "duration_ms": duration_ms }), None);
            }
            Report::EventsWanted => self.agent_listens = true,
            // The call is over, or this would not be read here.
            Report::Asked { .. } => {}
            Report::GuestJoined { guest } => self.emit("call.guest_joined", json!({ "guest_id": guest })),
            Report::GuestLeft { guest, reason, detail } => {
                if let Some(detail) = &detail {
                    info!("a third party of call {} is gone: {detail}", self.id);
                }
                self.emit(
                    "call.guest_left",
                    json!({ "guest_id": guest, "reason": reason, "detail": detail.as_deref() }),
                );
            }
            Report::Quality(quality) => {
                if quality.level == Level::Poor {
                    info!("call {} sounds poor", self.id);
                }
                self.emit("call.quality", quality_json(&quality));
            }
            Report::Speech { started } => {
                let kind = if started { "call.speech_started" } else { "call.speech_stopped" };
                self.emit_faces(kind, json!({}), Some(json!({})));
            }
            Report::RecordingStarted { id, result } => {
                self.store.recording_began(id.as_str(), self.id.as_str());
                self.status.send_modify(|status| status.recordings.push(id.as_str().to_owned()));
                self.emit("call.recording_started", json!({ "recording_id": id }));
                self.record.recordings.push(id.as_str().to_owned());
                self.store.call_updated(self.record.clone());
                self.recording.push(id);
                self.recordings.spawn(async { result.await.ok() });
            }
            Report::PlaybackFinished { id, owner, completed } => {
                let data = json!({ "playback_id": id, "completed": completed });
                self.emit_for_owner(owner, "call.playback_finished", data.clone(), data);
            }
            Report::Gathered { id, owner, protected, gathered } => {
                let reason = gathered.end.name();
                let told = json!({ "gather_id": id, "digits": gathered.digits, "reason": reason });
                let masked = json!({ "gather_id": id, "digits": null, "reason": reason });
                let others = if protected { masked } else { told.clone() };
                self.emit_for_owner(owner, "call.gather_finished", told, others);
            }
        }
        None
    }

    pub(super) fn report(&mut self, progress: &Progress) {
        match progress {
            Progress::PreAccepted => {
                self.stages.pre_accepted = Some(self.received_at.elapsed());
                self.store.call_answered(self.id.as_str());
                self.emit("call.pre_accepted", json!({}));
            }
            Progress::MediaConnected => {
                info!("media of call {} is up after {}", self.id, shown(self.received_at.elapsed()));
                self.emit("call.media_connected", json!({}));
            }
            Progress::AgentJoined { attempt } => {
                info!(
                    agent.attempt = attempt.number(),
                    "agent joined call {} after {}",
                    self.id,
                    shown(self.received_at.elapsed())
                );
                if let Some(target) = self.targets.get(attempt.number()) {
                    self.options.agents.joined(&self.id, target.shown());
                }
                self.emit("call.agent_joined", json!({ "attempt": attempt }));
            }
            Progress::AgentFailed { attempt, failure } => {
                warn!(
                    agent.attempt = attempt.number(),
                    agent.failure = failure.kind.name(),
                    "the agent of call {} {failure}",
                    self.id
                );
                if let Some(target) = self.targets.get(attempt.number()) {
                    self.options.agents.failed(&self.id, &target.shown(), failure.clone());
                }
                let (failure, detail) = (failure.kind.name(), failure.detail.as_deref());
                self.emit("call.agent_lost", json!({ "attempt": attempt, "failure": failure, "detail": detail }));
            }
            Progress::AgentLeft { attempt, reason } => {
                self.emit("call.agent_left", json!({ "attempt": attempt, "reason": reason.name() }));
            }
            Progress::Transferred { from, to } => {
                info!(agent.attempt = to.number(), "call {} is transferred", self.id);
                self.emit("call.transferred", json!({ "completed": true, "from_attempt": from, "to_attempt": to }));
            }
            Progress::TransferFailed { from, to, failure } => {
                let reason = failure.as_ref().map_or("cancelled", |failure| failure.kind.name());
                let detail = failure.as_ref().and_then(|failure| failure.detail.as_deref());
                info!(
                    agent.attempt = to.number(),
                    "the transfer of call {} failed: {}",
                    self.id,
                    detail.unwrap_or(reason)
                );
                let data = json!({
                    "completed": false, "from_attempt": from, "to_attempt": to, "reason": reason, "detail": detail,
                });
                self.emit("call.transferred", data);
            }
            Progress::Accepted => {
                self.stages.accepted = Some(self.received_at.elapsed());
                info!("call {} accepted after {}", self.id, shown(self.received_at.elapsed()));
                self.record.accepted_at = Some(SystemTime::now());
                // pre_accept's outcome may have been unknown.
                self.store.call_answered(self.id.as_str());
                self.store.call_updated(self.record.clone());
                self.emit("call.accepted", json!({}));
            }
        }
    }

    /// The call's first event, which is written with its first record.
    pub(super) fn incoming_event(&mut self) -> CallEvent {
        info!(route = self.number.route.name, "call {} comes in for route {:?}", self.id, self.number.route.name);
        let data = json!({
            "wacid": self.connect.call_id.as_str(),
            "route": self.number.route.name,
            "from": self.record.from,
            "to": { "phone_number_id": self.number.phone_number_id.as_str() },
        });
        self.next_event("call.incoming", data, None)
    }

    pub(super) fn media_silent(&mut self, silent: bool) {
        match silent {
            true => warn!("nothing comes from the caller of call {}", self.id),
            false => info!("the caller of call {} is back", self.id),
        }
        self.emit(if silent { "call.media_silent" } else { "call.media_back" }, json!({}));
    }

    /// What a command brought is told to who gave it, and to the other without secrets; the agent learns of the
    /// application's only if it wants all events.
    fn emit_for_owner(&mut self, owner: Owner, kind: &'static str, told: Value, others: Value) {
        match owner {
            Owner::Agent => self.emit_faces(kind, others, Some(told)),
            Owner::App => {
                let for_agent = self.agent_listens.then_some(others);
                self.emit_faces(kind, told, for_agent);
            }
        }
    }

    pub(super) fn emit(&mut self, kind: &'static str, data: Value) {
        let for_agent = self.agent_listens.then(|| data.clone());
        self.emit_faces(kind, data, for_agent);
    }

    /// The last event, together with the record's end. Nobody hears of it before it is on disk; a disk that does not
    /// answer holds it up for a second at most.
    pub(super) async fn emit_end(&mut self, data: Value) {
        let for_agent = self.agent_listens.then(|| data.clone());
        let event = self.next_event("call.ended", data, for_agent);
        let written = self.store.call_ended(self.record.clone(), EventRecord::of(&event), WRITTEN_WITHIN);
        // The store counts and tells its trouble.
        let _ = written.confirmed().await;
        self.publish_held();
        self.publish(event);
    }

    /// Listeners get events in their order, and none before the call's first record is on disk: a listener that was told
    /// of a call finds it after a crash.
    fn publish(&mut self, event: CallEvent) {
        match &mut self.held {
            Some(held) => held.push(event),
            // Nobody need listen.
            None => drop(self.events.send(event)),
        }
    }

    pub(super) fn publish_held(&mut self) {
        for event in self.held.take().unwrap_or_default() {
            self.publish(event);
        }
    }

    /// One event with two faces: for the application, and for the agent's socket.
    fn emit_faces(&mut self, kind: &'static str, for_app: Value, for_agent: Option<Value>) {
        let event = self.next_event(kind, for_app, for_agent);
        // What finds no room is counted and told by the store.
        let _ = self.store.event(EventRecord::of(&event));
        self.publish(event);
    }

    fn next_event(&mut self, kind: &'static str, for_app: Value, for_agent: Option<Value>) -> CallEvent {
        self.sequence += 1;
        // First, so that whoever is told and then looks sees no less.
        self.status.send_modify(|status| status.stages = self.stages);
        let event = CallEvent::new(self.id.clone(), self.sequence, kind, self.client_state.clone(), for_app);
        if let Some(data) = for_agent {
            self.for_agent.push(CallEvent { data, ..event.clone() });
        }
        event
    }

    /// The agent's socket is told what it is to know.
    pub(super) async fn send_agent_events(&mut self) {
        for event in std::mem::take(&mut self.for_agent) {
            self.command(Command::TellAgent { call: self.id.clone(), event: Box::new(event) }).await;
        }
    }
}

/// Who calls, as events and records say it.
pub(super) fn from_json(connect: &Connect) -> Value {
    json!({ "wa_id": connect.from.wa_id, "user_id": connect.from.user_id, "name": connect.from.name })
}
