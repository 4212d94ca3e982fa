//! Calls whose application exchanges the messages with Meta.

use super::super::signaling::{Terminated, TerminatedBy};
use super::*;
use crate::call::signaling::Signal;

fn external(answer: AnswerWhen, attempts: &[AttemptKind]) -> Script {
    let now = Instant::now();
    let options = CallOptions { signaling: Signaling::External, ..options(answer, attempts) };
    Script { call: Call::offered_by_meta(options, now), now }
}

/// The application has our answer.
fn handed_over() -> Script {
    let mut script = external(AnswerWhen::AgentReady, &[AttemptKind::Agent]);
    assert_eq!(script.answered(), [Action::AnswerOffer, Action::PreAccept(answer()), dial()]);
    script
}

/// The application has our offer.
fn placed() -> Script {
    let now = Instant::now();
    let options =
        CallOptions { signaling: Signaling::External, ..options(AnswerWhen::AgentReady, &[AttemptKind::Agent]) };
    let mut script = Script { call: Call::placed(options, now), now };
    assert_eq!(script.put(Input::Offered(Ok(answer()))), [Action::MakeOffer, Action::Connect(answer())]);
    script
}

fn dial() -> Action {
    Action::Dial { attempt: nth(0) }
}

fn ended_at_meta(status: &str) -> Signal {
    Signal::Terminated(Terminated { status: Some(status.to_owned()), ..Terminated::default() })
}

impl Script {
    fn report(&mut self, signal: Signal) -> Result<Vec<Action>, &'static str> {
        self.call.signal(signal, self.now).map_err(|refusal| refusal.code.name())?;
        Ok(self.actions())
    }
}

#[test]
fn the_application_is_asked_to_accept_once_media_and_agent_are_ready_and_sound_waits_for_its_word() {
    let mut script = handed_over();
    assert_eq!(script.put(Input::MediaConnected), []);
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), [Action::Accept(answer())]);
    assert_eq!(script.call.state_name(), "accepting");
    assert_eq!(script.report(Signal::Accepted), Ok(vec![Action::StartSound]));
    assert_eq!(script.report(Signal::Accepted), Ok(vec![]), "a second time it changes nothing");
    assert_eq!(script.report(ended_at_meta("completed")), Ok(vec![Action::Release(EndReason::CallerHungUp)]));
    assert_eq!(script.report(ended_at_meta("completed")), Err("call_ended"));
}

#[test]
fn an_accept_before_media_waits_for_them() {
    let mut script = handed_over();
    assert_eq!(script.report(Signal::Accepted), Ok(vec![]));
    assert_eq!(script.put(Input::AgentJoined { attempt: nth(0) }), []);
    assert_eq!(script.put(Input::MediaConnected), [Action::StartSound]);

    let mut script = handed_over();
    script.report(Signal::Accepted).unwrap();
    let reason = EndReason::MediaFailed(MediaFailure::NeverConnected);
    assert_eq!(script.pass(Duration::from_secs(10)), [Action::Terminate, Action::Release(reason)]);
}

#[test]
fn a_call_that_the_application_never_accepts_is_given_up() {
    let mut script = handed_over();
    script.put(Input::MediaConnected);
    script.put(Input::AgentJoined { attempt: nth(0) });
    let given_up = [Action::Terminate, Action::Release(EndReason::NotAcceptedByApp)];
    assert_eq!(script.pass(Duration::from_secs(30)), given_up);

    let mut no_media = handed_over();
    let reason = EndReason::MediaFailed(MediaFailure::NeverConnected);
    assert_eq!(no_media.pass(Duration::from_secs(30)), [Action::Terminate, Action::Release(reason)]);
}

