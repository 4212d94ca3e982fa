//! Minimal agents: WebSocket frames written and parsed by hand on one thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use patchcord_simulator::agent::SUBPROTOCOL;
use patchcord_simulator::sound;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::burst::{self, Onsets};
use crate::frames::{BINARY, PING, PONG, Reader, TEXT, send_all, write_frame};
use crate::machine;

const FRAME: Duration = Duration::from_millis(20);
/// 20 ms of 16 kHz samples.
const PCM_BYTES: usize = 640;
const ACCEPTED: &[u8] = br#"{"type":"accepted"}"#;

/// The behaviour of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// Sends back every packet it hears.
    Echo,
    /// Sends real speech, 20 ms of 16 kHz PCM at a time, and discards what it hears.
    Speak,
    /// Sends bursts of tone, 20 ms at a time from `accepted` on, and notes the time of each burst sent and heard.
    Bursts,
    /// The same, but sends from the start, while the phone still rings.
    EarlyBursts,
    /// Sends [`ANSWER`] of tone at once, interrupts it with `clear`, and notes the time.
    Interrupted,
}

/// The length of an interrupted answer.
const ANSWER: Duration = Duration::from_millis(800);

/// The notes of an agent, by [`machine::clock`].
#[derive(Debug, Default)]
pub struct Log {
    /// Times at which it sent a burst or `clear`, depending on its [`Talk`].
    pub said: RefCell<Vec<Duration>>,
    /// Times at which it read a message in which a burst begins.
    pub heard: RefCell<Vec<Duration>>,
    /// When it read its first message of audio.
    pub first_heard: Cell<Option<Duration>>,
}

/// All agents behind one address. Dropping it ends them.
pub struct Agents {
    /// For the route.
    pub url: String,
    address: SocketAddr,
    talk: Talk,
    counts: Rc<Counts>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    heard: Cell<u64>,
    said: Cell<u64>,
    logs: RefCell<Vec<Rc<Log>>>,
    sessions: RefCell<Vec<JoinHandle<()>>>,
}

impl Agents {
    /// Listens on a port of its own.
    pub async fn start(talk: Talk) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let counts = Rc::<Counts>::default();
        let server = serve(listener, talk, counts.clone());
        Ok(Self { url: format!("ws://{address}/call"), address, talk, counts, server })
    }

    /// The server is killed: its port is closed, and so are all connections.
    pub fn go_down(&self) {
        self.server.abort();
        self.counts.sessions.borrow_mut().drain(..).for_each(|session| session.abort());
    }

    /// The server listens again at the same address.
    pub async fn come_back(&mut self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(self.address).await?;
        self.server = serve(listener, self.talk, self.counts.clone());
        Ok(())
    }

    /// Audio messages from the service so far.
    pub fn heard(&self) -> u64 {
        self.counts.heard.get()
    }

    /// Audio messages to the service so far.
    pub fn said(&self) -> u64 {
        self.counts.said.get()
    }

    /// The notes of each agent, in the order of their connections.
    pub fn logs(&self) -> Vec<Rc<Log>> {
        self.counts.logs.borrow().clone()
    }
}

fn serve(listener: TcpListener, talk: Talk, counts: Rc<Counts>) -> JoinHandle<()> {
    let speech = match talk {
        Talk::Echo | Talk::Speak => sound::agent_clip(),
        Talk::Bursts | Talk::EarlyBursts => burst::period(),
        Talk::Interrupted => sound::tone(1000.0, 16_000, ANSWER.as_millis() as u32),
    };
    let speech: Rc<[u8]> = speech.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let log = Rc::<Log>::default();
            counts.logs.borrow_mut().push(log.clone());
            let session = Session { talk, speech: speech.clone(), counts: counts.clone(), log };
            let session = tokio::task::spawn_local(async move { session.run(stream).await });
            counts.sessions.borrow_mut().push(session);
        }
    })
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.server.abort();
        for session in self.counts.sessions.borrow().iter() {
            session.abort();
        }
    }
}

struct Session {
    talk: Talk,
    speech: Rc<[u8]>,
    counts: Rc<Counts>,
    log: Rc<Log>,
}

impl Session {
    async fn run(self, stream: TcpStream) {
        // A hang-up ends the session; the figures show what went through.
        let _ = self.converse(stream).await;
    }

