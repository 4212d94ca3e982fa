//! Taking over from the previous process: its calls are not admitted again, and those that still ring at Meta are answered
//! from their stored offers.

use std::collections::HashSet;
use std::time::{Instant, SystemTime};

use tracing::warn;

use super::placements::Dialled;
use super::{Calls, NewCall, Origin};
use crate::call::description::CallDescription;
use crate::call::event::CallId;
use crate::clock;
use crate::directory::TOMBSTONES;
use crate::store::{CallRecord, StoreError, Unanswered, WacidDigest, Written};
use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::graph::Callee;
use crate::whatsapp::webhook::Connect;
use crate::worker::placement;

/// Unfinished calls of the previous process that are looked through for unnamed ones.
const UNNAMED_CALLS: usize = 10_000;

impl Calls {
    /// Call this before webhooks are taken, so that each finds its call. Returns the ids of the calls that are answered now;
    /// the others have to be ended.
    pub async fn take_over(&self) -> HashSet<String> {
        let store = &self.0.options.store;
        let seen = readable(store.seen_calls(TOMBSTONES).await);
        let unanswered = readable(store.unanswered_calls(self.0.options.max_calls).await);
        let now = clock::now();
        self.remember(seen, now);
        self.remember_unnamed(readable(store.unfinished_calls(None, UNNAMED_CALLS).await));
        let resumed = unanswered.into_iter().filter_map(|call| {
            let id = call.call.call_id.clone();
            self.resume(call, now).then_some(id)
        });
        resumed.collect()
    }

    /// Calls that we placed and Meta did not name to us: if it has one, a webhook shows it, and it is ended.
    fn remember_unnamed(&self, unfinished: Vec<CallRecord>) {
        for call in unfinished {
            let CallDescription { wacid, user, number, .. } = &call.description;
            if !call.is_placed_by_us() || wacid.is_some() {
                continue;
            }
            let number = PhoneNumberId::parse(&number.phone_number_id).ok();
            let by_id = user.user_id.clone().map(Callee::UserId);
            let callee = user.wa_id.clone().map(Callee::WaId).or(by_id);
            if let (Some(id), Some(number), Some(callee)) = (CallId::parse(&call.call_id), number, callee) {
                let callback_data = call.tracker.unwrap_or(call.call_id);
                self.0.naming.lost(id, Dialled { number, callee, callback_data });
            }
        }
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
        let new_call = NewCall { id, origin, number, worker, received_at, began_at, naming: self.0.naming.clone() };
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
