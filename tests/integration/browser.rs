//! Browser pages as agents and participants, through HTTP and real ICE, DTLS and SRTP.

use anyhow::Context;
use patchcord::call::event::CallId;
use patchcord_simulator::agent::{AgentOptions, Pace};
use patchcord_simulator::call::{Call, CallerOptions, Stage};
use patchcord_simulator::page::Page;
use patchcord_simulator::speech::Speech;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};

use crate::api::client::{Client, WRITER};
use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next, caller,
    caller_hears_next, heard_voices, objections, until_caller_hears,
};
use crate::service::{DEADLINE, Talk, TestOptions, TestService};

const SDP: &str = "application/sdp";
const FRAGMENT: &str = "application/trickle-ice-sdpfrag";

/// A page's WebRTC session.
pub struct Session {
    token: String,
    url: String,
    etag: String,
    /// The service's answer.
    sdp: String,
    pub page: Page,
}

/// A call that rings until a page takes it.
async fn ringing(options: TestOptions) -> anyhow::Result<(TestService, Call, CallId)> {
    let options = TestOptions { route: format!("answer = \"on_command\"\n{}", options.route), ..options };
    let mut service = TestService::start_with("prompt:hold", options).await?;
    let call = service.call(caller()).await?;
    let id = service.event("call.incoming").await?.call_id;
    call.wait_until(Stage::MediaUp).await?;
    Ok((service, call, id))
}

/// A call whose agent is a page.
async fn with_page() -> anyhow::Result<(TestService, Call, CallId, Session)> {
    let (mut service, call, id) = ringing(TestOptions::default()).await?;
    let session = join(&service, &id, "agent", Speech::tone(AGENT_HZ)?).await?;
    service.event("call.agent_joined").await?;
    service.event("call.accepted").await?;
    Ok((service, call, id, session))
}

async fn token(service: &TestService, call: &CallId, body: Value) -> anyhow::Result<String> {
    let path = format!("/v1/calls/{call}/webrtc_tokens");
    let answer = Client::new(service, WRITER).ask(Method::POST, &path, Some(body.to_string().into_bytes())).await?;
    anyhow::ensure!(answer.status == 201, "{answer:?}");
    assert_eq!(answer.body["expires_in_s"], 60);
    Ok(answer.body["token"].as_str().context("a token")?.to_owned())
}

/// A request of a page.
fn request(method: Method, url: &str, token: &str) -> RequestBuilder {
    let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS can be made");
    http.request(method, url).bearer_auth(token).timeout(DEADLINE)
}

pub async fn offer(service: &TestService, call: &CallId, token: &str, sdp: &str) -> anyhow::Result<Response> {
    let url = service.url(&format!("/v1/calls/{call}/webrtc"));
    Ok(request(Method::POST, &url, token).header("content-type", SDP).body(sdp.to_owned()).send().await?)
}

/// The status and code of a refused request.
async fn refusal(response: Response) -> anyhow::Result<(u16, String)> {
    let status = response.status().as_u16();
    let body: Value = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
    Ok((status, body["code"].as_str().unwrap_or_default().to_owned()))
}

/// A page of this role, connected.
async fn join(service: &TestService, call: &CallId, role: &str, speech: Speech) -> anyhow::Result<Session> {
    let token = token(service, call, json!({ "role": role })).await?;
    let page = Page::start(speech).await?;
    let response = offer(service, call, &token, page.offer()).await?;
    let session = answered(service, response, token, page).await?;
    session.page.connected().await?;
    Ok(session)
}

pub async fn answered(service: &TestService, response: Response, token: String, page: Page) -> anyhow::Result<Session> {
    let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (location, etag, kind) = (header("location"), header("etag"), header("content-type"));
    let status = response.status().as_u16();
    let sdp = response.text().await?;
    anyhow::ensure!(status == 201, "{status} {sdp}");
    assert_eq!(kind.as_deref(), Some(SDP));
    page.take_answer(&sdp).await?;
    let url = service.url(&location.context("a location")?);
    Ok(Session { token, url, etag: etag.context("an ETag")?, sdp, page })
}

