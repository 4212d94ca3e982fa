//! Real speech is noticed in time, and nothing else is.

use super::*;
use crate::opus::{Encoder, Profile, SILENCE};
use bytes::Bytes;
use proptest::prelude::*;

const RATE: SampleRate = SampleRate::Hz16000;
const FRAME_SAMPLES: usize = 320;

#[test]
fn speech_is_noticed_within_200_ms_of_its_beginning() {
    for clip in CLIPS {
        for gain_db in [0.0, -12.0] {
            let sound = louder(&recording(clip), gain_db);
            let lead = quiet_room(50);
            let events = heard_in(&encoded(&[&lead[..], &sound, &quiet_room(60)].concat()));
            let onset = Duration::from_secs(1) + onset_of(&sound);
            let Some(SpeechEvent::Started { at }) = events.first() else { panic!("{clip}: {events:?}") };
            println!("{clip} {gain_db} dB: onset {onset:?}, noticed at {at:?}; {events:?}");
            assert!(*at > onset && *at - onset <= Duration::from_millis(200), "{clip}: {onset:?} {at:?}");
            assert!(matches!(events.last(), Some(SpeechEvent::Stopped { .. })), "{clip}: {events:?}");
        }
    }
}

#[test]
fn it_stops_after_half_a_second_and_starts_again() {
    for clip in CLIPS {
        let sound = recording(clip);
        let pause = quiet_room(50);
        let events = heard_in(&encoded(&[&pause[..], &sound, &pause, &sound, &pause].concat()));
        let starts = events.iter().filter(|event| matches!(event, SpeechEvent::Started { .. })).count();
        println!("{clip}: {events:?}");
        assert!(starts >= 2, "{clip}: {events:?}");
        assert!(events.len() == 2 * starts, "every start has its stop: {events:?}");
        let end_of_first = Duration::from_secs(1) + RATE.duration(sound.len() as u64);
        let stopped = events.iter().any(|event| match event {
            SpeechEvent::Stopped { at } => at.abs_diff(end_of_first) < Duration::from_millis(400),
            SpeechEvent::Started { .. } => false,
        });
        assert!(stopped, "{clip}: {events:?}");
    }
}

#[test]
fn a_dtx_pause_ends_speech() {
    let mut detector = SpeechDetector::new();
    let mut events = Vec::new();
    for payload in encoded(&recording("caller")) {
        events.extend(detector.hear(&packet(payload)));
    }
    let was_speaking = detector.is_speaking();
    events.extend(detector.hear(&Slot::Quiet { timestamp: 0, duration: 48_000 }));
    println!("{events:?}");
    assert!(was_speaking && !detector.is_speaking());
    assert!(matches!(events.last(), Some(SpeechEvent::Stopped { .. })));
}

#[test]
fn a_short_loss_does_not_end_speech() {
    let payloads = encoded(&recording("caller"));
    let mut detector = SpeechDetector::new();
    let undisturbed = heard_in(&payloads).len();
    let mut events = Vec::new();
    for (index, payload) in payloads.into_iter().enumerate() {
        events.extend(match index % 20 {
            10 | 11 => detector.hear(&Slot::Lost { timestamp: 0, duration: 960, next: None }),
            _ => detector.hear(&packet(payload)),
        });
    }
    assert!(events.len() <= undisturbed, "{events:?}");
    assert!(matches!(events.first(), Some(SpeechEvent::Started { .. })));
}

#[test]
fn silence_and_pauses_are_not_speech_and_cost_no_decoding() {
    let mut detector = SpeechDetector::new();
    for _ in 0..500 {
        assert_eq!(detector.hear(&packet(SILENCE.to_vec())), None);
        assert_eq!(detector.hear(&Slot::Quiet { timestamp: 0, duration: 19_200 }), None);
    }
    assert!(detector.scorer.is_none());
    assert_eq!(detector.position(), Duration::from_millis(500 * 420));
}

#[test]
fn quiet_noise_is_not_speech() {
    for seed in 1..=3_u64 {
        for (colour, noise) in [("white", white_noise(seed, 750)), ("pink", pink_noise(seed, 750))] {
            for rms in [30.0, 100.0, 300.0] {
                let events = heard_in(&encoded(&at_level(&noise, rms)));
                assert_eq!(events, [], "{colour} noise of seed {seed} at {rms}");
            }
        }
    }
}

/// Without a bit everything is decoded and scored.
#[test]
fn speech_in_celt_packets_is_noticed() {
    let mut encoder = ::opus::Encoder::new(16_000, ::opus::Channels::Mono, ::opus::Application::LowDelay).unwrap();
    encoder.set_bitrate(::opus::Bitrate::Bits(40_000)).unwrap();
    let sound = recording("caller");
    let payloads: Vec<_> =
        sound.chunks_exact(FRAME_SAMPLES).map(|frame| encoder.encode_vec(frame, 1000).unwrap()).collect();
    assert_eq!(inspect(&payloads[50]).unwrap().voice, None);
    let events = heard_in(&payloads);
    let Some(SpeechEvent::Started { at }) = events.first() else { panic!("{events:?}") };
    let late = at.saturating_sub(onset_of(&sound));
    assert!(late <= Duration::from_millis(200), "{late:?}");
}

