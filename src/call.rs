//! The call: a pure state machine from Meta's offer to the one ending.
//!
//! Inputs and time go in through [`Call::handle`] and [`Call::handle_timeout`]; what is to be done comes out of
//! [`Call::poll_action`]. It never waits, reads no clock and does no work itself, so a ten-minute call is tested in
//! milliseconds. Whatever the order of inputs, a call is accepted at most once, ends exactly once, and does nothing
//! after its end.

pub mod input;
pub mod action;
mod agent_side;
pub mod agent_failure;
pub mod end;
pub mod event;
pub mod route;
pub mod command;
pub mod refusal;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use action::{Action, Left, Progress};
pub use agent_side::Target;
use agent_side::{AgentSide, Hears};
use end::{EndReason, GraphTrouble, MediaFailure, Shortage};
pub use input::{AcceptWith, Input, Request};
use refusal::{Refusal, RefusalCode};
pub use route::AnswerWhen;

/// How long a call whose media was closed by the other side waits for Meta's `terminate` webhook, which says
/// who hung up and why. The DTLS close usually overtakes it.
const WAIT_FOR_TERMINATE: Duration = Duration::from_secs(2);

/// The deadlines of one call and whom it may be put through to.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// From the webhook to accept. Meta gives up after 30 to 60 s.
    pub accept_timeout: Duration,
    /// From pre_accept's reply to a finished DTLS handshake. Media has until `accept_timeout` if this is no shorter.
    pub media_timeout: Duration,
    /// From dialling an agent to its joining, for each agent anew.
    pub agent_timeout: Duration,
    /// From accept to the end we put to every call.
    pub max_duration: Duration,
    /// When the call is accepted.
    pub answer: AnswerWhen,
    /// Whether nobody is dialled before [`Input::Decided`].
    pub awaits_decision: bool,
    /// The route's agent first, then its fallbacks in order.
    pub targets: Vec<Target>,
}

/// One WhatsApp call.
#[derive(Debug)]
pub struct Call {
    options: CallOptions,
    state: State,
    agent_side: AgentSide,
    /// Whether the line may begin.
    decided: bool,
    accept_by: Instant,
    is_under_load: bool,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum State {
    /// A worker is making our answer.
    Answering,
    /// Meta is being given our answer; media and agent connect in parallel.
    Live(Live),
    Ended(EndReason),
}

#[derive(Debug)]
struct Live {
    answer: Arc<str>,
    phase: Phase,
    media: Media,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// pre_accept is on its way.
    PreAccepting,
    /// The phone rings until both sides are ready.
    Ringing,
    /// accept is on its way.
    Accepting,
    /// The caller hears us.
    Talking { end_at: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    /// Without a deadline of its own until Meta has our answer.
    Connecting {
        give_up_at: Option<Instant>,
    },
    Up,
    /// Closed by the other side; Meta's webhook should follow.
    Closed {
        give_up_at: Instant,
    },
}

impl Call {
    /// A call as its `connect` webhook announces it.
    pub fn new(options: CallOptions, now: Instant) -> Self {
        Self {
            accept_by: now + options.accept_timeout,
            agent_side: AgentSide::new(options.targets.clone(), options.agent_timeout),
            decided: !options.awaits_decision && options.answer != AnswerWhen::OnCommand,
            options,
            state: State::Answering,
            is_under_load: false,
            actions: VecDeque::from([Action::AnswerOffer]),
        }
    }

    /// Takes one input. After the end nothing is done any more.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.ended().is_some() {
            return;
        }
        let hears = self.hears();
        let line = match input {
            Input::Answered(Ok(answer)) => self.answered(answer, now),
            Input::Answered(Err(reason)) | Input::HangUp(reason) => Err(reason),
            Input::PreAccepted(result) => self.pre_accepted(result, now),
            Input::Accepted(result) => self.accepted(result, now),
            Input::MediaConnected => {
                self.media_connected();
                Ok(())
            }
            Input::MediaFailed(failure) => self.media_failed(failure, now),
            Input::AgentJoined { attempt } => {
                self.agent_side.joined(attempt, &mut self.actions);
                Ok(())
            }
            Input::AgentFailed { attempt, failure } => {
                self.agent_side.failed(attempt, failure, hears, now, &mut self.actions)
            }
            Input::AgentHungUp { attempt } => self.agent_side.hung_up(attempt, now, &mut self.actions),
            Input::PromptFinished => match self.agent_side.prompts_finished() {
                Some(reason) if hears == Hears::Us => Err(reason),
                Some(_) | None => Ok(()),
            },
            Input::Decided => self.decide(now),
            Input::Terminated { failed, error } => Err(self.reason_of_terminate(failed, error)),
        };
        self.go_on(line);
    }

