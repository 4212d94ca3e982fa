//! The bodies against Meta's own, byte for byte.

use super::permissions::*;
use super::replies::*;
use super::*;
use serde_json::Value;

const CONNECT: &str = include_str!("../../../fixtures/webhook-connect-user-initiated-2025-10.json");
const CONNECT_PAYLOADS: &str = include_str!("../../../fixtures/webhook-connect-user-initiated-bsuid-payloads.json");
const CONNECT_NO_NUMBER: &str = include_str!("../../../fixtures/webhook-connect-user-initiated-no-phone-number.json");
const COMPLETED: &str = include_str!("../../../fixtures/webhook-terminate-completed.json");
const UNANSWERED: &str = include_str!("../../../fixtures/webhook-terminate-unanswered.json");
const FAILED: &str = include_str!("../../../fixtures/webhook-terminate-failed-138021.json");
const FINGERPRINT: &str = include_str!("../../../fixtures/graph-error-100-fingerprint.json");
const PLACED: &str = include_str!("../../../fixtures/webhook-connect-business-initiated.json");
const STATUSES: [(&str, &str); 3] = [
    ("RINGING", include_str!("../../../fixtures/webhook-status-ringing.json")),
    ("ACCEPTED", include_str!("../../../fixtures/webhook-status-accepted.json")),
    ("REJECTED", include_str!("../../../fixtures/webhook-status-rejected.json")),
];
const CONNECTED: &str = include_str!("../../../fixtures/graph-connect-response.json");
const REPLIES: [&str; 4] = [
    include_str!("../../../fixtures/webhook-call-permission-reply-accept-temporary.json"),
    include_str!("../../../fixtures/webhook-call-permission-reply-accept-permanent-profile.json"),
    include_str!("../../../fixtures/webhook-call-permission-reply-automatic-callback.json"),
    include_str!("../../../fixtures/webhook-call-permission-reply-automatic-revoke.json"),
];
const CALL_PERMISSIONS: &str = include_str!("../../../fixtures/graph-call-permissions-response.json");
const NO_PERMISSION_FIXTURE: &str = include_str!("../../../fixtures/graph-error-138006-no-permission.json");
const VECTORS: &str = include_str!("../../../fixtures/signature-vectors.json");

#[test]
fn the_connect_webhook_is_the_captured_one_byte_for_byte() {
    let (parties, offer, timestamp) = from_fixture(CONNECT);
    assert_eq!(connect(&parties, timestamp, &offer), compact(CONNECT));
}

#[test]
fn user_ids_payloads_and_missing_numbers_stand_where_they_stand_at_meta() {
    for fixture in [CONNECT_PAYLOADS, CONNECT_NO_NUMBER] {
        let (parties, offer, timestamp) = from_fixture(fixture);
        assert_eq!(connect(&parties, timestamp, &offer), without_parents(&compact(fixture)));
    }
}

#[test]
fn the_three_terminate_webhooks_are_metas() {
    let (parties, _, _) = from_fixture(COMPLETED);
    let opaque = Some("bridge-session-42".to_owned());
    let ending = Ending { at: 1_790_963_668, start: Some(1_790_963_548), heard_nothing: false, opaque };
    assert_eq!(terminate(&parties, &ending), without_parents(&compact(COMPLETED)));
    let (parties, _, _) = from_fixture(UNANSWERED);
    let ending = Ending { at: 1_790_963_590, start: None, heard_nothing: false, opaque: None };
    assert_eq!(terminate(&parties, &ending), compact(UNANSWERED));
    let (parties, _, _) = from_fixture(FAILED);
    let ending = Ending { at: 1_760_681_533, start: Some(1_760_681_513), heard_nothing: true, opaque: None };
    assert_eq!(terminate(&parties, &ending), compact(FAILED));
}

#[test]
fn the_webhooks_of_a_placed_call_are_metas() {
    let (mut parties, answer, timestamp) = from_fixture(PLACED);
    parties.direction = Direction::BusinessInitiated;
    parties.from = Some("12025550143".to_owned());
    let opaque = Some("job-7f3a");
    assert_eq!(connect_answer(&parties, timestamp, &answer, opaque), without_parents(&compact(PLACED)));
    for (name, fixture) in STATUSES {
        let json: Value = serde_json::from_str(fixture).unwrap();
        let at = &json["entry"][0]["changes"][0]["value"]["statuses"][0]["timestamp"];
        let ours = status(&parties, name, at.as_str().unwrap().parse().unwrap(), opaque);
        assert_eq!(ours, without_parents(&compact(fixture)));
    }
    assert_eq!(connected(&parties.wacid), compact(CONNECTED));
}

