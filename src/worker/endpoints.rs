//! Endpoints: which network end of which call a datagram is for.
//!
//! A datagram is placed by its local port and its remote address. A STUN request from an unknown address is placed by the
//! ufrag that it names, if it is signed with the password of that endpoint: a full-ICE peer may check from addresses that
//! its offer did not list.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::time::Instant;

use patchcord_media::peer::stun_request_ufrag;

use super::call_media::CallMedia;
use super::ports::{Placed, Ports};
use crate::agent::{BrowserId, PhoneId};

/// One network end of a call. A call may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EndpointId {
    /// The peer of the WhatsApp user.
    Caller,
    /// The peer of a page, or of an endpoint that answered our offer.
    Browser(BrowserId),
    /// The RTP of a SIP phone.
    Phone(PhoneId),
}

/// A network end and its call.
#[derive(Clone)]
pub(crate) struct Endpoint {
    pub media: Rc<CallMedia>,
    pub id: EndpointId,
}

/// All endpoints of one worker.
pub(crate) struct Endpoints {
    ports: Ports<Endpoint>,
    /// By the local ufrag.
    by_ufrag: HashMap<String, Endpoint>,
}

impl Endpoints {
    pub fn new(ports: Ports<Endpoint>) -> Self {
        Self { ports, by_ufrag: HashMap::new() }
    }

    /// The port for an endpoint with these remote addresses; None if the range is used up.
    pub fn place(&mut self, remotes: &[SocketAddr], now: Instant) -> Option<Placed> {
        self.ports.place(remotes, now)
    }

    /// A port for an endpoint whose remote addresses come later; None if the range is used up.
    pub fn place_alone(&mut self, now: Instant) -> Option<Placed> {
        self.ports.place_alone(now)
    }

    /// Whether there is such a port.
    pub fn has_empty_port(&self, now: Instant) -> bool {
        self.ports.has_empty(now)
    }

    /// The endpoint that was placed alone is not to be.
    pub fn end_reservation(&mut self, port: usize) {
        self.ports.end_reservation(port);
    }

    /// The remote addresses of an endpoint that was placed alone are known.
    pub fn add_remotes(&mut self, endpoint: &Endpoint, remotes: &[SocketAddr], now: Instant) {
        let Some(transport) = endpoint.media.transport(endpoint.id) else { return };
        for remote in remotes {
            self.ports.take(transport.port, *remote, endpoint.clone(), now);
        }
        if transport.end_reservation() {
            self.ports.end_reservation(transport.port);
        }
    }

    /// Takes back the port placed last, which another program holds.
    pub fn discard_newest_port(&mut self) {
        self.ports.discard_newest();
    }

    /// Takes back the port placed last, which cannot be opened now.
    pub fn put_back_newest_port(&mut self) {
        self.ports.put_back_newest();
    }

    /// Datagrams for this endpoint are found from now on.
    pub fn add(&mut self, endpoint: &Endpoint, remotes: &[SocketAddr], now: Instant) {
        let Some(transport) = endpoint.media.transport(endpoint.id) else { return };
        for remote in remotes {
            self.ports.take(transport.port, *remote, endpoint.clone(), now);
        }
        for ufrag in transport.ufrags() {
            self.by_ufrag.insert(ufrag, endpoint.clone());
        }
    }

    /// All datagrams at the endpoint's port are for it from now on.
    pub fn add_alone(&mut self, endpoint: Endpoint, now: Instant) {
        let Some(transport) = endpoint.media.transport(endpoint.id) else { return };
        self.ports.take_alone(transport.port, endpoint, now);
    }

    /// The endpoint restarts ICE under this ufrag.
    pub fn add_ufrag(&mut self, endpoint: Endpoint, ufrag: String) {
        let Some(transport) = endpoint.media.transport(endpoint.id) else { return };
        if let Some(oldest) = transport.add_ufrag(ufrag.clone()) {
            self.by_ufrag.remove(&oldest);
        }
        self.by_ufrag.insert(ufrag, endpoint);
    }

    /// Forgets an endpoint. Its slots rest before they are used again.
    pub fn remove(&mut self, endpoint: &Endpoint, now: Instant) {
        let Some(transport) = endpoint.media.transport(endpoint.id) else { return };
        for ufrag in transport.ufrags() {
            self.by_ufrag.remove(&ufrag);
        }
        self.ports.leave(transport.port, |other| other.is(endpoint), now);
        if transport.end_reservation() {
            self.ports.end_reservation(transport.port);
        }
    }

    /// The endpoint that a datagram is for.
    pub fn find(&mut self, port: usize, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<Endpoint> {
        match self.ports.at(port, &from) {
            Some(endpoint) => Some(endpoint.clone()),
            None => self.admit(port, from, datagram, now),
        }
    }

    /// Anyone on the path can read the ufrag; only the peer knows the password that signs the request.
    fn admit(&mut self, port: usize, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<Endpoint> {
        // These are anyone's bytes: a panic while reading them would end every call of this worker.
        let ufrag = catch_unwind(|| stun_request_ufrag(datagram)).ok().flatten()?;
        let endpoint = self.by_ufrag.get(ufrag)?.clone();
        let transport = endpoint.media.transport(endpoint.id)?;
        let is_admitted = transport.port == port
            && transport.may_add_address()
            && endpoint.media.is_authentic_stun(endpoint.id, datagram)
            && self.ports.take(port, from, endpoint.clone(), now);
        if !is_admitted {
            return None;
        }
        transport.address_added();
        Some(endpoint)
    }

    #[cfg(test)]
    pub fn at(&self, port: usize, from: &SocketAddr) -> Option<&Endpoint> {
        self.ports.at(port, from)
    }
}

impl Endpoint {
    fn is(&self, other: &Self) -> bool {
        self.id == other.id && Rc::ptr_eq(&self.media, &other.media)
    }
}
