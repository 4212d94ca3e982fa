//! Instances: the WebSocket addresses of agents, their state, and which one a call dials.

mod breaker;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use url::Url;

use super::shown_address;
use super::status::AgentOutcome;
use crate::call::agent_failure::AgentFailure;
use crate::clock;
use breaker::Breaker;
pub use breaker::BreakerState;

/// Remembered addresses: those of the configuration, and some that apps have named. One more pushes out an address without
/// calls.
const ADDRESSES: usize = 10_000;

/// Which address of several a call dials first. Those whose breaker is open come last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// The first in the order of the configuration.
    #[default]
    First,
    /// That with the fewest calls of this process.
    LeastBusy,
}

impl Choice {
    const ALL: [Self; 2] = [Self::First, Self::LeastBusy];

    /// The stable name in the configuration and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::LeastBusy => "least_busy",
        }
    }

    /// The choice of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.name() == name)
    }
}

/// All addresses of this process. Cheap to clone: all workers dial, and the API looks.
#[derive(Clone, Default)]
pub struct Instances(Arc<Mutex<HashMap<String, Instance>>>);

/// One address.
#[derive(Default)]
struct Instance {
    breaker: Breaker,
    /// Calls that dial it.
    dialling: usize,
    /// Calls that talk with an agent there.
    talking: usize,
    last_outcome: Option<AgentOutcome>,
    last_failure: Option<(SystemTime, AgentFailure)>,
}

/// An address as the API shows it.
#[derive(Clone, Debug)]
pub struct InstanceView {
    /// Its breaker.
    pub breaker: BreakerState,
    /// Consecutive failures.
    pub failures: u32,
    /// Calls that talk with an agent there.
    pub live_calls: usize,
    /// The last attempt; None if there was none since the start.
    pub last_outcome: Option<AgentOutcome>,
    /// The last attempt, or conversation, that failed.
    pub last_failure: Option<(SystemTime, AgentFailure)>,
}

impl Instances {
    /// Begins to dial one of these addresses; none of those that `tried` names by their place.
    pub(crate) fn dial(&self, urls: &[Url], choice: Choice, tried: &[usize], now: Instant) -> Option<Visit> {
        let mut all = self.all();
        let candidates = urls.iter().enumerate().filter(|(place, _)| !tried.contains(place));
        let (place, url) = candidates.min_by_key(|(place, url)| rank(all.get(url.as_str()), choice, *place, now))?;
        let instance = entry(&mut all, url.as_str());
        instance.dialling += 1;
        let is_probe = instance.breaker.dialled(now);
        Some(Visit { instances: self.clone(), url: url.clone(), place, is_probe, has_joined: false })
    }

    /// How an address fares.
    pub fn look(&self, url: &Url, now: Instant) -> InstanceView {
        let all = self.all();
        let unknown = Instance::default();
        let instance = all.get(url.as_str()).unwrap_or(&unknown);
        InstanceView {
            breaker: instance.breaker.state(now),
            failures: instance.breaker.failures(),
            live_calls: instance.talking,
            last_outcome: instance.last_outcome.clone(),
            last_failure: instance.last_failure.clone(),
        }
    }

    /// The lock is held for a look-up only, and the entries are valid at every step.
    fn all(&self) -> MutexGuard<'_, HashMap<String, Instance>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lowest is dialled first. An open breaker refuses nobody, because it may be wrong: among those, the one that cools down
/// first comes first.
fn rank(instance: Option<&Instance>, choice: Choice, place: usize, now: Instant) -> (Option<Instant>, usize, usize) {
    let unknown = Instance::default();
    let instance = instance.unwrap_or(&unknown);
    let waits_until = match instance.breaker.state(now) {
        _ if instance.breaker.admits(now) => None,
        BreakerState::Open { until } => Some(until),
        BreakerState::HalfOpen | BreakerState::Closed => Some(now),
    };
    let calls = match choice {
        Choice::First => 0,
        Choice::LeastBusy => instance.dialling + instance.talking,
    };
    (waits_until, calls, place)
}

fn entry<'a>(all: &'a mut HashMap<String, Instance>, url: &str) -> &'a mut Instance {
    if all.len() >= ADDRESSES && !all.contains_key(url) {
        let idle = all.iter().filter(|(_, instance)| instance.dialling + instance.talking == 0);
        let oldest = idle.min_by_key(|(_, instance)| instance.last_outcome.as_ref().map(|outcome| outcome.at));
        oldest.map(|(url, _)| url.clone()).map(|url| all.remove(&url));
    }
    all.entry(url.to_owned()).or_default()
}

/// One call at one address, from dialling to its end. It is counted until it is dropped.
pub(crate) struct Visit {
    instances: Instances,
    url: Url,
    place: usize,
    is_probe: bool,
    has_joined: bool,
}

impl Visit {
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The place of the address in the list.
    pub fn place(&self) -> usize {
        self.place
    }

    /// Its agent has joined.
    pub fn joined(&mut self, now: Instant) {
        let is_new = !std::mem::replace(&mut self.has_joined, true);
        self.is_probe = false;
        self.note(now, |instance| {
            instance.breaker.succeeded();
            instance.last_outcome = Some(AgentOutcome { at: clock::wall(), failure: None });
            if is_new {
                instance.dialling -= 1;
                instance.talking += 1;
            }
        });
    }

