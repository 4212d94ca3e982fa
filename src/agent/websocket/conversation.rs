//! A conversation on one open WebSocket: it carries the agent's sound and messages.
//!
//! The halves that read and write are independent, so that an agent that does not read is still heard, and one that
//! sends too much still hears. Only an agent that leaves half a megabyte of notices unread is not read until it has
//! read them.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::future::pending;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use patchcord_media::source::Cleared;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::sync::Notify;
use tokio::time::{interval_at, timeout};
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tracing::debug;

use super::ending::{Ending, ending_of, ending_of_close};
use super::functions::{Called, Functions};
use super::heard::{Heard, Loss, Past};
use super::{Socket, Terms, count};
use crate::agent::dialect::{Closing, Dialect, FromAgent, Incoming, Joins};
use crate::agent::instances::Visit;
use crate::agent::model::tools::FunctionResult;
use crate::agent::notice::{ErrorCode, Notice, Start};
use crate::agent::port::AgentPort;
use crate::agent::{SocketOptions, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::command::CallCommand;
use crate::clock;
use crate::telemetry::shown;

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
/// What an agent is still sending is dropped in pieces of this size.
const DISCARDED_AT_ONCE: usize = 16 * 1024;
/// How long we wait for the agent's half of the close.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// For our half of the close of a connection that is lost. The caller waits for the next one.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(50);

/// The name of the marks behind the words of an agent whose protocol has no marks of its own.
const WORDS_MARK: &str = "\u{1}words";
/// What an agent does behind its words. One more is done at once.
const MAX_DEEDS: usize = 16;
const HUNG_UP_EARLY: &str = "it hung up before it was ready";
/// An agent that provokes more replies than it reads fails.
const MAX_REPLIES: usize = 64;

/// The two halves of a socket.
type Halves = (SplitSink<Socket, Message>, SplitStream<Socket>);

/// What an agent does once the caller has heard its words.
enum Deed {
    HangUp,
    Command { request_id: Value, command: CallCommand },
}

/// An agent or participant at its open socket.
pub(super) struct Conversation<'a> {
    port: &'a AgentPort,
    terms: Terms<'a>,
    options: &'a SocketOptions,
    /// Borrowed between two awaits only.
    dialect: RefCell<Box<dyn Dialect>>,
    stream_id: String,
    /// Where we have dialled it; none once it is over.
    visit: RefCell<Option<Visit>>,
    dialled_at: Instant,
    /// From dialling until it has to have joined.
    joins_within: Duration,
    joined_at: Cell<Option<Instant>>,
    joining: Notify,
    /// It takes the place of a connection that was lost.
    is_back: Cell<bool>,
    heard: RefCell<Heard>,
    /// The caller has heard its last words, and it hangs up.
    is_leaving: Cell<bool>,
    /// What it does once its words are heard, each behind a mark; at most [`MAX_DEEDS`].
    deeds: RefCell<VecDeque<Deed>>,
    /// What the dialect answers by itself; at most [`MAX_REPLIES`].
    replies: RefCell<Vec<Message>>,
    has_replies: Notify,
    functions: Functions,
}

impl<'a> Conversation<'a> {
    pub fn new(
        port: &'a AgentPort,
        terms: Terms<'a>,
        options: &'a SocketOptions,
        dialect: Box<dyn Dialect>,
        visit: Option<Visit>,
        (dialled_at, joins_within): (Instant, Duration),
    ) -> Self {
        Self {
            port,
            terms,
            options,
            dialect: RefCell::new(dialect),
            stream_id: format!("stream_{}", ulid::Ulid::new().to_string().to_lowercase()),
            visit: RefCell::new(visit),
            dialled_at,
            joins_within,
            joined_at: Cell::new(None),
            joining: Notify::new(),
            is_back: Cell::new(false),
            heard: RefCell::default(),
            is_leaving: Cell::new(false),
            deeds: RefCell::default(),
            replies: RefCell::default(),
            has_replies: Notify::new(),
            functions: Functions::default(),
        }
    }

