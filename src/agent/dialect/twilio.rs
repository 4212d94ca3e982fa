//! Twilio Media Streams, the platform's side: JSON in text messages, sound as base64 of mu-law at 8 kHz.
//!
//! Numbers travel as strings, and one counter runs over all messages from `start` on.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

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
pub(super) struct Twilio {
    /// Others may know it too.
    stream_sid: Rc<RefCell<String>>,
    account_sid: String,
    call_sid: String,
    /// Of the message before.
    sequence_number: u64,
    /// Messages of sound so far.
    chunks: u64,
}

impl Dialect for Twilio {
    fn format(&self, _: SoundFormat) -> SoundFormat {
        SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz8000 }
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = message.text()?;
        match parsed::<StreamMessage>(&text)? {
            StreamMessage::Media { media } => inbox.push(FromAgent::Sound(Payload::Mulaw.of_base64(&media.payload)?)),
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
                outbox.push(self.message(Event::Dtmf { dtmf: Dtmf { track: "inbound_track", digit: *digit } }));
            }
            // `clear` returns the marks that wait too, and they look the same.
            Notice::Mark { name, status: _ } => outbox.push(self.message(Event::Mark { mark: Mark { name } })),
            Notice::Stop { .. } => {
                let (account_sid, call_sid) = (self.account_sid.clone(), self.call_sid.clone());
                outbox.push(self.message(Event::Stop { stop: Stop { account_sid, call_sid } }));
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
        let media = Media {
            track: "inbound",
            chunk: self.chunks.to_string(),
            timestamp,
            payload: Payload::Mulaw.to_base64(sound),
        };
        outbox.push(self.message(Event::Media { media }));
    }
}

impl Twilio {
    /// Of an account that the app knows; by default one is made of the business number. `stream_sid` gets the stream's id.
    pub fn of(account_sid: String, stream_sid: Rc<RefCell<String>>) -> Self {
        Self { account_sid, stream_sid, ..Self::default() }
    }

    /// Apps find out by these two which service calls, so nothing comes before them.
    fn write_start(&mut self, start: &Start, outbox: &mut Vec<Message>) {
        let stream_sid = format!("MZ{}", digits_of(&start.stream_id));
        self.stream_sid.replace(stream_sid.clone());
        if self.account_sid.is_empty() {
            self.account_sid = format!("AC{}", account_of(start));
        }
        self.call_sid = format!("CA{}", digits_of(start.call_id.as_str()));
        outbox.push(json_message(&Connected { event: "connected", protocol: "Call", version: "1.0.0" }));
        let start = StartBody {
            stream_sid,
            account_sid: self.account_sid.clone(),
            call_sid: self.call_sid.clone(),
            tracks: ["inbound"],
            custom_parameters: with_numbers(start),
            media_format: MediaFormat { encoding: "audio/x-mulaw", sample_rate: 8000, channels: 1 },
        };
        outbox.push(self.message(Event::Start { start }));
    }

    fn message(&mut self, event: Event<'_>) -> Message {
        self.sequence_number += 1;
        let sequence_number = self.sequence_number.to_string();
        json_message(&ToApp { sequence_number, stream_sid: &self.stream_sid.borrow(), event })
    }
}

/// The stream does not say who calls whom. Apps have that put into parameters, and frameworks know these names.
fn with_numbers(start: &Start) -> BTreeMap<String, String> {
    let Parties { from, to } = Parties::of(&start.call);
    let mut parameters = start.parameters.clone();
    parameters.entry("from_number".to_owned()).or_insert(from);
    parameters.entry("to_number".to_owned()).or_insert(to);
    parameters
}

#[derive(Serialize)]
struct Connected {
    event: &'static str,
    protocol: &'static str,
    version: &'static str,
}

