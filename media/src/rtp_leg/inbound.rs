//! Inbound: the remote's packets, bounded, in order, and split into audio and keys.

use std::time::{Duration, Instant};

use super::RtpLegOptions;
use super::keys::KeyInput;
use crate::allowance::Allowance;
use crate::dtmf::Key;
use crate::opus::{FRAME, inspect};
use crate::reorder::{DEFAULT_WAIT, Reorder, ReorderStats, Slot};
use crate::rtp::RtpPacket;
use crate::timeline::duration_of;

/// What a packet without audio costs of the remote's allowance: 200 a second are more than anybody sends.
const OTHER_PACKET: Duration = Duration::from_millis(5);

/// What a leg receives, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Another sender starts, with another SSRC: later slots have nothing to do with earlier ones.
    Restarted,
    /// The next audio, or the next gap in it.
    Slot(Slot),
    /// A key was pressed and released.
    Key(Key),
}

pub(super) struct Inbound {
    opus_payload_type: u8,
    /// Bounds what a remote that sends faster than real time costs us.
    allowance: Allowance,
    /// Packets beyond the allowance.
    excess: u64,
    reorder: Reorder,
    /// The sender of the audio.
    ssrc: Option<u32>,
    /// Another sender has just started.
    has_restarted: bool,
    keys: KeyInput,
}

impl Inbound {
    pub fn new(options: &RtpLegOptions, now: Instant) -> Self {
        Self {
            opus_payload_type: options.opus_payload_type,
            allowance: Allowance::new(now),
            excess: 0,
            reorder: Reorder::new(DEFAULT_WAIT),
            ssrc: None,
            has_restarted: false,
            keys: KeyInput::new(options.telephone_event_payload_type),
        }
    }

    pub fn set_payload_types(&mut self, opus: u8, telephone_event: Option<u8>) {
        self.opus_payload_type = opus;
        self.keys.set_payload_type(telephone_event);
    }

    pub fn push(&mut self, packet: RtpPacket, now: Instant) {
        let is_audio = packet.payload_type == self.opus_payload_type;
        let cost = match is_audio {
            true => inspect(&packet.payload).map_or(FRAME, |facts| duration_of(facts.duration)),
            false => OTHER_PACKET,
        };
        if !self.allowance.spend(cost, now) {
            self.excess += 1;
            return;
        }
        if is_audio {
            self.follow(packet.ssrc);
            self.reorder.push(packet.sequence, packet.timestamp, packet.payload, now);
            return;
        }
        if self.ssrc == Some(packet.ssrc) {
            self.reorder.skip(packet.sequence, now);
        }
        self.keys.push(&packet, now);
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
        self.reorder.poll(now).map(Received::Slot)
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

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
            opus_payload_type: OPUS,
            telephone_event_payload_type: Some(KEYS),
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
