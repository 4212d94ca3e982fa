//! Inbound: the remote's packets, bounded, in order, and split into audio and keys.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use super::RtpLegOptions;
use super::keys::KeyInput;
use crate::allowance::Allowance;
use crate::audio_terms::{AudioTerms, Codec};
use crate::dtmf::Key;
use crate::g711::Law;
use crate::opus::{FRAME, inspect};
use crate::reorder::{DEFAULT_WAIT, Reorder, ReorderStats, Slot};
use crate::rtp::RtpPacket;
use crate::timeline::duration_of;

/// What a packet without audio costs of the remote's allowance: 200 a second are more than anybody sends.
const OTHER_PACKET: Duration = Duration::from_millis(5);
/// Static (RFC 3551 §6): some phones send it without having negotiated it.
const COMFORT_NOISE: u8 = 13;
/// 48 kHz ticks in a sample of G.711.
const TICKS_PER_SAMPLE: u32 = 6;

/// What a leg receives, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Another sender starts, with another SSRC: later slots have nothing to do with earlier ones.
    Restarted,
    /// The next audio, or the next gap in it. G.711 is 16-bit little-endian PCM at 8 kHz already.
    Slot(Slot),
    /// The remote pauses, with comfort noise (RFC 3389) of this level below full scale.
    ComfortNoise {
        /// In -dBov, 0 to 127.
        level: u8,
    },
    /// A key was pressed and released.
    Key(Key),
}

pub(super) struct Inbound {
    audio: AudioTerms,
    /// Bounds what a remote that sends faster than real time costs us.
    allowance: Allowance,
    /// Packets beyond the allowance.
    excess: u64,
    reorder: Reorder,
    /// The sender of the audio.
    ssrc: Option<u32>,
    /// Another sender has just started.
    has_restarted: bool,
    comfort_noise: Option<u8>,
    keys: KeyInput,
}

impl Inbound {
    pub fn new(options: &RtpLegOptions, now: Instant) -> Self {
        Self {
            audio: options.audio,
            allowance: Allowance::new(now),
            excess: 0,
            reorder: Reorder::new(DEFAULT_WAIT),
            ssrc: None,
            has_restarted: false,
            comfort_noise: None,
            keys: KeyInput::new(&options.audio),
        }
    }

    /// Follows other payload types.
    pub fn follow_terms(&mut self, terms: &AudioTerms) {
        if self.audio.telephone_event != terms.telephone_event {
            self.keys = KeyInput::new(terms);
        }
        self.audio = *terms;
    }

    /// How long gaps may stay open.
    pub fn set_wait(&mut self, wait: Duration) {
        self.reorder.set_wait(wait);
    }

    pub fn push(&mut self, packet: RtpPacket, now: Instant) {
        match self.audio.codec {
            Codec::Opus if packet.payload_type == self.audio.payload_types.receive => self.push_opus(packet, now),
            Codec::Pcmu | Codec::Pcma => match self.law_of(packet.payload_type) {
                Some(law) => self.push_g711(law, &packet, now),
                None => self.push_other(&packet, now),
            },
            Codec::Opus => self.push_other(&packet, now),
        }
    }

    /// Both laws have static payload types (RFC 3551 §6), and some phones change between them.
    fn law_of(&self, payload_type: u8) -> Option<Law> {
        let law = |codec| match codec {
            Codec::Pcmu => Some(Law::Mu),
            Codec::Pcma => Some(Law::A),
            Codec::Opus => None,
        };
        match payload_type {
            number if number == self.audio.payload_types.receive => law(self.audio.codec),
            0 => Some(Law::Mu),
            8 => Some(Law::A),
            _ => None,
        }
    }

    fn push_opus(&mut self, packet: RtpPacket, now: Instant) {
        let length = inspect(&packet.payload).map_or(FRAME, |facts| duration_of(facts.duration));
        if self.is_allowed(length, now) {
            self.follow(packet.ssrc);
            self.reorder.push(packet.sequence, packet.timestamp, packet.payload, now);
        }
    }

    /// Timestamps of 8 kHz become 48 kHz ticks. Both wrap, and so does their product: differences stay right.
    fn push_g711(&mut self, law: Law, packet: &RtpPacket, now: Instant) {
        let ticks = TICKS_PER_SAMPLE * u32::try_from(packet.payload.len()).unwrap_or(0);
        if !self.is_allowed(duration_of(ticks).max(OTHER_PACKET), now) {
            return;
        }
        self.follow(packet.ssrc);
        if packet.payload.is_empty() {
            return self.reorder.skip(packet.sequence, now);
        }
        let timestamp = packet.timestamp.wrapping_mul(TICKS_PER_SAMPLE);
        self.reorder.push_lasting(packet.sequence, timestamp, pcm(law, &packet.payload), ticks, now);
    }

    fn push_other(&mut self, packet: &RtpPacket, now: Instant) {
        if !self.is_allowed(OTHER_PACKET, now) {
            return;
        }
        if self.ssrc == Some(packet.ssrc) {
            self.reorder.skip(packet.sequence, now);
        }
        let is_g711 = self.audio.codec != Codec::Opus;
        if self.audio.comfort_noise == Some(packet.payload_type) || (is_g711 && packet.payload_type == COMFORT_NOISE) {
            self.comfort_noise = packet.payload.first().map(|level| level & 0x7f);
        } else {
            self.keys.push(packet, now);
        }
    }

