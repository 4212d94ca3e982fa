//! Sound to say and ways to know it again: tones, WAV files, who is heard, and how like two sounds are.

use std::f64::consts::TAU;
use std::io::Cursor;

use anyhow::Context;

/// Sample rate of everything a phone says and hears, in Hz.
pub const PHONE_RATE: u32 = 16_000;

const CALLER_WAV: &[u8] = include_bytes!("../speech/caller.wav");
const AGENT_WAV: &[u8] = include_bytes!("../speech/agent.wav");

/// A block in which a tone is looked for, in ms.
const BLOCK_MS: usize = 100;
/// A tone counts from this share of a block's energy on, so that six voices at once are still told apart.
const TONE_SHARE: f64 = 0.12;
/// Quieter blocks are silence.
const QUIET_RMS: f64 = 50.0;

/// 5.3 s of real speech at [`PHONE_RATE`]: what a caller says.
#[must_use]
pub fn caller_clip() -> Vec<i16> {
    clip(CALLER_WAV)
}

/// 3.3 s of other real speech at [`PHONE_RATE`]: what an agent says.
#[must_use]
pub fn agent_clip() -> Vec<i16> {
    clip(AGENT_WAV)
}

fn clip(bytes: &[u8]) -> Vec<i16> {
    read_wav(bytes).expect("the recordings inside this package are WAV files; a test reads them").1
}

/// A sine at a third of full scale. A whole number of periods loops without a click.
#[must_use]
pub fn tone(frequency_hz: f64, rate: u32, milliseconds: u32) -> Vec<i16> {
    let samples = u64::from(rate) * u64::from(milliseconds) / 1000;
    (0..samples).map(|at| (11_000.0 * (TAU * frequency_hz * at as f64 / f64::from(rate)).sin()) as i16).collect()
}

/// The sound at another sample rate: linear, averaged when going down. Good enough to be told apart by.
#[must_use]
pub fn at_rate(pcm: &[i16], from: u32, to: u32) -> Vec<i16> {
    if from == to || pcm.is_empty() {
        return pcm.to_vec();
    }
    let step = f64::from(from) / f64::from(to);
    let sample = |at: usize| f64::from(pcm[at.min(pcm.len() - 1)]);
    (0..pcm.len() * to as usize / from as usize)
        .map(|index| {
            let place = index as f64 * step;
            let at = place as usize;
            if step > 1.0 {
                let wide = step.ceil() as usize;
                return ((0..wide).map(|next| sample(at + next)).sum::<f64>() / wide as f64) as i16;
            }
            let share = place - at as f64;
            (sample(at) * (1.0 - share) + sample(at + 1) * share) as i16
        })
        .collect()
}

/// Sample rate and samples of a 16 bit WAV file; of several channels the first.
///
/// # Errors
/// When the bytes are not such a file.
pub fn read_wav(bytes: &[u8]) -> anyhow::Result<(u32, Vec<i16>)> {
    let mut reader = hound::WavReader::new(Cursor::new(bytes)).context("read a WAV file")?;
    let spec = reader.spec();
    anyhow::ensure!(spec.bits_per_sample == 16, "a WAV file of 16 bit samples is needed");
    let pcm: Result<Vec<i16>, _> = reader.samples::<i16>().step_by(usize::from(spec.channels).max(1)).collect();
    Ok((spec.sample_rate, pcm.context("read samples")?))
}

/// A 16 bit mono WAV file.
///
/// # Errors
/// When the sound is too long for the format (4 GB).
pub fn write_wav(rate: u32, pcm: &[i16]) -> anyhow::Result<Vec<u8>> {
    let spec =
        hound::WavSpec { channels: 1, sample_rate: rate, bits_per_sample: 16, sample_format: hound::SampleFormat::Int };
    let mut bytes = Cursor::new(Vec::with_capacity(44 + pcm.len() * 2));
    let mut writer = hound::WavWriter::new(&mut bytes, spec)?;
    pcm.iter().try_for_each(|sample| writer.write_sample(*sample))?;
    writer.finalize()?;
    Ok(bytes.into_inner())
}

