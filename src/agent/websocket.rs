//! An agent on a WebSocket that we dial, in any dialect: the task that carries its sound and messages.
//!
//! The task runs on the worker that owns the call. Its reading and writing halves go on independently, so that an
//! agent that does not read can still be heard, and one that talks too much still hears. Only one that leaves half a
//! megabyte of answers unread is not listened to until it reads them.

mod connect;
mod upgrade;

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{FutureExt, SinkExt, StreamExt};
use patchcord_media::bridge::{AudioFormat, Speaker};
use patchcord_media::source::Room;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinSet;
use tokio::time::{interval_at, timeout};
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Message, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use tracing::debug;

use super::dialect::{Closing, Dialect, FromAgent, Incoming, Joins};
use super::notice::{ErrorCode, Notice, Start};
use super::{AgentOptions, Encoding, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::command::{CallCommand, Owner};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::descriptors;
use crate::pulse::Standstills;
use crate::telemetry::shown;
use crate::worker::Report;
use crate::worker::leg::Leg;
use crate::worker::leg::seat::{Seat, Who};
use connect::{Connected, connect};

/// A whole minute of speech at the highest rate may come as one message; a larger one is a mistake.
const MESSAGE_LIMIT_BYTES: usize = 12 * 1024 * 1024;
/// One read takes in a whole 20 ms frame, which has 320 to 1920 bytes. All of the buffer is zeroed at every read, also
/// where there is nothing to read; and the default of 128 KiB would be most of a call's memory.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Often enough for the NATs and proxies on the way, which forget a connection after some ten seconds without traffic.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Pings within the idle timeout at least, so that one that is lost in a stall of the network is not the agent's end.
const PINGS_AT_LEAST: u32 = 4;
const PINGS_APART_AT_LEAST: Duration = Duration::from_millis(10);
/// An agent that has not read for so long is not listening.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// What an agent is given to read `stop` before the close comes. Many libraries fail whatever is being sent when they
/// see a close, and an agent in the middle of a sentence would never come to read what stands before it.
const STOP_GRACE: Duration = Duration::from_millis(500);
/// How long we wait for the agent's half of the close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// What all sockets of a worker have in common.
#[derive(Clone)]
pub struct SocketOptions {
    /// For `wss://`.
    pub tls: Arc<rustls::ClientConfig>,
    /// From dialling to an open WebSocket.
    pub connect_timeout: Duration,
    /// How long nothing may come, not even an answer to a ping, until an agent counts as lost.
    pub idle_timeout: Duration,
}

impl SocketOptions {
    fn ping_every(&self) -> Duration {
        PING_EVERY.min(self.idle_timeout / PINGS_AT_LEAST).max(PINGS_APART_AT_LEAST)
    }
}

/// Everything needed to put one call through to one agent.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Where and how.
    pub agent: AgentOptions,
    /// How much of its sound we queue.
    pub max_buffer: Duration,
}

/// How a conversation with an agent ended.
enum Ending {
    /// We were told to leave.
    Dismissed(&'static str),
    /// The agent said `bye` or closed normally.
    HungUp,
    Failed(AgentFailure, Closing),
}

/// Starts the task of an agent or a third party on this thread, among `agents`. It ends when its socket does, or when
/// the leg drops it.
pub(crate) fn spawn(
    agents: &mut JoinSet<()>,
    leg: Rc<Leg>,
    (who, party): (Who, Speaker),
    dial: Dial,
    options: SocketOptions,
) {
    let (seat, mut dismissed) = leg.seat(who, party);
    let talked = leg.clone();
    let standstills = Standstills::of(leg.pulse(), Instant::now());
    let dialled_at = Instant::now();
    let talk = async move {
        let dialect = dial.agent.dialect.translator();
        let (tls, limit) = (options.tls.clone(), options.connect_timeout);
        let connected = tokio::select! {
            biased;
            _ = &mut dismissed => return,
            connected = connect(&dial.agent, dialect.subprotocols(), tls, limit, standstills) => connected,
        };
        let conversation = Conversation {
            leg: &leg,
            seat: &seat,
            dial: &dial,
            options: &options,
            dialect: RefCell::new(dialect),
            dialled_at,
            has_joined: Cell::new(false),
            joining: Notify::new(),
        };
        match connected {
            Ok(connected) => {
                descriptors::shortage_is_over();
                conversation.hold(open(connected).await, dismissed).await;
            }
            Err(error) => {
                if let Some(error) = error.of_the_system().filter(|error| descriptors::is_shortage(error)) {
                    descriptors::tell_shortage(error);
                }
                conversation.failed(error.into());
            }
        }
    };
    // By a combinator: to await the talk in a block of its own takes its memory twice.
    let task = AssertUnwindSafe(talk).catch_unwind().map(move |talked_through| {
        if talked_through.is_err() {
            talked.breaks();
        }
    });
    // No span: it would be entered and left for every packet.
    agents.spawn_local(task);
}

/// From here on the bytes are the library's to read.
async fn open(connected: Connected) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_LIMIT_BYTES))
        .max_frame_size(Some(MESSAGE_LIMIT_BYTES));
    let Connected { stream, received } = connected;
    WebSocketStream::from_partially_read(stream, received, Role::Client, Some(config)).await
}

