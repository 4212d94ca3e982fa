//! PhoneLine: the RTP of one phone, shared by the worker, which has its datagrams, and the task, which has its audio.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use patchcord_media::dtmf::Key;
use patchcord_media::opus::SampleRate;
use patchcord_media::phone_leg::PhoneLeg;
use patchcord_media::plain_rtp::{PlainRtp, PlainRtpError, PlainRtpOptions};
use patchcord_media::rtp_leg::{RtpLegEvent, RtpLegOptions};
use patchcord_media::sdp::phone::PhoneTerms;
use tokio::sync::Notify;

use crate::agent::browser::Wire;

/// Without RTP and RTCP of a phone that does not hold, its call has no purpose.
const SILENT_END: Duration = Duration::from_secs(30);
const SILENT_WARNING: Duration = Duration::from_secs(5);
/// RFC 3711 §3.3.1: a first sequence number near the wrap, with its packet lost, would leave the two sides' rollover
/// counters apart for good.
const LOWER_HALF: u16 = 0x7fff;

/// The number of a phone's network end within its call.
pub type PhoneId = u32;

/// Where a phone's audio may come from and go to.
pub(super) struct Network {
    /// Which of our addresses the phone was told.
    pub is_ipv6: bool,
    /// Loopback and private addresses are allowed.
    pub allow_private: bool,
    /// Where its SIP comes from, if its audio may come from there too; see [`PlainRtpOptions::latching`].
    pub latching: Option<Vec<IpAddr>>,
}

/// The RTP of one phone. Borrowed between two awaits only.
pub(crate) struct PhoneLine {
    id: PhoneId,
    /// The bound and the advertised address of each family.
    addresses: Vec<(SocketAddr, SocketAddr)>,
    wire: Box<dyn Wire>,
    /// None until the phone has answered.
    leg: RefCell<Option<PhoneLeg>>,
    /// Something arrived.
    news: Notify,
}

/// The worker's side.
impl PhoneLine {
    /// A line with these addresses, each bound and as advertised.
    pub fn new(id: PhoneId, addresses: Vec<(SocketAddr, SocketAddr)>, wire: Box<dyn Wire>) -> Self {
        Self { id, addresses, wire, leg: RefCell::new(None), news: Notify::new() }
    }

    /// Takes a datagram that `socket` received. Before the phone has answered nobody's audio is taken.
    pub fn receive(&self, (socket, from): (SocketAddr, SocketAddr), datagram: &[u8], now: Instant) {
        if let Some(leg) = &mut *self.leg.borrow_mut() {
            leg.receive(socket, from, datagram, now);
            self.news.notify_one();
        }
    }
}

/// The task's side.
impl PhoneLine {
    pub fn id(&self) -> PhoneId {
        self.id
    }

    /// What a phone is told, of this family if there is one.
    pub(super) fn advertised(&self, is_ipv6: bool) -> Option<SocketAddr> {
        let mut all = self.addresses.iter().map(|(_, advertised)| *advertised);
        let same = all.clone().find(|address| address.is_ipv6() == is_ipv6);
        same.or_else(|| all.next())
    }

    /// Audio begins, between the address of this family and where the terms say. Gives the rate of its PCM; None for Opus.
    pub(super) fn begin(
        &self,
        terms: &PhoneTerms,
        network: Network,
        now: Instant,
    ) -> Result<Option<SampleRate>, PlainRtpError> {
        let Network { is_ipv6, allow_private, latching } = network;
        let advertised = self.advertised(is_ipv6);
        let bound = self.addresses.iter().find(|(_, address)| Some(*address) == advertised);
        let socket = bound.map(|(socket, _)| *socket).ok_or(PlainRtpError::AddressRefused)?;
        let ssrc = rand::random();
        let plain = PlainRtp::new(PlainRtpOptions { socket, ssrc, allow_private, latching }, terms, now)?;
        let options = RtpLegOptions {
            ssrc,
            first_sequence: rand::random::<u16>() & LOWER_HALF,
            first_timestamp: rand::random(),
            audio: terms.audio,
            silence_warn_after: SILENT_WARNING,
            silence_end_after: SILENT_END,
        };
        let mut leg = PhoneLeg::new(plain, &options, now);
        leg.start(now);
        let rate = leg.rate();
        *self.leg.borrow_mut() = Some(leg);
        Ok(rate)
    }

    /// Follows a later offer or answer. On an error nothing has changed.
    pub(super) fn renegotiate(&self, terms: &PhoneTerms, now: Instant) -> Result<(), PlainRtpError> {
        self.with_leg(|leg| leg.renegotiate(terms, now)).unwrap_or(Ok(()))
    }

    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    pub(super) fn handle_timeout(&self, now: Instant) {
        self.with_leg(|leg| leg.handle_timeout(now));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.with_leg(|leg| leg.poll_timeout()).flatten()
    }

    pub(super) fn shift_deadlines(&self, gap: Duration, now: Instant) {
        self.with_leg(|leg| leg.shift_deadlines(gap, now));
    }

    pub(super) fn poll_event(&self) -> Option<RtpLegEvent> {
        self.with_leg(PhoneLeg::poll_event).flatten()
    }

    pub(super) fn poll_audio(&self) -> Option<Bytes> {
        self.with_leg(PhoneLeg::poll_audio).flatten()
    }

    pub(super) fn poll_key(&self) -> Option<Key> {
        self.with_leg(PhoneLeg::poll_key).flatten()
    }

    pub(super) fn send_audio(&self, audio: &[u8], now: Instant) {
        self.with_leg(|leg| leg.send_audio(audio, now));
    }

    /// A phone that negotiated no keys, or has too many to hear, misses it.
    pub(super) fn send_key(&self, digit: char) {
        let _ = self.with_leg(|leg| leg.push_digits(digit.encode_utf8(&mut [0; 4])));
    }

    /// Sends what is ready.
    pub(super) fn flush(&self) {
        while let Some(transmit) = self.with_leg(PhoneLeg::poll_transmit).flatten() {
            self.wire.send(&transmit);
        }
    }

    /// Says goodbye to the phone.
    pub(super) fn close(&self, now: Instant) {
        self.with_leg(|leg| leg.close(now));
        self.flush();
    }

    fn with_leg<T>(&self, work: impl FnOnce(&mut PhoneLeg) -> T) -> Option<T> {
        self.leg.borrow_mut().as_mut().map(work)
    }
}
