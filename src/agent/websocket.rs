//! An agent on a WebSocket that we dial, in any dialect: the task that carries its sound and messages.
//!
//! The halves that read and write are independent, so that an agent that does not read is still heard, and one that
//! sends too much still hears. Only an agent that leaves half a megabyte of notices unread is not read until it has
//! read them.

mod options;
mod signature;
mod connect;
mod upgrade;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{interval_at, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tracing::debug;

use super::dialect::{Closing, Dialect, FromAgent, Incoming, Joins};
use super::notice::{ErrorCode, Notice, Start};
use super::port::AgentPort;
use super::{SocketOptions, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;
use crate::descriptors;
use crate::telemetry::shown;
use connect::{Connected, connect};
pub use options::WebSocketOptions;
pub use signature::UpgradeSignature;

/// A minute of speech at the highest rate may be one message; a larger message is a bug of the agent.
const MESSAGE_LIMIT_BYTES: usize = 12 * 1024 * 1024;
/// One read takes in a whole 20 ms frame, which has 320 to 1920 bytes. All of the buffer is zeroed at every read, also
/// where there is nothing to read; and the default of 128 KiB would be most of a call's memory.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Often enough for NATs and proxies, which drop a connection after some ten seconds without traffic.
const PING_EVERY: Duration = Duration::from_secs(5);
/// The least number of pings within the idle timeout, so that a short stall of the network does not end the agent.
const PINGS_AT_LEAST: u32 = 4;
const PINGS_APART_AT_LEAST: Duration = Duration::from_millis(10);
/// An agent that takes no message for so long is not listening.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between `Stop` and our close frame. Many libraries fail every send once they see a close frame, and an agent
/// that is sending would then never read what came before it.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// How long we wait for the agent's half of the close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// The name of the mark behind the last words of an agent whose protocol has no marks of its own.
const LAST_MARK: &str = "\u{1}last";
/// An agent that provokes more replies than it reads fails.
const MAX_REPLIES: usize = 64;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a conversation with an agent ended.
enum Ending {
    /// The call has no more use for the agent.
    Dismissed(&'static str),
    /// The agent said `bye` or closed normally.
    HungUp,
    Failed(AgentFailure, Closing),
}

/// Connects to an agent and talks with it in this dialect until one side leaves.
pub(super) async fn run(
    mut agent: WebSocketOptions,
    dialect: Box<dyn Dialect>,
    port: Rc<AgentPort>,
    options: SocketOptions,
) {
    let signature = agent.signature.as_ref();
    let signed = signature.map(|signature| signature.headers(&agent.url, port.call_id(), clock::wall()));
    agent.headers.extend(signed.into_iter().flatten());
    talk(&agent, dialect, &port, &options).await;
}

async fn talk(agent: &WebSocketOptions, dialect: Box<dyn Dialect>, port: &AgentPort, options: &SocketOptions) {
    let (dialled_at, standstills) = (clock::now(), port.standstills());
    let (tls, limit) = (options.tls.clone(), options.connect_timeout);
    let connected = tokio::select! {
        biased;
        _ = port.dismissed() => return,
        connected = connect(agent, dialect.subprotocols(), tls, limit, standstills) => connected,
    };
    match connected {
        Ok(connected) => {
            descriptors::shortage_is_over();
            let conversation = Conversation {
                port,
                agent,
                options,
                dialect: RefCell::new(dialect),
                dialled_at,
                has_joined: Cell::new(false),
                joining: Notify::new(),
                is_leaving: Cell::new(false),
                replies: RefCell::default(),
                has_replies: Notify::new(),
            };
            conversation.hold(open(connected).await).await;
        }
        Err(error) => {
            if let Some(error) = error.of_the_system().filter(|error| descriptors::is_shortage(error)) {
                descriptors::tell_shortage(error);
            }
            port.failed(error.into());
        }
    }
}

/// Hands the stream to the WebSocket library.
async fn open(connected: Connected) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_LIMIT_BYTES))
        .max_frame_size(Some(MESSAGE_LIMIT_BYTES));
    let Connected { stream, received } = connected;
    WebSocketStream::from_partially_read(stream, received, Role::Client, Some(config)).await
}

