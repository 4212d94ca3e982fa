//! Flow: what a message came over, so that a call to its sender goes back the same way (RFC 5626).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rsipstack::platform::CancellationToken;
use rsipstack::sip::{HeadersExt, Transport};
use rsipstack::transaction::transaction::Transaction;
use rsipstack::transport::{SipAddr, SipConnection};

/// An open connection, shared by what carries it and by those who use it.
pub(super) struct Connection {
    is_over: CancellationToken,
    /// Its other end belongs to a call of ours, or has shown a password.
    is_proven: AtomicBool,
}

/// A way to a phone: the address that its datagrams come from, or its connection.
#[derive(Clone)]
pub(super) struct Flow {
    transport: Transport,
    address: SocketAddr,
    /// None over UDP.
    connection: Option<Arc<Connection>>,
}

/// The open connections of a user agent, by their other end. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Flows(Arc<Mutex<Open>>);

type Open = HashMap<(Transport, SocketAddr), Weak<Connection>>;

impl Connection {
    pub fn new(is_over: CancellationToken) -> Arc<Self> {
        Arc::new(Self { is_over, is_proven: AtomicBool::new(false) })
    }

    pub fn is_over(&self) -> bool {
        self.is_over.is_cancelled()
    }

    pub fn is_proven(&self) -> bool {
        self.is_proven.load(Ordering::Relaxed)
    }

    pub fn prove(&self) {
        self.is_proven.store(true, Ordering::Relaxed);
    }
}

impl Flow {
    /// The way to where datagrams come from.
    pub fn datagrams(address: SocketAddr) -> Self {
        Self { transport: Transport::Udp, address, connection: None }
    }

    /// Whether it is the way to where these datagrams come from.
    pub fn is_datagrams_from(&self, address: SocketAddr) -> bool {
        self.connection.is_none() && self.address == address
    }

    pub fn ip(&self) -> IpAddr {
        self.address.ip().to_canonical()
    }

    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Whether it is the WebSocket of a phone in a browser.
    pub fn is_websocket(&self) -> bool {
        matches!(self.transport, Transport::Ws | Transport::Wss)
    }

    /// As the library names it.
    pub fn destination(&self) -> SipAddr {
        SipAddr { r#type: Some(self.transport), addr: self.address.into() }
    }

    /// Whether anything can be sent over it: a connection may be closed.
    pub fn is_open(&self) -> bool {
        self.connection.as_ref().is_none_or(|connection| !connection.is_over())
    }

    /// Its other end has shown a password.
    pub fn prove(&self) {
        if let Some(connection) = &self.connection {
            connection.prove();
        }
    }
}

impl Flows {
    /// Remembers a connection for as long as it is open.
    pub fn add(&self, transport: Transport, address: SocketAddr, connection: &Arc<Connection>) {
        let mut flows = self.locked();
        flows.retain(|_, connection| connection.strong_count() > 0);
        flows.insert((transport, address), Arc::downgrade(connection));
    }

    /// What a request came over; None if that is closed already.
    pub fn of(&self, transaction: &Transaction) -> Option<Flow> {
        let connection = transaction.connection.as_ref()?;
        if !connection.is_reliable() {
            // The library has written the source of the datagram into it, and nothing that the phone had put there is left.
            let via = transaction.original.via_header().ok()?;
            let (_, source) = SipConnection::parse_target_from_via(via).ok()?;
            return Some(Flow::datagrams(source.try_into().ok()?));
        }
        let SipAddr { r#type: transport, addr } = connection.get_remote_addr()?.clone();
        let (transport, address) = (transport?, SocketAddr::try_from(addr).ok()?);
        let connection = self.locked().get(&(transport, address)).and_then(Weak::upgrade)?;
        Some(Flow { transport, address, connection: Some(connection) })
    }

    /// The lock is held for a look-up or an insertion only, and the map is valid at every step.
    fn locked(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
