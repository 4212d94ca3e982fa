//! Files of every kind, whole and broken.

mod field;

use std::io::Cursor;

use super::*;
use crate::prompt::{MAX_DURATION, Prompt};
use proptest::prelude::*;
use std::f64::consts::TAU;

const MP3: &[u8] = include_bytes!("../fixtures/tone.mp3");
const FLAC: &[u8] = include_bytes!("../fixtures/tone.flac");
const VORBIS: &[u8] = include_bytes!("../fixtures/tone.ogg");
const OPUS: &[u8] = include_bytes!("../fixtures/tone.opus");
const FIXTURES: [(&str, &[u8]); 4] = [("mp3", MP3), ("flac", FLAC), ("vorbis", VORBIS), ("opus", OPUS)];

/// The level of the fixtures' tone, -20 dBFS.
const LEVEL: f64 = 0.1;

#[test]
fn every_kind_of_file_is_read_by_its_content() {
    for (kind, bytes) in FIXTURES {
        for extension in [None, Some("wav"), Some("ogg"), Some("jpeg")] {
            let sound = samples(bytes, extension);
            assert!((15_500..=16_900).contains(&sound.len()), "{kind}: {} samples", sound.len());
            let level = tone_level(&sound, 440.0);
            assert!((level / LEVEL - 1.0).abs() < 0.1, "{kind}: {level}");
        }
    }
}

#[test]
fn wav_files_of_every_rate_are_read() {
    for hz in [8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000, 192_000, 8_001, 44_101] {
        let sound = samples(&wav(1, hz, hz, |at| LEVEL * (TAU * 440.0 * at).sin()), None);
        assert_eq!(sound.len(), 16_000, "{hz}");
        let level = tone_level(&sound, 440.0);
        assert!((level / LEVEL - 1.0).abs() < 0.02, "{hz}: {level}");
        // Neither end is lost or moved: the tone is there from its first wave to its last.
        for part in [&sound[..400], &sound[15_600..]] {
            let level = tone_level(part, 440.0);
            assert!((level / LEVEL - 1.0).abs() < 0.2, "{hz}: {level} at an edge");
        }
    }
}

#[test]
fn all_channels_are_mixed_down_evenly() {
    for channels in 1..=8 {
        let sound = samples(&wav(channels, 16_000, 1600, |_| 0.25), None);
        assert_eq!(sound.len(), 1600, "{channels}");
        assert!(sound.iter().all(|sample| (sample - 0.25).abs() < 0.001), "{channels}");
    }
    let nine = read(&wav(9, 16_000, 1600, |_| 0.25), None).unwrap_err();
    assert!(matches!(nine, PromptError::Channels(9)), "{nine}");
    assert_eq!([f32::NAN, f32::INFINITY, 9.0, -1.0].map(mixdown::sane), [0.0, 0.0, 8.0, -1.0]);
}

#[test]
fn wav_files_of_every_sample_format_are_read() {
    for (bits, sample_format) in [
        (8, hound::SampleFormat::Int),
        (16, hound::SampleFormat::Int),
        (24, hound::SampleFormat::Int),
        (32, hound::SampleFormat::Int),
        (32, hound::SampleFormat::Float),
    ] {
        let spec = hound::WavSpec { channels: 1, sample_rate: 16_000, bits_per_sample: bits, sample_format };
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for _ in 0..1600 {
            match sample_format {
                hound::SampleFormat::Int => writer.write_sample(1i32 << (bits - 2)).unwrap(),
                hound::SampleFormat::Float => writer.write_sample(0.5f32).unwrap(),
            }
        }
        writer.finalize().unwrap();
        let sound = samples(bytes.get_ref(), None);
        assert_eq!(sound.len(), 1600);
        assert!(sound.iter().all(|sample| (sample - 0.5).abs() < 0.01), "{bits} {sample_format:?}");
    }
}

#[test]
fn what_is_no_sound_is_refused_with_a_sentence() {
    let sentences = [
        read(&[], None),
        read(b"\x89PNG\r\n\x1a\n and so on", Some("mp3")),
        read(b"ID3\x04\0\0\0\0\0\x02", None),
        read(b"plain text is no sound", None),
        read(&wav(1, 16_000, 0, |_| 0.0), None),
        read(&wav(1, 7_999, 100, |_| 0.0), None),
        read(&wav(1, 192_001, 100, |_| 0.0), None),
        read(b"RIFF\0\0\0\0WAVE", None),
        read(b"OggS", None),
        read(&vec![0; MAX_FILE_BYTES + 1], None),
    ]
    .map(|read| read.unwrap_err().to_string());
    let expected = [
        "the file is empty",
        "the content is not WAV, MP3, FLAC, Ogg Vorbis or Ogg Opus, though the file is named .mp3; convert it to one of them",
        "the content is not WAV, MP3, FLAC, Ogg Vorbis or Ogg Opus",
        "the content is not WAV, MP3, FLAC, Ogg Vorbis or Ogg Opus",
        "there is no sound in the file",
        "a prompt has 8000 to 192000 samples a second, not 7999",
        "a prompt has 8000 to 192000 samples a second, not 192001",
        "the sound cannot be decoded: the WAV file does not say how its samples are written; convert it",
        "the sound cannot be decoded: no Ogg stream begins in it; convert it",
        "the file has more than 64 MB; convert it to MP3 or Ogg Opus",
    ];
    for (sentence, expected) in sentences.iter().zip(expected) {
        assert!(sentence.starts_with(expected), "{sentence}\nand not\n{expected}");
    }
}

