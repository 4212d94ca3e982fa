//! A caller put through to a queue or to a person by name.

use super::*;

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
