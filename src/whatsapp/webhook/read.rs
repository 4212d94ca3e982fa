//! From Meta's JSON to notices: entry × changes × calls and statuses.

use serde_json::Value;

use super::{
    CallStatus, Connect, Direction, Malformation, Notice, Progress, SdpType, Session, Terminate, TerminateStatus,
};
use crate::whatsapp::error::{MetaError, integer};
use crate::whatsapp::permission::{CallsPaused, PermissionReply, PermissionResponse};
use crate::whatsapp::{Party, PhoneNumberId, WaCallId};

/// All notices of a webhook, at most `limit`; if there are more, the last one reports it.
pub(super) fn notices(envelope: &Value, limit: usize) -> Vec<Notice> {
    let mut notices = Notices { list: Vec::new(), limit };
    for entry in elements(&envelope["entry"]) {
        let Some(changes) = entry["changes"].as_array() else {
            notices.malformed(Malformation::Shape);
            continue;
        };
        for change in changes {
            read_change(change, &mut notices);
        }
    }
    notices.list
}

/// The notices found so far.
struct Notices {
    list: Vec<Notice>,
    limit: usize,
}

impl Notices {
    fn push(&mut self, notice: Notice) {
        if self.list.len() + 1 < self.limit {
            self.list.push(notice);
        } else if self.list.len() < self.limit {
            self.list.push(Notice::Malformed { why: Malformation::TooMany });
        }
    }

    fn malformed(&mut self, why: Malformation) {
        self.push(Notice::Malformed { why });
    }
}

/// Documented webhook fields that are not about the course of a call.
const OTHER_FIELDS: [&str; 25] = [
    "account_alerts",
    "account_review_update",
    "account_settings_update",
    "business_capability_update",
    "business_status_update",
    "flows",
    "group_lifecycle_update",
    "group_participants_update",
    "group_settings_update",
    "group_status_update",
    "history",
    "message_echoes",
    "message_template_components_update",
    "message_template_quality_update",
    "message_template_status_update",
    "messaging_handovers",
    "partner_solutions",
    "payment_configuration_update",
    "phone_number_name_update",
    "phone_number_quality_update",
    "security",
    "smb_app_state_sync",
    "smb_message_echoes",
    "template_category_update",
    "user_preferences",
];

fn read_change(change: &Value, notices: &mut Notices) {
    match change["field"].as_str() {
        Some("calls") => read_calls(&change["value"], notices),
        Some("messages") => read_messages(&change["value"], notices),
        Some("account_update") => read_account_update(&change["value"], notices),
        Some(field) if OTHER_FIELDS.contains(&field) => {
            notices.push(Notice::NotOurs { field: field.to_owned() });
        }
        Some(field) => notices.push(Notice::Unknown { field: label(field), event: String::new() }),
        None => notices.malformed(Malformation::Shape),
    }
}

fn read_calls(value: &Value, notices: &mut Notices) {
    if value["calls"].is_null() && value["statuses"].is_null() {
        return notices.malformed(Malformation::Shape);
    }
    for list in [&value["calls"], &value["statuses"]] {
        if !list.is_null() && !list.is_array() {
            notices.malformed(Malformation::Shape);
        }
    }
    for call in elements(&value["calls"]) {
        let notice = read_call(call, value);
        notices.push(notice.unwrap_or_else(|why| Notice::Malformed { why }));
    }
    for status in elements(&value["statuses"]) {
        let notice = read_status(status, value);
        notices.push(notice.unwrap_or_else(|why| Notice::Malformed { why }));
    }
}

/// Replies to permission requests are ours; everything else is another app's.
fn read_messages(value: &Value, notices: &mut Notices) {
    let messages = elements(&value["messages"]);
    let replies = messages.iter().filter_map(|message| permission_reply(message, value));
    let before = notices.list.len();
    replies.for_each(|reply| notices.push(Notice::PermissionReply(Box::new(reply))));
    if notices.list.len() - before < messages.len() || messages.is_empty() {
        notices.push(Notice::NotOurs { field: "messages".to_owned() });
    }
}

