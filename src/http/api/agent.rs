//! `/v1/agent`: the agent of a queue that a key belongs to. It is signed in while it reads its events.

mod stream;

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::ToSchema;

use super::auth::Caller;
use super::idempotency::HoldsSecret;
use super::queues::unavailable;
use super::{Api, ApiOptions, sse, stored};
use crate::browser::token::{GOOD_FOR, Grant, WebRtcRole};
use crate::call::event::CallId;
use crate::clock;
use crate::config::api::Scope;
use crate::http::error::{ApiError, Problem};
use crate::queue::snapshot::{AgentSnapshot, RingSnapshot};
use crate::queue::{AgentName, QueueName, SignIn};
use crate::queues::{AgentView, AnswerError};
use stream::AgentStream;

/// The actions that an agent may use on its own call.
const OWN_ACTIONS: [&str; 10] = [
    "hold",
    "unhold",
    "mute",
    "unmute",
    "send_dtmf",
    "hangup",
    "transfer",
    "complete_transfer",
    "cancel_transfer",
    NOTES,
];

/// The action by which notes are kept with a call.
pub(super) const NOTES: &str = "set_client_state";

/// The agent of the key.
#[derive(Serialize, ToSchema)]
pub(super) struct AgentSelf {
    /// The key's id.
    name: String,
    /// The queues that it takes callers of.
    queues: Vec<String>,
    /// What it can do.
    skills: Vec<String>,
    #[serde(flatten)]
    state: StateView,
    /// The call that rings for it.
    ring: Option<RingView>,
}

/// How an agent stands.
#[derive(Serialize, ToSchema)]
struct StateView {
    /// `signed_out`, `away`, `idle`, `ringing`, `talking` or `wrap_up`.
    state: &'static str,
    /// The call that rings, or that it has.
    call_id: Option<String>,
    /// What is left of the wrap-up time, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    until_ms: Option<u64>,
    /// The agent's last call until it answers the next one; its notes can still be written.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_call_id: Option<String>,
}

/// A call that rings.
#[derive(Serialize, ToSchema)]
struct RingView {
    call_id: String,
    /// Where its caller waits; null if it is put through to this agent.
    queue: Option<String>,
    from: CallerView,
    /// Since the caller entered the queue, or rings here.
    waited_ms: u64,
    /// Until it counts as missed.
    ring_ms: u64,
}

/// Who calls. Each field may be null.
#[derive(Default, Serialize, ToSchema)]
struct CallerView {
    name: Option<String>,
    /// The phone number in digits.
    wa_id: Option<String>,
}

/// Whether calls are taken.
#[derive(Deserialize, ToSchema)]
pub(super) struct Availability {
    /// `true` also ends a wrap-up time; `false` lets the present call go on.
    available: bool,
}

/// The way into the call's sound.
#[derive(Serialize, ToSchema)]
pub(super) struct AnswerToken {
    /// For one `POST /v1/calls/{call_id}/webrtc`, as the call's agent.
    token: String,
    /// It is good for so long.
    expires_in_s: u64,
}

/// Get the agent
///
/// The agent that this key signs in as, its state, and the calls that ring for it.
#[utoipa::path(get, path = "/v1/agent", tag = "agent", responses(
    (status = 200, description = "The agent", body = AgentSelf),
    (status = 503, description = "`queues_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
) -> Result<Json<AgentSelf>, ApiError> {
    let view = api.options.queues.agent(name_of(&caller)).await.map_err(unavailable)?;
    Ok(Json(AgentSelf::of(&api.options, &caller, view)))
}

/// Sign in and read the agent's events
///
/// `text/event-stream`. The agent is signed in while at least one such stream is open, and for 20 s after the last one
/// closed. It begins with `agent.state`; then come `agent.state`, `agent.ringing`, `agent.ring_stopped`, and every event
/// of the agent's own call in the envelope of `/v1/events`. A new agent is `away` until it says that it is available.
#[utoipa::path(get, path = "/v1/agent/events", tag = "agent", responses(
    (status = 200, description = "Events follow", body = String, content_type = "text/event-stream"),
    (status = 503, description = "`too_many_streams`, `queues_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn events(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
) -> Result<Response, ApiError> {
    let place = caller.stream_place()?;
    let in_all = api.agent_streams.clone().try_acquire_owned().map_err(|_| super::too_many_streams())?;
    // Before the agent is signed in, so that no event of its first call is missed.
    let calls = api.options.events.subscribe();
    let agent = name_of(&caller);
    let queues = queues_of(&api.options, &caller);
    let sign_in = SignIn { agent, queues, skills: caller.skills().clone() };
    let attendance = api.options.queues.attend(sign_in).await.map_err(unavailable)?;
    info!(api.key = caller.id(), "agent {} opened a page", caller.id());
    let stopping = api.options.stopping.clone();
    Ok(sse::respond(stopping, |writer| async move {
        let _places = (place, in_all);
        AgentStream::new(writer, attendance, calls, api, caller).run().await
    }))
}

