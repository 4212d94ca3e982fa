//! Presses as packets, on networks that lose, copy and shuffle them.

use super::*;
use proptest::prelude::*;

#[test]
fn a_key_is_reported_once_at_its_end_though_the_end_arrives_three_times() {
    let mut wire = Wire::new(8);
    assert_eq!(wire.read(960, 5, false, 160), []);
    assert_eq!(wire.read(960, 5, false, 320), []);
    assert_eq!(wire.read(960, 5, true, 800), [key('5', 100)]);
    assert_eq!(wire.read(960, 5, true, 800), []);
    assert_eq!(wire.read(960, 5, true, 800), []);
    assert_eq!(wire.read(9600, 5, true, 800), [key('5', 100)]);
}

#[test]
fn a_key_whose_end_is_lost_is_given_when_the_next_one_comes() {
    let mut wire = Wire::new(8);
    assert_eq!(wire.read(960, 1, false, 480), []);
    assert_eq!(wire.read(9600, 2, false, 160), [key('1', 60)]);
    assert_eq!(wire.read(9600, 2, true, 800), [key('2', 100)]);
}

#[test]
fn one_packet_can_end_two_keys() {
    let mut wire = Wire::new(8);
    wire.read(960, 1, false, 480);
    assert_eq!(wire.read(9600, 2, true, 800), [key('1', 60), key('2', 100)]);
}

#[test]
fn a_key_whose_end_is_lost_and_that_nothing_follows_is_given_after_a_while() {
    let mut wire = Wire::new(8);
    wire.read(960, 1, false, 480);
    assert_eq!(wire.reader.poll_timeout(), Some(wire.now + OVER_AFTER));
    wire.now += OVER_AFTER - Duration::from_millis(1);
    assert_eq!(wire.reader.handle_timeout(wire.now), None);
    wire.now += Duration::from_millis(1);
    assert_eq!(wire.reader.handle_timeout(wire.now), Some(key('1', 60)));
    assert_eq!((wire.reader.handle_timeout(wire.now), wire.reader.poll_timeout()), (None, None));
    assert_eq!(wire.read(960, 1, true, 800), [], "its end was only late");
}

#[test]
fn a_long_press_is_one_key_in_several_segments() {
    for ticks_per_ms in [8, 48] {
        let mut wire = Wire::new(ticks_per_ms);
        let mut timestamp = 7u32;
        for _ in 0..3 {
            wire.read(timestamp, 9, false, 30_000);
            wire.read(timestamp, 9, false, u16::MAX);
            timestamp += 0xffff;
        }
        assert_eq!(wire.read(timestamp, 9, true, 800), [key('9', (3 * 0xffff + 800) / ticks_per_ms)]);
    }
}

#[test]
fn a_long_press_reported_too_early_is_not_reported_again() {
    let mut wire = Wire::new(48);
    wire.read(0, 9, false, 60_000);
    wire.now += OVER_AFTER;
    assert!(wire.reader.handle_timeout(wire.now).is_some());
    assert_eq!(wire.read(0xffff, 9, false, 9600), []);
    assert_eq!(wire.read(2 * 0xffff, 9, true, 9600), []);
    assert_eq!(wire.read(3 * 0xffff, 9, true, 9600), [key('9', 200)], "its end came: this is another");
}

