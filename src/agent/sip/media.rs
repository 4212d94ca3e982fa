//! PhoneMedia: the audio of one phone: plain RTP, or WebRTC if the phone came over a WebSocket, as browsers do.
//!
//! Both are one thing to the phone's task: an offer, an answer, later offers, audio and keys.

use std::net::IpAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use patchcord_media::reorder::Slot;
use patchcord_media::rtp_leg::{Received, RtpLegEvent};
use patchcord_media::sdp::phone::{PhoneAnswer, PhoneTerms};
use patchcord_media::sdp::{Answer, Direction, Offer};

use super::PhoneLine;
use super::negotiation::{AudioRules, Negotiation};
use crate::agent::browser::seat::{CONNECT_WITHIN, Occupant, Seat, SeatChange};
use crate::agent::browser::{BrowserId, BrowserLeg};
use crate::agent::port::AgentPort;
use crate::agent::{Encoding, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::sip::{Answered, Callee, WaitingPhone};

/// What WebRTC carries, which no phone changes.
const OPUS: SoundFormat = SoundFormat { encoding: Encoding::Opus, sample_rate: SampleRate::Hz48000 };

/// The audio of one phone, from our offer to its end.
pub(super) enum PhoneMedia {
    Plain(Box<Plain>),
    WebRtc(WebRtc),
}

/// Plain RTP of one phone.
pub(super) struct Plain {
    line: Rc<PhoneLine>,
    negotiation: Negotiation,
    /// What a phone that calls us has agreed on, and where its SIP comes from, until it is accepted.
    agreed: Option<(PhoneTerms, IpAddr)>,
    /// Its audio flows, and the task has not been told.
    begun: Option<SoundFormat>,
}

/// WebRTC of one phone.
pub(super) struct WebRtc {
    id: BrowserId,
    leg: Rc<BrowserLeg>,
    /// None until the call is answered.
    seat: Option<Seat>,
    is_held: bool,
}

/// What happens to the audio.
#[derive(Debug)]
pub(super) enum MediaChange {
    /// It flows, in this format.
    Begun(SoundFormat),
    /// The phone has closed it.
    Closed,
    /// It flows no more, or has never begun.
    Lost(AgentFailure),
}

/// What the phone sends.
pub(super) enum FromPhone {
    Audio(Bytes),
    Key(char),
}

/// Why a later SDP is refused. Its words are for us alone: an SDP may come from anybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAcceptable;

impl PhoneMedia {
    /// A network end for a phone, and our offer. It must be [closed](Self::close).
    pub fn offer(port: &AgentPort, to: &Callee, rules: AudioRules) -> Result<(Self, String), AgentFailure> {
        if to.is_in_browser() {
            let refused = |refusal: Refusal| AgentFailureKind::Refused.because(refusal.message);
            let (id, offer) = port.offer_browser().map_err(refused)?;
            return Ok((Self::WebRtc(WebRtc::new(port, id)?), offer));
        }
        let (plain, offer) = Plain::open(port, |line| Negotiation::begin(line, to, rules))?;
        Ok((Self::Plain(Box::new(plain)), offer))
    }

    /// A network end for a phone that calls us, and our answer to its offer. Its audio may begin once it is
    /// [accepted](Self::accepted). It must be [closed](Self::close).
    pub fn answer_call(
        port: &AgentPort,
        phone: &WaitingPhone,
        rules: AudioRules,
    ) -> Result<(Self, String), AgentFailure> {
        if phone.is_in_browser {
            let offer = Offer::parse(&phone.offer).map_err(|error| AgentFailureKind::ProtocolError.because(error))?;
            let refused = |refusal: Refusal| {
                let is_its_fault = refusal.code == RefusalCode::OfferRefused;
                let kind = if is_its_fault { AgentFailureKind::ProtocolError } else { AgentFailureKind::Refused };
                kind.because(refusal.message)
            };
            let (id, answer) = port.answer_browser(&offer).map_err(refused)?;
            return Ok((Self::WebRtc(WebRtc::new(port, id)?), answer));
        }
        let begin = |line: &PhoneLine| Negotiation::begin_with(line, &phone.offer, phone.is_ipv6, rules);
        let (mut plain, PhoneAnswer { sdp, terms, .. }) = Plain::open(port, begin)?;
        plain.agreed = Some((terms, phone.signalling));
        Ok((Self::Plain(Box::new(plain)), sdp))
    }

    /// The phone's call was accepted. [`MediaChange::Begun`] follows.
    pub fn accepted(&mut self, now: Instant) -> Result<(), AgentFailure> {
        match self {
            Self::Plain(plain) => match plain.agreed.take() {
                Some((terms, signalling)) => plain.begin(&terms, signalling, now),
                None => Ok(()),
            },
            Self::WebRtc(web) => {
                web.await_audio(now);
                Ok(())
            }
        }
    }

    /// The phone answered the call. [`MediaChange::Begun`] follows.
    pub fn answered(&mut self, port: &AgentPort, answer: &Answered, now: Instant) -> Result<(), AgentFailure> {
        match self {
            Self::Plain(plain) => {
                plain.begun = Some(plain.negotiation.answered(&plain.line, answer, now)?);
                Ok(())
            }
            Self::WebRtc(web) => web.answered(port, &answer.sdp, now),
        }
    }

    /// Answers a later offer. After an error everything is as it was.
    pub fn answer(&mut self, port: &AgentPort, sdp: &str, now: Instant) -> Result<String, NotAcceptable> {
        match self {
            Self::Plain(plain) => plain.negotiation.answer(&plain.line, sdp, now).map_err(|_| NotAcceptable),
            Self::WebRtc(web) => web.answer(port, sdp),
        }
    }

    /// An offer of what is in use, for a phone that asks for one.
    pub fn later_offer(&mut self) -> Result<String, NotAcceptable> {
        match self {
            Self::Plain(plain) => plain.negotiation.offer().map_err(|_| NotAcceptable),
            // No phone in a browser asks: it would have to be answered in the ACK.
            Self::WebRtc(_) => Err(NotAcceptable),
        }
    }

    /// The phone's answer to that.
    pub fn late_answer(&mut self, sdp: &str, now: Instant) -> Result<(), NotAcceptable> {
        match self {
            Self::Plain(plain) => plain.negotiation.late_answer(&plain.line, sdp, now).map_err(|_| NotAcceptable),
            Self::WebRtc(_) => Err(NotAcceptable),
        }
    }

    /// Whether the phone holds the call.
    pub fn is_held(&self) -> bool {
        match self {
            Self::Plain(plain) => plain.negotiation.is_held(),
            Self::WebRtc(web) => web.is_held,
        }
    }

    /// Something arrived.
    pub async fn news(&self) {
        match self {
            Self::Plain(plain) => plain.line.news().await,
            Self::WebRtc(web) => web.leg.news().await,
        }
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        match self {
            Self::Plain(plain) => plain.line.handle_timeout(now),
            Self::WebRtc(web) => web.leg.handle_timeout(now),
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due. May be in the past.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Plain(plain) => plain.line.poll_timeout(),
            Self::WebRtc(web) => {
                let seat = web.seat.as_ref().and_then(Seat::poll_timeout);
                [web.leg.poll_timeout(), seat].into_iter().flatten().min()
            }
        }
    }

    /// Nothing was read for `gap`, through no fault of the phone's.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        match self {
            Self::Plain(plain) => plain.line.shift_deadlines(gap, now),
            Self::WebRtc(web) => {
                web.leg.shift_deadlines(gap, now);
                web.seat.iter_mut().for_each(|seat| seat.shift_deadlines(gap, now));
            }
        }
    }

    /// The next change that is known by `now`.
    pub fn poll_change(&mut self, now: Instant) -> Option<MediaChange> {
        match self {
            Self::Plain(plain) => match plain.begun.take() {
                Some(format) => Some(MediaChange::Begun(format)),
                None => change_of_line(&plain.line),
            },
            Self::WebRtc(web) => web.poll_change(now),
        }
    }

    /// What the phone has sent.
    pub fn poll_received(&mut self, now: Instant) -> Option<FromPhone> {
        match self {
            Self::Plain(plain) => {
                let key = plain.line.poll_key().map(|key| FromPhone::Key(key.digit));
                key.or_else(|| plain.line.poll_audio().map(FromPhone::Audio))
            }
            Self::WebRtc(web) => web.poll_received(now),
        }
    }

    pub fn send_audio(&self, audio: &[u8], now: Instant) {
        match self {
            Self::Plain(plain) => plain.line.send_audio(audio, now),
            Self::WebRtc(web) => web.leg.relay(audio, now),
        }
    }

    /// A phone that negotiated no keys, or has too many to hear, misses it.
    pub fn send_key(&self, digit: char) {
        match self {
            Self::Plain(plain) => plain.line.send_key(digit),
            Self::WebRtc(web) => web.leg.send_key(digit),
        }
    }

    /// Sends what is ready.
    pub fn flush(&self) {
        match self {
            Self::Plain(plain) => plain.line.flush(),
            Self::WebRtc(web) => web.leg.flush(),
        }
    }

    /// Says goodbye to the phone, and gives the network end back.
    pub fn close(self, port: &AgentPort) {
        match self {
            Self::Plain(plain) => {
                plain.line.close(clock::now());
                port.release_phone(plain.line.id());
            }
            Self::WebRtc(web) => port.release_browser(web.id),
        }
    }
}

