//! Queues by scripts of inputs, and what must hold under any order of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::snapshot::QueueSnapshot;
use super::{
    Action, AgentName, Entry, Input, NotOffered, OverflowReason, PlaceId, Progress, QueueOptions, Queues, RingEnd,
    SignIn, Unreached, Unstaffed, Wanted,
};
use crate::call::Attempt;
use crate::call::event::CallId;

const SECOND: Duration = Duration::from_secs(1);

/// Queues and a clock that only the test moves.
struct Script {
    queues: Queues,
    now: Instant,
    calls: Vec<CallId>,
}

impl Script {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(support: QueueOptions) -> Self {
        let queues = Queues::new([("support".into(), support), ("sales".into(), options())]);
        let calls = (0..16).map(|_| CallId::generate()).collect();
        Self { queues, now: Instant::now(), calls }
    }

    fn call(&self, nth: usize) -> CallId {
        self.calls[nth].clone()
    }

    /// The place of its first attempt.
    fn place(&self, nth: usize) -> PlaceId {
        PlaceId { call: self.call(nth), attempt: Attempt::new(0) }
    }

    fn put(&mut self, input: Input) -> Vec<Action> {
        self.queues.handle(input, self.now);
        self.actions()
    }

    fn enter(&mut self, nth: usize) -> Vec<Action> {
        self.put(Input::Entered(entry(self.place(nth), "support", &[])))
    }

    fn calls_by_name(&mut self, nth: usize, agent: &str) -> Vec<Action> {
        let wanted = Wanted::Agent(agent.into());
        self.put(Input::Entered(Entry { place: self.place(nth), wanted, caller: None }))
    }

    fn works(&mut self, agent: &str) -> Vec<Action> {
        self.put(Input::SignedIn(sign_in(agent, &["support"], &[])));
        self.put(Input::Available(agent.into()))
    }

    fn answer(&mut self, agent: &str, nth: usize) -> Result<Vec<Action>, NotOffered> {
        self.queues.answer(&agent.into(), &self.call(nth), self.now)?;
        Ok(self.actions())
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.queues.handle_timeout(self.now);
        self.actions()
    }

    /// What is to be done, without the reports.
    fn actions(&mut self) -> Vec<Action> {
        let all = std::iter::from_fn(|| self.queues.poll_action());
        all.filter(|action| !matches!(action, Action::Report { .. })).collect()
    }

    fn ring(&self, agent: &str, nth: usize) -> Action {
        Action::Ring { agent: agent.into(), call: self.call(nth) }
    }

    fn stop(&self, agent: &str, nth: usize, end: RingEnd) -> Action {
        Action::StopRinging { agent: agent.into(), call: self.call(nth), end }
    }

    fn overflow(&self, nth: usize, reason: OverflowReason) -> Action {
        Action::Overflow { place: self.place(nth), reason }
    }

    fn support(&self) -> QueueSnapshot {
        self.queues.snapshot(self.now).into_iter().find(|queue| *queue.name == *"support").unwrap()
    }
}

fn options() -> QueueOptions {
    QueueOptions {
        ring_timeout: 20 * SECOND,
        wrap_up: 5 * SECOND,
        max_waiting: 3,
        max_wait: 300 * SECOND,
        unstaffed: Unstaffed::Wait,
        sticky_for: 3600 * SECOND,
        announce_every: None,
        service_level: 20 * SECOND,
        max_missed: 2,
    }
}

fn entry(place: PlaceId, queue: &str, skills: &[&str]) -> Entry {
    let skills = skills.iter().map(|skill| (*skill).into()).collect();
    Entry { place, wanted: Wanted::AnyOf { queue: queue.into(), skills }, caller: None }
}

fn sign_in(agent: &str, queues: &[&str], skills: &[&str]) -> SignIn {
    SignIn {
        agent: agent.into(),
        queues: queues.iter().map(|queue| (*queue).into()).collect(),
        skills: skills.iter().map(|skill| (*skill).into()).collect(),
    }
}

