//! The RTP line as the service sends it: one SSRC, no gap in sequence or time, a packet each 20 ms.

use std::time::{Duration, Instant};

use crate::objection::Objection;
use crate::phone::{OPUS, TELEPHONE_EVENT, TICKS_PER_FRAME};

/// Objections kept per call; a call that earns more is broken beyond doubt.
const MOST_OBJECTIONS: usize = 64;

/// The part of an RTP header that the line is judged by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpHead {
    /// Payload type, 0 to 127.
    pub payload_type: u8,
    /// Marker bit.
    pub marker: bool,
    /// Sequence number.
    pub sequence: u16,
    /// Timestamp in units of 1/48000 s.
    pub timestamp: u32,
    /// Synchronisation source.
    pub ssrc: u32,
}

impl RtpHead {
    /// Reads the clear-text header of an RTP or SRTP datagram; None for anything else (RFC 5761 and 7983).
    #[must_use]
    pub fn read(datagram: &[u8]) -> Option<Self> {
        let head = datagram.get(..12)?;
        // Version 2, and not one of RTCP's packet types 192 to 223.
        if !(128..192).contains(&head[0]) || (192..224).contains(&head[1]) {
            return None;
        }
        Some(Self {
            payload_type: head[1] & 0x7f,
            marker: head[1] & 0x80 != 0,
            sequence: u16::from_be_bytes([head[2], head[3]]),
            timestamp: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
            ssrc: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
        })
    }
}

/// Watches the packets of one call in the order in which the service sent them.
#[derive(Debug)]
pub(crate) struct LineWatch {
    late_after: Duration,
    first_ssrc: Option<u32>,
    last: Option<(RtpHead, Instant)>,
    /// The last packet of sound, and whether a telephone event came after it.
    last_sound: Option<(RtpHead, bool)>,
    early_noticed: bool,
    count: usize,
}

impl LineWatch {
    pub(crate) fn new(late_after: Duration) -> Self {
        Self { late_after, first_ssrc: None, last: None, last_sound: None, early_noticed: false, count: 0 }
    }

    /// Judges one packet. `accepted` says whether Meta has replied 200 to `accept`.
    pub(crate) fn watch(&mut self, head: RtpHead, accepted: bool, now: Instant) -> Vec<Objection> {
        let mut objections = Vec::new();
        if !accepted && !self.early_noticed {
            self.early_noticed = true;
            objections.push(Objection::RtpBeforeAccept);
        }
        if !matches!(head.payload_type, OPUS | TELEPHONE_EVENT) {
            objections.push(Objection::WrongPayloadType(head.payload_type));
        }
        let first = *self.first_ssrc.get_or_insert(head.ssrc);
        if first == head.ssrc {
            self.follow(head, now, &mut objections);
        } else {
            objections.push(Objection::SecondSsrc { first, second: head.ssrc });
        }
        objections.truncate(MOST_OBJECTIONS.saturating_sub(self.count));
        self.count += objections.len();
        objections
    }