    /// Its agent could not be reached, or is lost.
    pub fn failed(&mut self, failure: &AgentFailure, now: Instant) {
        self.is_probe = false;
        let at = clock::wall();
        self.note(now, |instance| {
            instance.breaker.failed(now);
            instance.last_outcome = Some(AgentOutcome { at, failure: Some(failure.clone()) });
            instance.last_failure = Some((at, failure.clone()));
        });
    }

    fn note(&self, now: Instant, change: impl FnOnce(&mut Instance)) {
        let mut all = self.instances.all();
        let instance = entry(&mut all, self.url.as_str());
        let before = instance.breaker.state(now);
        change(instance);
        let after = instance.breaker.state(now);
        drop(all);
        self.tell(before, after);
    }

    fn tell(&self, before: BreakerState, after: BreakerState) {
        let is_open = |state| matches!(state, BreakerState::Open { .. });
        let url = || shown_address(&self.url);
        match (is_open(before), is_open(after)) {
            (false, true) => {
                metrics::counter!("patchcord_agent_breakers_opened_total").increment(1);
                tracing::warn!(
                    agent.url = url(),
                    "agents at {} have failed repeatedly: others are dialled first",
                    url()
                );
            }
            (_, false) if after == BreakerState::Closed && before != after => {
                tracing::info!(agent.url = url(), "agents at {} can be reached again", url());
            }
            (true, true) | (false | true, false) => {}
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut all = self.instances.all();
        // An address with calls is not forgotten.
        let Some(instance) = all.get_mut(self.url.as_str()) else { return };
        match self.has_joined {
            true => instance.talking -= 1,
            false => instance.dialling -= 1,
        }
        if self.is_probe {
            instance.breaker.left();
        }
    }
}

impl fmt::Debug for Visit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Visit").field("place", &self.place).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::agent_failure::AgentFailureKind;

    fn urls() -> [Url; 3] {
        ["ws://127.0.0.1:1/a", "ws://127.0.0.1:2/b", "ws://127.0.0.1:3/c"].map(|url| url.parse().unwrap())
    }

    fn places(instances: &Instances, choice: Choice, now: Instant) -> Vec<usize> {
        let mut tried = Vec::new();
        while let Some(visit) = instances.dial(&urls(), choice, &tried, now) {
            tried.push(visit.place());
        }
        tried
    }

    fn fail(instances: &Instances, place: usize, now: Instant) {
        let url = &urls()[place..=place];
        for _ in 0..3 {
            let visit = instances.dial(url, Choice::First, &[], now);
            visit.unwrap().failed(&AgentFailureKind::Refused.into(), now);
        }
    }

    #[test]
    fn the_first_is_dialled_first_and_those_with_an_open_breaker_last() {
        let (instances, now) = (Instances::default(), clock::now());
        assert_eq!(places(&instances, Choice::First, now), [0, 1, 2]);
        fail(&instances, 0, now);
        assert_eq!(places(&instances, Choice::First, now), [1, 2, 0]);
        let view = instances.look(&urls()[0], now);
        assert!(matches!(view.breaker, BreakerState::Open { .. }) && view.failures == 3 && view.live_calls == 0);
        assert_eq!(view.last_failure.unwrap().1.kind, AgentFailureKind::Refused);
    }

    #[test]
    fn the_least_busy_has_the_fewest_calls_whether_they_talk_or_are_dialled() {
        let (instances, now) = (Instances::default(), clock::now());
        let dial = || instances.dial(&urls(), Choice::LeastBusy, &[], now).unwrap();
        let mut visits: Vec<Visit> = (0..3).map(|_| dial()).collect();
        assert_eq!(visits.iter().map(Visit::place).collect::<Vec<_>>(), [0, 1, 2]);
        visits[1].joined(now);
        visits.remove(2);
        assert_eq!(places(&instances, Choice::LeastBusy, now), [2, 0, 1]);
        assert_eq!(instances.look(&urls()[1], now).live_calls, 1);
        drop(visits);
        assert_eq!(instances.look(&urls()[1], now).live_calls, 0);
        assert_eq!(places(&instances, Choice::LeastBusy, now), [0, 1, 2]);
    }

    #[test]
    fn an_address_that_has_recovered_gets_one_call_and_then_all() {
        let (instances, start) = (Instances::default(), clock::now());
        fail(&instances, 0, start);
        let now = start + std::time::Duration::from_secs(10);
        let mut probe = instances.dial(&urls(), Choice::First, &[], now).unwrap();
        assert_eq!((probe.place(), instances.look(&urls()[0], now).breaker), (0, BreakerState::HalfOpen));
        let beside = instances.dial(&urls(), Choice::First, &[], now).unwrap();
        assert_eq!(beside.place(), 1, "one call probes");
        probe.joined(now);
        assert_eq!(places(&instances, Choice::First, now), [0, 1, 2]);
        assert_eq!(instances.look(&urls()[0], now).breaker, BreakerState::Closed);
    }

    #[test]
    fn addresses_are_bounded() {
        let (instances, now) = (Instances::default(), clock::now());
        let url = |number: usize| format!("ws://127.0.0.1/{number}").parse::<Url>().unwrap();
        let busy = instances.dial(&[url(0)], Choice::First, &[], now);
        for number in 1..=ADDRESSES {
            instances.dial(&[url(number)], Choice::First, &[], now);
        }
        assert_eq!(instances.all().len(), ADDRESSES);
        assert!(instances.all().contains_key(url(0).as_str()), "it has a call");
        drop(busy);
    }
}
