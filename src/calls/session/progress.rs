//! What a session publishes of its call's progress: events, log lines, and the status of agents.

use serde_json::json;
use tracing::{info, warn};

use super::Session;
use crate::call::agent_failure::AgentFailure;
use crate::call::{Attempt, Progress};
use crate::telemetry::shown;

impl Session {
    pub(super) fn report(&mut self, progress: &Progress) {
        let id = self.context.id.clone();
        let elapsed = shown(self.record.received_at().elapsed());
        match progress {
            Progress::PreAccepted => {
                self.record.reach(|stages| &mut stages.pre_accepted);
                self.record.answered();
                self.events.emit("call.pre_accepted", json!({}));
            }
            Progress::MediaConnected => {
                info!("media of call {id} is up after {elapsed}");
                self.events.emit("call.media_connected", json!({}));
            }
            Progress::AgentJoined { attempt } => {
                info!(agent.attempt = attempt.number(), "agent joined call {id} after {elapsed}");
                if let Some(target) = self.targets.get(attempt.number()) {
                    self.context.options.agents.joined(&id, target.shown());
                }
                self.events.emit("call.agent_joined", json!({ "attempt": attempt }));
            }
            Progress::AgentInterrupted { attempt, failure } => {
                warn!(
                    agent.attempt = attempt.number(),
                    agent.failure = failure.kind.name(),
                    "the agent of call {id} {failure}; it is dialled again"
                );
                self.agent_lost(*attempt, failure, true);
            }
            Progress::AgentRejoined { attempt, away } => {
                info!(agent.attempt = attempt.number(), "the agent of call {id} is back after {}", shown(*away));
                if let Some(target) = self.targets.get(attempt.number()) {
                    self.context.options.agents.joined(&id, target.shown());
                }
                let data = json!({ "attempt": attempt, "away_ms": away.as_millis() as u64 });
                self.events.emit("call.agent_rejoined", data);
            }
            Progress::AgentFailed { attempt, failure } => {
                warn!(
                    agent.attempt = attempt.number(),
                    agent.failure = failure.kind.name(),
                    "the agent of call {id} {failure}"
                );
                self.agent_lost(*attempt, failure, false);
            }
            Progress::AgentLeft { attempt, reason } => {
                self.events.emit("call.agent_left", json!({ "attempt": attempt, "reason": reason.name() }));
            }
            Progress::Transferred { from, to } => {
                info!(agent.attempt = to.number(), "call {id} is transferred");
                let data = json!({ "completed": true, "from_attempt": from, "to_attempt": to });
                self.events.emit("call.transferred", data);
            }
            Progress::TransferFailed { from, to, failure } => {
                let reason = failure.as_ref().map_or("cancelled", |failure| failure.kind.name());
                let detail = failure.as_ref().and_then(|failure| failure.detail.as_deref());
                info!(agent.attempt = to.number(), "the transfer of call {id} failed: {}", detail.unwrap_or(reason));
                let mut data = json!({
                    "completed": false, "from_attempt": from, "to_attempt": to, "reason": reason, "detail": detail,
                });
                if let Some(code) = failure.as_ref().and_then(|failure| failure.sip_code) {
                    data["sip_code"] = code.into();
                }
                self.events.emit("call.transferred", data);
            }
            Progress::Ringing => {
                self.record.reach(|stages| &mut stages.ringing);
                info!("the callee's phone rings for call {id} after {elapsed}");
                let record = self.record.record();
                self.events
                    .emit("call.ringing", json!({ "wacid": record.description.wacid, "tracker": record.tracker }));
            }
            Progress::Accepted => {
                self.record.reach(|stages| &mut stages.accepted);
                info!("call {id} accepted after {elapsed}");
                self.record.accepted();
                self.meta.call_answered(&self.context.origin);
                self.events.emit("call.accepted", json!({}));
            }
        }
    }

    /// `redialling`: it may come back.
    fn agent_lost(&mut self, attempt: Attempt, failure: &AgentFailure, redialling: bool) {
        if let Some(target) = self.targets.get(attempt.number()) {
            self.context.options.agents.failed(&self.context.id, &target.shown(), failure.clone());
        }
        let (kind, detail) = (failure.kind.name(), failure.detail.as_deref());
        let mut data = json!({ "attempt": attempt, "failure": kind, "detail": detail, "redialling": redialling });
        if let Some(code) = failure.sip_code {
            data["sip_code"] = code.into();
        }
        self.events.emit("call.agent_lost", data);
    }
}
