//! Playout: a jitter buffer. Packets, which arrive at any time, are played as one frame per tick.

use std::collections::VecDeque;

use crate::opus::{Decoder, OpusError, SampleRate, fade_in, fade_out, inspect};
use crate::reorder::Slot;
use crate::timeline::TICKS_PER_FRAME;

/// The reserve is the least number of frames buffered before one is taken. Two frames are a delay of 20 to 40 ms, depending
/// on the time between a packet and its tick; with one, any lateness would be audible.
const LEAST_RESERVE: usize = 2;
const FIRST_RESERVE: usize = 2;
/// A frame too late for its tick raises the reserve by one frame, up to 120 ms of delay.
const MOST_RESERVE: usize = 6;
/// More than this above the reserve is a burst after a network stall. It was concealed while it was missing, and would be
/// delay for the rest of the call.
const BURST: usize = 6;
/// No slot fills more than this: the rest of a long gap would be dropped as a burst anyway.
const MOST_FILLED: usize = MOST_RESERVE + BURST;
/// Capacity: buffered audio, and the longest packet (120 ms) or filling on top.
const RING: usize = 2 * (MOST_RESERVE + BURST);

/// The delay is judged by the buffer's minimum in one second: that much could be removed inaudibly.
const WATCH_FRAMES: u32 = 50;
/// The reserve is lowered after this many frames without a late one.
const LOWER_AFTER_FRAMES: u32 = 250;
/// A caller that is never quiet (music, a street) loses a loud frame once this much has accumulated.
const FORCED: usize = 3;
/// Concealment is plausible for three frames.
const CONCEAL_FRAMES: u32 = 3;
/// After this many frames without audio the sender pauses: what comes next is not late. [`Reorder`](crate::reorder::Reorder)
/// reports no longer pause either.
const PAUSE_FRAMES: u32 = 50;

/// Crossfades last a quarter of a frame: 5 ms.
const BLEND: usize = 4;
/// 18 dB below recent speech is a pause between words.
const QUIET_SHARE: i64 = 64;
/// A pause in any case: -50 dB of full scale.
const QUIET_POWER: i64 = 100 * 100;

/// Turns the packets of one line into samples.
pub(crate) trait SlotDecoder {
    /// The rate of the samples.
    const RATE: SampleRate;

    /// Appends the samples of a packet. A broken one is silent for as long as it would last.
    fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>);

    /// Appends exactly `samples` in place of lost packets; `next` is the packet after them.
    fn decode_lost(&mut self, next: Option<&[u8]>, samples: usize, out: &mut Vec<i16>);

    /// Appends exactly `samples` of a pause.
    fn pause(&mut self, samples: usize, out: &mut Vec<i16>);

    /// Whether the sender has announced that it pauses: missing audio is no loss then.
    fn is_paused(&self) -> bool;

    /// Forgets the line.
    fn reset(&mut self);
}

/// A jitter buffer whose frames have `FRAME` samples.
#[derive(Debug)]
pub(crate) struct Playout<const FRAME: usize, D> {
    decoder: D,
    /// Overflow cannot happen: see [`RING`]; a burst drops the oldest.
    ring: VecDeque<i16>,
    decoded: Vec<i16>,
    reserve: usize,
    stage: Stage,
    watch: Watch,
    /// Mean square of the loudest recent frames.
    loudest: i64,
    /// The last frame played.
    last: [i16; FRAME],
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

impl<const FRAME: usize, D: SlotDecoder> Playout<FRAME, D> {
    /// An empty buffer.
    pub fn new(decoder: D) -> Self {
        Self {
            decoder,
            ring: VecDeque::with_capacity(RING * FRAME),
            decoded: Vec::with_capacity(MOST_FILLED * FRAME),
            reserve: FIRST_RESERVE * FRAME,
            stage: Stage::Filling,
            watch: Watch { frames: 0, least: usize::MAX, since_late: 0 },
            loudest: 0,
            last: [0; FRAME],
            repeatable: false,
        }
    }

    /// Starts afresh, after a time without listeners, or for another sender.
    pub fn reset(&mut self) {
        self.decoder.reset();
        self.ring.clear();
        self.reserve = FIRST_RESERVE * FRAME;
        self.stage = Stage::Filling;
        self.watch = Watch { frames: 0, least: usize::MAX, since_late: 0 };
        self.loudest = 0;
        self.last = [0; FRAME];
        self.repeatable = false;
    }

