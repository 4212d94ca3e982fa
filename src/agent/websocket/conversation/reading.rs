//! Reading: what an agent sends, and what is done with it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use serde_json::Value;
use tokio_tungstenite::tungstenite::protocol::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tracing::warn;

use super::Conversation;
use super::deeds::Deed;
use crate::agent::dialect::{Closing, FromAgent, Goodbye, Incoming};
use crate::agent::model::tools::FunctionResult;
use crate::agent::notice::ErrorCode;
use crate::agent::websocket::Socket;
use crate::agent::websocket::ending::{Ending, ending_of, ending_of_close};
use crate::agent::websocket::functions::Called;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::telemetry::shown;

impl Conversation<'_> {
    /// Reads all that the agent sends. Ends when the agent leaves or is lost.
    pub(super) async fn read(&self, stream: &mut SplitStream<Socket>) -> Ending {
        // Used again for every message, so that a frame costs no allocation.
        let mut inbox = Vec::with_capacity(2);
        loop {
            // Thousands of messages may be ready at once, and the worker's other calls wait.
            tokio::task::consume_budget().await;
            let message = match stream.next().await {
                None => return Ending::Lost(AgentFailureKind::Disconnected.because("the connection ended")),
                Some(Err(error)) => return ending_of(&error),
                Some(Ok(message)) => message,
            };
            self.liveness.heard();
            // An agent that reads nothing fails in `write`.
            self.port.notices_read().await;
            self.liveness.heard();
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
                    FromAgent::Lost(why) => return Ending::Lost(AgentFailureKind::Disconnected.because(why)),
                    FromAgent::Sound(sound) => {
                        if let Some(ending) = self.say(sound) {
                            return ending;
                        }
                    }
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
                    | FromAgent::LostWhenHeard(_)
                    | FromAgent::Fault(_)
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

    /// Queues the agent's sound, far beyond `Xoff` too, because a `clear` or `bye` may come behind it.
    fn say(&self, sound: Bytes) -> Option<Ending> {
        if self.port.refuses() {
            let ahead = shown(Duration::from_secs(self.port.queued().as_secs()));
            let failure = AgentFailureKind::TooFast.because(format!("{ahead} of its audio were waiting to be played"));
            return Some(Ending::Failed(failure, Closing::TooFast));
        }
        self.port.say(sound, self.liveness.heard_at());
        None
    }

    fn reply(&self, message: Message) -> Option<Ending> {
        if self.replies.write(|replies| replies.push(message)) {
            return None;
        }
        let failure = AgentFailureKind::TooSlow.because("it did not read the replies to its messages");
        Some(Ending::Failed(failure, Closing::TooSlow))
    }

    fn obey(&self, message: FromAgent) {
        match message {
            FromAgent::Ready { format, events } => {
                self.joining.join(self.port);
                if let Some(format) = format {
                    self.port.change_format(format, self.terms.profile);
                }
                if events {
                    self.port.want_events();
                }
            }
            FromAgent::Mark { name } => self.port.mark(name),
            FromAgent::ByeWhenHeard => self.deeds.when_heard(Deed::HangUp, self.port),
            FromAgent::LostWhenHeard(why) => {
                self.deeds.when_heard(Deed::Leave(AgentFailureKind::Disconnected.because(why)), self.port);
            }
            FromAgent::Fault(what) => warn!(call.id = %self.port.call_id(), "the agent has a fault: {what}"),
            FromAgent::CommandWhenHeard { request_id, command } => {
                self.deeds.when_heard(Deed::Command { request_id, command }, self.port);
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
            FromAgent::Sound(_) | FromAgent::Bye | FromAgent::Refused(_) | FromAgent::Lost(_) | FromAgent::Reply(_) => {
            }
        }
    }

    /// The result is lost on a model that reads nothing; it fails soon.
    pub(super) fn answer_function(&self, request_id: &Value, result: &FunctionResult) {
        if !self.replies.write(|replies| self.dialect.borrow_mut().write_result(request_id, result, replies)) {
            metrics::counter!("patchcord_agent_messages_dropped_total").increment(1);
        }
    }

    fn ending_of_close(&self, frame: Option<&CloseFrame>) -> Ending {
        let early = |failure: AgentFailure| {
            let detail = failure.detail.unwrap_or_default();
            AgentFailureKind::Refused.because(format!("it {detail} before it was ready"))
        };
        match ending_of_close(frame) {
            Ending::Lost(failure) if !self.joining.has_joined() => Ending::Lost(early(failure)),
            Ending::Failed(failure, closing) if !self.joining.has_joined() => Ending::Failed(early(failure), closing),
            Ending::HungUp if self.joining.has_joined() && self.dialect.borrow().goodbye() == Goodbye::IsLost => {
                Ending::Lost(AgentFailureKind::Disconnected.because("closed with code 1000 (normal closure)"))
            }
            ending @ (Ending::Dismissed(_) | Ending::HungUp | Ending::Lost(_) | Ending::Failed(..)) => ending,
        }
    }
}
