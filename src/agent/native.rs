//! The native dialect `patchcord.v1`: the JSON text messages of an agent's WebSocket.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::SoundFormat;
use crate::call::command::{CallCommand, SendDtmf};
use crate::call::event::CallEvent;
use crate::call::refusal::{Refusal, RefusalCode};

/// The WebSocket subprotocol.
pub const SUBPROTOCOL: &str = "patchcord.v1";
/// The largest text message an agent may send. Control messages are short; more is a mistake.
pub const TEXT_LIMIT_BYTES: usize = 64 * 1024;

/// Why we close an agent's socket: RFC 6455 close codes, and ours from 4000 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum CloseCode {
    /// The call is over or goes on without this agent.
    Normal = 1000,
    /// A message was larger than we take.
    TooLarge = 1009,
    /// The agent read so slowly that its queue was full for seconds.
    TooSlow = 4008,
}

/// What an agent needs to know before any sound.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// Of this protocol.
    pub version: u32,
    /// Whose sound it is.
    #[serde(flatten)]
    pub call: StartCall,
    /// Of this connection.
    pub stream_id: String,
    /// The sound both ways, until `ready` changes it.
    pub audio: Audio,
    /// How much sound of the agent we queue before we stop reading its socket.
    pub max_buffer_ms: u64,
    /// The route's `parameters`.
    pub parameters: Value,
}

/// What every agent of a call is told of it.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StartCall {
    /// Our id.
    pub call_id: String,
    /// Meta's id.
    pub wacid: String,
    /// `user_initiated` or `business_initiated`.
    pub direction: &'static str,
    /// The WhatsApp user.
    pub from: StartFrom,
    /// The business number.
    pub to: StartTo,
}

/// Who calls.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StartFrom {
    /// The phone number in digits; absent when the user hides it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wa_id: Option<String>,
    /// The business-scoped user id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// The profile name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Who is called.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StartTo {
    /// Meta's id of the number.
    pub phone_number_id: String,
    /// The number in digits, where Meta gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub display_phone_number: Option<String>,
}

/// The sound on the socket.
#[derive(Clone, Debug, Serialize)]
pub struct Audio {
    /// `pcm_s16le` or `opus`.
    pub encoding: &'static str,
    /// In Hz.
    pub sample_rate: u32,
    /// Always 1.
    pub channels: u8,
    /// How long our binary messages are.
    pub frame_ms: u32,
}

impl From<SoundFormat> for Audio {
    fn from(format: SoundFormat) -> Self {
        Self { encoding: format.encoding.name(), sample_rate: format.sample_rate.hz(), channels: 1, frame_ms: 20 }
    }
}

