//! Meta's webhooks: forged, broken, doubled, late, and in any order.

use std::path::Path;

use anyhow::Context;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Call, CallerOptions, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use serde_json::{Value, json};

use crate::drills::report;
use crate::people::{AGENT_HZ, SECOND, agent, caller, heard_voices, objections};
use crate::program::Program;
use crate::service::{Folder, Talk, TestOptions, TestService, counter, signature};

const EMPTY: &str = r#"{"object":"whatsapp_business_account","entry":[]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn metas_check_of_the_address_gets_its_challenge_back_and_nobody_elses_does() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let path = "/webhooks/whatsapp?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=";
    let right = service.get(&format!("{path}verify-me")).await?;
    assert_eq!((right.status, right.body.as_str()), (200, "1158201444"));
    for wrong in [format!("{path}verify-you"), path.to_owned(), "/webhooks/whatsapp".to_owned()] {
        let refused = service.get(&wrong).await?;
        assert_eq!(refused.status, 403, "{wrong}");
        assert_eq!(refused.content_type, "application/problem+json");
        assert!(!refused.body.contains("1158201444"), "{}", refused.body);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn only_meta_can_make_a_call_begin() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let call = service.unannounced(caller()).await?;
    let body = call.connect_body();
    let right = service.meta.signature(body.as_bytes());
    let other_body = service.meta.signature(EMPTY.as_bytes());
    let other_secret = signature("another-secret", body.as_bytes());
    let cut = &right[..right.len() - 2];
    let forged = [
        None,
        Some(""),
        Some("sha256="),
        Some("sha256=0000000000000000000000000000000000000000000000000000000000000000"),
        Some("sha1=da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        Some(other_body.as_str()),
        Some(other_secret.as_str()),
        Some(cut),
    ];
    let before = counter(r#"patchcord_webhooks_total{outcome="bad_signature"}"#);
    for forged in forged {
        let refused = service.post(body.clone(), forged).await?;
        assert_eq!(refused.status, 401, "{forged:?}");
        assert_eq!(refused.content_type, "application/problem+json");
        assert_eq!(service.live_calls().await?, 0, "{forged:?}");
    }
    assert_eq!(service.actions(), [] as [&str; 0]);
    assert!(counter(r#"patchcord_webhooks_total{outcome="bad_signature"}"#) >= before + forged.len() as u64);

    assert_eq!(service.post(body, Some(&right)).await?.status, 200);
    call.wait_until(Stage::PreAccepted).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_of_several_secrets_may_sign() -> anyhow::Result<()> {
    let secrets = vec!["the-old-secret".to_owned(), "the-new-secret".to_owned()];
    let options = TestOptions { more_secrets: secrets, ..TestOptions::default() };
    let service = TestService::start_with("prompt:goodbye", options).await?;
    for secret in ["the-old-secret", "the-new-secret", &service.meta.options().app_secret] {
        assert_eq!(service.post(EMPTY, Some(&signature(secret, EMPTY.as_bytes()))).await?.status, 200, "{secret}");
    }
    assert_eq!(service.post(EMPTY, Some(&signature("another-secret", EMPTY.as_bytes()))).await?.status, 401);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_body_that_cannot_be_read_is_refused_with_the_reason() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let deep = "[".repeat(100_000);
    for body in ["", "{", "null", "[]", r#"{"entry":7}"#, "\u{0}", &deep] {
        let refused = service.post_signed(body).await?;
        assert_eq!(refused.status, 400, "{body:.20}");
        assert_eq!(refused.content_type, "application/problem+json");
        let problem: Value = serde_json::from_str(&refused.body)?;
        assert_eq!(problem["status"], 400);
        assert!(problem["detail"].as_str().is_some_and(|detail| detail.len() > 10), "{problem}");
    }
    Ok(())
}

/// A name or text that was cut in the middle of an emoji, in every way.
const CUT_NAMES: [&[u8]; 5] = [br"Ana \ud83d", br"\ude00 Ana", b"Ana \xf0\x9f\x98", br"Ana \ud8", b"Ana\x00\xff"];

/// The call's connect as Meta posts it, with this in place of the caller's name.
fn connect_with_name(call: &Call, name: &[u8]) -> anyhow::Result<Vec<u8>> {
    let body = call.connect_body().into_bytes();
    let known = b"Example Caller";
    let at = body.windows(known.len()).position(|window| window == known).context("a name")?;
    Ok([&body[..at], name, &body[at + known.len()..]].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_name_is_cut_in_an_emoji_is_answered() -> anyhow::Result<()> {
    let mut service = TestService::start("prompt:goodbye").await?;
    for name in CUT_NAMES {
        let call = service.unannounced(caller()).await?;
        let body = connect_with_name(&call, name)?;
        assert_eq!(service.post_signed(body).await?.status, 200, "{name:?}");
        call.wait_until(Stage::FirstPacket).await?;
        let told = service.event("call.incoming").await?;
        assert!(told.data.to_string().contains('\u{fffd}'), "{}", told.data);
    }
    // The signature covers the original bytes, not the repaired ones.
    let call = service.unannounced(caller()).await?;
    let mended = connect_with_name(&call, "Ana \u{fffd}".as_bytes())?;
    let signature = service.meta.signature(&mended);
    let posted = service.post(connect_with_name(&call, CUT_NAMES[0])?, Some(&signature)).await?;
    assert_eq!(posted.status, 401);
    Ok(())
}

/// The malformed part is another entry of the same body, before or after the call's.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_part_of_a_body_does_not_cost_the_call_beside_it() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let deep = ["[".repeat(2000), "]".repeat(2000)].concat();
    let message = |text: &str| {
        let value = format!(r#"{{"messages":[{{"id":"wamid.1","type":"text","text":{{"body":{text}}}}}]}}"#);
        format!(r#"{{"id":"1","changes":[{{"value":{value},"field":"messages"}}]}}"#)
    };
    for bad in [
        message(r#""half \ud83d""#),
        message("1e999"),
        message(&deep),
        "null".to_owned(),
        r#"{"id":"1","changes":[{"field":"calls","value":{"calls":[{"id":null,"event":7}]}}]}"#.to_owned(),
    ] {
        for is_first in [true, false] {
            let call = service.unannounced(caller()).await?;
            let body = call.connect_body();
            let at =
                if is_first { body.find("[{").context("entries")? + 1 } else { body.rfind(']').context("entries")? };
            let with_comma = if is_first { format!("{bad},") } else { format!(",{bad}") };
            let body = format!("{}{with_comma}{}", &body[..at], &body[at..]);
            assert_eq!(service.post_signed(body).await?.status, 200, "{bad:.60}");
            call.wait_until(Stage::PreAccepted).await.with_context(|| format!("{bad:.60}"))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_webhook_is_taken_with_a_slash_behind_it_as_well() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let check = "/webhooks/whatsapp/?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=verify-me";
    let verified = service.get(check).await?;
    assert_eq!((verified.status, verified.body.as_str()), (200, "1158201444"));
    let call = service.unannounced(caller()).await?;
    assert_eq!(service.post_signed_to("/webhooks/whatsapp/", call.connect_body()).await?.status, 200);
    call.wait_until(Stage::FirstPacket).await?;
    Ok(())
}

/// A wrong address in Meta's dashboard appears in the log: once, and without its secrets.
#[tokio::test(flavor = "multi_thread")]
async fn what_misses_the_webhook_is_told_once() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let mut program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = |path: &str| format!("{}{path}", program.url());
    let first = url("/webhook/EAAGm0PX4ZCpsBA?hub.mode=subscribe&hub.verify_token=verify-me&hub.challenge=7");
    let asked = [
        (client.get(first), 404),
        (client.post(url("/webhooks/whatsapp/v2")).body(EMPTY), 404),
        (client.delete(url("/webhooks/whatsapp")), 405),
        (client.put(url("/webhooks/whatsapp/")), 405),
    ];
    for (request, status) in asked {
        assert_eq!(request.send().await?.status().as_u16(), status);
    }
    let line = program.line_with("is not the webhook's address").await?;
    assert!(line.contains("GET /webhook/… is not") && line.contains("enter /webhooks/whatsapp"), "{line}");
    let log = program.finish().await?;
    assert_eq!(log.matches("is not the webhook's address").count(), 1, "{log}");
    assert!(!log.contains("EAAGm0PX4ZCpsBA") && !log.contains("verify-me"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_too_late_are_told_once_with_their_age() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let mut program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    for _ in 0..3 {
        meta.place_call(CallerOptions { timestamp_offset_s: -300, ..caller() }).await?;
    }
    let line = program.line_with("Is this machine's clock right?").await?;
    assert!(line.contains("WARN") && line.contains("came 30"), "{line}");
    // A punctual call is answered.
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::PreAccepted).await?;
    let log = program.finish().await?;
    assert_eq!(log.matches("clock right?").count(), 1, "{log}");
    Ok(())
}

/// A clock that is 90 s fast makes every webhook look 90 s old. Two observations that agree show that it is the clock.
#[tokio::test(flavor = "multi_thread")]
async fn a_fast_clock_costs_no_calls_once_signed_webhooks_have_shown_it() -> anyhow::Result<()> {
    let bot = Agent::start(agent()).await?;
    let service = TestService::start(&bot.url()).await?;
    let late = || CallerOptions { timestamp_offset_s: -90, ..caller() };
    service.call(late()).await?;
    assert_eq!(service.live_calls().await?, 0, "one late webhook alone is a late webhook");

    // A second observation: six seconds later, spent in another call.
    let elsewhere = Talk::start(agent()).await?;
    elsewhere.call.hear_for(6 * SECOND).await?;

    let call = service.call(late()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    // A webhook that Meta repeats after an outage is still too old.
    service.call(CallerOptions { timestamp_offset_s: -300, ..caller() }).await?;
    assert_eq!(service.live_calls().await?, 1);
    report("clock 90 s fast", "1 call lost, then Meta's clock is used: 1 of 1 accepted, a stale one still refused");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_kinds_that_nobody_knows_is_taken_and_counted() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let unknown = r#"patchcord_webhook_events_total{outcome="unknown"}"#;
    let not_ours = r#"patchcord_webhook_events_total{outcome="not_ours"}"#;
    let (unknown_before, not_ours_before) = (counter(unknown), counter(not_ours));
    let value = |value: Value, field: &str| json!({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"value": value, "field": field}]}]});
    let of_a_call = json!({"calls": [{"id": "wacid.HBg", "event": "levitated", "timestamp": "1"}]});
    let status = json!({"statuses": [{"id": "wacid.HBg", "type": "call", "status": "PONDERING", "timestamp": "1"}]});
    for body in [value(of_a_call, "calls"), value(status, "calls"), value(json!({"a": 1}), "a_field_of_tomorrow")] {
        assert_eq!(service.post_signed(body.to_string()).await?.status, 200, "{body}");
    }
    assert_eq!(service.post_signed(value(json!({"messages": []}), "messages").to_string()).await?.status, 200);
    assert!(counter(unknown) >= unknown_before + 3, "{} of 3", counter(unknown) - unknown_before);
    assert!(counter(not_ours) > not_ours_before);
    assert_eq!(service.live_calls().await?, 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_meta_is_known_to_send_is_taken() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whatsapp");
    let mut posted = 0;
    for file in folder.read_dir()? {
        let path = file?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a file name")?;
        if name.starts_with("webhook-") {
            assert_eq!(service.post_signed(std::fs::read(&path)?).await?.status, 200, "{name}");
            posted += 1;
        }
    }
    assert!(posted > 20, "{posted} fixtures");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_three_mebibytes_is_too_large() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let limit = 3 * 1024 * 1024;
    let padded = |length: usize| EMPTY.to_owned() + &" ".repeat(length - EMPTY.len());
    assert_eq!(service.post_signed(padded(limit)).await?.status, 200);
    let refused = service.post_signed(padded(limit + 1)).await?;
    assert_eq!((refused.status, refused.content_type.as_str()), (413, "application/problem+json"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_with_the_end_before_the_beginning_is_no_call() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let call = service.unannounced(caller()).await?;
    let entry = |body: String| serde_json::from_str::<Value>(&body).map(|mut body| body["entry"][0].take());
    let entries = [entry(call.terminate_body())?, entry(call.connect_body())?];
    let batch = json!({"object": "whatsapp_business_account", "entry": entries});
    assert_eq!(service.post_signed(batch.to_string()).await?.status, 200);
    assert_eq!(service.live_calls().await?, 0);
    assert_eq!(service.actions(), [] as [&str; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_after_its_terminate_is_not_answered() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let call = service.unannounced(caller()).await?;
    let late = r#"patchcord_webhook_events_total{outcome="already_terminated"}"#;
    let before = counter(late);
    assert_eq!(service.post_signed(call.terminate_body()).await?.status, 200);
    assert_eq!(call.send_connect().await?, 200);
    assert_eq!(service.live_calls().await?, 0);
    assert_eq!(service.actions(), [] as [&str; 0]);
    assert!(counter(late) >= before + 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_connects_at_once_are_one_call() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let mut service = TestService::start(&agent.url()).await?;
    let call = service.unannounced(caller()).await?;
    let posts = (0..10).map(|_| call.send_connect());
    for status in futures_util::future::join_all(posts).await {
        assert_eq!(status?, 200);
    }
    assert_eq!(service.live_calls().await?, 1);
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);
    call.hang_up().await?;
    service.end_of(&call).await?;
    service.all_ended().await?;
    assert_eq!(service.actions(), ["pre_accept", "accept"]);
    assert_eq!(agent.sessions().len(), 1);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_of_five_minutes_ago_is_too_late() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let stale = r#"patchcord_webhook_events_total{outcome="stale"}"#;
    let before = counter(stale);
    service.call(CallerOptions { timestamp_offset_s: -300, ..caller() }).await?;
    assert_eq!(service.live_calls().await?, 0);
    assert_eq!(service.actions(), [] as [&str; 0]);
    assert!(counter(stale) > before);
    // A few seconds are normal: the clocks differ, and webhooks take time.
    service.call(CallerOptions { timestamp_offset_s: -20, ..caller() }).await?;
    service.meta.wait_for_request("pre_accept", 1).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_number_that_is_not_configured_is_left_alone() -> anyhow::Result<()> {
    let options = TestOptions { phone_number_id: Some("999".to_owned()), ..TestOptions::default() };
    let service = TestService::start_with("prompt:goodbye", options).await?;
    service.call(caller()).await?;
    assert_eq!(service.live_calls().await?, 0);
    assert_eq!(service.actions(), [] as [&str; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connect_that_comes_again_after_the_end_is_ignored() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let mut service = TestService::start(&agent.url()).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(call.send_connect().await?, 200);
    call.hang_up().await?;
    service.end_of(&call).await?;
    service.all_ended().await?;
    assert_eq!(call.send_connect().await?, 200);
    assert_eq!(service.post_signed(call.terminate_body()).await?.status, 200);
    assert_eq!(service.live_calls().await?, 0);
    assert_eq!(service.actions(), ["pre_accept", "accept"]);
    assert_eq!(agent.sessions().len(), 1);
    Ok(())
}
