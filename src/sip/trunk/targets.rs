//! Targets: which server of a trunk is called first, and which answer has the next one called. Pure.

use std::time::{Duration, Instant};

/// A server that was found dead is tried after the others for this long.
const RESTS_FOR: Duration = Duration::from_secs(30);

/// What is known of a trunk's servers, in the order of the configuration.
pub(in crate::sip) struct Targets(Vec<Health>);

#[derive(Clone, Copy, Default)]
struct Health {
    rests_until: Option<Instant>,
    /// The last keepalive got no answer.
    is_down: bool,
}

/// How an attempt at a server has failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sip) enum Failed {
    /// Its name was not found, or no connection came up.
    Unreachable,
    /// It did not say anything in time.
    Silent,
    /// It answered with this code.
    Answered(u16),
    /// The call would fail everywhere.
    Here,
}

impl Failed {
    /// Whether another server may do better.
    pub fn has_next(self) -> bool {
        match self {
            Self::Unreachable | Self::Silent | Self::Answered(408 | 480 | 500..=599) => true,
            // 486 and 6xx are the person's own word; other codes say that the request is wrong.
            Self::Answered(_) | Self::Here => false,
        }
    }

    /// Whether the server is not to be relied on for a while.
    pub fn is_dead(self) -> bool {
        matches!(self, Self::Unreachable | Self::Silent | Self::Answered(503))
    }

    /// The stable name in the metric's label.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Silent => "silent",
            Self::Answered(_) => "refused",
            Self::Here => "failed",
        }
    }
}

impl Targets {
    pub fn new(count: usize) -> Self {
        Self(vec![Health::default(); count])
    }

    /// All of them, once each: those that are up, then those that rest or are down.
    pub fn order(&self, now: Instant) -> Vec<usize> {
        let (good, bad): (Vec<usize>, Vec<usize>) = (0..self.0.len()).partition(|index| self.0[*index].is_good(now));
        [good, bad].concat()
    }

    /// A call was answered by it.
    pub fn answered(&mut self, index: usize) {
        self.0[index].rests_until = None;
    }

    /// A call failed at it.
    pub fn failed(&mut self, index: usize, failed: Failed, now: Instant) {
        if failed.is_dead() {
            self.0[index].rests_until = Some(now + RESTS_FOR);
        }
    }

    /// Its answer to a keepalive came, or did not. Gives whether that is news.
    pub fn kept_alive(&mut self, index: usize, is_up: bool) -> bool {
        let health = &mut self.0[index];
        if is_up {
            health.rests_until = None;
        }
        std::mem::replace(&mut health.is_down, !is_up) == is_up
    }
}

impl Health {
    fn is_good(self, now: Instant) -> bool {
        !self.is_down && self.rests_until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_dead_server_is_tried_last_and_comes_back() {
        let (mut targets, now) = (Targets::new(3), Instant::now());
        assert_eq!(targets.order(now), [0, 1, 2]);
        targets.failed(0, Failed::Silent, now);
        assert_eq!(targets.order(now), [1, 2, 0]);
        targets.failed(1, Failed::Answered(480), now);
        assert_eq!(targets.order(now), [1, 2, 0], "480 is about the person");
        assert_eq!(targets.order(now + RESTS_FOR), [0, 1, 2]);
        targets.answered(0);
        assert_eq!(targets.order(now), [0, 1, 2]);
    }

    #[test]
    fn keepalives_say_who_is_down_and_news_only_once() {
        let (mut targets, now) = (Targets::new(2), Instant::now());
        assert!(!targets.kept_alive(0, true));
        assert!(targets.kept_alive(0, false));
        assert!(!targets.kept_alive(0, false));
        assert_eq!(targets.order(now + 10 * RESTS_FOR), [1, 0]);
        targets.failed(0, Failed::Unreachable, now);
        assert!(targets.kept_alive(0, true));
        assert_eq!(targets.order(now), [0, 1], "its answer ends its rest");
    }

    #[test]
    fn each_answer_says_whether_another_server_is_asked() {
        for code in [486, 600, 603, 604, 606, 403, 404, 488, 302, 401, 407] {
            assert!(!Failed::Answered(code).has_next(), "{code}");
        }
        for code in [408, 480, 500, 502, 503, 504] {
            assert!(Failed::Answered(code).has_next(), "{code}");
        }
        assert!(Failed::Silent.has_next() && Failed::Unreachable.has_next() && !Failed::Here.has_next());
    }

    proptest! {
        #[test]
        fn every_server_is_tried_once_whatever_happened(
            count in 1..6_usize, events in prop::collection::vec((0..6_usize, 0..4_u8, 0..60_u64), 0..40),
        ) {
            let (mut targets, mut now) = (Targets::new(count), Instant::now());
            for (index, what, seconds) in events {
                let index = index % count;
                now += Duration::from_secs(seconds);
                match what {
                    0 => targets.failed(index, Failed::Silent, now),
                    1 => targets.answered(index),
                    2 => drop(targets.kept_alive(index, false)),
                    _ => drop(targets.kept_alive(index, true)),
                }
                let mut order = targets.order(now);
                order.sort_unstable();
                prop_assert_eq!(order, (0..count).collect::<Vec<_>>());
            }
        }
    }
}
