//! The call: a pure state machine from the offer, Meta's or ours, to the one ending.
//!
//! Inputs and time enter through [`Call::handle`] and [`Call::handle_timeout`]; actions leave through
//! [`Call::poll_action`]. The call never waits, reads no clock and does no I/O, so a test runs ten minutes in
//! milliseconds. Whatever the order of inputs, a call is accepted at most once, ends exactly once, and does nothing after
//! its end. A call that we place is the same machine: `placed` has the part before its conversation. So is one whose
//! application exchanges the messages with Meta: `signaling` has what it reports.

pub mod input;
pub mod action;
mod agent_side;
mod incoming;
mod placed;
pub mod signaling;
pub mod agent_failure;
pub mod end;
pub mod event;
pub mod attempt;
pub mod description;
pub mod route;
pub mod command;
pub mod refusal;
pub mod usage;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use action::{Action, LeaveReason, Progress};
use agent_side::{AgentSide, CallerHears};
pub use agent_side::{AttemptKind, Transfer, TransferStage};
pub use attempt::Attempt;
use end::{EndReason, GraphTrouble, MediaFailure, Shortage};
pub use input::{AcceptWith, Input, Request};
use refusal::{Refusal, RefusalCode};
pub use route::AnswerWhen;
pub use signaling::{Signal, Signaling};

/// How long a call waits for Meta's `terminate` webhook after the other side closed the media. The webhook says who hung
/// up and why; the DTLS close usually overtakes it.
const WAIT_FOR_TERMINATE: Duration = Duration::from_secs(2);

/// The deadlines of one call, and what its route decides.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// From the webhook to accept, after which Meta gives up within 30 to 60 s; for a call that we place, how long its phone
    /// rings.
    pub accept_timeout: Duration,
    /// From pre_accept's reply to the end of the DTLS handshake. `accept_timeout` is the deadline if it is no longer.
    pub media_timeout: Duration,
    /// From dialling an agent until it joins; for each agent.
    pub agent_timeout: Duration,
    /// From accept until we end the call.
    pub max_duration: Duration,
    /// Who exchanges its messages with Meta.
    pub signaling: Signaling,
    /// When the call is accepted.
    pub answer: AnswerWhen,
    /// Whether no agent is dialled before [`Input::Decided`].
    pub awaits_decision: bool,
    /// The route's agent, then its fallbacks in their order.
    pub attempts: Vec<AttemptKind>,
}

/// One WhatsApp call.
#[derive(Debug)]
pub struct Call {
    options: CallOptions,
    state: State,
    agent_side: AgentSide,
    /// Whether we place it.
    is_placed: bool,
    /// Whether the first agent may be dialled.
    decided: bool,
    accept_by: Instant,
    is_under_load: bool,
    actions: VecDeque<Action>,
}

#[derive(Debug)]
enum State {
    /// A worker makes our SDP answer.
    Answering,
    /// A worker makes our SDP offer, for a call that we place.
    Offering,
    /// Meta gets our SDP; media and agent connect in parallel.
    Live(Live),
    Ended(EndReason),
}

