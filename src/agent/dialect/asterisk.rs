//! Asterisk's `chan_websocket`, Asterisk's side: media in binary messages, control in text messages, plain or JSON.

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use patchcord_media::source::MarkStatus;
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio_tungstenite::tungstenite::Message;

use super::identity::uuid_of;
use super::lenient;
use super::payload::Payload;
use super::{Dialect, FromAgent, Incoming, json_message, parsed};
use crate::agent::SoundFormat;
use crate::agent::notice::{Notice, Start};

/// Asterisk ignores longer ones.
const COMMAND_LIMIT_BYTES: usize = 128;
const FRAME_MS: u32 = 20;

/// The form of the control messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Control {
    Text,
    Json,
}

/// The translator of one connection.
pub(super) struct Asterisk {
    control: Control,
    payload: Payload,
    channel_id: String,
}

/// What a mark in our queue stands for, in its name's first character.
const MARK: char = 'm';
const BUFFERING: char = 'b';
const DRAINED: char = 'd';

impl Dialect for Asterisk {
    fn subprotocols(&self) -> &'static [&'static str] {
        &["media"]
    }

    fn format(&self, configured: SoundFormat) -> SoundFormat {
        configured
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = match message {
            Incoming::Binary(media) => {
                inbox.push(FromAgent::Sound(self.payload.decode(media)));
                return Ok(());
            }
            Incoming::Text(text) => text,
        };
        let command = self.command(&text)?;
        let id = command.correlation_id;
        match command.name.as_str() {
            "MARK_MEDIA" => inbox.push(FromAgent::Mark { name: format!("{MARK}{id}") }),
            "STOP_MEDIA_BUFFERING" => inbox.push(FromAgent::Mark { name: format!("{BUFFERING}{id}") }),
            "REPORT_QUEUE_DRAINED" => inbox.push(FromAgent::Mark { name: DRAINED.to_string() }),
            "FLUSH_MEDIA" => inbox.push(FromAgent::Clear),
            "PAUSE_MEDIA" => inbox.push(FromAgent::Pause),
            "CONTINUE_MEDIA" => inbox.push(FromAgent::Resume),
            "HANGUP" => inbox.push(FromAgent::Bye),
            // The call is accepted by its route's rule, and media are always buffered.
            "ANSWER" | "START_MEDIA_BUFFERING" => {}
            "GET_STATUS" | "SET_MEDIA_DIRECTION" => return Err(format!("{} is not supported", command.name)),
            _ => return Err("unknown command".to_owned()),
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => outbox.push(self.start(start)),
            Notice::Dtmf { digit: Some(digit), .. } => {
                outbox.push(self.event("DTMF_END", &[("digit", &digit.to_string())]));
            }
            Notice::Mark { name, status: MarkStatus::Played } => outbox.extend(self.marked(name)),
            // The queue is as empty after a flush.
            Notice::Mark { name, status: MarkStatus::Cleared } if name.starts_with(DRAINED) => {
                outbox.extend(self.marked(name));
            }
            Notice::Xoff { .. } => outbox.push(self.event("MEDIA_XOFF", &[])),
            Notice::Xon { .. } => outbox.push(self.event("MEDIA_XON", &[])),
            Notice::Error { message, .. } => outbox.push(self.event("ERROR", &[("error_text", message)])),
            // A flush discards the other marks without a word.
            Notice::Mark { status: MarkStatus::Cleared, .. }
            | Notice::Accepted
            | Notice::Dtmf { digit: None, .. }
            | Notice::Cleared(_)
            | Notice::Event(_)
            | Notice::CommandResult { .. }
            | Notice::Stop { .. } => {}
        }
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        outbox.push(Message::Binary(self.payload.encode(sound)));
    }
}

struct Command {
    name: String,
    correlation_id: String,
}

impl Asterisk {
    pub fn new(control: Control) -> Self {
        Self { control, payload: Payload::Mulaw, channel_id: String::new() }
    }

