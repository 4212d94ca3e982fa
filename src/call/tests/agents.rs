//! Agents that refuse, are lost, come back or take over.

use super::*;

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
