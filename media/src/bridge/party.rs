//! Those who speak with the caller: their voices, and what they hear.

use std::time::{Duration, Instant};

use bytes::Bytes;
use thiserror::Error;

use super::{Bridge, BridgeEvent, Party, PartySound};
use crate::mixer::MixerError;
use crate::opus::{OpusError, Profile};
use crate::source::{Cleared, PushError, Room, TooManyMarks, Voice, VoiceEvent};

/// What a party may still send after it was told that its queue is full: it takes a moment to hear of it, and what
/// is under way must not stand between us and its `clear`.
const OVERRUN: Duration = Duration::from_secs(5);

/// Why a party cannot have the sound it wants.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AttachError {
    /// libopus refused.
    #[error(transparent)]
    Opus(#[from] OpusError),
    /// The mixer refused.
    #[error(transparent)]
    Mixer(#[from] MixerError),
}

impl Bridge {
    /// A party joins: an agent's voice is on air from now on, and the party hears the caller. A guest must have been
    /// [invited](Self::invite), and keeps the `max_buffer` that it was invited with.
    pub fn attach(
        &mut self,
        party: Party,
        sound: PartySound,
        max_buffer: Duration,
        now: Instant,
    ) -> Result<(), AttachError> {
        match party {
            Party::Agent => self.seat_agent(Voice::new(sound.rate(), max_buffer), sound, now),
            Party::Guest(id) => self.change_guest(id, sound.rate()).map(drop),
        }
    }

    /// A party that is there speaks and hears otherwise from now on. What it has said already is heard first, with its
    /// marks. Says how much of that had to be thrown away, see [`Voice::change_to`].
    pub fn change_sound(&mut self, party: Party, sound: PartySound, now: Instant) -> Result<Duration, AttachError> {
        match party {
            Party::Agent => {
                self.ear.change_to(sound.rate(), now)?;
                Ok(self.source.voice_mut().map_or(Duration::ZERO, |voice| voice.change_to(sound.rate())))
            }
            Party::Guest(id) => self.change_guest(id, sound.rate()),
        }
    }

    pub(super) fn seat_agent(&mut self, voice: Voice, sound: PartySound, now: Instant) -> Result<(), AttachError> {
        let voice = voice.tolerating(OVERRUN);
        match sound {
            PartySound::Pcm { rate, profile } => {
                self.source.set_voice(voice, profile)?;
                self.ear.take_pcm(rate, now)?;
            }
            PartySound::Opus => {
                self.source.set_voice(voice, Profile::Eco)?;
                self.ear.take_opus(now);
            }
        }
        self.source.go_live();
        self.moment.forget();
        // A mixer follows the form of the agent's voice.
        self.tell_mixer()?;
        Ok(())
    }

    /// A party is gone. If the agent's voice was on air, silence is from the next frame on; prompts go on. An agent's
    /// hold and mutes are gone with it.
    pub fn detach(&mut self, party: Party) {
        self.waiting.retain(|waiting| *waiting != party);
        match party {
            Party::Agent => {
                self.source.remove_voice();
                self.ear.deafen();
                self.forget_apart();
            }
            Party::Guest(id) => self.remove_guest(id),
        }
    }

    /// Whether anything waits for the agent. Guests hear something in every frame.
    pub fn has_sound_for_agent(&self) -> bool {
        self.ear.has_sound()
    }

    /// The next 20 ms, or the next Opus packet, for a party.
    pub fn take_for(&mut self, party: Party) -> Option<Bytes> {
        match party {
            Party::Agent => self.ear.take(),
            Party::Guest(id) => self.mixer.as_mut()?.take_for_guest(id),
        }
    }

    /// Queues what a party said: any number of PCM bytes, or one Opus packet. When it answers [`Room::Full`],
    /// [`BridgeEvent::Room`] tells when to go on; some seconds more are taken before that, see
    /// [`refuses`](Self::refuses).
    pub fn say(&mut self, party: Party, sound: Bytes, now: Instant) -> Result<Room, PushError> {
        let Some(voice) = self.voice(party) else { return Ok(Room::Free) };
        let room = voice.push(sound)?;
        if party == Party::Agent {
            let in_all = voice.pushed();
            self.moment.said(in_all, now);
        }
        if room == Room::Full && !self.waiting.contains(&party) {
            self.waiting.push(party);
        }
        Ok(room)
    }

    /// Whether a party may say more.
    pub fn room(&mut self, party: Party) -> Room {
        self.voice(party).map_or(Room::Free, |voice| voice.room())
    }

    /// Whether a party has gone on after it was told that its queue is full, so that nothing more is taken.
    pub fn refuses(&mut self, party: Party) -> bool {
        self.voice(party).is_some_and(|voice| voice.refuses())
    }

    /// How long a party's queue plays.
    pub fn queued(&mut self, party: Party) -> Duration {
        self.voice(party).map_or(Duration::ZERO, |voice| voice.queued())
    }

    /// Asks for a [`BridgeEvent::Mark`] when everything said so far was heard.
    pub fn mark(&mut self, party: Party, name: String) -> Result<(), TooManyMarks> {
        self.voice(party).map_or(Ok(()), |voice| voice.mark(name))
    }

    /// Throws away what was not heard yet; the next frame is silence.
    pub fn clear(&mut self, party: Party) -> Cleared {
        self.voice(party).map(Voice::clear).unwrap_or_default()
    }

    /// Holds a party's voice back.
    pub fn pause(&mut self, party: Party) {
        if let Some(voice) = self.voice(party) {
            voice.pause();
        }
    }

    /// Lets it go on.
    pub fn resume(&mut self, party: Party) {
        if let Some(voice) = self.voice(party) {
            voice.resume();
        }
    }

    pub(super) fn collect_marks(&mut self) {
        let guests = self.mixer.iter().flat_map(|mixer| mixer.guests()).map(|(id, _)| Party::Guest(id));
        // At most one list of nine, and none at all in an ordinary call.
        let parties: Vec<Party> = guests.collect();
        for party in std::iter::once(Party::Agent).chain(parties) {
            while let Some(VoiceEvent::Mark { name, status }) = self.voice(party).and_then(Voice::poll_event) {
                self.events.push_back(BridgeEvent::Mark { party, name, status });
            }
        }
    }

    pub(super) fn tell_room(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain(|party| {
            let is_free = self.room(*party) == Room::Free;
            if is_free {
                self.events.push_back(BridgeEvent::Room(*party));
            }
            !is_free
        });
        self.waiting = waiting;
    }

    fn voice(&mut self, party: Party) -> Option<&mut Voice> {
        match party {
            Party::Agent => self.source.voice_mut(),
            Party::Guest(id) => self.mixer.as_mut()?.guest_voice_mut(id),
        }
    }
}
