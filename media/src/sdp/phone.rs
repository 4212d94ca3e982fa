//! SDP of a SIP phone's audio: plain RTP, or SRTP with keys in the SDP (SDES, RFC 4568).
//!
//! [`PhoneDescription`] is what a phone says; [`PhoneSession`] is our half of one dialog's SDP: it writes offers, reads
//! answers and answers offers, and says what was agreed on.

mod crypto;
mod read;
mod session;
mod write;

use std::net::SocketAddr;
use std::time::Duration;

use thiserror::Error;

pub use crypto::{CryptoSuite, MasterKey, SdesKeys};
pub use session::{Encryption, PhoneAnswer, PhoneSession, PhoneSessionOptions};

use super::{Direction, RefusedMedia, SdpError};
use crate::audio_terms::{AudioTerms, Codec};
use crypto::Crypto;

/// A phone's offer or answer, parsed once. Unknown codecs, keys and attributes are skipped.
#[derive(Clone, PartialEq, Eq)]
pub struct PhoneDescription {
    /// Where its audio is received.
    pub transport: PhoneTransport,
    /// The codecs that we know, the one it prefers first. May be empty.
    pub formats: Vec<Format>,
    /// The clocks and payload types of its telephone-events.
    pub telephone_events: Vec<(u32, u8)>,
    /// Payload type of comfort noise at 8 kHz.
    pub comfort_noise: Option<u8>,
    /// How long the packets should be that it receives; None if it does not say.
    pub packet_length: Option<Duration>,
    /// Direction of the audio, as the phone sees it.
    pub direction: Direction,
    /// Media sections before the audio section, which an answer refuses.
    pub refused_before: Vec<RefusedMedia>,
    /// Media sections after the audio section, which an answer refuses.
    pub refused_behind: Vec<RefusedMedia>,
}

/// The transport part of a phone's description.
#[derive(Clone, PartialEq, Eq)]
pub struct PhoneTransport {
    /// The profile of its `m=` line.
    pub profile: RtpProfile,
    /// Where it receives RTP; None for the address 0.0.0.0 or ::, which holds the call (RFC 2543 §B.5).
    pub rtp: Option<SocketAddr>,
    /// Where it receives RTCP if it is not multiplexed: by `a=rtcp`, or one port above.
    pub rtcp: Option<SocketAddr>,
    /// RTCP is or may be multiplexed with RTP (RFC 5761).
    pub rtcp_mux: bool,
    /// Its keys that we can use.
    pub(crate) cryptos: Vec<Crypto>,
}

/// A codec with its payload type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Format {
    /// The codec.
    pub codec: Codec,
    /// Its payload type.
    pub payload_type: u8,
}

/// The RTP profile of a media section. The variants with feedback (RFC 4585) are treated alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RtpProfile {
    /// `RTP/AVP`, or `RTP/AVPF` with `feedback`: not encrypted.
    Avp {
        /// Whether the name ends in F.
        feedback: bool,
    },
    /// `RTP/SAVP`, or `RTP/SAVPF` with `feedback`: SRTP.
    Savp {
        /// Whether the name ends in F.
        feedback: bool,
    },
}

/// What both sides have agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PhoneTerms {
    /// Where our RTP goes; None while the phone holds the call by the address 0.0.0.0.
    pub remote: Option<SocketAddr>,
    /// Where our RTCP goes.
    pub remote_rtcp: Option<SocketAddr>,
    /// Direction of the audio, as we see it: `recvonly` and `inactive` mean that the phone holds the call.
    pub direction: Direction,
    /// Keys, if RTP is encrypted.
    pub srtp: Option<SdesKeys>,
    /// Codec and payload types.
    pub audio: AudioTerms,
}

/// Why a phone's SDP and ours do not go together. An offer is refused with [`NegotiationError::SIP_STATUS`], an answer
/// ends its call; what was agreed before stays agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NegotiationError {
    /// The answer has no codec that was offered.
    #[error("the phone answers with a codec that was not offered")]
    CodecNotOffered,
    /// The offer has no codec that this leg takes.
    #[error("the phone offers none of Opus, PCMU and PCMA that this leg takes")]
    NoCommonCodec,
    /// A later offer or answer without the codec in use.
    #[error("the phone wants another codec in the middle of a call")]
    CodecChanged,
    /// The phone must encrypt and does not.
    #[error("the phone does not encrypt its audio, and this leg requires SRTP (RTP/SAVP with a=crypto)")]
    NotEncrypted,
    /// The answer's profile is not that of the offer.
    #[error("the phone answers with another RTP profile than was offered")]
    ProfileChanged,
    /// No key of the phone can be used, or its answer names one that was not offered.
    #[error("the phone's SDP has no usable a=crypto line (AES_CM_128_HMAC_SHA1_80 or AES-GCM, without MKI)")]
    NoUsableKey,
    /// An answer without an offer of ours.
    #[error("no answer is expected")]
    UnexpectedAnswer,
    /// The system has no random numbers, or the keys have a wrong length.
    #[error("cryptography failed")]
    Crypto,
}

impl NegotiationError {
    /// Not Acceptable Here (RFC 3261 §21.4.26).
    pub const SIP_STATUS: u16 = 488;
}

impl PhoneDescription {
    /// Reads an offer or an answer. CRLF and LF line ends are accepted, and a missing last one.
    pub fn parse(text: &str) -> Result<Self, SdpError> {
        read::description(text)
    }

    /// Whether the phone holds the call, by its direction or by the address 0.0.0.0.
    pub fn is_hold(&self) -> bool {
        !self.direction.receives() || self.transport.rtp.is_none()
    }

    /// Whether it has no key that we can use.
    fn has_no_keys(&self) -> bool {
        self.transport.cryptos.is_empty()
    }
}

impl RtpProfile {
    /// What we offer without SRTP, and with OSRTP.
    const PLAIN: Self = Self::Avp { feedback: false };
    /// What we offer with SRTP.
    const ENCRYPTED: Self = Self::Savp { feedback: false };

    /// Whether the media must be encrypted. Media of the others is as well if both sides have keys (RFC 8643).
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Savp { .. })
    }

    /// As in an `m=` line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avp { feedback: false } => "RTP/AVP",
            Self::Avp { feedback: true } => "RTP/AVPF",
            Self::Savp { feedback: false } => "RTP/SAVP",
            Self::Savp { feedback: true } => "RTP/SAVPF",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [false, true]
            .into_iter()
            .flat_map(|feedback| [Self::Avp { feedback }, Self::Savp { feedback }])
            .find(|profile| profile.name().eq_ignore_ascii_case(name))
    }
}

/// Says nothing of keys and addresses, so that a description may stand in an error or a log.
impl std::fmt::Debug for PhoneDescription {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("PhoneDescription")
            .field("profile", &self.transport.profile)
            .field("rtcp_mux", &self.transport.rtcp_mux)
            .field("formats", &self.formats)
            .field("telephone_events", &self.telephone_events)
            .field("packet_length", &self.packet_length)
            .field("direction", &self.direction)
            .finish_non_exhaustive()
    }
}

/// Says nothing of keys and addresses.
impl std::fmt::Debug for PhoneTransport {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("PhoneTransport").field("profile", &self.profile).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
