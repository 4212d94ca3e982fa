//! The files of the phone page, and the headers of everything that the simulator answers.

use axum::Router;
use axum::extract::Request;
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::Next;
use axum::response::Response;
use axum::routing::get;

/// No other host, no inline script or style, nobody's frame.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
    media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("permissions-policy"), "microphone=(self), camera=(), geolocation=()"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Path, type and text of every file.
const FILES: [(&str, &str, &str); 11] = [
    ("/", HTML, include_str!("phone/index.html")),
    ("/phone.css", CSS, include_str!("phone/phone.css")),
    ("/icon.svg", SVG, include_str!("phone/icon.svg")),
    ("/phone.js", SCRIPT, include_str!("phone/phone.js")),
    ("/api.js", SCRIPT, include_str!("phone/api.js")),
    ("/call.js", SCRIPT, include_str!("phone/call.js")),
    ("/faults.js", SCRIPT, include_str!("phone/faults.js")),
    ("/json.js", SCRIPT, include_str!("phone/json.js")),
    ("/levels.js", SCRIPT, include_str!("phone/levels.js")),
    ("/sound.js", SCRIPT, include_str!("phone/sound.js")),
    ("/timeline.js", SCRIPT, include_str!("phone/timeline.js")),
];

/// One route for each file.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || std::future::ready(([(header::CONTENT_TYPE, kind)], text))))
    })
}

/// Of every file.
#[cfg(test)]
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    FILES.into_iter().map(|(path, ..)| path)
}

/// Adds the headers. A page of a new version is asked for again.
pub(super) async fn with_headers(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
    response
}
