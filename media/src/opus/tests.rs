//! The coder, heard from outside.

use super::*;
use proptest::prelude::*;
use std::f64::consts::TAU;

#[test]
fn the_silence_packet_is_what_an_encoder_sends_for_nothing() {
    let mut encoder = Encoder::new(SampleRate::Hz16000, Profile::Hq).unwrap();
    let mut packet = Vec::new();
    for _ in 0..50 {
        encoder.encode(&[0; 320], &mut packet).unwrap();
    }
    assert_eq!(packet, SILENCE);
    let facts = inspect(&SILENCE).unwrap();
    assert_eq!((facts.duration, facts.frames), (960, 1));
    assert_eq!((facts.voice, facts.has_fec), (Some(false), false));
}

#[test]
fn the_silence_packet_is_silent_to_a_fresh_decoder_and_one_frame_after_speech() {
    for rate in SampleRate::ALL {
        let mut decoder = Decoder::new(rate).unwrap();
        for _ in 0..50 {
            assert!(peak(&decoded(&mut decoder, &SILENCE)) <= 2, "{rate:?}");
        }
        for packet in encoded(&speech(rate, 30), rate, Profile::Eco) {
            decoded(&mut decoder, &packet);
        }
        decoded(&mut decoder, &SILENCE);
        for _ in 0..50 {
            let after = peak(&decoded(&mut decoder, &SILENCE));
            assert!(after <= 16, "{rate:?} {after}");
        }
    }
}

#[test]
fn a_tone_goes_through_every_rate_and_profile() {
    for rate in SampleRate::ALL {
        for profile in [Profile::Eco, Profile::Hq, Profile::Prompt] {
            let mut decoder = Decoder::new(rate).unwrap();
            let mut heard = Vec::new();
            for packet in encoded(&tone(440.0, rate, 50), rate, profile) {
                assert!(packet.len() <= MAX_ENCODED_BYTES);
                decoder.decode(&packet, &mut heard).unwrap();
            }
            let steady = &heard[heard.len() / 2..];
            let share = power_share(steady, 440.0, rate);
            assert!(share > 0.9, "{rate:?} {profile:?} {share}");
        }
    }
}

#[test]
fn live_sound_is_wideband_speech_with_fec_and_its_voice_bit() {
    for rate in SampleRate::ALL {
        for profile in [Profile::Eco, Profile::Hq] {
            let packets = encoded(&speech(rate, 100), rate, profile);
            let facts: Vec<_> = packets.iter().map(|packet| inspect(packet).unwrap()).collect();
            assert!(facts.iter().all(|facts| facts.mode == Mode::Silk));
            let voiced = facts.iter().filter(|facts| facts.voice == Some(true)).count();
            assert!(voiced > 70, "{rate:?} {profile:?} {voiced}");
            let with_fec = facts.iter().filter(|facts| facts.has_fec).count();
            assert!(with_fec > 50, "{rate:?} {profile:?} {with_fec}");
        }
    }
}

#[test]
fn fec_brings_back_what_concealment_can_only_guess() {
    let rate = SampleRate::Hz16000;
    let packets = encoded(&speech(rate, 100), rate, Profile::Eco);
    let mut whole = Decoder::new(rate).unwrap();
    let original: Vec<i16> = packets.iter().flat_map(|packet| decoded(&mut whole, packet)).collect();
    let error_when = |use_fec: bool| {
        let mut decoder = Decoder::new(rate).unwrap();
        let mut heard = Vec::new();
        for (index, packet) in packets.iter().enumerate() {
            if index % 10 == 5 {
                let next = use_fec.then(|| packets[index + 1].as_slice());
                decoder.decode_lost(next, 320, &mut heard).unwrap();
            } else {
                decoder.decode(packet, &mut heard).unwrap();
            }
        }
        assert_eq!(heard.len(), original.len());
        difference(&heard, &original)
    };
    let (with, without) = (error_when(true), error_when(false));
    println!("error with FEC {with:.0}, without {without:.0}");
    assert!(with < without * 0.7, "{with} {without}");
}

#[test]
fn a_long_loss_fades_into_silence() {
    let rate = SampleRate::Hz16000;
    let mut decoder = Decoder::new(rate).unwrap();
    for packet in encoded(&speech(rate, 50), rate, Profile::Eco) {
        decoded(&mut decoder, &packet);
    }
    let mut out = Vec::new();
    decoder.decode_lost(None, 16_000, &mut out).unwrap();
    assert_eq!(out.len(), 16_000);
    assert!(peak(&out[..320]) > 500, "concealed at first");
    assert_eq!(peak(&out[960..]), 0, "silent after 60 ms");
    assert!(peak(&out[950..960]) < 200, "without an edge");
}

