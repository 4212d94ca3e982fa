//! Negotiation: our half of a phone's SDP, and what follows from it for its audio.

use std::net::IpAddr;
use std::time::Instant;

use patchcord_media::audio_terms::Codec;
use patchcord_media::opus::SampleRate;
use patchcord_media::plain_rtp::PlainRtpError;
use patchcord_media::sdp::phone::{
    Encryption, NegotiationError, PhoneAnswer, PhoneDescription, PhoneSession, PhoneSessionOptions, PhoneTerms,
};
use patchcord_media::sdp::{Direction, SdpError};
use thiserror::Error;

use super::PhoneLine;
use super::line::Network;
use crate::agent::{Encoding, SoundFormat};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::sip::{Answered, Callee, Srtp, SrtpRules};

/// Our half of one dialog's SDP.
pub(super) struct Negotiation {
    session: PhoneSession,
    is_ipv6: bool,
    rules: AudioRules,
}

/// What may be agreed on with any phone.
#[derive(Clone, Copy, Debug)]
pub struct AudioRules {
    /// Whether audio may flow to loopback and private addresses.
    pub allow_private: bool,
    /// Whether a phone behind a NAT is found by where its audio comes from.
    pub latching: bool,
    /// Whether audio is encrypted.
    pub srtp: SrtpRules,
}

/// Why an SDP of a phone cannot be used.
#[derive(Clone, Copy, Debug, Error)]
pub(super) enum Unusable {
    #[error(transparent)]
    Sdp(#[from] SdpError),
    #[error(transparent)]
    Negotiation(#[from] NegotiationError),
    #[error(transparent)]
    Rtp(#[from] PlainRtpError),
}

impl Negotiation {
    /// Gives our offer to this phone too.
    pub fn begin(line: &PhoneLine, to: &Callee, rules: AudioRules) -> Result<(Self, String), AgentFailure> {
        let srtp = rules.srtp.for_callee(to).map_err(|error| AgentFailureKind::Refused.because(error))?;
        let mut negotiation = Self::new(line, to.is_ipv6(), srtp, rules)?;
        let offer = negotiation.session.offer().map_err(|error| AgentFailureKind::Refused.because(error))?;
        Ok((negotiation, offer))
    }

    fn new(line: &PhoneLine, is_ipv6: bool, srtp: Srtp, rules: AudioRules) -> Result<Self, AgentFailure> {
        let no_address = || AgentFailureKind::Refused.because("the service has no address for its audio");
        let address = line.advertised(is_ipv6).ok_or_else(no_address)?;
        let encryption = match srtp {
            Srtp::Off => Encryption::Accepted,
            Srtp::Offered => Encryption::Offered,
            Srtp::Required => Encryption::Required,
        };
        let options = PhoneSessionOptions { address, codecs: Codec::ALL.to_vec(), encryption };
        Ok(Self { session: PhoneSession::new(options), is_ipv6, rules })
    }

    /// Answers the offer of a phone that calls us, with keys if it has them. Its audio begins with
    /// [`begin_audio`](Self::begin_audio).
    pub fn begin_with(
        line: &PhoneLine,
        offer: &str,
        is_ipv6: bool,
        rules: AudioRules,
    ) -> Result<(Self, PhoneAnswer), AgentFailure> {
        let mut negotiation = Self::new(line, is_ipv6, rules.srtp.usual, rules)?;
        let answer = negotiation.take_offer(offer).map_err(|error| AgentFailureKind::ProtocolError.because(error))?;
        Ok((negotiation, answer))
    }

    /// The phone answered the call: its audio begins.
    pub fn answered(&mut self, line: &PhoneLine, answer: &Answered, now: Instant) -> Result<SoundFormat, AgentFailure> {
        let terms = self.take_answer(&answer.sdp).map_err(|error| AgentFailureKind::ProtocolError.because(error))?;
        self.begin_audio(line, &terms, answer.signalling, now)
    }

    /// Audio begins as both sides have agreed. The phone's SIP comes from this address.
    pub fn begin_audio(
        &self,
        line: &PhoneLine,
        terms: &PhoneTerms,
        signalling: IpAddr,
        now: Instant,
    ) -> Result<SoundFormat, AgentFailure> {
        let network = Network {
            is_ipv6: self.is_ipv6,
            allow_private: self.rules.allow_private,
            latching: self.rules.latching.then(|| vec![signalling]),
        };
        let rate = line.begin(terms, network, now);
        rate.map(format_of).map_err(|error| AgentFailureKind::ProtocolError.because(error))
    }

    /// The phone answered an offer that it had asked for.
    pub fn late_answer(&mut self, line: &PhoneLine, sdp: &str, now: Instant) -> Result<(), Unusable> {
        let terms = self.take_answer(sdp)?;
        Ok(line.renegotiate(&terms, now)?)
    }

    /// Answers a change of the session. After an error everything is as it was.
    pub fn answer(&mut self, line: &PhoneLine, sdp: &str, now: Instant) -> Result<String, Unusable> {
        let offer = PhoneDescription::parse(sdp)?;
        let mut changed = self.session.clone();
        let answer = changed.answer(&offer)?;
        line.renegotiate(&answer.terms, now)?;
        self.session = changed;
        Ok(answer.sdp)
    }

    /// An offer of what is in use.
    pub fn offer(&mut self) -> Result<String, NegotiationError> {
        self.session.offer()
    }

    /// Whether the phone holds the call.
    pub fn is_held(&self) -> bool {
        let wants_audio = |terms: &PhoneTerms| matches!(terms.direction, Direction::SendRecv | Direction::SendOnly);
        self.session.terms().is_some_and(|terms| !wants_audio(terms) || terms.remote.is_none())
    }

    fn take_offer(&mut self, sdp: &str) -> Result<PhoneAnswer, Unusable> {
        let offer = PhoneDescription::parse(sdp)?;
        Ok(self.session.answer(&offer)?)
    }

    fn take_answer(&mut self, sdp: &str) -> Result<PhoneTerms, Unusable> {
        let answer = PhoneDescription::parse(sdp)?;
        Ok(self.session.accept_answer(&answer)?)
    }
}

fn format_of(rate: Option<SampleRate>) -> SoundFormat {
    match rate {
        None => SoundFormat { encoding: Encoding::Opus, sample_rate: SampleRate::Hz48000 },
        Some(sample_rate) => SoundFormat { encoding: Encoding::PcmS16le, sample_rate },
    }
}
