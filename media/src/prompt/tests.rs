//! Prompts, read and heard.

use super::*;
use crate::opus::{Decoder, SILENCE, inspect};
use std::f64::consts::TAU;

#[test]
fn every_builtin_sounds_and_ends_quietly() {
    for builtin in Builtin::ALL {
        assert_eq!(Builtin::named(builtin.name()), Some(builtin));
        let prompt = Prompt::builtin(builtin).unwrap();
        let heard = heard(&prompt);
        let peak = |pcm: &[i16]| pcm.iter().map(|sample| sample.unsigned_abs()).max();
        let loudest = peak(&heard).unwrap();
        assert!((1000..8000).contains(&loudest), "{builtin:?} {loudest}");
        assert!(peak(&heard[..320]).unwrap() <= 16, "{builtin:?} leads with silence");
        let tail = peak(&heard[heard.len() - 100..]).unwrap();
        assert!(tail <= 100, "{builtin:?} {tail}");
    }
    assert_eq!(Builtin::named("nothing"), None);
}

#[test]
fn frames_are_20_ms_each() {
    let prompt = Prompt::from_pcm(&[1000; 161], SampleRate::Hz8000).unwrap();
    assert_eq!(prompt.frames().len(), 4, "silence, two frames of sound, silence");
    for frame in prompt.frames() {
        assert_eq!(inspect(frame).unwrap().duration, 960);
    }
    assert_eq!(prompt.duration(), Duration::from_millis(80));
    assert_eq!(Prompt::from_pcm(&[], SampleRate::Hz8000).unwrap().frames().len(), 2);
}

#[test]
fn a_prompt_after_anything_does_not_carry_it_on() {
    let prompt = Prompt::builtin(Builtin::Ringback).unwrap();
    let mut fresh = Decoder::new(SampleRate::Hz16000).unwrap();
    let mut used = Decoder::new(SampleRate::Hz16000).unwrap();
    let mut scratch = Vec::new();
    for frame in &Prompt::builtin(Builtin::Busy).unwrap().frames()[..20] {
        used.decode(frame, &mut scratch).unwrap();
    }
    used.decode(&SILENCE, &mut scratch).unwrap();
    let (mut clean, mut after) = (Vec::new(), Vec::new());
    for frame in prompt.frames() {
        fresh.decode(frame, &mut clean).unwrap();
        used.decode(frame, &mut after).unwrap();
    }
    let differences: Vec<u16> = clean.iter().zip(&after).map(|(left, right)| left.abs_diff(*right)).collect();
    let worst = differences[320..].iter().max().unwrap();
    assert!(*worst <= 64, "{worst}");
}

#[test]
fn prompts_are_equally_loud_whoever_recorded_them() {
    for (level, name) in [(0.03, "whispered"), (0.1, "spoken"), (0.9, "shouted")] {
        let sound = speechlike(16_000 * 3, level);
        let prompt = Prompt::from_pcm(&loudness::levelled(&sound, 16_000), SampleRate::Hz16000).unwrap();
        let loudness = loudness_of(&heard(&prompt));
        assert!((loudness - -19.0).abs() < 1.0, "{name}: {loudness} LUFS");
    }
}

#[test]
fn a_file_becomes_a_prompt_of_its_length_at_the_common_loudness() {
    let flac = include_bytes!("fixtures/tone.flac");
    let prompt = Prompt::from_file(flac, Some("flac")).unwrap();
    assert_eq!(prompt.duration(), Duration::from_millis(1040));
    let loudness = loudness_of(&heard(&prompt));
    assert!((loudness - -19.0).abs() < 1.0, "{loudness} LUFS");
}

#[test]
fn silence_noise_and_short_sounds_are_not_blown_up() {
    let peak = |pcm: &[i16]| pcm.iter().map(|sample| sample.unsigned_abs()).max().unwrap();
    assert_eq!(peak(&loudness::levelled(&[0.0; 16_000], 16_000)), 0);
    assert!(loudness::levelled(&[], 16_000).is_empty());
    // -60 dBFS comes out 20 dB louder and no more.
    let hiss: Vec<f32> = speechlike(16_000, 0.001);
    assert!((300..=340).contains(&peak(&loudness::levelled(&hiss, 16_000))));
    // -12 dBFS is 8231.
    let beep: Vec<f32> = speechlike(16_000 / 5, 0.9);
    assert!((7_500..=8_300).contains(&peak(&loudness::levelled(&beep, 16_000))));
    // One high click in something quiet keeps the whole below the limit.
    let mut click = speechlike(16_000, 0.01);
    click[8_000] = 1.0;
    assert!(peak(&loudness::levelled(&click, 16_000)) <= 29_300);
}

fn heard(prompt: &Prompt) -> Vec<i16> {
    let mut decoder = Decoder::new(SampleRate::Hz16000).unwrap();
    let mut heard = Vec::new();
    for frame in prompt.frames() {
        decoder.decode(frame, &mut heard).unwrap();
    }
    heard
}

/// A tone whose loudness comes and goes four times a second.
fn speechlike(samples: usize, level: f64) -> Vec<f32> {
    let wave = |index: usize| {
        let at = index as f64 / 16_000.0;
        level * (TAU * 500.0 * at).sin() * (0.6 - 0.4 * (TAU * 4.0 * at).cos())
    };
    (0..samples).map(|index| wave(index) as f32).collect()
}

fn loudness_of(pcm: &[i16]) -> f64 {
    let mut meter = ebur128::EbuR128::new(1, 16_000, ebur128::Mode::I).unwrap();
    meter.add_frames_i16(pcm).unwrap();
    meter.loudness_global().unwrap()
}
