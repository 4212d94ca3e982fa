//! Taking over from the previous process: its calls are not admitted again, and those that still ring at Meta are answered
//! from their stored offers.

use std::collections::HashSet;
use std::time::{Instant, SystemTime};

use tracing::warn;

use super::{Calls, NewCall, Origin};
use crate::call::event::CallId;
use crate::clock;
use crate::directory::TOMBSTONES;
use crate::store::{StoreError, Unanswered, WacidDigest, Written};
use crate::whatsapp::webhook::Connect;
use crate::worker::placement;

impl Calls {
    /// Call this before webhooks are taken, so that each finds its call. Returns the ids of the calls that are answered now;
    /// the others have to be ended.
    pub async fn take_over(&self) -> HashSet<String> {
        let store = &self.0.options.store;
        let seen = readable(store.seen_calls(TOMBSTONES).await);
        let unanswered = readable(store.unanswered_calls(self.0.options.max_calls).await);
        let now = clock::now();
        self.remember(seen, now);
        let resumed = unanswered.into_iter().filter_map(|call| {
            let id = call.call.call_id.clone();
            self.resume(call, now).then_some(id)
        });
        resumed.collect()
    }

    fn remember(&self, seen: Vec<(WacidDigest, SystemTime)>, now: Instant) {
        let oldest_first = seen.into_iter().rev();
        let buried = oldest_first.filter_map(|(wacid, seen_at)| Some((wacid, instant_of(seen_at, now)?)));
        self.table().directory.remember(buried);
    }

    /// False for a call that cannot be answered: it is too old, or its number is not configured.
    fn resume(&self, unanswered: Unanswered, now: Instant) -> bool {
        let Unanswered { call: record, offer, incoming, sequence } = unanswered;
        let (Some(connect), Some(id)) = (Connect::from_stored(&offer), CallId::parse(&record.call_id)) else {
            return false;
        };
        let settings = self.0.options.settings.get();
        let number = connect.phone_number_id.as_ref().and_then(|id| settings.numbers.get(id));
        let began_at = record.began_at;
        let received_at = instant_of(began_at, now);
        let (Some(number), Some(received_at)) = (number, received_at) else { return false };
        if now.saturating_duration_since(received_at) >= self.0.options.session.accept_timeout {
            return false;
        }
        let worker = placement::best(&self.0.options.workers, now);
        let mut table = self.table();
        table.directory.reclaim(&connect.call_id, &id);
        let origin = Origin::Offered(Box::new(connect));
        let new_call = NewCall { id, origin, number, worker, received_at, began_at };
        self.start(table, new_call, None, |session| {
            session.resume(record, incoming, sequence);
            Written::already()
        });
        true
    }
}

/// By our own clock, which wrote the time too. None for a time before the machine started.
fn instant_of(at: SystemTime, now: Instant) -> Option<Instant> {
    now.checked_sub(at.elapsed().unwrap_or_default())
}

/// Without a readable store, calls are admitted as if there had been no earlier process.
fn readable<T>(read: Result<Vec<T>, StoreError>) -> Vec<T> {
    read.unwrap_or_else(|error| {
        warn!("calls of an earlier run cannot be read: {error}");
        Vec::new()
    })
}
