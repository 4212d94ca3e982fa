//! OpenAI's Realtime API: JSON events, sound as base64 of PCM at 24 kHz.
//!
//! The model speaks faster than real time. When the caller speaks, what was not heard is dropped, and the model learns how
//! much of its words was heard (`conversation.item.truncate`).

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::payload::Payload;
use super::{Dialect, FromAgent, Incoming, Joins, error_code, json_message, parsed};
use crate::agent::model::{FunctionResult, ModelOptions};
use crate::agent::notice::Notice;
use crate::agent::{Encoding, SoundFormat};
use crate::call::usage::Tokens;

/// Of PCM at 24 kHz.
const BYTES_PER_MS: u64 = 48;
/// Spoken items that may be partly unheard: two minutes of queue have no more.
const MAX_ITEMS: usize = 256;

/// The translator of one session.
pub(in crate::agent) struct OpenAiRealtime {
    options: ModelOptions,
    /// Of all sound that the model sent.
    sent_bytes: u64,
    /// What was said since the last clear: the id of each item and where its sound begins, in bytes.
    items: Vec<(String, u64)>,
    turn: Turn,
}

/// Whose turn it is after functions: the model is asked for one response once it has all results, and never while it gives
/// another, which would be an error.
#[derive(Default)]
struct Turn {
    is_ready: bool,
    is_responding: bool,
    /// Function calls without a result.
    open_calls: usize,
    /// There are results that the model has not answered to.
    owes_response: bool,
}

impl Turn {
    /// Whether to ask for a response now.
    fn take(&mut self) -> bool {
        let is_time = self.owes_response && self.open_calls == 0 && !self.is_responding;
        self.owes_response &= !is_time;
        is_time
    }
}

impl OpenAiRealtime {
    pub fn new(options: ModelOptions) -> Self {
        Self { options, sent_bytes: 0, items: Vec::new(), turn: Turn::default() }
    }

    fn session(&self) -> Value {
        let tools: Vec<Value> = self
            .options
            .tools
            .functions()
            .into_iter()
            .map(|function| {
                json!({
                    "type": "function", "name": function.name, "description": function.description,
                    "parameters": function.parameters,
                })
            })
            .collect();
        let format = json!({"type": "audio/pcm", "rate": 24000});
        let mut output = json!({"format": format});
        if let Some(voice) = &self.options.voice {
            output["voice"] = voice.as_str().into();
        }
        let mut session = json!({
            "type": "realtime",
            "output_modalities": ["audio"],
            "audio": {"input": {"format": format, "turn_detection": {"type": "server_vad"}}, "output": output},
            "tools": tools,
        });
        if let Some(instructions) = &self.options.instructions {
            session["instructions"] = instructions.as_str().into();
        }
        json!({"type": "session.update", "session": session})
    }

    fn heard(&mut self, item_id: String, sound: &Bytes) {
        if self.items.last().is_none_or(|(last, _)| *last != item_id) {
            if self.items.len() == MAX_ITEMS {
                // It was heard long ago.
                self.items.remove(0);
            }
            self.items.push((item_id, self.sent_bytes));
        }
        self.sent_bytes += sound.len() as u64;
    }

    /// The first item that was not heard whole, and how much of it was.
    fn truncate(&mut self, dropped_ms: u64) -> Option<Value> {
        let heard_until = self.sent_bytes.saturating_sub(dropped_ms * BYTES_PER_MS);
        let cut = self.items.iter().rposition(|(_, begins)| *begins <= heard_until);
        let cut = cut.map(|cut| self.items[cut].clone());
        self.items.clear();
        let (item_id, begins) = cut.filter(|_| dropped_ms > 0)?;
        let audio_end_ms = (heard_until - begins) / BYTES_PER_MS;
        Some(json!({
            "type": "conversation.item.truncate", "item_id": item_id, "content_index": 0, "audio_end_ms": audio_end_ms,
        }))
    }
}

