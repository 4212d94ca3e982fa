//! SDP of an audio call: offers and answers read, ours written.
//!
//! Only what a WhatsApp call, a browser's microphone or a SIP phone needs is read; everything else is skipped. Errors
//! name the fault and the line, and never quote the text: an SDP contains passwords and addresses.
//!
//! No crate because a malformed line must not fail a call whose audio does not need it, and no error may quote the text.

mod candidate;
mod fragment;
pub mod phone;
mod read;
mod write;

use std::net::SocketAddr;
use std::ops::Deref;

use thiserror::Error;

pub use candidate::Candidate;
pub use fragment::Fragment;
pub(crate) use fragment::write_fragment;
pub(crate) use write::{CNAME, LocalDescription, write_answer, write_offer};
pub use write::{OFFERED_OPUS, OFFERED_TELEPHONE_EVENT};

/// A remote offer, parsed once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer(Description);

/// A remote answer to our offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer(Description);

/// The remote's description of its audio stream.
#[derive(Clone, PartialEq, Eq)]
pub struct Description {
    /// Name of the media section; `audio` from Meta, `0` from browsers.
    pub mid: Option<String>,
    /// Whether `a=group:BUNDLE` names the section, so that the answer must do so too.
    pub bundle: bool,
    /// DTLS role.
    pub setup: Setup,
    /// The remote only answers connectivity checks, so we control.
    pub ice_lite: bool,
    /// ICE user name of the remote.
    pub ufrag: String,
    /// ICE password of the remote.
    pub pwd: String,
    /// Fingerprints of the remote's certificate: at least one, of which any may match (RFC 8122 §5).
    pub fingerprints: Vec<Fingerprint>,
    /// UDP addresses of the remote: the 20 of highest priority, highest first.
    pub candidates: Vec<Candidate>,
    /// Direction of the audio, as the remote sees it.
    pub direction: Direction,
    /// Opus and its parameters.
    pub opus: OpusFormat,
    /// Payload type of DTMF digits (telephone-event at 8000 Hz), if offered.
    pub telephone_event: Option<u8>,
    /// Media sections before the audio section, which an answer refuses.
    pub refused_before: Vec<RefusedMedia>,
    /// Media sections after the audio section, which an answer refuses.
    pub refused_behind: Vec<RefusedMedia>,
}

/// A media section that is not used: video, data, or more audio. An answer repeats it with port 0 (RFC 3264 §6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedMedia {
    /// Such as `video`.
    pub kind: String,
    /// Such as `UDP/TLS/RTP/SAVPF`.
    pub protocol: String,
    /// The first format, because an `m=` line needs one.
    pub format: String,
    /// Name of the section, if it has one.
    pub mid: Option<String>,
}

/// Direction of a section's audio, as its writer sees it (RFC 8866 §6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Both ways; the default.
    SendRecv,
    /// The writer only sends.
    SendOnly,
    /// The writer only receives.
    RecvOnly,
    /// Neither way.
    Inactive,
}

impl Direction {
    /// The direction that an attribute of this name gives; None if it is another attribute.
    fn of_attribute(name: &str) -> Option<Self> {
        match name {
            "sendrecv" => Some(Self::SendRecv),
            "sendonly" => Some(Self::SendOnly),
            "recvonly" => Some(Self::RecvOnly),
            "inactive" => Some(Self::Inactive),
            _ => None,
        }
    }
}

/// A line's type and value; None without `=`. Blanks around it are tolerated.
fn split_line(line: &str) -> Option<(&str, &str)> {
    line.split_once('=').map(|(kind, value)| (kind.trim_end(), value.trim_start()))
}

/// An attribute's name in lower case, and its value, which may be empty.
fn split_attribute(attribute: &str) -> (String, &str) {
    let (name, value) = attribute.split_once(':').unwrap_or((attribute, ""));
    (name.trim_end().to_ascii_lowercase(), value.trim_start())
}

/// Opus as negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpusFormat {
    /// Payload type, 111 by custom.
    pub payload_type: u8,
    /// Format parameters as written (`a=fmtp`), if any.
    pub fmtp: Option<String>,
}

/// DTLS role (RFC 8842).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// The other side chooses. Only in offers.
    Actpass,
    /// The writer is DTLS client.
    Active,
    /// The writer is DTLS server.
    Passive,
}