    /// Talks until one side leaves. `past` is the connection before, if it was lost.
    pub async fn hold(&self, socket: Socket, past: Option<&Past>) -> (Ending, Halves) {
        let (mut sink, mut stream) = socket.split();
        self.is_back.set(past.is_some());
        let format = self.dialect.borrow().format(self.terms.format);
        self.port.attach(format, self.terms.profile);
        let ending = match self.greet(&mut sink, format, past).await {
            Err(error) => ending_of(&error),
            Ok(()) => self.converse(&mut sink, &mut stream).await,
        };
        self.end_visit(&ending);
        (ending, (sink, stream))
    }

    /// The address is credited with what became of the conversation.
    fn end_visit(&self, ending: &Ending) {
        let Some(mut visit) = self.visit.take() else { return };
        match ending {
            Ending::Lost(failure) | Ending::Failed(failure, _) => visit.failed(failure, clock::now()),
            Ending::HungUp if self.joined_at.get().is_none() => {
                visit.failed(&AgentFailureKind::Refused.because(HUNG_UP_EARLY), clock::now());
            }
            Ending::HungUp | Ending::Dismissed(_) => {}
        }
    }

    /// When the agent joined.
    pub fn joined_at(&self) -> Option<Instant> {
        self.joined_at.get()
    }

    /// The connection is lost: what the next one has to know.
    pub fn lose(&self, at: Instant, reason: AgentFailureKind, cleared: Cleared) -> Past {
        let loss = Loss { at, stream_id: self.stream_id.clone(), reason, cleared };
        self.heard.take().lose(loss, self.port)
    }

