//! Latch: restricted latching, which finds a phone behind a NAT by where its packets come from.
//!
//! The address that is followed hears the caller, so it must prove itself: it has the IP address of the SIP or SDP, and a
//! run of packets in order has one SSRC and a negotiated payload type. The first address that proves itself within a
//! short time is locked until the next offer or answer. (RTP bleed: CVE-2017-14099, CVE-2017-14114.)

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::audio_terms::AudioTerms;
use crate::rtp::RtpHeader;

/// Packets in a row that prove an address.
pub const PACKETS_TO_LATCH: u8 = 5;
/// How long an address may be found after an offer or answer.
pub const LATCH_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Latch {
    /// The address in the phone's SDP, if it may be used.
    negotiated: Option<SocketAddr>,
    ips: Vec<IpAddr>,
    audio: AudioTerms,
    until: Instant,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Packets of the negotiated address are taken; another may prove itself.
    Open(Option<Run>),
    Locked(SocketAddr),
}

/// Packets in a row of an unproven address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Run {
    from: SocketAddr,
    ssrc: u32,
    payload_type: u8,
    next_sequence: u16,
    packets: u8,
}

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is the phone's.
    Known,
    /// It may become so.
    Candidate,
    Foreign,
}

impl Latch {
    pub fn new(negotiated: Option<SocketAddr>, ips: Vec<IpAddr>, audio: AudioTerms, now: Instant) -> Self {
        Self { negotiated, ips, audio, until: now + LATCH_WITHIN, state: State::Open(None) }
    }

    pub fn judge(&self, from: SocketAddr, now: Instant) -> Verdict {
        match self.state {
            State::Locked(locked) if locked == from => Verdict::Known,
            State::Open(_) if self.negotiated == Some(from) => Verdict::Known,
            State::Open(_) if now < self.until && self.ips.contains(&from.ip()) => Verdict::Candidate,
            State::Locked(_) | State::Open(_) => Verdict::Foreign,
        }
    }

    /// A candidate's packet, authenticated if there are keys. Returns true once the address has proven itself.
    pub fn heard(&mut self, from: SocketAddr, header: RtpHeader) -> bool {
        let State::Open(run) = &mut self.state else { return false };
        if !self.audio.receives(header.payload_type) {
            return false;
        }
        let next_sequence = header.sequence.wrapping_add(1);
        let continues = run.filter(|run| {
            (run.from, run.ssrc, run.payload_type) == (from, header.ssrc, header.payload_type)
                && run.next_sequence == header.sequence
        });
        let packets = continues.map_or(0, |run| run.packets) + 1;
        *run = Some(Run { from, ssrc: header.ssrc, payload_type: header.payload_type, next_sequence, packets });
        let is_proven = packets >= PACKETS_TO_LATCH;
        if is_proven {
            self.state = State::Locked(from);
        }
        is_proven
    }
}
