//! Playout: the caller's packets, which arrive at any time, as one frame per tick.

use std::collections::VecDeque;

use super::sum::{FRAME_SAMPLES, Frame, RATE, SILENT, power};
use crate::opus::{Decoder, OpusError, fade_in, fade_out, inspect};
use crate::reorder::Slot;
use crate::timeline::TICKS_PER_FRAME;

/// Least number of samples buffered before a frame is taken. Two frames are a delay of 20 to 40 ms, depending on the time
/// between a packet and its tick; with one, any lateness would be audible.
const LEAST_RESERVE: usize = 2 * FRAME_SAMPLES;
const FIRST_RESERVE: usize = 2 * FRAME_SAMPLES;
/// A frame too late for its tick raises the reserve by one frame, up to 120 ms of delay.
const MOST_RESERVE: usize = 6 * FRAME_SAMPLES;
/// More than this above the reserve is a burst after a network stall. It was concealed while it was missing, and would be
/// delay for the rest of the call.
const BURST: usize = 6 * FRAME_SAMPLES;
/// No slot fills more than this: the rest of a long gap would be dropped as a burst anyway.
const MOST_FILLED: usize = MOST_RESERVE + BURST;
/// Capacity: buffered audio, and the longest packet (120 ms) or filling on top.
const RING: usize = 2 * (MOST_RESERVE + BURST);

/// The delay is judged by the buffer's minimum in one second: that much could be removed inaudibly.
const WATCH_FRAMES: u32 = 50;
/// The reserve is lowered after this many frames without a late one.
const LOWER_AFTER_FRAMES: u32 = 250;
/// A caller that is never quiet (music, a street) loses a loud frame once this much has accumulated.
const FORCED: usize = 3 * FRAME_SAMPLES;
/// Concealment is plausible for three frames.
const CONCEAL_FRAMES: u32 = 3;

/// Length of a crossfade in samples: 5 ms.
const BLEND: usize = 80;
/// 18 dB below recent speech is a pause between words.
const QUIET_SHARE: i64 = 64;
/// A pause in any case: -50 dB of full scale.
const QUIET_POWER: i64 = 100 * 100;

#[derive(Debug)]
pub(super) struct Playout {
    decoder: Decoder,
    /// Overflow cannot happen: see [`RING`]; a burst drops the oldest.
    ring: VecDeque<i16>,
    decoded: Vec<i16>,
    reserve: usize,
    stage: Stage,
    watch: Watch,
    /// Mean square of the loudest recent frames.
    loudest: i64,
    /// The last frame played.
    last: Frame,
    /// It may be repeated.
    repeatable: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Until the reserve is there.
    Filling,
    Playing,
    /// The buffer ran dry. `owed` samples have been played as concealment or silence.
    Dry {
        frames: u32,
        owed: usize,
    },
}

/// Recent observations.
#[derive(Debug, Clone, Copy)]
struct Watch {
    frames: u32,
    least: usize,
    since_late: u32,
}

impl Playout {
    pub(super) fn new() -> Result<Self, OpusError> {
        Ok(Self {
            decoder: Decoder::new(RATE)?,
            ring: VecDeque::with_capacity(RING),
            decoded: Vec::with_capacity(MOST_FILLED),
            reserve: FIRST_RESERVE,
            stage: Stage::Filling,
            watch: Watch { frames: 0, least: usize::MAX, since_late: 0 },
            loudest: 0,
            last: SILENT,
            repeatable: false,
        })
    }

    /// Starts afresh, after a time without listeners.
    pub(super) fn reset(&mut self) {
        // A decoder that fails to reset still decodes.
        let _ = self.decoder.reset();
        self.ring.clear();
        self.reserve = FIRST_RESERVE;
        self.stage = Stage::Filling;
        self.watch = Watch { frames: 0, least: usize::MAX, since_late: 0 };
        self.loudest = 0;
        self.last = SILENT;
        self.repeatable = false;
    }

    /// Takes the next slot of the caller's line.
    pub(super) fn push(&mut self, slot: &Slot) {
        self.decoded.clear();
        match slot {
            Slot::Packet { payload, .. } => {
                if self.decoder.decode(payload, &mut self.decoded).is_err() {
                    // libopus refused the packet: the line keeps its length.
                    let ticks = inspect(payload).map_or(TICKS_PER_FRAME, |facts| facts.duration);
                    self.decoded.clear();
                    self.decoded.resize(RATE.samples(ticks), 0);
                }
                self.notice_lateness();
            }
            Slot::Lost { duration, next, .. } => {
                let samples = self.still_owed(RATE.samples(*duration));
                if self.decoder.decode_lost(next.as_deref(), samples, &mut self.decoded).is_err() {
                    self.decoded.clear();
                    self.decoded.resize(samples, 0);
                }
            }
            Slot::Quiet { duration, .. } => {
                let samples = self.still_owed(RATE.samples(*duration));
                self.decoded.resize(samples, 0);
            }
        }
        self.ring.extend(&self.decoded);
        if self.ring.len() > self.reserve + BURST {
            self.drop_oldest(self.ring.len() - self.reserve);
        }
    }

    /// The next 20 ms, concealed if need be.
    pub(super) fn play(&mut self) -> Frame {
        self.watch();
        let frame = match self.stage {
            Stage::Filling if self.ring.len() < self.reserve => return SILENT,
            Stage::Filling => self.take_anew(),
            Stage::Playing if self.ring.len() < FRAME_SAMPLES => self.run_dry(0, 0),
            Stage::Playing => self.take_in_line(),
            Stage::Dry { frames, owed } if self.ring.len() < FRAME_SAMPLES => self.run_dry(frames, owed),
            Stage::Dry { frames, .. } if frames < CONCEAL_FRAMES => self.take_in_line(),
            Stage::Dry { .. } => self.take_anew(),
        };
        self.last = frame;
        frame
    }