impl Session {
    async fn patch(&self, fragment: String, if_match: &str) -> anyhow::Result<Response> {
        let request = request(Method::PATCH, &self.url, &self.token).header("content-type", FRAGMENT);
        Ok(request.header("if-match", if_match).body(fragment).send().await?)
    }

    pub async fn leave(&self) -> anyhow::Result<u16> {
        Ok(request(Method::DELETE, &self.url, &self.token).send().await?.status().as_u16())
    }

    pub async fn hears(&self) -> anyhow::Result<Vec<f64>> {
        Ok(heard_voices(&self.page.hear_next(SECOND).await?))
    }
}

async fn caller_hears(call: &Call) -> anyhow::Result<Vec<f64>> {
    Ok(heard_voices(&caller_hears_next(call, SECOND).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_takes_a_ringing_call_and_both_hear_each_other() -> anyhow::Result<()> {
    let (mut service, call, _, session) = with_page().await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(session.hears().await?, [CALLER_HZ]);
    assert_eq!(caller_hears(&call).await?, [AGENT_HZ]);
    session.page.mute().await;
    caller_hears(&call).await?;
    assert_eq!(caller_hears(&call).await?, [] as [f64; 0], "a muted page is silent");
    assert_eq!(session.hears().await?, [CALLER_HZ]);
    session.page.say(Speech::tone(AGENT_HZ)?).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let line = session.page.heard_packets();
    let steps = line.windows(2).map(|pair| pair[1].timestamp.wrapping_sub(pair[0].timestamp));
    assert!(steps.into_iter().all(|step| step == 960), "the line of the page is unbroken");
    assert_eq!(session.leave().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_pressed_both_ways() -> anyhow::Result<()> {
    let (mut service, call, _, session) = with_page().await?;
    session.hears().await?;
    call.send_dtmf("12#").await;
    for digit in ["1", "2", "#"] {
        assert_eq!(service.event("call.dtmf").await?.data["digit"], digit);
    }
    session.page.press("90*").await;
    call.wait_for_digits("90*").await?;
    session.page.wait_for_digits("12#").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_trickles_and_then_changes_its_network_goes_on() -> anyhow::Result<()> {
    let (mut service, call, id) = ringing(TestOptions::default()).await?;
    let token = token(&service, &id, json!({ "role": "agent" })).await?;
    let page = Page::start(Speech::tone(AGENT_HZ)?).await?;
    let response = offer(&service, &id, &token, &page.bare_offer()).await?;
    let mut session = answered(&service, response, token, page).await?;
    assert_eq!(session.patch(session.page.fragment(), &session.etag).await?.status(), 204);
    session.page.connected().await?;
    service.event("call.accepted").await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;

    let fragment = session.page.change_network().await?;
    let response = session.patch(fragment, "*").await?;
    assert_eq!(response.status(), 200);
    let etag = response.headers()["etag"].to_str()?.to_owned();
    assert_ne!(etag, session.etag);
    session.page.take_fragment(&response.text().await?).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(session.hears().await?, [CALLER_HZ]);

    let (old, unknown) = (std::mem::replace(&mut session.etag, etag), session.page.fragment());
    assert_eq!(refusal(session.patch(unknown.clone(), &old).await?).await?, (412, "precondition_failed".to_owned()));
    let without = request(Method::PATCH, &session.url, &session.token).header("content-type", FRAGMENT).body(unknown);
    assert_eq!(refusal(without.send().await?).await?, (428, "if_match_missing".to_owned()));
    assert_eq!(refusal(session.patch("nonsense".to_owned(), "*").await?).await?, (422, "offer_refused".to_owned()));
    assert_eq!(service.live_calls().await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_vanishes_may_return_while_the_caller_hears_the_hold_prompt() -> anyhow::Result<()> {
    let (mut service, call, id, session) = with_page().await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    drop(session);
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    assert_eq!(service.live_calls().await?, 1);
    let back = join(&service, &id, "agent", Speech::tone(SECOND_AGENT_HZ)?).await?;
    service.event("call.agent_joined").await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(back.hears().await?, [CALLER_HZ]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    drop(back);
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!(ended["reason"], "agent_lost", "{ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisors_page_listens_whispers_and_leaves() -> anyhow::Result<()> {
    let speaker = AgentOptions { pace: Pace::Burst, ..agent() };
    let mut talk = Talk::start_with(caller(), speaker, TestOptions::default()).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    let listener = join(&talk.service, &id, "listen", Speech::tone(SECOND_AGENT_HZ)?).await?;
    talk.service.event("call.guest_joined").await?;
    listener.hears().await?;
    assert_eq!(listener.hears().await?, [CALLER_HZ, AGENT_HZ]);
    assert_eq!(caller_hears(&talk.call).await?, [AGENT_HZ], "a listener is not heard");
    assert_eq!(listener.leave().await?, 200);
    assert_eq!(talk.service.event("call.guest_left").await?.data["reason"], "left");

    let whisperer = join(&talk.service, &id, "whisper", Speech::tone(SECOND_AGENT_HZ)?).await?;
    talk.service.event("call.guest_joined").await?;
    let heard = agent_hears_next(&talk.session, 2 * SECOND).await?;
    assert_eq!(heard_voices(&heard[heard.len() / 2..]), [CALLER_HZ, SECOND_AGENT_HZ]);
    assert_eq!(caller_hears(&talk.call).await?, [AGENT_HZ], "a whisper is for the agent");
    assert_eq!(whisperer.hears().await?, [CALLER_HZ, AGENT_HZ]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_one_offer_to_its_call_from_its_origin() -> anyhow::Result<()> {
    let (service, _call, id) = ringing(TestOptions::default()).await?;
    let other = service.call(CallerOptions { speech: Speech::silence(), ..caller() }).await?;
    other.wait_until(Stage::MediaUp).await?;
    let page = Page::start(Speech::silence()).await?;
    let bound = token(&service, &id, json!({ "role": "agent", "origin": "https://app.example.com" })).await?;
    let url = service.url(&format!("/v1/calls/{id}/webrtc"));
    let send =
        |token: &str| request(Method::POST, &url, token).header("content-type", SDP).body(page.offer().to_owned());
    let code = async |sent: RequestBuilder| refusal(sent.send().await?).await;
    assert_eq!(code(send(&bound)).await?, (403, "token_for_another_origin".to_owned()));
    let elsewhere = send(&bound).header("origin", "https://evil.example.com");
    assert_eq!(code(elsewhere).await?, (403, "token_for_another_origin".to_owned()));
    assert_eq!(code(send("patchcordrtc_wrong")).await?, (401, "token_unknown".to_owned()));
    let mistyped =
        request(Method::POST, &url, &bound).header("origin", "https://app.example.com").body(page.bare_offer());
    assert_eq!(code(mistyped).await?, (415, "unsupported_media_type".to_owned()));
    let good = send(&bound).header("origin", "https://app.example.com");
    assert_eq!(good.send().await?.status(), 201);
    let again = send(&bound).header("origin", "https://app.example.com");
    assert_eq!(code(again).await?, (401, "token_unknown".to_owned()));

    let elsewhere = token(&service, &id, json!({ "role": "agent" })).await?;
    let calls = Client::new(&service, WRITER).get("/v1/calls?state=live").await?.body;
    let calls = calls["calls"].as_array().context("a list")?.iter().filter_map(|call| call["id"].as_str());
    let other = calls.into_iter().find(|call| *call != id.as_str()).context("the other call")?;
    let wrong = request(Method::POST, &service.url(&format!("/v1/calls/{other}/webrtc")), &elsewhere);
    let wrong = wrong.header("content-type", SDP).body(page.offer().to_owned());
    assert_eq!(code(wrong).await?, (403, "token_for_another_call".to_owned()));
    let bad_role = Client::new(&service, WRITER);
    let path = format!("/v1/calls/{id}/webrtc_tokens");
    bad_role.ask(Method::POST, &path, Some(br#"{"role": "boss"}"#.to_vec())).await?.is_problem(422, "invalid_command");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_offers_are_refused_and_the_call_goes_on() -> anyhow::Result<()> {
    let (service, call, id) = ringing(TestOptions::default()).await?;
    let token = token(&service, &id, json!({ "role": "agent" })).await?;
    let page = Page::start(Speech::silence()).await?;
    let offers = [
        String::new(),
        "v=0\r\n".to_owned(),
        "\u{0}".repeat(1000),
        page.offer().replace("opus/48000/2", "PCMU/8000"),
        page.offer().replace("a=fingerprint:sha-256", "a=fingerprint:md5"),
        page.offer().replace("m=audio 9", "m=audio 0"),
        page.offer().replace("a=ice-pwd", "a=ice-nothing"),
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n".repeat(1500),
    ];
    for sdp in offers {
        let refused = refusal(offer(&service, &id, &token, &sdp).await?).await?;
        assert_eq!(refused, (422, "offer_refused".to_owned()), "{sdp}");
    }
    let long = refusal(offer(&service, &id, &token, &"a=x\r\n".repeat(20_000)).await?).await?;
    assert_eq!(long, (413, "body_too_large".to_owned()));
    // The token is still good, and ten thousand candidates are 20.
    let many: String =
        (0..1000).map(|n| format!("a=candidate:{n} 1 udp {n} 192.0.2.1 {} typ host\r\n", 1000 + n)).collect();
    let crowded = page.offer().replace("a=end-of-candidates\r\n", "");
    let lines = 900 - crowded.lines().count();
    let many: String = many.lines().take(lines).map(|line| format!("{line}\r\n")).collect();
    assert_eq!(offer(&service, &id, &token, &(crowded + &many)).await?.status(), 201);
    assert_eq!(call.ended_by(), None, "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_of_strangers_change_nothing() -> anyhow::Result<()> {
    let (service, call, _, session) = with_page().await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let line = |name: &str| session.sdp.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let candidate = line("a=candidate:").context("a candidate")?;
    let port: u16 = candidate.split(' ').nth(5).context("a port")?.parse()?;
    let ufrag = line("a=ice-ufrag:").context("a ufrag")?;
    let stranger = tokio::net::UdpSocket::bind("127.0.0.1:0").await?;
    // A check that names the page's session, without its password.
    let name = format!("{ufrag}:page");
    let padded = name.len().next_multiple_of(4);
    let mut check = vec![0, 1, 0, 4 + padded as u8, 0x21, 0x12, 0xa4, 0x42];
    check.extend([7; 12]);
    check.extend([0, 6, 0, name.len() as u8]);
    check.extend(name.bytes());
    check.resize(24 + padded, 0);
    let rtp = [&[0x80, 111, 0, 1, 0, 0, 0, 1, 0, 0, 0, 1][..], &[0x55; 60]].concat();
    let alert = [&[21, 254, 253, 0, 0, 0, 0, 0, 0, 0, 9, 0, 2, 1, 0][..]].concat();
    for _ in 0..100 {
        for datagram in [&check, &rtp, &alert] {
            stranger.send_to(datagram, ("127.0.0.1", port)).await?;
        }
    }
    assert_eq!(session.hears().await?, [CALLER_HZ]);
    assert_eq!(caller_hears(&call).await?, [AGENT_HZ]);
    assert_eq!(service.live_calls().await?, 1);
    let mut buffer = [0; 100];
    assert!(stranger.try_recv(&mut buffer).is_err(), "a stranger gets no answer");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_pages_are_taken_and_a_page_that_never_connects_makes_room() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(caller(), agent(), TestOptions::default()).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    let mut pages = Vec::new();
    for number in 0..9 {
        let token = token(&talk.service, &id, json!({ "role": "listen" })).await?;
        let page = Page::start(Speech::silence()).await?;
        let response = offer(&talk.service, &id, &token, page.offer()).await?;
        match number {
            8 => assert_eq!(refusal(response).await?, (409, "too_many_browsers".to_owned())),
            _ => assert_eq!(response.status(), 201, "{number}"),
        }
        pages.push(page);
    }
    let left = talk.service.event("call.guest_left").await?;
    assert_eq!(left.data["reason"], "no_answer", "{:?}", left.data);
    let listener = join(&talk.service, &id, "listen", Speech::silence()).await?;
    assert_eq!(listener.hears().await?.first(), Some(&CALLER_HZ));
    assert_eq!(caller_hears(&talk.call).await?, [AGENT_HZ]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_page_takes_over_from_the_agent() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(caller(), agent(), TestOptions::default()).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    let session = join(&talk.service, &id, "agent", Speech::tone(SECOND_AGENT_HZ)?).await?;
    assert_eq!(talk.session.wait_for_message("stop").await?["reason"], "replaced");
    talk.service.event("call.agent_joined").await?;
    until_caller_hears(&talk.call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(session.hears().await?, [CALLER_HZ]);
    let wrong = request(Method::DELETE, &session.url, "patchcordrtc_wrong").send().await?;
    assert_eq!(refusal(wrong).await?, (404, "session_not_found".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_fails_to_take_over_changes_nothing() -> anyhow::Result<()> {
    let options = TestOptions { calls: "agent_timeout = \"2s\"".to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    until_caller_hears(&talk.call, &[AGENT_HZ]).await?;
    let token = token(&talk.service, &id, json!({ "role": "agent" })).await?;
    let page = Page::start(Speech::silence()).await?;
    // It never takes our answer.
    assert_eq!(offer(&talk.service, &id, &token, page.offer()).await?.status(), 201);
    assert_eq!(caller_hears(&talk.call).await?, [AGENT_HZ], "the agent talks on while the page connects");
    assert_eq!(talk.service.event("call.agent_lost").await?.data["failure"], "no_answer");
    assert_eq!(caller_hears(&talk.call).await?, [AGENT_HZ]);
    assert!(!talk.service.kinds().contains(&"call.agent_left"), "{:?}", talk.service.kinds());
    assert_eq!(heard_voices(&agent_hears_next(&talk.session, SECOND).await?), [CALLER_HZ]);
    assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fallbacks_of_a_call_stay_with_the_pages_that_take_it_over() -> anyhow::Result<()> {
    let options = TestOptions { route: "fallback = [\"prompt:goodbye\"]".to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    let first = join(&talk.service, &id, "agent", Speech::tone(SECOND_AGENT_HZ)?).await?;
    until_caller_hears(&talk.call, &[SECOND_AGENT_HZ]).await?;
    drop(first);
    until_caller_hears(&talk.call, &[HOLD_NOTE_HZ]).await?;
    let reloaded = join(&talk.service, &id, "agent", Speech::tone(SECOND_AGENT_HZ)?).await?;
    until_caller_hears(&talk.call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(reloaded.hears().await?, [CALLER_HZ]);
    drop(reloaded);
    assert_eq!(talk.service.event("call.agent_lost").await?.data["failure"], "disconnected");
    until_caller_hears(&talk.call, &GOODBYE_NOTES_HZ).await?;
    assert_eq!(talk.service.end_of(&talk.call).await?["reason"], "agent_lost");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_allowed_origins_read_the_answer_and_others_do_not() -> anyhow::Result<()> {
    let origins = r#"allow_origins = ["https://app.example.com"]"#.to_owned();
    let (service, _call, id) = ringing(TestOptions { http: origins, ..TestOptions::default() }).await?;
    let url = service.url(&format!("/v1/calls/{id}/webrtc"));
    let ask = async |origin: &str| {
        let asked = request(Method::OPTIONS, &url, "").header("origin", origin);
        anyhow::Ok(asked.header("access-control-request-method", "POST").send().await?)
    };
    let allowed = ask("https://app.example.com").await?;
    let header = |name: &str| allowed.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    assert_eq!(allowed.status(), 204);
    assert_eq!(header("access-control-allow-origin"), "https://app.example.com");
    assert!(header("access-control-allow-headers").contains("authorization"));
    assert!(header("access-control-expose-headers").contains("location"));
    let refused = ask("https://evil.example.com").await?;
    assert_eq!(refused.headers().get("access-control-allow-origin"), None);
    Ok(())
}
