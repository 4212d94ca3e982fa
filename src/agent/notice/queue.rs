//! The notices that wait until an agent reads them: bounded in number and in memory.

use std::collections::VecDeque;

use patchcord_media::source::{MAX_MARK_BYTES, MAX_MARKS};

use super::Notice;

/// Room for the notices of all marks at once, and as many others.
const MAX_NOTICES: usize = 2 * MAX_MARKS;
const MAX_BYTES: usize = 4 * MAX_MARK_BYTES;

/// A notice that finds no room pushes the oldest ones out.
#[derive(Debug, Default)]
pub(crate) struct NoticeQueue {
    notices: VecDeque<Notice>,
    size_bytes: usize,
}

impl NoticeQueue {
    pub fn push(&mut self, notice: Notice) {
        let size_bytes = notice.size_bytes();
        while self.notices.len() >= MAX_NOTICES || self.size_bytes + size_bytes > MAX_BYTES {
            if self.pop().is_none() {
                break;
            }
            metrics::counter!("patchcord_agent_messages_dropped_total").increment(1);
        }
        self.size_bytes += size_bytes;
        self.notices.push_back(notice);
    }

    /// The oldest notice.
    pub fn pop(&mut self) -> Option<Notice> {
        let notice = self.notices.pop_front()?;
        self.size_bytes -= notice.size_bytes();
        Some(notice)
    }

    /// Whether the agent is to read before it sends more, since what it sends may need an answer.
    pub fn is_half_full(&self) -> bool {
        self.notices.len() > MAX_NOTICES / 2 || self.size_bytes > MAX_BYTES / 2
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::call::command::CommandResult;

    fn result(request_id: Value) -> Notice {
        Notice::CommandResult { request_id, outcome: Ok(CommandResult::Done) }
    }

    fn request_ids(queue: &mut NoticeQueue) -> Vec<Value> {
        let request_id = |notice| match notice {
            Notice::CommandResult { request_id, .. } => request_id,
            other => panic!("not a result: {other:?}"),
        };
        std::iter::from_fn(|| queue.pop()).map(request_id).collect()
    }

    #[test]
    fn notices_are_bounded_in_number_and_the_oldest_goes() {
        let mut queue = NoticeQueue::default();
        for number in 0..MAX_NOTICES + 3 {
            queue.push(result(json!(number)));
        }
        let waiting = request_ids(&mut queue);
        assert_eq!((&waiting[0], waiting.len()), (&json!(3), MAX_NOTICES));
    }

    #[test]
    fn notices_are_bounded_by_the_memory_they_hold() {
        let mut queue = NoticeQueue::default();
        let half = "x".repeat(MAX_BYTES / 2);
        for number in 0..3 {
            queue.push(result(json!([number, half])));
        }
        queue.push(result(json!("short")));
        // Two halves and what surrounds them are too much already.
        assert_eq!(request_ids(&mut queue), [json!([2, half]), json!("short")]);
        // A single notice is taken whatever its size, and leaves no debt.
        queue.push(result(json!("x".repeat(MAX_BYTES))));
        assert!(queue.is_half_full());
        assert!(queue.pop().is_some());
        assert_eq!(queue.size_bytes, 0);
    }
}
