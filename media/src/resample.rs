//! Resampler: 20 ms frames from one rate to another, where Opus does not decode at the right rate.

use std::fmt;

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler as _, WindowFunction};

use crate::opus::SampleRate;

/// Turns one 20 ms frame at one rate into exactly one at another, 2.5 ms late (5 ms to or from 8, 12 and 44.1 kHz).
///
/// Flat within 0.5 dB up to 41 % of the lower rate (3.3 kHz at 8 kHz); frequencies beyond the lower rate are more than
/// 80 dB down.
///
/// Opus supports all four rates by itself; this is for speakers of different rates in one mix, for G.711, and for sound that
/// comes at a rate that Opus does not have. After its creation it allocates nothing, as long as `out` has room.
pub struct Resampler {
    from_hz: u32,
    to: SampleRate,
    /// None between equal rates.
    work: Option<Work>,
}

struct Work {
    fft: Fft<f32>,
    before: Box<[f32]>,
    after: Box<[f32]>,
}

impl Resampler {
    /// From frames at `from` to frames at `to`.
    pub fn new(from: SampleRate, to: SampleRate) -> Self {
        Self::of_hz(from.hz(), to)
    }

    /// From frames at any rate of whole samples in 20 ms, such as 22.05 kHz, to frames at `to`.
    pub fn of_hz(from_hz: u32, to: SampleRate) -> Self {
        Self { from_hz, to, work: (from_hz != to.hz()).then(|| Work::new(from_hz, to)) }
    }

    /// Appends one frame at the new rate to `out`. A short `frame` is padded with silence, a long one is truncated.
    pub fn process(&mut self, frame: &[i16], out: &mut Vec<i16>) {
        let expected = self.samples_per_frame();
        let frame = &frame[..frame.len().min(expected)];
        match &mut self.work {
            Some(work) => work.process(frame, out),
            None => {
                out.extend_from_slice(frame);
                out.resize(out.len() + expected - frame.len(), 0);
            }
        }
    }

    /// Forgets the last milliseconds of audio.
    pub fn reset(&mut self) {
        if let Some(work) = &mut self.work {
            work.fft.reset();
        }
    }

    /// The rate of the frames it takes, in Hz.
    pub fn from_hz(&self) -> u32 {
        self.from_hz
    }

    /// Samples in one of the frames it takes.
    pub fn samples_per_frame(&self) -> usize {
        samples_per_frame(self.from_hz)
    }

    /// The rate of the frames it returns.
    pub fn to(&self) -> SampleRate {
        self.to
    }
}

impl Work {
    fn new(from_hz: u32, to: SampleRate) -> Self {
        let frame = samples_per_frame(from_hz);
        // Blocks of a quarter frame keep the delay at 2.5 ms. At 8 kHz they would be 40 samples, and a filter that
        // short takes 3 dB at 3.3 kHz; at 44.1 and 22.05 kHz they would be no whole samples.
        let blocks = match from_hz.min(to.hz()) {
            _ if !frame.is_multiple_of(2) => 1,
            ..16_000 => 2,
            _ if !frame.is_multiple_of(4) => 2,
            _ => 4,
        };
        let (from_hz, to_hz) = (from_hz as usize, to.hz() as usize);
        // The library's own choice of window begins to cut at 5 kHz of 16 with blocks this short; this one at 6.6 kHz,
        // and aliases stay 84 dB down all the same.
        let window = WindowFunction::Blackman;
        // Only a fixed input obeys the number of blocks. Every block is a whole number of samples at both rates, so
        // the output is one frame each time as well.
        let fft = Fft::new_custom(from_hz, to_hz, frame, blocks, 1, window, FixedSync::Input)
            .expect("neither a rate nor a frame is zero");
        Self { fft, before: vec![0.0; frame].into(), after: vec![0.0; to.samples_per_frame()].into() }
    }

    fn process(&mut self, frame: &[i16], out: &mut Vec<i16>) {
        self.before.fill(0.0);
        for (to, from) in self.before.iter_mut().zip(frame) {
            *to = f32::from(*from);
        }
        let (frames_before, frames_after) = (self.before.len(), self.after.len());
        let before = InterleavedSlice::new(&self.before[..], 1, frames_before);
        let after = InterleavedSlice::new_mut(&mut self.after[..], 1, frames_after);
        let done = match (before, after) {
            (Ok(before), Ok(mut after)) => self.fft.process_into_buffer(&before, &mut after, None).is_ok(),
            _ => false,
        };
        if !done {
            // Only buffers of a wrong size are refused, and these never change. The line keeps its length all the same.
            self.after.fill(0.0);
        }
        // The cast saturates: a sum of overtones that rings beyond full scale is cut there.
        out.extend(self.after.iter().map(|sample| sample.round() as i16));
    }
}

fn samples_per_frame(hz: u32) -> usize {
    hz as usize / 50
}

impl fmt::Debug for Resampler {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Resampler")
            .field("from_hz", &self.from_hz)
            .field("to", &self.to)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
