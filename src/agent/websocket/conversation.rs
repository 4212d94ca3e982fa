//! A conversation on one open WebSocket: it carries the agent's sound and messages.
//!
//! The halves that read and write are independent, so that an agent that does not read is still heard, and one that
//! sends too much still hears. Only an agent that leaves half a megabyte of notices unread is not read until it has
//! read them.

mod joining;
mod liveness;
mod reading;
mod deeds;
mod replies;
mod missed;
mod writing;
mod parting;

use std::cell::RefCell;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::{SplitSink, SplitStream};
use patchcord_media::source::Cleared;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::protocol::Message;

use super::ending::{Ending, ending_of};
use super::functions::Functions;
use super::heard::{Heard, Loss, Past};
use super::{Socket, Terms};
use crate::agent::dialect::{Dialect, Goodbye, Joins};
use crate::agent::instances::Visit;
use crate::agent::notice::{Notice, Start};
use crate::agent::port::AgentPort;
use crate::agent::{SocketOptions, SoundFormat};
use crate::call::agent_failure::AgentFailureKind;
use crate::call::event::new_ulid;
use crate::clock;
use deeds::{Deed, Deeds};
use joining::Joining;
use liveness::Liveness;
use replies::Replies;

const HUNG_UP_EARLY: &str = "it hung up before it was ready";

/// The two halves of a socket.
type Halves = (SplitSink<Socket, Message>, SplitStream<Socket>);

/// An agent or participant at its open socket.
pub(super) struct Conversation<'a> {
    port: &'a AgentPort,
    terms: Terms<'a>,
    options: &'a SocketOptions,
    /// Borrowed between two awaits only.
    dialect: RefCell<Box<dyn Dialect>>,
    stream_id: String,
    joining: Joining,
    liveness: Liveness,
    heard: RefCell<Heard>,
    deeds: Deeds,
    replies: Replies,
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
            stream_id: format!("stream_{}", new_ulid().to_string().to_lowercase()),
            joining: Joining::new(visit, dialled_at, joins_within),
            liveness: Liveness::new(clock::now()),
            heard: RefCell::default(),
            deeds: Deeds::default(),
            replies: Replies::default(),
            functions: Functions::default(),
        }
    }

    /// Talks until one side leaves. `past` is the connection before, if it was lost.
    pub async fn hold(&self, socket: Socket, past: Option<&Past>) -> (Ending, Halves) {
        let (mut sink, mut stream) = socket.split();
        self.joining.follows(past.is_some());
        let format = self.dialect.borrow().format(self.terms.format);
        self.port.attach(format, self.terms.profile);
        let ending = tokio::select! {
            biased;
            reason = self.port.dismissed() => Ending::Dismissed(reason),
            ending = self.converse(&mut sink, &mut stream, format, past) => ending,
            ending = self.joining.missed(self.port) => ending,
            ending = self.liveness.lost(self.options.idle_timeout, self.port) => ending,
            never = self.perform_functions() => match never {},
        };
        let ending = match ending {
            Ending::HungUp
                if self.joining.has_joined() && self.dialect.borrow().goodbye() == Goodbye::HangsUpWhenHeard =>
            {
                self.play_out().await
            }
            ending @ (Ending::Dismissed(_) | Ending::HungUp | Ending::Lost(_) | Ending::Failed(..)) => ending,
        };
        self.joining.ended(&ending);
        (ending, (sink, stream))
    }

    /// The agent has closed behind its last words. What the caller says meanwhile reaches nobody.
    async fn play_out(&self) -> Ending {
        self.deeds.when_heard(Deed::HangUp, self.port);
        let played = async {
            while !self.deeds.is_leaving() {
                self.port.output().await;
                while self.port.next_sound().is_some() {}
                while let Some(notice) = self.port.next_notice() {
                    self.deeds.take(&notice, self.port);
                }
            }
        };
        tokio::select! {
            biased;
            reason = self.port.dismissed() => Ending::Dismissed(reason),
            () = played => Ending::HungUp,
        }
    }

    /// When the agent joined.
    pub fn joined_at(&self) -> Option<Instant> {
        self.joining.joined_at()
    }

    /// The connection is lost: what the next one has to know.
    pub fn lose(&self, at: Instant, reason: AgentFailureKind, cleared: Cleared) -> Past {
        let loss = Loss { at, stream_id: self.stream_id.clone(), reason, cleared };
        self.heard.take().lose(loss, self.port)
    }

    /// Announces the call, and then carries sound and messages in both directions.
    async fn converse(
        &self,
        sink: &mut SplitSink<Socket, Message>,
        stream: &mut SplitStream<Socket>,
        format: SoundFormat,
        past: Option<&Past>,
    ) -> Ending {
        if let Err(error) = self.greet(sink, format, past).await {
            return ending_of(&error);
        }
        if self.dialect.borrow().joins() == Joins::WhenOpen {
            self.joining.join(self.port);
        }
        tokio::select! {
            biased;
            ending = self.read(stream) => ending,
            ending = self.write(sink) => ending,
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

    /// Has the app perform the functions that the agent calls.
    async fn perform_functions(&self) -> Infallible {
        let (tls, parameters) = (&self.options.tls, self.terms.parameters);
        self.functions.perform(self.port, tls, parameters, |id, result| self.answer_function(id, result)).await
    }
}
