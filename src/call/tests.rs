//! The call by scripts of inputs, and what must hold under any order of them.

mod placed;
mod external;

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::agent_failure::AgentFailureKind;
use super::end::{EndReason, GraphTrouble, MediaFailure, Shortage};
use super::{
    AcceptWith, Action, AnswerWhen, Attempt, AttemptKind, Call, CallOptions, Input, LeaveReason, Progress, Request,
    Signaling, Transfer, TransferStage,
};

/// A call and a clock that only the test moves.
struct Script {
    call: Call,
    now: Instant,
}

impl Script {
    fn new(attempts: &[AttemptKind]) -> Self {
        Self::answering(AnswerWhen::AgentReady, attempts)
    }

    fn answering(answer: AnswerWhen, attempts: &[AttemptKind]) -> Self {
        let now = Instant::now();
        Self { call: Call::offered_by_meta(options(answer, attempts), now), now }
    }

    /// One agent, answered and talking.
    fn talking(attempts: &[AttemptKind]) -> Self {
        let mut script = Self::new(attempts);
        script.answered();
        script.put(Input::PreAccepted(Ok(())));
        script.put(Input::MediaConnected);
        script.put(Input::AgentJoined { attempt: nth(0) });
        script.put(Input::Accepted(Ok(())));
        script
    }

    fn answered(&mut self) -> Vec<Action> {
        self.put(Input::Answered(Ok(answer())))
    }

    /// Asks for something and takes what is to be done, or why it is not.
    fn ask(&mut self, request: Request) -> Result<Vec<Action>, &'static str> {
        self.call.request(request, self.now).map_err(|refusal| refusal.code.name())?;
        Ok(self.actions())
    }

    /// Gives an input and takes what is to be done, without the reports.
    fn put(&mut self, input: Input) -> Vec<Action> {
        self.call.handle(input, self.now);
        self.actions()
    }

    fn pass(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.call.handle_timeout(self.now);
        self.actions()
    }

    /// The process is frozen for so long and notices it.
    fn stand_still(&mut self, gap: Duration) {
        self.now += gap;
        self.call.extend_deadlines(gap, self.now);
    }

    fn actions(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.call.poll_action()).filter(|action| !matches!(action, Action::Report(_))).collect()
    }
}

fn options(answer: AnswerWhen, attempts: &[AttemptKind]) -> CallOptions {
    CallOptions {
        signaling: Signaling::Graph,
        accept_timeout: Duration::from_secs(30),
        media_timeout: Duration::from_secs(10),
        agent_timeout: Duration::from_secs(8),
        max_duration: Duration::from_secs(3600),
        answer,
        awaits_decision: false,
        attempts: attempts.to_vec(),
    }
}

fn answer() -> Arc<str> {
    "v=0".into()
}

fn transfer(warm: bool) -> Request {
    Request::Transfer { attempts: vec![AttemptKind::Agent], warm }
}

fn nth(number: usize) -> Attempt {
    Attempt::new(number)
}

/// Its agent may come back within twenty seconds.
fn interrupted(attempt: Attempt) -> Input {
    let (failure, back_within) = (AgentFailureKind::Disconnected.into(), 20 * SECOND);
    Input::AgentInterrupted { attempt, failure, back_within }
}

fn dropped(attempt: Attempt, reason: LeaveReason) -> Action {
    Action::DropAgent { attempt, reason }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn at_once_means_that_the_caller_waits_with_us() {
    let mut script =
        Script::answering(AnswerWhen::AtOnce, &[AttemptKind::Agent, AttemptKind::Agent, AttemptKind::Prompts]);
    script.answered();
    script.put(Input::PreAccepted(Ok(())));
    assert_eq!(script.put(Input::MediaConnected), [Action::Accept(answer())]);
    assert_eq!(script.put(Input::Accepted(Ok(()))), [Action::StartSound, Action::PlayRingback]);
    // The ringback goes on while the next agent is tried.
    let refused = Input::AgentFailed { attempt: nth(0), failure: AgentFailureKind::Refused.into() };
    assert_eq!(
        script.put(refused),
        [Action::DropAgent { attempt: nth(0), reason: LeaveReason::Failed }, Action::Dial { attempt: nth(1) }]
    );
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(1) }), []);
    let lost = Input::AgentFailed { attempt: nth(1), failure: AgentFailureKind::Disconnected.into() };
    assert_eq!(
        script.put(lost),
        [Action::DropAgent { attempt: nth(1), reason: LeaveReason::Failed }, Action::PlayPrompts { attempt: nth(2) }]
    );
}

#[test]
fn in_a_queue_the_caller_hears_its_music_and_waits_as_long_as_the_queue_lets_it() {
    let mut script = Script::answering(AnswerWhen::AtOnce, &[AttemptKind::Queue, AttemptKind::Prompts]);
    assert!(script.answered().contains(&Action::EnterQueue { attempt: nth(0) }));
    script.put(Input::PreAccepted(Ok(())));
    assert_eq!(script.put(Input::MediaConnected), [Action::Accept(answer())]);
    let music = Action::PlayQueueHold { attempt: nth(0) };
    assert_eq!(script.put(Input::Accepted(Ok(()))), [Action::StartSound, music]);
    assert_eq!(script.pass(600 * SECOND), [], "agent_timeout is not for queues");
    let overflowed = Input::AgentFailed { attempt: nth(0), failure: AgentFailureKind::QueueOverflow.into() };
    assert_eq!(script.put(overflowed), [dropped(nth(0), LeaveReason::Failed), Action::PlayPrompts { attempt: nth(1) }]);
}

