//! ModelOptions: a speech model that talks with callers without an app, and how it behaves.

pub(super) mod tools;
pub(super) mod function;
pub mod schema;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::dialect::{Dialect, Incoming, deepgram, elevenlabs, gemini, openai};
use super::notice::Start;
use super::{REDIAL_FOR, WebSocketOptions};
pub use function::AppFunction;
pub use tools::{FunctionResult, Tools};

/// What a model is told whose session was lost in the middle of the call: the new one remembers nothing.
pub(super) const RESUMED: &str = "You are in the middle of a phone call. Your connection to it was lost for a moment, so that you do \
    not remember what was said before. Do not greet the caller again.";
/// The longest name of a model or agent.
const MAX_NAME: usize = 200;

/// A speech model.
#[derive(Clone, Debug)]
pub struct ModelOptions {
    /// Whose it is.
    pub vendor: ModelVendor,
    /// The vendor's name of the model, or its id of the agent.
    pub name: String,
    /// Another address than the vendor's, such as a proxy's.
    pub url: Option<Url>,
    /// The vendor's API key.
    pub key: Option<SecretString>,
    /// Who it is and what it does, in words.
    pub instructions: Option<String>,
    /// The vendor's name of a voice; the vendor's usual one if None.
    pub voice: Option<String>,
    /// How it opens the conversation. Without it the caller speaks first.
    pub greeting: Option<String>,
    /// What it may do with the call.
    pub tools: Tools,
    /// Passed on to functions of the app, and to the agents of ElevenLabs.
    pub parameters: BTreeMap<String, String>,
    /// How long it is dialled again after its connection broke in the middle of a call; zero for not at all.
    pub redial_for: Duration,
    /// In place of what all agents have in common: the route's own authorities, or a certificate of ours.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// The vendors whose protocols are built in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelVendor {
    /// OpenAI's Realtime API.
    OpenAiRealtime,
    /// Google's Gemini Live API.
    GeminiLive,
    /// ElevenLabs Agents.
    ElevenLabs,
    /// Deepgram's Voice Agent API.
    DeepgramAgent,
}

impl ModelVendor {
    /// All vendors, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::OpenAiRealtime, Self::GeminiLive, Self::ElevenLabs, Self::DeepgramAgent];

    /// The scheme of an agent.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::OpenAiRealtime => "openai-realtime",
            Self::GeminiLive => "gemini-live",
            Self::ElevenLabs => "elevenlabs",
            Self::DeepgramAgent => "deepgram-agent",
        }
    }

    /// The vendor of this scheme.
    pub fn of_scheme(scheme: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|vendor| vendor.scheme() == scheme)
    }

    /// What is wrong with these text messages of one connection: a sentence for each that cannot be used.
    pub fn mistakes_of(self, messages: &[&str]) -> Vec<String> {
        let Ok(options) = ModelOptions::parse(self, "model") else { return Vec::new() };
        let (mut translator, mut inbox) = (options.translators()(), Vec::new());
        let read = |message: &&str| translator.read(Incoming::Text((*message).into()), &mut inbox).err();
        messages.iter().filter_map(read).collect()
    }

    fn url(self) -> Url {
        let url = match self {
            Self::OpenAiRealtime => "wss://api.openai.com/v1/realtime",
            Self::GeminiLive => {
                "wss://generativelanguage.googleapis.com/ws/google.ai.generativelanguage.v1beta.GenerativeService.BidiGenerateContent"
            }
            Self::ElevenLabs => "wss://api.elevenlabs.io/v1/convai/conversation",
            Self::DeepgramAgent => "wss://agent.deepgram.com/v1/agent/converse",
        };
        url.parse().expect("a constant that a test parses")
    }

    /// The header that carries the key.
    fn authorization(self, key: &SecretString) -> (String, SecretString) {
        let key = key.expose_secret();
        match self {
            Self::OpenAiRealtime => ("authorization".to_owned(), format!("Bearer {key}").into()),
            Self::GeminiLive => ("x-goog-api-key".to_owned(), key.into()),
            Self::ElevenLabs => ("xi-api-key".to_owned(), key.into()),
            Self::DeepgramAgent => ("authorization".to_owned(), format!("Token {key}").into()),
        }
    }
}

