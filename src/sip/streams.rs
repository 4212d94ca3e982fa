//! SIP over TCP and TLS: connections that we open for calls, and those that phones open to us.
//!
//! The library sees a channel: what arrives passes the edge and the gate first, and TLS is ours, with the name of the peer
//! checked against its certificate.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rsipstack::platform::CancellationToken;
use rsipstack::sip::SipMessage;
use rsipstack::transaction::endpoint::EndpointInnerRef;
use rsipstack::transport::channel::ChannelConnection;
use rsipstack::transport::{SipAddr, SipConnection, TransportEvent, TransportLayer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::connection_limits::{ConnectionLimits, ConnectionPermit};
use super::edge::head_of_stream;
use super::flow::{Connection, Flows};
use super::gate::{Gate, Verdict};
use super::names::Hop;
use super::outgoing::library_transport;
use super::uri::{Host, Transport};
use crate::clock;

/// For TCP and TLS to come up.
const CONNECTED_WITHIN: Duration = Duration::from_secs(5);
/// For a message to leave.
pub(super) const WRITTEN_WITHIN: Duration = Duration::from_secs(10);
/// Messages of ours that wait for the socket; then a dialog waits.
const OUTBOX: usize = 64;
/// How often we ping (RFC 5626 §3.5.1), and look whether anybody still uses the connection.
pub(super) const PING: Duration = Duration::from_secs(25);
/// A stranger's connection must bring a message of a dialog of ours, or register, within this time.
pub(super) const PROVEN_WITHIN: Duration = Duration::from_secs(10);
/// A phone's connection that brings nothing for so long, not even a keep-alive, belongs to a phone whose registration has
/// expired.
const HEARD_WITHIN: Duration = Duration::from_secs(2 * 60 * 60 + 60);

/// All connections of a user agent.
pub(super) struct Streams {
    gate: Gate,
    tls: TlsConnector,
    opened: Mutex<HashMap<Peer, Weak<Connection>>>,
    pub limits: ConnectionLimits,
    flows: Flows,
    serving: Mutex<JoinSet<()>>,
    cancel: CancellationToken,
}

/// Whom a connection is with, by the name that its certificate has shown.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Peer {
    transport: Transport,
    address: SocketAddr,
    host: Host,
}

impl Streams {
    pub fn new(gate: Gate, flows: Flows, tls: Arc<rustls::ClientConfig>, cancel: &CancellationToken) -> Self {
        Self {
            gate,
            tls: TlsConnector::from(tls),
            opened: Mutex::default(),
            limits: ConnectionLimits::default(),
            flows,
            serving: Mutex::default(),
            cancel: cancel.clone(),
        }
    }

    /// A connection to a phone or proxy: the one in use, or a new one.
    pub async fn connect(
        self: &Arc<Self>,
        layer: &TransportLayer,
        host: &Host,
        Hop { address, transport }: Hop,
    ) -> Result<Arc<Connection>, String> {
        // Its certificate is for the host of its address, whichever server the DNS names for it (RFC 5922 §7.2).
        let peer = Peer { transport, address, host: host.clone() };
        let in_use = locked(&self.opened).get(&peer).and_then(Weak::upgrade);
        if let Some(connection) = in_use.filter(|connection| !connection.is_over()) {
            return Ok(connection);
        }
        let connecting = async {
            let stream = TcpStream::connect(address).await.map_err(|error| format!("TCP: {}", error.kind()))?;
            // Only delay is at stake.
            let _ = stream.set_nodelay(true);
            let is_over = self.cancel.child_token();
            let connection = Connection::new(is_over.clone());
            match peer.transport {
                // Nobody can be reached over a WebSocket but those who have opened one.
                Transport::Ws => return Err("it has no WebSocket open".to_owned()),
                Transport::Udp | Transport::Tcp => self.serve(layer, stream, &peer, (&connection, is_over)).await?,
                Transport::Tls => {
                    let name = server_name(&peer.host)?;
                    let stream = self.tls.connect(name, stream).await.map_err(|error| format!("TLS: {error}"))?;
                    self.serve(layer, stream, &peer, (&connection, is_over)).await?;
                }
            }
            Ok(connection)
        };
        let connected = timeout(CONNECTED_WITHIN, connecting).await;
        let connection = connected.unwrap_or_else(|_| Err("no connection in time".to_owned()))?;
        let mut opened = locked(&self.opened);
        opened.retain(|_, connection| connection.strong_count() > 0);
        opened.insert(peer, Arc::downgrade(&connection));
        Ok(connection)
    }

