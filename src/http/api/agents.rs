//! `/v1/agents`: the agents of all routes at each of their addresses, and whether these can be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Query, State};
use serde::Serialize;
use url::Url;
use utoipa::ToSchema;

use super::page::PageQuery;
use super::{Api, rfc3339};
use crate::agent::{AgentOutcome, AgentTarget, BreakerState, InstanceView, shown_address};
use crate::call::AttemptKind;
use crate::clock;
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
    /// Whether calls dial the address; null for agents that are not on a WebSocket.
    breaker: Option<BreakerView>,
}

/// How often an address has failed, and what follows from it.
#[derive(Serialize, ToSchema)]
pub(super) struct BreakerView {
    /// `closed`: it is dialled. `open`: it failed three times in a row, and other instances are dialled before it.
    /// `half_open`: one call may try it.
    state: &'static str,
    /// Since an agent joined there.
    consecutive_failures: u32,
    /// The last attempt, or conversation, that failed; null if there was none since the start.
    last_failure: Option<OutcomeView>,
    /// When one call may try it, RFC 3339, UTC; null unless it is open.
    next_try_at: Option<String>,
}

/// The outcome of one attempt.
#[derive(Serialize, ToSchema)]
pub(super) struct OutcomeView {
    /// `joined`, or how it failed: `refused`, `no_answer`, `disconnected`, `unresponsive`, `protocol_error`, `too_slow`, `too_fast`.
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
    let mut agents: BTreeMap<String, Configured> = BTreeMap::new();
    for route in api.options.settings.get().routes.iter() {
        for target in route.targets.iter().filter(|target| target.attempt_kind() == AttemptKind::Agent) {
            for (shown, url) in places_of(target) {
                let agent = agents.entry(shown).or_insert_with(|| Configured::new(target.kind()));
                agent.urls.extend(url);
                if !agent.routes.contains(&route.name) {
                    agent.routes.push(route.name.clone());
                }
            }
        }
    }
    let found = agents.into_iter().filter(|(url, _)| page.after.as_ref().is_none_or(|after| url > after));
    let (found, next) = page.cut(found.collect(), |(url, _)| url.clone());
    Ok(Json(AgentPage { agents: found.into_iter().map(|(url, agent)| view(&api, url, agent)).collect(), next }))
}

/// An agent of the configuration at one address.
struct Configured {
    kind: &'static str,
    routes: Vec<String>,
    /// Its WebSockets; several if only what is not shown tells them apart.
    urls: BTreeSet<Url>,
}

impl Configured {
    fn new(kind: &'static str) -> Self {
        Self { kind, routes: Vec::new(), urls: BTreeSet::new() }
    }
}

/// Each address of an agent as it is shown, and that of its WebSocket.
fn places_of(target: &AgentTarget) -> Vec<(String, Option<Url>)> {
    if let AgentTarget::WebSocket(agent) = target {
        return agent.urls().map(|url| (shown_address(url), Some(url.clone()))).collect();
    }
    vec![(target.shown(), target.urls().pop())]
}

fn view(api: &Api, url: String, agent: Configured) -> AgentView {
    let Configured { kind, routes, urls } = agent;
    let now = clock::now();
    let instances: Vec<InstanceView> = urls.iter().map(|url| api.options.instances.look(url, now)).collect();
    let Some(worst) = instances.iter().max_by_key(|instance| instance.failures) else {
        return view_without_breaker(api, kind, url, routes);
    };
    let latest = instances.iter().filter_map(|instance| instance.last_outcome.as_ref()).max_by_key(|last| last.at);
    AgentView {
        kind,
        url,
        routes,
        live_calls: instances.iter().map(|instance| instance.live_calls).sum(),
        last_outcome: latest.map(outcome),
        breaker: Some(breaker(worst, now)),
    }
}

fn breaker(instance: &InstanceView, now: Instant) -> BreakerView {
    let (state, waits) = match instance.breaker {
        BreakerState::Closed => ("closed", None),
        BreakerState::Open { until } => ("open", Some(until.saturating_duration_since(now))),
        BreakerState::HalfOpen => ("half_open", None),
    };
    let last_failure = instance.last_failure.clone();
    let last_failure = last_failure.map(|(at, failure)| outcome(&AgentOutcome { at, failure: Some(failure) }));
    let next_try_at = waits.map(|waits| rfc3339(clock::wall() + waits));
    BreakerView { state, consecutive_failures: instance.failures, last_failure, next_try_at }
}

fn outcome(outcome: &AgentOutcome) -> OutcomeView {
    let AgentOutcome { at, failure } = outcome;
    OutcomeView {
        outcome: failure.as_ref().map_or("joined", |failure| failure.kind.name()),
        detail: failure.as_ref().and_then(|failure| failure.detail.as_ref()).map(ToString::to_string),
        at: rfc3339(*at),
    }
}

/// Of an agent that is not on a WebSocket.
fn view_without_breaker(api: &Api, kind: &'static str, url: String, routes: Vec<String>) -> AgentView {
    let (calls, agents) = (&api.options.calls, api.options.calls.agents());
    // A call may have dropped it since.
    let is_there = |call| calls.get(call).is_some_and(|call| call.status.agent.is_some());
    let live_calls = agents.calls_with(&url).iter().filter(|call| is_there(call)).count();
    let last_outcome = agents.outcome(&url).as_ref().map(outcome);
    AgentView { kind, url, routes, live_calls, last_outcome, breaker: None }
}
