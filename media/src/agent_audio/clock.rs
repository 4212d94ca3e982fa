//! Position of the agent's audio against the caller's line, and against our clock.
//!
//! While packets arrive, audio is passed on at the pace of the caller's clock. While none arrive our own clock takes
//! over: silence is inserted whenever a frame is due, ahead of the caller's line, and is taken off again when the line
//! continues.

use std::time::{Duration, Instant};

use crate::opus::FRAME;
use crate::timeline::{TICKS_PER_FRAME, duration_of};

/// In the middle of speech, silence is inserted only for a packet this late: jitter, or one lost packet, which can be
/// concealed once its successor arrives.
const SPEECH_LATE: Duration = Duration::from_millis(40);
/// The same in a pause, where silence costs nothing.
const PAUSE_LATE: Duration = Duration::from_millis(5);
/// Frames inserted at once after a stall of our own. Older audio is worthless by then.
const FILL_AT_MOST: u32 = 25;
/// Silence ahead of the line that may stay for good, in 48 kHz ticks: 60 ms.
const AHEAD_AT_MOST: u32 = 3 * TICKS_PER_FRAME;
/// Speech between two cuts of 20 ms beyond that, in 48 kHz ticks: 180 ms. Cutting a tenth removes one second of delay in
/// ten, sooner with pauses, and keeps speech recognition working.
const SPEECH_BETWEEN_CUTS: u32 = 9 * TICKS_PER_FRAME;
/// How much shorter a pause may appear to us than by the caller's clock, when the network stalled at its start, in 48 kHz
/// ticks: 5 s. A restarted clock lands within it once in ten thousand times.
const SAME_PAUSE: u32 = 240_000;
/// A backward jump of the caller's clock within one second is a sender's error, not a new line;
/// [`Reorder`](crate::reorder::Reorder) judges the same.
const SLIP: i32 = 48_000;

#[derive(Debug)]
pub(super) struct Clock {
    /// End of the last slot on the caller's line, in its 48 kHz ticks. None before the first.
    line_end: Option<u32>,
    /// When the caller's next audio is due, or silence in its place.
    due_at: Instant,
    /// Silence inserted ahead of the line, in 48 kHz ticks.
    ahead: u32,
    /// The part of it inserted since the last packet.
    filled: u32,
    /// The last packet was a pause, not speech.
    is_pause: bool,
    /// The line has just skipped a pause (DTX).
    follows_pause: bool,
    /// 48 kHz ticks of the line since the last cut.
    since_cut: u32,
}

/// How a slot follows the ones before it. `silence` is in 48 kHz ticks and goes before the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuity {
    /// The line continues.
    Continues { silence: u32 },
    /// A new line: the decoder must forget what came before.
    Restarts { silence: u32 },
}

impl Clock {
    pub fn new(now: Instant) -> Self {
        Self { line_end: None, due_at: now, ahead: 0, filled: 0, is_pause: true, follows_pause: false, since_cut: 0 }
    }

    /// Audio is due from now on.
    pub fn start(&mut self, now: Instant) {
        self.due_at = now;
    }

    /// Another sender starts.
    pub fn restart(&mut self, now: Instant) -> Continuity {
        let silence = if self.line_end.is_some() { self.behind(now) } else { 0 };
        self.forget_line();
        Continuity::Restarts { silence }
    }

    /// Checks whether the line continues at its end. It does not after a pause of more than a second, or on a new line.
    pub fn follow(&mut self, timestamp: u32, now: Instant) -> Continuity {
        let Some(end) = self.line_end else {
            self.forget_line();
            return Continuity::Restarts { silence: 0 };
        };
        let jump = timestamp.wrapping_sub(end) as i32;
        if (-SLIP..=0).contains(&jump) {
            return Continuity::Continues { silence: 0 };
        }
        let behind = self.behind(now);
        let jump_ticks = jump.unsigned_abs();
        // Our clock may count more, when the network stalled at the end of the pause.
        if jump > 0 && jump_ticks <= self.filled.saturating_add(behind).saturating_add(SAME_PAUSE) {
            self.follows_pause = true;
            let rest = self.owed(jump_ticks, self.ahead);
            Continuity::Continues { silence: rest.min(FILL_AT_MOST * TICKS_PER_FRAME) }
        } else {
            // A restarted clock does not tell the length of the pause; ours does.
            self.forget_line();
            Continuity::Restarts { silence: behind }
        }
    }

    /// A packet of the line, of which `given` ticks were passed on.
    pub fn packet(&mut self, timestamp: u32, ticks: u32, given: u32, is_pause: bool, now: Instant) {
        self.line_end = Some(timestamp.wrapping_add(ticks));
        // A late packet at the end of a filled pause moves nothing: the agent has had that time as silence.
        if given > 0 || !self.follows_pause {
            self.due_at = now + duration_of(ticks);
        }
        self.filled = 0;
        self.is_pause = is_pause;
        self.follows_pause = false;
    }

    /// A loss on the line; returns how much of it was not filled yet, in 48 kHz ticks. Only silence inserted in this gap
    /// counts: an older debt must not cost what FEC can restore.
    pub fn lost(&mut self, timestamp: u32, duration: u32, now: Instant) -> u32 {
        self.line_end = Some(timestamp.wrapping_add(duration));
        self.due_at = now;
        self.owed(duration, self.filled)
    }

    /// A pause of the line; returns how much of it was not filled yet, in 48 kHz ticks.
    pub fn quiet(&mut self, timestamp: u32, duration: u32, now: Instant) -> u32 {
        self.line_end = Some(timestamp.wrapping_add(duration));
        self.follows_pause = true;
        let rest = self.owed(duration, self.ahead);
        if rest > 0 {
            self.due_at = now;
        }
        rest
    }

    /// Frames of silence that are due in place of late audio.
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

    /// How much of the next packet to cut, in 48 kHz ticks, because silence was inserted ahead of it.
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

    /// `ticks` were cut.
    pub fn cut(&mut self, ticks: u32) {
        self.ahead = self.ahead.saturating_sub(ticks);
        self.since_cut = 0;
    }

    /// A frame was dropped from the agent's queue, which shortens its delay.
    pub fn dropped(&mut self) {
        self.ahead = self.ahead.saturating_sub(TICKS_PER_FRAME);
    }

    /// Whether a packet has come, so that the decoder can conceal what follows.
    pub fn has_begun(&self) -> bool {
        self.line_end.is_some()
    }

    /// Whether silence was inserted right before the next packet.
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

    /// How long audio has been due without being filled, in 48 kHz ticks.
    fn behind(&self, now: Instant) -> u32 {
        let late = now.saturating_duration_since(self.due_at).min(FRAME * FILL_AT_MOST);
        (late.as_micros() * 48 / 1000) as u32
    }

    /// The part of a gap that was not inserted already; at most `given` counts as inserted.
    fn owed(&mut self, duration: u32, given: u32) -> u32 {
        let paid = duration.min(given);
        self.ahead = self.ahead.saturating_sub(paid);
        self.filled = self.filled.saturating_sub(paid);
        duration - paid
    }
}
