//! What a phone's final response means for the call.

use crate::call::agent_failure::{AgentFailure, AgentFailureKind};

/// The failure of a call that was answered with this code. The reason phrase is the phone's own text and is not repeated.
pub(super) fn failure(code: u16) -> AgentFailure {
    let kind = match code {
        408 | 480 | 487 => AgentFailureKind::NoAnswer,
        _ => AgentFailureKind::Refused,
    };
    match meaning(code) {
        Some(meaning) => kind.because(format_args!("SIP {code} {meaning}")),
        None => kind.because(format_args!("SIP {code}")),
    }
}

/// RFC 3261 §21, for the codes that say something about a phone.
fn meaning(code: u16) -> Option<&'static str> {
    Some(match code {
        300..=399 => "Redirection, which is not followed",
        400 => "Bad Request",
        401 | 407 => "Authentication Required",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Request Timeout",
        410 => "Gone",
        415 => "Unsupported Media Type",
        420 => "Bad Extension",
        422 => "Session Interval Too Small",
        480 => "Temporarily Unavailable",
        484 => "Address Incomplete",
        486 | 600 => "Busy",
        487 => "Request Terminated",
        488 | 606 => "Not Acceptable",
        500 => "Server Internal Error",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_a_failure_with_its_meaning() {
        assert_eq!(failure(486).to_string(), "could not be reached: SIP 486 Busy");
        assert_eq!(failure(480).to_string(), "did not answer in time: SIP 480 Temporarily Unavailable");
        assert_eq!(failure(599).to_string(), "could not be reached: SIP 599");
    }
}