/// Mean loudness in sample units; speech is some hundreds to thousands, silence below 50.
#[must_use]
pub fn rms(pcm: &[i16]) -> f64 {
    if pcm.is_empty() {
        return 0.0;
    }
    (pcm.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / pcm.len() as f64).sqrt()
}

/// Whether a voice of this tone is heard for at least 200 ms (all of it, if the sound is shorter).
#[must_use]
pub fn hears(pcm: &[i16], rate: u32, frequency_hz: f64) -> bool {
    let block = rate as usize * BLOCK_MS / 1000;
    let blocks: Vec<&[i16]> = pcm.chunks_exact(block).collect();
    let heard = blocks.iter().filter(|block| block_holds(block, rate, frequency_hz)).count();
    heard >= blocks.len().clamp(1, 2)
}

/// Those of the given voices that are heard, in the order given.
#[must_use]
pub fn voices_heard(pcm: &[i16], rate: u32, voices_hz: &[f64]) -> Vec<f64> {
    voices_hz.iter().copied().filter(|voice| hears(pcm, rate, *voice)).collect()
}

fn block_holds(block: &[i16], rate: u32, frequency_hz: f64) -> bool {
    rms(block) > QUIET_RMS && share(block, rate, frequency_hz) > TONE_SHARE
}

/// Goertzel: the share of a block's energy that lies at one frequency, 0 to 1.
#[must_use]
pub fn share(block: &[i16], rate: u32, frequency_hz: f64) -> f64 {
    let coefficient = 2.0 * (TAU * frequency_hz / f64::from(rate)).cos();
    let (mut one, mut two, mut energy) = (0.0_f64, 0.0_f64, 0.0_f64);
    for sample in block {
        let sample = f64::from(*sample);
        energy += sample * sample;
        (one, two) = (sample + coefficient * one - two, one);
    }
    let power = one * one + two * two - coefficient * one * two;
    if energy > 0.0 { 2.0 * power / (energy * block.len() as f64) } else { 0.0 }
}

/// Where a sound was found in another.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found {
    /// Normalised cross-correlation at the best place: 1 is the same, 0 has nothing in common.
    pub similarity: f64,
    /// Where the reference's first sample lies in the heard sound; negative when its beginning is missing.
    pub offset_samples: i64,
}

/// How like the reference the best place of the heard sound is: over 0.8 for the same speech after Opus,
/// below 0.3 for other speech. Both at [`PHONE_RATE`].
#[must_use]
pub fn similarity(reference: &[i16], heard: &[i16]) -> f64 {
    find(reference, heard).similarity
}

/// The sample of `heard` in which the reference begins, if it is there (similarity over 0.5).
#[must_use]
pub fn first_sample_offset(reference: &[i16], heard: &[i16]) -> Option<i64> {
    let found = find(reference, heard);
    (found.similarity > 0.5).then_some(found.offset_samples)
}

/// Whether the first half second of the reference's sound arrived unclipped: it is found by itself, and in
/// the same place as the whole (within 5 ms).
#[must_use]
pub fn beginning_is_whole(reference: &[i16], heard: &[i16]) -> bool {
    let loud = reference.iter().position(|sample| sample.unsigned_abs() > 300).unwrap_or(0);
    let beginning = &reference[..reference.len().min(loud + PHONE_RATE as usize / 2)];
    let (whole, start) = (find(reference, heard), find(beginning, heard));
    let apart = (whole.offset_samples - start.offset_samples).unsigned_abs();
    start.similarity > 0.6 && start.offset_samples >= 0 && apart <= u64::from(PHONE_RATE / 200)
}

