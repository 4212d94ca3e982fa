//! Wrong API keys: who sends them is slowed, and stands in the log.
//!
//! Counted for an address and the id of the key together: neither somebody else behind the same address nor another key
//! is slowed with them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::bucket::Bucket;

/// Wrong keys at once: an app that was left with an old key notices by its answers.
const AT_ONCE: f64 = 20.0;
/// One more after every five seconds. A key has 256 bits, so this is about the log and the load.
const PER_SECOND: f64 = 0.2;
/// Addresses and ids that are remembered. The one that has been good for longest is forgotten first.
const REMEMBERED: usize = 1024;

/// The wrong keys of late.
#[derive(Default)]
pub(super) struct Guesses {
    guesses: Mutex<HashMap<Guesser, Guessed>>,
}

/// Who sends keys: an address, and the id that a configured key has; none for all other ids together.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Guesser {
    /// None where a proxy does not say: all of these together are logged, and not slowed.
    pub(super) from: Option<IpAddr>,
    pub(super) id: Option<String>,
}

struct Guessed {
    bucket: Bucket,
    is_refused: bool,
}

impl Guesses {
    /// Whether a key may be looked at, or how long to wait with it.
    pub(super) fn look(&self, guesser: &Guesser, now: Instant) -> Result<(), Duration> {
        if guesser.from.is_none() {
            return Ok(());
        }
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.get_mut(guesser).map_or(Ok(()), |guessed| guessed.bucket.look(now))
    }

    /// The key was wrong. The first one is told in the log, and the one from which on they are refused.
    pub(super) fn was_wrong(&self, guesser: Guesser, now: Instant) {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if !guesses.contains_key(&guesser) {
            forget(&mut guesses, now);
            let from = shown(guesser.from);
            warn!(http.client = %from, api.key = guesser.id, "a wrong API key came from {from}");
        }
        let (from, id) = (shown(guesser.from), guesser.id.clone());
        let new = || Guessed { bucket: Bucket::new(PER_SECOND, AT_ONCE), is_refused: false };
        let guessed = guesses.entry(guesser).or_insert_with(new);
        // There may be none where nobody is slowed.
        let _ = guessed.bucket.take(now);
        let is_refused = guessed.bucket.look(now).is_err();
        if is_refused && !guessed.is_refused {
            warn!(http.client = %from, api.key = id, "many wrong API keys come from {from}");
        }
        // Said again only after a rest.
        guessed.is_refused |= is_refused;
    }
}

fn shown(from: Option<IpAddr>) -> String {
    from.map_or("a client that the proxy does not name".to_owned(), |from| from.to_string())
}

/// Makes room for one more: those that are as good as new go, or the best one.
fn forget(guesses: &mut HashMap<Guesser, Guessed>, now: Instant) {
    guesses.retain(|_, guessed| {
        // Only to bring it up to date.
        let _ = guessed.bucket.look(now);
        guessed.bucket.left() < AT_ONCE
    });
    if guesses.len() < REMEMBERED {
        return;
    }
    let best = guesses.iter().max_by(|(_, a), (_, b)| a.bucket.left().total_cmp(&b.bucket.left()));
    if let Some(best) = best.map(|(guesser, _)| guesser.clone()) {
        guesses.remove(&best);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    fn guesser(from: u32, id: Option<&str>) -> Guesser {
        Guesser { from: Some(IpAddr::V4(Ipv4Addr::from_bits(from))), id: id.map(str::to_owned) }
    }

    fn guess(guesses: &Guesses, guesser: &Guesser, now: Instant) -> bool {
        let may = guesses.look(guesser, now).is_ok();
        if may {
            guesses.was_wrong(guesser.clone(), now);
        }
        may
    }

    #[test]
    fn who_guesses_is_slowed_and_nobody_else_is() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let app = guesser(1, Some("app"));
        assert_eq!((0..1000).filter(|_| guess(&guesses, &app, start)).count(), 20);
        assert_eq!(guesses.look(&app, start), Err(Duration::from_secs(5)));
        for other in [guesser(1, None), guesser(1, Some("other")), guesser(2, Some("app"))] {
            assert_eq!(guesses.look(&other, start), Ok(()));
        }
        let minute = start + Duration::from_secs(60);
        assert_eq!((0..1000).filter(|_| guess(&guesses, &app, minute)).count(), 12);
    }

    #[test]
    fn the_table_is_bounded_and_forgets_who_has_been_good() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let worst = guesser(0, None);
        while guess(&guesses, &worst, start) {}
        for from in 1..3 * REMEMBERED as u32 {
            guess(&guesses, &guesser(from, None), start);
        }
        assert_eq!(guesses.guesses.lock().unwrap().len(), REMEMBERED);
        assert!(!guess(&guesses, &worst, start), "a flood of others does not make it new");
        guess(&guesses, &guesser(1, Some("app")), start + Duration::from_secs(200));
        assert_eq!(guesses.guesses.lock().unwrap().len(), 1);
    }
}
