//! Outbound: the one unbroken RTP line towards the remote.

use std::collections::VecDeque;
use std::time::Instant;

use super::keys::{KeyOutput, StampedKey};
use super::{RtpLegOptions, RtpTransport, SendDigitsError};
use crate::audio_terms::{AudioTerms, Codec};
use crate::opus::inspect;
use crate::peer::Transmit;
use crate::rtp::RtpHeader;
use crate::timeline::{Stamp, TICKS_PER_FRAME, Timeline};

pub(super) struct Outbound {
    codec: Codec,
    payload_type: u8,
    timeline: Timeline,
    keys: KeyOutput,
    /// Encrypted packets. Bounded by the owner, who sends them after each tick.
    transmits: VecDeque<Transmit>,
}

impl Outbound {
    pub fn new(options: &RtpLegOptions) -> Self {
        Self {
            codec: options.audio.codec,
            payload_type: options.audio.payload_types.send,
            timeline: Timeline::new(options.ssrc, options.first_sequence, options.first_timestamp),
            keys: KeyOutput::new(&options.audio),
            transmits: VecDeque::new(),
        }
    }

    pub fn push_digits(&mut self, digits: &str) -> Result<(), SendDigitsError> {
        self.keys.push(digits)
    }

    /// Follows other payload types.
    pub fn follow(&mut self, terms: &AudioTerms) {
        self.payload_type = terms.payload_types.send;
        self.keys.follow(terms);
    }

    /// Whether a key is being sent or waits.
    pub fn has_keys(&self) -> bool {
        self.keys.is_busy()
    }

    /// The key takes the place of the frame's audio and uses up its sequence number.
    pub fn send_key(&mut self, transport: &mut RtpTransport, now: Instant) -> Option<u32> {
        // Keys wait while the remote takes nothing.
        if !transport.can_send() {
            return None;
        }
        let StampedKey { packet, payload_type, timestamp_offset } = self.keys.next()?;
        let stamp = self.timeline.next_lasting(self.codec.clock_hz() / 50, false);
        let pressed_at = stamp.timestamp.wrapping_sub(timestamp_offset);
        let header = header(payload_type, Stamp { timestamp: pressed_at, marker: packet.marker, ..stamp });
        self.transmits.extend(transport.send_rtp(header, &packet.payload, now));
        Some(stamp.timestamp)
    }

    pub fn send_frame(&mut self, transport: &mut RtpTransport, payload: &[u8], talking: bool, now: Instant) -> u32 {
        let stamp = self.timeline.next(talking);
        self.transmits.extend(transport.send_rtp(header(self.payload_type, stamp), payload, now));
        stamp.timestamp
    }

    /// Sends a packet of any length. While the remote takes none, time goes on and no sequence number is used up.
    pub fn send_packet(&mut self, transport: &mut RtpTransport, payload: &[u8], talking: bool, now: Instant) {
        let ticks = match self.codec {
            Codec::Opus => inspect(payload).map_or(TICKS_PER_FRAME, |facts| facts.duration),
            // One byte a sample.
            Codec::Pcmu | Codec::Pcma => u32::try_from(payload.len()).unwrap_or(0),
        };
        if !transport.can_send() {
            return self.timeline.skip_ticks(ticks);
        }
        let stamp = self.timeline.next_lasting(ticks, talking);
        self.transmits.extend(transport.send_rtp(header(self.payload_type, stamp), payload, now));
    }

    pub fn skip(&mut self, frames: u32) {
        self.timeline.skip(frames);
    }

    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    pub fn clear(&mut self) {
        self.transmits.clear();
    }
}

fn header(payload_type: u8, stamp: Stamp) -> RtpHeader {
    RtpHeader {
        payload_type,
        marker: stamp.marker,
        sequence: stamp.sequence,
        timestamp: stamp.timestamp,
        ssrc: stamp.ssrc,
    }
}
