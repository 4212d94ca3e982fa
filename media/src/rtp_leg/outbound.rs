//! Outbound: the one unbroken RTP line towards the remote.

use std::collections::VecDeque;
use std::time::Instant;

use super::keys::{KeyOutput, StampedKey};
use super::{RtpLegOptions, RtpTransport, SendDigitsError};
use crate::opus::inspect;
use crate::peer::Transmit;
use crate::rtp::RtpHeader;
use crate::timeline::{Stamp, TICKS_PER_FRAME, Timeline};

pub(super) struct Outbound {
    opus_payload_type: u8,
    timeline: Timeline,
    keys: KeyOutput,
    /// Encrypted packets. Bounded by the owner, who sends them after each tick.
    transmits: VecDeque<Transmit>,
}

impl Outbound {
    pub fn new(options: &RtpLegOptions) -> Self {
        Self {
            opus_payload_type: options.opus_payload_type,
            timeline: Timeline::new(options.ssrc, options.first_sequence, options.first_timestamp),
            keys: KeyOutput::new(options.telephone_event_payload_type),
            transmits: VecDeque::new(),
        }
    }

    pub fn set_payload_types(&mut self, opus: u8, telephone_event: Option<u8>) {
        self.opus_payload_type = opus;
        self.keys.set_payload_type(telephone_event);
    }

    pub fn push_digits(&mut self, digits: &str) -> Result<(), SendDigitsError> {
        self.keys.push(digits)
    }

    /// The key takes the place of the frame's audio and uses up its sequence number.
    pub fn send_key(&mut self, transport: &mut RtpTransport, now: Instant) -> Option<u32> {
        let StampedKey { packet, payload_type, timestamp_offset } = self.keys.next()?;
        let stamp = self.timeline.next(false);
        let pressed_at = stamp.timestamp.wrapping_sub(timestamp_offset);
        let header = header(payload_type, Stamp { timestamp: pressed_at, marker: packet.marker, ..stamp });
        self.transmits.extend(transport.send_rtp(header, &packet.payload, now));
        Some(stamp.timestamp)
    }

    pub fn send_frame(&mut self, transport: &mut RtpTransport, payload: &[u8], talking: bool, now: Instant) -> u32 {
        let stamp = self.timeline.next(talking);
        self.transmits.extend(transport.send_rtp(header(self.opus_payload_type, stamp), payload, now));
        stamp.timestamp
    }

    /// Sends an Opus packet of any length.
    pub fn send_packet(&mut self, transport: &mut RtpTransport, payload: &[u8], talking: bool, now: Instant) {
        let ticks = inspect(payload).map_or(TICKS_PER_FRAME, |facts| facts.duration);
        let stamp = self.timeline.next_lasting(ticks, talking);
        self.transmits.extend(transport.send_rtp(header(self.opus_payload_type, stamp), payload, now));
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
