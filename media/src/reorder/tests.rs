//! Scripts of packets and the slots that come of them.

use super::*;
use crate::opus::SILENCE;
use proptest::prelude::*;

/// A 20 ms SILK packet that carries a copy of the frame before it.
const WITH_FEC: [u8; 3] = [0x48, 0xc0, 1];

#[test]
fn packets_in_order_leave_at_once() {
    let mut line = TestLine::new();
    for index in 0..1000 {
        line.push(index);
        assert_eq!(line.polled(), [packet(index)]);
        assert_eq!(line.reorder.poll_timeout(), None);
    }
}

#[test]
fn two_swapped_packets_leave_in_order() {
    let mut line = TestLine::started();
    line.push(2);
    assert_eq!(line.polled(), []);
    line.push(1);
    assert_eq!(line.polled(), [packet(1), packet(2)]);
    assert_eq!(line.reorder.poll_timeout(), None);
    assert_eq!(line.reorder.stats(), ReorderStats::default());
}

#[test]
fn a_gap_is_named_when_its_time_is_over() {
    let mut line = TestLine::started();
    line.push(2);
    line.after(59);
    line.push(3);
    assert_eq!(line.polled(), []);
    assert_eq!(line.reorder.poll_timeout(), Some(line.now + Duration::from_millis(1)));
    line.after(1);
    assert_eq!(line.polled(), [lost(1, 1), packet(2), packet(3)]);
    assert_eq!(line.reorder.stats().lost, 1);
}

#[test]
fn each_gap_has_its_own_time() {
    let mut line = TestLine::started();
    line.push(2);
    line.after(20);
    line.push(4);
    line.after(40);
    assert_eq!(line.polled(), [lost(1, 1), packet(2)]);
    assert_eq!(line.reorder.poll_timeout(), Some(line.now + Duration::from_millis(20)));
    line.after(20);
    assert_eq!(line.polled(), [lost(3, 1), packet(4)]);
}

#[test]
fn a_packet_that_comes_after_its_loss_was_named_is_dropped() {
    let mut line = TestLine::started();
    line.push(2);
    line.after(60);
    assert_eq!(line.polled(), [lost(1, 1), packet(2)]);
    line.push(1);
    assert_eq!(line.polled(), []);
    assert_eq!(line.reorder.stats().late, 1);
}

#[test]
fn copies_are_dropped() {
    let mut line = TestLine::started();
    line.push(0);
    line.push(2);
    line.push(2);
    assert_eq!(line.polled(), []);
    let stats = line.reorder.stats();
    assert_eq!((stats.late, stats.duplicate), (1, 1));
}

#[test]
fn a_pause_of_the_sender_is_quiet_not_loss() {
    let mut line = TestLine::started();
    line.push_at(1, 21);
    assert_eq!(line.polled(), [quiet(1, 20), packet(21)]);
}

#[test]
fn loss_at_the_edge_of_a_pause_stands_where_the_next_packet_says() {
    for (payload, expected) in [
        (&SILENCE[..], [lost_before_pause(1), quiet(2, 9)]),
        (&WITH_FEC[..], [quiet(1, 9), lost_before(10, 1, &WITH_FEC)]),
    ] {
        let mut line = TestLine::started();
        let payload = Bytes::from_static(payload);
        line.reorder.push(102, 11 * 960, payload.clone(), line.now);
        line.after(60);
        let after = Slot::Packet { timestamp: 11 * 960, payload };
        let [first, second] = expected;
        assert_eq!(line.polled(), [first, second, after]);
    }
}

#[test]
fn a_telephone_event_uses_numbers_but_makes_no_sound() {
    let mut line = TestLine::started();
    line.reorder.skip(101, line.now);
    line.reorder.skip(102, line.now);
    assert_eq!(line.polled(), []);
    line.push_at(3, 1);
    assert_eq!(line.polled(), [packet(1)]);
    line.push_at(5, 3);
    line.reorder.skip(104, line.now);
    assert_eq!(line.polled(), [quiet(2, 1), packet(3)]);
}

#[test]
fn a_lost_telephone_event_is_no_lost_sound() {
    let mut line = TestLine::started();
    line.push_at(3, 1);
    line.after(60);
    assert_eq!(line.polled(), [packet(1)]);
}

#[test]
fn broken_packets_use_up_their_number_and_keep_alives_too() {
    let mut line = TestLine::started();
    let now = line.now;
    line.reorder.push(101, 960, Bytes::from_static(&[0x4b, 0]), now);
    line.reorder.push(102, 960, Bytes::new(), now);
    line.push_at(3, 2);
    assert_eq!(line.polled(), [quiet(1, 1), packet(2)]);
    assert_eq!(line.reorder.stats().broken, 1);
}

