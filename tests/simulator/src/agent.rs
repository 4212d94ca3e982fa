//! Agents: WebSocket servers that speak `patchcord.v1`, well or badly.

mod running;
mod session;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;

use crate::DEADLINE;

pub use session::{AgentSession, ControlMessage, SessionEnd};

/// The WebSocket subprotocol of the native dialect.
pub const SUBPROTOCOL: &str = "patchcord.v1";
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

/// How an agent speaks, and how it misbehaves.
#[derive(Debug, Clone)]
pub struct AgentOptions {
    /// Said at once on `start`, before `accepted`: PCM at 16 kHz mono.
    pub greeting: Vec<i16>,
    /// A `mark` of this name follows the greeting.
    pub mark_after_greeting: Option<String>,
    /// Sends back every piece of audio it gets.
    pub echo: bool,
    /// The format it asks for in `ready`; None takes what `start` says.
    pub audio: Option<AgentAudio>,
    /// Whether it sends `ready`.
    pub sends_ready: bool,
    /// Sizes in bytes of the messages that audio is cut into, in turn; odd numbers are legal. Empty means
    /// 20 ms each. Opus ignores it: one packet each.
    pub chunk_bytes: Vec<usize>,
    /// How fast audio is sent.
    pub pace: Pace,
    /// How it behaves.
    pub behaviour: Behaviour,
    /// Keep what it hears. Off for load.
    pub keeps_audio: bool,
}

impl Default for AgentOptions {
    fn default() -> Self {
        Self {
            greeting: Vec::new(),
            mark_after_greeting: None,
            echo: false,
            audio: None,
            sends_ready: true,
            chunk_bytes: Vec::new(),
            pace: Pace::RealTime,
            behaviour: Behaviour::Normal,
            keeps_audio: true,
        }
    }
}

/// The format of the audio between an agent and the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AgentAudio {
    /// How samples become bytes.
    pub encoding: Encoding,
    /// 8000, 16000, 24000 or 48000.
    pub sample_rate: u32,
}

/// How samples become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// `pcm_s16le`, mono.
    Pcm,
    /// `opus`, one packet in each message.
    Opus,
}

/// How fast audio is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it is to be played.
    RealTime,
    /// All at once, as synthesised speech comes.
    Burst,
}

/// How an agent behaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// Well.
    Normal,
    /// Answers the WebSocket handshake with this HTTP status.
    RefuseHttp(u16),
    /// Answers the WebSocket handshake with these bytes, in which `ACCEPT` stands for the value that RFC 6455 asks for,
    /// and behaves well if that opens a WebSocket.
    AnswerHandshake(String),
    /// Accepts the TCP connection and never answers the handshake.
    NeverAnswerHandshake,
    /// Answers the handshake after so long, and then behaves well.
    SlowHandshake(Duration),
    /// Accepts, then closes with this code after a while.
    AcceptThenClose(Duration, u16),
    /// Resets the TCP connection so long after `start`.
    ResetMidCall(Duration),
    /// Sends so many bytes of noise per second as audio.
    Flood {
        /// Bytes per second.
        bytes_per_second: usize,
    },
    /// Sends these on `start`, then behaves well.
    Junk(Vec<Junk>),
    /// Reads `start`, and then nothing more.
    SlowReader,
    /// Sends `bye` so long after `start`.
    ByeAfter(Duration),
}

/// What no agent should send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Junk {
    /// A text message that is not JSON.
    InvalidJson,
    /// A text message that is not UTF-8, which ends the connection (RFC 6455 §8.1).
    InvalidUtf8,
    /// JSON of a type nobody knows, which is to be ignored.
    UnknownType,
    /// Known types with fields of the wrong kind.
    WrongFields,
    /// JSON nested a hundred thousand levels deep.
    DeepJson,
    /// One binary message of so many bytes.
    HugeMessage(usize),
    /// An empty binary message.
    EmptyAudio,
}

/// A running agent. Dropping it closes its port and drops every connection.
#[derive(Debug)]
pub struct Agent {
    shared: Arc<AgentShared>,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl Agent {
    /// Starts an agent on a port of its own.
    ///
    /// # Errors
    /// When no port is to be had.
    pub async fn start(options: AgentOptions) -> anyhow::Result<Self> {
        let socket = TcpSocket::new_v4().context("a TCP socket")?;
        if options.behaviour == Behaviour::SlowReader {
            // A small window, so that the writer soon notices that nobody reads.
            socket.set_recv_buffer_size(4096)?;
        }
        socket.bind((Ipv4Addr::LOCALHOST, 0).into()).context("bind an agent")?;
        let listener = socket.listen(BACKLOG).context("listen as an agent")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(AgentShared {
            options: Mutex::new(options),
            sessions: Mutex::default(),
            connections: Mutex::default(),
            changed: watch::Sender::new(()),
        });
        let server = tokio::spawn(running::serve(listener, shared.clone()));
        Ok(Self { shared, address, server })
    }

    /// What to write as `agent` into a route.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}/call", self.address)
    }

    /// Every session that came as far as a WebSocket, in order.
    #[must_use]
    pub fn sessions(&self) -> Vec<AgentSession> {
        self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many TCP connections came, refused ones included.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.shared.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How later sessions behave.
    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.shared.options.lock().unwrap_or_else(PoisonError::into_inner).behaviour = behaviour;
    }

    /// Waits for the n-th session (from 1), at most 10 s.
    ///
    /// # Errors
    /// When time is up; the text says how many came.
    pub async fn wait_for_session(&self, nth: usize) -> anyhow::Result<AgentSession> {
        let mut changed = self.shared.changed.subscribe();
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                changed.mark_unchanged();
                if let Some(session) = self.sessions().into_iter().nth(nth.max(1) - 1) {
                    return Ok(session);
                }
                changed.changed().await.context("the agent is kept by this handle")?;
            }
        })
        .await;
        match found {
            Ok(found) => found,
            Err(_) => bail!(
                "waited {DEADLINE:?} for session {nth} of an agent; {} sessions and {} connections came",
                self.sessions().len(),
                self.connections()
            ),
        }
    }

    /// Waits for the n-th TCP connection (from 1), at most 10 s.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_connection(&self, nth: usize) -> anyhow::Result<()> {
        let mut changed = self.shared.changed.subscribe();
        let waited = tokio::time::timeout(DEADLINE, changed.wait_for(|()| self.connections() >= nth)).await;
        match waited {
            Ok(_) => Ok(()),
            Err(_) => bail!("waited {DEADLINE:?} for connection {nth} to an agent; {} came", self.connections()),
        }
    }
}

impl AgentSession {
    /// Opens a WebSocket to the service, with this token: an agent that comes by itself. Its headers are those of the
    /// service's answer.
    ///
    /// # Errors
    /// When the service does not open the WebSocket.
    pub async fn open(options: AgentOptions, url: &str, token: &str) -> anyhow::Result<Self> {
        let mut request = url.into_client_request()?;
        request.headers_mut().insert("authorization", HeaderValue::from_str(&format!("Bearer {token}"))?);
        request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(SUBPROTOCOL));
        running::open(options, request).await
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// What the agent's handle and its sessions share.
#[derive(Debug)]
pub(crate) struct AgentShared {
    options: Mutex<AgentOptions>,
    sessions: Mutex<Vec<AgentSession>>,
    connections: Mutex<usize>,
    changed: watch::Sender<()>,
}

impl AgentShared {
    fn options(&self) -> AgentOptions {
        self.options.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn connected(&self) {
        *self.connections.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.send_replace(());
    }

    fn joined(&self, session: AgentSession) {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner).push(session);
        self.changed.send_replace(());
    }
}
