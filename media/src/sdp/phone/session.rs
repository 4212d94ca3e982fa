//! PhoneSession: our half of one dialog's SDP, from its first offer or answer through every re-INVITE.

use std::net::SocketAddr;
use std::time::Duration;

use super::crypto::{Crypto, CryptoSuite, MasterKey, SdesKeys};
use super::write::{self, LocalAudio};
use super::{Format, NegotiationError, PhoneDescription, PhoneTerms, RtpProfile};
use crate::audio_terms::{AudioTerms, Codec, PayloadTypes, TelephoneEvent};
use crate::sdp::Direction;

/// Payload types of our offers. Those of G.711 and comfort noise are static (RFC 3551 §6).
const OPUS: u8 = 111;
const EVENTS_8000: u8 = 101;
const EVENTS_48000: u8 = 110;
const COMFORT_NOISE: u8 = 13;

/// Whether a phone's audio must be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encryption {
    /// Offers are plain; SRTP that a phone offers is answered with SRTP.
    #[default]
    Accepted,
    /// Offers are plain and have keys beside it, which the phone may take or leave (OSRTP, RFC 8643). So are a phone's.
    Offered,
    /// Offers are SRTP, and an offer or answer without usable keys is refused.
    Required,
}

/// What we offer and take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneSessionOptions {
    /// Our RTP address as others see it. RTCP is received there too.
    pub address: SocketAddr,
    /// The codecs, the preferred first; not empty.
    pub codecs: Vec<Codec>,
    /// Whether to encrypt.
    pub encryption: Encryption,
}

/// Our answer to a phone's offer, and what is agreed on by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneAnswer {
    /// The SDP of our answer.
    pub sdp: String,
    /// In force once the answer is sent.
    pub terms: PhoneTerms,
}

/// Our half of one dialog's SDP.
///
/// A refused offer or answer changes nothing: the terms before it stay in force. The codec is settled by the first
/// exchange. Our key outlives re-INVITEs, so that the phone's rollover counter stays right.
#[derive(Debug, Clone)]
pub struct PhoneSession {
    options: PhoneSessionOptions,
    session_id: u64,
    version: u64,
    /// What we sent last, without its version.
    sent: Option<String>,
    /// Our offer that waits for its answer.
    offered: Option<Offered>,
    terms: Option<PhoneTerms>,
    /// The profile of the last complete exchange: with OSRTP it does not say whether there are keys.
    profile: RtpProfile,
}

#[derive(Debug, Clone)]
struct Offered {
    profile: RtpProfile,
    formats: Vec<Format>,
    telephone_events: Vec<(u32, u8)>,
    cryptos: Vec<Crypto>,
}

/// What an answer has for one offer.
struct Agreed {
    codec: Format,
    receive: u8,
    telephone_event: Option<TelephoneEvent>,
    srtp: Option<SdesKeys>,
}

impl PhoneSession {
    /// A session in which nothing was said yet.
    pub fn new(options: PhoneSessionOptions) -> Self {
        // RFC 8866 §5.2 wants it unique, and it must fit 63 bits.
        let session_id = rand::random::<u64>() >> 1;
        let profile = match options.encryption {
            Encryption::Accepted | Encryption::Offered => RtpProfile::PLAIN,
            Encryption::Required => RtpProfile::ENCRYPTED,
        };
        Self { options, session_id, version: 0, sent: None, offered: None, terms: None, profile }
    }

    /// What is agreed on, since the last complete exchange.
    pub fn terms(&self) -> Option<&PhoneTerms> {
        self.terms.as_ref()
    }

    /// Our offer: of everything at first, of the codec in use later. An earlier offer without an answer is forgotten.
    pub fn offer(&mut self) -> Result<String, NegotiationError> {
        let formats = self.offered_formats();
        let has = |clock_hz| formats.iter().any(|format| format.codec.clock_hz() == clock_hz);
        let telephone_events: Vec<(u32, u8)> = match &self.terms {
            Some(terms) => {
                terms.audio.telephone_event.iter().map(|event| (event.clock_hz, event.payload_types.receive)).collect()
            }
            None => {
                let fast = has(48_000).then_some((48_000, EVENTS_48000));
                fast.into_iter().chain([(8_000, EVENTS_8000)]).collect()
            }
        };
        let (profile, cryptos) = (self.offered_profile(), self.offered_keys()?);
        let audio = LocalAudio {
            address: self.options.address,
            profile,
            formats: &formats,
            telephone_events: &telephone_events,
            comfort_noise: has(8_000).then_some(COMFORT_NOISE),
            packet_length: Duration::from_millis(20),
            direction: Direction::SendRecv,
            rtcp_mux: true,
            cryptos: &cryptos,
            refused_before: &[],
            refused_behind: &[],
        };
        let body = write::body(&audio);
        self.offered = Some(Offered { profile, formats, telephone_events, cryptos });
        Ok(self.numbered(body))
    }

