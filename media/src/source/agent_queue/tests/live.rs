//! Agents of different pace, on a virtual clock: content stays whole, late audio catches up.

use super::*;
use std::collections::VecDeque;
use std::f64::consts::TAU;

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const LIVE_RATE: SampleRate = SampleRate::Hz8000;

#[test]
fn a_live_agent_on_a_good_network_waits_for_one_frame_at_most() {
    let mut line = Line::new();
    line.run(10 * MINUTE_MS, |_| Arrival::on_time());
    assert!(line.most_queued <= FRAME, "{:?}", line.most_queued);
    assert_eq!((line.queue.trimmed(), line.silent_frames), (Duration::ZERO, 0));
}

#[test]
fn an_hour_of_drift_never_grows_the_delay() {
    // Without any pause it takes a little more until speech is cut.
    for (parts_per_million, sound, most_ms) in
        [(200, Sounding::WithPauses, 80), (200, Sounding::Always, 160), (-200, Sounding::WithPauses, 80)]
    {
        let mut line = Line { parts_per_million, sound, ..Line::new() };
        line.run(HOUR_MS, |_| Arrival::on_time());
        println!(
            "{parts_per_million} ppm: most queued {:?}, trimmed {:?}, silent frames {}",
            line.most_queued,
            line.queue.trimmed(),
            line.silent_frames
        );
        assert!(line.most_queued <= Duration::from_millis(most_ms), "{:?}", line.most_queued);
        // 200 ppm of an hour are 720 ms.
        assert!(line.queue.trimmed() <= Duration::from_millis(720));
        assert!(line.silent_frames <= 37, "{}", line.silent_frames);
        line.account();
    }
}

#[test]
fn jitter_finds_its_cushion_and_a_calm_network_takes_it_back() {
    let seed = 0x5eed_0001;
    println!("seed {seed:#x}");
    let mut chance = Chance(seed);
    let mut line = Line { sound: Sounding::WithPauses, ..Line::new() };
    line.run(5 * MINUTE_MS, |_| Arrival::after(chance.below(120)));
    let silent_frames = line.silent_frames;
    line.run(MINUTE_MS, |_| Arrival::after(chance.below(120)));
    assert!(line.silent_frames - silent_frames <= 6, "{}", line.silent_frames - silent_frames);
    assert!(line.most_queued <= Duration::from_millis(300), "{:?}", line.most_queued);
    line.run(8 * MINUTE_MS, |_| Arrival::on_time());
    assert!(line.queue.queued() <= Duration::from_millis(80), "{:?}", line.queue.queued());
    line.account();
}

#[test]
fn one_late_frame_is_no_delay_for_the_whole_call() {
    // The agent speaks for the first 1.4 s of every two.
    for (what, late_at_ms) in [("in a pause", 11_700), ("in speech", 10_700)] {
        let mut line = Line { sound: Sounding::WithPauses, ..Line::new() };
        line.run(late_at_ms + 20, |ms| Arrival::after(if ms == late_at_ms { 25 } else { 0 }));
        line.run(60, |_| Arrival::on_time());
        assert_eq!(line.silent_frames, 1, "{what}");
        line.run(5_000, |_| Arrival::on_time());
        line.most_queued = Duration::ZERO;
        line.run(10_000, |_| Arrival::on_time());
        assert_eq!(line.most_queued, Duration::ZERO, "{what}");
        assert_eq!((line.queue.trimmed(), line.silent_frames), (FRAME, 1), "{what}");
        line.account();
    }
}