/// A numbered message to the app.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
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
    Start { start: StartBody },
    Media { media: Media },
    Dtmf { dtmf: Dtmf },
    Mark { mark: Mark<'a> },
    Stop { stop: Stop },
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct StartBody {
    stream_sid: String,
    account_sid: String,
    call_sid: String,
    tracks: [&'static str; 1],
    custom_parameters: BTreeMap<String, String>,
    media_format: MediaFormat,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
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
    track: &'static str,
    digit: char,
}

#[derive(Serialize)]
struct Mark<'a> {
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stop {
    account_sid: String,
    call_sid: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{read, started, texts};
    use super::*;

    #[test]
    fn a_stream_is_announced_numbered_and_stopped() {
        let mut twilio = Twilio::default();
        let start = started(&mut twilio);
        assert_eq!(start[0], json!({"event": "connected", "protocol": "Call", "version": "1.0.0"}));
        let sid = start[1]["streamSid"].as_str().unwrap().to_owned();
        assert_eq!((&sid[..2], sid.len()), ("MZ", 34));
        assert_eq!(start[1]["start"]["streamSid"], sid.as_str(), "apps read either");
        assert_eq!(start[1]["sequenceNumber"], "1");
        let parameters = json!({"language": "de", "from_number": "+12025550143", "to_number": "+12025550199"});
        assert_eq!(start[1]["start"]["customParameters"], parameters);
        let format = json!({"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1});
        assert_eq!(start[1]["start"]["mediaFormat"], format);
        let mut outbox = Vec::new();
        twilio.write_sound(Bytes::from(vec![0; 320]), &mut outbox);
        twilio.write_sound(Bytes::from(vec![0; 320]), &mut outbox);
        twilio.write_notice(&Notice::Dtmf { digit: Some('5'), duration_ms: 100 }, &mut outbox);
        twilio.write_notice(&Notice::Stop { reason: "caller_hung_up" }, &mut outbox);
        let said = texts(&outbox);
        let first = outbox[0].to_text().unwrap();
        assert!(first.starts_with(r#"{"event":"media","media":{"track":"inbound","chunk":"1","#), "{first}");
        assert_eq!(said[1]["media"]["chunk"], "2");
        assert_eq!(said[1]["media"]["timestamp"], "20");
        assert_eq!(said[1]["media"]["track"], "inbound");
        assert_eq!(said[1]["media"]["payload"].as_str().unwrap().len(), 216, "base64 of 160 bytes");
        assert_eq!(said[2]["dtmf"], json!({"track": "inbound_track", "digit": "5"}));
        assert_eq!(said[3]["sequenceNumber"], "5");
        assert_eq!(said[3]["stop"]["callSid"], start[1]["start"]["callSid"]);
    }

    #[test]
    fn the_three_messages_of_apps_are_read_and_others_passed_over() {
        let mut twilio = Twilio::default();
        let silence = r#"{"event":"media","streamSid":"MZ1","media":{"payload":"//8="}}"#;
        assert_eq!(read(&mut twilio, silence), Ok(vec![FromAgent::Sound(Bytes::from_static(&[0; 4]))]));
        let escaped = r#"{"event":"media","media":{"payload":"\/\/8="}}"#;
        assert_eq!(read(&mut twilio, escaped), read(&mut twilio, silence), "as PHP writes it");
        let mark = r#"{"event":"mark","streamSid":"MZ1","mark":{"name":"one"}}"#;
        assert_eq!(read(&mut twilio, mark), Ok(vec![FromAgent::Mark { name: "one".into() }]));
        let numbered = "\u{feff}{ \"mark\": {\"name\": 7, \"more\": null},\n \"event\": \"mark\" }";
        assert_eq!(read(&mut twilio, numbered), Ok(vec![FromAgent::Mark { name: "7".into() }]));
        assert_eq!(read(&mut twilio, r#"{"event":"clear"}"#), Ok(vec![FromAgent::Clear]));
        assert_eq!(read(&mut twilio, r#"{"event":"of a later version"}"#), Ok(vec![]));
        assert!(read(&mut twilio, r#"{"event":"media"}"#).unwrap_err().contains("media"));
        assert!(read(&mut twilio, "hello").is_err());
    }
}
