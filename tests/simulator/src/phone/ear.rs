//! What a phone has heard: packets in the order of arrival, and the sound they play as.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::phone::{OPUS, TELEPHONE_EVENT, TICKS_PER_FRAME};
use crate::sound::PHONE_RATE;

/// Twenty minutes of packets; what comes later is counted and not kept.
const MOST_PACKETS: usize = 60_000;
/// A gap longer than this (1 s) is played as 1 s, so that a wild timestamp does not fill the memory.
const LONGEST_GAP_FRAMES: i64 = 50;
/// Samples of one frame at [`PHONE_RATE`].
const FRAME_SAMPLES: usize = 320;

/// One RTP packet as it reached the phone, after the simulated network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardPacket {
    /// When it arrived.
    pub at: Instant,
    /// Payload type: 111 Opus, 126 telephone-event.
    pub payload_type: u8,
    /// RTP sequence number.
    pub seq: u16,
    /// RTP timestamp, 48 kHz.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
    /// RTP marker bit.
    pub marker: bool,
    /// Length of the payload in bytes.
    pub len: usize,
    /// The decrypted payload.
    pub payload: Arc<[u8]>,
}

/// Everything one phone has heard since accept.
#[derive(Debug, Default)]
pub(crate) struct Ear {
    packets: Vec<HeardPacket>,
    total: u64,
}

impl Ear {
    pub(crate) fn hear(&mut self, packet: HeardPacket) {
        self.total += 1;
        if self.packets.len() < MOST_PACKETS {
            self.packets.push(packet);
        }
    }

    pub(crate) fn packets(&self) -> &[HeardPacket] {
        &self.packets
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }
}

/// Plays packets in the order of their timestamps: lost ones from the next packet's in-band FEC or
/// concealed, doubled ones once. 16 kHz mono PCM.
///
/// # Errors
/// When libopus refuses to start; a broken packet is concealed instead.
pub fn play(packets: &[HeardPacket]) -> anyhow::Result<Vec<i16>> {
    let Some(first) = packets.iter().find(|packet| packet.payload_type == OPUS) else { return Ok(Vec::new()) };
    let mut ordered: BTreeMap<i64, &HeardPacket> = BTreeMap::new();
    for packet in packets.iter().filter(|packet| packet.payload_type == OPUS) {
        let ticks = i64::from(packet.timestamp.wrapping_sub(first.timestamp).cast_signed());
        ordered.entry(ticks.div_euclid(i64::from(TICKS_PER_FRAME))).or_insert(packet);
    }
    let mut decoder = opus::Decoder::new(PHONE_RATE, opus::Channels::Mono)?;
    let mut pcm = Vec::with_capacity(ordered.len() * FRAME_SAMPLES);
    let mut last = None;
    for (slot, packet) in ordered {
        let missing = last.map_or(0, |last: i64| (slot - last - 1).min(LONGEST_GAP_FRAMES));
        for index in 0..missing {
            // The frame right before a packet may lie in that packet as forward error correction.
            let is_neighbour = index == missing - 1;
            decode(&mut decoder, if is_neighbour { &packet.payload } else { &[] }, is_neighbour, &mut pcm);
        }
        decode(&mut decoder, &packet.payload, false, &mut pcm);
        last = Some(slot);
    }
    Ok(pcm)
}

fn decode(decoder: &mut opus::Decoder, payload: &[u8], from_next: bool, pcm: &mut Vec<i16>) {
    let mut frame = [0_i16; FRAME_SAMPLES * 6];
    let room = if from_next || payload.is_empty() { &mut frame[..FRAME_SAMPLES] } else { &mut frame[..] };
    match decoder.decode(payload, room, from_next) {
        Ok(samples) => pcm.extend_from_slice(&frame[..samples]),
        Err(_) => pcm.extend_from_slice(&[0; FRAME_SAMPLES]),
    }
}

/// The digits among the packets, each once however often its packets came (RFC 4733, by timestamp).
#[must_use]
pub fn digits(packets: &[HeardPacket]) -> String {
    let mut seen = Vec::new();
    let mut digits = String::new();
    for packet in packets.iter().filter(|packet| packet.payload_type == TELEPHONE_EVENT) {
        let Some(event) = packet.payload.first() else { continue };
        if !seen.contains(&(packet.timestamp, *event)) {
            seen.push((packet.timestamp, *event));
            digits.push("0123456789*#ABCD".chars().nth(usize::from(*event)).unwrap_or('?'));
        }
    }
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sound::{self, tone};
    use crate::speech::Speech;

    #[test]
    fn disorder_doubles_and_one_loss_still_play_in_full_length() {
        let speech = Speech::pcm(&tone(440.0, PHONE_RATE, 1000)).unwrap();
        let mut packets: Vec<HeardPacket> = (0..50).map(|index| heard(index, speech.frame(index as usize))).collect();
        packets.swap(10, 12);
        packets.insert(20, packets[19].clone());
        packets.remove(30);
        let pcm = play(&packets).unwrap();
        assert_eq!(pcm.len(), 50 * FRAME_SAMPLES);
        assert!(sound::hears(&pcm, PHONE_RATE, 440.0));
    }

    #[test]
    fn a_wild_timestamp_does_not_fill_the_memory() {
        let speech = Speech::silence();
        let packets = [heard(0, speech.frame(0)), heard(1_000_000, speech.frame(1))];
        assert_eq!(play(&packets).unwrap().len(), 52 * FRAME_SAMPLES);
    }

    #[test]
    fn a_digit_counts_once() {
        let event = |seq, timestamp, code| HeardPacket {
            payload_type: TELEPHONE_EVENT,
            timestamp,
            ..heard(seq, Arc::from([code, 0x8a, 0, 160]))
        };
        assert_eq!(digits(&[event(0, 1, 5), event(1, 1, 5), event(2, 960, 5), event(3, 2000, 11)]), "55#");
    }

    fn heard(index: u32, payload: Arc<[u8]>) -> HeardPacket {
        HeardPacket {
            at: Instant::now(),
            payload_type: OPUS,
            seq: index as u16,
            timestamp: index.wrapping_mul(960),
            ssrc: 1,
            marker: false,
            len: payload.len(),
            payload,
        }
    }
}