fn permission_reply(message: &Value, value: &Value) -> Option<PermissionReply> {
    let interactive = &message["interactive"];
    if interactive["type"] != "call_permission_reply" {
        return None;
    }
    let reply = &interactive["call_permission_reply"];
    let response = match reply["response"].as_str()?.to_ascii_lowercase().as_str() {
        "accept" => {
            // A time tells a temporary permission, also where `is_permanent` is missing.
            let expires_at = seconds(&reply["expiration_timestamp"]).filter(|_| reply["is_permanent"] != true);
            if expires_at.is_none() && reply["is_permanent"] == false {
                return None;
            }
            PermissionResponse::Accept { expires_at }
        }
        "reject" => PermissionResponse::Reject,
        _ => return None,
    };
    let id = |value: &Value| text(value).filter(|id| id.len() <= MAX_MESSAGE_ID);
    Some(PermissionReply {
        phone_number_id: phone_number_id(value).ok()?,
        display_phone_number: text(&value["metadata"]["display_phone_number"]),
        from: user(message, "from", text(&message["from"]), value),
        message_id: id(&message["id"]),
        timestamp: seconds(&message["timestamp"]),
        response,
        is_automatic: reply["response_source"] == "automatic",
        answers: id(&message["context"]["id"]),
    })
}

/// Ids of messages have about 80 characters.
const MAX_MESSAGE_ID: usize = 512;

/// Of a number's restrictions only that of business-initiated calls is of interest here.
fn read_account_update(value: &Value, notices: &mut Notices) {
    let pauses = elements(&value["restriction_info"]).iter();
    let pauses = pauses.filter(|pause| pause["restriction_type"] == "RESTRICTED_BUSINESS_INITIATED_CALLING");
    let until = pauses.filter_map(|pause| seconds(&pause["expiration"])).max();
    let notice = match (value["event"].as_str(), until, text(&value["phone_number"])) {
        (Some("ACCOUNT_RESTRICTION"), Some(until), Some(display_phone_number)) => {
            Notice::CallsPaused(Box::new(CallsPaused { display_phone_number, until }))
        }
        _ => Notice::NotOurs { field: "account_update".to_owned() },
    };
    notices.push(notice);
}

fn read_call(call: &Value, value: &Value) -> Result<Notice, Malformation> {
    if !call.is_object() {
        return Err(Malformation::Shape);
    }
    let call_id = call_id(call)?;
    match call["event"].as_str().ok_or(Malformation::Event)? {
        "connect" => Ok(Notice::Connect(Box::new(read_connect(call_id, call, value)?))),
        "terminate" => Ok(Notice::Terminate(Box::new(read_terminate(call_id, call, value)?))),
        event => Ok(unknown_call_event(event)),
    }
}

fn read_connect(call_id: WaCallId, call: &Value, value: &Value) -> Result<Connect, Malformation> {
    let sdp = match (text(&call["session"]["sdp"]), direction(call)) {
        (Some(sdp), _) => sdp,
        // If it were skipped, it would ring until Meta gives up; as an offer that cannot be answered it is rejected at once.
        (None, Some(Direction::UserInitiated)) => String::new(),
        (None, _) => return Err(Malformation::Session),
    };
    let (direction, sdp_type) = match (direction(call), sdp_type(call)) {
        (None, Some(SdpType::Answer)) | (Some(Direction::BusinessInitiated), _) => {
            (Direction::BusinessInitiated, SdpType::Answer)
        }
        (None | Some(Direction::UserInitiated), _) => (Direction::UserInitiated, SdpType::Offer),
    };
    if self::sdp_type(call).is_some_and(|stated| stated != sdp_type) {
        return Err(Malformation::SdpType);
    }
    let (from, to) = parties(call, value, direction);
    Ok(Connect {
        call_id,
        phone_number_id: phone_number_id(value)?,
        display_phone_number: text(&value["metadata"]["display_phone_number"]),
        direction,
        from,
        to,
        timestamp: seconds(&call["timestamp"]),
        session: Session { sdp_type, sdp },
        cta_payload: text(&call["cta_payload"]),
        deeplink_payload: text(&call["deeplink_payload"]),
        biz_opaque_callback_data: text(&call["biz_opaque_callback_data"]),
    })
}