fn change_of_line(line: &PhoneLine) -> Option<MediaChange> {
    loop {
        match line.poll_event()? {
            RtpLegEvent::MediaFailed(_) => {
                let cause = "no audio came from the phone for too long";
                return Some(MediaChange::Lost(AgentFailureKind::Unresponsive.because(cause)));
            }
            RtpLegEvent::Connected | RtpLegEvent::MediaSilent(_) => {}
        }
    }
}

impl Plain {
    /// A network end, and what is said of it.
    fn open<T>(
        port: &AgentPort,
        begin: impl FnOnce(&PhoneLine) -> Result<(Negotiation, T), AgentFailure>,
    ) -> Result<(Self, T), AgentFailure> {
        let line = port.open_phone()?;
        let begun = begin(&line);
        let (negotiation, said) = begun.inspect_err(|_| port.release_phone(line.id()))?;
        Ok((Self { line, negotiation, agreed: None, begun: None }, said))
    }

    fn begin(&mut self, terms: &PhoneTerms, signalling: IpAddr, now: Instant) -> Result<(), AgentFailure> {
        self.begun = Some(self.negotiation.begin_audio(&self.line, terms, signalling, now)?);
        Ok(())
    }
}

impl WebRtc {
    fn new(port: &AgentPort, id: BrowserId) -> Result<Self, AgentFailure> {
        let gone = || AgentFailureKind::Refused.because("its connection was given up");
        Ok(Self { id, leg: port.browser(id).ok_or_else(gone)?, seat: None, is_held: false })
    }

