//! PlainRtp: RTP or SDES-SRTP between two negotiated addresses, as SIP phones speak it.
//!
//! Pure. Packets are taken from the negotiated address only, or from one that a restricted `Latch` has proven; nothing is
//! sent anywhere else. RTCP is taken from there too, on any of our sockets, and from its negotiated port.

mod latch;
mod sender;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use thiserror::Error;

pub use latch::{LATCH_WITHIN, PACKETS_TO_LATCH};

use crate::audio_terms::AudioTerms;
use crate::peer::{Dropped, PeerStats, Transmit, address};
use crate::rtcp::is_rtcp;
use crate::rtp::{RtpHeader, RtpPacket};
use crate::rtp_session::RtpSession;
use crate::sdp::Direction;
use crate::sdp::phone::{PhoneTerms, SdesKeys};
use crate::srtp::{CryptoProvider, SrtpKeys, crypto_provider};
use latch::{Latch, Verdict};
use sender::Sender;

/// Reports that wait to be sent; the owner drains after every call.
const MOST_WAITING: usize = 8;

/// Configuration beside the SDP.
#[derive(Debug, Clone)]
pub struct PlainRtpOptions {
    /// The address that our socket is bound to, by which [`Transmit`] names it.
    pub socket: SocketAddr,
    /// SSRC of everything we send.
    pub ssrc: u32,
    /// Whether the phone's SDP may have a private or loopback address.
    pub allow_private: bool,
    /// Restricted latching, off by default: the IP addresses, beside that of the phone's SDP, from which a phone behind a
    /// NAT may send, which is the one its SIP comes from. Packets from there are followed once
    /// [`PACKETS_TO_LATCH`] in a row prove it, within [`LATCH_WITHIN`] of each offer and answer.
    pub latching: Option<Vec<IpAddr>>,
}

/// Why there can be no RTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum PlainRtpError {
    /// The phone's address must not be sent to, and there is no latching to find another.
    #[error("the phone's SDP has an address that must not be used; private ones need media.allow_private")]
    AddressRefused,
    /// The keys cannot be used.
    #[error("cryptography failed")]
    Crypto,
}

/// One RTP transport.
pub struct PlainRtp {
    options: PlainRtpOptions,
    crypto: CryptoProvider,
    remote: Remote,
    /// As in the phone's SDP.
    negotiated: Option<SocketAddr>,
    /// None without latching.
    latch: Option<Latch>,
    audio: AudioTerms,
    direction: Direction,
    sender: Sender,
    session: RtpSession,
    keys: Option<SdesKeys>,
    dropped: Dropped,
    outbox: VecDeque<Transmit>,
    /// The owner does not know yet that media can flow.
    is_new: bool,
}

/// Where the phone is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Remote {
    /// By its SDP, or latched. None while it holds the call by the address 0.0.0.0, or is not found yet.
    rtp: Option<SocketAddr>,
    rtcp: Option<SocketAddr>,
}

impl PlainRtp {
    /// A transport to where the phone's SDP says.
    pub fn new(options: PlainRtpOptions, terms: &PhoneTerms, now: Instant) -> Result<Self, PlainRtpError> {
        let mut plain = Self {
            remote: Remote::default(),
            negotiated: None,
            latch: None,
            audio: terms.audio,
            direction: terms.direction,
            sender: Sender::default(),
            session: RtpSession::new(options.ssrc, terms.audio.codec.clock_hz(), now),
            keys: None,
            dropped: Dropped::default(),
            outbox: VecDeque::new(),
            is_new: true,
            crypto: crypto_provider().ok_or(PlainRtpError::Crypto)?,
            options,
        };
        match &terms.srtp {
            None => plain.session.connect_plain(),
            Some(keys) => {
                let srtp = SrtpKeys::sdes(keys).ok_or(PlainRtpError::Crypto)?;
                if !plain.session.connect(&srtp, Arc::clone(&plain.crypto)) {
                    return Err(PlainRtpError::Crypto);
                }
                plain.keys = Some(keys.clone());
            }
        }
        plain.follow(terms, now)?;
        Ok(plain)
    }

    /// Follows a later offer or answer: another address, hold, other keys. On an error nothing has changed.
    pub fn renegotiate(&mut self, terms: &PhoneTerms, now: Instant) -> Result<(), PlainRtpError> {
        self.allowed(terms)?;
        self.change_keys(terms.srtp.as_ref())?;
        self.follow(terms, now)
    }