/// Finds the reference in the heard sound by correlating both between 0.3 and 2 kHz: lower, the voice profile of
/// Opus turns the phase; higher, it does not keep the waveform.
#[must_use]
pub fn find(reference: &[i16], heard: &[i16]) -> Found {
    let (reference, heard) = (thinned(&without_rumble(reference)), thinned(&without_rumble(heard)));
    let energy: f64 = reference.iter().map(|sample| sample * sample).sum();
    if energy == 0.0 || heard.is_empty() {
        return Found { similarity: 0.0, offset_samples: 0 };
    }
    let products = correlate(&reference, &heard);
    let mut sums = vec![0.0; heard.len() + 1];
    for (at, sample) in heard.iter().enumerate() {
        sums[at + 1] = sums[at] + sample * sample;
    }
    // A tenth of the reference's energy is the least that counts, lest a scrap at the edge looks alike.
    let floor = energy / 10.0;
    let mut best = Found { similarity: 0.0, offset_samples: 0 };
    for lag in -(reference.len() as i64) + 1..heard.len() as i64 {
        let from = lag.clamp(0, heard.len() as i64) as usize;
        let to = (lag + reference.len() as i64).clamp(0, heard.len() as i64) as usize;
        let here = (sums[to] - sums[from]).max(floor);
        let product = products[lag.rem_euclid(products.len() as i64) as usize];
        let similarity = product / (energy * here).sqrt();
        if similarity > best.similarity {
            best = Found { similarity, offset_samples: lag * THINNING as i64 };
        }
    }
    best
}

/// The sound through a high-pass of first order at about 280 Hz.
fn without_rumble(pcm: &[i16]) -> Vec<f64> {
    let (mut last, mut out) = (0.0, 0.0);
    pcm.iter()
        .map(|sample| {
            let sample = f64::from(*sample);
            out = 0.9 * (out + sample - last);
            last = sample;
            out
        })
        .collect()
}

/// Every fourth sample of the sound without its part above about 2 kHz.
const THINNING: usize = 4;

fn thinned(pcm: &[f64]) -> Vec<f64> {
    const TAPS: usize = 16;
    (0..pcm.len() / THINNING)
        .map(|at| {
            let from = (at * THINNING).saturating_sub(TAPS / 2);
            let window = &pcm[from..(at * THINNING + TAPS / 2).min(pcm.len())];
            let weighted = window.iter().enumerate().map(|(index, sample)| {
                let weight = 0.5 - 0.5 * (TAU * (index as f64 + 0.5) / TAPS as f64).cos();
                sample * weight
            });
            weighted.sum::<f64>() / TAPS as f64
        })
        .collect()
}

/// Cross-correlation by Fourier transform: entry `lag mod length` is the sum of reference\[n\] · heard\[n + lag\].
fn correlate(reference: &[f64], heard: &[f64]) -> Vec<f64> {
    let length = (reference.len() + heard.len()).next_power_of_two();
    let spread = |sound: &[f64]| -> Vec<(f64, f64)> {
        let mut wave: Vec<(f64, f64)> = sound.iter().map(|sample| (*sample, 0.0)).collect();
        wave.resize(length, (0.0, 0.0));
        fourier(&mut wave, 1.0);
        wave
    };
    let (a, b) = (spread(reference), spread(heard));
    let mut product: Vec<(f64, f64)> =
        a.iter().zip(&b).map(|(a, b)| (a.0 * b.0 + a.1 * b.1, a.0 * b.1 - a.1 * b.0)).collect();
    fourier(&mut product, -1.0);
    product.iter().map(|value| value.0 / length as f64).collect()
}

