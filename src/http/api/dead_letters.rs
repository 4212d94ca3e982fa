//! `/v1/dead_letters`: events that a webhook did not acknowledge in time, and their replay.

#![expect(unused_qualifications, reason = "utoipa writes them")]

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Extension, Query, State};
use axum::http::StatusCode;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::auth::Caller;
use super::page::PageQuery;
use super::{Api, read_object, rfc3339, stored};
use crate::http::error::{ApiError, Problem};
use crate::store::{DeadLetter, DeadLetterFilter, Replay};

/// The most event ids in one request.
const MOST_EVENTS: usize = 1000;

/// Dead letters, oldest first.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetterPage {
    dead_letters: Vec<DeadLetterView>,
    /// `after` of the next page; null on the last page.
    next: Option<String>,
}

/// One event that one webhook did not acknowledge.
#[derive(Serialize, ToSchema)]
pub(super) struct DeadLetterView {
    /// The webhook's name.
    webhook: String,
    event_id: String,
    /// The event's type, such as `call.ended`.
    #[serde(rename = "type")]
    kind: String,
    /// Null for a forwarded webhook of Meta's.
    call_id: Option<String>,
    /// When it was first due: RFC 3339, UTC.
    queued_at: String,
    attempts: u32,
    /// The last error, for people.
    error: String,
}

/// Filter of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct DeadLetterQuery {
    /// Only this webhook's, by its name.
    webhook: Option<String>,
}

/// Which dead letters to replay; all of them if empty.
#[derive(Deserialize, ToSchema)]
pub(super) struct ReplayRequest {
    /// Only this webhook's, by its name.
    webhook: Option<String>,
    /// Only these events, at most 1000.
    #[schema(max_items = 1000)]
    event_ids: Option<Vec<String>>,
}

/// What is being delivered again.
#[derive(Serialize, ToSchema)]
pub(super) struct Replayed {
    /// Number of deliveries.
    replayed: usize,
}

/// List dead letters
///
/// An event becomes a dead letter of a webhook that has not acknowledged it within `events.give_up_after`, or is no longer
/// configured.
#[utoipa::path(get, path = "/v1/dead_letters", tag = "events", params(PageQuery, DeadLetterQuery), responses(
    (status = 200, description = "A page of the dead letters", body = DeadLetterPage),
    (status = 400, description = "`invalid_page`, `bad_request`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`store_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn list(
    State(api): State<Arc<Api>>,
    Query(page): Query<PageQuery>,
    Query(query): Query<DeadLetterQuery>,
) -> Result<Json<DeadLetterPage>, ApiError> {
    let page = page.read("a place in this list", read_place)?;
    let filter = DeadLetterFilter { endpoint: query.webhook, after: page.after.clone(), limit: page.to_find() };
    let (letters, next) = page.cut(stored(api.options.store.dead_letters(filter)).await?, place);
    Ok(Json(DeadLetterPage { dead_letters: letters.into_iter().map(view).collect(), next }))
}

/// Replay dead letters
///
/// They are delivered like new events, in order for each call, after those that already wait.
#[utoipa::path(post, path = "/v1/dead_letters/replay", tag = "events", request_body = ReplayRequest, responses(
    (status = 202, description = "Queued for delivery", body = Replayed),
    (status = 400, description = "`invalid_json`", body = Problem, content_type = "application/problem+json"),
    (status = 413, description = "`body_too_large`: more than 1 MB", body = Problem, content_type = "application/problem+json"),
    (status = 422, description = "`invalid_replay`, `unknown_webhook`", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`store_unavailable`: some of them may not be queued", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn replay(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    body: Bytes,
) -> Result<(StatusCode, Json<Replayed>), ApiError> {
    let refused = |code, detail: String| ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail);
    let body = Value::Object(read_object(&body)?);
    let request: ReplayRequest =
        serde_json::from_value(body).map_err(|error| refused("invalid_replay", error.to_string()))?;
    if request.event_ids.as_ref().is_some_and(|ids| ids.len() > MOST_EVENTS) {
        return Err(refused("invalid_replay", format!("event_ids: give at most {MOST_EVENTS}")));
    }
    if let Some(name) = request.webhook.as_ref().filter(|name| !api.options.webhooks.contains(name)) {
        return Err(refused("unknown_webhook", format!("no webhook named {name:?} is configured")));
    }
    let which = Replay { endpoint: request.webhook, events: request.event_ids };
    let replayed = stored(api.options.store.replay(which)).await?;
    info!(api.key = caller.id(), "{replayed} dead letters replayed with the key {}", caller.id());
    Ok((StatusCode::ACCEPTED, Json(Replayed { replayed })))
}

fn view(letter: DeadLetter) -> DeadLetterView {
    DeadLetterView {
        webhook: letter.endpoint,
        event_id: letter.id,
        kind: letter.kind,
        call_id: letter.call_id,
        queued_at: rfc3339(letter.queued_at),
        attempts: letter.attempts,
        error: letter.error,
    }
}

/// A letter's position in the list as one token: a webhook's name may contain any character.
fn place(letter: &DeadLetter) -> String {
    URL_SAFE_NO_PAD.encode(format!("{} {}", letter.position, letter.endpoint))
}

fn read_place(text: &str) -> Option<(i64, String)> {
    let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    let (position, endpoint) = text.split_once(' ')?;
    Some((position.parse().ok()?, endpoint.to_owned()))
}