#[test]
fn callers_are_answered_in_their_order() {
    let mut script = Script::new();
    assert_eq!(script.enter(0), []);
    assert_eq!(script.enter(1), []);
    assert_eq!(script.works("ada"), [script.ring("ada", 0)]);
    assert_eq!(script.answer("ada", 0), Ok(vec![Action::Connect { agent: "ada".into(), place: script.place(0) }]));
    assert_eq!(script.works("bob"), [script.ring("bob", 1)]);
    assert_eq!(script.support().counts.answered_in_time, 1);
}

#[test]
fn the_longest_idle_agent_is_first() {
    let mut script = Script::new();
    for agent in ["cleo", "ada", "bob"] {
        script.works(agent);
        script.after(SECOND);
    }
    assert_eq!(script.enter(0), [script.ring("cleo", 0)]);
    assert_eq!(script.enter(1), [script.ring("ada", 1)]);
}

#[test]
fn an_agent_that_does_not_answer_is_passed_over_and_at_last_away() {
    let mut script = Script::new();
    script.works("ada");
    script.after(SECOND);
    script.works("bob");
    script.enter(0);
    assert_eq!(script.after(20 * SECOND), [script.stop("ada", 0, RingEnd::Missed), script.ring("bob", 0)]);
    assert_eq!(script.after(20 * SECOND), [script.stop("bob", 0, RingEnd::Missed), script.ring("ada", 0)]);
    assert_eq!(script.after(20 * SECOND), [script.stop("ada", 0, RingEnd::Missed), script.ring("bob", 0)]);
    // Both have missed two.
    assert_eq!(script.after(20 * SECOND), [script.stop("bob", 0, RingEnd::Missed)]);
    assert!(script.support().agents.iter().all(|agent| agent.state == "away"));
    assert_eq!(script.put(Input::Available("bob".into())), [script.ring("bob", 0)]);
}

#[test]
fn the_first_answer_wins() {
    let mut script = Script::new();
    script.works("ada");
    script.works("bob");
    script.enter(0);
    assert!(script.answer("ada", 0).is_ok());
    assert_eq!(script.answer("ada", 0), Err(NotOffered));
    assert_eq!(script.answer("bob", 0), Err(NotOffered));
    assert_eq!(script.answer("bob", 1), Err(NotOffered));
}

#[test]
fn a_caller_that_hangs_up_stops_the_ring() {
    let mut script = Script::new();
    script.works("ada");
    script.enter(0);
    script.enter(1);
    let left = script.put(Input::Left(script.place(0)));
    assert_eq!(left, [script.stop("ada", 0, RingEnd::CallerLeft), script.ring("ada", 1)]);
    assert_eq!(script.support().counts.abandoned, 1);
}

#[test]
fn wrap_up_time_is_respected_and_may_be_cut_short() {
    let mut script = Script::new();
    script.works("ada");
    script.enter(0);
    script.answer("ada", 0).unwrap();
    script.enter(1);
    assert_eq!(script.put(Input::Finished(script.place(0))), []);
    assert_eq!(script.after(4 * SECOND), []);
    assert_eq!(script.after(SECOND), [script.ring("ada", 1)]);
    script.answer("ada", 1).unwrap();
    script.enter(2);
    script.put(Input::Finished(script.place(1)));
    assert_eq!(script.put(Input::Available("ada".into())), [script.ring("ada", 2)]);
}

#[test]
fn a_declined_call_is_not_offered_to_the_same_agent_again() {
    let mut script = Script::new();
    script.works("ada");
    script.enter(0);
    let declined = script.put(Input::Declined("ada".into(), script.call(0)));
    assert_eq!(declined, [script.stop("ada", 0, RingEnd::Declined)]);
    assert_eq!(script.enter(1), [script.ring("ada", 1)]);
    assert_eq!(script.works("bob"), [script.ring("bob", 0)]);
}

