//! A caller over bad networks and with another clock, heard on the tick.

use super::*;

const RATE: SampleRate = SampleRate::Hz16000;
const FRAME_SAMPLES: usize = 320;
const BLEND_SAMPLES: usize = FRAME_SAMPLES / BLEND;
use crate::opus::{Decoder, Encoder, Profile};
use bytes::Bytes;
use proptest::prelude::*;
use std::f64::consts::TAU;

/// Ten minutes with a clock 200 ppm fast or slow: six frames too many or too few.
#[test]
fn another_clock_is_absorbed_in_the_pauses() {
    for parts_per_million in [-200.0, 200.0] {
        let talk = packets(&sentences(250));
        let (mut playout, mut sent, mut dry) = (playout(), 0_usize, 0);
        let (mut least, mut most) = (usize::MAX, 0);
        for tick in 0..30_000 {
            let due = (f64::from(tick) * (1.0 + parts_per_million / 1e6) + 0.3) as usize;
            while sent < due {
                playout.push(&talk[sent % talk.len()]);
                sent += 1;
            }
            playout.play();
            if tick > 500 {
                (least, most) = (least.min(playout.ring.len()), most.max(playout.ring.len()));
                dry += u32::from(matches!(playout.stage, Stage::Dry { .. }));
            }
        }
        println!("{parts_per_million} ppm: {least} to {most} samples wait, {dry} frames dry");
        assert_eq!(dry, 0, "{parts_per_million} ppm");
        assert!(most <= 4 * FRAME_SAMPLES, "{most}");
    }
}

#[test]
fn what_comes_in_time_is_played_as_it_was_said() {
    let sound = sentences(100);
    let mut playout = playout();
    let mut decoder = Decoder::new(RATE).unwrap();
    let (mut heard, mut said) = (Vec::new(), Vec::new());
    for slot in packets(&sound) {
        let Slot::Packet { payload, .. } = &slot else { continue };
        decoder.decode(payload, &mut said).unwrap();
        playout.push(&slot);
        heard.extend(playout.play());
    }
    // The reserve of two frames is there at the second tick, so what is heard is one frame late.
    let late = FRAME_SAMPLES;
    assert_eq!(heard[late + BLEND_SAMPLES..], said[BLEND_SAMPLES..said.len() - late]);
}

#[test]
fn jitter_costs_delay_and_then_nothing() {
    let seed = 7_u64;
    let talk = packets(&tone(440.0, 3000));
    let mut chance = Chance(seed);
    // Up to 50 ms late, in order.
    let mut arrival = 0;
    let arrivals: Vec<u64> = (0..talk.len() as u64)
        .map(|index| {
            arrival = (index * 20 + chance.below(50)).max(arrival);
            arrival
        })
        .collect();
    let (mut playout, mut next, mut late) = (playout(), 0, [0, 0]);
    for tick in 0..talk.len() as u64 {
        while next < talk.len() && arrivals[next] <= tick * 20 {
            playout.push(&talk[next]);
            next += 1;
        }
        playout.play();
        late[usize::from(tick > 1500)] += u32::from(matches!(playout.stage, Stage::Dry { .. }));
        assert!(playout.ring.len() <= playout.reserve + BURST * FRAME_SAMPLES);
    }
    println!("seed {seed}: {late:?} frames late in each half, {} samples wait", playout.ring.len());
    assert!(late[0] <= 10 && late[1] <= 10, "{late:?}");
    assert!(playout.ring.len() <= 7 * FRAME_SAMPLES);
}

#[test]
fn losses_leave_no_hole() {
    let talk = packets(&tone(440.0, 300));
    let mut playout = playout();
    for (index, slot) in talk.iter().enumerate() {
        match index % 10 {
            5 => {
                let Slot::Packet { payload, .. } = &talk[index + 1] else { continue };
                playout.push(&Slot::Lost { timestamp: 0, duration: 960, next: Some(payload.clone()) });
            }
            _ => playout.push(slot),
        }
        let frame = playout.play();
        if index > 5 {
            assert!(power(&frame) > 1_000_000, "{index}");
        }
    }
    assert!(matches!(playout.stage, Stage::Playing));
    assert!(playout.ring.len() <= 3 * FRAME_SAMPLES, "losses are no delay: {}", playout.ring.len());
}