fn read_terminate(call_id: WaCallId, call: &Value, value: &Value) -> Result<Terminate, Malformation> {
    let direction = direction(call);
    let (from, to) = parties(call, value, direction.unwrap_or_else(|| likely_direction(call)));
    Ok(Terminate {
        call_id,
        phone_number_id: phone_number_id(value)?,
        direction,
        from,
        to,
        timestamp: seconds(&call["timestamp"]),
        status: terminate_status(&call["status"]),
        start_time: seconds(&call["start_time"]),
        end_time: seconds(&call["end_time"]),
        duration_seconds: seconds(&call["duration"]),
        errors: errors(call, value),
        cta_payload: text(&call["cta_payload"]),
        deeplink_payload: text(&call["deeplink_payload"]),
        biz_opaque_callback_data: text(&call["biz_opaque_callback_data"]),
    })
}

fn read_status(status: &Value, value: &Value) -> Result<Notice, Malformation> {
    if !status.is_object() {
        return Err(Malformation::Shape);
    }
    let call_id = call_id(status)?;
    let kind = status["type"].as_str().unwrap_or("call");
    if !kind.eq_ignore_ascii_case("call") {
        return Ok(unknown_call_event(&format!("status-type:{kind}")));
    }
    let word = status["status"].as_str().ok_or(Malformation::Event)?;
    let progress = match word.to_ascii_uppercase().as_str() {
        "RINGING" => Progress::Ringing,
        "ACCEPTED" => Progress::Accepted,
        "REJECTED" => Progress::Rejected,
        _ => return Ok(unknown_call_event(&format!("status:{word}"))),
    };
    Ok(Notice::Status(Box::new(CallStatus {
        call_id,
        phone_number_id: phone_number_id(value)?,
        progress,
        timestamp: seconds(&status["timestamp"]),
        recipient: user(status, "recipient", text(&status["recipient_id"]), value),
        biz_opaque_callback_data: text(&status["biz_opaque_callback_data"]),
    })))
}

fn unknown_call_event(event: &str) -> Notice {
    Notice::Unknown { field: "calls".to_owned(), event: label(event) }
}

fn call_id(call: &Value) -> Result<WaCallId, Malformation> {
    let id = call["id"].as_str().ok_or(Malformation::CallId)?;
    WaCallId::parse(id).map_err(|_| Malformation::CallId)
}

fn phone_number_id(value: &Value) -> Result<Option<PhoneNumberId>, Malformation> {
    let id = text(&value["metadata"]["phone_number_id"]);
    let id = id.map(|id| PhoneNumberId::parse(&id)).transpose();
    id.map_err(|_| Malformation::PhoneNumberId)
}

fn direction(call: &Value) -> Option<Direction> {
    let word = call["direction"].as_str()?;
    match word.to_ascii_uppercase().as_str() {
        "USER_INITIATED" => Some(Direction::UserInitiated),
        "BUSINESS_INITIATED" => Some(Direction::BusinessInitiated),
        _ => None,
    }
}

/// Without a direction, the side with a user id is the user; the default is a call to us.
fn likely_direction(call: &Value) -> Direction {
    if call["to_user_id"].is_string() { Direction::BusinessInitiated } else { Direction::UserInitiated }
}

