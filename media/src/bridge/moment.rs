//! Moment: how much earlier in every 20 ms the caller's frames could leave.
//!
//! A live agent's frames come at a moment of their own and then stand in the queue until the call's: 10 ms on average,
//! for the whole call. What every one of them waited for nothing is taken out once.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::opus::FRAME;

/// Frames that are looked at: 2 s, in which a network shows how uneven it is.
const WINDOW: u32 = 100;
/// So much later than any in the window a frame may come and still be in time.
const MARGIN: Duration = Duration::from_millis(4);
/// For less no packet leaves its rhythm.
const WORTH: Duration = Duration::from_millis(2);
/// Taken out of a whole call: the line is that much ahead of the clock, and a recording lays the caller along the line.
const AT_MOST: Duration = Duration::from_millis(40);
/// Pieces of sound whose coming is remembered. A live agent has a few under way; of one with more nothing is known.
const PIECES: usize = 64;

/// Watches how long a live agent's frames wait.
#[derive(Debug, Default)]
pub(super) struct Moment {
    /// What the agent has said in all, and when it had.
    said: VecDeque<(Duration, Instant)>,
    /// The shortest wait of the window.
    waited: Option<Duration>,
    frames: u32,
    earlier: Option<Duration>,
    moved: Duration,
    /// This agent has been through a whole window.
    is_settled: bool,
}

impl Moment {
    /// The agent has said so much in all.
    pub fn said(&mut self, in_all: Duration, now: Instant) {
        if self.said.len() == PIECES {
            self.said.clear();
            self.look_anew();
        }
        self.said.push_back((in_all, now));
    }

    /// A frame leaves: of a live agent, that with what it said up to `end`; None if there is none. Says once for each
    /// agent when 2 s have passed in which no frame was missing.
    pub fn frame(&mut self, end: Option<Duration>, now: Instant) -> bool {
        let Some(end) = end else {
            self.look_anew();
            return false;
        };
        while self.said.front().is_some_and(|(in_all, _)| *in_all < end) {
            self.said.pop_front();
        }
        let Some((_, at)) = self.said.front() else {
            self.look_anew();
            return false;
        };
        let waited = now.saturating_duration_since(*at);
        self.waited = Some(self.waited.map_or(waited, |least| least.min(waited)));
        self.frames += 1;
        if self.frames == WINDOW {
            self.earlier = self.waited.and_then(|waited| self.spare(waited));
            self.look_anew();
            return !std::mem::replace(&mut self.is_settled, true);
        }
        false
    }

    /// How much earlier frames could leave, told once.
    pub fn earlier(&mut self) -> Option<Duration> {
        self.earlier.take()
    }

    /// They do so from now on.
    pub fn moved(&mut self, by: Duration) {
        self.moved += by;
        self.look_anew();
    }

    /// Another agent speaks from now on.
    pub fn forget(&mut self) {
        *self = Self { moved: self.moved, ..Self::default() };
    }

    fn look_anew(&mut self) {
        (self.waited, self.frames) = (None, 0);
    }

    /// Whole frames are there for a reason: the network is uneven, and the queue makes up for it.
    fn spare(&self, waited: Duration) -> Option<Duration> {
        let part = Duration::from_nanos((waited.as_nanos() % FRAME.as_nanos()) as u64);
        let spare = part.saturating_sub(MARGIN).min(AT_MOST.saturating_sub(self.moved));
        (spare >= WORTH).then_some(spare)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Frames that come every 20 ms, so many microseconds late, and leave `phase` after the first came. Gives what was
    /// found, and when.
    fn run(phase: Duration, queued: u32, late_us: impl Fn(u32) -> u64) -> Option<(u32, Duration)> {
        let (mut moment, start) = (Moment::default(), Instant::now());
        for frame in 0..3 * WINDOW {
            let at = start + FRAME * frame;
            moment.said(FRAME * (frame + 1), at + Duration::from_micros(late_us(frame)));
            let taken = (frame + 1).checked_sub(queued);
            moment.frame(taken.filter(|taken| *taken > 0).map(|taken| FRAME * taken), at + phase);
            if let Some(earlier) = moment.earlier() {
                return Some((frame, earlier));
            }
        }
        None
    }

    #[test]
    fn what_every_frame_waits_is_taken_out_but_for_a_margin() {
        assert_eq!(run(15 * MS, 0, |_| 0), Some((WINDOW - 1, 11 * MS)));
        assert_eq!(run(5 * MS, 0, |_| 0), None, "it would not be worth it");
        assert_eq!(run(MS, 0, |_| 0), None);
    }

    #[test]
    fn the_latest_frame_counts_and_frames_that_the_queue_keeps_stay() {
        assert_eq!(run(15 * MS, 0, |frame| if frame % 37 == 5 { 6_000 } else { 0 }), Some((WINDOW - 1, 5 * MS)));
        // One frame is kept: it waits 20 ms and then 10 for nothing.
        assert_eq!(run(10 * MS, 1, |_| 0).map(|found| found.1), Some(6 * MS));
    }

    #[test]
    fn no_more_than_forty_milliseconds_are_taken_out_of_a_call() {
        let (mut moment, start) = (Moment::default(), Instant::now());
        let mut moved = Duration::ZERO;
        for frame in 0..100 * WINDOW {
            let at = start + FRAME * frame;
            moment.said(FRAME * (frame + 1), at);
            moment.frame(Some(FRAME * (frame + 1)), at + 19 * MS);
            if let Some(earlier) = moment.earlier() {
                moment.moved(earlier);
                moved += earlier;
            }
        }
        assert_eq!(moved, AT_MOST);
    }

    #[test]
    fn pauses_and_floods_are_no_evidence() {
        let (mut moment, start) = (Moment::default(), Instant::now());
        for frame in 0..10 * WINDOW {
            let at = start + FRAME * frame;
            moment.said(FRAME * (frame + 1), at);
            moment.frame((frame % 50 != 0).then_some(FRAME * (frame + 1)), at + 15 * MS);
        }
        assert_eq!(moment.earlier(), None);
        for piece in 0..100_000 {
            moment.said(MS * piece, start);
        }
        assert!(moment.said.len() <= PIECES);
    }
}
