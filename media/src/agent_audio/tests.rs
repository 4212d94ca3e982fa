//! The caller's line on good and bad networks, on a virtual clock.

use super::*;
use crate::opus::{Encoder, Profile, SILENCE};
use crate::reorder::{DEFAULT_WAIT, Reorder};
use std::f64::consts::TAU;
use std::time::Duration;

const RATE: SampleRate = SampleRate::Hz16000;
const HOUR_MS: u64 = 3_600_000;

#[test]
fn a_single_loss_is_rebuilt_and_not_filled() {
    let mut call = Call::new();
    let words = speech(100);
    for (index, packet) in words.iter().enumerate() {
        if index % 10 != 5 {
            call.send(index as u16, index as u32 * 960, packet);
        }
        call.run(20);
    }
    let given = call.given_ms();
    assert!((1940..=2000).contains(&given), "{given}");
    assert!(call.longest_silence_ms() < 5, "{}", call.longest_silence_ms());
}

#[test]
fn packets_of_every_length_keep_step_with_the_line() {
    // Code 3: so many copies of a 20 ms (or 10 ms) silence frame.
    for (config, frame_ms, count) in [(8u8, 10u64, 1u8), (9, 20, 1), (9, 20, 2), (9, 20, 3), (9, 20, 6)] {
        let mut packet = vec![config << 3 | 3, count];
        for _ in 0..count {
            packet.extend(&SILENCE[1..]);
        }
        let packet_ms = frame_ms * u64::from(count);
        let mut call = Call::new();
        for index in 0..60_000 / packet_ms {
            call.send(index as u16, (index * packet_ms * 48) as u32, &packet);
            call.run(packet_ms);
        }
        let given = call.given_ms();
        assert!((59_900..=60_100).contains(&given), "{packet_ms} ms packets: {given}");
    }
}

#[test]
fn a_pause_of_any_length_lasts_as_long_for_the_agent() {
    for pause_ms in [60u64, 200, 400, 900, 1100, 5000, 60_000] {
        for marked in [true, false] {
            let mut call = Call::new();
            let words = speech(50);
            for (index, packet) in words.iter().enumerate() {
                call.send(index as u16, index as u32 * 960, packet);
                call.run(20);
            }
            call.run(pause_ms);
            // The phone's clock went on, or it began anew at some other number.
            let after = if marked { 48_000 + pause_ms as u32 * 48 } else { 3_000_000_000 };
            for (index, packet) in words.iter().enumerate() {
                call.send(50 + index as u16, after.wrapping_add(index as u32 * 960), packet);
                call.run(20);
            }
            let (given, line) = (call.given_ms(), 2000 + pause_ms);
            assert!(given.abs_diff(line) <= 60, "{pause_ms} {marked}: {given} of {line}");
        }
    }
}

/// How a sender leaves out a pause (DTX).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// A few quiet packets, then one every 400 ms, as libopus does it.
    Refreshed,
    /// A few quiet packets, then nothing.
    Silent,
    /// The bytes that libopus makes and would rather not have sent.
    Bytes,
    /// Nothing, right after a word.
    Abrupt,
}

