//! DTMF keys of a leg, in both directions.

use std::collections::VecDeque;
use std::time::Instant;

use thiserror::Error;

use crate::audio_terms::AudioTerms;
use crate::dtmf::{Key, KeyError, KeyPacket, KeyReader, KeySender};
use crate::rtp::RtpPacket;

/// Of a leg without keys, whatever it is: `telephone-event/8000`.
const DEFAULT_CLOCK_HZ: u32 = 8_000;

/// Why keys cannot be sent to the remote.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SendDigitsError {
    /// The remote's SDP has no telephone-event.
    #[error("the caller's phone takes no keys")]
    NotNegotiated,
    /// Not keys, or too many at once.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

/// Keys that the remote presses.
pub(super) struct KeyInput {
    payload_type: Option<u8>,
    /// The sender of the keys: a gateway may send them under another SSRC than the audio.
    ssrc: Option<u32>,
    reader: KeyReader,
    /// Bounded by the owner, who polls after each packet.
    keys: VecDeque<Key>,
}

impl KeyInput {
    pub fn new(terms: &AudioTerms) -> Self {
        let reader = KeyReader::new(clock_hz(terms) / 1000);
        let payload_type = terms.telephone_event.map(|event| event.payload_types.receive);
        Self { payload_type, ssrc: None, reader, keys: VecDeque::new() }
    }

    /// Takes a packet that is not audio. Another sender's timestamps are not comparable, so its keys start afresh.
    pub fn push(&mut self, packet: &RtpPacket, now: Instant) {
        if Some(packet.payload_type) != self.payload_type {
            return;
        }
        let is_another = self.ssrc.replace(packet.ssrc).is_some_and(|before| before != packet.ssrc);
        let before = if is_another { self.reader.restart() } else { None };
        let over = self.reader.read(packet.timestamp, &packet.payload, now);
        self.keys.extend(before.into_iter().chain(over.into_iter().flatten()));
    }

    /// Ends a key whose end was lost.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.keys.extend(self.reader.handle_timeout(now));
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        self.reader.poll_timeout()
    }

    pub fn poll(&mut self) -> Option<Key> {
        self.keys.pop_front()
    }
}

/// Keys for the remote.
pub(super) struct KeyOutput {
    payload_type: Option<u8>,
    sender: KeySender,
    clock_hz: u32,
    /// Of the audio's timestamps.
    line_hz: u32,
}

/// A key packet and how to stamp it.
pub(super) struct StampedKey {
    pub packet: KeyPacket,
    pub payload_type: u8,
    /// How far the start of the press lies behind the frame, in RTP ticks. All packets of one press have the timestamp of
    /// its start (RFC 4733 §2.2).
    pub timestamp_offset: u32,
}

impl KeyOutput {
    pub fn new(terms: &AudioTerms) -> Self {
        let clock_hz = clock_hz(terms);
        Self {
            payload_type: terms.telephone_event.map(|event| event.payload_types.send),
            sender: KeySender::new(clock_hz / 1000),
            clock_hz,
            line_hz: terms.codec.clock_hz(),
        }
    }

    /// Follows another payload type. Another clock takes effect in a new leg only.
    pub fn follow(&mut self, terms: &AudioTerms) {
        self.payload_type = terms.telephone_event.map(|event| event.payload_types.send);
    }

    /// Whether a key is being sent or waits.
    pub fn is_busy(&self) -> bool {
        self.sender.is_busy()
    }

    pub fn push(&mut self, digits: &str) -> Result<(), SendDigitsError> {
        if self.payload_type.is_none() {
            return Err(SendDigitsError::NotNegotiated);
        }
        Ok(self.sender.push(digits)?)
    }

    /// The key packet of this frame, if any. To be called once for every frame.
    pub fn next(&mut self) -> Option<StampedKey> {
        let packet = self.sender.next()?;
        let timestamp_offset = packet.timestamp_offset_ticks * (self.line_hz / 1000) / (self.clock_hz / 1000);
        Some(StampedKey { packet, payload_type: self.payload_type?, timestamp_offset })
    }
}

fn clock_hz(terms: &AudioTerms) -> u32 {
    terms.telephone_event.map_or(DEFAULT_CLOCK_HZ, |event| event.clock_hz)
}