#[test]
fn a_queue_behind_an_agent_accepts_the_call_and_one_before_it_does_not() {
    for (attempts, accepts) in [(vec![AttemptKind::Queue], false), (vec![AttemptKind::Agent, AttemptKind::Queue], true)]
    {
        let mut script = Script::new(&attempts);
        script.answered();
        script.put(Input::PreAccepted(Ok(())));
        script.put(Input::MediaConnected);
        let refused = Input::AgentFailed { attempt: nth(0), failure: AgentFailureKind::Refused.into() };
        let actions = if accepts { script.put(refused) } else { script.pass(SECOND) };
        assert_eq!(actions.contains(&Action::Accept(answer())), accepts, "{attempts:?}: {actions:?}");
    }
}

#[test]
fn a_caller_handed_over_to_a_queue_has_no_agent_until_one_of_the_queue_joins() {
    let mut script = Script::talking(&[AttemptKind::Agent]);
    let to_queue = |warm| Request::Transfer { attempts: vec![AttemptKind::Queue], warm };
    let (enter, music) = (Action::EnterQueue { attempt: nth(1) }, Action::PlayQueueHold { attempt: nth(1) });
    assert_eq!(script.ask(to_queue(false)), Ok(vec![dropped(nth(0), LeaveReason::Transferred), enter, music]));
    assert_eq!(script.call.agent(), None);
    script.put(Input::AgentJoined { attempt: nth(1) });
    assert_eq!(script.call.agent(), Some(nth(1)));
}

#[test]
fn in_a_warm_transfer_to_a_queue_the_first_agent_waits_as_long_as_it_likes() {
    let waiting = || {
        let mut script = Script::talking(&[AttemptKind::Agent]);
        let to_queue = Request::Transfer { attempts: vec![AttemptKind::Queue], warm: true };
        assert_eq!(script.ask(to_queue), Ok(vec![Action::Hold, Action::EnterQueueBeside { attempt: nth(1) }]));
        assert_eq!(script.pass(600 * SECOND), [], "agent_timeout is not for queues");
        script
    };
    let mut consulting = waiting();
    consulting.put(Input::AgentJoined { attempt: nth(1) });
    assert_eq!(consulting.call.transfer(), Some(Transfer { to: nth(1), stage: TransferStage::Consulting }));
    assert_eq!(consulting.put(Input::AgentJoined { attempt: nth(0) }), [Action::Hold], "the first one's page reloaded");
    let promoted = vec![dropped(nth(0), LeaveReason::Transferred), Action::Promote { attempt: nth(1) }];
    assert_eq!(consulting.ask(Request::CompleteTransfer), Ok(promoted));
    assert_eq!(
        waiting().ask(Request::CancelTransfer),
        Ok(vec![dropped(nth(1), LeaveReason::Cancelled), Action::Unhold])
    );
    let overflowed = Input::AgentFailed { attempt: nth(1), failure: AgentFailureKind::QueueOverflow.into() };
    assert_eq!(waiting().put(overflowed), [dropped(nth(1), LeaveReason::Failed), Action::Unhold]);

    let mut left = waiting();
    let music = Action::PlayQueueHold { attempt: nth(1) };
    assert_eq!(
        left.ask(Request::CompleteTransfer),
        Ok(vec![dropped(nth(0), LeaveReason::Transferred), music]),
        "it need not wait with the caller"
    );
    assert_eq!(left.put(Input::AgentJoined { attempt: nth(1) }), [Action::Promote { attempt: nth(1) }]);
}

#[test]
fn a_person_called_by_name_has_its_own_ring_time_and_the_first_agent_stays_until_it_answers() {
    for warm in [false, true] {
        let mut script = Script::talking(&[AttemptKind::Agent]);
        let to_person = Request::Transfer { attempts: vec![AttemptKind::Person, AttemptKind::Queue], warm };
        assert_eq!(script.ask(to_person), Ok(vec![Action::Hold, Action::EnterQueueBeside { attempt: nth(1) }]));
        assert_eq!(script.pass(60 * SECOND), []);
        let busy = Input::AgentFailed { attempt: nth(1), failure: AgentFailureKind::Busy.into() };
        let next = if warm { Action::EnterQueueBeside { attempt: nth(2) } } else { Action::Unhold };
        assert_eq!(script.put(busy), [dropped(nth(1), LeaveReason::Failed), next]);
    }
    let mut called = Script::answering(AnswerWhen::AtOnce, &[AttemptKind::Person, AttemptKind::Prompts]);
    assert!(called.answered().contains(&Action::EnterQueue { attempt: nth(0) }));
}

#[test]
fn media_that_does_not_come_up_under_load_is_our_own_fault() {
    for (under_load, reason) in
        [(true, EndReason::Overloaded(Shortage::Load)), (false, EndReason::MediaFailed(MediaFailure::NeverConnected))]
    {
        let mut script = Script::new(&[AttemptKind::Agent]);
        script.answered();
        script.put(Input::PreAccepted(Ok(())));
        script.put(Input::AgentJoined { attempt: nth(0) });
        script.call.set_under_load(under_load);
        script.pass(10 * SECOND);
        assert_eq!(script.call.ended(), Some(&reason));
    }
}

#[test]
fn a_standstill_of_our_own_ends_nobodys_time() {
    let gap = 60 * SECOND;
    let mut script = Script::new(&[AttemptKind::Agent]);
    script.answered();
    script.put(Input::PreAccepted(Ok(())));
    script.stand_still(gap);
    assert_eq!(script.pass(SECOND), []);
    // What is read now counts as ever.
    script.put(Input::AgentJoined { attempt: nth(0) });
    assert_eq!(script.put(Input::MediaConnected), [Action::Accept(answer())]);

    // A side that has not connected yet keeps the rest of its time, and no more.
    for (joined, connected, passed, reason) in [
        (true, false, 10, EndReason::MediaFailed(MediaFailure::NeverConnected)),
        (false, true, 8, EndReason::NoAgent(AgentFailureKind::NoAnswer.into())),
    ] {
        let mut script = Script::new(&[AttemptKind::Agent]);
        script.answered();
        script.put(Input::PreAccepted(Ok(())));
        joined.then(|| script.put(Input::AgentJoined { attempt: nth(0) }));
        connected.then(|| script.put(Input::MediaConnected));
        script.pass(SECOND);
        script.stand_still(gap);
        script.pass((passed - 1) * SECOND - SECOND / 2);
        assert_eq!(script.call.ended(), None);
        script.pass(SECOND);
        assert_eq!(script.call.ended(), Some(&reason));
    }
}

