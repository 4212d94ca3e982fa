//! Concealment: what is heard in place of lost or paused audio of a codec that has no concealment of its own.
//!
//! A loss repeats the last pitch period, fading out, as ITU-T G.711 Appendix I does. A pause that the sender announced
//! (RFC 3389) is filled with noise at the level that it announced.

/// The pitch periods searched, in samples at 8 kHz: 66 to 200 Hz, the range of voices; higher ones repeat several periods.
const SHORTEST_PERIOD: usize = 40;
const LONGEST_PERIOD: usize = 120;
/// Samples that are compared: 20 ms.
const COMPARED: usize = 160;
const HISTORY: usize = COMPARED + LONGEST_PERIOD;
/// Samples at full level before the fade, and its end: 10 and 60 ms.
const FADE_FROM: usize = 80;
const FADE_TO: usize = 480;
/// Crossfade from concealment to audio: 5 ms.
const BLEND: usize = 40;
/// Quieter noise, in -dBov, is silence: the codec's own cached silence costs nothing.
const INAUDIBLE: u8 = 65;

/// The end of one line of audio at 8 kHz, and how it would go on.
#[derive(Debug)]
pub(crate) struct Concealment {
    /// The last samples, oldest first; shorter at first.
    history: Vec<i16>,
    /// The period that is being repeated, and the samples given so far; None while audio arrives.
    repeating: Option<Repetition>,
    noise: Option<Noise>,
}

#[derive(Debug, Clone, Copy)]
struct Repetition {
    period: usize,
    given: usize,
}

#[derive(Debug)]
struct Noise {
    amplitude: i32,
    /// State of a generator with a period of 2^32: nobody hears it repeat.
    seed: u32,
}

impl Concealment {
    pub fn new() -> Self {
        Self { history: Vec::with_capacity(2 * HISTORY), repeating: None, noise: None }
    }

    /// Forgets the line.
    pub fn reset(&mut self) {
        self.history.clear();
        self.repeating = None;
        self.noise = None;
    }

    /// Audio continues: its start is crossfaded from what was heard in its place.
    pub fn audio(&mut self, samples: &mut [i16]) {
        if let Some(mut repetition) = self.repeating.take() {
            let count = BLEND.min(samples.len()) as i32;
            for (index, sample) in (0..count).zip(samples.iter_mut()) {
                let repeated = i32::from(repetition.next(&self.history));
                *sample = ((repeated * (count - index) + i32::from(*sample) * index) / count) as i16;
            }
        }
        self.history.extend_from_slice(samples);
        let surplus = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..surplus);
    }

    /// Appends `samples` in place of lost audio.
    pub fn conceal(&mut self, samples: usize, out: &mut Vec<i16>) {
        let Some(period) = self.repeating.map(|repetition| repetition.period).or_else(|| period(&self.history)) else {
            return self.pause(samples, out);
        };
        let repetition = self.repeating.get_or_insert(Repetition { period, given: 0 });
        out.extend((0..samples).map(|_| repetition.next(&self.history)));
    }

    /// The sender pauses, with noise of this level in -dBov.
    pub fn announce_pause(&mut self, level: u8) {
        let amplitude = 32_768.0 * 10f64.powf(-f64::from(level) / 20.0) * 3f64.sqrt();
        let seed = self.noise.as_ref().map_or(0x1234_5678, |noise| noise.seed);
        let is_audible = level < INAUDIBLE;
        self.noise = is_audible.then_some(Noise { amplitude: amplitude.min(32_767.0) as i32, seed });
    }

    /// Appends `samples` of what the sender's pause sounds like.
    pub fn pause(&mut self, samples: usize, out: &mut Vec<i16>) {
        match &mut self.noise {
            Some(noise) => out.extend((0..samples).map(|_| noise.next())),
            None => out.resize(out.len() + samples, 0),
        }
    }
}

