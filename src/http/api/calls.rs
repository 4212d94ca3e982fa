//! `/v1/calls`: live and past calls, and the actions on live ones.

#![expect(unused_qualifications, reason = "utoipa writes them")]

mod order;
mod external;
pub(super) mod placing;
pub(super) mod several;
pub(super) mod view;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Path, Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::page::PageQuery;
use super::{Api, ApiOptions, agent, read_object, rfc3339, stored};
use crate::agent::dialect::native;
use crate::call::command::{ACTIONS, CallCommand, CommandResult, MAX_CLIENT_STATE_BYTES};
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::calls::Calls;
use crate::calls::snapshot::{CallFacts, CallSnapshot, CallStatus};
use crate::config::api::Scope;
use crate::egress::Hosts;
use crate::http::error::{ApiError, OfMeta, Problem};
use crate::store::{CallFilter, CallRecord, CallState};
use view::CallView;

/// Deadline for a call to perform an action.
const DONE_WITHIN: Duration = Duration::from_secs(10);

/// Filters of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct CallQuery {
    /// `live` or `ended`; both if omitted.
    #[param(inline, value_type = Option<StateName>)]
    state: Option<String>,
    /// Only calls to this business number, by Meta's id.
    phone_number_id: Option<String>,
    /// Only calls of this route.
    route: Option<String>,
    /// Only calls of the WhatsApp user with this number, in digits.
    #[param(example = "491511234567", pattern = "^[0-9]{1,20}$")]
    wa_id: Option<String>,
    /// `true`: only calls that the key's agent had.
    #[serde(default)]
    #[param(required = false)]
    mine: bool,
    /// Only calls that began at this time or later: RFC 3339, UTC.
    #[param(example = "2026-01-31T08:00:00Z", pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    since: Option<String>,
    /// Only calls that began before this time: RFC 3339, UTC.
    #[param(example = "2026-02-01T08:00:00Z", pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z$")]
    until: Option<String>,
}

/// Whether a call is live.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "used by the OpenAPI document only")]
enum StateName {
    Live,
    Ended,
}

