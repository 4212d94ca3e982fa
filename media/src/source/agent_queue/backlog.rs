//! Backlog: how much of a live agent's audio may wait, and which frames are skipped to get back to it.

use super::pace::{Hurry, Pace};
use crate::timeline::TICKS_PER_FRAME;

/// One frame more is kept for each underrun in speech, so that the same jitter is not audible again; 200 ms at most.
const MAX_CUSHION: u32 = 10;
/// A single underrun in this many frames, 10 s, is chance, and no cushion is kept for it: 20 ms of delay for half a minute
/// would cost more than a second gap.
const CHANCE_WITHIN: u32 = 500;
/// Frames without an underrun after which one frame less is kept: 30 s.
const CUSHION_SHRINKS_AFTER: u32 = 1500;

/// Frames above the cushion and the agent's lead that may wait; more is drift, and is skipped in a pause. Without a cushion
/// or a lead none may wait: one late frame must not delay the whole call.
const MAX_WAITING: u32 = 2;
/// Frames above the cushion beyond which speech is cut too, if there is no pause.
const MAX_DELAY: u32 = 6;
/// Frames played between two cuts in speech. Skipping one in four is a third faster: words stay intelligible, and a stall
/// of 3 s is made up in 9 s, or in about 5 s with ordinary pauses.
const SPEECH_BETWEEN_CUTS: u32 = 3;

/// Frames in one bucket, half a second, and buckets in the window: the queue's minimum is taken over 2 s.
const BUCKET_FRAMES: u32 = 25;
const BUCKETS: usize = 4;

/// Watches the queue's minimum: jitter fills and empties the queue, and only the part that never empties is delay.
#[derive(Debug)]
pub(super) struct Backlog {
    pace: Pace,
    /// Frames kept against jitter.
    cushion: u32,
    /// Frames since the last underrun in speech.
    since_underrun: u32,
    /// The lowest fill of each bucket, in frames; the last bucket is the current one.
    minima: [u32; BUCKETS],
    frames: u32,
    since_cut: u32,
    /// How many frames may be skipped: of those without speech, and of any.
    spare: u32,
    spare_speech: u32,
}

impl Backlog {
    pub fn new() -> Self {
        Self {
            pace: Pace::new(),
            cushion: 0,
            since_underrun: CHANCE_WITHIN,
            minima: [0; BUCKETS],
            frames: 0,
            since_cut: 0,
            spare: 0,
            spare_speech: 0,
        }
    }

    /// `ticks` (48 kHz) were pushed in one chunk.
    pub fn pushed(&mut self, ticks: u32) {
        self.pace.pushed(ticks);
    }

    /// The agent's audio was late within an utterance. In a pause that is inaudible.
    pub fn underran(&mut self, in_pause: bool) {
        if !in_pause {
            if self.cushion > 0 || self.since_underrun < CHANCE_WITHIN {
                self.cushion = (self.cushion + 1).min(MAX_CUSHION);
            }
            self.since_underrun = 0;
        }
        self.pace.underran();
    }

    /// An utterance begins after a pause.
    pub fn resume(&mut self) {
        self.pace.resume();
    }

    /// The queue was cleared, and new audio follows. What is known of the network stays.
    pub fn clear(&mut self) {
        self.pace = Pace::new();
        (self.spare, self.spare_speech) = (0, 0);
    }

    /// Forgets the underruns so far.
    pub fn settle(&mut self) {
        (self.cushion, self.since_underrun) = (0, CHANCE_WITHIN);
    }

    /// Whether the agent is live. Content is never skipped.
    pub fn is_live(&self) -> bool {
        self.pace.hurry().is_some()
    }

    /// Whether a frame without speech would be skipped now.
    pub fn has_spare(&self) -> bool {
        self.spare > 0
    }

    /// Whether to skip the next frame. At most one is skipped for each frame played.
    pub fn skips(&mut self, is_quiet: bool) -> bool {
        let may = match self.pace.hurry() {
            None => false,
            Some(Hurry::Pauses) => is_quiet && self.spare > 0,
            Some(Hurry::Any) if is_quiet => self.spare > 0,
            Some(Hurry::Any) => self.spare_speech > 0 && self.since_cut >= SPEECH_BETWEEN_CUTS,
        };
        if may {
            self.spare = self.spare.saturating_sub(1);
            self.spare_speech = self.spare_speech.saturating_sub(1);
            self.since_cut = 0;
        }
        may
    }

    /// 20 ms passed; `queued` 48 kHz ticks wait.
    pub fn tick(&mut self, queued: u64) {
        self.pace.tick();
        self.since_cut = self.since_cut.saturating_add(1);
        self.since_underrun = self.since_underrun.saturating_add(1);
        if self.since_underrun.is_multiple_of(CUSHION_SHRINKS_AFTER) {
            self.cushion = self.cushion.saturating_sub(1);
        }
        let waiting = u32::try_from(queued / u64::from(TICKS_PER_FRAME)).unwrap_or(u32::MAX);
        let minimum = &mut self.minima[BUCKETS - 1];
        *minimum = waiting.min(*minimum);
        self.frames += 1;
        if self.frames == BUCKET_FRAMES {
            self.judge();
            self.frames = 0;
            self.minima.rotate_left(1);
            self.minima[BUCKETS - 1] = u32::MAX;
        }
    }

    fn judge(&mut self) {
        let minimum = self.minima.iter().copied().min().unwrap_or(0);
        let lead = u32::try_from(self.pace.lead() / u64::from(TICKS_PER_FRAME)).unwrap_or(u32::MAX);
        let above = minimum.saturating_sub(self.cushion).saturating_sub(lead);
        let may_wait = if self.cushion == 0 && lead == 0 { 0 } else { MAX_WAITING };
        self.spare = above.saturating_sub(may_wait);
        self.spare_speech = above.saturating_sub(MAX_DELAY);
        if self.spare == 0 {
            self.pace.settle();
        }
    }
}