    /// The phone's answer to our offer.
    pub fn accept_answer(&mut self, answer: &PhoneDescription) -> Result<PhoneTerms, NegotiationError> {
        let offered = self.offered.take().ok_or(NegotiationError::UnexpectedAnswer)?;
        match (offered.profile.is_encrypted(), answer.transport.profile.is_encrypted()) {
            (true, false) => return Err(NegotiationError::NotEncrypted),
            // Some phones answer keys beside a plain profile with the other profile.
            (false, true) if offered.cryptos.is_empty() => return Err(NegotiationError::ProfileChanged),
            (false, true) | (true, true) | (false, false) => {}
        }
        let of = |format: &Format| offered.formats.iter().find(|offered| offered.codec == format.codec);
        let codec = answer.formats.iter().find(|format| of(format).is_some()).ok_or(match self.terms {
            Some(_) => NegotiationError::CodecChanged,
            None => NegotiationError::CodecNotOffered,
        })?;
        let receive = of(codec).map_or(codec.payload_type, |format| format.payload_type);
        let telephone_event = event_for(codec.codec, &answer.telephone_events, |clock_hz| {
            offered.telephone_events.iter().find(|(offered, _)| *offered == clock_hz).map(|(_, number)| *number)
        });
        // RFC 8643 §3.3: without a key in the answer, keys beside a plain profile are of no use.
        let srtp = match offered.profile.is_encrypted() || !(offered.cryptos.is_empty() || answer.has_no_keys()) {
            true => Some(offered.keys_of(answer).ok_or(NegotiationError::NoUsableKey)?),
            false => None,
        };
        if srtp.is_none() && self.options.encryption == Encryption::Required {
            return Err(NegotiationError::NotEncrypted);
        }
        let terms = terms(answer, &Agreed { codec: *codec, receive, telephone_event, srtp });
        self.terms = Some(terms.clone());
        self.profile = answer.transport.profile;
        Ok(terms)
    }

    /// Answers the phone's offer.
    pub fn answer(&mut self, offer: &PhoneDescription) -> Result<PhoneAnswer, NegotiationError> {
        let codec = self.codec_for(offer)?;
        let srtp_and_tag = self.keys_for(offer)?;
        let telephone_event = event_for(codec.codec, &offer.telephone_events, |clock_hz| {
            offer.telephone_events.iter().find(|(offered, _)| *offered == clock_hz).map(|(_, number)| *number)
        });
        let (srtp, cryptos) = match srtp_and_tag {
            None => (None, Vec::new()),
            Some((keys, tag)) => {
                let ours = Crypto { tag, suite: keys.suite, key: keys.local.clone() };
                (Some(keys), vec![ours])
            }
        };
        let terms = terms(offer, &Agreed { codec, receive: codec.payload_type, telephone_event, srtp });
        let events: Vec<(u32, u8)> =
            telephone_event.iter().map(|event| (event.clock_hz, event.payload_types.receive)).collect();
        let audio = LocalAudio {
            address: self.options.address,
            profile: offer.transport.profile,
            formats: &[codec],
            telephone_events: &events,
            comfort_noise: terms.audio.comfort_noise,
            packet_length: Duration::from_millis(20),
            direction: terms.direction,
            rtcp_mux: offer.transport.rtcp_mux,
            cryptos: &cryptos,
            refused_before: &offer.refused_before,
            refused_behind: &offer.refused_behind,
        };
        let body = write::body(&audio);
        self.offered = None;
        self.terms = Some(terms.clone());
        self.profile = offer.transport.profile;
        Ok(PhoneAnswer { sdp: self.numbered(body), terms })
    }

    fn offered_formats(&self) -> Vec<Format> {
        if let Some(PhoneTerms { audio, .. }) = &self.terms {
            return vec![Format { codec: audio.codec, payload_type: audio.payload_types.receive }];
        }
        let number = |codec| match codec {
            Codec::Opus => OPUS,
            Codec::Pcmu => 0,
            Codec::Pcma => 8,
        };
        self.options.codecs.iter().map(|codec| Format { codec: *codec, payload_type: number(*codec) }).collect()
    }

    /// The profile of our offers; that in use, which may have become plain by the phone's wish.
    fn offered_profile(&self) -> RtpProfile {
        match self.profile.is_encrypted() {
            true => RtpProfile::ENCRYPTED,
            false => RtpProfile::PLAIN,
        }
    }

