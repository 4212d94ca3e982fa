//! Dialects: the WebSocket protocols that agents speak, and the one table of them.
//!
//! A dialect translates. It has no socket and decides nothing about the call.

pub mod native;

use bytes::Bytes;
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::SoundFormat;
use super::notice::Notice;
use crate::call::command::CallCommand;
use crate::call::refusal::Refusal;

/// The dialects by their names in the configuration. A new one is a variant here, its name, and its translator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialectName {
    /// `patchcord.v1`.
    #[default]
    Native,
}

impl DialectName {
    /// All dialects, in the order of the documentation.
    pub const ALL: &[Self] = &[Self::Native];

    /// The stable name in the configuration and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
        }
    }

    /// The dialect of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dialect| dialect.name() == name)
    }

    /// A translator for one connection.
    pub(super) fn translator(self) -> Box<dyn Dialect> {
        match self {
            Self::Native => Box::new(native::Native),
        }
    }
}

/// The translator of one connection. It may keep state, such as the foreign protocol's id of the stream.
pub(super) trait Dialect {
    /// The subprotocols that the upgrade offers; none offers none.
    fn subprotocols(&self) -> &'static [&'static str];

    /// The sound format until the agent changes it. A protocol that knows one format ignores the configured one.
    fn format(&self, configured: SoundFormat) -> SoundFormat;

    /// When the agent counts as joined.
    fn joins(&self) -> Joins;

    /// Reads one message. The error is a sentence for the agent's developer.
    fn read(&mut self, message: Incoming) -> Result<FromAgent, String>;

    /// Writes a notice as any number of messages; what the protocol has no word for is none.
    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>);

    /// Writes 20 ms of sound, in the format agreed.
    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>);

    /// The code of our close frame.
    fn close_code(&self, closing: Closing) -> u16;
}

/// When an agent counts as joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joins {
    /// As soon as the WebSocket is open and `Start` is sent.
    WhenOpen,
    /// With its first [`FromAgent::Ready`].
    #[cfg_attr(not(test), expect(dead_code, reason = "the native dialect has no such handshake"))]
    WhenReady,
}

/// A message of the agent.
#[derive(Debug)]
pub(super) enum Incoming {
    Text(Utf8Bytes),
    Binary(Bytes),
}

/// Why we close the WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closing {
    /// The call is over, or goes on without this agent.
    Normal,
    /// A message was larger than we take.
    TooLarge,
    /// The agent read so slowly that its queue was full for seconds.
    TooSlow,
}

/// What an agent says, in no dialect.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Debug, PartialEq)]
pub enum FromAgent {
    /// The agent listens. It may choose a sound format, and ask for all events of the call.
    Ready { format: Option<SoundFormat>, events: bool },
    /// PCM of any length, or one Opus packet.
    Sound(Bytes),
    /// Send a notice when all sound sent so far was heard.
    Mark { name: String },
    /// Drop the sound that the caller has not heard.
    Clear,
    /// Hold the sound back and keep the queue.
    Pause,
    /// Let the sound go on.
    Resume,
    /// Hang up.
    Bye,
    /// A command to the call. `request_id` returns with the result.
    Command { request_id: Value, command: Result<CallCommand, Refusal> },
    /// Nothing to do, such as a message type of a later version.
    Nothing,
}
