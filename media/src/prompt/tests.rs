//! Prompts, read and heard.

use super::*;
use crate::opus::{Decoder, SILENCE, inspect};
use proptest::prelude::*;

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
fn wav_files_of_every_rate_are_read() {
    for rate in SampleRate::ALL {
        for channels in [1, 2] {
            let samples = vec![100; rate.hz() as usize * usize::from(channels)];
            let prompt = Prompt::from_wav(&wav(channels, rate.hz(), &samples)).unwrap();
            assert_eq!(prompt.frames().len(), 52, "{rate:?} {channels}");
        }
    }
}

#[test]
fn stereo_is_mixed_down() {
    assert_eq!(mixed_down(&[i16::MAX, i16::MAX, i16::MIN, i16::MIN, 100, -50]), [i16::MAX, i16::MIN, 25]);
}

#[test]
fn other_files_are_refused_by_name() {
    assert!(matches!(Prompt::from_wav(b"ID3 not a wav"), Err(PromptError::Wav(_))));
    assert!(matches!(Prompt::from_wav(&[]), Err(PromptError::Wav(_))));
    let cd = Prompt::from_wav(&wav(2, 44_100, &[0; 100])).unwrap_err();
    assert!(matches!(cd, PromptError::Opus(OpusError::UnsupportedRate(44_100))));
    let six = Prompt::from_wav(&wav(6, 48_000, &[0; 600])).unwrap_err();
    assert!(matches!(six, PromptError::Channels(6)));
    let mut cut = wav(1, 16_000, &[0; 1000]);
    cut.truncate(500);
    assert!(matches!(Prompt::from_wav(&cut), Err(PromptError::Wav(_))));
    let long = vec![0; 8_000 * 601];
    assert!(matches!(Prompt::from_pcm(&long, SampleRate::Hz8000), Err(PromptError::TooLong(_))));
    let eight_bit = hound::WavSpec { bits_per_sample: 8, ..spec(1, 16_000) };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, eight_bit).unwrap();
    writer.write_sample(1i8).unwrap();
    writer.finalize().unwrap();
    let refused = Prompt::from_wav(bytes.get_ref()).unwrap_err();
    assert_eq!(refused.to_string(), "a WAV prompt has 16-bit integer samples, not 8-bit integer");
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

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(
        changes in prop::collection::vec((0usize..144, any::<u8>()), 0..12),
        keep in 0usize..=144,
        channels in 1u16..=2,
    ) {
        let mut bytes = wav(channels, 16_000, &[7; 50]);
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(keep);
        let _ = Prompt::from_wav(&bytes);
    }
}

fn heard(prompt: &Prompt) -> Vec<i16> {
    let mut decoder = Decoder::new(SampleRate::Hz16000).unwrap();
    let mut heard = Vec::new();
    for frame in prompt.frames() {
        decoder.decode(frame, &mut heard).unwrap();
    }
    heard
}

fn spec(channels: u16, hz: u32) -> hound::WavSpec {
    hound::WavSpec { channels, sample_rate: hz, bits_per_sample: 16, sample_format: hound::SampleFormat::Int }
}

fn wav(channels: u16, hz: u32, samples: &[i16]) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec(channels, hz)).unwrap();
    for &sample in samples {
        writer.write_sample(sample).unwrap();
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}