    fn command(&self, text: &str) -> Result<Command, String> {
        #[derive(Deserialize)]
        struct Json {
            command: String,
            #[serde(default, deserialize_with = "lenient::text")]
            correlation_id: String,
        }
        if text.len() > COMMAND_LIMIT_BYTES {
            return Err(format!("a command has at most {COMMAND_LIMIT_BYTES} bytes"));
        }
        Ok(match self.control {
            Control::Text => {
                let (name, id) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
                Command { name: name.to_owned(), correlation_id: id.trim().to_owned() }
            }
            Control::Json => {
                let Json { command, correlation_id } = parsed(text)?;
                Command { name: command, correlation_id }
            }
        })
    }

    fn start(&mut self, start: &Start) -> Message {
        self.payload = Payload::of(start.format);
        self.channel_id = start.call_id.as_str().to_owned();
        let rate = start.format.sample_rate;
        let samples = rate.hz() / 1000 * FRAME_MS;
        let (format, frame_bytes) = match (self.payload, rate) {
            (Payload::Mulaw, _) => ("ulaw", samples),
            // Asterisk passes these through, and says so by this size.
            (Payload::Opus, _) => ("opus", 0),
            (Payload::L16, SampleRate::Hz24000) => ("slin24", samples * 2),
            (Payload::L16, SampleRate::Hz48000) => ("slin48", samples * 2),
            (Payload::L16, SampleRate::Hz8000 | SampleRate::Hz16000) => ("slin16", samples * 2),
        };
        let channel = format!("WebSocket/patchcord/{}", self.channel_id);
        let (connection_id, channel_id) = (uuid_of(&start.stream_id), self.channel_id.clone());
        let (frame_bytes, frame_ms) = (frame_bytes.to_string(), FRAME_MS.to_string());
        let fields = [
            ("connection_id", connection_id.as_str()),
            ("channel", &channel),
            ("channel_id", &channel_id),
            ("format", format),
            ("optimal_frame_size", &frame_bytes),
            ("ptime", &frame_ms),
        ];
        match self.control {
            Control::Text => self.event("MEDIA_START", &fields),
            Control::Json => {
                let mut event = self.fields("MEDIA_START", &fields);
                for number in ["optimal_frame_size", "ptime"] {
                    let value = event[number].as_str().and_then(|text| text.parse::<u32>().ok());
                    event.insert(number.to_owned(), value.into());
                }
                let variables = start.parameters.iter().map(|(name, value)| (name.clone(), value.as_str().into()));
                event.insert("channel_variables".to_owned(), Value::Object(variables.collect()));
                json_message(&event)
            }
        }
    }

    fn marked(&self, name: &str) -> Option<Message> {
        let id = name.get(1..)?;
        let fields = [("correlation_id", id)];
        let fields = if id.is_empty() { &[] } else { &fields[..] };
        match name.chars().next()? {
            MARK => Some(self.event("MEDIA_MARK_PROCESSED", fields)),
            BUFFERING => Some(self.event("MEDIA_BUFFERING_COMPLETED", fields)),
            DRAINED => Some(self.event("QUEUE_DRAINED", &[])),
            _ => None,
        }
    }

    fn event(&self, name: &str, fields: &[(&str, &str)]) -> Message {
        match self.control {
            Control::Text => {
                let fields = fields.iter().map(|(key, value)| format!(" {key}:{value}"));
                Message::text(format!("{name}{}", fields.collect::<String>()))
            }
            Control::Json => json_message(&self.fields(name, fields)),
        }
    }

