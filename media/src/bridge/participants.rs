//! Third speakers, and music under the voice. A call pays for them only while they are there.

use std::time::{Duration, Instant};

use super::speakers::AttachError;
use super::{AudioFormat, Bridge, Speaker};
use crate::mixer::{Mixer, MixerError, ParticipantId, Role};
use crate::opus::{OpusError, Profile, SampleRate};
use crate::prompt::Prompt;

impl Bridge {
    /// Seats a third speaker. It takes part once it is [attached](Self::attach); until then its rate is 16 kHz.
    pub fn add_participant(&mut self, id: ParticipantId, role: Role, max_buffer: Duration) -> Result<(), MixerError> {
        self.mixer()?.add_participant(id, role, Some(SampleRate::Hz16000), max_buffer)
    }

    /// A third speaker becomes the agent, in the sound it was attached with: it is on air with all that it still has to
    /// say, and hears the caller. An earlier agent must have been detached. A hold is over.
    pub fn promote(&mut self, id: ParticipantId, sound: AudioFormat, now: Instant) -> Result<(), AttachError> {
        let mixer = self.mixer.as_mut().ok_or(MixerError::UnknownParticipant(id))?;
        let queue = mixer.release_participant(id)?;
        for waiting in self.waiting.iter_mut().filter(|waiting| **waiting == Speaker::Participant(id)) {
            *waiting = Speaker::Agent;
        }
        self.unhold(now);
        self.attach_agent(queue, sound, now)?;
        Ok(())
    }

    /// A participant may do something else from now on.
    pub fn set_role(&mut self, id: ParticipantId, role: Role) -> Result<(), MixerError> {
        self.mixer.as_mut().ok_or(MixerError::UnknownParticipant(id))?.set_role(id, role)
    }

    /// Plays prompts under the voice, again and again, ducked while somebody speaks; None fades them out.
    pub fn set_music(&mut self, prompts: Option<Vec<Prompt>>) -> Result<(), OpusError> {
        match (prompts, &mut self.mixer) {
            (None, None) => Ok(()),
            (None, Some(mixer)) => mixer.set_music(None),
            (prompts, _) => self.mixer()?.set_music(prompts),
        }
    }

    /// Whether music is under the voice and was not told to end.
    pub fn has_music(&self) -> bool {
        self.mixer.as_ref().is_some_and(|mixer| mixer.has_music())
    }

    pub(super) fn change_participant(
        &mut self,
        id: ParticipantId,
        rate: Option<SampleRate>,
    ) -> Result<Duration, AttachError> {
        Ok(self.mixer.as_mut().ok_or(MixerError::UnknownParticipant(id))?.change_format(id, rate)?)
    }

    pub(super) fn remove_participant(&mut self, id: ParticipantId) {
        if let Some(mixer) = &mut self.mixer {
            // It may have left before.
            let _ = mixer.remove_participant(id);
        }
    }

    /// Lets the mixer work on the frame that is about to leave. Says whether it has sound in it.
    pub(super) fn mix(&mut self, talking: bool, now: Instant) -> bool {
        let Some(mixer) = &mut self.mixer else { return talking };
        if self.source.is_held()
            && let Some(queue) = self.source.queue_mut()
        {
            mixer.pull_agent(queue);
        }
        let mixed = mixer.tick(&mut self.frame, talking);
        match mixer.agent_mix() {
            Some(frame) => self.agent_audio.push_mix(frame, now),
            None if self.agent_audio.is_mixed() => self.agent_audio.restart(now),
            None => {}
        }
        if mixer.is_idle() {
            self.mixer = None;
            self.source.set_mixer_takes_agent(false);
        }
        mixed.talking
    }

    fn mixer(&mut self) -> Result<&mut Mixer, OpusError> {
        if self.mixer.is_none() {
            self.mixer = Some(Box::new(Mixer::new(Profile::Eco)?));
            self.tell_mixer()?;
        }
        Ok(self.mixer.as_mut().expect("it was just made"))
    }
}
