//! What holds for any order of inputs.

use super::*;

pub(super) fn any_input() -> impl Strategy<Value = Input> {
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
pub(super) fn any_step() -> impl Strategy<Value = (Duration, Option<Input>)> {
    (prop_oneof![4 => 0u64..300, 1 => 0u64..20_000], prop::option::weighted(0.9, any_input()))
        .prop_map(|(milliseconds, input)| (Duration::from_millis(milliseconds), input))
}

pub(super) fn any_request() -> impl Strategy<Value = Request> {
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

pub(super) fn any_answer() -> impl Strategy<Value = AnswerWhen> {
    prop_oneof![Just(AnswerWhen::AgentReady), Just(AnswerWhen::AtOnce), Just(AnswerWhen::OnCommand)]
}

pub(super) fn any_targets() -> impl Strategy<Value = Vec<AttemptKind>> {
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
