//! Meta's webhook: its subscription check (GET) and its notices (POST).

use std::sync::Arc;

use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::StatusCode;
use futures_util::future::join_all;
use tracing::warn;

use super::HttpOptions;
use super::bodies::Bodies;
use super::error::ApiError;
use super::server::Connection;
use crate::store::Written;
use crate::whatsapp::signature::SIGNATURE_HEADER;
use crate::whatsapp::webhook;

/// Meta's subscription check: the challenge is returned unchanged.
pub(super) async fn verify(
    State(options): State<Arc<HttpOptions>>,
    RawQuery(query): RawQuery,
) -> Result<String, ApiError> {
    let settings = options.settings.get();
    webhook::verify_subscription(query.as_deref().unwrap_or_default(), &settings.verify_token).map_err(|error| {
        count("verification_refused");
        ApiError::new(StatusCode::FORBIDDEN, "verification_refused", error.to_string())
    })
}

/// Verifies the raw bytes, parses them, hands the notices to the calls at once, and answers 200 when they are on disk,
/// because Meta does not repeat what was answered 200. The store's deadlines bound the wait: Meta gets its 200 after
/// them too.
pub(super) async fn receive(
    State(options): State<Arc<HttpOptions>>,
    Extension(bodies): Extension<Arc<Bodies>>,
    request: Request,
) -> Result<&'static str, ApiError> {
    let (head, body) = request.into_parts();
    let held = bodies.read(body).await.inspect_err(|error| count(error.code))?;
    let header = head.headers.get(SIGNATURE_HEADER).and_then(|value| value.to_str().ok());
    let signer = options.settings.get().app_secrets.verify(header, &held.bytes).map_err(|error| {
        count("bad_signature");
        ApiError::new(StatusCode::UNAUTHORIZED, "bad_signature", error.to_string())
    })?;
    if let Some(connection) = head.extensions.get::<Arc<Connection>>() {
        connection.is_now_known();
    }
    let notices = webhook::parse(&held.bytes).map_err(|error| {
        count("unreadable");
        warn!("cannot parse a correctly signed webhook: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, "unreadable_webhook", error.to_string())
    })?;
    let is_foreign = notices.iter().any(|notice| !options.calls.owns(notice));
    // From here on the calls act, whether or not the reply arrives.
    let writes = options.calls.take(notices, &signer);
    if let Some(forwarding) = options.forwarding.as_ref().filter(|_| is_foreign) {
        forwarding.take(&head.headers, held.bytes.clone()).await.map_err(|error| {
            count("not_forwarded");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_forwarded", error.to_string())
        })?;
    }
    // Frees the memory budget for other webhooks.
    drop(held);
    // The store logs its own errors; the calls go on.
    join_all(writes.iter().map(Written::confirmed)).await;
    count("ok");
    Ok(REPLY)
}

fn count(outcome: &'static str) {
    metrics::counter!("patchcord_webhooks_total", "outcome" => outcome).increment(1);
}

/// Meta looks only at the status.
const REPLY: &str = "ok\n";