#[test]
fn an_event_that_begins_before_the_last_press_of_its_key_has_ended_is_that_press() {
    let updates = |moves: u32| (0..5).map(move |index| (1000 + moves * index, false, 160 * (index as u16 + 1)));
    let ends = |from: u32, moves: u32| (0..3).map(move |index| (1000 + from + moves * index, true, 960));
    let presses: [Vec<(u32, bool, u16)>; 7] = [
        // Each copy of the end has a timestamp of its own.
        updates(0).chain(ends(0, 160)).collect(),
        // So has each packet, and the end comes at its place.
        updates(160).chain(ends(800, 160)).collect(),
        // The packets are pieces of the press.
        (0..5)
            .map(|index| (1000 + 160 * index, false, 160))
            .chain(ends(800, 0).map(|(at, end, _)| (at, end, 160)))
            .collect(),
        // Copies and updates in disorder.
        [
            (1160, false, 320),
            (1000, false, 160),
            (1480, false, 640),
            (1320, false, 480),
            (1800, true, 960),
            (1640, false, 800),
            (1960, true, 960),
        ]
        .to_vec(),
        // The same two with the timestamps of the sound, of which six make one of the event's.
        updates(0).chain(ends(0, 960)).collect(),
        updates(960).chain(ends(4800, 960)).collect(),
        // Nothing but copies of the end, the last one first.
        ends(0, 160).collect::<Vec<_>>().into_iter().rev().collect(),
    ];
    for (index, press) in presses.iter().enumerate() {
        let mut wire = Wire::new(8);
        let mut told = Vec::new();
        for (timestamp, end, duration) in press {
            told.extend(wire.read(*timestamp, 8, *end, *duration));
            wire.now += Duration::from_millis(20);
        }
        wire.now += OVER_AFTER;
        told.extend(wire.reader.handle_timeout(wire.now));
        assert_eq!(told.iter().map(|key| key.digit).collect::<String>(), "8", "{index}");
        assert!((100..=140).contains(&told[0].duration_ms), "{index}: {} ms", told[0].duration_ms);
        // Pressed again 60 ms after it was let go, or at once after its end.
        let begin = match index {
            0 | 2 => 1960,
            4 | 5 => 1000 + 6 * 1440,
            _ => 2440,
        };
        told.extend(wire.read(begin, 8, false, 160));
        told.extend(wire.read(begin, 8, true, 800));
        assert_eq!(told.len(), 2, "{index}: the same key again");
    }
}

#[test]
fn keys_that_overlap_are_two_keys() {
    let mut wire = Wire::new(8);
    assert_eq!(wire.read(1000, 5, false, 160), []);
    assert_eq!(wire.read(1160, 5, false, 320), []);
    assert_eq!(wire.read(1320, 6, false, 160), [key('5', 40)], "a second finger");
    assert_eq!(wire.read(1320, 5, false, 480), []);
    assert_eq!(wire.read(1480, 5, true, 640), []);
    assert_eq!(wire.read(1320, 6, true, 800), [key('6', 100)]);
    assert_eq!(wire.read(1640, 5, true, 640), [], "a copy of the end of 5, after 6");
    assert_eq!(wire.read(1480, 6, true, 800), []);
    assert_eq!(wire.read(2440, 5, true, 800), [key('5', 100)]);
}

#[test]
fn another_sender_tells_the_key_that_was_pressed_and_its_own() {
    let mut wire = Wire::new(8);
    assert_eq!(wire.read(50_000, 5, false, 480), []);
    assert_eq!(wire.reader.restart(), Some(key('5', 60)));
    assert_eq!(wire.reader.restart(), None);
    assert_eq!(wire.read(49_000, 5, true, 800), [key('5', 100)]);
}

#[test]
fn a_restarted_clock_is_followed() {
    let mut wire = Wire::new(8);
    wire.read(1_000_000, 1, true, 800);
    assert_eq!(wire.read(999_000, 1, true, 800), []);
    assert_eq!(wire.read(5_000, 1, true, 800), [key('1', 100)]);
}

#[test]
fn foreign_payloads_are_passed_over() {
    let mut reader = KeyReader::new(8);
    for payload in [&[][..], &[1, 2, 3], &[16, 0x8A, 0, 1], &[255, 255, 255, 255, 255]] {
        assert_eq!(reader.read(0, payload, Instant::now()), [None, None]);
    }
}

#[test]
fn a_key_is_sent_as_one_press_with_three_ends() {
    let mut sender = KeySender::new(8);
    sender.push("5").unwrap();
    let packets: Vec<_> = std::iter::from_fn(|| sender.next()).collect();
    let facts: Vec<(u8, bool, u16)> = packets
        .iter()
        .map(|packet| {
            let [event, flags, high, low] = packet.payload;
            assert_eq!((event, flags & 0x7f), (5, 10));
            (u8::from(packet.marker), flags & 0x80 != 0, u16::from_be_bytes([high, low]))
        })
        .collect();
    let expected = [
        (1, false, 160),
        (0, false, 320),
        (0, false, 480),
        (0, false, 640),
        (0, true, 800),
        (0, true, 800),
        (0, true, 800),
    ];
    assert_eq!(facts, expected);
    let offsets: Vec<u32> = packets.iter().map(|packet| packet.timestamp_offset_ticks).collect();
    assert_eq!(offsets, [0, 160, 320, 480, 640, 800, 960]);
    assert!(!sender.is_busy());
}

#[test]
fn sixty_milliseconds_lie_between_two_keys() {
    let mut sender = KeySender::new(48);
    sender.push("1*").unwrap();
    let begins: Vec<usize> = (0..40).filter_map(|frame| sender.next()?.marker.then_some(frame)).collect();
    assert_eq!(begins, [0, 8]);
}

