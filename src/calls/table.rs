//! CallTable: the live calls of this process, by our ids.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::has_ended;
use super::pacing::Pacing;
use super::placements::Placements;
use super::session::SessionHandle;
use super::snapshot::{CallFacts, CallSnapshot, CallStatus};
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::directory::Directory;
use crate::store::Written;
use crate::whatsapp::PhoneNumberId;

/// The one table of a process. Clones share it.
#[derive(Clone, Default)]
pub(super) struct SharedTable(Arc<Mutex<CallTable>>);

impl SharedTable {
    /// Locked for a few look-ups only, and valid at every step.
    pub fn lock(&self) -> MutexGuard<'_, CallTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The live calls, the directory of Meta's ids, and the calls that have none yet. They change under one lock.
#[derive(Default)]
pub(super) struct CallTable {
    /// In the order in which they began.
    pub live: BTreeMap<CallId, LiveCall>,
    pub directory: Directory,
    pub placements: Placements,
    pub pacing: Pacing,
}

/// One live call.
pub(super) struct LiveCall {
    pub session: SessionHandle,
    /// Whether we place it.
    pub is_placed: bool,
    /// The business number.
    pub number: PhoneNumberId,
    pub facts: Arc<CallFacts>,
    pub status: watch::Receiver<CallStatus>,
    /// The write of its first record.
    pub first_record: Written,
}

impl LiveCall {
    pub fn snapshot(&self) -> CallSnapshot {
        CallSnapshot { facts: self.facts.clone(), status: self.status.borrow().clone() }
    }
}

impl CallTable {
    pub fn live(&self, call: &CallId) -> Result<&LiveCall, Refusal> {
        match self.live.get(call) {
            Some(live) => Ok(live),
            None if self.directory.has_ended(call) => Err(has_ended()),
            None => Err(Refusal::new(RefusalCode::CallNotFound, "no live call has this id")),
        }
    }

    /// How many calls of this number live.
    pub fn count_of(&self, number: &PhoneNumberId) -> usize {
        self.live.values().filter(|live| live.number == *number).count()
    }

    /// How many of them we placed.
    pub fn placed_of(&self, number: &PhoneNumberId) -> usize {
        self.live.values().filter(|live| live.is_placed && live.number == *number).count()
    }
}
