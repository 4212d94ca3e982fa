//! Google's Gemini Live API: JSON, also in binary messages, sound as base64 of PCM at 24 kHz.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::open_calls::OpenCalls;
use super::payload::Payload;
use super::{Dialect, FromAgent, Goodbye, Incoming, Joins, json_message, parsed};
use crate::agent::model::{FunctionResult, ModelOptions};
use crate::agent::notice::{Notice, Start};
use crate::agent::{Encoding, SoundFormat};
use crate::call::usage::Tokens;

/// The model's own rate. It takes any rate that the message names.
const MIME_TYPE: &str = "audio/pcm;rate=24000";

/// The handle of a session, which outlives its connections: Google ends each of them after about ten minutes.
pub(in crate::agent) type SessionHandle = Rc<RefCell<Option<String>>>;

/// The translator of one connection.
pub(in crate::agent) struct GeminiLive {
    options: ModelOptions,
    session: SessionHandle,
    /// Asked for once the session is set up.
    greeting: Option<String>,
    /// Nothing but `setup` may come before it.
    is_ready: bool,
    open_calls: OpenCalls,
    /// Its turn has begun, and more of it will come.
    is_speaking: bool,
    /// The connection ends in some seconds.
    goes_away: bool,
}

impl GeminiLive {
    pub fn new(options: ModelOptions, session: SessionHandle) -> Self {
        let open_calls = OpenCalls::default();
        Self { options, session, greeting: None, is_ready: false, open_calls, is_speaking: false, goes_away: false }
    }

    fn setup(&mut self, start: &Start) -> Value {
        // A session that cannot be resumed is not tried again.
        let handle = self.session.take();
        let (instructions, greeting) = match &handle {
            Some(_) => (self.options.instructions.clone(), None),
            None => (self.options.instructions_for(start), self.options.greeting_for(start)),
        };
        self.greeting = greeting.map(str::to_owned);
        let mut setup = json!({
            "model": format!("models/{}", self.options.name),
            "generationConfig": {"responseModalities": ["AUDIO"]},
            "sessionResumption": handle.map_or(json!({}), |handle| json!({"handle": handle})),
            // Without it a session ends after a quarter of an hour.
            "contextWindowCompression": {"slidingWindow": {}},
        });
        if let Some(voice) = &self.options.voice {
            let voice = json!({"voiceConfig": {"prebuiltVoiceConfig": {"voiceName": voice}}});
            setup["generationConfig"]["speechConfig"] = voice;
        }
        if let Some(instructions) = instructions {
            setup["systemInstruction"] = json!({"parts": [{"text": instructions}]});
        }
        let functions = self.options.tools.functions().into_iter().map(|function| {
            let mut declared = json!({"name": function.name, "description": function.description});
            // An object without properties is refused.
            if function.parameters["properties"].as_object().is_some_and(|properties| !properties.is_empty()) {
                declared["parametersJsonSchema"] = function.parameters;
            }
            declared
        });
        let functions: Vec<Value> = functions.collect();
        if !functions.is_empty() {
            setup["tools"] = json!([{"functionDeclarations": functions}]);
        }
        json!({"setup": setup})
    }

    fn take(&mut self, message: FromModel, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        if message.setup_complete.is_some() {
            self.is_ready = true;
            inbox.push(FromAgent::Ready { format: None, events: false });
            if let Some(greeting) = self.greeting.take() {
                // As a turn of `clientContent`, some models refuse it.
                inbox.push(FromAgent::Reply(json_message(&json!({"realtimeInput": {"text": greeting}}))));
            }
        }
        if let Some(content) = message.server_content {
            if content.interrupted {
                inbox.push(FromAgent::Clear);
            }
            self.is_speaking |= content.model_turn.is_some();
            self.is_speaking &= !(content.interrupted || content.generation_complete || content.turn_complete);
            for part in content.model_turn.into_iter().flat_map(|turn| turn.parts) {
                if let Some(sound) = part.inline_data.filter(|data| data.mime_type.starts_with("audio/pcm")) {
                    inbox.push(FromAgent::Sound(Payload::L16.of_base64(&sound.data)?));
                }
            }
        }
        for call in message.tool_call.into_iter().flat_map(|calls| calls.function_calls) {
            let request_id = json!({"id": call.id, "name": call.name});
            self.open_calls.begin(call.id);
            inbox.push(self.options.tools.call(request_id, &call.name, call.args));
        }
        if let Some(cancelled) = message.tool_call_cancellation {
            self.open_calls.cancel(&cancelled.ids);
        }
        if let Some(handle) = message.session_resumption_update.and_then(|update| update.new_handle) {
            // While the model generates there is none, and the last one stays good.
            self.session.replace(Some(handle).filter(|handle| !handle.is_empty()).or_else(|| self.session.take()));
        }
        inbox.extend(message.usage_metadata.map(|usage| FromAgent::Used(tokens(&usage))));
        self.goes_away |= message.go_away.is_some();
        if self.goes_away && !self.is_speaking {
            self.goes_away = false;
            inbox.push(FromAgent::LostWhenHeard("the vendor ends the connection (goAway)".to_owned()));
        }
        Ok(())
    }
}