#[derive(Debug)]
struct Live {
    /// Our answer or offer.
    sdp: Arc<str>,
    phase: Phase,
    media: Media,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// pre_accept is sent.
    PreAccepting,
    /// The phone rings until media and agent are ready.
    Ringing,
    /// accept is sent, or the application may send it.
    Accepting,
    /// connect is sent, for a call that we place.
    Connecting,
    /// connect got no reply, so the call may exist at Meta. It is given up unless Meta shows it by then.
    Unconfirmed { give_up_at: Instant },
    /// Meta has the call and looks for the callee's phone.
    Dialled,
    /// The callee's phone rings.
    CalleeRings,
    /// The callee, or the application, accepted; media are not up yet.
    PickedUp,
    /// accept is confirmed, or the callee accepted and media are up: the caller hears us.
    Talking { end_at: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Media {
    /// Our offer has no answer. The deadline starts when the callee accepts.
    Unanswered {
        give_up_at: Option<Instant>,
    },
    /// The deadline starts when Meta has our answer.
    Connecting {
        give_up_at: Option<Instant>,
    },
    Up,
    /// Closed by the other side; Meta's `terminate` should follow.
    Closed {
        give_up_at: Instant,
    },
}

impl Call {
    /// A call that Meta has just offered.
    ///
    /// Without attempts the call may be accepted once media can flow, and the caller hears ringback until the application
    /// connects an agent.
    pub fn offered_by_meta(mut options: CallOptions, now: Instant) -> Self {
        let mut actions = VecDeque::from([Action::AnswerOffer]);
        let mut agent_side = AgentSide::new(options.attempts.clone(), options.agent_timeout);
        if options.attempts.is_empty() {
            // Nobody is there to leave.
            let _ = agent_side.park(CallerHears::Ringing, &mut actions);
            options.answer = AnswerWhen::AtOnce;
        }
        Self {
            accept_by: now + options.accept_timeout,
            agent_side,
            is_placed: false,
            decided: !options.awaits_decision && options.answer != AnswerWhen::OnCommand,
            options,
            state: State::Answering,
            is_under_load: false,
            actions,
        }
    }

    /// Takes one input; ignored after the end.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.ended().is_some() {
            return;
        }
        let hears = self.hears();
        let flow = match input {
            Input::Answered(Ok(answer)) => self.answered(answer, now),
            Input::Answered(Err(reason)) | Input::HangUp(reason) => ControlFlow::Break(reason),
            Input::PreAccepted(result) => self.pre_accepted(result, now),
            Input::Accepted(Ok(())) if self.is_external() => self.accepted_by_app(now),
            Input::Accepted(result) => self.accepted(result, now),
            Input::MediaConnected => {
                self.media_connected();
                ControlFlow::Continue(())
            }
            Input::MediaFailed(failure) => self.media_failed(failure, now),
            Input::AgentJoined { attempt } => {
                self.agent_side.joined(attempt, now, &mut self.actions);
                ControlFlow::Continue(())
            }
            Input::AgentInterrupted { attempt, failure, back_within } => {
                self.agent_side.interrupted((attempt, failure), back_within, hears, now, &mut self.actions)
            }
            Input::AgentFailed { attempt, failure } => {
                self.agent_side.failed(attempt, failure, hears, now, &mut self.actions)
            }
            Input::AgentHungUp { attempt } => self.agent_side.hung_up(attempt, now, &mut self.actions),
            Input::PromptFinished => match self.agent_side.prompts_finished() {
                Some(reason) if hears == CallerHears::Us => ControlFlow::Break(reason),
                Some(_) | None => ControlFlow::Continue(()),
            },
            Input::Decided => self.decide(now),
            Input::Terminated { failed: true, error, .. } => ControlFlow::Break(EndReason::EndedByMeta { code: error }),
            Input::Terminated { failed: false, picked_up, .. } => {
                ControlFlow::Break(self.reason_of_terminate(picked_up || hears == CallerHears::Us))
            }
            Input::Offered(Ok(offer)) => self.offered(offer),
            Input::Offered(Err(reason)) => ControlFlow::Break(reason),
            Input::Connected(result) => self.connected(result, now),
            Input::AnswerReceived(answer) => self.answer_received(answer, now),
            Input::CalleeRings => self.callee_rings(now),
            Input::PickedUp => self.picked_up(now),
            Input::Declined => ControlFlow::Break(EndReason::CalleeDeclined),
        };
        self.proceed(flow, now);
    }