    async fn converse(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        #[expect(clippy::result_large_err, reason = "the shape that tungstenite asks for")]
        let agree = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
            Ok(response)
        };
        // The service sends only after our reply, so the buffer holds nothing else.
        let stream = tokio_tungstenite::accept_hdr_async(stream, agree).await?.into_inner();
        let (mut reader, mut speaker) = (Reader::default(), Speaker::new(&self.speech, &self.log));
        let (mut onsets, mut may_speak) = (Onsets::default(), self.talk != Talk::Bursts);
        loop {
            tokio::select! {
                readable = stream.readable() => {
                    readable?;
                    let is_accepted = self.hear(&stream, &mut reader, &mut onsets)?;
                    if is_accepted && !may_speak {
                        (speaker, may_speak) = (Speaker::new(&self.speech, &self.log), true);
                    }
                }
                () = tokio::time::sleep_until(speaker.next_at.into()), if may_speak && self.talk != Talk::Echo => {
                    let said = match self.talk {
                        Talk::Interrupted => speaker.answer_or_clear(&stream)?,
                        Talk::Echo | Talk::Speak | Talk::Bursts | Talk::EarlyBursts => speaker.speak(&stream)?,
                    };
                    self.counts.said.set(self.counts.said.get() + said);
                }
            }
        }
    }

    /// Whether one of the messages was `accepted`.
    fn hear(&self, stream: &TcpStream, reader: &mut Reader, onsets: &mut Onsets) -> anyhow::Result<bool> {
        let (mut reply, mut is_accepted) = (Vec::new(), false);
        reader.fill(stream)?;
        let now = machine::clock();
        while let Some((kind, payload)) = reader.next_message() {
            if kind == PING {
                write_frame(&mut reply, PONG, payload);
            }
            is_accepted |= kind == TEXT && payload == ACCEPTED;
            if kind != BINARY {
                continue;
            }
            self.counts.heard.set(self.counts.heard.get() + 1);
            self.log.first_heard.set(self.log.first_heard.get().or(Some(now)));
            if matches!(self.talk, Talk::Bursts | Talk::EarlyBursts) && onsets.begins(&burst::samples(payload)) {
                self.log.heard.borrow_mut().push(now);
            }
            if self.talk == Talk::Echo {
                write_frame(&mut reply, BINARY, payload);
                self.counts.said.set(self.counts.said.get() + 1);
            }
        }
        reader.forget_read();
        send_all(stream, &reply)?;
        Ok(is_accepted)
    }
}

/// Looped speech, a frame every 20 ms.
struct Speaker<'a> {
    speech: &'a [u8],
    at: usize,
    next_at: Instant,
    frame: Vec<u8>,
    log: &'a Log,
    is_answering: bool,
}

impl<'a> Speaker<'a> {
    fn new(speech: &'a [u8], log: &'a Log) -> Self {
        let phase = Duration::from_micros(rand::random_range(0..20_000));
        Self { speech, at: 0, next_at: Instant::now() + phase, frame: Vec::new(), log, is_answering: false }
    }

    /// Sends what is due and gives the number of frames.
    fn speak(&mut self, stream: &TcpStream) -> anyhow::Result<u64> {
        let (now, mut said) = (Instant::now(), 0);
        while self.next_at <= now {
            self.next_at += FRAME;
            self.frame.clear();
            write_frame(&mut self.frame, BINARY, &self.speech[self.at..self.at + PCM_BYTES]);
            if self.at == burst::AT * PCM_BYTES {
                self.log.said.borrow_mut().push(machine::clock());
            }
            send_all(stream, &self.frame)?;
            self.at = if self.at + 2 * PCM_BYTES <= self.speech.len() { self.at + PCM_BYTES } else { 0 };
            said += 1;
        }
        Ok(said)
    }

    /// Alternates, with a varying pause: at exactly 20 ms it would always meet the service's tick at one phase.
    fn answer_or_clear(&mut self, stream: &TcpStream) -> anyhow::Result<u64> {
        self.next_at = Instant::now() + Duration::from_micros(rand::random_range(300_000..500_000));
        self.is_answering = !self.is_answering;
        self.frame.clear();
        if self.is_answering {
            write_frame(&mut self.frame, BINARY, self.speech);
            send_all(stream, &self.frame)?;
            return Ok(1);
        }
        write_frame(&mut self.frame, TEXT, br#"{"type":"clear"}"#);
        self.log.said.borrow_mut().push(machine::clock());
        send_all(stream, &self.frame)?;
        Ok(0)
    }
}
