//! Telnyx media streaming, the platform's side: JSON in text messages, sound as base64.
//!
//! At 8 kHz it carries PCMU, at higher rates L16, and Opus as it is. Its documentation says that a payload is one of RTP,
//! whose L16 is big-endian (RFC 3551 §4.5.11). But the service sends and takes little-endian samples, as Telnyx's own demo
//! (team-telnyx/realtime-ai-demo) does, and so do the apps that were tried against it.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use tokio_tungstenite::tungstenite::Message;

use super::identity::{Parties, account_of, uuid_of};
use super::payload::Payload;
use super::stream_message::StreamMessage;
use super::{Dialect, FromAgent, Incoming, json_message, parsed};
use crate::agent::SoundFormat;
use crate::agent::notice::{Notice, Start};

/// Of a message of sound.
const FRAME_MS: u64 = 20;

/// The translator of one stream.
#[derive(Default)]
pub(super) struct Telnyx {
    stream_id: String,
    user_id: String,
    call_control_id: String,
    payload: Payload,
    /// Of the message before.
    sequence_number: u64,
    /// Messages of sound so far.
    chunks: u64,
}

impl Dialect for Telnyx {
    fn format(&self, configured: SoundFormat) -> SoundFormat {
        configured
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = message.text()?;
        match parsed::<StreamMessage>(&text)? {
            StreamMessage::Media { media } => inbox.push(FromAgent::Sound(self.payload.of_base64(&media.payload)?)),
            StreamMessage::Mark { mark } => inbox.push(FromAgent::Mark { name: mark.name }),
            StreamMessage::Clear => inbox.push(FromAgent::Clear),
            StreamMessage::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => self.write_start(start, outbox),
            Notice::Dtmf { digit: Some(digit), .. } => {
                outbox.push(self.message(Event::Dtmf { dtmf: Dtmf { digit: *digit } }));
            }
            // `clear` returns the marks that wait too, and they look the same.
            Notice::Mark { name, status: _ } => outbox.push(self.message(Event::Mark { mark: Mark { name } })),
            Notice::Error { code, message } => {
                let payload = ErrorBody { title: code.name(), detail: message };
                outbox.push(self.message(Event::Error { payload }));
            }
            Notice::Stop { .. } => {
                let (user_id, call_control_id) = (self.user_id.clone(), self.call_control_id.clone());
                outbox.push(self.message(Event::Stop { stop: Stop { user_id, call_control_id } }));
            }
            Notice::Accepted
            | Notice::Dtmf { digit: None, .. }
            | Notice::Cleared(_)
            | Notice::Xoff { .. }
            | Notice::Xon { .. }
            | Notice::Event(_)
            | Notice::CommandResult { .. } => {}
        }
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        let timestamp = (self.chunks * FRAME_MS).to_string();
        self.chunks += 1;
        let payload = self.payload.to_base64(sound);
        let media = Media { track: "inbound", chunk: self.chunks.to_string(), timestamp, payload };
        outbox.push(self.message(Event::Media { media }));
    }
}

impl Telnyx {
    fn write_start(&mut self, start: &Start, outbox: &mut Vec<Message>) {
        self.stream_id = uuid_of(&start.stream_id);
        self.user_id = account_of(start);
        self.call_control_id = start.call_id.as_str().to_owned();
        self.payload = Payload::of(start.format);
        let encoding = match self.payload {
            Payload::L16 => "L16",
            Payload::Mulaw => "PCMU",
            Payload::Opus => "OPUS",
        };
        outbox.push(json_message(&Connected { event: "connected", version: "1.0.0" }));
        let Parties { from, to } = Parties::of(&start.call);
        let start = StartBody {
            user_id: self.user_id.clone(),
            call_control_id: self.call_control_id.clone(),
            call_session_id: uuid_of(start.call_id.as_str()),
            from,
            to,
            tags: [],
            client_state: "",
            custom_parameters: &start.parameters,
            media_format: MediaFormat { encoding, sample_rate: start.format.sample_rate.hz(), channels: 1 },
        };
        outbox.push(self.message(Event::Start { start }));
    }

    fn message(&mut self, event: Event<'_>) -> Message {
        self.sequence_number += 1;
        let sequence_number = self.sequence_number.to_string();
        json_message(&ToApp { sequence_number, stream_id: &self.stream_id, event })
    }
}

#[derive(Serialize)]
struct Connected {
    event: &'static str,
    version: &'static str,
}

/// A numbered message to the app.
#[derive(Serialize)]
struct ToApp<'a> {
    /// First, as there.
    #[serde(flatten)]
    event: Event<'a>,
    sequence_number: String,
    stream_id: &'a str,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Start { start: StartBody<'a> },
    Media { media: Media },
    Dtmf { dtmf: Dtmf },
    Mark { mark: Mark<'a> },
    Error { payload: ErrorBody<'a> },
    Stop { stop: Stop },
}

#[derive(Serialize)]
struct StartBody<'a> {
    user_id: String,
    call_control_id: String,
    call_session_id: String,
    from: String,
    to: String,
    tags: [&'static str; 0],
    client_state: &'static str,
    custom_parameters: &'a BTreeMap<String, String>,
    media_format: MediaFormat,
}

#[derive(Serialize)]
struct MediaFormat {
    encoding: &'static str,
    sample_rate: u32,
    channels: u8,
}

#[derive(Serialize)]
struct Media {
    track: &'static str,
    chunk: String,
    timestamp: String,
    payload: String,
}

#[derive(Serialize)]
struct Dtmf {
    digit: char,
}

#[derive(Serialize)]
struct Mark<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct ErrorBody<'a> {
    title: &'static str,
    detail: &'a str,
}

#[derive(Serialize)]
struct Stop {
    user_id: String,
    call_control_id: String,
}

#[cfg(test)]
mod tests {
    use patchcord_media::opus::SampleRate;
    use serde_json::json;

    use super::super::testing::{read, start, started, texts, told};
    use super::*;
    use crate::agent::Encoding;

    #[test]
    fn wideband_is_l16_in_little_endian() {
        let mut telnyx = Telnyx::default();
        let start = started(&mut telnyx);
        assert_eq!(start[0], json!({"event": "connected", "version": "1.0.0"}));
        assert_eq!(start[1]["start"]["media_format"], json!({"encoding": "L16", "sample_rate": 16000, "channels": 1}));
        assert_eq!(start[1]["start"]["from"], "+12025550143");
        assert_eq!(start[1]["start"]["call_control_id"], "call_01m8eg3hz2fx0gg2carcwv9cp6");
        let mut outbox = Vec::new();
        telnyx.write_sound(Bytes::from_static(&[1, 0]), &mut outbox);
        assert_eq!(texts(&outbox)[0]["media"]["payload"], "AQA=");
        let media = r#"{"event":"media","media":{"payload":"AQA="}}"#;
        assert_eq!(read(&mut telnyx, media), Ok(vec![FromAgent::Sound(Bytes::from_static(&[1, 0]))]));
    }

    #[test]
    fn the_lowest_rate_is_pcmu_and_opus_stays_opus() {
        for (format, encoding) in [
            (SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz8000 }, "PCMU"),
            (SoundFormat { encoding: Encoding::Opus, sample_rate: SampleRate::Hz48000 }, "OPUS"),
        ] {
            let mut telnyx = Telnyx::default();
            let start = Start { format, ..start(&telnyx) };
            let said = told(&mut telnyx, &Notice::Start(Box::new(start)));
            assert_eq!(said[1]["start"]["media_format"]["encoding"], encoding);
        }
    }
}
