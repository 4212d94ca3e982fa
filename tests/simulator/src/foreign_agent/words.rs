//! The words of each protocol, as its apps write and read them: literal JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::sip_phone::rtp::{from_mu_law, to_mu_law};

/// The protocol of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Twilio Media Streams.
    Twilio,
    /// Telnyx media streaming.
    Telnyx,
    /// Plivo audio streaming.
    Plivo,
    /// Exotel's voicebot applet.
    Exotel,
    /// The WebSocket of Vonage's Voice API.
    Vonage,
    /// The `listen` verb of jambonz.
    Jambonz,
    /// `chan_websocket` with plain-text control.
    Asterisk,
    /// `chan_websocket` with JSON control.
    AsteriskJson,
}

impl Protocol {
    /// The value of `dialect` in a route.
    #[must_use]
    pub fn dialect(self) -> &'static str {
        match self {
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

    pub(super) fn subprotocol(self) -> Option<&'static str> {
        match self {
            Self::Jambonz => Some("audio.drachtio.org"),
            Self::Asterisk | Self::AsteriskJson => Some("media"),
            Self::Twilio | Self::Telnyx | Self::Plivo | Self::Exotel | Self::Vonage => None,
        }
    }

    /// Sound in binary messages.
    pub(super) fn samples(self, bytes: &[u8], rate: u32) -> Vec<i16> {
        match self.wire(rate) {
            Wire::MuLaw => bytes.iter().map(|byte| from_mu_law(*byte)).collect(),
            Wire::LittleEndian => bytes.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect(),
        }
    }

    /// Sound in a JSON message; None for everything else.
    pub(super) fn sound_of(self, message: &Value, rate: u32) -> Option<Vec<i16>> {
        if message["event"] != "media" {
            return None;
        }
        let bytes = STANDARD.decode(message["media"]["payload"].as_str()?).ok()?;
        Some(self.samples(&bytes, rate))
    }

    pub(super) fn say(self, pcm: &[i16], rate: u32) -> Vec<Message> {
        let frame = (rate / 50) as usize;
        pcm.chunks(frame).map(|samples| self.message_of(&self.bytes(samples, rate), rate)).collect()
    }

    fn bytes(self, pcm: &[i16], rate: u32) -> Vec<u8> {
        match self.wire(rate) {
            Wire::MuLaw => pcm.iter().map(|sample| to_mu_law(*sample)).collect(),
            Wire::LittleEndian => pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect(),
        }
    }

    fn message_of(self, bytes: &[u8], rate: u32) -> Message {
        let payload = STANDARD.encode(bytes);
        let json = match self {
            Self::Twilio => json!({"event": "media", "streamSid": "MZ0", "media": {"payload": payload}}),
            Self::Telnyx => json!({"event": "media", "media": {"payload": payload}}),
            Self::Exotel => json!({"event": "media", "stream_sid": "0", "media": {"payload": payload}}),
            Self::Plivo => {
                let kind = if rate == 8000 { "audio/x-mulaw" } else { "audio/x-l16" };
                json!({"event": "playAudio", "media": {"contentType": kind, "sampleRate": rate, "payload": payload}})
            }
            Self::Vonage | Self::Jambonz | Self::Asterisk | Self::AsteriskJson => {
                return Message::binary(bytes.to_vec());
            }
        };
        Message::text(json.to_string())
    }

    fn wire(self, rate: u32) -> Wire {
        match (self, rate) {
            (Self::Twilio, _) | (Self::Telnyx | Self::Plivo | Self::Asterisk | Self::AsteriskJson, 8000) => Wire::MuLaw,
            _ => Wire::LittleEndian,
        }
    }

    pub(super) fn mark(self, name: &str) -> String {
        match self {
            Self::Twilio => json!({"event": "mark", "streamSid": "MZ0", "mark": {"name": name}}),
            Self::Telnyx => json!({"event": "mark", "mark": {"name": name}}),
            Self::Exotel => json!({"event": "mark", "stream_sid": "0", "mark": {"name": name}}),
            Self::Plivo => json!({"event": "checkpoint", "streamId": "0", "name": name}),
            Self::Vonage => json!({"action": "notify", "payload": {"name": name}}),
            Self::Jambonz => json!({"type": "mark", "data": {"name": name}}),
            Self::Asterisk => return format!("MARK_MEDIA {name}"),
            Self::AsteriskJson => json!({"command": "MARK_MEDIA", "correlation_id": name}),
        }
        .to_string()
    }

    pub(super) fn is_mark(self, message: &Value, name: &str) -> bool {
        match self {
            Self::Twilio | Self::Telnyx | Self::Exotel => message["event"] == "mark" && message["mark"]["name"] == name,
            Self::Plivo => message["event"] == "playedStream" && message["name"] == name,
            Self::Vonage => message["event"] == "websocket:notify" && message["payload"]["name"] == name,
            Self::Jambonz => message["type"] == "mark" && message["data"]["name"] == name,
            Self::Asterisk => *message == format!("MEDIA_MARK_PROCESSED correlation_id:{name}"),
            Self::AsteriskJson => message["event"] == "MEDIA_MARK_PROCESSED" && message["correlation_id"] == name,
        }
    }

    pub(super) fn clear(self) -> String {
        match self {
            Self::Twilio => json!({"event": "clear", "streamSid": "MZ0"}),
            Self::Telnyx => json!({"event": "clear"}),
            Self::Exotel => json!({"event": "clear", "stream_sid": "0"}),
            Self::Plivo => json!({"event": "clearAudio", "streamId": "0"}),
            Self::Vonage => json!({"action": "clear"}),
            Self::Jambonz => json!({"type": "killAudio"}),
            Self::Asterisk => return "FLUSH_MEDIA".to_owned(),
            Self::AsteriskJson => json!({"command": "FLUSH_MEDIA"}),
        }
        .to_string()
    }

    pub(super) fn is_key(self, message: &Value, digit: char) -> bool {
        let digit = digit.to_string();
        match self {
            Self::Twilio | Self::Telnyx | Self::Exotel | Self::Plivo => {
                message["event"] == "dtmf" && message["dtmf"]["digit"] == digit
            }
            Self::Vonage => message["event"] == "websocket:dtmf" && message["digit"] == digit,
            Self::Jambonz => message["event"] == "dtmf" && message["dtmf"] == digit,
            Self::Asterisk => *message == format!("DTMF_END digit:{digit}"),
            Self::AsteriskJson => message["event"] == "DTMF_END" && message["digit"] == digit,
        }
    }

    pub(super) fn hang_up(self) -> Option<String> {
        match self {
            Self::Jambonz => Some(json!({"type": "disconnect"}).to_string()),
            Self::Asterisk => Some("HANGUP".to_owned()),
            Self::AsteriskJson => Some(json!({"command": "HANGUP"}).to_string()),
            Self::Twilio | Self::Telnyx | Self::Plivo | Self::Exotel | Self::Vonage => None,
        }
    }
}

enum Wire {
    MuLaw,
    LittleEndian,
}
