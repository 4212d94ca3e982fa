//! Files written and read back: by the `ogg` crate's reader, and by libopus as a decoder of two streams.

use std::io::Cursor;

use ogg::PacketReader;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::opus::{Encoder, Profile, SampleRate};

const CALLER_HZ: f64 = 400.0;
const AGENT_HZ: f64 = 1000.0;

#[test]
fn the_caller_is_left_and_the_agent_right() {
    let mut call = Call::begin();
    let (mut caller, mut agent) = (Tone::new(CALLER_HZ), Tone::new(AGENT_HZ));
    for _ in 0..250 {
        call.agent(&agent.packet());
        call.caller(&caller.packet());
    }
    let file = call.finish();
    assert_eq!(file.recorded.duration, Duration::from_secs(5));
    assert_eq!(file.recorded.stats, RecorderStats::default());
    let sound = file.decode();
    assert_eq!(sound.left.len(), 5 * 16_000);
    assert_eq!(heard(&sound.left[16_000..]), [CALLER_HZ]);
    assert_eq!(heard(&sound.right[16_000..]), [AGENT_HZ]);
}

#[test]
fn the_headers_and_granule_positions_are_those_of_rfc_7845() {
    let mut call = Call::begin();
    for number in 0..100 {
        call.agent(&packet(number, true));
    }
    let packets = call.finish().packets();
    assert_eq!(packets[0].data, b"OpusHead\x01\x02\x38\x01\x80\x3e\x00\x00\x00\x00\x01\x02\x00\x00\x01");
    assert!(packets[0].first_in_stream() && packets[0].last_in_page());
    assert_eq!(packets[1].data, b"OpusTags\x09\x00\x00\x00Patchcord\x00\x00\x00\x00");
    assert!(packets[1].last_in_page());
    let ends: Vec<u64> =
        packets[2..].iter().filter(|packet| packet.last_in_page()).map(ogg::Packet::absgp_page).collect();
    assert_eq!(ends, [35 * 960, 70 * 960, 100 * 960 + 312]);
    assert_eq!(packets.len(), 2 + 100 + 1);
    assert!(packets.last().unwrap().last_in_stream());
}

#[test]
fn a_recording_without_a_frame_is_a_whole_file_too() {
    let file = Call::begin().finish();
    assert_eq!(file.recorded.duration, Duration::ZERO);
    assert_eq!(file.decode().left.len(), 0);
    assert!(file.packets().last().unwrap().last_in_stream());
}

#[test]
fn a_second_is_all_that_a_sudden_end_costs() {
    for caller_speaks in [true, false] {
        let mut call = Call::begin();
        for number in 0..500 {
            call.agent(&packet(number, true));
            if caller_speaks {
                call.caller(&packet(number, true));
            }
            let written = call.taken().packets().len() as u32 - 2;
            assert!(call.recorder.duration() - FRAME * written <= Duration::from_secs(1), "frame {number}");
        }
    }
}

#[test]
fn a_file_cut_anywhere_is_readable_up_to_its_last_whole_page() {
    let mut call = Call::begin();
    for number in 0..150 {
        call.agent(&packet(number, true));
        call.caller(&packet(number, true));
    }
    let file = call.finish();
    let page_ends = page_ends(&file.bytes);
    assert_eq!(page_ends.len(), 2 + 5);
    for cut in 0..file.bytes.len() {
        let whole_pages = page_ends.iter().filter(|end| **end <= cut).count();
        let expected = match whole_pages {
            0..=2 => whole_pages,
            pages => 2 + (pages - 2) * 35,
        };
        assert_eq!(packets_of(&file.bytes[..cut]).len(), expected, "cut at {cut}");
        let measured = measure(&file.bytes[..cut]).unwrap();
        let pages = page_ends[..whole_pages].last().copied().unwrap_or_default();
        assert_eq!((measured.whole_bytes, measured.is_ended), (pages as u64, false), "cut at {cut}");
        // A player leaves out the first 6.5 ms, and nothing has pushed the last ones out.
        let sound = (FRAME * expected.saturating_sub(2) as u32).saturating_sub(Duration::from_micros(6500));
        assert_eq!(measured.duration, sound, "cut at {cut}");
    }
    let measured = measure(&file.bytes[..]).unwrap();
    assert_eq!((measured.duration, measured.is_ended), (Duration::from_secs(3), true));
}

