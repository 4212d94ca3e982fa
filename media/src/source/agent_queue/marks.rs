//! Marks: positions in the agent's audio that are reported when playback reaches them.

use std::collections::VecDeque;

use thiserror::Error;

/// Marks waiting or not reported yet. Overflow is refused with an error.
pub const MAX_MARKS: usize = 1024;
/// Bytes of the names of those marks.
pub const MAX_MARK_BYTES: usize = 256 * 1024;

/// What the queue reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueueEvent {
    /// A mark was reached or cleared.
    Mark {
        /// The agent's name for it.
        name: String,
        /// Whether the audio before it was played.
        status: MarkStatus,
    },
}

/// What happened to the audio before a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MarkStatus {
    /// It left for the caller.
    Played,
    /// A `clear` dropped it.
    Cleared,
}

/// [`MAX_MARKS`] marks wait already, or [`MAX_MARK_BYTES`] of names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("more than {MAX_MARKS} marks are waiting, or names of more than {MAX_MARK_BYTES} bytes")]
pub struct TooManyMarks;

/// Marks in the order they were placed; each is reported once.
#[derive(Debug, Default)]
pub(super) struct Marks {
    waiting: VecDeque<Mark>,
    events: VecDeque<QueueEvent>,
    /// Bytes of the names in both.
    name_bytes: usize,
}

#[derive(Debug)]
struct Mark {
    /// In 48 kHz ticks of the agent's audio.
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

    /// Playback has reached `position`.
    pub fn reach(&mut self, position: u64) {
        let due = self.waiting.partition_point(|mark| mark.position <= position);
        self.report(due, MarkStatus::Played);
    }

    /// The queued audio was dropped.
    pub fn clear(&mut self) {
        self.report(self.waiting.len(), MarkStatus::Cleared);
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<QueueEvent> {
        let event = self.events.pop_front()?;
        let QueueEvent::Mark { name, .. } = &event;
        self.name_bytes -= name.len();
        Some(event)
    }

    fn report(&mut self, count: usize, status: MarkStatus) {
        self.events.extend(self.waiting.drain(..count).map(|mark| QueueEvent::Mark { name: mark.name, status }));
    }
}
