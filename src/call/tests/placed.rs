//! Calls that we place.

use super::super::placed::SHOWN_WITHIN;
use super::*;

fn placing(attempts: &[AttemptKind]) -> Script {
    let now = Instant::now();
    Script { call: Call::placed(options(AnswerWhen::AgentReady, attempts), now), now }
}

/// connect is sent.
fn dialling() -> Script {
    let mut script = placing(&[AttemptKind::Agent]);
    assert_eq!(script.put(Input::Offered(Ok(offer()))), [Action::MakeOffer, Action::Connect(offer())]);
    script
}

fn offer() -> Arc<str> {
    "v=0 offer".into()
}

fn received() -> Input {
    Input::AnswerReceived(answer())
}

fn dial() -> Action {
    Action::Dial { attempt: nth(0) }
}

fn terminated(failed: bool) -> Input {
    Input::Terminated { failed, error: failed.then_some(138_021), picked_up: false }
}

#[test]
fn the_agent_is_dialled_while_it_rings_and_heard_from_the_callees_accept_on() {
    let mut script = dialling();
    assert_eq!(script.call.state_name(), "placing");
    assert_eq!(script.put(Input::Connected(Ok(()))), [dial()]);
    assert_eq!(script.put(Input::CalleeRings), []);
    assert_eq!(script.call.state_name(), "ringing");
    assert_eq!(script.put(received()), [Action::ApplyAnswer(answer())]);
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), []);
    assert_eq!(script.put(Input::MediaConnected), [], "nobody has accepted");
    assert_eq!(script.put(Input::PickedUp), [Action::StartSound]);
    assert_eq!(script.call.state_name(), "talking");
    assert_eq!(script.put(terminated(false)), [Action::Release(EndReason::CalleeHungUp)]);
}

#[test]
fn a_callee_who_accepts_before_media_or_agent_waits_for_them() {
    let mut script = dialling();
    assert_eq!(script.put(Input::PickedUp), [dial()], "the statuses may come before everything else");
    assert_eq!(script.call.state_name(), "accepting");
    assert_eq!(script.put(received()), [Action::ApplyAnswer(answer())]);
    assert_eq!(script.put(Input::MediaConnected), [Action::StartSound, Action::PlayHold]);
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), []);
}

#[test]
fn accepted_without_an_answer_ends_as_media_that_never_came() {
    let mut script = dialling();
    script.put(Input::Connected(Ok(())));
    script.put(Input::PickedUp);
    let reason = EndReason::MediaFailed(MediaFailure::NeverConnected);
    assert_eq!(script.pass(10 * SECOND), [Action::Terminate, Action::Release(reason)]);
}

#[test]
fn a_second_answer_changes_nothing() {
    let mut script = dialling();
    script.put(received());
    assert_eq!(script.put(Input::AnswerReceived("v=0 other".into())), []);
}

#[test]
fn the_callee_declines_and_meta_knows_it() {
    let mut script = dialling();
    script.put(Input::Connected(Ok(())));
    assert_eq!(script.put(Input::Declined), [Action::Release(EndReason::CalleeDeclined)]);
}

#[test]
fn a_phone_rings_no_longer_than_it_may() {
    let mut ours = dialling();
    ours.put(Input::Connected(Ok(())));
    ours.put(Input::CalleeRings);
    ours.put(Input::AgentJoined { attempt: nth(0) });
    assert_eq!(ours.pass(29 * SECOND), []);
    assert_eq!(ours.pass(SECOND), [Action::Terminate, Action::Release(EndReason::RingTimedOut)]);

    let mut metas = dialling();
    metas.put(Input::CalleeRings);
    assert_eq!(metas.put(terminated(false)), [Action::Release(EndReason::NoAnswer)]);
    assert_eq!(metas.call.ended().map(EndReason::name), ours.call.ended().map(EndReason::name));
}

#[test]
fn a_refused_connect_leaves_nothing_at_meta() {
    let mut script = dialling();
    let no_permission = GraphTrouble::Refused(Some(138_006));
    let reason = EndReason::ConnectFailed(no_permission);
    assert_eq!(reason.name(), "no_permission");
    assert_eq!(script.put(Input::Connected(Err(no_permission))), [Action::Release(reason)]);
}

#[test]
fn a_connect_without_a_reply_waits_for_meta_to_show_the_call() {
    let mut shown = dialling();
    assert_eq!(shown.put(Input::Connected(Err(GraphTrouble::Unknown))), []);
    assert_eq!(shown.put(Input::CalleeRings), [dial()]);

    let mut never = dialling();
    never.put(Input::Connected(Err(GraphTrouble::Unknown)));
    let reason = EndReason::ConnectFailed(GraphTrouble::Unknown);
    assert_eq!(never.pass(SHOWN_WITHIN), [Action::Terminate, Action::Release(reason)]);
}

#[test]
fn a_call_that_ends_before_its_connect_is_sent_is_not_sent() {
    let mut script = placing(&[AttemptKind::Agent]);
    script.put(Input::Offered(Err(EndReason::Overloaded(Shortage::Ports))));
    assert_eq!(script.call.ended(), Some(&EndReason::Overloaded(Shortage::Ports)));

    let mut script = placing(&[AttemptKind::Agent]);
    script.call.handle(Input::Offered(Ok(offer())), script.now);
    assert_eq!(script.put(Input::HangUp(EndReason::HungUpByApi)), [Action::Release(EndReason::HungUpByApi)]);
}

