//! Source: what the caller hears: silence, prompts, or the agent.

mod live;
mod agent_queue;

use std::time::Duration;

use crate::opus::{OpusError, Profile, SILENCE};
use crate::prompt::{Cursor, Prompt, Repeat};
use live::Live;

pub use agent_queue::{
    AgentQueue, Cleared, DEFAULT_MAX_BUFFER, MAX_MARK_BYTES, MAX_MARKS, MarkStatus, OVERRUN, PushError, QueueEvent,
    Room, Taken, TooManyMarks, UTTERANCE_PAUSE,
};

/// Chooses the payload of every 20 ms frame. Sequence numbers and timestamps belong to
/// [`Timeline`](crate::timeline::Timeline).
///
/// Three layers: the base (silence, standby prompts, or the agent), a hold above it, and a playback on top. The topmost
/// layer present is on air. What an agent queues below another layer is kept, so that its first words are not lost.
#[derive(Debug, Default)]
pub struct Source {
    base: Base,
    /// Prompts for a caller on hold.
    hold: Option<Cursor>,
    playback: Option<Cursor>,
    agent: Option<Live>,
    /// The caller does not hear the agent.
    muted: bool,
    /// During a hold the mixer takes the agent's queue instead.
    mixer_takes_agent: bool,
    /// The last frame was not silence.
    was_talking: bool,
    /// One frame of silence goes out before the next audio, see [`Source::separate`].
    separator_due: bool,
}

/// The content of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// False when the payload is silence; the first talking frame after it opens a talk-spurt.
    pub talking: bool,
    /// What ended with this frame.
    pub ended: Option<Ended>,
}

/// What can end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Standby prompts, played once. Silence follows.
    Prompts,
    /// A playback. What it interrupted continues.
    Playback,
}

#[derive(Debug, Default)]
enum Base {
    #[default]
    Silence,
    Prompts(Cursor),
    Agent,
}

impl Source {
    /// Silence, and no agent.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches the agent's queue. What is on air stays. `profile` matters for PCM only.
    pub fn attach_agent(&mut self, queue: AgentQueue, profile: Profile) -> Result<(), OpusError> {
        self.agent = Some(Live::new(queue, profile)?);
        Ok(())
    }

    /// Detaches the agent's queue with everything in it. Silence follows if it was on air.
    pub fn detach_agent(&mut self) -> Option<AgentQueue> {
        if let Base::Agent = self.base {
            self.switch_to_silence();
        }
        self.agent.take().map(Live::into_queue)
    }

    /// The agent's queue.
    pub fn queue(&self) -> Option<&AgentQueue> {
        self.agent.as_ref().map(Live::queue)
    }

    /// The agent's queue, to push, mark, clear, pause, resume and change format.
    pub fn queue_mut(&mut self) -> Option<&mut AgentQueue> {
        self.agent.as_mut().map(Live::queue_mut)
    }

    /// Audio of the agent skipped so far to bound its delay.
    pub fn trimmed(&self) -> Duration {
        self.queue().map_or(Duration::ZERO, AgentQueue::trimmed)
    }

    /// Position in the agent's audio at the end of the next frame; None unless the agent is live and on air, and the frame
    /// is queued.
    pub fn live_frame_end(&self) -> Option<Duration> {
        let on_air = self.playback.is_none() && self.hold.is_none() && !self.muted && matches!(self.base, Base::Agent);
        self.queue().filter(|_| on_air)?.live_frame_end()
    }

    /// Makes prompts the base, from their start, in order. The agent's queue waits.
    pub fn switch_to_prompts(&mut self, prompts: Vec<Prompt>, repeat: Repeat) {
        self.switch_to(Base::Prompts(Cursor::new(prompts, repeat)));
    }

    /// Makes the agent the base: its queue, and silence while that is empty.
    pub fn switch_to_agent(&mut self) {
        self.switch_to(Base::Agent);
    }

