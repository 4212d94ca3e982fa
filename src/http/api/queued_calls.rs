//! `/v1/queued_calls`: calls that wait to be placed.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::calls::view::{CallerView, NumberView};
use super::calls::{no_such_call, problem};
use super::page::PageQuery;
use super::{Api, rfc3339, stored};
use crate::call::event::CallId;
use crate::http::error::{ApiError, Problem};
use crate::store::{QueuePlace, QueuedCall, QueuedCallFilter};

/// A call that waits to be placed.
#[derive(Serialize, ToSchema)]
pub(super) struct QueuedCallView {
    /// The id that the call keeps once it is placed.
    #[schema(example = "call_01k0000000000000000000000")]
    id: String,
    /// `queued`.
    state: &'static str,
    /// `business_initiated`.
    direction: &'static str,
    /// The person to call.
    from: CallerView,
    /// The business number to call from.
    to: NumberView,
    /// Name of the route.
    route: String,
    /// Yours.
    tracker: Option<String>,
    /// Yours.
    client_state: Option<String>,
    /// From 0 to 9; the higher, the earlier.
    #[schema(maximum = 9)]
    priority: u8,
    /// When it was queued: RFC 3339, UTC.
    queued_at: String,
    /// When it ends as `queue_expired` unless it is placed before: RFC 3339, UTC.
    expires_at: String,
}

/// Queued calls, the next to be placed first.
#[derive(Serialize, ToSchema)]
pub(super) struct QueuedCallPage {
    queued_calls: Vec<QueuedCallView>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

/// Filter of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct QueuedCallQuery {
    /// Only calls from this business number, by Meta's id.
    phone_number_id: Option<String>,
}

/// List queued calls
///
/// By priority, then by age, which is the order in which each number places its calls.
#[utoipa::path(get, path = "/v1/queued_calls", tag = "calls", params(PageQuery, QueuedCallQuery), responses(
    (status = 200, description = "A page of the queued calls", body = QueuedCallPage),
    (status = 400, description = "`invalid_page`, `bad_request`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`store_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(page): Query<PageQuery>,
    Query(query): Query<QueuedCallQuery>,
) -> Result<Json<QueuedCallPage>, ApiError> {
    let page = page.read("a place in the queue", read_place)?;
    let filter = QueuedCallFilter { phone_number_id: query.phone_number_id, after: page.after, limit: page.to_find() };
    let found = stored(api.options.store.queued_calls(filter)).await?;
    let (found, next) = page.cut(found, |(place, _)| format!("{}-{}", place.priority, place.position));
    let queued_calls = found.into_iter().map(|(_, call)| QueuedCallView::of(call)).collect();
    Ok(Json(QueuedCallPage { queued_calls, next }))
}

/// Get one queued call
#[utoipa::path(get, path = "/v1/queued_calls/{call_id}", tag = "calls", params(("call_id" = String, Path)), responses(
    (status = 200, description = "The queued call", body = QueuedCallView),
    (status = 404, description = "`call_not_found`: no such call", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`already_placed`, `call_ended`: it is not queued any more; see `GET /v1/calls/{call_id}`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`store_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn read(
    State(api): State<Arc<Api>>,
    Path(call_id): Path<String>,
) -> Result<Json<QueuedCallView>, ApiError> {
    let id = CallId::parse(&call_id).ok_or_else(|| problem(no_such_call(), None))?;
    match stored(api.options.store.queued_call(id.as_str())).await? {
        Some(call) => Ok(Json(QueuedCallView::of(call))),
        None => Err(problem(api.options.calls.why_not_queued(&id).await, None)),
    }
}

/// Cancel a queued call
///
/// It ends as `hung_up_by_api`, with its `call.ended`. A call that is being placed is given up with the action `hangup`.
#[utoipa::path(delete, path = "/v1/queued_calls/{call_id}", tag = "calls", params(("call_id" = String, Path)), responses(
    (status = 204, description = "It is not placed"),
    (status = 404, description = "`call_not_found`: no such call", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "`already_placed`, `call_ended`: it is not queued any more", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`store_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn cancel(State(api): State<Arc<Api>>, Path(call_id): Path<String>) -> Result<StatusCode, ApiError> {
    let id = CallId::parse(&call_id).ok_or_else(|| problem(no_such_call(), None))?;
    api.options.calls.cancel_queued(&id).await.map_err(|refusal| problem(refusal, None))?;
    Ok(StatusCode::NO_CONTENT)
}

impl QueuedCallView {
    pub(super) fn of(call: QueuedCall) -> Self {
        Self {
            id: call.call_id.to_string(),
            state: "queued",
            direction: "business_initiated",
            from: serde_json::from_value(call.to).unwrap_or_default(),
            to: NumberView { phone_number_id: call.phone_number_id, display_phone_number: None },
            route: call.route,
            tracker: call.tracker,
            client_state: call.client_state,
            priority: call.priority,
            queued_at: rfc3339(call.queued_at),
            expires_at: rfc3339(call.expires_at),
        }
    }
}

fn read_place(text: &str) -> Option<QueuePlace> {
    let (priority, position) = text.split_once('-')?;
    Some(QueuePlace { priority: priority.parse().ok()?, position: position.parse().ok()? })
}