    fn is_allowed(&mut self, audio: Duration, now: Instant) -> bool {
        let is_allowed = self.allowance.spend(audio, now);
        self.excess += u64::from(!is_allowed);
        is_allowed
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.keys.handle_timeout(now);
    }

    /// When a gap is given up or a key without an end is over, even if nothing arrives.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.reorder.poll_timeout(), self.keys.poll_timeout()].into_iter().flatten().min()
    }

    pub fn poll(&mut self, now: Instant) -> Option<Received> {
        if let Some(key) = self.keys.poll() {
            return Some(Received::Key(key));
        }
        if std::mem::take(&mut self.has_restarted) {
            return Some(Received::Restarted);
        }
        // Whatever it follows on the line: it is about what comes after the last packet.
        let slot = self.reorder.poll(now).map(Received::Slot);
        slot.or_else(|| self.comfort_noise.take().map(|level| Received::ComfortNoise { level }))
    }

    pub fn has_gap(&self) -> bool {
        self.reorder.poll_timeout().is_some()
    }

    pub fn reorder_stats(&self) -> ReorderStats {
        self.reorder.stats()
    }

    pub fn excess(&self) -> u64 {
        self.excess
    }

    /// Another SSRC is another sender, with sequence numbers and timestamps of its own.
    fn follow(&mut self, ssrc: u32) {
        if self.ssrc.replace(ssrc).is_some_and(|before| before != ssrc) {
            self.reorder.reset();
            self.has_restarted = true;
        }
    }
}

fn pcm(law: Law, payload: &[u8]) -> Bytes {
    let mut pcm = BytesMut::with_capacity(2 * payload.len());
    payload.iter().for_each(|byte| pcm.put_i16_le(law.decode(*byte)));
    pcm.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::opus::SILENCE;
    use crate::rtp::RtpHeader;

    const OPUS: u8 = 111;
    const KEYS: u8 = 126;

    fn inbound(now: Instant) -> Inbound {
        let options = RtpLegOptions {
            ssrc: 1,
            first_sequence: 0,
            first_timestamp: 0,
            audio: AudioTerms::webrtc(OPUS, Some(KEYS)),
            silence_warn_after: Duration::from_secs(5),
            silence_end_after: Duration::from_secs(30),
        };
        Inbound::new(&options, now)
    }

    fn packet(payload_type: u8, ssrc: u32, sequence: u16, payload: &'static [u8]) -> RtpPacket {
        let header = RtpHeader { payload_type, marker: false, sequence, timestamp: u32::from(sequence) * 960, ssrc };
        header.with_payload(Bytes::from_static(payload))
    }

    fn drain(inbound: &mut Inbound, now: Instant) -> Vec<Received> {
        std::iter::from_fn(|| inbound.poll(now)).collect()
    }

    #[test]
    fn another_sender_is_announced_before_its_first_slot_and_the_old_gap_is_dropped() {
        let now = Instant::now();
        let mut inbound = inbound(now);
        inbound.push(packet(OPUS, 7, 1, &SILENCE), now);
        assert!(matches!(drain(&mut inbound, now)[..], [Received::Slot(Slot::Packet { timestamp: 960, .. })]));
        inbound.push(packet(OPUS, 7, 3, &SILENCE), now);
        assert!(inbound.has_gap() && drain(&mut inbound, now).is_empty());
        inbound.push(packet(OPUS, 8, 50, &SILENCE), now);
        assert!(matches!(drain(&mut inbound, now)[..], [Received::Restarted, Received::Slot(Slot::Packet { .. })]));
    }

    #[test]
    fn a_key_uses_up_a_sequence_number_only_under_the_ssrc_of_the_audio() {
        let now = Instant::now();
        // Key 5, end of the press, 100 ms.
        let end = &[5, 0x80 | 10, 0x03, 0x20];
        let mut inbound = inbound(now);
        inbound.push(packet(OPUS, 7, 1, &SILENCE), now);
        drain(&mut inbound, now);
        inbound.push(packet(KEYS, 7, 2, end), now);
        assert_eq!(drain(&mut inbound, now), [Received::Key(Key { digit: '5', duration_ms: 100 })]);
        inbound.push(packet(KEYS, 9, 3, end), now);
        assert_eq!(drain(&mut inbound, now), [Received::Key(Key { digit: '5', duration_ms: 100 })]);
        inbound.push(packet(OPUS, 7, 3, &SILENCE), now);
        assert!(matches!(drain(&mut inbound, now)[..], [Received::Slot(Slot::Quiet { .. }), Received::Slot(_)]));
        assert_eq!(inbound.reorder_stats().lost, 0);
    }

    #[test]
    fn packets_beyond_the_allowance_are_dropped_and_counted() {
        let now = Instant::now();
        let (mut inbound, mut heard) = (inbound(now), 0);
        for sequence in 0..1000 {
            inbound.push(packet(OPUS, 7, sequence, &SILENCE), now);
            heard += drain(&mut inbound, now).len() as u64;
        }
        assert_eq!(heard + inbound.excess(), 1000);
        assert!(inbound.excess() >= 800);
    }
}
