//! The tasks of an agent: accept, shake hands, listen, speak at the right pace, misbehave when told to.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::handshake::server::{Callback, ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

use super::session::{AgentSession, SessionEnd, SessionOrder, SessionRecord, SessionState};
use super::{AgentAudio, AgentOptions, AgentShared, Behaviour, Encoding, Junk, Pace, SUBPROTOCOL};
use crate::cut::{CuttableStream, Knife};
use crate::phone::shell::now;
use crate::sound::{self, PHONE_RATE};

/// Orders that may wait for a session; those who give them wait for a place.
const ORDERS: usize = 64;
/// A request to become a WebSocket has some hundred bytes.
const REQUEST_BYTES: usize = 16 * 1024;
/// How often a flood is fed.
const FLOOD_EVERY: Duration = Duration::from_millis(10);

type WebSocket = WebSocketStream<CuttableStream>;

pub(super) async fn serve(listener: TcpListener, shared: Arc<AgentShared>) {
    let mut sessions = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error concerns that one connection.
                if let Ok((stream, _)) = accepted {
                    shared.connected();
                    sessions.spawn(connection(stream, shared.clone()));
                }
            }
            Some(ended) = sessions.join_next() => report(ended),
        }
    }
}

fn report(ended: Result<anyhow::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("a simulated agent's session: {error:#}"),
        Err(error) => tracing::error!("a simulated agent's session: {error}"),
    }
}

async fn connection(stream: TcpStream, shared: Arc<AgentShared>) -> anyhow::Result<()> {
    let options = shared.options();
    let stream = CuttableStream::new(stream);
    let knife = stream.knife();
    match &options.behaviour {
        Behaviour::NeverAnswerHandshake => {
            let _held = stream;
            return pending().await;
        }
        Behaviour::RefuseHttp(status) => {
            let handshake = Handshake { refuse: Some(*status), seen: Arc::default() };
            let refused = tokio_tungstenite::accept_hdr_async(stream, handshake).await;
            anyhow::ensure!(refused.is_err(), "a refused handshake went through");
            return Ok(());
        }
        Behaviour::SlowHandshake(takes) => tokio::time::sleep(*takes).await,
        _ => {}
    }
    let (socket, Seen { path, headers }) = match &options.behaviour {
        Behaviour::AnswerHandshake(answer) => match answer_handshake(stream, answer).await? {
            Some(opened) => opened,
            None => return Ok(()),
        },
        _ => accept(stream).await?,
    };
    let (orders, commands) = mpsc::channel(ORDERS);
    let record = record_of(&options, path, headers);
    shared.joined(AgentSession { record: record.clone(), orders: orders.clone() });
    session(socket, knife, &options, &record, &orders, commands).await;
    Ok(())
}

/// A session whose socket this agent opens.
pub(super) async fn open(options: AgentOptions, request: Request) -> anyhow::Result<AgentSession> {
    let address = request.uri().authority().context("an address")?.to_string();
    let path = request.uri().path().to_owned();
    let stream = CuttableStream::new(TcpStream::connect(address).await?);
    let knife = stream.knife();
    let (socket, answer) = tokio_tungstenite::client_async(request, stream).await?;
    let headers = answer.headers().iter();
    let headers = headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap_or("").to_owned())).collect();
    let record = record_of(&options, path, headers);
    let (orders, commands) = mpsc::channel(ORDERS);
    let opened = AgentSession { record: record.clone(), orders: orders.clone() };
    tokio::spawn(async move { session(socket, knife, &options, &record, &orders, commands).await });
    Ok(opened)
}

fn record_of(options: &AgentOptions, path: String, headers: Vec<(String, String)>) -> Arc<SessionRecord> {
    Arc::new(SessionRecord {
        path,
        headers,
        keeps_audio: options.keeps_audio,
        changed: watch::Sender::new(()),
        state: Mutex::new(SessionState {
            audio: options.audio.unwrap_or(AgentAudio { encoding: Encoding::Pcm, sample_rate: PHONE_RATE }),
            messages: Vec::new(),
            audio_messages: Vec::new(),
            audio_bytes: 0,
            audio_count: 0,
            end: None,
        }),
    })
}