#[test]
fn a_second_late_frame_within_ten_seconds_leaves_a_cushion_for_half_a_minute() {
    // The agent speaks for the first 1.4 s of every two.
    for (apart_ms, has_cushion) in [(8_000, true), (12_000, false)] {
        let mut line = Line { sound: Sounding::WithPauses, ..Line::new() };
        let late_at_ms = [10_700, 10_700 + apart_ms];
        line.run(10_720 + apart_ms, |ms| Arrival::after(if late_at_ms.contains(&ms) { 25 } else { 0 }));
        line.run(5_000, |_| Arrival::on_time());
        assert_eq!(line.silent_frames, 2, "{apart_ms} ms apart");
        let kept = if has_cushion { FRAME } else { Duration::ZERO };
        line.most_queued = Duration::ZERO;
        line.run(20_000, |_| Arrival::on_time());
        assert_eq!(line.most_queued, kept, "{apart_ms} ms apart");
        line.run(11_000, |_| Arrival::on_time());
        line.most_queued = Duration::ZERO;
        line.run(10_000, |_| Arrival::on_time());
        assert_eq!(line.most_queued, Duration::ZERO, "{apart_ms} ms apart");
        line.account();
    }
}

#[test]
fn a_stall_of_seconds_is_caught_up_in_seconds() {
    for (sound, within_s) in [(Sounding::Always, 13), (Sounding::WithPauses, 10)] {
        for stall_ms in [600, 3000] {
            let mut line = Line { sound, ..Line::new() };
            line.run(10_000, |_| Arrival::on_time());
            let over_ms = line.ms + stall_ms;
            line.run(stall_ms, |ms| Arrival::after(over_ms - ms));
            line.run(within_s * 1000, |_| Arrival::on_time());
            let queued = line.queue.queued();
            assert!(queued <= Duration::from_millis(200), "{sound:?} {stall_ms} ms: {queued:?}");
            line.account();
        }
    }
}

#[test]
fn stalls_for_an_hour_leave_no_delay() {
    let seed = 0x5eed_0002;
    println!("seed {seed:#x}");
    let mut chance = Chance(seed);
    let mut line = Line { sound: Sounding::WithPauses, parts_per_million: 200, ..Line::new() };
    let mut stall_until = 0;
    let mut last = 0;
    line.run(HOUR_MS, |ms| {
        if chance.below(1000) == 0 && ms + MINUTE_MS < HOUR_MS {
            stall_until = ms + chance.below(2500);
        }
        // TCP: nothing overtakes.
        last = last.max(stall_until).max(ms + chance.below(60));
        Arrival::after(last - ms)
    });
    println!(
        "queued {:?}, trimmed {:?}, silent frames {}",
        line.queue.queued(),
        line.queue.trimmed(),
        line.silent_frames
    );
    assert!(line.queue.queued() <= Duration::from_millis(360), "{:?}", line.queue.queued());
    line.account();
}

#[test]
fn a_live_agent_that_spoke_before_the_call_was_answered_catches_up_in_its_pauses() {
    let mut line = Line { sound: Sounding::WithPauses, ..Line::new() };
    for _ in 0..150 {
        line.push();
    }
    line.run(50_000, |_| Arrival::on_time());
    assert_eq!(line.queue.trimmed(), Duration::ZERO, "so far it could be content");
    line.run(MINUTE_MS, |_| Arrival::on_time());
    assert!(line.queue.queued() <= Duration::from_millis(100), "{:?}", line.queue.queued());
}

/// Speech synthesis of many kinds: whatever the speed, every sample of it is played.
#[test]
fn content_is_never_skipped() {
    // (first burst ms, then so many ms of sound each 100 ms, answer ms)
    let kinds: [(u64, u64, u64); 8] = [
        (8000, 0, 8000),
        (500, 300, 12_000),
        (1000, 100, 30_000),
        (200, 100, 20_000),
        (400, 104, 20_000),
        (100, 150, 6000),
        (300, 60, 6000),
        (40, 90, 3000),
    ];
    for seed in [0x5eed_0003u64, 0x5eed_0004] {
        println!("seed {seed:#x}");
        let mut chance = Chance(seed);
        for (burst, each, answer) in kinds {
            let mut line = Line { sound: Sounding::WithPauses, ..Line::new() };
            for _ in 0..20 {
                let mut left = answer;
                let mut chunk = burst;
                while left > 0 {
                    let now = chunk.min(left);
                    left -= now;
                    for _ in 0..now / 20 {
                        line.push();
                    }
                    chunk = each;
                    line.pass(100);
                }
                // Less than UTTERANCE_PAUSE between two answers would be one answer that stalled.
                line.pass(line.queue.queued().as_millis() as u64 + 1100 + chance.below(6000));
            }
            assert_eq!(line.queue.trimmed(), Duration::ZERO, "{burst} {each} {answer}");
            line.account();
        }
    }
}

