//! Every webhook that Meta is known to send, and what a hostile or careless one may hold.

use serde_json::{Value, json};

use super::*;

#[test]
fn every_fixture_yields_what_its_name_says() {
    let mut names: Vec<String> = std::fs::read_dir(FIXTURES)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with("webhook-"))
        .collect();
    names.sort();
    let table: Vec<String> = names
        .iter()
        .map(|name| {
            let notices = parse(&fixture(name)).unwrap();
            let told: Vec<String> = notices.iter().map(told).collect();
            format!("{name}: {}", told.join(", "))
        })
        .collect();
    insta::assert_snapshot!(table.join("\n"), @"
    webhook-account-settings-update.json: not ours account_settings_update
    webhook-account-update-calling-restricted.json: not ours account_update
    webhook-batch-terminate-before-connect.json: terminate Completed, duration unstated, errors [], not ours messages, connect UserInitiated Offer of 1025 bytes
    webhook-call-created-sip.json: unknown calls call_created
    webhook-call-permission-reply-accept-permanent-profile.json: permission Accept { expires_at: None }
    webhook-call-permission-reply-accept-temporary.json: permission Accept { expires_at: Some(1767772800) }, answers
    webhook-call-permission-reply-automatic-callback.json: permission Accept { expires_at: Some(1767772800) }, automatic, answers
    webhook-call-permission-reply-automatic-revoke.json: permission Reject, automatic
    webhook-call-recording-available.json: unknown calls call_recording_available
    webhook-call-transcription-available.json: unknown calls call_transcription_available
    webhook-connect-business-initiated-legacy-connection.json: connect BusinessInitiated Answer of 1463 bytes
    webhook-connect-business-initiated.json: connect BusinessInitiated Answer of 1018 bytes
    webhook-connect-user-initiated-2025-10.json: connect UserInitiated Offer of 1026 bytes
    webhook-connect-user-initiated-bsuid-payloads.json: connect UserInitiated Offer of 1025 bytes
    webhook-connect-user-initiated-no-phone-number.json: connect UserInitiated Offer of 1025 bytes
    webhook-status-accepted.json: status Accepted
    webhook-status-rejected.json: status Rejected
    webhook-status-ringing.json: status Ringing
    webhook-terminate-completed.json: terminate Completed, duration 120 s, errors []
    webhook-terminate-failed-138021.json: terminate Failed, duration 20 s, errors [138021]
    webhook-terminate-failed-doc-shape-href.json: terminate Failed, duration unstated, errors [138020]
    webhook-terminate-unanswered.json: terminate Completed, duration unstated, errors []
    webhook-unknown-event.json: unknown calls some_future_event
    ");
}

#[test]
fn a_call_to_us_brings_all_that_meta_tells() {
    let [Notice::Connect(connect)] =
        &parse(&fixture("webhook-connect-user-initiated-bsuid-payloads.json")).unwrap()[..]
    else {
        panic!("one connect");
    };
    assert!(connect.call_id.as_str().starts_with("wacid."));
    assert_eq!(connect.phone_number_id, PhoneNumberId::parse("200000000000002").ok());
    assert_eq!(connect.display_phone_number.as_deref(), Some("12025550199"));
    assert_eq!(connect.direction, Direction::UserInitiated);
    assert_eq!(
        connect.from,
        Party {
            wa_id: Some("12025550143".to_owned()),
            user_id: Some("US.13491208655302741918".to_owned()),
            parent_user_id: Some("US.ENT.11815799212886844830".to_owned()),
            name: Some("Example Caller".to_owned()),
            username: Some("example.caller".to_owned()),
        }
    );
    assert_eq!(connect.to, Party { wa_id: Some("12025550199".to_owned()), ..Party::default() });
    assert_eq!(connect.timestamp, Some(1_790_963_543));
    assert_eq!(connect.session.sdp_type, SdpType::Offer);
    assert!(connect.session.sdp.starts_with("v=0\r\n") && connect.session.sdp.ends_with("\r\n"));
    assert_eq!(connect.cta_payload.as_deref(), Some("intent=book_demo"));
    assert_eq!(connect.deeplink_payload.as_deref(), Some("campaign=autumn&src=qr"));
}

#[test]
fn a_caller_without_a_number_is_known_by_his_id() {
    let notices = parse(&fixture("webhook-connect-user-initiated-no-phone-number.json")).unwrap();
    let [Notice::Connect(connect)] = &notices[..] else { panic!("one connect") };
    assert_eq!(connect.from.wa_id, None);
    assert_eq!(connect.from.key(), Some("US.13491208655302741918"));
}

