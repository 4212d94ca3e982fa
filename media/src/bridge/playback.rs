//! Prompts towards the caller.

use std::time::Instant;

use super::{Bridge, BridgeEvent, PlaybackId};
use crate::prompt::{Prompt, Repeat};

/// Whose prompts interrupt what is on air.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Playing {
    Playback(PlaybackId),
    /// The prompt of a gather.
    Gather,
}

impl Bridge {
    /// Plays prompts in place of an agent. Played [`Repeat::Once`], they end with [`BridgeEvent::PromptsFinished`]; an
    /// agent that joins replaces them.
    pub fn stand_in(&mut self, prompts: Vec<Prompt>, repeat: Repeat) {
        self.outgoing.source.switch_to_prompts(prompts, repeat);
    }

    /// Plays prompts over what is on air, which continues after [`BridgeEvent::PlaybackFinished`]. Replaces an earlier
    /// playback, or the prompt of a gather.
    pub fn play(&mut self, id: PlaybackId, prompts: Vec<Prompt>, repeat: Repeat, now: Instant) {
        self.interrupt(Playing::Playback(id), prompts, repeat, now);
    }

    /// Stops the playback, or the prompt of a gather, within one frame. Returns whether there was one.
    pub fn stop_playback(&mut self, now: Instant) -> bool {
        let stopped = self.outgoing.source.stop_playback();
        if stopped {
            self.playback_ended(false, now);
        }
        stopped
    }

    /// To be called when the source has dropped the playback.
    pub(super) fn playback_ended(&mut self, completed: bool, now: Instant) {
        match self.outgoing.playing.take() {
            Some(Playing::Playback(id)) => self.events.push_back(BridgeEvent::PlaybackFinished { id, completed }),
            Some(Playing::Gather) => {
                if let Some(gather) = &mut self.gather {
                    gather.prompt_ended(now);
                }
            }
            None => {}
        }
    }

    pub(super) fn interrupt(&mut self, playing: Playing, prompts: Vec<Prompt>, repeat: Repeat, now: Instant) {
        self.playback_ended(false, now);
        self.outgoing.playing = Some(playing);
        self.outgoing.source.play(prompts, repeat);
    }
}