    fn follow(&mut self, head: RtpHead, now: Instant, objections: &mut Vec<Objection>) {
        if let Some((last, at)) = self.last.replace((head, now)) {
            let expected = last.sequence.wrapping_add(1);
            if head.sequence != expected {
                objections.push(Objection::SequenceGap { expected, got: head.sequence });
            }
            let spacing = now.saturating_duration_since(at);
            if spacing > self.late_after {
                objections.push(Objection::LatePacket { spacing });
            }
        }
        if head.payload_type == TELEPHONE_EVENT {
            if let Some((_, event_since)) = &mut self.last_sound {
                *event_since = true;
            }
            return;
        }
        if let Some((last, event_since)) = self.last_sound.replace((head, false)) {
            let step = head.timestamp.wrapping_sub(last.timestamp);
            let packets = u32::from(head.sequence.wrapping_sub(last.sequence));
            // An event replaces packets of sound and repeats its own, so only whole frames are asked of it.
            if step % TICKS_PER_FRAME != 0 || step == 0 {
                objections.push(Objection::NotTwentyMs { step });
            } else if !event_since && step != packets.wrapping_mul(TICKS_PER_FRAME) {
                let expected = last.timestamp.wrapping_add(packets.wrapping_mul(TICKS_PER_FRAME));
                objections.push(Objection::TimestampGap { expected, got: head.timestamp });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unbroken_line_earns_no_objection_even_across_both_wraps() {
        assert_eq!(objections(&line(0xfff0, 0xffff_f000, 40)), []);
    }

    #[test]
    fn a_lost_packet_is_a_sequence_gap_only() {
        let mut packets = line(7, 0, 5);
        packets.remove(2);
        assert_eq!(objections(&packets), [Objection::SequenceGap { expected: 9, got: 10 }]);
    }

    #[test]
    fn a_pause_without_packets_is_a_timestamp_gap() {
        let mut packets = line(7, 0, 4);
        packets[3].timestamp += 960;
        assert_eq!(objections(&packets), [Objection::TimestampGap { expected: 2880, got: 3840 }]);
    }

    #[test]
    fn odd_steps_foreign_types_and_second_sources_are_named() {
        let mut packets = line(0, 0, 3);
        packets[1].timestamp -= 480;
        packets[2].timestamp -= 480;
        packets.push(RtpHead { payload_type: 8, ..packets[2] });
        packets.push(RtpHead { ssrc: 9, ..packets[2] });
        assert_eq!(
            objections(&packets),
            [
                Objection::NotTwentyMs { step: 480 },
                Objection::WrongPayloadType(8),
                Objection::SequenceGap { expected: 3, got: 2 },
                Objection::NotTwentyMs { step: 0 },
                Objection::SecondSsrc { first: 1, second: 9 },
            ]
        );
    }

    #[test]
    fn a_digit_in_the_line_is_no_gap() {
        let mut packets = line(0, 0, 2);
        let event = RtpHead { payload_type: TELEPHONE_EVENT, sequence: 2, timestamp: 1920, ..packets[0] };
        packets.push(event);
        packets.push(RtpHead { sequence: 3, ..event });
        packets.push(RtpHead { sequence: 4, timestamp: 3840, ..packets[0] });
        assert_eq!(objections(&packets), []);
    }

    #[test]
    fn early_and_late_packets_are_noticed() {
        let now = Instant::now();
        let mut watch = LineWatch::new(Duration::from_millis(100));
        let packets = line(0, 0, 3);
        assert_eq!(watch.watch(packets[0], false, now), [Objection::RtpBeforeAccept]);
        assert_eq!(watch.watch(packets[1], false, now), []);
        let spacing = Duration::from_millis(101);
        assert_eq!(watch.watch(packets[2], true, now + spacing), [Objection::LatePacket { spacing }]);
    }

    #[test]
    fn only_rtp_is_read() {
        assert_eq!(RtpHead::read(&[0x80, 111, 0]), None);
        assert_eq!(RtpHead::read(&[0x80, 200, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]), None);
        assert_eq!(RtpHead::read(&[22, 111, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]), None);
        let head = RtpHead::read(&[0x80, 0x80 | 111, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3]).unwrap();
        assert_eq!(head, RtpHead { payload_type: 111, marker: true, sequence: 1, timestamp: 2, ssrc: 3 });
    }

    fn line(sequence: u16, timestamp: u32, packets: u16) -> Vec<RtpHead> {
        (0..packets)
            .map(|index| RtpHead {
                payload_type: OPUS,
                marker: false,
                sequence: sequence.wrapping_add(index),
                timestamp: timestamp.wrapping_add(u32::from(index) * 960),
                ssrc: 1,
            })
            .collect()
    }

    fn objections(packets: &[RtpHead]) -> Vec<Objection> {
        let now = Instant::now();
        let mut watch = LineWatch::new(Duration::from_secs(1));
        packets.iter().flat_map(|head| watch.watch(*head, true, now)).collect()
    }
}
