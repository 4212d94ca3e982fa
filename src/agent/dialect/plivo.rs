//! Plivo audio streaming, the platform's side: JSON in text messages, sound as base64 of mu-law at 8 kHz or PCM at 16 kHz.
//!
//! Nothing comes before `start`, and the end of the socket is the end of the stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use patchcord_media::source::MarkStatus;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::identity::{account_of, uuid_of};
use super::payload::Payload;
use super::{Dialect, FromAgent, Incoming, json_message, lenient, parsed};
use crate::agent::intake::Intake;
use crate::agent::notice::{Notice, Start};
use crate::agent::{Encoding, SoundFormat};
use crate::call::command::{CallCommand, SendDtmf, SoundCommand};

/// Of a message of sound.
const FRAME_MS: u64 = 20;

/// The translator of one stream.
pub(super) struct Plivo {
    stream_id: String,
    extra_headers: String,
    payload: Payload,
    sample_rate: SampleRate,
    /// Of what the app sends at another rate.
    intake: Intake,
    /// Of the message before.
    sequence_number: u64,
    /// Messages of sound so far.
    chunks: u64,
}

impl Default for Plivo {
    fn default() -> Self {
        let (sample_rate, payload) = (SampleRate::Hz8000, Payload::default());
        let intake = Intake::new(sample_rate);
        let (stream_id, extra_headers) = (String::new(), String::new());
        Self { stream_id, extra_headers, payload, sample_rate, intake, sequence_number: 0, chunks: 0 }
    }
}

impl Dialect for Plivo {
    /// mu-law at 8 kHz, else PCM at 16 kHz.
    fn format(&self, configured: SoundFormat) -> SoundFormat {
        let sample_rate = match configured.sample_rate {
            SampleRate::Hz8000 => SampleRate::Hz8000,
            SampleRate::Hz16000 | SampleRate::Hz24000 | SampleRate::Hz48000 => SampleRate::Hz16000,
        };
        SoundFormat { encoding: Encoding::PcmS16le, sample_rate }
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = message.text()?;
        match parsed::<FromApp>(&text)? {
            FromApp::PlayAudio { media } => inbox.push(FromAgent::Sound(self.sound(&media)?)),
            FromApp::Checkpoint { name } => inbox.push(FromAgent::Mark { name }),
            FromApp::ClearAudio => inbox.push(FromAgent::Clear),
            FromApp::SendDtmf { dtmf } => {
                let command: CallCommand = SoundCommand::SendDtmf(SendDtmf { digits: dtmf }).into();
                let command = command.check().map(|()| command);
                inbox.push(FromAgent::Command { request_id: Value::Null, command });
            }
            FromApp::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => self.write_start(start, outbox),
            Notice::Dtmf { digit: Some(digit), .. } => {
                let timestamp = (self.chunks * FRAME_MS).to_string();
                let dtmf = Dtmf { track: "inbound", digit: *digit, timestamp };
                outbox.push(self.message(Event::Dtmf { dtmf }));
            }
            Notice::Mark { name, status: MarkStatus::Played } => {
                outbox.push(self.message(Event::PlayedStream { name }));
            }
            Notice::Cleared(_) => outbox.push(self.message(Event::ClearedAudio)),
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
        let timestamp = (self.chunks * FRAME_MS).to_string();
        self.chunks += 1;
        let media = Media { track: "inbound", timestamp, chunk: self.chunks, payload: self.payload.to_base64(sound) };
        outbox.push(self.message(Event::Media { media }));
    }
}

impl Plivo {
    fn write_start(&mut self, start: &Start, outbox: &mut Vec<Message>) {
        self.stream_id = uuid_of(&start.stream_id);
        self.payload = Payload::of(start.format);
        self.sample_rate = start.format.sample_rate;
        self.intake = Intake::new(self.sample_rate);
        self.extra_headers = extra_headers(&start.parameters);
        let encoding = if self.payload == Payload::Mulaw { "audio/x-mulaw" } else { "audio/x-l16" };
        let body = StartBody {
            call_id: uuid_of(start.call_id.as_str()),
            stream_id: self.stream_id.clone(),
            account_id: account_of(start),
            tracks: ["inbound"],
            media_format: MediaFormat { encoding, sample_rate: start.format.sample_rate.hz() },
        };
        outbox.push(self.message(Event::Start { start: body }));
    }

