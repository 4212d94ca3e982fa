//! ElevenLabs Agents: JSON, sound as base64 in the format that the agent announces.

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use patchcord_media::resample::Resampler;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::payload::Payload;
use super::{Dialect, FromAgent, Goodbye, Incoming, Joins, json_message, parsed};
use crate::agent::intake::Intake;
use crate::agent::model::{FunctionResult, ModelOptions, RESUMED};
use crate::agent::notice::{Notice, Start};
use crate::agent::{Encoding, SoundFormat};

/// The translator of one conversation.
pub(in crate::agent) struct ElevenLabs {
    options: ModelOptions,
    /// None until the agent has announced its formats.
    wire: Option<Wire>,
    /// Audio up to this event was interrupted.
    interrupted: u64,
}

/// The sound in both directions. The session has the rate of what the agent says, if it is one of a call.
struct Wire {
    output: Payload,
    output_hz: u32,
    /// To the session's rate.
    intake: Intake,
    input: Payload,
    /// From the session's rate to that of what the agent hears.
    resampler: Resampler,
}

impl Wire {
    fn output(&mut self, base64: &str) -> Result<Bytes, String> {
        Ok(self.intake.take(self.output_hz, self.output.of_base64(base64)?))
    }

    /// Writes 20 ms of the session's sound.
    fn input(&mut self, sound: &Bytes) -> String {
        let samples: Vec<i16> = sound.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect();
        let mut resampled = Vec::new();
        self.resampler.process(&samples, &mut resampled);
        self.input.to_base64(resampled.into_iter().flat_map(i16::to_le_bytes).collect())
    }
}

impl ElevenLabs {
    pub fn new(options: ModelOptions) -> Self {
        Self { options, wire: None, interrupted: 0 }
    }

    fn initiation(&self, start: &Start) -> Value {
        let mut overrides = json!({});
        if let Some(instructions) = &self.options.instructions {
            overrides["agent"]["prompt"]["prompt"] = instructions.as_str().into();
        }
        if self.options.greeting.is_some() {
            // Empty, it says none, not even that of its own set-up.
            overrides["agent"]["first_message"] = self.options.greeting_for(start).unwrap_or_default().into();
        }
        if let Some(voice) = &self.options.voice {
            overrides["tts"]["voice_id"] = voice.as_str().into();
        }
        json!({
            "type": "conversation_initiation_client_data",
            "conversation_config_override": overrides,
            "dynamic_variables": start.parameters,
        })
    }

    fn begin(&mut self, formats: &Formats) -> Result<FromAgent, String> {
        let (output, output_hz) = format_of(&formats.agent_output_audio_format)?;
        let (input, input_hz) = format_of(&formats.user_input_audio_format)?;
        let sample_rate = SampleRate::from_hz(output_hz).unwrap_or(SampleRate::Hz24000);
        let input_rate =
            SampleRate::from_hz(input_hz).ok_or("the agent is to hear 22.05 or 44.1 kHz: choose pcm_16000")?;
        let (intake, resampler) = (Intake::new(sample_rate), Resampler::new(sample_rate, input_rate));
        self.wire = Some(Wire { output, output_hz, intake, input, resampler });
        let format = SoundFormat { encoding: Encoding::PcmS16le, sample_rate };
        Ok(FromAgent::Ready { format: Some(format), events: false })
    }
}

fn format_of(name: &str) -> Result<(Payload, u32), String> {
    let format = match name.split_once('_') {
        Some(("ulaw", "8000")) => Some((Payload::Mulaw, 8000)),
        Some(("pcm", hz)) => hz.parse().ok().and_then(|hz| Intake::check(hz).ok()).map(|hz| (Payload::L16, hz)),
        _ => None,
    };
    format.ok_or_else(|| "a format of the agent is neither PCM nor ulaw_8000: choose pcm_16000".to_owned())
}