/// A text message to the agent.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ToAgent {
    /// The first message.
    Start(Box<Start>),
    /// The caller now hears the agent.
    Accepted,
    /// A key the caller pressed; without the digit when it is none of the agent's business.
    Dtmf { digit: Option<char>, duration_ms: u32 },
    /// A mark's sound was played, or thrown away.
    Mark { name: String, status: MarkStatus },
    /// The receipt of `clear`.
    Cleared { played_ms: u64, dropped_ms: u64 },
    /// The queue is full: we stop reading.
    Xoff { queued_ms: u64 },
    /// There is room again.
    Xon { queued_ms: u64 },
    /// What happened on the call.
    Event { event: Box<CallEvent> },
    /// The answer to a `command`: its ids, or why it was not done.
    Result {
        request_id: Value,
        ok: bool,
        #[serde(skip_serializing_if = "Value::is_null")]
        data: Value,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'static str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// Something the agent sent was not understood; the call goes on.
    Error { code: &'static str, message: String },
    /// The call is over for this agent.
    Stop { reason: &'static str },
}

/// What became of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkStatus {
    /// The sound before it left for the caller.
    Played,
    /// The sound before it was cleared.
    Cleared,
}

impl From<patchcord_media::source::MarkStatus> for MarkStatus {
    fn from(status: patchcord_media::source::MarkStatus) -> Self {
        match status {
            patchcord_media::source::MarkStatus::Played => Self::Played,
            patchcord_media::source::MarkStatus::Cleared => Self::Cleared,
        }
    }
}

/// A text message from the agent.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Debug, PartialEq)]
pub enum FromAgent {
    /// May change the sound, and ask for all events of the call.
    Ready { audio: Option<SoundFormat>, events: bool },
    /// Tell me when all sound sent so far was heard.
    Mark { name: String },
    /// Throw away what the caller has not heard.
    Clear,
    /// Be silent, keep the queue.
    Pause,
    /// Go on.
    Resume,
    /// Hang up.
    Bye,
    /// A verb of the control API.
    Command { request_id: Value, command: Result<CallCommand, Refusal> },
    /// A type of a later version, to be ignored.
    Unknown,
}

/// Reads one text message. The error is a sentence for the agent's developer.
pub fn parse(text: &str) -> Result<FromAgent, String> {
    #[derive(Deserialize)]
    struct Message {
        #[serde(rename = "type")]
        kind: String,
        name: Option<String>,
        audio: Option<AudioChoice>,
        request_id: Option<Value>,
        digits: Option<String>,
        #[serde(default)]
        events: bool,
    }
    #[derive(Deserialize)]
    struct AudioChoice {
        encoding: Option<String>,
        sample_rate: Option<u32>,
    }
    if text.len() > TEXT_LIMIT_BYTES {
        return Err(format!("a text message has at most {TEXT_LIMIT_BYTES} bytes; sound goes into binary messages"));
    }
    let message: Message =
        serde_json::from_str(text).map_err(|error| format!("not a JSON object with a \"type\": {error}"))?;
    Ok(match message.kind.as_str() {
        "ready" => {
            let format = |audio: AudioChoice| {
                SoundFormat::new(audio.encoding.as_deref().unwrap_or("pcm_s16le"), audio.sample_rate.unwrap_or(16_000))
            };
            FromAgent::Ready { audio: message.audio.map(format).transpose()?, events: message.events }
        }
        "mark" => FromAgent::Mark { name: message.name.ok_or("a mark needs a \"name\"")? },
        "clear" => FromAgent::Clear,
        "pause" => FromAgent::Pause,
        "resume" => FromAgent::Resume,
        "bye" => FromAgent::Bye,
        "dtmf" => FromAgent::Command {
            request_id: Value::Null,
            command: checked(CallCommand::SendDtmf(SendDtmf { digits: message.digits.unwrap_or_default() })),
        },
        "command" => FromAgent::Command {
            request_id: message.request_id.unwrap_or(Value::Null),
            command: serde_json::from_str(text)
                .map_err(|error| Refusal::new(RefusalCode::InvalidCommand, error.to_string()))
                .and_then(checked),
        },
        _ => FromAgent::Unknown,
    })
}

fn checked(command: CallCommand) -> Result<CallCommand, Refusal> {
    command.check().map(|()| command)
}

impl ToAgent {
    /// As it goes over the socket.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("strings and numbers always serialise")
    }

    /// The answer to the command of that id.
    pub fn result(request_id: Value, outcome: Result<Value, Refusal>) -> Self {
        match outcome {
            Ok(data) => Self::Result { request_id, ok: true, data, code: None, message: None },
            Err(Refusal { code, message }) => Self::Result {
                request_id,
                ok: false,
                data: Value::Null,
                code: Some(code.name()),
                message: Some(message),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_the_protocol_says() {
        let read = |text| parse(text).unwrap();
        assert_eq!(read(r#"{"type":"ready"}"#), FromAgent::Ready { audio: None, events: false });
        assert_eq!(
            read(r#"{"type":"ready","audio":{"encoding":"pcm_s16le","sample_rate":24000},"events":true}"#),
            FromAgent::Ready { audio: Some(SoundFormat::new("pcm_s16le", 24_000).unwrap()), events: true }
        );
        assert_eq!(read(r#"{"type":"mark","name":"a"}"#), FromAgent::Mark { name: "a".into() });
        assert_eq!(read(r#"{"type":"bye","why":"done"}"#), FromAgent::Bye);
        assert_eq!(read(r#"{"type":"of a later version"}"#), FromAgent::Unknown);
        assert_eq!(
            read(r#"{"type":"command","request_id":7,"action":"stop_playback"}"#),
            FromAgent::Command { request_id: 7.into(), command: Ok(CallCommand::StopPlayback) }
        );
        let FromAgent::Command { command: Err(refusal), .. } = read(r#"{"type":"command","action":"fly"}"#) else {
            panic!("nobody can fly");
        };
        assert_eq!(refusal.code, RefusalCode::InvalidCommand);
    }

    #[test]
    fn mistakes_are_explained() {
        assert!(parse("hello").unwrap_err().contains("JSON"));
        assert!(parse(r#"{"type":"mark"}"#).unwrap_err().contains("name"));
        assert!(parse(r#"{"type":"ready","audio":{"sample_rate":44100}}"#).unwrap_err().contains("44100"));
        assert!(parse(&"x".repeat(TEXT_LIMIT_BYTES + 1)).unwrap_err().contains("bytes"));
    }

    #[test]
    fn messages_are_written_as_the_protocol_says() {
        let written = |message| serde_json::to_string(&message).unwrap();
        assert_eq!(written(ToAgent::Accepted), r#"{"type":"accepted"}"#);
        assert_eq!(
            written(ToAgent::Mark { name: "a".into(), status: MarkStatus::Played }),
            r#"{"type":"mark","name":"a","status":"played"}"#
        );
        assert_eq!(
            written(ToAgent::Cleared { played_ms: 40, dropped_ms: 60 }),
            r#"{"type":"cleared","played_ms":40,"dropped_ms":60}"#
        );
    }
}