    /// Takes a datagram. Returns the packet, decrypted, if it is RTP of the phone.
    pub fn receive(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) -> Option<RtpPacket> {
        // RFC 7983 §7: RTP and RTCP have version 2. STUN of a phone with ICE is none of our business.
        if !datagram.first().is_some_and(|first| (128..=191).contains(first)) {
            self.dropped.malformed += 1;
            return None;
        }
        if !self.session.is_connected() {
            self.dropped.early += 1;
            return None;
        }
        let from = canonical(from);
        if is_rtcp(datagram) {
            self.receive_rtcp(from, datagram, now);
            return None;
        }
        let Some((header, header_length)) = RtpHeader::parse(datagram) else {
            self.dropped.malformed += 1;
            return None;
        };
        let verdict = match &self.latch {
            Some(latch) => latch.judge(from, now),
            None if self.remote.rtp == Some(from) => Verdict::Known,
            None => Verdict::Foreign,
        };
        if verdict == Verdict::Foreign {
            self.dropped.foreign += 1;
            return None;
        }
        // Without keys a packet of another sender must not even be counted; with keys it counts once it is authentic.
        let is_known = verdict == Verdict::Known;
        if is_known && self.keys.is_none() && !self.is_from_sender(header) {
            self.dropped.foreign += 1;
            return None;
        }
        // SRTP authenticates it before it can latch.
        let packet = self.session.receive_rtp(header, header_length, datagram, now, &mut self.dropped)?;
        if is_known && self.keys.is_some() && !self.is_from_sender(header) {
            return None;
        }
        match verdict {
            Verdict::Known => Some(packet),
            Verdict::Foreign => None,
            Verdict::Candidate => {
                self.latch_on(from, header);
                None
            }
        }
    }

    /// Encrypts a packet. None while the phone wants no audio or is not found.
    pub fn send_rtp(&mut self, header: RtpHeader, payload: &[u8], now: Instant) -> Option<Transmit> {
        let to = self.remote.rtp?;
        let data = self.session.send_rtp(header, payload, now)?;
        self.session.begin_reports(now);
        Some(Transmit { socket: self.options.socket, to, data })
    }

    /// Whether packets can be sent at present.
    pub fn can_send(&self) -> bool {
        self.remote.rtp.is_some() && self.session.is_connected() && self.session.remote_receives()
    }

    /// Direction of the audio, as we see it.
    pub fn direction(&self) -> Direction {
        self.direction
    }

