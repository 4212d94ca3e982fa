//! Mixer: three or more people in a call, or a voice over music.
//!
//! It is there only while a call has a third party or a music bed, works in 20 ms frames at 16 kHz on the bridge's
//! tick, and asks for no memory after its start beyond what guests take away.

mod sum;
mod playout;
mod guest;
mod mouth;
mod music;
mod air;

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use self::air::{Air, Mix};
use self::guest::Guest;
use self::mouth::Mouth;
use self::music::Music;
use self::playout::Playout;
use self::sum::{Frame, SILENT, Sum, is_loud};
use crate::opus::{OpusError, Profile, SampleRate};
use crate::prompt::Prompt;
use crate::reorder::Slot;
use crate::source::Voice;

/// Everybody hears everybody in a round of ten; more would be a conference, which is another product.
pub const MAX_GUESTS: usize = 8;

/// What a guest is called by whoever brings it in.
pub type GuestId = u32;

/// Who hears a guest. What a guest hears is always the caller, and all that the caller hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nobody hears it.
    Listen,
    /// The agent hears it, and so do the guests that the caller does not hear.
    Whisper,
    /// Everybody hears it.
    Join,
}

/// Why the mixer does not do it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MixerError {
    /// [`MAX_GUESTS`] are there.
    #[error("a call has at most {MAX_GUESTS} guests")]
    TooManyGuests,
    /// A guest of that id is there.
    #[error("guest {0} is in the call already")]
    GuestIsThere(GuestId),
    /// No guest of that id is there.
    #[error("guest {0} is not in the call")]
    NoSuchGuest(GuestId),
    /// libopus refused.
    #[error(transparent)]
    Opus(#[from] OpusError),
}

/// What one tick put on air.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixed {
    /// False when the payload is silence, or the end of a sound.
    pub talking: bool,
    /// The payload was replaced. Otherwise it is the source's own, byte for byte.
    pub replaced: bool,
}

/// All the voices of one call at once.
///
/// Every 20 ms: [`tick`](Self::tick), then [`agent_hears`](Self::agent_hears) and
/// [`take_for_guest`](Self::take_for_guest). The caller's slots come in between, whenever they come.
///
/// The source's payload is replaced only while there is a guest with [`Role::Join`] or music and something to be
/// heard; the mix begins and ends without an edge, and ends in a pause of the agent's.
#[derive(Debug)]
pub struct Mixer {
    caller: Playout,
    guests: Vec<Guest>,
    music: Option<Music>,
    air: Air,
    /// The last frame of guests that have just left or changed their role.
    parting: Parting,
    for_agent: Frame,
    /// While the caller is on hold: how the agent's voice reaches the guests.
    apart: Option<Mouth>,
    /// Whether the caller's sound is for the agent too.
    agent_hears_caller: bool,
}

#[derive(Debug, Default)]
struct Parting {
    to_caller: Option<Box<Frame>>,
    to_agent: Option<Box<Frame>>,
}

impl Mixer {
    /// Nobody but caller and agent yet. `profile` is how the mix is encoded for the caller.
    pub fn new(profile: Profile) -> Result<Self, OpusError> {
        Ok(Self {
            caller: Playout::new()?,
            guests: Vec::with_capacity(MAX_GUESTS),
            music: None,
            air: Air::new(profile)?,
            parting: Parting::default(),
            for_agent: SILENT,
            apart: None,
            agent_hears_caller: true,
        })
    }

    /// The caller is on hold, or is back. While it is, agent and guests are among themselves: they hear each other, and
    /// neither the caller nor what it is played. `agent` is the rate of the agent's samples, None for Opus.
    pub fn hold(&mut self, agent: Option<SampleRate>) -> Result<(), OpusError> {
        self.part_from_caller();
        self.apart = Some(Mouth::new(agent)?);
        Ok(())
    }

    /// The caller is back.
    pub fn unhold(&mut self) {
        if self.apart.take().is_some() {
            self.part_from_caller();
        }
    }

    /// Whether the agent hears the caller; true unless said otherwise.
    pub fn let_agent_hear_caller(&mut self, hears: bool) {
        self.agent_hears_caller = hears;
    }

    /// While the caller is on hold: the next 20 ms of the agent's voice, for the guests. To come before each
    /// [`tick`](Self::tick).
    pub fn hear_agent(&mut self, voice: &mut Voice) {
        if let Some(mouth) = &mut self.apart {
            mouth.speak(voice);
        }
    }

    /// Hears what comes next on the caller's line. Only guests hear it from here, so without one nothing is decoded.
    pub fn hear_caller(&mut self, slot: &Slot) {
        if !self.guests.is_empty() {
            self.caller.hear(slot);
        }
    }

