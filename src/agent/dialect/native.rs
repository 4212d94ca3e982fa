//! The native dialect `patchcord.v1`: JSON in text messages, sound in binary ones.

use std::collections::BTreeMap;

use bytes::Bytes;
use patchcord_media::source::{Cleared, MarkStatus};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::{Closing, Dialect, FromAgent, Incoming, Joins};
use crate::agent::SoundFormat;
use crate::agent::notice::{Notice, Resume, Start};
use crate::call::command::{CallCommand, CommandResult, SendDtmf, SoundCommand};
use crate::call::description::CallDescription;
use crate::call::event::{CallEvent, CallId};
use crate::call::refusal::{Refusal, RefusalCode};

const SUBPROTOCOL: &str = "patchcord.v1";
/// The largest text message an agent may send. Control messages are short; a longer one is a bug of the agent.
const TEXT_LIMIT_BYTES: usize = 64 * 1024;

/// The translator, which needs no state.
pub(super) struct Native;

impl Dialect for Native {
    fn subprotocols(&self) -> &'static [&'static str] {
        &[SUBPROTOCOL]
    }

    fn format(&self, configured: SoundFormat) -> SoundFormat {
        configured
    }

    fn joins(&self) -> Joins {
        Joins::WhenOpen
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        match message {
            Incoming::Text(text) => inbox.extend(parse(&text)?),
            Incoming::Binary(sound) => inbox.push(FromAgent::Sound(sound)),
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        outbox.push(Message::text(to_json(&ToAgent::new(notice))));
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        outbox.push(Message::Binary(sound));
    }

    /// RFC 6455 §7.4.1, and ours from 4000 on.
    fn close_code(&self, closing: Closing) -> u16 {
        match closing {
            Closing::TooSlow => 4008,
            Closing::Replaced => 4009,
            Closing::Normal | Closing::BadFrame | Closing::NotUtf8 | Closing::TooLarge | Closing::TooFast => {
                closing.code()
            }
        }
    }
}

/// A text message to the agent.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum ToAgent<'a> {
    Start(Box<StartMessage<'a>>),
    Accepted,
    Dtmf { digit: Option<char>, duration_ms: u32 },
    Mark { name: &'a str, status: &'static str },
    Cleared { played_ms: u64, dropped_ms: u64 },
    Xoff { queued_ms: u64 },
    Xon { queued_ms: u64 },
    Event { event: &'a CallEvent },
    Result(ResultMessage<'a>),
    Error { code: &'static str, message: &'a str },
    Stop { reason: &'static str },
}

#[derive(Serialize)]
struct StartMessage<'a> {
    version: u32,
    call_id: &'a CallId,
    wacid: Option<&'a str>,
    direction: &'static str,
    from: FromUser<'a>,
    to: ToNumber<'a>,
    stream_id: &'a str,
    audio: Audio,
    max_buffer_ms: u64,
    parameters: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<ResumeMessage<'a>>,
}

/// Where the agent stood when its last connection was lost.
#[derive(Serialize)]
struct ResumeMessage<'a> {
    stream_id: &'a str,
    reason: &'static str,
    away_ms: u64,
    played_ms: u64,
    dropped_ms: u64,
    marks: Vec<MarkMessage<'a>>,
    sequence: Option<u64>,
}

#[derive(Serialize)]
struct MarkMessage<'a> {
    name: &'a str,
    status: &'static str,
}

#[derive(Serialize)]
struct FromUser<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    wa_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
struct ToNumber<'a> {
    phone_number_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    display_phone_number: Option<&'a str>,
}

#[derive(Serialize)]
struct Audio {
    encoding: &'static str,
    sample_rate: u32,
    channels: u8,
    frame_ms: u32,
}

/// The answer to a `command`: its ids, or why it was refused.
#[derive(Serialize)]
struct ResultMessage<'a> {
    request_id: &'a Value,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
}

