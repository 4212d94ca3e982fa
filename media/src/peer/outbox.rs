//! Datagrams that wait to be sent.

use std::collections::VecDeque;
use std::net::SocketAddr;

use bytes::BytesMut;

use super::ice::Path;

/// The owner drains after every call, so this many at once mean that it does not. A fresh connection with 20 remote and 4
/// local addresses sends 80 checks at a time.
const MOST_WAITING: usize = 512;

/// A datagram to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transmit {
    /// The local address of the socket to send from.
    pub socket: SocketAddr,
    /// Where to send it.
    pub to: SocketAddr,
    /// The bytes.
    pub data: BytesMut,
}

/// First in, first out. Overflow drops the oldest and counts it: everything queued here is repeated by its protocol.
#[derive(Default)]
pub(super) struct Outbox {
    waiting: VecDeque<Transmit>,
    dropped: u64,
}

impl Outbox {
    pub fn push(&mut self, path: Path, data: BytesMut) {
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
            self.dropped += 1;
        }
        self.waiting.push_back(Transmit { socket: path.socket, to: path.remote, data });
    }

    pub fn pop(&mut self) -> Option<Transmit> {
        self.waiting.pop_front()
    }

    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    pub fn clear(&mut self) {
        self.waiting.clear();
    }
}