#[test]
fn media_and_agent_connect_in_parallel_and_accept_waits_for_both() {
    let mut script = Script::new(&[AttemptKind::Agent]);
    assert_eq!(script.actions(), [Action::AnswerOffer]);
    assert_eq!(script.answered(), [Action::PreAccept(answer()), Action::Dial { attempt: nth(0) }]);
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), []);
    assert_eq!(script.put(Input::PreAccepted(Ok(()))), []);
    assert_eq!(script.put(Input::MediaConnected), [Action::Accept(answer())]);
    assert_eq!(script.put(Input::Accepted(Ok(()))), [Action::StartSound]);
    assert_eq!(
        script.put(Input::Terminated { failed: false, error: None, picked_up: false }),
        [Action::Release(EndReason::CallerHungUp)]
    );
}

#[test]
fn a_caller_who_hangs_up_while_ringing_frees_the_agent_and_meta_is_not_told() {
    let mut script = Script::new(&[AttemptKind::Agent]);
    script.answered();
    let ended = script.put(Input::Terminated { failed: false, error: None, picked_up: false });
    assert_eq!(ended, [Action::Release(EndReason::CallerGaveUp)]);
    assert_eq!(script.put(Input::MediaConnected), []);
}

/// Meta's `terminate` may overtake its reply to our accept.
#[test]
fn a_caller_who_hangs_up_before_metas_reply_to_accept_has_hung_up_if_meta_counted_the_call() {
    for (picked_up, reason) in [(true, EndReason::CallerHungUp), (false, EndReason::CallerGaveUp)] {
        let mut script = Script::new(&[AttemptKind::Agent]);
        script.answered();
        script.put(Input::AgentJoined { attempt: nth(0) });
        script.put(Input::PreAccepted(Ok(())));
        assert_eq!(script.put(Input::MediaConnected), [Action::Accept(answer())]);
        let ended = script.put(Input::Terminated { failed: false, error: None, picked_up });
        assert_eq!(ended, [Action::Release(reason)]);
    }
}

#[test]
fn metas_error_code_becomes_the_reason() {
    let mut script = Script::talking(&[AttemptKind::Agent]);
    let ended = script.put(Input::Terminated { failed: true, error: Some(138_021), picked_up: true });
    assert_eq!(ended, [Action::Release(EndReason::EndedByMeta { code: Some(138_021) })]);
}

#[test]
fn an_agent_that_refuses_gives_way_to_the_next_and_then_to_the_prompt() {
    let mut script = Script::new(&[AttemptKind::Agent, AttemptKind::Agent, AttemptKind::Prompts]);
    script.answered();
    script.put(Input::PreAccepted(Ok(())));
    script.put(Input::MediaConnected);
    let refused = |attempt| Input::AgentFailed { attempt, failure: AgentFailureKind::Refused.into() };
    assert_eq!(
        script.put(refused(nth(0))),
        [Action::DropAgent { attempt: nth(0), reason: LeaveReason::Failed }, Action::Dial { attempt: nth(1) }]
    );
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), [], "the first agent is out");
    let no_answer = script.pass(8 * SECOND);
    assert_eq!(
        no_answer,
        [Action::DropAgent { attempt: nth(1), reason: LeaveReason::Failed }, Action::Accept(answer())]
    );
    assert_eq!(script.put(Input::Accepted(Ok(()))), [Action::StartSound, Action::PlayPrompts { attempt: nth(2) }]);
    assert_eq!(
        script.put(Input::PromptFinished),
        [Action::Terminate, Action::Release(EndReason::AgentLost(AgentFailureKind::NoAnswer.into()))]
    );
}

#[test]
fn when_nobody_takes_the_call_it_is_terminated_because_meta_has_our_answer() {
    let mut script = Script::new(&[AttemptKind::Agent]);
    script.answered();
    let refused = Input::AgentFailed { attempt: nth(0), failure: AgentFailureKind::Refused.into() };
    assert_eq!(
        script.put(refused),
        [Action::Terminate, Action::Release(EndReason::NoAgent(AgentFailureKind::Refused.into()))]
    );
}

#[test]
fn an_agent_lost_in_the_middle_is_replaced_while_the_caller_hears_hold_music() {
    let mut script = Script::talking(&[AttemptKind::Agent, AttemptKind::Agent]);
    let lost = Input::AgentFailed { attempt: nth(0), failure: AgentFailureKind::Disconnected.into() };
    assert_eq!(
        script.put(lost),
        [
            Action::DropAgent { attempt: nth(0), reason: LeaveReason::Failed },
            Action::Dial { attempt: nth(1) },
            Action::PlayHold
        ]
    );
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(1) }), []);
    assert_eq!(
        script.put(Input::AgentHungUp { attempt: nth(1) }),
        [Action::Terminate, Action::Release(EndReason::AgentHungUp)]
    );
}

