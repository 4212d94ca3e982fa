//! Notices: the messages of a call to its agent, independent of the dialect.

mod queue;

use std::collections::BTreeMap;
use std::time::Duration;

use patchcord_media::source::{Cleared, MarkStatus};
use serde_json::Value;

use super::SoundFormat;
use crate::call::agent_failure::AgentFailureKind;
use crate::call::command::CommandResult;
use crate::call::description::CallDescription;
use crate::call::event::{CallEvent, CallId};
use crate::call::refusal::Refusal;

pub(crate) use queue::NoticeQueue;

/// One notification to an agent.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug)]
pub enum Notice {
    /// The first notice of every agent.
    Start(Box<Start>),
    /// The caller hears the agent from now on.
    Accepted,
    /// The caller pressed a key; without the digit if the agent must not learn it.
    Dtmf { digit: Option<char>, duration_ms: u32 },
    /// The sound before a mark was played, or was cleared.
    Mark { name: String, status: MarkStatus },
    /// The agent's queued sound was cleared, at its own request or because the caller spoke.
    Cleared(Cleared),
    /// The agent's queue is full: it is to stop sending sound.
    Xoff { queued_ms: u64 },
    /// The agent's queue has room again.
    Xon { queued_ms: u64 },
    /// Something happened on the call.
    Event(Box<CallEvent>),
    /// The outcome of a command: its ids, or why it was refused. `request_id` is the agent's own, unchanged.
    CommandResult { request_id: Value, outcome: Result<CommandResult, Refusal> },
    /// The agent sent something that cannot be used; the call goes on. `message` is for its developer.
    Error { code: ErrorCode, message: String },
    /// The last notice: the call is over for this agent. `reason` is a stable name.
    Stop { reason: &'static str },
}

/// The announcement of a call, before any audio.
#[derive(Clone, Debug)]
pub struct Start {
    /// Our id of the call.
    pub call_id: CallId,
    /// Who calls whom.
    pub call: CallDescription,
    /// Our id of this connection.
    pub stream_id: String,
    /// The sound in both directions, until the agent changes it.
    pub format: SoundFormat,
    /// How much of the agent's sound is queued before it is told to stop.
    pub max_buffer: Duration,
    /// The `parameters` of the route.
    pub parameters: BTreeMap<String, String>,
    /// What the agent missed, if the connection before this one was lost.
    pub resume: Option<Resume>,
}

/// Where an agent stood whose connection was lost in the middle of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Our id of the lost connection.
    pub stream_id: String,
    /// Why it was lost.
    pub reason: AgentFailureKind,
    /// From the loss until now.
    pub away: Duration,
    /// How much of its last utterance the caller heard, and how much was dropped.
    pub cleared: Cleared,
    /// The last marks of that connection, in their order. The agent may have been told of some.
    pub marks: Vec<(String, MarkStatus)>,
    /// The sequence number of the last event that was sent to it.
    pub sequence: Option<u64>,
}

/// Why something that an agent sent cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// The message is malformed.
    BadMessage,
    /// The sound is not in the agreed format.
    BadSound,
    /// Queued sound was dropped because the format changed too often.
    SoundDropped,
    /// The caller's sound was dropped because the agent reads too slowly.
    CallerSoundDropped,
    /// The format cannot be provided.
    SoundUnavailable,
    /// Too many marks are waiting.
    TooManyMarks,
}

impl ErrorCode {
    /// The stable name, also of the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadMessage => "bad_message",
            Self::BadSound => "bad_sound",
            Self::SoundDropped => "sound_dropped",
            Self::CallerSoundDropped => "caller_sound_dropped",
            Self::SoundUnavailable => "sound_unavailable",
            Self::TooManyMarks => "too_many_marks",
        }
    }
}

impl Notice {
    /// The memory it holds, roughly: every text counts in full, everything else a little.
    pub(crate) fn size_bytes(&self) -> usize {
        let texts = match self {
            Self::Start(_) => size_of::<Start>(),
            Self::Accepted
            | Self::Dtmf { .. }
            | Self::Cleared(_)
            | Self::Xoff { .. }
            | Self::Xon { .. }
            | Self::Stop { .. } => 0,
            Self::Mark { name, .. } => name.len(),
            Self::Event(event) => {
                size_of::<CallEvent>() + event.client_state.as_ref().map_or(0, String::len) + json_bytes(&event.data)
            }
            Self::CommandResult { request_id, outcome } => {
                json_bytes(request_id) + outcome.as_ref().map_or_else(|refusal| refusal.message.len(), |_| 0)
            }
            Self::Error { message, .. } => message.len(),
        };
        size_of::<Self>() + texts
    }
}

fn json_bytes(value: &Value) -> usize {
    let inside = match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.len(),
        Value::Array(values) => values.iter().map(json_bytes).sum(),
        Value::Object(members) => members.iter().map(|(key, value)| key.len() + json_bytes(value)).sum(),
    };
    size_of::<Value>() + inside
}