#[test]
fn too_many_keys_and_no_keys_are_refused_whole() {
    let mut sender = KeySender::new(8);
    assert_eq!(sender.push("12x4"), Err(KeyError::NotAKey('x')));
    assert!(!sender.is_busy());
    sender.push(&"1".repeat(60)).unwrap();
    assert_eq!(sender.push("12345"), Err(KeyError::TooMany));
    sender.push("1234").unwrap();
    sender.next();
    sender.clear();
    assert_eq!(std::iter::from_fn(|| sender.next()).count(), 6, "the one that sounds is ended");
}

/// What the network does to one packet.
#[derive(Debug, Clone)]
struct Fate {
    copies: u8,
    delay_ms: u64,
}

fn fate() -> impl Strategy<Value = Fate> {
    (prop_oneof![4 => Just(0u8), 5 => Just(1), 1 => Just(2)], 0u64..60)
        .prop_map(|(copies, delay_ms)| Fate { copies, delay_ms })
}

proptest! {
    /// Our own sender against our own reader, over a network that loses nearly half and shuffles within 60 ms.
    #[test]
    fn every_key_of_which_a_packet_arrives_is_told_once_and_in_order(
        digits in "[0-9*#A-D]{1,20}",
        clock in prop_oneof![Just(8u32), Just(48)],
        first_timestamp: u32,
        fates in prop::collection::vec(fate(), 200),
    ) {
        let mut sender = KeySender::new(clock);
        sender.push(&digits).unwrap();
        let mut network = Vec::new();
        let mut arrived = vec![false; digits.len()];
        let (mut press, mut frame) = (0, 0u32);
        while sender.is_busy() {
            if let Some(packet) = sender.next() {
                press += usize::from(packet.marker);
                let at = first_timestamp
                    .wrapping_add(frame * 20 * clock)
                    .wrapping_sub(packet.timestamp_offset_ticks);
                let fate = &fates[frame as usize % fates.len()];
                for copy in 0..fate.copies {
                    arrived[press - 1] = true;
                    network.push((u64::from(frame) * 20 + fate.delay_ms + u64::from(copy) * 7, at, packet.payload));
                }
            }
            frame += 1;
        }
        network.sort_by_key(|(arrives_ms, ..)| *arrives_ms);
        let mut reader = KeyReader::new(clock);
        let begin = Instant::now();
        let mut told = String::new();
        let mut network = network.into_iter().peekable();
        for ms in 0..u64::from(frame) * 20 + 1000 {
            let now = begin + Duration::from_millis(ms);
            while let Some((_, timestamp, payload)) = network.next_if(|(arrives_ms, ..)| *arrives_ms == ms) {
                told.extend(reader.read(timestamp, &payload, now).into_iter().flatten().map(|key| key.digit));
            }
            told.extend(reader.handle_timeout(now).map(|key| key.digit));
        }
        let expected: String =
            digits.chars().zip(&arrived).filter(|(_, arrived)| **arrived).map(|(digit, _)| digit).collect();
        prop_assert_eq!(told, expected);
        prop_assert_eq!(reader.poll_timeout(), None);
    }

    #[test]
    fn any_packets_are_survived(
        packets in prop::collection::vec((any::<u32>(), prop::collection::vec(any::<u8>(), 0..6), 0u64..300), 0..100),
        clock in 0u32..50,
    ) {
        let mut reader = KeyReader::new(clock);
        let mut now = Instant::now();
        for (timestamp, payload, wait) in packets {
            now += Duration::from_millis(wait);
            reader.handle_timeout(now);
            reader.read(timestamp, &payload, now);
        }
    }
}

struct Wire {
    reader: KeyReader,
    now: Instant,
}

impl Wire {
    fn new(ticks_per_ms: u32) -> Self {
        Self { reader: KeyReader::new(ticks_per_ms), now: Instant::now() }
    }

    fn read(&mut self, timestamp: u32, event: u8, end: bool, duration: u16) -> Vec<Key> {
        let [high, low] = duration.to_be_bytes();
        let payload = [event, if end { 0x8A } else { 0x0A }, high, low];
        self.reader.read(timestamp, &payload, self.now).into_iter().flatten().collect()
    }
}

fn key(digit: char, duration_ms: u32) -> Key {
    Key { digit, duration_ms }
}