    /// The keys of our offers: that in use, or one for each suite.
    fn offered_keys(&self) -> Result<Vec<Crypto>, NegotiationError> {
        match (&self.terms, self.options.encryption) {
            (Some(PhoneTerms { srtp: Some(keys), .. }), _) => {
                Ok(vec![Crypto { tag: 1, suite: keys.suite, key: keys.local.clone() }])
            }
            (None, Encryption::Offered | Encryption::Required) => {
                let suites = CryptoSuite::ALL.into_iter().zip(1..);
                suites.map(|(suite, tag)| Ok(Crypto { tag, suite, key: MasterKey::random(suite)? })).collect()
            }
            (Some(PhoneTerms { srtp: None, .. }), _) | (None, Encryption::Accepted) => Ok(Vec::new()),
        }
    }

    /// The codec in use, or the one that we prefer.
    fn codec_for(&self, offer: &PhoneDescription) -> Result<Format, NegotiationError> {
        let find = |codec: Codec| offer.formats.iter().find(|format| format.codec == codec).copied();
        match &self.terms {
            Some(terms) => find(terms.audio.codec).ok_or(NegotiationError::CodecChanged),
            None => self.options.codecs.iter().copied().find_map(find).ok_or(NegotiationError::NoCommonCodec),
        }
    }

    /// The keys for a phone's offer, and the tag of the line that they answer.
    fn keys_for(&self, offer: &PhoneDescription) -> Result<Option<(SdesKeys, u32)>, NegotiationError> {
        let in_use = self.terms.as_ref().and_then(|terms| terms.srtp.as_ref());
        if !offer.transport.profile.is_encrypted() {
            let takes_keys = in_use.is_some() || self.options.encryption != Encryption::Accepted;
            match self.options.encryption {
                _ if takes_keys && !offer.has_no_keys() => {}
                Encryption::Required => return Err(NegotiationError::NotEncrypted),
                Encryption::Accepted | Encryption::Offered => return Ok(None),
            }
        }
        let is_in_use = |crypto: &&Crypto| in_use.is_some_and(|keys| keys.suite == crypto.suite);
        let cryptos = &offer.transport.cryptos;
        let theirs = cryptos.iter().find(is_in_use).or(cryptos.first()).ok_or(NegotiationError::NoUsableKey)?;
        let local = match in_use.filter(|keys| keys.suite == theirs.suite) {
            Some(keys) => keys.local.clone(),
            None => MasterKey::random(theirs.suite)?,
        };
        Ok(Some((SdesKeys { suite: theirs.suite, local, remote: theirs.key.clone() }, theirs.tag)))
    }

    /// The version grows by one with each change (RFC 3264 §8).
    fn numbered(&mut self, body: String) -> String {
        if self.sent.as_ref() != Some(&body) {
            self.version += 1;
        }
        let sdp = write::head(self.session_id, self.version, self.options.address) + &body;
        self.sent = Some(body);
        sdp
    }
}

impl Offered {
    /// An answer has exactly one of the offered lines, by its tag (RFC 4568 §5.1.2).
    fn keys_of(&self, answer: &PhoneDescription) -> Option<SdesKeys> {
        let theirs = answer.transport.cryptos.first()?;
        let ours = self.cryptos.iter().find(|ours| ours.tag == theirs.tag && ours.suite == theirs.suite)?;
        Some(SdesKeys { suite: ours.suite, local: ours.key.clone(), remote: theirs.key.clone() })
    }
}

fn terms(remote: &PhoneDescription, agreed: &Agreed) -> PhoneTerms {
    let transport = &remote.transport;
    let direction = match transport.rtp {
        // The old hold (RFC 3264 §8.4): nothing may be sent to it.
        None if remote.direction.answered().receives() => Direction::RecvOnly,
        None => Direction::Inactive,
        Some(_) => remote.direction.answered(),
    };
    let codec = agreed.codec.codec;
    PhoneTerms {
        remote: transport.rtp,
        remote_rtcp: if transport.rtcp_mux { transport.rtp } else { transport.rtcp },
        direction,
        srtp: agreed.srtp.clone(),
        audio: AudioTerms {
            codec,
            payload_types: PayloadTypes { send: agreed.codec.payload_type, receive: agreed.receive },
            telephone_event: agreed.telephone_event,
            comfort_noise: remote.comfort_noise.filter(|_| codec.clock_hz() == 8_000),
            packet_length: match codec {
                Codec::Opus => Duration::from_millis(20),
                Codec::Pcmu | Codec::Pcma => remote.packet_length.unwrap_or(Duration::from_millis(20)),
            },
        },
    }
}

/// Telephone-event on the clock of the codec, as RFC 7587 wants it, or at 8000. `receive` is our payload type for a clock.
fn event_for(codec: Codec, theirs: &[(u32, u8)], receive: impl Fn(u32) -> Option<u8>) -> Option<TelephoneEvent> {
    [codec.clock_hz(), 8_000].into_iter().find_map(|clock_hz| {
        let (_, send) = theirs.iter().find(|(clock, _)| *clock == clock_hz)?;
        Some(TelephoneEvent { payload_types: PayloadTypes { send: *send, receive: receive(clock_hz)? }, clock_hz })
    })
}