/// Reads one text message; None for a type of a later version. The error is a sentence for the agent's developer.
pub fn parse(text: &str) -> Result<Option<FromAgent>, String> {
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
    Ok(Some(match message.kind.as_str() {
        "ready" => {
            let format = |audio: AudioChoice| {
                SoundFormat::new(audio.encoding.as_deref().unwrap_or("pcm_s16le"), audio.sample_rate.unwrap_or(16_000))
            };
            FromAgent::Ready { format: message.audio.map(format).transpose()?, events: message.events }
        }
        "mark" => FromAgent::Mark { name: message.name.ok_or("a mark needs a \"name\"")? },
        "clear" => FromAgent::Clear,
        "pause" => FromAgent::Pause,
        "resume" => FromAgent::Resume,
        "bye" => FromAgent::Bye,
        "dtmf" => FromAgent::Command {
            request_id: Value::Null,
            command: checked(SoundCommand::SendDtmf(SendDtmf { digits: message.digits.unwrap_or_default() }).into()),
        },
        "command" => FromAgent::Command {
            request_id: message.request_id.unwrap_or(Value::Null),
            command: serde_json::from_str(text)
                .map_err(|error| Refusal::new(RefusalCode::InvalidCommand, error.to_string()))
                .and_then(checked),
        },
        _ => return Ok(None),
    }))
}

fn checked(command: CallCommand) -> Result<CallCommand, Refusal> {
    command.check().map(|()| command)
}

/// The `result` message that answers a command.
pub fn write_result(request_id: &Value, outcome: &Result<Value, Refusal>) -> String {
    let outcome = match outcome {
        Ok(data) => Ok(data.clone()),
        Err(refusal) => Err(refusal),
    };
    to_json(&ToAgent::Result(ResultMessage::new(request_id, outcome)))
}

/// The ids of what a command started; null for what is done.
pub fn result_data(result: &CommandResult) -> Value {
    match result {
        CommandResult::Done | CommandResult::MusicStarted => Value::Null,
        CommandResult::Started => json!({}),
        CommandResult::Playback(id) => json!({ "playback_id": id }),
        CommandResult::Gather(id) => json!({ "gather_id": id }),
        CommandResult::Recording(id) => json!({ "recording_id": id }),
        CommandResult::Participant(id) => json!({ "guest_id": id }),
    }
}

fn status_name(status: MarkStatus) -> &'static str {
    match status {
        MarkStatus::Played => "played",
        MarkStatus::Cleared => "cleared",
    }
}

fn to_json(message: &ToAgent<'_>) -> String {
    serde_json::to_string(message).expect("strings and numbers always serialise")
}

impl<'a> ToAgent<'a> {
    fn new(notice: &'a Notice) -> Self {
        match notice {
            Notice::Start(start) => Self::Start(Box::new(StartMessage::new(start))),
            Notice::Accepted => Self::Accepted,
            Notice::Dtmf { digit, duration_ms } => Self::Dtmf { digit: *digit, duration_ms: *duration_ms },
            Notice::Mark { name, status } => Self::Mark { name, status: status_name(*status) },
            Notice::Cleared(Cleared { played_ms, dropped_ms }) => {
                Self::Cleared { played_ms: *played_ms, dropped_ms: *dropped_ms }
            }
            Notice::Xoff { queued_ms } => Self::Xoff { queued_ms: *queued_ms },
            Notice::Xon { queued_ms } => Self::Xon { queued_ms: *queued_ms },
            Notice::Event(event) => Self::Event { event },
            Notice::CommandResult { request_id, outcome } => {
                Self::Result(ResultMessage::new(request_id, outcome.as_ref().map(result_data)))
            }
            Notice::Error { code, message } => Self::Error { code: code.name(), message },
            Notice::Stop { reason } => Self::Stop { reason },
        }
    }
}

