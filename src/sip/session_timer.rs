//! Session timers (RFC 4028): who refreshes a session, when, and when it counts as lost. Pure.

use std::fmt;
use std::time::{Duration, Instant};

/// RFC 4028 §4: what the timer should be.
pub const USUAL_SECONDS: u32 = 1800;
/// RFC 4028 §5: nobody may ask for less.
pub const LEAST_SECONDS: u32 = 90;
/// RFC 4028 §10: the BYE comes so long before the session ends, or a third of the interval.
const FAREWELL: Duration = Duration::from_secs(32);

/// Who refreshes, as a `refresher` parameter says: the client of the request that carries it, or the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refresher {
    /// Who sent the request.
    Uac,
    /// Who answered it.
    Uas,
}

/// The value of a `Session-Expires` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    /// The interval.
    pub seconds: u32,
    /// None lets the answer choose.
    pub refresher: Option<Refresher>,
}

/// The timer of one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTimer {
    interval: Duration,
    we_refresh: bool,
    agreed_at: Instant,
    /// If it is ours.
    next_refresh: Instant,
}

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// We refresh the session.
    Refresh,
    /// Nobody did in time: the session is lost.
    Expired,
}

impl SessionExpires {
    /// Reads a header's value. None if it is malformed, as if it were not there.
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.split(';').map(str::trim);
        let seconds = parts.next()?.parse().ok()?;
        let refresher = parts.find_map(|part| match part.split_once('=') {
            Some((name, value)) if name.trim().eq_ignore_ascii_case("refresher") => match value.trim() {
                value if value.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
                value if value.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
                _ => None,
            },
            Some(_) | None => None,
        });
        Some(Self { seconds, refresher })
    }

    /// Our answer to a request that asks for this; the client refreshes unless it wants us to. The error is the least
    /// interval, for a 422.
    pub fn answered(self) -> Result<Self, u32> {
        match self.seconds < LEAST_SECONDS {
            true => Err(LEAST_SECONDS),
            false => Ok(Self { refresher: Some(self.refresher.unwrap_or(Refresher::Uac)), ..self }),
        }
    }
}

impl fmt::Display for SessionExpires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.seconds)?;
        match self.refresher {
            Some(Refresher::Uac) => f.write_str(";refresher=uac"),
            Some(Refresher::Uas) => f.write_str(";refresher=uas"),
            None => Ok(()),
        }
    }
}

impl SessionTimer {
    /// As agreed by a request of ours and its 2xx.
    pub fn of_our_request(agreed: SessionExpires, now: Instant) -> Self {
        // RFC 4028 §7.2: without the parameter nobody else has taken it.
        Self::new(agreed, agreed.refresher != Some(Refresher::Uas), now)
    }

    /// As agreed by a request of theirs and our 2xx.
    pub fn of_their_request(agreed: SessionExpires, now: Instant) -> Self {
        Self::new(agreed, agreed.refresher == Some(Refresher::Uas), now)
    }

    fn new(agreed: SessionExpires, we_refresh: bool, now: Instant) -> Self {
        let interval = Duration::from_secs(agreed.seconds.max(LEAST_SECONDS).into());
        Self { interval, we_refresh, agreed_at: now, next_refresh: now + interval / 2 }
    }

    /// The agreed interval.
    pub fn seconds(&self) -> u32 {
        u32::try_from(self.interval.as_secs()).unwrap_or(u32::MAX)
    }

    /// When something is due.
    pub fn poll_timeout(&self) -> Instant {
        if self.we_refresh { self.next_refresh.min(self.end()) } else { self.end() }
    }

    /// What is due at `now`. A refresh is due once: a new timer follows if the other side takes it, and
    /// [`try_again`](Self::try_again) if not.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due> {
        if now >= self.end() {
            return Some(Due::Expired);
        }
        if !self.we_refresh || now < self.next_refresh {
            return None;
        }
        self.next_refresh = self.end();
        Some(Due::Refresh)
    }

    /// The refresh was refused: another one is due after `pause`, if the session lasts so long.
    pub fn try_again(&mut self, pause: Duration, now: Instant) {
        self.next_refresh = now + pause;
    }

    /// The other side wants at least so many seconds (422).
    pub fn lengthen(&mut self, seconds: u32) {
        self.interval = self.interval.max(Duration::from_secs(seconds.into()));
    }

    fn end(&self) -> Instant {
        self.agreed_at + self.interval - FAREWELL.min(self.interval / 3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn agreed(value: &str) -> SessionExpires {
        SessionExpires::parse(value).unwrap()
    }

    #[test]
    fn whoever_refreshes_does_so_at_half_time_and_the_other_waits_almost_to_the_end() {
        let now = Instant::now();
        let mut ours = SessionTimer::of_our_request(agreed("1800;refresher=uac"), now);
        assert_eq!(ours.handle_timeout(now + 899 * SECOND), None);
        assert_eq!(ours.handle_timeout(now + 900 * SECOND), Some(Due::Refresh));
        assert_eq!(ours.handle_timeout(now + 901 * SECOND), None);
        assert_eq!(ours.poll_timeout(), now + 1768 * SECOND);

        let mut theirs = SessionTimer::of_our_request(agreed("1800; Refresher=UAS"), now);
        assert_eq!(theirs.handle_timeout(now + 1767 * SECOND), None);
        assert_eq!(theirs.handle_timeout(now + 1768 * SECOND), Some(Due::Expired));
        let brief = SessionTimer::of_their_request(agreed("90;refresher=uac"), now);
        assert_eq!(brief.poll_timeout(), now + 60 * SECOND);
        assert!(SessionTimer::of_their_request(agreed("90;refresher=uas"), now).we_refresh);
    }

    #[test]
    fn a_session_is_refreshed_for_hours_and_refused_refreshes_are_repeated_until_it_ends() {
        let mut now = Instant::now();
        let mut timer = SessionTimer::of_our_request(agreed("90;refresher=uac"), now);
        // Every refresh that is taken starts the interval anew.
        for _ in 0..1000 {
            now = timer.poll_timeout();
            assert_eq!(timer.handle_timeout(now), Some(Due::Refresh));
            timer = SessionTimer::of_our_request(agreed("90;refresher=uac"), now);
            assert_eq!(timer.poll_timeout(), now + 45 * SECOND);
        }
        // From now on none is taken.
        let (end, mut refreshes) = (now + 60 * SECOND, 0);
        loop {
            now = timer.poll_timeout();
            match timer.handle_timeout(now) {
                Some(Due::Refresh) => timer.try_again(4 * SECOND, now + SECOND),
                Some(Due::Expired) => break,
                None => panic!("it asked for nothing"),
            }
            refreshes += 1;
        }
        assert_eq!((now, refreshes), (end, 3));
        assert_eq!(timer.handle_timeout(end), Some(Due::Expired));
        timer.lengthen(180);
        assert_eq!((timer.seconds(), timer.handle_timeout(end)), (180, Some(Due::Refresh)));
    }

    #[test]
    fn an_interval_below_the_least_is_refused_and_malformed_headers_do_not_exist() {
        assert_eq!(agreed("60").answered(), Err(90));
        assert_eq!(agreed("1800").answered().unwrap().to_string(), "1800;refresher=uac");
        assert_eq!(agreed("1800;refresher=uas;x").answered().unwrap().to_string(), "1800;refresher=uas");
        for malformed in ["", "x", "-1", "99999999999"] {
            assert_eq!(SessionExpires::parse(malformed), None, "{malformed}");
        }
        assert_eq!(agreed("1800;refresher=me").refresher, None);
    }
}
