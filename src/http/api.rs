//! The control API: its routes, and the scope that each needs.

mod auth;
mod bucket;
mod guesses;
mod idempotency;
mod page;
mod calls;
mod permissions;
mod queued_calls;
mod prompts;
mod recordings;
mod queues;
mod agent;
mod sse;
mod range;
mod routes;
mod agents;
mod events;
mod dead_letters;
mod webrtc;
mod media;
mod openapi;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

pub(super) use auth::Keys;
use auth::Needs;
use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing;
use axum::{Json, Router};
use patchcord_media::prompt::MAX_FILE_BYTES;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, broadcast, watch};
use tracing::warn;
use utoipa_axum::router::{UtoipaMethodRouter, UtoipaMethodRouterExt};
use utoipa_axum::routes;

use super::error::ApiError;
use super::server::Connection;
use crate::agent::Instances;
use crate::browser::token::Tokens;
use crate::call::event::CallEvent;
use crate::calls::Calls;
use crate::clock;
use crate::config::api::{Page, Scope};
use crate::permissions::Permissions;
use crate::prompts::PromptLibrary;
use crate::queues::QueuesHandle;
use crate::recordings::Recordings;
use crate::settings::CurrentSettings;
use crate::store::{Store, StoreError};

/// Of every request body but an uploaded prompt.
const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// Open streams of `/v1/events`; one more is refused.
const EVENT_STREAMS: usize = 64;
/// Open streams of `/v1/agent/events`; one more is refused.
const AGENT_STREAMS: usize = 1024;
/// Deadline of one read from the store.
const LOOKED_WITHIN: Duration = Duration::from_secs(2);
/// The longest text of a rejection.
const REJECTION_BYTES: usize = 4096;

/// What the control API reads and controls.
pub struct ApiOptions {
    /// API keys and routes, as currently configured.
    pub settings: CurrentSettings,
    /// The live calls.
    pub calls: Calls,
    /// Past calls, and all events.
    pub store: Store,
    /// The source of live events.
    pub events: broadcast::Sender<CallEvent>,
    /// The current prompts.
    pub prompts: PromptLibrary,
    /// Who may be called.
    pub permissions: Permissions,
    /// None if the folder cannot be used.
    pub recordings: Option<Recordings>,
    /// Where callers wait for people.
    pub queues: QueuesHandle,
    /// How the addresses of agents fare.
    pub instances: Instances,
    /// Names of the webhooks that receive events.
    pub webhooks: Vec<String>,
    /// True once the service stops: open sockets close then.
    pub stopping: watch::Receiver<bool>,
}

/// What the handlers share.
struct Api {
    options: ApiOptions,
    /// One upload at a time: each may be 64 MB.
    uploads: Semaphore,
    streams: Arc<Semaphore>,
    agent_streams: Arc<Semaphore>,
    /// For pages.
    tokens: Tokens,
}

/// Every route that needs a key, with the scope. Method and path are those of the handler's `#[utoipa::path]`, so the
/// OpenAPI document describes exactly these.
fn endpoints() -> Vec<(Needs, UtoipaMethodRouter<Arc<Api>>)> {
    use Scope::{Admin, CallsRead, CallsWrite, RecordingsRead};
    let sound = DefaultBodyLimit::max(MAX_FILE_BYTES);
    vec![
        (Needs::ScopeOrAgent(CallsRead), routes!(calls::list)),
        (CallsWrite.into(), routes!(calls::placing::place)),
        (CallsRead.into(), routes!(queued_calls::list)),
        (CallsRead.into(), routes!(queued_calls::read)),
        (CallsWrite.into(), routes!(queued_calls::cancel)),
        (Needs::ScopeOrAgent(CallsRead), routes!(calls::read)),
        (CallsWrite.into(), routes!(calls::several::act)),
        (Needs::ScopeOrAgent(CallsWrite), routes!(calls::act)),
        (CallsRead.into(), routes!(permissions::read)),
        (CallsWrite.into(), routes!(permissions::request)),
        (CallsWrite.into(), routes!(webrtc::make_token)),
        (CallsWrite.into(), routes!(media::make_token)),
        (CallsRead.into(), routes!(prompts::list)),
        (Admin.into(), routes!(prompts::upload).layer(sound)),
        (Admin.into(), routes!(prompts::remove)),
        (Needs::ScopeOrAgent(RecordingsRead), routes!(recordings::list)),
        (Needs::ScopeOrAgent(RecordingsRead), routes!(recordings::download)),
        (Admin.into(), routes!(recordings::remove)),
        (Needs::ScopeOrAgent(CallsRead), routes!(routes::list)),
        (CallsRead.into(), routes!(agents::list)),
        (Needs::ScopeOrAgent(CallsRead), routes!(queues::list)),
        (Scope::Agent.into(), routes!(agent::read)),
        (Scope::Agent.into(), routes!(agent::events)),
        (Scope::Agent.into(), routes!(agent::set_availability)),
        (Scope::Agent.into(), routes!(agent::answer)),
        (Scope::Agent.into(), routes!(agent::decline)),
        (CallsRead.into(), routes!(events::open)),
        (Admin.into(), routes!(dead_letters::list)),
        (Admin.into(), routes!(dead_letters::replay)),
    ]
}

