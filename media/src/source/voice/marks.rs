//! Marks: places in the agent's sound that it wants to hear of.

use std::collections::VecDeque;

use thiserror::Error;

/// Marks waiting or not yet told. More is an app that has lost count: it gets an error.
pub const MAX_MARKS: usize = 1024;
/// What the names of those marks hold together.
pub const MAX_MARK_BYTES: usize = 256 * 1024;

/// What became of the agent's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VoiceEvent {
    /// A mark's turn came.
    Mark {
        /// The name the agent gave it.
        name: String,
        /// What became of the sound before it.
        status: MarkStatus,
    },
}

/// What became of the sound before a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkStatus {
    /// It left for the caller.
    Played,
    /// It was thrown away by a `clear`.
    Cleared,
}

/// [`MAX_MARKS`] are waiting already, or names of [`MAX_MARK_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("more than {MAX_MARKS} marks are waiting, or names of more than {MAX_MARK_BYTES} bytes")]
pub struct TooManyMarks;

/// In the order they were placed: each is told once.
#[derive(Debug, Default)]
pub(super) struct Marks {
    waiting: VecDeque<Mark>,
    events: VecDeque<VoiceEvent>,
    /// Of the names in both.
    name_bytes: usize,
}

#[derive(Debug)]
struct Mark {
    /// In 48 kHz ticks of the agent's sound.
    position: u64,
    name: String,
}

impl Marks {
    /// Places a mark behind all others.
    pub fn place(&mut self, position: u64, name: String) -> Result<(), TooManyMarks> {
        let count = self.waiting.len() + self.events.len();
        if count >= MAX_MARKS || self.name_bytes + name.len() > MAX_MARK_BYTES {
            return Err(TooManyMarks);
        }
        self.name_bytes += name.len();
        self.waiting.push_back(Mark { position, name });
        Ok(())
    }

    /// The sound has been played up to `position`.
    pub fn reach(&mut self, position: u64) {
        let due = self.waiting.partition_point(|mark| mark.position <= position);
        self.tell(due, MarkStatus::Played);
    }

    /// The sound that waited is thrown away.
    pub fn clear(&mut self) {
        self.tell(self.waiting.len(), MarkStatus::Cleared);
    }

    /// The next one that is to be told.
    pub fn poll_event(&mut self) -> Option<VoiceEvent> {
        let event = self.events.pop_front()?;
        let VoiceEvent::Mark { name, .. } = &event;
        self.name_bytes -= name.len();
        Some(event)
    }

    fn tell(&mut self, count: usize, status: MarkStatus) {
        self.events.extend(self.waiting.drain(..count).map(|mark| VoiceEvent::Mark { name: mark.name, status }));
    }
}
