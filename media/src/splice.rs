//! Splice: removing a piece of audio inaudibly, to shorten a delay.
//!
//! A piece without speech is the better choice; a cut through a word is smoothed by a short crossfade.

use std::time::Duration;

use crate::opus::SampleRate;

/// Length of the crossfade between the audio before and after a cut: a step in the wave clicks.
const CROSSFADE: Duration = Duration::from_millis(5);

/// Room for a crossfade at 48 kHz.
const MAX_SAMPLES: usize = 240;

/// Mean square of an inaudible wave: about -60 dB of full scale.
const INAUDIBLE: u64 = 1000;

/// A piece 20 dB below recent speech is a pause with its room noise, not a soft consonant.
const BELOW_SPEECH: u64 = 100;

/// The loudness of recent speech, by which pauses are recognised.
#[derive(Debug, Default)]
pub(crate) struct SpeechLevel {
    /// Mean square of the loudest piece. It decays by 1/256 per piece, by half in 3.5 s of frames.
    speech: u64,
}

/// The start of a removed piece: how the audio before the cut would have continued.
#[derive(Debug)]
pub(crate) struct Crossfade {
    samples: [i16; MAX_SAMPLES],
    length: usize,
}

impl SpeechLevel {
    /// Whether the next piece of audio, about 20 ms, holds no speech.
    pub fn is_quiet(&mut self, piece: impl ExactSizeIterator<Item = i16>) -> bool {
        let samples = piece.len().max(1) as u64;
        let squares: u64 = piece.map(|sample| u64::from(sample.unsigned_abs()).pow(2)).sum();
        let energy = squares / samples;
        self.speech = energy.max(self.speech - self.speech / 256);
        energy <= INAUDIBLE || energy * BELOW_SPEECH < self.speech
    }
}

impl Crossfade {
    /// Keeps the start of a piece that is being removed.
    pub fn from_removed(piece: impl Iterator<Item = i16>, rate: SampleRate) -> Self {
        let mut crossfade = Self { samples: [0; MAX_SAMPLES], length: 0 };
        for (to, from) in crossfade.samples.iter_mut().zip(piece.take(rate.samples_in(CROSSFADE))) {
            *to = from;
            crossfade.length += 1;
        }
        crossfade
    }

    /// Fades from the removed piece into the audio after the cut.
    pub fn apply(&self, after: &mut [i16]) {
        let count = self.length.min(after.len()) as i32;
        for (index, (sample, before)) in (0..count).zip(after.iter_mut().zip(&self.samples)) {
            let blend = i32::from(*before) * (count - index) + i32::from(*sample) * index;
            *sample = (blend / count) as i16;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_told_from_speech_and_soft_speech_from_a_pause() {
        let mut level = SpeechLevel::default();
        assert!(level.is_quiet([20; 320].into_iter()));
        assert!(!level.is_quiet([4000; 320].into_iter()));
        assert!(level.is_quiet([300; 320].into_iter()), "room noise 22 dB below");
        assert!(!level.is_quiet([600; 320].into_iter()), "a consonant 16 dB below");
        for _ in 0..2000 {
            level.is_quiet([600; 320].into_iter());
        }
        assert!(!level.is_quiet([300; 320].into_iter()), "the speaker has become soft");
        assert!(!level.is_quiet([i16::MIN; 960].into_iter()));
    }

    #[test]
    fn a_crossfade_has_no_step() {
        let crossfade = Crossfade::from_removed([1000; 320].into_iter(), SampleRate::Hz16000);
        let mut after = [-1000; 320];
        crossfade.apply(&mut after);
        assert_eq!(after[0], 1000);
        assert!(after.is_sorted_by(|before, next| before >= next && before - next <= 25));
        assert_eq!(after[80..], [-1000; 240]);
        crossfade.apply(&mut []);
    }
}
