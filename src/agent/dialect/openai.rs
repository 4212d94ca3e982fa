//! OpenAI's Realtime API: JSON events, sound as base64 of PCM at 24 kHz.
//!
//! The model speaks faster than real time. When the caller speaks, what was not heard is dropped, and the model learns how
//! much of its words was heard (`conversation.item.truncate`).

mod message;

use std::collections::VecDeque;

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::payload::Payload;
use super::{Dialect, FromAgent, Goodbye, Incoming, Joins, json_message, parsed};
use crate::agent::model::{FunctionResult, ModelOptions};
use crate::agent::notice::{Notice, Start};
use crate::agent::{Encoding, SoundFormat};
use message::{FromModel, Item, ItemKind, ModelError, tokens};

/// Of PCM at 24 kHz.
const BYTES_PER_MS: u64 = 48;
/// Spoken items that may be partly unheard: ten minutes of queue hardly have more.
const MAX_ITEMS: usize = 256;

/// Calls of functions that are remembered: each is announced twice.
const MAX_CALLS: usize = 64;

/// The translator of one session.
pub(in crate::agent) struct OpenAiRealtime {
    options: ModelOptions,
    /// A session before this one was lost in the same call.
    is_resumed: bool,
    /// Of all sound that the model sent.
    sent_bytes: u64,
    /// What was said since the last clear: the id of each item and where its sound begins, in bytes.
    items: Vec<(String, u64)>,
    /// What was being said when the caller began to speak. More of it may be on its way.
    interrupted: Option<String>,
    /// The function calls that were taken.
    called: VecDeque<String>,
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
        let (items, called) = (Vec::new(), VecDeque::new());
        Self { options, is_resumed: false, sent_bytes: 0, items, interrupted: None, called, turn: Turn::default() }
    }

    fn session(&self, start: &Start) -> Value {
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
        if let Some(instructions) = self.options.instructions_for(start) {
            session["instructions"] = instructions.into();
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

    /// The first item that was not heard whole, and those after it: how much of each was heard.
    fn truncate(&mut self, dropped_ms: u64) -> Vec<Value> {
        let items = std::mem::take(&mut self.items);
        if dropped_ms == 0 {
            return Vec::new();
        }
        let heard_until = self.sent_bytes.saturating_sub(dropped_ms * BYTES_PER_MS);
        let cut = items.iter().rposition(|(_, begins)| *begins <= heard_until).unwrap_or_default();
        let truncated = |(item_id, begins): &(String, u64)| {
            let audio_end_ms = heard_until.saturating_sub(*begins) / BYTES_PER_MS;
            json!({
                "type": "conversation.item.truncate", "item_id": item_id, "content_index": 0,
                "audio_end_ms": audio_end_ms,
            })
        };
        items[cut.min(items.len())..].iter().map(truncated).collect()
    }

    /// The greeting takes the place of the instructions for one response, so that it needs them too.
    fn greeting(&self) -> Option<Value> {
        let greeting = self.options.greeting.as_ref().filter(|_| !self.is_resumed)?;
        let instructions = self.options.instructions.iter().chain([greeting]).map(String::as_str);
        let instructions = instructions.collect::<Vec<_>>().join("\n\n");
        Some(json!({"type": "response.create", "response": {"instructions": instructions}}))
    }

    /// A function call that is complete; none for one that was taken before.
    fn call(&mut self, call_id: String, name: &str, arguments: &str) -> Option<FromAgent> {
        if self.called.contains(&call_id) {
            return None;
        }
        self.turn.open_calls += 1;
        let called = self.options.tools.call_with_text(json!(call_id), name, arguments);
        if self.called.len() == MAX_CALLS {
            self.called.pop_front();
        }
        self.called.push_back(call_id);
        Some(called)
    }

    fn failed(&self, what: &str, error: &ModelError) -> FromAgent {
        let report = format!("{what} {}", error.code());
        if !self.turn.is_ready || error.is_fatal() {
            FromAgent::Refused(report)
        } else if error.is_of_session() {
            FromAgent::Lost(report)
        } else {
            FromAgent::Fault(report)
        }
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

    fn goodbye(&self) -> Goodbye {
        Goodbye::IsLost
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = message.text()?;
        match parsed::<FromModel>(&text)? {
            FromModel::Updated => {
                self.turn.is_ready = true;
                inbox.push(FromAgent::Ready { format: None, events: false });
                inbox.extend(self.greeting().map(|greeting| FromAgent::Reply(json_message(&greeting))));
            }
            FromModel::AudioDelta { item_id, .. } if self.interrupted.as_ref() == Some(&item_id) => {}
            FromModel::AudioDelta { item_id, delta } => {
                let sound = Payload::L16.of_base64(&delta)?;
                self.heard(item_id, &sound);
                inbox.push(FromAgent::Sound(sound));
            }
            FromModel::SpeechStarted => {
                let last = self.items.last().map(|(item_id, _)| item_id.clone());
                self.interrupted = last.or(self.interrupted.take());
                inbox.push(FromAgent::Clear);
            }
            // An interrupted response ends its function calls in the middle of their arguments. Some servers leave out the name.
            FromModel::FunctionCall { call_id, name: Some(name), arguments } if is_whole(&arguments) => {
                inbox.extend(self.call(call_id, &name, &arguments));
            }
            FromModel::FunctionCall { .. } => {}
            FromModel::ItemDone { item } => {
                if let Item { kind: ItemKind::FunctionCall, call_id: Some(call_id), name: Some(name), .. } = &item
                    && item.status.as_deref() != Some("incomplete")
                {
                    inbox.extend(self.call(call_id.clone(), name, &item.arguments));
                }
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
                    inbox.push(self.failed("a response of the model failed:", &error));
                }
            }
            FromModel::Error { error } => inbox.push(self.failed("the model reported", &error)),
            FromModel::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => {
                self.is_resumed = start.resume.is_some();
                outbox.push(json_message(&self.session(start)));
            }
            Notice::Dtmf { digit: Some(digit), .. } if self.turn.is_ready => {
                let text = format!("The caller pressed the key {digit}.");
                let item =
                    json!({"type": "message", "role": "system", "content": [{"type": "input_text", "text": text}]});
                outbox.push(json_message(&json!({"type": "conversation.item.create", "item": item})));
            }
            Notice::Cleared(cleared) => {
                outbox.extend(self.truncate(cleared.dropped_ms).iter().map(json_message));
            }
            Notice::CommandResult { request_id, outcome } => {
                self.write_result(request_id, &FunctionResult::of_command(outcome), outbox);
            }
            Notice::Accepted
            | Notice::Dtmf { .. }
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
        // Before its set-up is confirmed, it would answer without its instructions.
        if self.turn.is_ready {
            let audio = Payload::L16.to_base64(sound);
            outbox.push(json_message(&Append { kind: "input_audio_buffer.append", audio }));
        }
    }
}

/// 20 ms of the caller.
#[derive(Serialize)]
struct Append {
    #[serde(rename = "type")]
    kind: &'static str,
    audio: String,
}

fn is_whole(arguments: &str) -> bool {
    arguments.trim().is_empty() || serde_json::from_str::<IgnoredAny>(arguments).is_ok()
}

fn respond() -> Message {
    json_message(&json!({"type": "response.create"}))
}

#[cfg(test)]
mod tests;