#[test]
fn accept_and_reject_of_the_api_still_decide() {
    let mut script = external(AnswerWhen::OnCommand, &[AttemptKind::Agent]);
    script.answered();
    assert_eq!(script.put(Input::MediaConnected), []);
    let begun = script.ask(Request::Accept { with: AcceptWith::Route });
    assert_eq!(begun, Ok(vec![dial(), Action::Accept(answer())]));
    let reject = script.ask(Request::Reject { why: String::new() });
    let rejected = EndReason::RejectedByApi(String::new());
    assert_eq!(reject, Ok(vec![Action::Terminate, Action::Release(rejected)]), "the application has not accepted yet");

    let mut accepted = external(AnswerWhen::OnCommand, &[AttemptKind::Agent]);
    accepted.answered();
    assert_eq!(accepted.report(Signal::Accepted), Ok(vec![dial()]), "the application's accept is the command");
    assert_eq!(accepted.ask(Request::Reject { why: String::new() }), Err("call_already_accepted"));
    assert_eq!(accepted.put(Input::MediaConnected), [Action::StartSound, Action::PlayHold]);
}

#[test]
fn without_an_agent_the_application_is_asked_as_soon_as_media_are_up() {
    let mut script = external(AnswerWhen::AgentReady, &[]);
    assert_eq!(script.answered(), [Action::AnswerOffer, Action::PreAccept(answer())]);
    assert_eq!(script.put(Input::MediaConnected), [Action::Accept(answer())]);
    assert_eq!(script.report(Signal::Accepted), Ok(vec![Action::StartSound, Action::PlayRingback]));
}

#[test]
fn a_placed_call_follows_the_reports() {
    let mut script = placed();
    assert_eq!(script.report(Signal::Answered(answer())), Ok(vec![Action::ApplyAnswer(answer()), dial()]));
    assert_eq!(script.report(Signal::Answered("v=0 other".into())), Ok(vec![]), "the first answer counts");
    assert_eq!(script.report(Signal::Ringing), Ok(vec![]));
    assert_eq!(script.call.state_name(), "ringing");
    script.put(Input::AgentJoined { attempt: nth(0) });
    assert_eq!(script.put(Input::MediaConnected), [], "nobody has accepted");
    assert_eq!(script.report(Signal::Accepted), Ok(vec![Action::StartSound]));
    assert_eq!(script.report(ended_at_meta("COMPLETED")), Ok(vec![Action::Release(EndReason::CalleeHungUp)]));

    let mut declined = placed();
    assert_eq!(declined.report(ended_at_meta("Rejected")), Ok(vec![Action::Release(EndReason::CalleeDeclined)]));
}

#[test]
fn an_end_by_the_application_is_not_asked_for_again() {
    let mut script = handed_over();
    let by_app = Signal::Terminated(Terminated { by: TerminatedBy::App, ..Terminated::default() });
    assert_eq!(script.report(by_app), Ok(vec![Action::Release(EndReason::TerminatedByApp)]));
}

#[test]
fn what_no_such_call_reports_is_refused() {
    let mut graph = Script::new(&[AttemptKind::Agent]);
    graph.answered();
    assert_eq!(graph.report(Signal::Accepted), Err("invalid_command"));
    let mut offered = handed_over();
    assert_eq!(offered.report(Signal::Ringing), Err("invalid_command"));
    assert_eq!(offered.report(Signal::Answered(answer())), Err("invalid_command"));
    let mut early = external(AnswerWhen::AgentReady, &[AttemptKind::Agent]);
    assert_eq!(early.report(Signal::Accepted), Err("call_not_accepted"));
}

proptest! {
    #[test]
    fn sound_starts_once_after_media_and_the_applications_word(
        order in Just(vec![0, 1, 2, 3]).prop_shuffle(),
        doubled in any::<bool>(),
    ) {
        let mut script = handed_over();
        let mut done = Vec::new();
        for news in order {
            for _ in 0..if doubled { 2 } else { 1 } {
                match news {
                    0 => done.extend(script.put(Input::MediaConnected)),
                    1 => done.extend(script.put(Input::AgentJoined { attempt: nth(0) })),
                    2 => done.extend(script.report(Signal::Accepted).unwrap()),
                    // Of a request that nobody sent.
                    _ => done.extend(script.put(Input::PreAccepted(Ok(())))),
                }
            }
        }
        prop_assert_eq!(done.iter().filter(|action| **action == Action::StartSound).count(), 1);
        prop_assert!(done.iter().filter(|action| matches!(action, Action::Accept(_))).count() <= 1);
        prop_assert_eq!(script.call.state_name(), "talking");
    }
}
