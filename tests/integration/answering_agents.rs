//! Agents behind an HTTP endpoint that answers our WebRTC offer, through HTTP and real ICE, DTLS and SRTP.

use patchcord_simulator::agent::{AgentOptions, Pace};
use patchcord_simulator::answerer::{Answerer, Answering};
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::page::Page;
use patchcord_simulator::speech::Speech;
use serde_json::{Value, json};
use tokio::net::TcpSocket;

use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, SECOND, SECOND_AGENT_HZ, agent, caller, caller_hears_next, heard_voices,
    objections, until_caller_hears,
};
use crate::service::{Talk, TestOptions, TestService};

async fn bot(endpoint: &'static str) -> anyhow::Result<Answerer> {
    Answerer::start([(endpoint, Answering::Properly(Speech::tone(AGENT_HZ)?))]).await
}

fn route(keys: &str) -> TestOptions {
    TestOptions { route: keys.to_owned(), ..TestOptions::default() }
}

async fn they_talk(call: &Call, bot: &Page) -> anyhow::Result<()> {
    until_caller_hears(call, &[AGENT_HZ]).await?;
    assert_eq!(heard_voices(&bot.hear_next(SECOND).await?), [CALLER_HZ]);
    assert_eq!(heard_voices(&caller_hears_next(call, SECOND).await?), [AGENT_HZ]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_answers_our_offer_talks_presses_keys_and_hangs_up() -> anyhow::Result<()> {
    let answerer = bot("offer").await?;
    let options = route("parameters = { language = \"pl\" }");
    let mut service = TestService::start_with(&format!("offer:{}", answerer.url("offer")), options).await?;
    let call = service.call(caller()).await?;
    let bot = answerer.bot(0).await?;
    service.event("call.accepted").await?;
    they_talk(&call, &bot).await?;

    let offers = answerer.offers();
    let body: Value = serde_json::from_str(&offers[0].body)?;
    let facts = &body["request_data"];
    assert_eq!((offers.len(), &body["type"]), (1, &json!("offer")));
    assert_eq!((&facts["wacid"], &facts["parameters"]), (&json!(call.wacid()), &json!({ "language": "pl" })));
    assert!(facts["call_id"].as_str().is_some_and(|id| id.starts_with("call_")), "{facts}");

    call.send_dtmf("12#").await;
    for digit in ["1", "2", "#"] {
        assert_eq!(service.event("call.dtmf").await?.data["digit"], digit);
    }
    bot.press("90*").await;
    call.wait_for_digits("90*").await?;
    bot.wait_for_digits("12#").await?;

    bot.close().await;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn offers_go_as_sdp_or_as_a_form_with_the_routes_headers() -> anyhow::Result<()> {
    let headers = "headers = { Authorization = \"Bearer confidential\" }";
    let parameters = r#"parameters = { session = '{"type":"realtime"}' }"#;
    for (format, wanted) in [("sdp", "application/sdp"), ("form", "multipart/form-data")] {
        let answerer = bot("calls").await?;
        let options = route(&format!("offer_format = \"{format}\"\n{headers}\n{parameters}"));
        let mut service = TestService::start_with(&format!("offer:{}", answerer.url("calls")), options).await?;
        let call = service.call(caller()).await?;
        let bot = answerer.bot(0).await?;
        service.event("call.accepted").await?;
        they_talk(&call, &bot).await?;
        let offer = answerer.offers().remove(0);
        let header = |name| offer.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        assert_eq!(header("authorization"), "Bearer confidential");
        assert!(header("content-type").starts_with(wanted), "{format}: {}", header("content-type"));
        let has_session = offer.body.contains("name=\"session\"\r\n\r\n{\"type\":\"realtime\"}\r\n");
        assert_eq!(has_session, format == "form", "{format}");
        call.hang_up().await?;
        bot.closed().await?;
        assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    }
    Ok(())
}

/// One after the other in one call: each fails for another reason, and the last one has the caller.
#[tokio::test(flavor = "multi_thread")]
async fn each_failure_has_its_cause_in_the_event_and_the_next_agent_is_tried() -> anyhow::Result<()> {
    let no_audio = json!({ "sdp": "v=0\r\n", "type": "answer" }).to_string();
    let confidential = || "confidential".to_owned();
    let answerer = Answerer::start([
        ("forbidden", Answering::With(403, confidential())),
        ("elsewhere", Answering::Elsewhere("http://127.0.0.1/confidential".to_owned())),
        ("garbage", Answering::With(200, confidential())),
        ("long", Answering::With(200, "x".repeat(70_000))),
        ("silent", Answering::With(200, no_audio)),
        ("impostor", Answering::WrongFingerprint),
        ("good", Answering::Properly(Speech::tone(AGENT_HZ)?)),
    ])
    .await?;
    let closed = TcpSocket::new_v4()?;
    closed.bind("127.0.0.1:0".parse()?)?;
    let table = [
        (format!("http://{}/offer", closed.local_addr()?), "refused", "could not be reached: Connection refused"),
        (answerer.url("forbidden"), "refused", "HTTP 403 Forbidden"),
        (answerer.url("elsewhere"), "refused", "HTTP 307 Temporary Redirect, and redirects are not followed"),
        (answerer.url("garbage"), "protocol_error", "its answer is not JSON with"),
        (answerer.url("long"), "protocol_error", "more than 64 KiB"),
        (answerer.url("silent"), "protocol_error", "the SDP has no audio"),
        (answerer.url("impostor"), "refused", "its certificate is not the one of its SDP"),
    ];
    let mut agents: Vec<String> = table.iter().map(|(url, ..)| format!("offer:{url}")).collect();
    agents.push(format!("offer:{}", answerer.url("good")));
    let options = route(&format!("fallback = {:?}", &agents[1..]));
    let mut service = TestService::start_with(&agents[0], options).await?;
    let call = service.call(caller()).await?;
    for (url, failure, cause) in table {
        let lost = service.event("call.agent_lost").await?.data;
        let detail = lost["detail"].as_str().unwrap_or_default();
        assert_eq!(lost["failure"], failure, "{url}: {lost}");
        assert!(detail.contains(cause) && !detail.contains("confidential"), "{url}: {detail}");
    }
    they_talk(&call, &*answerer.bot(1).await?).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_never_answers_gives_way_to_the_next_agent() -> anyhow::Result<()> {
    let answerer = Answerer::start([("offer", Answering::Never)]).await?;
    let options =
        TestOptions { calls: "agent_timeout = \"1s\"".to_owned(), ..route("fallback = [\"prompt:goodbye\"]") };
    let mut service = TestService::start_with(&format!("offer:{}", answerer.url("offer")), options).await?;
    let call = service.call(caller()).await?;
    assert_eq!(service.event("call.agent_lost").await?.data["failure"], "no_answer");
    until_caller_hears(&call, &GOODBYE_NOTES_HZ).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_to_a_url_of_a_command_passes_the_egress_guard() -> anyhow::Result<()> {
    let other = Answerer::start([("offer", Answering::Properly(Speech::tone(SECOND_AGENT_HZ)?))]).await?;
    let answerer = bot("offer").await?;
    let (agent, url) = (format!("offer:{}", answerer.url("offer")), format!("offer:{}", other.url("offer")));
    for allow in ["", "[egress]\nallow = [\"127.0.0.0/8\"]"] {
        let options = TestOptions { more_routes: allow.to_owned(), ..TestOptions::default() };
        let mut service = TestService::start_with(&agent, options).await?;
        let call = service.call(caller()).await?;
        let id = service.event("call.accepted").await?.call_id;
        call.wait_until(Stage::FirstPacket).await?;
        let transferred = service.act(&id, "transfer", json!({ "url": url })).await;
        if allow.is_empty() {
            assert_eq!(transferred, Err("url_not_allowed".to_owned()));
            continue;
        }
        assert!(transferred.is_ok(), "{transferred:?}");
        service.event("call.transferred").await?;
        let second = other.bot(0).await?;
        until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
        assert_eq!(heard_voices(&second.hear_next(SECOND).await?), [CALLER_HZ]);
        answerer.bot(1).await?.closed().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_that_is_invited_is_a_participant() -> anyhow::Result<()> {
    let answerer = Answerer::start([("offer", Answering::Properly(Speech::tone(SECOND_AGENT_HZ)?))]).await?;
    let route = format!("[routes.assistant]\nagent = \"offer:{}\"", answerer.url("offer"));
    let options = TestOptions { more_routes: route, ..TestOptions::default() };
    let speaker = AgentOptions { pace: Pace::Burst, ..agent() };
    let mut talk = Talk::start_with(caller(), speaker, options).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    let invited = talk.service.act(&id, "invite", json!({ "route": "assistant", "role": "join" })).await;
    assert!(invited.is_ok(), "{invited:?}");
    let bot = answerer.bot(0).await?;
    talk.service.event("call.guest_joined").await?;
    until_caller_hears(&talk.call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(heard_voices(&bot.hear_next(SECOND).await?), [CALLER_HZ, AGENT_HZ]);
    bot.close().await;
    assert_eq!(talk.service.event("call.guest_left").await?.data["reason"], "left");
    assert_eq!(talk.service.live_calls().await?, 1);
    Ok(())
}