#[test]
fn an_agent_that_leaves_gives_its_ring_back_but_not_its_caller() {
    let mut script = Script::new();
    script.works("ada");
    script.works("bob");
    script.enter(0);
    let left = script.put(Input::SignedOut("ada".into()));
    assert_eq!(left, [script.stop("ada", 0, RingEnd::AgentLeft), script.ring("bob", 0)]);
    script.answer("bob", 0).unwrap();
    assert_eq!(script.put(Input::SignedOut("bob".into())), []);
    assert_eq!(script.support().agents.len(), 1);
    script.put(Input::Finished(script.place(0)));
    assert_eq!(script.support().agents, []);
}

#[test]
fn a_caller_whose_agent_could_not_connect_waits_in_its_old_place() {
    let mut script = Script::new();
    script.works("ada");
    script.enter(0);
    script.after(SECOND);
    script.enter(1);
    script.answer("ada", 0).unwrap();
    script.after(SECOND);
    script.works("bob");
    let back = script.put(Input::Returned(script.place(0)));
    // Bob rings already for the second caller; Ada's page has just failed, and she is the only one left.
    assert_eq!(back, [script.ring("ada", 0)]);
    let order: Vec<CallId> = script.support().waiting.into_iter().map(|waiting| waiting.call).collect();
    assert_eq!(order, [script.call(0), script.call(1)]);
    assert_eq!(script.support().counts.answered, 0);
}

#[test]
fn a_full_queue_and_a_long_wait_overflow() {
    let mut script = Script::new();
    for nth in 0..3 {
        script.enter(nth);
    }
    assert_eq!(script.enter(3), [script.overflow(3, OverflowReason::Full)]);
    let all = script.after(300 * SECOND);
    assert_eq!(all, [0, 1, 2].map(|nth| script.overflow(nth, OverflowReason::WaitedTooLong)));
    assert_eq!(script.queues.poll_timeout(), None);
}

#[test]
fn an_unstaffed_queue_overflows_where_it_is_told_to() {
    let mut script = Script::with(QueueOptions { unstaffed: Unstaffed::Overflow, ..options() });
    assert_eq!(script.enter(0), [script.overflow(0, OverflowReason::NoAgents)]);
    script.put(Input::SignedIn(sign_in("ada", &["support"], &[])));
    assert_eq!(script.enter(1), []);
    let left = script.put(Input::SignedOut("ada".into()));
    assert_eq!(left, [script.overflow(1, OverflowReason::NoAgents)]);
}

#[test]
fn skills_decide_who_may_take_a_call() {
    let mut script = Script::new();
    script.works("ada");
    script.put(Input::SignedIn(sign_in("bob", &["support"], &["spanish", "billing"])));
    script.put(Input::Entered(entry(script.place(0), "support", &["spanish"])));
    // Ada is idle and may not take it; the next caller needs no skill and is not held up.
    assert_eq!(script.enter(1), [script.ring("ada", 1)]);
    assert_eq!(script.put(Input::Available("bob".into())), [script.ring("bob", 0)]);
}

#[test]
fn a_returning_caller_gets_its_last_agent_if_that_one_is_free() {
    let mut script = Script::new();
    let of = |nth, script: &Script| {
        Input::Entered(Entry { caller: Some("digest".into()), ..entry(script.place(nth), "support", &[]) })
    };
    script.works("ada");
    script.put(of(0, &script));
    script.answer("ada", 0).unwrap();
    script.after(SECOND);
    script.works("bob");
    script.put(Input::Finished(script.place(0)));
    script.after(5 * SECOND);
    assert_eq!(script.put(of(1, &script)), [script.ring("ada", 1)]);
    assert_eq!(script.put(of(2, &script)), [script.ring("bob", 2)]);
    script.put(Input::Left(script.place(1)));
    script.put(Input::Left(script.place(2)));
    script.after(3600 * SECOND);
    // Too long ago; both are idle, and Ada was the first to be.
    script.put(Input::Away("ada".into()));
    script.put(Input::Available("ada".into()));
    assert_eq!(script.put(of(3, &script)), [script.ring("bob", 3)]);
}

