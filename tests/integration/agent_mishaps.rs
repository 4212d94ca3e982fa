//! Agents on a WebSocket that do not read, freeze, flood, or break off in the middle: what the caller and other calls notice.

use std::convert::Infallible;
use std::time::Duration;

use anyhow::Context;
use futures_util::StreamExt;
use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour, SessionEnd};
use patchcord_simulator::call::Stage;
use patchcord_simulator::speech::Speech;
use serde_json::Value;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_with_voice, caller, caller_hears_first, heard_voices,
    objections, until_caller_hears,
};
use crate::service::{DEADLINE, TestOptions, TestService};

type Socket = WebSocketStream<TcpStream>;

/// An agent whose socket the test reads and writes by itself.
struct RawAgent(TcpListener);

impl RawAgent {
    /// The system keeps a few kilobytes of what the test does not read.
    fn listen() -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(4096)?;
        socket.bind("127.0.0.1:0".parse()?)?;
        Ok(Self(socket.listen(8)?))
    }

    fn url(&self) -> anyhow::Result<String> {
        Ok(format!("ws://{}/call", self.0.local_addr()?))
    }

    /// The next connection, and its `start`.
    async fn connection(&self) -> anyhow::Result<(Socket, Value)> {
        let (stream, _) = timeout(DEADLINE, self.0.accept()).await.context("nobody dials")??;
        let mut socket = tokio_tungstenite::accept_async(stream).await?;
        let start = next(&mut socket).await?;
        Ok((socket, serde_json::from_str(start.to_text()?)?))
    }
}

async fn next(socket: &mut Socket) -> anyhow::Result<Message> {
    Ok(timeout(DEADLINE, socket.next()).await.context("nothing comes")?.context("the connection ended")??)
}

/// A message every 40 ms. Counts what the agent is told of its slowness.
async fn read_slowly(socket: &mut Socket, told: &mut usize) -> anyhow::Result<Infallible> {
    let mut pace = tokio::time::interval(Duration::from_millis(40));
    loop {
        pace.tick().await;
        if let Message::Text(text) = next(socket).await? {
            *told += usize::from(text.contains("caller_sound_dropped"));
        }
    }
}

fn calls(keys: &str) -> TestOptions {
    TestOptions { calls: keys.to_owned(), ..TestOptions::default() }
}

/// The route tries this agent after the first one.
fn followed_by(second: &Agent) -> TestOptions {
    TestOptions { route: format!("fallback = [\"{}\"]", second.url()), ..TestOptions::default() }
}

/// Whether 20 ms of PCM are speech.
fn is_loud(frame: &[u8]) -> bool {
    frame.chunks_exact(2).any(|sample| i16::from_le_bytes([sample[0], sample[1]]).unsigned_abs() > 1000)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_not_read_for_seconds_hears_what_the_caller_says_now() -> anyhow::Result<()> {
    let agent = RawAgent::listen()?;
    let service = TestService::start_with(&agent.url()?, calls("agent_idle_timeout = \"1h\"")).await?;
    let call = service.call(caller()).await?;
    let (mut socket, _) = agent.connection().await?;
    call.wait_until(Stage::FirstPacket).await?;
    call.hear_for(5 * SECOND).await?;
    call.say(Speech::silence()).await;
    call.hear_for(8 * SECOND).await?;

    let (mut loud, mut silent, mut errors) = (0, 0, Vec::new());
    while silent < 50 {
        match next(&mut socket).await? {
            Message::Binary(frame) if is_loud(&frame) => loud += 1,
            Message::Binary(_) => silent += 1,
            Message::Text(text) => errors.push(serde_json::from_str::<Value>(&text)?),
            _ => {}
        }
    }
    // The agent's own system kept some of the first frames: 4 KiB and what Linux adds.
    assert!((1..20).contains(&loud), "{loud} frames of 20 ms are seconds old");
    errors.retain(|message| message["type"] == "error");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["code"], "caller_sound_dropped");
    let told = errors[0]["message"].as_str().and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    assert!(told.is_some_and(|ms| ms > 4000), "{errors:?}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

/// Longer than a write may take: each message is taken by and by.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_reads_half_of_what_the_caller_says_keeps_the_call() -> anyhow::Result<()> {
    let agent = RawAgent::listen()?;
    let mut service = TestService::start(&agent.url()?).await?;
    let call = service.call(caller()).await?;
    let (mut socket, _) = agent.connection().await?;
    call.wait_until(Stage::FirstPacket).await?;
    let mut told = 0;
    tokio::select! {
        read = read_slowly(&mut socket, &mut told) => match read? {},
        heard = call.hear_for(13 * SECOND) => drop(heard?),
    }
    assert!(!service.kinds().contains(&"call.agent_lost"));
    assert!((1..=5).contains(&told), "{told}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_to_which_we_cannot_write_is_dialled_again() -> anyhow::Result<()> {
    let agent = RawAgent::listen()?;
    // Longer than a write may take.
    let mut service = TestService::start_with(&agent.url()?, calls("agent_idle_timeout = \"11s\"")).await?;
    let call = service.call(caller()).await?;
    let _frozen = agent.connection().await?;
    call.wait_until(Stage::FirstPacket).await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["failure"], &lost["redialling"]), (&"unresponsive".into(), &true.into()), "{lost}");
    assert_eq!(lost["detail"], "nothing came for 11 s (calls.agent_idle_timeout)");
    let (_back, start) = agent.connection().await?;
    assert_eq!(start["resume"]["reason"], "unresponsive", "{start}");
    service.event("call.agent_rejoined").await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_speaks_and_never_reads_gives_way_to_the_next() -> anyhow::Result<()> {
    let deaf = Agent::start(AgentOptions { behaviour: Behaviour::SlowReader, ..agent() }).await?;
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let mut service = TestService::start_with(&deaf.url(), followed_by(&second)).await?;
    let call = service.call(caller()).await?;
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["failure"], &lost["redialling"]), (&"too_slow".into(), &false.into()), "{lost}");
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(heard_voices(&second.wait_for_session(1).await?.hear_for(SECOND).await?), [CALLER_HZ]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_floods_gives_way_to_the_next_and_harms_nobody() -> anyhow::Result<()> {
    let behaviour = Behaviour::Flood { bytes_per_second: 8_000_000 };
    let flooding = Agent::start(AgentOptions { behaviour, ..agent() }).await?;
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let mut service = TestService::start_with(&flooding.url(), followed_by(&second)).await?;
    let flooded = service.call(caller()).await?;
    let session = flooding.wait_for_session(1).await?;
    session.wait_for_message("xoff").await?;
    flooding.set_behaviour(Behaviour::Normal);
    let beside = service.call(caller()).await?;
    assert_eq!(heard_voices(&beside.hear_for(2 * SECOND).await?), [AGENT_HZ]);
    assert_eq!(heard_voices(&flooding.wait_for_session(2).await?.hear_for(SECOND).await?), [CALLER_HZ]);

    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["failure"], &lost["redialling"]), (&"too_fast".into(), &false.into()), "{lost}");
    assert!(lost["detail"].as_str().is_some_and(|detail| detail.starts_with("10 min")), "{lost}");
    assert_eq!(session.wait_for_end().await?, SessionEnd::Closed(1008, "too_fast".to_owned()));
    until_caller_hears(&flooded, &[SECOND_AGENT_HZ]).await?;
    for call in [flooded, beside] {
        assert_eq!(objections(&call), [], "{}", call.seen());
    }
    Ok(())
}
