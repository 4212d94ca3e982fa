//! Heard: what an agent was told on one connection, for its next one if this one breaks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use patchcord_media::source::{Cleared, MarkStatus};

use crate::agent::notice::{Notice, Resume};
use crate::agent::port::AgentPort;
use crate::call::agent_failure::AgentFailureKind;

/// The last marks that are kept, and the bytes of their names. An agent has one for a sentence or for a word.
const MARKS: usize = 32;
const MARK_BYTES: usize = 4096;

/// The facts that matter after a loss.
#[derive(Debug, Default)]
pub(super) struct Heard {
    marks: VecDeque<(String, MarkStatus)>,
    mark_bytes: usize,
    sequence: Option<u64>,
    is_accepted: bool,
}

/// The connection that was lost.
#[derive(Debug)]
pub(super) struct Loss {
    pub at: Instant,
    pub stream_id: String,
    pub reason: AgentFailureKind,
    pub cleared: Cleared,
}

/// What the next connection begins with.
#[derive(Debug)]
pub(super) struct Past {
    heard: Heard,
    loss: Loss,
}

impl Heard {
    /// A notice that is sent, or would have been.
    pub fn note(&mut self, notice: &Notice) {
        match notice {
            Notice::Mark { name, status } => self.note_mark(name, *status),
            Notice::Event(event) => self.sequence = Some(event.sequence),
            Notice::Accepted => self.is_accepted = true,
            Notice::Start(_)
            | Notice::Dtmf { .. }
            | Notice::Cleared(_)
            | Notice::Xoff { .. }
            | Notice::Xon { .. }
            | Notice::CommandResult { .. }
            | Notice::Error { .. }
            | Notice::Stop { .. } => {}
        }
    }

    /// The connection broke: what waits for it is kept for the next one, unless it is about audio that is gone.
    pub fn lose(mut self, loss: Loss, port: &AgentPort) -> Past {
        let waiting: Vec<Notice> = std::iter::from_fn(|| port.next_notice()).collect();
        for notice in waiting {
            match notice {
                Notice::Event(_) | Notice::Dtmf { .. } | Notice::CommandResult { .. } => port.keep(notice),
                Notice::Start(_)
                | Notice::Accepted
                | Notice::Mark { .. }
                | Notice::Cleared(_)
                | Notice::Xoff { .. }
                | Notice::Xon { .. }
                | Notice::Error { .. }
                | Notice::Stop { .. } => self.note(&notice),
            }
        }
        Past { heard: self, loss }
    }

    fn note_mark(&mut self, name: &str, status: MarkStatus) {
        // One that is longer than all of them together is the agent's own mistake.
        if name.len() > MARK_BYTES {
            return;
        }
        while self.marks.len() >= MARKS || self.mark_bytes + name.len() > MARK_BYTES {
            let Some((oldest, _)) = self.marks.pop_front() else { break };
            self.mark_bytes -= oldest.len();
        }
        self.mark_bytes += name.len();
        self.marks.push_back((name.to_owned(), status));
    }
}

impl Past {
    /// For the `Start` of the next connection.
    pub fn resume(&self, now: Instant) -> Resume {
        let Loss { at, stream_id, reason, cleared } = &self.loss;
        Resume {
            stream_id: stream_id.clone(),
            reason: *reason,
            away: now.saturating_duration_since(*at).max(Duration::ZERO),
            cleared: *cleared,
            marks: self.heard.marks.iter().cloned().collect(),
            sequence: self.heard.sequence,
        }
    }

    /// Whether the agent was told that the caller hears it.
    pub fn is_accepted(&self) -> bool {
        self.heard.is_accepted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_marks_are_kept_within_their_bounds() {
        let mut heard = Heard::default();
        let mark = |name: String| Notice::Mark { name, status: MarkStatus::Played };
        for number in 0..MARKS + 5 {
            heard.note(&mark(number.to_string()));
        }
        assert_eq!((heard.marks[0].0.as_str(), heard.marks.len()), ("5", MARKS));
        heard.note(&mark("x".repeat(MARK_BYTES + 1)));
        assert_eq!(heard.marks.len(), MARKS);
        heard.note(&mark("x".repeat(MARK_BYTES)));
        assert_eq!((heard.marks.len(), heard.mark_bytes), (1, MARK_BYTES));
    }
}