#[test]
fn a_file_that_breaks_off_is_taken_from_four_fifths_on() {
    let wav = wav(1, 16_000, 16_000, |at| LEVEL * (TAU * 440.0 * at).sin());
    for (kind, bytes) in [("wav", &wav[..]), ("mp3", MP3), ("flac", FLAC)] {
        let most = read(&bytes[..bytes.len() * 92 / 100], None).unwrap();
        assert!((12_800..16_000).contains(&most.samples.len()), "{kind}: {}", most.samples.len());
        assert_eq!(most.warnings, [PromptWarning::BreaksOff], "{kind}");
        let half = read(&bytes[..bytes.len() / 2], None);
        assert!(matches!(half, Err(PromptError::BreaksOff)), "{kind}: {half:?}");
    }
}

#[test]
fn a_wav_file_written_to_a_pipe_is_read_to_its_end() {
    for (whole, unknown) in [(0xffff_ffffu32, 0xffff_ffffu32), (0x7fff_f024, 0x7fff_f000)] {
        let mut bytes = wav(1, 16_000, 16_000, |at| LEVEL * (TAU * 440.0 * at).sin());
        bytes[4..8].copy_from_slice(&whole.to_le_bytes());
        bytes[40..44].copy_from_slice(&unknown.to_le_bytes());
        let sound = samples(&bytes, None);
        assert!((15_000..=16_000).contains(&sound.len()), "{unknown:#x}: {}", sound.len());
    }
}

#[test]
fn a_long_file_is_given_up_after_ten_minutes() {
    let just = wav(1, 8_000, 8_000 * 600, |_| 0.0);
    assert_eq!(samples(&just, None).len(), 600 * 16_000);
    // Two hours, in a header that says nothing of it.
    let mut hours = just;
    hours[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
    hours[40..44].copy_from_slice(&u32::MAX.to_le_bytes());
    hours.resize(MAX_FILE_BYTES, 0);
    assert!(matches!(read(&hours, None), Err(PromptError::TooLong)));
}

#[test]
fn tags_before_the_sound_are_passed_over() {
    let tag = |content: &[u8]| {
        [b"ID3\x04\0\0\0\0", &[(content.len() >> 7) as u8, (content.len() & 127) as u8][..], content].concat()
    };
    // A cover picture may look like the beginning of anything.
    let picture = [0xff, 0xfb, 0x90, 0x64].repeat(100);
    for (kind, bytes) in FIXTURES {
        let tagged = [&tag(&picture)[..], bytes].concat();
        assert_eq!(samples(&tagged, None), samples(bytes, None), "{kind}");
    }
    assert!(read(&[&[0; 3000], behind_id3(MP3)].concat(), None).is_ok(), "zeros of a removed tag");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever the bytes are, the answer is a prompt or a sentence.
    #[test]
    fn no_bytes_make_the_reader_panic(
        which in 0usize..6,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..40),
        head in prop::collection::vec((0usize..200, any::<u8>()), 0..6),
        keep in 1usize..=100,
        random in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let mut bytes = match which {
            0..4 => FIXTURES[which].1.to_vec(),
            4 => wav(2, 44_100, 4_000, |at| at),
            _ => [[b"RIFF\0\0\0\0WAVE", &b"fLaC"[..], b"OggS", &[0xff, 0xfb, 0x90, 0x64]][keep % 4], &random[..]].concat(),
        };
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        for (at, byte) in head {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(bytes.len() * keep / 100);
        match read(&bytes, None) {
            Ok(Contents { samples, .. }) => {
                prop_assert!(!samples.is_empty() && samples.len() <= 600 * 16_000);
                prop_assert!(samples.iter().all(|sample| sample.is_finite()));
            }
            Err(error) => prop_assert!(!error.to_string().is_empty()),
        }
    }

    #[test]
    fn random_bytes_are_refused_or_a_short_noise(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        if let Ok(prompt) = Prompt::from_file(&bytes, None) {
            prop_assert!(prompt.duration() < MAX_DURATION);
        }
    }
}

fn samples(bytes: &[u8], extension: Option<&str>) -> Vec<f32> {
    read(bytes, extension).unwrap().samples
}

/// 16-bit samples of a wave, on all channels.
fn wav(channels: u16, hz: u32, frames: u32, wave: impl Fn(f64) -> f64) -> Vec<u8> {
    let spec =
        hound::WavSpec { channels, sample_rate: hz, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut bytes = Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
    for index in 0..frames {
        for _ in 0..channels {
            writer.write_sample((wave(f64::from(index) / f64::from(hz)) * 32_767.0) as i16).unwrap();
        }
    }
    writer.finalize().unwrap();
    bytes.into_inner()
}

/// The amplitude of one frequency in sound at 16 kHz.
fn tone_level(sound: &[f32], hz: f64) -> f64 {
    let (mut sine, mut cosine) = (0.0, 0.0);
    for (index, sample) in sound.iter().enumerate() {
        let angle = TAU * hz * index as f64 / 16_000.0;
        sine += f64::from(*sample) * angle.sin();
        cosine += f64::from(*sample) * angle.cos();
    }
    2.0 * (sine * sine + cosine * cosine).sqrt() / sound.len() as f64
}