impl ModelOptions {
    /// Reads the name of a vendor's model. The error says what to write instead.
    pub(super) fn parse(vendor: ModelVendor, name: &str) -> Result<Self, String> {
        let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte));
        if name.is_empty() || name.len() > MAX_NAME || !is_plain {
            return Err(format!("give {}:MODEL, in letters, digits, '.', '_', '-' and '/'", vendor.scheme()));
        }
        Ok(Self {
            vendor,
            name: name.to_owned(),
            url: None,
            key: None,
            instructions: None,
            voice: None,
            greeting: None,
            tools: Tools::default(),
            parameters: BTreeMap::new(),
            redial_for: REDIAL_FOR,
            tls: None,
        })
    }

    /// How its WebSocket is reached.
    pub(crate) fn socket(&self) -> WebSocketOptions {
        let mut url = self.url.clone().unwrap_or_else(|| self.vendor.url());
        match self.vendor {
            ModelVendor::OpenAiRealtime => {
                url.query_pairs_mut().append_pair("model", &self.name);
            }
            ModelVendor::ElevenLabs => {
                url.query_pairs_mut().append_pair("agent_id", &self.name);
            }
            ModelVendor::GeminiLive | ModelVendor::DeepgramAgent => {}
        }
        let headers = self.key.iter().map(|key| self.vendor.authorization(key)).collect();
        WebSocketOptions {
            headers,
            parameters: self.parameters.clone(),
            redial_for: self.redial_for,
            tls: self.tls.clone(),
            ..WebSocketOptions::at(url)
        }
    }

    /// The system prompt of a session.
    pub(super) fn instructions_for(&self, start: &Start) -> Option<String> {
        match (&self.instructions, &start.resume) {
            (instructions, None) => instructions.clone(),
            (None, Some(_)) => Some(RESUMED.to_owned()),
            (Some(instructions), Some(_)) => Some(format!("{instructions}\n\n{RESUMED}")),
        }
    }

    /// How it opens the conversation, which it does once in a call.
    pub(super) fn greeting_for(&self, start: &Start) -> Option<&str> {
        self.greeting.as_deref().filter(|_| start.resume.is_none())
    }

    /// Makes the translator of each connection in turn.
    pub(super) fn translators(self) -> impl Fn() -> Box<dyn Dialect> {
        let session = gemini::SessionHandle::default();
        move || {
            let options = self.clone();
            match self.vendor {
                ModelVendor::OpenAiRealtime => Box::new(openai::OpenAiRealtime::new(options)),
                ModelVendor::GeminiLive => Box::new(gemini::GeminiLive::new(options, session.clone())),
                ModelVendor::ElevenLabs => Box::new(elevenlabs::ElevenLabs::new(options)),
                ModelVendor::DeepgramAgent => Box::new(deepgram::DeepgramAgent::new(options)),
            }
        }
    }
}

impl std::fmt::Display for ModelOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.vendor.scheme(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::schema::tests::anything;
    use super::*;

    /// The messages that are read.
    const KINDS: [&str; 14] = [
        "session.updated",
        "response.output_audio.delta",
        "input_audio_buffer.speech_started",
        "response.function_call_arguments.done",
        "response.created",
        "response.done",
        "error",
        "conversation_initiation_metadata",
        "audio",
        "interruption",
        "client_tool_call",
        "SettingsApplied",
        "FunctionCallRequest",
        "Error",
    ];

    proptest! {
        /// Whatever a vendor sends in the place of what it has published.
        #[test]
        fn no_message_of_a_vendor_makes_it_panic(
            vendor in prop::sample::select(&ModelVendor::ALL[..]),
            messages in prop::collection::vec((prop::sample::select(&KINDS[..]), anything(), anything()), 1..6),
        ) {
            let mut model = ModelOptions::parse(vendor, "name-1").unwrap();
            model.tools.hangup = true;
            let (mut translator, mut inbox) = (model.translators()(), Vec::new());
            for (kind, one, other) in messages {
                let message = json!({
                    "type": kind, "item_id": "i", "delta": one, "call_id": "c", "name": "hangup", "arguments": other,
                    "response": {"usage": one, "status_details": {"error": other}}, "error": one, "code": other,
                    "conversation_initiation_metadata_event": {
                        "agent_output_audio_format": "pcm_16000", "user_input_audio_format": one,
                    },
                    "audio_event": {"audio_base_64": one, "event_id": 1}, "interruption_event": other,
                    "client_tool_call": {"tool_name": "hangup", "tool_call_id": "c", "parameters": one},
                    "functions": [{"id": "f", "name": "hangup", "arguments": "{}"}, other],
                    "setupComplete": one, "serverContent": {"interrupted": true, "modelTurn": other},
                    "toolCall": {"functionCalls": [{"id": one, "name": "x", "args": other}]},
                    "toolCallCancellation": {"ids": [one]}, "usageMetadata": other,
                });
                // What it complains of is for the log, and short.
                if let Err(sentence) = translator.read(Incoming::Text(message.to_string().into()), &mut inbox) {
                    prop_assert!(sentence.len() < 500, "{sentence}");
                }
            }
        }
    }

    #[test]
    fn each_vendor_has_an_address_and_takes_its_key_in_a_header() {
        for vendor in ModelVendor::ALL {
            let mut model = ModelOptions::parse(vendor, "name-1").unwrap();
            model.key = Some("secret".into());
            let socket = model.socket();
            assert_eq!(socket.url.scheme(), "wss");
            assert!(!socket.url.as_str().contains("secret"));
            assert!(socket.headers[0].1.expose_secret().ends_with("secret"));
            assert_eq!(ModelVendor::of_scheme(vendor.scheme()), Some(vendor));
        }
        let openai = ModelOptions::parse(ModelVendor::OpenAiRealtime, "gpt-realtime").unwrap();
        assert_eq!(openai.socket().url.as_str(), "wss://api.openai.com/v1/realtime?model=gpt-realtime");
        assert!(ModelOptions::parse(ModelVendor::ElevenLabs, "a b").is_err());
    }
}