    async fn serve(
        &self,
        layer: &TransportLayer,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: &Peer,
        (connection, is_over): (&Arc<Connection>, CancellationToken),
    ) -> Result<(), String> {
        let from = (peer.transport, peer.address);
        self.flows.add(library_transport(peer.transport), peer.address, connection);
        let wire = Wire::new(self.gate.clone(), layer, from, &is_over).await;
        let wire = wire.ok_or("the SIP library takes no connection")?;
        let used_by = Arc::downgrade(connection);
        self.spawn(wire.carry(stream, Use::Ours(used_by)));
        Ok(())
    }

    /// Accepts connections of phones until the user agent stops.
    pub fn listen(
        self: &Arc<Self>,
        listener: TcpListener,
        tls: Option<Arc<rustls::ServerConfig>>,
        endpoint: EndpointInnerRef,
    ) {
        let streams = self.clone();
        self.spawn(async move {
            let acceptor = tls.map(TlsAcceptor::from);
            loop {
                let accepted = tokio::select! {
                    accepted = listener.accept() => accepted,
                    () = streams.cancel.cancelled() => return,
                };
                match accepted {
                    Ok((stream, from)) => streams.accept(stream, from, acceptor.clone(), &endpoint),
                    // Descriptors are short: others become free.
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                }
            }
        });
    }

    fn accept(
        self: &Arc<Self>,
        stream: TcpStream,
        from: SocketAddr,
        acceptor: Option<TlsAcceptor>,
        endpoint: &EndpointInnerRef,
    ) {
        let ip = from.ip().to_canonical();
        let permit = if self.gate.is_banned(ip, clock::now()) { None } else { self.limits.take(ip) };
        let Some(permit) = permit else { return };
        let (streams, endpoint) = (self.clone(), endpoint.clone());
        self.spawn(async move {
            match acceptor {
                None => streams.carry_theirs(stream, (Transport::Tcp, from), &endpoint, permit).await,
                Some(acceptor) => {
                    if let Ok(Ok(stream)) = timeout(CONNECTED_WITHIN, acceptor.accept(stream)).await {
                        streams.carry_theirs(stream, (Transport::Tls, from), &endpoint, permit).await;
                    }
                }
            }
        });
    }

    async fn carry_theirs(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        from: (Transport, SocketAddr),
        endpoint: &EndpointInnerRef,
        permit: ConnectionPermit,
    ) {
        if let Some((wire, user)) = self.theirs(from, &endpoint.transport_layer, permit).await {
            wire.carry(stream, user).await;
        }
    }

    /// A connection that a phone has opened.
    pub async fn theirs(
        &self,
        from: (Transport, SocketAddr),
        layer: &TransportLayer,
        permit: ConnectionPermit,
    ) -> Option<(Wire, Use)> {
        let is_over = self.cancel.child_token();
        let connection = Connection::new(is_over.clone());
        self.flows.add(library_transport(from.0), from.1, &connection);
        let wire = Wire::new(self.gate.clone(), layer, from, &is_over).await?;
        Some((wire, Use::Theirs(connection, permit)))
    }

    /// Runs until it ends or the user agent stops.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut serving = locked(&self.serving);
        while serving.try_join_next().is_some() {}
        serving.spawn(task);
    }

    /// Ends every connection.
    pub async fn stop(&self) {
        let mut serving = std::mem::take(&mut *locked(&self.serving));
        serving.shutdown().await;
    }
}

/// For whom a connection is kept.
pub(super) enum Use {
    /// Calls of ours hold it.
    Ours(Weak<Connection>),
    /// A phone opened it.
    Theirs(Arc<Connection>, ConnectionPermit),
}

impl Use {
    /// Whether it has not shown yet that it is of any use.
    pub fn is_strange(&self) -> bool {
        matches!(self, Self::Theirs(connection, _) if !connection.is_proven())
    }

    /// Its other end has shown who it is.
    pub fn prove(&self) {
        if let Self::Theirs(connection, _) = self {
            connection.prove();
        }
    }

    /// False if one more proven connection is too many.
    pub fn keeps_its_permit(&mut self) -> bool {
        match self {
            Self::Theirs(connection, permit) if connection.is_proven() && !permit.is_proven() => permit.become_proven(),
            Self::Theirs(..) | Self::Ours(_) => true,
        }
    }
}

/// One connection between a socket and the library.
pub(super) struct Wire {
    pub gate: Gate,
    pub from: SocketAddr,
    transport: Transport,
    channel: ChannelConnection,
    to_library: mpsc::UnboundedSender<TransportEvent>,
    pub from_library: mpsc::Receiver<TransportEvent>,
    pub is_over: CancellationToken,
    inbox: BytesMut,
    pub heard_at: Instant,
}

