//! Transfers, cold and warm.

use super::*;

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