    /// One tick of 20 ms. `on_air` is the Opus payload the source has chosen for the caller, and `talking` what it
    /// said about it; it is replaced when others are heard too.
    pub fn tick(&mut self, on_air: &mut Vec<u8>, talking: bool) -> Mixed {
        if self.is_idle() {
            self.air.sleep();
            return Mixed { talking, replaced: false };
        }
        self.air.hear(on_air);
        for guest in &mut self.guests {
            guest.speak();
        }
        let mut caller = if self.guests.is_empty() { SILENT } else { self.caller.play() };
        if self.apart.is_some() {
            caller = SILENT;
        }
        let music = self.play_music(talking);
        let mixed = self.put_on_air(music.as_ref(), talking, on_air);
        self.let_guests_hear(&caller, music.as_ref());
        self.let_agent_hear(&caller);
        self.parting = Parting::default();
        mixed
    }

    /// What the agent hears in this tick, 20 ms at 16 kHz: the caller, and the guests that speak to the agent.
    ///
    /// None while no guest's role lets it speak to the agent: then the agent hears the caller's packets without the
    /// delay of the mix.
    pub fn agent_hears(&self) -> Option<&[i16]> {
        self.guests.iter().any(|guest| guest.role != Role::Listen).then_some(&self.for_agent[..])
    }

    /// The next 20 ms for a guest: little-endian samples at its rate. Half a second waits at most, then the oldest
    /// goes.
    pub fn take_for_guest(&mut self, id: GuestId) -> Option<Bytes> {
        self.guest_mut(id)?.take()
    }

    /// Whether nobody needs a mixer any more: no guest, no music, and the caller hears the source itself.
    pub fn is_idle(&self) -> bool {
        self.guests.is_empty() && self.music.is_none() && !self.air.is_mixing() && self.parting.to_caller.is_none()
    }

    fn play_music(&mut self, talking: bool) -> Option<Frame> {
        let somebody_speaks = (talking && is_loud(self.air.source()))
            || self.heard_by_caller().any(|guest| guest.said().is_some_and(is_loud));
        let music = self.music.as_mut()?;
        let frame = music.play(somebody_speaks);
        if music.is_over() {
            self.music = None;
        }
        Some(frame)
    }

    fn put_on_air(&mut self, music: Option<&Frame>, talking: bool, on_air: &mut Vec<u8>) -> Mixed {
        let mut sum = Sum::new();
        let mut others = false;
        let joined = self.heard_by_caller().filter_map(Guest::said);
        for frame in joined.chain(music).chain(self.parting.to_caller.as_deref()) {
            sum.add(frame);
            // Zeros that somebody streams are no reason to encode.
            others |= *frame != SILENT;
        }
        sum.add(self.air.source());
        let mix = Mix {
            sound: &sum.limited(),
            sounding: talking || others,
            source_talks: talking,
            needed: self.heard_by_caller().next().is_some()
                || self.music.as_ref().is_some_and(Music::is_wanted)
                || others,
        };
        let replaced = self.air.mix(&mix, on_air);
        Mixed { talking: if replaced { mix.sounding } else { talking }, replaced }
    }

    fn let_guests_hear(&mut self, caller: &Frame, music: Option<&Frame>) {
        for listener in 0..self.guests.len() {
            let mut sum = Sum::new();
            sum.add(caller);
            match &self.apart {
                Some(agent) => agent.said().into_iter().for_each(|said| sum.add(said)),
                None => {
                    sum.add(self.air.source());
                    music.into_iter().for_each(|music| sum.add(music));
                }
            }
            let others = self.guests.iter().filter(|speaker| hears(&self.guests[listener], speaker));
            for frame in others.filter_map(Guest::said) {
                sum.add(frame);
            }
            self.guests[listener].hear(&sum.limited());
        }
    }

    fn let_agent_hear(&mut self, caller: &Frame) {
        let mut sum = Sum::new();
        if self.agent_hears_caller {
            sum.add(caller);
        }
        let speaking = self.guests.iter().filter(|guest| guest.role != Role::Listen).filter_map(Guest::said);
        for frame in speaking.chain(self.parting.to_agent.as_deref()) {
            sum.add(frame);
        }
        self.for_agent = sum.limited();
    }

    fn heard_by_caller(&self) -> impl Iterator<Item = &Guest> {
        self.guests.iter().filter(|guest| guest.role == Role::Join && self.apart.is_none())
    }

    /// Guests that the caller hears end softly there, and begin anew where they are heard next.
    fn part_from_caller(&mut self) {
        for guest in self.guests.iter_mut().filter(|guest| guest.role == Role::Join) {
            self.parting.add(guest);
        }
    }
}

