//! The Graph API's replies and errors about calls and numbers.

use super::quoted;

/// HTTP 200 of `connect`.
pub(crate) fn connected(wacid: &str) -> String {
    format!(r#"{{"messaging_product":"whatsapp","calls":[{{"id":{}}}]}}"#, quoted(wacid))
}

/// HTTP 200 of `pre_accept`, `accept`, `reject`, `terminate`.
pub(crate) const SUCCESS: &str = r#"{"messaging_product":"whatsapp","success":true}"#;

/// HTTP 400, code 100, with what is wrong in `error_data.details`.
pub(crate) fn invalid_parameter(details: &str) -> String {
    format!(
        r#"{{"error":{{"message":"Invalid parameter","type":"OAuthException","code":100,"error_data":{{"messaging_product":"whatsapp","details":{details}}},"error_subcode":2494010,"is_transient":false,"error_user_title":"Parameter Invalid","error_user_msg":"Check input parameters and retry the request","fbtrace_id":"AsimulatedTraceId0000001"}}}}"#,
        details = quoted(details),
    )
}

/// HTTP 400, code 138008.
pub(crate) fn sdp_invalid(details: &str) -> String {
    format!(
        r#"{{"error":{{"message":"(#138008) SDP Validation error","type":"OAuthException","code":138008,"error_data":{{"messaging_product":"whatsapp","details":{details}}},"fbtrace_id":"AsimulatedTraceId0000002"}}}}"#,
        details = quoted(details),
    )
}

/// HTTP 401, code 190.
pub(crate) const TOKEN_EXPIRED: &str = r#"{"error":{"message":"Error validating access token: Session has expired.","type":"OAuthException","code":190,"fbtrace_id":"AsimulatedTraceId0000004"}}"#;

/// HTTP 200 of `GET …/settings`: a number that takes calls over the Graph API with DTLS.
pub(crate) const SETTINGS: &str = r#"{"calling":{"status":"ENABLED","call_icon_visibility":"DEFAULT","callback_permission_status":"ENABLED","call_hours":{"status":"DISABLED"},"sip":{"status":"DISABLED"},"srtp_key_exchange_protocol":"DTLS"}}"#;

/// HTTP 400, code 138003: a call with this user is running.
pub(crate) const BUSY: &str = r#"{"error":{"message":"(#138003) Duplicate call","type":"OAuthException","code":138003,"error_data":{"messaging_product":"whatsapp","details":"A call is already ongoing with the receiver"},"fbtrace_id":"AsimulatedTraceId0000007"}}"#;

/// HTTP 400, code 100, subcode 33: not a node of this account.
pub(crate) const UNKNOWN_NODE: &str = r#"{"error":{"message":"Unsupported post request. The object does not exist or the token cannot see it","type":"GraphMethodException","code":100,"error_subcode":33,"fbtrace_id":"AsimulatedTraceId0000005"}}"#;

/// HTTP 429, code 4.
pub(crate) const TOO_MANY: &str = r##"{"error":{"message":"(#4) Application request limit reached","type":"OAuthException","code":4,"is_transient":true,"fbtrace_id":"AsimulatedTraceId0000006"}}"##;