impl Wire {
    async fn new(
        gate: Gate,
        layer: &TransportLayer,
        (transport, from): (Transport, SocketAddr),
        is_over: &CancellationToken,
    ) -> Option<Self> {
        // The library wants an unbounded queue. The gate bounds what each of our calls may put into it.
        let (to_library, incoming) = mpsc::unbounded_channel();
        let (outgoing, from_library) = mpsc::channel(OUTBOX);
        let address = SipAddr { r#type: Some(library_transport(transport)), addr: from.into() };
        let token = Some(is_over.clone());
        let channel = ChannelConnection::create_connection_bounded(incoming, outgoing, address, token).await.ok()?;
        layer.add_connection(SipConnection::Channel(channel.clone()));
        let (is_over, inbox) = (is_over.clone(), BytesMut::new());
        let heard_at = clock::now();
        Some(Self { gate, from, transport, channel, to_library, from_library, is_over, inbox, heard_at })
    }
}

impl Wire {
    async fn carry(mut self, stream: impl AsyncRead + AsyncWrite + Unpin, mut user: Use) {
        let (mut reader, mut writer) = tokio::io::split(stream);
        let mut ping = interval(PING);
        ping.reset();
        let prove_by = clock::now() + PROVEN_WITHIN;
        let mut was_unused = false;
        while user.keeps_its_permit() {
            tokio::select! {
                read = reader.read_buf(&mut self.inbox) => {
                    self.heard_at = clock::now();
                    if !matches!(read, Ok(1..)) || self.take_messages(&mut writer, &user).await.is_err() {
                        break;
                    }
                }
                message = self.from_library.recv() => {
                    let Some(TransportEvent::Incoming(message, ..)) = message else { break };
                    if write(&mut writer, &message.to_bytes()).await.is_err() {
                        break;
                    }
                }
                _ = ping.tick() => {
                    let is_unused = matches!(&user, Use::Ours(used_by) if used_by.strong_count() == 0);
                    // The responses of the last dialog have come by the second time.
                    let is_over = is_unused && std::mem::replace(&mut was_unused, is_unused);
                    let is_silent = clock::now().saturating_duration_since(self.heard_at) >= HEARD_WITHIN;
                    if is_over || is_silent || write(&mut writer, b"\r\n\r\n").await.is_err() {
                        break;
                    }
                    was_unused = is_unused;
                }
                () = tokio::time::sleep_until(prove_by.into()), if user.is_strange() => {
                    if user.is_strange() {
                        break;
                    }
                }
                () = self.is_over.cancelled() => break,
            }
        }
        self.is_over.cancel();
        let _ = timeout(Duration::from_secs(1), writer.shutdown()).await;
    }

    /// Hands on the messages that are complete; the edge bounds what waits. An error ends the connection: where the
    /// next message begins is not known.
    async fn take_messages(&mut self, writer: &mut (impl AsyncWrite + Unpin), user: &Use) -> Result<(), ()> {
        loop {
            if self.inbox.starts_with(b"\r\n\r\n") && !user.is_strange() {
                write(writer, b"\r\n").await?;
            }
            let blank = self.inbox.iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
            self.inbox.advance(blank);
            let now = clock::now();
            let head = head_of_stream(&self.inbox).map_err(|malformed| {
                self.gate.failed(self.from.ip().to_canonical(), now);
                dropped(malformed.name());
            })?;
            let Some(head) = head else { return Ok(()) };
            let length = head.length + head.content_length.unwrap_or(0);
            if self.inbox.len() < length {
                return Ok(());
            }
            let verdict = self.gate.judge(self.from.ip().to_canonical(), &head, now);
            let bytes = self.inbox.split_to(length);
            match verdict {
                Verdict::Pass => {
                    user.prove();
                    self.hand_on(&bytes);
                }
                Verdict::Ask => self.hand_on(&bytes),
                Verdict::Drop(reason) => dropped(reason),
            }
        }
    }

    /// The library gets a message that the gate has let pass.
    pub fn hand_on(&mut self, bytes: &[u8]) {
        let message = SipMessage::try_from(bytes).ok().and_then(|message| {
            SipConnection::update_msg_received(message, self.from, library_transport(self.transport)).ok()
        });
        match message {
            Some(message) => {
                let connection = SipConnection::Channel(self.channel.clone());
                let event = TransportEvent::Incoming(message, connection, self.channel.get_addr().clone());
                // The user agent is stopping.
                let _ = self.to_library.send(event);
            }
            None => dropped("unreadable"),
        }
    }
}

async fn write(writer: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), ()> {
    let writing = async {
        writer.write_all(bytes).await?;
        writer.flush().await
    };
    timeout(WRITTEN_WITHIN, writing).await.map_err(drop)?.map_err(drop)
}

fn server_name(host: &Host) -> Result<ServerName<'static>, String> {
    match host {
        Host::Address(address) => Ok((*address).into()),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| "its name fits no certificate".to_owned()),
    }
}

/// Counts a message that was not read.
pub(super) fn dropped(reason: &'static str) {
    metrics::counter!("patchcord_sip_dropped_total", "reason" => reason).increment(1);
}

/// The locks are held for a look-up or an insertion only, and the maps are valid at every step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