    /// An app names encoding and rate with each message, and they need not be those of the stream to it.
    fn sound(&mut self, media: &AppMedia) -> Result<Bytes, String> {
        // As in `<Stream>`, some apps write the rate behind it: `audio/x-l16;rate=16000`.
        let content_type = media.content_type.as_deref().unwrap_or_default();
        let (encoding, rate) = content_type.split_once(';').unwrap_or((content_type, ""));
        let payload = match encoding.trim().to_ascii_lowercase().as_str() {
            "audio/x-mulaw" => Payload::Mulaw,
            "audio/x-l16" => Payload::L16,
            _ => self.payload,
        };
        let hz = match payload {
            Payload::Mulaw => SampleRate::Hz8000.hz(),
            Payload::L16 | Payload::Opus => {
                let rate = rate.trim().strip_prefix("rate=").and_then(|rate| rate.parse().ok());
                media.sample_rate.or(rate).unwrap_or(self.sample_rate.hz())
            }
        };
        Ok(self.intake.take(Intake::check(hz)?, payload.of_base64(&media.payload)?))
    }

    fn message(&mut self, event: Event<'_>) -> Message {
        self.sequence_number += 1;
        // As in Plivo's examples: what answers the app has none.
        let extra_headers = match event {
            Event::Start { .. } | Event::Media { .. } | Event::Dtmf { .. } => Some(self.extra_headers.as_str()),
            Event::PlayedStream { .. } | Event::ClearedAudio => None,
        };
        json_message(&ToApp { sequence_number: self.sequence_number, stream_id: &self.stream_id, event, extra_headers })
    }
}

/// `{key: value, …}`, as Plivo writes them: letters and digits alone, of at most 512 bytes.
fn extra_headers(parameters: &BTreeMap<String, String>) -> String {
    let is_plain = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
    let mut headers = String::new();
    for (name, value) in parameters.iter().filter(|(name, value)| is_plain(name) && is_plain(value)) {
        let header = format!("{}{name}: {value}", if headers.is_empty() { "" } else { ", " });
        if headers.len() + header.len() > 510 {
            break;
        }
        headers.push_str(&header);
    }
    format!("{{{headers}}}")
}

/// A numbered message to the app.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToApp<'a> {
    /// First, as there.
    #[serde(flatten)]
    event: Event<'a>,
    sequence_number: u64,
    stream_id: &'a str,
    #[serde(rename = "extra_headers", skip_serializing_if = "Option::is_none")]
    extra_headers: Option<&'a str>,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "camelCase")]
enum Event<'a> {
    Start { start: StartBody },
    Media { media: Media },
    Dtmf { dtmf: Dtmf },
    PlayedStream { name: &'a str },
    ClearedAudio,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StartBody {
    call_id: String,
    stream_id: String,
    account_id: String,
    tracks: [&'static str; 1],
    media_format: MediaFormat,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct MediaFormat {
    encoding: &'static str,
    sample_rate: u32,
}

#[derive(Serialize)]
struct Media {
    track: &'static str,
    timestamp: String,
    chunk: u64,
    payload: String,
}

#[derive(Serialize)]
struct Dtmf {
    track: &'static str,
    digit: char,
    timestamp: String,
}

#[derive(Deserialize)]
#[serde(tag = "event", rename_all = "camelCase")]
enum FromApp {
    PlayAudio {
        media: AppMedia,
    },
    Checkpoint {
        #[serde(deserialize_with = "lenient::text")]
        name: String,
    },
    ClearAudio,
    #[serde(rename = "sendDTMF")]
    SendDtmf {
        #[serde(deserialize_with = "lenient::text")]
        dtmf: String,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AppMedia {
    /// Those of the stream, if left out.
    content_type: Option<String>,
    #[serde(default, deserialize_with = "lenient::whole")]
    sample_rate: Option<u32>,
    payload: String,
}

#[cfg(test)]
mod tests {
    use patchcord_media::source::Cleared;
    use serde_json::json;

    use super::super::testing::{WIDEBAND, read, start, started, told};
    use super::*;

    #[test]
    fn a_stream_begins_with_start_and_its_numbers_are_numbers() {
        let mut plivo = Plivo::default();
        let start = started(&mut plivo);
        assert_eq!(start.len(), 1);
        assert_eq!(start[0]["sequenceNumber"], 1);
        assert_eq!(start[0]["start"]["mediaFormat"], json!({"encoding": "audio/x-l16", "sampleRate": 16000}));
        assert_eq!(start[0]["start"]["callId"].as_str().unwrap().len(), 36);
        assert_eq!(start[0]["extra_headers"], "{language: de}");
        assert_eq!(told(&mut plivo, &Notice::Stop { reason: "caller_hung_up" }), Vec::<Value>::new());
    }

    #[test]
    fn sound_is_in_the_encoding_that_its_message_names() {
        let mut plivo = Plivo::default();
        let format = SoundFormat { sample_rate: SampleRate::Hz8000, ..WIDEBAND };
        let start = Start { format, ..start(&plivo) };
        told(&mut plivo, &Notice::Start(Box::new(start)));
        let mut sound = |kind: &str, hz: u32| {
            let media = format!(r#"{{"contentType":"audio/x-{kind}","sampleRate":{hz},"payload":"//8="}}"#);
            read(&mut plivo, &format!(r#"{{"event":"playAudio","media":{media}}}"#))
        };
        assert_eq!(sound("l16", 8000), Ok(vec![FromAgent::Sound(Bytes::from_static(&[255, 255]))]));
        assert_eq!(sound("mulaw", 8000), Ok(vec![FromAgent::Sound(Bytes::from_static(&[0; 4]))]));
        assert_eq!(sound("L16;rate=8000", 8000), Ok(vec![FromAgent::Sound(Bytes::from_static(&[255, 255]))]));
        assert!(sound("l16", 11_025).unwrap_err().contains("11025"));
        let bare = read(&mut plivo, r#"{"event":"playAudio","media":{"payload":"//8="}}"#);
        assert_eq!(bare, Ok(vec![FromAgent::Sound(Bytes::from_static(&[0; 4]))]), "as the stream to the app");
    }

    #[test]
    fn sound_at_another_rate_is_brought_to_that_of_the_stream() {
        let mut plivo = Plivo::default();
        started(&mut plivo);
        let frame = |kind: &str, rate: Value, bytes: usize| {
            let payload = Payload::L16.to_base64(vec![0; bytes].into());
            let media = json!({"contentType": kind, "sampleRate": rate, "payload": payload});
            json!({"event": "playAudio", "media": media}).to_string()
        };
        for message in [
            frame("audio/x-l16", json!("24000"), 960),
            frame("audio/x-l16;rate=8000", Value::Null, 320),
            frame("audio/x-mulaw", json!(8000), 160),
        ] {
            let said = read(&mut plivo, &message).unwrap();
            assert!(matches!(&said[..], [FromAgent::Sound(sound)] if sound.len() == 640), "{message}: {said:?}");
        }
    }

    #[test]
    fn checkpoints_and_clears_are_answered_by_plivos_names() {
        let mut plivo = Plivo::default();
        started(&mut plivo);
        let checkpoint = r#"{"event":"checkpoint","streamId":"s","name":"hello"}"#;
        assert_eq!(read(&mut plivo, checkpoint), Ok(vec![FromAgent::Mark { name: "hello".into() }]));
        assert_eq!(read(&mut plivo, r#"{"event":"clearAudio"}"#), Ok(vec![FromAgent::Clear]));
        let played = told(&mut plivo, &Notice::Mark { name: "hello".into(), status: MarkStatus::Played });
        assert_eq!((&played[0]["event"], &played[0]["name"]), (&json!("playedStream"), &json!("hello")));
        assert_eq!(told(&mut plivo, &Notice::Mark { name: "hello".into(), status: MarkStatus::Cleared }).len(), 0);
        let cleared = told(&mut plivo, &Notice::Cleared(Cleared { played_ms: 1, dropped_ms: 2 }));
        assert_eq!(cleared[0]["event"], "clearedAudio");
        let said = read(&mut plivo, r#"{"event":"sendDTMF","dtmf":"12"}"#).unwrap();
        assert!(matches!(&said[..], [FromAgent::Command { command: Ok(_), .. }]));
    }
}
