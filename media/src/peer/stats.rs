//! Counters and measurements of a connection.

use std::net::SocketAddr;
use std::time::Duration;

/// Counters since the start, and the latest measurements.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// RTP packets received, authenticated.
    pub packets_in: u64,
    /// Payload bytes of them, decrypted.
    pub bytes_in: u64,
    /// RTP packets sent.
    pub packets_out: u64,
    /// Payload bytes of them.
    pub bytes_out: u64,
    /// Inbound packets that never arrived. Negative when duplicates arrived.
    pub lost: i64,
    /// Interarrival jitter of inbound packets (RFC 3550 §6.4.1).
    pub jitter: Duration,
    /// Outbound packets that the remote reports as lost; None before its first report.
    pub remote_lost: Option<i64>,
    /// Share of our packets lost before the remote's latest report, in percent.
    pub remote_loss_percent: u8,
    /// Jitter of our packets as reported by the remote.
    pub remote_jitter: Duration,
    /// From the remote's latest report, or from the latest connectivity check.
    pub round_trip: Option<Duration>,
    /// SSRC of the remote.
    pub remote_ssrc: Option<u32>,
    /// The local and the remote address in use.
    pub path: Option<(SocketAddr, SocketAddr)>,
    /// The negotiated SRTP profile, by its name in RFC 5764.
    pub srtp_profile: Option<&'static str>,
    /// Datagrams dropped.
    pub dropped: Dropped,
}

/// Datagrams dropped, by reason. Anybody can cause them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// STUN that is not an authenticated check or answer.
    pub stun: u64,
    /// DTLS from an unproven address, or implausible records.
    pub dtls: u64,
    /// RTP and RTCP before the keys.
    pub early: u64,
    /// RTP and RTCP from another address than the selected one.
    pub foreign: u64,
    /// RTP and RTCP with a wrong authentication tag.
    pub unauthenticated: u64,
    /// RTP and RTCP received before.
    pub replayed: u64,
    /// Neither STUN nor DTLS nor RTP, or too short.
    pub malformed: u64,
    /// Our own datagrams that the owner did not send.
    pub unsent: u64,
}
