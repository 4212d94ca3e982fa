//! What the caller's decoder plays, whatever is on air.

use super::*;
use crate::opus::{Decoder, Encoder, SampleRate, inspect};
use crate::prompt::Builtin;
use bytes::Bytes;
use std::f64::consts::TAU;

const RATE: SampleRate = SampleRate::Hz16000;

#[test]
fn silence_is_the_cached_packet() {
    let mut call = Call::new(Source::new());
    let (filled, packet) = call.fill();
    assert!(!filled.talking);
    assert_eq!(packet, SILENCE);
}

#[test]
fn a_live_agent_is_heard_and_then_silence_costs_no_encoding() {
    for rate in SampleRate::ALL {
        let mut call = Call::live(rate);
        call.say(&tone(440.0, rate, 25));
        let mut heard = Vec::new();
        for _ in 0..25 {
            let (filled, _) = call.fill();
            assert!(filled.talking);
            heard.extend(call.hear());
        }
        assert!(peak(&heard[heard.len() / 2..]) > 6000, "{rate:?}");
        let (last, _) = call.fill();
        assert!(!last.talking, "the encoder's last samples belong to no talk-spurt");
        call.hear();
        for _ in 0..50 {
            let (_, packet) = call.fill();
            assert_eq!(packet, SILENCE);
            let rest = peak(&call.hear());
            assert!(rest <= 700, "{rate:?} {rest}");
        }
    }
}

#[test]
fn a_hold_lies_over_what_is_on_air_and_a_playback_over_the_hold() {
    let mut call = Call::live(RATE);
    call.say(&tone(440.0, RATE, 20));
    call.fill();
    call.source.hold(Vec::new());
    for _ in 0..50 {
        let (filled, packet) = call.fill();
        assert_eq!((filled.talking, filled.ended, packet), (false, None, SILENCE.to_vec()), "an empty hold is silence");
    }
    call.source.play(vec![Prompt::builtin(Builtin::Busy).unwrap()], Repeat::Loop);
    call.fill();
    assert!(call.fill().0.talking);
    assert!(call.source.stop_playback());
    call.fill();
    assert_eq!(call.fill().1, SILENCE, "the hold is there again");
    assert!(call.source.unhold());
    assert!(!call.source.unhold());
    let talking = (0..25).filter(|_| call.fill().0.talking).count();
    assert_eq!(talking, 19, "what the agent had queued has waited");
}

#[test]
fn what_a_muted_agent_says_is_lost_and_the_wave_ends_softly() {
    let mut call = Call::live(RATE);
    call.say(&tone(440.0, RATE, 20));
    for _ in 0..5 {
        assert!(call.fill().0.talking);
    }
    call.source.mute(true);
    let (closing, packet) = call.fill();
    assert!(!closing.talking && packet != SILENCE);
    // The codec is 6.5 ms late and the wave is led to zero in 5 ms.
    let end = peak(&call.hear()[184..]);
    assert!(end < 2000, "{end}");
    for _ in 0..4 {
        assert_eq!(call.fill().1, SILENCE);
    }
    call.source.mute(false);
    let talking = (0..25).filter(|_| call.fill().0.talking).count();
    assert_eq!(talking, 10);
}

/// The switch to the cached packet adds no edge: no step between neighbouring samples is larger than in the sound.
#[test]
fn nothing_clicks_when_speech_stops_or_starts_again() {
    for stop in [Stop::Dry, Stop::Clear, Stop::Pause] {
        let mut call = Call::live(RATE);
        let frames = if matches!(stop, Stop::Dry) { 30 } else { 60 };
        call.say(&tone(437.0, RATE, frames));
        let mut heard = Vec::new();
        for _ in 0..30 {
            call.fill();
            heard.extend(call.hear());
        }
        let largest_step = step(&heard);
        let largest_peak = peak(&heard);
        match stop {
            Stop::Dry => {}
            Stop::Clear => drop(call.source.queue_mut().unwrap().clear()),
            Stop::Pause => call.source.queue_mut().unwrap().pause(),
        }
        let mut after = vec![*heard.last().unwrap()];
        for _ in 0..20 {
            call.fill();
            after.extend(call.hear());
        }
        println!("{stop:?}: step {largest_step} then {}, peak {largest_peak} then {}", step(&after), peak(&after));
        assert!(step(&after) <= largest_step * 3 / 2, "{stop:?} {} {largest_step}", step(&after));
        assert!(peak(&after[after.len() - 320 * 15..]) <= 20, "{stop:?}");
        call.source.queue_mut().unwrap().resume();
        call.say(&tone(440.0, RATE, 30));
        let mut again = vec![*after.last().unwrap()];
        for _ in 0..30 {
            call.fill();
            again.extend(call.hear());
        }
        println!("again: step {}, peak {}", step(&again), peak(&again));
        assert!(step(&again) <= largest_step * 3 / 2, "{stop:?}");
        assert!(peak(&again) <= largest_peak * 3 / 2, "{stop:?} {} {largest_peak}", peak(&again));
        assert!(peak(&again[again.len() - 320..]) > 5000, "{stop:?}");
    }
}