#[test]
fn a_live_agent_gets_a_frame_when_a_frame_is_due_while_the_caller_sends_dtx() {
    for pause in [Pause::Refreshed, Pause::Silent, Pause::Bytes, Pause::Abrupt] {
        for hears_opus in [false, true] {
            for phase in [0, 1, 7, 13, 19] {
                let mut call = if hears_opus { Call::opus() } else { Call::new() };
                call.run(phase);
                let words = speech(50);
                let mut sequence = 0;
                for round in 0..3u32 {
                    // 1 s of speech, 3 s of pause.
                    for frame in 0..200u32 {
                        let in_pause = frame.checked_sub(50);
                        let packet: Option<&[u8]> = match (in_pause, pause) {
                            (None, _) => Some(&words[frame as usize]),
                            (Some(_), Pause::Bytes) => Some(&SILENCE[..1]),
                            (Some(_), Pause::Abrupt) => None,
                            (Some(0..10), _) => Some(&SILENCE),
                            (Some(since), Pause::Refreshed) if since % 20 == 10 => Some(&SILENCE),
                            (Some(_), Pause::Refreshed | Pause::Silent) => None,
                        };
                        let before = call.frames.len();
                        if let Some(packet) = packet {
                            call.send(sequence, (round * 200 + frame) * 960, packet);
                            sequence += 1;
                        }
                        // The encoder's voice bit comes with the second packet of a word or so.
                        if in_pause.is_none() && frame >= 3 {
                            assert!(call.frames.len() > before, "{pause:?}: a word waits");
                        }
                        call.run(20);
                        let (given, line) = (call.given_ms(), u64::from(round * 200 + frame + 1) * 20);
                        let behind = if pause == Pause::Abrupt { 80 } else { 20 };
                        assert!(
                            (line.saturating_sub(behind)..=line + 40).contains(&given),
                            "{pause:?} {phase}: {given} of {line}"
                        );
                    }
                }
                let longest = if pause == Pause::Abrupt { 80 } else { 45 };
                let gaps = call.frames.windows(2).map(|two| two[1] - two[0]);
                assert!(gaps.max().is_some_and(|gap| gap <= longest), "{pause:?} {phase} {hears_opus}");
                let burst = if pause == Pause::Abrupt { 5 } else { 2 };
                let at_once = call.frames.chunk_by(|one, other| one == other).map(<[u64]>::len).max();
                assert!(at_once <= Some(burst), "{pause:?} {phase} {hears_opus}: {at_once:?} frames at once");
                assert!(call.largest_step < 9000, "{}", call.largest_step);
            }
        }
    }
}

/// The network's delay is now longer, now shorter than it was when the pause began.
#[test]
fn a_late_packet_in_a_pause_adds_no_delay_and_leaves_no_hole() {
    for late_ms in [15, 30, 55] {
        let mut call = Call::new();
        let words = speech(20);
        for (index, packet) in words.iter().enumerate() {
            call.send(index as u16, index as u32 * 960, packet);
            call.run(20);
        }
        call.send(20, 20 * 960, &SILENCE);
        for refresh in 1..50u32 {
            let late = if refresh % 2 == 0 { 0 } else { late_ms };
            let before = if refresh % 2 == 0 { late_ms } else { 0 };
            call.run(400 + late - before);
            call.send(20 + refresh as u16, (20 + 20 * refresh) * 960, &SILENCE);
        }
        let gaps = call.frames.windows(2).map(|two| two[1] - two[0]);
        assert!(gaps.max().is_some_and(|gap| gap <= 45), "{late_ms} ms late");
        assert!(call.given_ms().abs_diff(call.ms) <= 60, "{late_ms} ms late: {} of {}", call.given_ms(), call.ms);
    }
}

#[test]
fn a_caller_who_sends_faster_than_time_passes_is_not_heard_faster() {
    for hears_opus in [false, true] {
        let mut call = if hears_opus { Call::opus() } else { Call::new() };
        let words = speech(50);
        for packet in 0..100_000u32 {
            call.send((packet & 0xffff) as u16, packet * 960, &words[packet as usize % 50]);
            if packet % 10 == 0 {
                call.run(1);
            }
        }
        // 10 s have passed.
        assert!(call.given_ms() < 16_000, "{} ms", call.given_ms());
        assert!(call.audio.dropped() > 90_000);
    }
}

#[test]
fn nothing_that_waited_before_the_first_packet_is_taken_back() {
    let mut call = Call::new();
    call.run(2000);
    let before = call.given_ms();
    for (index, packet) in speech(100).iter().enumerate() {
        call.send(index as u16, index as u32 * 960, packet);
        call.run(20);
    }
    assert_eq!(call.given_ms() - before, 2000);
}

