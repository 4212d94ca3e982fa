//! The agent and the participants: their queues, and what they hear.

use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use super::{Bridge, BridgeEvent};
use crate::mixer::{MixerError, ParticipantId};
use crate::opus::{OpusError, Profile, SampleRate};
use crate::source::{AgentQueue, Cleared, OVERRUN, PushError, QueueEvent, Room, TooManyMarks};

/// Who speaks with the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Speaker {
    /// The agent that the call was put through to.
    Agent,
    /// Another participant, who listens, whispers or has joined.
    Participant(ParticipantId),
}

/// The format of the audio that a speaker sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioFormat {
    /// 16-bit little-endian samples, mono.
    Pcm {
        /// In both directions.
        rate: SampleRate,
        /// How an agent's audio is encoded for the caller.
        profile: Profile,
    },
    /// Opus packets of 20 ms.
    Opus,
}

impl AudioFormat {
    /// Sample rate of PCM; None for Opus.
    pub(super) fn rate(self) -> Option<SampleRate> {
        match self {
            Self::Pcm { rate, .. } => Some(rate),
            Self::Opus => None,
        }
    }
}

/// Why a speaker cannot have the format it asks for.
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
    /// A speaker joins. An agent is on air from now on, and hears the caller. A participant must have been
    /// [added](Self::add_participant), and keeps the `max_buffer` given there.
    pub fn attach(
        &mut self,
        speaker: Speaker,
        format: AudioFormat,
        max_buffer: Duration,
        now: Instant,
    ) -> Result<(), AttachError> {
        match speaker {
            Speaker::Agent => self.attach_agent(AgentQueue::new(format.rate(), max_buffer), format, now),
            Speaker::Participant(id) => self.change_participant(id, format.rate()).map(drop),
        }
    }

    /// Switches a speaker to another format. Its queued audio is played first, with its marks. Returns how much of that had
    /// to be dropped, see [`AgentQueue::change_to`].
    pub fn change_format(
        &mut self,
        speaker: Speaker,
        format: AudioFormat,
        now: Instant,
    ) -> Result<Duration, AttachError> {
        match speaker {
            Speaker::Agent => {
                self.incoming.agent.change_to(format.rate(), now)?;
                let queue = self.outgoing.source.queue_mut();
                Ok(queue.map_or(Duration::ZERO, |queue| queue.change_to(format.rate())))
            }
            Speaker::Participant(id) => self.change_participant(id, format.rate()),
        }
    }

    pub(super) fn attach_agent(
        &mut self,
        queue: AgentQueue,
        format: AudioFormat,
        now: Instant,
    ) -> Result<(), AttachError> {
        let queue = queue.tolerating(OVERRUN);
        match format {
            AudioFormat::Pcm { rate, profile } => {
                self.outgoing.source.attach_agent(queue, profile)?;
                self.incoming.agent.attach_pcm(rate, now)?;
            }
            AudioFormat::Opus => {
                self.outgoing.source.attach_agent(queue, Profile::Eco)?;
                self.incoming.agent.attach_opus(now);
            }
        }
        self.outgoing.source.switch_to_agent();
        self.outgoing.phase.reset();
        // The mixer follows the format of the agent's queue.
        self.update_mixer()?;
        Ok(())
    }

    /// A speaker leaves. If the agent was on air, the next frame is silence; prompts continue. An agent's hold and mutes
    /// end with it.
    pub fn detach(&mut self, speaker: Speaker) {
        self.full.retain(|full| *full != speaker);
        match speaker {
            Speaker::Agent => {
                self.outgoing.source.detach_agent();
                self.incoming.agent.detach();
                self.reset_hold();
            }
            Speaker::Participant(id) => self.remove_participant(id),
        }
    }

    /// Whether audio waits for the agent. Participants hear something in every frame.
    pub fn has_audio_for_agent(&self) -> bool {
        self.incoming.agent.has_audio()
    }

    /// The next 20 ms of PCM, or the next Opus packet, for a speaker.
    pub fn take_audio(&mut self, speaker: Speaker) -> Option<Bytes> {
        match speaker {
            Speaker::Agent => self.incoming.agent.take(),
            Speaker::Participant(id) => self.mixer.as_mut()?.take_for_participant(id),
        }
    }

    /// How much audio for a speaker was dropped since the last call because it took it too slowly.
    pub fn take_missed(&mut self, speaker: Speaker) -> Duration {
        match speaker {
            Speaker::Agent => self.incoming.agent.take_missed(),
            Speaker::Participant(id) => {
                self.mixer.as_mut().map_or(Duration::ZERO, |mixer| mixer.take_missed_by_participant(id))
            }
        }
    }

    /// Queues a speaker's audio: any number of PCM bytes, or one Opus packet. After [`Room::Full`],
    /// [`BridgeEvent::Room`] reports when there is room again; [`OVERRUN`] more is accepted before that, see
    /// [`refuses`](Self::refuses).
    pub fn push_audio(&mut self, speaker: Speaker, audio: Bytes, now: Instant) -> Result<Room, PushError> {
        let Some(queue) = self.queue(speaker) else { return Ok(Room::Free) };
        let room = queue.push(audio)?;
        if speaker == Speaker::Agent {
            let total = queue.pushed();
            self.outgoing.phase.pushed(total, now);
        }
        if room == Room::Full && !self.full.contains(&speaker) {
            self.full.push(speaker);
        }
        Ok(room)
    }

    /// Whether a speaker may send more.
    pub fn room(&mut self, speaker: Speaker) -> Room {
        self.queue(speaker).map_or(Room::Free, |queue| queue.room())
    }

    /// Whether a speaker has sent so much after its queue was full that nothing more is accepted.
    pub fn refuses(&mut self, speaker: Speaker) -> bool {
        self.queue(speaker).is_some_and(|queue| queue.refuses())
    }

    /// Duration of a speaker's queued audio.
    pub fn queued(&mut self, speaker: Speaker) -> Duration {
        self.queue(speaker).map_or(Duration::ZERO, |queue| queue.queued())
    }

    /// Asks for a [`BridgeEvent::Mark`] when everything queued so far was played.
    pub fn mark(&mut self, speaker: Speaker, name: String) -> Result<(), TooManyMarks> {
        self.queue(speaker).map_or(Ok(()), |queue| queue.mark(name))
    }

    /// Drops a speaker's queued audio; the next frame is silence.
    pub fn clear(&mut self, speaker: Speaker) -> Cleared {
        self.queue(speaker).map(AgentQueue::clear).unwrap_or_default()
    }

    /// Keeps a speaker's audio in its queue until [`resume`](Self::resume).
    pub fn pause(&mut self, speaker: Speaker) {
        if let Some(queue) = self.queue(speaker) {
            queue.pause();
        }
    }

    /// Plays a speaker's queue again.
    pub fn resume(&mut self, speaker: Speaker) {
        if let Some(queue) = self.queue(speaker) {
            queue.resume();
        }
    }

    pub(super) fn collect_marks(&mut self) {
        let participants = self.mixer.iter().flat_map(|mixer| mixer.participants());
        // Eight at most, and none in an ordinary call.
        let participants: Vec<Speaker> = participants.map(|(id, _)| Speaker::Participant(id)).collect();
        for speaker in std::iter::once(Speaker::Agent).chain(participants) {
            while let Some(QueueEvent::Mark { name, status }) = self.queue(speaker).and_then(AgentQueue::poll_event) {
                self.events.push_back(BridgeEvent::Mark { speaker, name, status });
            }
        }
    }

    pub(super) fn report_room(&mut self) {
        if self.full.is_empty() {
            return;
        }
        let mut full = std::mem::take(&mut self.full);
        full.retain(|speaker| {
            let is_free = self.room(*speaker) == Room::Free;
            if is_free {
                self.events.push_back(BridgeEvent::Room(*speaker));
            }
            !is_free
        });
        self.full = full;
    }

    fn queue(&mut self, speaker: Speaker) -> Option<&mut AgentQueue> {
        match speaker {
            Speaker::Agent => self.outgoing.source.queue_mut(),
            Speaker::Participant(id) => self.mixer.as_mut()?.participant_queue_mut(id),
        }
    }
}
