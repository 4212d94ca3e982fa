//! Keys: those that the caller presses, collected by a gather if there is one, and those for the caller.

use std::time::Instant;

use super::playback::Playing;
use super::{Bridge, BridgeEvent, SendDigitsError};
use crate::dtmf::Key;
use crate::gather::{Gather, GatherOptions};
use crate::prompt::{Prompt, Repeat};

impl Bridge {
    /// Plays prompts, if any, and collects the keys that the caller presses. The first key stops the prompts. Ends with
    /// [`BridgeEvent::Gathered`], as does an earlier gather at once.
    pub fn gather(&mut self, options: GatherOptions, prompts: Vec<Prompt>, now: Instant) {
        self.stop_gather(now);
        let mut gather = Gather::new(options);
        match prompts.is_empty() {
            true => gather.prompt_ended(now),
            false => self.interrupt(Playing::Gather, prompts, Repeat::Once, now),
        }
        self.gather = Some(gather);
    }

    /// Ends the gather with the keys pressed so far. Returns whether there was one.
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

    /// Sends keys to the caller, one after another, in place of what is on air.
    pub fn send_digits(&mut self, digits: &str) -> Result<(), SendDigitsError> {
        self.caller.push_digits(digits)
    }

    pub(super) fn key_pressed(&mut self, key: Key, now: Instant) {
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

    fn stop_prompt_of_gather(&mut self, now: Instant) {
        if self.outgoing.playing == Some(Playing::Gather) {
            self.stop_playback(now);
        }
    }
}
