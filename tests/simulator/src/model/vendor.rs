//! The vendors' protocols, from their published events: literal JSON.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

/// Of the sound in both directions, in Hz.
pub(super) const RATE: u32 = 24_000;

/// Whose protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// OpenAI's Realtime API.
    OpenAi,
    /// Google's Gemini Live API.
    Gemini,
    /// ElevenLabs Agents.
    ElevenLabs,
    /// Deepgram's Voice Agent API.
    Deepgram,
}

/// What a message of the service is.
pub(super) enum Heard {
    Nothing,
    Sound(Vec<i16>),
    Told(Value),
}

impl Vendor {
    pub(super) fn authorization(self, key: &str) -> (&'static str, String) {
        match self {
            Self::OpenAi => ("authorization", format!("Bearer {key}")),
            Self::Gemini => ("x-goog-api-key", key.to_owned()),
            Self::ElevenLabs => ("xi-api-key", key.to_owned()),
            Self::Deepgram => ("authorization", format!("Token {key}")),
        }
    }

    /// Sent as soon as the WebSocket is open.
    pub(super) fn hello(self) -> Vec<Message> {
        match self {
            Self::OpenAi => {
                vec![text(&json!({"type": "session.created", "event_id": "e1", "session": {"type": "realtime"}}))]
            }
            Self::Deepgram => vec![text(&json!({"type": "Welcome", "request_id": "r1"}))],
            Self::Gemini | Self::ElevenLabs => Vec::new(),
        }
    }

    /// The error is what the vendor would refuse.
    pub(super) fn read(self, message: &Message, is_first: bool) -> Result<Heard, String> {
        let json = match message {
            Message::Text(text) => serde_json::from_str::<Value>(text).map_err(|error| error.to_string())?,
            Message::Binary(bytes) if self == Self::Deepgram => {
                return if is_first { Err("sound before Settings".into()) } else { Ok(Heard::Sound(samples(bytes))) };
            }
            Message::Binary(_) => return Err("a binary message".into()),
            Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => return Ok(Heard::Nothing),
        };
        let sound = match self {
            Self::OpenAi if json["type"] == "input_audio_buffer.append" => &json["audio"],
            Self::Gemini if json["realtimeInput"]["audio"].is_object() => {
                if json["realtimeInput"]["audio"]["mimeType"] != "audio/pcm;rate=24000" {
                    return Err("another mimeType".into());
                }
                &json["realtimeInput"]["audio"]["data"]
            }
            Self::ElevenLabs => &json["user_audio_chunk"],
            Self::OpenAi | Self::Gemini | Self::Deepgram => &Value::Null,
        };
        if let Some(base64) = sound.as_str() {
            if is_first {
                return Err("sound before the set-up".into());
            }
            let bytes = STANDARD.decode(base64).map_err(|error| error.to_string())?;
            return Ok(Heard::Sound(samples(&bytes)));
        }
        self.check(&json, is_first)?;
        Ok(Heard::Told(json))
    }

    fn check(self, json: &Value, is_first: bool) -> Result<(), String> {
        let is_known = match self {
            Self::OpenAi => matches!(
                json["type"].as_str(),
                Some("session.update" | "response.create" | "conversation.item.create" | "conversation.item.truncate")
            ),
            Self::Gemini => ["setup", "realtimeInput", "toolResponse"].iter().any(|key| json[key].is_object()),
            Self::ElevenLabs => matches!(
                json["type"].as_str(),
                Some("conversation_initiation_client_data" | "pong" | "client_tool_result" | "contextual_update")
            ),
            Self::Deepgram => matches!(
                json["type"].as_str(),
                Some("Settings" | "FunctionCallResponse" | "InjectUserMessage" | "KeepAlive")
            ),
        };
        let is_set_up = !is_first
            || match self {
                Self::OpenAi => json["session"]["type"] == "realtime",
                Self::Gemini => json["setup"]["model"].as_str().is_some_and(|model| model.starts_with("models/")),
                Self::ElevenLabs => json["type"] == "conversation_initiation_client_data",
                Self::Deepgram => {
                    json["audio"]["input"] == json!({"encoding": "linear16", "sample_rate": RATE})
                        && json["audio"]["output"]["container"] == "none"
                        && json["agent"]["think"]["provider"]["model"].is_string()
                }
            };
        match (is_known, is_set_up) {
            (false, _) => Err(format!("an unknown message: {json}")),
            (_, false) => Err(format!("not a set-up: {json}")),
            (true, true) => Ok(()),
        }
    }

