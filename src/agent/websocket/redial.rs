//! Redial: when an agent whose connection broke is dialled again, and when it is given up. Pure.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// The wait before the first try, for an agent whose server has only dropped the connection.
const FIRST: Duration = Duration::from_millis(100);
/// The longest wait. A server that is back must be found within a second.
const LONGEST: Duration = Duration::from_millis(800);
/// For the first try to connect and be ready; each later one has twice as long as the one before it. A server that is gone
/// without a word answers none of the packets of a try, and only the next one finds its successor.
const FIRST_WITHIN: Duration = Duration::from_secs(2);
/// A connection that held for so long was a success. One that broke earlier did not renew the time for redialling, or an
/// agent that fails on every connection would be redialled for ever.
const HOLDS_FROM: Duration = Duration::from_secs(5);

/// The redialling of one agent.
#[derive(Debug)]
pub(super) struct Redial {
    limit: Duration,
    chance: StdRng,
    /// None while all is well.
    episode: Option<Episode>,
}

/// From a loss until a connection has held.
#[derive(Debug)]
struct Episode {
    give_up_at: Instant,
    tries: u32,
}

/// One try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Try {
    /// When to dial.
    pub at: Instant,
    /// The most it may take.
    pub within: Duration,
    /// When the agent is given up, whatever the try does.
    pub give_up_at: Instant,
}

impl Redial {
    /// An agent is redialled for `limit` from its loss on; not at all if that is zero.
    pub fn new(limit: Duration, seed: u64) -> Self {
        Self { limit, chance: StdRng::seed_from_u64(seed), episode: None }
    }

    /// The connection of an agent that had joined at `joined_at` broke. None: it is given up.
    pub fn lost(&mut self, joined_at: Instant, now: Instant) -> Option<Try> {
        if now.saturating_duration_since(joined_at) >= HOLDS_FROM {
            self.episode = None;
        }
        self.episode.get_or_insert(Episode { give_up_at: now + self.limit, tries: 0 });
        self.next(now)
    }

    /// A try failed. None: the agent is given up; so is one that had never joined.
    pub fn failed(&mut self, now: Instant) -> Option<Try> {
        self.next(now)
    }

    /// Our own standstill of `gap` is not the agent's time.
    pub fn stood_still(&mut self, gap: Duration, now: Instant) {
        if let Some(episode) = &mut self.episode {
            episode.give_up_at = (episode.give_up_at + gap).min(now + self.limit);
        }
    }

    fn next(&mut self, now: Instant) -> Option<Try> {
        let Episode { give_up_at, tries } = self.episode.as_mut()?;
        let doublings = 2_u32.saturating_pow(*tries);
        *tries = tries.saturating_add(1);
        let longest = FIRST.saturating_mul(doublings).min(LONGEST);
        // Half of it is chance: the calls of an agent that is gone do not all come back at once.
        let at = now + longest.mul_f64(self.chance.random_range(0.5..=1.0));
        let left = give_up_at.saturating_duration_since(at);
        let within = FIRST_WITHIN.saturating_mul(doublings).min(left);
        (!within.is_zero()).then_some(Try { at, within, give_up_at: *give_up_at })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// The tries that all fail at once, by their times since the loss.
    fn tries(redial: &mut Redial, joined_at: Instant, lost_at: Instant) -> Vec<Try> {
        let first = redial.lost(joined_at, lost_at);
        std::iter::successors(first, |last| redial.failed(last.at)).collect()
    }

    #[test]
    fn tries_are_at_most_a_second_apart_until_the_time_is_up() {
        let start = Instant::now();
        let tries = tries(&mut Redial::new(20 * SECOND, 7), start, start + 60 * SECOND);
        assert!(tries[0].at <= start + 60 * SECOND + FIRST);
        assert!(tries.windows(2).all(|pair| pair[1].at - pair[0].at <= LONGEST), "{tries:?}");
        let last = tries[tries.len() - 1];
        assert!(last.at >= start + 79 * SECOND && last.at < last.give_up_at, "{last:?}");
        assert!((25..60).contains(&tries.len()), "{}", tries.len());
    }

    #[test]
    fn an_agent_that_breaks_every_connection_is_given_up_as_one_that_never_comes_back() {
        let start = Instant::now();
        let (mut redial, mut now, mut losses) = (Redial::new(20 * SECOND, 1), start + 60 * SECOND, 0);
        let mut next = redial.lost(start, now);
        while let Some(again) = next {
            // It joins at once and breaks after four seconds.
            now = again.at + 4 * SECOND;
            next = redial.lost(again.at, now);
            losses += 1;
        }
        assert!((4..=6).contains(&losses), "{losses}");
        // One that held is a new story.
        assert!(redial.lost(now, now + HOLDS_FROM).is_some());
    }

    #[test]
    fn with_no_time_for_it_nothing_is_redialled_and_so_is_an_agent_that_never_joined() {
        let now = Instant::now();
        assert_eq!(Redial::new(Duration::ZERO, 1).lost(now, now + 60 * SECOND), None);
        assert_eq!(Redial::new(20 * SECOND, 1).failed(now), None);
    }

    #[test]
    fn a_standstill_of_our_own_gives_the_time_back_and_no_more() {
        let start = Instant::now();
        let mut redial = Redial::new(20 * SECOND, 1);
        redial.lost(start, start + 60 * SECOND);
        let now = start + 90 * SECOND;
        redial.stood_still(60 * SECOND, now);
        assert_eq!(redial.failed(now).map(|next| next.give_up_at), Some(now + 20 * SECOND));
    }

    proptest! {
        #[test]
        fn a_try_is_never_in_the_past_and_never_after_the_end(
            limit in 0u64..60_000, seed: u64, steps in prop::collection::vec((any::<bool>(), 0u64..10_000), 1..60),
        ) {
            let (limit, mut now) = (Duration::from_millis(limit), Instant::now());
            let (mut redial, mut joined_at) = (Redial::new(limit, seed), now);
            for (joins, milliseconds) in steps {
                now += Duration::from_millis(milliseconds);
                let next = if joins { redial.lost(joined_at, now) } else { redial.failed(now) };
                let Some(Try { at, within, give_up_at }) = next else { continue };
                prop_assert!(at >= now && at - now <= LONGEST);
                prop_assert!(!within.is_zero() && at + within <= give_up_at && give_up_at <= now + limit);
                (now, joined_at) = (at, at);
            }
        }
    }
}
