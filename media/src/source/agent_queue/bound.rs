//! Bound: how much audio a queue accepts, and when its sender should stop and go on.

use std::time::Duration;

/// The share of the bound (a quarter) that must be free again before a full queue reports room, so that `xoff` and `xon`
/// do not flutter.
const FREE_AGAIN_SHARE: u32 = 4;

/// Whether the agent may send more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Room {
    /// It may.
    Free,
    /// The agent should stop until a quarter of the queue is free again.
    Full,
}

/// Accepts audio up to a duration, and an overrun once the sender was told to stop.
#[derive(Debug)]
pub(super) struct Bound {
    duration: Duration,
    overrun: Duration,
    is_full: bool,
}

impl Bound {
    pub fn new(duration: Duration) -> Self {
        Self { duration, overrun: Duration::ZERO, is_full: false }
    }

    pub fn tolerating(self, overrun: Duration) -> Self {
        Self { overrun, ..self }
    }

    pub fn room(&self) -> Room {
        if self.is_full { Room::Full } else { Room::Free }
    }

    pub fn refuses(&self, queued: Duration) -> bool {
        queued >= self.duration.saturating_add(self.overrun)
    }

    /// What may be queued after a push that is accepted.
    pub fn limit_of_a_push(&self) -> Duration {
        self.duration.saturating_mul(2).saturating_add(self.overrun)
    }

    /// `queued` is the duration after a push.
    pub fn pushed(&mut self, queued: Duration) {
        self.is_full |= queued >= self.duration;
    }

    /// `queued` is the duration after audio was taken or dropped.
    pub fn removed(&mut self, queued: Duration) {
        if queued <= self.duration - self.duration / FREE_AGAIN_SHARE {
            self.is_full = false;
        }
    }
}