/// Every route of pages and of sockets, which have no key but the token of one session. The handlers check it.
fn page_endpoints() -> Vec<UtoipaMethodRouter<Arc<Api>>> {
    vec![routes!(webrtc::offer), routes!(webrtc::patch, webrtc::leave), routes!(media::open)]
}

/// The control API and its document.
pub(super) fn router(options: ApiOptions, keys: &Arc<Keys>) -> Router {
    let streams = Arc::new(Semaphore::new(EVENT_STREAMS));
    let agent_streams = Arc::new(Semaphore::new(AGENT_STREAMS));
    let (uploads, tokens) = (Semaphore::new(1), Tokens::default());
    let api = Arc::new(Api { options, uploads, streams, agent_streams, tokens });
    let if_open = middleware::from_fn_with_state((keys.clone(), Page::OpenApi), guard_page);
    let mut router = Router::new();
    for (needs, (_, paths, handlers)) in endpoints() {
        for (path, item) in paths.paths {
            let once = middleware::from_fn_with_state(api.clone(), idempotency::once);
            let guard = middleware::from_fn_with_state((keys.clone(), needs), guard);
            let handlers = if item.post.is_some() { handlers.clone().route_layer(once) } else { handlers.clone() };
            router = router.route(&path, handlers.route_layer(guard));
        }
    }
    for (_, paths, handlers) in page_endpoints() {
        for path in paths.paths.into_keys() {
            let limit = DefaultBodyLimit::max(webrtc::BODY_LIMIT_BYTES);
            router = router.route(&path, handlers.clone().layer(limit));
        }
    }
    router
        .route("/openapi.json", routing::get(async || Json(openapi::document())).layer(if_open))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(middleware::from_fn(tell_as_problem))
        .with_state(api)
}

/// Admits a request whose key has the scope, and attaches the caller to it.
async fn guard(
    State((keys, needs)): State<(Arc<Keys>, Needs)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let shown = keys.shown(request.headers(), connection.as_deref());
    let admitted = keys.admit(&shown, needs, clock::now(), clock::wall());
    let caller = admitted.inspect_err(|error| {
        metrics::counter!("patchcord_api_refused_total", "code" => error.code).increment(1);
    })?;
    if let Some(connection) = connection {
        connection.is_now_known();
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// The same for a page that is public unless the configuration closes it.
pub(super) async fn guard_page(
    State((keys, page)): State<(Arc<Keys>, Page)>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match keys.is_closed(page) {
        true => guard(State((keys, page.needs().into())), request, next).await,
        false => Ok(next.run(request).await),
    }
}

/// Gives rejections from before a handler, such as an oversized body, the same format as every other error.
async fn tell_as_problem(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_problem =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == "application/problem+json");
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let allow = response.headers().get(header::ALLOW).cloned();
    let text = to_bytes(response.into_body(), REJECTION_BYTES).await.unwrap_or_default();
    let (code, usual) = match status {
        StatusCode::NOT_FOUND => ("not_found", "nothing is served at this path"),
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this path does not take this method"),
        StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is too long"),
        _ => ("bad_request", "the request cannot be read"),
    };
    let detail = if text.is_empty() { usual.to_owned() } else { String::from_utf8_lossy(&text).into_owned() };
    let error = ApiError::new(status, code, detail);
    match allow {
        Some(allow) => error.with_header(header::ALLOW, allow).into_response(),
        None => error.into_response(),
    }
}

fn too_many_streams() -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", "close another event stream first")
}

/// A read from the store, with a deadline.
async fn stored<T>(look: impl Future<Output = Result<T, StoreError>>) -> Result<T, ApiError> {
    let error = match tokio::time::timeout(LOOKED_WITHIN, look).await {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => error,
        Err(_) => StoreError::TimedOut,
    };
    warn!("the API cannot use the store: {error}");
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", format!("{error}: try again later")))
}

/// The JSON object of a body. An empty body counts as `{}`.
fn read_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not a JSON object: {error}"))
    })
}

/// UTC, with milliseconds.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A name of digits and letters is valid in every header.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