    /// What the application asks for, done or refused. It may end the call.
    pub fn request(&mut self, request: Request, now: Instant) -> Result<(), Refusal> {
        if self.ended().is_some() {
            return Err(Refusal::new(RefusalCode::CallEnded, "the call has ended"));
        }
        let hears = self.hears();
        let done = match request {
            Request::Accept { with } => {
                self.still_ringing()?;
                self.accept_with(with, now)
            }
            Request::Reject { why } => {
                self.still_ringing()?;
                Err(EndReason::RejectedByApi(why))
            }
            Request::Connect { targets } => {
                self.agent_side.connect(targets, hears, now, &mut self.actions);
                Ok(())
            }
            Request::Disconnect => {
                self.agent_side.park(hears, &mut self.actions)?;
                Ok(())
            }
            Request::Transfer { targets, warm } => {
                if hears == Hears::NotYet {
                    let advice = "the caller hears nothing yet: wait until the call is accepted, or use connect";
                    return Err(Refusal::new(RefusalCode::CallNotAccepted, advice));
                }
                self.agent_side.transfer(targets, warm, now, &mut self.actions)?;
                Ok(())
            }
            Request::CompleteTransfer => {
                self.agent_side.complete_transfer(&mut self.actions)?;
                Ok(())
            }
            Request::CancelTransfer => {
                self.agent_side.cancel_transfer(&mut self.actions)?;
                Ok(())
            }
        };
        self.go_on(done);
        Ok(())
    }

