//! Ending: how a conversation on a WebSocket ended, read from close frames and errors.

use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::error::ProtocolError;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::agent::dialect::Closing;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};

/// How a conversation with an agent ended.
pub(super) enum Ending {
    /// The call has no more use for the agent.
    Dismissed(&'static str),
    /// The agent said `bye` or closed normally.
    HungUp,
    /// The connection is gone, and another one may bring the agent back.
    Lost(AgentFailure),
    /// The agent cannot go on with this call, however it is connected.
    Failed(AgentFailure, Closing),
}

/// The close codes of RFC 6455 §7.4.1 and IANA's registry with which an agent says that another connection would be no
/// better: what it is sent is wrong, or nobody may talk with it. Any other is a failure of that one connection.
const FINAL: [u16; 8] = [1002, 1003, 1007, 1008, 1009, 1010, 3000, 3003];

/// The agent closed.
pub(super) fn ending_of_close(frame: Option<&CloseFrame>) -> Ending {
    match frame.map(|frame| u16::from(frame.code)) {
        // 1005: a close without a code, which browsers and libraries send for a plain close().
        None | Some(1000 | 1005) => Ending::HungUp,
        // No other code means that the agent hangs up: a server that shuts down (1001) or restarts (1012) loses its
        // calls.
        Some(code) => {
            let name = close_name(code).map(|name| format!(" ({name})")).unwrap_or_default();
            let failure = AgentFailureKind::Disconnected.because(format!("closed with code {code}{name}"));
            match FINAL.contains(&code) {
                true => Ending::Failed(failure, Closing::Normal),
                false => Ending::Lost(failure),
            }
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

/// Reading or writing failed.
#[expect(clippy::wildcard_enum_match_arm, reason = "a foreign enum that may grow")]
pub(super) fn ending_of(error: &tungstenite::Error) -> Ending {
    match error {
        tungstenite::Error::Capacity(_) => {
            Ending::Failed(AgentFailureKind::ProtocolError.because(error), Closing::TooLarge)
        }
        tungstenite::Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Ending::Lost(AgentFailureKind::Disconnected.because("the connection ended without a close frame"))
        }
        tungstenite::Error::Utf8(_) => Ending::Failed(AgentFailureKind::ProtocolError.because(error), Closing::NotUtf8),
        tungstenite::Error::Protocol(_) => {
            Ending::Failed(AgentFailureKind::ProtocolError.because(error), Closing::BadFrame)
        }
        tungstenite::Error::Io(error) => Ending::Lost(AgentFailureKind::Disconnected.because(error)),
        _ => Ending::Lost(AgentFailureKind::Disconnected.because(error)),
    }
}