#[test]
fn pauses_and_masks_are_silent_for_both_and_time_goes_on() {
    let mut call = Call::begin();
    let (mut caller, mut agent) = (Tone::new(CALLER_HZ), Tone::new(AGENT_HZ));
    for frame in 0..300 {
        match frame {
            50 => call.recorder.pause(),
            80 => call.recorder.mask(true),
            100 => call.recorder.resume(),
            150 => call.recorder.mask(false),
            200 => call.recorder.mask(true),
            220 => call.recorder.pause(),
            240 => call.recorder.mask(false),
            250 => call.recorder.resume(),
            _ => {}
        }
        call.agent(&agent.packet());
        call.caller(&caller.packet());
    }
    let file = call.finish();
    assert_eq!(file.recorded.duration, Duration::from_secs(6));
    let sound = file.decode();
    // One frame of the codec's own tail belongs to the sound before.
    for (from, to, is_silent) in
        [(10, 50, false), (52, 150, true), (152, 200, false), (202, 250, true), (252, 300, false)]
    {
        let range = from * 320..to * 320;
        let expected = |tone| if is_silent { vec![] } else { vec![tone] };
        assert_eq!(heard(&sound.left[range.clone()]), expected(CALLER_HZ), "{from}..{to}");
        assert_eq!(heard(&sound.right[range]), expected(AGENT_HZ), "{from}..{to}");
    }
}

#[test]
fn a_loss_repeats_the_last_packet_three_times_and_then_is_silent() {
    let mut call = Call::begin();
    for number in 0..20 {
        call.agent(&packet(number, true));
        match number {
            0..5 | 10.. => call.caller(&packet(number, true)),
            5 => call.slot(&Slot::Lost { timestamp: call.caller_timestamp, duration: 5 * 960, next: None }),
            _ => {}
        }
    }
    let file = call.finish();
    assert_eq!(file.recorded.stats.frames_concealed, 3);
    let callers: Vec<Option<u32>> = file.callers()[..12].to_vec();
    let expected = [0, 1, 2, 3, 4, 4, 4, 4].map(Some).into_iter().chain([None, None]).chain([Some(10), Some(11)]);
    assert_eq!(callers, expected.collect::<Vec<_>>());
}

#[test]
fn pauses_of_the_sender_are_silent() {
    let mut call = Call::begin();
    for number in 0..30 {
        call.agent(&packet(number, true));
        match number {
            // DTX: a packet of one byte, a gap, and a loss in the middle of it.
            5 => call.caller(&[SILK_20_MS]),
            6 => call.slot(&Slot::Quiet { timestamp: call.caller_timestamp, duration: 3 * 960 }),
            9 => call.slot(&Slot::Lost { timestamp: call.caller_timestamp, duration: 960, next: None }),
            0..5 | 10.. => call.caller(&packet(number, true)),
            _ => {}
        }
    }
    let callers = call.finish().callers();
    assert_eq!(callers[4..11], [Some(4), None, None, None, None, None, Some(10)]);
}

#[test]
fn packets_of_several_frames_are_cut_and_none_is_decoded() {
    let mut call = Call::begin();
    let mut tone = Tone::new(CALLER_HZ);
    for number in 0..240 {
        call.agent(&packet(number, true));
        if number % 3 == 2 {
            let frames = [tone.packet(), tone.packet(), tone.packet()];
            call.caller(&combined(&frames));
        }
    }
    let file = call.finish();
    assert_eq!(file.recorded.stats, RecorderStats::default());
    assert_eq!(heard(&file.decode().left[16_000..60_000]), [CALLER_HZ]);
}

#[test]
fn short_frames_that_make_up_20_ms_stay_together() {
    let mut call = Call::begin();
    let mut tone = Tone::new(CALLER_HZ);
    for number in 0..240 {
        call.agent(&packet(number, true));
        call.caller(&combined(&[tone.packet_of(160), tone.packet_of(160)]));
    }
    let file = call.finish();
    assert_eq!(file.recorded.stats, RecorderStats::default());
    assert_eq!(heard(&file.decode().left[16_000..60_000]), [CALLER_HZ]);
}

