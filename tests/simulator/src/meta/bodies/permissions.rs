//! The bodies about call permissions: the webhook of a reply, and Graph's answers to look-ups, requests and calls.

use super::{Parties, contact, field, in_entry_of, quoted};

/// A reply to a request for permission. Times are Unix seconds.
#[derive(Debug, Clone)]
pub(crate) struct PermissionReply {
    pub(crate) id: String,
    pub(crate) at: u64,
    pub(crate) is_accepted: bool,
    /// None for good; only of one that is accepted.
    pub(crate) expires_at: Option<u64>,
    pub(crate) is_automatic: bool,
    /// The message or the call that brought it about.
    pub(crate) answers: Option<String>,
}

/// The webhook of a reply (samples of 2026-06).
pub(crate) fn permission_reply(parties: &Parties, reply: &PermissionReply) -> String {
    let source = if reply.is_automatic { "automatic" } else { "user_action" };
    let said = match (reply.is_accepted, reply.expires_at) {
        (true, Some(at)) => {
            format!(
                r#""response":"accept","is_permanent":false,"expiration_timestamp":"{at}","response_source":"{source}""#
            )
        }
        (true, None) => format!(r#""response":"accept","is_permanent":true,"response_source":"{source}""#),
        (false, _) => format!(r#""response":"reject","response_source":"{source}""#),
    };
    // Who is answered: the business, or the person who called it.
    let answered =
        if reply.is_automatic { parties.from.as_deref() } else { Some(parties.display_phone_number.as_str()) };
    let context = reply.answers.as_deref().map_or_else(String::new, |id| {
        format!(r#","context":{{{from}"id":{id}}}"#, from = field("from", answered), id = quoted(id))
    });
    let message = format!(
        r#"{{{from}{user}"id":{id},"timestamp":"{at}","type":"interactive","interactive":{{"type":"call_permission_reply","call_permission_reply":{{{said}}}}}{context}}}"#,
        from = field("from", parties.from.as_deref()),
        user = field("from_user_id", parties.user_id.as_deref()),
        id = quoted(&reply.id),
        at = reply.at,
    );
    in_entry_of(parties, "messages", &format!(r#""contacts":[{}],"messages":[{message}]"#, contact(parties)))
}

/// How far a limit is used.
pub(crate) struct Usage {
    /// ISO 8601.
    pub(crate) period: &'static str,
    pub(crate) most: usize,
    pub(crate) used: usize,
    /// Unix seconds; None while it is not reached.
    pub(crate) free_at: Option<u64>,
}

/// HTTP 200 of `GET …/call_permissions`.
pub(crate) fn call_permissions(
    (status, until): (&str, Option<u64>),
    (may_request, requests): (bool, &[Usage]),
    (may_call, calls): (bool, &[Usage]),
) -> String {
    let until = until.map_or_else(String::new, |at| format!(r#","expiration_time":{at}"#));
    let limits = |usages: &[Usage]| {
        let limits = usages.iter().map(|usage| {
            let free = usage.free_at.map_or_else(String::new, |at| format!(r#","limit_expiration_time":{at}"#));
            format!(
                r#"{{"time_period":"{}","max_allowed":{},"current_usage":{}{free}}}"#,
                usage.period, usage.most, usage.used
            )
        });
        limits.collect::<Vec<_>>().join(",")
    };
    format!(
        r#"{{"messaging_product":"whatsapp","permission":{{"status":"{status}"{until}}},"actions":[{{"action_name":"send_call_permission_request","can_perform_action":{may_request},"limits":[{requests}]}},{{"action_name":"start_call","can_perform_action":{may_call},"limits":[{calls}]}}]}}"#,
        requests = limits(requests),
        calls = limits(calls),
    )
}

/// HTTP 200 of `POST …/messages`: the contact has the number, or the user id, by which it was sent.
pub(crate) fn message_taken(to: &str, is_number: bool, id: &str) -> String {
    let key = if is_number { "wa_id" } else { "user_id" };
    format!(
        r#"{{"messaging_product":"whatsapp","contacts":[{{"input":{to},"{key}":{to}}}],"messages":[{{"id":{id}}}]}}"#,
        to = quoted(to),
        id = quoted(id),
    )
}

/// HTTP 400, code 138012, with the time of the next call.
pub(crate) fn call_limit(free_at: u64) -> String {
    format!(
        r##"{{"error":{{"message":"(#138012) Limit of connected calls reached","type":"OAuthException","code":138012,"error_data":{{"messaging_product":"whatsapp","details":"The next call is allowed at {free_at}"}},"fbtrace_id":"AsimulatedTraceId0000008"}}}}"##
    )
}

/// HTTP 400, code 138009: the person has been asked too often.
pub(crate) const REQUEST_LIMIT: &str = r##"{"error":{"message":"(#138009) Call permission request limit hit","type":"OAuthException","code":138009,"error_data":{"messaging_product":"whatsapp","details":"The limit of call permission requests to this user is reached"},"fbtrace_id":"AsimulatedTraceId0000010"}}"##;

/// HTTP 400, code 138017: a permanent permission exists.
pub(crate) const PERMANENT: &str = r##"{"error":{"message":"(#138017) Permanent permission exists","type":"OAuthException","code":138017,"error_data":{"messaging_product":"whatsapp","details":"The user has granted a permanent permission"},"fbtrace_id":"AsimulatedTraceId0000011"}}"##;

/// HTTP 401, code 138006: the person has permitted no calls.
pub(crate) const NO_PERMISSION: &str = r#"{"error":{"message":"(#138006) No approved call permission found","type":"OAuthException","code":138006,"error_data":{"messaging_product":"whatsapp","details":"No approved call permission from the recipient"},"fbtrace_id":"AsimulatedTraceId0000003"}}"#;
