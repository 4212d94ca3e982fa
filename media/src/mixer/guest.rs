//! Guest: a third party in a call, with what it says and what it hears.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::mouth::Mouth;
use super::sum::Frame;
use super::{GuestId, Role};
use crate::ear::MixedForm;
use crate::opus::{OpusError, SampleRate};
use crate::source::Voice;

/// Frames waiting for a guest that reads slowly: half a second. The oldest goes, so that what it hears stays fresh.
const QUEUE_FRAMES: usize = 25;

#[derive(Debug)]
pub(super) struct Guest {
    id: GuestId,
    pub(super) role: Role,
    voice: Voice,
    mouth: Mouth,
    /// How it hears: samples at this rate, or Opus packets.
    hears: Option<SampleRate>,
    form: MixedForm,
    queue: VecDeque<Bytes>,
    dropped: u64,
}

impl Guest {
    /// It speaks and hears samples at `rate`, or Opus packets.
    pub(super) fn new(
        id: GuestId,
        role: Role,
        rate: Option<SampleRate>,
        max_buffer: Duration,
    ) -> Result<Self, OpusError> {
        Ok(Self {
            id,
            role,
            voice: Voice::new(rate, max_buffer),
            mouth: Mouth::new(rate)?,
            hears: rate,
            form: MixedForm::new(rate)?,
            queue: VecDeque::with_capacity(QUEUE_FRAMES),
            dropped: 0,
        })
    }

    /// It speaks and hears otherwise from now on; what it has said already is heard first. Says how much of it had to
    /// be thrown away, see [`Voice::change_to`].
    pub(super) fn change_sound(&mut self, rate: Option<SampleRate>) -> Result<Duration, OpusError> {
        if self.hears != rate {
            self.form = MixedForm::new(rate)?;
            self.hears = rate;
            self.queue.clear();
        }
        Ok(self.voice.change_to(rate))
    }

    pub(super) fn id(&self) -> GuestId {
        self.id
    }

    pub(super) fn voice_mut(&mut self) -> &mut Voice {
        &mut self.voice
    }

    /// Its queue, with all that it still has to say.
    pub(super) fn into_voice(self) -> Voice {
        self.voice
    }

    /// Frames dropped because the guest read too slowly.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// What it said in this tick, if anything.
    pub(super) fn said(&self) -> Option<&Frame> {
        self.mouth.said()
    }

    /// Takes the next 20 ms of what it says. One who only listens is not heard later either: its sound goes by.
    pub(super) fn speak(&mut self) {
        self.mouth.speak(&mut self.voice);
        if self.role == Role::Listen {
            self.mouth.shut();
        }
    }

    /// The last it says in its present role, if it speaks: led to silence. The next frame begins anew.
    pub(super) fn say_last(&mut self) -> Option<Frame> {
        match self.role {
            Role::Listen => None,
            Role::Whisper | Role::Join => self.mouth.say_last(&mut self.voice),
        }
    }

    /// 20 ms for its ears.
    pub(super) fn hear(&mut self, frame: &Frame) {
        // libopus refuses a frame of the right length only without memory; the guest hears nothing then.
        let Some(sound) = self.form.hear(frame) else { return };
        if self.queue.len() == QUEUE_FRAMES {
            self.queue.pop_front();
            self.dropped += 1;
        }
        self.queue.push_back(sound);
    }

    pub(super) fn take(&mut self) -> Option<Bytes> {
        self.queue.pop_front()
    }
}
