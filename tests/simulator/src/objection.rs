//! What a call did that Meta, or the phone's owner, would object to.

use std::fmt;
use std::time::Duration;

/// One thing that was wrong. A faultless call ends without any.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Objection {
    /// Media arrived before Meta replied 200 to `accept`: the client would count the call as answered.
    RtpBeforeAccept,
    /// A second SSRC: Meta's relay knows one source per call, another breaks the phone's audio.
    SecondSsrc {
        /// The SSRC of the first packet.
        first: u32,
        /// The one that came later.
        second: u32,
    },
    /// A sequence number is missing or came twice, as sent by the service (before the simulated network).
    SequenceGap {
        /// The number that was due.
        expected: u16,
        /// The number that came.
        got: u16,
    },
    /// The timestamp jumped by whole frames that no packet carried.
    TimestampGap {
        /// The timestamp that was due.
        expected: u32,
        /// The one that came.
        got: u32,
    },
    /// The timestamp step is no multiple of 960, or a packet does not hold 20 ms of Opus.
    NotTwentyMs {
        /// Timestamp units between two neighbouring packets, or samples at 48 kHz in one packet.
        step: u32,
    },
    /// A payload type that was not offered.
    WrongPayloadType(u8),
    /// A packet came later after its predecessor than the call's `late_after`.
    LatePacket {
        /// Time between the two packets.
        spacing: Duration,
    },
    /// The answer in `accept` is not byte for byte the one in `pre_accept`.
    AnswerChanged,
    /// The answer says `a=ice-lite`: two lite ends never check each other.
    AnswerWithIceLite,
    /// The answer is not `setup:active`.
    AnswerNotActive,
    /// The answer's direction does not fit the offer's.
    AnswerDirection,
    /// The answer lacks `a=rtcp-mux`.
    AnswerWithoutRtcpMux,
    /// The answer names more than one SSRC.
    AnswerWithSeveralSsrcs,
    /// The answer's lines do not all end in CRLF.
    AnswerLineEnds,
    /// Meta refused the answer; the text says why.
    AnswerRefused(String),
    /// `pre_accept` or `accept` for a call that has been answered before, or has ended.
    AcceptAfterEnd,
    /// `terminate` or `reject` for a call that has ended.
    TerminateAfterEnd,
    /// `pre_accept` or `accept` for a call that is accepted already.
    AcceptedTwice,
    /// `reject` for a call that has been answered: the documented way is `terminate`.
    RejectAfterAnswer,
    /// A request Meta refuses with error 100: a missing or unknown field; the text names it.
    BadRequest(String),
    /// The phone's WebRTC stack failed, for instance on a certificate that is not the announced one.
    Transport(String),
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RtpBeforeAccept => write!(f, "media arrived before Meta's 200 to accept"),
            Self::SecondSsrc { first, second } => write!(f, "a second SSRC: {second} after {first}"),
            Self::SequenceGap { expected, got } => write!(f, "sequence number {got} where {expected} was due"),
            Self::TimestampGap { expected, got } => write!(f, "timestamp {got} where {expected} was due"),
            Self::NotTwentyMs { step } => write!(f, "a step of {step} instead of 960, which is 20 ms"),
            Self::WrongPayloadType(number) => write!(f, "payload type {number} was not offered"),
            Self::LatePacket { spacing } => write!(f, "{} ms between two packets", spacing.as_millis()),
            Self::AnswerChanged => write!(f, "the answer of accept is not that of pre_accept"),
            Self::AnswerWithIceLite => write!(f, "the answer says a=ice-lite"),
            Self::AnswerNotActive => write!(f, "the answer is not setup:active"),
            Self::AnswerDirection => write!(f, "the answer does not mirror the direction of the offer"),
            Self::AnswerWithoutRtcpMux => write!(f, "the answer lacks a=rtcp-mux"),
            Self::AnswerWithSeveralSsrcs => write!(f, "the answer names more than one SSRC"),
            Self::AnswerLineEnds => write!(f, "a line of the answer does not end in CRLF"),
            Self::AnswerRefused(why) => write!(f, "Meta refused the answer: {why}"),
            Self::AcceptAfterEnd => write!(f, "pre_accept or accept for a call that is answered or over"),
            Self::TerminateAfterEnd => write!(f, "terminate or reject for a call that is over"),
            Self::AcceptedTwice => write!(f, "pre_accept or accept for a call that is accepted already"),
            Self::RejectAfterAnswer => write!(f, "reject for a call that has been answered"),
            Self::BadRequest(what) => write!(f, "Meta refused a request: {what}"),
            Self::Transport(what) => write!(f, "the phone's WebRTC failed: {what}"),
        }
    }
}