#[test]
fn an_agent_whose_connection_broke_may_come_back_while_the_caller_hears_hold_music() {
    let mut script = Script::talking(&[AttemptKind::Agent, AttemptKind::Prompts]);
    assert_eq!(script.put(interrupted(nth(0))), [Action::PlayHold]);
    assert_eq!(script.call.agent(), None);
    assert_eq!(script.pass(19 * SECOND), []);
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), []);
    assert_eq!(script.call.agent(), Some(nth(0)));
    assert_eq!(script.pass(60 * SECOND), [], "it is not waited for any more");

    // The worker gives it up, or does not report.
    let away = || {
        let mut script = Script::talking(&[AttemptKind::Agent, AttemptKind::Prompts]);
        script.put(interrupted(nth(0)));
        script
    };
    let prompts = [dropped(nth(0), LeaveReason::Failed), Action::PlayPrompts { attempt: nth(1) }];
    let failed = Input::AgentFailed { attempt: nth(0), failure: AgentFailureKind::Refused.into() };
    assert_eq!(away().put(failed), prompts);
    assert_eq!(away().pass(20 * SECOND), prompts);
    // It broke again before it was ready.
    let mut again = away();
    again.pass(10 * SECOND);
    assert_eq!(again.put(interrupted(nth(0))), [Action::PlayHold]);
    assert_eq!(again.pass(19 * SECOND), []);
}

#[test]
fn an_agent_that_is_lost_while_the_phone_rings_may_come_back_before_accept() {
    let mut script = Script::new(&[AttemptKind::Agent]);
    script.answered();
    script.put(Input::PreAccepted(Ok(())));
    script.put(Input::AgentJoined { attempt: nth(0) });
    assert_eq!(script.put(interrupted(nth(0))), []);
    assert_eq!(script.put(Input::MediaConnected), []);
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), [Action::Accept(answer())]);
}

#[test]
fn a_caller_whose_agent_is_away_can_be_put_through_to_others_and_the_fallback_stays() {
    let away = || {
        let mut script = Script::talking(&[AttemptKind::Agent, AttemptKind::Prompts]);
        script.put(interrupted(nth(0)));
        script
    };
    let left = dropped(nth(0), LeaveReason::Transferred);
    for warm in [false, true] {
        let mut script = away();
        let to = nth(2);
        assert_eq!(
            script.ask(transfer(warm)),
            Ok(vec![left.clone(), Action::DialBeside { attempt: to }, Action::PlayHold])
        );
        assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), [], "it is given up");
        assert_eq!(script.put(Input::AgentJoined { attempt: to }), [Action::Promote { attempt: to }]);
        assert_eq!(script.call.agent(), Some(to));
    }
    let mut script = away();
    script.ask(transfer(false)).unwrap();
    let refused = Input::AgentFailed { attempt: nth(2), failure: AgentFailureKind::Refused.into() };
    assert_eq!(
        script.put(refused),
        [dropped(nth(2), LeaveReason::Failed), Action::PlayPrompts { attempt: nth(1) }],
        "what was to follow the lost agent follows"
    );
    let to_queue = Request::Transfer { attempts: vec![AttemptKind::Queue], warm: false };
    let (enter, music) = (Action::EnterQueue { attempt: nth(2) }, Action::PlayQueueHold { attempt: nth(2) });
    assert_eq!(away().ask(to_queue), Ok(vec![left, enter, music]));

    let connect = Request::Connect { attempts: vec![AttemptKind::Agent] };
    let dial = Action::Dial { attempt: nth(2) };
    assert_eq!(away().ask(connect), Ok(vec![dropped(nth(0), LeaveReason::Replaced), dial, Action::PlayHold]));
    let parked = vec![dropped(nth(0), LeaveReason::Disconnected), Action::PlayHold];
    assert_eq!(away().ask(Request::Disconnect), Ok(parked));
    let caller_left = Input::Terminated { failed: false, error: None, picked_up: true };
    assert_eq!(away().put(caller_left), [Action::Release(EndReason::CallerHungUp)]);
}

#[test]
fn an_agent_lost_in_a_transfer_is_not_waited_for() {
    let mut script = Script::talking(&[AttemptKind::Agent]);
    script.ask(transfer(true)).unwrap();
    assert_eq!(script.put(interrupted(nth(0))), [dropped(nth(0), LeaveReason::Failed), Action::PlayHold]);
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(1) }), [Action::Promote { attempt: nth(1) }]);
}

#[test]
fn a_cold_transfer_hands_the_caller_over_as_soon_as_the_second_agent_is_there() {
    let mut script = Script::talking(&[AttemptKind::Agent]);
    assert_eq!(script.ask(transfer(false)), Ok(vec![Action::Hold, Action::DialBeside { attempt: nth(1) }]));
    assert_eq!(script.ask(transfer(false)), Err("transfer_under_way"));
    assert_eq!(script.ask(Request::CompleteTransfer), Err("no_transfer"));
    assert_eq!(
        script.put(Input::AgentJoined { attempt: nth(1) }),
        [dropped(nth(0), LeaveReason::Transferred), Action::Promote { attempt: nth(1) }]
    );
    assert_eq!(script.put(Input::AgentHungUp { attempt: nth(0) }), [], "its goodbye comes late");
    assert_eq!(
        script.put(Input::AgentHungUp { attempt: nth(1) }),
        [Action::Terminate, Action::Release(EndReason::AgentHungUp)]
    );
}

#[test]
fn a_transfer_that_nobody_takes_gives_the_caller_back() {
    let mut script = Script::talking(&[AttemptKind::Agent]);
    let to_two =
        Request::Transfer { attempts: vec![AttemptKind::Agent, AttemptKind::Agent, AttemptKind::Prompts], warm: false };
    assert_eq!(script.ask(to_two), Ok(vec![Action::Hold, Action::DialBeside { attempt: nth(1) }]));
    let refused = Input::AgentFailed { attempt: nth(1), failure: AgentFailureKind::Refused.into() };
    assert_eq!(script.put(refused), [dropped(nth(1), LeaveReason::Failed), Action::DialBeside { attempt: nth(2) }]);
    assert_eq!(script.pass(8 * SECOND), [dropped(nth(2), LeaveReason::Failed), Action::Unhold]);
    assert_eq!(script.call.agent(), Some(nth(0)));
    assert_eq!(script.ask(transfer(false)), Ok(vec![Action::Hold, Action::DialBeside { attempt: nth(4) }]));
    assert_eq!(script.ask(Request::CancelTransfer), Ok(vec![dropped(nth(4), LeaveReason::Cancelled), Action::Unhold]));
}

