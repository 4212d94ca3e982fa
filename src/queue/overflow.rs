//! Overflow: callers that leave their queue unserved, because they waited too long or no agent is signed in.

use std::time::{Duration, Instant};

use super::{Action, OverflowReason, PlaceId, Progress, Queue, QueueName, Queues, RingEnd, Unstaffed, Waiting};

impl Queues {
    pub(super) fn overflow_the_patient(&mut self, now: Instant) {
        self.overflow_where(OverflowReason::WaitedTooLong, now, |_, waiting, _| {
            waiting.overflow_at.is_some_and(|at| at <= now)
        });
    }

    /// The last agent of a queue has gone.
    pub(super) fn overflow_unstaffed(&mut self, now: Instant) {
        self.overflow_where(OverflowReason::NoAgents, now, |queues, _, queue| {
            let overflows = |queue: &Queue| queue.options.unstaffed == Unstaffed::Overflow;
            queues.queues.get(queue).is_some_and(overflows) && !queues.agents.values().any(|agent| agent.serves(queue))
        });
    }

    pub(super) fn overflow_where(
        &mut self,
        reason: OverflowReason,
        now: Instant,
        is_meant: impl Fn(&Self, &Waiting, &QueueName) -> bool,
    ) {
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            let Some(queue) = waiting.entry.queue().filter(|queue| is_meant(self, waiting, queue)).cloned() else {
                index += 1;
                continue;
            };
            let Some(mut waiting) = self.waiting.remove(index) else { return };
            self.stop_ring(&mut waiting, RingEnd::Overflowed, now);
            let waited = now.saturating_duration_since(waiting.entered_at);
            self.overflow(&waiting.entry.place, &queue, waited, reason);
        }
    }

    pub(super) fn overflow(&mut self, place: &PlaceId, queue: &QueueName, waited: Duration, reason: OverflowReason) {
        if let Some(queue) = self.queues.get_mut(queue) {
            queue.counts.overflowed += 1;
        }
        self.actions.push_back(Action::Overflow { place: place.clone(), reason });
        self.report(place, Progress::Overflowed { queue: queue.clone(), waited, reason });
    }
}
