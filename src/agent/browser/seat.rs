//! Seat: whether a page is in the call, and how long its place is kept. Pure: time is an argument.

use std::time::{Duration, Instant};

use patchcord_media::rtp_leg::{MediaFailure, RtpLegEvent};

use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::telemetry::shown;

/// From our answer to a page to its media. A page on a usable network takes less than a second.
pub(in crate::agent) const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// How long an agent's place is kept: for a reload, or another network.
const KEPT_FOR: Duration = Duration::from_secs(20);

/// Who sits there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::agent) enum Occupant {
    /// Its place is kept when it vanishes.
    Agent,
    /// It has left when it vanishes.
    Participant,
    /// It answered our offer: closing its connection is its hang-up.
    Answerer,
}

/// A page's place in the call.
#[derive(Debug)]
pub(in crate::agent) struct Seat {
    occupant: Occupant,
    connect_within: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Connecting { give_up_at: Instant },
    Taken,
    Kept { give_up_at: Instant },
    Lost,
}

/// What the call is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::agent) enum SeatChange {
    /// The page is connected for the first time.
    Joined,
    /// The agent's page is gone, and its place is kept.
    Vanished,
    /// It is back.
    Returned,
    /// It hung up. The last change.
    HungUp,
    /// It does not come, or does not come back. The last change.
    Lost(AgentFailure),
}

impl Seat {
    /// Both SDPs are known, or on their way: it has this long to connect.
    pub fn new(occupant: Occupant, connect_within: Duration, now: Instant) -> Self {
        Self { occupant, connect_within, state: State::Connecting { give_up_at: now + connect_within } }
    }

    /// Takes what happened to the page's leg.
    pub fn handle(&mut self, event: RtpLegEvent, now: Instant) -> Option<SeatChange> {
        match (self.state, event) {
            (State::Connecting { .. }, RtpLegEvent::Connected) => {
                self.state = State::Taken;
                Some(SeatChange::Joined)
            }
            (State::Connecting { .. }, RtpLegEvent::MediaFailed(failure)) => {
                self.lose(AgentFailureKind::Refused.because(in_words(failure)))
            }
            (State::Taken, RtpLegEvent::MediaSilent(true) | RtpLegEvent::MediaFailed(_))
                if self.occupant == Occupant::Agent =>
            {
                self.state = State::Kept { give_up_at: now + KEPT_FOR };
                Some(SeatChange::Vanished)
            }
            (State::Taken, RtpLegEvent::MediaFailed(MediaFailure::ClosedByPeer))
                if self.occupant == Occupant::Answerer =>
            {
                self.state = State::Lost;
                Some(SeatChange::HungUp)
            }
            (State::Taken, RtpLegEvent::MediaFailed(failure)) => {
                self.lose(AgentFailureKind::Disconnected.because(in_words(failure)))
            }
            (State::Kept { .. }, RtpLegEvent::MediaSilent(false)) => {
                self.state = State::Taken;
                Some(SeatChange::Returned)
            }
            // A leg that failed while its place is kept needs a new offer: the place is kept for that too.
            (State::Kept { .. }, RtpLegEvent::MediaFailed(_) | RtpLegEvent::MediaSilent(true))
            | (State::Connecting { .. } | State::Taken, RtpLegEvent::MediaSilent(_))
            | (State::Taken | State::Kept { .. }, RtpLegEvent::Connected)
            | (State::Lost, _) => None,
        }
    }

    /// Gives the page up when its time is over.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<SeatChange> {
        match self.state {
            State::Connecting { give_up_at } if now >= give_up_at => self.lose(
                AgentFailureKind::NoAnswer.because(format!("it did not connect within {}", shown(self.connect_within))),
            ),
            State::Kept { give_up_at } if now >= give_up_at => {
                self.lose(AgentFailureKind::Disconnected.because("its page was gone for 20 s"))
            }
            State::Connecting { .. } | State::Kept { .. } | State::Taken | State::Lost => None,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Connecting { give_up_at } | State::Kept { give_up_at } => Some(give_up_at),
            State::Taken | State::Lost => None,
        }
    }

    /// Nothing was read for `gap`, through no fault of the page's.
    pub fn shift_deadlines(&mut self, gap: Duration, now: Instant) {
        match &mut self.state {
            State::Connecting { give_up_at } => *give_up_at = (*give_up_at + gap).min(now + self.connect_within),
            State::Kept { give_up_at } => *give_up_at = (*give_up_at + gap).min(now + KEPT_FOR),
            State::Taken | State::Lost => {}
        }
    }

    fn lose(&mut self, failure: AgentFailure) -> Option<SeatChange> {
        self.state = State::Lost;
        Some(SeatChange::Lost(failure))
    }
}

