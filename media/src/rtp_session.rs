//! RtpSession: the RTP and RTCP of one transport, encrypted or plain, counted and reported on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rtc_crypto::RTCCryptoProvider;

use crate::peer::{Dropped, PeerStats};
use crate::rtcp::Reports;
use crate::rtp::{self, RtpHeader, RtpPacket};
use crate::srtp::{Refused, Srtp, SrtpKeys};

pub(crate) struct RtpSession {
    /// Present while media can flow.
    protection: Option<Protection>,
    reports: Reports,
    /// Whether the remote's SDP wants our audio.
    remote_receives: bool,
    heard_at: Option<Instant>,
}

/// How packets are protected.
enum Protection {
    /// Not at all: RTP/AVP.
    Plain,
    Srtp {
        srtp: Box<Srtp>,
        /// The profile's name.
        profile: &'static str,
    },
}

impl RtpSession {
    /// A session whose timestamps count `clock_hz` ticks a second.
    pub fn new(ssrc: u32, clock_hz: u32, now: Instant) -> Self {
        Self { protection: None, reports: Reports::new(ssrc, clock_hz, now), remote_receives: true, heard_at: None }
    }

    /// The remote's SDP is known: the payload type of its telephone-events, and whether it receives audio.
    pub fn negotiate(&mut self, telephone_event: Option<u8>, remote_receives: bool) {
        self.reports.set_telephone_event(telephone_event);
        self.remote_receives = remote_receives;
    }

    /// The keys are agreed on. Returns false if they cannot be used.
    pub fn connect(&mut self, keys: &SrtpKeys, crypto: Arc<dyn RTCCryptoProvider>) -> bool {
        self.protection =
            Srtp::new(keys, crypto).map(|srtp| Protection::Srtp { srtp: Box::new(srtp), profile: keys.profile_name() });
        self.is_connected()
    }

    /// Packets are not encrypted.
    pub fn connect_plain(&mut self) {
        self.protection = Some(Protection::Plain);
    }

    /// Lets `change` replace keys. Returns false if there are none, or they cannot be replaced.
    pub fn rekey(&mut self, change: impl FnOnce(&mut Srtp) -> Option<()>) -> bool {
        match &mut self.protection {
            Some(Protection::Srtp { srtp, .. }) => change(srtp).is_some(),
            Some(Protection::Plain) | None => false,
        }
    }

    /// The connection is over.
    pub fn disconnect(&mut self) {
        self.protection = None;
    }

    pub fn is_connected(&self) -> bool {
        self.protection.is_some()
    }

    /// Whether the remote's SDP wants our audio.
    pub fn remote_receives(&self) -> bool {
        self.remote_receives
    }

    /// When RTP or RTCP of the remote last arrived.
    pub fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    /// Decrypts an RTP packet.
    pub fn receive_rtp(
        &mut self,
        header: RtpHeader,
        header_length: usize,
        datagram: &[u8],
        now: Instant,
        dropped: &mut Dropped,
    ) -> Option<RtpPacket> {
        let packet = self.open(dropped, datagram, |srtp| srtp.unprotect_rtp(header, header_length, datagram))?;
        self.heard_at = Some(now);
        self.reports.received(header, packet.len(), now);
        let Some(padding) = rtp::padding(&packet, header_length) else {
            dropped.malformed += 1;
            return None;
        };
        // Trimmed before it is frozen: a slice of a shared packet would need an allocation of its own.
        let mut payload = packet;
        payload.truncate(payload.len() - padding);
        payload.advance(header_length);
        Some(header.with_payload(payload.freeze()))
    }

    /// Decrypts and reads a compound RTCP packet.
    pub fn receive_rtcp(&mut self, datagram: &[u8], now: Instant, dropped: &mut Dropped) {
        if let Some(compound) = self.open(dropped, datagram, |srtp| srtp.unprotect_rtcp(datagram)) {
            self.heard_at = Some(now);
            self.reports.read(&compound, now);
        }
    }

