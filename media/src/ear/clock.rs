//! Where the sound given to the agent stands: against the caller's line, and against our clock.
//!
//! While something comes it is given as it comes, and keeps step with the caller's own clock. While nothing comes ours
//! stands in for it: silence is given when a frame is due, ahead of the line, and the line pays it back when it goes on.

use std::time::{Duration, Instant};

use crate::opus::FRAME;
use crate::timeline::{TICKS_PER_FRAME, duration_of};

/// In the middle of speech the next sound is waited for so long before silence is given in place of it: a network's
/// jitter, or one lost packet, whose successor says that it is to be rebuilt.
const SPEECH_LATE: Duration = Duration::from_millis(40);
/// The same in a pause, where nothing is lost by silence: what comes in the next moment is better than that.
const PAUSE_LATE: Duration = Duration::from_millis(5);
/// Frames given at once after our own stall. What is older is worth nothing any more.
const FILL_AT_MOST: u32 = 25;
/// Silence given ahead of the line that may stay for good, in 48 kHz ticks: 60 ms.
const AHEAD_AT_MOST: u32 = 3 * TICKS_PER_FRAME;
/// Beyond that, so much of speech is given between two cuts of 20 ms, in 48 kHz ticks: 180 ms. A tenth is cut out:
/// one second of delay is gone in ten, sooner with pauses, and speech recognition still follows.
const SPEECH_BETWEEN_CUTS: u32 = 9 * TICKS_PER_FRAME;
/// A pause may seem so much shorter to us than by the caller's clock, when the network stalled at its beginning, in
/// 48 kHz ticks: 5 s. A clock that began anew lands here once in ten thousand times.
const SAME_PAUSE: u32 = 240_000;
/// A jump back of the caller's clock within one second is a sender's slip, as [`Reorder`](crate::reorder::Reorder)
/// sees it, not another line.
const SLIP: i32 = 48_000;

#[derive(Debug)]
pub(super) struct Clock {
    /// Where the caller's line stands, in its 48 kHz ticks. `None` until it has begun.
    line_end: Option<u32>,
    /// When the caller's next sound is due, or the next silence in place of it.
    due_at: Instant,
    /// 48 kHz ticks given ahead of the line.
    ahead: u32,
    /// Those of them given since the last packet.
    filled: u32,
    /// What was heard last was a pause, not speech.
    is_pause: bool,
    /// The line has just left out a pause (DTX).
    follows_pause: bool,
    /// 48 kHz ticks of the line since something was cut out of it.
    since_cut: u32,
}

/// How a slot follows the ones before it. The ticks of silence are to be given first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// The same line.
    GoesOn { silence: u32 },
    /// Another line: its sound has nothing to do with what came before.
    Anew { silence: u32 },
}

impl Clock {
    pub fn new(now: Instant) -> Self {
        Self { line_end: None, due_at: now, ahead: 0, filled: 0, is_pause: true, follows_pause: false, since_cut: 0 }
    }

    /// Nothing was due before.
    pub fn start(&mut self, now: Instant) {
        self.due_at = now;
    }

    /// The sender is another.
    pub fn restart(&mut self, now: Instant) -> Joint {
        let silence = if self.line_end.is_some() { self.behind(now) } else { 0 };
        self.forget_line();
        Joint::Anew { silence }
    }

    /// Sees whether the line goes on where it stood. Only a pause of more than a second, or another line, does not.
    pub fn follow(&mut self, timestamp: u32, now: Instant) -> Joint {
        let Some(end) = self.line_end else {
            self.forget_line();
            return Joint::Anew { silence: 0 };
        };
        let jump = timestamp.wrapping_sub(end) as i32;
        if (-SLIP..=0).contains(&jump) {
            return Joint::GoesOn { silence: 0 };
        }
        let behind = self.behind(now);
        let jump_ticks = jump.unsigned_abs();
        // Ours may say more, when the network stalled at the end of the pause.
        if jump > 0 && jump_ticks <= self.filled.saturating_add(behind).saturating_add(SAME_PAUSE) {
            self.follows_pause = true;
            let rest = self.owed(jump_ticks, self.ahead);
            Joint::GoesOn { silence: rest.min(FILL_AT_MOST * TICKS_PER_FRAME) }
        } else {
            // This clock says nothing about how long it was; ours does.
            self.forget_line();
            Joint::Anew { silence: behind }
        }
    }