    /// Both SDPs are known: the phone has some time to connect.
    fn await_audio(&mut self, now: Instant) {
        self.seat = Some(Seat::new(Occupant::Answerer, CONNECT_WITHIN, now));
    }

    fn answered(&mut self, port: &AgentPort, sdp: &str, now: Instant) -> Result<(), AgentFailure> {
        let unusable = |error: String| AgentFailureKind::ProtocolError.because(error);
        let answer = Answer::parse(sdp).map_err(|error| unusable(error.to_string()))?;
        if answer.direction == Direction::Inactive {
            return Err(unusable("its audio is inactive".to_owned()));
        }
        port.accept_answer(self.id, &answer).map_err(|refusal| unusable(refusal.message))?;
        self.is_held = !answer.direction.receives();
        self.await_audio(now);
        Ok(())
    }

    fn answer(&mut self, port: &AgentPort, sdp: &str) -> Result<String, NotAcceptable> {
        let offer = Offer::parse(sdp).map_err(|_| NotAcceptable)?;
        let answer = port.answer_again(self.id, &offer).map_err(|_| NotAcceptable)?;
        self.is_held = !offer.direction.receives();
        Ok(answer)
    }

    fn poll_change(&mut self, now: Instant) -> Option<MediaChange> {
        let seat = self.seat.as_mut()?;
        while let Some(event) = self.leg.poll_event() {
            if let Some(change) = seat.handle(event, now) {
                return self.follow(change, now);
            }
        }
        let change = seat.handle_timeout(now)?;
        self.follow(change, now)
    }

    fn follow(&self, change: SeatChange, now: Instant) -> Option<MediaChange> {
        match change {
            SeatChange::Joined => {
                self.leg.start(now);
                Some(MediaChange::Begun(OPUS))
            }
            SeatChange::HungUp => Some(MediaChange::Closed),
            SeatChange::Lost(failure) => Some(MediaChange::Lost(failure)),
            // The place of a phone is not kept.
            SeatChange::Vanished | SeatChange::Returned => None,
        }
    }

    fn poll_received(&self, now: Instant) -> Option<FromPhone> {
        loop {
            match self.leg.poll_received(now)? {
                Received::Slot(Slot::Packet { payload, .. }) => return Some(FromPhone::Audio(payload)),
                Received::Key(key) => return Some(FromPhone::Key(key.digit)),
                // Packets that are lost are concealed as any Opus agent's are.
                Received::Slot(Slot::Lost { .. } | Slot::Quiet { .. })
                | Received::Restarted
                | Received::ComfortNoise { .. } => {}
            }
        }
    }
}
