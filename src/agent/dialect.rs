//! Dialects: the WebSocket protocols that agents speak, and the one table of them.
//!
//! A dialect translates. It has no socket and decides nothing about the call.

pub mod native;
mod payload;
mod lenient;
mod wav;
mod stream_message;
pub(crate) mod identity;
mod twilio;
mod telnyx;
mod plivo;
mod exotel;
mod vonage;
mod jambonz;
mod asterisk;
mod open_calls;
pub(super) mod openai;
pub(super) mod gemini;
pub(super) mod elevenlabs;
pub(super) mod deepgram;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::SoundFormat;
use super::model::AppFunction;
use super::model::tools::FunctionResult;
use super::notice::Notice;
use crate::call::command::CallCommand;
use crate::call::refusal::Refusal;
use crate::call::usage::Tokens;

/// The dialects by their names in the configuration. A new one is a variant here, its name, and its translator.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DialectName {
    /// `patchcord.v1`.
    #[default]
    Native,
    /// Twilio Media Streams.
    Twilio,
    /// Telnyx media streaming.
    Telnyx,
    /// Plivo audio streaming.
    Plivo,
    /// Exotel's voicebot applet.
    Exotel,
    /// The WebSocket endpoint of Vonage's Voice API.
    Vonage,
    /// The `listen` and `stream` verbs of jambonz.
    Jambonz,
    /// Asterisk's `chan_websocket` with control messages as plain text.
    Asterisk,
    /// Asterisk's `chan_websocket` with control messages as JSON.
    AsteriskJson,
}

impl DialectName {
    /// All dialects, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::Native,
        Self::Twilio,
        Self::Telnyx,
        Self::Plivo,
        Self::Exotel,
        Self::Vonage,
        Self::Jambonz,
        Self::Asterisk,
        Self::AsteriskJson,
    ];

    /// The stable name in the configuration and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Twilio => "twilio",
            Self::Telnyx => "telnyx",
            Self::Plivo => "plivo",
            Self::Exotel => "exotel",
            Self::Vonage => "vonage",
            Self::Jambonz => "jambonz",
            Self::Asterisk => "asterisk",
            Self::AsteriskJson => "asterisk-json",
        }
    }

    /// The dialect of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|dialect| dialect.name() == name)
    }

    /// The rate of PCM if the configuration has none. Where a platform streams at 8 kHz by default, apps ask it for another rate
    /// when they order the stream, and many ignore the rate that the stream itself announces.
    pub fn usual_sample_rate(self) -> SampleRate {
        match self {
            Self::Native | Self::Vonage | Self::Jambonz => SampleRate::Hz16000,
            Self::Twilio | Self::Telnyx | Self::Plivo | Self::Exotel | Self::Asterisk | Self::AsteriskJson => {
                SampleRate::Hz8000
            }
        }
    }

    /// What is wrong with these text messages of one connection: a sentence for each that cannot be used.
    pub fn mistakes_of(self, messages: &[&str]) -> Vec<String> {
        let (mut translator, mut inbox) = (self.translator(), Vec::new());
        let read = |message: &&str| translator.read(Incoming::Text((*message).into()), &mut inbox).err();
        messages.iter().filter_map(read).collect()
    }

    /// The WebSocket subprotocols of the dialect, the best one first.
    pub fn subprotocols(self) -> &'static [&'static str] {
        self.translator().subprotocols()
    }

    /// A translator for one connection.
    pub(super) fn translator(self) -> Box<dyn Dialect> {
        match self {
            Self::Native => Box::new(native::Native),
            Self::Twilio => Box::new(twilio::Twilio::default()),
            Self::Telnyx => Box::new(telnyx::Telnyx::default()),
            Self::Plivo => Box::new(plivo::Plivo::default()),
            Self::Exotel => Box::new(exotel::Exotel::default()),
            Self::Vonage => Box::new(vonage::Vonage),
            Self::Jambonz => Box::new(jambonz::Jambonz::default()),
            Self::Asterisk => Box::new(asterisk::Asterisk::new(asterisk::Control::Text)),
            Self::AsteriskJson => Box::new(asterisk::Asterisk::new(asterisk::Control::Json)),
        }
    }
}