/// SHA-256 of a certificate.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// Why an SDP cannot be used for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SdpError {
    /// The text is longer than 64 KiB.
    #[error("the SDP is longer than 64 KiB")]
    TooLong,
    /// More than a thousand lines.
    #[error("the SDP has more than 1000 lines")]
    TooManyLines,
    /// The text contains a null or another control character.
    #[error("line {line} of the SDP holds a control character")]
    ControlCharacter {
        /// Counted from 1.
        line: usize,
    },
    /// A required line cannot be read.
    #[error("line {line} of the SDP is malformed")]
    Malformed {
        /// Counted from 1.
        line: usize,
    },
    /// `m=audio` is missing.
    #[error("the SDP has no audio (no m=audio line)")]
    NoAudio,
    /// The audio line has port 0.
    #[error("the SDP refuses audio (m=audio has port 0)")]
    AudioRefused,
    /// More than 16 media sections.
    #[error("the SDP has more than 16 media sections")]
    TooManyMedia,
    /// Opus at 48 kHz is missing among the codecs.
    #[error("the SDP does not offer Opus (opus/48000/2)")]
    NoOpus,
    /// Keys in the SDP instead of DTLS.
    #[error("the SDP carries SDES keys (a=crypto) instead of DTLS; set the number to DTLS key exchange")]
    Sdes,
    /// The certificate fingerprint is missing.
    #[error("the SDP has no certificate fingerprint (a=fingerprint)")]
    NoFingerprint,
    /// None of the fingerprints is SHA-256.
    #[error("the SDP has no certificate fingerprint by sha-256")]
    FingerprintNotSha256,
    /// `a=ice-ufrag` or `a=ice-pwd` is missing.
    #[error("the SDP has no ICE user name or password (a=ice-ufrag, a=ice-pwd)")]
    NoIceCredentials,
    /// An answer that leaves the DTLS role open, or a role that does not exist.
    #[error("the SDP does not settle who opens DTLS (a=setup)")]
    NoSetup,
    /// A SIP phone's audio section is neither plain RTP nor SRTP with keys in the SDP.
    #[error("the audio of the SDP is neither RTP/AVP nor RTP/SAVP")]
    NotPlainRtp,
    /// A SIP phone's audio has no address, or a name in its place.
    #[error("the SDP has no IP address for its audio (c=)")]
    NoAddress,
    /// SRTP without usable keys.
    #[error("the SDP has no usable a=crypto line (AES_CM_128_HMAC_SHA1_80 or AES-GCM, without MKI)")]
    NoKeys,
}

impl Offer {
    /// Reads an offer. CRLF and LF line ends are accepted, and a missing last one.
    pub fn parse(text: &str) -> Result<Offer, SdpError> {
        Ok(Offer(read::description(text, Some(Setup::Actpass))?))
    }
}

impl Answer {
    /// Reads an answer to an offer of ours.
    pub fn parse(text: &str) -> Result<Answer, SdpError> {
        let description = read::description(text, None)?;
        match description.setup {
            Setup::Actpass => Err(SdpError::NoSetup),
            Setup::Active | Setup::Passive => Ok(Answer(description)),
        }
    }
}

/// An offer is read like what it describes.
impl Deref for Offer {
    type Target = Description;

    fn deref(&self) -> &Description {
        &self.0
    }
}

/// An answer is read like what it describes.
impl Deref for Answer {
    type Target = Description;

    fn deref(&self) -> &Description {
        &self.0
    }
}

impl Direction {
    /// The direction of an answer to it (RFC 3264 §6.1).
    pub fn answered(self) -> Self {
        match self {
            Self::SendRecv => Self::SendRecv,
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            Self::Inactive => Self::Inactive,
        }
    }

    /// Whether its writer receives audio.
    pub fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// Whether its writer sends audio.
    pub fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// The attribute's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }
}

impl Description {
    /// Where the remote says it can be reached: at most 20 UDP addresses, the one of the highest priority first.
    pub fn remote_candidates(&self) -> Vec<SocketAddr> {
        self.candidates.iter().map(|candidate| candidate.address).collect()
    }
}

/// Says nothing of credentials and addresses, so that a description may stand in an error or a log.
impl std::fmt::Debug for Description {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Description")
            .field("mid", &self.mid)
            .field("setup", &self.setup)
            .field("ice_lite", &self.ice_lite)
            .field("candidates", &self.candidates.len())
            .field("direction", &self.direction)
            .field("opus", &self.opus)
            .field("telephone_event", &self.telephone_event)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            let colon = if index == 0 { "" } else { ":" };
            write!(formatter, "{colon}{byte:02X}")?;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Fingerprint({self})")
    }
}