    /// Encrypts an RTP packet. None before connected, and for a remote that wants no audio.
    pub fn send_rtp(&mut self, header: RtpHeader, payload: &[u8], now: Instant) -> Option<BytesMut> {
        let data = match self.protection.as_mut().filter(|_| self.remote_receives)? {
            Protection::Srtp { srtp, .. } => srtp.protect_rtp(header, payload)?,
            Protection::Plain => plain_rtp(header, payload),
        };
        self.reports.sent(header, payload.len(), now);
        Some(data)
    }

    /// Starts the reports with the first frame: before a call is accepted nothing may be sent. Returns whether it was the
    /// first.
    pub fn begin_reports(&mut self, now: Instant) -> bool {
        self.is_connected() && self.reports.begin(now)
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.reports.poll_timeout()
    }

    /// The encrypted report that is due, if one is.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<BytesMut> {
        if !self.is_connected() {
            return None;
        }
        let report = self.reports.handle_timeout(now)?;
        self.protect_rtcp(&report)
    }

    /// A last report and the goodbye, if anything was sent.
    pub fn goodbye(&mut self, now: Instant) -> Option<BytesMut> {
        let goodbye = self.reports.goodbye(now)?;
        self.protect_rtcp(&goodbye)
    }

    fn protect_rtcp(&mut self, compound: &[u8]) -> Option<BytesMut> {
        match self.protection.as_mut()? {
            Protection::Srtp { srtp, .. } => srtp.protect_rtcp(compound),
            Protection::Plain => Some(BytesMut::from(compound)),
        }
    }

    /// `check_round_trip` is used until the remote has reported one.
    pub fn stats(
        &self,
        path: Option<(SocketAddr, SocketAddr)>,
        check_round_trip: Option<Duration>,
        dropped: Dropped,
    ) -> PeerStats {
        let heard = self.reports.heard;
        PeerStats {
            packets_in: self.reports.packets_in,
            bytes_in: self.reports.bytes_in,
            packets_out: self.reports.packets_out(),
            bytes_out: self.reports.bytes_out(),
            lost: self.reports.lost(),
            jitter: self.reports.jitter(),
            remote_lost: heard.map(|heard| heard.lost.into()),
            remote_loss_percent: heard.map_or(0, |heard| heard.loss_percent()),
            remote_jitter: heard.map_or(Duration::ZERO, |heard| heard.jitter),
            round_trip: heard.and_then(|heard| heard.round_trip).or(check_round_trip),
            remote_ssrc: self.reports.remote_ssrc(),
            path,
            srtp_profile: self.protection.as_ref().and_then(|protection| match protection {
                Protection::Srtp { profile, .. } => Some(*profile),
                Protection::Plain => None,
            }),
            dropped,
        }
    }

    /// Counts what SRTP refuses.
    fn open(
        &mut self,
        dropped: &mut Dropped,
        datagram: &[u8],
        open: impl FnOnce(&mut Srtp) -> Result<BytesMut, Refused>,
    ) -> Option<BytesMut> {
        let srtp = match self.protection.as_mut()? {
            Protection::Srtp { srtp, .. } => srtp,
            Protection::Plain => return Some(BytesMut::from(datagram)),
        };
        let refused = match open(srtp) {
            Ok(packet) => return Some(packet),
            Err(refused) => refused,
        };
        match refused {
            Refused::Unauthenticated => dropped.unauthenticated += 1,
            Refused::Replayed => dropped.replayed += 1,
            Refused::Malformed => dropped.malformed += 1,
        }
        None
    }
}

fn plain_rtp(header: RtpHeader, payload: &[u8]) -> BytesMut {
    let mut packet = BytesMut::with_capacity(rtp::FIXED_HEADER_BYTES + payload.len());
    packet.extend_from_slice(&header.to_bytes());
    packet.extend_from_slice(payload);
    packet
}
