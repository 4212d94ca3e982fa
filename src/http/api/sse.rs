//! Server-sent events (HTML standard, §9.2): bounded streams over plain HTTP, for pages that read them with `fetch`.
//!
//! A stream has a task of its own. It ends when its reader is gone or reads too slowly, when its key is no longer
//! configured, and when the service stops.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{mpsc, watch};
use tracing::info;

use crate::call::event::CallEvent;

/// Events that wait for the connection; one more waits for room.
const WAITING: usize = 16;
/// A reader that takes nothing for this long is cut off.
const SENT_WITHIN: Duration = Duration::from_secs(10);
/// A comment shows that the stream lives, and keeps proxies from closing it. A reader whose machine is gone is noticed
/// when the system gives up on a comment, after `server::UNACKNOWLEDGED_FOR`: 30 s in all.
const COMMENT_EVERY: Duration = Duration::from_secs(10);

/// The writing end of a stream. Methods fail with the reason why the stream ends.
pub(super) struct SseWriter {
    frames: mpsc::Sender<Bytes>,
    stopping: watch::Receiver<bool>,
    comments: tokio::time::Interval,
}

/// Whether a request asks for server-sent events.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let is_sse = |kind: &str| kind.split(';').next().is_some_and(|kind| kind.trim() == "text/event-stream");
    accepts.flat_map(|value| value.split(',')).any(is_sse)
}

/// A response whose events `write` sends until it gives the reason for the end.
pub(super) fn respond<F>(stopping: watch::Receiver<bool>, write: impl FnOnce(SseWriter) -> F) -> Response
where
    F: Future<Output = &'static str> + Send + 'static,
{
    let (frames, mut waiting) = mpsc::channel(WAITING);
    let mut comments = tokio::time::interval(COMMENT_EVERY);
    comments.reset();
    let writing = write(SseWriter { frames, stopping, comments });
    tokio::spawn(async move {
        let why = writing.await;
        info!("event stream closed: {why}");
    });
    let frames = stream::poll_fn(move |context| waiting.poll_recv(context).map(|frame| frame.map(Ok::<_, Infallible>)));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // A proxy such as nginx would collect the events.
        (header::HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, Body::from_stream(frames)).into_response()
}

impl SseWriter {
    /// An event of a call, in the envelope of `/v1/events`.
    pub(super) async fn call_event(&mut self, event: &CallEvent) -> Result<(), &'static str> {
        self.live_event(&event.id, event).await
    }

    /// An event of a call or of a permission.
    pub(super) async fn live_event(&mut self, id: &str, event: &impl Serialize) -> Result<(), &'static str> {
        let data = serde_json::to_string(event).map_err(|_| "an event is no JSON")?;
        self.send(format!("id: {id}\ndata: {data}\n\n")).await
    }

    /// The same, as it was stored.
    pub(super) async fn stored_event(&mut self, id: &str, body: &[u8]) -> Result<(), &'static str> {
        let data = std::str::from_utf8(body).map_err(|_| "an event is no text")?;
        self.send(format!("id: {id}\ndata: {data}\n\n")).await
    }

    /// An event of this kind.
    pub(super) async fn event(&mut self, kind: &str, data: &impl Serialize) -> Result<(), &'static str> {
        let data = serde_json::to_string(data).map_err(|_| "an event is no JSON")?;
        self.send(format!("event: {kind}\ndata: {data}\n\n")).await
    }

    /// Waits for whichever comes first: the time for a comment, which it then sends, or the end. Cancel safe.
    pub(super) async fn tick(&mut self) -> Result<(), &'static str> {
        tokio::select! {
            _ = self.comments.tick() => {}
            () = self.frames.closed() => return Err("the reader closed it"),
            // A dropped sender means stop too.
            _ = self.stopping.wait_for(|stopping| *stopping) => return Err("the service stops"),
        }
        // A comment needs no room of its own: a reader that has events to read knows that the stream lives.
        let _ = self.frames.try_send(Bytes::from_static(b": \n\n"));
        Ok(())
    }

    async fn send(&self, frame: String) -> Result<(), &'static str> {
        match tokio::time::timeout(SENT_WITHIN, self.frames.send(frame.into())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the reader closed it"),
            Err(_) => Err("the reader is too slow"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_asked_for_by_their_type() {
        let is_asked = |accept: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, accept.parse().unwrap());
            is_asked_for(&headers)
        };
        for accept in ["text/event-stream", "application/json, text/event-stream;q=0.9"] {
            assert!(is_asked(accept), "{accept}");
        }
        for accept in ["*/*", "application/json"] {
            assert!(!is_asked(accept), "{accept}");
        }
        assert!(!is_asked_for(&HeaderMap::new()));
    }
}