async fn accept(stream: CuttableStream) -> anyhow::Result<(WebSocket, Seen)> {
    let seen = Arc::<Mutex<Seen>>::default();
    let handshake = Handshake { refuse: None, seen: seen.clone() };
    let socket = tokio_tungstenite::accept_hdr_async(stream, handshake).await.context("shake hands")?;
    let seen = std::mem::take(&mut *seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    Ok((socket, seen))
}

/// Answers with these very bytes. A WebSocket only if they say so.
async fn answer_handshake(mut stream: CuttableStream, answer: &str) -> anyhow::Result<Option<(WebSocket, Seen)>> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        anyhow::ensure!(request.len() < REQUEST_BYTES, "a request without an end");
        request.push(stream.read_u8().await.context("read a request")?);
    }
    let request = String::from_utf8_lossy(&request);
    let mut lines = request.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
        .collect();
    let key = headers.iter().find(|(name, _)| name == "sec-websocket-key").map_or("", |(_, key)| key);
    let answer = answer.replace("ACCEPT", &derive_accept_key(key.as_bytes()));
    stream.write_all(answer.as_bytes()).await?;
    if !answer.contains("HTTP/1.1 101") {
        stream.shutdown().await?;
        return Ok(None);
    }
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, None).await;
    Ok(Some((socket, Seen { path, headers })))
}

async fn session(
    socket: WebSocket,
    knife: Knife,
    options: &AgentOptions,
    record: &Arc<SessionRecord>,
    orders: &mpsc::Sender<SessionOrder>,
    commands: mpsc::Receiver<SessionOrder>,
) {
    let (sink, stream) = socket.split();
    let (echo, echoes) = mpsc::channel(1024);
    let started = watch::Sender::new(None);
    let listener = Listener { stream, options, record, started: &started, echo };
    let speaker =
        Speaker { sink, knife, options, record, queue: VecDeque::new(), next_at: now(), commands, echoes, chunks: 0 };
    let end = tokio::select! {
        end = listener.listen() => end,
        end = speaker.speak() => end,
        () = behave(options, orders, started.subscribe()) => SessionEnd::ByAgent,
    };
    record.end(end);
}

/// What a session does of itself after `start`, by giving itself orders.
async fn behave(
    options: &AgentOptions,
    orders: &mpsc::Sender<SessionOrder>,
    mut started: watch::Receiver<Option<AgentAudio>>,
) {
    if let Behaviour::AcceptThenClose(after, code) = options.behaviour {
        tokio::time::sleep(after).await;
        let _ = orders.send(SessionOrder::Close(code)).await;
        return pending().await;
    }
    // The sender lives as long as the session.
    let _ = started.wait_for(Option::is_some).await;
    match &options.behaviour {
        Behaviour::ResetMidCall(after) => {
            tokio::time::sleep(*after).await;
            let _ = orders.send(SessionOrder::Reset).await;
        }
        Behaviour::ByeAfter(after) => {
            tokio::time::sleep(*after).await;
            let _ = orders.send(SessionOrder::Text(r#"{"type":"bye"}"#.to_owned())).await;
        }
        Behaviour::Flood { bytes_per_second } => flood(*bytes_per_second, orders).await,
        _ => {}
    }
    pending::<()>().await;
}

async fn flood(bytes_per_second: usize, orders: &mpsc::Sender<SessionOrder>) {
    let mut ticks = tokio::time::interval(FLOOD_EVERY);
    let mut noise = 1_u32;
    loop {
        ticks.tick().await;
        let bytes = (0..(bytes_per_second / 100) & !1)
            .map(|_| {
                noise = noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                noise.to_be_bytes()[0]
            })
            .collect();
        if orders.send(SessionOrder::Binary(bytes)).await.is_err() {
            return;
        }
    }
}

/// The half of a session that reads.
struct Listener<'a> {
    stream: SplitStream<WebSocket>,
    options: &'a AgentOptions,
    record: &'a SessionRecord,
    started: &'a watch::Sender<Option<AgentAudio>>,
    echo: mpsc::Sender<Said>,
}

/// What the listening half has the speaking half do.
#[derive(Debug)]
enum Said {
    Started(AgentAudio),
    Echo(Message),
}

impl Listener<'_> {
    async fn listen(mut self) -> SessionEnd {
        loop {
            let message = match self.stream.next().await {
                Some(Ok(message)) => message,
                Some(Err(error)) => return SessionEnd::Broken(error.to_string()),
                None => return SessionEnd::Broken("the stream ended".to_owned()),
            };
            match message {
                Message::Text(text) => {
                    let message = self.record.read(&text, now());
                    if message["type"] == "start" {
                        self.start(&message).await;
                    }
                }
                Message::Binary(bytes) => {
                    self.record.hear(&bytes, now());
                    if self.options.echo {
                        // When the service does not read, the echo waits here and the agent stops reading too.
                        let _ = self.echo.send(Said::Echo(Message::Binary(bytes))).await;
                    }
                }
                Message::Close(frame) => {
                    let (code, reason) = frame.map_or((1005, String::new()), |f| (f.code.into(), f.reason.to_string()));
                    // The library answers the close when the stream is polled once more.
                    let _ = self.stream.next().await;
                    return SessionEnd::Closed(code, reason);
                }
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
            }
        }
    }

    async fn start(&mut self, start: &Value) {
        let audio = self.options.audio.unwrap_or_else(|| announced(&start["audio"]));
        self.record.lock().audio = audio;
        let _ = self.echo.send(Said::Started(audio)).await;
        self.started.send_replace(Some(audio));
        if self.options.behaviour == Behaviour::SlowReader {
            pending::<()>().await;
        }
    }
}

