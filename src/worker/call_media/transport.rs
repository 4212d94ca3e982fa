//! The network end of a call: its port and sockets, and by which ufrag a new address of its peer is recognised.

use std::cell::Cell;
use std::rc::Rc;

use crate::worker::sockets::PortSockets;

/// Addresses that a peer may prove to be at beside those of its offer: a phone has a few interfaces, not more.
const MAX_ADDED_ADDRESSES: u32 = 16;

/// Where the packets of one endpoint come and go.
pub(crate) struct Transport {
    /// The index among the open ports of the worker.
    pub port: usize,
    pub sockets: Rc<PortSockets>,
    /// Our ufrag of the ICE session.
    pub ufrag: String,
    added_addresses: Cell<u32>,
}

impl Transport {
    pub fn new(port: usize, sockets: Rc<PortSockets>, ufrag: String) -> Self {
        Self { port, sockets, ufrag, added_addresses: Cell::new(0) }
    }

    pub fn may_add_address(&self) -> bool {
        self.added_addresses.get() < MAX_ADDED_ADDRESSES
    }

    pub fn address_added(&self) {
        self.added_addresses.set(self.added_addresses.get().saturating_add(1));
    }
}
