//! Mixer: three or more people in a call, or speech over music.
//!
//! It exists only while a call has a participant beside the agent, or music. It works in 20 ms frames at 16 kHz on the
//! bridge's tick, and allocates nothing after its start but the audio that participants take.

mod sum;
mod participant;
mod mix_input;
mod music;
mod mix_output;
mod mix_encoder;

use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use self::mix_input::MixInput;
use self::mix_output::{Mix, MixOutput};
use self::music::Music;
use self::participant::Participant;
use self::sum::{FRAME_SAMPLES, Frame, RATE, SILENT, Sum, is_loud};
use crate::opus::{Decoder, OpusError, Profile, SampleRate};
use crate::playout::Playout;
use crate::prompt::Prompt;
use crate::reorder::Slot;
use crate::source::AgentQueue;

pub(crate) use self::mix_encoder::MixEncoder;

/// With caller and agent, ten people. More would be a conference, which is another product.
pub const MAX_PARTICIPANTS: usize = 8;

/// Number of a participant within its call, chosen by the shell.
pub type ParticipantId = u32;

/// Who hears a participant. Every participant hears the caller, and everything that the caller hears.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Nobody hears it.
    Listen,
    /// The agent hears it, and so do the participants that do not talk with the caller.
    Whisper,
    /// Everybody hears it.
    Join,
}

/// Why the mixer refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MixerError {
    /// [`MAX_PARTICIPANTS`] take part.
    #[error("a call has at most {MAX_PARTICIPANTS} participants")]
    TooManyParticipants,
    /// The id is in use.
    #[error("participant {0} is in the call already")]
    AlreadyPresent(ParticipantId),
    /// No participant has that id.
    #[error("participant {0} is not in the call")]
    UnknownParticipant(ParticipantId),
    /// libopus refused.
    #[error(transparent)]
    Opus(#[from] OpusError),
}

/// The result of one tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mixed {
    /// False when the payload is silence, or the tail of a talk-spurt.
    pub talking: bool,
    /// The payload was replaced. Otherwise it is the source's own, byte for byte.
    pub replaced: bool,
}

/// Mixes everybody in one call.
///
/// Every 20 ms: [`tick`](Self::tick), then [`agent_mix`](Self::agent_mix) and
/// [`take_for_participant`](Self::take_for_participant). The caller's slots are pushed in between, as they arrive.
///
/// The source's payload is replaced only while there is a participant with [`Role::Join`], or music, and something is
/// audible. The mix fades in and out, and ends in a pause of the agent's speech.
#[derive(Debug)]
pub struct Mixer {
    caller: Playout<FRAME_SAMPLES, Decoder>,
    participants: Vec<Participant>,
    music: Option<Music>,
    output: MixOutput,
    /// The last, faded frame of participants that have just left or changed their role.
    departing: Departing,
    for_agent: Frame,
    /// The agent's audio for the participants, while the caller is on hold.
    held_agent: Option<MixInput>,
    /// False while the caller is muted towards the agent.
    agent_hears_caller: bool,
}

#[derive(Debug, Default)]
struct Departing {
    to_caller: Option<Box<Frame>>,
    to_agent: Option<Box<Frame>>,
}

impl Mixer {
    /// A mixer without participants. `profile` is how the mix is encoded for the caller.
    pub fn new(profile: Profile) -> Result<Self, OpusError> {
        Ok(Self {
            caller: Playout::new(Decoder::new(RATE)?),
            participants: Vec::with_capacity(MAX_PARTICIPANTS),
            music: None,
            output: MixOutput::new(profile)?,
            departing: Departing::default(),
            for_agent: SILENT,
            held_agent: None,
            agent_hears_caller: true,
        })
    }

    /// Puts the caller on hold: agent and participants hear each other, and neither the caller nor the hold prompt.
    /// `agent` is the rate of the agent's PCM, None for Opus.
    pub fn hold(&mut self, agent: Option<SampleRate>) -> Result<(), OpusError> {
        self.fade_out_towards_caller();
        self.held_agent = Some(MixInput::new(agent)?);
        Ok(())
    }

    /// Ends the hold.
    pub fn unhold(&mut self) {
        if self.held_agent.take().is_some() {
            self.fade_out_towards_caller();
        }
    }

    /// Whether the agent hears the caller; true at first.
    pub fn set_agent_hears_caller(&mut self, hears: bool) {
        self.agent_hears_caller = hears;
    }

    /// Takes the next 20 ms of the agent's audio for the participants. To be called before each [`tick`](Self::tick)
    /// while the caller is on hold.
    pub fn pull_agent(&mut self, queue: &mut AgentQueue) {
        if let Some(input) = &mut self.held_agent {
            input.pull(queue);
        }
    }