/// The pause is named only when the next packet comes, and has been given as silence by then.
#[test]
fn dtx_pauses_are_no_delay_and_no_click() {
    let mut playout = playout();
    let mut encoder = Encoder::new(RATE, Profile::Eco).unwrap();
    let mut largest_step = 0;
    let mut last = 0_i16;
    for round in 0..20 {
        let sound = tone(440.0, 25);
        for (index, frame) in sound.chunks_exact(FRAME_SAMPLES).enumerate() {
            if round > 0 && index == 0 {
                playout.push(&Slot::Quiet { timestamp: 0, duration: 20 * 960 });
            }
            playout.push(&packet(&mut encoder, frame));
            step_in(&playout.play(), &mut last, &mut largest_step);
        }
        for _ in 0..20 {
            step_in(&playout.play(), &mut last, &mut largest_step);
        }
        assert!(playout.ring.len() <= 3 * FRAME_SAMPLES, "round {round}: {}", playout.ring.len());
    }
    println!("largest step {largest_step}");
    assert_eq!(playout.reserve, FIRST_RESERVE * FRAME_SAMPLES, "a pause is not lateness");
    // A full tone of 440 Hz moves 1382 from sample to sample.
    assert!(largest_step < 2600, "{largest_step}");
}

#[test]
fn a_stalled_network_leaves_no_lasting_delay() {
    let talk = packets(&tone(440.0, 400));
    let mut playout = playout();
    let mut next = 0;
    for tick in 0..talk.len() {
        let stalled = (100..120).contains(&tick);
        while !stalled && next <= tick {
            playout.push(&talk[next]);
            next += 1;
        }
        playout.play();
        assert!(playout.ring.len() <= playout.reserve + BURST * FRAME_SAMPLES);
    }
    assert!(playout.ring.len() <= 4 * FRAME_SAMPLES, "{}", playout.ring.len());
}

#[test]
fn the_ring_asks_for_no_memory() {
    let talk = packets(&sentences(100));
    let mut playout = playout();
    let room = (playout.ring.capacity(), playout.decoded.capacity());
    for round in 0..50 {
        for slot in &talk[..round] {
            playout.push(slot);
        }
        playout.push(&Slot::Lost { timestamp: 0, duration: 48_000, next: None });
        playout.push(&Slot::Quiet { timestamp: 0, duration: 48_000 });
        for _ in 0..round {
            playout.play();
        }
        assert_eq!((playout.ring.capacity(), playout.decoded.capacity()), room);
    }
}

proptest! {
    #[test]
    fn any_slots_at_any_time_stay_in_bounds(
        steps in prop::collection::vec((0u8..8, any::<u32>(), prop::collection::vec(any::<u8>(), 0..60)), 0..200),
    ) {
        let mut playout = playout();
        for (kind, duration, bytes) in steps {
            match kind {
                0 => playout.push(&Slot::Lost { timestamp: 0, duration, next: Some(bytes.into()) }),
                1 => playout.push(&Slot::Quiet { timestamp: 0, duration: duration % 60_000 }),
                2..5 => playout.push(&Slot::Packet { timestamp: 0, payload: bytes.into() }),
                _ => drop(playout.play()),
            }
            prop_assert!(playout.ring.len() <= playout.reserve + BURST * FRAME_SAMPLES);
            prop_assert!(playout.ring.capacity() <= 2 * RING * FRAME_SAMPLES);
        }
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) % bound
    }
}

fn packets(pcm: &[i16]) -> Vec<Slot> {
    let mut encoder = Encoder::new(RATE, Profile::Eco).unwrap();
    pcm.chunks_exact(FRAME_SAMPLES).map(|frame| packet(&mut encoder, frame)).collect()
}

fn packet(encoder: &mut Encoder, frame: &[i16]) -> Slot {
    let mut payload = Vec::new();
    encoder.encode(frame, &mut payload).unwrap();
    Slot::Packet { timestamp: 0, payload: Bytes::from(payload) }
}

fn tone(hz: f64, frames: usize) -> Vec<i16> {
    (0..frames * FRAME_SAMPLES).map(|index| (8000.0 * (TAU * hz * index as f64 / 16_000.0).sin()) as i16).collect()
}

/// A second of tone and a quarter of a second of pause, again and again.
fn sentences(frames: usize) -> Vec<i16> {
    let mut sound = tone(440.0, frames);
    for (index, sample) in sound.iter_mut().enumerate() {
        let beat = index % 20_000;
        let envelope = (beat as f64 / 800.0).min((16_000.0 - beat as f64) / 800.0).clamp(0.0, 1.0);
        *sample = (f64::from(*sample) * envelope) as i16;
    }
    sound
}

fn step_in(frame: &[i16; FRAME_SAMPLES], last: &mut i16, largest: &mut u16) {
    for sample in frame {
        *largest = (*largest).max(sample.abs_diff(*last));
        *last = *sample;
    }
}

fn playout() -> Playout<FRAME_SAMPLES, Decoder> {
    Playout::new(Decoder::new(RATE).unwrap())
}
