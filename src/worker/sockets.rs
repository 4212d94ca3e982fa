//! The UDP sockets of one local port, one for each address that the configuration listens on.

use std::net::SocketAddr;
use std::rc::Rc;

use tokio::net::UdpSocket;

use super::Worker;
use crate::{clock, udp_socket};

/// Enough for a burst of a few hundred calls; a larger one hides overload as seconds of delay.
const RECEIVE_BUFFER_BYTES: usize = 256 * 1024;
/// No valid datagram is larger; a longer one is truncated and then fails its check.
const DATAGRAM_BYTES: usize = 2048;
/// Datagrams read from one socket before others have their turn.
const TURN: usize = 64;

/// All sockets of one port number.
pub(crate) struct PortSockets(Vec<(SocketAddr, UdpSocket)>);

impl PortSockets {
    /// Binds one socket to each address, all or none.
    pub fn open(addresses: impl Iterator<Item = SocketAddr>) -> std::io::Result<Self> {
        addresses.map(|address| Ok((address, bind(address)?))).collect::<std::io::Result<_>>().map(Self)
    }

    /// The bound addresses, in the order of the configuration.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.0.iter().map(|(address, _)| *address)
    }

    /// Sends without waiting. If the socket's buffer is full, the datagram is dropped: late audio is worth nothing.
    pub fn send(&self, socket: SocketAddr, to: SocketAddr, datagram: &[u8]) {
        let Some((_, socket)) = self.0.iter().find(|(address, _)| *address == socket) else { return };
        if socket.try_send_to(datagram, to).is_err() {
            metrics::counter!("patchcord_datagrams_unsent_total").increment(1);
        }
    }
}

/// Whether the port cannot be used at all. Other errors are temporary: descriptors and memory become free, and an
/// interface that is down comes back.
pub(super) fn is_held_by_others(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::AddrInUse | std::io::ErrorKind::PermissionDenied)
}

fn bind(address: SocketAddr) -> std::io::Result<UdpSocket> {
    udp_socket::bind(address, RECEIVE_BUFFER_BYTES)
}

/// One reading task for each socket, until the worker's runtime ends.
pub(crate) fn spawn_readers(worker: &Rc<Worker>, port: usize, sockets: &Rc<PortSockets>) {
    for index in 0..sockets.0.len() {
        let (worker, sockets) = (worker.clone(), sockets.clone());
        tokio::task::spawn_local(async move {
            let (address, socket) = &sockets.0[index];
            let mut buffer = [0; DATAGRAM_BYTES];
            while socket.readable().await.is_ok() {
                read_a_turn(&worker, port, *address, socket, &mut buffer);
                tokio::task::yield_now().await;
            }
        });
    }
}

fn read_a_turn(worker: &Worker, port: usize, address: SocketAddr, socket: &UdpSocket, buffer: &mut [u8]) {
    for _ in 0..TURN {
        match socket.try_recv_from(buffer) {
            Ok((length, from)) => worker.receive(port, address, from, &buffer[..length], clock::now()),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            // An ICMP error of an earlier datagram: the next call reads on.
            Err(_) => {}
        }
    }
}