impl Dialect for OpenAiRealtime {
    fn format(&self, _: SoundFormat) -> SoundFormat {
        SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz24000 }
    }

    /// With `session.updated`: only then the session is as configured.
    fn joins(&self) -> Joins {
        Joins::WhenReady
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = message.text()?;
        match parsed::<FromModel>(&text)? {
            FromModel::Updated => {
                self.turn.is_ready = true;
                inbox.push(FromAgent::Ready { format: None, events: false });
                if let Some(greeting) = &self.options.greeting {
                    let response = json!({"type": "response.create", "response": {"instructions": greeting}});
                    inbox.push(FromAgent::Reply(json_message(&response)));
                }
            }
            FromModel::AudioDelta { item_id, delta } => {
                let sound = Payload::L16.of_base64(&delta)?;
                self.heard(item_id, &sound);
                inbox.push(FromAgent::Sound(sound));
            }
            FromModel::SpeechStarted => inbox.push(FromAgent::Clear),
            FromModel::FunctionCall { call_id, name, arguments } => {
                self.turn.open_calls += 1;
                inbox.push(self.options.tools.call_with_text(json!(call_id), &name, &arguments));
            }
            FromModel::ResponseCreated => {
                // It answers to the results that it has.
                self.turn.owes_response &= self.turn.open_calls > 0;
                self.turn.is_responding = true;
            }
            FromModel::ResponseDone { response } => {
                self.turn.is_responding = false;
                if self.turn.take() {
                    inbox.push(FromAgent::Reply(respond()));
                }
                if response.usage.is_object() {
                    inbox.push(FromAgent::Used(tokens(&response.usage)));
                }
                if let Some(error) = response.status_details.and_then(|details| details.error) {
                    return Err(format!("a response of the model failed: {}", error.code()));
                }
            }
            FromModel::Error { error } if !self.turn.is_ready => {
                inbox.push(FromAgent::Refused(format!("the model reported {}", error.code())));
            }
            FromModel::Error { error } => return Err(format!("the model reported {}", error.code())),
            FromModel::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(_) => outbox.push(json_message(&self.session())),
            Notice::Dtmf { digit: Some(digit), .. } => {
                let text = format!("The caller pressed the key {digit}.");
                let item =
                    json!({"type": "message", "role": "system", "content": [{"type": "input_text", "text": text}]});
                outbox.push(json_message(&json!({"type": "conversation.item.create", "item": item})));
            }
            Notice::Cleared(cleared) => {
                outbox.extend(self.truncate(cleared.dropped_ms).map(|event| json_message(&event)));
            }
            Notice::CommandResult { request_id, outcome } => {
                self.write_result(request_id, &FunctionResult::of_command(outcome), outbox);
            }
            Notice::Accepted
            | Notice::Dtmf { digit: None, .. }
            | Notice::Mark { .. }
            | Notice::Xoff { .. }
            | Notice::Xon { .. }
            | Notice::Event(_)
            | Notice::Error { .. }
            | Notice::Stop { .. } => {}
        }
    }

    fn write_result(&mut self, request_id: &Value, result: &FunctionResult, outbox: &mut Vec<Message>) {
        let item = json!({"type": "function_call_output", "call_id": request_id, "output": result.text});
        outbox.push(json_message(&json!({"type": "conversation.item.create", "item": item})));
        self.turn.open_calls = self.turn.open_calls.saturating_sub(1);
        self.turn.owes_response = true;
        if self.turn.take() {
            outbox.push(respond());
        }
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        let audio = Payload::L16.to_base64(sound);
        outbox.push(json_message(&json!({"type": "input_audio_buffer.append", "audio": audio})));
    }
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum FromModel {
    #[serde(rename = "session.updated")]
    Updated,
    #[serde(rename = "response.output_audio.delta")]
    AudioDelta { item_id: String, delta: String },
    #[serde(rename = "input_audio_buffer.speech_started")]
    SpeechStarted,
    #[serde(rename = "response.function_call_arguments.done")]
    FunctionCall { call_id: String, name: String, arguments: String },
    #[serde(rename = "response.created")]
    ResponseCreated,
    #[serde(rename = "response.done")]
    ResponseDone { response: Response },
    #[serde(rename = "error")]
    Error { error: ModelError },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Response {
    /// Null for a response that failed.
    #[serde(default)]
    usage: Value,
    #[serde(default)]
    status_details: Option<StatusDetails>,
}

#[derive(Deserialize)]
struct StatusDetails {
    #[serde(default)]
    error: Option<ModelError>,
}

fn tokens(usage: &Value) -> Tokens {
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    Tokens {
        input: count(&usage["input_tokens"]),
        cached_input: count(&usage["input_token_details"]["cached_tokens"]),
        input_audio: count(&usage["input_token_details"]["audio_tokens"]),
        output: count(&usage["output_tokens"]),
        output_audio: count(&usage["output_token_details"]["audio_tokens"]),
    }
}

/// Its message may repeat what was said, so only its code is used.
#[derive(Deserialize)]
struct ModelError {
    #[serde(default)]
    code: Option<String>,
    #[serde(rename = "type", default)]
    kind: Option<String>,
}

impl ModelError {
    fn code(&self) -> &str {
        error_code(self.code.as_deref().or(self.kind.as_deref()))
    }
}

fn respond() -> Message {
    json_message(&json!({"type": "response.create"}))
}

#[cfg(test)]
mod tests {
    use patchcord_media::source::Cleared;

    use super::super::testing::{read, started, texts, told};
    use super::*;
    use crate::agent::model::{ModelVendor, Tools};
    use crate::call::command::CommandResult;

    fn model() -> OpenAiRealtime {
        let mut options = ModelOptions::parse(ModelVendor::OpenAiRealtime, "gpt-realtime").unwrap();
        options.instructions = Some("Be brief.".into());
        options.voice = Some("marin".into());
        options.greeting = Some("Greet the caller.".into());
        options.tools = Tools { hangup: true, transfer_to: vec!["support".into()], ..Tools::default() };
        OpenAiRealtime::new(options)
    }

    fn delta(item: &str, milliseconds: u64) -> String {
        let delta = Payload::L16.to_base64(Bytes::from(vec![0; (milliseconds * BYTES_PER_MS) as usize]));
        json!({"type": "response.output_audio.delta", "item_id": item, "delta": delta}).to_string()
    }

    #[test]
    fn a_session_is_configured_and_then_it_greets() {
        let mut model = model();
        let session = &started(&mut model)[0]["session"];
        assert_eq!(session["type"], "realtime");
        assert_eq!(session["instructions"], "Be brief.");
        assert_eq!(session["audio"]["output"]["voice"], "marin");
        assert_eq!(session["audio"]["input"]["format"], json!({"type": "audio/pcm", "rate": 24000}));
        assert_eq!(session["tools"][0]["name"], "hangup");
        let said = read(&mut model, r#"{"type":"session.updated","session":{}}"#).unwrap();
        assert!(matches!(&said[..], [FromAgent::Ready { .. }, FromAgent::Reply(_)]));
    }

    #[test]
    fn an_interrupted_model_learns_what_was_heard() {
        let mut model = model();
        read(&mut model, &delta("one", 1000)).unwrap();
        read(&mut model, &delta("two", 500)).unwrap();
        read(&mut model, &delta("two", 500)).unwrap();
        let said = read(&mut model, r#"{"type":"input_audio_buffer.speech_started"}"#).unwrap();
        assert_eq!(said, [FromAgent::Clear]);
        let cleared = told(&mut model, &Notice::Cleared(Cleared { played_ms: 1300, dropped_ms: 700 }));
        assert_eq!((&cleared[0]["item_id"], &cleared[0]["audio_end_ms"]), (&json!("two"), &json!(300)));
        let nothing = told(&mut model, &Notice::Cleared(Cleared { played_ms: 0, dropped_ms: 0 }));
        assert_eq!(nothing, Vec::<Value>::new(), "all of it was heard");
    }

    #[test]
    fn a_long_talk_without_interruption_forgets_its_oldest_items_only() {
        let mut model = model();
        for number in 0..MAX_ITEMS + 10 {
            read(&mut model, &delta(&format!("item_{number}"), 20)).unwrap();
        }
        assert_eq!(model.items.len(), MAX_ITEMS);
        let cleared = told(&mut model, &Notice::Cleared(Cleared { played_ms: 0, dropped_ms: 10 }));
        let last = format!("item_{}", MAX_ITEMS + 9);
        assert_eq!((&cleared[0]["item_id"], &cleared[0]["audio_end_ms"]), (&json!(last), &json!(10)));
    }

    fn result() -> FunctionResult {
        FunctionResult { text: r#"{"status":"sent"}"#.to_owned(), is_error: false }
    }

    fn called(model: &mut OpenAiRealtime, call_id: &str) {
        let call = json!({
            "type": "response.function_call_arguments.done", "call_id": call_id, "name": "transfer", "arguments": "{}",
        });
        read(model, &call.to_string()).unwrap();
    }

    fn returned(model: &mut OpenAiRealtime, call_id: &str) -> Vec<Value> {
        let mut outbox = Vec::new();
        model.write_result(&json!(call_id), &result(), &mut outbox);
        texts(&outbox).iter().map(|message| message["type"].clone()).collect()
    }

    #[test]
    fn the_model_is_asked_to_speak_on_once_and_never_while_it_speaks() {
        let mut model = model();
        let done = r#"{"type":"response.done","response":{"status":"completed","usage":null}}"#;
        read(&mut model, r#"{"type":"response.created","response":{}}"#).unwrap();
        called(&mut model, "c1");
        called(&mut model, "c2");
        assert_eq!(returned(&mut model, "c1"), ["conversation.item.create"]);
        assert_eq!(read(&mut model, done), Ok(vec![]), "a result is missing");
        assert_eq!(returned(&mut model, "c2"), ["conversation.item.create", "response.create"]);

        read(&mut model, r#"{"type":"response.created","response":{}}"#).unwrap();
        called(&mut model, "c3");
        assert_eq!(returned(&mut model, "c3"), ["conversation.item.create"], "it still speaks");
        assert_eq!(read(&mut model, done), Ok(vec![FromAgent::Reply(respond())]));
        assert_eq!(read(&mut model, done), Ok(vec![]));

        called(&mut model, "c4");
        read(&mut model, r#"{"type":"response.created","response":{}}"#).unwrap();
        assert_eq!(returned(&mut model, "c4"), ["conversation.item.create"]);
        read(&mut model, done).unwrap();
        read(&mut model, r#"{"type":"response.created","response":{}}"#).unwrap();
        assert_eq!(read(&mut model, done), Ok(vec![]), "a response of its own has answered");
    }

    #[test]
    fn the_usage_of_each_response_is_reported() {
        let done = r#"{"type":"response.done","response":{"status":"completed","usage":{"total_tokens":253,"input_tokens":132,
            "output_tokens":121,"input_token_details":{"text_tokens":119,"audio_tokens":13,"cached_tokens":64},
            "output_token_details":{"text_tokens":30,"audio_tokens":91}}}}"#;
        let tokens = Tokens { input: 132, cached_input: 64, input_audio: 13, output: 121, output_audio: 91 };
        assert_eq!(read(&mut model(), done), Ok(vec![FromAgent::Used(tokens)]));
        let failed = r#"{"type":"response.done","response":{"status":"failed",
            "status_details":{"type":"failed","error":{"type":"insufficient_quota","code":"credit ran out"}}}}"#;
        assert_eq!(read(&mut model(), failed), Err("a response of the model failed: an error".into()));
    }

    #[test]
    fn an_error_before_the_session_is_set_up_is_a_refusal() {
        let error =
            r#"{"type":"error","error":{"type":"invalid_request_error","code":"invalid_api_key","message":"sk-1"}}"#;
        let refused = FromAgent::Refused("the model reported invalid_api_key".into());
        assert_eq!(read(&mut model(), error), Ok(vec![refused]));
    }

    #[test]
    fn a_function_call_becomes_a_command_and_its_result_goes_back() {
        let mut model = model();
        let call = r#"{"type":"response.function_call_arguments.done","call_id":"c1","name":"transfer","arguments":"{\"to\":\"support\"}"}"#;
        let said = read(&mut model, call).unwrap();
        assert!(matches!(&said[..], [FromAgent::CommandWhenHeard { .. }]));
        let done = Notice::CommandResult { request_id: json!("c1"), outcome: Ok(CommandResult::Done) };
        let back = told(&mut model, &done);
        assert_eq!(back[0]["item"]["type"], "function_call_output");
        assert_eq!(back[0]["item"]["call_id"], "c1");
        assert_eq!(back[1]["type"], "response.create");
        read(&mut model, r#"{"type":"session.updated","session":{}}"#).unwrap();
        let error = r#"{"type":"error","error":{"type":"invalid_request_error","code":"bad","message":"secret"}}"#;
        assert_eq!(read(&mut model, error), Err("the model reported bad".into()));
    }
}
