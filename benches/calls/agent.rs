//! Agents as cheap as they can be: WebSocket frames written and read by hand on one thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use patchcord_simulator::agent::SUBPROTOCOL;
use patchcord_simulator::sound;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;

const FRAME: Duration = Duration::from_millis(20);
/// 20 ms of 16 kHz samples.
const PCM_BYTES: usize = 640;
/// RFC 6455 §5.2: the last fragment of a binary message, and of a pong.
const BINARY: u8 = 0x82;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// What every agent does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Talk {
    /// Sends back every packet it hears.
    Echo,
    /// Speaks real speech, 20 ms of 16 kHz PCM at a time, and hears without listening.
    Speak,
}

/// All agents behind one address. Dropping it ends them.
pub struct Agents {
    /// For the route.
    pub url: String,
    counts: Rc<Counts>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    heard: Cell<u64>,
    said: Cell<u64>,
    sessions: RefCell<Vec<JoinHandle<()>>>,
}

impl Agents {
    /// Listens on a port of its own.
    pub async fn start(talk: Talk) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("ws://{}/call", listener.local_addr()?);
        let counts = Rc::<Counts>::default();
        let speech: Rc<[u8]> = sound::agent_clip().iter().flat_map(|sample| sample.to_le_bytes()).collect();
        let server = tokio::task::spawn_local({
            let counts = counts.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let session = Session { talk, speech: speech.clone(), counts: counts.clone() };
                    let session = tokio::task::spawn_local(async move { session.run(stream).await });
                    counts.sessions.borrow_mut().push(session);
                }
            }
        });
        Ok(Self { url, counts, server })
    }

    /// Audio messages from the service so far.
    pub fn heard(&self) -> u64 {
        self.counts.heard.get()
    }

    /// Audio messages to the service so far.
    pub fn said(&self) -> u64 {
        self.counts.said.get()
    }
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
}

impl Session {
    async fn run(self, stream: TcpStream) {
        // Whoever hangs up ends the session; the figures show what went through.
        let _ = self.converse(stream).await;
    }

    async fn converse(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        #[expect(clippy::result_large_err, reason = "the shape that tungstenite asks for")]
        let agree = |_: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
            Ok(response)
        };
        // The service speaks only after our reply, so nothing is left behind in the socket's buffer.
        let stream = tokio_tungstenite::accept_hdr_async(stream, agree).await?.into_inner();
        let (mut reader, mut speaker) = (Reader::default(), Speaker::new(&self.speech));
        loop {
            tokio::select! {
                readable = stream.readable() => {
                    readable?;
                    self.hear(&stream, &mut reader)?;
                }
                () = tokio::time::sleep_until(speaker.next_at.into()), if self.talk == Talk::Speak => {
                    let said = speaker.speak(&stream)?;
                    self.counts.said.set(self.counts.said.get() + said);
                }
            }
        }
    }

    fn hear(&self, stream: &TcpStream, reader: &mut Reader) -> anyhow::Result<()> {
        let mut reply = Vec::new();
        reader.fill(stream)?;
        while let Some((kind, payload)) = reader.next_message() {
            if kind == PING {
                write_frame(&mut reply, PONG, payload);
            }
            if kind != BINARY {
                continue;
            }
            self.counts.heard.set(self.counts.heard.get() + 1);
            if self.talk == Talk::Echo {
                write_frame(&mut reply, BINARY, payload);
                self.counts.said.set(self.counts.said.get() + 1);
            }
        }
        reader.forget_read();
        send_all(stream, &reply)
    }
}

/// Speech again and again, a frame every 20 ms.
struct Speaker<'a> {
    speech: &'a [u8],
    at: usize,
    next_at: Instant,
    frame: Vec<u8>,
}

impl<'a> Speaker<'a> {
    fn new(speech: &'a [u8]) -> Self {
        let phase = Duration::from_micros(rand::random_range(0..20_000));
        Self { speech, at: 0, next_at: Instant::now() + phase, frame: Vec::new() }
    }

    /// Says what is due and tells how many frames that was.
    fn speak(&mut self, stream: &TcpStream) -> anyhow::Result<u64> {
        let (now, mut said) = (Instant::now(), 0);
        while self.next_at <= now {
            self.next_at += FRAME;
            self.frame.clear();
            write_frame(&mut self.frame, BINARY, &self.speech[self.at..self.at + PCM_BYTES]);
            send_all(stream, &self.frame)?;
            self.at = if self.at + 2 * PCM_BYTES <= self.speech.len() { self.at + PCM_BYTES } else { 0 };
            said += 1;
        }
        Ok(said)
    }
}

/// A server's frame is not masked (RFC 6455 §5.1).
fn write_frame(out: &mut Vec<u8>, kind: u8, payload: &[u8]) {
    out.push(kind);
    match u8::try_from(payload.len()).ok().filter(|length| *length < 126) {
        Some(length) => out.push(length),
        None => {
            out.push(126);
            // No message here is longer than a frame of sound.
            out.extend_from_slice(&(payload.len() as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(payload);
}

fn send_all(stream: &TcpStream, bytes: &[u8]) -> anyhow::Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let sent = stream.try_write(bytes).context("the service does not read")?;
    anyhow::ensure!(sent == bytes.len(), "the service reads too slowly");
    Ok(())
}

/// Takes the service's frames apart.
#[derive(Default)]
struct Reader {
    bytes: Vec<u8>,
    read: usize,
}

impl Reader {
    fn fill(&mut self, stream: &TcpStream) -> anyhow::Result<()> {
        let had = self.bytes.len();
        self.bytes.resize(had + 4096, 0);
        let got = match stream.try_read(&mut self.bytes[had..]) {
            Ok(0) => anyhow::bail!("the service hung up"),
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error.into()),
        };
        self.bytes.truncate(had + got);
        Ok(())
    }

    /// The first byte and the unmasked payload of the next whole frame.
    fn next_message(&mut self) -> Option<(u8, &[u8])> {
        let frame = &self.bytes[self.read..];
        let (kind, short) = (*frame.first()?, frame.get(1)? & 0x7f);
        let (length, header) = match short {
            126 => (usize::from(u16::from_be_bytes([*frame.get(2)?, *frame.get(3)?])), 4),
            // No message of the service is as long as the third form allows.
            _ => (usize::from(short), 2),
        };
        let start = self.read + header + 4;
        if self.bytes.len() < start + length {
            return None;
        }
        let mask = [0, 1, 2, 3].map(|at| self.bytes[start - 4 + at]);
        self.read = start + length;
        let payload = &mut self.bytes[start..start + length];
        for (at, byte) in payload.iter_mut().enumerate() {
            *byte ^= mask[at % 4];
        }
        Some((kind, payload))
    }

    fn forget_read(&mut self) {
        self.bytes.drain(..self.read);
        self.read = 0;
    }
}