    fn fields(&self, name: &str, fields: &[(&str, &str)]) -> Map<String, Value> {
        let always = [("event", name), ("channel_id", &self.channel_id)];
        always.iter().chain(fields).map(|(key, value)| ((*key).to_owned(), (*value).into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{WIDEBAND, read, start, started, texts, told};
    use super::*;
    use crate::agent::Encoding;

    #[test]
    fn plain_text_control() {
        let mut asterisk = Asterisk::new(Control::Text);
        let said = started(&mut asterisk);
        let media_start = said[0].as_str().unwrap();
        assert!(media_start.starts_with("MEDIA_START connection_id:"), "{media_start}");
        assert!(media_start.ends_with(" format:slin16 optimal_frame_size:640 ptime:20"), "{media_start}");
        assert_eq!(read(&mut asterisk, "MARK_MEDIA one"), Ok(vec![FromAgent::Mark { name: "mone".into() }]));
        assert_eq!(read(&mut asterisk, "FLUSH_MEDIA"), Ok(vec![FromAgent::Clear]));
        assert_eq!(read(&mut asterisk, "HANGUP"), Ok(vec![FromAgent::Bye]));
        assert_eq!(read(&mut asterisk, "START_MEDIA_BUFFERING"), Ok(vec![]));
        let played = |name: &str| Notice::Mark { name: name.into(), status: MarkStatus::Played };
        assert_eq!(told(&mut asterisk, &played("mone")), vec![json!("MEDIA_MARK_PROCESSED correlation_id:one")]);
        assert_eq!(told(&mut asterisk, &played("d")), vec![json!("QUEUE_DRAINED")]);
        let flushed = |name: &str| Notice::Mark { name: name.into(), status: MarkStatus::Cleared };
        assert_eq!(told(&mut asterisk, &flushed("d")), vec![json!("QUEUE_DRAINED")]);
        assert_eq!(told(&mut asterisk, &flushed("mone")), Vec::<Value>::new());
        assert_eq!(told(&mut asterisk, &played("b7")), vec![json!("MEDIA_BUFFERING_COMPLETED correlation_id:7")]);
        assert_eq!(
            told(&mut asterisk, &Notice::Dtmf { digit: Some('9'), duration_ms: 80 }),
            vec![json!("DTMF_END digit:9")]
        );
        assert_eq!(told(&mut asterisk, &Notice::Xoff { queued_ms: 1 }), vec![json!("MEDIA_XOFF")]);
        assert!(read(&mut asterisk, "hangup").is_err(), "names are case-sensitive");
        assert!(read(&mut asterisk, &"x".repeat(129)).is_err());
    }

    #[test]
    fn json_control_and_mu_law() {
        let mut asterisk = Asterisk::new(Control::Json);
        let format = SoundFormat { sample_rate: SampleRate::Hz8000, ..WIDEBAND };
        let narrow = Start { format, ..start(&asterisk) };
        let said = told(&mut asterisk, &Notice::Start(Box::new(narrow)));
        assert_eq!(said[0]["event"], "MEDIA_START");
        assert_eq!((&said[0]["format"], &said[0]["optimal_frame_size"]), (&json!("ulaw"), &json!(160)));
        assert_eq!(said[0]["channel_variables"], json!({"language": "de"}));
        let opus = SoundFormat { encoding: Encoding::Opus, sample_rate: SampleRate::Hz48000 };
        let start = Start { format: opus, ..start(&asterisk) };
        let passed_through = told(&mut Asterisk::new(Control::Json), &Notice::Start(Box::new(start)));
        let size = &passed_through[0]["optimal_frame_size"];
        assert_eq!((&passed_through[0]["format"], size), (&json!("opus"), &json!(0)));
        let mut outbox = Vec::new();
        asterisk.write_sound(Bytes::from(vec![0; 320]), &mut outbox);
        assert_eq!(texts(&outbox), vec![json!(160)]);
        let stop = r#"{"command":"STOP_MEDIA_BUFFERING","correlation_id":"x"}"#;
        assert_eq!(read(&mut asterisk, stop), Ok(vec![FromAgent::Mark { name: "bx".into() }]));
        let numbered = r#"{"correlation_id":7,"command":"MARK_MEDIA"}"#;
        assert_eq!(read(&mut asterisk, numbered), Ok(vec![FromAgent::Mark { name: "m7".into() }]));
        let error = Notice::Error { code: crate::agent::notice::ErrorCode::BadMessage, message: "what?".into() };
        assert_eq!(told(&mut asterisk, &error)[0]["error_text"], "what?");
    }
}
