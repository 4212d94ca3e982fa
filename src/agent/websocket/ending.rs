//! Ending: how a conversation over a WebSocket ended.

use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{self, error::ProtocolError};

use crate::agent::dialect::Closing;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};

/// How a conversation with an agent ended.
pub(super) enum Ending {
    /// The call has no more use for the agent.
    Dismissed(&'static str),
    /// The agent said `bye` or closed normally.
    HungUp,
    Failed(AgentFailure, Closing),
}

pub(super) fn lost(failure: AgentFailure) -> Ending {
    Ending::Failed(failure, Closing::Normal)
}

pub(super) fn of_close(frame: Option<&CloseFrame>) -> Ending {
    match frame.map(|frame| u16::from(frame.code)) {
        // 1005: a close without a code, which browsers and libraries send for a plain close().
        None | Some(1000 | 1005) => Ending::HungUp,
        // No other code means that the agent hangs up: a server that shuts down (1001) or restarts (1012) loses its
        // calls.
        Some(code) => {
            let name = close_name(code).map(|name| format!(" ({name})")).unwrap_or_default();
            lost(AgentFailureKind::Disconnected.because(format!("closed with code {code}{name}")))
        }
    }
}

/// The names in IANA's registry, for the codes that a server may send.
fn close_name(code: u16) -> Option<&'static str> {
    Some(match code {
        1001 => "going away",
        1002 => "protocol error",
        1003 => "unsupported data",
        1007 => "invalid payload data",
        1008 => "policy violation",
        1009 => "message too big",
        1010 => "mandatory extension",
        1011 => "internal error",
        1012 => "service restart",
        1013 => "try again later",
        1014 => "bad gateway",
        3000 => "unauthorized",
        3003 => "forbidden",
        3008 => "timeout",
        _ => return None,
    })
}

#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that may grow")]
pub(super) fn of_error(error: &tungstenite::Error) -> Ending {
    match error {
        tungstenite::Error::Capacity(_) => {
            Ending::Failed(AgentFailureKind::ProtocolError.because(error), Closing::TooLarge)
        }
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            lost(AgentFailureKind::Disconnected.because("the connection ended without a close frame"))
        }
        tungstenite::Error::Utf8(_) | tungstenite::Error::Protocol(_) => {
            lost(AgentFailureKind::ProtocolError.because(error))
        }
        tungstenite::Error::Io(error) => lost(AgentFailureKind::Disconnected.because(error)),
        _ => lost(AgentFailureKind::Disconnected.because(error)),
    }
}
