//! The two channels side by side: frames that wait to be written, because the caller's may still come.

use super::delimited;
use crate::opus::SILENCE;

/// Frames from the oldest one not written to the furthest that a caller may be ahead: 1.28 s.
const PLACES: usize = 64;

/// How long a frame waits for its caller: 300 ms bridge what a mobile network holds up at times.
pub(super) const ALLOWANCE_FRAMES: i64 = 15;

/// Frames are counted from the beginning of the recording.
pub(super) struct Tracks {
    places: Box<[Place; PLACES]>,
    /// The first frame that is not written.
    open: i64,
    /// The frame that the agent's line comes to next.
    next: i64,
    silent: bool,
}

/// One frame of both. The buffers are used again and again.
#[derive(Default)]
struct Place {
    agent: Vec<u8>,
    /// Self-delimited; empty while there is nothing.
    caller: Vec<u8>,
    is_silent: bool,
}

/// Where a frame of the caller's came to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Placed {
    InTime,
    TooLate,
    TooEarly,
}

impl Tracks {
    pub(super) fn new() -> Self {
        Self { places: Box::new(std::array::from_fn(|_| Place::default())), open: 0, next: 0, silent: false }
    }

    /// The first frame that can still be changed.
    pub(super) fn open(&self) -> i64 {
        self.open
    }

    /// Frames that the agent's line has given.
    pub(super) fn frames(&self) -> i64 {
        self.next
    }

    /// From the next frame on both channels are silent, or not any more.
    pub(super) fn set_silent(&mut self, silent: bool) {
        self.silent = silent;
    }

    /// Adds the next frame of the agent's line. [`take`](Self::take) must be drained after it.
    pub(super) fn push_agent(&mut self, packet: &[u8]) {
        let silent = self.silent;
        let place = self.place(self.next);
        place.is_silent = silent;
        place.agent.clear();
        place.agent.extend_from_slice(packet);
        self.next += 1;
    }

    /// Puts one self-delimited packet of the caller's in its place.
    pub(super) fn put_caller(&mut self, frame: i64, packet: &[u8]) -> Placed {
        if frame < self.open {
            return Placed::TooLate;
        }
        if frame >= self.open + PLACES as i64 {
            return Placed::TooEarly;
        }
        let caller = &mut self.place(frame).caller;
        caller.clear();
        caller.extend_from_slice(packet);
        Placed::InTime
    }

    /// Takes back what the caller's line has put at `frame` and after it.
    pub(super) fn forget_caller_from(&mut self, frame: i64) {
        for frame in frame.max(self.open)..self.open + PLACES as i64 {
            self.place(frame).caller.clear();
        }
    }

    /// Gives `write` the next packets of both channels that nothing can change any more: the caller's line has passed
    /// them, or they have waited for their time.
    pub(super) fn take(&mut self, caller_passed: i64, mut write: impl FnMut(&[u8], &[u8])) {
        while self.open < self.next && (self.open < caller_passed || self.next - self.open > ALLOWANCE_FRAMES) {
            self.take_first(&mut write);
        }
    }

    /// Gives `write` all packets of both channels, whether or not the caller's may still come.
    pub(super) fn take_all(&mut self, mut write: impl FnMut(&[u8], &[u8])) {
        while self.open < self.next {
            self.take_first(&mut write);
        }
    }

    fn take_first(&mut self, write: &mut impl FnMut(&[u8], &[u8])) {
        let place = self.place(self.open);
        let silence = &delimited::SILENCE;
        let caller = if place.caller.is_empty() || place.is_silent { silence } else { place.caller.as_slice() };
        write(caller, if place.is_silent { &SILENCE } else { &place.agent });
        place.caller.clear();
        self.open += 1;
    }

    fn place(&mut self, frame: i64) -> &mut Place {
        &mut self.places[frame.rem_euclid(PLACES as i64) as usize]
    }
}
