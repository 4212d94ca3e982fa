//! RtpLeg: one RTP end of a call, such as the caller's, a browser's or a SIP phone's.
//!
//! Pure, and independent of what is on the other side of the call: datagrams, frames and time go in; datagrams, ordered
//! audio, keys and events come out. The owner
//!
//! 1. hands it every datagram ([`RtpLeg::receive`]) and calls [`RtpLeg::handle_timeout`] every 10 to 20 ms or at
//!    [`RtpLeg::poll_timeout`],
//! 2. after each of these drains [`RtpLeg::poll_received`], [`RtpLeg::poll_transmit`] and [`RtpLeg::poll_event`],
//! 3. from [`RtpLeg::start`] on sends one frame every 20 ms: [`RtpLeg::send_key`] if a key is due, else
//!    [`RtpLeg::send_frame`]. An owner that relays Opus packets calls [`RtpLeg::relay`] for each instead.
//!
//! Towards the remote there is one RTP line: one SSRC, consecutive sequence numbers, timestamps without a gap.

mod early_voice;
mod inbound;
mod keys;
mod liveness;
mod outbound;
mod transport;

pub use inbound::Received;
pub use keys::SendDigitsError;
pub use transport::RtpTransport;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::audio_terms::AudioTerms;
use crate::opus::SILENCE;
use crate::peer::{Peer, PeerError, PeerOptions, PeerStats, Transmit};
use crate::plain_rtp::PlainRtpError;
use crate::sdp::phone::PhoneTerms;
use crate::sdp::{Answer, Direction, Fragment, Offer};
use early_voice::EarlyVoice;
use inbound::Inbound;
use liveness::Liveness;
use outbound::Outbound;
use transport::TransportEvent;

/// What was negotiated for a leg, and its limits.
#[derive(Clone, Copy, Debug)]
pub struct RtpLegOptions {
    /// SSRC of our RTP line, as in our SDP.
    pub ssrc: u32,
    /// Random (RFC 3550 §5.1).
    pub first_sequence: u16,
    /// Random (RFC 3550 §5.1), in ticks of the codec's clock.
    pub first_timestamp: u32,
    /// Codec and payload types.
    pub audio: AudioTerms,
    /// Time without RTP and RTCP from the remote until [`RtpLegEvent::MediaSilent`].
    pub silence_warn_after: Duration,
    /// Time without RTP and RTCP from the remote until [`MediaFailure::Silent`], even if it answers connectivity checks. A
    /// remote that does not answer them is given up by the peer's own [`Consent`](crate::peer::Consent).
    pub silence_end_after: Duration,
}

/// What happens to a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtpLegEvent {
    /// The transport is up: media can flow.
    Connected,
    /// True: no media from the remote, or no answers to connectivity checks, for the warning time. False: both are back.
    MediaSilent(bool),
    /// Media can flow no more. Reported once.
    MediaFailed(MediaFailure),
}

/// Why media can flow no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaFailure {
    /// The remote's certificate is not the one its SDP promised.
    FingerprintMismatch,
    /// ICE found no path, or the handshake did not finish in time.
    NeverConnected,
    /// DTLS failed.
    HandshakeFailed,
    /// No consent, or no media, for too long.
    Silent,
    /// The remote closed DTLS.
    ClosedByPeer,
}

/// Counters of a leg since its start.
#[derive(Clone, Debug, Default)]
pub struct RtpLegStats {
    /// Counters and measurements of the transport.
    pub transport: PeerStats,
    /// Packets of the remote that never arrived.
    pub lost: u64,
    /// Packets of the remote that arrived too late to be heard.
    pub late: u64,
    /// Packets of the remote beyond real time and a burst, dropped.
    pub excess: u64,
}

/// One RTP end of a call.
pub struct RtpLeg {
    transport: RtpTransport,
    inbound: Inbound,
    outbound: Outbound,
    liveness: Liveness,
    early_voice: EarlyVoice,
    is_started: bool,
    /// It failed or was closed: nothing is reported any more.
    is_over: bool,
    events: VecDeque<RtpLegEvent>,
}

impl RtpLeg {
    /// A leg over a transport that is being connected.
    pub fn new(transport: impl Into<RtpTransport>, options: &RtpLegOptions, now: Instant) -> Self {
        let transport = transport.into();
        let mut liveness = Liveness::new(options.silence_warn_after, options.silence_end_after, now);
        liveness.set_held(transport.direction() != Direction::SendRecv, now);
        Self {
            transport,
            inbound: Inbound::new(options, now),
            outbound: Outbound::new(options),
            liveness,
            early_voice: EarlyVoice::default(),
            is_started: false,
            is_over: false,
            events: VecDeque::new(),
        }
    }

