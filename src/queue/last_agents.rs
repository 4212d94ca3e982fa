//! LastAgents: which agent a returning caller had last.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use super::{AgentName, CallerKey};

/// Returning callers that are remembered with their last agent; the oldest is forgotten first.
const REMEMBERED_CALLERS: usize = 10_000;

/// Who had a caller last, for callers that come again.
#[derive(Debug, Default)]
pub(super) struct LastAgents {
    agents: BTreeMap<CallerKey, (AgentName, Instant)>,
    oldest_first: VecDeque<CallerKey>,
}

impl LastAgents {
    pub fn of(&self, caller: &CallerKey, now: Instant) -> Option<&AgentName> {
        self.agents.get(caller).filter(|(_, until)| now < *until).map(|(agent, _)| agent)
    }

    pub fn remember(&mut self, caller: CallerKey, agent: AgentName, until: Instant) {
        if self.agents.insert(caller.clone(), (agent, until)).is_none() {
            self.oldest_first.push_back(caller);
        }
        if self.oldest_first.len() > REMEMBERED_CALLERS
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.agents.remove(&oldest);
        }
    }
}
