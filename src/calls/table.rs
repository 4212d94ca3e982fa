//! CallTable: who lives, who has ended, and who was over before it began.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::calls::has_ended;
use crate::calls::session::commands::SessionHandle;
use crate::calls::snapshot::{CallFacts, CallSnapshot, CallStatus};
use crate::store::{WacidDigest, Written, wacid_digest};
use crate::whatsapp::{PhoneNumberId, WaCallId};

/// How long an ended call is remembered: longer than Meta repeats a webhook that had no answer.
const TOMBSTONE_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// Tombstones at most, of some 200 bytes each; over it the oldest goes first.
pub(super) const TOMBSTONES: usize = 100_000;

#[derive(Default)]
pub(super) struct CallTable {
    pub live: HashMap<WaCallId, LiveCall>,
    /// In the order in which they began.
    pub by_id: BTreeMap<CallId, WaCallId>,
    tombstones: HashSet<WacidDigest>,
    /// Calls that lived, as long as their tombstones stand.
    ended: HashSet<CallId>,
    /// The tombstones from the oldest on.
    burials: VecDeque<Burial>,
}

struct Burial {
    at: Instant,
    wacid: WacidDigest,
    /// None when the end came before the call.
    id: Option<CallId>,
}

pub(super) struct LiveCall {
    pub id: CallId,
    pub session: SessionHandle,
    /// The number that was called.
    pub number: PhoneNumberId,
    pub facts: Arc<CallFacts>,
    pub status: watch::Receiver<CallStatus>,
    /// Its first record on the way to the disk.
    pub first_record: Written,
}

impl LiveCall {
    pub fn snapshot(&self) -> CallSnapshot {
        CallSnapshot { facts: self.facts.clone(), status: self.status.borrow().clone() }
    }
}

impl CallTable {
    pub fn live(&self, call: &CallId) -> Result<&LiveCall, Refusal> {
        match self.by_id.get(call).and_then(|wacid| self.live.get(wacid)) {
            Some(live) => Ok(live),
            None if self.ended.contains(call) => Err(has_ended()),
            None => Err(Refusal::new(RefusalCode::CallNotFound, "no live call has this id")),
        }
    }

    pub fn count_of(&self, number: &PhoneNumberId) -> usize {
        self.live.values().filter(|live| live.number == *number).count()
    }

    pub fn is_buried(&self, wacid: &WaCallId) -> bool {
        self.tombstones.contains(&wacid_digest(wacid.as_str()))
    }

    pub fn bury(&mut self, wacid: &WaCallId, id: Option<CallId>, now: Instant) {
        let wacid = wacid_digest(wacid.as_str());
        let is_new = self.tombstones.insert(wacid);
        self.ended.extend(id.clone());
        if is_new || id.is_some() {
            self.burials.push_back(Burial { at: now, wacid, id });
        }
        self.forget_old(now);
    }

    /// Calls that an earlier process has seen, the oldest first.
    pub fn bury_seen(&mut self, seen: impl Iterator<Item = (WacidDigest, Instant)>) {
        for (wacid, at) in seen {
            if self.tombstones.insert(wacid) {
                self.burials.push_back(Burial { at, wacid, id: None });
            }
        }
    }

    pub fn forget_old(&mut self, now: Instant) {
        while let Some(burial) = self.burials.front() {
            if now.saturating_duration_since(burial.at) < TOMBSTONE_FOR && self.burials.len() <= TOMBSTONES {
                return;
            }
            if let Some(burial) = self.burials.pop_front() {
                self.tombstones.remove(&burial.wacid);
                if let Some(id) = burial.id {
                    self.ended.remove(&id);
                }
            }
        }
    }
}
