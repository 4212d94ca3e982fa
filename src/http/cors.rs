//! CORS: pages of the configured origins may read the API's responses. Without any, no header is added.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

/// What a page may send. Keys and tokens are in a header, so no cookies are needed.
const HEADERS: HeaderValue = HeaderValue::from_static("authorization, content-type, if-match, idempotency-key");
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST, PUT, PATCH, DELETE");
/// What a page may read beside the body: `Location` and `ETag` are those of a WebRTC session.
const EXPOSED: HeaderValue = HeaderValue::from_static("location, etag, retry-after");
/// Two hours, the most that Chromium keeps.
const MAX_AGE_S: HeaderValue = HeaderValue::from_static("7200");

/// The configured origins.
pub(super) struct AllowedOrigins(Vec<HeaderValue>);

impl AllowedOrigins {
    pub(super) fn new(origins: &[String]) -> Self {
        Self(origins.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()).collect())
    }

    /// The page's origin, if it may read.
    fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        self.0.contains(origin).then(|| origin.clone())
    }
}

/// Answers preflights, and lets pages of allowed origins read every response.
pub(super) async fn share(State(allowed): State<Arc<AllowedOrigins>>, request: Request, next: Next) -> Response {
    if allowed.0.is_empty() {
        return next.run(request).await;
    }
    let origin = allowed.of(request.headers());
    let is_preflight =
        request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&origin, is_preflight) {
        (Some(_), true) => StatusCode::NO_CONTENT.into_response(),
        (Some(_) | None, _) => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.append(VARY, HeaderValue::from_static("origin"));
    if let Some(origin) = origin {
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
        if is_preflight {
            headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HEADERS);
            headers.insert(ACCESS_CONTROL_MAX_AGE, MAX_AGE_S);
        }
    }
    response
}