#[test]
fn a_full_window_gives_up_the_oldest_gap_at_once() {
    let mut line = TestLine::started();
    for index in 2..=64 {
        line.push(index);
        assert_eq!(line.polled(), []);
    }
    line.push(65);
    assert!(line.reorder.poll_timeout().is_some_and(|at| at <= line.now));
    let slots = line.polled();
    assert_eq!(slots[0], lost(1, 1));
    assert_eq!(slots[1..], (2..=65).map(packet).collect::<Vec<_>>());
}

#[test]
fn a_restarted_sender_is_followed_from_its_second_packet_on() {
    for jump in [102i64, 30_000, -200] {
        for (first, second) in [(0, 1), (1, 0)] {
            let mut line = TestLine::started();
            line.push(2);
            line.push_at(jump + first, 5_000 + first);
            assert_eq!(line.polled(), [], "{jump}");
            line.after(20);
            line.push_at(jump + second, 5_000 + second);
            assert_eq!(line.polled(), [packet(5_000), packet(5_001)], "{jump}");
            line.push_at(jump + 2, 5_002);
            assert_eq!(line.polled(), [packet(5_002)], "{jump}");
            let stats = line.reorder.stats();
            assert_eq!((stats.resynced, stats.discarded, stats.stray), (1, 1, 0), "{jump}");
        }
    }
}

#[test]
fn there_are_places_only_while_something_waits_behind_a_gap() {
    let mut line = TestLine::started();
    line.push(1);
    line.push(0);
    line.polled();
    assert!(line.reorder.places.is_none(), "in order, and late");
    line.push(3);
    line.polled();
    assert!(line.reorder.places.is_some());
    line.push(2);
    assert_eq!(line.polled(), [packet(2), packet(3)]);
    assert!(line.reorder.places.is_none());
}

#[test]
fn strays_do_not_move_the_line() {
    let mut line = TestLine::started();
    for index in 1..20 {
        line.push_at(1000 + 5 * index, 1000);
        line.push_at(-20_000, 7);
        assert_eq!(line.polled(), []);
        line.push(index);
        assert_eq!(line.polled(), [packet(index)]);
    }
    let stats = line.reorder.stats();
    assert_eq!((stats.resynced, stats.discarded, stats.stray), (0, 0, 38));
}

#[test]
fn one_stray_and_its_copy_are_no_line() {
    let mut line = TestLine::started();
    line.push_at(5_000, 5_000);
    line.push_at(5_000, 5_000);
    assert_eq!(line.polled(), []);
    line.push(1);
    assert_eq!(line.polled(), [packet(1)]);
}

#[test]
fn a_jump_of_the_clock_is_followed_without_filling_it() {
    for jump in [60, -60] {
        let mut line = TestLine::started();
        line.push_at(1, jump);
        line.push_at(2, jump + 1);
        assert_eq!(line.polled(), [packet(jump), packet(jump + 1)]);
        assert_eq!(line.reorder.stats().resynced, 1);
    }
}

#[test]
fn numbers_and_clock_wrap_around() {
    let mut reorder = Reorder::new(DEFAULT_WAIT);
    let now = Instant::now();
    let silence = Bytes::from_static(&SILENCE);
    let begin = 0u32.wrapping_sub(2 * 960);
    for index in [0u16, 1, 3, 2, 4] {
        let timestamp = begin.wrapping_add(u32::from(index) * 960);
        reorder.push(65_534u16.wrapping_add(index), timestamp, silence.clone(), now);
    }
    let timestamps: Vec<u32> = std::iter::from_fn(|| reorder.poll(now)).map(|slot| timestamp_of(&slot)).collect();
    assert_eq!(timestamps, [begin, begin.wrapping_add(960), 0, 960, 1920]);
}

