//! `/v1/calls`: which calls live, how they stand, and what they are asked to do.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::{Api, rfc3339};
use crate::call::command::{CallCommand, MAX_CLIENT_STATE_BYTES, Refusal};
use crate::call::event::CallId;
use crate::call::registry::Calls;
use crate::call::snapshot::CallSnapshot;
use crate::http::error::{ApiError, Problem};
use crate::whatsapp::webhook::Direction;

/// Calls on one page at most.
const MAX_PAGE: usize = 200;
const USUAL_PAGE: usize = 50;

/// What a call can be asked to do: the names of [`CallCommand`].
pub(super) const ACTIONS: [&str; 26] = [
    "accept",
    "reject",
    "hangup",
    "connect",
    "disconnect",
    "transfer",
    "complete_transfer",
    "cancel_transfer",
    "hold",
    "unhold",
    "mute",
    "unmute",
    "play",
    "stop_playback",
    "gather",
    "stop_gather",
    "send_dtmf",
    "protect",
    "unprotect",
    "start_recording",
    "pause_recording",
    "resume_recording",
    "stop_recording",
    "invite",
    "set_role",
    "dismiss",
];

/// Which part of a list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct PageQuery {
    /// How many at most, 1 to 200; 50 unless said otherwise.
    limit: Option<usize>,
    /// The id after which the page begins: `next` of the page before.
    after: Option<String>,
}

/// Live calls, in the order in which they began.
#[derive(Serialize, ToSchema)]
pub(super) struct CallPage {
    calls: Vec<CallView>,
    /// Ask for `after` this id to get the next page; null on the last.
    next: Option<String>,
}

/// One live call.
#[derive(Serialize, ToSchema)]
pub(super) struct CallView {
    /// Ours; sorts by the time the call began.
    #[schema(example = "call_01k0000000000000000000000")]
    id: String,
    /// Meta's id. It contains the caller's number.
    wacid: String,
    /// `answering`, `ringing`, `accepting`, `talking`, or for a moment `ended`.
    state: &'static str,
    /// `user_initiated` or `business_initiated`.
    direction: &'static str,
    from: CallerView,
    to: NumberView,
    /// The route by its name.
    route: String,
    /// The place, among the route's agent and fallbacks, of the agent that joined last; null while there is none.
    agent_attempt: Option<usize>,
    /// What you keep with the call: the last `client_state` given with an action.
    client_state: Option<String>,
    /// When Meta's webhook came: RFC 3339, UTC.
    began_at: String,
    /// From then until now.
    duration_ms: u64,
    /// From accept until now; null before.
    talked_ms: Option<u64>,
    /// When each stage was reached, in milliseconds from the webhook; null for those that were not.
    #[schema(value_type = Object)]
    stages: Value,
}

/// Who calls. Each part may be missing.
#[derive(Serialize, ToSchema)]
pub(super) struct CallerView {
    /// The phone number in digits.
    wa_id: Option<String>,
    /// The business-scoped user id.
    user_id: Option<String>,
    name: Option<String>,
}

/// The number that is called.
#[derive(Serialize, ToSchema)]
pub(super) struct NumberView {
    /// Meta's id of the number.
    phone_number_id: String,
    /// As people write it.
    display_phone_number: Option<String>,
}

/// What was begun.
#[derive(Serialize, ToSchema)]
pub(super) struct Begun {
    call_id: String,
    /// Of `play`, unless it plays under the voice.
    playback_id: Option<u64>,
    /// Of `gather`.
    gather_id: Option<u64>,
    /// Of `start_recording`.
    recording_id: Option<String>,
    /// Of `invite`.
    guest_id: Option<u32>,
}

/// The live calls
#[utoipa::path(get, path = "/v1/calls", tag = "calls", params(PageQuery), responses(
    (status = 200, description = "A page of the live calls", body = CallPage),
    (status = 400, description = "`invalid_page`, `bad_request`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(query): Query<PageQuery>,
) -> Result<Json<CallPage>, ApiError> {
    let limit = query.limit()?;
    let after = match query.after() {
        Some(text) => Some(CallId::parse(text).ok_or_else(|| invalid_page("after: give the id of a call"))?),
        None => None,
    };
    // One more than asked for says whether there is a next page.
    let mut found = api.options.calls.list(after.as_ref(), limit + 1);
    let has_more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| has_more).map(|last| last.facts.id.to_string());
    Ok(Json(CallPage { calls: found.iter().map(view).collect(), next }))
}

