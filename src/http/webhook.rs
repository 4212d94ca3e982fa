//! Meta's webhook: its subscription check (GET) and its notices (POST).

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Extension, RawQuery, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use tracing::warn;

use super::HttpOptions;
use super::bodies::Bodies;
use super::error::ApiError;
use super::server::Connection;
use crate::call::registry::Calls;
use crate::whatsapp::signature::{SIGNATURE_HEADER, Signer};
use crate::whatsapp::webhook::{self, Notice};

/// Meta asks whether this address is ours: the challenge goes back as it came.
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

/// Verifies the raw bytes, reads them, answers 200 and only then lets the calls act on them.
pub(super) async fn receive(
    State(options): State<Arc<HttpOptions>>,
    Extension(bodies): Extension<Arc<Bodies>>,
    request: Request,
) -> Result<Response, ApiError> {
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
        warn!("a correctly signed webhook cannot be read: {error}");
        ApiError::new(StatusCode::BAD_REQUEST, "unreadable_webhook", error.to_string())
    })?;
    let is_foreign = notices.iter().any(|notice| !options.calls.owns(notice));
    // From here on the calls act, whatever becomes of the reply.
    let act = ActAfterReply { notices, signer, calls: options.calls.clone(), progress: Progress::Head };
    if let Some(forwarding) = options.forwarding.as_ref().filter(|_| is_foreign) {
        forwarding.take(&head.headers, held.bytes.clone()).await.map_err(|error| {
            count("not_forwarded");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_forwarded", error.to_string())
        })?;
    }
    count("ok");
    Ok(Response::new(Body::new(act)))
}

fn count(outcome: &'static str) {
    metrics::counter!("patchcord_webhooks_total", "outcome" => outcome).increment(1);
}

/// What Meta reads; it looks at the status alone.
const REPLY: &[u8] = b"ok\n";

/// A body that comes a moment after its head. So the head is written out while the body waits, and when the body is
/// done the calls act: Meta has its 200 before it hears from us on Graph. If Meta hangs up early they act all the same.
struct ActAfterReply {
    notices: Vec<Notice>,
    signer: Signer,
    calls: Calls,
    progress: Progress,
}

enum Progress {
    Head,
    Body,
    Done,
}

impl HttpBody for ActAfterReply {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        match self.progress {
            Progress::Head => {
                self.progress = Progress::Body;
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Progress::Body => {
                self.progress = Progress::Done;
                Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(REPLY)))))
            }
            Progress::Done => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.progress, Progress::Done)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self.progress {
            Progress::Head | Progress::Body => http_body::SizeHint::with_exact(REPLY.len() as u64),
            Progress::Done => http_body::SizeHint::with_exact(0),
        }
    }
}

impl Drop for ActAfterReply {
    fn drop(&mut self) {
        let notices = std::mem::take(&mut self.notices);
        self.calls.take(notices, &self.signer);
    }
}