#[test]
fn in_a_warm_transfer_the_agents_talk_until_one_of_them_leaves() {
    let consulting = || {
        let mut script = Script::talking(&[AttemptKind::Agent]);
        assert_eq!(script.ask(transfer(true)), Ok(vec![Action::Hold, Action::DialBeside { attempt: nth(1) }]));
        assert_eq!(script.put(Input::AgentJoined { attempt: nth(1) }), []);
        script
    };
    let promoted = |left| vec![dropped(nth(0), left), Action::Promote { attempt: nth(1) }];
    assert_eq!(consulting().ask(Request::CompleteTransfer), Ok(promoted(LeaveReason::Transferred)));
    assert_eq!(consulting().put(Input::AgentHungUp { attempt: nth(0) }), promoted(LeaveReason::HungUp));
    let lost = |attempt| Input::AgentFailed { attempt, failure: AgentFailureKind::Disconnected.into() };
    assert_eq!(consulting().put(lost(nth(0))), promoted(LeaveReason::Failed));
    assert_eq!(consulting().put(lost(nth(1))), [dropped(nth(1), LeaveReason::Failed), Action::Unhold]);
    assert_eq!(
        consulting().put(Input::AgentHungUp { attempt: nth(1) }),
        [dropped(nth(1), LeaveReason::HungUp), Action::Unhold]
    );
    assert_eq!(
        consulting().ask(Request::CancelTransfer),
        Ok(vec![dropped(nth(1), LeaveReason::Cancelled), Action::Unhold])
    );
}

#[test]
fn prompts_that_a_transfer_led_to_are_nobodys_failure() {
    let mut script = Script::talking(&[AttemptKind::Agent, AttemptKind::Agent]);
    script.put(Input::AgentFailed { attempt: nth(0), failure: AgentFailureKind::Disconnected.into() });
    script.put(Input::AgentJoined { attempt: nth(1) });
    let to_prompts = Request::Transfer { attempts: vec![AttemptKind::Prompts], warm: false };
    assert_eq!(
        script.ask(to_prompts),
        Ok(vec![dropped(nth(1), LeaveReason::Transferred), Action::PlayPrompts { attempt: nth(2) }])
    );
    assert_eq!(
        script.put(Input::PromptFinished),
        [Action::Terminate, Action::Release(EndReason::PromptFinished)],
        "the agent that was lost has been replaced"
    );
}

#[test]
fn a_first_agent_that_leaves_in_a_transfer_leaves_the_caller_waiting_for_the_second() {
    let mut script = Script::talking(&[AttemptKind::Agent]);
    script.ask(transfer(true)).unwrap();
    assert_eq!(
        script.put(Input::AgentHungUp { attempt: nth(0) }),
        [dropped(nth(0), LeaveReason::HungUp), Action::PlayHold]
    );
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(1) }), [Action::Promote { attempt: nth(1) }]);

    let mut alone = Script::talking(&[AttemptKind::Agent]);
    alone.ask(transfer(false)).unwrap();
    alone.put(Input::AgentHungUp { attempt: nth(0) });
    assert_eq!(
        alone.pass(8 * SECOND),
        [Action::Terminate, Action::Release(EndReason::NoAgent(AgentFailureKind::NoAnswer.into()))]
    );
}

#[test]
fn the_application_takes_an_agent_away_and_brings_another() {
    let mut script = Script::talking(&[AttemptKind::Agent]);
    assert_eq!(script.ask(Request::Disconnect), Ok(vec![dropped(nth(0), LeaveReason::Disconnected), Action::PlayHold]));
    assert_eq!(script.ask(Request::Disconnect), Err("no_agent"));
    assert_eq!(script.ask(transfer(false)), Err("no_agent"));
    let connect = || Request::Connect { attempts: vec![AttemptKind::Agent, AttemptKind::Prompts] };
    assert_eq!(script.ask(connect()), Ok(vec![Action::Dial { attempt: nth(1) }, Action::PlayHold]));
    let refused = Input::AgentFailed { attempt: nth(1), failure: AgentFailureKind::Refused.into() };
    assert_eq!(script.put(refused), [dropped(nth(1), LeaveReason::Failed), Action::PlayPrompts { attempt: nth(2) }]);
    assert_eq!(script.ask(connect()), Ok(vec![Action::Dial { attempt: nth(3) }, Action::PlayHold]));
    assert_eq!(script.put(Input::PromptFinished), [], "the prompts have given way");
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(3) }), []);
    let to_prompts = Request::Transfer { attempts: vec![AttemptKind::Prompts], warm: false };
    assert_eq!(
        script.ask(to_prompts),
        Ok(vec![dropped(nth(3), LeaveReason::Transferred), Action::PlayPrompts { attempt: nth(5) }])
    );
}

