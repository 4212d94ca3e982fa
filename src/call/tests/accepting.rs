//! When a call is answered and accepted, and what happens if that fails.

use super::*;

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