    /// Fades in, because the audio may start in the middle of a wave.
    fn take_anew(&mut self) -> Frame {
        let mut frame = self.take();
        fade_in(&mut frame[..BLEND]);
        frame
    }

    /// Continues where the last frame ended, a frame closer to the wanted delay if the audio allows it.
    fn take_in_line(&mut self) -> Frame {
        let least = self.watch.least;
        let is_judged = self.watch.frames >= WATCH_FRAMES;
        if is_judged && least + FRAME_SAMPLES <= self.reserve && self.can_repeat() {
            self.watch.frames = 0;
            return self.repeat();
        }
        let too_much = is_judged && least >= self.reserve + FRAME_SAMPLES;
        if too_much && (self.next_is_quiet() || least >= self.reserve + FORCED) {
            self.watch.frames = 0;
            self.drop_oldest(FRAME_SAMPLES);
        }
        self.take()
    }

    fn take(&mut self) -> Frame {
        self.stage = Stage::Playing;
        let mut frame = SILENT;
        for (to, from) in frame.iter_mut().zip(self.ring.drain(..FRAME_SAMPLES.min(self.ring.len()))) {
            *to = from;
        }
        let power = power(&frame);
        // Decays by half in three seconds.
        self.loudest = power.max(self.loudest - self.loudest / 200);
        self.repeatable = self.is_quiet(power);
        frame
    }

    /// No audio in time: conceals three frames, then is silent.
    fn run_dry(&mut self, frames: u32, owed: usize) -> Frame {
        let owed = (owed + FRAME_SAMPLES).min(RATE.hz() as usize);
        self.stage = Stage::Dry { frames: frames.saturating_add(1), owed };
        self.repeatable = false;
        let mut frame = SILENT;
        if frames < CONCEAL_FRAMES {
            self.decoded.clear();
            if self.decoder.decode_lost(None, FRAME_SAMPLES, &mut self.decoded).is_ok() {
                frame.copy_from_slice(&self.decoded);
            }
        }
        if frames + 1 == CONCEAL_FRAMES {
            fade_out(&mut frame);
        }
        frame
    }

    /// The part of a gap that was not played already while the ring was dry.
    fn still_owed(&mut self, samples: usize) -> usize {
        let paid = match &mut self.stage {
            Stage::Dry { owed, .. } => {
                let paid = samples.min(*owed);
                *owed -= paid;
                paid
            }
            Stage::Filling | Stage::Playing => 0,
        };
        (samples - paid).min(MOST_FILLED)
    }

    /// A packet was late, and not because the caller paused: the next one may be as late.
    fn notice_lateness(&mut self) {
        if let Stage::Dry { owed, .. } = &mut self.stage
            && *owed > 0
        {
            *owed = 0;
            self.watch.since_late = 0;
            self.reserve = (self.reserve + FRAME_SAMPLES).min(MOST_RESERVE);
        }
    }

    fn watch(&mut self) {
        let waiting = self.ring.len();
        let watch = &mut self.watch;
        if watch.frames == 0 || self.stage != Stage::Playing {
            watch.least = usize::MAX;
            watch.frames = 0;
        }
        watch.least = watch.least.min(waiting);
        watch.frames += 1;
        watch.since_late += 1;
        if watch.since_late >= LOWER_AFTER_FRAMES {
            watch.since_late = 0;
            self.reserve = (self.reserve - FRAME_SAMPLES).max(LEAST_RESERVE);
        }
        if watch.frames > 2 * WATCH_FRAMES {
            watch.frames = 0;
        }
    }

    fn can_repeat(&self) -> bool {
        self.repeatable && self.ring.len() >= BLEND
    }

    /// Repeats the last frame, crossfaded from the audio that would have followed it.
    fn repeat(&mut self) -> Frame {
        let mut frame = self.last;
        blend(self.ring.iter().copied(), &mut frame);
        self.repeatable = false;
        frame
    }

    /// Drops the oldest samples, crossfaded into what follows them.
    fn drop_oldest(&mut self, samples: usize) {
        let mut begun = [0; BLEND];
        for (to, from) in begun.iter_mut().zip(self.ring.drain(..samples.min(self.ring.len()))) {
            *to = from;
        }
        let (front, _) = self.ring.as_mut_slices();
        if front.len() < BLEND {
            self.ring.make_contiguous();
        }
        let (front, _) = self.ring.as_mut_slices();
        blend(begun.into_iter(), front);
    }

    fn next_is_quiet(&self) -> bool {
        let (first, second) = self.ring.as_slices();
        let first = &first[..first.len().min(FRAME_SAMPLES)];
        let second = &second[..second.len().min(FRAME_SAMPLES - first.len())];
        let sum = power(first) * first.len() as i64 + power(second) * second.len() as i64;
        self.is_quiet(sum / FRAME_SAMPLES as i64)
    }

    fn is_quiet(&self, power: i64) -> bool {
        power < QUIET_POWER || power < self.loudest / QUIET_SHARE
    }
}

/// Crossfades `from` into `to` within [`BLEND`] samples.
fn blend(from: impl Iterator<Item = i16>, to: &mut [i16]) {
    for (index, (to, from)) in to.iter_mut().zip(from).take(BLEND).enumerate() {
        let share = index as i32 + 1;
        let mixed = i32::from(from) * (BLEND as i32 - share) + i32::from(*to) * share;
        *to = (mixed / BLEND as i32) as i16;
    }
}

#[cfg(test)]
mod tests;
