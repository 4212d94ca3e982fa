//! Meta's bodies as literal JSON text: the webhooks of calls, and what all bodies are made of.

pub(crate) mod permissions;
pub(crate) mod replies;
#[cfg(test)]
mod tests;

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Who placed a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    UserInitiated,
    BusinessInitiated,
}

impl Direction {
    /// As webhooks have it.
    fn name(self) -> &'static str {
        match self {
            Self::UserInitiated => "USER_INITIATED",
            Self::BusinessInitiated => "BUSINESS_INITIATED",
        }
    }
}

/// Who a webhook is about: `from` is the user's number in either direction.
#[derive(Debug, Clone)]
pub(crate) struct Parties {
    pub(crate) direction: Direction,
    pub(crate) waba_id: String,
    pub(crate) phone_number_id: String,
    pub(crate) display_phone_number: String,
    pub(crate) wacid: String,
    pub(crate) from: Option<String>,
    pub(crate) user_id: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) name: String,
    pub(crate) cta_payload: Option<String>,
    pub(crate) deeplink_payload: Option<String>,
}

/// How a call ended, for its `terminate` webhook. Times are Unix seconds.
#[derive(Debug, Clone)]
pub(crate) struct Ending {
    pub(crate) at: u64,
    /// When `accept` returned; None if the call was never answered.
    pub(crate) start: Option<u64>,
    /// The client heard nothing for too long (138021).
    pub(crate) heard_nothing: bool,
    pub(crate) opaque: Option<String>,
}

const HEARD_NOTHING: &str = r#"[{"code":138021,"title":"WhatsApp client terminated the call due to not receiving any media for a long time. Please try again","message":"WhatsApp client terminated the call due to not receiving any media for a long time. Please try again","error_data":{"details":"WhatsApp client terminated the call due to not receiving any media for a long time."}}]"#;

/// The `connect` webhook of a user-initiated call (a capture of 2025-10, user ids as documented in 2026).
pub(crate) fn connect(parties: &Parties, timestamp: u64, offer: &str) -> String {
    let call = format!(
        r#"{{{head},"event":"connect","timestamp":"{timestamp}","direction":"USER_INITIATED",{payloads}"session":{{"sdp":{offer},"sdp_type":"offer"}}}}"#,
        head = head(parties),
        payloads = payloads(parties),
        offer = quoted(offer),
    );
    envelope(parties, &call, "")
}

/// The `connect` webhook of a call that the business placed, with the answer of Meta's relay (a sample of 2026).
pub(crate) fn connect_answer(parties: &Parties, timestamp: u64, answer: &str, opaque: Option<&str>) -> String {
    let call = format!(
        r#"{{{head},"event":"connect","timestamp":"{timestamp}","direction":"BUSINESS_INITIATED",{opaque}"session":{{"sdp_type":"answer","sdp":{answer}}}}}"#,
        head = head(parties),
        opaque = field("biz_opaque_callback_data", opaque),
        answer = quoted(answer),
    );
    envelope(parties, &call, "")
}