proptest! {
    #[test]
    fn any_slots_are_heard_and_events_take_turns(
        slots in prop::collection::vec((0u8..5, any::<u32>(), prop::collection::vec(any::<u8>(), 0..120)), 1..60),
    ) {
        let mut detector = SpeechDetector::new();
        let mut speaking = false;
        for (kind, duration, bytes) in slots {
            let slot = match kind {
                0 => Slot::Lost { timestamp: duration, duration, next: Some(bytes.into()) },
                1 => Slot::Quiet { timestamp: duration, duration },
                _ => packet(bytes),
            };
            match detector.hear(&slot) {
                Some(SpeechEvent::Started { .. }) => prop_assert!(!std::mem::replace(&mut speaking, true)),
                Some(SpeechEvent::Stopped { .. }) => prop_assert!(std::mem::replace(&mut speaking, false)),
                None => {}
            }
            prop_assert_eq!(detector.is_speaking(), speaking);
        }
    }
}

const CLIPS: [&str; 2] = ["caller", "agent"];

fn heard_in(payloads: &[Vec<u8>]) -> Vec<SpeechEvent> {
    let mut detector = SpeechDetector::new();
    payloads.iter().filter_map(|payload| detector.hear(&packet(payload.clone()))).collect()
}

fn packet(payload: Vec<u8>) -> Slot {
    Slot::Packet { timestamp: 0, payload: Bytes::from(payload) }
}

/// Real speech, 16 kHz.
fn recording(clip: &str) -> Vec<i16> {
    let path = format!("{}/../tests/simulator/speech/{clip}.wav", env!("CARGO_MANIFEST_DIR"));
    let mut samples: Vec<i16> = hound::WavReader::open(path).unwrap().samples().map(Result::unwrap).collect();
    samples.truncate(samples.len() / FRAME_SAMPLES * FRAME_SAMPLES);
    samples
}

/// The first 20 ms within 20 dB of the loudest.
fn onset_of(pcm: &[i16]) -> Duration {
    let powers: Vec<f64> = pcm.chunks(FRAME_SAMPLES).map(power).collect();
    let loudest = powers.iter().copied().fold(0.0, f64::max);
    let first = powers.iter().position(|power| *power > loudest / 100.0).unwrap();
    RATE.duration((first * FRAME_SAMPLES) as u64)
}

fn encoded(pcm: &[i16]) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(RATE, Profile::Eco).unwrap();
    pcm.chunks_exact(FRAME_SAMPLES)
        .map(|frame| {
            let mut packet = Vec::new();
            encoder.encode(frame, &mut packet).unwrap();
            packet
        })
        .collect()
}

/// A room with nobody in it is never quite silent.
fn quiet_room(frames: usize) -> Vec<i16> {
    at_level(&white_noise(42, frames), 5.0)
}

fn white_noise(seed: u64, frames: usize) -> Vec<f64> {
    let mut chance = seed.wrapping_mul(0x2545_f491_4f6c_dd1d);
    (0..frames * FRAME_SAMPLES)
        .map(|_| {
            chance ^= chance << 13;
            chance ^= chance >> 7;
            chance ^= chance << 17;
            (chance >> 11) as f64 / (1_u64 << 52) as f64 - 1.0
        })
        .collect()
}

/// About as loud in every octave: white noise through several low passes.
fn pink_noise(seed: u64, frames: usize) -> Vec<f64> {
    let mut lows = [0.0; 4];
    white_noise(seed, frames)
        .into_iter()
        .map(|white| {
            let mut sum = 0.1 * white;
            for (low, pole) in lows.iter_mut().zip([0.55, 0.86, 0.96, 0.995]) {
                *low = pole * *low + (1.0 - pole) * white / (1.0_f64 - pole).sqrt();
                sum += *low;
            }
            sum
        })
        .collect()
}

fn at_level(sound: &[f64], rms: f64) -> Vec<i16> {
    let now = (sound.iter().map(|sample| sample * sample).sum::<f64>() / sound.len() as f64).sqrt();
    sound.iter().map(|sample| (sample * rms / now) as i16).collect()
}

fn louder(pcm: &[i16], gain_db: f64) -> Vec<i16> {
    pcm.iter().map(|sample| (f64::from(*sample) * 10_f64.powf(gain_db / 20.0)) as i16).collect()
}

fn power(pcm: &[i16]) -> f64 {
    pcm.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / pcm.len() as f64
}