    /// Takes the caller's next slot. Only participants hear it from here, so without one nothing is decoded.
    pub fn push_caller(&mut self, slot: &Slot) {
        if !self.participants.is_empty() {
            self.caller.push(slot);
        }
    }

    /// Mixes 20 ms. `on_air` is the Opus payload that the source chose for the caller, and `talking` whether it has
    /// audio. It is replaced when others are heard too.
    pub fn tick(&mut self, on_air: &mut Vec<u8>, talking: bool) -> Mixed {
        if self.is_idle() {
            self.output.idle();
            return Mixed { talking, replaced: false };
        }
        self.output.decode_source(on_air);
        for participant in &mut self.participants {
            participant.pull();
        }
        let mut caller = if self.participants.is_empty() { SILENT } else { self.caller.play() };
        if self.held_agent.is_some() {
            caller = SILENT;
        }
        let music = self.play_music(talking);
        let mixed = self.put_on_air(music.as_ref(), talking, on_air);
        self.mix_for_participants(&caller, music.as_ref());
        self.mix_for_agent(&caller);
        self.departing = Departing::default();
        mixed
    }

    /// The mix for the agent, 20 ms at 16 kHz: the caller, and the participants whose role lets them speak to the agent.
    ///
    /// None without such participants: then the agent gets the caller's packets without the delay of the mix.
    pub fn agent_mix(&self) -> Option<&[i16]> {
        self.participants.iter().any(|participant| participant.role != Role::Listen).then_some(&self.for_agent[..])
    }

    /// The next 20 ms for a participant, in its format. Half a second is queued at most; overflow drops the oldest.
    pub fn take_for_participant(&mut self, id: ParticipantId) -> Option<Bytes> {
        self.participant_mut(id)?.take_mix()
    }

    /// How much of the mix was dropped since the last call because a participant read too slowly.
    pub fn take_missed_by_participant(&mut self, id: ParticipantId) -> Duration {
        self.participant_mut(id).map_or(Duration::ZERO, Participant::take_missed)
    }

    /// Whether the mixer can go: no participant, no music, and the caller hears the source itself.
    pub fn is_idle(&self) -> bool {
        self.participants.is_empty()
            && self.music.is_none()
            && !self.output.is_mixing()
            && self.departing.to_caller.is_none()
    }

    fn play_music(&mut self, talking: bool) -> Option<Frame> {
        let somebody_speaks = (talking && is_loud(self.output.source()))
            || self.heard_by_caller().any(|participant| participant.frame().is_some_and(is_loud));
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
        let joined = self.heard_by_caller().filter_map(Participant::frame);
        for frame in joined.chain(music).chain(self.departing.to_caller.as_deref()) {
            sum.add(frame);
            // Streamed digital silence is no reason to encode.
            others |= *frame != SILENT;
        }
        sum.add(self.output.source());
        let mix = Mix {
            frame: &sum.limited(),
            talking: talking || others,
            source_talks: talking,
            needed: self.heard_by_caller().next().is_some()
                || self.music.as_ref().is_some_and(Music::is_wanted)
                || others,
        };
        let replaced = self.output.mix(&mix, on_air);
        Mixed { talking: if replaced { mix.talking } else { talking }, replaced }
    }

    fn mix_for_participants(&mut self, caller: &Frame, music: Option<&Frame>) {
        for listener in 0..self.participants.len() {
            let mut sum = Sum::new();
            sum.add(caller);
            match &self.held_agent {
                Some(agent) => agent.frame().into_iter().for_each(|frame| sum.add(frame)),
                None => {
                    sum.add(self.output.source());
                    music.into_iter().for_each(|music| sum.add(music));
                }
            }
            let others = self.participants.iter().filter(|speaker| hears(&self.participants[listener], speaker));
            for frame in others.filter_map(Participant::frame) {
                sum.add(frame);
            }
            self.participants[listener].push_mix(&sum.limited());
        }
    }

    fn mix_for_agent(&mut self, caller: &Frame) {
        let mut sum = Sum::new();
        if self.agent_hears_caller {
            sum.add(caller);
        }
        let speaking = self
            .participants
            .iter()
            .filter(|participant| participant.role != Role::Listen)
            .filter_map(Participant::frame);
        for frame in speaking.chain(self.departing.to_agent.as_deref()) {
            sum.add(frame);
        }
        self.for_agent = sum.limited();
    }

    fn heard_by_caller(&self) -> impl Iterator<Item = &Participant> {
        self.participants.iter().filter(|participant| participant.role == Role::Join && self.held_agent.is_none())
    }

    /// Fades out the participants that the caller hears; their next frame starts a new talk-spurt.
    fn fade_out_towards_caller(&mut self) {
        for participant in self.participants.iter_mut().filter(|participant| participant.role == Role::Join) {
            self.departing.add(participant);
        }
    }
}

