//! Binds UDP sockets: those of calls and those of SIP.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

/// A socket at this address that holds so many received bytes until they are read. An IPv6 socket takes no IPv4.
pub fn bind(address: SocketAddr, receive_buffer_bytes: usize) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.set_recv_buffer_size(receive_buffer_bytes)?;
    socket.bind(&address.into())?;
    UdpSocket::from_std(socket.into())
}
