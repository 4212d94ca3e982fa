//! Simulated agents seen from the service's side of the WebSocket.

#![allow(clippy::disallowed_methods, reason = "a test begins at some moment")]
#![expect(clippy::unwrap_used, reason = "in a test every failure is a failure of the test")]

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use patchcord_simulator::agent::{Agent, AgentAudio, AgentOptions, Behaviour, Encoding, Junk, Pace, SessionEnd};
use patchcord_simulator::sound::{self, PHONE_RATE};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

#[tokio::test]
async fn an_agent_is_ready_greets_at_once_and_hears_what_is_said() {
    let greeting = sound::agent_clip();
    let options = AgentOptions {
        greeting: greeting.clone(),
        mark_after_greeting: Some("greeted".to_owned()),
        pace: Pace::Burst,
        chunk_bytes: vec![1, 639, 777, 3200],
        ..AgentOptions::default()
    };
    let agent = Agent::start(options).await.unwrap();
    let mut service = Service::dial(&agent).await.unwrap();
    let session = agent.wait_for_session(1).await.unwrap();
    assert_eq!((session.path(), session.header("authorization")), ("/call", Some("Bearer of a test")));
    service.start("pcm_s16le", 16_000).await;
    assert_eq!(service.next_text().await["type"], "ready");
    let mut bytes = Vec::new();
    let mark = loop {
        match service.next().await.unwrap() {
            Message::Binary(chunk) => bytes.extend_from_slice(&chunk),
            Message::Text(text) => break text,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(pcm(&bytes), greeting);
    assert_eq!(mark.as_str(), r#"{"name":"greeted","type":"mark"}"#);
    service.say(&sound::caller_clip()).await;
    let heard = session.hear_for(Duration::from_secs(5)).await.unwrap();
    assert!(sound::similarity(&sound::caller_clip(), &heard) > 0.99);
    service.socket.close(Some(CloseFrame { code: 1000.into(), reason: "".into() })).await.unwrap();
    assert_eq!(session.wait_for_end().await.unwrap(), SessionEnd::Closed(1000, String::new()));
}

#[tokio::test]
async fn an_agent_asks_for_its_own_rate_and_for_opus() {
    for (encoding, sample_rate) in [(Encoding::Pcm, 8000), (Encoding::Pcm, 48_000), (Encoding::Opus, 24_000)] {
        let audio = AgentAudio { encoding, sample_rate };
        let options = AgentOptions {
            greeting: sound::agent_clip(),
            audio: Some(audio),
            pace: Pace::Burst,
            echo: true,
            ..AgentOptions::default()
        };
        let agent = Agent::start(options).await.unwrap();
        let mut service = Service::dial(&agent).await.unwrap();
        service.start("pcm_s16le", 16_000).await;
        assert_eq!(service.next_text().await["audio"]["sample_rate"], sample_rate);
        // What the agent says is what it would hear if it were said to it.
        let frames = sound::agent_clip().len().div_ceil(320);
        for _ in 0..frames {
            let said = service.next().await.unwrap();
            service.socket.send(said).await.unwrap();
        }
        let session = agent.wait_for_session(1).await.unwrap();
        session.hear_for(Duration::from_secs(3)).await.unwrap();
        let heard = session.heard_at_phone_rate();
        assert!(
            sound::similarity(&sound::agent_clip(), &heard) > 0.85,
            "{audio:?}: {:?}",
            sound::find(&sound::agent_clip(), &heard)
        );
        assert!(matches!(service.next().await.unwrap(), Message::Binary(_)), "the echo");
    }
}

#[tokio::test]
async fn a_real_time_agent_takes_as_long_as_its_words() {
    let options = AgentOptions { greeting: sound::tone(440.0, PHONE_RATE, 300), ..AgentOptions::default() };
    let agent = Agent::start(options).await.unwrap();
    let mut service = Service::dial(&agent).await.unwrap();
    service.start("pcm_s16le", 16_000).await;
    service.next_text().await;
    service.next().await.unwrap();
    let first = tokio::time::Instant::now();
    for _ in 1..15 {
        assert_eq!(service.next().await.unwrap().into_data().len(), 640);
    }
    assert!(first.elapsed() >= Duration::from_millis(270), "{:?}", first.elapsed());
}

#[tokio::test]
async fn refusals_and_silence_at_the_door() {
    let agent =
        Agent::start(AgentOptions { behaviour: Behaviour::RefuseHttp(503), ..AgentOptions::default() }).await.unwrap();
    match Service::dial(&agent).await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{:?}", other.map(|_| "a session")),
    }
    agent.set_behaviour(Behaviour::NeverAnswerHandshake);
    let dialled = tokio::time::timeout(Duration::from_millis(200), Service::dial(&agent)).await;
    assert!(dialled.is_err(), "the handshake is never answered");
    agent.set_behaviour(Behaviour::Normal);
    Service::dial(&agent).await.unwrap();
    agent.wait_for_connection(3).await.unwrap();
    assert_eq!(agent.sessions().len(), 1);
}

#[tokio::test]
async fn endings_by_the_agent() {
    let after = Duration::from_millis(50);
    let agent =
        Agent::start(AgentOptions { behaviour: Behaviour::AcceptThenClose(after, 1011), ..AgentOptions::default() })
            .await
            .unwrap();
    let mut service = Service::dial(&agent).await.unwrap();
    match service.next().await.unwrap() {
        Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), 1011),
        other => panic!("{other:?}"),
    }
    agent.set_behaviour(Behaviour::ByeAfter(after));
    let mut service = Service::dial(&agent).await.unwrap();
    service.start("pcm_s16le", 16_000).await;
    assert_eq!(service.next_text().await["type"], "ready");
    assert_eq!(service.next_text().await["type"], "bye");
    agent.set_behaviour(Behaviour::ResetMidCall(after));
    let mut service = Service::dial(&agent).await.unwrap();
    service.start("pcm_s16le", 16_000).await;
    assert_eq!(service.next_text().await["type"], "ready");
    match service.next().await {
        Err(Error::Io(error)) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
    let session = agent.wait_for_session(3).await.unwrap();
    assert_eq!(session.wait_for_end().await.unwrap(), SessionEnd::ByAgent);
}

#[tokio::test]
async fn junk_comes_as_ordered() {
    let junk = vec![
        Junk::InvalidJson,
        Junk::UnknownType,
        Junk::WrongFields,
        Junk::DeepJson,
        Junk::EmptyAudio,
        Junk::HugeMessage(3 << 20),
        Junk::InvalidUtf8,
    ];
    let agent =
        Agent::start(AgentOptions { behaviour: Behaviour::Junk(junk), ..AgentOptions::default() }).await.unwrap();
    let mut service = Service::dial(&agent).await.unwrap();
    service.start("pcm_s16le", 16_000).await;
    let mut sizes = Vec::new();
    let end = loop {
        match service.next().await {
            Ok(message) => sizes.push(message.into_data().len()),
            Err(error) => break error,
        }
    };
    assert_eq!(sizes[4..], [100_000, 0, 3 << 20]);
    assert!(matches!(end, Error::Utf8(_)), "{end:?}");
}

#[tokio::test]
async fn a_flood_floods_and_a_slow_reader_does_not_read() {
    let flood = Behaviour::Flood { bytes_per_second: 3_000_000 };
    let agent =
        Agent::start(AgentOptions { behaviour: flood, sends_ready: false, ..AgentOptions::default() }).await.unwrap();
    let mut service = Service::dial(&agent).await.unwrap();
    service.start("pcm_s16le", 16_000).await;
    for _ in 0..10 {
        assert_eq!(service.next().await.unwrap().into_data().len(), 30_000);
    }
    let slow = AgentOptions { behaviour: Behaviour::SlowReader, ..AgentOptions::default() };
    let agent = Agent::start(slow).await.unwrap();
    let mut service = Service::dial(&agent).await.unwrap();
    service.start("pcm_s16le", 16_000).await;
    let stuck = tokio::time::timeout(Duration::from_secs(2), async {
        loop {
            service.socket.send(Message::binary(vec![0; 1 << 20])).await.unwrap();
        }
    });
    assert!(stuck.await.is_err(), "somebody who writes gets stuck");
    assert_eq!(agent.wait_for_session(1).await.unwrap().audio_count(), 0);
}

#[tokio::test]
async fn a_wait_in_vain_says_what_was_seen() {
    let agent = Agent::start(AgentOptions::default()).await.unwrap();
    let mut service = Service::dial(&agent).await.unwrap();
    service.start("pcm_s16le", 16_000).await;
    service.socket.send(Message::text(r#"{"type":"stop","reason":"caller_hung_up"}"#)).await.unwrap();
    service.socket.close(None).await.unwrap();
    let session = agent.wait_for_session(1).await.unwrap();
    let error = session.wait_for_message("accepted").await.unwrap_err().to_string();
    assert!(error.contains(r#"["start", "stop"]"#) && error.contains("Closed(1005"), "{error}");
}

/// The service's side of a session.
struct Service {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Service {
    async fn dial(agent: &Agent) -> Result<Self, Error> {
        let mut request = agent.url().into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "patchcord.v1".parse().unwrap());
        request.headers_mut().insert("authorization", "Bearer of a test".parse().unwrap());
        let (socket, response) = connect_async(request).await?;
        assert_eq!(response.headers()["sec-websocket-protocol"], "patchcord.v1");
        Ok(Self { socket })
    }

    async fn start(&mut self, encoding: &str, sample_rate: u32) {
        let audio = json!({ "encoding": encoding, "sample_rate": sample_rate, "channels": 1, "frame_ms": 20 });
        let start = json!({ "type": "start", "version": 1, "call_id": "call_1", "audio": audio });
        self.socket.send(Message::text(start.to_string())).await.unwrap();
    }

    async fn say(&mut self, samples: &[i16]) {
        for frame in samples.chunks(320) {
            let bytes: Vec<u8> = frame.iter().flat_map(|sample| sample.to_le_bytes()).collect();
            self.socket.send(Message::binary(bytes)).await.unwrap();
        }
    }

    async fn next(&mut self) -> Result<Message, Error> {
        let next = tokio::time::timeout(Duration::from_secs(10), self.socket.next()).await;
        next.expect("a message within 10 s").unwrap_or(Err(Error::ConnectionClosed))
    }

    async fn next_text(&mut self) -> Value {
        match self.next().await.unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} instead of a text"),
        }
    }
}

fn pcm(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect()
}