#[test]
fn on_command_means_that_nobody_is_dialled_before_the_application_says_so() {
    let ringing = || {
        let mut script = Script::answering(AnswerWhen::OnCommand, &[AttemptKind::Agent]);
        assert_eq!(script.answered(), [Action::AnswerOffer, Action::PreAccept(answer())]);
        script.put(Input::PreAccepted(Ok(())));
        assert_eq!(script.put(Input::MediaConnected), []);
        script
    };
    let accept = |with| Request::Accept { with };
    let accepted = || Action::Accept(answer());
    let mut by_route = ringing();
    assert_eq!(by_route.ask(accept(AcceptWith::Route)), Ok(vec![Action::Dial { attempt: nth(0) }, accepted()]));
    assert_eq!(by_route.put(Input::Accepted(Ok(()))), [Action::StartSound, Action::PlayRingback]);
    assert_eq!(by_route.ask(accept(AcceptWith::Route)), Err("call_already_accepted"));
    assert_eq!(by_route.ask(Request::Reject { why: String::new() }), Err("call_already_accepted"));

    let others = AcceptWith::Others(vec![AttemptKind::Prompts]);
    assert_eq!(ringing().ask(accept(others)), Ok(vec![accepted()]));
    assert_eq!(ringing().ask(accept(AcceptWith::Nobody)), Ok(vec![accepted()]));
    let rejected = EndReason::RejectedByApi("closed today".to_owned());
    assert_eq!(
        ringing().ask(Request::Reject { why: "closed today".to_owned() }),
        Ok(vec![Action::Terminate, Action::Release(rejected)])
    );
    let mut forgotten = ringing();
    forgotten.pass(30 * SECOND);
    assert_eq!(forgotten.call.ended(), Some(&EndReason::AcceptTimedOut));
}

#[test]
fn a_call_that_is_put_through_while_it_rings_is_accepted_once_the_agent_is_ready() {
    let mut script = Script::answering(AnswerWhen::OnCommand, &[AttemptKind::Agent]);
    script.answered();
    script.put(Input::PreAccepted(Ok(())));
    script.put(Input::MediaConnected);
    let put_through = || Request::TakeOver;
    assert_eq!(script.ask(put_through()), Ok(vec![Action::Dial { attempt: nth(1) }]));
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(1) }), [Action::Accept(answer())]);
    script.put(Input::Accepted(Ok(())));
    assert_eq!(script.ask(put_through()), Ok(vec![Action::DialBeside { attempt: nth(2) }]));
}

#[test]
fn an_agent_that_takes_over_replaces_the_other_only_once_it_has_joined() {
    let mut script = Script::talking(&[AttemptKind::Agent, AttemptKind::Prompts]);
    assert_eq!(script.ask(Request::TakeOver), Ok(vec![Action::DialBeside { attempt: nth(2) }]));
    assert_eq!(script.ask(Request::CancelTransfer), Err("no_transfer"));
    let fails = |attempt| Input::AgentFailed { attempt, failure: AgentFailureKind::NoAnswer.into() };
    assert_eq!(script.put(fails(nth(2))), [dropped(nth(2), LeaveReason::Failed)]);
    assert_eq!(script.call.agent(), Some(nth(0)), "nothing has changed");
    script.ask(Request::TakeOver).unwrap();
    let taken = [dropped(nth(0), LeaveReason::Replaced), Action::Promote { attempt: nth(3) }];
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(3) }), taken);
    assert_eq!(script.call.agent(), Some(nth(3)));
    // The route's fallback still follows, also after a second takeover.
    script.ask(Request::TakeOver).unwrap();
    script.put(Input::AgentJoined { attempt: nth(4) });
    let lost = [dropped(nth(4), LeaveReason::Failed), Action::PlayPrompts { attempt: nth(1) }];
    assert_eq!(script.put(fails(nth(4))), lost);
}

#[test]
fn an_agent_that_is_lost_while_another_takes_over_leaves_the_caller_to_that_one() {
    let talking = || {
        let mut script = Script::talking(&[AttemptKind::Agent, AttemptKind::Prompts]);
        script.ask(Request::TakeOver).unwrap();
        script
    };
    let fails = |attempt| Input::AgentFailed { attempt, failure: AgentFailureKind::Disconnected.into() };
    let mut lost = talking();
    assert_eq!(lost.put(fails(nth(0))), [dropped(nth(0), LeaveReason::Failed), Action::PlayHold]);
    assert_eq!(lost.put(Input::AgentJoined { attempt: nth(2) }), [Action::Promote { attempt: nth(2) }]);
    let mut both = talking();
    both.put(fails(nth(0)));
    let prompts = [dropped(nth(2), LeaveReason::Failed), Action::PlayPrompts { attempt: nth(1) }];
    assert_eq!(both.put(fails(nth(2))), prompts);
}

#[test]
fn a_call_that_awaits_a_decision_is_answered_and_dials_nobody_before_it() {
    let options = CallOptions { awaits_decision: true, ..Script::new(&[AttemptKind::Agent]).call.options };
    let now = Instant::now();
    let mut script = Script { call: Call::offered_by_meta(options, now), now };
    assert_eq!(script.answered(), [Action::AnswerOffer, Action::PreAccept(answer())]);
    assert_eq!(script.put(Input::Decided), [Action::Dial { attempt: nth(0) }]);
    assert_eq!(script.put(Input::Decided), []);
}

#[test]
fn an_offer_that_cannot_be_answered_is_rejected() {
    let mut script = Script::new(&[AttemptKind::Agent]);
    script.actions();
    let refused = EndReason::OfferRefused("no audio".into());
    assert_eq!(script.put(Input::Answered(Err(refused.clone()))), [Action::Reject, Action::Release(refused)]);
}

#[test]
fn a_refused_answer_is_rejected_and_an_unknown_outcome_waits_for_the_media() {
    let mut refused = Script::new(&[AttemptKind::Agent]);
    refused.answered();
    let reason = EndReason::PreAcceptFailed(GraphTrouble::Refused(Some(138_008)));
    assert_eq!(
        refused.put(Input::PreAccepted(Err(GraphTrouble::Refused(Some(138_008))))),
        [Action::Reject, Action::Release(reason)]
    );

    let mut unknown = Script::new(&[AttemptKind::Agent]);
    unknown.answered();
    unknown.put(Input::AgentJoined { attempt: nth(0) });
    assert_eq!(unknown.put(Input::PreAccepted(Err(GraphTrouble::Unknown))), []);
    assert_eq!(unknown.put(Input::MediaConnected), [Action::Accept(answer())]);
}

