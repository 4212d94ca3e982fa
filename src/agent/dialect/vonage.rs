//! The WebSocket endpoint of Vonage's Voice API, the platform's side: PCM in binary messages of 20 ms, JSON in text messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use patchcord_media::source::MarkStatus;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::{Dialect, FromAgent, Incoming, json_message, parsed};
use crate::agent::notice::Notice;
use crate::agent::{Encoding, SoundFormat};

/// The keys of the first message that no parameter takes.
const OURS: [&str; 2] = ["event", "content-type"];

/// The translator of one connection, which needs no state.
pub(super) struct Vonage;

impl Dialect for Vonage {
    /// PCM at 8, 16 or 24 kHz.
    fn format(&self, configured: SoundFormat) -> SoundFormat {
        let sample_rate = match configured.sample_rate {
            SampleRate::Hz48000 => SampleRate::Hz24000,
            rate @ (SampleRate::Hz8000 | SampleRate::Hz16000 | SampleRate::Hz24000) => rate,
        };
        SoundFormat { encoding: Encoding::PcmS16le, sample_rate }
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = match message {
            Incoming::Binary(sound) => {
                inbox.push(FromAgent::Sound(sound));
                return Ok(());
            }
            Incoming::Text(text) => text,
        };
        match parsed::<FromApp>(&text)? {
            FromApp::Clear => inbox.push(FromAgent::Clear),
            // The payload comes back as it is, so it is the name of the mark.
            FromApp::Notify { payload } => inbox.push(FromAgent::Mark { name: payload.to_string() }),
            FromApp::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => {
                let content_type = format!("audio/l16;rate={}", start.format.sample_rate.hz());
                let event = "websocket:connected";
                let headers = start.parameters.iter().filter(|(name, _)| !OURS.contains(&name.as_str()));
                let headers = headers.map(|(name, value)| (name.as_str(), value.as_str())).collect();
                outbox.push(json_message(&Connected { event, content_type, headers }));
            }
            Notice::Dtmf { digit: Some(digit), duration_ms } => {
                let dtmf = Dtmf { event: "websocket:dtmf", digit: *digit, duration: *duration_ms };
                outbox.push(json_message(&dtmf));
            }
            Notice::Mark { name, status: MarkStatus::Played } => {
                // It was read from JSON.
                let payload = serde_json::from_str(name).unwrap_or_default();
                outbox.push(json_message(&Notified { event: "websocket:notify", payload }));
            }
            Notice::Cleared(_) => outbox.push(json_message(&Plain { event: "websocket:cleared" })),
            // `clear` drops the notifications that wait.
            Notice::Mark { status: MarkStatus::Cleared, .. }
            | Notice::Accepted
            | Notice::Dtmf { digit: None, .. }
            | Notice::Xoff { .. }
            | Notice::Xon { .. }
            | Notice::Event(_)
            | Notice::CommandResult { .. }
            | Notice::Error { .. }
            | Notice::Stop { .. } => {}
        }
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        outbox.push(Message::Binary(sound));
    }
}

/// The first message. The route's parameters stand in it where Vonage puts the headers of the NCCO.
#[derive(Serialize)]
struct Connected<'a> {
    event: &'static str,
    #[serde(rename = "content-type")]
    content_type: String,
    #[serde(flatten)]
    headers: BTreeMap<&'a str, &'a str>,
}

#[derive(Serialize)]
struct Dtmf {
    event: &'static str,
    digit: char,
    duration: u32,
}

#[derive(Serialize)]
struct Notified {
    event: &'static str,
    payload: Value,
}

#[derive(Serialize)]
struct Plain {
    event: &'static str,
}

#[derive(Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
enum FromApp {
    Clear,
    Notify {
        #[serde(default)]
        payload: Value,
    },
    #[serde(other)]
    Other,
}

#[cfg(test)]
mod tests {
    use patchcord_media::source::Cleared;
    use serde_json::json;

    use super::super::testing::{read, start, texts, told};
    use super::*;

    #[test]
    fn the_first_message_names_the_format_and_the_parameters() {
        let mut call = start(&Vonage);
        call.parameters.insert("event".to_owned(), "mine".to_owned());
        let start = told(&mut Vonage, &Notice::Start(Box::new(call)));
        let connected =
            json!({"event": "websocket:connected", "content-type": "audio/l16;rate=16000", "language": "de"});
        assert_eq!(start, vec![connected]);
        let mut outbox = Vec::new();
        Vonage.write_sound(Bytes::from(vec![0; 640]), &mut outbox);
        assert_eq!(texts(&outbox), vec![json!(640)]);
    }

    #[test]
    fn a_notification_returns_with_its_payload_once_it_was_heard() {
        let said = read(&mut Vonage, r#"{"action":"notify","payload":{"turn":7}}"#).unwrap();
        let [FromAgent::Mark { name }] = &said[..] else { panic!("{said:?}") };
        let played = told(&mut Vonage, &Notice::Mark { name: name.clone(), status: MarkStatus::Played });
        assert_eq!(played, vec![json!({"event": "websocket:notify", "payload": {"turn": 7}})]);
        let cleared = Notice::Mark { name: name.clone(), status: MarkStatus::Cleared };
        assert_eq!(told(&mut Vonage, &cleared), Vec::<Value>::new());
        assert_eq!(read(&mut Vonage, r#"{"action":"clear"}"#), Ok(vec![FromAgent::Clear]));
        let cleared = told(&mut Vonage, &Notice::Cleared(Cleared { played_ms: 0, dropped_ms: 0 }));
        assert_eq!(cleared, vec![json!({"event": "websocket:cleared"})]);
    }

    #[test]
    fn keys_have_digit_and_duration() {
        let key = told(&mut Vonage, &Notice::Dtmf { digit: Some('5'), duration_ms: 260 });
        assert_eq!(key, vec![json!({"event": "websocket:dtmf", "digit": "5", "duration": 260})]);
    }
}