#[test]
fn live_opus_is_caught_up_too_and_by_its_pauses_first() {
    // SILK, 20 ms, with and without the voice bit.
    let (speech, pause) = (Bytes::from_static(&[0x48, 0x80, 1, 2, 3]), Bytes::from_static(&SILENCE));
    let mut queue = AgentQueue::opus(DEFAULT_MAX_BUFFER);
    let mut left_out = [0u64; 2];
    let mut sent = [0u64; 2];
    for frame in 0..3000u64 {
        let is_stalled = (1000..1100).contains(&frame);
        let due = match frame {
            1100 => 1000..=1100,
            _ => frame..=frame,
        };
        for frame in due.filter(|_| !is_stalled) {
            let talks = frame % 100 < 60;
            sent[usize::from(talks)] += 1;
            queue.push_opus(if talks { speech.clone() } else { pause.clone() }).unwrap();
        }
        if let Some(packet) = queue.take_packet() {
            left_out[usize::from(packet == speech)] += 1;
        }
    }
    assert!(queue.queued() <= Duration::from_millis(100), "{:?}", queue.queued());
    let missing: Vec<u64> = sent.iter().zip(left_out).map(|(sent, heard)| sent - heard).collect();
    assert_eq!((missing[0] + missing[1]) * 20, (queue.trimmed() + queue.queued()).as_millis() as u64);
    assert!(missing[0] > missing[1] / 2, "{missing:?}");
}

#[test]
fn a_cut_in_the_speech_does_not_click() {
    let mut line = Line::new();
    line.run(10_000, |_| Arrival::on_time());
    let over_ms = line.ms + 3000;
    line.run(3000, |ms| Arrival::after(over_ms - ms));
    line.run(3500, |_| Arrival::on_time());
    line.largest_step = Some(0);
    let trimmed = line.queue.trimmed();
    line.run(4000, |_| Arrival::on_time());
    assert!(line.queue.trimmed() > trimmed + Duration::from_millis(500));
    // The wave's own largest step is 8000 * TAU * 210 / 8000 = 1320.
    assert!(line.largest_step <= Some(1900), "{:?}", line.largest_step);
}

#[test]
fn marks_in_skipped_audio_are_reported_in_order_and_played_ms_is_right() {
    let mut line = Line::new();
    line.run(10_000, |_| Arrival::on_time());
    let over_ms = line.ms + 900;
    line.run(900, |ms| Arrival::after(over_ms - ms));
    line.marks = true;
    line.run(8_000, |_| Arrival::on_time());
    assert!(line.queue.trimmed() > Duration::from_millis(300));
    line.account();
    let names: Vec<u64> = events(&mut line.queue).into_iter().map(|(name, _)| name.parse().unwrap()).collect();
    assert!(names.len() > 390);
    assert!(names.is_sorted());
    let queued = line.queue.queued().as_millis() as u64;
    let cleared = line.queue.clear();
    assert_eq!(cleared.played_ms, line.heard_frames * 20);
    assert_eq!(cleared.dropped_ms, queued);
}

const FRAME_SAMPLES_LIVE: usize = 160;

struct Arrival {
    after_ms: u64,
}

impl Arrival {
    fn on_time() -> Self {
        Self::after(0)
    }

