//! Agent failures: why an agent could not be reached, or was lost; a kind to branch on, and the cause in words.

use std::fmt;
use std::sync::Arc;

/// The longest cause that is kept, in characters. Ours are shorter; those of a library or the system may not be.
const MAX_DETAIL_CHARS: usize = 300;

/// Why an agent could not be reached, or was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFailure {
    /// What went wrong, for programs.
    pub kind: AgentFailureKind,
    /// The cause for people, such as "HTTP 401 Unauthorized". It holds no address, header or text of the agent.
    pub detail: Option<Arc<str>>,
    /// The code with which a SIP phone refused.
    pub sip_code: Option<u16>,
}

/// What went wrong with an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentFailureKind {
    /// The route names no agent.
    NotConfigured,
    /// No connection came up, or the handshake was answered with an error.
    Refused,
    /// It did not answer within the deadline.
    NoAnswer,
    /// The connection broke, or was closed with another code than a hang-up.
    Disconnected,
    /// Nothing arrived from it for too long, not even an answer to a ping.
    Unresponsive,
    /// It broke the protocol: a message too large, text that is not UTF-8.
    ProtocolError,
    /// It read so slowly that the caller's audio could not be delivered.
    TooSlow,
    /// It sent audio so far ahead of what the caller had heard that no more was taken.
    TooFast,
    /// No agent of the queue took the caller: the queue was full or unstaffed, or the caller waited too long.
    QueueOverflow,
    /// The person is not signed in, or away.
    Unavailable,
    /// The person has another call, or wraps one up.
    Busy,
    /// The person declined the call.
    Declined,
}

impl AgentFailureKind {
    /// The stable name in events and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotConfigured => "not_configured",
            Self::Refused => "refused",
            Self::NoAnswer => "no_answer",
            Self::Disconnected => "disconnected",
            Self::Unresponsive => "unresponsive",
            Self::ProtocolError => "protocol_error",
            Self::TooSlow => "too_slow",
            Self::TooFast => "too_fast",
            Self::QueueOverflow => "queue_overflow",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Declined => "declined",
        }
    }

    /// The failure with its cause.
    pub fn because(self, cause: impl fmt::Display) -> AgentFailure {
        let detail: String = cause.to_string().chars().take(MAX_DETAIL_CHARS).collect();
        AgentFailure { kind: self, detail: Some(detail.into()), sip_code: None }
    }
}

impl From<AgentFailureKind> for AgentFailure {
    fn from(kind: AgentFailureKind) -> Self {
        Self { kind, detail: None, sip_code: None }
    }
}

impl fmt::Display for AgentFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            AgentFailureKind::NotConfigured => "is not configured",
            AgentFailureKind::Refused => "could not be reached",
            AgentFailureKind::NoAnswer => "did not answer in time",
            AgentFailureKind::Disconnected => "disconnected",
            AgentFailureKind::Unresponsive => "answered no ping",
            AgentFailureKind::ProtocolError => "broke the protocol",
            AgentFailureKind::TooSlow => "read too slowly",
            AgentFailureKind::TooFast => "sent too far ahead",
            AgentFailureKind::QueueOverflow => "was not found in the queue",
            AgentFailureKind::Unavailable => "is not available",
            AgentFailureKind::Busy => "is busy",
            AgentFailureKind::Declined => "declined the call",
        })?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_its_cause_where_one_is_known() {
        assert_eq!(AgentFailure::from(AgentFailureKind::TooSlow).to_string(), "read too slowly");
        let refused = AgentFailureKind::Refused.because("HTTP 401 Unauthorized");
        assert_eq!(refused.to_string(), "could not be reached: HTTP 401 Unauthorized");
        assert_eq!(refused.kind.name(), "refused");
        let long = AgentFailureKind::Refused.because("é".repeat(10_000));
        assert_eq!(long.detail.map(|detail| detail.chars().count()), Some(MAX_DETAIL_CHARS));
    }
}