/// The translator of one connection. It may keep state, such as the foreign protocol's id of the stream.
pub(super) trait Dialect {
    /// The subprotocols that the upgrade offers.
    fn subprotocols(&self) -> &'static [&'static str] {
        &[]
    }

    /// The sound format until the agent changes it. A protocol that knows one format ignores the configured one.
    fn format(&self, configured: SoundFormat) -> SoundFormat;

    /// When the agent counts as joined.
    fn joins(&self) -> Joins {
        Joins::WhenOpen
    }

    /// Reads one message, which may say several things, in their order. The error is a sentence for the agent's developer;
    /// what the message said before the mistake counts.
    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String>;

    /// Writes a notice as any number of messages; what the protocol has no word for is none.
    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>);

    /// Writes what a [`FromAgent::Function`] returned. Only models call functions.
    fn write_result(&mut self, _request_id: &Value, _result: &FunctionResult, _outbox: &mut Vec<Message>) {}

    /// What keeps a connection open on which no sound goes, if its protocol does not count pings. It is asked for with every
    /// ping.
    fn keep_alive(&mut self) -> Option<Message> {
        None
    }

    /// What an agent says that has joined and closes with 1000 or without a code.
    fn goodbye(&self) -> Goodbye {
        Goodbye::HangsUp
    }

    /// Writes 20 ms of sound, in the format agreed.
    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>);

    /// The code of our close frame.
    fn close_code(&self, closing: Closing) -> u16 {
        closing.code()
    }
}

/// A translator of Twilio's stream for an app that knows us by this account.
pub(super) fn twilio_of(account_sid: String, stream_sid: Rc<RefCell<String>>) -> Box<dyn Dialect> {
    Box::new(twilio::Twilio::of(account_sid, stream_sid))
}

/// When an agent counts as joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Joins {
    /// As soon as the WebSocket is open and `Start` is sent.
    WhenOpen,
    /// With its first [`FromAgent::Ready`].
    WhenReady,
}

/// What a normal close says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goodbye {
    /// The agent hangs up.
    HangsUp,
    /// It hangs up behind its last words, which the caller has not heard yet.
    HangsUpWhenHeard,
    /// Nothing: it hangs up by a message, and its connection ends for other reasons.
    IsLost,
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
    /// A newer connection has the place of this one, or another agent.
    Replaced,
    /// What came is no WebSocket frame.
    BadFrame,
    /// A text message was not UTF-8.
    NotUtf8,
    /// A message was larger than we take.
    TooLarge,
    /// The agent took no message for seconds.
    TooSlow,
    /// It sent sound far faster than the caller could hear it.
    TooFast,
}

impl Closing {
    /// The code of RFC 6455 §7.4.1, for a protocol without codes of its own.
    fn code(self) -> u16 {
        match self {
            Self::Normal | Self::Replaced => 1000,
            Self::BadFrame => 1002,
            Self::NotUtf8 => 1007,
            Self::TooSlow | Self::TooFast => 1008,
            Self::TooLarge => 1009,
        }
    }
}

impl Incoming {
    /// The text of a protocol without binary messages.
    fn text(self) -> Result<Utf8Bytes, String> {
        match self {
            Self::Text(text) => Ok(text),
            Self::Binary(_) => Err("this protocol has no binary messages".to_owned()),
        }
    }
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
    /// Hang up when all sound sent so far was heard.
    ByeWhenHeard,
    /// A command to the call. `request_id` returns with the result.
    Command { request_id: Value, command: Result<CallCommand, Refusal> },
    /// A command that waits until all sound sent so far was heard.
    CommandWhenHeard { request_id: Value, command: CallCommand },
    /// A function that an app performs. `request_id` returns with the result.
    Function { request_id: Value, function: Arc<AppFunction>, arguments: Value },
    /// What a model has used for one response.
    Used(Tokens),
    /// It does not take the call. The text holds nothing of the agent's but a code.
    Refused(String),
    /// This connection is of no use any more, but another one may be. The text is as of `Refused`.
    Lost(String),
    /// The same, as soon as all sound sent so far was heard.
    LostWhenHeard(String),
    /// Something failed at the agent, and the call goes on. The text is as of `Refused`.
    Fault(String),
    /// What the protocol answers by itself.
    Reply(Message),
}

/// Reads a text message of a foreign protocol, which some libraries begin with a byte-order mark. The error is a sentence
/// for the agent's developer.
fn parsed<'t, T: Deserialize<'t>>(text: &'t str) -> Result<T, String> {
    serde_json::from_str(text.trim_start_matches('\u{feff}'))
        .map_err(|error| format!("not a message of this protocol: {error}"))
}

/// The code of an error that a model reports; nothing else of it is repeated, as that may be what the caller has said.
fn error_code(code: Option<&str>) -> &str {
    let is_code = |code: &&str| {
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        (1..=64).contains(&code.len()) && code.bytes().all(is_plain)
    };
    code.filter(is_code).unwrap_or("an error")
}

fn json_message(message: &impl Serialize) -> Message {
    Message::text(serde_json::to_string(message).expect("strings and numbers always serialise"))
}

#[cfg(test)]
mod testing;
