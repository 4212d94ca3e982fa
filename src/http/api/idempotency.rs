//! `Idempotency-Key`: a POST that is sent twice is performed once, and gets the same response twice.
//!
//! Responses are kept for 24 h, separately for each API key. One that holds a secret is not kept: a retry gets an error
//! that says so. A request that has begun is completed even if its client disconnects, so that a retry finds the response.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use sha2::{Digest, Sha256};
use tracing::warn;

use super::Api;
use super::auth::Caller;
use crate::http::error::ApiError;
use crate::store::{Claim, Store, StoreError};

/// The request header.
pub(super) const HEADER: &str = "idempotency-key";
/// Response header: `true` on a repeated response; `unknown` if the store could not be asked.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key.
const MAX_KEY: usize = 255;
/// Deadline for the store to look up a key or to keep a response. The API goes on without it.
const STORED_WITHIN: Duration = Duration::from_secs(2);
/// Marks a response whose body must not be stored.
#[derive(Clone, Copy, Debug)]
pub(super) struct HoldsSecret;

/// Our responses are shorter.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// One key of one API key.
struct Key {
    store: Store,
    caller: Arc<Caller>,
    text: String,
}

/// Runs after the guard: the caller is authenticated.
pub(super) async fn once(State(api): State<Arc<Api>>, request: Request, next: Next) -> Result<Response, ApiError> {
    let caller = request.extensions().get::<Arc<Caller>>().cloned();
    let (Some(text), Some(caller)) = (read_key(request.headers())?, caller) else { return Ok(next.run(request).await) };
    let (request, digest) = match digest(request).await {
        Ok(read) => read,
        Err(rejection) => return Ok(rejection),
    };
    let key = Key { store: api.options.store.clone(), caller, text };
    match key.claim(digest).await {
        Ok(Claim::New) => key.answer(request, next).await,
        Ok(Claim::Replay { status, body }) => Ok(again(status, body)),
        Ok(Claim::Conflict) => Err(ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "idempotency_key_reused",
            "this Idempotency-Key was used for another request: use a new one for each request",
        )),
        Ok(Claim::InProgress) => Err(ApiError::new(
            StatusCode::CONFLICT,
            "request_in_progress",
            "the request with this Idempotency-Key is still in progress: try again in a second",
        )
        .with_header(header::RETRY_AFTER, HeaderValue::from_static("1"))),
        // Calls must be controllable even if the disk fails.
        Err(error) => {
            warn!("performing a request without its Idempotency-Key: {error}");
            let mut response = key.answer(request, next).await?;
            response.headers_mut().insert(REPLAYED, HeaderValue::from_static("unknown"));
            Ok(response)
        }
    }
}

impl Key {
    async fn claim(&self, digest: [u8; 32]) -> Result<Claim, StoreError> {
        let claim = self.store.idempotent(self.caller.id(), &self.text, digest);
        tokio::time::timeout(STORED_WITHIN, claim).await.unwrap_or(Err(StoreError::TimedOut))
    }

    /// Performs the request and keeps the response, even if the client has disconnected.
    async fn answer(self, request: Request, next: Next) -> Result<Response, ApiError> {
        let answered = tokio::spawn(async move {
            // Every POST has a deadline of its own. One that panics may be half done, so a retry gets the same
            // response and does not perform it twice.
            let answer = AssertUnwindSafe(next.run(request)).catch_unwind().await;
            let (parts, body) = answer.unwrap_or_else(|_| failed_inside().into_response()).into_parts();
            let body = to_bytes(body, MAX_ANSWER_BYTES).await.unwrap_or_default();
            match parts.extensions.get::<HoldsSecret>() {
                Some(HoldsSecret) => self.note_secret().await,
                None => self.note(parts.status, &body).await,
            }
            Response::from_parts(parts, Body::from(body))
        });
        answered.await.map_err(|_| failed_inside())
    }

