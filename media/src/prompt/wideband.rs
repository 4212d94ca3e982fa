//! Wideband: mono audio of any rate, resampled to 16 kHz chunk by chunk.

use rubato::audioadapter_buffers::direct::InterleavedSlice;
use rubato::{Fft, FixedSync, Resampler};

use super::PromptError;
use crate::opus::SampleRate;

/// A call carries wideband; a higher rate would be encoded in vain.
pub(super) const RATE: SampleRate = SampleRate::Hz16000;

/// Samples that the resampler takes at once.
const CHUNK: usize = 1024;

/// Takes audio at one rate and collects it at [`RATE`].
pub(super) struct Wideband {
    hz: u32,
    /// None when the audio has this rate already.
    resampler: Option<Fft<f32>>,
    /// Samples that do not fill a chunk yet.
    waiting: Vec<f32>,
    produced: Vec<f32>,
    scratch: Vec<f32>,
    taken: u64,
}

impl Wideband {
    pub(super) fn new(hz: u32) -> Result<Self, PromptError> {
        let resampler = match hz == RATE.hz() {
            true => None,
            // With a fixed input the resampler works in short chunks; with both sides fixed it takes 10 ms.
            false => Some(
                Fft::new(hz as usize, RATE.hz() as usize, CHUNK, 1, FixedSync::Input)
                    .map_err(|error| PromptError::Undecodable(error.to_string()))?,
            ),
        };
        let scratch = vec![0.0; resampler.as_ref().map_or(0, |resampler| resampler.output_frames_max())];
        Ok(Self { hz, resampler, waiting: Vec::new(), produced: Vec::new(), scratch, taken: 0 })
    }

    pub(super) fn push(&mut self, mono: impl ExactSizeIterator<Item = f32>) -> Result<(), PromptError> {
        self.taken += mono.len() as u64;
        match self.resampler {
            None => self.produced.extend(mono),
            Some(_) => {
                self.waiting.extend(mono);
                self.resample()?;
            }
        }
        Ok(())
    }

    /// All audio, aligned with the start of the input, without that many of its last samples.
    pub(super) fn finish(mut self, dropped: u64) -> Result<Vec<f32>, PromptError> {
        self.taken = self.taken.saturating_sub(dropped);
        let length = (self.taken * u64::from(RATE.hz())).div_ceil(u64::from(self.hz)) as usize;
        let Some(delay) = self.resampler.as_ref().map(|resampler| resampler.output_delay()) else {
            self.produced.truncate(length);
            return Ok(self.produced);
        };
        while self.produced.len() < delay + length {
            self.waiting.resize(self.waiting.len() + CHUNK, 0.0);
            self.resample()?;
        }
        self.produced.truncate(delay + length);
        self.produced.drain(..delay);
        Ok(self.produced)
    }

    fn resample(&mut self) -> Result<(), PromptError> {
        let Some(resampler) = &mut self.resampler else { return Ok(()) };
        let mut used = 0;
        loop {
            let wanted = resampler.input_frames_next();
            let Some(chunk) = self.waiting.get(used..used + wanted) else { break };
            used += wanted;
            let room = self.scratch.len();
            let written = InterleavedSlice::new(chunk, 1, wanted)
                .and_then(|input| Ok((input, InterleavedSlice::new_mut(&mut self.scratch, 1, room)?)))
                .map_err(|error| PromptError::Undecodable(error.to_string()))
                .and_then(|(input, mut output)| {
                    resampler
                        .process_into_buffer(&input, &mut output, None)
                        .map_err(|error| PromptError::Undecodable(error.to_string()))
                })?
                .1;
            self.produced.extend_from_slice(&self.scratch[..written]);
        }
        self.waiting.drain(..used);
        Ok(())
    }
}