/// Streamed silence costs no more than silence that is not sent, and keeps its place in the line.
#[test]
fn zeros_are_encoded_for_five_frames_and_then_the_cached_packet_goes_out() {
    for rate in SampleRate::ALL {
        let mut call = Call::live(rate);
        let zeros = vec![0; 20 * rate.samples_per_frame()];
        call.say(&[zeros.clone(), tone(440.0, rate, 10), zeros, tone(440.0, rate, 10)].concat());
        for frame in 0..60 {
            let (filled, packet) = call.fill();
            let is_cached = frame < 20 || (35..50).contains(&frame);
            assert_eq!((packet == SILENCE, filled.talking), (is_cached, !is_cached), "{rate:?} {frame}");
            call.hear();
        }
        assert_eq!(call.source.queue().unwrap().queued(), Duration::ZERO);
    }
}

#[test]
fn the_faintest_noise_is_no_silence() {
    let mut call = Call::live(RATE);
    let mut faint = vec![0; 20 * 320];
    faint.iter_mut().step_by(320).for_each(|sample| *sample = 1);
    call.say(&faint);
    assert!((0..20).all(|_| call.fill().0.talking));
}

#[test]
fn a_stream_of_zeros_that_stops_costs_no_last_frame() {
    let mut call = Call::live(RATE);
    call.say(&[tone(440.0, RATE, 10), vec![0; 20 * 320]].concat());
    for _ in 0..30 {
        call.fill();
    }
    assert_eq!(call.fill().1, SILENCE);
}

/// Audio after a pause has no more error than if the zeros had been encoded, and no edge.
#[test]
fn speech_with_pauses_sounds_as_if_its_zeros_were_encoded() {
    let (mut errors, mut steps) = ([0.0; 2], [0; 2]);
    for clip in ["caller", "agent"] {
        for (pause_frames, shift) in [(6, 0), (7, 100), (25, 200), (100, 319)] {
            let mut said = vec![0; 6 * 320];
            let mut returns = Vec::new();
            for piece in recording(clip).chunks(50 * 320) {
                returns.push(said.len());
                said.extend_from_slice(piece);
                said.resize(said.len() + pause_frames * 320 + shift, 0);
            }
            said.resize(said.len().next_multiple_of(320), 0);
            let mut call = Call::live(RATE);
            call.say(&said);
            let mut heard = Vec::new();
            for _ in 0..said.len() / 320 {
                call.fill();
                heard.extend(call.hear());
            }
            for (index, heard) in [heard_when_all_is_encoded(&said), heard].into_iter().enumerate() {
                // The first 100 ms of each piece, which the codec gives 6.5 ms late.
                for at in &returns {
                    let (said, heard) = (&said[*at..at + 1600], &heard[at + 104..at + 1704]);
                    let error = |(left, right): (&i16, &i16)| (f64::from(*left) - f64::from(*right)).powi(2);
                    errors[index] += said.iter().zip(heard).map(error).sum::<f64>();
                    steps[index] = steps[index].max(step(heard));
                }
            }
        }
    }
    println!(
        "all encoded: error {:.0}, step {}; with cached packets: {:.0}, {}",
        errors[0], steps[0], errors[1], steps[1]
    );
    assert!(errors[1] <= errors[0] * 1.1, "{errors:?}");
    assert!(steps[1] <= steps[0] * 11 / 10, "{steps:?}");
}