    async fn note_secret(&self) {
        let (parts, body) = not_kept().into_response().into_parts();
        let body = to_bytes(body, MAX_ANSWER_BYTES).await.unwrap_or_default();
        self.note(parts.status, &body).await;
    }

    async fn note(&self, status: StatusCode, body: &[u8]) {
        let (id, text) = (self.caller.id(), self.text.as_str());
        let noted = async {
            match status {
                // It was not performed, and a retry may succeed.
                StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => self.store.forget(id, text).await,
                _ => self.store.remember(id, text, status.as_u16(), body).await,
            }
        };
        let noted = tokio::time::timeout(STORED_WITHIN, noted).await.unwrap_or(Err(StoreError::TimedOut));
        if let Err(error) = noted {
            warn!("the response for an Idempotency-Key is not stored yet: {error}");
        }
    }
}

fn not_kept() -> ApiError {
    ApiError::new(
        StatusCode::CONFLICT,
        "response_not_kept",
        "this request was performed, and its response held a secret, which is not stored: ask again with a new Idempotency-Key",
    )
}

fn failed_inside() -> ApiError {
    ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "internal error: see the log")
}

/// None without the header.
fn read_key(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let mut keys = headers.get_all(HEADER).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let is_good = (1..=MAX_KEY).contains(&key.len()) && key.as_bytes().iter().all(u8::is_ascii_graphic);
    let text = key.to_str().ok().filter(|_| is_good && keys.next().is_none());
    text.map(|text| Some(text.to_owned())).ok_or_else(|| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "invalid_idempotency_key",
            format!("Idempotency-Key: give one, of 1 to {MAX_KEY} visible ASCII letters"),
        )
    })
}

/// Reads the body; gives the request and a digest of method, path and body.
async fn digest(request: Request) -> Result<(Request, [u8; 32]), Response> {
    let (parts, body) = request.into_parts();
    let whole = Request::from_parts(parts.clone(), body);
    let body = Bytes::from_request(whole, &()).await.map_err(IntoResponse::into_response)?;
    let mut digest = Sha256::new();
    // Neither a method nor a path contains a zero byte.
    for part in [parts.method.as_str().as_bytes(), &[0], parts.uri.to_string().as_bytes(), &[0], &body] {
        digest.update(part);
    }
    Ok((Request::from_parts(parts, Body::from(body)), digest.finalize().into()))
}

fn again(status: u16, body: Vec<u8>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    let kind = if status.is_success() { "application/json" } else { "application/problem+json" };
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(kind)), (REPLAYED, HeaderValue::from_static("true"))];
    (status, headers, body).into_response()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::middleware::from_fn;
    use axum::routing::post;
    use tokio::net::TcpListener;

    use super::*;
    use crate::http::api::events::tests::caller;
    use crate::store::tests::Folder;

    /// A panic must not leave the key in progress for a day.
    #[tokio::test]
    async fn a_request_that_panics_is_answered_and_answered_alike_again() {
        let folder = Folder::new();
        let store = Store::open(folder.options()).unwrap();
        let (caller, digest) = (caller(), [7; 32]);
        assert_eq!(store.idempotent(caller.id(), "k", digest).await, Ok(Claim::New));
        let key =
            std::sync::Mutex::new(Some(Key { store: store.clone(), caller: caller.clone(), text: "k".to_owned() }));
        let key = Arc::new(key);
        let broken = async || -> &'static str { panic!("a mistake") };
        let router = Router::new().route("/", post(broken)).layer(from_fn(move |request: Request, next: Next| {
            let key = key.lock().unwrap().take().unwrap();
            key.answer(request, next)
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let response = reqwest::Client::builder().no_proxy().build().unwrap().post(url).send().await.unwrap();
        assert_eq!(response.status(), 500);
        let body = response.bytes().await.unwrap().to_vec();
        server.abort();
        assert_eq!(store.idempotent(caller.id(), "k", digest).await, Ok(Claim::Replay { status: 500, body }));
    }
}