impl Dialect for ElevenLabs {
    /// Until the agent announces its own.
    fn format(&self, _: SoundFormat) -> SoundFormat {
        SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz16000 }
    }

    fn joins(&self) -> Joins {
        Joins::WhenReady
    }

    /// Its own tool `end_call` closes as soon as its last words are sent, faster than they are spoken.
    fn goodbye(&self) -> Goodbye {
        Goodbye::HangsUpWhenHeard
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = message.text()?;
        match parsed::<FromModel>(&text)? {
            // It would not be understood, however long one waits.
            FromModel::Metadata { event } => inbox.push(self.begin(&event).unwrap_or_else(FromAgent::Refused)),
            FromModel::Audio { audio_event } => {
                // What was on its way when the caller spoke.
                if audio_event.event_id > self.interrupted {
                    let wire = self.wire.as_mut().ok_or("audio came before the metadata")?;
                    inbox.push(FromAgent::Sound(wire.output(&audio_event.audio_base_64)?));
                }
            }
            FromModel::Interruption { interruption_event } => {
                self.interrupted = self.interrupted.max(interruption_event.event_id);
                inbox.push(FromAgent::Clear);
            }
            FromModel::Ping { ping_event } => {
                let pong = json!({"type": "pong", "event_id": ping_event.event_id});
                inbox.push(FromAgent::Reply(json_message(&pong)));
            }
            FromModel::ClientToolCall { client_tool_call: call } => {
                inbox.push(self.options.tools.call(json!(call.tool_call_id), &call.tool_name, call.parameters));
            }
            FromModel::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => {
                outbox.push(json_message(&self.initiation(start)));
                // Instructions would take the place of its own.
                if start.resume.is_some() {
                    outbox.push(json_message(&json!({"type": "contextual_update", "text": RESUMED})));
                }
            }
            Notice::Dtmf { digit: Some(digit), .. } => {
                let text = format!("The caller pressed the key {digit}.");
                outbox.push(json_message(&json!({"type": "contextual_update", "text": text})));
            }
            Notice::CommandResult { request_id, outcome } => {
                self.write_result(request_id, &FunctionResult::of_command(outcome), outbox);
            }
            Notice::Accepted
            | Notice::Dtmf { digit: None, .. }
            | Notice::Mark { .. }
            | Notice::Cleared(_)
            | Notice::Xoff { .. }
            | Notice::Xon { .. }
            | Notice::Event(_)
            | Notice::Error { .. }
            | Notice::Stop { .. } => {}
        }
    }

    fn write_result(&mut self, request_id: &Value, result: &FunctionResult, outbox: &mut Vec<Message>) {
        outbox.push(json_message(&json!({
            "type": "client_tool_result", "tool_call_id": request_id, "result": result.text, "is_error": result.is_error,
        })));
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        if let Some(wire) = &mut self.wire {
            outbox.push(json_message(&Chunk { user_audio_chunk: wire.input(&sound) }));
        }
    }
}

