//! SIP over WebSocket (RFC 7118): one message in each frame. The HTTP listener has accepted the socket.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use rsipstack::transport::TransportEvent;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{interval, timeout};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::connection_limits::ConnectionPermit;
use super::edge::{Head, MAX_BODY_BYTES, MAX_HEAD_BYTES, head_of_datagram, measure_body};
use super::gate::Verdict;
use super::streams::{PING, PROVEN_WITHIN, Use, WRITTEN_WITHIN, Wire, dropped};
use super::uri::Transport;
use super::user_agent::UserAgent;
use crate::clock;

/// A longer message closes the socket.
const MAX_MESSAGE_BYTES: usize = MAX_HEAD_BYTES + MAX_BODY_BYTES;
/// Two unanswered pings: a phone whose device sleeps is reached no more, and its registration is of no use.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// Of the header that says how long a body is: `Content-Length: 32768` and its line end have less.
const MOST_OF_A_LENGTH: usize = 32;
/// For the phone's part of the closing handshake.
const CLOSED_WITHIN: Duration = Duration::from_millis(500);

/// Permits one socket that is about to be opened.
pub struct WebSocketPermit(ConnectionPermit);

/// Why no socket is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPermit {
    /// `sip.websocket` is off.
    Off,
    /// The address sent too much that was no SIP, or too many wrong passwords.
    Banned,
    /// Too many phones are connected, in all or from this address.
    Full,
}

/// How a socket ends.
enum Over {
    /// The phone is gone, or the connection is.
    Gone,
    /// We close it.
    Close(CloseCode, &'static str),
}

impl UserAgent {
    /// For one socket from this address.
    pub fn websocket_permit(&self, from: IpAddr) -> Result<WebSocketPermit, NoPermit> {
        if !self.takes_websockets() {
            return Err(NoPermit::Off);
        }
        if self.stack().gate.is_banned(from, clock::now()) {
            return Err(NoPermit::Banned);
        }
        self.stack().streams.limits.take(from).map(WebSocketPermit).ok_or(NoPermit::Full)
    }

    /// Serves a phone's socket, once the HTTP server has handed it over, until it is closed. `proven` runs when the phone is
    /// known. No other live socket may have the same address.
    pub fn serve_websocket<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        &self,
        upgrade: impl Future<Output = Option<S>> + Send + 'static,
        from: SocketAddr,
        permit: WebSocketPermit,
        proven: impl FnOnce() + Send + 'static,
    ) {
        let stack = self.stack().clone();
        self.stack().streams.spawn(async move {
            let Some(stream) = upgrade.await else { return };
            let config = WebSocketConfig::default()
                .max_message_size(Some(MAX_MESSAGE_BYTES))
                .max_frame_size(Some(MAX_MESSAGE_BYTES));
            let (sink, source) = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await.split();
            let layer = &stack.dialogs.endpoint.transport_layer;
            let theirs = stack.streams.theirs((Transport::Ws, from), layer, permit.0).await;
            drop(stack);
            let Some((wire, user)) = theirs else { return };
            Socket { wire, sink, source, user, proven: Some(proven) }.run().await;
        });
    }
}

/// One phone's socket.
struct Socket<S, F> {
    wire: Wire,
    sink: SplitSink<WebSocketStream<S>, Message>,
    source: SplitStream<WebSocketStream<S>>,
    user: Use,
    proven: Option<F>,
}

impl<S: AsyncRead + AsyncWrite + Unpin, F: FnOnce()> Socket<S, F> {
    async fn run(mut self) {
        let over = self.serve().await;
        self.wire.is_over.cancel();
        if let Over::Close(code, reason) = over {
            let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
            // A phone that is still sending would see a broken connection instead of the code (RFC 6455 §7.1.1).
            let parting = async {
                self.sink.send(Message::Close(Some(frame))).await?;
                while let Some(Ok(_)) = self.source.next().await {}
                Ok::<(), Error>(())
            };
            // A phone that does not answer is disconnected.
            let _ = timeout(CLOSED_WITHIN, parting).await;
        }
    }