#[test]
fn an_agent_of_two_queues_has_one_caller_at_a_time() {
    let mut script = Script::new();
    script.put(Input::Entered(entry(script.place(0), "sales", &[])));
    script.enter(1);
    script.put(Input::SignedIn(sign_in("ada", &["support", "sales"], &[])));
    assert_eq!(script.put(Input::Available("ada".into())), [script.ring("ada", 0)]);
    script.answer("ada", 0).unwrap();
    script.put(Input::Finished(script.place(0)));
    assert_eq!(script.after(5 * SECOND), [script.ring("ada", 1)]);
}

#[test]
fn a_call_by_name_rings_at_that_agent_alone_and_nobody_waits_for_it() {
    let mut script = Script::new();
    let unreached = |nth, why| Action::Unreached { place: script.place(nth), why };
    let [signed_out, away, missed, declined, busy, wraps_up] = [
        unreached(0, Unreached::SignedOut),
        unreached(0, Unreached::Away),
        unreached(1, Unreached::NoAnswer),
        unreached(2, Unreached::Declined),
        unreached(4, Unreached::Busy),
        unreached(5, Unreached::Busy),
    ];
    assert_eq!(script.calls_by_name(0, "ada"), [signed_out]);
    script.put(Input::SignedIn(sign_in("ada", &["support"], &[])));
    assert_eq!(script.calls_by_name(0, "ada"), [away]);
    script.works("ada");
    script.works("bob");
    assert_eq!(script.calls_by_name(1, "ada"), [script.ring("ada", 1)]);
    assert_eq!(script.support().waiting, [], "it waits in no queue");
    assert_eq!(script.after(20 * SECOND), [script.stop("ada", 1, RingEnd::Missed), missed]);
    script.calls_by_name(2, "ada");
    let refused = script.put(Input::Declined("ada".into(), script.call(2)));
    assert_eq!(refused, [script.stop("ada", 2, RingEnd::Declined), declined]);
    script.calls_by_name(3, "ada");
    script.answer("ada", 3).unwrap();
    assert_eq!(script.calls_by_name(4, "ada"), [busy]);
    script.put(Input::Finished(script.place(3)));
    assert_eq!(script.calls_by_name(5, "ada"), [wraps_up]);
    assert_eq!(script.support().counts, Default::default());
}

#[test]
fn in_a_transfer_one_call_has_an_agent_and_rings_at_another() {
    let mut script = Script::new();
    script.works("ada");
    script.enter(0);
    script.answer("ada", 0).unwrap();
    script.works("bob");
    let second = PlaceId { attempt: Attempt::new(1), ..script.place(0) };
    let ring = script.put(Input::Entered(entry(second.clone(), "support", &[])));
    assert_eq!(ring, [script.ring("bob", 0)]);
    let connected = script.answer("bob", 0);
    assert_eq!(connected, Ok(vec![Action::Connect { agent: "bob".into(), place: second.clone() }]));
    script.put(Input::Finished(script.place(0)));
    let state = |script: &Script, agent: &str| script.queues.agent(&agent.into()).unwrap();
    let (ada, bob) = (state(&script, "ada"), state(&script, "bob"));
    assert_eq!((ada.state, ada.last_call), ("wrap_up", Some(script.call(0))));
    assert_eq!((bob.state, bob.call), ("talking", Some(script.call(0))));
    script.put(Input::Left(second));
    assert_eq!(state(&script, "bob").state, "wrap_up");
}

#[test]
fn positions_are_announced() {
    let mut script = Script::with(QueueOptions { announce_every: Some(30 * SECOND), ..options() });
    script.enter(0);
    script.after(10 * SECOND);
    script.enter(1);
    let announce = |script: &Script, nth, position| Action::Announce { place: script.place(nth), position };
    assert_eq!(script.after(20 * SECOND), [announce(&script, 0, 1)]);
    assert_eq!(script.after(10 * SECOND), [announce(&script, 1, 2)]);
    script.put(Input::Left(script.place(0)));
    assert_eq!(script.after(30 * SECOND), [announce(&script, 1, 1)]);
}