#[test]
fn replies_and_look_ups_of_permissions_are_metas() {
    for fixture in REPLIES {
        let json: Value = serde_json::from_str(fixture).unwrap();
        let value = &json["entry"][0]["changes"][0]["value"];
        let (contact, message) = (&value["contacts"][0], &value["messages"][0]);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let parties = Parties {
            direction: Direction::UserInitiated,
            waba_id: text(&json["entry"][0]["id"]).unwrap(),
            phone_number_id: text(&value["metadata"]["phone_number_id"]).unwrap(),
            display_phone_number: text(&value["metadata"]["display_phone_number"]).unwrap(),
            wacid: String::new(),
            from: text(&contact["wa_id"]),
            user_id: text(&contact["user_id"]),
            username: text(&contact["profile"]["username"]),
            name: text(&contact["profile"]["name"]).unwrap(),
            cta_payload: None,
            deeplink_payload: None,
        };
        let said = &message["interactive"]["call_permission_reply"];
        let reply = PermissionReply {
            id: text(&message["id"]).unwrap(),
            at: message["timestamp"].as_str().unwrap().parse().unwrap(),
            is_accepted: said["response"] == "accept",
            expires_at: said["expiration_timestamp"].as_str().map(|at| at.parse().unwrap()),
            is_automatic: said["response_source"] == "automatic",
            answers: text(&message["context"]["id"]),
        };
        assert_eq!(permission_reply(&parties, &reply), without_parents(&compact(fixture)));
    }
    let usage = |period, most, used, free_at| Usage { period, most, used, free_at };
    let ours = call_permissions(
        ("temporary", Some(1_745_343_479)),
        (true, &[usage("PT24H", 1, 0, None), usage("P7D", 2, 1, None)]),
        (false, &[usage("PT24H", 100, 100, Some(1_745_622_600))]),
    );
    assert_eq!(ours, compact(CALL_PERMISSIONS));
    assert_eq!(
        NO_PERMISSION,
        compact(NO_PERMISSION_FIXTURE).replace("AexampleTraceId000000003", "AsimulatedTraceId0000003")
    );
}

#[test]
fn the_captured_error_is_ours_but_for_the_trace_id() {
    let ours = invalid_parameter("Fingerprint algo is not SHA256");
    assert_eq!(ours, compact(FINGERPRINT).replace("AexampleTraceId000000001", "AsimulatedTraceId0000001"));
}

#[test]
fn every_body_is_json() {
    let made = [sdp_invalid("a \"b\""), call_limit(1), message_taken("1", true, "wamid.1")];
    let fixed =
        [SUCCESS, SETTINGS, TOKEN_EXPIRED, BUSY, NO_PERMISSION, UNKNOWN_NODE, TOO_MANY, REQUEST_LIMIT, PERMANENT];
    for body in made.iter().map(String::as_str).chain(fixed) {
        serde_json::from_str::<Value>(body).unwrap();
    }
}

#[test]
fn what_is_not_ascii_is_escaped_as_meta_escapes_it() {
    assert_eq!(quoted("J\u{f3}zef \u{1f600}\r\n\"\\"), r#""J\u00f3zef \ud83d\ude00\r\n\"\\""#);
}

#[test]
fn signatures_match_the_vectors() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    for vector in vectors.as_array().unwrap() {
        let body = match vector["body_file"].as_str() {
            Some("webhook-connect-user-initiated-2025-10.json") => CONNECT,
            Some(_) => FAILED,
            None => vector["body_utf8"].as_str().unwrap(),
        };
        let secret = vector["app_secret"].as_str().unwrap();
        assert_eq!(signature(secret, body.as_bytes()), vector["x_hub_signature_256"].as_str().unwrap());
    }
}

fn from_fixture(fixture: &str) -> (Parties, String, u64) {
    let json: Value = serde_json::from_str(fixture).unwrap();
    let value = &json["entry"][0]["changes"][0]["value"];
    let (call, contact) = (&value["calls"][0], &value["contacts"][0]);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let parties = Parties {
        direction: Direction::UserInitiated,
        waba_id: text(&json["entry"][0]["id"]).unwrap(),
        phone_number_id: text(&value["metadata"]["phone_number_id"]).unwrap(),
        display_phone_number: text(&value["metadata"]["display_phone_number"]).unwrap(),
        wacid: text(&call["id"]).unwrap(),
        from: text(&call["from"]),
        user_id: text(&contact["user_id"]),
        username: text(&contact["profile"]["username"]),
        name: text(&contact["profile"]["name"]).unwrap(),
        cta_payload: text(&call["cta_payload"]),
        deeplink_payload: text(&call["deeplink_payload"]),
    };
    let timestamp = call["timestamp"].as_str().unwrap().parse().unwrap();
    (parties, text(&call["session"]["sdp"]).unwrap_or_default(), timestamp)
}

/// The fixture without the white space between its tokens; key order stays.
fn compact(fixture: &str) -> String {
    let mut json = String::new();
    let (mut inside, mut escaped) = (false, false);
    for character in fixture.chars() {
        if inside || !character.is_ascii_whitespace() {
            json.push(character);
        }
        if character == '"' && !escaped {
            inside = !inside;
        }
        escaped = inside && character == '\\' && !escaped;
    }
    json
}

/// Parent ids exist only where a business has switched them on; the simulator's has not.
fn without_parents(json: &str) -> String {
    json.replace(r#","parent_user_id":"US.ENT.11815799212886844830""#, "")
        .replace(r#""from_parent_user_id":"US.ENT.11815799212886844830","#, "")
        .replace(r#""to_parent_user_id":"US.ENT.11815799212886844830","#, "")
        .replace(r#""recipient_parent_user_id":"US.ENT.11815799212886844830","#, "")
}
