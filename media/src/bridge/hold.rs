//! Hold and mutes: when caller and agent do not hear each other.

use std::time::Instant;

use super::Bridge;
use crate::opus::OpusError;
use crate::prompt::Prompt;

impl Bridge {
    /// Puts the caller on hold until [`unhold`](Self::unhold): it hears prompts in a loop, and the agent hears silence.
    /// Participants and agent hear each other meanwhile, and the caller hears none of them.
    pub fn hold(&mut self, prompts: Vec<Prompt>) -> Result<(), OpusError> {
        self.outgoing.source.hold(prompts);
        self.update_mixer()
    }

    /// Ends the hold: caller and agent hear each other again. Returns whether there was one.
    pub fn unhold(&mut self, now: Instant) -> bool {
        let was_held = self.outgoing.source.unhold();
        if was_held {
            if let Some(mixer) = &mut self.mixer {
                mixer.unhold();
            }
            self.incoming.agent.restart(now);
        }
        was_held
    }

    /// Whether the caller is on hold.
    pub fn is_held(&self) -> bool {
        self.outgoing.source.is_held()
    }

    /// Whether the agent is muted towards the caller. A muted agent's audio is discarded.
    pub fn mute_agent(&mut self, muted: bool) {
        self.outgoing.source.mute(muted);
    }

    /// Whether the caller is muted towards the agent, which hears silence. Participants and the recording still hear it.
    pub fn mute_caller(&mut self, muted: bool, now: Instant) {
        if std::mem::replace(&mut self.incoming.is_muted, muted) != muted {
            if let Some(mixer) = &mut self.mixer {
                mixer.set_agent_hears_caller(!muted);
            }
            self.incoming.agent.restart(now);
        }
    }

    pub(super) fn agent_hears_caller(&self) -> bool {
        !self.outgoing.source.is_held() && !self.incoming.is_muted
    }

    pub(super) fn reset_hold(&mut self) {
        self.outgoing.source.unhold();
        self.outgoing.source.mute(false);
        self.incoming.is_muted = false;
        if let Some(mixer) = &mut self.mixer {
            mixer.unhold();
            mixer.set_agent_hears_caller(true);
        }
    }

    /// Applies hold and mutes to the mixer, if there is one.
    pub(super) fn update_mixer(&mut self) -> Result<(), OpusError> {
        let Some(mixer) = &mut self.mixer else { return Ok(()) };
        mixer.set_agent_hears_caller(!self.incoming.is_muted);
        if let (true, Some(queue)) = (self.outgoing.source.is_held(), self.outgoing.source.queue()) {
            mixer.hold(queue.rate())?;
            self.outgoing.source.set_mixer_takes_agent(true);
        }
        Ok(())
    }
}
