//! `/v1/queues`: waiting callers, agents, and the service level.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::Api;
use crate::http::error::{ApiError, Problem};
use crate::queue::snapshot::{AgentSnapshot, QueueSnapshot, WaitingSnapshot};
use crate::queues::Unavailable;

/// All queues, by name.
#[derive(Serialize, ToSchema)]
pub(super) struct QueueList {
    queues: Vec<QueueView>,
}

/// One queue.
#[derive(Serialize, ToSchema)]
pub(super) struct QueueView {
    name: String,
    /// Callers, the longest waiting first.
    waiting: Vec<WaitingView>,
    /// How long the first has waited; 0 when nobody waits.
    longest_wait_ms: u64,
    /// Agents that are signed in.
    agents: Vec<QueueAgentView>,
    /// Since the start of the service.
    counts: CountsView,
    /// The share of answered and abandoned callers that were answered within `service_level`; null before the first.
    service_level: Option<f64>,
}

/// A caller that waits.
#[derive(Serialize, ToSchema)]
pub(super) struct WaitingView {
    call_id: String,
    waited_ms: u64,
    /// The agent that it rings at.
    rings_at: Option<String>,
}

/// An agent of a queue.
#[derive(Serialize, ToSchema)]
pub(super) struct QueueAgentView {
    name: String,
    /// `away`, `idle`, `ringing`, `talking` or `wrap_up`.
    state: &'static str,
    /// The call that rings, or that it has.
    call_id: Option<String>,
}

/// Callers by what became of them.
#[derive(Serialize, ToSchema)]
pub(super) struct CountsView {
    answered: u64,
    /// Of those, within `service_level`.
    answered_in_time: u64,
    abandoned: u64,
    overflowed: u64,
}

/// List the queues
#[utoipa::path(get, path = "/v1/queues", tag = "agent", responses(
    (status = 200, description = "All queues", body = QueueList),
    (status = 503, description = "`queues_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(State(api): State<Arc<Api>>) -> Result<Json<QueueList>, ApiError> {
    let queues = api.options.queues.snapshot().await.map_err(unavailable)?;
    Ok(Json(QueueList { queues: queues.iter().map(QueueView::of).collect() }))
}

/// The queues' task is gone or stuck.
pub(super) fn unavailable(error: Unavailable) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "queues_unavailable", format!("{error}: try again later"))
}

impl QueueView {
    fn of(queue: &QueueSnapshot) -> Self {
        let counts = queue.counts;
        Self {
            name: queue.name.to_string(),
            waiting: queue.waiting.iter().map(WaitingView::of).collect(),
            longest_wait_ms: queue.longest_wait().as_millis() as u64,
            agents: queue.agents.iter().map(QueueAgentView::of).collect(),
            counts: CountsView {
                answered: counts.answered,
                answered_in_time: counts.answered_in_time,
                abandoned: counts.abandoned,
                overflowed: counts.overflowed,
            },
            service_level: counts.service_level(),
        }
    }
}

impl WaitingView {
    fn of(waiting: &WaitingSnapshot) -> Self {
        Self {
            call_id: waiting.call.to_string(),
            waited_ms: waiting.waited.as_millis() as u64,
            rings_at: waiting.rings_at.as_ref().map(ToString::to_string),
        }
    }
}

impl QueueAgentView {
    fn of(agent: &AgentSnapshot) -> Self {
        let call_id = agent.call.as_ref().map(ToString::to_string);
        Self { name: agent.name.to_string(), state: agent.state, call_id }
    }
}
