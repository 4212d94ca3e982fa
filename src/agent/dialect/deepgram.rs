//! Deepgram's Voice Agent API: PCM in binary messages, JSON in text messages.

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::open_calls::OpenCalls;
use super::{Dialect, FromAgent, Goodbye, Incoming, Joins, error_code, json_message, parsed};
use crate::agent::model::{FunctionResult, ModelOptions};
use crate::agent::notice::{Notice, Start};
use crate::agent::{Encoding, SoundFormat};

const RATE_HZ: u32 = 24_000;
const USUAL_VOICE: &str = "aura-2-thalia-en";
const LISTENS_WITH: &str = "nova-3";

/// The translator of one conversation.
pub(in crate::agent) struct DeepgramAgent {
    options: ModelOptions,
    /// Sound before it is an error.
    is_ready: bool,
    /// Since the last ping.
    has_sound: bool,
    open_calls: OpenCalls,
}

impl DeepgramAgent {
    pub fn new(options: ModelOptions) -> Self {
        Self { options, is_ready: false, has_sound: false, open_calls: OpenCalls::default() }
    }

    /// The model thinks with `PROVIDER/MODEL`, or with one of OpenAI's.
    fn settings(&self, start: &Start) -> Value {
        let (provider, model) = self.options.name.split_once('/').unwrap_or(("open_ai", &self.options.name));
        let mut think = json!({"provider": {"type": provider, "model": model}});
        if let Some(instructions) = self.options.instructions_for(start) {
            think["prompt"] = instructions.into();
        }
        let functions = self.options.tools.functions().into_iter().map(|function| {
            json!({"name": function.name, "description": function.description, "parameters": function.parameters})
        });
        let functions: Vec<Value> = functions.collect();
        if !functions.is_empty() {
            think["functions"] = functions.into();
        }
        let voice = self.options.voice.as_deref().unwrap_or(USUAL_VOICE);
        let mut agent = json!({
            "listen": {"provider": {"type": "deepgram", "model": LISTENS_WITH}},
            "think": think,
            "speak": {"provider": {"type": "deepgram", "model": voice}},
        });
        if let Some(greeting) = self.options.greeting_for(start) {
            agent["greeting"] = greeting.into();
        }
        json!({
            "type": "Settings",
            "audio": {
                "input": {"encoding": "linear16", "sample_rate": RATE_HZ},
                "output": {"encoding": "linear16", "sample_rate": RATE_HZ, "container": "none"},
            },
            "agent": agent,
        })
    }
}

