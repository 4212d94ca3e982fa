//! Book: who lives, who has ended, and who was over before it began.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::call::command::Refusal;
use crate::call::event::CallId;
use crate::call::registry::has_ended;
use crate::call::session::asked::Outside;
use crate::call::snapshot::{CallFacts, CallSnapshot, Standing};
use crate::whatsapp::{PhoneNumberId, WaCallId};

/// How long an ended call is remembered: longer than a `connect` can be fresh.
const TOMBSTONE_FOR: Duration = Duration::from_secs(600);
/// Tombstones at most; over it the oldest goes first.
const TOMBSTONES: usize = 100_000;

#[derive(Default)]
pub(super) struct Book {
    pub live: HashMap<WaCallId, Live>,
    /// In the order in which they began.
    pub by_id: BTreeMap<CallId, WaCallId>,
    pub tombstones: HashMap<WaCallId, Instant>,
    /// Calls that lived, as long as their tombstones stand.
    ended: HashSet<CallId>,
    /// The tombstones from the oldest on.
    burials: VecDeque<Burial>,
}

struct Burial {
    at: Instant,
    wacid: WaCallId,
    /// None when the end came before the call.
    id: Option<CallId>,
}

pub(super) struct Live {
    pub id: CallId,
    pub session: Outside,
    /// The number that was called.
    pub number: PhoneNumberId,
    pub facts: Arc<CallFacts>,
    pub standing: watch::Receiver<Standing>,
}

impl Live {
    pub fn snapshot(&self) -> CallSnapshot {
        CallSnapshot { facts: self.facts.clone(), standing: self.standing.borrow().clone() }
    }
}

impl Book {
    pub fn live(&self, call: &CallId) -> Result<&Live, Refusal> {
        match self.by_id.get(call).and_then(|wacid| self.live.get(wacid)) {
            Some(live) => Ok(live),
            None if self.ended.contains(call) => Err(has_ended()),
            None => Err(Refusal::new("call_not_found", "no live call has this id")),
        }
    }

    pub fn count_of(&self, number: &PhoneNumberId) -> usize {
        self.live.values().filter(|live| live.number == *number).count()
    }

    pub fn bury(&mut self, wacid: WaCallId, id: Option<CallId>, now: Instant) {
        if self.tombstones.insert(wacid.clone(), now).is_none() {
            self.ended.extend(id.clone());
            self.burials.push_back(Burial { at: now, wacid, id });
        }
        self.forget_old(now);
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