#[test]
fn a_failed_accept_rolls_everything_back() {
    let mut script = Script::new(&[AttemptKind::Agent]);
    script.answered();
    script.put(Input::PreAccepted(Ok(())));
    script.put(Input::MediaConnected);
    script.put(Input::AgentJoined { attempt: nth(0) });
    assert_eq!(
        script.put(Input::Accepted(Err(GraphTrouble::Unknown))),
        [Action::Terminate, Action::Release(EndReason::AcceptFailed(GraphTrouble::Unknown))]
    );
}

#[test]
fn every_wait_has_its_deadline() {
    let ended_by = |script: &mut Script, time| {
        script.pass(time);
        script.call.ended().cloned()
    };
    let mut no_answer = Script::new(&[AttemptKind::Agent]);
    assert_eq!(ended_by(&mut no_answer, 30 * SECOND), Some(EndReason::AcceptTimedOut));

    let mut no_media = Script::new(&[AttemptKind::Agent]);
    no_media.answered();
    no_media.put(Input::AgentJoined { attempt: nth(0) });
    no_media.pass(3 * SECOND);
    no_media.put(Input::PreAccepted(Ok(())));
    assert_eq!(ended_by(&mut no_media, 9 * SECOND), None, "the media's time begins with pre_accept's reply");
    assert_eq!(ended_by(&mut no_media, SECOND), Some(EndReason::MediaFailed(MediaFailure::NeverConnected)));

    let mut too_long = Script::talking(&[AttemptKind::Agent]);
    assert_eq!(ended_by(&mut too_long, 3600 * SECOND), Some(EndReason::MaxDuration));
}

/// The usual call, whose media has no deadline of its own.
fn usual() -> Script {
    let mut script = Script::new(&[AttemptKind::Agent]);
    script.call.options.media_timeout = script.call.options.accept_timeout;
    script.answered();
    script.put(Input::AgentJoined { attempt: nth(0) });
    script.put(Input::PreAccepted(Ok(())));
    script
}

#[test]
fn media_may_come_as_late_as_accept_may() {
    for late in [11, 29] {
        let mut script = usual();
        assert_eq!(script.pass(late * SECOND), []);
        assert_eq!(script.put(Input::MediaConnected), [Action::Accept(answer())], "{late} s");
    }
}

#[test]
fn a_call_that_could_not_be_accepted_in_time_says_what_was_missing() {
    let mut no_media = usual();
    no_media.pass(30 * SECOND);
    assert_eq!(no_media.call.ended(), Some(&EndReason::MediaFailed(MediaFailure::NeverConnected)));

    let mut no_agent = Script::new(&[AttemptKind::Agent, AttemptKind::Agent, AttemptKind::Agent, AttemptKind::Agent]);
    no_agent.answered();
    no_agent.put(Input::PreAccepted(Ok(())));
    no_agent.put(Input::MediaConnected);
    for _ in 0..30 {
        no_agent.pass(SECOND);
    }
    assert_eq!(no_agent.call.ended(), Some(&EndReason::AcceptTimedOut));
}

#[test]
fn a_media_close_waits_for_metas_word_about_it() {
    let mut script = Script::talking(&[AttemptKind::Agent]);
    assert_eq!(script.put(Input::MediaFailed(MediaFailure::ClosedByPeer)), []);
    script.pass(SECOND);
    assert_eq!(
        script.put(Input::Terminated { failed: false, error: None, picked_up: false }),
        [Action::Release(EndReason::CallerHungUp)]
    );

    let mut silent = Script::talking(&[AttemptKind::Agent]);
    silent.put(Input::MediaFailed(MediaFailure::ClosedByPeer));
    assert_eq!(
        silent.pass(2 * SECOND),
        [Action::Terminate, Action::Release(EndReason::MediaFailed(MediaFailure::ClosedByPeer))]
    );
}

fn any_input() -> impl Strategy<Value = Input> {
    let attempt = (0usize..3).prop_map(nth);
    let trouble = prop_oneof![
        Just(GraphTrouble::Unknown),
        Just(GraphTrouble::Unreachable),
        Just(GraphTrouble::NoSockets),
        Just(GraphTrouble::Refused(Some(100)))
    ];
    let media = prop_oneof![
        Just(MediaFailure::Silent),
        Just(MediaFailure::ClosedByPeer),
        Just(MediaFailure::FingerprintMismatch),
        Just(MediaFailure::HandshakeFailed)
    ];
    let agent = prop_oneof![Just(AgentFailureKind::Refused), Just(AgentFailureKind::Disconnected)];
    prop_oneof![
        8 => Just(Input::Answered(Ok(answer()))),
        1 => Just(Input::Answered(Err(EndReason::Overloaded(Shortage::Ports)))),
        8 => Just(Input::PreAccepted(Ok(()))),
        1 => trouble.clone().prop_map(|trouble| Input::PreAccepted(Err(trouble))),
        8 => Just(Input::Accepted(Ok(()))),
        1 => trouble.prop_map(|trouble| Input::Accepted(Err(trouble))),
        8 => Just(Input::MediaConnected),
        1 => media.prop_map(Input::MediaFailed),
        8 => attempt.clone().prop_map(|attempt| Input::AgentJoined { attempt }),
        3 => (attempt.clone(), agent).prop_map(|(attempt, kind)| Input::AgentFailed { attempt, failure: kind.into() }),
        3 => attempt.clone().prop_map(interrupted),
        1 => attempt.prop_map(|attempt| Input::AgentHungUp { attempt }),
        1 => Just(Input::PromptFinished),
        1 => (any::<bool>(), prop::option::of(Just(138_021i64)), any::<bool>())
            .prop_map(|(failed, error, picked_up)| Input::Terminated { failed, error, picked_up }),
        1 => Just(Input::HangUp(EndReason::ShuttingDown)),
    ]
}

