//! Participants beside the agent, and music under the speech. A call pays for them only while they are there.

use std::time::{Duration, Instant};

use super::{AttachError, AudioFormat, Bridge, Speaker};
use crate::mixer::{Mixer, MixerError, ParticipantId, Role};
use crate::opus::{OpusError, Profile, SampleRate};
use crate::prompt::Prompt;

impl Bridge {
    /// Adds a participant. It takes part once it is [attached](Self::attach); until then its format is PCM at 16 kHz.
    pub fn add_participant(&mut self, id: ParticipantId, role: Role, max_buffer: Duration) -> Result<(), MixerError> {
        self.mixer()?.add_participant(id, role, Some(SampleRate::Hz16000), max_buffer)
    }

    /// Makes a participant the agent, in the format it was attached with: it is on air with everything it has queued, and
    /// hears the caller. An earlier agent must have been detached. A hold ends.
    pub fn promote(&mut self, id: ParticipantId, format: AudioFormat, now: Instant) -> Result<(), AttachError> {
        let mixer = self.mixer.as_mut().ok_or(MixerError::UnknownParticipant(id))?;
        let queue = mixer.release_participant(id)?;
        for full in self.full.iter_mut().filter(|full| **full == Speaker::Participant(id)) {
            *full = Speaker::Agent;
        }
        self.unhold(now);
        self.attach_agent(queue, format, now)
    }

    /// Changes who hears a participant.
    pub fn set_role(&mut self, id: ParticipantId, role: Role) -> Result<(), MixerError> {
        self.mixer.as_mut().ok_or(MixerError::UnknownParticipant(id))?.set_role(id, role)
    }

    /// Loops prompts under the speech, ducked while somebody speaks; None fades them out.
    pub fn set_music(&mut self, prompts: Option<Vec<Prompt>>) -> Result<(), OpusError> {
        match (prompts, &mut self.mixer) {
            (None, None) => Ok(()),
            (None, Some(mixer)) => mixer.set_music(None),
            (prompts, _) => self.mixer()?.set_music(prompts),
        }
    }

    /// Whether music plays and was not asked to end.
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

    /// Lets the mixer work on the frame that is about to leave. Returns whether the frame is more than silence.
    pub(super) fn mix(&mut self, talking: bool, now: Instant) -> bool {
        let Some(mixer) = &mut self.mixer else { return talking };
        if self.outgoing.source.is_held()
            && let Some(queue) = self.outgoing.source.queue_mut()
        {
            mixer.pull_agent(queue);
        }
        let mixed = mixer.tick(self.outgoing.frame_mut(), talking);
        match mixer.agent_mix() {
            Some(frame) => self.incoming.agent.push_mix(frame, now),
            None if self.incoming.agent.is_mixed() => self.incoming.agent.restart(now),
            None => {}
        }
        if mixer.is_idle() {
            self.mixer = None;
            self.outgoing.source.set_mixer_takes_agent(false);
        }
        mixed.talking
    }

    fn mixer(&mut self) -> Result<&mut Mixer, OpusError> {
        if self.mixer.is_none() {
            self.mixer = Some(Box::new(Mixer::new(Profile::Eco)?));
            self.update_mixer()?;
        }
        Ok(self.mixer.as_mut().expect("it was just made"))
    }
}