/// One agent or third party at its socket.
struct Conversation<'a> {
    leg: &'a Rc<Leg>,
    seat: &'a Seat,
    dial: &'a Dial,
    options: &'a SocketOptions,
    /// Borrowed between two awaits only.
    dialect: RefCell<Box<dyn Dialect>>,
    dialled_at: Instant,
    has_joined: Cell<bool>,
    joining: Notify,
}

impl Conversation<'_> {
    /// Talks until someone leaves.
    async fn hold(&self, socket: Socket, mut dismissed: oneshot::Receiver<&'static str>) {
        let (mut sink, mut stream) = socket.split();
        let format = self.dialect.borrow().format(self.dial.agent.format);
        self.attach(format);
        let ending = match self.send(&mut sink, Notice::Start(Box::new(self.start(format)))).await {
            Err(error) => ending_of(&error),
            Ok(()) => {
                if self.dialect.borrow().joins() == Joins::WhenOpen {
                    self.join();
                }
                let heard_at = Cell::new(Instant::now());
                tokio::select! {
                    biased;
                    reason = &mut dismissed => Ending::Dismissed(reason.unwrap_or("shutting_down")),
                    ending = self.read(&mut stream, &heard_at) => ending,
                    ending = self.write(&mut sink, &heard_at) => ending,
                    ending = self.fail_to_join() => ending,
                }
            }
        };
        self.part(ending, sink, stream).await;
    }

    /// Ends only if the agent has not joined within the time for connecting.
    async fn fail_to_join(&self) -> Ending {
        let limit = self.options.connect_timeout;
        let remaining = limit.saturating_sub(self.dialled_at.elapsed());
        let mut standstills = Standstills::of(self.leg.pulse(), Instant::now());
        match standstills.timeout(remaining, self.joining.notified()).await {
            Ok(()) => pending().await,
            Err(_) => lost(AgentFailureKind::NoAnswer.because(format!("it was not ready within {}", shown(limit)))),
        }
    }

    async fn send(&self, sink: &mut SplitSink<Socket, Message>, notice: Notice) -> Result<(), tungstenite::Error> {
        let mut outbox = Vec::new();
        self.dialect.borrow_mut().write_notice(&notice, &mut outbox);
        for message in outbox {
            sink.feed(message).await?;
        }
        sink.flush().await
    }

    fn start(&self, format: SoundFormat) -> Start {
        Start {
            call_id: self.leg.call().clone(),
            call: self.leg.description().clone(),
            stream_id: format!("stream_{}", ulid::Ulid::new().to_string().to_lowercase()),
            format,
            max_buffer: self.dial.max_buffer,
            parameters: self.dial.agent.parameters.clone(),
        }
    }

    async fn part(&self, ending: Ending, mut sink: SplitSink<Socket, Message>, mut stream: SplitStream<Socket>) {
        let (reason, closing) = match ending {
            Ending::Dismissed(reason) => (reason, Closing::Normal),
            Ending::HungUp if !self.has_joined.get() => {
                self.failed(AgentFailureKind::Refused.because("it hung up before it was ready"));
                ("agent_hung_up", Closing::Normal)
            }
            Ending::HungUp => {
                self.hung_up();
                (self.own_end(), Closing::Normal)
            }
            Ending::Failed(failure, closing) => {
                let name = failure.kind.name();
                self.failed(failure);
                (name, closing)
            }
        };
        let code = self.dialect.borrow().close_code(closing);
        let say = async {
            self.send(&mut sink, Notice::Stop { reason }).await?;
            tokio::time::sleep(STOP_GRACE).await;
            let close = CloseFrame { code: code.into(), reason: reason.into() };
            sink.send(Message::Close(Some(close))).await?;
            pending().await
        };
        let farewell = async {
            tokio::select! {
                biased;
                failed = say => failed,
                // What stays unread makes the system throw away what is still on its way to the agent (RFC 2525 §2.17).
                () = read_out(&mut stream) => Ok::<(), tungstenite::Error>(()),
            }
        };
        if !matches!(timeout(STOP_GRACE + CLOSE_TIMEOUT, farewell).await, Ok(Ok(()))) {
            debug!(call.id = %self.leg.call(), who = ?self.seat.who(), "the socket did not close cleanly");
        }
    }

    fn join(&self) {
        if self.has_joined.replace(true) {
            return;
        }
        self.joining.notify_one();
        self.leg.report_of_agent(match self.seat.who() {
            Who::Agent { attempt } => Report::AgentJoined { attempt },
            Who::Guest(guest) => Report::GuestJoined { guest },
        });
    }

    fn hung_up(&self) {
        match self.seat.who() {
            Who::Agent { attempt } => self.leg.report_of_agent(Report::AgentHungUp { attempt }),
            Who::Guest(guest) => self.leg.guest_left(guest, "left", None),
        }
    }

    fn failed(&self, failure: AgentFailure) {
        match self.seat.who() {
            Who::Agent { attempt } => self.leg.report_of_agent(Report::AgentFailed { attempt, failure }),
            Who::Guest(guest) => self.leg.guest_left(guest, failure.kind.name(), failure.detail),
        }
    }

    /// What it is told when it has ended its part by itself.
    fn own_end(&self) -> &'static str {
        match self.seat.who() {
            Who::Agent { .. } => "agent_hung_up",
            Who::Guest(_) => "left",
        }
    }

    fn party(&self) -> Speaker {
        self.seat.party()
    }

    fn attach(&self, format: SoundFormat) {
        let sound = self.sound(format);
        self.seat.speaks(sound);
        let (party, max_buffer) = (self.party(), self.dial.max_buffer);
        let attached = self.leg.with_bridge(|bridge| bridge.attach(party, sound, max_buffer, Instant::now()));
        if let Err(error) = attached {
            self.complain(ErrorCode::SoundUnavailable, error.to_string());
        }
    }

    /// What the agent has said already is heard first, as long as not too many forms of sound wait.
    fn change_sound(&self, format: SoundFormat) {
        let sound = self.sound(format);
        self.seat.speaks(sound);
        match self.leg.with_bridge(|bridge| bridge.change_format(self.party(), sound, Instant::now())) {
            Ok(Duration::ZERO) => {}
            Ok(dropped) => {
                let dropped_ms = dropped.as_millis();
                let why = "wait until what you have said is played before you change its form again";
                self.complain(
                    ErrorCode::SoundDropped,
                    format!("{dropped_ms} ms of your sound were thrown away: {why}"),
                );
            }
            Err(error) => self.complain(ErrorCode::SoundUnavailable, error.to_string()),
        }
    }

    fn sound(&self, format: SoundFormat) -> AudioFormat {
        match format.encoding {
            Encoding::PcmS16le => AudioFormat::Pcm { rate: format.sample_rate, profile: self.dial.agent.profile },
            Encoding::Opus => AudioFormat::Opus,
        }
    }

    /// Everything the agent sends.
    async fn read(&self, stream: &mut SplitStream<Socket>, heard_at: &Cell<Instant>) -> Ending {
        loop {
            let message = match stream.next().await {
                None => return lost(AgentFailureKind::Disconnected.because("the connection ended")),
                Some(Err(error)) => return ending_of(&error),
                Some(Ok(message)) => message,
            };
            // A task that cannot write fails by itself.
            while self.seat.is_to_read_first() {
                self.seat.room().await;
            }
            heard_at.set(Instant::now());
            let incoming = match message {
                Message::Binary(bytes) => Incoming::Binary(bytes),
                Message::Text(text) => Incoming::Text(text),
                Message::Close(frame) => return ending_of_close(frame.as_ref()),
                // tungstenite answers pings by itself.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let read = self.dialect.borrow_mut().read(incoming);
            match read {
                Ok(FromAgent::Bye) => return Ending::HungUp,
                Ok(FromAgent::Sound(sound)) => self.say(sound, heard_at).await,
                Ok(message) => self.obey(message),
                Err(mistake) => self.complain(ErrorCode::BadMessage, mistake),
            }
        }
    }

    /// Queues the agent's sound. After `xoff` we read on, so that a `clear` is heard; an agent that sends far more sound
    /// all the same waits here for room, with everything that it sends behind it.
    async fn say(&self, sound: Bytes, heard_at: &Cell<Instant>) {
        if self.leg.with_bridge(|bridge| bridge.refuses(self.party())) {
            while self.is_full() {
                self.seat.room().await;
                // Its pongs waited too.
                heard_at.set(Instant::now());
            }
        }
        let was_full = self.is_full();
        match self.leg.with_bridge(|bridge| bridge.push_audio(self.party(), sound, heard_at.get())) {
            // The leg tells `xon` when there is room again.
            Ok(Room::Full) if !was_full => self.seat.tell(Notice::Xoff { queued_ms: self.queued_ms() }),
            Ok(Room::Free | Room::Full) => {}
            Err(mistake) => self.complain(ErrorCode::BadSound, mistake.to_string()),
        }
    }

    fn is_full(&self) -> bool {
        self.leg.with_bridge(|bridge| bridge.room(self.party())) == Room::Full
    }

    fn queued_ms(&self) -> u64 {
        self.leg.with_bridge(|bridge| bridge.queued(self.party()).as_millis() as u64)
    }

    fn obey(&self, message: FromAgent) {
        match message {
            FromAgent::Ready { format, events } => {
                self.join();
                if let Some(format) = format {
                    self.change_sound(format);
                }
                if events && matches!(self.seat.who(), Who::Agent { .. }) && self.seat.listens() {
                    self.leg.report_of_agent(Report::EventsWanted);
                }
            }
            FromAgent::Mark { name } => {
                if let Err(mistake) = self.leg.with_bridge(|bridge| bridge.mark(self.party(), name)) {
                    self.complain(ErrorCode::TooManyMarks, mistake.to_string());
                }
            }
            FromAgent::Clear => {
                let cleared = self.leg.with_bridge(|bridge| bridge.clear(self.party()));
                self.seat.tell(Notice::Cleared(cleared));
            }
            FromAgent::Pause => self.leg.with_bridge(|bridge| bridge.pause(self.party())),
            FromAgent::Resume => self.leg.with_bridge(|bridge| bridge.resume(self.party())),
            FromAgent::Command { request_id, command } => self.command(request_id, command),
            FromAgent::Sound(_) | FromAgent::Bye | FromAgent::Nothing => {}
        }
    }

    fn command(&self, request_id: Value, command: Result<CallCommand, Refusal>) {
        let outcome = match (self.seat.who(), self.party(), command) {
            (Who::Agent { .. }, Speaker::Agent, Ok(command)) if command.is_for_the_call() && !self.seat.may_ask() => {
                Err(Refusal::new(RefusalCode::TooManyCommands, "wait for the results of the commands before"))
            }
            (Who::Agent { attempt }, Speaker::Agent, Ok(command)) if command.is_for_the_call() => {
                return self.leg.report_of_agent(Report::Asked { attempt, request_id, command });
            }
            (Who::Agent { .. }, Speaker::Agent, Ok(command)) => self.leg.perform(command, Owner::Agent),
            (_, _, Ok(_)) => {
                Err(Refusal::new(RefusalCode::NotAllowed, "only the agent that has the caller gives commands"))
            }
            (_, _, Err(refusal)) => Err(refusal),
        };
        self.seat.tell(Notice::CommandResult { request_id, outcome });
    }

    fn complain(&self, code: ErrorCode, message: String) {
        metrics::counter!("patchcord_agent_mistakes_total", "code" => code.name()).increment(1);
        self.seat.tell(Notice::Error { code, message });
    }

    /// Everything the agent is sent. Ends only when the agent does not listen any more.
    async fn write(&self, sink: &mut SplitSink<Socket, Message>, heard_at: &Cell<Instant>) -> Ending {
        let (every, idle_timeout) = (self.options.ping_every(), self.options.idle_timeout);
        let mut ping = interval_at(tokio::time::Instant::now() + every, every);
        let mut standstills = Standstills::of(self.leg.pulse(), Instant::now());
        // Each deadline is moved by every standstill.
        let mut of_writes = standstills.clone();
        // For a frame or two, and used again for every one.
        let mut outbox = Vec::with_capacity(2);
        loop {
            let written = tokio::select! {
                () = self.seat.mail() => of_writes.timeout(WRITE_TIMEOUT, self.deliver(sink, &mut outbox)).await,
                _ = ping.tick() => {
                    if let Some(gap) = standstills.next(Instant::now()) {
                        // What it said meanwhile is still to be read.
                        heard_at.set((heard_at.get() + gap).min(Instant::now()));
                    }
                    // While its queue is full we may be the ones who do not read.
                    if !self.is_full() && heard_at.get().elapsed() >= idle_timeout {
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
                Ok(Ok(())) => {}
            }
        }
    }

    async fn deliver(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        outbox: &mut Vec<Message>,
    ) -> Result<(), tungstenite::Error> {
        while let Some(notice) = self.seat.next_notice() {
            self.dialect.borrow_mut().write_notice(&notice, outbox);
            for message in outbox.drain(..) {
                sink.feed(message).await?;
            }
        }
        while let Some(sound) = self.leg.sound_for(self.party()) {
            self.dialect.borrow_mut().write_sound(sound, outbox);
            for message in outbox.drain(..) {
                sink.feed(message).await?;
            }
        }
        sink.flush().await
    }
}

/// Reads on without listening, until the agent has closed.
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
        // Whatever else is said, the agent did not mean to end the call: a server that shuts down (1001) or restarts (1012)
        // leaves its calls behind.
        Some(code) => {
            let name = close_name(code).map(|name| format!(" ({name})")).unwrap_or_default();
            lost(AgentFailureKind::Disconnected.because(format!("closed with code {code}{name}")))
        }
    }
}

/// The names in IANA's registry of close codes, for codes that a server may send.
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