/// 20 ms of the caller.
#[derive(Serialize)]
struct Chunk {
    user_audio_chunk: String,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum FromModel {
    #[serde(rename = "conversation_initiation_metadata")]
    Metadata {
        #[serde(rename = "conversation_initiation_metadata_event")]
        event: Formats,
    },
    Audio {
        audio_event: AudioEvent,
    },
    Interruption {
        interruption_event: EventId,
    },
    Ping {
        ping_event: EventId,
    },
    ClientToolCall {
        client_tool_call: ClientToolCall,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Formats {
    agent_output_audio_format: String,
    user_input_audio_format: String,
}

#[derive(Deserialize)]
struct AudioEvent {
    audio_base_64: String,
    event_id: u64,
}

#[derive(Deserialize)]
struct EventId {
    event_id: u64,
}

#[derive(Deserialize)]
struct ClientToolCall {
    tool_name: String,
    tool_call_id: String,
    #[serde(default)]
    parameters: Value,
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, started, texts};
    use super::*;
    use crate::agent::model::ModelVendor;

    fn agent() -> ElevenLabs {
        let mut options = ModelOptions::parse(ModelVendor::ElevenLabs, "agent_1").unwrap();
        options.greeting = Some("Hello.".into());
        ElevenLabs::new(options)
    }

    fn metadata(output: &str, input: &str) -> String {
        json!({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": {
            "conversation_id": "c", "agent_output_audio_format": output, "user_input_audio_format": input,
        }})
        .to_string()
    }

    #[test]
    fn the_agent_names_the_format_and_pings_are_answered() {
        let mut agent = agent();
        let start = started(&mut agent);
        assert_eq!(start[0]["conversation_config_override"], json!({"agent": {"first_message": "Hello."}}));
        assert_eq!(start[0]["dynamic_variables"], json!({"language": "de"}));
        let format = SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz8000 };
        let ready = FromAgent::Ready { format: Some(format), events: false };
        assert_eq!(read(&mut agent, &metadata("ulaw_8000", "ulaw_8000")), Ok(vec![ready]));
        let mut outbox = Vec::new();
        agent.write_sound(Bytes::from(vec![0; 320]), &mut outbox);
        let silence = Payload::Mulaw.to_base64(vec![0; 320].into());
        assert_eq!(texts(&outbox), [json!({"user_audio_chunk": silence})]);
        let said = read(&mut agent, r#"{"type":"ping","ping_event":{"event_id":7,"ping_ms":20}}"#).unwrap();
        let [FromAgent::Reply(pong)] = &said[..] else { panic!("{said:?}") };
        assert_eq!(texts(std::slice::from_ref(pong)), [json!({"type": "pong", "event_id": 7})]);
        let said = read(&mut agent, &metadata("mp3_44100", "mp3_44100")).unwrap();
        assert!(matches!(&said[..], [FromAgent::Refused(why)] if why.contains("pcm_16000")), "{said:?}");
    }

    #[test]
    fn what_the_agent_hears_may_have_another_format_than_what_it_says() {
        let mut agent = agent();
        let said = read(&mut agent, &metadata("pcm_24000", "ulaw_8000")).unwrap();
        let format = SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz24000 };
        assert_eq!(said, [FromAgent::Ready { format: Some(format), events: false }]);
        let mut outbox = Vec::new();
        agent.write_sound(Bytes::from(vec![0; 960]), &mut outbox);
        let silence = Payload::Mulaw.to_base64(vec![0; 320].into());
        assert_eq!(texts(&outbox), [json!({"user_audio_chunk": silence})]);

        let said = read(&mut agent, &metadata("pcm_22050", "pcm_16000")).unwrap();
        assert_eq!(said, [FromAgent::Ready { format: Some(format), events: false }]);
        let base64 = Payload::L16.to_base64(vec![0; 882].into());
        let audio = json!({"type": "audio", "audio_event": {"audio_base_64": base64, "event_id": 1}});
        let said = read(&mut agent, &audio.to_string()).unwrap();
        assert!(matches!(&said[..], [FromAgent::Sound(sound)] if sound.len() == 960), "{said:?}");
    }

    #[test]
    fn audio_up_to_an_interruption_is_dropped() {
        let mut agent = agent();
        read(&mut agent, &metadata("pcm_16000", "pcm_16000")).unwrap();
        let audio =
            |id: u64| json!({"type": "audio", "audio_event": {"audio_base_64": "AQA=", "event_id": id}}).to_string();
        assert_eq!(read(&mut agent, &audio(1)).unwrap().len(), 1);
        let interrupted = r#"{"type":"interruption","interruption_event":{"event_id":2}}"#;
        assert_eq!(read(&mut agent, interrupted), Ok(vec![FromAgent::Clear]));
        assert_eq!(read(&mut agent, &audio(2)).unwrap().len(), 0);
        assert_eq!(read(&mut agent, &audio(3)).unwrap().len(), 1);
    }
}