    /// What the vendor sends for this message.
    pub(super) fn replies(self, message: &Value, greeting: &[i16]) -> Vec<Message> {
        match self {
            Self::OpenAi if message["type"] == "session.update" => {
                vec![text(&json!({"type": "session.updated", "event_id": "e4", "session": message["session"]}))]
            }
            Self::OpenAi if message["response"]["instructions"].is_string() => {
                self.response(self.say("item_greeting", greeting))
            }
            Self::Gemini if message["setup"].is_object() => {
                let update = json!({"newHandle": "handle_1", "resumable": true});
                let after = [json!({"setupComplete": {}}), json!({"sessionResumptionUpdate": update})];
                after.iter().map(|message| Message::binary(message.to_string())).collect()
            }
            Self::Gemini if message["realtimeInput"]["text"] == "Hello" => self.response(self.say("", greeting)),
            Self::ElevenLabs if message["type"] == "conversation_initiation_client_data" => {
                let event = json!({"conversation_id": "c1", "agent_output_audio_format": "pcm_24000", "user_input_audio_format": "pcm_24000"});
                let metadata = json!({"type": "conversation_initiation_metadata", "conversation_initiation_metadata_event": event});
                let ping = json!({"type": "ping", "ping_event": {"event_id": 1, "ping_ms": 20}});
                let is_told_not_to = message["conversation_config_override"]["agent"]["first_message"] == "";
                let greeting: &[i16] = if is_told_not_to { &[] } else { greeting };
                [vec![text(&metadata), text(&ping)], self.say("", greeting)].concat()
            }
            Self::Deepgram if message["type"] == "Settings" => {
                let greeting: &[i16] = if message["agent"]["greeting"].is_string() { greeting } else { &[] };
                [vec![text(&json!({"type": "SettingsApplied"}))], self.say("", greeting)].concat()
            }
            Self::OpenAi | Self::Gemini | Self::ElevenLabs | Self::Deepgram => Vec::new(),
        }
    }

    /// A whole response with these messages in it, and its usage as far as the vendor reports any: 100 tokens read, of which
    /// 20 were cached and 60 sound, and 50 given, of which 40 were sound.
    pub(super) fn response(self, messages: Vec<Message>) -> Vec<Message> {
        [self.response_begins(), messages, self.response_ends()].concat()
    }

    pub(super) fn response_begins(self) -> Vec<Message> {
        match self {
            Self::OpenAi => {
                let response =
                    json!({"object": "realtime.response", "id": "r1", "status": "in_progress", "usage": null});
                vec![text(&json!({"type": "response.created", "event_id": "e2", "response": response}))]
            }
            Self::Gemini | Self::ElevenLabs | Self::Deepgram => Vec::new(),
        }
    }

    pub(super) fn response_ends(self) -> Vec<Message> {
        match self {
            Self::OpenAi => {
                let usage = json!({
                    "total_tokens": 150, "input_tokens": 100, "output_tokens": 50,
                    "input_token_details": {"text_tokens": 40, "audio_tokens": 60, "cached_tokens": 20},
                    "output_token_details": {"text_tokens": 10, "audio_tokens": 40},
                });
                let response = json!({"object": "realtime.response", "id": "r1", "status": "completed",
                    "status_details": null, "usage": usage});
                vec![text(&json!({"type": "response.done", "event_id": "e3", "response": response}))]
            }
            Self::Gemini => {
                let usage = json!({
                    "promptTokenCount": 100, "responseTokenCount": 50, "totalTokenCount": 150, "cachedContentTokenCount": 20,
                    "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 40}, {"modality": "AUDIO", "tokenCount": 60}],
                    "responseTokensDetails": [
                        {"modality": "AUDIO", "tokenCount": 40}, {"modality": "TEXT", "tokenCount": 10},
                    ],
                });
                let message = json!({"serverContent": {"turnComplete": true}, "usageMetadata": usage});
                vec![Message::binary(message.to_string())]
            }
            Self::ElevenLabs | Self::Deepgram => Vec::new(),
        }
    }

    /// Sound in pieces of 100 ms.
    pub(super) fn say(self, item_id: &str, pcm: &[i16]) -> Vec<Message> {
        let pieces = pcm.chunks((RATE / 10) as usize).enumerate();
        pieces
            .map(|(number, piece)| {
                let bytes: Vec<u8> = piece.iter().flat_map(|sample| sample.to_le_bytes()).collect();
                let base64 = STANDARD.encode(&bytes);
                match self {
                    Self::OpenAi => text(&json!({
                        "type": "response.output_audio.delta", "event_id": "e5", "response_id": "r1", "item_id": item_id,
                        "output_index": 0, "content_index": 0, "delta": base64,
                    })),
                    Self::Gemini => {
                        let part = json!({"inlineData": {"mimeType": "audio/pcm;rate=24000", "data": base64}});
                        Message::binary(json!({"serverContent": {"modelTurn": {"parts": [part]}}}).to_string())
                    }
                    Self::ElevenLabs => text(
                        &json!({"type": "audio", "audio_event": {"audio_base_64": base64, "event_id": number + 1}}),
                    ),
                    Self::Deepgram => Message::binary(bytes),
                }
            })
            .collect()
    }

