//! Liveness: how long the remote has been silent.

use std::time::{Duration, Instant};

#[derive(Debug)]
pub(super) struct Liveness {
    warn_after: Duration,
    end_after: Duration,
    /// When RTP or RTCP last arrived. A muted phone may pause its RTP; its reports show that it is there.
    heard_at: Instant,
    /// Answers to connectivity checks are overdue.
    is_unanswered: bool,
    /// The remote holds the call, and need not send anything.
    is_held: bool,
    /// As last reported.
    is_silent: bool,
}

impl Liveness {
    pub fn new(warn_after: Duration, end_after: Duration, now: Instant) -> Self {
        Self { warn_after, end_after, heard_at: now, is_unanswered: false, is_held: false, is_silent: false }
    }

    /// RTP or RTCP arrived.
    pub fn heard(&mut self, now: Instant) {
        self.heard_at = now;
    }

    pub fn set_unanswered(&mut self, is_unanswered: bool) {
        self.is_unanswered = is_unanswered;
    }

    /// Whether the remote holds the call. It is heard anew when it resumes.
    pub fn set_held(&mut self, is_held: bool, now: Instant) {
        self.is_held = is_held;
        self.heard_at = now;
    }

    /// Nothing was read for `gap`: what arrived meanwhile is still unread.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        self.heard_at = (self.heard_at + gap).min(now);
    }

    /// Whether the remote is to be given up.
    pub fn is_expired(&self, now: Instant) -> bool {
        !self.is_held && self.silence(now) >= self.end_after
    }

    /// Whether the remote is silent, when that has changed. `expects_media` is false before media starts.
    pub fn poll_change(&mut self, expects_media: bool, now: Instant) -> Option<bool> {
        let sends_nothing = expects_media && !self.is_held && self.silence(now) >= self.warn_after;
        let is_silent = self.is_unanswered || sends_nothing;
        (std::mem::replace(&mut self.is_silent, is_silent) != is_silent).then_some(is_silent)
    }

    fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_once_media_is_expected_and_missing_answers_always() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(Duration::from_secs(5), Duration::from_secs(30), start);
        assert_eq!(liveness.poll_change(false, at(20)), None);
        assert_eq!(liveness.poll_change(true, at(20)), Some(true));
        liveness.heard(at(21));
        assert_eq!(liveness.poll_change(true, at(21)), Some(false));
        liveness.set_unanswered(true);
        assert_eq!(liveness.poll_change(false, at(22)), Some(true));
        assert_eq!(liveness.poll_change(false, at(23)), None, "reported once");
    }

    #[test]
    fn a_gap_of_our_own_extends_the_deadline_but_never_beyond_now() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut liveness = Liveness::new(Duration::from_secs(5), Duration::from_secs(30), start);
        liveness.shift_deadlines(Duration::from_secs(20), at(29));
        assert!(!liveness.is_expired(at(49)) && liveness.is_expired(at(50)));
        liveness.shift_deadlines(Duration::from_secs(600), at(60));
        assert!(liveness.is_expired(at(90)));
    }
}
