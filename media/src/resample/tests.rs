//! Tones go from every rate to every other and are the same tones.

use super::*;
use proptest::prelude::*;
use std::f64::consts::TAU;

#[test]
fn a_tone_keeps_its_level_and_frequency() {
    for (from, to) in pairs() {
        for hz in [300.0, 1000.0, 3300.0] {
            let heard = resampled(&tone(hz, from, 50), from, to);
            let steady = &heard[heard.len() / 5..];
            let level_db = 10.0 * (power(steady) / power(&tone(hz, from, 50))).log10();
            assert!(level_db.abs() < 0.5, "{from:?} to {to:?}, {hz} Hz: {level_db} dB");
            let share = power_share(steady, hz, to);
            assert!(share > 0.999, "{from:?} to {to:?}, {hz} Hz: {share}");
        }
    }
}

/// The rates of AudioSocket that Opus does not have.
const OTHERS: [u32; 5] = [12_000, 32_000, 44_100, 96_000, 192_000];

#[test]
fn sound_at_any_rate_of_audiosocket_is_the_same_sound() {
    for from in OTHERS {
        for to in SampleRate::ALL {
            let through = |hz: f64| {
                let mut resampler = Resampler::of_hz(from, to);
                let sound: Vec<i16> = (0..from)
                    .map(|index| (8000.0 * (TAU * hz * f64::from(index) / f64::from(from)).sin()) as i16)
                    .collect();
                let mut heard = Vec::new();
                sound.chunks(resampler.samples_per_frame()).for_each(|frame| resampler.process(frame, &mut heard));
                assert_eq!(heard.len(), to.hz() as usize, "a second stays a second: {from} to {to:?}");
                heard.split_off(heard.len() / 5)
            };
            for hz in [300.0, 1000.0, 3300.0] {
                let heard = through(hz);
                let level_db = 10.0 * (power(&heard) / 32e6).log10();
                assert!(level_db.abs() < 0.5, "{from} to {to:?}, {hz} Hz: {level_db} dB");
                let share = power_share(&heard, hz, to);
                assert!(share > 0.999, "{from} to {to:?}, {hz} Hz: {share}");
            }
            if to.hz() < from {
                let level_db = 10.0 * (power(&through(f64::from(to.hz()) * 0.5137)) / 32e6).log10();
                assert!(level_db < -80.0, "{from} to {to:?}: {level_db} dB");
            }
        }
    }
}

#[test]
fn what_the_lower_rate_cannot_carry_is_left_out() {
    for (from, to) in pairs().filter(|(from, to)| to.hz() < from.hz()) {
        let hz = f64::from(to.hz()) * 0.5137;
        let heard = resampled(&tone(hz, from, 50), from, to);
        let level_db = 10.0 * (power(&heard[heard.len() / 5..]) / power(&tone(hz, from, 50))).log10();
        assert!(level_db < -80.0, "{from:?} to {to:?}: {level_db} dB");
    }
}

#[test]
fn one_frame_gives_one_frame_and_asks_for_no_memory() {
    for from in SampleRate::ALL {
        for to in SampleRate::ALL {
            let mut resampler = Resampler::new(from, to);
            let mut out = Vec::with_capacity(to.samples_per_frame());
            let memory = out.as_ptr();
            for _ in 0..100 {
                out.clear();
                resampler.process(&tone(440.0, from, 1), &mut out);
                assert_eq!((out.len(), out.as_ptr()), (to.samples_per_frame(), memory), "{from:?} to {to:?}");
            }
        }
    }
}

#[test]
fn equal_rates_change_nothing() {
    let sound = tone(440.0, SampleRate::Hz16000, 3);
    assert_eq!(resampled(&sound, SampleRate::Hz16000, SampleRate::Hz16000), sound);
}

#[test]
fn after_a_reset_nothing_of_the_old_sound_is_left() {
    for (from, to) in pairs() {
        let mut resampler = Resampler::new(from, to);
        resampler.process(&tone(440.0, from, 1), &mut Vec::new());
        resampler.reset();
        let mut out = Vec::new();
        resampler.process(&vec![0; from.samples_per_frame()], &mut out);
        assert!(out.iter().all(|sample| *sample == 0), "{from:?} to {to:?}");
    }
}

#[test]
fn the_delay_is_what_is_promised() {
    for (from, to) in pairs() {
        let mut sound = vec![0; from.samples_per_frame() * 2];
        sound[from.samples_per_frame() / 2] = 20_000;
        let heard = resampled(&sound, from, to);
        let (loudest, _) = heard.iter().enumerate().max_by_key(|(_, sample)| sample.unsigned_abs()).unwrap();
        let late = to.duration(loudest as u64).as_secs_f64() * 1000.0 - 10.0;
        let promised = if [from, to].contains(&SampleRate::Hz8000) { 5.0 } else { 2.5 };
        assert!((late - promised).abs() < 0.3, "{from:?} to {to:?}: {late} ms");
    }
}

proptest! {
    #[test]
    fn any_samples_give_one_frame(
        pcm in prop::collection::vec(any::<i16>(), 0..1200),
        from in prop::sample::select(&SampleRate::ALL[..]),
        to in prop::sample::select(&SampleRate::ALL[..]),
    ) {
        let mut resampler = Resampler::new(from, to);
        let mut out = vec![1];
        resampler.process(&pcm, &mut out);
        prop_assert_eq!(out.len(), 1 + to.samples_per_frame());
    }
}

/// Every change of rate.
fn pairs() -> impl Iterator<Item = (SampleRate, SampleRate)> {
    let all = SampleRate::ALL.into_iter();
    all.flat_map(|from| SampleRate::ALL.into_iter().map(move |to| (from, to))).filter(|(from, to)| from != to)
}

fn resampled(pcm: &[i16], from: SampleRate, to: SampleRate) -> Vec<i16> {
    let mut resampler = Resampler::new(from, to);
    let mut out = Vec::new();
    for frame in pcm.chunks(from.samples_per_frame()) {
        resampler.process(frame, &mut out);
    }
    out
}

fn tone(hz: f64, rate: SampleRate, frames: usize) -> Vec<i16> {
    (0..frames * rate.samples_per_frame())
        .map(|index| (8000.0 * (TAU * hz * index as f64 / f64::from(rate.hz())).sin()) as i16)
        .collect()
}

fn power(pcm: &[i16]) -> f64 {
    pcm.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / pcm.len() as f64
}

/// The share of the signal's power at one frequency, 0 to 1.
fn power_share(pcm: &[i16], hz: f64, rate: SampleRate) -> f64 {
    let step = TAU * hz / f64::from(rate.hz());
    let (mut real, mut imaginary) = (0.0, 0.0);
    for (index, &sample) in pcm.iter().enumerate() {
        let (sample, angle) = (f64::from(sample), step * index as f64);
        real += sample * angle.cos();
        imaginary += sample * angle.sin();
    }
    let count = pcm.len() as f64;
    2.0 * (real * real + imaginary * imaginary) / (power(pcm) * count * count)
}
