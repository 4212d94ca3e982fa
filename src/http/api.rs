//! The control API: who may ask for what, and where each request leads.

mod auth;
mod bucket;
mod guesses;
mod idempotency;
mod page;
mod calls;
mod prompts;
mod recordings;
mod range;
mod routes;
mod agents;
mod events;
mod dead_letters;
mod openapi;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

pub(super) use auth::Keys;
use axum::body::to_bytes;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{self, MethodRouter};
use axum::{Json, Router};
use patchcord_media::prompt::MAX_FILE_BYTES;
use serde_json::{Map, Value};
use tokio::sync::{Semaphore, broadcast, watch};
use tracing::warn;

use super::error::ApiError;
use super::server::Connection;
use crate::call::event::CallEvent;
use crate::calls::Calls;
use crate::config::api::{Page, Scope};
use crate::prompts::PromptLibrary;
use crate::recordings::Recordings;
use crate::settings::CurrentSettings;
use crate::store::{Store, StoreError};

/// Bodies that are not sound.
const BODY_LIMIT_BYTES: usize = 1024 * 1024;
/// Sockets of `/v1/events` at once; one more is refused.
const EVENT_STREAMS: usize = 64;
/// For a look into the store.
const LOOKED_WITHIN: Duration = Duration::from_secs(2);
/// What a rejected request says of itself at most.
const REJECTION_BYTES: usize = 4096;

/// What the control API looks at and steers.
pub struct ApiOptions {
    /// Who may use it, and the routes, as they are at the moment.
    pub settings: CurrentSettings,
    /// The live calls.
    pub calls: Calls,
    /// The calls that were, and all events.
    pub store: Store,
    /// Where their events come from.
    pub events: broadcast::Sender<CallEvent>,
    /// The prompts as they are.
    pub prompts: PromptLibrary,
    /// None where the folder cannot be used.
    pub recordings: Option<Recordings>,
    /// The webhooks that get events, by their names.
    pub webhooks: Vec<String>,
    /// True when the service stops: then no socket is held any longer.
    pub stopping: watch::Receiver<bool>,
}

/// What the handlers share.
struct Api {
    options: ApiOptions,
    /// One upload after the other: each may be 64 MB.
    uploads: Semaphore,
    streams: Arc<Semaphore>,
}

/// One way in.
struct Door {
    method: Method,
    path: &'static str,
    needs: Scope,
    leads_to: MethodRouter<Arc<Api>>,
}

/// Everything that needs a key. The document has each of them, no more and no less.
fn doors() -> Vec<Door> {
    use Scope::{Admin, CallsRead, CallsWrite, RecordingsRead};
    use routing::{delete, get, post, put};
    let door = |method, path, needs, leads_to| Door { method, path, needs, leads_to };
    let sound = DefaultBodyLimit::max(MAX_FILE_BYTES);
    vec![
        door(Method::GET, "/v1/calls", CallsRead, get(calls::list)),
        door(Method::GET, "/v1/calls/{call_id}", CallsRead, get(calls::read)),
        door(Method::POST, "/v1/calls/{call_id}/actions", CallsWrite, post(calls::several::act)),
        door(Method::POST, "/v1/calls/{call_id}/actions/{action}", CallsWrite, post(calls::act)),
        door(Method::GET, "/v1/prompts", CallsRead, get(prompts::list)),
        door(Method::PUT, "/v1/prompts/{name}", Admin, put(prompts::upload).layer(sound)),
        door(Method::DELETE, "/v1/prompts/{name}", Admin, delete(prompts::remove)),
        door(Method::GET, "/v1/recordings", RecordingsRead, get(recordings::list)),
        door(Method::GET, "/v1/recordings/{recording_id}", RecordingsRead, get(recordings::download)),
        door(Method::DELETE, "/v1/recordings/{recording_id}", Admin, delete(recordings::remove)),
        door(Method::GET, "/v1/routes", CallsRead, get(routes::list)),
        door(Method::GET, "/v1/agents", CallsRead, get(agents::list)),
        door(Method::GET, "/v1/events", CallsRead, get(events::open)),
        door(Method::GET, "/v1/dead_letters", Admin, get(dead_letters::list)),
        door(Method::POST, "/v1/dead_letters/replay", Admin, post(dead_letters::replay)),
    ]
}

/// The control API and its document.
pub(super) fn router(options: ApiOptions, keys: &Arc<Keys>) -> Router {
    let streams = Arc::new(Semaphore::new(EVENT_STREAMS));
    let api = Arc::new(Api { options, uploads: Semaphore::new(1), streams });
    let if_open = middleware::from_fn_with_state((keys.clone(), Page::OpenApi), guard_page);
    let mut router = Router::new();
    for door in doors() {
        let guard = middleware::from_fn_with_state((keys.clone(), door.needs), guard);
        let leads_to = match door.method {
            Method::POST => door.leads_to.route_layer(middleware::from_fn_with_state(api.clone(), idempotency::once)),
            _ => door.leads_to,
        };
        router = router.route(door.path, leads_to.route_layer(guard));
    }
    router
        .route("/openapi.json", routing::get(async || Json(openapi::document())).layer(if_open))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .layer(middleware::from_fn(tell_as_problem))
        .with_state(api)
}

/// Lets in who has a key for it; who that is goes with the request.
async fn guard(
    State((keys, needs)): State<(Arc<Keys>, Scope)>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let connection = request.extensions().get::<Arc<Connection>>().cloned();
    let shown = keys.shown(request.headers(), connection.as_deref());
    let admitted = keys.admit(&shown, needs, Instant::now(), SystemTime::now());
    let caller = admitted.inspect_err(|error| {
        metrics::counter!("patchcord_api_refused_total", "code" => error.code).increment(1);
    })?;
    if let Some(connection) = connection {
        connection.is_now_known();
    }
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

/// The same of a page that anybody may read unless the configuration closes it.
pub(super) async fn guard_page(
    State((keys, page)): State<(Arc<Keys>, Page)>,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    match keys.is_closed(page) {
        true => guard(State((keys, page.needs())), request, next).await,
        false => Ok(next.run(request).await),
    }
}

/// What is refused before a handler sees it, such as a body that is too long, is told like everything else.
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
        StatusCode::NOT_FOUND => ("not_found", "there is nothing at this path"),
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

/// What the store says, if it says it in time.
async fn stored<T>(look: impl Future<Output = Result<T, StoreError>>) -> Result<T, ApiError> {
    let error = match tokio::time::timeout(LOOKED_WITHIN, look).await {
        Ok(Ok(found)) => return Ok(found),
        Ok(Err(error)) => error,
        Err(_) => StoreError::TimedOut,
    };
    warn!("the API cannot use the store: {error}");
    Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", format!("{error}: try again later")))
}

/// The JSON object of a body; none is as good as `{}`.
fn read_object(body: &[u8]) -> Result<Map<String, Value>, ApiError> {
    if body.is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_slice(body).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "invalid_json", format!("the body is not a JSON object: {error}"))
    })
}

/// Milliseconds, UTC.
fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(time).to_string()
}

/// A name of digits and letters is one in every header.
fn header_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