    fn after(after_ms: u64) -> Self {
        Self { after_ms }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Sounding {
    /// A tone.
    Always,
    /// 1.4 s of a tone and 0.6 s of room noise.
    WithPauses,
}

/// A live agent with a clock of its own, the network, and the caller's 20 ms.
struct Line {
    queue: AgentQueue,
    sound: Sounding,
    parts_per_million: i64,
    ms: u64,
    /// Frames recorded by the agent, and those that arrived.
    sent: u64,
    frames: u64,
    network: VecDeque<u64>,
    marks: bool,
    heard_frames: u64,
    silent_frames: u64,
    begun: bool,
    most_queued: Duration,
    /// Five frames are 21 waves of 210 Hz.
    tone: Vec<Vec<u8>>,
    noise: Vec<Vec<u8>>,
    last: i16,
    largest_step: Option<u16>,
}

impl Line {
    fn new() -> Self {
        Self {
            queue: AgentQueue::pcm(LIVE_RATE, DEFAULT_MAX_BUFFER),
            sound: Sounding::Always,
            parts_per_million: 0,
            ms: 0,
            sent: 0,
            frames: 0,
            network: VecDeque::new(),
            marks: false,
            heard_frames: 0,
            silent_frames: 0,
            begun: false,
            most_queued: Duration::ZERO,
            tone: five_frames(8000.0),
            noise: five_frames(60.0),
            last: 0,
            largest_step: None,
        }
    }

    /// For this long the agent records a frame every 20 ms of its clock; `arrives` returns when each arrives.
    fn run(&mut self, ms: u64, mut arrives: impl FnMut(u64) -> Arrival) {
        for _ in 0..ms {
            let due = (self.sent * 20) as i64 * (1_000_000 - self.parts_per_million) / 1_000_000;
            if self.ms as i64 >= due {
                self.sent += 1;
                let at = self.ms + arrives(self.ms).after_ms;
                let at = at.max(self.network.back().copied().unwrap_or(0));
                self.network.push_back(at);
            }
            while self.network.front().is_some_and(|at| *at <= self.ms) {
                self.network.pop_front();
                self.push();
            }
            self.pass(1);
        }
    }

    /// The agent's next frame arrives.
    fn push(&mut self) {
        let is_pause = self.sound == Sounding::WithPauses && self.frames % 100 >= 70;
        let frames = if is_pause { &self.noise } else { &self.tone };
        self.queue.push_pcm(&frames[(self.frames % 5) as usize]).unwrap();
        self.frames += 1;
        if self.marks {
            self.queue.mark(self.frames.to_string()).unwrap();
        }
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.ms += 1;
            if self.ms % 20 == 10 {
                self.take();
            }
        }
    }

    fn take(&mut self) {
        let mut frame = [0; FRAME_SAMPLES_LIVE];
        match self.queue.take_frame(&mut frame) {
            Taken::Speech => {
                self.begun = true;
                self.heard_frames += 1;
            }
            Taken::Silence => self.silent_frames += u64::from(self.begun),
        }
        if !self.marks {
            assert!(self.queue.poll_event().is_none());
        }
        self.most_queued = self.most_queued.max(self.queue.queued());
        if let Some(step) = &mut self.largest_step {
            for pair in [&[self.last][..], &frame].concat().windows(2) {
                *step = pair[0].abs_diff(pair[1]).max(*step);
            }
        }
        self.last = frame[FRAME_SAMPLES_LIVE - 1];
    }

    /// Every sample was played, skipped, or waits.
    fn account(&self) {
        let heard = FRAME * self.heard_frames as u32;
        assert_eq!(FRAME * self.frames as u32, heard + self.queue.trimmed() + self.queue.queued());
    }
}

fn five_frames(amplitude: f64) -> Vec<Vec<u8>> {
    let wave: Vec<i16> = (0..800).map(|at| (amplitude * (TAU * 210.0 * f64::from(at) / 8000.0).sin()) as i16).collect();
    wave.chunks(FRAME_SAMPLES_LIVE).map(bytes_of).collect()
}

struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