    async fn serve(&mut self) -> Over {
        let mut ping = interval(PING);
        ping.reset();
        let prove_by = clock::now() + PROVEN_WITHIN;
        while self.user.keeps_its_permit() {
            if !self.user.is_strange()
                && let Some(proven) = self.proven.take()
            {
                proven();
            }
            let served = tokio::select! {
                frame = self.source.next() => {
                    self.wire.heard_at = clock::now();
                    self.take(frame).await
                }
                message = self.wire.from_library.recv() => self.send(message).await,
                _ = ping.tick() => self.ping().await,
                () = tokio::time::sleep_until(prove_by.into()), if self.user.is_strange() => match self.user.is_strange() {
                    true => Err(Over::Close(CloseCode::Policy, "no phone of ours")),
                    false => Ok(()),
                },
                () = self.wire.is_over.cancelled() => Err(Over::Close(CloseCode::Away, "stopping")),
            };
            if let Err(over) = served {
                return over;
            }
        }
        Over::Close(CloseCode::Again, "too many phones")
    }

    async fn ping(&mut self) -> Result<(), Over> {
        match self.wire.heard_at.elapsed() > SILENT_FOR {
            true => Err(Over::Gone),
            false => self.write(Message::Ping(bytes::Bytes::new())).await,
        }
    }

    async fn take(&mut self, frame: Option<Result<Message, Error>>) -> Result<(), Over> {
        match frame {
            Some(Ok(Message::Text(text))) => self.take_message(text.as_bytes()).await,
            Some(Ok(Message::Binary(bytes))) => self.take_message(&bytes).await,
            Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => Ok(()),
            Some(Err(Error::Capacity(_))) => {
                self.failed("too_long");
                Err(Over::Close(CloseCode::Size, "the message is too long"))
            }
            // A page that was closed, or a network that is gone.
            Some(Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake))) => Err(Over::Gone),
            Some(Err(Error::Protocol(_) | Error::Utf8(_))) => {
                self.failed("frame");
                Err(Over::Close(CloseCode::Protocol, "the frame is malformed"))
            }
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(Over::Gone),
        }
    }

    async fn take_message(&mut self, message: &[u8]) -> Result<(), Over> {
        if message.iter().all(u8::is_ascii_whitespace) {
            // RFC 5626 §3.5.1. A stranger learns nothing.
            let is_ping = message == b"\r\n\r\n" && !self.user.is_strange();
            return if is_ping { self.write(Message::text("\r\n")).await } else { Ok(()) };
        }
        let (from, now) = (self.wire.from.ip(), clock::now());
        match head_of_datagram(message) {
            Ok((head, end)) => match self.wire.gate.judge(from, &head, now) {
                verdict @ (Verdict::Pass | Verdict::Ask) => {
                    if verdict == Verdict::Pass {
                        self.user.prove();
                    }
                    self.wire.hand_on(&measured(message, &head, end));
                    return Ok(());
                }
                Verdict::Drop(reason) => dropped(reason),
            },
            Err(malformed) => self.failed(malformed.name()),
        }
        match self.wire.gate.is_banned(from, now) && self.user.is_strange() {
            true => Err(Over::Close(CloseCode::Policy, "banned")),
            false => Ok(()),
        }
    }

    fn failed(&self, reason: &'static str) {
        self.wire.gate.failed(self.wire.from.ip(), clock::now());
        dropped(reason);
    }

    /// A message of ours, or of an end of the library's own making.
    async fn send(&mut self, message: Option<TransportEvent>) -> Result<(), Over> {
        let Some(TransportEvent::Incoming(message, ..)) = message else { return Err(Over::Gone) };
        match String::from_utf8(message.to_bytes()) {
            Ok(text) => self.write(Message::text(text)).await,
            Err(bytes) => self.write(Message::binary(bytes.into_bytes())).await,
        }
    }

    async fn write(&mut self, message: Message) -> Result<(), Over> {
        match timeout(WRITTEN_WITHIN, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(Over::Gone),
        }
    }
}

/// The message with the length of its body, which the library wants and a frame may leave out (RFC 7118 §5).
fn measured<'m>(message: &'m [u8], head: &Head<'_>, end: usize) -> Cow<'m, [u8]> {
    if head.content_length.is_some() || end == head.length {
        return message[..end].into();
    }
    let mut longer = message[..end].to_vec();
    longer.resize(end + MOST_OF_A_LENGTH, 0);
    let measured = measure_body(&mut longer, head.length, end);
    longer.truncate(measured.unwrap_or(end));
    longer.into()
}
