//! What a session does with the reports of its worker: inputs for the call, and events.

use std::time::Duration;

use patchcord_media::quality::{Estimate, Level};
use serde_json::json;
use tracing::{info, warn};

use super::{LATE_WORKER, Session};
use crate::agent::AgentTarget;
use crate::call::Input;
use crate::call::end::EndReason;
use crate::recordings::RecordingResult;
use crate::worker::Report;
use crate::worker::call_media::quality_json;

/// For the files of recordings to be closed after the call; the store has a log line for a slower disk.
const RECORDING_CLOSED_WITHIN: Duration = Duration::from_secs(5);

impl Session {
    /// Returns the call's input, if the report is one; the others become events.
    pub(super) fn read_report(&mut self, report: Report) -> Option<Input> {
        match report {
            Report::MediaConnected => {
                self.record.reach(|stages| &mut stages.media_connected);
                return Some(Input::MediaConnected);
            }
            Report::AgentJoined { attempt } => {
                self.record.reach(|stages| &mut stages.agent_joined);
                if let Some(agent) = self.queue.joined(attempt) {
                    self.record.agent_joined(&agent);
                }
                if let Some(model) = self.targets.get(attempt.number()).and_then(AgentTarget::model) {
                    self.record.model_joined(attempt, model.to_string());
                }
                return Some(Input::AgentJoined { attempt });
            }
            Report::VoiceBeforeAccept => return self.voice_before_accept(),
            Report::Broken => return Some(Input::HangUp(EndReason::InternalError)),
            Report::MediaFailed(failure) => return Some(Input::MediaFailed(failure)),
            Report::AgentInterrupted { attempt, failure, back_within } => {
                self.record.model_left(attempt);
                let back_within = back_within + LATE_WORKER;
                return Some(Input::AgentInterrupted { attempt, failure, back_within });
            }
            Report::AgentFailed { attempt, failure } => {
                self.record.model_left(attempt);
                return Some(Input::AgentFailed { attempt, failure });
            }
            Report::AgentHungUp { attempt } => {
                self.record.model_left(attempt);
                return Some(Input::AgentHungUp { attempt });
            }
            Report::ModelUsed { attempt, tokens } => self.record.model_used(attempt, tokens),
            Report::PromptsFinished => return Some(Input::PromptFinished),
            Report::MediaSilent(silent) => self.media_silent(silent),
            Report::Dtmf { digit, duration_ms } => {
                // The agent has a message of its own for it.
                self.events.emit_views("call.dtmf", json!({ "digit": digit, "duration_ms": duration_ms }), None);
            }
            Report::EventsWanted => self.events.subscribe_agent(),
            // Only a live call performs it, and then it is read elsewhere.
            Report::Asked { .. } => {}
            Report::ParticipantJoined { participant } => {
                self.events.emit("call.guest_joined", json!({ "guest_id": participant }));
            }
            Report::ParticipantLeft { participant, reason, detail, sip_code } => {
                if let Some(detail) = &detail {
                    info!("a participant of call {} is gone: {detail}", self.context.id);
                }
                let mut data = json!({ "guest_id": participant, "reason": reason, "detail": detail.as_deref() });
                if let Some(code) = sip_code {
                    data["sip_code"] = code.into();
                }
                self.events.emit("call.guest_left", data);
            }
            Report::Quality(Estimate { quality, is_news }) => {
                let shown = quality_json(&quality);
                self.record.show_quality(shown.clone());
                if is_news {
                    if quality.level == Level::Poor {
                        info!("call {} has poor audio quality", self.context.id);
                    }
                    self.events.emit("call.quality", shown);
                }
            }
            Report::Held(is_held) => {
                self.record.show_hold(is_held);
                self.events.emit(if is_held { "call.held" } else { "call.unheld" }, json!({}));
            }
            Report::Speech { started } => {
                let kind = if started { "call.speech_started" } else { "call.speech_stopped" };
                self.events.emit_views(kind, json!({}), Some(json!({})));
            }
            Report::RecordingStarted { id, result } => {
                self.record.recording_began(&id);
                self.events.emit("call.recording_started", json!({ "recording_id": id }));
                self.record.add_recording(&id);
                self.recordings.add(id, result);
            }
            Report::PlaybackFinished { id, owner, completed } => {
                let data = json!({ "playback_id": id, "completed": completed });
                self.events.emit_outcome(owner, "call.playback_finished", data.clone(), data);
            }
            Report::Gathered { id, owner, protected, gathered } => {
                let reason = gathered.end.name();
                let full = json!({ "gather_id": id, "digits": gathered.digits, "reason": reason });
                let masked = json!({ "gather_id": id, "digits": null, "reason": reason });
                let masked = if protected { masked } else { full.clone() };
                self.events.emit_outcome(owner, "call.gather_finished", full, masked);
            }
        }
        None
    }

    /// Only a person who has accepted a call that we place is heard: Meta's ACCEPTED is late, or lost.
    fn voice_before_accept(&self) -> Option<Input> {
        self.context.origin.placement()?;
        info!("the callee of call {} is heard before Meta's status ACCEPTED, and so has accepted", self.context.id);
        metrics::counter!("patchcord_calls_accepted_by_voice_total").increment(1);
        Some(Input::PickedUp)
    }

    fn media_silent(&mut self, silent: bool) {
        match silent {
            true => warn!("no media from the caller of call {}", self.context.id),
            false => info!("media from the caller of call {} again", self.context.id),
        }
        self.events.emit(if silent { "call.media_silent" } else { "call.media_back" }, json!({}));
    }

    pub(super) fn recording_finished(&mut self, result: Option<RecordingResult>) {
        if let Some(result) = result {
            self.context.store.recording_finished(&result);
            self.events.emit("call.recording_finished", json!(result));
        }
    }

    /// Waits for the files of recordings, so that `call.ended` comes last. The call is over at Meta and has no agent.
    pub(super) async fn close_recordings(&mut self) {
        // What the worker reported before it released the call.
        while let Some(report) = self.worker.queued_report() {
            self.read_report(report);
        }
        let deadline = tokio::time::Instant::now() + RECORDING_CLOSED_WITHIN;
        while let Ok(Some(result)) = tokio::time::timeout_at(deadline, self.recordings.next_finished()).await {
            self.recording_finished(result);
        }
        for id in self.recordings.take_unfinished() {
            warn!(recording.id = %id, "recording {id} is not written yet: the disk does not answer");
            let data = json!({ "recording_id": id, "complete": false, "problem": "the disk does not answer" });
            self.events.emit("call.recording_finished", data);
        }
    }
}