    /// Takes one datagram that `socket` received. RTP is dropped before [`start`](Self::start), but see
    /// [`poll_early_voice`](Self::poll_early_voice).
    pub fn receive(&mut self, socket: SocketAddr, from: SocketAddr, datagram: &[u8], now: Instant) {
        let packet = self.transport.receive(socket, from, datagram, now);
        if self.transport.media_at() == Some(now) {
            self.liveness.heard(now);
        }
        self.follow_transport();
        self.report_silence(now);
        match packet {
            Some(packet) if self.is_started => self.inbound.push(packet, now),
            Some(packet) => self.early_voice.hear(&packet.payload),
            None => {}
        }
    }

    /// True once, when an Opus remote has spoken for a second before [`start`](Self::start).
    pub fn poll_early_voice(&mut self) -> bool {
        !self.is_started && self.early_voice.poll()
    }

    /// Whether a STUN message from an unknown address is the remote's (see
    /// [`Peer::is_authentic_stun`](crate::peer::Peer::is_authentic_stun)).
    pub fn is_authentic_stun(&mut self, datagram: &[u8]) -> bool {
        self.transport.is_authentic_stun(datagram)
    }

    /// Drives the transport's timers, the end of keys, and the supervision of the remote.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.transport.handle_timeout(now);
        if self.is_started {
            self.inbound.handle_timeout(now);
            if self.liveness.is_expired(now) {
                self.fail(MediaFailure::Silent);
            }
        }
        self.follow_transport();
        self.report_silence(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) and [`poll_received`](Self::poll_received) have something new even if
    /// nothing arrives, for an owner without a tick. Media silence is not in it. May be in the past: then at once.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let inbound = if self.is_started { self.inbound.poll_timeout() } else { None };
        [self.transport.poll_timeout(), inbound].into_iter().flatten().min()
    }

    /// Takes the remote's answer to our offer; see [`Peer::accept_answer`]. Its payload types hold from then on.
    pub fn accept_answer(&mut self, answer: &Answer, now: Instant) -> Result<(), PeerError> {
        self.transport.peer_mut().ok_or(PeerError::UnexpectedAnswer)?.accept_answer(answer, now)?;
        let terms = AudioTerms::webrtc(answer.opus.payload_type, answer.telephone_event);
        self.inbound.follow_terms(&terms);
        self.outbound.follow(&terms);
        Ok(())
    }

    /// Takes candidates or an ICE restart of a WebRTC remote; see [`Peer::take_fragment`].
    pub fn take_fragment(
        &mut self,
        options: &PeerOptions,
        fragment: &Fragment,
        mid: Option<&str>,
        now: Instant,
    ) -> Result<Option<String>, PeerError> {
        let peer = self.transport.peer_mut().ok_or(PeerError::UnexpectedAnswer)?;
        peer.take_fragment(options, fragment, mid, now)
    }

    /// Answers a later offer of a WebRTC remote; see [`Peer::answer_again`]. Its payload types hold from then on.
    pub fn answer_again(&mut self, options: &PeerOptions, offer: &Offer, now: Instant) -> Result<String, PeerError> {
        let peer = self.transport.peer_mut().ok_or(PeerError::UnexpectedAnswer)?;
        let answer = peer.answer_again(options, offer, now)?;
        let terms = AudioTerms::webrtc(offer.opus.payload_type, offer.telephone_event);
        self.inbound.follow_terms(&terms);
        self.outbound.follow(&terms);
        Ok(answer)
    }

    /// Our ICE user names; see [`Peer::local_ufrags`].
    pub fn local_ufrags(&self) -> impl Iterator<Item = &str> {
        self.transport.peer().into_iter().flat_map(Peer::local_ufrags)
    }

    /// Nothing was read for `gap`, through no fault of the remote: extends its deadlines. To be called before
    /// [`handle_timeout`](Self::handle_timeout).
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        self.liveness.shift_deadlines(gap, now);
        self.transport.shift_deadlines(gap, now);
    }

    /// Media starts: what the remote sends is heard, and frames may be sent.
    pub fn start(&mut self, now: Instant) {
        self.is_started = true;
        self.liveness.heard(now);
    }

    /// The next audio or key of the remote that is known by `now`.
    pub fn poll_received(&mut self, now: Instant) -> Option<Received> {
        if self.is_started { self.inbound.poll(now) } else { None }
    }

    /// Whether received packets wait behind a gap that is about to be filled or concealed.
    pub fn has_gap(&self) -> bool {
        self.inbound.has_gap()
    }

    /// Queues keys for the remote, to be sent one after another.
    pub fn push_digits(&mut self, digits: &str) -> Result<(), SendDigitsError> {
        self.outbound.push_digits(digits)
    }

    /// Sends the key packet that is due in this frame's place, if any, and returns the frame's timestamp in 48 kHz ticks.
    /// To be called once for every frame.
    pub fn send_key(&mut self, now: Instant) -> Option<u32> {
        self.outbound.send_key(&mut self.transport, now)
    }

    /// Sends 20 ms of Opus and returns the frame's timestamp in 48 kHz ticks. `talking` is false for silence.
    pub fn send_frame(&mut self, payload: &[u8], talking: bool, now: Instant) -> u32 {
        self.outbound.send_frame(&mut self.transport, payload, talking, now)
    }

    /// Relays one Opus packet unchanged. The line advances by the packet's own length, so no 20 ms tick is needed; a key
    /// that is due takes the packet's place.
    pub fn relay(&mut self, packet: &[u8], now: Instant) {
        if self.outbound.send_key(&mut self.transport, now).is_none() {
            self.outbound.send_packet(&mut self.transport, packet, packet != SILENCE, now);
        }
    }

    /// Sends one packet of the leg's codec, of any length. While the remote wants no audio time goes on, and no sequence
    /// number is used up.
    pub fn send_packet(&mut self, payload: &[u8], talking: bool, now: Instant) {
        self.outbound.send_packet(&mut self.transport, payload, talking, now);
    }

    /// Whether a key is being sent or waits.
    pub fn has_keys(&self) -> bool {
        self.outbound.has_keys()
    }

    /// How long a gap in what the remote sends may stay open.
    pub fn set_reorder_wait(&mut self, wait: Duration) {
        self.inbound.set_wait(wait);
    }

    /// Follows a later offer or answer of a SIP phone: another address, hold, other keys and payload types. On an error
    /// nothing has changed. Silence of a phone that holds the call, or does not send, is no reason to end it.
    pub fn renegotiate(&mut self, terms: &PhoneTerms, now: Instant) -> Result<(), PlainRtpError> {
        self.transport.renegotiate(terms, now)?;
        self.inbound.follow_terms(&terms.audio);
        self.outbound.follow(&terms.audio);
        self.liveness.set_held(terms.direction != Direction::SendRecv, now);
        Ok(())
    }

    /// Direction of the audio, as we see it: without receiving or without sending, the remote holds the call.
    pub fn direction(&self) -> Direction {
        self.transport.direction()
    }

    /// Passes over frames that were not sent in time.
    pub fn skip_frames(&mut self, frames: u32) {
        self.outbound.skip(frames);
    }

    /// The next datagram to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transport.poll_transmit().or_else(|| self.outbound.poll_transmit())
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<RtpLegEvent> {
        self.follow_transport();
        self.events.pop_front()
    }

    fn follow_transport(&mut self) {
        while let Some(event) = self.transport.poll_event() {
            match event {
                TransportEvent::Connected => self.events.push_back(RtpLegEvent::Connected),
                TransportEvent::ConsentLost => self.liveness.set_unanswered(true),
                TransportEvent::ConsentRegained => self.liveness.set_unanswered(false),
                TransportEvent::Failed(failure) => self.fail(failure),
            }
        }
    }

    /// Counters since the start.
    pub fn stats(&self) -> RtpLegStats {
        let reorder = self.inbound.reorder_stats();
        RtpLegStats {
            transport: self.transport.stats(),
            lost: reorder.lost,
            late: reorder.late,
            excess: self.inbound.excess(),
        }
    }

    /// Says goodbye to the remote. Nothing else is sent after it.
    pub fn close(&mut self, now: Instant) {
        self.is_over = true;
        self.is_started = false;
        self.outbound.clear();
        self.transport.close(now);
    }

    /// Before the start the remote need not send media, but it must answer connectivity checks.
    fn report_silence(&mut self, now: Instant) {
        if self.is_over {
            return;
        }
        if let Some(is_silent) = self.liveness.poll_change(self.is_started, now) {
            self.events.push_back(RtpLegEvent::MediaSilent(is_silent));
        }
    }

    fn fail(&mut self, failure: MediaFailure) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.events.push_back(RtpLegEvent::MediaFailed(failure));
        }
    }
}
