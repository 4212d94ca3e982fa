//! RtpTransport: how an RTP leg reaches its remote.
//!
//! A new way is one more variant and its arm in each method.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::MediaFailure;
use crate::peer::{CloseReason, Peer, PeerEvent, PeerStats, Transmit};
use crate::plain_rtp::{PlainRtp, PlainRtpError};
use crate::rtp::{RtpHeader, RtpPacket};
use crate::sdp::Direction;
use crate::sdp::phone::PhoneTerms;

/// What carries a leg's RTP and RTCP.
pub enum RtpTransport {
    /// WebRTC: ICE, DTLS, SRTP.
    Peer(Box<Peer>),
    /// RTP or SDES-SRTP of a SIP phone.
    Plain(Box<PlainRtp>),
}

/// What happens to a transport.
pub(super) enum TransportEvent {
    /// Media can flow both ways.
    Connected,
    /// The remote's answers to connectivity checks are overdue.
    ConsentLost,
    /// The remote answers again.
    ConsentRegained,
    /// The transport is over, and not by [`RtpTransport::close`].
    Failed(MediaFailure),
}

impl From<Peer> for RtpTransport {
    fn from(peer: Peer) -> Self {
        Self::Peer(Box::new(peer))
    }
}

impl From<PlainRtp> for RtpTransport {
    fn from(plain: PlainRtp) -> Self {
        Self::Plain(Box::new(plain))
    }
}

impl RtpTransport {
    /// Takes a datagram. Returns the packet, authenticated and decrypted, if it is RTP.
    pub(super) fn receive(
        &mut self,
        socket: SocketAddr,
        from: SocketAddr,
        datagram: &[u8],
        now: Instant,
    ) -> Option<RtpPacket> {
        match self {
            Self::Peer(peer) => peer.receive(socket, from, datagram, now),
            Self::Plain(plain) => plain.receive(from, datagram, now),
        }
    }

    pub(super) fn is_authentic_stun(&mut self, datagram: &[u8]) -> bool {
        match self {
            Self::Peer(peer) => peer.is_authentic_stun(datagram),
            Self::Plain(_) => false,
        }
    }

    /// When RTP or RTCP of the remote last arrived.
    pub(super) fn media_at(&self) -> Option<Instant> {
        match self {
            Self::Peer(peer) => peer.media_at(),
            Self::Plain(plain) => plain.media_at(),
        }
    }

    /// Encrypts a packet. None while it cannot be sent.
    pub(super) fn send_rtp(&mut self, header: RtpHeader, payload: &[u8], now: Instant) -> Option<Transmit> {
        match self {
            Self::Peer(peer) => peer.send_rtp(header, payload, now),
            Self::Plain(plain) => plain.send_rtp(header, payload, now),
        }
    }

    /// Whether packets should be sent at present. A peer decides by itself.
    pub(super) fn can_send(&self) -> bool {
        match self {
            Self::Peer(_) => true,
            Self::Plain(plain) => plain.can_send(),
        }
    }

    /// Direction of the audio, as we see it. A page that holds is muted, no more.
    pub(super) fn direction(&self) -> Direction {
        match self {
            Self::Peer(_) => Direction::SendRecv,
            Self::Plain(plain) => plain.direction(),
        }
    }

    /// Follows a later offer or answer of a SIP phone. A WebRTC connection has its own ways.
    pub(super) fn renegotiate(&mut self, terms: &PhoneTerms, now: Instant) -> Result<(), PlainRtpError> {
        match self {
            Self::Peer(_) => Ok(()),
            Self::Plain(plain) => plain.renegotiate(terms, now),
        }
    }

    /// Does what is due.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Peer(peer) => {
                if peer.poll_timeout().is_some_and(|deadline| deadline <= now) {
                    peer.handle_timeout(now);
                }
            }
            Self::Plain(plain) => plain.handle_timeout(now),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Peer(peer) => peer.poll_timeout(),
            Self::Plain(plain) => plain.poll_timeout(),
        }
    }

    pub(super) fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        match self {
            Self::Peer(peer) => peer.shift_deadlines(gap, now),
            // It has none: silence is the leg's to judge.
            Self::Plain(_) => {}
        }
    }

    /// The next datagram of the transport's own.
    pub(super) fn poll_transmit(&mut self) -> Option<Transmit> {
        match self {
            Self::Peer(peer) => peer.poll_transmit(),
            Self::Plain(plain) => plain.poll_transmit(),
        }
    }

    pub(super) fn poll_event(&mut self) -> Option<TransportEvent> {
        match self {
            Self::Peer(peer) => loop {
                if let Some(event) = transport_event(peer.poll_event()?) {
                    return Some(event);
                }
            },
            Self::Plain(plain) => plain.poll_connected().then_some(TransportEvent::Connected),
        }
    }

    /// The WebRTC connection, if this is one.
    pub(super) fn peer(&self) -> Option<&Peer> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Plain(_) => None,
        }
    }

    pub(super) fn peer_mut(&mut self) -> Option<&mut Peer> {
        match self {
            Self::Peer(peer) => Some(peer),
            Self::Plain(_) => None,
        }
    }

    pub(super) fn stats(&self) -> PeerStats {
        match self {
            Self::Peer(peer) => peer.stats(),
            Self::Plain(plain) => plain.stats(),
        }
    }

    pub(super) fn close(&mut self, now: Instant) {
        match self {
            Self::Peer(peer) => peer.close(now),
            Self::Plain(plain) => plain.close(now),
        }
    }
}

/// None for an end of our own making.
fn transport_event(event: PeerEvent) -> Option<TransportEvent> {
    Some(match event {
        PeerEvent::Connected { .. } => TransportEvent::Connected,
        PeerEvent::ConsentLost => TransportEvent::ConsentLost,
        PeerEvent::ConsentRegained => TransportEvent::ConsentRegained,
        PeerEvent::Closed(reason) => TransportEvent::Failed(match reason {
            CloseReason::ClosedByUs => return None,
            CloseReason::ClosedByRemote => MediaFailure::ClosedByPeer,
            CloseReason::ConsentExpired => MediaFailure::Silent,
            CloseReason::NoPath => MediaFailure::NeverConnected,
            CloseReason::HandshakeFailed => MediaFailure::HandshakeFailed,
            CloseReason::FingerprintMismatch => MediaFailure::FingerprintMismatch,
        }),
    })
}