#[test]
fn what_waits_when_the_agent_changes_its_form_is_heard_first() {
    let forms = [Some(SampleRate::Hz8000), Some(SampleRate::Hz16000), Some(SampleRate::Hz48000), None];
    for before in forms {
        for after in forms {
            let mut call = Call::live_in(before);
            call.say_tone_in(before, 440.0, 20);
            call.source.queue_mut().unwrap().change_to(after);
            call.say_tone_in(after, 900.0, 20);
            let (mut talking, mut heard) = (Vec::new(), Vec::new());
            for _ in 0..42 {
                talking.push(call.fill().0.talking);
                heard.extend(call.hear());
            }
            assert_eq!(talking.iter().filter(|talks| **talks).count(), 40, "{before:?} {after:?}");
            // One frame between two encoders lets the phone's decoder settle.
            let gap = usize::from(before != after);
            assert!(
                talking[..20].iter().chain(&talking[20 + gap..40 + gap]).all(|talks| *talks),
                "{before:?} {after:?}"
            );
            let (first, second) = (pitch(&heard[4 * 320..18 * 320]), pitch(&heard[25 * 320..38 * 320]));
            assert!(
                (first - 440.0).abs() < 10.0 && (second - 900.0).abs() < 10.0,
                "{before:?} {after:?} {first} {second}"
            );
        }
    }
}

/// An encoder that still remembers the previous spurt would predict from audio that the phone's decoder has forgotten.
#[test]
fn a_new_spurt_begins_as_the_agent_said_it() {
    for step in 0..20 {
        let said = tone(300.0 + 40.0 * f64::from(step), RATE, 20);
        let mut call = Call::live(RATE);
        call.say(&said);
        for _ in 0..20 {
            call.fill();
            call.hear();
        }
        call.source.switch_to_silence();
        for _ in 0..10 {
            call.fill();
            call.hear();
        }
        call.source.switch_to_agent();
        call.say(&said);
        let mut heard = Vec::new();
        for _ in 0..5 {
            call.fill();
            heard.extend(call.hear());
        }
        // The codec is 6.5 ms late; the first 5 ms of the spurt are faded in.
        let error: f64 = heard[184..1144].iter().zip(&said[80..1040]).map(|(left, right)| squared(left - right)).sum();
        let power: f64 = said[80..1040].iter().map(|&sample| squared(sample)).sum();
        assert!(error / power < 0.1, "{step} {}", error / power);
    }
}

#[test]
fn a_frame_needs_no_new_memory() {
    let mut call = Call::live(RATE);
    call.packet.reserve_exact(crate::opus::MAX_ENCODED_BYTES);
    let memory = call.packet.as_ptr();
    call.say(&tone(440.0, RATE, 50));
    for _ in 0..100 {
        call.source.fill(&mut call.packet);
        assert_eq!(call.packet.as_ptr(), memory);
    }
}

#[test]
fn the_agents_queue_waits_while_a_prompt_is_on_air() {
    let mut call = Call::live(RATE);
    call.say(&tone(440.0, RATE, 10));
    call.source.switch_to_prompts(vec![Prompt::builtin(Builtin::Goodbye).unwrap()], Repeat::Once);
    let frames = Prompt::builtin(Builtin::Goodbye).unwrap().frames().len();
    for index in 1..=frames {
        let (filled, _) = call.fill();
        assert!(filled.talking);
        assert_eq!(filled.ended.is_some(), index == frames);
    }
    assert_eq!(call.fill().1, SILENCE);
    assert_eq!(call.source.queue().unwrap().queued().as_millis(), 200);
    call.source.switch_to_agent();
    assert!(call.fill().0.talking);
}

/// A live agent keeps speaking while a prompt interrupts it; afterwards it is not late by the prompt's length.
#[test]
fn a_live_agents_audio_is_discarded_meanwhile() {
    let mut call = Call::live(RATE);
    let frame = tone(440.0, RATE, 1);
    let speak = |call: &mut Call| {
        call.say(&frame);
        call.fill().0
    };
    for _ in 0..250 {
        speak(&mut call);
    }
    call.source.play(vec![Prompt::builtin(Builtin::Hold).unwrap()], Repeat::Loop);
    for _ in 0..250 {
        speak(&mut call);
    }
    let waiting = call.source.queue().unwrap().queued().as_millis();
    assert!(waiting <= 40, "{waiting} ms wait");
    call.source.stop_playback();
    for _ in 0..4 {
        speak(&mut call);
    }
    assert!(speak(&mut call).talking);
    assert!(call.source.queue().unwrap().queued().as_millis() <= 60);
}

