//! The call by scripts of inputs, and what must hold under any order of them.

mod accepting;
mod agents;
mod transfers;
mod queues;
mod placed;
mod external;
mod properties;

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::agent_failure::AgentFailureKind;
use super::end::{EndReason, GraphTrouble, MediaFailure, Shortage};
use super::{
    AcceptWith, Action, AnswerWhen, Attempt, AttemptKind, Call, CallOptions, Input, LeaveReason, Progress, Request,
    Signaling, Transfer, TransferStage,
};
use properties::{any_input, any_request, any_targets};

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