/// An agent or participant at its open socket.
struct Conversation<'a> {
    port: &'a AgentPort,
    agent: &'a WebSocketOptions,
    options: &'a SocketOptions,
    /// Borrowed between two awaits only.
    dialect: RefCell<Box<dyn Dialect>>,
    dialled_at: Instant,
    has_joined: Cell<bool>,
    joining: Notify,
    /// The caller has heard its last words, and it hangs up.
    is_leaving: Cell<bool>,
    /// What the dialect answers by itself; at most [`MAX_REPLIES`].
    replies: RefCell<Vec<Message>>,
    has_replies: Notify,
}

impl Conversation<'_> {
    /// Talks until one side leaves.
    async fn hold(&self, socket: Socket) {
        let (mut sink, mut stream) = socket.split();
        let format = self.dialect.borrow().format(self.agent.format);
        self.port.attach(format, self.agent.profile);
        let ending = match self.send(&mut sink, &Notice::Start(Box::new(self.start(format)))).await {
            Err(error) => ending_of(&error),
            Ok(()) => self.converse(&mut sink, &mut stream).await,
        };
        self.part(ending, sink, stream).await;
    }

    async fn converse(&self, sink: &mut SplitSink<Socket, Message>, stream: &mut SplitStream<Socket>) -> Ending {
        if self.dialect.borrow().joins() == Joins::WhenOpen {
            self.join();
        }
        let heard_at = Cell::new(clock::now());
        tokio::select! {
            biased;
            reason = self.port.dismissed() => Ending::Dismissed(reason),
            ending = self.read(stream, &heard_at) => ending,
            ending = self.write(sink, &heard_at) => ending,
            ending = self.fail_to_join() => ending,
        }
    }

    fn join(&self) {
        if !self.has_joined.replace(true) {
            self.joining.notify_one();
            self.port.joined();
        }
    }

    /// Ends only if the agent has not joined within the time for connecting.
    async fn fail_to_join(&self) -> Ending {
        let limit = self.options.connect_timeout;
        let remaining = limit.saturating_sub(self.dialled_at.elapsed());
        match self.port.standstills().timeout(remaining, self.joining.notified()).await {
            Ok(()) => pending().await,
            Err(_) => lost(AgentFailureKind::NoAnswer.because(format!("it was not ready within {}", shown(limit)))),
        }
    }

    async fn send(&self, sink: &mut SplitSink<Socket, Message>, notice: &Notice) -> Result<(), tungstenite::Error> {
        let mut outbox = Vec::new();
        self.dialect.borrow_mut().write_notice(notice, &mut outbox);
        for message in outbox {
            sink.feed(message).await?;
        }
        sink.flush().await
    }

    fn start(&self, format: SoundFormat) -> Start {
        Start {
            call_id: self.port.call_id().clone(),
            call: self.port.description().clone(),
            stream_id: format!("stream_{}", ulid::Ulid::new().to_string().to_lowercase()),
            format,
            max_buffer: self.port.max_buffer(),
            parameters: self.agent.parameters.clone(),
        }
    }

    async fn part(&self, ending: Ending, mut sink: SplitSink<Socket, Message>, mut stream: SplitStream<Socket>) {
        let (reason, closing) = match ending {
            Ending::Dismissed(reason) => (reason, Closing::Normal),
            Ending::HungUp if !self.has_joined.get() => {
                self.port.failed(AgentFailureKind::Refused.because("it hung up before it was ready"));
                ("agent_hung_up", Closing::Normal)
            }
            Ending::HungUp => (self.port.hung_up(), Closing::Normal),
            Ending::Failed(failure, closing) => {
                let name = failure.kind.name();
                self.port.failed(failure);
                (name, closing)
            }
        };
        let code = self.dialect.borrow().close_code(closing);
        let say = async {
            self.send(&mut sink, &Notice::Stop { reason }).await?;
            tokio::time::sleep(STOP_GRACE).await;
            let close = CloseFrame { code: code.into(), reason: reason.into() };
            sink.send(Message::Close(Some(close))).await?;
            pending().await
        };
        let farewell = async {
            tokio::select! {
                biased;
                failed = say => failed,
                // Unread data makes the system reset the connection, which drops what the agent has not read (RFC 2525
                // §2.17).
                () = read_out(&mut stream) => Ok::<(), tungstenite::Error>(()),
            }
        };
        if !matches!(timeout(STOP_GRACE + CLOSE_TIMEOUT, farewell).await, Ok(Ok(()))) {
            debug!(call.id = %self.port.call_id(), user = ?self.port.user(), "the agent's socket did not close cleanly");
        }
    }

    /// Reads all that the agent sends. Ends when the agent leaves or is lost.
    async fn read(&self, stream: &mut SplitStream<Socket>, heard_at: &Cell<Instant>) -> Ending {
        // Used again for every message, so that a frame costs no allocation.
        let mut inbox = Vec::with_capacity(2);
        loop {
            let message = match stream.next().await {
                None => return lost(AgentFailureKind::Disconnected.because("the connection ended")),
                Some(Err(error)) => return ending_of(&error),
                Some(Ok(message)) => message,
            };
            // An agent that reads nothing fails in `write`.
            self.port.notices_read().await;
            heard_at.set(clock::now());
            let incoming = match message {
                Message::Binary(bytes) => Incoming::Binary(bytes),
                Message::Text(text) => Incoming::Text(text),
                Message::Close(frame) => return ending_of_close(frame.as_ref()),
                // tungstenite answers pings by itself.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let read = self.dialect.borrow_mut().read(incoming, &mut inbox);
            for said in inbox.drain(..) {
                match said {
                    FromAgent::Bye => return Ending::HungUp,
                    FromAgent::Sound(sound) => self.say(sound, heard_at).await,
                    FromAgent::Reply(message) => {
                        if let Some(ending) = self.reply(message) {
                            return ending;
                        }
                    }
                    said @ (FromAgent::Ready { .. }
                    | FromAgent::Mark { .. }
                    | FromAgent::Clear
                    | FromAgent::Pause
                    | FromAgent::Resume
                    | FromAgent::ByeWhenHeard
                    | FromAgent::Command { .. }) => self.obey(said),
                }
            }
            if let Err(mistake) = read {
                self.port.complain(ErrorCode::BadMessage, mistake);
            }
        }
    }

    /// Queues the agent's sound. An agent that sends far more than its queue takes waits here, with everything that it
    /// sends behind it.
    async fn say(&self, sound: Bytes, heard_at: &Cell<Instant>) {
        if self.port.back_pressure().await {
            // The agent's pongs waited too.
            heard_at.set(clock::now());
        }
        self.port.say(sound, heard_at.get());
    }

    fn reply(&self, message: Message) -> Option<Ending> {
        let mut replies = self.replies.borrow_mut();
        if replies.len() >= MAX_REPLIES {
            let failure = AgentFailureKind::TooSlow.because("it did not read the replies to its messages");
            return Some(Ending::Failed(failure, Closing::TooSlow));
        }
        replies.push(message);
        self.has_replies.notify_one();
        None
    }

    fn obey(&self, message: FromAgent) {
        match message {
            FromAgent::Ready { format, events } => {
                self.join();
                if let Some(format) = format {
                    self.port.change_format(format, self.agent.profile);
                }
                if events {
                    self.port.want_events();
                }
            }
            FromAgent::Mark { name } => self.port.mark(name),
            FromAgent::ByeWhenHeard => self.port.mark(LAST_MARK.to_owned()),
            FromAgent::Clear => self.port.clear(),
            FromAgent::Pause => self.port.pause(),
            FromAgent::Resume => self.port.resume(),
            FromAgent::Command { request_id, command } => self.port.command(request_id, command),
            FromAgent::Sound(_) | FromAgent::Bye | FromAgent::Reply(_) => {}
        }
    }

    /// Sends all notices, sound and pings. Ends only if the agent is lost.
    async fn write(&self, sink: &mut SplitSink<Socket, Message>, heard_at: &Cell<Instant>) -> Ending {
        let (every, idle_timeout) = (ping_every(self.options.idle_timeout), self.options.idle_timeout);
        let mut ping = interval_at(tokio::time::Instant::now() + every, every);
        let mut standstills = self.port.standstills();
        // Every standstill moves each of the deadlines.
        let mut of_writes = standstills.clone();
        // Used again for every message, so that a frame costs no allocation.
        let mut outbox = Vec::with_capacity(2);
        loop {
            let written = tokio::select! {
                () = self.output() => of_writes.timeout(WRITE_TIMEOUT, self.deliver(sink, &mut outbox)).await,
                _ = ping.tick() => {
                    if let Some(gap) = standstills.next(clock::now()) {
                        // What the agent sent meanwhile has not been read yet.
                        heard_at.set((heard_at.get() + gap).min(clock::now()));
                    }
                    // While its queue is full, we may not be reading its pongs.
                    if !self.port.is_full() && heard_at.get().elapsed() >= idle_timeout {
                        let cause = format!("nothing came for {} (calls.agent_idle_timeout)", shown(idle_timeout));
                        return lost(AgentFailureKind::Unresponsive.because(cause));
                    }
                    of_writes.timeout(WRITE_TIMEOUT, sink.send(Message::Ping(Bytes::new()))).await
                }
            };
            match written {
                Err(_) => {
                    let cause = format!("a message was not taken within {}", shown(WRITE_TIMEOUT));
                    return Ending::Failed(AgentFailureKind::TooSlow.because(cause), Closing::TooSlow);
                }
                Ok(Err(error)) => return ending_of(&error),
                Ok(Ok(())) if self.is_leaving.get() => return Ending::HungUp,
                Ok(Ok(())) => {}
            }
        }
    }

    /// Something is to be sent.
    async fn output(&self) {
        tokio::select! {
            () = self.port.output() => {}
            () = self.has_replies.notified() => {}
        }
    }

    async fn deliver(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        outbox: &mut Vec<Message>,
    ) -> Result<(), tungstenite::Error> {
        let replies = self.replies.take();
        for message in replies {
            sink.feed(message).await?;
        }
        while let Some(notice) = self.port.next_notice() {
            if matches!(&notice, Notice::Mark { name, .. } if name == LAST_MARK) {
                self.is_leaving.set(true);
            }
            self.dialect.borrow_mut().write_notice(&notice, outbox);
            for message in outbox.drain(..) {
                sink.feed(message).await?;
            }
        }
        while let Some(sound) = self.port.next_sound() {
            self.dialect.borrow_mut().write_sound(sound, outbox);
            for message in outbox.drain(..) {
                sink.feed(message).await?;
            }
        }
        sink.flush().await
    }
}

