//! Agents on a WebSocket that do not read, freeze, flood, or break off in the middle: what the caller and other calls notice.

use std::convert::Infallible;
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour, SessionEnd};
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::speech::Speech;
use rustls::pki_types::PrivatePkcs8KeyDer;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};

use crate::client_certificates::{Authority, Files};
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_with_voice, caller, caller_hears_first, heard_voices,
    objections, tone, until_caller_hears,
};
use crate::service::{DEADLINE, Folder, Talk, TestOptions, TestService};

type Socket<S = TcpStream> = WebSocketStream<S>;

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

async fn next<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>) -> anyhow::Result<Message> {
    Ok(timeout(DEADLINE, socket.next()).await.context("nothing comes")?.context("the connection ended")??)
}

/// Reads a message every 40 ms, and counts the `caller_sound_dropped` errors.
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
    let (socket, _) = agent.connection().await?;
    does_not_read_for_seconds(&call, socket).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_does_tls_keep_what_the_caller_said_before() -> anyhow::Result<()> {
    let (authority, folder, agent) = (Authority::new()?, Folder::new()?, RawAgent::listen()?);
    let files = Files::in_folder(&folder);
    files.write(&authority)?;
    let options = TestOptions {
        route: format!("agent_tls = {{ ca = \"{}\" }}", files.ca.display()),
        ..calls("agent_idle_timeout = \"1h\"")
    };
    let url = format!("wss://localhost:{}/call", agent.0.local_addr()?.port());
    let service = TestService::start_with(&url, options).await?;
    let (certificate, key) = authority.sign("localhost")?;
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivatePkcs8KeyDer::from(key).into())?;
    let call = service.call(caller()).await?;
    let (stream, _) = timeout(DEADLINE, agent.0.accept()).await??;
    let stream = TlsAcceptor::from(Arc::new(tls)).accept(stream).await?;
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    next(&mut socket).await?;
    does_not_read_for_seconds(&call, socket).await
}