#[test]
fn the_answer_to_our_own_call_names_the_user_as_the_one_called() {
    for name in ["webhook-connect-business-initiated.json", "webhook-connect-business-initiated-legacy-connection.json"]
    {
        let notices = parse(&fixture(name)).unwrap();
        let [Notice::Connect(connect)] = &notices[..] else { panic!("one connect") };
        assert_eq!(connect.session.sdp_type, SdpType::Answer, "{name}");
        assert_eq!(connect.from.wa_id.as_deref(), Some("12025550199"), "{name}");
        assert_eq!(connect.to.wa_id.as_deref(), Some("12025550143"), "{name}");
    }
}

#[test]
fn an_error_in_both_places_is_one_error() {
    let notices = parse(&fixture("webhook-terminate-failed-138021.json")).unwrap();
    let [Notice::Terminate(terminate)] = &notices[..] else { panic!("one terminate") };
    assert_eq!(terminate.errors.len(), 1);
    assert_eq!(terminate.errors[0].code, Some(138_021));
    assert!(terminate.errors[0].details.is_some());
    assert_eq!((terminate.start_time, terminate.end_time), (Some(1_760_681_513), Some(1_760_681_533)));
    assert_eq!(terminate.duration_seconds, Some(20));
}

#[test]
fn errors_beside_several_calls_are_nobodys() {
    let body = calls(&json!([
        { "id": "wacid.1", "event": "terminate", "errors": [{ "code": 138_020 }] },
        { "id": "wacid.2", "event": "terminate" },
    ]));
    let mut body: Value = serde_json::from_slice(&body).unwrap();
    body["entry"][0]["changes"][0]["value"]["errors"] = json!([{ "code": 138_020 }]);
    let notices = parse(body.to_string().as_bytes()).unwrap();
    let [Notice::Terminate(first), Notice::Terminate(second)] = &notices[..] else { panic!("two") };
    assert_eq!((first.errors.len(), second.errors.len()), (1, 0));
}

