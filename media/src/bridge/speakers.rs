//! Those who speak with the caller: their voices, and what they hear.

use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use super::{AudioFormat, Bridge, BridgeEvent, Speaker};
use crate::mixer::MixerError;
use crate::opus::{OpusError, Profile};
use crate::source::{AgentQueue, Cleared, PushError, QueueEvent, Room, TooManyMarks};

/// What a speaker may still send after it was told that its queue is full: it takes a moment to hear of it, and what
/// is under way must not stand between us and its `clear`.
const OVERRUN: Duration = Duration::from_secs(5);

/// Why a speaker cannot have the sound it wants.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AttachError {
    /// libopus refused.
    #[error(transparent)]
    Opus(#[from] OpusError),
    /// The mixer refused.
    #[error(transparent)]
    Mixer(#[from] MixerError),
}

impl Bridge {
    /// A speaker joins: an agent's voice is on air from now on, and the speaker hears the caller. A participant must have been
    /// [invited](Self::add_participant), and keeps the `max_buffer` that it was invited with.
    pub fn attach(
        &mut self,
        speaker: Speaker,
        sound: AudioFormat,
        max_buffer: Duration,
        now: Instant,
    ) -> Result<(), AttachError> {
        match speaker {
            Speaker::Agent => self.attach_agent(AgentQueue::new(sound.rate(), max_buffer), sound, now),
            Speaker::Participant(id) => self.change_participant(id, sound.rate()).map(drop),
        }
    }

    /// A speaker that is there speaks and hears otherwise from now on. What it has said already is heard first, with its
    /// marks. Says how much of that had to be thrown away, see [`AgentQueue::change_to`].
    pub fn change_format(
        &mut self,
        speaker: Speaker,
        sound: AudioFormat,
        now: Instant,
    ) -> Result<Duration, AttachError> {
        match speaker {
            Speaker::Agent => {
                self.agent_audio.change_to(sound.rate(), now)?;
                Ok(self.source.queue_mut().map_or(Duration::ZERO, |queue| queue.change_to(sound.rate())))
            }
            Speaker::Participant(id) => self.change_participant(id, sound.rate()),
        }
    }

    pub(super) fn attach_agent(
        &mut self,
        queue: AgentQueue,
        sound: AudioFormat,
        now: Instant,
    ) -> Result<(), AttachError> {
        let queue = queue.tolerating(OVERRUN);
        match sound {
            AudioFormat::Pcm { rate, profile } => {
                self.source.attach_agent(queue, profile)?;
                self.agent_audio.attach_pcm(rate, now)?;
            }
            AudioFormat::Opus => {
                self.source.attach_agent(queue, Profile::Eco)?;
                self.agent_audio.attach_opus(now);
            }
        }
        self.source.switch_to_agent();
        self.frame_phase.reset();
        // A mixer follows the form of the agent's voice.
        self.tell_mixer()?;
        Ok(())
    }

    /// A speaker is gone. If the agent's voice was on air, silence is from the next frame on; prompts go on. An agent's
    /// hold and mutes are gone with it.
    pub fn detach(&mut self, speaker: Speaker) {
        self.waiting.retain(|waiting| *waiting != speaker);
        match speaker {
            Speaker::Agent => {
                self.source.detach_agent();
                self.agent_audio.detach();
                self.reset_hold();
            }
            Speaker::Participant(id) => self.remove_participant(id),
        }
    }

    /// Whether anything waits for the agent. Guests hear something in every frame.
    pub fn has_audio_for_agent(&self) -> bool {
        self.agent_audio.has_audio()
    }

    /// The next 20 ms, or the next Opus packet, for a speaker.
    pub fn take_audio(&mut self, speaker: Speaker) -> Option<Bytes> {
        match speaker {
            Speaker::Agent => self.agent_audio.take(),
            Speaker::Participant(id) => self.mixer.as_mut()?.take_for_participant(id),
        }
    }

    /// Queues what a speaker said: any number of PCM bytes, or one Opus packet. When it answers [`Room::Full`],
    /// [`BridgeEvent::Room`] tells when to go on; some seconds more are taken before that, see
    /// [`refuses`](Self::refuses).
    pub fn push_audio(&mut self, speaker: Speaker, sound: Bytes, now: Instant) -> Result<Room, PushError> {
        let Some(queue) = self.queue(speaker) else { return Ok(Room::Free) };
        let room = queue.push(sound)?;
        if speaker == Speaker::Agent {
            let in_all = queue.pushed();
            self.frame_phase.pushed(in_all, now);
        }
        if room == Room::Full && !self.waiting.contains(&speaker) {
            self.waiting.push(speaker);
        }
        Ok(room)
    }

    /// Whether a speaker may say more.
    pub fn room(&mut self, speaker: Speaker) -> Room {
        self.queue(speaker).map_or(Room::Free, |queue| queue.room())
    }

    /// Whether a speaker has gone on after it was told that its queue is full, so that nothing more is taken.
    pub fn refuses(&mut self, speaker: Speaker) -> bool {
        self.queue(speaker).is_some_and(|queue| queue.refuses())
    }

    /// How long a speaker's queue plays.
    pub fn queued(&mut self, speaker: Speaker) -> Duration {
        self.queue(speaker).map_or(Duration::ZERO, |queue| queue.queued())
    }

    /// Asks for a [`BridgeEvent::Mark`] when everything said so far was heard.
    pub fn mark(&mut self, speaker: Speaker, name: String) -> Result<(), TooManyMarks> {
        self.queue(speaker).map_or(Ok(()), |queue| queue.mark(name))
    }

    /// Throws away what was not heard yet; the next frame is silence.
    pub fn clear(&mut self, speaker: Speaker) -> Cleared {
        self.queue(speaker).map(AgentQueue::clear).unwrap_or_default()
    }

    /// Holds a speaker's voice back.
    pub fn pause(&mut self, speaker: Speaker) {
        if let Some(queue) = self.queue(speaker) {
            queue.pause();
        }
    }

    /// Lets it go on.
    pub fn resume(&mut self, speaker: Speaker) {
        if let Some(queue) = self.queue(speaker) {
            queue.resume();
        }
    }

    pub(super) fn collect_marks(&mut self) {
        let participants =
            self.mixer.iter().flat_map(|mixer| mixer.participants()).map(|(id, _)| Speaker::Participant(id));
        // At most one list of nine, and none at all in an ordinary call.
        let speakers: Vec<Speaker> = participants.collect();
        for speaker in std::iter::once(Speaker::Agent).chain(speakers) {
            while let Some(QueueEvent::Mark { name, status }) = self.queue(speaker).and_then(AgentQueue::poll_event) {
                self.events.push_back(BridgeEvent::Mark { speaker, name, status });
            }
        }
    }

    pub(super) fn tell_room(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|speaker| {
            let is_free = self.room(*speaker) == Room::Free;
            if is_free {
                self.events.push_back(BridgeEvent::Room(*speaker));
            }
            !is_free
        });
        self.waiting = waiting;
    }

    fn queue(&mut self, speaker: Speaker) -> Option<&mut AgentQueue> {
        match speaker {
            Speaker::Agent => self.source.queue_mut(),
            Speaker::Participant(id) => self.mixer.as_mut()?.participant_queue_mut(id),
        }
    }
}