proptest! {
    /// Any network: nothing panics, packets never go backwards, each leaves at most once, and all durations add up.
    #[test]
    fn whatever_the_network_does_the_line_stays_one_line(
        first_sequence: u16,
        first_timestamp: u32,
        arrivals in prop::collection::vec((0u64..8, prop::bool::weighted(0.9), 0u64..40), 1..400),
    ) {
        let mut network: Vec<(u64, u16)> = arrivals
            .iter()
            .enumerate()
            .filter(|(index, (_, arrives, _))| *index == 0 || *arrives)
            .map(|(index, (delay, _, _))| (index as u64 + if index == 0 { 0 } else { *delay }, index as u16))
            .collect();
        network.sort_by_key(|(at, _)| *at);
        let mut reorder = Reorder::new(DEFAULT_WAIT);
        let mut now = Instant::now();
        let mut expected = first_timestamp;
        let mut packets = 0;
        for (index, (_, packet)) in network.iter().enumerate() {
            let timestamp = first_timestamp.wrapping_add(u32::from(*packet) * 960);
            reorder.push(first_sequence.wrapping_add(*packet), timestamp, Bytes::from_static(&SILENCE), now);
            while let Some(slot) = reorder.poll(now) {
                prop_assert_eq!(timestamp_of(&slot), expected);
                packets += u64::from(matches!(slot, Slot::Packet { .. }));
                expected = expected.wrapping_add(duration_of(&slot));
            }
            now += Duration::from_millis(arrivals[index].2);
        }
        now += DEFAULT_WAIT;
        while let Some(slot) = reorder.poll(now) {
            prop_assert_eq!(timestamp_of(&slot), expected);
            packets += u64::from(matches!(slot, Slot::Packet { .. }));
            expected = expected.wrapping_add(duration_of(&slot));
        }
        prop_assert_eq!(reorder.poll_timeout(), None);
        prop_assert_eq!(packets + reorder.stats().late, network.len() as u64);
        prop_assert_eq!(reorder.stats().discarded, 0);
    }

    /// Any numbers at all: nothing panics, every packet is accounted for, and no slot is longer than a second.
    #[test]
    fn any_numbers_are_survived(
        packets in prop::collection::vec((any::<u16>(), any::<u32>(), any::<bool>(), 0u64..100), 1..300),
        near: bool,
    ) {
        let mut reorder = Reorder::new(DEFAULT_WAIT);
        let mut now = Instant::now();
        let mut out = 0;
        let mut sounds = 0;
        for (sequence, timestamp, sound, wait) in packets {
            let (sequence, timestamp) = if near { (sequence % 300, timestamp % 100_000) } else { (sequence, timestamp) };
            if sound {
                sounds += 1;
                reorder.push(sequence, timestamp, Bytes::from_static(&SILENCE), now);
            } else {
                reorder.skip(sequence, now);
            }
            while let Some(slot) = reorder.poll(now) {
                match slot {
                    Slot::Packet { .. } => out += 1,
                    Slot::Lost { duration, .. } | Slot::Quiet { duration, .. } => {
                        prop_assert!((1..=RESYNC_TICKS).contains(&duration));
                    }
                }
            }
            if let Some(at) = reorder.poll_timeout() {
                prop_assert!(at > now, "everything due was polled");
            }
            now += Duration::from_millis(wait);
        }
        prop_assert!(out <= sounds);
    }
}

/// A sender whose packet `n` has sequence number 100 + n and begins at n frames.
struct TestLine {
    reorder: Reorder,
    now: Instant,
}

impl TestLine {
    fn new() -> Self {
        Self { reorder: Reorder::new(DEFAULT_WAIT), now: Instant::now() }
    }

    /// Packet 0 has arrived and left.
    fn started() -> Self {
        let mut line = Self::new();
        line.push(0);
        assert_eq!(line.polled(), [packet(0)]);
        line
    }

    fn push(&mut self, index: i64) {
        self.push_at(index, index);
    }

    fn push_at(&mut self, sequence: i64, frame: i64) {
        let silence = Bytes::from_static(&SILENCE);
        self.reorder.push((100 + sequence) as u16, (frame * 960) as u32, silence, self.now);
    }

    fn after(&mut self, milliseconds: u64) {
        self.now += Duration::from_millis(milliseconds);
    }

    fn polled(&mut self) -> Vec<Slot> {
        std::iter::from_fn(|| self.reorder.poll(self.now)).collect()
    }
}

fn packet(frame: i64) -> Slot {
    Slot::Packet { timestamp: (frame * 960) as u32, payload: Bytes::from_static(&SILENCE) }
}

fn lost(frame: i64, frames: u32) -> Slot {
    lost_before(frame, frames, &SILENCE)
}

fn lost_before(frame: i64, frames: u32, next: &'static [u8]) -> Slot {
    Slot::Lost { timestamp: (frame * 960) as u32, duration: frames * 960, next: Some(Bytes::from_static(next)) }
}

fn lost_before_pause(frame: i64) -> Slot {
    Slot::Lost { timestamp: (frame * 960) as u32, duration: 960, next: None }
}

fn quiet(frame: i64, frames: u32) -> Slot {
    Slot::Quiet { timestamp: (frame * 960) as u32, duration: frames * 960 }
}

fn timestamp_of(slot: &Slot) -> u32 {
    match slot {
        Slot::Packet { timestamp, .. } | Slot::Lost { timestamp, .. } | Slot::Quiet { timestamp, .. } => *timestamp,
    }
}

fn duration_of(slot: &Slot) -> u32 {
    match slot {
        Slot::Packet { .. } => 960,
        Slot::Lost { duration, .. } | Slot::Quiet { duration, .. } => *duration,
    }
}