    /// To be called when [`Call::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let hears = self.hears();
        let over = match &self.state {
            State::Answering if now >= self.accept_by => Some(EndReason::AcceptTimedOut),
            State::Answering => None,
            State::Live(live) => match (live.phase, live.media) {
                (Phase::Talking { end_at }, _) if now >= end_at => Some(EndReason::MaxDuration),
                (_, Media::Closed { give_up_at }) if now >= give_up_at => {
                    Some(EndReason::MediaFailed(MediaFailure::ClosedByPeer))
                }
                (Phase::Ringing, Media::Connecting { .. }) if now >= self.accept_by => {
                    Some(EndReason::MediaFailed(MediaFailure::NeverConnected))
                }
                (Phase::PreAccepting | Phase::Ringing | Phase::Accepting, _) if now >= self.accept_by => {
                    Some(EndReason::AcceptTimedOut)
                }
                (_, Media::Connecting { give_up_at: Some(at) }) if now >= at => Some(match self.is_under_load {
                    true => EndReason::Overloaded(Shortage::Load),
                    false => EndReason::MediaFailed(MediaFailure::NeverConnected),
                }),
                _ => None,
            },
            State::Ended(_) => return,
        };
        let line = match over {
            Some(reason) => Err(reason),
            None => self.agent_side.handle_timeout(hears, now, &mut self.actions),
        };
        self.go_on(line);
    }

    /// Nothing was read or done for `gap`, by our own fault: to be called before [`Call::handle_timeout`], so that nobody
    /// is given up whose word is still to be read. Each deadline is that much later, at most as if it were set now.
    pub fn stood_still(&mut self, gap: Duration, now: Instant) {
        let later = |at: Instant, within: Duration| (at + gap).min(now + within);
        self.accept_by = later(self.accept_by, self.options.accept_timeout);
        if let State::Live(live) = &mut self.state {
            match &mut live.media {
                Media::Connecting { give_up_at: Some(at) } => *at = later(*at, self.options.media_timeout),
                Media::Closed { give_up_at } => *give_up_at = later(*give_up_at, WAIT_FOR_TERMINATE),
                Media::Connecting { give_up_at: None } | Media::Up => {}
            }
        }
        self.agent_side.stood_still(gap, now);
    }

    /// Whether its worker is overloaded: then it is no fault of the network's when media does not come up.
    pub fn set_under_load(&mut self, is_under_load: bool) {
        self.is_under_load = is_under_load;
    }

    /// When [`Call::handle_timeout`] wants to be called, if nothing else happens before.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let live = match &self.state {
            State::Answering => return Some(self.accept_by),
            State::Live(live) => live,
            State::Ended(_) => return None,
        };
        let phase = match live.phase {
            Phase::PreAccepting | Phase::Ringing | Phase::Accepting => self.accept_by,
            Phase::Talking { end_at } => end_at,
        };
        let media = match live.media {
            Media::Connecting { give_up_at } => give_up_at,
            Media::Closed { give_up_at } => Some(give_up_at),
            Media::Up => None,
        };
        [Some(phase), media, self.agent_side.poll_timeout()].into_iter().flatten().min()
    }

    /// The next thing to do, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Why the call ended, once it has.
    pub fn ended(&self) -> Option<&EndReason> {
        match &self.state {
            State::Ended(reason) => Some(reason),
            State::Answering | State::Live(_) => None,
        }
    }

    /// Who is on the line, by attempt.
    pub fn agent(&self) -> Option<usize> {
        self.agent_side.agent()
    }

    /// A word for people: `answering`, `ringing`, `accepting`, `talking`, `ended`.
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Answering => "answering",
            State::Live(live) => match live.phase {
                Phase::PreAccepting | Phase::Ringing => "ringing",
                Phase::Accepting => "accepting",
                Phase::Talking { .. } => "talking",
            },
            State::Ended(_) => "ended",
        }
    }

    /// The one way out: Meta is told unless it was Meta that told us, and everything is released.
    fn end(&mut self, reason: EndReason) {
        let termination = match &self.state {
            State::Ended(_) => return,
            _ if reason.is_metas_word() => None,
            State::Answering => Some(Action::Reject),
            // Meta has no answer of ours, so for it the call was never answered.
            State::Live(_)
                if matches!(
                    reason,
                    EndReason::PreAcceptFailed(GraphTrouble::Refused(_) | GraphTrouble::Unreachable)
                ) =>
            {
                Some(Action::Reject)
            }
            State::Live(_) => Some(Action::Terminate),
        };
        // What was not begun yet is not begun any more.
        self.actions.retain(|action| matches!(action, Action::Report(_)));
        self.actions.extend(termination);
        self.actions.push_back(Action::Release(reason.clone()));
        self.state = State::Ended(reason);
    }

    fn answered(&mut self, answer: Arc<str>, now: Instant) -> Result<(), EndReason> {
        let State::Answering = self.state else { return Ok(()) };
        self.actions.push_back(Action::PreAccept(answer.clone()));
        if self.decided {
            self.agent_side.begin(Hears::NotYet, now, &mut self.actions)?;
        }
        self.state =
            State::Live(Live { answer, phase: Phase::PreAccepting, media: Media::Connecting { give_up_at: None } });
        Ok(())
    }

    fn decide(&mut self, now: Instant) -> Result<(), EndReason> {
        self.decided |= self.options.answer != AnswerWhen::OnCommand;
        self.begin_line(now)
    }

    fn accept_with(&mut self, with: AcceptWith, now: Instant) -> Result<(), EndReason> {
        self.options.answer = AnswerWhen::AtOnce;
        match with {
            AcceptWith::Route => {}
            AcceptWith::Others(targets) => self.agent_side.connect(targets, Hears::NotYet, now, &mut self.actions),
            // Parked already is as good.
            AcceptWith::Nobody => drop(self.agent_side.park(Hears::NotYet, &mut self.actions)),
        }
        self.decided = true;
        self.begin_line(now)
    }

    /// The first agent is dialled as early as may be: in parallel with everything else.
    fn begin_line(&mut self, now: Instant) -> Result<(), EndReason> {
        match (&self.state, self.decided) {
            (State::Live(_), true) => self.agent_side.begin(self.hears(), now, &mut self.actions),
            _ => Ok(()),
        }
    }

    /// What follows from any input.
    fn go_on(&mut self, done: Result<(), EndReason>) {
        match done {
            Ok(()) => self.accept_when_ready(),
            Err(reason) => self.end(reason),
        }
    }

    fn hears(&self) -> Hears {
        match &self.state {
            State::Live(Live { phase: Phase::Talking { .. }, .. }) => Hears::Us,
            State::Live(_) | State::Answering | State::Ended(_) => Hears::NotYet,
        }
    }

    fn still_ringing(&self) -> Result<(), Refusal> {
        match &self.state {
            State::Live(Live { phase: Phase::Accepting | Phase::Talking { .. }, .. }) => {
                Err(Refusal::new(RefusalCode::CallAlreadyAccepted, "the call is accepted already"))
            }
            State::Live(_) | State::Answering | State::Ended(_) => Ok(()),
        }
    }

    fn pre_accepted(&mut self, result: Result<(), GraphTrouble>, now: Instant) -> Result<(), EndReason> {
        let State::Live(live) = &mut self.state else { return Ok(()) };
        if live.phase != Phase::PreAccepting {
            return Ok(());
        }
        match result {
            // An unknown outcome is told by the media: it comes up only if Meta took our answer.
            Ok(()) | Err(GraphTrouble::Unknown) => {
                live.phase = Phase::Ringing;
                if let Media::Connecting { give_up_at } = &mut live.media {
                    *give_up_at = Some(now + self.options.media_timeout);
                }
                if result.is_ok() {
                    self.actions.push_back(Action::Report(Progress::PreAccepted));
                }
                Ok(())
            }
            Err(trouble) => Err(EndReason::PreAcceptFailed(trouble)),
        }
    }

    fn accepted(&mut self, result: Result<(), GraphTrouble>, now: Instant) -> Result<(), EndReason> {
        let State::Live(live) = &mut self.state else { return Ok(()) };
        if live.phase != Phase::Accepting {
            return Ok(());
        }
        result.map_err(EndReason::AcceptFailed)?;
        live.phase = Phase::Talking { end_at: now + self.options.max_duration };
        self.actions.push_back(Action::Report(Progress::Accepted));
        self.actions.push_back(Action::StartSound);
        // What a caller hears while nobody is on the line.
        let waiting = match self.options.answer {
            AnswerWhen::AtOnce => Action::PlayRingback,
            AnswerWhen::AgentReady | AnswerWhen::OnCommand => Action::PlayHold,
        };
        self.actions.extend(self.agent_side.sound(waiting));
        Ok(())
    }

    /// Both sides ready: the caller's wait is over.
    fn accept_when_ready(&mut self) {
        let State::Live(live) = &mut self.state else { return };
        let agent_ready = match self.options.answer {
            AnswerWhen::AgentReady => self.agent_side.is_ready(),
            AnswerWhen::AtOnce => self.decided,
            AnswerWhen::OnCommand => false,
        };
        if live.phase == Phase::Ringing && live.media == Media::Up && agent_ready {
            live.phase = Phase::Accepting;
            self.actions.push_back(Action::Accept(live.answer.clone()));
        }
    }

    fn media_connected(&mut self) {
        let State::Live(live) = &mut self.state else { return };
        if let Media::Connecting { .. } = live.media {
            live.media = Media::Up;
            self.actions.push_back(Action::Report(Progress::MediaConnected));
        }
    }

    fn media_failed(&mut self, failure: MediaFailure, now: Instant) -> Result<(), EndReason> {
        let State::Live(live) = &mut self.state else { return Ok(()) };
        match (failure, live.media) {
            (MediaFailure::ClosedByPeer, Media::Connecting { .. } | Media::Up) => {
                live.media = Media::Closed { give_up_at: now + WAIT_FOR_TERMINATE };
                Ok(())
            }
            (MediaFailure::ClosedByPeer, Media::Closed { .. }) => Ok(()),
            (failure, _) => Err(EndReason::MediaFailed(failure)),
        }
    }

    fn reason_of_terminate(&self, failed: bool, error: Option<i64>) -> EndReason {
        match (&self.state, failed) {
            (_, true) => EndReason::EndedByMeta { code: error },
            (State::Live(Live { phase: Phase::Talking { .. }, .. }), false) => EndReason::CallerHungUp,
            (State::Answering | State::Live(_) | State::Ended(_), false) => EndReason::CallerGaveUp,
        }
    }
}
