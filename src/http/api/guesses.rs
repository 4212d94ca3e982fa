//! Wrong API keys: guessing is slowed and logged.
//!
//! Counted per address and key id: neither another client behind the same address nor another key
//! is affected.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::bucket::Bucket;

/// Wrong keys in one burst: an app with an outdated key notices from its responses.
const AT_ONCE: f64 = 20.0;
/// One more after every five seconds. A key has 256 bits, so this is about the log and the load.
const PER_SECOND: f64 = 0.2;
/// Pairs of address and id that are remembered. The one that has recovered most is forgotten first.
const REMEMBERED: usize = 1024;

/// Recent wrong keys.
#[derive(Default)]
pub(super) struct Guesses {
    guesses: Mutex<HashMap<Guesser, Guessed>>,
}

/// A source of keys: an address and the id of a configured key; None stands for all other ids together.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Guesser {
    /// None if a proxy names no client: these are logged together and never refused.
    pub(super) from: Option<IpAddr>,
    pub(super) id: Option<String>,
}

struct Guessed {
    bucket: Bucket,
    is_refused: bool,
}

impl Guesses {
    /// Whether a key may be checked, or how long the client must wait.
    pub(super) fn look(&self, guesser: &Guesser, now: Instant) -> Result<(), Duration> {
        if guesser.from.is_none() {
            return Ok(());
        }
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        guesses.get_mut(guesser).map_or(Ok(()), |guessed| guessed.bucket.look(now))
    }

    /// Counts a wrong key. The first one is logged, and the one from which on keys are refused.
    pub(super) fn was_wrong(&self, guesser: Guesser, now: Instant) {
        let mut guesses = self.guesses.lock().unwrap_or_else(PoisonError::into_inner);
        if !guesses.contains_key(&guesser) {
            forget(&mut guesses, now);
            let from = shown(guesser.from);
            warn!(http.client = %from, api.key = guesser.id, "wrong API key from {from}");
        }
        let (from, id) = (shown(guesser.from), guesser.id.clone());
        let new = || Guessed { bucket: Bucket::new(PER_SECOND, AT_ONCE), is_refused: false };
        let guessed = guesses.entry(guesser).or_insert_with(new);
        // Absent if the source is never refused.
        let _ = guessed.bucket.take(now);
        let is_refused = guessed.bucket.look(now).is_err();
        if is_refused && !guessed.is_refused {
            warn!(http.client = %from, api.key = id, "refusing API keys from {from}: too many wrong ones");
        }
        // Logged again only after a pause.
        guessed.is_refused |= is_refused;
    }
}

fn shown(from: Option<IpAddr>) -> String {
    from.map_or("a client that the proxy does not name".to_owned(), |from| from.to_string())
}

/// Makes room for one more: forgets all that have recovered fully, or else the one that has recovered most.
fn forget(guesses: &mut HashMap<Guesser, Guessed>, now: Instant) {
    guesses.retain(|_, guessed| {
        // Only to refill it.
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