/// Live and past calls, newest first.
#[derive(Serialize, ToSchema)]
pub(super) struct CallPage {
    calls: Vec<CallView>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

/// The action has begun; ids of what it began.
#[derive(Serialize, ToSchema)]
pub(super) struct Begun {
    call_id: String,
    /// Of `play`, unless `under_voice` is set.
    playback_id: Option<u64>,
    /// Of `gather`.
    gather_id: Option<u64>,
    /// Of `start_recording`.
    recording_id: Option<String>,
    /// Of `invite`.
    guest_id: Option<u32>,
}

/// List live and past calls
///
/// One list, newest first. Records of ended calls are kept for `store.keep_calls`.
#[utoipa::path(get, path = "/v1/calls", tag = "calls", params(PageQuery, CallQuery), responses(
    (status = 200, description = "A page of the calls", body = CallPage),
    (status = 400, description = "`invalid_page`, `invalid_filter`, `bad_request`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`store_unavailable`: past calls cannot be read; live ones can, with `state=live`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Query(page): Query<PageQuery>,
    Query(query): Query<CallQuery>,
) -> Result<Json<CallPage>, ApiError> {
    if !(query.mine || caller.may(Scope::CallsRead)) {
        return Err(agent::not_own_call(&caller, Scope::CallsRead));
    }
    let agent = query.mine.then(|| caller.id().to_owned());
    let page = page.read("the id of a call", CallId::parse)?;
    let filter = CallFilter {
        before: page.after.as_ref().map(CallId::to_string),
        limit: page.to_find(),
        agent,
        ..query.read()?
    };
    let live = match filter.state {
        Some(CallState::Ended) => Vec::new(),
        Some(CallState::Live) | None => api
            .options
            .calls
            .list(page.after.as_ref(), page.to_find(), |facts, status| is_wanted(facts, status, &filter)),
    };
    // Read after the live ones, so that a call that ends in between is in at least one of the two.
    let records = match filter.state {
        // A client that controls live calls does not wait for the disk.
        Some(CallState::Live) if live.iter().all(view::is_complete) => Vec::new(),
        Some(CallState::Live) => stored(api.options.store.calls(filter.clone())).await.unwrap_or_default(),
        Some(CallState::Ended) | None => stored(api.options.store.calls(filter.clone())).await?,
    };
    let (calls, next) = page.cut(together(live, records, filter.state), |call| call.id.clone());
    Ok(Json(CallPage { calls, next }))
}

/// Get one call
///
/// Its present state while it is live, its record afterwards, in one shape.
#[utoipa::path(get, path = "/v1/calls/{call_id}", tag = "calls", params(("call_id" = String, Path)), responses(
    (status = 200, description = "The call", body = CallView),
    (status = 404, description = "`call_not_found`: no such call, or its record has expired", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`store_unavailable`: past calls cannot be read", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path(call_id): Path<String>,
) -> Result<Json<CallView>, ApiError> {
    let id = CallId::parse(&call_id).ok_or_else(|| problem(no_such_call(), None))?;
    // Before the record, so that a call that ends in between has its record by then.
    let live = api.options.calls.get(&id);
    if live.as_ref().is_some_and(view::is_complete) {
        let call = CallView::of(None, live).ok_or_else(|| problem(no_such_call(), None))?;
        agent::check_reads(&api, &caller, &call.id, &call.agents).await?;
        return Ok(Json(call));
    }
    let record = match stored(api.options.store.call(id.as_str())).await {
        Ok(record) => record,
        Err(_) if live.is_some() => None,
        Err(error) => return Err(error),
    };
    let call = CallView::of(record, live).ok_or_else(|| problem(no_such_call(), None))?;
    agent::check_reads(&api, &caller, &call.id, &call.agents).await?;
    Ok(Json(call))
}

/// Perform an action on a live call
///
/// The body is a JSON object with the action's fields; an empty body counts as `{}`. Every action accepts `client_state`,
/// a text of up to 4096 bytes that is kept with the call and repeated in its events; `set_client_state` alone also works
/// after the call's end, and changes its record then. The outcome of what was begun arrives in
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
        (status = 409, description = "`call_ended`, `call_not_accepted`, `call_already_accepted`, `no_agent`, `transfer_under_way`, `no_transfer`, `not_on_hold`, `nothing_plays`, `nothing_gathers`, `dtmf_unsupported`, `already_recording`, `not_recording`, `too_many_guests`, `wacid_in_use`; `state` says how the call stands", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`body_too_large`: more than 1 MB", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "`invalid_command`, `unknown_prompt`, `unknown_route`, `unknown_queue`, `unknown_agent`, `unknown_guest`, `invalid_url`, `url_not_allowed`, `url_unresolved`, `answer_refused`", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "`internal_error`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`recording_unavailable`, `shutting_down`", body = Problem, content_type = "application/problem+json"),
        (status = 504, description = "`no_answer`: the call did not answer in time and may still perform it", body = Problem, content_type = "application/problem+json"),
    ))]
pub(super) async fn act(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Path((call_id, action)): Path<(String, String)>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    agent::check_acts(&api, &caller, &call_id, &action).await?;
    let body = read_object(&body)?;
    let done = perform(&api.options, caller.hosts(), &call_id, &action, body).await;
    match done {
        Ok(Value::Null) => Ok((StatusCode::OK, Json(json!({})))),
        Ok(begun) => Ok((StatusCode::ACCEPTED, Json(begun))),
        Err(refusal) => {
            let state = CallId::parse(&call_id).and_then(|id| api.options.calls.get(&id));
            Err(problem(refusal, state.map(|call| view::state_of(&call))))
        }
    }
}

