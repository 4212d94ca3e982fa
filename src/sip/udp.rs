//! The UDP sockets: what the edge and the gate let pass reaches the library.

use std::net::{IpAddr, SocketAddr};

use async_trait::async_trait;
use rsipstack::platform::net::UdpSocket as LibrarySocket;
use tokio::net::UdpSocket;

use super::edge::{head_of_datagram, measure_body};
use super::gate::{Gate, Verdict};
use crate::{clock, udp_socket};

/// A burst of some hundred messages.
const RECEIVE_BUFFER_BYTES: usize = 512 * 1024;

/// One listening socket.
pub(super) struct EdgeSocket {
    socket: UdpSocket,
    gate: Gate,
}

impl EdgeSocket {
    /// Binds it.
    pub fn bind(address: SocketAddr, gate: Gate) -> std::io::Result<Self> {
        Ok(Self { socket: udp_socket::bind(address, RECEIVE_BUFFER_BYTES)?, gate })
    }

    /// The bound address.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// What of a datagram is a message for us.
    fn admit(&self, datagram: &[u8], from: IpAddr) -> Option<Admitted> {
        // RFC 5626 §4.4: keep-alives. An answer would tell strangers that we are here.
        if datagram.iter().all(u8::is_ascii_whitespace) {
            return None;
        }
        let now = clock::now();
        let reason = match head_of_datagram(datagram) {
            Ok((head, end)) => match self.gate.judge(from, &head, now) {
                Verdict::Pass | Verdict::Ask => {
                    let is_open = head.content_length.is_none() && end > head.length;
                    return Some(Admitted { end, open_body_at: is_open.then_some(head.length) });
                }
                Verdict::Drop(reason) => reason,
            },
            Err(malformed) => {
                self.gate.failed(from, now);
                malformed.name()
            }
        };
        metrics::counter!("patchcord_sip_dropped_total", "reason" => reason).increment(1);
        None
    }
}

/// A message at the beginning of a datagram.
struct Admitted {
    end: usize,
    /// Where a body begins whose length the head leaves out.
    open_body_at: Option<usize>,
}

impl Admitted {
    /// Its end, once the head says how long the body is.
    fn measured(self, buffer: &mut [u8]) -> Option<usize> {
        self.open_body_at.map_or(Some(self.end), |at| measure_body(buffer, at, self.end))
    }
}

#[async_trait]
impl LibrarySocket for EdgeSocket {
    async fn recv_from(&self, buffer: &mut [u8]) -> rsipstack::Result<(usize, SocketAddr)> {
        loop {
            match self.socket.recv_from(buffer).await {
                Ok((length, from)) => {
                    let admitted = self.admit(&buffer[..length], from.ip());
                    if let Some(end) = admitted.and_then(|admitted| admitted.measured(buffer)) {
                        return Ok((end, from));
                    }
                }
                // An ICMP error of an earlier message: its transaction times out by itself.
                Err(_) => tokio::task::yield_now().await,
            }
        }
    }

    async fn send_to(&self, message: &[u8], to: SocketAddr) -> rsipstack::Result<usize> {
        Ok(self.socket.send_to(message, to).await?)
    }

    fn local_addr(&self) -> rsipstack::Result<SocketAddr> {
        Ok(self.socket.local_addr()?)
    }
}

/// Stands in where nothing listens on UDP: the library wants an address of its own for every request.
pub(super) struct NoSocket(pub SocketAddr);

#[async_trait]
impl LibrarySocket for NoSocket {
    async fn recv_from(&self, _: &mut [u8]) -> rsipstack::Result<(usize, SocketAddr)> {
        std::future::pending().await
    }

    async fn send_to(&self, _: &[u8], _: SocketAddr) -> rsipstack::Result<usize> {
        Err(std::io::Error::from(std::io::ErrorKind::NetworkUnreachable).into())
    }

    fn local_addr(&self) -> rsipstack::Result<SocketAddr> {
        Ok(self.0)
    }
}
