//! FramePhase: how much earlier within every 20 ms the caller's frames could leave.
//!
//! A live agent's frames arrive at a phase of their own and then wait in the queue for the call's next tick: 10 ms on
//! average, for the whole call. The wait that every frame has in common is removed once, by moving the tick.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::opus::FRAME;

/// Frames that are observed before a decision: 2 s, in which a network shows its jitter.
const WINDOW: u32 = 100;
/// Kept of the shortest wait in the window, for a frame that is later than any of them.
const MARGIN: Duration = Duration::from_millis(4);
/// A smaller gain does not justify a step in the packet rhythm.
const MIN_ADVANCE: Duration = Duration::from_millis(2);
/// Limit for a whole call: the RTP line runs ahead of the clock by this much, and a recording places the caller's audio
/// along that line.
const MAX_ADVANCE: Duration = Duration::from_millis(40);
/// Pushes whose arrival is remembered. A live agent has a few in its queue; for one with more, waiting times mean nothing.
const MAX_PUSHES: usize = 64;

/// Measures how long a live agent's frames wait in the queue.
#[derive(Debug, Default)]
pub(super) struct FramePhase {
    /// Total audio pushed by the agent, and when.
    pushes: VecDeque<(Duration, Instant)>,
    /// The shortest wait of the window.
    shortest_wait: Option<Duration>,
    frames: u32,
    /// The result of a window, until it is taken.
    advance: Option<Duration>,
    /// Sum of all advances of this call.
    advanced: Duration,
    /// This agent has been through a whole window.
    is_settled: bool,
}

impl FramePhase {
    /// The agent has now pushed `total` of audio.
    pub fn pushed(&mut self, total: Duration, now: Instant) {
        if self.pushes.len() == MAX_PUSHES {
            self.pushes.clear();
            self.restart_window();
        }
        self.pushes.push_back((total, now));
    }

    /// A frame leaves for the caller. `end` is the position in the agent's audio at the frame's end; None if it is not a
    /// live agent's frame. Returns true once for each agent, after 2 s without a missing frame.
    pub fn frame_sent(&mut self, end: Option<Duration>, now: Instant) -> bool {
        let Some(end) = end else {
            self.restart_window();
            return false;
        };
        while self.pushes.front().is_some_and(|(total, _)| *total < end) {
            self.pushes.pop_front();
        }
        let Some((_, pushed_at)) = self.pushes.front() else {
            self.restart_window();
            return false;
        };
        let wait = now.saturating_duration_since(*pushed_at);
        self.shortest_wait = Some(self.shortest_wait.map_or(wait, |shortest| shortest.min(wait)));
        self.frames += 1;
        if self.frames == WINDOW {
            self.advance = self.shortest_wait.and_then(|wait| self.possible_advance(wait));
            self.restart_window();
            return !std::mem::replace(&mut self.is_settled, true);
        }
        false
    }

    /// How much earlier frames could leave, returned once.
    pub fn take_advance(&mut self) -> Option<Duration> {
        self.advance.take()
    }

    /// Frames leave earlier by `by` from now on.
    pub fn advanced(&mut self, by: Duration) {
        self.advanced += by;
        self.restart_window();
    }

    /// Another agent takes over.
    pub fn reset(&mut self) {
        *self = Self { advanced: self.advanced, ..Self::default() };
    }

    fn restart_window(&mut self) {
        (self.shortest_wait, self.frames) = (None, 0);
    }

    /// Whole frames of waiting are left alone: the queue keeps them against jitter.
    fn possible_advance(&self, wait: Duration) -> Option<Duration> {
        let phase = Duration::from_nanos((wait.as_nanos() % FRAME.as_nanos()) as u64);
        let advance = phase.saturating_sub(MARGIN).min(MAX_ADVANCE.saturating_sub(self.advanced));
        (advance >= MIN_ADVANCE).then_some(advance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Pushes a frame every 20 ms, each late by some microseconds, and sends it `phase` after the first was pushed. Returns
    /// the advance found, and at which frame.
    fn run(phase: Duration, queued: u32, late_us: impl Fn(u32) -> u64) -> Option<(u32, Duration)> {
        let (mut frame_phase, start) = (FramePhase::default(), Instant::now());
        for frame in 0..3 * WINDOW {
            let at = start + FRAME * frame;
            frame_phase.pushed(FRAME * (frame + 1), at + Duration::from_micros(late_us(frame)));
            let taken = (frame + 1).checked_sub(queued);
            frame_phase.frame_sent(taken.filter(|taken| *taken > 0).map(|taken| FRAME * taken), at + phase);
            if let Some(advance) = frame_phase.take_advance() {
                return Some((frame, advance));
            }
        }
        None
    }

    #[test]
    fn the_common_wait_of_all_frames_is_removed_but_for_a_margin() {
        assert_eq!(run(15 * MS, 0, |_| 0), Some((WINDOW - 1, 11 * MS)));
        assert_eq!(run(5 * MS, 0, |_| 0), None, "too small a gain");
        assert_eq!(run(MS, 0, |_| 0), None);
    }

    #[test]
    fn the_latest_frame_counts_and_whole_queued_frames_stay() {
        assert_eq!(run(15 * MS, 0, |frame| if frame % 37 == 5 { 6_000 } else { 0 }), Some((WINDOW - 1, 5 * MS)));
        // One frame is kept queued: it waits 20 ms, and 10 ms more without need.
        assert_eq!(run(10 * MS, 1, |_| 0).map(|found| found.1), Some(6 * MS));
    }

    #[test]
    fn no_more_than_forty_milliseconds_are_removed_from_a_call() {
        let (mut frame_phase, start) = (FramePhase::default(), Instant::now());
        let mut moved = Duration::ZERO;
        for frame in 0..100 * WINDOW {
            let at = start + FRAME * frame;
            frame_phase.pushed(FRAME * (frame + 1), at);
            frame_phase.frame_sent(Some(FRAME * (frame + 1)), at + 19 * MS);
            if let Some(advance) = frame_phase.take_advance() {
                frame_phase.advanced(advance);
                moved += advance;
            }
        }
        assert_eq!(moved, MAX_ADVANCE);
    }

    #[test]
    fn pauses_and_floods_are_no_evidence() {
        let (mut frame_phase, start) = (FramePhase::default(), Instant::now());
        for frame in 0..10 * WINDOW {
            let at = start + FRAME * frame;
            frame_phase.pushed(FRAME * (frame + 1), at);
            frame_phase.frame_sent((frame % 50 != 0).then_some(FRAME * (frame + 1)), at + 15 * MS);
        }
        assert_eq!(frame_phase.take_advance(), None);
        for push in 0..100_000 {
            frame_phase.pushed(MS * push, start);
        }
        assert!(frame_phase.pushes.len() <= MAX_PUSHES);
    }
}
