//! Guest: a third party in a call, with what it says and what it hears.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::sum::{FRAME_SAMPLES, Frame, RATE, SILENT};
use super::{GuestId, Role};
use crate::opus::{SampleRate, fade_in, fade_out};
use crate::resample::Resampler;
use crate::source::{Taken, Voice};

/// Frames waiting for a guest that reads slowly: half a second. The oldest goes, so that what it hears stays fresh.
const QUEUE_FRAMES: usize = 25;
/// Room for a burst of frames; the allocator is asked once for many.
const CHUNK_BYTES: usize = 16 * 1024;
/// A voice that begins or stops in the middle of a wave is led from or to zero.
const FADE: Duration = Duration::from_millis(5);

#[derive(Debug)]
pub(super) struct Guest {
    id: GuestId,
    pub(super) role: Role,
    voice: Voice,
    inward: Resampler,
    outward: Resampler,
    at_rate: Vec<i16>,
    /// The last 20 ms, at the mixer's rate.
    said: Frame,
    mouth: Mouth,
    scratch: Vec<i16>,
    queue: VecDeque<Bytes>,
    chunk: BytesMut,
    dropped: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mouth {
    Shut,
    Open {
        last_sample: i16,
    },
    /// The voice is over; this frame leads it to silence.
    Closing,
}

impl Guest {
    pub(super) fn new(id: GuestId, role: Role, rate: SampleRate, max_buffer: Duration) -> Self {
        Self {
            id,
            role,
            voice: Voice::pcm(rate, max_buffer),
            inward: Resampler::new(rate, RATE),
            outward: Resampler::new(RATE, rate),
            at_rate: vec![0; rate.samples_per_frame()],
            said: SILENT,
            mouth: Mouth::Shut,
            scratch: Vec::with_capacity(rate.samples_per_frame().max(FRAME_SAMPLES)),
            queue: VecDeque::with_capacity(QUEUE_FRAMES),
            chunk: BytesMut::new(),
            dropped: 0,
        }
    }

    pub(super) fn id(&self) -> GuestId {
        self.id
    }

    pub(super) fn voice_mut(&mut self) -> &mut Voice {
        &mut self.voice
    }

    /// Frames dropped because the guest read too slowly.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What it said in this tick, if anything.
    pub(super) fn said(&self) -> Option<&Frame> {
        (self.mouth != Mouth::Shut).then_some(&self.said)
    }

    /// Takes the next 20 ms of what it says. One who only listens is not heard later either: its sound goes by.
    pub(super) fn speak(&mut self) {
        let taken = self.voice.take_frame(&mut self.at_rate);
        if self.role == Role::Listen {
            self.mouth = Mouth::Shut;
            return;
        }
        let fade = self.inward.from().samples_in(FADE);
        self.mouth = match (taken, self.mouth) {
            (Taken::Speech, mouth) => {
                let last_sample = self.at_rate.last().copied().unwrap_or(0);
                if mouth == Mouth::Shut {
                    self.inward.reset();
                }
                if !matches!(mouth, Mouth::Open { .. }) {
                    fade_in(&mut self.at_rate[..fade]);
                }
                Mouth::Open { last_sample }
            }
            (Taken::Silence, Mouth::Open { last_sample }) => {
                self.at_rate[..fade].fill(last_sample);
                fade_out(&mut self.at_rate[..fade]);
                Mouth::Closing
            }
            (Taken::Silence, Mouth::Closing | Mouth::Shut) => Mouth::Shut,
        };
        if self.mouth != Mouth::Shut {
            self.scratch.clear();
            self.inward.process(&self.at_rate, &mut self.scratch);
            self.said.copy_from_slice(&self.scratch);
        }
    }

    /// The last it says in its present role, if it speaks: led to silence. The next frame begins anew.
    pub(super) fn say_last(&mut self) -> Option<Frame> {
        self.speak();
        let mut last = *self.said()?;
        fade_out(&mut last);
        self.mouth = Mouth::Shut;
        Some(last)
    }

    /// 20 ms for its ears.
    pub(super) fn hear(&mut self, frame: &Frame) {
        self.scratch.clear();
        self.outward.process(frame, &mut self.scratch);
        if self.chunk.capacity() < 2 * self.scratch.len() {
            self.chunk.reserve(CHUNK_BYTES);
        }
        for sample in &self.scratch {
            self.chunk.put_i16_le(*sample);
        }
        if self.queue.len() == QUEUE_FRAMES {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back(self.chunk.split().freeze());
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.queue.pop_front()
    }
}
