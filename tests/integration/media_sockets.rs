//! The application opens the WebSocket of a call: with a token, as the call's agent or as a participant.

use std::time::Duration;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use patchcord::call::event::CallId;
use patchcord_simulator::agent::{Agent, AgentOptions, AgentSession, SessionEnd};
use patchcord_simulator::call::Call;
use patchcord_simulator::foreign_agent::{ForeignCall, Protocol};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::api::client::{Client, READER, WRITER};
use crate::deciding::{App, Says};
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next, agent_with_voice, caller, caller_hears_next,
    heard_voices, objections, quiet_caller, tone, until_caller_hears,
};
use crate::service::{Talk, TestOptions, TestService, counter};

/// The token, and the address with it.
struct Opening {
    token: String,
    url: String,
}

async fn opening(service: &TestService, call: &CallId, wanted: Value) -> anyhow::Result<Opening> {
    let path = format!("/v1/calls/{call}/media_tokens");
    let answer = Client::new(service, WRITER).ask(Method::POST, &path, Some(wanted.to_string().into_bytes())).await?;
    anyhow::ensure!(answer.status == 201, "{answer:?}");
    assert_eq!(answer.body["expires_in_s"], 60);
    let text = |key: &str| answer.body[key].as_str().context("a text").map(str::to_owned);
    // Without http.public_url the service does not know its address.
    let url = format!("ws://{}{}", service.app.address, text("url")?);
    Ok(Opening { token: text("token")?, url })
}

/// An app that opens the socket of a call in this role.
async fn join(service: &TestService, call: &CallId, role: &str, app: AgentOptions) -> anyhow::Result<AgentSession> {
    let opening = opening(service, call, json!({ "role": role })).await?;
    AgentSession::open(app, &opening.url, &opening.token).await
}

/// A service whose callers wait for the app, and a call of it.
async fn waiting(options: TestOptions) -> anyhow::Result<(TestService, Call, CallId)> {
    let mut service = TestService::start_with("app", options).await?;
    let call = service.call(caller()).await?;
    let awaited = service.event("call.socket_awaited").await?;
    assert_eq!(awaited.data["url"], format!("/v1/calls/{}/media", awaited.call_id));
    Ok((service, call, awaited.call_id))
}

