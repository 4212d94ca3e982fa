//! The pace of each number's requests: a 429 for one request slows all requests of its number.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::error::MetaError;

/// Between two requests of a number that Meta has just slowed.
const FIRST_SPACING: Duration = Duration::from_millis(200);
/// The same after several refusals in a row.
const LONGEST_SPACING: Duration = Duration::from_millis(1600);

/// The numbers that are slowed at present; requests for all others leave at once.
#[derive(Debug, Default)]
pub(super) struct Paces(HashMap<PhoneNumberId, Pace>);

#[derive(Debug)]
struct Pace {
    /// Time at which the next request may leave.
    next_at: Instant,
    spacing: Duration,
    /// Meta's last refusal.
    error: MetaError,
}

impl Paces {
    /// Time at which a request that is ready now may leave, one at a time for each number. If that would be after
    /// `latest`, it does not leave and gets Meta's last refusal of the number.
    pub(super) fn reserve(
        &mut self,
        number: &PhoneNumberId,
        now: Instant,
        latest: Instant,
    ) -> Result<Instant, MetaError> {
        let Some(pace) = self.0.get_mut(number) else { return Ok(now) };
        let at = pace.next_at.max(now);
        if at > latest {
            return Err(pace.error.clone());
        }
        pace.next_at = at + pace.spacing;
        Ok(at)
    }

    /// Time at which the next request of a number that Meta has slowed may leave, if that is later than now.
    pub(super) fn slowed_until(&self, number: &PhoneNumberId, now: Instant) -> Option<Instant> {
        self.0.get(number).map(|pace| pace.next_at).filter(|next_at| *next_at > now)
    }

    /// Meta refused a request of this number with a rate limit, and asks for `wait`.
    pub(super) fn refused(&mut self, number: &PhoneNumberId, error: &MetaError, wait: Duration, now: Instant) {
        let spacing = self.0.get(number).map_or(FIRST_SPACING, |pace| (pace.spacing * 2).min(LONGEST_SPACING));
        let next_at = self.0.get(number).map_or(now, |pace| pace.next_at).max(now + wait.max(spacing));
        self.0.insert(number.clone(), Pace { next_at, spacing, error: error.clone() });
    }

    /// Meta accepted a request of this number: the pace doubles, until there is no limit.
    pub(super) fn taken(&mut self, number: &PhoneNumberId) {
        let Some(pace) = self.0.get_mut(number) else { return };
        pace.spacing /= 2;
        if pace.spacing < FIRST_SPACING {
            self.0.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn number(id: &str) -> PhoneNumberId {
        PhoneNumberId::parse(id).unwrap()
    }

    fn too_many() -> MetaError {
        MetaError { code: Some(130_429), http_status: Some(429), ..MetaError::default() }
    }

    /// Times at which ten requests that are ready now may leave, in ms from now.
    fn ten(paces: &mut Paces, number: &PhoneNumberId, now: Instant) -> Vec<u128> {
        let latest = now + 8000 * MS;
        let at = (0..10).filter_map(|_| paces.reserve(number, now, latest).ok());
        at.map(|at| (at - now).as_millis()).collect()
    }

    #[test]
    fn a_429_slows_every_request_of_its_number_and_no_other() {
        let now = Instant::now();
        let mut paces = Paces::default();
        assert_eq!(ten(&mut paces, &number("1"), now), [0; 10]);
        paces.refused(&number("1"), &too_many(), 1000 * MS, now);
        let spread: Vec<u128> = (0..10).map(|nth| 1000 + 200 * nth).collect();
        assert_eq!(ten(&mut paces, &number("1"), now), spread);
        assert_eq!(ten(&mut paces, &number("2"), now), [0; 10]);
    }

    #[test]
    fn refusals_in_a_row_slow_it_more_and_successes_set_it_free() {
        let now = Instant::now();
        let mut paces = Paces::default();
        let number = number("1");
        (0..10).for_each(|_| paces.refused(&number, &too_many(), Duration::ZERO, now));
        assert_eq!(ten(&mut paces, &number, now), [1600, 3200, 4800, 6400, 8000], "the others do not fit the budget");
        assert_eq!(paces.reserve(&number, now, now + 8000 * MS), Err(too_many()));
        let later = now + 20_000 * MS;
        (0..3).for_each(|_| paces.taken(&number));
        assert_eq!(ten(&mut paces, &number, later)[..3], [0, 200, 400]);
        paces.taken(&number);
        assert_eq!(ten(&mut paces, &number, later), [0; 10]);
        assert!(paces.0.is_empty());
    }
}