#[test]
fn frames_of_another_length_are_encoded_again() {
    for milliseconds in [5_u32, 10, 40, 60] {
        let mut call = Call::begin();
        let mut tone = Tone::new(CALLER_HZ);
        let mut sent = 0;
        for number in 0..300 {
            call.agent(&packet(number, true));
            while sent + milliseconds <= (number + 1) * 20 {
                call.caller(&tone.packet_of(16 * milliseconds as usize));
                sent += milliseconds;
            }
        }
        let file = call.finish();
        let stats = file.recorded.stats;
        assert_eq!(RecorderStats { recoded: 0, ..stats }, RecorderStats::default(), "{milliseconds} ms");
        assert_eq!(stats.recoded, u64::from(6000 / milliseconds), "{milliseconds} ms");
        let left = file.decode().left;
        assert_eq!(heard(&left[16_000..90_000]), [CALLER_HZ], "{milliseconds} ms");
        assert!(quietest_frame(&left[16_000..90_000]) > 1000.0, "{milliseconds} ms: a frame is missing");
    }
}

#[test]
fn a_caller_who_changes_the_length_of_packets_leaves_no_hole() {
    let mut call = Call::begin();
    let mut tone = Tone::new(CALLER_HZ);
    let mut sent = 0;
    let mut lengths = [20, 20, 10, 10, 60, 20, 60, 60, 20, 40, 10, 10].into_iter().cycle();
    let mut length = lengths.next().unwrap();
    for number in 0..300 {
        call.agent(&packet(number, true));
        while sent + length <= (number + 1) * 20 {
            call.caller(&tone.packet_of(16 * length as usize));
            sent += length;
            length = lengths.next().unwrap();
        }
    }
    let file = call.finish();
    assert_eq!(file.recorded.stats.too_late, 0);
    let left = file.decode().left;
    assert_eq!(heard(&left[16_000..90_000]), [CALLER_HZ]);
    assert!(quietest_frame(&left[16_000..90_000]) > 1000.0, "a frame is missing");
}

#[test]
fn skipped_frames_of_our_line_are_silent_and_keep_their_time() {
    let mut call = Call::begin();
    for number in 0..50 {
        call.agent(&packet(number, true));
        if number == 20 {
            call.skip_agent(25);
        }
    }
    let file = call.finish();
    assert_eq!(file.recorded.duration, FRAME * 75);
    let agents = file.agents();
    assert_eq!((agents[20], agents[21], agents[45], agents[46]), (Some(20), None, None, Some(21)));
}

#[test]
fn a_caller_whose_rtp_restarts_stays_in_place() {
    let mut call = Call::begin();
    for number in 0..200 {
        call.agent(&packet(number, true));
        if number == 100 {
            call.caller_timestamp = call.caller_timestamp.wrapping_add(0x7000_0000);
        }
        call.caller(&packet(number, true));
    }
    let file = call.finish();
    assert_eq!(file.recorded.stats.restarts, 1);
    assert_eq!(file.callers()[..200], (0..200).map(Some).collect::<Vec<_>>());
}

#[test]
fn each_of_several_senders_stays_in_its_place_though_their_timestamps_look_like_one_line() {
    for jump in [20_000u32, 20_000_u32.wrapping_neg()] {
        let mut call = Call::begin();
        for number in 0..200 {
            call.agent(&packet(number, true));
            if number > 0 && number % 20 == 0 {
                call.caller_timestamp = call.caller_timestamp.wrapping_add(jump);
                call.recorder.caller_restarts();
            }
            call.caller(&packet(number, true));
        }
        let file = call.finish();
        assert_eq!(file.callers()[..200], (0..200).map(Some).collect::<Vec<_>>());
    }
}