#[test]
fn a_standstill_of_ours_costs_no_agent_its_ring() {
    let mut script = Script::new();
    script.works("ada");
    script.enter(0);
    script.queues.stood_still(60 * SECOND);
    assert_eq!(script.after(60 * SECOND), []);
    assert_eq!(script.after(20 * SECOND), [script.stop("ada", 0, RingEnd::Missed), script.ring("ada", 0)]);
}

/// One step of the random script, by number of call and agent.
#[derive(Clone, Debug)]
enum Step {
    Enter { call: usize, queue: usize, skilled: bool },
    CallByName { call: usize, agent: usize },
    Leave(usize),
    Finish(usize),
    Return(usize),
    SignIn { agent: usize, queues: usize, skilled: bool },
    SignOut(usize),
    Available(usize),
    Away(usize),
    Decline { agent: usize, call: usize },
    Answer { agent: usize, call: usize },
    Wait(u64),
}

const AGENTS: [&str; 4] = ["ada", "bob", "cleo", "dan"];
const QUEUES: [&str; 2] = ["support", "sales"];

fn step() -> impl Strategy<Value = Step> {
    let (agent, call) = (0..AGENTS.len(), 0..16usize);
    prop_oneof![
        4 => (call.clone(), 0..2usize, any::<bool>())
            .prop_map(|(call, queue, skilled)| Step::Enter { call, queue, skilled }),
        2 => (call.clone(), agent.clone()).prop_map(|(call, agent)| Step::CallByName { call, agent }),
        1 => call.clone().prop_map(Step::Leave),
        2 => call.clone().prop_map(Step::Finish),
        1 => call.clone().prop_map(Step::Return),
        2 => (agent.clone(), 1..4usize, any::<bool>())
            .prop_map(|(agent, queues, skilled)| Step::SignIn { agent, queues, skilled }),
        1 => agent.clone().prop_map(Step::SignOut),
        3 => agent.clone().prop_map(Step::Available),
        1 => agent.clone().prop_map(Step::Away),
        1 => (agent.clone(), call.clone()).prop_map(|(agent, call)| Step::Decline { agent, call }),
        6 => (agent, call).prop_map(|(agent, call)| Step::Answer { agent, call }),
        3 => (0..400u64).prop_map(Step::Wait),
    ]
}

/// What a shell would know from the actions alone.
#[derive(Default)]
struct Ledger {
    entered: BTreeSet<CallId>,
    rings: BTreeMap<AgentName, CallId>,
    left: BTreeMap<CallId, u32>,
}

impl Ledger {
    fn take(&mut self, action: Action) -> Result<(), TestCaseError> {
        match action {
            Action::Ring { agent, call } => {
                prop_assert!(!self.left.contains_key(&call), "rings after its end");
                prop_assert!(!self.rings.values().any(|rings| *rings == call), "rings at two agents");
                prop_assert!(self.rings.insert(agent, call).is_none(), "an agent rings twice");
            }
            Action::StopRinging { agent, call, .. } => {
                prop_assert_eq!(self.rings.remove(&agent), Some(call));
            }
            Action::Connect { agent, place } => {
                prop_assert_eq!(self.rings.remove(&agent), Some(place.call.clone()));
                *self.left.entry(place.call).or_default() += 1;
            }
            Action::Report { place, progress: Progress::Entered { .. } } => {
                self.entered.insert(place.call);
            }
            Action::Report { place, progress: Progress::Returned { .. } } => {
                prop_assert_eq!(self.left.remove(&place.call), Some(1));
            }
            Action::Report { place, progress: Progress::Abandoned { .. } } | Action::Overflow { place, .. } => {
                *self.left.entry(place.call).or_default() += 1;
            }
            // Also after an answer whose page did not connect.
            Action::Unreached { place, .. } => drop(self.left.insert(place.call, 1)),
            Action::Announce { .. } | Action::Report { .. } => {}
        }
        Ok(())
    }
}