#[test]
fn playbacks_interrupt_and_give_way_again() {
    let mut call = Call::live(RATE);
    call.source.switch_to_prompts(vec![Prompt::builtin(Builtin::Hold).unwrap()], Repeat::Loop);
    let beep = Prompt::builtin(Builtin::Beep).unwrap();
    call.fill();
    call.source.play(vec![beep.clone(), beep.clone()], Repeat::Once);
    assert!(call.source.is_playing());
    assert_eq!(call.fill().1, SILENCE, "one frame between two sounds");
    let frames = 2 * beep.frames().len();
    for index in 1..=frames {
        assert_eq!(call.fill().0.ended, (index == frames).then_some(Ended::Playback));
    }
    assert!(!call.source.is_playing());
    assert_eq!(call.fill().1, SILENCE);
    assert!(call.fill().0.talking, "the hold music goes on");
    assert!(!call.source.stop_playback());
}

#[test]
fn one_frame_of_silence_stands_between_two_sounds() {
    let mut call = Call::live(RATE);
    call.say(&tone(440.0, RATE, 10));
    call.fill();
    let hold = Prompt::builtin(Builtin::Hold).unwrap();
    call.source.switch_to_prompts(vec![hold], Repeat::Loop);
    assert_eq!(call.fill().1, SILENCE);
    assert!(call.fill().0.talking);
    call.source.switch_to_agent();
    assert_eq!(call.fill().1, SILENCE);
    assert!(call.fill().0.talking);
}

#[test]
fn a_looped_prompt_begins_again() {
    let busy = Prompt::builtin(Builtin::Busy).unwrap();
    let mut call = Call::new(Source::new());
    call.source.switch_to_prompts(vec![busy.clone()], Repeat::Loop);
    for round in 0..3 {
        for frame in busy.frames() {
            let (filled, packet) = call.fill();
            assert_eq!(packet.as_slice(), &frame[..], "round {round}");
            assert_eq!(filled.ended, None);
        }
    }
}

#[test]
fn an_opus_agent_is_relayed_untouched() {
    let mut source = Source::new();
    source.attach_agent(AgentQueue::opus(DEFAULT_MAX_BUFFER), Profile::Eco).unwrap();
    source.switch_to_agent();
    let packet = Bytes::from_static(&[0x48, 0x80, 1, 2, 3]);
    source.queue_mut().unwrap().push_opus(packet.clone()).unwrap();
    let mut call = Call::new(source);
    let (filled, relayed) = call.fill();
    assert!(filled.talking);
    assert_eq!(relayed, packet);
    assert_eq!(call.fill().1, SILENCE);
}

#[test]
fn without_a_voice_live_is_silence() {
    let mut call = Call::live(RATE);
    call.say(&tone(440.0, RATE, 10));
    assert!(call.source.detach_agent().is_some());
    assert_eq!(call.fill().1, SILENCE);
    assert!(call.source.queue().is_none());
}

/// Random sources, fixed seed: every frame is one valid 20 ms packet.
#[test]
fn however_the_sources_change_every_frame_is_one_packet() {
    let mut chance = 0x2545_f491_4f6c_dd1d_u64;
    let hold = Prompt::builtin(Builtin::Hold).unwrap();
    let goodbye = Prompt::builtin(Builtin::Goodbye).unwrap();
    let mut call = Call::live(RATE);
    for _ in 0..3000 {
        chance ^= chance << 13;
        chance ^= chance >> 7;
        chance ^= chance << 17;
        match chance % 24 {
            0 => call.source.switch_to_prompts(vec![hold.clone()], Repeat::Loop),
            1 => call.source.switch_to_prompts(vec![goodbye.clone()], Repeat::Once),
            2 | 3 => call.source.switch_to_agent(),
            4 => call.source.switch_to_silence(),
            5 => drop(call.source.queue_mut().unwrap().clear()),
            6 => call.source.queue_mut().unwrap().pause(),
            7 => call.source.queue_mut().unwrap().resume(),
            8..12 => call.say(&tone(440.0, RATE, 5)[..(chance % 1600) as usize]),
            _ => {}
        }
        let (_, packet) = call.fill();
        assert_eq!(inspect(&packet).unwrap().duration, 960);
        call.hear();
    }
}