#[test]
fn a_clock_that_jumps_ahead_by_half_a_second_restarts_its_line() {
    let mut call = Call::begin();
    for number in 0..400 {
        call.agent(&packet(number, true));
        if number == 100 {
            let timestamp = call.caller_timestamp;
            call.slot(&Slot::Quiet { timestamp, duration: 40_000 });
        }
        call.caller(&packet(number, true));
    }
    let callers = call.finish().callers();
    assert_eq!(callers[..100], (0..100).map(Some).collect::<Vec<_>>());
    // The frame in which it happens is written before it shows, so what follows is one frame later.
    assert_eq!(callers[110..400], (109..399).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_way_that_becomes_half_a_second_longer_is_followed() {
    let mut call = Call::begin();
    for number in 0..600 {
        call.agent(&packet(number, true));
        match number {
            0..100 => call.caller(&packet(number, true)),
            125.. => call.caller(&packet(number - 25, true)),
            _ => {}
        }
    }
    let callers = call.finish().callers();
    assert_eq!(callers[200..600], (175..575).map(Some).collect::<Vec<_>>());
}

#[test]
fn a_stalled_worker_loses_no_audio_of_the_agent() {
    let mut call = Call::begin();
    for number in 0..100 {
        if number == 50 {
            call.now += FRAME * 8;
        }
        // Frames that are sent late are sent at once.
        let owed = call.now - call.started > FRAME * number;
        let now = call.now;
        call.agent(&packet(number, true));
        call.caller(&packet(number, true));
        if owed {
            call.now = now;
        }
    }
    let file = call.finish();
    assert_eq!(file.callers()[..100], (0..100).map(Some).collect::<Vec<_>>());
    assert_eq!(file.agents()[..100], (0..100).map(Some).collect::<Vec<_>>());
}

/// Each caller's clock is wrong by 200 ppm for an hour, over a way with jitter and stalls.
#[test]
fn both_sides_stay_within_40_ms_for_an_hour() {
    for (parts_per_million, has_pauses) in [(200.0, true), (-200.0, true), (200.0, false), (-200.0, false), (0.0, true)]
    {
        let seed = 7;
        println!("seed {seed}, {parts_per_million} ppm, pauses: {has_pauses}");
        let file = hour(parts_per_million, has_pauses, seed);
        let stats = file.recorded.stats;
        let corrections = stats.frames_left_out + stats.frames_repeated;
        let least = if parts_per_million == 0.0 { 0..=6 } else { 34..=42 };
        assert!(least.contains(&corrections), "{corrections} corrections");
        assert_eq!(file.recorded.duration, Duration::from_secs(3600));
        let worst = file
            .callers()
            .into_iter()
            .enumerate()
            .filter_map(|(frame, number)| {
                let heard_at = f64::from(number?) * 20.0 * (1.0 + parts_per_million / 1e6) + WAY_MS;
                Some((frame as f64 * 20.0 - heard_at).abs())
            })
            .fold(0.0, f64::max);
        assert!(worst <= 40.0, "{worst} ms off");
        assert_eq!((stats.too_late, stats.too_early, stats.restarts), (0, 0, 0));
        println!("{corrections} corrections, at worst {worst:.1} ms off, {stats:?}");
    }
}

proptest! {
    #[test]
    fn any_slots_in_any_order_never_panic_and_last_as_long_as_the_master_clock(
        steps in prop::collection::vec(step(), 0..400),
    ) {
        let mut recorder = Recorder::new(1);
        let mut now = Instant::now();
        let (mut timestamp, mut frames) = (0_u32, 0_u32);
        let mut bytes = Vec::new();
        for step in steps {
            match step {
                Step::Wait(milliseconds) => now += Duration::from_millis(milliseconds),
                Step::Agent(skipped, packet) => {
                    let skipped = if frames == 0 { 0 } else { skipped };
                    timestamp = timestamp.wrapping_add(960 * (1 + skipped));
                    frames += 1 + skipped;
                    recorder.agent_frame(timestamp, &packet, now);
                }
                Step::Caller(slot) => recorder.caller(&slot, now),
                Step::Silent(pause, mask) => {
                    if pause { recorder.pause() } else { recorder.resume() }
                    recorder.mask(mask);
                }
            }
            while let Some(page) = recorder.poll_page() {
                bytes.extend_from_slice(&page);
            }
            prop_assert_eq!(recorder.duration(), FRAME * frames);
        }
        let recorded = recorder.finish();
        recorded.pages.iter().for_each(|page| bytes.extend_from_slice(page));
        prop_assert_eq!(recorded.duration, FRAME * frames);
        let packets = packets_of(&bytes);
        prop_assert_eq!(packets.len() as u32, 2 + frames + 1);
        for packet in &packets[2..] {
            let (caller, agent) = both(&packet.data);
            prop_assert_eq!(inspect(&caller).unwrap().duration, 960);
            prop_assert_eq!(inspect(agent).unwrap().duration, 960);
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Wait(u64),
    Agent(u32, Vec<u8>),
    Caller(Slot),
    Silent(bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let payload = prop_oneof![
        Just(packet(1, true)),
        Just(vec![SILK_20_MS]),
        // Two to six frames of 10 ms; 60 ms; 2.5 ms.
        (2_u8..7).prop_map(|count| [vec![8 << 3 | 3, count], vec![0; usize::from(count) * 9]].concat()),
        Just(vec![11 << 3, 1, 2, 3]),
        Just(vec![28 << 3, 1, 2, 3]),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    let timestamp = prop_oneof![(0_u32..200).prop_map(|frame| frame * 960), 0_u32..200_000, any::<u32>()];
    let duration = prop_oneof![0_u32..48_000, any::<u32>()];
    let slot = prop_oneof![
        (timestamp.clone(), payload.clone())
            .prop_map(|(timestamp, payload)| Slot::Packet { timestamp, payload: payload.into() }),
        (timestamp.clone(), duration.clone()).prop_map(|(timestamp, duration)| Slot::Lost {
            timestamp,
            duration,
            next: None
        }),
        (timestamp, duration).prop_map(|(timestamp, duration)| Slot::Quiet { timestamp, duration }),
    ];
    prop_oneof![
        2 => (0_u64..100).prop_map(Step::Wait),
        4 => (prop_oneof![9 => Just(0_u32), 1 => 0_u32..50], payload).prop_map(|(skip, packet)| Step::Agent(skip, packet)),
        4 => slot.prop_map(Step::Caller),
        1 => any::<(bool, bool)>().prop_map(|(pause, mask)| Step::Silent(pause, mask)),
    ]
}

/// TOC byte: SILK wideband 20 ms mono, one frame.
const SILK_20_MS: u8 = 9 << 3;

/// What the fastest packet of a simulated caller takes.
const WAY_MS: f64 = 60.0;

/// A cheap packet of 20 ms that carries its number and the voice bit.
fn packet(number: u32, voice: bool) -> Vec<u8> {
    let mut packet = vec![SILK_20_MS, if voice { 0x80 } else { 0 }];
    packet.extend(number.to_be_bytes());
    packet
}

fn number_of(packet: &[u8]) -> Option<u32> {
    (packet.len() == 6).then(|| u32::from_be_bytes(packet[2..].try_into().unwrap()))
}

/// An hour of a caller with a wrong clock, cheap packets and a rough way.
fn hour(parts_per_million: f64, has_pauses: bool, seed: u64) -> File {
    let mut chance = StdRng::seed_from_u64(seed);
    let mut call = Call::begin();
    call.caller_timestamp = u32::MAX - 48_000;
    let started = call.started;
    let mut last_arrival = 0.0_f64;
    let mut stalled_until = 0.0_f64;
    let mut next_number = 0_u32;
    let mut next_arrival = None;
    for frame in 0..180_000_u32 {
        let tick = f64::from(frame) * 20.0;
        while *next_arrival.get_or_insert_with(|| {
            let sent = f64::from(next_number) * 20.0 * (1.0 + parts_per_million / 1e6);
            if chance.random_bool(1.0 / 250.0) {
                stalled_until = sent + WAY_MS + chance.random_range(60.0..220.0);
            }
            let jitter = -f64::ln(chance.random_range(0.0001..1.0)) * 8.0;
            last_arrival = (sent + WAY_MS + jitter).max(stalled_until).max(last_arrival);
            last_arrival
        }) < tick
        {
            let at = started + Duration::from_secs_f64(next_arrival.take().unwrap() / 1000.0);
            let voice = !has_pauses || next_number % 200 < 150;
            let payload = packet(next_number, voice).into();
            call.recorder.caller(&Slot::Packet { timestamp: call.caller_timestamp, payload }, at);
            call.caller_timestamp = call.caller_timestamp.wrapping_add(960);
            next_number += 1;
        }
        // A worker's tick is late by some milliseconds at times, never early.
        call.now = started + Duration::from_secs_f64((tick + chance.random_range(0.0..3.0)) / 1000.0);
        call.agent(&SILENCE);
        call.take_pages();
    }
    call.finish()
}

/// A recorder with a clock, a line of ours and a caller's line.
struct Call {
    recorder: Recorder,
    started: Instant,
    now: Instant,
    agent_timestamp: u32,
    caller_timestamp: u32,
    bytes: Vec<u8>,
}

impl Call {
    fn begin() -> Self {
        let now = Instant::now();
        Self {
            recorder: Recorder::new(0x5eed),
            started: now,
            now,
            agent_timestamp: u32::MAX - 5000,
            caller_timestamp: 77_777,
            bytes: Vec::new(),
        }
    }

    /// One frame of ours; 20 ms pass.
    fn agent(&mut self, packet: &[u8]) {
        self.recorder.agent_frame(self.agent_timestamp, packet, self.now);
        self.agent_timestamp = self.agent_timestamp.wrapping_add(960);
        self.now += FRAME;
    }

    fn skip_agent(&mut self, frames: u32) {
        self.agent_timestamp = self.agent_timestamp.wrapping_add(960 * frames);
        self.now += FRAME * frames;
    }

    /// The next packet of the caller's, just after our last frame.
    fn caller(&mut self, packet: &[u8]) {
        let payload = Bytes::copy_from_slice(packet);
        self.slot(&Slot::Packet { timestamp: self.caller_timestamp, payload });
    }

    fn slot(&mut self, slot: &Slot) {
        let duration = match slot {
            Slot::Packet { payload, .. } => inspect(payload).unwrap().duration,
            Slot::Lost { duration, .. } | Slot::Quiet { duration, .. } => *duration,
        };
        self.recorder.caller(slot, self.now - FRAME + Duration::from_millis(1));
        self.caller_timestamp = self.caller_timestamp.wrapping_add(duration);
    }

    fn take_pages(&mut self) {
        while let Some(page) = self.recorder.poll_page() {
            self.bytes.extend_from_slice(&page);
        }
    }

    /// The file as it is on disk now.
    fn taken(&mut self) -> File {
        self.take_pages();
        let recorded = Recorded { pages: Vec::new(), duration: Duration::ZERO, stats: RecorderStats::default() };
        File { bytes: self.bytes.clone(), recorded }
    }

    fn finish(mut self) -> File {
        self.take_pages();
        let recorded = self.recorder.finish();
        recorded.pages.iter().for_each(|page| self.bytes.extend_from_slice(page));
        File { bytes: self.bytes, recorded }
    }
}

struct File {
    bytes: Vec<u8>,
    recorded: Recorded,
}

/// At 16 kHz.
struct Sound {
    left: Vec<i16>,
    right: Vec<i16>,
}

impl File {
    fn packets(&self) -> Vec<ogg::Packet> {
        packets_of(&self.bytes)
    }

    /// The numbers of the caller's packets, frame by frame; None is silence.
    fn callers(&self) -> Vec<Option<u32>> {
        self.packets()[2..].iter().map(|packet| number_of(&both(&packet.data).0)).collect()
    }

    fn agents(&self) -> Vec<Option<u32>> {
        self.packets()[2..].iter().map(|packet| number_of(both(&packet.data).1)).collect()
    }

    /// As a player does it: without the pre-skip, and to the last granule position.
    fn decode(&self) -> Sound {
        let packets = self.packets();
        let mut decoder = ::opus::MSDecoder::new(16_000, 2, 0, &[0, 1]).unwrap();
        let (mut left, mut right) = (Vec::new(), Vec::new());
        for packet in &packets[2..] {
            let mut pcm = [0; 640];
            assert_eq!(decoder.decode(&packet.data, &mut pcm, false).unwrap(), 320);
            left.extend(pcm.iter().step_by(2));
            right.extend(pcm.iter().skip(1).step_by(2));
        }
        let end = packets.last().unwrap().absgp_page() as usize / 3;
        let cut = |channel: Vec<i16>| channel[312 / 3..end].to_vec();
        Sound { left: cut(left), right: cut(right) }
    }
}

fn packets_of(bytes: &[u8]) -> Vec<ogg::Packet> {
    let mut reader = PacketReader::new(Cursor::new(bytes));
    std::iter::from_fn(|| reader.read_packet().ok().flatten()).collect()
}

/// Where each page ends (RFC 3533 §6).
fn page_ends(bytes: &[u8]) -> Vec<usize> {
    let mut ends = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        assert_eq!(&bytes[at..at + 4], b"OggS");
        let segments = usize::from(bytes[at + 26]);
        let body: usize = bytes[at + 27..at + 27 + segments].iter().map(|size| usize::from(*size)).sum();
        at += 27 + segments + body;
        ends.push(at);
    }
    ends
}

/// The caller's packet in ordinary form, and the agent's. Knows what a recorder writes: code 0, and code 3 with sizes.
fn both(packet: &[u8]) -> (Vec<u8>, &[u8]) {
    let length = |at: usize| match packet[at] {
        short @ 0..=251 => (usize::from(short), 1),
        low => (usize::from(packet[at + 1]) * 4 + usize::from(low), 2),
    };
    if packet[0] & 3 == 0 {
        let (size, used) = length(1);
        let end = 1 + used + size;
        return ([&packet[..1], &packet[1 + used..end]].concat(), &packet[end..]);
    }
    assert_eq!((packet[0] & 3, packet[1] & 0xc0), (3, 0x80));
    let (mut at, mut sizes) = (2, Vec::new());
    for _ in 0..packet[1] & 0x3f {
        let (size, used) = length(at);
        sizes.push((at, at + used, size));
        at += used;
    }
    let end = at + sizes.iter().map(|(_, _, size)| size).sum::<usize>();
    let mut ordinary = packet[..2].to_vec();
    sizes[..sizes.len() - 1].iter().for_each(|(from, to, _)| ordinary.extend(&packet[*from..*to]));
    ordinary.extend(&packet[at..end]);
    (ordinary, &packet[end..])
}

/// A person who hums.
struct Tone {
    hz: f64,
    samples: u64,
    encoder: Encoder,
    raw: ::opus::Encoder,
}

impl Tone {
    fn new(hz: f64) -> Self {
        let mut raw = ::opus::Encoder::new(16_000, ::opus::Channels::Mono, ::opus::Application::Voip).unwrap();
        raw.set_complexity(1).unwrap();
        raw.set_bitrate(::opus::Bitrate::Bits(40_000)).unwrap();
        Self { hz, samples: 0, encoder: Encoder::new(SampleRate::Hz16000, Profile::Eco).unwrap(), raw }
    }

    fn packet(&mut self) -> Vec<u8> {
        let mut packet = Vec::new();
        let pcm = self.pcm(320);
        self.encoder.encode(&pcm, &mut packet).unwrap();
        packet
    }

    /// So many samples in one frame.
    fn packet_of(&mut self, samples: usize) -> Vec<u8> {
        let pcm = self.pcm(samples);
        self.raw.encode_vec(&pcm, 1000).unwrap()
    }

    fn pcm(&mut self, samples: usize) -> Vec<i16> {
        let from = self.samples;
        self.samples += samples as u64;
        let angle = |sample: u64| sample as f64 * self.hz * std::f64::consts::TAU / 16_000.0;
        (from..self.samples).map(|sample| (angle(sample).sin() * 8000.0) as i16).collect()
    }
}

fn combined(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = vec![0; 2000];
    let packets: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    let length = ::opus::Repacketizer::new().unwrap().combine(&packets, &mut out).unwrap();
    out.truncate(length);
    out
}

/// Which of the two tones are in the sound.
fn heard(sound: &[i16]) -> Vec<f64> {
    [CALLER_HZ, AGENT_HZ].into_iter().filter(|hz| amplitude(sound, *hz) > 800.0).collect()
}

/// How strong one frequency is, by correlation with it.
fn amplitude(sound: &[i16], hz: f64) -> f64 {
    let (mut sine, mut cosine) = (0.0, 0.0);
    for (index, sample) in sound.iter().enumerate() {
        let angle = index as f64 * hz * std::f64::consts::TAU / 16_000.0;
        sine += angle.sin() * f64::from(*sample);
        cosine += angle.cos() * f64::from(*sample);
    }
    2.0 * sine.hypot(cosine) / sound.len() as f64
}

/// The root mean square of the quietest 20 ms.
fn quietest_frame(sound: &[i16]) -> f64 {
    let energy = |frame: &[i16]| frame.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>();
    sound.chunks_exact(320).map(|frame| (energy(frame) / 320.0).sqrt()).fold(f64::MAX, f64::min)
}