proptest! {
    #[test]
    fn no_caller_is_lost_and_nobody_waits_beside_an_idle_agent(steps in prop::collection::vec(step(), 1..200)) {
        let mut script = Script::with(QueueOptions { max_waiting: 5, ..options() });
        let mut ledger = Ledger::default();
        for step in steps {
            run(&mut script, &step, &mut ledger);
            while let Some(action) = script.queues.poll_action() {
                ledger.take(action)?;
            }
            let waiting: BTreeSet<CallId> =
                script.queues.waiting.iter().map(|waiting| waiting.entry.place.call.clone()).collect();
            let open: BTreeSet<CallId> =
                ledger.entered.iter().filter(|call| !ledger.left.contains_key(call)).cloned().collect();
            prop_assert_eq!(waiting, open, "each caller that entered waits or has left");
            prop_assert!(ledger.left.values().all(|times| *times == 1), "a caller leaves once");
            for waiting in script.queues.waiting.iter().filter(|waiting| waiting.ring.is_none()) {
                prop_assert!(waiting.entry.queue().is_some(), "nobody waits for one agent");
                prop_assert_eq!(script.queues.best_agent(waiting, script.now), None, "somebody is free");
            }
            prop_assert!(script.queues.poll_timeout().is_none_or(|at| at > script.now), "a deadline is overdue");
        }
    }
}

fn run(script: &mut Script, step: &Step, ledger: &mut Ledger) {
    let name = |agent: usize| AgentName::from(AGENTS[agent]);
    let skills: fn(bool) -> &'static [&'static str] = |skilled| if skilled { &["spanish"] } else { &[] };
    let input = match *step {
        // A call enters once in its life.
        Step::Enter { call, .. } | Step::CallByName { call, .. } if ledger.entered.contains(&script.call(call)) => {
            return;
        }
        Step::Enter { call, queue, skilled } => {
            Input::Entered(entry(script.place(call), QUEUES[queue], skills(skilled)))
        }
        Step::CallByName { call, agent } => {
            ledger.entered.insert(script.call(call));
            Input::Entered(Entry { place: script.place(call), wanted: Wanted::Agent(name(agent)), caller: None })
        }
        Step::Leave(call) => {
            // Nothing reports that a call by name is given up while it rings.
            let place = script.place(call);
            let by_name = |waiting: &super::Waiting| waiting.entry.place == place && waiting.entry.queue().is_none();
            if script.queues.waiting.iter().any(by_name) {
                ledger.left.insert(place.call.clone(), 1);
            }
            Input::Left(place)
        }
        Step::Finish(call) => Input::Finished(script.place(call)),
        Step::Return(call) => Input::Returned(script.place(call)),
        Step::SignIn { agent, queues, skilled } => {
            let queues: Vec<&str> = (0..2).filter(|bit| queues & (1 << bit) != 0).map(|bit| QUEUES[bit]).collect();
            Input::SignedIn(sign_in(AGENTS[agent], &queues, skills(skilled)))
        }
        Step::SignOut(agent) => Input::SignedOut(name(agent)),
        Step::Available(agent) => Input::Available(name(agent)),
        Step::Away(agent) => Input::Away(name(agent)),
        Step::Decline { agent, call } => Input::Declined(name(agent), script.call(call)),
        Step::Answer { agent, call } => {
            let rings = ledger.rings.get(&name(agent)) == Some(&script.call(call));
            let answered = script.queues.answer(&name(agent), &script.call(call), script.now);
            assert_eq!(answered.is_ok(), rings);
            return;
        }
        Step::Wait(seconds) => {
            script.now += Duration::from_secs(seconds);
            return script.queues.handle_timeout(script.now);
        }
    };
    script.queues.handle(input, script.now);
}