fn announced(audio: &Value) -> AgentAudio {
    AgentAudio {
        encoding: if audio["encoding"] == "opus" { Encoding::Opus } else { Encoding::Pcm },
        sample_rate: audio["sample_rate"].as_u64().and_then(|rate| rate.try_into().ok()).unwrap_or(PHONE_RATE),
    }
}

/// The half of a session that writes.
struct Speaker<'a> {
    sink: SplitSink<WebSocket, Message>,
    knife: Knife,
    options: &'a AgentOptions,
    record: &'a SessionRecord,
    queue: VecDeque<(Message, Duration)>,
    next_at: Instant,
    commands: mpsc::Receiver<SessionOrder>,
    echoes: mpsc::Receiver<Said>,
    chunks: usize,
}

impl Speaker<'_> {
    async fn speak(mut self) -> SessionEnd {
        loop {
            let at = self.next_at;
            let sent = tokio::select! {
                biased;
                Some(said) = self.echoes.recv() => match said {
                    Said::Echo(message) => self.sink.send(message).await,
                    Said::Started(audio) => self.begin(audio).await,
                },
                Some(order) = self.commands.recv() => match order {
                    SessionOrder::Reset => {
                        self.knife.cut();
                        return SessionEnd::ByAgent;
                    }
                    order => self.obey(order).await,
                },
                () = tokio::time::sleep_until(at.into()), if !self.queue.is_empty() => self.say_next().await,
            };
            if let Err(error) = sent {
                // The listening half sees the end too, and knows more of it.
                tracing::debug!("a simulated agent cannot speak: {error}");
                return pending().await;
            }
        }
    }

    async fn begin(&mut self, audio: AgentAudio) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        if self.options.sends_ready {
            let mut ready = json!({ "type": "ready" });
            if let Some(wanted) = self.options.audio {
                let encoding = if wanted.encoding == Encoding::Opus { "opus" } else { "pcm_s16le" };
                ready["audio"] = json!({ "encoding": encoding, "sample_rate": wanted.sample_rate, "channels": 1 });
            }
            self.sink.send(Message::text(ready.to_string())).await?;
        }
        if let Behaviour::Junk(junk) = &self.options.behaviour {
            for junk in junk {
                self.sink.send(junk.message()).await?;
            }
        }
        self.enqueue(&self.options.greeting, audio);
        if let Some(name) = &self.options.mark_after_greeting {
            let mark = json!({ "type": "mark", "name": name }).to_string();
            self.queue.push_back((Message::text(mark), Duration::ZERO));
        }
        Ok(())
    }

    async fn obey(&mut self, order: SessionOrder) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        match order {
            // Behind what is being said, as a bot's marks are.
            SessionOrder::Text(text) if self.queue.is_empty() || is_urgent(&text) => {
                self.sink.send(Message::text(text)).await
            }
            SessionOrder::Text(text) => {
                self.queue.push_back((Message::text(text), Duration::ZERO));
                Ok(())
            }
            SessionOrder::Binary(bytes) => self.sink.send(Message::binary(bytes)).await,
            SessionOrder::Audio(pcm) => {
                let audio = self.record.lock().audio;
                self.enqueue(&pcm, audio);
                Ok(())
            }
            SessionOrder::DropQueued => {
                self.queue.clear();
                Ok(())
            }
            SessionOrder::Close(code) => {
                let frame = CloseFrame { code: code.into(), reason: "".into() };
                self.sink.send(Message::Close(Some(frame))).await
            }
            SessionOrder::Reset => Ok(()),
        }
    }

    async fn say_next(&mut self) -> Result<(), tokio_tungstenite::tungstenite::Error> {
        let Some((message, lasts)) = self.queue.pop_front() else { return Ok(()) };
        if self.options.pace == Pace::RealTime {
            self.next_at += lasts;
        }
        self.sink.send(message).await
    }

    /// Cuts speech (16 kHz) into messages of the session's format.
    fn enqueue(&mut self, pcm: &[i16], audio: AgentAudio) {
        if self.queue.is_empty() {
            self.next_at = now();
        }
        let pcm = sound::at_rate(pcm, PHONE_RATE, audio.sample_rate);
        let frame = (audio.sample_rate / 50) as usize;
        match audio.encoding {
            Encoding::Opus => {
                for packet in opus_packets(&pcm, audio.sample_rate, frame) {
                    self.queue.push_back((Message::binary(packet), Duration::from_millis(20)));
                }
            }
            Encoding::Pcm => {
                let bytes: Vec<u8> = pcm.iter().flat_map(|sample| sample.to_le_bytes()).collect();
                let mut rest = bytes.as_slice();
                while !rest.is_empty() {
                    let chunk = self.chunk_bytes(frame * 2).min(rest.len());
                    let lasts = Duration::from_micros(chunk as u64 * 500_000 / u64::from(audio.sample_rate));
                    self.queue.push_back((Message::binary(rest[..chunk].to_vec()), lasts));
                    rest = &rest[chunk..];
                }
            }
        }
    }

    fn chunk_bytes(&mut self, usual: usize) -> usize {
        let sizes = &self.options.chunk_bytes;
        self.chunks += 1;
        sizes.get((self.chunks - 1) % sizes.len().max(1)).copied().unwrap_or(usual).max(1)
    }
}

