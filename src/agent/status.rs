//! AgentStatus: how each agent was last reached, and which calls it is in, as the API shows it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::call::agent_failure::AgentFailure;
use crate::call::event::CallId;
use crate::clock;

/// Remembered addresses: those of the configuration, and some that apps have named. One more pushes out the address
/// that was tried longest ago.
const ADDRESSES: usize = 10_000;

/// All agents of this process, by their addresses without secrets. Cheap to clone.
#[derive(Clone, Default)]
pub struct AgentStatus(Arc<Mutex<Entries>>);

#[derive(Default)]
struct Entries {
    outcomes: HashMap<String, AgentOutcome>,
    /// The agent that each live call was last with.
    calls: HashMap<CallId, String>,
}

/// The outcome of the last attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentOutcome {
    /// When the agent joined or failed.
    pub at: SystemTime,
    /// None if it joined.
    pub failure: Option<AgentFailure>,
}

impl AgentStatus {
    /// The agent at this address is in the call now.
    pub fn joined(&self, call: &CallId, address: String) {
        let mut entries = self.entries();
        entries.note(&address, None);
        entries.calls.insert(call.clone(), address);
    }

    /// The agent at this address could not be reached, or is lost.
    pub fn failed(&self, call: &CallId, address: &str, failure: AgentFailure) {
        let mut entries = self.entries();
        entries.note(address, Some(failure));
        if entries.calls.get(call).is_some_and(|with| with == address) {
            entries.calls.remove(call);
        }
    }

    /// The call has ended.
    pub fn left(&self, call: &CallId) {
        self.entries().calls.remove(call);
    }

    /// The outcome of the last attempt at this address.
    pub fn outcome(&self, address: &str) -> Option<AgentOutcome> {
        self.entries().outcomes.get(address).cloned()
    }

    /// The live calls that were last with the agent at this address.
    pub fn calls_with(&self, address: &str) -> Vec<CallId> {
        let entries = self.entries();
        entries.calls.iter().filter(|(_, with)| *with == address).map(|(call, _)| call.clone()).collect()
    }

    /// The lock is held for a look-up only, and the entries are valid at every step.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entries {
    fn note(&mut self, address: &str, failure: Option<AgentFailure>) {
        if self.outcomes.len() >= ADDRESSES && !self.outcomes.contains_key(address) {
            let oldest = self.outcomes.iter().min_by_key(|(_, outcome)| outcome.at).map(|(address, _)| address.clone());
            oldest.map(|oldest| self.outcomes.remove(&oldest));
        }
        self.outcomes.insert(address.to_owned(), AgentOutcome { at: clock::wall(), failure });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::agent_failure::AgentFailureKind;

    #[test]
    fn one_address_too_many_is_remembered_and_the_one_tried_longest_ago_forgotten() {
        let (status, call) = (AgentStatus::default(), CallId::generate());
        let long_ago = SystemTime::UNIX_EPOCH;
        status.failed(&call, "first", AgentFailureKind::Refused.into());
        status.entries().outcomes.entry("first".to_owned()).and_modify(|outcome| outcome.at = long_ago);
        for number in 0..ADDRESSES {
            status.failed(&call, &number.to_string(), AgentFailureKind::Refused.into());
        }
        assert_eq!(status.outcome("first"), None);
        assert!((0..ADDRESSES).all(|number| status.outcome(&number.to_string()).is_some()));
        assert_eq!(status.entries().outcomes.len(), ADDRESSES);
    }
}