/// Performs an action of the REST API or a command of `/v1/events`. Gives null for what is done, and the ids
/// of what was begun.
pub(super) async fn perform(
    options: &ApiOptions,
    hosts: Hosts,
    call_id: &str,
    action: &str,
    body: Map<String, Value>,
) -> Result<Value, Refusal> {
    if !ACTIONS.contains(&action) {
        return Err(Refusal::new(RefusalCode::UnknownAction, format!("give one of {}", ACTIONS.join(", "))));
    }
    let id = CallId::parse(call_id).ok_or_else(no_such_call)?;
    let notes = body.get("client_state").and_then(Value::as_str).filter(|_| action == agent::NOTES).map(str::to_owned);
    let done = tokio::time::timeout(DONE_WITHIN, have_done(&options.calls, hosts, &id, action, body));
    let done = done.await.unwrap_or_else(|_| Err(no_answer()));
    let is_over = |refusal: &Refusal| matches!(refusal.code, RefusalCode::CallNotFound | RefusalCode::CallEnded);
    match (done, notes) {
        (Err(refusal), Some(notes)) if is_over(&refusal) => keep_with_ended(options, &id, notes, refusal).await,
        (Err(refusal), None) if refusal.code == RefusalCode::CallNotFound => {
            Err(ended_long_ago(options, &id).await.unwrap_or(refusal))
        }
        (done, _) => done,
    }
}

async fn have_done(
    calls: &Calls,
    hosts: Hosts,
    id: &CallId,
    action: &str,
    mut body: Map<String, Value>,
) -> Result<Value, Refusal> {
    let client_state = match body.get("client_state").cloned() {
        None => None,
        Some(Value::String(text)) if text.len() <= MAX_CLIENT_STATE_BYTES => Some(text),
        Some(_) => {
            let advice = format!("client_state: give a text of at most {MAX_CLIENT_STATE_BYTES} bytes");
            return Err(Refusal::new(RefusalCode::InvalidCommand, advice));
        }
    };
    body.insert("action".to_owned(), action.into());
    let command: CallCommand = serde_json::from_value(Value::Object(body))
        .map_err(|error| Refusal::new(RefusalCode::InvalidCommand, error.to_string()))?;
    let result = calls.perform(id, command, client_state, hosts).await?;
    let mut begun = if let CommandResult::MusicStarted = result { json!({}) } else { native::result_data(&result) };
    if let Value::Object(ids) = &mut begun {
        ids.insert("call_id".to_owned(), id.as_str().into());
    }
    Ok(begun)
}

/// Keeps a text with a call that is over: an agent finishes its notes after it. `refusal` is the answer if there is no
/// record.
async fn keep_with_ended(options: &ApiOptions, id: &CallId, notes: String, refusal: Refusal) -> Result<Value, Refusal> {
    match options.store.set_client_state(id.as_str(), notes).await {
        Ok(true) => Ok(Value::Null),
        Ok(false) => Err(refusal),
        Err(error) => Err(Refusal::new(RefusalCode::NoAnswer, format!("{error}: try again later"))),
    }
}

/// The call table forgets ended calls after a while; the store keeps them longer.
async fn ended_long_ago(options: &ApiOptions, id: &CallId) -> Option<Refusal> {
    let record = stored(options.store.call(id.as_str())).await.ok().flatten();
    record.map(|_| Refusal::new(RefusalCode::CallEnded, "the call has ended"))
}

impl CallQuery {
    fn read(self) -> Result<CallFilter, ApiError> {
        let state = match self.state.as_deref() {
            None => None,
            Some("live") => Some(CallState::Live),
            Some("ended") => Some(CallState::Ended),
            Some(_) => return Err(invalid_filter("state: give live or ended")),
        };
        let time = |key: &str, text: Option<String>| match text.as_deref().map(humantime::parse_rfc3339) {
            Some(Err(_)) => Err(invalid_filter(&format!("{key}: give a time such as 2026-01-31T08:00:00Z"))),
            time => Ok(time.and_then(Result::ok)),
        };
        let is_number =
            |wa_id: &String| (1..=20).contains(&wa_id.len()) && wa_id.bytes().all(|byte| byte.is_ascii_digit());
        if self.wa_id.as_ref().is_some_and(|wa_id| !is_number(wa_id)) {
            return Err(invalid_filter("wa_id: give a number in 1 to 20 digits, without +"));
        }
        Ok(CallFilter {
            state,
            phone_number_id: self.phone_number_id,
            route: self.route,
            wa_id: self.wa_id,
            began_after: time("since", self.since)?,
            began_before: time("until", self.until)?,
            ..CallFilter::default()
        })
    }
}