/// What a bot sends at once even while it is speaking.
fn is_urgent(text: &str) -> bool {
    !text.contains(r#""mark""#)
}

fn opus_packets(pcm: &[i16], rate: u32, frame: usize) -> Vec<Vec<u8>> {
    let Ok(mut encoder) = opus::Encoder::new(rate, opus::Channels::Mono, opus::Application::Audio) else {
        return Vec::new();
    };
    pcm.chunks(frame)
        .filter_map(|chunk| {
            let mut whole = chunk.to_vec();
            whole.resize(frame, 0);
            encoder.encode_vec(&whole, 1000).ok()
        })
        .collect()
}

impl Junk {
    fn message(self) -> Message {
        match self {
            Self::InvalidJson => Message::text("{\"type\": \"clear\""),
            Self::InvalidUtf8 => {
                Message::Frame(Frame::message(vec![0xff, 0xfe, 0x80, 0x00], OpCode::Data(Data::Text), true))
            }
            Self::UnknownType => Message::text(r#"{"type":"levitate","metres":3,"nested":[{"a":[1,2,{}]}]}"#),
            Self::WrongFields => Message::text(r#"{"type":"mark","name":{"not":["a","name"]}}"#),
            Self::DeepJson => Message::text("[".repeat(100_000)),
            Self::HugeMessage(bytes) => Message::binary(vec![0_u8; bytes]),
            Self::EmptyAudio => Message::binary(Vec::new()),
        }
    }
}

#[derive(Debug, Default)]
struct Seen {
    path: String,
    headers: Vec<(String, String)>,
}

/// The server's side of the handshake: notes the request, takes our subprotocol, or refuses.
struct Handshake {
    refuse: Option<u16>,
    seen: Arc<Mutex<Seen>>,
}

impl Callback for Handshake {
    fn on_request(self, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
        if let Some(status) = self.refuse {
            let mut refusal = ErrorResponse::new(Some("this agent does not take calls".to_owned()));
            *refusal.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            return Err(refusal);
        }
        let mut seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        seen.path = request.uri().to_string();
        let headers = request.headers().iter();
        seen.headers = headers
            .map(|(key, value)| (key.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let offered =
            request.headers().get("sec-websocket-protocol").and_then(|value| value.to_str().ok()).unwrap_or("");
        if offered.split(',').any(|one| one.trim() == SUBPROTOCOL) {
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        }
        Ok(response)
    }
}