    /// Queues a report if one is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(report) = self.session.handle_timeout(now) {
            self.push_rtcp(report);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.session.poll_timeout().filter(|_| self.session.is_connected())
    }

    /// The next datagram to send, beside those of [`send_rtp`](Self::send_rtp).
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.outbox.pop_front()
    }

    /// Whether media can flow, once.
    pub(crate) fn poll_connected(&mut self) -> bool {
        std::mem::take(&mut self.is_new)
    }

    /// When RTP or RTCP of the phone last arrived.
    pub fn media_at(&self) -> Option<Instant> {
        self.session.heard_at()
    }

    /// Counters and measurements.
    pub fn stats(&self) -> PeerStats {
        let path = self.remote.rtp.map(|remote| (self.options.socket, remote));
        self.session.stats(path, None, self.dropped)
    }

    /// Says goodbye. Nothing follows it.
    pub fn close(&mut self, now: Instant) {
        self.outbox.clear();
        if let Some(goodbye) = self.session.goodbye(now) {
            self.push_rtcp(goodbye);
        }
        self.session.disconnect();
    }

    fn receive_rtcp(&mut self, from: SocketAddr, datagram: &[u8], now: Instant) {
        if self.remote.rtcp == Some(from) || self.remote.rtp == Some(from) {
            self.session.receive_rtcp(datagram, now, &mut self.dropped);
        } else {
            self.dropped.foreign += 1;
        }
    }

    /// Whether a packet is the present sender's, or a new one's that has taken its place. Keys may have a sender of their
    /// own.
    fn is_from_sender(&mut self, header: RtpHeader) -> bool {
        let is_key = self.audio.telephone_event.is_some_and(|event| event.payload_types.receive == header.payload_type);
        is_key || self.sender.admit(header)
    }

    fn latch_on(&mut self, from: SocketAddr, header: RtpHeader) {
        let Some(latch) = &mut self.latch else { return };
        if latch.heard(from, header) {
            let rtcp = from.port().checked_add(1).map(|port| SocketAddr::new(from.ip(), port));
            let is_muxed = self.remote.rtcp.is_none() || self.remote.rtcp == self.remote.rtp;
            self.remote = Remote { rtp: Some(from), rtcp: if is_muxed { Some(from) } else { rtcp } };
            self.sender.follow(header);
        }
    }

    /// The address of the SDP if it may be used; None while the phone holds the call by 0.0.0.0, or must be found.
    fn allowed(&self, terms: &PhoneTerms) -> Result<Option<SocketAddr>, PlainRtpError> {
        let Some(remote) = terms.remote.map(canonical) else { return Ok(None) };
        match address::is_allowed(remote, self.options.allow_private) {
            true => Ok(Some(remote)),
            false if self.options.latching.is_some() => Ok(None),
            false => Err(PlainRtpError::AddressRefused),
        }
    }

    fn follow(&mut self, terms: &PhoneTerms, now: Instant) -> Result<(), PlainRtpError> {
        let rtp = match self.negotiated.is_some() && self.negotiated == terms.remote && self.latch.is_some() {
            // The SDP says nothing new: an address that was proven stays so.
            true => self.remote.rtp,
            false => self.allowed(terms)?,
        };
        self.negotiated = terms.remote;
        let rtcp = rtp.and(terms.remote_rtcp).map(canonical);
        let rtcp = rtcp.filter(|rtcp| address::is_allowed(*rtcp, self.options.allow_private));
        self.remote = Remote { rtp, rtcp };
        self.latch = self.options.latching.as_ref().map(|signalling| {
            let ips = signalling.iter().copied().chain(terms.remote.map(|remote| remote.ip()));
            Latch::new(rtp, ips.map(|ip| ip.to_canonical()).collect(), self.audio, now)
        });
        (self.audio, self.direction) = (terms.audio, terms.direction);
        let event = terms.audio.telephone_event.map(|event| event.payload_types.receive);
        self.session.negotiate(event, terms.direction.sends());
        Ok(())
    }

    /// A key that stays keeps its contexts, and with them the rollover counter.
    fn change_keys(&mut self, keys: Option<&SdesKeys>) -> Result<(), PlainRtpError> {
        let (Some(before), Some(after)) = (&self.keys, keys) else {
            return match self.keys.as_ref() == keys {
                true => Ok(()),
                // Encryption begins or ends.
                false => self.replace_session(keys),
            };
        };
        if before == after {
            return Ok(());
        }
        let srtp_keys = SrtpKeys::sdes(after).ok_or(PlainRtpError::Crypto)?;
        let same_suite = before.suite == after.suite;
        let (same_local, same_remote) =
            (same_suite && before.local == after.local, same_suite && before.remote == after.remote);
        let crypto = &self.crypto;
        let changed = self.session.rekey(|srtp| {
            if !same_local {
                srtp.replace_outbound(&srtp_keys, crypto)?;
            }
            if !same_remote {
                srtp.replace_inbound(&srtp_keys, Arc::clone(crypto))?;
            }
            Some(())
        });
        self.keys = Some(after.clone());
        if changed { Ok(()) } else { Err(PlainRtpError::Crypto) }
    }

    fn replace_session(&mut self, keys: Option<&SdesKeys>) -> Result<(), PlainRtpError> {
        match keys {
            None => self.session.connect_plain(),
            Some(keys) => {
                let srtp = SrtpKeys::sdes(keys).ok_or(PlainRtpError::Crypto)?;
                if !self.session.connect(&srtp, Arc::clone(&self.crypto)) {
                    return Err(PlainRtpError::Crypto);
                }
            }
        }
        self.keys = keys.cloned();
        Ok(())
    }

    fn push_rtcp(&mut self, data: BytesMut) {
        if let Some(to) = self.remote.rtcp.or(self.remote.rtp) {
            if self.outbox.len() >= MOST_WAITING {
                self.outbox.pop_front();
            }
            self.outbox.push_back(Transmit { socket: self.options.socket, to, data });
        }
    }
}

/// A socket that speaks both IP versions shows IPv4 addresses as mapped ones.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests;
