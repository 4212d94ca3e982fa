//! Agents that cannot be reached, are lost, or misbehave; and their fallbacks.

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour, Junk, SessionEnd};
use patchcord_simulator::call::{Call, EndedBy, Stage};
use patchcord_simulator::sound::PHONE_RATE;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_with_voice, caller,
    caller_hears_first, caller_hears_next, heard_voices, objections, quiet_caller, tone, until_caller_hears,
};
use crate::service::{Talk, TestOptions, TestService};

fn behaving(behaviour: Behaviour) -> AgentOptions {
    AgentOptions { behaviour, ..agent() }
}

/// The route tries these after its first agent, which is not dialled again.
fn fallback(stops: &[&str]) -> TestOptions {
    TestOptions { route: format!("redial_for = 0\nfallback = {stops:?}"), ..TestOptions::default() }
}

/// The only agent, which is not dialled again.
async fn talk_without_redial() -> anyhow::Result<Talk> {
    Talk::start_with(caller(), agent(), fallback(&[])).await
}

/// The end of a call whose only agent behaves like this.
async fn end_with(behaviour: Behaviour, calls: &str) -> anyhow::Result<(Value, Call)> {
    let agent = Agent::start(behaving(behaviour)).await?;
    let options = TestOptions { calls: calls.to_owned(), ..TestOptions::default() };
    let mut service = TestService::start_with(&agent.url(), options).await?;
    let call = service.call(quiet_caller()).await?;
    let ended = service.end_of(&call).await?;
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    Ok((ended, call))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_port_is_closed_ends_the_call() -> anyhow::Result<()> {
    // Bound but not listening: connections are refused, and no other process can take the port.
    let closed = TcpSocket::new_v4()?;
    closed.bind("127.0.0.1:0".parse()?)?;
    let mut service = TestService::start(&format!("ws://{}/call", closed.local_addr()?)).await?;
    let call = service.call(quiet_caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"no_agent".into(), &"agent".into()), "{ended}");
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("refused")), "{ended}");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(service.count_of("accept"), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_answers_with_an_http_error_ends_the_call() -> anyhow::Result<()> {
    let (ended, _) = end_with(Behaviour::RefuseHttp(500), "").await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"no_agent".into(), &"agent".into()), "{ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_never_answers_is_waited_for_no_longer_than_configured() -> anyhow::Result<()> {
    let (ended, call) = end_with(Behaviour::NeverAnswerHandshake, r#"agent_timeout = "1s""#).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"no_agent".into(), &"agent".into()), "{ended}");
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("in time")), "{ended}");
    assert!(ended["stages"]["ended_ms"].as_f64().context("ended_ms")? >= 1000.0, "{ended}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_first_agent_refuses_the_second_takes_the_call() -> anyhow::Result<()> {
    let first = Agent::start(behaving(Behaviour::RefuseHttp(503))).await?;
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let mut service = TestService::start_with(&first.url(), fallback(&[&second.url()])).await?;
    let call = service.call(caller()).await?;
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [SECOND_AGENT_HZ]);
    assert_eq!(heard_voices(&second.wait_for_session(1).await?.hear_for(SECOND).await?), [CALLER_HZ]);
    let lost = service.event("call.agent_lost").await?;
    assert_eq!((&lost.data["attempt"], &lost.data["failure"]), (&0.into(), &"refused".into()));
    assert_eq!(service.event("call.agent_joined").await?.data["attempt"], 1);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_answers_the_caller_hears_goodbye_and_then_the_call_ends() -> anyhow::Result<()> {
    let nobody = Agent::start(behaving(Behaviour::RefuseHttp(503))).await?;
    let mut service = TestService::start_with(&nobody.url(), fallback(&["prompt:goodbye"])).await?;
    let call = service.call(caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"agent_lost".into(), &"agent".into()), "{ended}");
    service.all_ended().await?;
    let heard = call.heard()?;
    assert_eq!(patchcord_simulator::sound::voices_heard(&heard, 16_000, &GOODBYE_NOTES_HZ), GOODBYE_NOTES_HZ);
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_lost_in_the_middle_is_replaced_on_the_same_line_and_hold_music_fills_the_wait() -> anyhow::Result<()>
{
    let first = Agent::start(agent()).await?;
    // It delays the call until its timeout.
    let second = Agent::start(behaving(Behaviour::NeverAnswerHandshake)).await?;
    let third = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let options =
        TestOptions { calls: r#"agent_timeout = "2s""#.to_owned(), ..fallback(&[&second.url(), &third.url()]) };
    let mut service = TestService::start_with(&first.url(), options).await?;
    let call = service.call(caller()).await?;
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
    first.wait_for_session(1).await?.reset().await;

    let session = third.wait_for_session(1).await?;
    assert_eq!(session.wait_for_message("accepted").await?["type"], "accepted");
    let before = call.heard()?.len();
    let heard = call.hear_for(SECOND * (before as u32 / 16_000 + 2)).await?;
    assert_eq!(heard_voices(&heard[before..]), [SECOND_AGENT_HZ]);
    assert!(patchcord_simulator::sound::hears(&heard, 16_000, HOLD_NOTE_HZ), "no hold music");
    assert_eq!(heard_voices(&session.hear_for(SECOND).await?), [CALLER_HZ]);
    assert_eq!(service.event("call.agent_lost").await?.data["failure"], "disconnected");
    assert_eq!(service.event("call.agent_lost").await?.data["failure"], "no_answer");

    let ssrcs: std::collections::BTreeSet<u32> = call.heard_packets().iter().map(|packet| packet.ssrc).collect();
    assert_eq!(ssrcs.len(), 1);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_lost_in_the_middle_with_nobody_to_take_over_ends_the_call() -> anyhow::Result<()> {
    let mut talk = talk_without_redial().await?;
    let Talk { service, session, call, .. } = &mut talk;
    session.reset().await;
    let ended = service.end_of(call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"agent_lost".into(), &"agent".into()), "{ended}");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_normal_close_is_a_hang_up_and_any_other_is_a_loss() -> anyhow::Result<()> {
    for (code, reason) in [
        (1000, "agent_hung_up"),
        (1001, "agent_lost"),
        (1003, "agent_lost"),
        (1008, "agent_lost"),
        (1011, "agent_lost"),
        (1012, "agent_lost"),
        (1013, "agent_lost"),
        (3000, "agent_lost"),
        (4000, "agent_lost"),
    ] {
        let mut talk = talk_without_redial().await?;
        let Talk { service, session, call, .. } = &mut talk;
        session.close(code).await;
        let ended = service.end_of(call).await?;
        assert_eq!(ended["reason"], reason, "close code {code}");
        let detail = ended["detail"].as_str().context("a detail")?;
        assert_eq!(detail.contains(&format!("closed with code {code}")), reason == "agent_lost", "{detail}");
        service.all_ended().await?;
        assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_an_agents_server_shuts_down_in_the_middle_of_a_call_the_next_agent_takes_over() -> anyhow::Result<()> {
    let first = Agent::start(agent()).await?;
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let mut service = TestService::start_with(&first.url(), fallback(&[&second.url()])).await?;
    let call = service.call(caller()).await?;
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
    first.wait_for_session(1).await?.close(1001).await;

    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["attempt"], &lost["failure"]), (&0.into(), &"disconnected".into()), "{lost}");
    assert_eq!(lost["detail"], "closed with code 1001 (going away)");
    let session = second.wait_for_session(1).await?;
    session.wait_for_message("accepted").await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(heard_voices(&session.hear_for(SECOND).await?), [CALLER_HZ]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_make_no_sense_are_answered_with_errors_and_the_call_goes_on() -> anyhow::Result<()> {
    let junk = vec![Junk::InvalidJson, Junk::UnknownType, Junk::WrongFields, Junk::DeepJson, Junk::EmptyAudio];
    let mut talk = Talk::start(behaving(Behaviour::Junk(junk))).await?;
    let Talk { session, call, .. } = &mut talk;
    session.wait_for_nth_message("error", 3).await?;
    assert_eq!(heard_voices(&caller_hears_first(call, SECOND).await?), [AGENT_HZ]);
    let errors = session.messages_of("error");
    assert_eq!(errors.len(), 3, "{errors:?}");
    for error in errors {
        assert!(error["code"].is_string() && error["message"].as_str().is_some_and(|text| text.len() < 300), "{error}");
    }
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_breaks_the_protocol_gives_way_to_the_next() -> anyhow::Result<()> {
    for junk in [Junk::InvalidUtf8, Junk::HugeMessage(20_000_000)] {
        let broken = Agent::start(behaving(Behaviour::Junk(vec![junk]))).await?;
        let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
        let mut service = TestService::start_with(&broken.url(), fallback(&[&second.url()])).await?;
        let call = service.call(caller()).await?;
        assert_eq!(service.event("call.agent_lost").await?.data["failure"], "protocol_error", "{junk:?}");
        let code = if junk == Junk::InvalidUtf8 { 1007 } else { 1009 };
        let told = SessionEnd::Closed(code, "protocol_error".to_owned());
        assert_eq!(broken.wait_for_session(1).await?.wait_for_end().await?, told, "{junk:?}");
        second.wait_for_session(1).await?.wait_for_message("accepted").await?;
        until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
        assert_eq!(objections(&call), [], "{junk:?}: {}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_read_is_still_heard_and_other_calls_do_not_notice() -> anyhow::Result<()> {
    // It falls silent then, so that it is not known to be alive, and too slow.
    let greeting = tone(AGENT_HZ, 4000);
    let slow =
        Agent::start(AgentOptions { greeting, behaviour: Behaviour::SlowReader, ..AgentOptions::default() }).await?;
    let mut service = TestService::start(&slow.url()).await?;
    let unheard = service.call(caller()).await?;
    assert_eq!(heard_voices(&caller_hears_first(&unheard, SECOND).await?), [AGENT_HZ]);

    slow.set_behaviour(Behaviour::Normal);
    let beside = service.call(caller()).await?;
    assert_eq!(heard_voices(&beside.hear_for(2 * SECOND).await?), [AGENT_HZ]);
    assert_eq!(heard_voices(&slow.wait_for_session(2).await?.hear_for(2 * SECOND).await?), [CALLER_HZ]);

    unheard.hang_up().await?;
    assert_eq!(service.end_of(&unheard).await?["reason"], "caller_hung_up");
    for call in [&unheard, &beside] {
        assert_eq!(objections(call), [], "{}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_answers_no_ping_is_lost_after_the_idle_timeout_and_it_is_said() -> anyhow::Result<()> {
    // It reads nothing after start, so it answers no ping, and it sends nothing.
    let agent = Agent::start(AgentOptions { behaviour: Behaviour::SlowReader, ..AgentOptions::default() }).await?;
    let options = TestOptions { calls: r#"agent_idle_timeout = "2s""#.to_owned(), ..fallback(&[]) };
    let mut service = TestService::start_with(&agent.url(), options).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(lost["failure"], "unresponsive", "{lost}");
    assert_eq!(lost["detail"], "nothing came for 2 s (calls.agent_idle_timeout)");
    let ended = service.end_of(&call).await?;
    assert_eq!(ended["reason"], "agent_lost", "{ended}");
    assert!(
        ended["detail"].as_str().is_some_and(|detail| detail.contains("answered no ping: nothing came")),
        "{ended}"
    );
    assert!(ended["stages"]["ended_ms"].as_f64().context("ended_ms")? >= 2000.0, "{ended}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

/// A silent agent: its pongs alone keep it connected for several idle timeouts.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_agent_that_answers_pings_stays() -> anyhow::Result<()> {
    let options = TestOptions { calls: r#"agent_idle_timeout = "4s""#.to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(quiet_caller(), AgentOptions::default(), options).await?;
    talk.call.hear_for(10 * SECOND).await?;
    assert!(!talk.service.kinds().contains(&"call.agent_lost"));
    talk.call.hang_up().await?;
    assert_eq!(talk.service.end_of(&talk.call).await?["reason"], "caller_hung_up");
    Ok(())
}

/// An agent's part of the handshake.
struct Subprotocol;

impl Callback for Subprotocol {
    fn on_request(self, _: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("patchcord.v1"));
        Ok(response)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_server_selects_no_subprotocol_is_put_through_all_the_same() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let service = TestService::start(&format!("ws://{}/call", listener.local_addr()?)).await?;
    let call = service.call(caller()).await?;
    let (stream, _) = listener.accept().await?;
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    let first = socket.next().await.context("a first message")??;
    assert_eq!(serde_json::from_str::<Value>(first.to_text()?)?["type"], "start");
    call.wait_until(Stage::FirstPacket).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_pings_gets_its_pong() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let service = TestService::start(&format!("ws://{}/call", listener.local_addr()?)).await?;
    let call = service.call(caller()).await?;
    let (stream, _) = listener.accept().await?;
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, Subprotocol).await?;
    let first = socket.next().await.context("a first message")??;
    let start: Value = serde_json::from_str(first.to_text()?)?;
    assert_eq!(start["type"], "start");
    call.wait_until(Stage::FirstPacket).await?;
    socket.send(Message::Ping("are you there?".into())).await?;
    loop {
        match socket.next().await.context("the service left")?? {
            Message::Pong(payload) => break assert_eq!(&payload[..], b"are you there?"),
            Message::Close(frame) => panic!("closed: {frame:?}"),
            _ => {}
        }
    }
    Ok(())
}

/// Results pile up until the socket blocks; ten seconds later the agent is dropped.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_and_never_reads_is_left_as_too_slow() -> anyhow::Result<()> {
    let window = TcpSocket::new_v4()?;
    // Small enough to fill up soon, large enough to be drained soon.
    window.set_recv_buffer_size(128 * 1024)?;
    window.bind("127.0.0.1:0".parse()?)?;
    let listener = window.listen(1)?;
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let url = format!("ws://{}/call", listener.local_addr()?);
    let mut service = TestService::start_with(&url, fallback(&[&second.url()])).await?;
    let call = service.call(caller()).await?;
    let (stream, _) = listener.accept().await?;
    let mut socket = tokio_tungstenite::accept_hdr_async(stream, Subprotocol).await?;
    call.wait_until(Stage::FirstPacket).await?;

    // Linux buffers at most 4 MB by default; the results contain the ids.
    let request_id = "x".repeat(12_000);
    let command = json!({ "type": "command", "request_id": request_id, "action": "fly" }).to_string();
    for _ in 0..1000 {
        socket.send(Message::text(command.clone())).await?;
    }
    let lost = service.event("call.agent_lost").await?;
    assert_eq!((&lost.data["attempt"], &lost.data["failure"]), (&0.into(), &"too_slow".into()));
    // Now it reads: the buffered results, the reason, and the close code.
    let mut texts = Vec::new();
    let frame = loop {
        match socket.next().await.context("cut without a word")?? {
            Message::Text(text) => texts.push(text),
            Message::Close(frame) => break frame.context("a code")?,
            _ => {}
        }
    };
    assert_eq!((u16::from(frame.code), frame.reason.as_str()), (4008, "too_slow"));
    let last: Value = serde_json::from_str(texts[texts.len() - 1].as_str())?;
    assert_eq!(last, json!({ "type": "stop", "reason": "too_slow" }));

    second.wait_for_session(1).await?.wait_for_message("accepted").await?;
    assert_eq!(heard_voices(&caller_hears_next(&call, 2 * SECOND).await?[PHONE_RATE as usize..]), [SECOND_AGENT_HZ]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_up_before_accept_ends_the_call() -> anyhow::Result<()> {
    let agent = Agent::start(behaving(Behaviour::ByeAfter(std::time::Duration::ZERO))).await?;
    let mut service = TestService::start(&agent.url()).await?;
    let call = service.call(caller()).await?;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    Ok(())
}
