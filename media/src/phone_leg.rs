//! PhoneLeg: the audio of a SIP phone, as a call takes and gives it.
//!
//! Opus is relayed unchanged. G.711 becomes PCM at 8 kHz, which the call encodes for its caller at the tick: the phone's
//! packets go through a jitter buffer with concealment, so that 20 ms come out every 20 ms whatever the network does. Pure,
//! as [`RtpLeg`] is. The owner
//!
//! 1. hands it every datagram ([`PhoneLeg::receive`]) and calls [`PhoneLeg::handle_timeout`] at
//!    [`PhoneLeg::poll_timeout`],
//! 2. after each of these drains [`PhoneLeg::poll_audio`] into the call, [`PhoneLeg::poll_key`],
//!    [`PhoneLeg::poll_transmit`] and [`PhoneLeg::poll_event`],
//! 3. gives it everything that the call has for the phone ([`PhoneLeg::send_audio`]), in the format of
//!    [`PhoneLeg::rate`].
//!
//! From [`PhoneLeg::start`] until the call's first audio it sends silence, which opens the phone's NAT.

mod from_phone;
mod to_phone;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::dtmf::Key;
use crate::opus::{FRAME, SampleRate};
use crate::peer::Transmit;
use crate::plain_rtp::PlainRtpError;
use crate::rtp_leg::{Received, RtpLeg, RtpLegEvent, RtpLegOptions, RtpLegStats, RtpTransport, SendDigitsError};
use crate::sdp::phone::PhoneTerms;
use from_phone::FromPhone;
use to_phone::ToPhone;

/// Audio that waits for an owner that does not drain; overflow drops the oldest.
const MOST_WAITING: usize = 50;
/// Ticks made up for after a standstill of ours. Older audio is worthless.
const CATCH_UP_TICKS: u32 = 10;

/// The leg of one phone.
pub struct PhoneLeg {
    leg: RtpLeg,
    from_phone: FromPhone,
    to_phone: ToPhone,
    waiting: VecDeque<Bytes>,
    keys: VecDeque<Key>,
    /// None before the start and after the end.
    next_tick: Option<Instant>,
    /// The call has given audio for the phone.
    has_audio: bool,
}

impl PhoneLeg {
    /// A leg over plain RTP or SRTP of these terms.
    pub fn new(transport: impl Into<RtpTransport>, options: &RtpLegOptions, now: Instant) -> Self {
        Self {
            leg: RtpLeg::new(transport, options, now),
            from_phone: FromPhone::new(options.audio.codec),
            to_phone: ToPhone::new(&options.audio),
            waiting: VecDeque::new(),
            keys: VecDeque::new(),
            next_tick: None,
            has_audio: false,
        }
    }

    /// The rate of the PCM in both directions; None for Opus packets of 20 ms.
    pub fn rate(&self) -> Option<SampleRate> {
        self.from_phone.rate()
    }

    /// Media starts: the phone is heard, and hears silence at first.
    pub fn start(&mut self, now: Instant) {
        self.leg.start(now);
        self.next_tick.get_or_insert(now);
    }

    /// Takes one datagram that `socket` received, RTP or RTCP.
    pub fn receive(&mut self, socket: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) {
        self.leg.receive(socket, from, datagram, now);
        self.take_received(now);
    }

    /// Drives all timers.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.leg.handle_timeout(now);
        self.take_received(now);
        let Some(next) = self.next_tick.filter(|next| *next <= now) else { return };
        let due = 1 + u32::try_from((now - next).as_millis() / FRAME.as_millis()).unwrap_or(u32::MAX - 1);
        self.next_tick = Some(next + FRAME * due);
        for _ in 0..due.min(CATCH_UP_TICKS) {
            self.tick(now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due. May be in the past: then at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let tick = self.next_tick.filter(|_| self.from_phone.needs_tick() || !self.has_audio);
        [self.leg.poll_timeout(), tick].into_iter().flatten().min()
    }

    /// The next audio of the phone for the call: an Opus packet, or 20 ms of 16-bit little-endian PCM.
    pub fn poll_audio(&mut self) -> Option<Bytes> {
        self.waiting.pop_front()
    }

    /// The next key that the phone pressed.
    pub fn poll_key(&mut self) -> Option<Key> {
        self.keys.pop_front()
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<RtpLegEvent> {
        self.leg.poll_event()
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.leg.poll_transmit()
    }

    /// Sends the call's audio to the phone: one Opus packet, or 20 ms of PCM. A key that is due takes its place.
    pub fn send_audio(&mut self, audio: &[u8], now: Instant) {
        self.has_audio = true;
        self.to_phone.send(&mut self.leg, audio, now);
    }

    /// Queues keys for the phone.
    pub fn push_digits(&mut self, digits: &str) -> Result<(), SendDigitsError> {
        self.leg.push_digits(digits)
    }

    /// Follows a later offer or answer; see [`RtpLeg::renegotiate`]. The codec stays, as
    /// [`PhoneSession`](crate::sdp::phone::PhoneSession) sees to.
    pub fn renegotiate(&mut self, terms: &PhoneTerms, now: Instant) -> Result<(), PlainRtpError> {
        self.leg.renegotiate(terms, now)?;
        self.to_phone.follow(&terms.audio);
        Ok(())
    }

    /// Whether the phone holds the call: it hears nothing.
    pub fn is_held(&self) -> bool {
        !self.leg.direction().sends()
    }

    /// Nothing was read for `gap`, through no fault of the phone; see [`RtpLeg::shift_deadlines`].
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        self.leg.shift_deadlines(gap, now);
    }

    /// Counters since the start.
    pub fn stats(&self) -> RtpLegStats {
        self.leg.stats()
    }

    /// How much audio the jitter buffer holds back before it plays; zero for Opus, which is not held back.
    pub fn jitter_delay(&self) -> Duration {
        self.from_phone.delay()
    }

    /// Says goodbye to the phone. Nothing else is sent after it.
    pub fn close(&mut self, now: Instant) {
        self.next_tick = None;
        self.leg.close(now);
    }

    fn take_received(&mut self, now: Instant) {
        while let Some(received) = self.leg.poll_received(now) {
            match received {
                Received::Restarted => self.from_phone.restart(),
                Received::Slot(slot) => self.from_phone.push(slot),
                Received::ComfortNoise { level } => self.from_phone.announce_pause(level),
                Received::Key(key) => self.keys.push_back(key),
            }
        }
        while let Some(audio) = self.from_phone.poll() {
            self.give(audio);
        }
    }

    /// 20 ms of the leg's own clock.
    fn tick(&mut self, now: Instant) {
        if let Some(frame) = self.from_phone.play() {
            self.give(frame);
            self.leg.set_reorder_wait(self.from_phone.delay().saturating_sub(FRAME));
        }
        if !self.has_audio {
            self.to_phone.send_silence(&mut self.leg, now);
        }
    }

    fn give(&mut self, audio: Bytes) {
        if self.waiting.len() >= MOST_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back(audio);
    }
}

#[cfg(test)]
mod tests;