impl<'a> StartMessage<'a> {
    fn new(start: &'a Start) -> Self {
        let CallDescription { wacid, direction, user, number } = &start.call;
        Self {
            version: 1,
            call_id: &start.call_id,
            wacid: wacid.as_deref(),
            direction: direction.name(),
            from: FromUser {
                wa_id: user.wa_id.as_deref(),
                user_id: user.user_id.as_deref(),
                name: user.name.as_deref(),
            },
            to: ToNumber {
                phone_number_id: &number.phone_number_id,
                display_phone_number: number.display_phone_number.as_deref(),
            },
            stream_id: &start.stream_id,
            audio: Audio {
                encoding: start.format.encoding.name(),
                sample_rate: start.format.sample_rate.hz(),
                channels: 1,
                frame_ms: 20,
            },
            max_buffer_ms: start.max_buffer.as_millis() as u64,
            parameters: &start.parameters,
            resume: start.resume.as_ref().map(ResumeMessage::new),
        }
    }
}

impl<'a> ResumeMessage<'a> {
    fn new(resume: &'a Resume) -> Self {
        let mark = |(name, status): &'a (String, MarkStatus)| MarkMessage { name, status: status_name(*status) };
        Self {
            stream_id: &resume.stream_id,
            reason: resume.reason.name(),
            away_ms: resume.away.as_millis() as u64,
            played_ms: resume.cleared.played_ms,
            dropped_ms: resume.cleared.dropped_ms,
            marks: resume.marks.iter().map(mark).collect(),
            sequence: resume.sequence,
        }
    }
}

impl<'a> ResultMessage<'a> {
    fn new(request_id: &'a Value, outcome: Result<Value, &'a Refusal>) -> Self {
        match outcome {
            Ok(data) => {
                let data = Some(data).filter(|data| !data.is_null());
                Self { request_id, ok: true, data, code: None, message: None }
            }
            Err(Refusal { code, message, .. }) => {
                Self { request_id, ok: false, data: None, code: Some(code.name()), message: Some(message) }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_the_protocol_says() {
        let read = |text| parse(text).unwrap().unwrap();
        assert_eq!(read(r#"{"type":"ready"}"#), FromAgent::Ready { format: None, events: false });
        assert_eq!(
            read(r#"{"type":"ready","audio":{"encoding":"pcm_s16le","sample_rate":24000},"events":true}"#),
            FromAgent::Ready { format: Some(SoundFormat::new("pcm_s16le", 24_000).unwrap()), events: true }
        );
        assert_eq!(read(r#"{"type":"mark","name":"a"}"#), FromAgent::Mark { name: "a".into() });
        assert_eq!(read(r#"{"type":"bye","why":"done"}"#), FromAgent::Bye);
        assert_eq!(parse(r#"{"type":"of a later version"}"#), Ok(None));
        assert_eq!(
            read(r#"{"type":"command","request_id":7,"action":"stop_playback"}"#),
            FromAgent::Command { request_id: 7.into(), command: Ok(SoundCommand::StopPlayback.into()) }
        );
        let FromAgent::Command { command: Err(refusal), .. } = read(r#"{"type":"command","action":"fly"}"#) else {
            panic!("there is no action fly");
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
        let write = |notice: &Notice| to_json(&ToAgent::new(notice));
        assert_eq!(write(&Notice::Accepted), r#"{"type":"accepted"}"#);
        assert_eq!(
            write(&Notice::Mark { name: "a".into(), status: MarkStatus::Played }),
            r#"{"type":"mark","name":"a","status":"played"}"#
        );
        assert_eq!(
            write(&Notice::Cleared(Cleared { played_ms: 40, dropped_ms: 60 })),
            r#"{"type":"cleared","played_ms":40,"dropped_ms":60}"#
        );
        assert_eq!(write_result(&7.into(), &Ok(Value::Null)), r#"{"type":"result","request_id":7,"ok":true}"#);
        assert_eq!(
            write_result(&Value::Null, &Err(Refusal::new(RefusalCode::NoAgent, "none"))),
            r#"{"type":"result","request_id":null,"ok":false,"code":"no_agent","message":"none"}"#
        );
    }
}