fn ping_every(idle_timeout: Duration) -> Duration {
    PING_EVERY.min(idle_timeout / PINGS_AT_LEAST).max(PINGS_APART_AT_LEAST)
}

/// Reads and drops messages until the agent has closed.
async fn read_out(stream: &mut SplitStream<Socket>) {
    while let Some(Ok(_)) = stream.next().await {}
}

fn lost(failure: AgentFailure) -> Ending {
    Ending::Failed(failure, Closing::Normal)
}

fn ending_of_close(frame: Option<&CloseFrame>) -> Ending {
    match frame.map(|frame| u16::from(frame.code)) {
        // 1005: a close without a code, which browsers and libraries send for a plain close().
        None | Some(1000 | 1005) => Ending::HungUp,
        // No other code means that the agent hangs up: a server that shuts down (1001) or restarts (1012) loses its
        // calls.
        Some(code) => {
            let name = close_name(code).map(|name| format!(" ({name})")).unwrap_or_default();
            lost(AgentFailureKind::Disconnected.because(format!("closed with code {code}{name}")))
        }
    }
}

/// The names in IANA's registry, for the codes that a server may send.
fn close_name(code: u16) -> Option<&'static str> {
    Some(match code {
        1001 => "going away",
        1002 => "protocol error",
        1003 => "unsupported data",
        1007 => "invalid payload data",
        1008 => "policy violation",
        1009 => "message too big",
        1010 => "mandatory extension",
        1011 => "internal error",
        1012 => "service restart",
        1013 => "try again later",
        1014 => "bad gateway",
        3000 => "unauthorized",
        3003 => "forbidden",
        3008 => "timeout",
        _ => return None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that may grow")]
fn ending_of(error: &tungstenite::Error) -> Ending {
    match error {
        tungstenite::Error::Capacity(_) => {
            Ending::Failed(AgentFailureKind::ProtocolError.because(error), Closing::TooLarge)
        }
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            lost(AgentFailureKind::Disconnected.because("the connection ended without a close frame"))
        }
        tungstenite::Error::Utf8(_) | tungstenite::Error::Protocol(_) => {
            lost(AgentFailureKind::ProtocolError.because(error))
        }
        tungstenite::Error::Io(error) => lost(AgentFailureKind::Disconnected.because(error)),
        _ => lost(AgentFailureKind::Disconnected.because(error)),
    }
}