/// Participants and music.
impl Mixer {
    /// Adds a participant that sends and receives 16-bit PCM at `rate`, or Opus packets for None. `max_buffer` bounds its
    /// queue.
    pub fn add_participant(
        &mut self,
        id: ParticipantId,
        role: Role,
        rate: Option<SampleRate>,
        max_buffer: Duration,
    ) -> Result<(), MixerError> {
        if self.participants.iter().any(|participant| participant.id() == id) {
            return Err(MixerError::AlreadyPresent(id));
        }
        if self.participants.len() >= MAX_PARTICIPANTS {
            return Err(MixerError::TooManyParticipants);
        }
        if self.participants.is_empty() {
            self.caller.reset();
        }
        self.participants.push(Participant::new(id, role, rate, max_buffer)?);
        Ok(())
    }

    /// Switches a participant to PCM at `rate`, or to Opus packets for None. Its queued audio is mixed first. Returns how
    /// much of that had to be dropped, see [`AgentQueue::change_to`].
    pub fn change_format(&mut self, id: ParticipantId, rate: Option<SampleRate>) -> Result<Duration, MixerError> {
        Ok(self.participant_mut(id).ok_or(MixerError::UnknownParticipant(id))?.change_format(rate)?)
    }

    /// Changes who hears a participant.
    pub fn set_role(&mut self, id: ParticipantId, role: Role) -> Result<(), MixerError> {
        let participant = self
            .participants
            .iter_mut()
            .find(|participant| participant.id() == id)
            .ok_or(MixerError::UnknownParticipant(id))?;
        if participant.role != role {
            self.departing.add(participant);
            participant.role = role;
        }
        Ok(())
    }

    /// Removes a participant and drops its queued audio.
    pub fn remove_participant(&mut self, id: ParticipantId) -> Result<(), MixerError> {
        let mut participant = self.take_participant(id)?;
        self.departing.add(&mut participant);
        Ok(())
    }

    /// Removes a participant from the mix and returns its queue, to be played elsewhere.
    pub fn release_participant(&mut self, id: ParticipantId) -> Result<AgentQueue, MixerError> {
        self.take_participant(id).map(Participant::into_queue)
    }

    fn take_participant(&mut self, id: ParticipantId) -> Result<Participant, MixerError> {
        let index = self
            .participants
            .iter()
            .position(|participant| participant.id() == id)
            .ok_or(MixerError::UnknownParticipant(id))?;
        Ok(self.participants.remove(index))
    }

    /// A participant's queue, to push, mark, clear, pause, resume and poll.
    pub fn participant_queue_mut(&mut self, id: ParticipantId) -> Option<&mut AgentQueue> {
        self.participant_mut(id).map(Participant::queue_mut)
    }

    /// Mixed frames dropped because a participant read too slowly.
    pub fn dropped_for_participant(&self, id: ParticipantId) -> Option<u64> {
        self.participants.iter().find(|participant| participant.id() == id).map(Participant::dropped)
    }

    /// Ids and roles.
    pub fn participants(&self) -> impl Iterator<Item = (ParticipantId, Role)> {
        self.participants.iter().map(|participant| (participant.id(), participant.role))
    }

    /// Plays prompts in a loop under the speech. Music that plays already fades out first. None, or an empty list, ends
    /// the music.
    pub fn set_music(&mut self, prompts: Option<Vec<Prompt>>) -> Result<(), OpusError> {
        match (prompts.filter(|prompts| !prompts.is_empty()), &mut self.music) {
            (Some(prompts), Some(music)) => music.change_to(prompts),
            (Some(prompts), None) => self.music = Some(Music::new(prompts)?),
            (None, Some(music)) => music.end(),
            (None, None) => {}
        }
        Ok(())
    }

    /// Whether music plays and was not asked to end.
    pub fn has_music(&self) -> bool {
        self.music.as_ref().is_some_and(Music::is_wanted)
    }

    fn participant_mut(&mut self, id: ParticipantId) -> Option<&mut Participant> {
        self.participants.iter_mut().find(|participant| participant.id() == id)
    }
}

impl Departing {
    /// Adds a participant's last frame, faded out, wherever it is heard. Used up by the next tick.
    fn add(&mut self, participant: &mut Participant) {
        let places = match participant.role {
            Role::Listen => [None, None],
            Role::Whisper => [Some(&mut self.to_agent), None],
            Role::Join => [Some(&mut self.to_agent), Some(&mut self.to_caller)],
        };
        let Some(last) = participant.pull_last() else { return };
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

/// Whispers stay on the agent's side: a participant that talks with the caller does not hear them.
fn hears(listener: &Participant, speaker: &Participant) -> bool {
    let may_hear = match speaker.role {
        Role::Listen => false,
        Role::Whisper => listener.role != Role::Join,
        Role::Join => true,
    };
    may_hear && listener.id() != speaker.id()
}

#[cfg(test)]
mod tests;