#[test]
fn the_application_hangs_up_and_cannot_accept_or_reject() {
    let mut script = dialling();
    assert_eq!(script.ask(Request::Accept { with: AcceptWith::Nobody }), Err("invalid_command"));
    assert_eq!(script.ask(Request::Reject { why: String::new() }), Err("invalid_command"));
    assert_eq!(
        script.put(Input::HangUp(EndReason::HungUpByApi)),
        [Action::Terminate, Action::Release(EndReason::HungUpByApi)]
    );
}

#[test]
fn without_an_agent_the_callee_waits_for_one() {
    let mut script = placing(&[]);
    script.put(Input::Offered(Ok(offer())));
    assert_eq!(script.put(Input::Connected(Ok(()))), []);
    script.put(received());
    script.put(Input::MediaConnected);
    assert_eq!(script.put(Input::PickedUp), [Action::StartSound, Action::PlayHold]);
    let connect = Request::Connect { attempts: vec![AttemptKind::Agent] };
    assert_eq!(script.ask(connect), Ok(vec![dial(), Action::PlayHold]));
}

fn any_news() -> impl Strategy<Value = Input> {
    let trouble = prop_oneof![
        4 => Just(GraphTrouble::Unknown),
        1 => Just(GraphTrouble::Unreachable),
        1 => Just(GraphTrouble::Refused(Some(138_006)))
    ];
    prop_oneof![
        8 => Just(Input::Offered(Ok(offer()))),
        8 => Just(Input::Connected(Ok(()))),
        2 => trouble.prop_map(|trouble| Input::Connected(Err(trouble))),
        8 => Just(received()),
        8 => Just(Input::CalleeRings),
        8 => Just(Input::PickedUp),
        1 => Just(Input::Declined),
        1 => Just(Input::Offered(Err(EndReason::InternalError))),
        1 => Just(Input::HangUp(EndReason::AnswerRefused(String::new()))),
        12 => any_input(),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn a_placed_call_is_connected_once_ends_once_and_leaves_no_zombie(
        attempts in any_targets(),
        steps in prop::collection::vec(
            (prop_oneof![4 => 0u64..300, 1 => 0u64..20_000], any_news(), prop::option::weighted(0.1, any_request())),
            0..40,
        ),
        polls_late in any::<bool>(),
    ) {
        let mut script = placing(&attempts);
        let mut done = Vec::new();
        for (time, input, request) in steps {
            script.now += Duration::from_millis(time);
            while script.call.poll_timeout().is_some_and(|deadline| deadline <= script.now) {
                let before = script.call.poll_timeout();
                script.call.handle_timeout(script.now);
                prop_assert_ne!(before, script.call.poll_timeout(), "a deadline that has come must go");
            }
            script.call.handle(input, script.now);
            if let Some(request) = request {
                let over = script.call.ended().is_some();
                prop_assert!(script.call.request(request, script.now).is_err() || !over);
            }
            if !polls_late {
                done.extend(std::iter::from_fn(|| script.call.poll_action()));
            }
            prop_assert_eq!(script.call.poll_timeout().is_none(), script.call.ended().is_some(), "every wait has a deadline");
        }
        script.call.handle(Input::HangUp(EndReason::HungUpByApi), script.now);
        done.extend(std::iter::from_fn(|| script.call.poll_action()));

        let count = |wanted: fn(&Action) -> bool| done.iter().filter(|action| wanted(action)).count();
        let at = |wanted: fn(&Action) -> bool| done.iter().position(wanted);
        let connects = count(|action| matches!(action, Action::Connect(_)));
        let terminates = count(|action| matches!(action, Action::Terminate));
        prop_assert!(connects <= 1 && terminates <= 1);
        prop_assert!(count(|action| matches!(action, Action::ApplyAnswer(_))) <= 1);
        prop_assert!(count(|action| matches!(action, Action::StartSound)) <= 1);
        prop_assert_eq!(count(|action| matches!(action, Action::Reject | Action::PreAccept(_) | Action::Accept(_))), 0);
        prop_assert_eq!(count(|action| matches!(action, Action::Release(_))), 1);
        prop_assert!(matches!(done.last(), Some(Action::Release(_))), "nothing is done after the end");

        if let Some(sound) = at(|action| matches!(action, Action::StartSound)) {
            let media = at(|action| *action == Action::Report(Progress::MediaConnected));
            let accepted = at(|action| *action == Action::Report(Progress::Accepted));
            prop_assert!(media.is_some_and(|media| media < sound) && accepted.is_some_and(|accepted| accepted < sound));
        }
        let end = script.call.ended().unwrap();
        let is_refused = matches!(end, EndReason::ConnectFailed(trouble) if *trouble != GraphTrouble::Unknown);
        prop_assert_eq!(terminates == 1, connects == 1 && !end.is_over_at_meta() && !is_refused);
    }

    #[test]
    fn any_order_of_the_good_news_of_a_placed_call_leads_to_one_conversation(
        order in Just(vec![0, 1, 2, 3]).prop_shuffle(),
        doubled in any::<bool>(),
    ) {
        let mut script = dialling();
        let mut done = Vec::new();
        for news in order {
            let input = match news {
                0 => Input::Connected(Ok(())),
                1 => Input::CalleeRings,
                2 => Input::PickedUp,
                _ => received(),
            };
            if doubled {
                done.extend(script.put(input.clone()));
            }
            done.extend(script.put(input));
        }
        done.extend(script.put(Input::AgentJoined { attempt: nth(0) }));
        done.extend(script.put(Input::MediaConnected));
        prop_assert_eq!(done.iter().filter(|action| **action == dial()).count(), 1);
        prop_assert_eq!(done.iter().filter(|action| matches!(action, Action::ApplyAnswer(_))).count(), 1);
        prop_assert_eq!(done.last(), Some(&Action::StartSound));
    }
}
