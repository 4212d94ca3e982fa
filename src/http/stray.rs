//! Requests from Meta that miss the webhook by path or method. A wrong address in Meta's
//! dashboard appears in the log.

use std::sync::LazyLock;

use axum::extract::Request;
use axum::http::{Method, StatusCode};
use tracing::warn;

use super::WEBHOOK_PATH;
use super::error::ApiError;
use crate::clock;
use crate::throttle::Throttle;
use crate::whatsapp::signature::SIGNATURE_HEADER;

static WARNING: LazyLock<Throttle> = LazyLock::new(Throttle::default);

/// 404. If the request looks like Meta's, a warning names the path, at most once a minute.
pub(super) async fn nothing_here(request: Request) -> ApiError {
    if is_metas(&request) {
        warn(&request);
    }
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "nothing is served at this path")
}

/// 405: the webhook takes only GET and POST.
pub(super) async fn method_not_allowed(request: Request) -> ApiError {
    warn(&request);
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "the webhook takes GET and POST")
}

/// Looks like Meta's: a signature, a subscription check, or a path below the webhook's.
fn is_metas(request: &Request) -> bool {
    let is_check = request.uri().query().is_some_and(|query| query.contains("hub."));
    let is_below = request.uri().path().starts_with("/webhook");
    is_check || is_below || request.headers().contains_key(SIGNATURE_HEADER)
}

fn warn(request: &Request) {
    metrics::counter!("patchcord_webhooks_total", "outcome" => "elsewhere").increment(1);
    let Some(held_back) = WARNING.admit(clock::now()) else { return };
    let (method, path) = (shown_method(request.method()), shown_path(request.uri().path()));
    warn!(
        http.method = method,
        http.path = path,
        webhooks.held_back = held_back,
        "{method} {path} is not the webhook's address: in Meta's dashboard enter {WEBHOOK_PATH} (GET and POST)"
    );
}

/// A method may be any token.
fn shown_method(method: &Method) -> &str {
    let known = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE, Method::HEAD, Method::OPTIONS];
    if known.contains(method) { method.as_str() } else { "another method" }
}

/// The path for a log line: without a query, and without anything that could be a token, an id or a number.
fn shown_path(path: &str) -> String {
    const LONGEST_SEGMENT: usize = 24;
    const MOST_SEGMENTS: usize = 6;
    let segments = path.split('/').take(MOST_SEGMENTS).map(|segment| {
        let is_plain = segment.bytes().all(|byte| byte.is_ascii_alphabetic() || b"-_.".contains(&byte));
        let is_version = segment.len() <= 3 && segment.bytes().all(|byte| byte.is_ascii_alphanumeric());
        if segment.len() <= LONGEST_SEGMENT && (is_plain || is_version) { segment } else { "…" }
    });
    segments.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_shown_without_tokens_ids_and_numbers() {
        for (path, shown) in [
            ("/webhook/whatsapp", "/webhook/whatsapp"),
            ("/webhooks/whatsapp/v2/", "/webhooks/whatsapp/v2/"),
            ("/webhooks/EAAGm0PX4ZCpsBA", "/webhooks/…"),
            ("/webhooks/12025550143", "/webhooks/…"),
            ("/webhooks/wacid.HBgLMTIwMjU1NTAxNDM=", "/webhooks/…"),
            ("/webhooks/a\u{1b}[31m/b%0a", "/webhooks/…/…"),
            ("/a/b/c/d/e/f/g", "/a/b/c/d/e"),
            (&format!("/{}", "x".repeat(25)), "/…"),
        ] {
            assert_eq!(shown_path(path), shown);
        }
    }

    #[test]
    fn only_what_could_be_metas_is_told() {
        let request = |path: &str| Request::builder().uri(path).body(axum::body::Body::empty()).unwrap();
        for path in ["/?hub.mode=subscribe", "/webhook", "/webhooks/whatsapp/x", "/hook?a=1&hub.challenge=2"] {
            assert!(is_metas(&request(path)), "{path}");
        }
        for path in ["/", "/favicon.ico", "/v1/calls?after=hub", "/wp-login.php"] {
            assert!(!is_metas(&request(path)), "{path}");
        }
        let signed = Request::builder().uri("/").header(SIGNATURE_HEADER, "sha256=00");
        assert!(is_metas(&signed.body(axum::body::Body::empty()).unwrap()));
    }
}