/// A status of a call that the business placed: `RINGING`, `ACCEPTED` or `REJECTED`.
pub(crate) fn status(parties: &Parties, status: &str, timestamp: u64, opaque: Option<&str>) -> String {
    let mut fields = vec![
        format!(r#""id":{}"#, quoted(&parties.wacid)),
        format!(r#""timestamp":"{timestamp}""#),
        r#""type":"call""#.to_owned(),
        format!(r#""status":"{status}""#),
    ];
    let more = [
        ("recipient_id", parties.from.as_deref()),
        ("recipient_user_id", parties.user_id.as_deref()),
        ("biz_opaque_callback_data", opaque),
    ];
    fields.extend(more.into_iter().filter_map(|(key, value)| Some(format!(r#""{key}":{}"#, quoted(value?)))));
    in_entry(parties, &format!(r#""statuses":[{{{}}}]"#, fields.join(",")))
}

/// The `terminate` webhook: COMPLETED with times if answered, without if not, FAILED with errors twice.
pub(crate) fn terminate(parties: &Parties, ending: &Ending) -> String {
    let times = ending.start.map_or_else(String::new, |start| {
        let duration = ending.at.saturating_sub(start);
        format!(r#""start_time":"{start}","end_time":"{end}","duration":{duration}"#, end = ending.at)
    });
    let head = format!(r#"{head},"event":"terminate""#, head = head(parties));
    let direction = parties.direction.name();
    if ending.heard_nothing {
        let comma = if times.is_empty() { "" } else { "," };
        let call = format!(
            r#"{{{head},"timestamp":"{at}","direction":"{direction}",{times}{comma}"status":"FAILED","errors":{HEARD_NOTHING}}}"#,
            at = ending.at,
        );
        return envelope(parties, &call, &format!(r#","errors":{HEARD_NOTHING}"#));
    }
    let opaque = field("biz_opaque_callback_data", ending.opaque.as_deref());
    let comma = if times.is_empty() { "" } else { "," };
    let call = format!(
        r#"{{{head},"direction":"{direction}",{payloads}{opaque}"timestamp":"{at}","status":"COMPLETED"{comma}{times}}}"#,
        payloads = payloads(parties),
        at = ending.at,
    );
    envelope(parties, &call, "")
}

fn envelope(parties: &Parties, call: &str, errors: &str) -> String {
    in_entry(parties, &format!(r#""contacts":[{}],"calls":[{call}]{errors}"#, contact(parties)))
}

fn contact(parties: &Parties) -> String {
    let mut contact = vec![format!(
        r#""profile":{{"name":{name}{username}}}"#,
        name = quoted(&parties.name),
        username =
            parties.username.as_deref().map_or_else(String::new, |name| format!(r#","username":{}"#, quoted(name))),
    )];
    contact.extend(parties.from.as_deref().map(|from| format!(r#""wa_id":{}"#, quoted(from))));
    contact.extend(parties.user_id.as_deref().map(|user| format!(r#""user_id":{}"#, quoted(user))));
    format!("{{{}}}", contact.join(","))
}

fn in_entry(parties: &Parties, value: &str) -> String {
    in_entry_of(parties, "calls", value)
}

fn in_entry_of(parties: &Parties, field: &str, value: &str) -> String {
    format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":{waba},"changes":[{{"value":{{"messaging_product":"whatsapp","metadata":{{"display_phone_number":{display},"phone_number_id":{number}}},{value}}},"field":"{field}"}}]}}]}}"#,
        waba = quoted(&parties.waba_id),
        display = quoted(&parties.display_phone_number),
        number = quoted(&parties.phone_number_id),
    )
}

/// `id`, `from`, `from_user_id`, `to`, or `id`, `to`, `to_user_id`, `from`: without a comma at the end.
fn head(parties: &Parties) -> String {
    if parties.direction == Direction::BusinessInitiated {
        return format!(
            r#""id":{id},{to}{user}"from":{from}"#,
            id = quoted(&parties.wacid),
            to = field("to", parties.from.as_deref()),
            user = field("to_user_id", parties.user_id.as_deref()),
            from = quoted(&parties.display_phone_number),
        );
    }
    format!(
        r#""id":{id},{from}{user}"to":{to}"#,
        id = quoted(&parties.wacid),
        from = field("from", parties.from.as_deref()),
        user = field("from_user_id", parties.user_id.as_deref()),
        to = quoted(&parties.display_phone_number),
    )
}

fn payloads(parties: &Parties) -> String {
    field("deeplink_payload", parties.deeplink_payload.as_deref())
        + &field("cta_payload", parties.cta_payload.as_deref())
}

/// `"key":"value",` or nothing.
fn field(key: &str, value: Option<&str>) -> String {
    value.map_or_else(String::new, |value| format!(r#""{key}":{},"#, quoted(value)))
}

/// A JSON string; like Meta's, with everything outside ASCII escaped.
fn quoted(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for unit in text.encode_utf16() {
        match char::from_u32(u32::from(unit)) {
            Some('"') => json.push_str("\\\""),
            Some('\\') => json.push_str("\\\\"),
            Some('\r') => json.push_str("\\r"),
            Some('\n') => json.push_str("\\n"),
            Some(plain @ ' '..='~') => json.push(plain),
            _ => json.push_str(&format!("\\u{unit:04x}")),
        }
    }
    json.push('"');
    json
}

/// The value of `X-Hub-Signature-256` for these bytes.
pub(crate) fn signature(app_secret: &str, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(app_secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}
