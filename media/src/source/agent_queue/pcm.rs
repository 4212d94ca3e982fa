//! Queued PCM samples of one rate.

use std::collections::VecDeque;
use std::time::Duration;

use super::segments::give_back_memory;
use crate::opus::{SampleRate, fade_out};
use crate::splice::{Crossfade, SpeechLevel};

/// A partial frame ends in a fade, because a cut in the middle of a wave clicks.
const FADE: Duration = Duration::from_millis(5);

/// With nothing else queued, half a sample waits 200 ms for its other half. A stream split at odd bytes may be that late;
/// later audio is another utterance, which a byte of the previous one would turn into noise.
const ODD_BYTE_WAITS_FRAMES: u32 = 10;

#[derive(Debug)]
pub(super) struct Pcm {
    pub rate: SampleRate,
    samples: VecDeque<i16>,
    odd_byte: Option<OddByte>,
    /// A partial frame waits one tick for the rest of it.
    holding: bool,
    /// No rest will come: later audio has another format.
    is_over: bool,
    level: SpeechLevel,
}

/// The first half of a sample whose second half is in the next message.
#[derive(Debug)]
struct OddByte {
    low: u8,
    /// Frames since the queue ran dry.
    waited: u32,
}

impl Pcm {
    pub fn new(rate: SampleRate) -> Self {
        Self {
            rate,
            samples: VecDeque::new(),
            odd_byte: None,
            holding: false,
            is_over: false,
            level: SpeechLevel::default(),
        }
    }

    /// Queues up to `free` samples and returns how many were taken and refused. The bytes stay aligned.
    pub fn push(&mut self, bytes: &[u8], free: usize) -> (usize, usize) {
        let (mut bytes, mut free) = (bytes, free);
        let (mut taken, mut refused) = (0, 0);
        if let Some((high, rest)) = bytes.split_first()
            && let Some(OddByte { low, .. }) = self.odd_byte.take()
        {
            bytes = rest;
            if free > 0 {
                self.samples.push_back(i16::from_le_bytes([low, *high]));
                free -= 1;
                taken += 1;
            } else {
                refused += 1;
            }
        }
        let (pairs, rest) = bytes.as_chunks::<2>();
        let fits = pairs.len().min(free);
        self.samples.extend(pairs[..fits].iter().map(|pair| i16::from_le_bytes(*pair)));
        if let [odd] = rest {
            self.odd_byte = Some(OddByte { low: *odd, waited: 0 });
        }
        taken += fits;
        refused += pairs.len() - fits;
        (taken, refused)
    }

    /// Fills `frame` and returns how many samples are the agent's own; for 0 the frame is untouched.
    pub fn take(&mut self, frame: &mut [i16]) -> usize {
        let samples = self.samples.len().min(frame.len());
        let complete = samples == frame.len();
        if samples == 0 || (!complete && !self.holding && !self.is_over) {
            self.holding = samples > 0;
            return 0;
        }
        self.holding = false;
        for (to, from) in frame.iter_mut().zip(self.samples.drain(..samples)) {
            *to = from;
        }
        if !complete {
            let fade = self.rate.samples_in(FADE).min(samples);
            fade_out(&mut frame[samples - fade..samples]);
            frame[samples..].fill(0);
        }
        self.give_back_memory();
        samples
    }

    /// Skips the next whole frame if another one follows and `skips` agrees, given whether it is quiet. Returns the
    /// crossfade into the frame after it, so that the cut does not click.
    pub fn skip(&mut self, skips: impl FnOnce(bool) -> bool) -> Option<Crossfade> {
        let frame = self.rate.samples_per_frame();
        if self.samples.len() < 2 * frame {
            return None;
        }
        let is_quiet = self.level.is_quiet(self.samples.range(..frame).copied());
        if !skips(is_quiet) {
            return None;
        }
        let crossfade = Crossfade::from_removed(self.samples.range(..frame).copied(), self.rate);
        self.samples.drain(..frame);
        Some(crossfade)
    }

    /// Whether a frame that was taken holds no speech.
    pub fn is_quiet(&mut self, frame: &[i16]) -> bool {
        self.level.is_quiet(frame.iter().copied())
    }

    /// Discards up to 20 ms and returns how much, in 48 kHz ticks.
    pub fn discard_frame(&mut self) -> u64 {
        let samples = self.samples.len().min(self.rate.samples_per_frame());
        self.samples.drain(..samples);
        self.holding = false;
        self.give_back_memory();
        self.ticks(samples)
    }

    /// 20 ms passed without a frame taken.
    pub fn idle(&mut self) {
        if let Some(odd_byte) = self.odd_byte.as_mut().filter(|_| self.samples.is_empty()) {
            odd_byte.waited += 1;
            if odd_byte.waited >= ODD_BYTE_WAITS_FRAMES {
                self.drop_odd_byte();
            }
        }
    }

    /// The audio so far is complete.
    pub fn drop_odd_byte(&mut self) {
        self.odd_byte = None;
    }

    pub fn clear(&mut self) {
        self.samples = VecDeque::new();
        self.drop_odd_byte();
        self.holding = false;
    }

    /// Later audio has another format.
    pub fn finish(&mut self) {
        self.drop_odd_byte();
        self.is_over = true;
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Duration of `samples` in 48 kHz ticks.
    pub fn ticks(&self, samples: usize) -> u64 {
        samples as u64 * u64::from(self.ticks_per_sample())
    }

    /// Samples in `ticks` of 48 kHz, rounded down.
    pub fn samples(&self, ticks: u64) -> usize {
        (ticks / u64::from(self.ticks_per_sample())) as usize
    }

    fn ticks_per_sample(&self) -> u32 {
        48_000 / self.rate.hz()
    }

    /// A live agent needs room for 80 ms.
    fn give_back_memory(&mut self) {
        give_back_memory(&mut self.samples, 4 * self.rate.samples_per_frame());
    }
}
