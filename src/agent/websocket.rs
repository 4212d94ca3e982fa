//! An agent on a WebSocket that we dial, in any dialect: the task that dials it, and dials it again when the connection
//! breaks in the middle of the call.

mod options;
pub(super) mod accepted;
mod signature;
mod connect;
mod upgrade;
mod conversation;
mod ending;
mod functions;
mod heard;
mod redial;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use patchcord_media::opus::Profile;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use url::Url;

use super::dialect::{Closing, Dialect};
use super::instances::Visit;
use super::port::AgentPort;
use super::unbuffered::Unbuffered;
use super::{SocketOptions, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::clock;
use crate::descriptors;
use crate::pulse::Standstills;
pub use accepted::{AppSocket, AppSocketOptions, OpenedSocket, Opening, SocketSeat};
use connect::{ConnectError, Connected, connect};
use conversation::Conversation;
use ending::Ending;
use heard::Past;
pub use options::{REDIAL_FOR, WebSocketOptions};
use redial::{Redial, Try};
pub use signature::UpgradeSignature;

/// A minute of speech at the highest rate may be one message; a larger message is a bug of the agent.
const MESSAGE_LIMIT_BYTES: usize = 12 * 1024 * 1024;
/// One read takes in a whole 20 ms frame, which has 320 to 1920 bytes. All of the buffer is zeroed at every read, also
/// where there is nothing to read; and the default of 128 KiB would be most of a call's memory.
const READ_BUFFER_BYTES: usize = 2 * 1024;

type Socket = WebSocketStream<MaybeTlsStream<Unbuffered>>;

/// Makes the translator of one connection.
pub(super) type Translate = Box<dyn Fn() -> Box<dyn Dialect>>;

/// Connects to an agent and talks with it until one side leaves. If the connection breaks while it has the caller, it is
/// dialled again as its options say.
pub(super) async fn run(agent: WebSocketOptions, translate: Translate, port: Rc<AgentPort>, options: SocketOptions) {
    talk(&agent, &translate, &port, &options).await;
}

async fn talk(agent: &WebSocketOptions, translate: &Translate, port: &AgentPort, options: &SocketOptions) {
    let mut course = Course::new(agent, port);
    let mut within = options.connect_timeout;
    loop {
        let (dialled_at, dialect) = (clock::now(), translate());
        let connected = tokio::select! {
            biased;
            _ = port.dismissed() => return course.dismissed(),
            connected = course.connect(options, dialect.subprotocols(), within) => connected,
        };
        let next = match connected {
            Ok((connected, visit)) => {
                descriptors::shortage_is_over();
                let times = (dialled_at, within);
                let conversation = Conversation::new(port, agent.terms(), options, dialect, Some(visit), times);
                let (ending, halves) =
                    conversation.hold(open(connected, Role::Client).await, course.past.as_ref()).await;
                match course.after(ending, &conversation) {
                    Ok(next) => {
                        conversation.leave_lost(halves).await;
                        next
                    }
                    Err(ending) => return conversation.part(ending, halves).await,
                }
            }
            Err(failure) => match course.next(None) {
                Some(next) => next,
                None => return port.failed(failure),
            },
        };
        tokio::select! {
            biased;
            _ = port.dismissed() => return course.dismissed(),
            () = tokio::time::sleep_until(next.at.into()) => {}
        }
        within = next.within;
    }
}

/// What a conversation needs beside its socket, on dialled and accepted sockets alike.
#[derive(Clone, Copy)]
struct Terms<'a> {
    format: SoundFormat,
    profile: Profile,
    parameters: &'a BTreeMap<String, String>,
}

/// Hands the stream to the WebSocket library. `role` is ours.
async fn open(connected: Connected, role: Role) -> Socket {
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_message_size(Some(MESSAGE_LIMIT_BYTES))
        .max_frame_size(Some(MESSAGE_LIMIT_BYTES));
    let Connected { stream, received } = connected;
    WebSocketStream::from_partially_read(stream, received, role, Some(config)).await
}

