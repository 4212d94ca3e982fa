//! Participant: one more speaker or listener in a call beside the agent, with both directions of its audio.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;

use super::mix_encoder::MixEncoder;
use super::mix_input::MixInput;
use super::sum::Frame;
use super::{ParticipantId, Role};
use crate::agent_audio::QUEUE_FRAMES;
use crate::opus::{FRAME, OpusError, SampleRate};
use crate::source::{AgentQueue, OVERRUN};

#[derive(Debug)]
pub(super) struct Participant {
    id: ParticipantId,
    pub(super) role: Role,
    /// Its own audio, on the way into the mix.
    queue: AgentQueue,
    input: MixInput,
    /// Format of the mix it receives: PCM at this rate, or Opus packets.
    mix_rate: Option<SampleRate>,
    encoder: MixEncoder,
    /// Encoded mix, waiting to be taken. Overflow drops the oldest.
    mixes: VecDeque<Bytes>,
    dropped: u64,
    /// Of these, not [asked for](Self::take_missed) yet.
    missed: Duration,
}

impl Participant {
    /// Sends and receives PCM at `rate`, or Opus packets for None.
    pub(super) fn new(
        id: ParticipantId,
        role: Role,
        rate: Option<SampleRate>,
        max_buffer: Duration,
    ) -> Result<Self, OpusError> {
        Ok(Self {
            id,
            role,
            queue: AgentQueue::new(rate, max_buffer).tolerating(OVERRUN),
            input: MixInput::new(rate)?,
            mix_rate: rate,
            encoder: MixEncoder::new(rate)?,
            mixes: VecDeque::with_capacity(QUEUE_FRAMES),
            dropped: 0,
            missed: Duration::ZERO,
        })
    }

    /// Switches both directions to another format. Audio queued so far is mixed first. Returns how much of it had to be
    /// dropped, see [`AgentQueue::change_to`].
    pub(super) fn change_format(&mut self, rate: Option<SampleRate>) -> Result<Duration, OpusError> {
        if self.mix_rate != rate {
            self.encoder = MixEncoder::new(rate)?;
            self.mix_rate = rate;
            self.mixes.clear();
        }
        Ok(self.queue.change_to(rate))
    }

    pub(super) fn id(&self) -> ParticipantId {
        self.id
    }

    pub(super) fn queue_mut(&mut self) -> &mut AgentQueue {
        &mut self.queue
    }

    /// The queue with everything not mixed yet, for a participant that becomes the agent.
    pub(super) fn into_queue(self) -> AgentQueue {
        self.queue
    }

    /// Mixed frames dropped because the participant read too slowly.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How much was dropped since the last call.
    pub(super) fn take_missed(&mut self) -> Duration {
        std::mem::take(&mut self.missed)
    }

    /// Its audio in this tick, or None while it is silent.
    pub(super) fn frame(&self) -> Option<&Frame> {
        self.input.frame()
    }

    /// Takes the next 20 ms from the queue. A listener's audio is discarded, so that it is not heard after a role change.
    pub(super) fn pull(&mut self) {
        self.input.pull(&mut self.queue);
        if self.role == Role::Listen {
            self.input.silence();
        }
    }

    /// One last frame in the present role, faded out; None while it is silent. The next frame starts a new talk-spurt.
    pub(super) fn pull_last(&mut self) -> Option<Frame> {
        match self.role {
            Role::Listen => None,
            Role::Whisper | Role::Join => self.input.pull_last(&mut self.queue),
        }
    }

    /// Queues 20 ms of mix for it.
    pub(super) fn push_mix(&mut self, frame: &Frame) {
        // libopus refuses a frame of the right length only when out of memory; the participant misses the frame then.
        let Some(audio) = self.encoder.encode(frame) else { return };
        if self.mixes.len() == QUEUE_FRAMES {
            self.mixes.pop_front();
            self.dropped += 1;
            self.missed += FRAME;
        }
        self.mixes.push_back(audio);
    }

    /// The next 20 ms of mix.
    pub(super) fn take_mix(&mut self) -> Option<Bytes> {
        self.mixes.pop_front()
    }
}
