//! Calls from and to the phone page: placed with the browser's offer or answered by it, followed as a stream of events, hung
//! up.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::Stream;
use patchcord_simulator::browser::BrowserCall;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;

use super::agent_news::AgentChange;
use super::browser_order::{BrowserOrder, check_sdp};
use super::{CALLS_AT_ONCE, Simulation, event};
use crate::http::error::ApiError;

/// Of an order: an offer of the largest size, escaped.
const BODY_BYTES: usize = 160 << 10;
/// Calls whose events can be read; over it the oldest that have ended are forgotten.
const CALLS_KEPT: usize = 2 * CALLS_AT_ONCE;
/// A page that has placed a call and does not read its events in this time has gone.
const READ_WITHIN: Duration = Duration::from_secs(10);
/// Shows a page that has gone without closing its connection.
const COMMENT_EVERY: Duration = Duration::from_secs(5);

pub(super) fn routes() -> Router<Arc<Simulation>> {
    Router::new()
        .route("/api/calls", post(place))
        .route("/api/calls/{call}/events", get(events))
        .route("/api/calls/{call}/hang_up", post(hang_up))
        .route("/api/calls/{call}/answer", post(answer))
        .route("/api/calls/{call}/pick_up", post(pick_up))
        .route("/api/calls/{call}/decline", post(decline))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
}

/// The calls that the page can ask for.
#[derive(Default)]
pub(super) struct BrowserCalls(Mutex<VecDeque<Entry>>);

#[derive(Clone)]
pub(super) struct Entry {
    id: String,
    pub(super) call: BrowserCall,
    readers: Arc<Readers>,
}

/// Who reads the events of a call.
#[derive(Default)]
struct Readers {
    now: AtomicUsize,
    ever: AtomicUsize,
}

impl Simulation {
    /// Keeps a call for its page, which has to read its events. Gives its id.
    pub(super) fn keep(&self, call: BrowserCall, seat: OwnedSemaphorePermit) -> String {
        let entry = Entry { id: format!("{:016x}", rand::random::<u64>()), call, readers: Arc::default() };
        self.browser_calls.add(entry.clone());
        let id = entry.id.clone();
        tokio::spawn(watch_over(entry, seat));
        id
    }
}

impl BrowserCalls {
    fn add(&self, entry: Entry) {
        let mut calls = self.lock();
        while calls.len() >= CALLS_KEPT {
            let Some(ended) = calls.iter().position(|entry| entry.call.has_ended()) else { break };
            calls.remove(ended);
        }
        calls.push_back(entry);
    }

    pub(super) fn find(&self, id: &str) -> Result<Entry, ApiError> {
        let found = self.lock().iter().find(|entry| entry.id == id).cloned();
        found.ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "call_not_found", "there is no call with this id"))
    }

    /// The page of the call sees what its agent did.
    pub(super) fn note_agent(&self, change: &AgentChange) {
        if let Some(entry) = self.lock().iter().find(|entry| entry.call.wacid() == change.wacid) {
            entry.call.note_agent(&change.text, change.is_failure);
        }
    }

    /// The simulator stops: every call ends, and with it the streams of events.
    pub(super) fn hang_up_all(&self) {
        self.lock().iter().for_each(|entry| entry.call.hang_up());
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn place(
    State(simulation): State<Arc<Simulation>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Json<Value>, ApiError> {
    check_type(&headers)?;
    let body = body.map_err(|error| ApiError::new(error.status(), "unreadable_body", error.body_text()))?;
    let caller = BrowserOrder::read(&body)
        .map_err(|sentence| ApiError::new(StatusCode::BAD_REQUEST, "invalid_call", sentence))?;
    let Ok(seat) = simulation.free.clone().try_acquire_owned() else {
        let detail = format!("{CALLS_AT_ONCE} calls are under way: wait for one");
        return Err(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "too_many_calls", detail));
    };
    let call = simulation
        .meta
        .place_browser_call(caller)
        .await
        .map_err(|error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "not_placed", format!("{error:#}")))?;
    let id = simulation.keep(call.clone(), seat);
    Ok(Json(json!({ "call": id, "seed": call.seed() })))
}

/// Pages of other sites cannot send this type without asking first, and are not allowed when they ask.
fn check_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let detail = "send application/json";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail))
}

/// Keeps the call's seat until its end, and ends it if no page reads its events.
async fn watch_over(entry: Entry, seat: OwnedSemaphorePermit) {
    let finished = entry.call.finished();
    tokio::pin!(finished);
    if tokio::time::timeout(READ_WITHIN, &mut finished).await.is_err() {
        if entry.readers.ever.load(Ordering::Relaxed) == 0 {
            entry.call.hang_up();
        }
        finished.await;
    }
    drop(seat);
}

async fn events(
    State(simulation): State<Arc<Simulation>>,
    Path(id): Path<String>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ApiError> {
    let reader = Reader::of(simulation.browser_calls.find(&id)?);
    let stream = futures_util::stream::unfold((reader, 0), |(reader, index)| async move {
        let event = reader.0.call.trace().event(index).await?;
        Some((Ok(event::of(&event)), (reader, index + 1)))
    });
    Ok(Sse::new(stream).keep_alive(KeepAlive::new().interval(COMMENT_EVERY)))
}

/// One stream of a call's events. When the last one closes, the page is gone and the call ends.
struct Reader(Entry);

impl Reader {
    fn of(entry: Entry) -> Self {
        entry.readers.now.fetch_add(1, Ordering::Relaxed);
        entry.readers.ever.fetch_add(1, Ordering::Relaxed);
        Self(entry)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.0.readers.now.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.call.hang_up();
        }
    }
}

async fn hang_up(State(simulation): State<Arc<Simulation>>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    simulation.browser_calls.find(&id)?.call.hang_up();
    Ok(StatusCode::NO_CONTENT)
}

/// The browser's answer to the business's offer.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    sdp: String,
}

async fn answer(
    State(simulation): State<Arc<Simulation>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    check_type(&headers)?;
    let body = body.map_err(|error| ApiError::new(error.status(), "unreadable_body", error.body_text()))?;
    let unreadable = |sentence| ApiError::new(StatusCode::BAD_REQUEST, "invalid_call", sentence);
    let Answer { sdp } = serde_json::from_slice(&body).map_err(|error| unreadable(format!("the body: {error}")))?;
    check_sdp(&sdp, "answer").map_err(unreadable)?;
    rings(simulation.browser_calls.find(&id)?.call.answer(&sdp))
}

async fn pick_up(State(simulation): State<Arc<Simulation>>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    rings(simulation.browser_calls.find(&id)?.call.pick_up())
}

async fn decline(State(simulation): State<Arc<Simulation>>, Path(id): Path<String>) -> Result<StatusCode, ApiError> {
    rings(simulation.browser_calls.find(&id)?.call.decline())
}

fn rings(rings: bool) -> Result<StatusCode, ApiError> {
    match rings {
        true => Ok(StatusCode::NO_CONTENT),
        false => Err(ApiError::new(StatusCode::CONFLICT, "call_does_not_ring", "the call does not ring (any more)")),
    }
}
