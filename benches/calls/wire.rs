//! The protocols of agents: the route to an agent in each of them, and its messages of 20 ms.

use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use patchcord_media::g711::Law;
use patchcord_simulator::{Speech, sound};

use crate::frames::{self, BINARY, TEXT};

/// How much of a JSON message is looked at from either end: not its audio.
const EDGE_BYTES: usize = 250;
/// AudioSocket's kinds of audio.
const AUDIOSOCKET_AUDIO: std::ops::RangeInclusive<u8> = 0x10..=0x18;

/// One protocol with one kind of audio.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Protocol and audio, for people.
    pub name: &'static str,
    agent: Agent,
    audio: Audio,
    carrier: Carrier,
}

/// How the service reaches an agent.
#[derive(Clone, Copy, Debug)]
enum Agent {
    /// A dialect by its name in the configuration.
    App(&'static str),
    /// A speech model by its scheme, and what it replies to the first message.
    Model(&'static str, &'static str),
    AudioSocket,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Audio {
    /// 16-bit little-endian, at so many Hz.
    Pcm(u32),
    /// mu-law at 8 kHz.
    Mulaw,
    Opus,
}

#[derive(Clone, Copy, Debug)]
enum Carrier {
    Binary,
    /// Base64 between these two. A message of the service is audio if it has the third near one of its ends.
    Json(&'static str, &'static str, &'static str),
    AudioSocket,
}

/// PCM on `patchcord.v1`, beside which the others are shown.
pub const NATIVE: Wire = app("native, PCM at 16 kHz", "native", Audio::Pcm(16_000), Carrier::Binary);

/// mu-law as base64 in JSON, the most common of all.
pub const TWILIO: Wire = app("Twilio, mu-law", "twilio", Audio::Mulaw, STREAM);

/// The protocols of apps, each with the audio that apps usually ask for.
pub const APPS: [Wire; 15] = [
    app("native, Opus", "native", Audio::Opus, Carrier::Binary),
    TWILIO,
    app("Telnyx, PCMU", "telnyx", Audio::Mulaw, STREAM),
    app("Telnyx, L16 at 16 kHz", "telnyx", Audio::Pcm(16_000), STREAM),
    app("Telnyx, Opus", "telnyx", Audio::Opus, STREAM),
    app("Plivo, mu-law", "plivo", Audio::Mulaw, PLIVO),
    app("Plivo, PCM at 16 kHz", "plivo", Audio::Pcm(16_000), PLIVO),
    app("Exotel, PCM at 8 kHz", "exotel", Audio::Pcm(8_000), STREAM),
    app("Exotel, PCM at 16 kHz", "exotel", Audio::Pcm(16_000), STREAM),
    app("Vonage, PCM at 16 kHz", "vonage", Audio::Pcm(16_000), Carrier::Binary),
    app("jambonz, PCM at 16 kHz", "jambonz", Audio::Pcm(16_000), Carrier::Binary),
    app("Asterisk chan_websocket, mu-law", "asterisk", Audio::Mulaw, Carrier::Binary),
    app("Asterisk chan_websocket, PCM at 16 kHz", "asterisk", Audio::Pcm(16_000), Carrier::Binary),
    Wire {
        name: "AudioSocket, PCM at 8 kHz",
        agent: Agent::AudioSocket,
        audio: Audio::Pcm(8_000),
        carrier: Carrier::AudioSocket,
    },
    Wire {
        name: "AudioSocket, PCM at 16 kHz",
        agent: Agent::AudioSocket,
        audio: Audio::Pcm(16_000),
        carrier: Carrier::AudioSocket,
    },
];

/// The protocols of speech models, at the rate of each.
pub const MODELS: [Wire; 4] = [
    Wire {
        name: "OpenAI Realtime, PCM at 24 kHz",
        agent: Agent::Model("openai-realtime", r#"{"type":"session.updated","session":{}}"#),
        audio: Audio::Pcm(24_000),
        carrier: Carrier::Json(
            r#"{"type":"response.output_audio.delta","event_id":"event_1","response_id":"resp_1","item_id":"item_1","output_index":0,"content_index":0,"delta":""#,
            r#""}"#,
            "input_audio_buffer.append",
        ),
    },
    Wire {
        name: "Gemini Live, PCM at 24 kHz",
        agent: Agent::Model("gemini-live", r#"{"setupComplete":{}}"#),
        audio: Audio::Pcm(24_000),
        carrier: Carrier::Json(
            r#"{"serverContent":{"modelTurn":{"parts":[{"inlineData":{"mimeType":"audio/pcm;rate=24000","data":""#,
            r#""}}]}}}"#,
            "realtimeInput",
        ),
    },
    Wire {
        name: "ElevenLabs Agents, PCM at 16 kHz",
        agent: Agent::Model(
            "elevenlabs",
            r#"{"type":"conversation_initiation_metadata","conversation_initiation_metadata_event":{"conversation_id":"c","agent_output_audio_format":"pcm_16000","user_input_audio_format":"pcm_16000"}}"#,
        ),
        audio: Audio::Pcm(16_000),
        carrier: Carrier::Json(
            r#"{"type":"audio","audio_event":{"audio_base_64":""#,
            r#"","event_id":1}}"#,
            "user_audio_chunk",
        ),
    },
    Wire {
        name: "Deepgram Voice Agent, PCM at 24 kHz",
        agent: Agent::Model("deepgram-agent", r#"{"type":"SettingsApplied"}"#),
        audio: Audio::Pcm(24_000),
        carrier: Carrier::Binary,
    },
];

/// Twilio's messages, which Telnyx and Exotel take too.
const STREAM: Carrier = Carrier::Json(
    r#"{"event":"media","streamSid":"MZ00000000000000000000000000000000","media":{"payload":""#,
    r#""}}"#,
    r#""event":"media""#,
);
const PLIVO: Carrier = Carrier::Json(r#"{"event":"playAudio","media":{"payload":""#, r#""}}"#, r#""event":"media""#);

const fn app(name: &'static str, dialect: &'static str, audio: Audio, carrier: Carrier) -> Wire {
    Wire { name, agent: Agent::App(dialect), audio, carrier }
}

impl Wire {
    /// Whether it has mu-law as base64 in JSON.
    pub fn is_mulaw_in_json(&self) -> bool {
        self.audio == Audio::Mulaw && matches!(self.carrier, Carrier::Json(..))
    }

    /// Whether an agent speaks on bare TCP, without a WebSocket.
    pub fn is_bare(&self) -> bool {
        matches!(self.agent, Agent::AudioSocket)
    }

    /// What the agent replies to the first message.
    pub fn first_reply(&self) -> Option<&'static str> {
        match self.agent {
            Agent::Model(_, reply) => Some(reply),
            Agent::App(_) | Agent::AudioSocket => None,
        }
    }

    /// The lines of the route to an agent at this address.
    pub fn route(&self, address: SocketAddr) -> String {
        let audio = match self.audio {
            Audio::Pcm(hz) => format!("sample_rate = {hz}"),
            Audio::Mulaw => "sample_rate = 8000".to_owned(),
            Audio::Opus => "encoding = \"opus\"".to_owned(),
        };
        match self.agent {
            Agent::App(dialect) => format!("agent = \"ws://{address}/call\"\ndialect = \"{dialect}\"\n{audio}"),
            Agent::AudioSocket => format!("agent = \"audiosocket://{address}\"\n{audio}"),
            Agent::Model(scheme, _) => {
                format!("agent = \"{scheme}:bench\"\nmodel = {{ url = \"ws://{address}/model\", key = \"bench\" }}")
            }
        }
    }

    /// Real speech, 20 ms after 20 ms, as the bytes that the agent writes to its connection.
    pub fn voice(&self) -> Vec<Vec<u8>> {
        self.frames().iter().map(|frame| self.message(frame)).collect()
    }

    /// Whether a message of the service is 20 ms of audio.
    pub fn is_audio(&self, kind: u8, payload: &[u8]) -> bool {
        match self.carrier {
            Carrier::Binary => kind == BINARY,
            Carrier::AudioSocket => AUDIOSOCKET_AUDIO.contains(&kind),
            Carrier::Json(_, _, mark) => {
                let edge = payload.len().min(EDGE_BYTES);
                let edges = [&payload[..edge], &payload[payload.len() - edge..]];
                kind == TEXT && edges.iter().any(|edge| edge.windows(mark.len()).any(|part| part == mark.as_bytes()))
            }
        }
    }

    fn frames(&self) -> Vec<Vec<u8>> {
        let samples = |hz: u32| {
            let samples = sound::at_rate(&sound::agent_clip(), 16_000, hz);
            samples.chunks_exact(hz as usize / 50).map(<[i16]>::to_vec).collect::<Vec<_>>()
        };
        match self.audio {
            Audio::Pcm(hz) => {
                let bytes = |frame: &Vec<i16>| frame.iter().flat_map(|sample| sample.to_le_bytes()).collect();
                samples(hz).iter().map(bytes).collect()
            }
            Audio::Mulaw => {
                let encode = |frame: &Vec<i16>| frame.iter().map(|sample| Law::Mu.encode(*sample)).collect();
                samples(8_000).iter().map(encode).collect()
            }
            Audio::Opus => {
                let speech = Speech::agent();
                (0..speech.len()).map(|at| speech.frame(at).to_vec()).collect()
            }
        }
    }

    fn message(&self, frame: &[u8]) -> Vec<u8> {
        let mut message = Vec::new();
        match self.carrier {
            Carrier::Binary => frames::write_frame(&mut message, BINARY, frame),
            Carrier::Json(head, tail, _) => {
                let text = format!("{head}{}{tail}", BASE64.encode(frame));
                frames::write_frame(&mut message, TEXT, text.as_bytes());
            }
            Carrier::AudioSocket => {
                let kind = if self.audio == Audio::Pcm(8_000) { 0x10 } else { 0x12 };
                message.push(kind);
                // No frame is longer than 20 ms at 16 kHz.
                message.extend((frame.len() as u16).to_be_bytes());
                message.extend(frame);
            }
        }
        message
    }
}