    pub(super) fn speech_started(self) -> Message {
        match self {
            Self::OpenAi => {
                let kind = "input_audio_buffer.speech_started";
                text(&json!({"type": kind, "event_id": "e6", "audio_start_ms": 0, "item_id": "i"}))
            }
            Self::Gemini => Message::binary(json!({"serverContent": {"interrupted": true}}).to_string()),
            Self::ElevenLabs => text(&json!({"type": "interruption", "interruption_event": {"event_id": 0}})),
            Self::Deepgram => text(&json!({"type": "UserStartedSpeaking"})),
        }
    }

    /// One call, by its id.
    pub(super) fn function_call(self, id: &str, name: &str, arguments: &Value) -> Message {
        match self {
            Self::OpenAi => text(&json!({
                "type": "response.function_call_arguments.done", "event_id": "e7", "response_id": "r1", "item_id": "f",
                "output_index": 0, "call_id": id, "name": name, "arguments": arguments.to_string(),
            })),
            Self::Gemini => {
                let call = json!({"id": id, "name": name, "args": arguments});
                Message::binary(json!({"toolCall": {"functionCalls": [call]}}).to_string())
            }
            Self::ElevenLabs => {
                let call = json!({"tool_name": name, "tool_call_id": id, "parameters": arguments});
                text(&json!({"type": "client_tool_call", "client_tool_call": call}))
            }
            Self::Deepgram => {
                let call = json!({"id": id, "name": name, "arguments": arguments.to_string(), "client_side": true});
                text(&json!({"type": "FunctionCallRequest", "functions": [call]}))
            }
        }
    }

    /// The id and the result of a function, as text, if this message is one.
    pub(super) fn result_in(self, message: &Value) -> Option<(String, String)> {
        let (id, result) = match self {
            Self::OpenAi if message["item"]["type"] == "function_call_output" => {
                (&message["item"]["call_id"], message["item"]["output"].as_str()?.to_owned())
            }
            Self::Gemini => {
                let response = &message["toolResponse"]["functionResponses"][0];
                (&response["id"], response["response"].as_object().map(|_| response["response"].to_string())?)
            }
            Self::ElevenLabs if message["type"] == "client_tool_result" => {
                (&message["tool_call_id"], message["result"].as_str()?.to_owned())
            }
            Self::Deepgram if message["type"] == "FunctionCallResponse" => {
                (&message["id"], message["content"].as_str()?.to_owned())
            }
            Self::OpenAi | Self::ElevenLabs | Self::Deepgram => return None,
        };
        Some((id.as_str()?.to_owned(), result))
    }

    /// How it turns a wrong key away after the upgrade; None for one that refuses the upgrade.
    pub(super) fn turns_away(self) -> Option<Vec<Message>> {
        let close = |code: u16, reason: &'static str| {
            Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() }))
        };
        match self {
            Self::OpenAi => {
                let error = json!({"type": "invalid_request_error", "code": "invalid_api_key", "param": null,
                    "message": "Incorrect API key provided: key-of-***ndor."});
                let error = text(&json!({"type": "error", "event_id": "e1", "error": error}));
                Some(vec![error, close(3000, "invalid_request_error.invalid_api_key")])
            }
            Self::Gemini => Some(vec![close(1007, "API key not valid. Please pass a valid API key.")]),
            Self::ElevenLabs | Self::Deepgram => None,
        }
    }
}

fn text(json: &Value) -> Message {
    Message::text(json.to_string())
}

fn samples(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `make interop-agents` checks the fixture by the vendors' own types. Who changes a message changes it there too.
    #[test]
    fn the_vendors_types_have_checked_what_the_stand_ins_say() {
        let checked = include_str!("../../fixtures/model-messages.json");
        let checked: Value = serde_json::from_str(checked).unwrap();
        let set_ups = [
            (Vendor::OpenAi, "openai", json!({"type": "session.update", "session": {"type": "realtime"}})),
            (Vendor::Gemini, "gemini", json!({"setup": {}})),
            (Vendor::Deepgram, "deepgram", json!({"type": "Settings"})),
        ];
        for (vendor, name, set_up) in set_ups {
            let said = [
                vendor.hello(),
                vendor.replies(&set_up, &[]),
                vendor.response(vendor.say("item_1", &[0; 2])),
                vec![vendor.speech_started(), vendor.function_call("call_1", "hangup", &json!({}))],
                vendor.turns_away().unwrap_or_default(),
            ];
            let said: Vec<Value> = said.concat().iter().filter_map(json_of).collect();
            assert_eq!(Value::Array(said), checked[name], "{name}");
        }
    }

    /// None for sound and for the end.
    fn json_of(message: &Message) -> Option<Value> {
        match message {
            Message::Text(text) => serde_json::from_str(text).ok(),
            Message::Binary(bytes) => serde_json::from_slice(bytes).ok(),
            _ => None,
        }
    }
}