#[test]
fn one_call_without_sense_does_not_harm_the_others() {
    let notices = parse(&calls(&json!([
        { "id": "wacid.1", "event": "terminate" },
        { "event": "terminate" },
        { "id": 7, "event": "terminate" },
        { "id": "wacid.2" },
        { "id": "wacid.3", "event": "connect" },
        { "id": "wacid.4", "event": "connect", "session": { "sdp": "" } },
        { "id": "wacid.5", "event": "connect", "direction": "USER_INITIATED", "session": { "sdp": "v=0", "sdp_type": "answer" } },
        "nonsense",
        { "id": "wacid.6", "event": "connect", "session": { "sdp": "v=0" } },
    ])))
    .unwrap();
    let told: Vec<String> = notices.iter().map(told).collect();
    insta::assert_snapshot!(told.join("\n"), @"
    terminate Unstated, duration unstated, errors []
    malformed a call without a usable id
    malformed a call without a usable id
    malformed a call without an event
    malformed a connect without an SDP
    malformed a connect without an SDP
    malformed a connect whose SDP type does not fit its direction
    malformed a part of the webhook does not have the documented structure
    connect UserInitiated Offer of 3 bytes
    ");
}

#[test]
fn words_are_compared_without_case_and_times_may_be_numbers() {
    let notices = parse(&calls(&json!([{
        "id": "wacid.1", "event": "terminate", "status": "Completed", "direction": "user_initiated",
        "timestamp": 1_790_963_668, "start_time": 1_790_963_548, "end_time": "1790963668", "duration": "120",
    }])))
    .unwrap();
    let [Notice::Terminate(terminate)] = &notices[..] else { panic!("one terminate") };
    assert_eq!(terminate.status, TerminateStatus::Completed);
    assert_eq!(terminate.direction, Some(Direction::UserInitiated));
    assert_eq!(terminate.timestamp, Some(1_790_963_668));
    assert_eq!(terminate.duration_seconds, Some(120));
}

#[test]
fn a_missing_direction_is_read_from_the_sdp() {
    for (sdp_type, direction) in [("offer", Direction::UserInitiated), ("ANSWER", Direction::BusinessInitiated)] {
        let session = json!({ "sdp": "v=0", "sdp_type": sdp_type });
        let notices = parse(&calls(&json!([{ "id": "w", "event": "connect", "session": session }]))).unwrap();
        let [Notice::Connect(connect)] = &notices[..] else { panic!("one connect") };
        assert_eq!(connect.direction, direction);
    }
}

#[test]
fn a_phone_number_id_that_could_change_a_url_is_malformed() {
    let mut body: Value = serde_json::from_slice(&calls(&json!([{ "id": "w", "event": "terminate" }]))).unwrap();
    body["entry"][0]["changes"][0]["value"]["metadata"]["phone_number_id"] = json!("../1");
    assert_eq!(parse(body.to_string().as_bytes()).unwrap(), [Notice::Malformed { why: Malformation::PhoneNumberId }]);
}

#[test]
fn unknown_names_are_cut_to_harmless_labels() {
    let event = format!("new\n{{event}}{}", "x".repeat(100));
    let notices = parse(&calls(&json!([{ "id": "w", "event": event }]))).unwrap();
    let [Notice::Unknown { field, event }] = &notices[..] else { panic!("one unknown") };
    assert_eq!(field, "calls");
    assert_eq!((event.len(), &event[..13]), (64, "new__event_xx"));
}

#[test]
fn message_receipts_on_the_field_calls_are_no_call_statuses() {
    let body = json!({ "entry": [{ "changes": [{ "field": "calls", "value": { "statuses": [
        { "id": "wamid.1", "type": "message", "status": "delivered" },
        { "id": "wacid.1", "type": "CALL", "status": "ringing" },
        { "id": "wacid.1", "type": "call", "status": "ON_HOLD" },
    ] } }] }] });
    let told: Vec<String> = parse(body.to_string().as_bytes()).unwrap().iter().map(told).collect();
    assert_eq!(told, ["unknown calls status-type:message", "status Ringing", "unknown calls status:ON_HOLD"]);
}

#[test]
fn bodies_that_are_no_webhook_are_named() {
    let deep = [b"[".repeat(1000), b"]".repeat(1000)].concat();
    let deep_in_a_string = br#"{"entry":[],"x":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\"[["}"#;
    assert_eq!(parse(b""), Err(WebhookError::NotJson));
    assert_eq!(parse(b"\xff{"), Err(WebhookError::NotJson));
    assert_eq!(parse(&b"[".repeat(100_000)), Err(WebhookError::NotJson));
    assert_eq!(parse(b"[]"), Err(WebhookError::NotAWebhook));
    assert_eq!(parse(br#"{"entry":{}}"#), Err(WebhookError::NotAWebhook));
    assert_eq!(parse(&deep), Err(WebhookError::NotAWebhook));
    assert_eq!(parse(&vec![b' '; MAX_BODY_BYTES + 1]), Err(WebhookError::TooLarge));
    assert_eq!(parse(deep_in_a_string), Ok(vec![]));
    assert_eq!(parse(br#"{"entry":[]}"#), Ok(vec![]));
}

#[test]
fn a_name_cut_in_the_middle_of_an_emoji_does_not_cost_the_call() {
    let body = fixture("webhook-connect-user-initiated-bsuid-payloads.json");
    for (cut, name) in [
        (&br"Ana \ud83d"[..], "Ana \u{fffd}"),
        (br"\ude00 Ana", "\u{fffd} Ana"),
        (b"Ana \xf0\x9f", "Ana \u{fffd}"),
        (br"\\ud83d \ud83d", "\\ud83d \u{fffd}"),
    ] {
        let notices = parse(&replaced(&body, b"Example Caller", cut)).unwrap();
        let [Notice::Connect(connect)] = &notices[..] else { panic!("one connect") };
        assert_eq!(connect.from.name.as_deref(), Some(name));
        assert_eq!(connect.session.sdp.len(), 1025);
    }
}

#[test]
fn the_webhooks_that_were_seen_with_half_an_emoji_are_read() {
    for (name, read_as) in [("half-an-emoji-high.json", "Ana \u{fffd}"), ("half-an-emoji-low.json", "\u{fffd} Ana")] {
        let body = fixture(name);
        assert!(serde_json::from_slice::<Value>(&body).is_err(), "{name} is what a strict reader refuses");
        let body = replaced(&replaced(&body, b"PNID", b"200000000000002"), b"NOW", b"1790963543");
        let notices = parse(&body).unwrap();
        let [Notice::Connect(connect)] = &notices[..] else { panic!("one connect") };
        assert_eq!(connect.from.name.as_deref(), Some(read_as));
        assert_eq!((connect.timestamp, connect.session.sdp.as_str()), (Some(1_790_963_543), "OFFER"));
    }
}

/// The bad part is a message, an entry, a change or a call; the call beside it is read all the same.
#[test]
fn nothing_that_is_wrong_with_one_part_costs_another() {
    let call = r#"{"id":"1","changes":[{"field":"calls","value":{"calls":[{"id":"w","event":"terminate"}]}}]}"#;
    let deep = ["[".repeat(1000), "]".repeat(1000)].concat();
    let message = |text: &str| format!(r#"{{"changes":[{{"field":"messages","value":{{"text":{text}}}}}]}}"#);
    for bad in [
        "null".to_owned(),
        "7".to_owned(),
        "[]".to_owned(),
        r#"{"changes":null}"#.to_owned(),
        r#"{"changes":[null,7,{"field":7},{"field":"calls","value":null}]}"#.to_owned(),
        r#"{"changes":[{"field":"calls","value":{"calls":[null,{"id":null,"event":null}],"statuses":null}}]}"#
            .to_owned(),
        r#"{"changes":[{"field":"calls","value":{"calls":[{"id":"\ud83d","event":"connect"}]}}]}"#.to_owned(),
        r#"{"changes":[{"field":"ca\ude00lls"}],"id":1,"id":"2"}"#.to_owned(),
        message(r#""\ud83d""#),
        message("1e999"),
        message("NaN"),
        message(&deep),
    ] {
        for entries in [format!("[{bad},{call}]"), format!("[{call},{bad}]")] {
            let body = format!("\u{feff}{{\"entry\":{entries}}}");
            let notices = parse(body.as_bytes()).unwrap();
            assert!(notices.iter().any(|notice| matches!(notice, Notice::Terminate(_))), "{bad:.60}: {notices:?}");
        }
    }
}

#[test]
fn a_flood_of_calls_is_bounded_and_says_so() {
    let body = calls(&Value::Array(vec![json!({}); 100_000]));
    let notices = parse(&body).unwrap();
    assert_eq!(notices.len(), MAX_NOTICES);
    assert_eq!(notices.last(), Some(&Notice::Malformed { why: Malformation::TooMany }));
}

#[test]
fn debug_output_holds_no_number_no_name_and_no_sdp() {
    for entry in std::fs::read_dir(FIXTURES).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with("webhook-") {
            let shown = format!("{:?}", parse(&fixture(&name)).unwrap());
            for hidden in ["12025550", "wacid", "HBgL", "Example", "v=0", "ice-pwd", "1349120", "intent", "job-"] {
                assert!(!shown.contains(hidden), "{name}: {shown}");
            }
        }
    }
}

proptest::proptest! {
    /// Whatever one value of a real webhook is replaced with, nothing panics and nothing else is lost.
    #[test]
    fn damaged_webhooks_never_panic(choice in 0_usize..1000, damage in 0_usize..8) {
        let mut body: Value = serde_json::from_slice(&fixture("webhook-batch-terminate-before-connect.json")).unwrap();
        let places = count(&body);
        let mut left = choice % places;
        damage_at(&mut body, &mut left, &damages()[damage]);
        let _ = parse(body.to_string().as_bytes());
    }

    #[test]
    fn foreign_bytes_never_panic(body in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
        let _ = parse(&body);
    }
}

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/whatsapp");

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{FIXTURES}/{name}")).unwrap()
}

fn replaced(body: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = body.windows(from.len()).position(|window| window == from).expect("the text is in the body");
    [&body[..at], to, &body[at + from.len()..]].concat()
}

fn calls(calls: &Value) -> Vec<u8> {
    let value = json!({ "metadata": { "phone_number_id": "200000000000002" }, "calls": calls });
    json!({ "entry": [{ "changes": [{ "field": "calls", "value": value }] }] }).to_string().into_bytes()
}

/// One notice in a few words.
fn told(notice: &Notice) -> String {
    match notice {
        Notice::Connect(connect) => format!("connect {:?} {:?}", connect.direction, connect.session),
        Notice::Terminate(terminate) => {
            let codes: Vec<_> = terminate.errors.iter().filter_map(|error| error.code).collect();
            let seconds = terminate.duration_seconds.map_or("unstated".to_owned(), |seconds| format!("{seconds} s"));
            format!("terminate {:?}, duration {seconds}, errors {codes:?}", terminate.status)
        }
        Notice::Status(status) => format!("status {:?}", status.progress),
        Notice::PermissionReply(reply) => format!(
            "permission {:?}{}{}",
            reply.response,
            if reply.is_automatic { ", automatic" } else { "" },
            if reply.answers.is_some() { ", answers" } else { "" }
        ),
        Notice::CallsPaused(pause) => format!("calls paused until {}", pause.until),
        Notice::NotOurs { field } => format!("not ours {field}"),
        Notice::Unknown { field, event } => format!("unknown {field} {event}"),
        Notice::Malformed { why } => format!("malformed {why}"),
    }
}

fn damages() -> [Value; 8] {
    [json!(null), json!(-1), json!(1.5e300), json!(""), json!([]), json!({}), json!([[[null]]]), json!(true)]
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(count).sum(),
        Value::Object(table) => table.values().map(count).sum(),
        _ => 0,
    }
}

fn damage_at(value: &mut Value, left: &mut usize, damage: &Value) {
    if *left == 0 {
        *value = damage.clone();
        *left = usize::MAX;
        return;
    }
    *left -= 1;
    match value {
        Value::Array(list) => list.iter_mut().for_each(|value| damage_at(value, left, damage)),
        Value::Object(table) => table.values_mut().for_each(|value| damage_at(value, left, damage)),
        _ => {}
    }
}
