//! The bytes of one connection, with a deadline on every wait for the client.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::BoxError;
use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::connections::{Connection, Seat};
use crate::config::http::Limits;

/// How much of a refused body is drained: more than Meta's largest webhook. A longer one is cut off.
const DISCARDED_BYTES: usize = 4 * 1024 * 1024;

/// A socket that reports arriving bytes to its connection, and fails with `TimedOut` when the client does not read. It holds
/// the connection's place, so that a WebSocket that takes the socket over is counted too.
pub(super) struct TimedStream {
    stream: TcpStream,
    connection: Arc<Connection>,
    limits: Arc<Limits>,
    /// For the client to read the next bytes.
    write: Deadline,
    seat: Seat,
}

impl TimedStream {
    pub(super) fn new(stream: TcpStream, seat: Seat, limits: Arc<Limits>) -> Self {
        let connection = seat.connection();
        Self { stream, connection, limits, write: Deadline::default(), seat }
    }

    /// The socket, which has deadlines of its own from now on, and its place.
    pub(super) fn into_parts(self) -> (TcpStream, Seat) {
        (self.stream, self.seat)
    }

    /// Applies `write_timeout`, counted from the moment a write began to block.
    fn written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write.clear();
            return written;
        }
        ready!(self.write.poll_within(self.limits.write_timeout, context));
        Poll::Ready(Err(timed_out("write")))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if read.is_pending() {
            self.connection.has_read_nothing(Instant::now());
        } else if into.filled().len() > before {
            self.connection.has_read(self.limits.head_timeout, Instant::now());
        }
        read
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The body of a request; it fails when no bytes arrive for too long.
pub(super) struct RequestBody {
    /// None once it is dropped.
    body: Option<Incoming>,
    timeout: Duration,
    deadline: Deadline,
    /// Receives the unread rest.
    rest: Option<oneshot::Sender<Incoming>>,
}

/// The rest of a body that its handler did not read.
pub(super) struct UnreadBody {
    rest: oneshot::Receiver<Incoming>,
    timeout: Duration,
}

impl RequestBody {
    pub(super) fn new(body: Incoming, timeout: Duration) -> (Self, UnreadBody) {
        let (sender, rest) = oneshot::channel();
        let unread = UnreadBody { rest, timeout };
        (Self { body: Some(body), timeout, deadline: Deadline::default(), rest: Some(sender) }, unread)
    }
}

impl UnreadBody {
    /// Drains it, within bounds, while the response leaves. A client that is still sending would get a reset instead of the
    /// response if the socket were closed on unread bytes (RFC 9112 §9.6).
    pub(super) async fn discard(mut self) {
        // The handler has read all of it, or handed it on.
        let Ok(mut rest) = self.rest.try_recv() else { return };
        let mut bytes = 0;
        let read = async {
            while let Some(Ok(frame)) = poll_fn(|context| Pin::new(&mut rest).poll_frame(context)).await {
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > DISCARDED_BYTES {
                    break;
                }
            }
        };
        // A slower client has had its response long ago.
        let _ = timeout(self.timeout, read).await;
    }
}

impl HttpBody for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(context) {
            this.deadline.clear();
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(this.deadline.poll_within(this.timeout, context));
        Poll::Ready(Some(Err(timed_out("body").into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(HttpBody::size_hint).unwrap_or_default()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let (Some(body), Some(rest)) = (self.body.take(), self.rest.take())
            && !body.is_end_stream()
        {
            // There is no receiver once the request is cancelled.
            let _ = rest.send(body);
        }
    }
}

/// The body of a response. Once it is sent, the connection waits for its next request.
pub(super) struct ResponseBody {
    body: Body,
    connection: Arc<Connection>,
    idle_timeout: Duration,
}

impl ResponseBody {
    pub(super) fn new(body: Body, connection: Arc<Connection>, idle_timeout: Duration) -> Self {
        Self { body, connection, idle_timeout }
    }
}

impl HttpBody for ResponseBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.connection.is_idle(self.idle_timeout, Instant::now());
    }
}

/// A deadline that is reset often.
#[derive(Default)]
struct Deadline {
    at: Option<Instant>,
    /// The timer, reused.
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    fn clear(&mut self) {
        self.at = None;
    }

    /// Ready this long after the first poll since the last `clear`.
    fn poll_within(&mut self, within: Duration, context: &mut Context<'_>) -> Poll<()> {
        let until = *self.at.get_or_insert_with(|| Instant::now() + within);
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        sleep.as_mut().poll(context)
    }
}

fn timed_out(waiting_for: &'static str) -> io::Error {
    metrics::counter!("patchcord_http_timeouts_total", "waiting_for" => waiting_for).increment(1);
    io::Error::new(io::ErrorKind::TimedOut, format!("the client took too long: {waiting_for}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_is_counted_from_its_beginning_and_progress_begins_a_new_one() {
        let hour = Duration::from_secs(3600);
        let mut deadline = Deadline::default();
        let mut is_over = async |within| {
            let poll = poll_fn(|context| Poll::Ready(deadline.poll_within(within, context)));
            poll.await.is_ready()
        };
        assert!(!is_over(hour).await);
        assert!(!is_over(Duration::ZERO).await, "it is still the same wait");
        deadline.clear();
        poll_fn(|context| deadline.poll_within(Duration::ZERO, context)).await;
        deadline.clear();
        let poll = poll_fn(|context| Poll::Ready(deadline.poll_within(hour, context))).await;
        assert_eq!(poll, Poll::Pending);
    }
}