impl Dialect for DeepgramAgent {
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
        let text = match message {
            Incoming::Binary(sound) => {
                inbox.push(FromAgent::Sound(sound));
                return Ok(());
            }
            Incoming::Text(text) => text,
        };
        match parsed::<FromModel>(&text)? {
            FromModel::SettingsApplied => {
                self.is_ready = true;
                inbox.push(FromAgent::Ready { format: None, events: false });
            }
            FromModel::UserStartedSpeaking => inbox.push(FromAgent::Clear),
            FromModel::FunctionCallRequest { functions } => {
                // The others are performed by Deepgram, which tells us.
                for call in functions.into_iter().filter(|call| call.client_side) {
                    self.open_calls.begin(json!(call.id));
                    let request_id = json!({"id": call.id, "name": call.name});
                    inbox.push(self.options.tools.call_with_text(request_id, &call.name, &call.arguments));
                }
            }
            FromModel::FunctionCallCancelled { functions } => {
                let ids: Vec<_> = functions.into_iter().map(|call| json!(call.id)).collect();
                self.open_calls.cancel(&ids);
            }
            FromModel::Error { code } => {
                let report = format!("the model reported {}", error_code(code.as_deref()));
                // After an error it does not go on, as its documentation says.
                inbox.push(if self.is_ready { FromAgent::Lost(report) } else { FromAgent::Refused(report) });
            }
            FromModel::Warning { code } => {
                inbox.push(FromAgent::Fault(format!("the model warned of {}", error_code(code.as_deref()))));
            }
            FromModel::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => outbox.push(json_message(&self.settings(start))),
            Notice::Dtmf { digit: Some(digit), .. } if self.is_ready => {
                let content = format!("The caller pressed the key {digit}.");
                outbox.push(json_message(&json!({"type": "InjectUserMessage", "content": content})));
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
        if !self.open_calls.end(&request_id["id"]) {
            return;
        }
        outbox.push(json_message(&json!({
            "type": "FunctionCallResponse", "id": request_id["id"], "name": request_id["name"], "content": result.text,
        })));
    }

    /// Without sound, as while the caller's phone rings, it would leave after some ten seconds.
    fn keep_alive(&mut self) -> Option<Message> {
        let is_silent = !std::mem::take(&mut self.has_sound);
        (self.is_ready && is_silent).then(|| json_message(&json!({"type": "KeepAlive"})))
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        if self.is_ready {
            self.has_sound = true;
            outbox.push(Message::Binary(sound));
        }
    }
}

#[derive(Deserialize)]
#[serde(tag = "type")]
enum FromModel {
    SettingsApplied,
    UserStartedSpeaking,
    FunctionCallRequest {
        functions: Vec<FunctionCall>,
    },
    /// The caller has interrupted the agent, which does not wait for these any more.
    FunctionCallCancelled {
        functions: Vec<CancelledCall>,
    },
    /// Their descriptions may repeat what was said, so only their codes are used.
    Warning {
        #[serde(default)]
        code: Option<String>,
    },
    Error {
        #[serde(default)]
        code: Option<String>,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct FunctionCall {
    id: String,
    name: String,
    #[serde(default)]
    arguments: String,
    #[serde(default = "is_client_side")]
    client_side: bool,
}

fn is_client_side() -> bool {
    true
}

#[derive(Deserialize)]
struct CancelledCall {
    id: String,
}

#[cfg(test)]
mod tests {
    use super::super::testing::{read, started, texts, told};
    use super::*;
    use crate::agent::model::ModelVendor;
    use crate::call::command::CommandResult;

    #[test]
    fn an_agent_is_set_up_talks_and_is_interrupted() {
        let mut options = ModelOptions::parse(ModelVendor::DeepgramAgent, "anthropic/claude").unwrap();
        options.instructions = Some("Be brief.".into());
        options.greeting = Some("Hello.".into());
        options.tools.transfer_to.push("support".into());
        let mut agent = DeepgramAgent::new(options);
        let settings = &started(&mut agent)[0];
        assert_eq!(settings["agent"]["think"]["provider"], json!({"type": "anthropic", "model": "claude"}));
        assert_eq!(settings["agent"]["greeting"], "Hello.");
        assert_eq!(settings["agent"]["think"]["functions"][0]["name"], "transfer");
        let mut outbox = Vec::new();
        agent.write_sound(Bytes::from_static(&[1, 0]), &mut outbox);
        assert_eq!(outbox, []);
        assert_eq!(read(&mut agent, r#"{"type":"Welcome","request_id":"r"}"#), Ok(vec![]));
        assert_eq!(read(&mut agent, r#"{"type":"SettingsApplied"}"#).unwrap().len(), 1);
        agent.write_sound(Bytes::from_static(&[1, 0]), &mut outbox);
        assert_eq!(texts(&outbox), [json!(2)]);
        assert_eq!(read(&mut agent, r#"{"type":"UserStartedSpeaking"}"#), Ok(vec![FromAgent::Clear]));
        let call = r#"{"type":"FunctionCallRequest","functions":[
            {"id":"f1","name":"transfer","arguments":"{\"to\":\"support\"}","client_side":true}]}"#;
        let said = read(&mut agent, call).unwrap();
        let [FromAgent::CommandWhenHeard { request_id, .. }] = &said[..] else { panic!("{said:?}") };
        let done = Notice::CommandResult { request_id: request_id.clone(), outcome: Ok(CommandResult::Done) };
        assert_eq!(told(&mut agent, &done)[0]["id"], "f1");
        assert_eq!(told(&mut agent, &done).len(), 0, "it has its result");
        let calls = r#"{"type":"FunctionCallRequest","functions":[{"id":"f2","name":"theirs","client_side":false},
            {"id":"f3","name":"transfer","arguments":"{\"to\":\"support\"}"}]}"#;
        let said = read(&mut agent, calls).unwrap();
        let [FromAgent::CommandWhenHeard { request_id, .. }] = &said[..] else { panic!("{said:?}") };
        let cancelled = r#"{"type":"FunctionCallCancelled","functions":[{"id":"f3","name":"transfer"}]}"#;
        assert_eq!(read(&mut agent, cancelled), Ok(vec![]));
        let done = Notice::CommandResult { request_id: request_id.clone(), outcome: Ok(CommandResult::Done) };
        assert_eq!(told(&mut agent, &done).len(), 0, "it is not waited for");
        let error = r#"{"type":"Error","code":"SLOW","description":"what was said"}"#;
        assert_eq!(read(&mut agent, error), Ok(vec![FromAgent::Lost("the model reported SLOW".into())]));
        let warning = r#"{"type":"Warning","code":"THINK_REQUEST_FAILED","description":"what was said"}"#;
        let fault = FromAgent::Fault("the model warned of THINK_REQUEST_FAILED".into());
        assert_eq!(read(&mut agent, warning), Ok(vec![fault]));
        assert_eq!(agent.keep_alive(), None, "sound went");
        assert!(agent.keep_alive().is_some_and(|message| message.to_text().unwrap().contains("KeepAlive")));
        let mut unready = DeepgramAgent::new(ModelOptions::parse(ModelVendor::DeepgramAgent, "m").unwrap());
        assert_eq!(read(&mut unready, error), Ok(vec![FromAgent::Refused("the model reported SLOW".into())]));
    }
}