#[test]
fn a_frame_of_the_wrong_length_is_refused_by_name() {
    let mut encoder = Encoder::new(SampleRate::Hz24000, Profile::Eco).unwrap();
    let mut out = vec![1, 2, 3];
    let wrong = OpusError::FrameLength { expected: 480, got: 320 };
    assert_eq!(encoder.encode(&[0; 320], &mut out), Err(wrong));
}

#[test]
fn rates_are_named_by_their_hertz() {
    for rate in SampleRate::ALL {
        assert_eq!(SampleRate::try_from(rate.hz()), Ok(rate));
        assert_eq!(rate.samples(960), rate.samples_per_frame());
        assert_eq!(rate.samples_in(FRAME), rate.samples_per_frame());
        assert_eq!(rate.duration(rate.samples_per_frame() as u64), FRAME);
    }
    let odd = SampleRate::try_from(44_100);
    assert_eq!(odd, Err(OpusError::UnsupportedRate(44_100)));
}

proptest! {
    #[test]
    fn any_bytes_decode_or_are_refused(
        packets in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..8),
        rate in prop::sample::select(&SampleRate::ALL[..]),
        lost in 0usize..3000,
    ) {
        let mut decoder = Decoder::new(rate).unwrap();
        let mut out = Vec::new();
        for packet in &packets {
            let before = out.len();
            match decoder.decode(packet, &mut out) {
                Ok(samples) => prop_assert_eq!(out.len(), before + samples),
                Err(_) => prop_assert_eq!(out.len(), before),
            }
            let before = out.len();
            decoder.decode_lost(Some(packet), lost, &mut out).unwrap();
            prop_assert_eq!(out.len(), before + lost);
        }
    }

    #[test]
    fn any_samples_encode_and_decode_to_as_many(
        pcm in prop::collection::vec(any::<i16>(), 960..=960),
        rate in prop::sample::select(&SampleRate::ALL[..]),
    ) {
        let mut encoder = Encoder::new(rate, Profile::Eco).unwrap();
        let mut decoder = Decoder::new(rate).unwrap();
        let mut packet = Vec::new();
        encoder.encode(&pcm[..rate.samples_per_frame()], &mut packet).unwrap();
        prop_assert_eq!(inspect(&packet).unwrap().duration, 960);
        let mut out = Vec::new();
        prop_assert_eq!(decoder.decode(&packet, &mut out).unwrap(), rate.samples_per_frame());
    }
}

fn encoded(pcm: &[i16], rate: SampleRate, profile: Profile) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(rate, profile).unwrap();
    pcm.chunks_exact(rate.samples_per_frame())
        .map(|frame| {
            let mut packet = Vec::new();
            encoder.encode(frame, &mut packet).unwrap();
            packet
        })
        .collect()
}

fn decoded(decoder: &mut Decoder, packet: &[u8]) -> Vec<i16> {
    let mut out = Vec::new();
    decoder.decode(packet, &mut out).unwrap();
    out
}

fn peak(pcm: &[i16]) -> u16 {
    pcm.iter().map(|sample| sample.unsigned_abs()).max().unwrap_or(0)
}

fn tone(hz: f64, rate: SampleRate, frames: usize) -> Vec<i16> {
    (0..frames * rate.samples_per_frame())
        .map(|index| (8000.0 * (TAU * hz * index as f64 / f64::from(rate.hz())).sin()) as i16)
        .collect()
}

/// A voice of a kind: harmonics of a wandering pitch, in syllables.
fn speech(rate: SampleRate, frames: usize) -> Vec<i16> {
    let mut phase = 0.0;
    (0..frames * rate.samples_per_frame())
        .map(|index| {
            let at = index as f64 / f64::from(rate.hz());
            phase += (140.0 + 30.0 * (TAU * 1.3 * at).sin()) / f64::from(rate.hz());
            let syllable = 0.6 + 0.4 * (TAU * 4.0 * at).sin();
            let wave: f64 =
                (1..12).map(|harmonic| (TAU * phase * f64::from(harmonic)).sin() / f64::from(harmonic)).sum();
            (5000.0 * syllable * wave) as i16
        })
        .collect()
}

/// The share of the signal's power at one frequency, 0 to 1.
fn power_share(pcm: &[i16], hz: f64, rate: SampleRate) -> f64 {
    let step = TAU * hz / f64::from(rate.hz());
    let (mut real, mut imaginary, mut total) = (0.0, 0.0, 0.0);
    for (index, &sample) in pcm.iter().enumerate() {
        let (sample, angle) = (f64::from(sample), step * index as f64);
        real += sample * angle.cos();
        imaginary += sample * angle.sin();
        total += sample * sample;
    }
    2.0 * (real * real + imaginary * imaginary) / (total * pcm.len() as f64)
}

/// Root mean square of the difference.
fn difference(left: &[i16], right: &[i16]) -> f64 {
    let sum: f64 = left.iter().zip(right).map(|(left, right)| (f64::from(*left) - f64::from(*right)).powi(2)).sum();
    (sum / left.len() as f64).sqrt()
}
