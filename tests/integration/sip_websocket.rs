//! SIP phones in browsers: they register over a WebSocket and talk over WebRTC.

use anyhow::Context;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::callee::CalleeOptions;
use patchcord_simulator::page::Direction;
use patchcord_simulator::sip_phone::{SipAnswer, SipPhone, SipPhoneOptions};
use patchcord_simulator::sound::{self, PHONE_RATE};
use patchcord_simulator::speech::Speech;
use patchcord_simulator::web_phone::{WebPhone, WebPhoneOptions};
use tokio_tungstenite::tungstenite::Message;

use crate::people::{
    AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, VOICES, caller, objections, until_caller_hears,
};
use crate::service::{DEADLINE, TestOptions, TestService};

const PASSWORD: &str = "a password for ana";
const NUMBER: &str = "12025550143";

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_in_a_browser_registers_rings_and_talks() -> anyhow::Result<()> {
    let (mut service, call, phone) = talking().await?;
    let invite = phone.request("INVITE").await?;
    let target = invite.start.to_ascii_lowercase();
    assert!(target.contains(".invalid;transport=ws"), "the phone's own address: {invite}");
    let has = |name: &str, part: &str| invite.header(name).is_some_and(|value| value.contains(part));
    assert!(has("Via", "SIP/2.0/WS") && has("Contact", "transport=WS"), "{invite}");
    assert!(invite.body.contains("UDP/TLS/RTP/SAVPF") && invite.body.contains("a=ice-ufrag:"), "{invite}");
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());

    assert_eq!(phone.hang_up().await?, 200);
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["hung_up_by"]), (&"agent_hung_up".into(), &"agent".into()), "{ended}");
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_ends_the_phones_call() -> anyhow::Result<()> {
    let (mut service, call, phone) = talking().await?;
    let page = phone.page().await?;
    call.hang_up().await?;
    let bye = phone.request("BYE").await?;
    assert!(bye.header("Reason").is_some_and(|reason| reason.starts_with("SIP;cause=200")), "{bye}");
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    page.closed().await?;
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_cancels_the_ringing_phone() -> anyhow::Result<()> {
    let (service, phone) = registered(false, "").await?;
    let call = service.call(caller()).await?;
    phone.request("INVITE").await?;
    call.hang_up().await?;
    phone.request("CANCEL").await?;
    phone.request("ACK").await?;
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_refuses_or_answers_with_other_audio_is_followed_by_the_fallback() -> anyhow::Result<()> {
    for (code, body, failure) in [(486, "", "refused"), (200, "v=0\r\nrubbish", "protocol_error")] {
        let (mut service, phone) = registered(false, "").await?;
        let call = service.call(caller()).await?;
        phone.request("INVITE").await?;
        phone.respond(code, &["Content-Type: application/sdp".to_owned()], body).await?;
        assert_eq!(service.event("call.agent_lost").await?.data["failure"], failure);
        assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_holds_the_caller_and_comes_back_in_the_same_connection() -> anyhow::Result<()> {
    let (mut service, call, phone) = talking().await?;
    let page = phone.page().await?;
    for (direction, answered) in [(Direction::SendOnly, "a=recvonly"), (Direction::Inactive, "a=inactive")] {
        let response = phone.reinvite(&page.offer_again(direction).await?).await?;
        assert_eq!(response.code(), Some(200), "{response}");
        assert!(response.body.contains(answered), "{response}");
        page.take_answer(&response.body).await?;
        until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;

        let response = phone.reinvite(&page.offer_again(Direction::SendRecv).await?).await?;
        assert_eq!(response.code(), Some(200), "{response}");
        page.take_answer(&response.body).await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        until_phone_hears(&phone, &[CALLER_HZ]).await?;
    }
    assert_eq!(objections(&call), [], "{}", call.seen());
    assert_eq!(phone.hang_up().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_changes_networks_restarts_ice_by_a_reinvite() -> anyhow::Result<()> {
    let (_service, call, phone) = talking().await?;
    let page = phone.page().await?;
    let restarted = phone.reinvite(&page.offer_elsewhere().await?).await?;
    assert_eq!(restarted.code(), Some(200), "{restarted}");
    page.take_answer(&restarted.body).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_cannot_be_made_is_refused_and_the_call_goes_on() -> anyhow::Result<()> {
    let (service, call, phone) = talking().await?;
    let page = phone.page().await?;
    let offer =
        page.answer().replace("a=setup:active", "a=setup:actpass").replace("a=setup:passive", "a=setup:actpass");
    let fingerprint = offer.lines().find(|line| line.starts_with("a=fingerprint:")).context("a fingerprint")?;
    let other = format!("a=fingerprint:sha-256 {}", ["AA"; 32].join(":"));
    for changed in [&offer.replace(fingerprint, &other), "v=0\r\nrubbish\r\n", ""] {
        assert_eq!(phone.reinvite(changed).await?.code(), Some(488), "{changed}");
    }
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    assert_eq!(service.live_calls().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_pressed_both_ways() -> anyhow::Result<()> {
    let (mut service, call, phone) = talking().await?;
    let page = phone.page().await?;
    call.send_dtmf("12#").await;
    for digit in ["1", "2", "#"] {
        assert_eq!(service.event("call.dtmf").await?.data["digit"], digit);
    }
    let relay = ["Content-Type: application/dtmf-relay"];
    let response = phone.send("INFO", &relay, "Signal=9\r\nDuration=160\r\n").await?;
    assert_eq!(response.code(), Some(200));
    call.wait_for_digits("9").await?;
    page.press("0*").await;
    call.wait_for_digits("90*").await?;
    page.wait_for_digits("12#").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_in_a_browser_hands_its_caller_over() -> anyhow::Result<()> {
    let speech = Speech::tone(SECOND_AGENT_HZ)?;
    let options =
        SipPhoneOptions { speech, tone_hz: SECOND_AGENT_HZ, answer: SipAnswer::Answer, ..SipPhoneOptions::default() };
    let second = SipPhone::start(options).await?;
    let (mut service, phone) =
        registered(true, &format!("listen = [\"udp:127.0.0.1:0\"]\nrefer_to = [\"{}\"]", second.uri())).await?;
    let call = service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let refused = phone.send("REFER", &["Refer-To: <sip:premium@192.0.2.1>"], "").await?;
    assert_eq!(refused.code(), Some(403));
    let response = phone.send("REFER", &[&format!("Refer-To: <{}>", second.uri())], "").await?;
    assert_eq!(response.code(), Some(202));
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    let told = phone.wait_for("the last NOTIFY", |message| {
        let is_over = message.header("Subscription-State").is_some_and(|state| state.starts_with("terminated"));
        is_over.then(|| message.body.clone())
    });
    assert_eq!(told.await?, "SIP/2.0 200 OK\r\n");
    phone.request("BYE").await?;
    assert_eq!(service.event("call.transferred").await?.data["completed"], true);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_in_a_browser_calls_a_whatsapp_user() -> anyhow::Result<()> {
    let options = TestOptions { sip: in_browsers("", "may_call = true"), ..TestOptions::default() };
    let mut service = TestService::start_with("prompt:goodbye", options).await?;
    let callee = service.meta.permit(CalleeOptions { person: caller(), ..CalleeOptions::default() });
    let phone = WebPhone::connect(&url(&service), ana(true)?).await?;
    assert_eq!(phone.register(600).await?.code(), Some(200));
    let picking_up = async {
        let call = callee.next_call().await?;
        call.wait_until(Stage::MediaUp).await?;
        anyhow::ensure!(call.pick_up().await? == 200);
        anyhow::Ok(call)
    };
    let (answered, call) = tokio::join!(phone.call(NUMBER), picking_up);
    let (answered, call) = (answered?, call?);
    assert_eq!(answered.code(), Some(200), "{answered}");
    assert!(answered.body.contains("UDP/TLS/RTP/SAVPF"), "{answered}");
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    let page = phone.page().await?;
    let held = phone.reinvite(&page.offer_again(Direction::SendOnly).await?).await?;
    assert_eq!(held.code(), Some(200), "{held}");
    page.take_answer(&held.body).await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    assert_eq!(phone.hang_up().await?, 200);
    assert_eq!(service.event("call.ended").await?.data["reason"], "agent_hung_up");
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused_and_nobody_is_called() -> anyhow::Result<()> {
    let mut service = service("").await?;
    let guess = WebPhoneOptions { password: "a guess".to_owned(), ..ana(true)? };
    let phone = WebPhone::connect(&url(&service), guess).await?;
    assert_eq!(phone.register(600).await?.code(), Some(403));
    let call = service.call(caller()).await?;
    assert_eq!(service.event("call.agent_lost").await?.data["attempt"], 0);
    service.end_of(&call).await?;
    assert!(phone.received().iter().all(|message| message.method().is_none()), "nothing but answers");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_whose_socket_is_gone_is_not_called() -> anyhow::Result<()> {
    let (mut service, phone) = registered(true, "").await?;
    phone.send_frame(Message::Close(None)).await?;
    phone.closed().await?;
    drop(phone);
    let call = service.call(caller()).await?;
    assert_eq!(service.event("call.agent_lost").await?.data["attempt"], 0);
    service.end_of(&call).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_opened_for_sip_from_our_own_pages_only() -> anyhow::Result<()> {
    let open = service("").await?;
    let host = open.url("").trim_start_matches("http://").trim_end_matches('/').to_owned();
    let closed = TestService::start_with("prompt:goodbye", TestOptions::default()).await?;
    let allowed = format!("http://{host}");
    for (service, headers, status, code) in [
        (&closed, &[("Sec-WebSocket-Protocol", "sip")][..], 404, "no_sip"),
        (&open, &[], 400, "no_subprotocol"),
        (&open, &[("Sec-WebSocket-Protocol", "chat")], 400, "no_subprotocol"),
        (&open, &[("Sec-WebSocket-Protocol", "sip"), ("Origin", "https://evil.example")], 403, "origin_refused"),
        (&open, &[("Sec-WebSocket-Protocol", "chat, sip"), ("Origin", allowed.as_str())], 101, ""),
        (&open, &[("Sec-WebSocket-Protocol", "sip"), ("Origin", "https://app.example.com")], 101, ""),
    ] {
        let (found, body) = handshake(service, headers).await?;
        assert_eq!(found, status, "{headers:?} {body}");
        assert!(body.contains(code), "{body}");
    }
    let plain = open.get("/sip").await?;
    assert_eq!(plain.status, 400);
    assert!(plain.body.contains("not_a_websocket"), "{}", plain.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_frames_harm_no_call() -> anyhow::Result<()> {
    let (service, call, phone) = talking().await?;
    let url = url(&service);
    let register = "REGISTER sip:127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/WS x.invalid;branch=z9hG4bK1\r\n";
    for frame in [
        Message::text("rubbish"),
        Message::binary(vec![0xff; 1000]),
        Message::text("\r\n\r\n"),
        Message::text(""),
        Message::text(register),
        Message::text(format!(
            "{register}From: <sip:a@b>;tag=1\r\nTo: <sip:a@b>\r\nCall-ID: x\r\nCSeq: 1 REGISTER\r\nContent-Length: 99\r\n\r\nhalf"
        )),
        Message::text("x".repeat(1024 * 1024)),
        Message::Ping(vec![1; 100].into()),
    ] {
        let stranger = WebPhone::connect(&url, ana(true)?).await?;
        stranger.send_frame(frame).await?;
        drop(stranger);
    }
    // A known phone has what it had.
    assert_eq!(phone.send("OPTIONS", &[], "").await?.code(), Some(200));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    until_phone_hears(&phone, &[CALLER_HZ]).await?;
    assert_eq!(service.live_calls().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_sends_rubbish_is_banned_and_its_socket_closed() -> anyhow::Result<()> {
    let service = service("").await?;
    let stranger = WebPhone::connect(&url(&service), ana(true)?).await?;
    for _ in 0..10 {
        stranger.send_frame(Message::text("rubbish")).await?;
    }
    stranger.closed().await?;
    let (status, body) = handshake(&service, &[("Sec-WebSocket-Protocol", "sip")]).await?;
    assert_eq!(status, 403, "{body}");
    assert!(body.contains("banned"), "{body}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_sockets_of_strangers_leave_room_for_a_phone() -> anyhow::Result<()> {
    let (service, call, phone) = talking().await?;
    let mut strangers = Vec::new();
    let mut refused = 0;
    for _ in 0..1000 {
        match WebPhone::connect(&url(&service), ana(true)?).await {
            Ok(stranger) => strangers.push(stranger),
            Err(_) => refused += 1,
        }
    }
    // Strangers are closed after some seconds, and a slow machine lets others in then.
    assert!(refused > 500, "{refused} of 1000 were refused");
    assert_eq!(phone.send("OPTIONS", &[], "").await?.code(), Some(200));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    drop(strangers);
    Ok(())
}

/// A service that calls ana's phones.
async fn service(sip: &str) -> anyhow::Result<TestService> {
    let options = TestOptions {
        sip: in_browsers(sip, ""),
        http: "allow_origins = [\"https://app.example.com\"]".to_owned(),
        route: "fallback = [\"prompt:goodbye\"]".to_owned(),
        ..TestOptions::default()
    };
    TestService::start_with("sip-user:ana", options).await
}

/// The section with these keys, and ana with those.
fn in_browsers(sip: &str, of_ana: &str) -> String {
    format!("[sip]\nwebsocket = true\n{sip}\n[[sip.users]]\nname = \"ana\"\npassword = \"{PASSWORD}\"\n{of_ana}\n")
}

fn url(service: &TestService) -> String {
    service.url("/sip").replace("http://", "ws://")
}

fn ana(answers: bool) -> anyhow::Result<WebPhoneOptions> {
    Ok(WebPhoneOptions {
        user: "ana".to_owned(),
        password: PASSWORD.to_owned(),
        domain: "127.0.0.1".to_owned(),
        speech: Speech::tone(AGENT_HZ)?,
        answers,
    })
}

/// The same, with a phone of hers.
async fn registered(answers: bool, sip: &str) -> anyhow::Result<(TestService, WebPhone)> {
    let service = service(sip).await?;
    let phone = WebPhone::connect(&url(&service), ana(answers)?).await?;
    let response = phone.register(600).await?;
    anyhow::ensure!(response.code() == Some(200), "{response}");
    Ok((service, phone))
}

/// The same, with a caller who hears her.
async fn talking() -> anyhow::Result<(TestService, Call, WebPhone)> {
    let (service, phone) = registered(true, "").await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    Ok((service, call, phone))
}

async fn until_phone_hears(phone: &WebPhone, tones_hz: &[f64]) -> anyhow::Result<()> {
    let page = phone.page().await?;
    let waiting = async {
        loop {
            if sound::voices_heard(&page.hear_next(SECOND).await?, PHONE_RATE, &VOICES) == tones_hz {
                return anyhow::Ok(());
            }
        }
    };
    tokio::time::timeout(DEADLINE, waiting).await.context("the phone does not hear what it should")?
}

/// The status of an upgrade with these headers, and the body of a refusal.
async fn handshake(service: &TestService, headers: &[(&'static str, &str)]) -> anyhow::Result<(u16, String)> {
    let mut request = reqwest::Client::builder().no_proxy().build()?.get(service.url("/sip"));
    let of_every_upgrade = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (name, value) in of_every_upgrade.iter().chain(headers) {
        request = request.header(*name, *value);
    }
    let response = request.send().await?;
    let status = response.status().as_u16();
    let body = if status == 101 { String::new() } else { response.text().await? };
    Ok((status, body))
}
