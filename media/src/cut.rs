//! Cut: takes a piece out of the sound so that it is hardly heard, to be rid of a delay.
//!
//! A piece without speech is the better one; a cut through a word is smoothed by a short crossfade.

use std::time::Duration;

use crate::opus::SampleRate;

/// The sound before a cut goes over into the sound after it in this time, because a step in the wave clicks.
const CROSSFADE: Duration = Duration::from_millis(5);

/// Room for a crossfade at 48 kHz.
const MOST_SAMPLES: usize = 240;

/// Mean square of a wave that nobody hears: about -60 dB of full scale.
const INAUDIBLE: u64 = 1000;

/// Without speech is what lies 20 dB under the recent speech: a pause with its room noise, not a soft consonant.
const BELOW_SPEECH: u64 = 100;

/// The recent loudness of the speech, to know a piece without it.
#[derive(Debug, Default)]
pub(crate) struct Level {
    /// Mean square of the loudest piece; a 256th of it is forgotten with each piece, half in 3.5 s of frames.
    speech: u64,
}

/// The beginning of a piece that was cut out: what the sound before the cut was going to do.
#[derive(Debug)]
pub(crate) struct Seam {
    samples: [i16; MOST_SAMPLES],
    length: usize,
}

impl Level {
    /// Whether the next piece of the sound, some 20 ms of it, holds no speech.
    pub fn is_quiet(&mut self, piece: impl ExactSizeIterator<Item = i16>) -> bool {
        let samples = piece.len().max(1) as u64;
        let squares: u64 = piece.map(|sample| u64::from(sample.unsigned_abs()).pow(2)).sum();
        let energy = squares / samples;
        self.speech = energy.max(self.speech - self.speech / 256);
        energy <= INAUDIBLE || energy * BELOW_SPEECH < self.speech
    }
}

impl Seam {
    /// Keeps the beginning of a piece that is being cut out.
    pub fn before(piece: impl Iterator<Item = i16>, rate: SampleRate) -> Self {
        let mut seam = Self { samples: [0; MOST_SAMPLES], length: 0 };
        for (to, from) in seam.samples.iter_mut().zip(piece.take(rate.samples_in(CROSSFADE))) {
            *to = from;
            seam.length += 1;
        }
        seam
    }

    /// Leads over into the sound after the cut.
    pub fn lead_into(&self, after: &mut [i16]) {
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
        let mut level = Level::default();
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
    fn a_seam_has_no_step() {
        let seam = Seam::before([1000; 320].into_iter(), SampleRate::Hz16000);
        let mut after = [-1000; 320];
        seam.lead_into(&mut after);
        assert_eq!(after[0], 1000);
        assert!(after.is_sorted_by(|before, next| before >= next && before - next <= 25));
        assert_eq!(after[80..], [-1000; 240]);
        seam.lead_into(&mut []);
    }
}