#[test]
fn the_delay_of_a_stall_is_gone_soon_even_if_the_caller_never_pauses() {
    let mut call = Call::new();
    // A tone: the voice bit stays on.
    let words = speech(700);
    let mut held = Vec::new();
    for (index, packet) in words.iter().enumerate() {
        if (100..140).contains(&index) {
            held.push(index);
        } else {
            for index in held.drain(..) {
                call.send(index as u16, index as u32 * 960, &words[index]);
            }
            call.send(index as u16, index as u32 * 960, packet);
        }
        call.run(20);
        if index == 141 {
            let ahead = call.given_ms() as i64 - 142 * 20;
            assert!(ahead > 200, "silence was given, and then the sound came: {ahead}");
        }
    }
    let given = call.given_ms();
    assert!(given.abs_diff(14_000) <= 80, "{given}");
    assert!(call.largest_step < 9000, "{}", call.largest_step);
}

#[test]
fn another_sender_is_heard_without_the_one_before() {
    let mut call = Call::new();
    for (index, packet) in speech(50).iter().enumerate() {
        call.send(index as u16, index as u32 * 960, packet);
        call.run(20);
    }
    call.heard.clear();
    for index in 0..10u16 {
        call.send(20_000 + index, 2_000_000_000 + u32::from(index) * 960, &SILENCE);
        call.run(20);
    }
    let loudest = call.heard[1600..].iter().map(|sample| sample.unsigned_abs()).max();
    assert!(loudest.is_some_and(|peak| peak <= 2), "{loudest:?}");
}

#[test]
fn a_change_of_coder_and_bandwidth_keeps_the_line_whole() {
    let mut call = Call::new();
    let silk = speech(20);
    // A CELT fullband packet of 20 ms that says nothing but is well formed (RFC 6716 §3.1, configuration 31).
    let celt = [31u8 << 3, 0xff, 0xfe];
    for index in 0..500u32 {
        let packet: &[u8] = if index / 20 % 2 == 0 { &silk[(index % 20) as usize] } else { &celt };
        call.send(index as u16, index * 960, packet);
        call.run(20);
    }
    assert_eq!(call.given_ms(), 10_000);
}

