//! Prompts towards the caller, and the keys that answer them.

use std::time::Instant;

use thiserror::Error;

use super::{Bridge, BridgeEvent, PlaybackId, Playing, SOUND_TICKS_PER_KEY_TICK};
use crate::dtmf::{Key, KeyError, KeyPacket};
use crate::gather::{Gather, GatherOptions};
use crate::opus::SILENCE;
use crate::prompt::{Prompt, Repeat};
use crate::rtp::RtpPacket;
use crate::timeline::Stamp;

/// Why keys cannot be pressed towards the caller.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum SendDigitsError {
    /// Its offer has no telephone-event.
    #[error("the caller's phone takes no keys")]
    NotNegotiated,
    /// Not keys, or too many at once.
    #[error(transparent)]
    Keys(#[from] KeyError),
}

impl Bridge {
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

    /// Of one sender's timestamps those of another say nothing.
    pub(super) fn hear_keys(&mut self, packet: &RtpPacket, now: Instant) {
        let is_another = self.keys_ssrc.replace(packet.ssrc).is_some_and(|before| before != packet.ssrc);
        let before = if is_another { self.keys.restart() } else { None };
        let told = self.keys.read(packet.timestamp, &packet.payload, now);
        for key in before.into_iter().chain(told.into_iter().flatten()) {
            self.press(key, now);
        }
    }

    fn press(&mut self, key: Key, now: Instant) {
        self.events.push_back(BridgeEvent::Dtmf(key));
        self.stop_prompt_of_gather(now);
        if let Some(gathered) = self.gather.as_mut().and_then(|gather| gather.press(key.digit, now)) {
            self.gather = None;
            self.events.push_back(BridgeEvent::Gathered(gathered));
        }
    }

    /// Presses keys towards the caller, one after another, in place of what is on air.
    pub fn send_digits(&mut self, digits: &str) -> Result<(), SendDigitsError> {
        if self.options.telephone_event_payload_type.is_none() {
            return Err(SendDigitsError::NotNegotiated);
        }
        Ok(self.keys_out.push(digits)?)
    }

    /// RFC 4733 §2.2: all packets of one press have the timestamp at which it began.
    pub(super) fn send_key(&mut self, key: KeyPacket, now: Instant) {
        let stamp = self.timeline.next(false);
        if let Some(recorder) = &mut self.recorder {
            recorder.agent_frame(stamp.timestamp, &SILENCE, now);
        }
        let Some(payload_type) = self.options.telephone_event_payload_type else { return };
        let began = stamp.timestamp.wrapping_sub(key.timestamp_offset_ticks * SOUND_TICKS_PER_KEY_TICK);
        let stamp = Stamp { timestamp: began, marker: key.marker, ..stamp };
        let header = self.header(payload_type, stamp);
        self.sealed.extend(self.peer.send_rtp(header, &key.payload, now));
    }

    pub(super) fn drive_keys(&mut self, now: Instant) {
        if let Some(key) = self.keys.handle_timeout(now) {
            self.press(key, now);
        }
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