    /// Makes silence the base. The agent's queue waits.
    pub fn switch_to_silence(&mut self) {
        self.switch_to(Base::Silence);
    }

    /// Plays prompts over everything else. What they interrupt continues when they end or are stopped.
    pub fn play(&mut self, prompts: Vec<Prompt>, repeat: Repeat) {
        self.playback = Some(Cursor::new(prompts, repeat));
        self.separate();
    }

    /// Stops the playback at once. Returns whether there was one.
    pub fn stop_playback(&mut self) -> bool {
        let was_playing = self.playback.take().is_some();
        if was_playing {
            self.separate();
        }
        was_playing
    }

    /// Loops prompts over the base until [`unhold`](Self::unhold). An empty list is silence.
    pub fn hold(&mut self, prompts: Vec<Prompt>) {
        self.hold = Some(Cursor::new(prompts, Repeat::Loop));
        if self.playback.is_none() {
            self.separate();
        }
    }

    /// Ends the hold. Returns whether there was one.
    pub fn unhold(&mut self) -> bool {
        let was_held = self.hold.take().is_some();
        self.mixer_takes_agent = false;
        if was_held && self.playback.is_none() {
            self.separate();
        }
        was_held
    }

    /// Whether the caller is on hold.
    pub fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// Mutes the agent towards the caller. A muted agent's audio is discarded in real time.
    pub fn mute(&mut self, muted: bool) {
        self.muted = muted;
    }

    /// Whether the mixer takes the agent's audio from [`queue_mut`](Self::queue_mut) while the caller is on hold.
    pub fn set_mixer_takes_agent(&mut self, takes: bool) {
        self.mixer_takes_agent = takes;
    }

    /// Whether a playback plays.
    pub fn is_playing(&self) -> bool {
        self.playback.is_some()
    }

    /// Replaces `out` with the Opus payload of the next 20 ms, always a whole packet.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> Filled {
        if std::mem::take(&mut self.separator_due) {
            self.was_talking = false;
            return silence(out);
        }
        let prompts_play = self.playback.is_some() || self.hold.is_some() || matches!(self.base, Base::Prompts(_));
        if prompts_play
            && !self.mixer_takes_agent
            && let Some(queue) = self.queue_mut()
        {
            queue.tick_off_air();
        }
        let filled = match (&mut self.playback, &mut self.hold, &mut self.base, &mut self.agent) {
            (Some(cursor), ..) => play(cursor, Ended::Playback, out),
            (None, Some(cursor), ..) => Filled { ended: None, ..play(cursor, Ended::Prompts, out) },
            (None, None, Base::Prompts(cursor), _) => play(cursor, Ended::Prompts, out),
            (None, None, Base::Agent, Some(agent)) => agent.fill(self.muted, out),
            (None, None, Base::Agent, None) | (None, None, Base::Silence, _) => silence(out),
        };
        self.was_talking = filled.talking;
        match filled.ended {
            Some(Ended::Playback) => {
                self.playback = None;
                self.separate();
            }
            Some(Ended::Prompts) => self.base = Base::Silence,
            None => {}
        }
        filled
    }

    fn switch_to(&mut self, base: Base) {
        self.base = base;
        if self.playback.is_none() && self.hold.is_none() {
            self.separate();
        }
    }

    /// Prompts and agents have encoders of their own, and the caller's decoder carries the end of one into the next. One
    /// frame of silence in between lets it settle.
    fn separate(&mut self) {
        self.separator_due = self.was_talking;
        if let Some(agent) = &mut self.agent {
            agent.end_spurt();
        }
    }
}

fn play(cursor: &mut Cursor, ended: Ended, out: &mut Vec<u8>) -> Filled {
    let played = cursor.fill(out);
    Filled { talking: played.talking, ended: played.ended.then_some(ended) }
}

fn silence(out: &mut Vec<u8>) -> Filled {
    out.clear();
    out.extend_from_slice(&SILENCE);
    Filled { talking: false, ended: None }
}

#[cfg(test)]
mod tests;