    /// A packet of the line, of which `given` ticks were given.
    pub fn packet(&mut self, timestamp: u32, ticks: u32, given: u32, is_pause: bool, now: Instant) {
        self.line_end = Some(timestamp.wrapping_add(ticks));
        // One that comes late out of a pause, whose time was filled, moves nothing: the agent has got it on time.
        if given > 0 || !self.follows_pause {
            self.due_at = now + duration_of(ticks);
        }
        self.filled = 0;
        self.is_pause = is_pause;
        self.follows_pause = false;
    }

    /// A loss of the line; gives how much of it was not filled. Only what was filled in this very gap counts: an older
    /// debt must not cost what FEC can rebuild.
    pub fn lost(&mut self, timestamp: u32, duration: u32, now: Instant) -> u32 {
        self.line_end = Some(timestamp.wrapping_add(duration));
        self.due_at = now;
        self.owed(duration, self.filled)
    }

    /// A pause of the line; gives how much of it was not filled.
    pub fn quiet(&mut self, timestamp: u32, duration: u32, now: Instant) -> u32 {
        self.line_end = Some(timestamp.wrapping_add(duration));
        self.follows_pause = true;
        let rest = self.owed(duration, self.ahead);
        if rest > 0 {
            self.due_at = now;
        }
        rest
    }

    /// How many frames of silence are due in place of what is late.
    pub fn fill(&mut self, now: Instant) -> u32 {
        let patience = if self.is_pause { PAUSE_LATE } else { SPEECH_LATE };
        let mut frames = 0;
        while frames < FILL_AT_MOST && self.due_at + patience <= now {
            frames += 1;
            self.due_at += FRAME;
        }
        self.due_at = self.due_at.max(now.checked_sub(patience).unwrap_or(now));
        self.ahead = self.ahead.saturating_add(frames * TICKS_PER_FRAME);
        self.filled = self.filled.saturating_add(frames * TICKS_PER_FRAME);
        frames
    }

    /// How much of the next packet is better cut out, because silence was given ahead of it.
    pub fn spare(&mut self, ticks: u32, is_pause: bool) -> u32 {
        self.since_cut = self.since_cut.saturating_add(ticks);
        if is_pause {
            ticks.min(self.ahead)
        } else if self.ahead > AHEAD_AT_MOST && self.since_cut >= SPEECH_BETWEEN_CUTS {
            ticks.min(TICKS_PER_FRAME)
        } else {
            0
        }
    }

    /// So much was cut out.
    pub fn cut(&mut self, ticks: u32) {
        self.ahead = self.ahead.saturating_sub(ticks);
        self.since_cut = 0;
    }

    /// A frame was thrown away: what the agent never gets is not ahead of anything.
    pub fn dropped(&mut self) {
        self.ahead = self.ahead.saturating_sub(TICKS_PER_FRAME);
    }

    /// Whether there is sound to lead over from.
    pub fn has_begun(&self) -> bool {
        self.line_end.is_some()
    }

    /// Whether silence stands right before what comes next.
    pub fn has_filled(&self) -> bool {
        self.filled > 0
    }

    fn forget_line(&mut self) {
        self.line_end = None;
        self.ahead = 0;
        self.filled = 0;
        self.is_pause = true;
        self.follows_pause = false;
    }

    /// How long the next sound has been due and was not filled, in 48 kHz ticks.
    fn behind(&self, now: Instant) -> u32 {
        let late = now.saturating_duration_since(self.due_at).min(FRAME * FILL_AT_MOST);
        (late.as_micros() * 48 / 1000) as u32
    }

    /// What of a gap has not been given already, when at most `given` counts.
    fn owed(&mut self, duration: u32, given: u32) -> u32 {
        let paid = duration.min(given);
        self.ahead = self.ahead.saturating_sub(paid);
        self.filled = self.filled.saturating_sub(paid);
        duration - paid
    }
}
