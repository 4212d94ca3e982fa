//! Consent to send (RFC 7675): does the remote still answer our checks on the path in use?

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::stun::TransactionId;

/// Checks go out every 2 s, so this covers more than the longest wait for an answer.
const MOST_CHECKS: usize = 16;

/// How long a remote may be silent on the connectivity checks of a connected call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consent {
    /// After this, `ConsentLost` is reported once.
    pub warn_after: Duration,
    /// After this, the peer closes itself.
    pub fail_after: Duration,
}

impl Default for Consent {
    /// 5 s and 30 s.
    fn default() -> Consent {
        Consent { warn_after: Duration::from_secs(5), fail_after: Duration::from_secs(30) }
    }
}

/// Watches the selected path. Only an answer to a check of ours counts: requests and old answers could be replayed by a
/// third party long after the remote has left.
pub(super) struct ConsentWatch {
    options: Consent,
    checks: VecDeque<(TransactionId, Instant)>,
    renewed: Instant,
    lost: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConsentChange {
    Lost,
    Regained,
    Expired,
}

impl ConsentWatch {
    pub fn new(options: Consent, now: Instant) -> ConsentWatch {
        ConsentWatch { options, checks: VecDeque::with_capacity(MOST_CHECKS), renewed: now, lost: false }
    }

    /// A check was sent. Overflow drops the oldest unanswered check.
    pub fn sent(&mut self, transaction: TransactionId, now: Instant) {
        if self.checks.len() >= MOST_CHECKS {
            self.checks.pop_front();
        }
        self.checks.push_back((transaction, now));
    }

    /// An authenticated answer came from the selected address. Returns the round trip if it
    /// answers a check of ours.
    pub fn answered(&mut self, transaction: &TransactionId, now: Instant) -> Option<Duration> {
        let index = self.checks.iter().position(|(sent, _)| sent == transaction)?;
        let (_, sent_at) = self.checks.remove(index)?;
        self.renewed = now;
        Some(now.saturating_duration_since(sent_at))
    }

    /// Nothing was read for `gap`, through no fault of the remote: its answers are still unread.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        let sent = self.checks.iter_mut().map(|(_, sent_at)| sent_at);
        sent.chain([&mut self.renewed]).for_each(|at| *at = (*at + gap).min(now));
    }

    pub fn handle_timeout(&mut self, now: Instant) -> Option<ConsentChange> {
        let silence = now.saturating_duration_since(self.renewed);
        let lost = silence >= self.options.warn_after;
        if silence >= self.options.fail_after {
            return Some(ConsentChange::Expired);
        }
        if lost == self.lost {
            return None;
        }
        self.lost = lost;
        Some(if lost { ConsentChange::Lost } else { ConsentChange::Regained })
    }

    pub fn poll_timeout(&self) -> Instant {
        let next = if self.lost { self.options.fail_after } else { self.options.warn_after };
        self.renewed + next.min(self.options.fail_after)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_warns_then_expires_and_an_answer_heals() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = ConsentWatch::new(Consent::default(), start);
        assert_eq!(watch.handle_timeout(at(4)), None);
        assert_eq!(watch.poll_timeout(), at(5));
        assert_eq!(watch.handle_timeout(at(5)), Some(ConsentChange::Lost));
        assert_eq!(watch.handle_timeout(at(6)), None);
        watch.sent([1; 12], at(6));
        assert_eq!(watch.answered(&[1; 12], at(7)), Some(Duration::from_secs(1)));
        assert_eq!(watch.handle_timeout(at(7)), Some(ConsentChange::Regained));
        assert_eq!(watch.handle_timeout(at(12)), Some(ConsentChange::Lost));
        assert_eq!(watch.poll_timeout(), at(37));
        assert_eq!(watch.handle_timeout(at(37)), Some(ConsentChange::Expired));
    }

    #[test]
    fn a_stall_of_our_own_is_no_silence_and_no_round_trip() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut watch = ConsentWatch::new(Consent::default(), start);
        watch.sent([1; 12], at(2));
        watch.shift_deadlines(Duration::from_secs(60), at(63));
        assert_eq!(watch.handle_timeout(at(63)), None);
        assert_eq!(watch.answered(&[1; 12], at(63)), Some(Duration::from_secs(1)));
        // What came after it keeps its time.
        watch.shift_deadlines(Duration::from_secs(60), at(64));
        assert_eq!(watch.poll_timeout(), at(69));
        assert_eq!(watch.handle_timeout(at(69)), Some(ConsentChange::Lost));
    }

    #[test]
    fn an_old_answer_does_not_count_twice() {
        let start = Instant::now();
        let mut watch = ConsentWatch::new(Consent::default(), start);
        watch.sent([1; 12], start);
        assert!(watch.answered(&[1; 12], start).is_some());
        let later = start + Duration::from_secs(20);
        assert!(watch.answered(&[1; 12], later).is_none());
        assert!(watch.answered(&[2; 12], later).is_none());
        assert_eq!(watch.handle_timeout(later), Some(ConsentChange::Lost));
    }
}
