//! What a phone's final response means for the call.

use super::reason::Reason;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};

/// The failure of a call that was answered with this code. The reason phrase is the phone's own text and is not repeated.
pub(super) fn failure(code: u16) -> AgentFailure {
    failure_with(code, None)
}

/// The same with the response's `Reason`, in which a gateway says what the telephone network said.
pub(super) fn failure_with(code: u16, reason: Option<&Reason>) -> AgentFailure {
    let kind = match code {
        408 | 480 | 487 => AgentFailureKind::NoAnswer,
        _ => AgentFailureKind::Refused,
    };
    let meaning = meaning(code).map(|meaning| format!(" {meaning}")).unwrap_or_default();
    let failure = match reason {
        Some(reason) => kind.because(format_args!("SIP {code}{meaning} ({reason})")),
        None => kind.because(format_args!("SIP {code}{meaning}")),
    };
    AgentFailure { sip_code: Some(code), ..failure }
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
        assert_eq!(failure(486).sip_code, Some(486));
        let reason = Reason::parse("Q.850;cause=19;text=\"No answer\"");
        assert_eq!(
            failure_with(480, reason.as_ref()).detail.as_deref(),
            Some("SIP 480 Temporarily Unavailable (Q.850 19 No answer)")
        );
        assert_eq!(failure(599).to_string(), "could not be reached: SIP 599");
    }
}