fn sdp_type(call: &Value) -> Option<SdpType> {
    let word = call["session"]["sdp_type"].as_str()?;
    match word.to_ascii_lowercase().as_str() {
        "offer" => Some(SdpType::Offer),
        "answer" => Some(SdpType::Answer),
        _ => None,
    }
}

fn terminate_status(status: &Value) -> TerminateStatus {
    match status.as_str().unwrap_or_default().to_ascii_uppercase().as_str() {
        "COMPLETED" => TerminateStatus::Completed,
        "FAILED" => TerminateStatus::Failed,
        "REJECTED" => TerminateStatus::Rejected,
        _ => TerminateStatus::Unstated,
    }
}

/// Meta writes a call's errors into the call, beside the calls, or both; each is kept once. Those beside
/// belong to this call only if it is the only one there.
fn errors(call: &Value, value: &Value) -> Vec<MetaError> {
    let is_alone = elements(&value["calls"]).len() == 1;
    let beside = if is_alone { elements(&value["errors"]) } else { &[] };
    let mut errors: Vec<MetaError> = Vec::new();
    for error in elements(&call["errors"]).iter().chain(beside).map(MetaError::from_json) {
        if !errors.iter().any(|known| known.code == error.code) {
            errors.push(error);
        }
    }
    errors
}

/// Both parties of a call: the business is only a number, the user has all known fields.
fn parties(call: &Value, value: &Value, direction: Direction) -> (Party, Party) {
    let (from, to) = (text(&call["from"]), text(&call["to"]));
    let business = |wa_id| Party { wa_id, ..Party::default() };
    match direction {
        Direction::UserInitiated => (user(call, "from", from, value), business(to)),
        Direction::BusinessInitiated => (business(from), user(call, "to", to, value)),
    }
}

/// The user: the call's fields with `prefix`, completed from the matching contact.
fn user(call: &Value, prefix: &str, wa_id: Option<String>, value: &Value) -> Party {
    let user_id = text(&call[format!("{prefix}_user_id").as_str()]);
    let parent_user_id = text(&call[format!("{prefix}_parent_user_id").as_str()]);
    let contact = contact(value, wa_id.as_deref(), user_id.as_deref());
    Party {
        wa_id: wa_id.or_else(|| text(&contact["wa_id"])),
        user_id: user_id.or_else(|| text(&contact["user_id"])),
        parent_user_id: parent_user_id.or_else(|| text(&contact["parent_user_id"])),
        name: text(&contact["profile"]["name"]),
        username: text(&contact["profile"]["username"]),
    }
}

/// The contact with this number or id; a single contact without either counts as the user too.
fn contact<'a>(value: &'a Value, wa_id: Option<&str>, user_id: Option<&str>) -> &'a Value {
    let contacts = elements(&value["contacts"]);
    let is_same = |known: Option<&str>, said: &Value| known.is_some() && known == said.as_str();
    let differs =
        |known: Option<&str>, said: &Value| known.zip(said.as_str()).is_some_and(|(known, said)| known != said);
    let found =
        contacts.iter().find(|contact| is_same(user_id, &contact["user_id"]) || is_same(wa_id, &contact["wa_id"]));
    let only = contacts.first().filter(|contact| {
        contacts.len() == 1 && !differs(user_id, &contact["user_id"]) && !differs(wa_id, &contact["wa_id"])
    });
    found.or(only).unwrap_or(&Value::Null)
}

fn elements(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// Text that is not empty. Older documentation gives some ids as integers, so a number counts as its digits.
#[expect(clippy::wildcard_enum_match_arm, reason = "any other JSON value is no text")]
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn seconds(value: &Value) -> Option<u64> {
    integer(value).and_then(|seconds| u64::try_from(seconds).ok())
}

/// Sanitises a foreign name for a log line or a metric's label.
fn label(name: &str) -> String {
    let keep = |letter: char| letter.is_ascii_alphanumeric() || "_.:-".contains(letter);
    name.chars().take(64).map(|letter| if keep(letter) { letter } else { '_' }).collect()
}