/// Say whether the agent takes calls
#[utoipa::path(put, path = "/v1/agent/availability", tag = "agent", request_body = Availability, responses(
    (status = 200, description = "The agent", body = AgentSelf),
    (status = 409, description = "`not_signed_in`: open `/v1/agent/events` first", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`bad_request`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`queues_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn set_availability(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Json(Availability { available }): Json<Availability>,
) -> Result<Json<AgentSelf>, ApiError> {
    let queues = &api.options.queues;
    queues.set_available(name_of(&caller), available).await.map_err(unavailable)?;
    let view = queues.agent(name_of(&caller)).await.map_err(unavailable)?;
    match view {
        Some(view) => Ok(Json(AgentSelf::of(&api.options, &caller, Some(view)))),
        None => {
            let advice = "the agent is not signed in: open /v1/agent/events first";
            Err(ApiError::new(StatusCode::CONFLICT, "not_signed_in", advice))
        }
    }
}

/// Answer the call that rings
///
/// The first answer wins, of all pages of the agent. Asked again for the call that the agent has, it gives another token,
/// to rejoin. A page that does not connect within 15 s gives the caller back to the queue.
#[utoipa::path(post, path = "/v1/agent/calls/{call_id}/answer", tag = "agent", params(("call_id" = String, Path)), responses(
    (status = 200, description = "A token for the call", body = AnswerToken),
    (status = 409, description = "`not_ringing`: it rings no more, or for another agent; `response_not_kept`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`queues_unavailable`, `too_many_tokens`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn answer(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(call_id): Path<String>,
) -> Result<(Extension<HoldsSecret>, Json<AnswerToken>), ApiError> {
    let (queues, agent) = (&api.options.queues, name_of(&caller));
    let call = CallId::parse(&call_id).ok_or_else(not_ringing)?;
    match queues.answer(agent.clone(), call.clone()).await {
        Ok(()) => {}
        Err(AnswerError::Unavailable(error)) => return Err(unavailable(error)),
        Err(AnswerError::NotOffered(_)) => {
            let view = queues.agent(agent.clone()).await.map_err(unavailable)?;
            let has_it = view.is_some_and(|view| view.agent.own_call() == Some(&call));
            if !has_it {
                return Err(not_ringing());
            }
        }
    }
    let grant = Grant { call, role: WebRtcRole::Agent, origin: None, agent: Some(agent) };
    let token = api
        .tokens
        .issue(grant, clock::now())
        .map_err(|error| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_tokens", error.to_string()))?;
    Ok((Extension(HoldsSecret), Json(AnswerToken { token, expires_in_s: GOOD_FOR.as_secs() })))
}

/// Decline the call that rings
///
/// It rings at another agent, and not at this one again.
#[utoipa::path(post, path = "/v1/agent/calls/{call_id}/decline", tag = "agent", params(("call_id" = String, Path)), responses(
    (status = 204, description = "Declined"),
    (status = 409, description = "`not_ringing`: it rings no more, or for another agent", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`queues_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn decline(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(call_id): Path<String>,
) -> Result<StatusCode, ApiError> {
    let call = CallId::parse(&call_id).ok_or_else(not_ringing)?;
    match api.options.queues.decline(name_of(&caller), call).await {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(AnswerError::NotOffered(_)) => Err(not_ringing()),
        Err(AnswerError::Unavailable(error)) => Err(unavailable(error)),
    }
}

async fn view_of(api: &Api, caller: &Caller) -> Result<Option<AgentView>, ApiError> {
    api.options.queues.agent(name_of(caller)).await.map_err(unavailable)
}

/// Lets a key read a call if it has the scope for all calls, or if its agent has, had or is being offered this one.
/// `agents` are those that have had the caller.
pub(super) async fn check_reads(api: &Api, caller: &Caller, call_id: &str, agents: &[String]) -> Result<(), ApiError> {
    if caller.may(Scope::CallsRead) || agents.iter().any(|agent| agent == caller.id()) {
        return Ok(());
    }
    let view = view_of(api, caller).await?;
    let may = |view: &AgentView| {
        let ringing = view.ring.as_ref().map(|ring| &ring.call);
        [view.agent.own_call(), ringing].into_iter().flatten().any(|call| call.as_str() == call_id)
    };
    if view.as_ref().is_some_and(may) { Ok(()) } else { Err(not_own_call(caller, Scope::CallsRead)) }
}

/// Lets a key fetch the recordings of a call if it has the scope for all recordings, or if its agent had this call.
pub(super) async fn check_hears(api: &Api, caller: &Caller, call_id: Option<&str>) -> Result<(), ApiError> {
    if caller.may(Scope::RecordingsRead) {
        return Ok(());
    }
    if let Some(call) = call_id.and_then(CallId::parse) {
        let had_it = |agents: &[String]| agents.iter().any(|agent| agent == caller.id());
        let live = api.options.calls.get(&call);
        if live.is_some_and(|live| had_it(&live.status.agents))
            || stored(api.options.store.call(call.as_str())).await?.is_some_and(|record| had_it(&record.agents))
        {
            return Ok(());
        }
    }
    Err(not_own_call(caller, Scope::RecordingsRead))
}

/// Lets a key act on a call if it has the scope for all calls, or if its agent has this one and may use the action. Notes
/// may be written until the agent answers another call.
pub(super) async fn check_acts(api: &Api, caller: &Caller, call_id: &str, action: &str) -> Result<(), ApiError> {
    if caller.may(Scope::CallsWrite) {
        return Ok(());
    }
    let view = view_of(api, caller).await?;
    let is = |call: Option<&CallId>| call.is_some_and(|call| call.as_str() == call_id);
    let may = |AgentView { agent, .. }: &AgentView| {
        let is_own = is(agent.own_call()) && OWN_ACTIONS.contains(&action);
        is_own || (is(agent.last_call.as_ref()) && action == NOTES)
    };
    if view.as_ref().is_some_and(may) { Ok(()) } else { Err(not_own_call(caller, Scope::CallsWrite)) }
}

pub(super) fn not_own_call(caller: &Caller, scope: Scope) -> ApiError {
    let detail = format!(
        "the key {:?} lacks the scope {:?}: without it an agent may use {} on its own call",
        caller.id(),
        scope.name(),
        OWN_ACTIONS.join(", ")
    );
    ApiError { scope: Some(scope.name()), ..ApiError::new(StatusCode::FORBIDDEN, "missing_scope", detail) }
}

fn not_ringing() -> ApiError {
    ApiError::new(StatusCode::CONFLICT, "not_ringing", "this call does not ring for you, or not any more")
}

fn name_of(caller: &Caller) -> AgentName {
    caller.id().into()
}

/// Those of the key that there are.
fn queues_of(options: &ApiOptions, caller: &Caller) -> BTreeSet<QueueName> {
    options.queues.names().filter(|queue| caller.serves(queue)).cloned().collect()
}

impl AgentSelf {
    fn of(options: &ApiOptions, caller: &Caller, view: Option<AgentView>) -> Self {
        let (agent, ring) = view.map_or((None, None), |view| (Some(view.agent), view.ring));
        Self {
            name: caller.id().to_owned(),
            queues: queues_of(options, caller).iter().map(ToString::to_string).collect(),
            skills: caller.skills().iter().map(ToString::to_string).collect(),
            state: agent.as_ref().map_or(StateView::SIGNED_OUT, StateView::of),
            ring: ring.map(|ring| RingView::of(options, &ring)),
        }
    }
}

impl StateView {
    const SIGNED_OUT: Self = Self { state: "signed_out", call_id: None, until_ms: None, last_call_id: None };

    fn of(agent: &AgentSnapshot) -> Self {
        Self {
            state: agent.state,
            call_id: agent.call.as_ref().map(ToString::to_string),
            last_call_id: agent.last_call.as_ref().map(ToString::to_string),
            until_ms: agent.until.map(|until| until.saturating_duration_since(clock::now()).as_millis() as u64),
        }
    }
}

impl RingView {
    fn of(options: &ApiOptions, ring: &RingSnapshot) -> Self {
        let caller = options.calls.get(&ring.call).map(|call| {
            let user = &call.facts.description.user;
            CallerView { name: user.name.clone(), wa_id: user.wa_id.clone() }
        });
        Self {
            call_id: ring.call.to_string(),
            queue: ring.queue.as_ref().map(ToString::to_string),
            from: caller.unwrap_or_default(),
            waited_ms: ring.waited.as_millis() as u64,
            ring_ms: ring.left.as_millis() as u64,
        }
    }
}
