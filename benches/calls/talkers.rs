//! Minimal agents in any protocol: they send real speech from prepared bytes, and count what they hear.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::frames::{PING, PONG, Reader, TEXT, send_all, write_frame};
use crate::wire::Wire;

const FRAME: Duration = Duration::from_millis(20);
const SUBPROTOCOLS: &str = "sec-websocket-protocol";

/// All agents behind one address. Dropping it ends them.
pub struct Talkers {
    /// Where they listen.
    pub address: SocketAddr,
    counts: Rc<Counts>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    heard: Cell<u64>,
    said: Cell<u64>,
}

impl Talkers {
    /// Listens on a port of its own.
    pub async fn start(wire: Wire) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (counts, voice) = (Rc::<Counts>::default(), Rc::<[Vec<u8>]>::from(wire.voice()));
        let server = tokio::task::spawn_local({
            let counts = counts.clone();
            async move {
                let mut sessions = JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let session = Session { wire, voice: voice.clone(), counts: counts.clone() };
                    // A hang-up ends the session; the figures show what went through.
                    sessions.spawn_local(async move { drop(session.converse(stream).await) });
                }
            }
        });
        Ok(Self { address, counts, server })
    }

    /// Messages of audio from the service so far.
    pub fn heard(&self) -> u64 {
        self.counts.heard.get()
    }

    /// Messages of audio to the service so far.
    pub fn said(&self) -> u64 {
        self.counts.said.get()
    }
}

impl Drop for Talkers {
    fn drop(&mut self) {
        self.server.abort();
    }
}

struct Session {
    wire: Wire,
    voice: Rc<[Vec<u8>]>,
    counts: Rc<Counts>,
}

impl Session {
    async fn converse(&self, stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let stream = if self.wire.is_bare() { stream } else { upgrade(stream).await? };
        let (mut reader, mut first_reply) = (Reader::default(), self.wire.first_reply());
        // Agents do not talk in step.
        let mut next_at = Instant::now() + FRAME.mul_f64(rand::random());
        let mut voice = self.voice.iter().cycle();
        loop {
            tokio::select! {
                readable = stream.readable() => {
                    readable?;
                    self.hear(&stream, &mut reader, &mut first_reply)?;
                }
                () = tokio::time::sleep_until(next_at.into()), if first_reply.is_none() => {
                    next_at += FRAME;
                    let Some(message) = voice.next() else { return Ok(()) };
                    send_all(&stream, message)?;
                    self.counts.said.set(self.counts.said.get() + 1);
                }
            }
        }
    }

    fn hear(
        &self,
        stream: &TcpStream,
        reader: &mut Reader,
        first_reply: &mut Option<&'static str>,
    ) -> anyhow::Result<()> {
        let mut reply = Vec::new();
        reader.fill(stream)?;
        loop {
            let message = if self.wire.is_bare() { reader.next_of_audiosocket() } else { reader.next_message() };
            let Some((kind, payload)) = message else { break };
            if kind == PING {
                write_frame(&mut reply, PONG, payload);
            } else if self.wire.is_audio(kind, payload) {
                self.counts.heard.set(self.counts.heard.get() + 1);
            } else if let Some(first_reply) = first_reply.take() {
                write_frame(&mut reply, TEXT, first_reply.as_bytes());
            }
        }
        reader.forget_read();
        send_all(stream, &reply)
    }
}

/// Agrees to the first subprotocol. The service sends only after our reply, so the library's buffer holds nothing else.
async fn upgrade(stream: TcpStream) -> anyhow::Result<TcpStream> {
    #[expect(clippy::result_large_err, reason = "the shape that tungstenite asks for")]
    let agree = |request: &Request, mut response: Response| -> Result<Response, ErrorResponse> {
        let offered = request.headers().get(SUBPROTOCOLS).and_then(|offered| offered.to_str().ok());
        let first = offered.and_then(|offered| offered.split(',').next()).map(str::trim);
        if let Some(first) = first.and_then(|first| HeaderValue::from_str(first).ok()) {
            response.headers_mut().insert(SUBPROTOCOLS, first);
        }
        Ok(response)
    };
    Ok(tokio_tungstenite::accept_hdr_async(stream, agree).await?.into_inner())
}