fn in_words(failure: MediaFailure) -> &'static str {
    match failure {
        MediaFailure::FingerprintMismatch => "its certificate is not the one of its SDP",
        MediaFailure::NeverConnected => "ICE found no path to it",
        MediaFailure::HandshakeFailed => "the DTLS handshake with it failed",
        MediaFailure::Silent => "it fell silent",
        MediaFailure::ClosedByPeer => "it closed the connection",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn kind(change: Option<SeatChange>) -> Option<AgentFailureKind> {
        match change? {
            SeatChange::Lost(failure) => Some(failure.kind),
            SeatChange::Joined | SeatChange::Vanished | SeatChange::Returned | SeatChange::HungUp => None,
        }
    }

    fn taken(occupant: Occupant, now: Instant) -> Seat {
        let mut seat = Seat::new(occupant, CONNECT_WITHIN, now);
        assert_eq!(seat.handle(RtpLegEvent::Connected, now), Some(SeatChange::Joined));
        seat
    }

    #[test]
    fn a_page_that_never_connects_is_given_up() {
        let now = Instant::now();
        let mut seat = Seat::new(Occupant::Agent, CONNECT_WITHIN, now);
        assert_eq!(seat.handle(RtpLegEvent::MediaSilent(true), now + 5 * SECOND), None);
        assert_eq!(seat.poll_timeout(), Some(now + CONNECT_WITHIN));
        assert_eq!(seat.handle_timeout(now + CONNECT_WITHIN - SECOND), None);
        assert_eq!(kind(seat.handle_timeout(now + CONNECT_WITHIN)), Some(AgentFailureKind::NoAnswer));
        assert_eq!(seat.handle(RtpLegEvent::Connected, now + CONNECT_WITHIN), None);
    }

    #[test]
    fn an_agents_place_is_kept_until_it_returns_or_its_time_is_over() {
        let now = Instant::now();
        let mut seat = taken(Occupant::Agent, now);
        assert_eq!(seat.handle(RtpLegEvent::MediaSilent(true), now), Some(SeatChange::Vanished));
        assert_eq!(seat.handle(RtpLegEvent::MediaSilent(false), now + SECOND), Some(SeatChange::Returned));
        assert_eq!(seat.poll_timeout(), None);
        let closed = RtpLegEvent::MediaFailed(MediaFailure::ClosedByPeer);
        assert_eq!(seat.handle(closed, now + 2 * SECOND), Some(SeatChange::Vanished));
        assert_eq!(seat.handle_timeout(now + SECOND + KEPT_FOR), None);
        assert_eq!(kind(seat.handle_timeout(now + 2 * SECOND + KEPT_FOR)), Some(AgentFailureKind::Disconnected));
    }

    #[test]
    fn consent_that_expires_does_not_extend_the_time() {
        let now = Instant::now();
        let mut seat = taken(Occupant::Agent, now);
        seat.handle(RtpLegEvent::MediaSilent(true), now);
        assert_eq!(seat.handle(RtpLegEvent::MediaFailed(MediaFailure::Silent), now + 10 * SECOND), None);
        assert_eq!(seat.poll_timeout(), Some(now + KEPT_FOR));
    }

    #[test]
    fn a_participant_has_left_when_its_leg_is_over() {
        let now = Instant::now();
        let mut seat = taken(Occupant::Participant, now);
        assert_eq!(seat.handle(RtpLegEvent::MediaSilent(true), now), None);
        let closed = RtpLegEvent::MediaFailed(MediaFailure::ClosedByPeer);
        assert_eq!(kind(seat.handle(closed, now)), Some(AgentFailureKind::Disconnected));
    }

    #[test]
    fn an_answerer_hangs_up_by_closing_and_is_lost_when_it_falls_silent() {
        let now = Instant::now();
        let closed = RtpLegEvent::MediaFailed(MediaFailure::ClosedByPeer);
        let mut seat = taken(Occupant::Answerer, now);
        assert_eq!(seat.handle(RtpLegEvent::MediaSilent(true), now), None);
        assert_eq!(seat.handle(closed, now), Some(SeatChange::HungUp));
        assert_eq!(seat.handle(closed, now), None);
        let mut seat = taken(Occupant::Answerer, now);
        let silent = RtpLegEvent::MediaFailed(MediaFailure::Silent);
        assert_eq!(kind(seat.handle(silent, now)), Some(AgentFailureKind::Disconnected));
        let mut seat = Seat::new(Occupant::Answerer, SECOND, now);
        assert_eq!(kind(seat.handle(closed, now)), Some(AgentFailureKind::Refused));
        let mut seat = Seat::new(Occupant::Answerer, SECOND, now);
        assert_eq!(kind(seat.handle_timeout(now + SECOND)), Some(AgentFailureKind::NoAnswer));
    }

    #[test]
    fn a_standstill_of_ours_counts_against_no_page() {
        let now = Instant::now();
        let mut seat = Seat::new(Occupant::Agent, CONNECT_WITHIN, now);
        let woken = now + 60 * SECOND;
        seat.shift_deadlines(50 * SECOND, woken);
        assert_eq!(seat.handle_timeout(woken), None);
        assert_eq!(seat.poll_timeout(), Some(now + 65 * SECOND));
    }
}