/// Who is there.
impl Mixer {
    /// A third party comes in. It speaks and hears 16-bit samples at `rate`, or Opus packets; of what it says,
    /// `max_buffer` may wait.
    pub fn add_guest(
        &mut self,
        id: GuestId,
        role: Role,
        rate: Option<SampleRate>,
        max_buffer: Duration,
    ) -> Result<(), MixerError> {
        if self.guests.iter().any(|guest| guest.id() == id) {
            return Err(MixerError::GuestIsThere(id));
        }
        if self.guests.len() >= MAX_GUESTS {
            return Err(MixerError::TooManyGuests);
        }
        if self.guests.is_empty() {
            self.caller.reset();
        }
        self.guests.push(Guest::new(id, role, rate, max_buffer)?);
        Ok(())
    }

    /// A guest speaks and hears samples at `rate` from now on, or Opus packets. What it has said already is heard first;
    /// says how much of that had to be thrown away, see [`Voice::change_to`].
    pub fn change_sound(&mut self, id: GuestId, rate: Option<SampleRate>) -> Result<Duration, MixerError> {
        Ok(self.guest_mut(id).ok_or(MixerError::NoSuchGuest(id))?.change_sound(rate)?)
    }

    /// A guest is heard by others from now on.
    pub fn set_role(&mut self, id: GuestId, role: Role) -> Result<(), MixerError> {
        let guest = self.guests.iter_mut().find(|guest| guest.id() == id).ok_or(MixerError::NoSuchGuest(id))?;
        if guest.role != role {
            self.parting.add(guest);
            guest.role = role;
        }
        Ok(())
    }

    /// A guest leaves, with all that it still had to say and to hear.
    pub fn remove_guest(&mut self, id: GuestId) -> Result<(), MixerError> {
        let mut guest = self.take_guest(id)?;
        self.parting.add(&mut guest);
        Ok(())
    }

    /// A guest leaves the mix; what it still has to say goes on elsewhere.
    pub fn release_guest(&mut self, id: GuestId) -> Result<Voice, MixerError> {
        self.take_guest(id).map(Guest::into_voice)
    }

    fn take_guest(&mut self, id: GuestId) -> Result<Guest, MixerError> {
        let index = self.guests.iter().position(|guest| guest.id() == id).ok_or(MixerError::NoSuchGuest(id))?;
        Ok(self.guests.remove(index))
    }

    /// A guest's queue, to push, mark, clear, pause and resume, and to ask for its events.
    pub fn guest_voice_mut(&mut self, id: GuestId) -> Option<&mut Voice> {
        self.guest_mut(id).map(Guest::voice_mut)
    }

    /// Frames dropped because a guest read too slowly.
    pub fn dropped_for_guest(&self, id: GuestId) -> Option<u64> {
        self.guests.iter().find(|guest| guest.id() == id).map(Guest::dropped)
    }

    /// Everybody's names and roles.
    pub fn guests(&self) -> impl Iterator<Item = (GuestId, Role)> {
        self.guests.iter().map(|guest| (guest.id(), guest.role))
    }

    /// Prompts to play one after another, again and again, under the voices. Other music is faded out first; none, or
    /// an empty list, ends it.
    pub fn set_music(&mut self, prompts: Option<Vec<Prompt>>) -> Result<(), OpusError> {
        match (prompts.filter(|prompts| !prompts.is_empty()), &mut self.music) {
            (Some(prompts), Some(music)) => music.change_to(prompts),
            (Some(prompts), None) => self.music = Some(Music::new(prompts)?),
            (None, Some(music)) => music.end(),
            (None, None) => {}
        }
        Ok(())
    }

    /// Whether there is music that was not told to end.
    pub fn has_music(&self) -> bool {
        self.music.as_ref().is_some_and(Music::is_wanted)
    }

    fn guest_mut(&mut self, id: GuestId) -> Option<&mut Guest> {
        self.guests.iter_mut().find(|guest| guest.id() == id)
    }
}

impl Parting {
    /// Lets a guest end softly where it is heard no more. It is gone before the next tick.
    fn add(&mut self, guest: &mut Guest) {
        let places = match guest.role {
            Role::Listen => [None, None],
            Role::Whisper => [Some(&mut self.to_agent), None],
            Role::Join => [Some(&mut self.to_agent), Some(&mut self.to_caller)],
        };
        let Some(last) = guest.say_last() else { return };
        for place in places.into_iter().flatten() {
            let mut sum = Sum::new();
            sum.add(&last);
            if let Some(others) = place.as_deref() {
                sum.add(others);
            }
            *place = Some(Box::new(sum.limited()));
        }
    }
}

/// What is whispered to the agent stays in the house: a guest that talks with the caller does not hear it.
fn hears(listener: &Guest, speaker: &Guest) -> bool {
    let may_hear = match speaker.role {
        Role::Listen => false,
        Role::Whisper => listener.role != Role::Join,
        Role::Join => true,
    };
    may_hear && listener.id() != speaker.id()
}

#[cfg(test)]
mod tests;
