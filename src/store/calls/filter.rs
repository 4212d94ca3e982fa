//! CallFilter: which calls a list shows.

use std::time::SystemTime;

use super::CallRecord;

/// Filter of a list of calls. No `Debug`, because it holds the caller's number.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CallFilter {
    /// Only live or only ended ones.
    pub state: Option<CallState>,
    /// Only calls to this business number.
    pub phone_number_id: Option<String>,
    /// Only calls of this route.
    pub route: Option<String>,
    /// Only calls of the WhatsApp user with this number.
    pub wa_id: Option<String>,
    /// Only calls that this agent of a queue had.
    pub agent: Option<String>,
    /// Only calls that began at this time or later.
    pub began_after: Option<SystemTime>,
    /// Only calls that began before this time.
    pub began_before: Option<SystemTime>,
    /// Only calls with a smaller id, that is, calls that began earlier.
    pub before: Option<String>,
    /// The most entries.
    pub limit: usize,
}

impl CallFilter {
    /// Whether the filter takes this call.
    pub(super) fn shows(&self, call: &CallRecord) -> bool {
        let is_wanted = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let state = if call.end.is_some() { CallState::Ended } else { CallState::Live };
        self.state.is_none_or(|wanted| wanted == state)
            && is_wanted(&self.phone_number_id, &call.description.number.phone_number_id)
            && is_wanted(&self.route, &call.route)
            && self.wa_id.as_ref().is_none_or(|wa_id| call.description.user.wa_id.as_ref() == Some(wa_id))
            && self.agent.as_ref().is_none_or(|agent| call.agents.contains(agent))
            && self.began_after.is_none_or(|after| call.began_at >= after)
            && self.began_before.is_none_or(|before| call.began_at < before)
            && self.before.as_ref().is_none_or(|before| call.call_id < *before)
    }
}

/// Whether a call is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallState {
    /// It has not ended.
    Live,
    /// It has ended.
    Ended,
}