    /// Carries out or refuses a request of the application. It may end the call.
    pub fn request(&mut self, request: Request, now: Instant) -> Result<(), Refusal> {
        if self.ended().is_some() {
            return Err(Refusal::new(RefusalCode::CallEnded, "the call has ended"));
        }
        let hears = self.hears();
        let flow = match request {
            Request::Accept { .. } | Request::Reject { .. } if self.is_placed => {
                let advice = "the callee accepts or declines a call that you place: use hangup to give it up";
                return Err(Refusal::new(RefusalCode::InvalidCommand, advice));
            }
            Request::Accept { with } => {
                self.still_ringing()?;
                self.accept_with(with, now)
            }
            Request::Reject { why } => {
                self.still_ringing()?;
                ControlFlow::Break(EndReason::RejectedByApi(why))
            }
            Request::Connect { attempts } => {
                self.agent_side.connect(attempts, hears, now, &mut self.actions);
                ControlFlow::Continue(())
            }
            Request::TakeOver => self.take_over(hears, now),
            Request::Disconnect => {
                self.agent_side.park(hears, &mut self.actions)?;
                ControlFlow::Continue(())
            }
            Request::Transfer { attempts, warm } => {
                if hears == CallerHears::Ringing {
                    let advice = "the caller hears nothing yet: wait until the call is accepted, or use connect";
                    return Err(Refusal::new(RefusalCode::CallNotAccepted, advice));
                }
                self.agent_side.transfer(attempts, warm, now, &mut self.actions)?;
                ControlFlow::Continue(())
            }
            Request::CompleteTransfer => {
                self.agent_side.complete_transfer(&mut self.actions)?;
                ControlFlow::Continue(())
            }
            Request::CancelTransfer => {
                self.agent_side.cancel_transfer(&mut self.actions)?;
                ControlFlow::Continue(())
            }
        };
        self.proceed(flow, now);
        Ok(())
    }

