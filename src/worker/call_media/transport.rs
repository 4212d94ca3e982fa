//! The network end of a call: its port and sockets, and by which ufrag a new address of its peer is recognised.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use patchcord_media::peer::Transmit;

use crate::agent::browser::Wire;

use crate::worker::sockets::PortSockets;

/// Addresses that a peer may prove to be at beside those of its offer: a phone has a few interfaces, not more.
const MAX_ADDED_ADDRESSES: u32 = 16;
/// The ICE session in use and the one that is to replace it.
const MAX_UFRAGS: usize = 2;

/// Where the packets of one endpoint come and go.
pub(crate) struct Transport {
    /// The index among the open ports of the worker.
    pub port: usize,
    pub sockets: Rc<PortSockets>,
    /// Our ufrags of the ICE sessions, the newest last.
    ufrags: RefCell<Vec<String>>,
    added_addresses: Cell<u32>,
    /// The port is reserved for this endpoint until the addresses of its remote are known.
    has_reservation: Cell<bool>,
}

impl Transport {
    pub fn new(port: usize, sockets: Rc<PortSockets>, ufrag: String) -> Self {
        Self {
            port,
            sockets,
            ufrags: RefCell::new(vec![ufrag]),
            added_addresses: Cell::new(0),
            has_reservation: Cell::new(false),
        }
    }

    /// On a port that is reserved for it.
    pub fn alone(port: usize, sockets: Rc<PortSockets>, ufrag: String) -> Self {
        Self { has_reservation: Cell::new(true), ..Self::new(port, sockets, ufrag) }
    }

    /// Whether the port was reserved until now.
    pub fn end_reservation(&self) -> bool {
        self.has_reservation.replace(false)
    }

    /// For plain RTP.
    pub fn without_ice(port: usize, sockets: Rc<PortSockets>) -> Self {
        let (ufrags, added_addresses, has_reservation) = Default::default();
        Self { port, sockets, ufrags, added_addresses, has_reservation }
    }

    pub fn ufrags(&self) -> Vec<String> {
        self.ufrags.borrow().clone()
    }

    /// ICE restarts, maybe in another network: its addresses are counted anew. Returns the ufrag that is forgotten for it.
    pub fn add_ufrag(&self, ufrag: String) -> Option<String> {
        self.added_addresses.set(0);
        let mut ufrags = self.ufrags.borrow_mut();
        let oldest = (ufrags.len() >= MAX_UFRAGS).then(|| ufrags.remove(0));
        ufrags.push(ufrag);
        oldest
    }

    pub fn may_add_address(&self) -> bool {
        self.added_addresses.get() < MAX_ADDED_ADDRESSES
    }

    pub fn address_added(&self) {
        self.added_addresses.set(self.added_addresses.get().saturating_add(1));
    }
}

impl Wire for Rc<Transport> {
    fn send(&self, transmit: &Transmit) {
        self.sockets.send(transmit.socket, transmit.to, &transmit.data);
    }
}