/// Says whether we lack descriptors, which is no fault of the agent.
fn tell_shortage(error: &ConnectError) -> bool {
    let shortage = error.of_the_system().filter(|error| descriptors::is_shortage(error));
    if let Some(error) = shortage {
        descriptors::tell_shortage(error);
    }
    shortage.is_some()
}

/// The connections to one agent, one after another.
struct Course<'a> {
    agent: &'a WebSocketOptions,
    urls: Vec<Url>,
    port: &'a AgentPort,
    redial: Redial,
    standstills: Standstills,
    /// The connection that was lost, until another one has taken its place.
    past: Option<Past>,
}

impl<'a> Course<'a> {
    fn new(agent: &'a WebSocketOptions, port: &'a AgentPort) -> Self {
        let redial = Redial::new(agent.redial_for, rand::random());
        let urls = agent.urls().cloned().collect();
        Self { agent, urls, port, redial, standstills: port.standstills(), past: None }
    }

    /// Dials the addresses of the agent one after another until one opens a WebSocket.
    async fn connect(
        &self,
        options: &SocketOptions,
        subprotocols: &'static [&'static str],
        within: Duration,
    ) -> Result<(Connected, Visit), AgentFailure> {
        let (began_at, mut tried) = (clock::now(), Vec::new());
        let mut failure = AgentFailure::from(AgentFailureKind::NotConfigured);
        while let Some(mut visit) = options.instances.dial(&self.urls, self.agent.choice, &tried, clock::now()) {
            // One that does not answer leaves time for the others.
            let left = within.saturating_sub(began_at.elapsed()) / (self.urls.len() - tried.len()) as u32;
            if !tried.is_empty() {
                metrics::counter!("patchcord_agent_failovers_total").increment(1);
            }
            tried.push(visit.place());
            let signed = self.agent.signed(visit.url(), self.port.call_id(), clock::wall());
            let tls = self.agent.tls.as_ref().unwrap_or(&options.tls).clone();
            match connect(&signed, subprotocols, tls, left, self.port.standstills()).await {
                Ok(connected) => return Ok((connected, visit)),
                Err(error) => {
                    let is_ours = tell_shortage(&error);
                    failure = error.into();
                    if !is_ours {
                        visit.failed(&failure, clock::now());
                    }
                }
            }
        }
        Err(failure)
    }

    /// The next try after a conversation, or its ending if there is none.
    fn after(&mut self, ending: Ending, conversation: &Conversation<'_>) -> Result<Try, Ending> {
        let failure = match ending {
            Ending::Lost(failure) => failure,
            ending @ (Ending::Dismissed(_) | Ending::HungUp | Ending::Failed(..)) => return Err(ending),
        };
        let joined_at = conversation.joined_at();
        if joined_at.is_some() {
            self.past = None;
        }
        let next = self.next(joined_at).ok_or_else(|| Ending::Failed(failure.clone(), Closing::Normal))?;
        self.interrupted(failure, next, conversation);
        Ok(next)
    }

    fn interrupted(&mut self, failure: AgentFailure, next: Try, conversation: &Conversation<'_>) {
        let now = clock::now();
        let reason = failure.kind;
        let cleared = self.port.interrupted(failure, next.give_up_at.saturating_duration_since(now));
        if conversation.joined_at().is_some() {
            self.past = Some(conversation.lose(now, reason, cleared));
        }
    }

    /// The next try; none for an agent that had not joined, or does not have the caller.
    fn next(&mut self, joined_at: Option<Instant>) -> Option<Try> {
        let now = clock::now();
        if let Some(gap) = self.standstills.next(now) {
            self.redial.stood_still(gap, now);
        }
        let next = match joined_at {
            _ if !self.port.has_caller() => None,
            Some(joined_at) => self.redial.lost(joined_at, now),
            None => self.redial.failed(now),
        };
        if next.is_none() && self.past.is_some() {
            count("given_up");
        }
        next
    }

    /// The call has no more use for the agent.
    fn dismissed(&self) {
        if self.past.is_some() {
            count("dismissed");
        }
    }
}

/// How the redialling of an agent ended.
fn count(outcome: &'static str) {
    metrics::counter!("patchcord_agent_redials_total", "outcome" => outcome).increment(1);
}
