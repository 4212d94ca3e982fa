//! Outgoing: which frame leaves for the caller, and when.

use std::time::{Duration, Instant};

use super::frame_phase::FramePhase;
use super::playback::Playing;
use crate::opus::{FRAME, MAX_ENCODED_BYTES};
use crate::source::{Filled, Source};

/// Frames sent at once after a stall, so that the RTP line stays whole. A longer stall skips the rest: old audio is worth
/// less than a short delay.
const CATCH_UP_FRAMES: u32 = 10;

#[derive(Debug)]
pub(super) struct Outgoing {
    pub source: Source,
    /// Whose prompts interrupt what is on air.
    pub playing: Option<Playing>,
    pub phase: FramePhase,
    /// The Opus payload of the present frame.
    frame: Vec<u8>,
    /// When the next frame is due; None before the start and after the end.
    next_frame_at: Option<Instant>,
    frames_skipped: u64,
}

/// The frames that are due.
#[derive(Debug, Default)]
pub(super) struct Due {
    /// Frames to be passed over.
    pub skipped: u32,
    /// Frames to be sent after them.
    pub frames: u32,
}

impl Default for Outgoing {
    fn default() -> Self {
        Self {
            source: Source::new(),
            playing: None,
            phase: FramePhase::default(),
            frame: Vec::with_capacity(MAX_ENCODED_BYTES),
            next_frame_at: None,
            frames_skipped: 0,
        }
    }
}

impl Outgoing {
    /// Makes the first frame due. Returns false if frames leave already.
    pub fn start(&mut self, now: Instant) -> bool {
        let is_first = self.next_frame_at.is_none();
        self.next_frame_at.get_or_insert(now);
        is_first
    }

    pub fn stop(&mut self) {
        self.next_frame_at = None;
    }

    pub fn is_started(&self) -> bool {
        self.next_frame_at.is_some()
    }

    pub fn frames_skipped(&self) -> u64 {
        self.frames_skipped
    }

    /// Takes the frames that are due by `now` off the schedule.
    pub fn take_due(&mut self, now: Instant) -> Due {
        let Some(next) = self.next_frame_at.filter(|next| *next <= now) else { return Due::default() };
        let owed = 1 + u32::try_from((now - next).as_millis() / FRAME.as_millis()).unwrap_or(u32::MAX);
        let skipped = owed.saturating_sub(CATCH_UP_FRAMES);
        self.frames_skipped += u64::from(skipped);
        self.next_frame_at = Some(next + FRAME * owed);
        Due { skipped, frames: owed - skipped }
    }

    pub fn poll_phase_advance(&mut self) -> Option<Duration> {
        self.phase.take_advance()
    }

    pub fn advance_phase(&mut self, by: Duration) {
        if let Some(next) = self.next_frame_at.and_then(|next| next.checked_sub(by)) {
            self.next_frame_at = Some(next);
            self.phase.advanced(by);
        }
    }

    /// Takes the next frame from the source.
    pub fn fill_frame(&mut self, now: Instant) -> Filled {
        self.frame.clear();
        let has_settled = self.phase.frame_sent(self.source.live_frame_end(), now);
        if let Some(queue) = self.source.queue_mut().filter(|_| has_settled) {
            queue.settle();
        }
        self.source.fill(&mut self.frame)
    }

    pub fn frame(&self) -> &[u8] {
        &self.frame
    }

    /// The present frame, for the mixer to replace.
    pub fn frame_mut(&mut self) -> &mut Vec<u8> {
        &mut self.frame
    }
}