impl Dialect for GeminiLive {
    fn format(&self, _: SoundFormat) -> SoundFormat {
        SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz24000 }
    }

    fn joins(&self) -> Joins {
        Joins::WhenReady
    }

    fn goodbye(&self) -> Goodbye {
        Goodbye::IsLost
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = match &message {
            Incoming::Text(text) => text.as_str(),
            Incoming::Binary(bytes) => std::str::from_utf8(bytes).map_err(|_| "a binary message is not JSON")?,
        };
        let message = parsed(text)?;
        self.take(message, inbox)
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => outbox.push(json_message(&self.setup(start))),
            Notice::Dtmf { digit: Some(digit), .. } if self.is_ready => {
                let text = format!("(The caller pressed the key {digit}.)");
                outbox.push(json_message(&json!({"realtimeInput": {"text": text}})));
            }
            Notice::CommandResult { request_id, outcome } => {
                self.write_result(request_id, &FunctionResult::of_command(outcome), outbox);
            }
            Notice::Accepted
            | Notice::Dtmf { .. }
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
        // The caller interrupted the model, which waits for it no more.
        if !self.open_calls.end(&request_id["id"]) {
            return;
        }
        let said = if result.is_error { "error" } else { "output" };
        let response = json!({
            "id": request_id["id"], "name": request_id["name"], "response": {said: result.to_json()},
        });
        outbox.push(json_message(&json!({"toolResponse": {"functionResponses": [response]}})));
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        if self.is_ready {
            let audio = Audio { data: Payload::L16.to_base64(sound), mime_type: MIME_TYPE };
            outbox.push(json_message(&ToModel { realtime_input: RealtimeInput { audio } }));
        }
    }
}

/// 20 ms of the caller.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ToModel {
    realtime_input: RealtimeInput,
}