impl Repetition {
    fn next(&mut self, history: &[i16]) -> i16 {
        let start = history.len().saturating_sub(self.period);
        let sample = history.get(start + self.given % self.period).copied().unwrap_or(0);
        let left = FADE_TO.saturating_sub(self.given.max(FADE_FROM)) as i32;
        self.given += 1;
        (i32::from(sample) * left / (FADE_TO - FADE_FROM) as i32) as i16
    }
}

impl Noise {
    /// Evenly distributed, which at the right power sounds like any other noise.
    fn next(&mut self) -> i16 {
        self.seed = self.seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let unit = i64::from(self.seed.cast_signed());
        ((i64::from(self.amplitude) * unit) >> 31) as i16
    }
}

/// The shift at which the end of the line resembles itself most. None for a line too short or silent.
fn period(history: &[i16]) -> Option<usize> {
    let end = history.len().checked_sub(HISTORY)?;
    let history = &history[end..];
    let last = &history[LONGEST_PERIOD..];
    let likeness = |period: &usize| {
        let earlier = &history[LONGEST_PERIOD - period..][..COMPARED];
        let product: f32 = last.iter().zip(earlier).map(|(a, b)| f32::from(*a) * f32::from(*b)).sum();
        let power: f32 = earlier.iter().map(|sample| f32::from(*sample).powi(2)).sum();
        product / (power + 1.0).sqrt()
    };
    (SHORTEST_PERIOD..=LONGEST_PERIOD)
        .map(|period| (period, likeness(&period)))
        .max_by(|(_, one), (_, other)| one.total_cmp(other))
        .map(|(period, _)| period)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f64, from: usize, samples: usize) -> Vec<i16> {
        let at = |index: usize| ((index as f64 * hz * std::f64::consts::TAU / 8000.0).sin() * 8000.0) as i16;
        (from..from + samples).map(at).collect()
    }

    #[test]
    fn a_lost_frame_of_a_tone_continues_it_without_a_step() {
        for hz in [100.0, 160.0, 440.0, 1000.0] {
            let mut line = Concealment::new();
            let (mut before, mut after) = (tone(hz, 0, 320), tone(hz, 480, 160));
            line.audio(&mut before);
            let mut heard = before;
            line.conceal(160, &mut heard);
            line.audio(&mut after);
            heard.extend(after);
            let step = |samples: &[i16]| samples.windows(2).map(|two| two[0].abs_diff(two[1])).max().unwrap();
            assert!(step(&heard) <= 2 * step(&tone(hz, 0, 320)), "{hz} Hz: {}", step(&heard));
            let loudest = heard[320..400].iter().map(|sample| sample.unsigned_abs()).max().unwrap();
            assert!(loudest > 7000, "{hz} Hz: {loudest}");
        }
    }

    #[test]
    fn a_long_loss_fades_to_silence_and_a_short_line_is_silent_at_once() {
        let (mut line, mut heard) = (Concealment::new(), Vec::new());
        line.audio(&mut tone(300.0, 0, 320));
        line.conceal(800, &mut heard);
        assert!(heard[480..].iter().all(|sample| *sample == 0) && heard[..80].iter().any(|sample| *sample != 0));
        let (mut line, mut heard) = (Concealment::new(), Vec::new());
        line.audio(&mut tone(300.0, 0, 80));
        line.conceal(160, &mut heard);
        assert_eq!(heard, [0; 160]);
    }

    #[test]
    fn the_noise_of_a_pause_has_the_announced_level() {
        for level in [20, 40, 60] {
            let (mut line, mut heard) = (Concealment::new(), Vec::new());
            line.announce_pause(level);
            line.pause(8000, &mut heard);
            let square = heard.iter().map(|sample| f64::from(*sample).powi(2)).sum::<f64>() / 8000.0;
            let measured = -10.0 * (square / 32_768f64.powi(2)).log10();
            assert!((measured - f64::from(level)).abs() < 0.5, "{level}: {measured}");
        }
        let (mut line, mut heard) = (Concealment::new(), Vec::new());
        line.announce_pause(70);
        line.pause(10, &mut heard);
        assert_eq!(heard, [0; 10]);
    }
}