    /// The decoder, to be told what is no slot.
    pub fn decoder_mut(&mut self) -> &mut D {
        &mut self.decoder
    }

    /// Frames that are buffered before one is taken.
    pub fn reserve_frames(&self) -> u32 {
        (self.reserve / FRAME) as u32
    }

    /// Takes the next slot of the line.
    pub fn push(&mut self, slot: &Slot) {
        self.decoded.clear();
        match slot {
            Slot::Packet { payload, .. } => {
                self.decoder.decode(payload, &mut self.decoded);
                self.notice_lateness();
            }
            Slot::Lost { duration, next, .. } => {
                let samples = self.still_owed(D::RATE.samples(*duration));
                self.decoder.decode_lost(next.as_deref(), samples, &mut self.decoded);
            }
            Slot::Quiet { duration, .. } => {
                let samples = self.still_owed(D::RATE.samples(*duration));
                self.decoder.pause(samples, &mut self.decoded);
            }
        }
        self.ring.extend(&self.decoded);
        if self.ring.len() > self.reserve + BURST * FRAME {
            self.drop_oldest(self.ring.len() - self.reserve);
        }
    }

    /// The next 20 ms, concealed if need be.
    pub fn play(&mut self) -> [i16; FRAME] {
        self.watch();
        let frame = match self.stage {
            Stage::Filling if self.ring.len() < self.reserve => self.pause(),
            Stage::Filling => self.take_anew(),
            Stage::Playing if self.ring.len() < FRAME => self.run_dry(0, 0),
            Stage::Playing => self.take_in_line(),
            Stage::Dry { frames, owed } if self.ring.len() < FRAME => self.run_dry(frames, owed),
            Stage::Dry { frames, .. } if frames < CONCEAL_FRAMES => self.take_in_line(),
            Stage::Dry { .. } => self.take_anew(),
        };
        self.last = frame;
        frame
    }

    /// Fades in, because the audio may start in the middle of a wave.
    fn take_anew(&mut self) -> [i16; FRAME] {
        let mut frame = self.take();
        fade_in(&mut frame[..FRAME / BLEND]);
        frame
    }

    /// Continues where the last frame ended, a frame closer to the wanted delay if the audio allows it.
    fn take_in_line(&mut self) -> [i16; FRAME] {
        let least = self.watch.least;
        let is_judged = self.watch.frames >= WATCH_FRAMES;
        if is_judged && least + FRAME <= self.reserve && self.can_repeat() {
            self.watch.frames = 0;
            return self.repeat();
        }
        let too_much = is_judged && least >= self.reserve + FRAME;
        if too_much && (self.next_is_quiet() || least >= self.reserve + FORCED * FRAME) {
            self.watch.frames = 0;
            self.drop_oldest(FRAME);
        }
        self.take()
    }

    fn take(&mut self) -> [i16; FRAME] {
        self.stage = Stage::Playing;
        let mut frame = [0; FRAME];
        for (to, from) in frame.iter_mut().zip(self.ring.drain(..FRAME.min(self.ring.len()))) {
            *to = from;
        }
        let power = power(&frame);
        // Decays by half in three seconds.
        self.loudest = power.max(self.loudest - self.loudest / 200);
        self.repeatable = self.is_quiet(power);
        frame
    }

    /// No audio in time: conceals three frames, then pauses.
    fn run_dry(&mut self, frames: u32, owed: usize) -> [i16; FRAME] {
        let frames = frames.saturating_add(1);
        self.stage = match frames >= PAUSE_FRAMES {
            true => Stage::Filling,
            false => Stage::Dry { frames, owed: owed + FRAME },
        };
        self.repeatable = false;
        if frames > CONCEAL_FRAMES || self.decoder.is_paused() {
            return self.pause();
        }
        self.decoded.clear();
        self.decoder.decode_lost(None, FRAME, &mut self.decoded);
        let mut frame = [0; FRAME];
        frame.iter_mut().zip(&self.decoded).for_each(|(to, from)| *to = *from);
        if frames == CONCEAL_FRAMES {
            fade_out(&mut frame);
        }
        frame
    }