#[derive(Serialize)]
struct RealtimeInput {
    audio: Audio,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Audio {
    data: String,
    mime_type: &'static str,
}

/// A message of the model: one of its fields is set.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FromModel {
    setup_complete: Option<Value>,
    server_content: Option<ServerContent>,
    tool_call: Option<ToolCall>,
    tool_call_cancellation: Option<Cancellation>,
    session_resumption_update: Option<ResumptionUpdate>,
    go_away: Option<Value>,
    usage_metadata: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ResumptionUpdate {
    new_handle: Option<String>,
}

/// The caller has interrupted the model, which does not wait for these any more.
#[derive(Deserialize)]
struct Cancellation {
    #[serde(default)]
    ids: Vec<Value>,
}

/// What the model thought and read of functions' results is part of the sums.
fn tokens(usage: &Value) -> Tokens {
    let count = |value: &Value| value.as_u64().unwrap_or_default();
    let sum = |one: &str, other: &str| count(&usage[one]).saturating_add(count(&usage[other]));
    let audio = |details: &str| {
        let details = usage[details].as_array().into_iter().flatten();
        let of_audio = details.filter(|part| part["modality"] == "AUDIO");
        of_audio.fold(0, |sum: u64, part| sum.saturating_add(count(&part["tokenCount"])))
    };
    Tokens {
        input: sum("promptTokenCount", "toolUsePromptTokenCount"),
        cached_input: count(&usage["cachedContentTokenCount"]),
        input_audio: audio("promptTokensDetails"),
        output: sum("responseTokenCount", "thoughtsTokenCount"),
        output_audio: audio("responseTokensDetails"),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ServerContent {
    model_turn: Option<ModelTurn>,
    #[serde(default)]
    interrupted: bool,
    #[serde(default)]
    generation_complete: bool,
    #[serde(default)]
    turn_complete: bool,
}

#[derive(Deserialize)]
struct ModelTurn {
    #[serde(default)]
    parts: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    inline_data: Option<InlineData>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InlineData {
    mime_type: String,
    data: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolCall {
    #[serde(default)]
    function_calls: Vec<FunctionCall>,
}

#[derive(Deserialize)]
struct FunctionCall {
    #[serde(default)]
    id: Value,
    name: String,
    #[serde(default)]
    args: Value,
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, resumed, started, texts, told};
    use super::*;
    use crate::agent::model::{ModelVendor, Tools};
    use crate::call::command::CommandResult;

    #[test]
    fn a_session_is_set_up_greets_talks_and_is_interrupted() {
        let mut options = ModelOptions::parse(ModelVendor::GeminiLive, "gemini-live").unwrap();
        options.greeting = Some("Greet the caller.".into());
        options.tools = Tools { hangup: true, transfer_to: vec!["support".into()], ..Tools::default() };
        let mut model = GeminiLive::new(options, SessionHandle::default());
        let setup = &started(&mut model)[0]["setup"];
        assert_eq!(setup["model"], "models/gemini-live");
        assert_eq!(
            setup["tools"][0]["functionDeclarations"][0],
            json!({
                "name": "hangup", "description": "End the phone call. Say goodbye first.",
            })
        );
        let mut outbox = Vec::new();
        model.write_sound(Bytes::from_static(&[1, 0]), &mut outbox);
        assert_eq!(outbox, [], "setup is not complete");
        let mut inbox = Vec::new();
        model.read(Incoming::Binary(Bytes::from_static(br#"{"setupComplete":{}}"#)), &mut inbox).unwrap();
        let [FromAgent::Ready { .. }, FromAgent::Reply(greeting)] = &inbox[..] else { panic!("{inbox:?}") };
        assert_eq!(texts(std::slice::from_ref(greeting)), [json!({"realtimeInput": {"text": "Greet the caller."}})]);
        model.write_sound(Bytes::from_static(&[1, 0]), &mut outbox);
        assert_eq!(texts(&outbox)[0]["realtimeInput"]["audio"], json!({"data": "AQA=", "mimeType": MIME_TYPE}));
        let audio = r#"{"serverContent":{"modelTurn":{"parts":[
            {"inlineData":{"mimeType":"audio/pcm;rate=24000","data":"AQA="}},{"text":"thought"}]}}}"#;
        assert_eq!(read(&mut model, audio), Ok(vec![FromAgent::Sound(Bytes::from_static(&[1, 0]))]));
        assert_eq!(read(&mut model, r#"{"serverContent":{"interrupted":true}}"#), Ok(vec![FromAgent::Clear]));
    }

    #[test]
    fn a_session_goes_on_over_another_connection_without_a_greeting() {
        let mut options = ModelOptions::parse(ModelVendor::GeminiLive, "gemini-live").unwrap();
        options.greeting = Some("Greet the caller.".into());
        let session = SessionHandle::default();
        let connection = || GeminiLive::new(options.clone(), session.clone());
        let mut first = connection();
        assert_eq!(started(&mut first)[0]["setup"]["sessionResumption"], json!({}));
        for update in [
            r#"{"sessionResumptionUpdate":{"newHandle":"h1","resumable":true}}"#,
            r#"{"sessionResumptionUpdate":{"newHandle":"","resumable":false}}"#,
            r#"{"sessionResumptionUpdate":{"resumable":false}}"#,
        ] {
            assert_eq!(read(&mut first, update), Ok(vec![]));
        }
        let mut second = connection();
        assert_eq!(started(&mut second)[0]["setup"]["sessionResumption"], json!({"handle": "h1"}));
        assert_eq!(read(&mut second, r#"{"setupComplete":{}}"#).unwrap().len(), 1, "it is ready, and says nothing");
        assert_eq!(started(&mut connection())[0]["setup"]["sessionResumption"], json!({}), "it had no use");
    }

    #[test]
    fn a_connection_that_ends_soon_is_left_behind_the_models_words() {
        let options = ModelOptions::parse(ModelVendor::GeminiLive, "gemini-live").unwrap();
        let mut model = GeminiLive::new(options, SessionHandle::default());
        let part = r#"{"inlineData":{"mimeType":"audio/pcm;rate=24000","data":"AQA="}}"#;
        read(&mut model, &format!(r#"{{"serverContent":{{"modelTurn":{{"parts":[{part}]}}}}}}"#)).unwrap();
        assert_eq!(read(&mut model, r#"{"goAway":{"timeLeft":"50s"}}"#), Ok(vec![]), "it speaks");
        let complete = r#"{"serverContent":{"generationComplete":true}}"#;
        assert!(matches!(&read(&mut model, complete).unwrap()[..], [FromAgent::LostWhenHeard(_)]));
        assert_eq!(read(&mut model, r#"{"serverContent":{"turnComplete":true}}"#), Ok(vec![]), "once is enough");
        assert!(matches!(&read(&mut model, r#"{"goAway":{}}"#).unwrap()[..], [FromAgent::LostWhenHeard(_)]));
    }

    #[test]
    fn a_session_that_cannot_go_on_is_followed_by_one_that_does_not_greet_either() {
        let mut options = ModelOptions::parse(ModelVendor::GeminiLive, "gemini-live").unwrap();
        options.greeting = Some("Greet the caller.".into());
        let mut model = GeminiLive::new(options, SessionHandle::default());
        let told = resumed(&mut model)[0]["setup"]["systemInstruction"]["parts"][0]["text"].to_string();
        assert!(told.contains("Do not greet the caller again"), "{told}");
        assert_eq!(read(&mut model, r#"{"setupComplete":{}}"#).unwrap().len(), 1, "it is ready, and says nothing");
    }

    #[test]
    fn a_function_call_returns_with_its_id_and_name() {
        let mut options = ModelOptions::parse(ModelVendor::GeminiLive, "gemini-live").unwrap();
        options.tools.transfer_to.push("support".into());
        let mut model = GeminiLive::new(options, SessionHandle::default());
        let call = r#"{"toolCall":{"functionCalls":[{"id":"f1","name":"transfer","args":{"to":"support"}}]}}"#;
        let said = read(&mut model, call).unwrap();
        let [FromAgent::CommandWhenHeard { request_id, .. }] = &said[..] else { panic!("{said:?}") };
        let done = Notice::CommandResult { request_id: request_id.clone(), outcome: Ok(CommandResult::Done) };
        let back = told(&mut model, &done);
        let response = &back[0]["toolResponse"]["functionResponses"][0];
        assert_eq!((&response["id"], &response["name"]), (&json!("f1"), &json!("transfer")));
        assert_eq!(response["response"], json!({"output": {"ok": true}}));
    }

    #[test]
    fn the_result_of_a_cancelled_call_is_not_sent() {
        let options = ModelOptions::parse(ModelVendor::GeminiLive, "gemini-live").unwrap();
        let mut model = GeminiLive::new(options, SessionHandle::default());
        let call = r#"{"toolCall":{"functionCalls":[{"id":"f1","name":"a"},{"id":"f2","name":"a"}]}}"#;
        assert_eq!(read(&mut model, call).unwrap().len(), 2);
        assert_eq!(read(&mut model, r#"{"toolCallCancellation":{"ids":["f1"]}}"#), Ok(vec![]));
        let mut outbox = Vec::new();
        for id in ["f1", "f2"] {
            model.write_result(&json!({"id": id, "name": "a"}), &FunctionResult::error("no"), &mut outbox);
        }
        let sent = texts(&outbox);
        let response = &sent[0]["toolResponse"]["functionResponses"][0];
        assert_eq!((sent.len(), &response["id"]), (1, &json!("f2")));
        assert_eq!(response["response"], json!({"error": {"ok": false, "error": "no"}}));
    }

    #[test]
    fn the_usage_of_each_turn_is_reported() {
        let options = ModelOptions::parse(ModelVendor::GeminiLive, "gemini-live").unwrap();
        let mut model = GeminiLive::new(options, SessionHandle::default());
        let turn = r#"{"serverContent":{"turnComplete":true},"usageMetadata":{"promptTokenCount":100,"responseTokenCount":40,
            "toolUsePromptTokenCount":5,"thoughtsTokenCount":2,"cachedContentTokenCount":null,"totalTokenCount":147,
            "promptTokensDetails":[{"modality":"TEXT","tokenCount":30},{"modality":"AUDIO","tokenCount":70}],
            "responseTokensDetails":[{"modality":"AUDIO","tokenCount":40}]}}"#;
        let tokens = Tokens { input: 105, cached_input: 0, input_audio: 70, output: 42, output_audio: 40 };
        assert_eq!(read(&mut model, turn), Ok(vec![FromAgent::Used(tokens)]));
    }
}
