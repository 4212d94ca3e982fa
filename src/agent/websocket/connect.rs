//! Connecting to an agent: DNS, TCP, TLS and the WebSocket upgrade, within one deadline.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::{MaybeTlsStream, tungstenite};
use url::Url;

use super::options::WebSocketOptions;
use super::upgrade::{Refused, Upgrade};
use crate::agent::unbuffered::Unbuffered;
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::pulse::Standstills;
use crate::telemetry::shown;

/// A connection whose server has agreed to speak WebSocket.
pub(super) struct Connected {
    pub stream: MaybeTlsStream<Unbuffered>,
    /// What the server has sent after its response.
    pub received: Vec<u8>,
}

/// Why the connection failed. The texts are for people and hold no secret: no address, and nothing that the server wrote.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("the request cannot be made: {0}")]
    Request(#[from] tungstenite::Error),
    #[error("its host name cannot be resolved: {0}")]
    Name(io::Error),
    #[error("no TCP connection: {0}")]
    Tcp(io::Error),
    #[error("no TLS connection: {0}")]
    Tls(io::Error),
    #[error("no TLS connection: the answer is not TLS; is ws:// meant?")]
    NotTls,
    #[error("the connection broke during the WebSocket upgrade: {0}")]
    Broken(io::Error),
    #[error("the connection was closed without an answer to the WebSocket upgrade")]
    Closed,
    #[error("the WebSocket upgrade was refused: {0}")]
    Refused(#[from] Refused),
    #[error("{step} took longer than {}", shown(*.limit))]
    TimedOut { step: Step, limit: Duration },
}

/// The steps of connecting, in this order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Name,
    Tcp,
    Tls,
    Upgrade,
}

/// Connects to an agent. Redirects are not followed. Our own standstills extend the deadline.
pub(super) async fn connect(
    agent: &WebSocketOptions,
    subprotocols: &'static [&'static str],
    tls: Arc<rustls::ClientConfig>,
    limit: Duration,
    mut standstills: Standstills,
) -> Result<Connected, ConnectError> {
    let step = Cell::new(Step::Name);
    let connected = standstills.timeout(limit, take_steps(agent, subprotocols, tls, &step)).await;
    connected.unwrap_or_else(|_| Err(ConnectError::TimedOut { step: step.get(), limit }))
}

async fn take_steps(
    agent: &WebSocketOptions,
    subprotocols: &'static [&'static str],
    tls: Arc<rustls::ClientConfig>,
    step: &Cell<Step>,
) -> Result<Connected, ConnectError> {
    let upgrade = Upgrade::new(agent, subprotocols)?;
    let addresses = addresses_of(agent).await.map_err(ConnectError::Name)?;
    step.set(Step::Tcp);
    let stream = open(&addresses).await.map_err(ConnectError::Tcp)?;
    let mut stream = match agent.url.scheme() {
        "wss" => {
            step.set(Step::Tls);
            let name = ServerName::try_from(host(&agent.url).to_owned());
            let name = name.map_err(|error| ConnectError::Tls(io::Error::other(error)))?;
            let stream = TlsConnector::from(tls).connect(name, stream).await;
            MaybeTlsStream::Rustls(stream.map_err(tls_error)?)
        }
        _ => MaybeTlsStream::Plain(stream),
    };
    step.set(Step::Upgrade);
    let received = shake_hands(&mut stream, &upgrade).await?;
    Ok(Connected { stream, received })
}

async fn addresses_of(agent: &WebSocketOptions) -> io::Result<Vec<SocketAddr>> {
    if !agent.addresses.is_empty() {
        return Ok(agent.addresses.clone());
    }
    let port = agent.url.port_or_known_default().unwrap_or(80);
    Ok(lookup_host((host(&agent.url), port)).await?.collect())
}

async fn open(addresses: &[SocketAddr]) -> io::Result<Unbuffered> {
    let stream = TcpStream::connect(addresses).await?;
    stream.set_nodelay(true)?;
    Ok(Unbuffered::new(stream))
}

/// Sends the request and reads the head of the response. Gives what came after it.
async fn shake_hands(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    upgrade: &Upgrade,
) -> Result<Vec<u8>, ConnectError> {
    stream.write_all(upgrade.request()).await.map_err(ConnectError::Broken)?;
    stream.flush().await.map_err(ConnectError::Broken)?;
    let mut received = Vec::with_capacity(1024);
    loop {
        if stream.read_buf(&mut received).await.map_err(ConnectError::Broken)? == 0 {
            return Err(ConnectError::Closed);
        }
        if let Some(head) = upgrade.judge(&received)? {
            return Ok(received.split_off(head));
        }
    }
}

/// The host without the brackets of an IPv6 address.
fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

impl ConnectError {
    /// The error of the operating system, if it is one.
    pub(super) fn of_the_system(&self) -> Option<&io::Error> {
        match self {
            Self::Name(error) | Self::Tcp(error) | Self::Tls(error) | Self::Broken(error) => Some(error),
            Self::Request(_) | Self::NotTls | Self::Closed | Self::Refused(_) | Self::TimedOut { .. } => None,
        }
    }
}

fn tls_error(error: io::Error) -> ConnectError {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
    match cause {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => ConnectError::NotTls,
        _ => ConnectError::Tls(error),
    }
}

impl From<ConnectError> for AgentFailure {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::TimedOut { .. } => AgentFailureKind::NoAnswer.because(error),
            ConnectError::Request(_)
            | ConnectError::Name(_)
            | ConnectError::Tcp(_)
            | ConnectError::Tls(_)
            | ConnectError::NotTls
            | ConnectError::Broken(_)
            | ConnectError::Closed
            | ConnectError::Refused(_) => AgentFailureKind::Refused.because(error),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "resolving its host name",
            Self::Tcp => "the TCP connection",
            Self::Tls => "the TLS handshake",
            Self::Upgrade => "the WebSocket upgrade",
        })
    }
}
