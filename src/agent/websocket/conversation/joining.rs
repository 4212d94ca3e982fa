//! Joining: from dialling an agent until it is in the call, and what its address is credited with.

use std::cell::{Cell, RefCell};
use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::HUNG_UP_EARLY;
use crate::agent::instances::Visit;
use crate::agent::port::AgentPort;
use crate::agent::websocket::count;
use crate::agent::websocket::ending::Ending;
use crate::call::agent_failure::AgentFailureKind;
use crate::clock;
use crate::telemetry::shown;

/// Whether the agent of one connection has joined.
pub(super) struct Joining {
    /// Where we have dialled it; none once it is over.
    visit: RefCell<Option<Visit>>,
    dialled_at: Instant,
    /// From dialling until it has to have joined.
    within: Duration,
    joined_at: Cell<Option<Instant>>,
    joined: Notify,
    /// It takes the place of a connection that was lost.
    is_back: Cell<bool>,
}

impl Joining {
    pub fn new(visit: Option<Visit>, dialled_at: Instant, within: Duration) -> Self {
        Self {
            visit: RefCell::new(visit),
            dialled_at,
            within,
            joined_at: Cell::new(None),
            joined: Notify::new(),
            is_back: Cell::new(false),
        }
    }

    /// The connection before this one was lost, or there was none.
    pub fn follows(&self, is_back: bool) {
        self.is_back.set(is_back);
    }

    pub fn joined_at(&self) -> Option<Instant> {
        self.joined_at.get()
    }

    pub fn has_joined(&self) -> bool {
        self.joined_at.get().is_some()
    }

    /// The agent is listening. Once only.
    pub fn join(&self, port: &AgentPort) {
        if self.has_joined() {
            return;
        }
        self.joined_at.set(Some(clock::now()));
        self.joined.notify_one();
        if let Some(visit) = &mut *self.visit.borrow_mut() {
            visit.joined(clock::now());
        }
        port.joined();
        if self.is_back.get() {
            count("back");
        }
    }

    /// Ends only if the agent has not joined in time.
    pub async fn missed(&self, port: &AgentPort) -> Ending {
        let remaining = self.within.saturating_sub(self.dialled_at.elapsed());
        match port.standstills().timeout(remaining, self.joined.notified()).await {
            Ok(()) => pending().await,
            Err(_) => {
                let cause = format!("it was not ready within {}", shown(self.within));
                Ending::Lost(AgentFailureKind::NoAnswer.because(cause))
            }
        }
    }

    /// The address is credited with what became of the conversation.
    pub fn ended(&self, ending: &Ending) {
        let Some(mut visit) = self.visit.take() else { return };
        match ending {
            Ending::Lost(failure) | Ending::Failed(failure, _) => visit.failed(failure, clock::now()),
            Ending::HungUp if !self.has_joined() => {
                visit.failed(&AgentFailureKind::Refused.because(HUNG_UP_EARLY), clock::now());
            }
            Ending::HungUp | Ending::Dismissed(_) => {}
        }
    }
}
