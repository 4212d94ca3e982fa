//! What the tests of all dialects need: a start, and messages as JSON.

use std::time::Duration;

use patchcord_media::opus::SampleRate;
use patchcord_media::source::Cleared;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::{Dialect, FromAgent, Incoming};
use crate::agent::notice::{Notice, Resume, Start};
use crate::agent::{Encoding, SoundFormat};
use crate::call::agent_failure::AgentFailureKind;
use crate::call::description::{BusinessNumber, CallDescription, WhatsAppUser};
use crate::call::event::CallId;

pub(super) const WIDEBAND: SoundFormat = SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz16000 };

/// A call from `+12025550143` to `+12025550199` with the parameter `language`, in the dialect's format.
pub(super) fn start(dialect: &dyn Dialect) -> Start {
    let user = WhatsAppUser { wa_id: Some("12025550143".into()), ..WhatsAppUser::default() };
    let number =
        BusinessNumber { phone_number_id: "2000".into(), display_phone_number: Some("+1 202-555-0199".into()) };
    Start {
        call_id: CallId::parse("call_01m8eg3hz2fx0gg2carcwv9cp6").unwrap(),
        call: CallDescription { user, number, ..CallDescription::default() },
        stream_id: "stream_01m8eg3hz2fx0gg2carcwv9cp7".into(),
        format: dialect.format(WIDEBAND),
        max_buffer: Duration::from_secs(120),
        parameters: [("language".to_owned(), "de".to_owned())].into(),
        resume: None,
    }
}

/// The messages that announce the call.
pub(super) fn started(dialect: &mut dyn Dialect) -> Vec<Value> {
    let start = start(dialect);
    told(dialect, &Notice::Start(Box::new(start)))
}

/// The same on a connection that takes the place of a lost one.
pub(super) fn resumed(dialect: &mut dyn Dialect) -> Vec<Value> {
    let resume = Resume {
        stream_id: "stream_01m8eg3hz2fx0gg2carcwv9cp6".into(),
        reason: AgentFailureKind::Disconnected,
        away: Duration::from_millis(300),
        cleared: Cleared::default(),
        marks: Vec::new(),
        sequence: None,
    };
    let start = Start { resume: Some(resume), ..start(dialect) };
    told(dialect, &Notice::Start(Box::new(start)))
}

/// The messages to one notice.
pub(super) fn told(dialect: &mut dyn Dialect, notice: &Notice) -> Vec<Value> {
    let mut outbox = Vec::new();
    dialect.write_notice(notice, &mut outbox);
    texts(&outbox)
}

/// Text messages as JSON, binary ones as the number of their bytes.
pub(super) fn texts(outbox: &[Message]) -> Vec<Value> {
    let text = |message: &Message| match message {
        Message::Text(text) => serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_string())),
        Message::Binary(bytes) => bytes.len().into(),
        other => panic!("{other:?} is no message of a dialect"),
    };
    outbox.iter().map(text).collect()
}

/// What one text message of the agent says.
pub(super) fn read(dialect: &mut dyn Dialect, text: &str) -> Result<Vec<FromAgent>, String> {
    let mut inbox = Vec::new();
    dialect.read(Incoming::Text(text.into()), &mut inbox).map(|()| inbox)
}