/// One step of the world: time passes, then perhaps something happens.
fn any_step() -> impl Strategy<Value = (Duration, Option<Input>)> {
    (prop_oneof![4 => 0u64..300, 1 => 0u64..20_000], prop::option::weighted(0.9, any_input()))
        .prop_map(|(milliseconds, input)| (Duration::from_millis(milliseconds), input))
}

fn any_request() -> impl Strategy<Value = Request> {
    let with =
        prop_oneof![Just(AcceptWith::Route), any_targets().prop_map(AcceptWith::Others), Just(AcceptWith::Nobody)];
    prop_oneof![
        with.prop_map(|with| Request::Accept { with }),
        Just(Request::Reject { why: String::new() }),
        any_targets().prop_map(|attempts| Request::Connect { attempts }),
        Just(Request::TakeOver),
        Just(Request::Disconnect),
        (any_targets(), any::<bool>()).prop_map(|(attempts, warm)| Request::Transfer { attempts, warm }),
        Just(Request::CompleteTransfer),
        Just(Request::CancelTransfer),
    ]
}

fn any_answer() -> impl Strategy<Value = AnswerWhen> {
    prop_oneof![Just(AnswerWhen::AgentReady), Just(AnswerWhen::AtOnce), Just(AnswerWhen::OnCommand)]
}

fn any_targets() -> impl Strategy<Value = Vec<AttemptKind>> {
    let kind = prop_oneof![
        3 => Just(AttemptKind::Agent),
        1 => Just(AttemptKind::Person),
        1 => Just(AttemptKind::Queue),
        1 => Just(AttemptKind::Prompts)
    ];
    prop::collection::vec(kind, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_call_is_accepted_at_most_once_ends_once_and_rests_after_it(
        answer in any_answer(),
        attempts in any_targets(),
        steps in prop::collection::vec((any_step(), prop::option::weighted(0.2, any_request())), 0..40),
    ) {
        let mut script = Script::answering(answer, &attempts);
        let mut done = Vec::new();
        for ((time, input), request) in steps {
            script.now += time;
            while script.call.poll_timeout().is_some_and(|deadline| deadline <= script.now) {
                let before = script.call.poll_timeout();
                script.call.handle_timeout(script.now);
                prop_assert_ne!(before, script.call.poll_timeout(), "a deadline that has come must go");
            }
            if let Some(input) = input {
                let over = script.call.ended().is_some();
                script.call.handle(input, script.now);
                if over {
                    prop_assert!(script.call.ended().is_some());
                }
            }
            if let Some(request) = request {
                let over = script.call.ended().is_some();
                let done = script.call.request(request, script.now);
                prop_assert!(!over || done.is_err(), "nothing is begun after the end");
            }
            done.extend(std::iter::from_fn(|| script.call.poll_action()));
        }
        script.call.handle(Input::HangUp(EndReason::HungUpByApi), script.now);
        done.extend(std::iter::from_fn(|| script.call.poll_action()));

        let count = |wanted: fn(&Action) -> bool| done.iter().filter(|action| wanted(action)).count();
        prop_assert!(count(|action| matches!(action, Action::PreAccept(_))) <= 1);
        prop_assert!(count(|action| matches!(action, Action::Accept(_))) <= 1);
        prop_assert!(count(|action| matches!(action, Action::StartSound)) <= 1);
        prop_assert!(count(|action| matches!(action, Action::Reject | Action::Terminate)) <= 1);
        prop_assert_eq!(count(|action| matches!(action, Action::Release(_))), 1);
        prop_assert!(matches!(done.last(), Some(Action::Release(_))), "nothing is done after the end");
        prop_assert!(script.call.poll_timeout().is_none());

        let at = |wanted: fn(&Action) -> bool| done.iter().position(wanted);
        if let Some(accept) = at(|action| matches!(action, Action::Accept(_))) {
            let media = at(|action| *action == Action::Report(Progress::MediaConnected));
            prop_assert!(media.is_some_and(|media| media < accept), "accept needs media");
        }
        if let Some(sound) = at(|action| matches!(action, Action::StartSound)) {
            let accepted = at(|action| *action == Action::Report(Progress::Accepted));
            prop_assert!(accepted.is_some_and(|accepted| accepted < sound), "no sound before accept's reply");
        }
        let was_metas_word = script.call.ended().is_some_and(EndReason::is_over_at_meta);
        prop_assert_eq!(count(|action| matches!(action, Action::Reject | Action::Terminate)) == 0, was_metas_word);
    }

    #[test]
    fn any_order_of_the_good_news_leads_to_one_conversation(order in Just(vec![0, 1, 2]).prop_shuffle(), doubled in any::<bool>()) {
        let mut script = Script::new(&[AttemptKind::Agent]);
        let mut done = script.answered();
        for news in order {
            let input = match news {
                0 => Input::PreAccepted(Ok(())),
                1 => Input::MediaConnected,
                _ => Input::AgentJoined { attempt: nth(0) },
            };
            if doubled {
                done.extend(script.put(input.clone()));
            }
            done.extend(script.put(input));
        }
        done.extend(script.put(Input::Accepted(Ok(()))));
        prop_assert_eq!(done, [
            Action::AnswerOffer,
            Action::PreAccept(answer()),
            Action::Dial { attempt: nth(0) },
            Action::Accept(answer()),
            Action::StartSound,
        ]);
    }
}
