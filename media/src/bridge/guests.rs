//! Third parties, and music under the voice. A call pays for them only while they are there.

use std::time::{Duration, Instant};

use super::party::AttachError;
use super::{Bridge, Party, PartySound};
use crate::mixer::{GuestId, Mixer, MixerError, Role};
use crate::opus::{OpusError, Profile, SampleRate};
use crate::prompt::Prompt;

impl Bridge {
    /// Seats a third party. It takes part once it is [attached](Self::attach); until then its rate is 16 kHz.
    pub fn invite(&mut self, id: GuestId, role: Role, max_buffer: Duration) -> Result<(), MixerError> {
        self.mixer()?.add_guest(id, role, Some(SampleRate::Hz16000), max_buffer)
    }

    /// A third party becomes the agent, in the sound it was attached with: it is on air with all that it still has to
    /// say, and hears the caller. An earlier agent must have been detached. A hold is over.
    pub fn promote(&mut self, id: GuestId, sound: PartySound, now: Instant) -> Result<(), AttachError> {
        let mixer = self.mixer.as_mut().ok_or(MixerError::NoSuchGuest(id))?;
        let voice = mixer.release_guest(id)?;
        for waiting in self.waiting.iter_mut().filter(|waiting| **waiting == Party::Guest(id)) {
            *waiting = Party::Agent;
        }
        self.unhold(now);
        self.seat_agent(voice, sound, now)?;
        Ok(())
    }

    /// A guest may do something else from now on.
    pub fn set_role(&mut self, id: GuestId, role: Role) -> Result<(), MixerError> {
        self.mixer.as_mut().ok_or(MixerError::NoSuchGuest(id))?.set_role(id, role)
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

    pub(super) fn change_guest(&mut self, id: GuestId, rate: Option<SampleRate>) -> Result<Duration, AttachError> {
        Ok(self.mixer.as_mut().ok_or(MixerError::NoSuchGuest(id))?.change_sound(id, rate)?)
    }

    pub(super) fn remove_guest(&mut self, id: GuestId) {
        if let Some(mixer) = &mut self.mixer {
            // It may have left before.
            let _ = mixer.remove_guest(id);
        }
    }

    /// Lets the mixer work on the frame that is about to leave. Says whether it has sound in it.
    pub(super) fn mix(&mut self, talking: bool, now: Instant) -> bool {
        let Some(mixer) = &mut self.mixer else { return talking };
        if self.source.is_held()
            && let Some(voice) = self.source.voice_mut()
        {
            mixer.hear_agent(voice);
        }
        let mixed = mixer.tick(&mut self.frame, talking);
        match mixer.agent_hears() {
            Some(frame) => self.ear.hear_mix(frame, now),
            None if self.ear.is_mixed() => self.ear.restart(now),
            None => {}
        }
        if mixer.is_idle() {
            self.mixer = None;
            self.source.set_aside(false);
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
