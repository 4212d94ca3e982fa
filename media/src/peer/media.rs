//! Media: the RTP and RTCP of one connection, encrypted, counted and reported on.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rtc_crypto::RTCCryptoProvider;

use super::srtp::{Srtp, SrtpKeys};
use super::ssrc_guard::Refused;
use super::{Dropped, PeerStats};
use crate::rtcp::Reports;
use crate::rtp::{self, RtpHeader, RtpPacket};
use crate::sdp::Description;

pub(super) struct Media {
    /// Present while connected, with the name of its profile.
    srtp: Option<(Srtp, &'static str)>,
    reports: Reports,
    /// Whether the remote's SDP wants our audio.
    remote_receives: bool,
    heard_at: Option<Instant>,
}

impl Media {
    pub fn new(ssrc: u32, now: Instant) -> Media {
        Media { srtp: None, reports: Reports::new(ssrc, now), remote_receives: true, heard_at: None }
    }

    /// The remote's SDP is known.
    pub fn negotiate(&mut self, remote: &Description) {
        self.reports.set_telephone_event(remote.telephone_event);
        self.remote_receives = remote.direction.receives();
    }

    /// The keys are agreed on. Returns false if they cannot be used.
    pub fn connect(&mut self, keys: &SrtpKeys, crypto: Arc<dyn RTCCryptoProvider>) -> bool {
        self.srtp = Srtp::new(keys, crypto).map(|srtp| (srtp, keys.profile_name()));
        self.is_connected()
    }

    /// The connection is over.
    pub fn disconnect(&mut self) {
        self.srtp = None;
    }

    pub fn is_connected(&self) -> bool {
        self.srtp.is_some()
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
        let packet = self.open(dropped, |srtp| srtp.unprotect_rtp(header, header_length, datagram))?;
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
        if let Some(compound) = self.open(dropped, |srtp| srtp.unprotect_rtcp(datagram)) {
            self.heard_at = Some(now);
            self.reports.read(&compound, now);
        }
    }

    /// Encrypts an RTP packet. None before connected, and for a remote that wants no audio.
    pub fn send_rtp(&mut self, header: RtpHeader, payload: &[u8], now: Instant) -> Option<BytesMut> {
        let (srtp, _) = self.srtp.as_mut().filter(|_| self.remote_receives)?;
        let data = srtp.protect_rtp(header, payload)?;
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
        let (srtp, _) = self.srtp.as_mut()?;
        let report = self.reports.handle_timeout(now)?;
        srtp.protect_rtcp(&report)
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
            remote_jitter: heard.map_or(Duration::ZERO, |heard| heard.jitter()),
            round_trip: heard.and_then(|heard| heard.round_trip).or(check_round_trip),
            remote_ssrc: self.reports.remote_ssrc(),
            path,
            srtp_profile: self.srtp.as_ref().map(|(_, name)| *name),
            dropped,
        }
    }

    /// Counts what SRTP refuses.
    fn open(
        &mut self,
        dropped: &mut Dropped,
        open: impl FnOnce(&mut Srtp) -> Result<BytesMut, Refused>,
    ) -> Option<BytesMut> {
        let (srtp, _) = self.srtp.as_mut()?;
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