    fn pause(&mut self) -> [i16; FRAME] {
        self.decoded.clear();
        self.decoder.pause(FRAME, &mut self.decoded);
        let mut frame = [0; FRAME];
        frame.iter_mut().zip(&self.decoded).for_each(|(to, from)| *to = *from);
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
        (samples - paid).min(MOST_FILLED * FRAME)
    }

    /// A packet was late, and not because the caller paused: the next one may be as late.
    fn notice_lateness(&mut self) {
        if let Stage::Dry { owed, .. } = &mut self.stage
            && *owed > 0
        {
            *owed = 0;
            self.watch.since_late = 0;
            self.reserve = (self.reserve + FRAME).min(MOST_RESERVE * FRAME);
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
            self.reserve = (self.reserve - FRAME).max(LEAST_RESERVE * FRAME);
        }
        if watch.frames > 2 * WATCH_FRAMES {
            watch.frames = 0;
        }
    }

    fn can_repeat(&self) -> bool {
        self.repeatable && self.ring.len() >= FRAME / BLEND
    }

    /// Repeats the last frame, crossfaded from the audio that would have followed it.
    fn repeat(&mut self) -> [i16; FRAME] {
        let mut frame = self.last;
        blend(self.ring.iter().copied(), &mut frame[..FRAME / BLEND]);
        self.repeatable = false;
        frame
    }

    /// Drops the oldest samples, crossfaded into what follows them.
    fn drop_oldest(&mut self, samples: usize) {
        let mut begun = [0; FRAME];
        for (to, from) in begun.iter_mut().zip(self.ring.drain(..samples.min(self.ring.len()))) {
            *to = from;
        }
        let length = FRAME / BLEND;
        if self.ring.as_slices().0.len() < length {
            self.ring.make_contiguous();
        }
        let (front, _) = self.ring.as_mut_slices();
        let length = length.min(front.len());
        blend(begun.into_iter(), &mut front[..length]);
    }

    fn next_is_quiet(&self) -> bool {
        let (first, second) = self.ring.as_slices();
        let first = &first[..first.len().min(FRAME)];
        let second = &second[..second.len().min(FRAME - first.len())];
        let sum = power(first) * first.len() as i64 + power(second) * second.len() as i64;
        self.is_quiet(sum / FRAME as i64)
    }

    fn is_quiet(&self, power: i64) -> bool {
        power < QUIET_POWER || power < self.loudest / QUIET_SHARE
    }
}

/// Crossfades `from` into the whole of `to`.
fn blend(from: impl Iterator<Item = i16>, to: &mut [i16]) {
    let length = to.len() as i32;
    for (share, (to, from)) in (1..).zip(to.iter_mut().zip(from)) {
        let mixed = i32::from(from) * (length - share) + i32::from(*to) * share;
        *to = (mixed / length) as i16;
    }
}

/// The mean square.
pub(crate) fn power(frame: &[i16]) -> i64 {
    frame.iter().map(|sample| i64::from(*sample).pow(2)).sum::<i64>() / frame.len().max(1) as i64
}

/// Opus at the mixer's rate.
impl SlotDecoder for Decoder {
    const RATE: SampleRate = SampleRate::Hz16000;

    fn decode(&mut self, payload: &[u8], out: &mut Vec<i16>) {
        let start = out.len();
        if Decoder::decode(self, payload, out).is_err() {
            // libopus refused the packet: the line keeps its length.
            let ticks = inspect(payload).map_or(TICKS_PER_FRAME, |facts| facts.duration);
            out.truncate(start);
            out.resize(start + Self::RATE.samples(ticks), 0);
        }
    }

    fn decode_lost(&mut self, next: Option<&[u8]>, samples: usize, out: &mut Vec<i16>) {
        let start = out.len();
        if Decoder::decode_lost(self, next, samples, out).is_err() {
            out.truncate(start);
            out.resize(start + samples, 0);
        }
    }

    fn pause(&mut self, samples: usize, out: &mut Vec<i16>) {
        out.resize(out.len() + samples, 0);
    }

    /// Opus says so in its packets, which [`Slot::Quiet`] reports.
    fn is_paused(&self) -> bool {
        false
    }

    fn reset(&mut self) {
        // A decoder that fails to reset still decodes.
        let _: Result<(), OpusError> = Decoder::reset(self);
    }
}

#[cfg(test)]
mod tests;
