//! Taking over from the process before: no call of its is admitted again, and those that Meta still rings for are
//! answered from their stored offers.

use std::collections::HashSet;
use std::time::{Instant, SystemTime};

use tracing::warn;

use super::table::TOMBSTONES;
use super::{Calls, NewCall};
use crate::call::event::CallId;
use crate::store::{StoreError, Unanswered, WacidDigest, Written};
use crate::whatsapp::webhook::Connect;
use crate::worker::placement;

impl Calls {
    /// To be called before webhooks are taken, so that each finds its call. Gives the ids of the calls that are answered
    /// now; the others have to be ended.
    pub async fn take_over(&self) -> HashSet<String> {
        let store = &self.0.options.store;
        let seen = readable(store.seen_calls(TOMBSTONES).await);
        let unanswered = readable(store.unanswered_calls(self.0.options.max_calls).await);
        let now = Instant::now();
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
        self.table().bury_seen(buried);
    }

    /// False for a call that cannot be answered any more: it is too old, or of a number that is not configured.
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
        let new_call = NewCall { id, connect, number, worker, received_at, began_at, refusal: None };
        self.begin(self.table(), new_call, |session| {
            session.resume(record, incoming, sequence);
            Written::already()
        });
        true
    }
}

/// By our own clock, which wrote the time as well: Meta's may differ. None for what was before the machine started.
fn instant_of(at: SystemTime, now: Instant) -> Option<Instant> {
    now.checked_sub(at.elapsed().unwrap_or_default())
}

/// Without it, calls are admitted as if there had been no process before.
fn readable<T>(read: Result<Vec<T>, StoreError>) -> Vec<T> {
    read.unwrap_or_else(|error| {
        warn!("calls of an earlier run cannot be read: {error}");
        Vec::new()
    })
}