/// One live call
#[utoipa::path(get, path = "/v1/calls/{call_id}", tag = "calls", params(("call_id" = String, Path)), responses(
    (status = 200, description = "The call as it stands", body = CallView),
    (status = 404, description = "`call_not_found`: it has ended, or never was", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn read(State(api): State<Arc<Api>>, Path(call_id): Path<String>) -> Result<Json<CallView>, ApiError> {
    let call = CallId::parse(&call_id).and_then(|id| api.options.calls.get(&id));
    call.as_ref().map(view).map(Json).ok_or_else(|| problem(no_such_call(), None))
}

/// Ask a live call to do something
///
/// The body is a JSON object with what the action needs; none is as good as `{}`. With every action a `client_state` may
/// come: a text of up to 4096 bytes that is kept with the call and repeated in its events. What was begun is told by
/// events: `call.playback_finished`, `call.gather_finished`, `call.recording_finished`, `call.guest_joined`,
/// `call.accepted`, `call.agent_joined`, `call.transferred`, `call.ended`.
#[utoipa::path(post, path = "/v1/calls/{call_id}/actions/{action}", tag = "calls",
    params(("call_id" = String, Path), ("action" = super::openapi::ActionName, Path)),
    request_body(content = super::openapi::ActionBody, content_type = "application/json"),
    responses(
        (status = 200, description = "Done", body = Object, example = json!({})),
        (status = 202, description = "`accept`, `reject`, `hangup`, `connect`, `transfer`, `complete_transfer`, `cancel_transfer`, `play`, `gather`, `start_recording` and `invite` have begun", body = Begun),
        (status = 400, description = "`invalid_json`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`call_not_found`, `unknown_action`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`call_ended`, `call_not_accepted`, `call_already_accepted`, `no_agent`, `transfer_under_way`, `no_transfer`, `not_on_hold`, `nothing_plays`, `nothing_gathers`, `dtmf_unsupported`, `already_recording`, `not_recording`, `too_many_guests`; `state` says how the call stands", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`: more than 1 MB", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_command`, `unknown_prompt`, `unknown_route`, `unknown_guest`", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "`internal_error`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`recording_unavailable`, `shutting_down`", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn act(
    State(api): State<Arc<Api>>,
    Path((call_id, action)): Path<(String, String)>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let body = read_object(&body)?;
    let done = perform(&api.options.calls, &call_id, &action, body).await;
    match done {
        Ok(Value::Null) => Ok((StatusCode::OK, Json(json!({})))),
        Ok(begun) => Ok((StatusCode::ACCEPTED, Json(begun))),
        Err(refusal) => {
            let state = CallId::parse(&call_id).and_then(|id| api.options.calls.get(&id));
            Err(problem(refusal, state.map(|call| call.standing.state)))
        }
    }
}

/// Does what both the REST actions and the commands of `/v1/events` ask for. Gives null for what is done, and the ids
/// of what was begun.
pub(super) async fn perform(
    calls: &Calls,
    call_id: &str,
    action: &str,
    mut body: Map<String, Value>,
) -> Result<Value, Refusal> {
    if !ACTIONS.contains(&action) {
        return Err(Refusal::new("unknown_action", format!("give one of {}", ACTIONS.join(", "))));
    }
    let id = CallId::parse(call_id).ok_or_else(no_such_call)?;
    let client_state = match body.remove("client_state") {
        None => None,
        Some(Value::String(text)) if text.len() <= MAX_CLIENT_STATE_BYTES => Some(text),
        Some(_) => {
            let advice = format!("client_state: give a text of at most {MAX_CLIENT_STATE_BYTES} bytes");
            return Err(Refusal::new("invalid_command", advice));
        }
    };
    body.insert("action".to_owned(), action.into());
    let command: CallCommand = serde_json::from_value(Value::Object(body))
        .map_err(|error| Refusal::new("invalid_command", error.to_string()))?;
    let takes_time = matches!(
        command,
        CallCommand::Play(_) | CallCommand::Gather(_) | CallCommand::StartRecording | CallCommand::Invite(_)
    );
    let mut begun = match calls.perform_keeping(&id, command, client_state).await? {
        Value::Null if takes_time => json!({}),
        answer => answer,
    };
    if let Value::Object(ids) = &mut begun {
        ids.insert("call_id".to_owned(), call_id.into());
    }
    Ok(begun)
}

impl PageQuery {
    pub(super) fn limit(&self) -> Result<usize, ApiError> {
        let limit = self.limit.unwrap_or(USUAL_PAGE);
        let is_good = (1..=MAX_PAGE).contains(&limit);
        is_good.then_some(limit).ok_or_else(|| invalid_page(&format!("limit: give 1 to {MAX_PAGE}")))
    }

    pub(super) fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }
}

pub(super) fn invalid_page(detail: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_page", detail)
}

fn view(call: &CallSnapshot) -> CallView {
    let facts = &call.facts;
    CallView {
        id: facts.id.to_string(),
        wacid: facts.wacid.clone(),
        state: call.standing.state,
        direction: match facts.direction {
            Direction::UserInitiated => "user_initiated",
            Direction::BusinessInitiated => "business_initiated",
        },
        from: CallerView { wa_id: facts.wa_id.clone(), user_id: facts.user_id.clone(), name: facts.name.clone() },
        to: NumberView {
            phone_number_id: facts.phone_number_id.clone(),
            display_phone_number: facts.display_phone_number.clone(),
        },
        route: facts.route.clone(),
        agent_attempt: call.standing.agent,
        client_state: call.standing.client_state.clone(),
        began_at: rfc3339(facts.began_at),
        duration_ms: call.duration().as_millis() as u64,
        talked_ms: call.talked().map(|talked| talked.as_millis() as u64),
        stages: call.standing.stages.to_json(),
    }
}

fn read_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not a JSON object: {error}"))
    })
}

fn no_such_call() -> Refusal {
    Refusal::new("call_not_found", "no live call has this id")
}

fn problem(refusal: Refusal, state: Option<&'static str>) -> ApiError {
    let status = match refusal.code {
        "call_not_found" | "unknown_action" => StatusCode::NOT_FOUND,
        "invalid_command" | "unknown_prompt" | "unknown_route" | "unknown_guest" => StatusCode::UNPROCESSABLE_ENTITY,
        "recording_unavailable" | "shutting_down" => StatusCode::SERVICE_UNAVAILABLE,
        "internal_error" => StatusCode::INTERNAL_SERVER_ERROR,
        _ => StatusCode::CONFLICT,
    };
    let state = match (status, refusal.code) {
        (StatusCode::CONFLICT, "call_ended") => Some("ended"),
        (StatusCode::CONFLICT, _) => state,
        _ => None,
    };
    ApiError { state, ..ApiError::new(status, refusal.code, refusal.message) }
}