/// Whether the filter takes a live call, as the store decides it for records.
fn is_wanted(facts: &CallFacts, status: &CallStatus, filter: &CallFilter) -> bool {
    let is = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    let began = |wanted: fn(&SystemTime, &SystemTime) -> bool, time: Option<SystemTime>| {
        time.is_none_or(|time| wanted(&facts.began_at, &time))
    };
    is(&filter.phone_number_id, &facts.description.number.phone_number_id)
        && is(&filter.route, &facts.route)
        && filter.wa_id.as_ref().is_none_or(|wa_id| facts.description.user.wa_id.as_ref() == Some(wa_id))
        && filter.agent.as_ref().is_none_or(|agent| status.agents.contains(agent))
        && began(SystemTime::ge, filter.began_after)
        && began(SystemTime::lt, filter.began_before)
}

/// Merges both lists: each call once, newest first.
fn together(live: Vec<CallSnapshot>, records: Vec<CallRecord>, wanted: Option<CallState>) -> Vec<CallView> {
    type Known = (Option<CallRecord>, Option<CallSnapshot>);
    let mut calls: BTreeMap<String, Known> = BTreeMap::new();
    for record in records {
        let known = calls.entry(record.call_id.clone()).or_default();
        known.0 = Some(record);
    }
    for call in live {
        let known = calls.entry(call.facts.id.to_string()).or_default();
        known.1 = Some(call);
    }
    // Among live calls, one that is ending needs a record without an end.
    let is_live =
        |(record, live): &Known| live.as_ref().is_some_and(|live| view::is_complete(live) || record.is_some());
    calls.retain(|_, known| wanted != Some(CallState::Live) || is_live(known));
    calls.into_values().rev().filter_map(|(record, live)| CallView::of(record, live)).collect()
}

fn invalid_filter(detail: &str) -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, "invalid_filter", detail)
}

fn no_answer() -> Refusal {
    Refusal::new(RefusalCode::NoAnswer, "the call did not answer in time and may still do it: look at its state")
}

pub(super) fn no_such_call() -> Refusal {
    Refusal::new(RefusalCode::CallNotFound, "no call has this id, or its record has expired")
}

pub(super) fn problem(refusal: Refusal, state: Option<&'static str>) -> ApiError {
    let status = StatusCode::from_u16(refusal.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let state = match (status, refusal.code) {
        (StatusCode::CONFLICT, RefusalCode::CallEnded) => Some("ended"),
        (StatusCode::CONFLICT, _) => state,
        _ => None,
    };
    let of_meta =
        OfMeta { next_allowed_at: refusal.next_allowed_at.map(rfc3339), meta_error_code: refusal.meta_error_code };
    let of_meta = (refusal.next_allowed_at.is_some() || refusal.meta_error_code.is_some()).then(|| Box::new(of_meta));
    let error = ApiError { state, of_meta, ..ApiError::new(status, refusal.code.name(), refusal.message) };
    match refusal.retry_after {
        Some(wait) => error.with_header(header::RETRY_AFTER, whole_seconds(wait)),
        None => error,
    }
}

/// At least one, because a client must not come back too early.
fn whole_seconds(wait: Duration) -> HeaderValue {
    HeaderValue::from(wait.as_secs() + u64::from(wait.subsec_nanos() > 0 || wait.is_zero()))
}
