//! Source: what is on air towards the caller: silence, prompts, or the agent's voice.

mod live;
mod voice;

use std::time::Duration;

use crate::opus::{OpusError, Profile, SILENCE};
use crate::prompt::{Cursor, Prompt, Repeat};
use live::Live;

pub use voice::{
    Cleared, DEFAULT_MAX_BUFFER, MAX_MARK_BYTES, MAX_MARKS, MarkStatus, PushError, Room, Taken, TooManyMarks,
    UTTERANCE_PAUSE, Voice, VoiceEvent,
};

/// Decides the payload of every 20 ms frame, and nothing else: the RTP line belongs to
/// [`Timeline`](crate::timeline::Timeline).
///
/// One thing is the rule (silence, waiting music, the agent's voice). Over it lies the hold, and over that a playback;
/// what lies on top is on air, and gives way again. What an agent has queued waits meanwhile, so that its first words
/// are not lost.
#[derive(Debug, Default)]
pub struct Source {
    base: Base,
    /// What a caller on hold hears.
    hold: Option<Cursor>,
    playback: Option<Cursor>,
    live: Option<Live>,
    /// The agent speaks and is not heard.
    muted: bool,
    /// Somebody else takes the agent's voice while it is not on air.
    aside: bool,
    /// The last frame had sound in it.
    sounding: bool,
    /// One frame of silence goes out before the next sound, see [`Source::splice`].
    splice: bool,
}

/// What one frame was filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// False when the payload is silence; the first talking frame after it opens a talk-spurt.
    pub talking: bool,
    /// What came to its end with this frame.
    pub ended: Option<Ended>,
}

/// What can come to an end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// Prompts that were the rule, played once. Silence is the rule from here on.
    Prompts,
    /// A playback. What it interrupted goes on.
    Playback,
}

#[derive(Debug, Default)]
enum Base {
    #[default]
    Silence,
    Prompts(Cursor),
    Voice,
}

impl Source {
    /// Silence on air, and no voice.
    pub fn new() -> Self {
        Self::default()
    }

    /// Brings in the agent's voice. What is on air stays; `profile` matters for PCM only.
    pub fn set_voice(&mut self, voice: Voice, profile: Profile) -> Result<(), OpusError> {
        self.live = Some(Live::new(voice, profile)?);
        Ok(())
    }

    /// Takes the agent's voice away, with all that it still had to say. If it was on air, silence is from now on.
    pub fn remove_voice(&mut self) -> Option<Voice> {
        if let Base::Voice = self.base {
            self.go_silent();
        }
        self.live.take().map(Live::into_voice)
    }

    /// The agent's queue.
    pub fn voice(&self) -> Option<&Voice> {
        self.live.as_ref().map(Live::voice)
    }

    /// The agent's queue, to push, mark, clear, pause, resume and change.
    pub fn voice_mut(&mut self) -> Option<&mut Voice> {
        self.live.as_mut().map(Live::voice_mut)
    }

    /// The agent's sound left out so far so that its delay does not grow.
    pub fn trimmed(&self) -> Duration {
        self.voice().map_or(Duration::ZERO, Voice::trimmed)
    }

    /// What the agent will have said in all by the end of the next frame, if it is live, on air, and has said it.
    pub fn live_frame_end(&self) -> Option<Duration> {
        let on_air = self.playback.is_none() && self.hold.is_none() && !self.muted && matches!(self.base, Base::Voice);
        self.voice().filter(|_| on_air)?.live_frame_end()
    }

    /// Puts prompts on air from their beginning, in their order. The agent's voice waits.
    pub fn go_prompts(&mut self, prompts: Vec<Prompt>, repeat: Repeat) {
        self.switch_to(Base::Prompts(Cursor::new(prompts, repeat)));
    }

    /// Puts the agent's voice on air: what it has queued, and silence between.
    pub fn go_live(&mut self) {
        self.switch_to(Base::Voice);
    }

    /// Puts silence on air. The agent's voice waits.
    pub fn go_silent(&mut self) {
        self.switch_to(Base::Silence);
    }

    /// Interrupts what is on air with prompts; it goes on when they have ended or are stopped.
    pub fn play(&mut self, prompts: Vec<Prompt>, repeat: Repeat) {
        self.playback = Some(Cursor::new(prompts, repeat));
        self.splice();
    }

    /// Stops the playback at once. Says whether there was one.
    pub fn stop_playback(&mut self) -> bool {
        let was_playing = self.playback.take().is_some();
        if was_playing {
            self.splice();
        }
        was_playing
    }

    /// Prompts lie over the rule, again and again, until [`unhold`](Self::unhold). An empty list is silence.
    pub fn hold(&mut self, prompts: Vec<Prompt>) {
        self.hold = Some(Cursor::new(prompts, Repeat::Loop));
        if self.playback.is_none() {
            self.splice();
        }
    }

    /// The rule is on air again. Says whether there was a hold.
    pub fn unhold(&mut self) -> bool {
        let was_held = self.hold.take().is_some();
        self.aside = false;
        if was_held && self.playback.is_none() {
            self.splice();
        }
        was_held
    }

    /// Whether the caller is on hold.
    pub fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    /// What the agent says goes by unheard while it is muted, whatever it is.
    pub fn mute(&mut self, muted: bool) {
        self.muted = muted;
    }

    /// Whether somebody else takes the agent's voice from [`voice_mut`](Self::voice_mut) while the caller is on hold.
    pub fn set_aside(&mut self, aside: bool) {
        self.aside = aside;
    }

    /// Whether a playback is on air.
    pub fn is_playing(&self) -> bool {
        self.playback.is_some()
    }

    /// Writes the Opus payload of the next 20 ms to `out`, replacing what was there. Always a whole packet.
    pub fn fill(&mut self, out: &mut Vec<u8>) -> Filled {
        if std::mem::take(&mut self.splice) {
            self.sounding = false;
            return silence(out);
        }
        let prompts_play = self.playback.is_some() || self.hold.is_some() || matches!(self.base, Base::Prompts(_));
        if prompts_play
            && !self.aside
            && let Some(voice) = self.voice_mut()
        {
            voice.pass_by();
        }
        let filled = match (&mut self.playback, &mut self.hold, &mut self.base, &mut self.live) {
            (Some(cursor), ..) => play(cursor, Ended::Playback, out),
            (None, Some(cursor), ..) => Filled { ended: None, ..play(cursor, Ended::Prompts, out) },
            (None, None, Base::Prompts(cursor), _) => play(cursor, Ended::Prompts, out),
            (None, None, Base::Voice, Some(live)) => live.fill(self.muted, out),
            (None, None, Base::Voice, None) | (None, None, Base::Silence, _) => silence(out),
        };
        self.sounding = filled.talking;
        match filled.ended {
            Some(Ended::Playback) => {
                self.playback = None;
                self.splice();
            }
            Some(Ended::Prompts) => self.base = Base::Silence,
            None => {}
        }
        filled
    }

    fn switch_to(&mut self, base: Base) {
        self.base = base;
        if self.playback.is_none() && self.hold.is_none() {
            self.splice();
        }
    }

    /// Each sound comes from an encoder of its own, and the caller's decoder carries the end of one into the next.
    /// One frame of silence between them lets it settle.
    fn splice(&mut self) {
        self.splice = self.sounding;
        if let Some(live) = &mut self.live {
            live.break_off();
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
