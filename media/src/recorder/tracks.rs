//! Tracks: the two channels side by side. Frames wait here to be written, because the caller's may still arrive.

use super::delimited;
use crate::opus::SILENCE;

/// Frames from the oldest one not written to the furthest that a caller may be ahead: 1.28 s.
const PLACES: usize = 64;

/// How long a frame waits for the caller: 300 ms cover the usual delays of a mobile network.
pub(super) const ALLOWANCE_FRAMES: i64 = 15;

/// Frames are counted from the start of the recording.
pub(super) struct Tracks {
    places: Box<[Place; PLACES]>,
    /// The first frame that is not written.
    open: i64,
    /// The next frame of the agent's line.
    next: i64,
    silent: bool,
}

/// One frame of both channels. The buffers are reused.
#[derive(Default)]
struct Place {
    agent: Vec<u8>,
    /// Self-delimited; empty while there is none.
    caller: Vec<u8>,
    is_silent: bool,
}

/// The result of placing a caller frame.
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

    /// Frames added by the agent's line.
    pub(super) fn frames(&self) -> i64 {
        self.next
    }

    /// Whether both channels are silent from the next frame on.
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

    /// Places one self-delimited packet of the caller.
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

    /// Removes the caller's packets at `frame` and after it.
    pub(super) fn forget_caller_from(&mut self, frame: i64) {
        for frame in frame.max(self.open)..self.open + PLACES as i64 {
            self.place(frame).caller.clear();
        }
    }

    /// Passes the next final packets of both channels to `write`: those that the caller's line has passed, or that have
    /// waited long enough.
    pub(super) fn take(&mut self, caller_passed: i64, mut write: impl FnMut(&[u8], &[u8])) {
        while self.open < self.next && (self.open < caller_passed || self.next - self.open > ALLOWANCE_FRAMES) {
            self.take_first(&mut write);
        }
    }

    /// Passes all packets of both channels to `write`, even if the caller's may still arrive.
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