/// The textbook radix-2 transform, in place; the length is a power of two. Direction -1 is the inverse, unscaled.
fn fourier(wave: &mut [(f64, f64)], direction: f64) {
    let length = wave.len();
    let bits = length.trailing_zeros();
    for at in 0..length {
        let mirrored = if bits == 0 { 0 } else { at.reverse_bits() >> (usize::BITS - bits) };
        if at < mirrored {
            wave.swap(at, mirrored);
        }
    }
    let mut half = 1;
    while half < length {
        let turn: Vec<(f64, f64)> = (0..half)
            .map(|step| (-direction * TAU / 2.0 * step as f64 / half as f64).sin_cos())
            .map(|(sine, cosine)| (cosine, sine))
            .collect();
        for start in (0..length).step_by(half * 2) {
            for step in 0..half {
                let (even, odd) = (wave[start + step], wave[start + step + half]);
                let (cosine, sine) = turn[step];
                let odd = (odd.0 * cosine - odd.1 * sine, odd.0 * sine + odd.1 * cosine);
                wave[start + step] = (even.0 + odd.0, even.1 + odd.1);
                wave[start + step + half] = (even.0 - odd.0, even.1 - odd.1);
            }
        }
        half *= 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::Speech;

    #[test]
    fn a_tone_is_heard_and_its_neighbour_is_not() {
        let pcm = tone(440.0, 16_000, 500);
        assert!(hears(&pcm, 16_000, 440.0));
        assert!(!hears(&pcm, 16_000, 600.0));
        assert!(!hears(&[0; 16_000], 16_000, 440.0));
        assert!(!hears(&[], 16_000, 440.0));
    }

    #[test]
    fn three_voices_at_once_are_told_apart() {
        let mut pcm = vec![0_i16; 16_000];
        for voice in [400.0, 700.0, 1100.0] {
            pcm.iter_mut().zip(tone(voice, 16_000, 1000)).for_each(|(sum, sample)| *sum += sample / 2);
        }
        assert_eq!(voices_heard(&pcm, 16_000, &[400.0, 500.0, 700.0, 900.0, 1100.0]), [400.0, 700.0, 1100.0]);
    }

    #[test]
    fn speech_is_known_again_after_opus_and_other_speech_is_not_mistaken_for_it() {
        let (caller, agent) = (caller_clip(), agent_clip());
        let mut heard = vec![0; 7000];
        heard.extend(decoded(&Speech::caller()));
        assert!(similarity(&caller, &heard) > 0.8, "{:?}", find(&caller, &heard));
        assert!(similarity(&agent, &heard) < 0.3, "{:?}", find(&agent, &heard));
        let offset = first_sample_offset(&caller, &heard).unwrap();
        assert!((7000..7400).contains(&offset), "found at {offset}");
        assert!(beginning_is_whole(&caller, &heard));
    }

    #[test]
    fn another_rate_is_the_same_sound() {
        let caller = caller_clip();
        for rate in [8000, 24_000, 48_000] {
            let other = at_rate(&caller, PHONE_RATE, rate);
            assert_eq!(other.len(), caller.len() * rate as usize / 16_000);
            let back = at_rate(&other, rate, PHONE_RATE);
            assert!(similarity(&caller, &back) > 0.95, "{rate}: {:?}", find(&caller, &back));
        }
    }

    #[test]
    fn a_clipped_beginning_is_noticed() {
        let caller = caller_clip();
        let heard = &decoded(&Speech::caller())[4800..];
        assert!(similarity(&caller, heard) > 0.8);
        assert!(first_sample_offset(&caller, heard).unwrap() < -4000);
        assert!(!beginning_is_whole(&caller, heard));
    }

    #[test]
    fn wav_files_are_read_as_they_were_written() {
        let pcm = tone(440.0, 8000, 100);
        assert_eq!(read_wav(&write_wav(8000, &pcm).unwrap()).unwrap(), (8000, pcm));
        assert!(read_wav(b"RIFF").is_err());
    }

    fn decoded(speech: &Speech) -> Vec<i16> {
        let mut decoder = opus::Decoder::new(PHONE_RATE, opus::Channels::Mono).unwrap();
        let mut pcm = Vec::new();
        for at in 0..speech.len() + 5 {
            let mut frame = [0; 320];
            decoder.decode(&speech.frame(at), &mut frame, false).unwrap();
            pcm.extend_from_slice(&frame);
        }
        pcm
    }
}