    /// Call this when the time of [`Call::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let hears = self.hears();
        let expired = match &self.state {
            State::Answering if now >= self.accept_by => Some(EndReason::AcceptTimedOut),
            State::Offering if now >= self.accept_by => Some(EndReason::RingTimedOut),
            State::Answering | State::Offering => None,
            State::Live(live) => match (live.phase, live.media) {
                (Phase::Talking { end_at }, _) if now >= end_at => Some(EndReason::MaxDuration),
                (_, Media::Closed { give_up_at }) if now >= give_up_at => {
                    Some(EndReason::MediaFailed(MediaFailure::ClosedByPeer))
                }
                (Phase::Ringing, Media::Connecting { .. }) if now >= self.accept_by => {
                    Some(EndReason::MediaFailed(MediaFailure::NeverConnected))
                }
                (Phase::PreAccepting | Phase::Ringing, _) if now >= self.accept_by => Some(EndReason::AcceptTimedOut),
                (Phase::Accepting, _) if now >= self.accept_by => Some(self.reason_of_no_accept()),
                (Phase::Unconfirmed { give_up_at }, _) if now >= give_up_at => {
                    Some(EndReason::ConnectFailed(GraphTrouble::Unknown))
                }
                (Phase::Connecting | Phase::Unconfirmed { .. } | Phase::Dialled | Phase::CalleeRings, _)
                    if now >= self.accept_by =>
                {
                    Some(EndReason::RingTimedOut)
                }
                (_, Media::Connecting { give_up_at: Some(at) } | Media::Unanswered { give_up_at: Some(at) })
                    if now >= at =>
                {
                    Some(match self.is_under_load {
                        true => EndReason::Overloaded(Shortage::Load),
                        false => EndReason::MediaFailed(MediaFailure::NeverConnected),
                    })
                }
                _ => None,
            },
            State::Ended(_) => return,
        };
        let flow = match expired {
            Some(reason) => ControlFlow::Break(reason),
            None => self.agent_side.handle_timeout(hears, now, &mut self.actions),
        };
        self.proceed(flow, now);
    }

    /// The process was frozen for `gap` and read no input. Moves each deadline by it, at most to what it would be if it
    /// were set now. Call this before [`Call::handle_timeout`].
    pub fn extend_deadlines(&mut self, gap: Duration, now: Instant) {
        let later = |at: Instant, within: Duration| (at + gap).min(now + within);
        self.accept_by = later(self.accept_by, self.options.accept_timeout);
        if let State::Live(live) = &mut self.state {
            if let Phase::Unconfirmed { give_up_at } = &mut live.phase {
                *give_up_at = later(*give_up_at, placed::SHOWN_WITHIN);
            }
            match &mut live.media {
                Media::Connecting { give_up_at: Some(at) } | Media::Unanswered { give_up_at: Some(at) } => {
                    *at = later(*at, self.options.media_timeout);
                }
                Media::Closed { give_up_at } => *give_up_at = later(*give_up_at, WAIT_FOR_TERMINATE),
                Media::Connecting { give_up_at: None } | Media::Unanswered { give_up_at: None } | Media::Up => {}
            }
        }
        self.agent_side.extend_deadlines(gap, now);
    }

    /// Whether the worker is overloaded: then media that does not come up is our fault, not the network's.
    pub fn set_under_load(&mut self, is_under_load: bool) {
        self.is_under_load = is_under_load;
    }

    /// When [`Call::handle_timeout`] is due; None after the end.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let live = match &self.state {
            State::Answering | State::Offering => return Some(self.accept_by),
            State::Live(live) => live,
            State::Ended(_) => return None,
        };
        let phase = match live.phase {
            Phase::PreAccepting
            | Phase::Ringing
            | Phase::Accepting
            | Phase::Connecting
            | Phase::Dialled
            | Phase::CalleeRings => Some(self.accept_by),
            Phase::Unconfirmed { give_up_at } => Some(give_up_at.min(self.accept_by)),
            // Media have a deadline.
            Phase::PickedUp => None,
            Phase::Talking { end_at } => Some(end_at),
        };
        let media = match live.media {
            Media::Connecting { give_up_at } | Media::Unanswered { give_up_at } => give_up_at,
            Media::Closed { give_up_at } => Some(give_up_at),
            Media::Up => None,
        };
        [phase, media, self.agent_side.poll_timeout()].into_iter().flatten().min()
    }

    /// The next action, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Why the call ended; None while it lives.
    pub fn ended(&self) -> Option<&EndReason> {
        match &self.state {
            State::Ended(reason) => Some(reason),
            State::Answering | State::Offering | State::Live(_) => None,
        }
    }

    /// Whether a worker has the call's media.
    pub fn has_media(&self) -> bool {
        matches!(self.state, State::Live(_))
    }

    /// The agent that has the caller.
    pub fn agent(&self) -> Option<Attempt> {
        self.agent_side.agent()
    }

    /// The transfer that is under way.
    pub fn transfer(&self) -> Option<Transfer> {
        self.agent_side.transfer_under_way()
    }

    /// The state as the API shows it: `answering` or `placing`, `ringing`, `accepting`, `talking`, `ended`.
    pub fn state_name(&self) -> &'static str {
        match &self.state {
            State::Answering => "answering",
            State::Offering => "placing",
            State::Live(live) => match live.phase {
                Phase::Connecting | Phase::Unconfirmed { .. } | Phase::Dialled => "placing",
                Phase::PreAccepting | Phase::Ringing | Phase::CalleeRings => "ringing",
                Phase::Accepting | Phase::PickedUp => "accepting",
                Phase::Talking { .. } => "talking",
            },
            State::Ended(_) => "ended",
        }
    }

    /// The only exit: ends the call at Meta, unless Meta ended it, and releases everything.
    fn end(&mut self, reason: EndReason) {
        let termination = match &self.state {
            State::Ended(_) => return,
            _ if reason.is_over_at_meta() => None,
            State::Answering => Some(Action::Reject),
            State::Offering => None,
            State::Live(_) if self.is_unknown_to_meta(&reason) => None,
            // Meta has no answer of ours, so it takes a reject.
            State::Live(_)
                if matches!(
                    reason,
                    EndReason::PreAcceptFailed(
                        GraphTrouble::Refused(_) | GraphTrouble::Unreachable | GraphTrouble::NoSockets
                    )
                ) =>
            {
                Some(Action::Reject)
            }
            State::Live(_) => Some(Action::Terminate),
        };
        // Actions that are not performed yet are dropped; reports stay.
        self.actions.retain(|action| matches!(action, Action::Report(_)));
        self.actions.extend(termination);
        self.actions.push_back(Action::Release(reason.clone()));
        self.state = State::Ended(reason);
    }

    /// Before accept the first agent may not have been decided; it is this one.
    fn take_over(&mut self, hears: CallerHears, now: Instant) -> ControlFlow<EndReason> {
        self.agent_side.take_over(hears, now, &mut self.actions);
        if self.still_ringing().is_err() {
            return ControlFlow::Continue(());
        }
        if self.options.answer == AnswerWhen::OnCommand {
            self.options.answer = AnswerWhen::AgentReady;
        }
        self.decided = true;
        self.begin_agent_side(now)
    }

    /// Dials the first agent as early as possible: in parallel with pre_accept and media.
    fn begin_agent_side(&mut self, now: Instant) -> ControlFlow<EndReason> {
        match (&self.state, self.decided) {
            (State::Live(_), true) => self.agent_side.begin(self.hears(), now, &mut self.actions),
            (State::Live(_), false) | (State::Answering | State::Offering | State::Ended(_), _) => {
                ControlFlow::Continue(())
            }
        }
    }

    /// What follows every input: the end, or accept or the conversation if all is ready.
    fn proceed(&mut self, flow: ControlFlow<EndReason>, now: Instant) {
        match flow {
            ControlFlow::Continue(()) if self.is_placed => self.talk_when_ready(now),
            ControlFlow::Continue(()) => {
                self.accept_when_ready();
                self.talk_when_ready(now);
            }
            ControlFlow::Break(reason) => self.end(reason),
        }
    }

    fn hears(&self) -> CallerHears {
        match &self.state {
            State::Live(Live { phase: Phase::Talking { .. }, .. }) => CallerHears::Us,
            State::Live(_) | State::Answering | State::Offering | State::Ended(_) => CallerHears::Ringing,
        }
    }

    /// The caller hears us from now on.
    fn start_talking(&mut self, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        live.phase = Phase::Talking { end_at: now + self.options.max_duration };
        self.actions.push_back(Action::Report(Progress::Accepted));
        self.actions.push_back(Action::StartSound);
        // What the caller hears until an agent joins.
        let waiting = match self.options.answer {
            AnswerWhen::AtOnce => Action::PlayRingback,
            AnswerWhen::AgentReady | AnswerWhen::OnCommand => Action::PlayHold,
        };
        self.actions.extend(self.agent_side.sound(waiting));
    }

    fn media_connected(&mut self) {
        let State::Live(live) = &mut self.state else { return };
        if let Media::Connecting { .. } = live.media {
            live.media = Media::Up;
            self.actions.push_back(Action::Report(Progress::MediaConnected));
        }
    }

    fn media_failed(&mut self, failure: MediaFailure, now: Instant) -> ControlFlow<EndReason> {
        let State::Live(live) = &mut self.state else { return ControlFlow::Continue(()) };
        match (failure, live.media) {
            (MediaFailure::ClosedByPeer, Media::Unanswered { .. } | Media::Connecting { .. } | Media::Up) => {
                live.media = Media::Closed { give_up_at: now + WAIT_FOR_TERMINATE };
                ControlFlow::Continue(())
            }
            (MediaFailure::ClosedByPeer, Media::Closed { .. }) => ControlFlow::Continue(()),
            (failure, _) => ControlFlow::Break(EndReason::MediaFailed(failure)),
        }
    }

    /// Of Meta's `terminate` without a failure.
    fn reason_of_terminate(&self, picked_up: bool) -> EndReason {
        match (self.is_placed, picked_up || self.is_picked_up()) {
            (false, true) => EndReason::CallerHungUp,
            (false, false) => EndReason::CallerGaveUp,
            (true, true) => EndReason::CalleeHungUp,
            (true, false) => EndReason::NoAnswer,
        }
    }
}
