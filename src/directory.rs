//! Directory: which call owns which of Meta's ids, and which calls have ended. This one is in the process's memory.
//!
//! The key is our own id, because Meta names a call that we place only once it is under way. A wacid is claimed for a call
//! once: Meta's webhooks are doubled, batched and unordered, so when its call ends, or its `terminate` comes before its
//! `connect`, a tombstone keeps it from being claimed again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::call::event::CallId;
use crate::store::{WacidDigest, wacid_digest};
use crate::whatsapp::WaCallId;

/// How long an ended call is remembered: longer than Meta repeats a webhook that had no answer.
const TOMBSTONE_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Tombstones at most, of some 200 bytes each; over it the oldest goes first.
pub const TOMBSTONES: usize = 100_000;

/// The calls of this process by Meta's ids.
#[derive(Default)]
pub struct Directory {
    owners: HashMap<WaCallId, CallId>,
    /// The same pairs, by our ids.
    wacids: HashMap<CallId, WaCallId>,
    tombstones: HashSet<WacidDigest>,
    /// Calls that have lived, as long as their tombstones stand.
    ended: HashSet<CallId>,
    /// The tombstones, the oldest first.
    burials: VecDeque<Burial>,
}

/// Who owns a wacid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Owner {
    /// No call; it can be claimed.
    Nobody,
    /// This live call.
    Call(CallId),
    /// A call that has ended, or was over before its `connect` came.
    Ended,
}

struct Burial {
    at: Instant,
    /// None for a call that Meta never named.
    wacid: Option<WacidDigest>,
    /// None when the end came before the call.
    call: Option<CallId>,
}

impl Directory {
    /// Who owns the wacid.
    pub fn owner(&self, wacid: &WaCallId) -> Owner {
        match self.owners.get(wacid) {
            Some(call) => Owner::Call(call.clone()),
            None if self.tombstones.contains(&wacid_digest(wacid.as_str())) => Owner::Ended,
            None => Owner::Nobody,
        }
    }

    /// Meta's id of a live call, once it is claimed.
    pub fn wacid(&self, call: &CallId) -> Option<&WaCallId> {
        self.wacids.get(call)
    }

    /// Gives a wacid that nobody owns to a call. Otherwise the owner is returned, and nothing changes.
    pub fn claim(&mut self, wacid: &WaCallId, call: &CallId) -> Result<(), Owner> {
        match self.owner(wacid) {
            Owner::Nobody => {
                self.reclaim(wacid, call);
                Ok(())
            }
            owner @ (Owner::Call(_) | Owner::Ended) => Err(owner),
        }
    }

    /// Ends a call. Its wacid, if it has one, cannot be claimed again.
    pub fn end(&mut self, call: &CallId, now: Instant) {
        let wacid = self.wacids.remove(call);
        if let Some(wacid) = &wacid {
            self.owners.remove(wacid);
        }
        self.bury(wacid.as_ref(), Some(call.clone()), now);
    }

    /// Ends a call of which only the wacid is known.
    pub fn end_unclaimed(&mut self, wacid: &WaCallId, now: Instant) {
        self.bury(Some(wacid), None, now);
    }

    /// Whether this call has lived and ended.
    pub fn has_ended(&self, call: &CallId) -> bool {
        self.ended.contains(call)
    }

    /// Keeps calls of an earlier process from being claimed; the oldest come first.
    pub fn remember(&mut self, seen: impl Iterator<Item = (WacidDigest, Instant)>) {
        for (wacid, at) in seen {
            if self.tombstones.insert(wacid) {
                self.burials.push_back(Burial { at, wacid: Some(wacid), call: None });
            }
        }
    }

    /// Gives a call of an earlier process, which is remembered, its wacid back.
    pub fn reclaim(&mut self, wacid: &WaCallId, call: &CallId) {
        self.owners.insert(wacid.clone(), call.clone());
        self.wacids.insert(call.clone(), wacid.clone());
    }

    /// Removes tombstones that are too old or too many.
    pub fn forget_old(&mut self, now: Instant) {
        while let Some(burial) = self.burials.front() {
            if now.saturating_duration_since(burial.at) < TOMBSTONE_FOR && self.burials.len() <= TOMBSTONES {
                return;
            }
            if let Some(burial) = self.burials.pop_front() {
                if let Some(wacid) = burial.wacid {
                    self.tombstones.remove(&wacid);
                }
                if let Some(call) = burial.call {
                    self.ended.remove(&call);
                }
            }
        }
    }

    fn bury(&mut self, wacid: Option<&WaCallId>, call: Option<CallId>, now: Instant) {
        let wacid = wacid.map(|wacid| wacid_digest(wacid.as_str()));
        let is_new = wacid.is_some_and(|wacid| self.tombstones.insert(wacid));
        self.ended.extend(call.clone());
        if is_new || call.is_some() {
            self.burials.push_back(Burial { at: now, wacid, call });
        }
        self.forget_old(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wacid(text: &str) -> WaCallId {
        WaCallId::parse(text).unwrap()
    }

    #[test]
    fn a_wacid_is_claimed_once_even_after_its_end() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        let (wacid, first, second) = (wacid("wacid.1"), CallId::generate(), CallId::generate());
        assert_eq!(directory.claim(&wacid, &first), Ok(()));
        assert_eq!(directory.claim(&wacid, &second), Err(Owner::Call(first.clone())));
        assert_eq!(directory.wacid(&first), Some(&wacid));
        directory.end(&first, now);
        assert_eq!(directory.claim(&wacid, &second), Err(Owner::Ended));
        assert!(directory.has_ended(&first) && !directory.has_ended(&second));
    }

    #[test]
    fn an_end_that_comes_first_keeps_the_call_from_beginning_for_a_day() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        let (wacid, call) = (wacid("wacid.1"), CallId::generate());
        directory.end_unclaimed(&wacid, now);
        assert_eq!(directory.owner(&wacid), Owner::Ended);
        directory.forget_old(now + TOMBSTONE_FOR - Duration::from_secs(1));
        assert_eq!(directory.owner(&wacid), Owner::Ended);
        directory.forget_old(now + TOMBSTONE_FOR);
        assert_eq!(directory.claim(&wacid, &call), Ok(()));
    }

    #[test]
    fn a_remembered_call_can_be_taken_over_and_is_claimed_by_nobody_else() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        let (wacid, call) = (wacid("wacid.1"), CallId::generate());
        directory.remember([(wacid_digest("wacid.1"), now)].into_iter());
        directory.reclaim(&wacid, &call);
        assert_eq!(directory.owner(&wacid), Owner::Call(call.clone()));
        directory.end(&call, now);
        assert_eq!(directory.owner(&wacid), Owner::Ended);
    }

    #[test]
    fn a_call_that_meta_never_named_has_ended_too() {
        let (mut directory, now) = (Directory::default(), Instant::now());
        let call = CallId::generate();
        assert_eq!(directory.wacid(&call), None);
        directory.end(&call, now);
        assert!(directory.has_ended(&call));
        directory.forget_old(now + TOMBSTONE_FOR);
        assert!(!directory.has_ended(&call));
    }
}