/// The caller speaks and falls silent, and then the agent reads on.
async fn does_not_read_for_seconds<S>(call: &Call, mut socket: Socket<S>) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
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
    assert_eq!(objections(call), [], "{}", call.seen());
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

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_pings_and_of_tiny_messages_holds_up_nobody() -> anyhow::Result<()> {
    let (flooding, well) = (RawAgent::listen()?, Agent::start(agent()).await?);
    let options = TestOptions { route: "agent_choice = \"least_busy\"".to_owned(), ..TestOptions::default() };
    let agents = format!("[{:?}, {:?}]", flooding.url()?, well.url());
    let mut service = TestService::start_with(&agents, options).await?;
    let flooded = service.call(caller()).await?;
    let (socket, _) = flooding.connection().await?;
    let beside = service.call(caller()).await?;
    caller_hears_first(&beside, SECOND).await?;

    const PINGS: u32 = 50_000;
    let (mut sink, mut stream) = socket.split();
    let flood = async {
        for number in 1..=PINGS {
            sink.feed(Message::Ping(number.to_be_bytes().to_vec().into())).await?;
            sink.feed(Message::text("{\"type\":\"of a later version\"}")).await?;
        }
        anyhow::Ok(sink.flush().await?)
    };
    let answered = async {
        loop {
            let message = timeout(DEADLINE, stream.next()).await?.context("the service left")??;
            if message == Message::Pong(PINGS.to_be_bytes().to_vec().into()) {
                return anyhow::Ok(());
            }
        }
    };
    tokio::try_join!(flood, answered)?;
    assert_eq!(heard_voices(&beside.heard()?), [AGENT_HZ]);
    assert!(!service.kinds().contains(&"call.agent_lost"));
    for call in [flooded, beside] {
        assert_eq!(objections(&call), [], "{}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_before_it_has_read_start_is_heard() -> anyhow::Result<()> {
    let agent = RawAgent::listen()?;
    let service = TestService::start(&agent.url()?).await?;
    let call = service.call(caller()).await?;
    let (stream, _) = timeout(DEADLINE, agent.0.accept()).await??;
    let mut socket = tokio_tungstenite::accept_async(stream).await?;
    let voice: Vec<u8> = tone(AGENT_HZ, 4000).into_iter().flat_map(i16::to_le_bytes).collect();
    socket.send(Message::binary(voice)).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_shuts_its_half_down_is_dialled_again() -> anyhow::Result<()> {
    let agent = RawAgent::listen()?;
    let mut service = TestService::start(&agent.url()?).await?;
    let call = service.call(caller()).await?;
    let (mut socket, _) = agent.connection().await?;
    call.wait_until(Stage::FirstPacket).await?;
    // It would still read: it has ended the stream without a close frame.
    socket.get_mut().shutdown().await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["failure"], &lost["redialling"]), (&"disconnected".into(), &true.into()), "{lost}");
    assert_eq!(lost["detail"], "the connection ended without a close frame");
    let (_back, start) = agent.connection().await?;
    assert_eq!(start["resume"]["reason"], "disconnected", "{start}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_speaks_and_has_shut_down_its_reading_half_gives_way_to_the_next() -> anyhow::Result<()> {
    let agent = RawAgent::listen()?;
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let mut service = TestService::start_with(&agent.url()?, followed_by(&second)).await?;
    let call = service.call(caller()).await?;
    let (mut socket, _) = agent.connection().await?;
    call.wait_until(Stage::FirstPacket).await?;
    socket2::SockRef::from(socket.get_ref()).shutdown(Shutdown::Read)?;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    let speaking = async {
        // Until the service has closed the connection.
        while socket.send(Message::binary(vec![0; 640])).await.is_ok() {
            pace.tick().await;
        }
    };
    let (lost, ()) = tokio::join!(service.event("call.agent_lost"), speaking);
    assert_eq!(lost?.data["failure"], "too_slow");
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_breaks_off_while_it_is_dialled_again_is_dialled_once_more() -> anyhow::Result<()> {
    let agent = RawAgent::listen()?;
    let mut service = TestService::start(&agent.url()?).await?;
    let call = service.call(caller()).await?;
    let (first, start) = agent.connection().await?;
    call.wait_until(Stage::FirstPacket).await?;
    drop(first);
    service.event("call.agent_lost").await?;
    // Before the upgrade, in the middle of it, and with a close that says that the server restarts.
    drop(timeout(DEADLINE, agent.0.accept()).await??);
    let (mut half, _) = timeout(DEADLINE, agent.0.accept()).await??;
    half.write_all(b"HTTP/1.1 101 Switching").await?;
    drop(half);
    let (mut restarting, _) = agent.connection().await?;
    restarting.close(Some(CloseFrame { code: CloseCode::Restart, reason: "".into() })).await?;
    let (_back, again) = agent.connection().await?;
    assert_eq!((&again["call_id"], again["resume"].is_object()), (&start["call_id"], true), "{again}");
    assert!(!service.kinds().contains(&"call.ended"));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_pieces_that_are_too_much_together_is_closed_with_1009() -> anyhow::Result<()> {
    let agent = RawAgent::listen()?;
    let mut service = TestService::start(&agent.url()?).await?;
    let _call = service.call(caller()).await?;
    let (socket, _) = agent.connection().await?;
    let (mut sink, mut stream) = socket.split();
    let pieces = async {
        for piece in 0..100 {
            let kind = if piece == 0 { Data::Binary } else { Data::Continue };
            let frame = Frame::message(vec![0; 1024 * 1024], OpCode::Data(kind), false);
            if sink.send(Message::Frame(frame)).await.is_err() {
                break;
            }
        }
        anyhow::Ok(())
    };
    let closed = async {
        loop {
            if let Message::Close(frame) = timeout(DEADLINE, stream.next()).await?.context("no close frame")?? {
                return anyhow::Ok(frame.map(|frame| u16::from(frame.code)));
            }
        }
    };
    let ((), code) = tokio::try_join!(pieces, closed)?;
    assert_eq!(code, Some(1009));
    assert_eq!(service.event("call.agent_lost").await?.data["failure"], "protocol_error");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_repeats_a_mark_without_end_is_told_and_gets_each_that_was_taken() -> anyhow::Result<()> {
    let mut talk = Talk::start(AgentOptions::default()).await?;
    let Talk { session, call, .. } = &mut talk;
    session.send(&json!({ "type": "pause" })).await;
    session.send_binary(vec![1; 6400]).await;
    for _ in 0..1100 {
        session.send(&json!({ "type": "mark", "name": "again" })).await;
    }
    session.wait_for_nth_message("error", 1100 - 1024).await?;
    assert!(session.messages_of("error").iter().all(|error| error["code"] == "too_many_marks"));
    session.send(&json!({ "type": "clear" })).await;
    session.wait_for_nth_message("mark", 1024).await?;
    assert!(session.messages_of("mark").iter().all(|mark| mark["status"] == "cleared"));
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}
