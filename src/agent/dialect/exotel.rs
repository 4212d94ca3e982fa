//! Exotel's voicebot applet, the platform's side: as Twilio's stream in snake case, with PCM as base64.

use std::collections::BTreeMap;

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use serde::Serialize;
use tokio_tungstenite::tungstenite::Message;

use super::identity::{Parties, account_of, digits_of};
use super::payload::Payload;
use super::stream_message::StreamMessage;
use super::{Dialect, FromAgent, Incoming, json_message, parsed};
use crate::agent::notice::{Notice, Start};
use crate::agent::{Encoding, SoundFormat};

/// Of a message of sound.
const FRAME_MS: u64 = 20;

/// The translator of one stream.
#[derive(Default)]
pub(super) struct Exotel {
    stream_sid: String,
    account_sid: String,
    call_sid: String,
    /// Of the message before.
    sequence_number: u64,
    /// Messages of sound so far.
    chunks: u64,
}

impl Dialect for Exotel {
    /// PCM at 8, 16 or 24 kHz.
    fn format(&self, configured: SoundFormat) -> SoundFormat {
        let sample_rate = match configured.sample_rate {
            SampleRate::Hz48000 => SampleRate::Hz24000,
            rate @ (SampleRate::Hz8000 | SampleRate::Hz16000 | SampleRate::Hz24000) => rate,
        };
        SoundFormat { encoding: Encoding::PcmS16le, sample_rate }
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = message.text()?;
        match parsed::<StreamMessage>(&text)? {
            StreamMessage::Media { media } => inbox.push(FromAgent::Sound(Payload::L16.of_base64(&media.payload)?)),
            StreamMessage::Mark { mark } => inbox.push(FromAgent::Mark { name: mark.name }),
            StreamMessage::Clear => inbox.push(FromAgent::Clear),
            StreamMessage::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => self.write_start(start, outbox),
            Notice::Dtmf { digit: Some(digit), duration_ms } => {
                let dtmf = Dtmf { digit: *digit, duration: duration_ms.to_string() };
                outbox.push(self.message(Event::Dtmf { dtmf }));
            }
            Notice::Mark { name, status: _ } => outbox.push(self.message(Event::Mark { mark: Mark { name } })),
            Notice::Stop { reason } => {
                let (account_sid, call_sid) = (self.account_sid.clone(), self.call_sid.clone());
                outbox.push(self.message(Event::Stop { stop: Stop { account_sid, call_sid, reason } }));
            }
            Notice::Accepted
            | Notice::Dtmf { digit: None, .. }
            | Notice::Cleared(_)
            | Notice::Xoff { .. }
            | Notice::Xon { .. }
            | Notice::Event(_)
            | Notice::CommandResult { .. }
            | Notice::Error { .. } => {}
        }
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        let timestamp = (self.chunks * FRAME_MS).to_string();
        self.chunks += 1;
        let media = Media { chunk: self.chunks.to_string(), timestamp, payload: Payload::L16.to_base64(sound) };
        outbox.push(self.message(Event::Media { media }));
    }
}

impl Exotel {
    fn write_start(&mut self, start: &Start, outbox: &mut Vec<Message>) {
        self.stream_sid = digits_of(&start.stream_id);
        self.account_sid = account_of(start);
        self.call_sid = digits_of(start.call_id.as_str());
        outbox.push(json_message(&Connected { event: "connected" }));
        let hz = start.format.sample_rate.hz();
        let Parties { from, to } = Parties::of(&start.call);
        let start = StartBody {
            stream_sid: self.stream_sid.clone(),
            call_sid: self.call_sid.clone(),
            account_sid: self.account_sid.clone(),
            from,
            to,
            custom_parameters: &start.parameters,
            media_format: MediaFormat {
                encoding: "raw/slin",
                sample_rate: hz.to_string(),
                bit_rate: format!("{}kbps", hz * 16 / 1000),
            },
        };
        outbox.push(self.message(Event::Start { start }));
    }

    fn message(&mut self, event: Event<'_>) -> Message {
        self.sequence_number += 1;
        let sequence_number = self.sequence_number.to_string();
        json_message(&ToApp { sequence_number, stream_sid: &self.stream_sid, event })
    }
}

#[derive(Serialize)]
struct Connected {
    event: &'static str,
}

/// A numbered message to the app.
#[derive(Serialize)]
struct ToApp<'a> {
    /// First, as there.
    #[serde(flatten)]
    event: Event<'a>,
    sequence_number: String,
    stream_sid: &'a str,
}

#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
enum Event<'a> {
    Start { start: StartBody<'a> },
    Media { media: Media },
    Dtmf { dtmf: Dtmf },
    Mark { mark: Mark<'a> },
    Stop { stop: Stop },
}

#[derive(Serialize)]
struct StartBody<'a> {
    stream_sid: String,
    call_sid: String,
    account_sid: String,
    from: String,
    to: String,
    custom_parameters: &'a BTreeMap<String, String>,
    media_format: MediaFormat,
}

#[derive(Serialize)]
struct MediaFormat {
    encoding: &'static str,
    sample_rate: String,
    bit_rate: String,
}

#[derive(Serialize)]
struct Media {
    chunk: String,
    timestamp: String,
    payload: String,
}

#[derive(Serialize)]
struct Dtmf {
    digit: char,
    duration: String,
}

#[derive(Serialize)]
struct Mark<'a> {
    name: &'a str,
}

#[derive(Serialize)]
struct Stop {
    account_sid: String,
    call_sid: String,
    reason: &'static str,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{WIDEBAND, read, started, told};
    use super::*;

    #[test]
    fn a_stream_carries_pcm_at_the_routes_rate() {
        let mut exotel = Exotel::default();
        let start = started(&mut exotel);
        assert_eq!(start[0], json!({"event": "connected"}));
        assert_eq!(start[1]["sequence_number"], "1");
        let format = json!({"encoding": "raw/slin", "sample_rate": "16000", "bit_rate": "256kbps"});
        assert_eq!(start[1]["start"]["media_format"], format);
        assert_eq!(start[1]["start"]["custom_parameters"], json!({"language": "de"}));
        let media = r#"{"event":"media","stream_sid":"1","media":{"payload":"AQA="}}"#;
        assert_eq!(read(&mut exotel, media), Ok(vec![FromAgent::Sound(Bytes::from_static(&[1, 0]))]));
        let key = told(&mut exotel, &Notice::Dtmf { digit: Some('#'), duration_ms: 120 });
        assert_eq!(key[0]["dtmf"], json!({"digit": "#", "duration": "120"}));
    }

    #[test]
    fn a_rate_that_it_does_not_know_becomes_its_highest() {
        let highest = SoundFormat { sample_rate: SampleRate::Hz48000, ..WIDEBAND };
        assert_eq!(Exotel::default().format(highest).sample_rate, SampleRate::Hz24000);
    }
}
