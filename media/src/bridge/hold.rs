//! Caller and agent apart: a caller on hold, and either of them muted.

use std::time::Instant;

use super::Bridge;
use crate::opus::OpusError;
use crate::prompt::{Prompt, Repeat};

/// Who is heard by whom, beside the hold, which the source keeps.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Muted {
    /// The agent does not hear the caller.
    pub caller: bool,
}

impl Bridge {
    /// The caller hears prompts, again and again, and the agent hears silence, until [`unhold`](Self::unhold). Third
    /// speakers and the agent hear each other meanwhile, and the caller hears none of them.
    pub fn hold(&mut self, prompts: Vec<Prompt>) -> Result<(), OpusError> {
        self.source.hold(prompts);
        self.tell_mixer()
    }

    /// Caller and agent hear each other again. Says whether there was a hold.
    pub fn unhold(&mut self, now: Instant) -> bool {
        let was_held = self.source.unhold();
        if was_held {
            if let Some(mixer) = &mut self.mixer {
                mixer.unhold();
            }
            self.agent_audio.restart(now);
        }
        was_held
    }

    /// Whether the caller is on hold.
    pub fn is_held(&self) -> bool {
        self.source.is_held()
    }

    /// Whether the caller hears the agent. What a muted agent says is lost.
    pub fn mute_agent(&mut self, muted: bool) {
        self.source.mute(muted);
    }

    /// Whether the agent hears the caller; silence if not. Third speakers and the recording still do.
    pub fn mute_caller(&mut self, muted: bool, now: Instant) {
        if std::mem::replace(&mut self.muted.caller, muted) != muted {
            if let Some(mixer) = &mut self.mixer {
                mixer.set_agent_hears_caller(!muted);
            }
            self.agent_audio.restart(now);
        }
    }

    /// Puts prompts on air in place of an agent. Played [`Repeat::Once`], they end with
    /// [`BridgeEvent::PromptsFinished`](super::BridgeEvent::PromptsFinished); an agent that joins takes over from them.
    pub fn stand_in(&mut self, prompts: Vec<Prompt>, repeat: Repeat) {
        self.source.switch_to_prompts(prompts, repeat);
    }

    pub(super) fn agent_hears_caller(&self) -> bool {
        !self.source.is_held() && !self.muted.caller
    }

    pub(super) fn reset_hold(&mut self) {
        self.source.unhold();
        self.source.mute(false);
        self.muted = Muted::default();
        if let Some(mixer) = &mut self.mixer {
            mixer.unhold();
            mixer.set_agent_hears_caller(true);
        }
    }

    /// A mixer that is there knows how caller and agent stand.
    pub(super) fn tell_mixer(&mut self) -> Result<(), OpusError> {
        let Some(mixer) = &mut self.mixer else { return Ok(()) };
        mixer.set_agent_hears_caller(!self.muted.caller);
        if let (true, Some(queue)) = (self.source.is_held(), self.source.queue()) {
            mixer.hold(queue.rate())?;
            self.source.set_mixer_takes_agent(true);
        }
        Ok(())
    }
}
