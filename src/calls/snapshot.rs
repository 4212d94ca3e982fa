//! A live call as the handle may look at it: what never changes, and how it stands now.
//!
//! The session is the one that writes; whoever reads never waits for it.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::call::Attempt;
use crate::call::event::{CallId, Stages};
use crate::whatsapp::webhook::Direction;

/// What never changes while a call lives.
#[derive(Clone)]
pub struct CallFacts {
    /// Ours.
    pub id: CallId,
    /// Meta's. It holds the caller's number: in API bodies yes, in logs no.
    pub wacid: String,
    /// Who called whom.
    pub direction: Direction,
    /// The caller's number in digits.
    pub wa_id: Option<String>,
    /// The caller's business-scoped user id.
    pub user_id: Option<String>,
    /// The caller's name.
    pub name: Option<String>,
    /// The number that was called, by Meta's id.
    pub phone_number_id: String,
    /// The number that was called, as people write it.
    pub display_phone_number: Option<String>,
    /// The route by its name.
    pub route: String,
    /// By the wall clock, to be told.
    pub began_at: SystemTime,
    /// By the clock that never jumps, to count from.
    pub received_at: Instant,
}

/// How a call stands.
#[derive(Clone, Debug)]
pub struct CallStatus {
    /// As [`Call::state_name`](crate::call::Call::state_name) says.
    pub state: &'static str,
    /// When each stage was reached.
    pub stages: Stages,
    /// Whose agent is on the line, by attempt.
    pub agent: Option<Attempt>,
    /// What the application keeps with the call.
    pub client_state: Option<String>,
    /// Ids of its recordings, the first one first.
    pub recordings: Vec<String>,
}

impl CallStatus {
    /// Of a call that has just come.
    pub fn new() -> Self {
        Self { state: "answering", stages: Stages::default(), agent: None, client_state: None, recordings: Vec::new() }
    }
}

impl Default for CallStatus {
    fn default() -> Self {
        Self::new()
    }
}

/// One live call at one moment.
#[derive(Clone)]
pub struct CallSnapshot {
    /// What never changes.
    pub facts: Arc<CallFacts>,
    /// How it stood.
    pub status: CallStatus,
}

impl CallSnapshot {
    /// From the webhook until now.
    pub fn duration(&self) -> Duration {
        self.facts.received_at.elapsed()
    }

    /// From accept until now.
    pub fn talked(&self) -> Option<Duration> {
        self.status.stages.accepted.map(|accepted| self.duration().saturating_sub(accepted))
    }
}

/// The session's end of a status.
pub type StatusSender = watch::Sender<CallStatus>;