/// The status and code of a refused WebSocket.
async fn refusal(url: &str, token: Option<&str>) -> anyhow::Result<(u16, String)> {
    let mut request = url.into_client_request()?;
    if let Some(token) = token {
        request.headers_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    match connect_async(request).await {
        Ok(_) => anyhow::bail!("a WebSocket opened"),
        Err(Error::Http(answer)) => {
            let body: Value = serde_json::from_slice(answer.body().as_deref().unwrap_or_default()).unwrap_or_default();
            Ok((answer.status().as_u16(), body["code"].as_str().unwrap_or_default().to_owned()))
        }
        Err(error) => Err(error.into()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_the_app_while_it_rings_and_both_talk_press_keys_and_hang_up() -> anyhow::Result<()> {
    let options = TestOptions { route: "parameters = { language = \"pl\" }".to_owned(), ..TestOptions::default() };
    let (mut service, call, id) = waiting(options).await?;
    assert_eq!(service.count_of("accept"), 0, "it rings");
    let app = join(&service, &id, "agent", agent()).await?;
    assert_eq!(app.header("sec-websocket-protocol"), Some("patchcord.v1"));
    let start = app.wait_for_message("start").await?;
    assert_eq!((&start["call_id"], &start["parameters"]), (&json!(id.as_str()), &json!({ "language": "pl" })));
    app.wait_for_message("accepted").await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(heard_voices(&agent_hears_next(&app, SECOND).await?), [CALLER_HZ]);
    call.send_dtmf("5").await;
    assert_eq!(app.wait_for_message("dtmf").await?["digit"], "5");
    app.stop_saying().await;
    app.send(&json!({ "type": "clear" })).await;
    app.wait_for_message("cleared").await?;
    app.send(&json!({ "type": "mark", "name": "end" })).await;
    assert_eq!(app.wait_for_message("mark").await?["name"], "end");
    app.bye().await;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(app.wait_for_end().await?, SessionEnd::Closed(1000, "agent_hung_up".to_owned()));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_hangs_up_and_the_app_gets_stop_and_a_normal_close() -> anyhow::Result<()> {
    let (mut service, call, id) = waiting(TestOptions::default()).await?;
    let app = join(&service, &id, "agent", agent()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    call.hang_up().await?;
    assert_eq!(app.wait_for_message("stop").await?["reason"], "caller_hung_up");
    assert_eq!(app.wait_for_end().await?, SessionEnd::Closed(1000, "caller_hung_up".to_owned()));
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_come_in_time_is_a_lost_agent_and_the_fallback_follows() -> anyhow::Result<()> {
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let options = TestOptions {
        route: format!("fallback = [\"{}\"]", second.url()),
        calls: "agent_timeout = \"500ms\"".to_owned(),
        ..TestOptions::default()
    };
    let (mut service, call, id) = waiting(options).await?;
    let lost = service.event("call.agent_lost").await?;
    let cause = "the application did not open the call's media socket within 500 ms";
    assert_eq!((&lost.data["failure"], &lost.data["detail"]), (&json!("no_answer"), &json!(cause)));
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    // It takes the call over when it comes all the same.
    let app = join(&service, &id, "agent", agent()).await?;
    app.wait_for_message("accepted").await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let replaced = second.wait_for_session(1).await?.wait_for_message("stop").await?;
    assert_eq!(replaced["reason"], "replaced");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_socket_of_the_app_takes_the_place_of_the_older() -> anyhow::Result<()> {
    let (service, call, id) = waiting(TestOptions::default()).await?;
    let older = join(&service, &id, "agent", agent()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let newer = join(&service, &id, "agent", agent_with_voice(SECOND_AGENT_HZ)).await?;
    newer.wait_for_message("accepted").await?;
    assert_eq!(older.wait_for_end().await?, SessionEnd::Closed(4009, "replaced".to_owned()));
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_that_decides_gets_address_and_token_with_the_call() -> anyhow::Result<()> {
    let mut decider = App::that_says(Says::Nothing).await?;
    let options = TestOptions {
        route: decider.keys(),
        http: "public_url = \"https://calls.example.com\"".to_owned(),
        ..TestOptions::default()
    };
    let mut service = TestService::start_with("app", options).await?;
    let call = service.call(caller()).await?;
    let (_, asked) = decider.question().await?;
    let media = &asked["data"]["media"];
    let id = asked["call_id"].as_str().context("an id")?.to_owned();
    assert_eq!(media["url"], format!("wss://calls.example.com/v1/calls/{id}/media"));
    let url = format!("ws://{}/v1/calls/{id}/media", service.app.address);
    let app = AgentSession::open(agent(), &url, media["token"].as_str().context("a token")?).await?;
    app.wait_for_message("accepted").await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let incoming = service.event("call.incoming").await?;
    assert_eq!(incoming.data["media"], json!({ "url": media["url"] }), "who only reads events gets no token");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_another_platform_names_its_dialect_in_the_address_or_with_the_token() -> anyhow::Result<()> {
    for (protocol, rate, wanted, query) in [
        (Protocol::Twilio, 8000, json!({ "role": "agent" }), "&dialect=twilio"),
        (Protocol::Jambonz, 16_000, json!({ "role": "agent", "dialect": "jambonz" }), ""),
        (
            Protocol::AsteriskJson,
            16_000,
            json!({ "role": "agent", "dialect": "asterisk-json" }),
            "&dialect=asterisk-json",
        ),
    ] {
        let (mut service, call, id) = waiting(TestOptions::default()).await?;
        let opening = opening(&service, &id, wanted).await?;
        let url = format!("{}?token={}{query}", opening.url, opening.token);
        let app = ForeignCall::open(protocol, rate, &url).await?;
        service.event("call.accepted").await?;
        app.say(&tone(AGENT_HZ, 2000)).await;
        app.mark("greeting").await;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        app.wait_for_mark("greeting").await?;
        app.wait_for_tone(CALLER_HZ).await?;
        call.send_dtmf("7").await;
        app.wait_for_key('7').await?;
        app.hang_up().await;
        assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up", "{protocol:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_opens_one_socket_of_its_call_and_a_wrong_one_none() -> anyhow::Result<()> {
    let (mut service, call, id) = waiting(TestOptions::default()).await?;
    let other = service.call(quiet_caller()).await?;
    let other_id = service.event("call.socket_awaited").await?.call_id;
    let ours = opening(&service, &id, json!({ "role": "agent", "dialect": "native" })).await?;
    let wrong = "patchcordmedia_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let before = counter("patchcord_media_sockets_total{outcome=\"token_unknown\"}");
    assert_eq!(refusal(&ours.url, None).await?, (401, "token_missing".to_owned()));
    for no_token in [wrong, WRITER] {
        assert_eq!(refusal(&ours.url, Some(no_token)).await?, (401, "token_unknown".to_owned()), "{no_token}");
    }
    assert!(counter("patchcord_media_sockets_total{outcome=\"token_unknown\"}") >= before + 2);
    let elsewhere = ours.url.replace(id.as_str(), other_id.as_str());
    assert_eq!(refusal(&elsewhere, Some(&ours.token)).await?, (404, "call_not_found".to_owned()));
    let nowhere = ours.url.replace(id.as_str(), CallId::generate().as_str());
    assert_eq!(refusal(&nowhere, Some(&ours.token)).await?, (404, "call_not_found".to_owned()));
    for dialect in ["twilio", "esperanto"] {
        let url = format!("{}?dialect={dialect}", ours.url);
        assert_eq!(refusal(&url, Some(&ours.token)).await?, (400, "unknown_dialect".to_owned()));
    }
    let plain = reqwest::Client::builder().no_proxy().build()?.get(ours.url.replace("ws://", "http://"));
    assert_eq!(plain.bearer_auth(&ours.token).send().await?.status(), 400);
    // None of these has used the token.
    let app = AgentSession::open(agent(), &ours.url, &ours.token).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(refusal(&ours.url, Some(&ours.token)).await?, (409, "token_used".to_owned()));
    assert_eq!(app.ended(), None);
    let late = opening(&service, &id, json!({ "role": "agent" })).await?;
    call.hang_up().await?;
    service.end_of(&call).await?;
    app.wait_for_end().await?;
    let (status, _) = refusal(&late.url, Some(&late.token)).await?;
    assert!(status == 404 || status == 409, "{status}");
    let client = Client::new(&service, WRITER);
    let path = format!("/v1/calls/{other_id}/media_tokens");
    for (body, status) in
        [("{}", 422), (r#"{"role":"king"}"#, 422), (r#"{"role":"agent","dialect":"x"}"#, 422), ("[", 400)]
    {
        assert_eq!(client.ask(Method::POST, &path, Some(body.into())).await?.status, status, "{body}");
    }
    let reading = Client::new(&service, READER).ask(Method::POST, &path, Some(r#"{"role":"agent"}"#.into())).await?;
    reading.is_problem(403, "missing_scope");
    other.hang_up().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn participants_come_by_themselves_too() -> anyhow::Result<()> {
    let Talk { mut service, session, call, agent: _agent } = Talk::start(agent()).await?;
    let id = service.event("call.accepted").await?.call_id;
    let listener = join(&service, &id, "listen", agent_with_voice(SECOND_AGENT_HZ)).await?;
    assert_eq!(heard_voices(&agent_hears_next(&listener, SECOND).await?), [CALLER_HZ, AGENT_HZ]);
    assert_eq!(heard_voices(&caller_hears_next(&call, SECOND).await?), [AGENT_HZ], "nobody hears who listens");
    listener.bye().await;
    service.event("call.guest_left").await?;
    let whisperer = join(&service, &id, "whisper", agent_with_voice(SECOND_AGENT_HZ)).await?;
    service.event("call.guest_joined").await?;
    let hearing = async {
        while heard_voices(&agent_hears_next(&session, SECOND).await?) != [CALLER_HZ, SECOND_AGENT_HZ] {}
        anyhow::Ok(())
    };
    tokio::time::timeout(crate::service::DEADLINE, hearing).await.context("the agent hears no whisper")??;
    assert_eq!(heard_voices(&caller_hears_next(&call, SECOND).await?), [AGENT_HZ]);
    call.hang_up().await?;
    assert_eq!(whisperer.wait_for_end().await?, SessionEnd::Closed(1000, "caller_hung_up".to_owned()));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

type Raw = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// A call whose agent is this socket, with a fallback behind it.
async fn raw() -> anyhow::Result<(TestService, Call, Raw)> {
    let options = TestOptions { route: "fallback = [\"prompt:hold\"]".to_owned(), ..TestOptions::default() };
    let (mut service, call, id) = waiting(options).await?;
    let opening = opening(&service, &id, json!({ "role": "agent" })).await?;
    let (mut socket, _) = connect_async(format!("{}?token={}", opening.url, opening.token)).await?;
    let start = socket.next().await.context("a message")??;
    assert!(start.to_text()?.contains("\"start\""), "{start}");
    service.event("call.accepted").await?;
    Ok((service, call, socket))
}

/// The code of the service's close frame.
async fn close_code(socket: &mut Raw) -> anyhow::Result<u16> {
    let closing = async {
        loop {
            match socket.next().await.context("an end without a close frame")?? {
                Message::Close(frame) => return anyhow::Ok(frame.map_or(1005, |frame| frame.code.into())),
                Message::Text(_) | Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    };
    tokio::time::timeout(crate::service::DEADLINE, closing).await.context("no close frame")?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_far_too_long_is_closed_with_1009_and_the_fallback_follows() -> anyhow::Result<()> {
    let (mut service, call, mut socket) = raw().await?;
    // The service reads what is still coming for a while, so that its close frame arrives, and then no more.
    let _ = socket.send(Message::binary(vec![0; 100 * 1024 * 1024])).await;
    assert_eq!(close_code(&mut socket).await?, 1009);
    let lost = service.event("call.agent_lost").await?;
    assert_eq!(lost.data["failure"], "protocol_error");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frame_that_announces_too_much_is_closed_with_1009() -> anyhow::Result<()> {
    let (mut service, _call, mut socket) = raw().await?;
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else { anyhow::bail!("a plain socket") };
    // The head of a binary frame of 100 MB, masked (RFC 6455 §5.2).
    let head = [&[0x82, 0xff], &(100_u64 << 20).to_be_bytes()[..], &[0; 4]].concat();
    tokio::io::AsyncWriteExt::write_all(stream, &head).await?;
    assert_eq!(close_code(&mut socket).await?, 1009);
    assert_eq!(service.event("call.agent_lost").await?.data["failure"], "protocol_error");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_is_not_utf8_is_a_lost_agent() -> anyhow::Result<()> {
    let (mut service, _call, mut socket) = raw().await?;
    socket.send(Message::Frame(Frame::message(vec![0xff, 0xfe], OpCode::Data(Data::Text), true))).await?;
    assert_eq!(service.event("call.agent_lost").await?.data["failure"], "protocol_error");
    assert_eq!(close_code(&mut socket).await?, 1007);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_of_the_protocol_is_told_and_the_call_goes_on() -> anyhow::Result<()> {
    let (mut service, call, mut socket) = raw().await?;
    for text in ["", "audio", "{", "[]", "{\"type\":7}"] {
        socket.send(Message::text(text)).await?;
    }
    // A text message in a binary one is audio, and noise at that.
    socket.send(Message::binary(&br#"{"type":"bye"}"#[..])).await?;
    for _ in 0..20_000 {
        socket.feed(Message::Ping(vec![7; 100].into())).await?;
    }
    socket.flush().await?;
    let mut errors = 0;
    while errors < 5 {
        let message = socket.next().await.context("a message")??;
        errors += usize::from(message.is_text() && message.to_text()?.contains("bad_message"));
    }
    let voice: Vec<u8> = tone(AGENT_HZ, 5000).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    let (_, heard) = tokio::join!(socket.send(Message::binary(voice)), until_caller_hears(&call, &[AGENT_HZ]));
    heard?;
    socket.send(Message::text("{\"type\":\"bye\"}")).await?;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_half_closed_is_a_lost_agent() -> anyhow::Result<()> {
    let (mut service, _call, mut socket) = raw().await?;
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else { anyhow::bail!("a plain socket") };
    tokio::io::AsyncWriteExt::shutdown(stream).await?;
    let lost = service.event("call.agent_lost").await?;
    assert_eq!(lost.data["failure"], "disconnected");
    assert_eq!(lost.data["detail"], "the connection ended without a close frame");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_before_the_call_is_accepted_is_played_first() -> anyhow::Result<()> {
    let options = TestOptions { accept_takes: Duration::from_millis(500), ..TestOptions::default() };
    let accept =
        patchcord_simulator::meta::Reply::Delay(options.accept_takes, Box::new(patchcord_simulator::meta::Reply::Ok));
    let mut service = TestService::start_with("app", options).await?;
    service.meta.script("accept", vec![accept]);
    let call = service.call(caller()).await?;
    let id = service.event("call.socket_awaited").await?.call_id;
    let opening = opening(&service, &id, json!({ "role": "agent" })).await?;
    let (mut socket, _) = connect_async(format!("{}?token={}", opening.url, opening.token)).await?;
    // Nothing of the service was read: the audio comes before its start, as far as the app knows.
    let voice: Vec<u8> = tone(AGENT_HZ, 5000).iter().flat_map(|sample| sample.to_le_bytes()).collect();
    socket.send(Message::binary(voice)).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await
}
