//! Messages of OpenAI's Realtime API, as far as they matter here.

use serde::Deserialize;
use serde_json::Value;

use crate::agent::dialect::error_code;
use crate::call::usage::Tokens;

/// Errors after which no response will come, however long the caller waits.
const FATAL: [&str; 3] = ["insufficient_quota", "billing_hard_limit_reached", "invalid_api_key"];

#[derive(Deserialize)]
#[serde(tag = "type")]
pub(super) enum FromModel {
    #[serde(rename = "session.updated")]
    Updated,
    /// By its second name on servers that follow the API of 2024.
    #[serde(rename = "response.output_audio.delta", alias = "response.audio.delta")]
    AudioDelta { item_id: String, delta: String },
    #[serde(rename = "input_audio_buffer.speech_started")]
    SpeechStarted,
    #[serde(rename = "response.function_call_arguments.done")]
    FunctionCall { call_id: String, name: Option<String>, arguments: String },
    #[serde(rename = "response.output_item.done")]
    ItemDone { item: Item },
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
pub(super) struct Item {
    #[serde(rename = "type", default)]
    pub kind: ItemKind,
    pub status: Option<String>,
    pub call_id: Option<String>,
    pub name: Option<String>,
    #[serde(default)]
    pub arguments: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ItemKind {
    FunctionCall,
    #[default]
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
pub(super) struct Response {
    /// Null for a response that failed.
    #[serde(default)]
    pub usage: Value,
    #[serde(default)]
    pub status_details: Option<StatusDetails>,
}

#[derive(Deserialize)]
pub(super) struct StatusDetails {
    #[serde(default)]
    pub error: Option<ModelError>,
}

pub(super) fn tokens(usage: &Value) -> Tokens {
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
pub(super) struct ModelError {
    #[serde(default)]
    code: Option<String>,
    #[serde(rename = "type", default)]
    kind: Option<String>,
}

impl ModelError {
    /// Whether the session is over: it lasts an hour at most.
    pub fn is_of_session(&self) -> bool {
        self.code.as_deref() == Some("session_expired")
    }

    /// Whether no response will come after it, however long the caller waits.
    pub fn is_fatal(&self) -> bool {
        [&self.code, &self.kind].into_iter().flatten().any(|name| FATAL.contains(&name.as_str()))
    }

    pub fn code(&self) -> &str {
        error_code(self.code.as_deref().or(self.kind.as_deref()))
    }
}
