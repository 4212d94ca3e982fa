//! `/v1/agents`: the agents of all routes, and the outcome of the last attempt to reach each.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Query, State};
use serde::Serialize;
use utoipa::ToSchema;

use super::page::PageQuery;
use super::{Api, rfc3339};
use crate::agent::AgentOutcome;
use crate::call::AttemptKind;
use crate::http::error::{ApiError, Problem};

/// Agents, sorted by address.
#[derive(Serialize, ToSchema)]
pub(super) struct AgentPage {
    agents: Vec<AgentView>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

/// One configured agent.
#[derive(Serialize, ToSchema)]
pub(super) struct AgentView {
    /// `websocket`
    #[serde(rename = "type")]
    kind: &'static str,
    /// The URL without credentials and query.
    url: String,
    /// The routes that name it, as agent or fallback.
    routes: Vec<String>,
    /// Number of calls it is in.
    live_calls: usize,
    /// The last attempt; null if there was none since the start.
    last_outcome: Option<OutcomeView>,
}

/// The outcome of one attempt.
#[derive(Serialize, ToSchema)]
pub(super) struct OutcomeView {
    /// `joined`, or how it failed: `refused`, `no_answer`, `disconnected`, `unresponsive`, `protocol_error`, `too_slow`.
    outcome: &'static str,
    /// The cause of a failure, such as an HTTP status or a system error, where one is known; otherwise
    /// null.
    detail: Option<String>,
    /// RFC 3339, UTC.
    at: String,
}

/// List the agents
#[utoipa::path(get, path = "/v1/agents", tag = "routes", params(PageQuery), responses(
    (status = 200, description = "A page of the agents, by address", body = AgentPage),
    (status = 400, description = "`invalid_page`, `bad_request`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(query): Query<PageQuery>,
) -> Result<Json<AgentPage>, ApiError> {
    let page = query.read("the address of an agent", |text| Some(text.to_owned()))?;
    let mut agents: BTreeMap<String, (&'static str, Vec<String>)> = BTreeMap::new();
    for route in api.options.settings.get().routes.iter() {
        for target in route.targets.iter().filter(|target| target.attempt_kind() == AttemptKind::Agent) {
            let (_, routes) = agents.entry(target.shown()).or_insert_with(|| (target.kind(), Vec::new()));
            if !routes.contains(&route.name) {
                routes.push(route.name.clone());
            }
        }
    }
    let found = agents.into_iter().filter(|(url, _)| page.after.as_ref().is_none_or(|after| url > after));
    let (found, next) = page.cut(found.collect(), |(url, _)| url.clone());
    Ok(Json(AgentPage {
        agents: found.into_iter().map(|(url, (kind, routes))| view(&api, kind, url, routes)).collect(),
        next,
    }))
}

fn view(api: &Api, kind: &'static str, url: String, routes: Vec<String>) -> AgentView {
    let (calls, agents) = (&api.options.calls, api.options.calls.agents());
    // A call may have dropped it since.
    let is_there = |call| calls.get(call).is_some_and(|call| call.status.agent.is_some());
    let live_calls = agents.calls_with(&url).iter().filter(|call| is_there(call)).count();
    let last_outcome = agents.outcome(&url).map(|AgentOutcome { at, failure }| OutcomeView {
        outcome: failure.as_ref().map_or("joined", |failure| failure.kind.name()),
        detail: failure.and_then(|failure| failure.detail).map(|detail| detail.to_string()),
        at: rfc3339(at),
    });
    AgentView { kind, url, routes, live_calls, last_outcome }
}