#[derive(Debug, Clone, Copy)]
enum Stop {
    Dry,
    Clear,
    Pause,
}

/// A source and the phone at its other end.
struct Call {
    source: Source,
    packet: Vec<u8>,
    phone: Decoder,
}

impl Call {
    fn new(source: Source) -> Self {
        Self { source, packet: Vec::new(), phone: Decoder::new(RATE).unwrap() }
    }

    fn live(rate: SampleRate) -> Self {
        Self::live_in(Some(rate))
    }

    fn live_in(rate: Option<SampleRate>) -> Self {
        let mut source = Source::new();
        source.attach_agent(AgentQueue::new(rate, DEFAULT_MAX_BUFFER), Profile::Eco).unwrap();
        source.switch_to_agent();
        Self::new(source)
    }

    fn say(&mut self, samples: &[i16]) {
        let bytes: Vec<u8> = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
        self.source.queue_mut().unwrap().push_pcm(&bytes).unwrap();
    }

    /// A tone in samples at this rate, or in Opus packets.
    fn say_tone_in(&mut self, rate: Option<SampleRate>, hz: f64, frames: usize) {
        let Some(rate) = rate else {
            let mut encoder = Encoder::new(RATE, Profile::Hq).unwrap();
            for frame in tone(hz, RATE, frames).chunks_exact(320) {
                let mut packet = Vec::new();
                encoder.encode(frame, &mut packet).unwrap();
                self.source.queue_mut().unwrap().push(packet.into()).unwrap();
            }
            return;
        };
        self.say(&tone(hz, rate, frames));
    }

    fn fill(&mut self) -> (Filled, Vec<u8>) {
        let filled = self.source.fill(&mut self.packet);
        (filled, self.packet.clone())
    }

    fn hear(&mut self) -> Vec<i16> {
        let mut heard = Vec::new();
        self.phone.decode(&self.packet, &mut heard).unwrap();
        heard
    }
}

fn tone(hz: f64, rate: SampleRate, frames: usize) -> Vec<i16> {
    (0..frames * rate.samples_per_frame())
        .map(|index| (8000.0 * (TAU * hz * index as f64 / f64::from(rate.hz())).sin()) as i16)
        .collect()
}

fn peak(pcm: &[i16]) -> u16 {
    pcm.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0)
}

fn squared(sample: i16) -> f64 {
    f64::from(sample).powi(2)
}

/// Of real speech, whole frames of it.
fn recording(clip: &str) -> Vec<i16> {
    let path = format!("{}/../tests/simulator/speech/{clip}.wav", env!("CARGO_MANIFEST_DIR"));
    let mut samples: Vec<i16> = hound::WavReader::open(path).unwrap().samples().map(Result::unwrap).collect();
    samples.truncate(samples.len() / 320 * 320);
    samples
}

/// The decoded audio of samples that are all encoded, frame by frame.
fn heard_when_all_is_encoded(samples: &[i16]) -> Vec<i16> {
    let (mut encoder, mut phone) = (Encoder::new(RATE, Profile::Eco).unwrap(), Decoder::new(RATE).unwrap());
    let (mut packet, mut heard) = (Vec::new(), Vec::new());
    for frame in samples.chunks_exact(320) {
        encoder.encode(frame, &mut packet).unwrap();
        phone.decode(&packet, &mut heard).unwrap();
    }
    heard
}

/// By its zero crossings, in Hz.
fn pitch(pcm: &[i16]) -> f64 {
    let crossings = pcm.windows(2).filter(|pair| (pair[0] < 0) != (pair[1] < 0)).count();
    crossings as f64 / 2.0 / RATE.duration(pcm.len() as u64).as_secs_f64()
}

/// The largest step between neighbouring samples.
fn step(pcm: &[i16]) -> u16 {
    pcm.windows(2).map(|pair| pair[0].abs_diff(pair[1])).max().unwrap_or(0)
}
