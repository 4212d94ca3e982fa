//! The agent's side of a bridge: its voice, and what it hears.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{AgentSound, Bridge};
use crate::opus::{OpusError, Profile};
use crate::source::{Cleared, PushError, Room, TooManyMarks, Voice};

/// What an agent may still send after it was told that its queue is full: it takes a moment to hear of it, and what
/// is under way must not stand between us and its `clear`.
const OVERRUN: Duration = Duration::from_secs(5);

impl Bridge {
    /// An agent joins, or changes its sound: its voice is on air from now on, and it hears the caller.
    pub fn attach_agent(&mut self, sound: AgentSound, max_buffer: Duration, now: Instant) -> Result<(), OpusError> {
        match sound {
            AgentSound::Pcm { rate, profile } => {
                self.source.set_voice(Voice::pcm(rate, max_buffer).tolerating(OVERRUN), profile)?;
                self.ear.take_pcm(rate, now)?;
            }
            AgentSound::Opus => {
                self.source.set_voice(Voice::opus(max_buffer).tolerating(OVERRUN), Profile::Eco)?;
                self.ear.take_opus();
            }
        }
        self.source.go_live();
        Ok(())
    }

    /// The agent is gone. If its voice was on air, silence is from the next frame on; prompts go on.
    pub fn detach_agent(&mut self) {
        self.agent_waits = false;
        self.source.remove_voice();
        self.ear.deafen();
    }

    /// Whether anything waits for the agent.
    pub fn has_sound_for_agent(&self) -> bool {
        self.ear.has_sound()
    }

    /// The next 20 ms, or the next Opus packet, for the agent.
    pub fn take_for_agent(&mut self) -> Option<Bytes> {
        self.ear.take()
    }

    /// Queues what the agent said: any number of PCM bytes, or one Opus packet. When it answers [`Room::Full`],
    /// [`RoomForAgent`](super::BridgeEvent::RoomForAgent) tells when to go on; some seconds more are taken before that, see
    /// [`refuses`](Self::refuses).
    pub fn say(&mut self, sound: Bytes) -> Result<Room, PushError> {
        let Some(voice) = self.source.voice_mut() else { return Ok(Room::Free) };
        let room = match voice.rate() {
            Some(_) => voice.push_pcm(&sound)?,
            None => voice.push_opus(sound)?,
        };
        self.agent_waits |= room == Room::Full;
        Ok(room)
    }

    /// Whether the agent may say more.
    pub fn room(&self) -> Room {
        self.source.voice().map_or(Room::Free, Voice::room)
    }

    /// Whether the agent has gone on after it was told that its queue is full, so that nothing more is taken.
    pub fn refuses(&self) -> bool {
        self.source.voice().is_some_and(Voice::refuses)
    }

    /// How long the agent's queue plays.
    pub fn queued(&self) -> Duration {
        self.source.voice().map_or(Duration::ZERO, Voice::queued)
    }

    /// Asks for a [`Mark`](super::BridgeEvent::Mark) when everything said so far was heard.
    pub fn mark(&mut self, name: String) -> Result<(), TooManyMarks> {
        self.source.voice_mut().map_or(Ok(()), |voice| voice.mark(name))
    }

    /// Throws away what the caller has not heard; the next frame is silence.
    pub fn clear(&mut self) -> Cleared {
        self.source.voice_mut().map(Voice::clear).unwrap_or_default()
    }

    /// Holds the agent's voice back.
    pub fn pause(&mut self) {
        if let Some(voice) = self.source.voice_mut() {
            voice.pause();
        }
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        if let Some(voice) = self.source.voice_mut() {
            voice.resume();
        }
    }
}
