//! Unwritten: the records that wait for the file, and lists of them together with those in the file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{CallFilter, CallRecord};

/// Calls whose latest record is not in the file yet. A call that has just ended is found here, also
/// while the file cannot be written. Bounded by the queue: each entry belongs to a waiting write.
#[derive(Default)]
pub(in crate::store) struct Unwritten(Mutex<HashMap<String, Arc<CallRecord>>>);

impl Unwritten {
    pub(in crate::store) fn insert(&self, call: &Arc<CallRecord>) {
        self.book().insert(call.call_id.clone(), call.clone());
    }

    /// Removes exactly this record; a newer one stays.
    pub(in crate::store) fn remove(&self, call: &Arc<CallRecord>) {
        let mut book = self.book();
        if book.get(&call.call_id).is_some_and(|newest| Arc::ptr_eq(newest, call)) {
            book.remove(&call.call_id);
        }
    }

    pub(in crate::store) fn get(&self, call_id: &str) -> Option<CallRecord> {
        self.book().get(call_id).map(|call| CallRecord::clone(call))
    }

    pub(in crate::store) fn shown(&self, filter: &CallFilter) -> Vec<CallRecord> {
        let book = self.book();
        book.values().filter(|call| filter.shows(call)).map(|call| CallRecord::clone(call)).collect()
    }

    /// Held for a look-up only; the map is valid at every step.
    fn book(&self) -> MutexGuard<'_, HashMap<String, Arc<CallRecord>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Merges both lists under the filter, newest first. If a call is in both, the record with the end counts: the file may be
/// ahead of `unwritten`, or behind it.
pub(in crate::store) fn merged(
    unwritten: Vec<CallRecord>,
    mut written: Vec<CallRecord>,
    filter: &CallFilter,
) -> Vec<CallRecord> {
    for call in unwritten {
        match written.iter_mut().find(|known| known.call_id == call.call_id) {
            Some(known) if known.end.is_none() => *known = call,
            Some(_) => {}
            None => written.push(call),
        }
    }
    written.retain(|call| filter.shows(call));
    written.sort_unstable_by(|one, other| other.call_id.cmp(&one.call_id));
    written.truncate(filter.limit);
    written
}