    /// Our half of the close of a lost connection, if it can still be sent.
    pub async fn leave_lost(&self, (mut sink, _stream): Halves) {
        let _ = timeout(LEAVE_TIMEOUT, sink.close()).await;
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
            never = self.perform_functions() => match never {},
        }
    }

    fn join(&self) {
        if self.joined_at.get().is_none() {
            self.joined_at.set(Some(clock::now()));
            self.joining.notify_one();
            if let Some(visit) = &mut *self.visit.borrow_mut() {
                visit.joined(clock::now());
            }
            self.port.joined();
            if self.is_back.get() {
                count("back");
            }
        }
    }

    /// Ends only if the agent has not joined within the time for connecting.
    async fn fail_to_join(&self) -> Ending {
        let limit = self.joins_within;
        let remaining = limit.saturating_sub(self.dialled_at.elapsed());
        match self.port.standstills().timeout(remaining, self.joining.notified()).await {
            Ok(()) => pending().await,
            Err(_) => {
                Ending::Lost(AgentFailureKind::NoAnswer.because(format!("it was not ready within {}", shown(limit))))
            }
        }
    }

    async fn greet(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        format: SoundFormat,
        past: Option<&Past>,
    ) -> Result<(), tungstenite::Error> {
        self.send(sink, &Notice::Start(Box::new(self.start(format, past)))).await?;
        // It is told once in a call, and this connection was not there.
        if past.is_some_and(Past::is_accepted) {
            self.send(sink, &Notice::Accepted).await?;
        }
        Ok(())
    }

    async fn send(&self, sink: &mut SplitSink<Socket, Message>, notice: &Notice) -> Result<(), tungstenite::Error> {
        let mut outbox = Vec::new();
        self.heard.borrow_mut().note(notice);
        self.dialect.borrow_mut().write_notice(notice, &mut outbox);
        for message in outbox {
            sink.feed(message).await?;
        }
        sink.flush().await
    }

    fn start(&self, format: SoundFormat, past: Option<&Past>) -> Start {
        Start {
            call_id: self.port.call_id().clone(),
            call: self.port.description().clone(),
            stream_id: self.stream_id.clone(),
            format,
            max_buffer: self.port.max_buffer(),
            parameters: self.terms.parameters.clone(),
            resume: past.map(|past| past.resume(clock::now())),
        }
    }

    /// Tells the call how the conversation ended, and says goodbye.
    pub async fn part(&self, ending: Ending, (mut sink, mut stream): Halves) {
        let is_unreadable =
            matches!(&ending, Ending::Failed(failure, _) if failure.kind == AgentFailureKind::ProtocolError);
        let (reason, closing) = match ending {
            Ending::Dismissed(reason) => (reason, Closing::Normal),
            Ending::HungUp if self.joined_at.get().is_none() => {
                self.port.failed(AgentFailureKind::Refused.because(HUNG_UP_EARLY));
                ("agent_hung_up", Closing::Normal)
            }
            Ending::HungUp => (self.port.hung_up(), Closing::Normal),
            Ending::Lost(failure) => (self.fail(failure), Closing::Normal),
            Ending::Failed(failure, closing) => (self.fail(failure), closing),
        };
        let code = self.dialect.borrow().close_code(closing);
        let farewell = async {
            if is_unreadable {
                self.say_goodbye(&mut sink, reason, code).await?;
                return read_bytes_out(sink, stream).await;
            }
            tokio::select! {
                biased;
                said = self.say_goodbye(&mut sink, reason, code) => said?,
                // Unread data makes the system reset the connection, which drops what the agent has not read (RFC 2525
                // §2.17).
                () = read_out(&mut stream) => return Ok(()),
            }
            read_out(&mut stream).await;
            Ok::<(), tungstenite::Error>(())
        };
        if !matches!(timeout(STOP_GRACE + CLOSE_TIMEOUT, farewell).await, Ok(Ok(()))) {
            debug!(call.id = %self.port.call_id(), user = ?self.port.user(), "the agent's socket did not close cleanly");
        }
    }

    async fn say_goodbye(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        reason: &'static str,
        code: u16,
    ) -> Result<(), tungstenite::Error> {
        self.send(sink, &Notice::Stop { reason }).await?;
        tokio::time::sleep(STOP_GRACE).await;
        let close = CloseFrame { code: code.into(), reason: reason.into() };
        sink.send(Message::Close(Some(close))).await
    }

    fn fail(&self, failure: AgentFailure) -> &'static str {
        let name = failure.kind.name();
        self.port.failed(failure);
        name
    }

    /// Reads all that the agent sends. Ends when the agent leaves or is lost.
    async fn read(&self, stream: &mut SplitStream<Socket>, heard_at: &Cell<Instant>) -> Ending {
        // Used again for every message, so that a frame costs no allocation.
        let mut inbox = Vec::with_capacity(2);
        loop {
            let message = match stream.next().await {
                None => return Ending::Lost(AgentFailureKind::Disconnected.because("the connection ended")),
                Some(Err(error)) => return ending_of(&error),
                Some(Ok(message)) => message,
            };
            // An agent that reads nothing fails in `write`.
            self.port.notices_read().await;
            heard_at.set(clock::now());
            let incoming = match message {
                Message::Binary(bytes) => Incoming::Binary(bytes),
                Message::Text(text) => Incoming::Text(text),
                Message::Close(frame) => return self.ending_of_close(frame.as_ref()),
                // tungstenite answers pings by itself.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let read = self.dialect.borrow_mut().read(incoming, &mut inbox);
            for said in inbox.drain(..) {
                match said {
                    FromAgent::Bye => return Ending::HungUp,
                    FromAgent::Refused(why) => {
                        return Ending::Failed(AgentFailureKind::Refused.because(why), Closing::Normal);
                    }
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
                    | FromAgent::Command { .. }
                    | FromAgent::CommandWhenHeard { .. }
                    | FromAgent::Function { .. }
                    | FromAgent::Used(_)) => self.obey(said),
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
                    self.port.change_format(format, self.terms.profile);
                }
                if events {
                    self.port.want_events();
                }
            }
            FromAgent::Mark { name } => self.port.mark(name),
            FromAgent::ByeWhenHeard => self.when_heard(Deed::HangUp),
            FromAgent::CommandWhenHeard { request_id, command } => {
                self.when_heard(Deed::Command { request_id, command });
            }
            FromAgent::Clear => self.port.clear(),
            FromAgent::Pause => self.port.pause(),
            FromAgent::Resume => self.port.resume(),
            FromAgent::Command { request_id, command } => self.port.command(request_id, command),
            FromAgent::Function { request_id, function, arguments } => {
                let called = Called { request_id: request_id.clone(), function, arguments };
                if let Err(refused) = self.functions.begin(called) {
                    self.answer_function(&request_id, &refused);
                }
            }
            FromAgent::Used(tokens) => self.port.used(tokens),
            FromAgent::Sound(_) | FromAgent::Bye | FromAgent::Refused(_) | FromAgent::Reply(_) => {}
        }
    }

    fn when_heard(&self, deed: Deed) {
        if self.deeds.borrow().len() == MAX_DEEDS {
            return self.perform(deed);
        }
        self.deeds.borrow_mut().push_back(deed);
        self.port.mark(WORDS_MARK.to_owned());
    }

    fn perform(&self, deed: Deed) {
        match deed {
            Deed::HangUp => self.is_leaving.set(true),
            Deed::Command { request_id, command } => self.port.command(request_id, Ok(command)),
        }
    }

    /// Has the app perform the functions that the agent calls.
    async fn perform_functions(&self) -> Infallible {
        let (tls, parameters) = (&self.options.tls, self.terms.parameters);
        self.functions.perform(self.port, tls, parameters, |id, result| self.answer_function(id, result)).await
    }

    /// The result is lost on a model that reads nothing; it fails soon.
    fn answer_function(&self, request_id: &Value, result: &FunctionResult) {
        let mut replies = self.replies.borrow_mut();
        if replies.len() >= MAX_REPLIES {
            metrics::counter!("patchcord_agent_messages_dropped_total").increment(1);
            return;
        }
        self.dialect.borrow_mut().write_result(request_id, result, &mut replies);
        self.has_replies.notify_one();
    }

    fn ending_of_close(&self, frame: Option<&CloseFrame>) -> Ending {
        let early = |failure: AgentFailure| {
            let detail = failure.detail.unwrap_or_default();
            AgentFailureKind::Refused.because(format!("it {detail} before it was ready"))
        };
        match ending_of_close(frame) {
            Ending::Lost(failure) if self.joined_at.get().is_none() => Ending::Lost(early(failure)),
            Ending::Failed(failure, closing) if self.joined_at.get().is_none() => {
                Ending::Failed(early(failure), closing)
            }
            ending @ (Ending::Dismissed(_) | Ending::HungUp | Ending::Lost(_) | Ending::Failed(..)) => ending,
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
                        return Ending::Lost(AgentFailureKind::Unresponsive.because(cause));
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
            if matches!(&notice, Notice::Mark { name, .. } if name == WORDS_MARK) {
                let deed = self.deeds.borrow_mut().pop_front();
                deed.into_iter().for_each(|deed| self.perform(deed));
                continue;
            }
            self.heard.borrow_mut().note(&notice);
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

/// After a message that it cannot read the library reads nothing more, also not what the agent is still sending.
async fn read_bytes_out(
    sink: SplitSink<Socket, Message>,
    stream: SplitStream<Socket>,
) -> Result<(), tungstenite::Error> {
    let Ok(mut socket) = sink.reunite(stream) else { return Ok(()) };
    let mut bytes = vec![0; DISCARDED_AT_ONCE];
    while socket.get_mut().read(&mut bytes).await? > 0 {}
    Ok(())
}

/// Reads and drops messages until the agent has closed.
async fn read_out(stream: &mut SplitStream<Socket>) {
    while let Some(Ok(_)) = stream.next().await {}
}
