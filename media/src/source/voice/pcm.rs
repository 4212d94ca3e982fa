//! The samples of a PCM agent, waiting.

use std::collections::VecDeque;
use std::time::Duration;

use super::queue::give_back_memory;
use crate::cut::{Level, Seam};
use crate::opus::{SampleRate, fade_out};

/// A half frame ends in a fade, because a cut in the middle of a wave clicks.
const FADE: Duration = Duration::from_millis(5);

/// With nothing else queued, half a sample waits 200 ms for its other half. A stream cut at odd bytes may be that late;
/// what comes later is another utterance, which a byte from the one before would turn into noise.
const ODD_BYTE_WAITS_FRAMES: u32 = 10;

#[derive(Debug)]
pub(super) struct Pcm {
    pub rate: SampleRate,
    samples: VecDeque<i16>,
    odd_byte: Option<OddByte>,
    /// A part of a frame waits one tick for the rest of it.
    holding: bool,
    /// There is no rest to wait for: what comes is in another form.
    is_over: bool,
    level: Level,
}

/// The first half of a sample whose second half comes with the next message.
#[derive(Debug)]
struct OddByte {
    low: u8,
    /// Frames since the queue ran dry.
    waited: u32,
}

impl Pcm {
    pub fn new(rate: SampleRate) -> Self {
        Self { rate, samples: VecDeque::new(), odd_byte: None, holding: false, is_over: false, level: Level::default() }
    }

    /// Queues up to `free` samples; says how many were taken and refused. The bytes stay aligned.
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

    /// Fills `frame` and says how many samples are the agent's own; 0 leaves it untouched.
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

    /// Leaves out the next whole frame if another one follows it and `leaves_out` says so of its quietness. The
    /// frame after it takes the beginning of what comes back, so that the cut does not click.
    pub fn skip(&mut self, leaves_out: impl FnOnce(bool) -> bool) -> Option<Seam> {
        let frame = self.rate.samples_per_frame();
        if self.samples.len() < 2 * frame {
            return None;
        }
        let is_quiet = self.level.is_quiet(self.samples.range(..frame).copied());
        if !leaves_out(is_quiet) {
            return None;
        }
        let seam = Seam::before(self.samples.range(..frame).copied(), self.rate);
        self.samples.drain(..frame);
        Some(seam)
    }

    /// Whether a frame that was taken holds no speech.
    pub fn is_quiet(&mut self, frame: &[i16]) -> bool {
        self.level.is_quiet(frame.iter().copied())
    }

    /// Throws away up to 20 ms; says how much, in 48 kHz ticks.
    pub fn pass_by(&mut self) -> u64 {
        let samples = self.samples.len().min(self.rate.samples_per_frame());
        self.samples.drain(..samples);
        self.holding = false;
        self.give_back_memory();
        self.ticks(samples)
    }

    /// 20 ms have passed in which nothing was taken.
    pub fn idle(&mut self) {
        if let Some(odd_byte) = self.odd_byte.as_mut().filter(|_| self.samples.is_empty()) {
            odd_byte.waited += 1;
            if odd_byte.waited >= ODD_BYTE_WAITS_FRAMES {
                self.drop_odd_byte();
            }
        }
    }

    /// The agent says that its sound so far is whole.
    pub fn drop_odd_byte(&mut self) {
        self.odd_byte = None;
    }

    pub fn clear(&mut self) {
        self.samples = VecDeque::new();
        self.drop_odd_byte();
        self.holding = false;
    }

    /// What comes from now on is in another form.
    pub fn finish(&mut self) {
        self.drop_odd_byte();
        self.is_over = true;
    }

    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// So many samples in 48 kHz ticks.
    pub fn ticks(&self, samples: usize) -> u64 {
        samples as u64 * u64::from(self.ticks_per_sample())
    }

    /// Samples in so many 48 kHz ticks, rounded down.
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
