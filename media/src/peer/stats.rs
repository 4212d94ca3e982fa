//! What a peer can tell about its connection.

use std::net::SocketAddr;
use std::time::Duration;

/// Counts since the beginning, and the latest measures.
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
    /// Inbound packets that never came. Negative when more came than were due.
    pub lost: i64,
    /// Interarrival jitter of inbound packets (RFC 3550 §6.4.1).
    pub jitter: Duration,
    /// Outbound packets that the remote says never came; None before its first report.
    pub remote_lost: Option<i64>,
    /// Share of our packets lost before the remote's latest report, in percent.
    pub remote_loss_percent: u8,
    /// Jitter of our packets as the remote sees it.
    pub remote_jitter: Duration,
    /// By the remote's latest report, or by the latest connectivity check.
    pub round_trip: Option<Duration>,
    /// Who speaks on the other side.
    pub remote_ssrc: Option<u32>,
    /// The local and the remote address in use.
    pub path: Option<(SocketAddr, SocketAddr)>,
    /// The SRTP profile agreed on, by its name in RFC 5764.
    pub srtp_profile: Option<&'static str>,
    /// What was not let in.
    pub dropped: Dropped,
}

/// Datagrams that were not let in, by reason. Anything here may be somebody's noise.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Dropped {
    /// STUN that is no authenticated check or answer.
    pub stun: u64,
    /// DTLS from an unproven address, or records that no handshake has.
    pub dtls: u64,
    /// Sound before the keys.
    pub early: u64,
    /// Sound from another address than the selected one.
    pub foreign: u64,
    /// Sound with a wrong signature.
    pub unauthenticated: u64,
    /// Sound that has been here before.
    pub replayed: u64,
    /// Neither STUN nor DTLS nor RTP, or too short.
    pub malformed: u64,
    /// Our own datagrams, when nobody fetched them.
    pub unsent: u64,
}
