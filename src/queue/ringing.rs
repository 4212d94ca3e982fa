//! Which caller rings at which agent, and how a ring ends.

use std::time::{Duration, Instant};

use super::{Action, AgentName, Progress, Queues, Ring, RingEnd, Waiting, Wanted};
use crate::call::event::CallId;

/// How long an agent rings that is called by name and serves no queue whose rules could say it.
const RING_BY_NAME: Duration = Duration::from_secs(20);
impl Queues {
    /// Offers each caller, the longest waiting first, to the best agent that is idle.
    pub(super) fn assign(&mut self, now: Instant) {
        let mut idle = self.agents.values().filter(|agent| agent.is_idle()).count();
        for index in 0..self.waiting.len() {
            if idle == 0 {
                return;
            }
            let waiting = &self.waiting[index];
            if waiting.ring.is_none()
                && let Some(agent) = self.best_agent(waiting, now)
                && let Some(mut waiting) = self.waiting.remove(index)
            {
                self.ring(&mut waiting, agent, now);
                self.waiting.insert(index, waiting);
                idle -= 1;
            }
        }
    }

    /// One who has not missed this call before, then the caller's last agent, then the longest idle.
    pub(super) fn best_agent(&self, waiting: &Waiting, now: Instant) -> Option<AgentName> {
        let last = waiting.entry.caller.as_ref().and_then(|caller| self.last_agents.of(caller, now));
        let candidates = self.agents.iter().filter_map(|(name, agent)| {
            let since = agent.idle_since()?;
            let may_take = agent.may_take(&waiting.entry) && !waiting.declined_by.contains(name);
            may_take.then_some((waiting.missed_by.contains(name), last != Some(name), since, name))
        });
        candidates.min().map(|(.., name)| name.clone())
    }

    pub(super) fn ring(&mut self, waiting: &mut Waiting, name: AgentName, now: Instant) {
        let Some(agent) = self.agents.get(&name) else { return };
        let ring_timeout = self.rules_for(&waiting.entry, agent).map_or(RING_BY_NAME, |rules| rules.ring_timeout);
        let (place, queue) = (waiting.entry.place.clone(), waiting.entry.queue().cloned());
        if let Some(agent) = self.agents.get_mut(&name) {
            agent.rings(place.call.clone());
        }
        waiting.ring = Some(Ring { agent: name.clone(), until: now + ring_timeout });
        self.actions.push_back(Action::Ring { agent: name.clone(), call: place.call.clone() });
        if let Some(queue) = queue {
            self.report(&place, Progress::Offered { queue, agent: name });
        }
    }

    pub(super) fn stop_ring(&mut self, waiting: &mut Waiting, end: RingEnd, now: Instant) {
        let Some(Ring { agent: name, .. }) = waiting.ring.take() else { return };
        let rules = self.agents.get(&name).and_then(|agent| self.rules_for(&waiting.entry, agent));
        let most = rules.map_or(u32::MAX, |rules| rules.max_missed);
        if let Some(agent) = self.agents.get_mut(&name) {
            agent.stops_ringing(end, most, now);
        }
        let place = waiting.entry.place.clone();
        self.actions.push_back(Action::StopRinging { agent: name.clone(), call: place.call.clone(), end });
        match end {
            RingEnd::Missed | RingEnd::Declined => {
                let by = if end == RingEnd::Missed { &mut waiting.missed_by } else { &mut waiting.declined_by };
                by.insert(name.clone());
                if let Some(queue) = waiting.entry.queue().cloned() {
                    self.report(&place, Progress::Missed { queue, agent: name, end });
                }
            }
            RingEnd::CallerLeft | RingEnd::AgentLeft | RingEnd::Overflowed => {}
        }
    }

    pub(super) fn decline(&mut self, agent: &AgentName, call: &CallId, now: Instant) {
        if self.waiting.iter().any(|waiting| waiting.entry.place.call == *call && waiting.rings_at(agent)) {
            self.take_ring_from(agent, RingEnd::Declined, now);
        }
    }

    pub(super) fn take_ring_from(&mut self, agent: &AgentName, end: RingEnd, now: Instant) {
        if let Some(index) = self.waiting.iter().position(|waiting| waiting.rings_at(agent)) {
            self.end_ring_of(index, end, now);
        }
    }

    pub(super) fn end_rings(&mut self, now: Instant) {
        let mut index = 0;
        while let Some(waiting) = self.waiting.get(index) {
            let is_over = waiting.ring.as_ref().is_some_and(|ring| ring.until <= now);
            if !is_over || self.end_ring_of(index, RingEnd::Missed, now) {
                index += 1;
            }
        }
    }

    /// Nobody has answered this caller. Says whether it waits for somebody else.
    pub(super) fn end_ring_of(&mut self, index: usize, end: RingEnd, now: Instant) -> bool {
        let Some(mut waiting) = self.waiting.remove(index) else { return false };
        self.stop_ring(&mut waiting, end, now);
        match waiting.entry.wanted {
            Wanted::AnyOf { .. } => {
                self.waiting.insert(index, waiting);
                true
            }
            Wanted::Agent(_) => {
                self.actions.push_back(Action::Unreached { place: waiting.entry.place, why: end.into() });
                false
            }
        }
    }
}