/// An hour: a clock that is off, jitter, losses, reordering, pauses with and without packets, stalls.
#[test]
fn an_hour_of_a_bad_network_adds_no_delay() {
    for (seed, parts_per_million, length_ms) in
        [(0x9e37_79b9_7f4a_7c15u64, 200i64, HOUR_MS), (0xdead_beef_cafe_f00d, -200, HOUR_MS / 6)]
    {
        println!("seed {seed:#x}, {parts_per_million} ppm");
        let mut chance = Chance(seed);
        let mut call = Call::new();
        call.keeps = false;
        let words = speech(400);
        // What is on its way: (arrives at ms, sequence, timestamp, word).
        let mut network: Vec<(u64, u16, u32, usize)> = Vec::new();
        let (mut sequence, mut frame, mut sent_until) = (0u16, 0u64, 0u64);
        let (mut quiet_until, mut stall_until, mut talks) = (0u64, 0u64, true);
        let mut worst = 0u64;
        let mut settled_at = 0;
        for ms in 0..length_ms {
            // The phone's frame is due by its own clock.
            let due = (frame * 20) as i64 * (1_000_000 - parts_per_million) / 1_000_000;
            if ms as i64 >= due {
                if ms >= quiet_until && chance.one_in(500) {
                    quiet_until = ms + chance.below(8000);
                    talks = chance.one_in(2);
                }
                if chance.one_in(1500) && ms + 30_000 < length_ms {
                    stall_until = ms + chance.below(1500);
                }
                let muted = ms < quiet_until && !talks;
                if !muted {
                    let word = if ms < quiet_until { usize::MAX } else { frame as usize % words.len() };
                    if !chance.one_in(50) {
                        let arrives = (ms + 20 + chance.below(15)).max(stall_until);
                        let late = if chance.one_in(100) { 45 } else { 0 };
                        network.push((arrives + late, sequence, frame as u32 * 960, word));
                    }
                    sequence = sequence.wrapping_add(1);
                }
                frame += 1;
                sent_until = frame * 20;
            }
            network.retain(|(arrives, sequence, timestamp, word)| {
                let here = *arrives <= ms;
                if here {
                    call.send(*sequence, *timestamp, words.get(*word).map_or(&SILENCE[..], Vec::as_slice));
                }
                !here
            });
            call.run(1);
            if ms < stall_until + 20_000 || ms < quiet_until {
                settled_at = ms + 100;
            }
            if ms > settled_at {
                worst = worst.max(call.given_ms().abs_diff(sent_until));
            }
        }
        let (given, line) = (call.given_ms(), frame * 20);
        println!("given {given} ms of {line} ms, worst {worst} ms, dropped {}", call.audio.dropped());
        assert!(given.abs_diff(line) <= 60 + 20 + 35, "{given} of {line}");
        // Tolerated, one frame on the tick, on its way, and what waits behind a lost packet.
        assert!(worst <= 60 + 20 + 35 + 80, "{worst}");
    }
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// Reorder and agent audio as the bridge drives them, and an agent that takes everything at once.
struct Call {
    reorder: Reorder,
    audio: AgentAudio,
    hears_opus: bool,
    /// When frames came, in ms.
    frames: Vec<u64>,
    now: Instant,
    ms: u64,
    samples: u64,
    keeps: bool,
    heard: Vec<i16>,
    last: i16,
    largest_step: u16,
}

impl Call {
    fn new() -> Self {
        Self::with(false)
    }

    fn opus() -> Self {
        Self::with(true)
    }

    fn with(hears_opus: bool) -> Self {
        let now = Instant::now();
        let mut audio = AgentAudio::new(now);
        match hears_opus {
            true => audio.attach_opus(now),
            false => audio.attach_pcm(RATE, now).unwrap(),
        }
        audio.start(now);
        let reorder = Reorder::new(DEFAULT_WAIT);
        Self {
            reorder,
            audio,
            hears_opus,
            frames: Vec::new(),
            now,
            ms: 0,
            samples: 0,
            keeps: true,
            heard: Vec::new(),
            last: 0,
            largest_step: 0,
        }
    }

    fn send(&mut self, sequence: u16, timestamp: u32, packet: &[u8]) {
        self.reorder.push(sequence, timestamp, Bytes::copy_from_slice(packet), self.now);
        self.drain();
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += Duration::from_millis(1);
            self.ms += 1;
            if self.ms.is_multiple_of(20) {
                self.drain();
                if self.reorder.poll_timeout().is_none() {
                    self.audio.fill(self.now);
                }
                self.take();
            }
        }
    }

    fn drain(&mut self) {
        while let Some(slot) = self.reorder.poll(self.now) {
            self.audio.push(slot, self.now);
            self.take();
        }
    }

    fn take(&mut self) {
        while let Some(frame) = self.audio.take() {
            self.samples += if self.hears_opus { 320 } else { frame.len() as u64 / 2 };
            if self.keeps {
                self.frames.push(self.ms);
            }
            if self.keeps && !self.hears_opus {
                for pair in frame.as_chunks::<2>().0 {
                    let sample = i16::from_le_bytes(*pair);
                    self.largest_step = self.largest_step.max(sample.abs_diff(self.last));
                    self.last = sample;
                    self.heard.push(sample);
                }
            }
        }
    }

    fn given_ms(&self) -> u64 {
        self.samples / 16
    }

    /// Of exact zeros after the first sound.
    fn longest_silence_ms(&self) -> usize {
        let begin = self.heard.iter().position(|sample| sample.unsigned_abs() > 500).unwrap_or(0);
        self.heard[begin..].split(|sample| *sample != 0).map(<[i16]>::len).max().unwrap_or(0) / 16
    }
}

/// A loud, voiced sound that changes slowly.
fn speech(frames: usize) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(RATE, Profile::Eco).unwrap();
    (0..frames)
        .map(|frame| {
            let samples: Vec<i16> = (0..320)
                .map(|index| {
                    let t = (frame * 320 + index) as f64 / 16_000.0;
                    let swell = 0.8 + 0.2 * (TAU * 2.0 * t).sin();
                    (5000.0 * swell * ((TAU * 150.0 * t).sin() + 0.6 * (TAU * 300.0 * t).sin())) as i16
                })
                .collect();
            let mut packet = Vec::new();
            encoder.encode(&samples, &mut packet).unwrap();
            packet
        })
        .collect()
}
