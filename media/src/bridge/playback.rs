//! Prompts towards the caller, and the keys that answer them.

use std::time::Instant;

use super::{Bridge, BridgeEvent, PlaybackId, Playing};
use crate::dtmf::Key;
use crate::gather::{Gather, GatherOptions};
use crate::prompt::{Prompt, Repeat};

impl Bridge {
    /// Puts prompts on air in place of an agent. Played [`Repeat::Once`], they end with
    /// [`BridgeEvent::PromptsFinished`]; an agent that joins takes over from them.
    pub fn stand_in(&mut self, prompts: Vec<Prompt>, repeat: Repeat) {
        self.source.go_prompts(prompts, repeat);
    }

    /// Interrupts what is on air; it goes on when the prompts are over, which [`BridgeEvent::PlaybackFinished`] tells.
    /// An earlier playback, or the prompt of a gather, is over with it.
    pub fn play(&mut self, id: PlaybackId, prompts: Vec<Prompt>, repeat: Repeat, now: Instant) {
        self.interrupt(Playing::Playback(id), prompts, repeat, now);
    }

    /// Stops the playback, or the prompt of a gather, within one frame. Says whether there was one.
    pub fn stop_playback(&mut self, now: Instant) -> bool {
        let stopped = self.source.stop_playback();
        if stopped {
            self.playback_ended(false, now);
        }
        stopped
    }

    /// Plays prompts, none if there are none, and collects the keys that the caller presses; the first key stops the
    /// prompts. It ends with [`BridgeEvent::Gathered`], as does an earlier gather right now.
    pub fn gather(&mut self, options: GatherOptions, prompts: Vec<Prompt>, now: Instant) {
        self.stop_gather(now);
        let mut gather = Gather::new(options);
        match prompts.is_empty() {
            true => gather.prompt_ended(now),
            false => self.interrupt(Playing::Gather, prompts, Repeat::Once, now),
        }
        self.gather = Some(gather);
    }

    /// Ends the gather with the keys pressed so far. Says whether there was one.
    pub fn stop_gather(&mut self, now: Instant) -> bool {
        let Some(gather) = self.gather.take() else { return false };
        self.stop_prompt_of_gather(now);
        self.events.push_back(BridgeEvent::Gathered(gather.stop()));
        true
    }

    /// Whether keys are being collected.
    pub fn is_gathering(&self) -> bool {
        self.gather.is_some()
    }

    pub(super) fn press(&mut self, key: Key, now: Instant) {
        self.events.push_back(BridgeEvent::Dtmf(key));
        self.stop_prompt_of_gather(now);
        if let Some(gathered) = self.gather.as_mut().and_then(|gather| gather.press(key.digit, now)) {
            self.gather = None;
            self.events.push_back(BridgeEvent::Gathered(gathered));
        }
    }

    pub(super) fn drive_gather(&mut self, now: Instant) {
        if let Some(gathered) = self.gather.as_mut().and_then(|gather| gather.handle_timeout(now)) {
            self.gather = None;
            self.events.push_back(BridgeEvent::Gathered(gathered));
        }
    }

    /// The playback on air is over; the source knows already.
    pub(super) fn playback_ended(&mut self, completed: bool, now: Instant) {
        match self.playing.take() {
            Some(Playing::Playback(id)) => self.events.push_back(BridgeEvent::PlaybackFinished { id, completed }),
            Some(Playing::Gather) => {
                if let Some(gather) = &mut self.gather {
                    gather.prompt_ended(now);
                }
            }
            None => {}
        }
    }

    fn interrupt(&mut self, playing: Playing, prompts: Vec<Prompt>, repeat: Repeat, now: Instant) {
        self.playback_ended(false, now);
        self.playing = Some(playing);
        self.source.play(prompts, repeat);
    }

    fn stop_prompt_of_gather(&mut self, now: Instant) {
        if self.playing == Some(Playing::Gather) {
            self.stop_playback(now);
        }
    }
}
