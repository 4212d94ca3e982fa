//! The call: a pure state machine from Meta's offer to the one ending.
//!
//! Inputs and time go in through [`Call::handle`] and [`Call::handle_timeout`]; what is to be done comes out of
//! [`Call::poll_action`]. It never waits, reads no clock and does no work itself, so a ten-minute call is tested in
//! milliseconds. Whatever the order of inputs, a call is accepted at most once, ends exactly once, and does nothing
//! after its end.

pub mod command;
pub mod end;
pub mod event;
pub mod recovery;
pub mod registry;
pub mod route;
pub mod session;
pub mod snapshot;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use end::{AgentFailure, EndReason, GraphTrouble, MediaFailure};

/// How long a call whose media was closed by the other side waits for Meta's `terminate` webhook, which says
/// who hung up and why. The DTLS close usually overtakes it.
const WAIT_FOR_TERMINATE: Duration = Duration::from_secs(2);

/// The deadlines of one call and whom it may be put through to.
#[derive(Clone, Debug)]
pub struct CallOptions {
    /// From the webhook to accept. Meta gives up after 30 to 60 s.
    pub accept_timeout: Duration,
    /// From pre_accept's reply to a finished DTLS handshake.
    pub media_timeout: Duration,
    /// From dialling an agent to its joining, for each agent anew.
    pub agent_timeout: Duration,
    /// From accept to the end we put to every call.
    pub max_duration: Duration,
    /// When the call is accepted.
    pub answer: AnswerWhen,
    /// The route's agent first, then its fallbacks in order.
    pub targets: Vec<Target>,
}

/// When a call is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerWhen {
    /// Media and agent are there; the caller hears the phone's own ringing until then.
    #[default]
    AgentReady,
    /// Media is there; the caller hears our ringback until the agent is.
    AtOnce,
}

/// Someone or something the caller can be put through to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An agent that is dialled and joins.
    Agent,
    /// Prompts of the route; when they have ended, the call ends.
    Prompts,
}

/// What the world tells the call.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug)]
pub enum Input {
    /// The worker made our SDP answer, or could not.
    Answered(Result<Arc<str>, EndReason>),
    /// The last word of Graph, all retries done.
    PreAccepted(Result<(), GraphTrouble>),
    /// The last word of Graph, all retries done.
    Accepted(Result<(), GraphTrouble>),
    /// ICE and DTLS are done: sound can flow.
    MediaConnected,
    /// Sound can flow no more, or never could.
    MediaFailed(MediaFailure),
    /// The agent dialled as `attempt` is listening.
    AgentJoined { attempt: usize },
    /// The agent dialled as `attempt` could not be reached, or is gone.
    AgentFailed { attempt: usize, failure: AgentFailure },
    /// The agent of `attempt` hung up.
    AgentHungUp { attempt: usize },
    /// The prompt that stood in for an agent was heard to its end.
    PromptFinished,
    /// Meta's `terminate` webhook. `error` is the first Meta error code of a failed call.
    Terminated { failed: bool, error: Option<i64> },
    /// Someone on our side ends the call: the API, a drain, a shutdown.
    HangUp(EndReason),
}

/// What the shell is to do, in this order.
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Have a worker answer the offer; reply with [`Input::Answered`].
    AnswerOffer,
    /// Tell Meta; reply with [`Input::PreAccepted`].
    PreAccept(Arc<str>),
    /// Tell Meta, with the very bytes of pre_accept; reply with [`Input::Accepted`].
    Accept(Arc<str>),
    /// Tell Meta that we decline: it has no answer of ours.
    Reject,
    /// Tell Meta that the call is over: it has our answer.
    Terminate,
    /// Dial `targets[attempt]`.
    Dial { attempt: usize },
    /// Leave the agent of `attempt`, dialling or joined.
    DropAgent { attempt: usize },
    /// Meta has accepted: start the RTP line and tell the agent that it is heard.
    StartSound,
    /// Play the prompts of `targets[attempt]`; reply with [`Input::PromptFinished`] when they have ended.
    PlayPrompts { attempt: usize },
    /// Play ringback until the first agent joins.
    PlayRingback,
    /// Play hold music until another agent joins.
    PlayHold,
    /// Close the peer, the agent's socket and everything the call holds.
    Release(EndReason),
    /// Tell the outside.
    Report(Progress),
}

/// What the outside may know of a living call; the end comes as [`Action::Release`].
#[expect(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Meta acknowledged our answer.
    PreAccepted,
    /// ICE and DTLS are done.
    MediaConnected,
    /// Who joined, by its place among the targets.
    AgentJoined { attempt: usize },
    /// Who was refused, not reached or lost.
    AgentFailed { attempt: usize, failure: AgentFailure },
    /// Meta confirmed accept.
    Accepted,
}

/// One WhatsApp call.
#[derive(Debug)]
pub struct Call {
    options: CallOptions,
    state: State,
    accept_by: Instant,
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
    line: Line,
    /// Why the last agent failed; it becomes the reason of the end when nobody is left.
    last_failure: Option<(usize, AgentFailure)>,
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

/// The agent's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Dialling { attempt: usize, give_up_at: Instant },
    Joined { attempt: usize },
    Prompts { attempt: usize },
}

impl Call {
    /// A call as its `connect` webhook announces it.
    pub fn new(options: CallOptions, now: Instant) -> Self {
        Self {
            accept_by: now + options.accept_timeout,
            options,
            state: State::Answering,
            actions: VecDeque::from([Action::AnswerOffer]),
        }
    }

    /// Takes one input. After the end nothing is done any more.
    pub fn handle(&mut self, input: Input, now: Instant) {
        if self.ended().is_some() {
            return;
        }
        match input {
            Input::Answered(Ok(answer)) => self.answered(answer, now),
            Input::Answered(Err(reason)) | Input::HangUp(reason) => self.end(reason),
            Input::PreAccepted(result) => self.pre_accepted(result, now),
            Input::Accepted(result) => self.accepted(result, now),
            Input::MediaConnected => self.media_connected(),
            Input::MediaFailed(failure) => self.media_failed(failure, now),
            Input::AgentJoined { attempt } => self.agent_joined(attempt),
            Input::AgentFailed { attempt, failure } => self.agent_failed(attempt, failure, now),
            Input::AgentHungUp { attempt } => self.agent_hung_up(attempt),
            Input::PromptFinished => self.prompt_finished(),
            Input::Terminated { failed, error } => self.end(self.reason_of_terminate(failed, error)),
        }
        self.accept_when_ready();
    }

    /// To be called when [`Call::poll_timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let State::Live(live) = &self.state else {
            if matches!(self.state, State::Answering) && now >= self.accept_by {
                self.end(EndReason::AcceptTimedOut);
            }
            return;
        };
        match (live.phase, live.media, live.line) {
            (Phase::Talking { end_at }, _, _) if now >= end_at => self.end(EndReason::MaxDuration),
            (_, Media::Closed { give_up_at }, _) if now >= give_up_at => {
                self.end(EndReason::MediaFailed(MediaFailure::ClosedByPeer));
            }
            (Phase::PreAccepting | Phase::Ringing | Phase::Accepting, _, _) if now >= self.accept_by => {
                self.end(EndReason::AcceptTimedOut);
            }
            (_, Media::Connecting { give_up_at: Some(at) }, _) if now >= at => {
                self.end(EndReason::MediaFailed(MediaFailure::NeverConnected));
            }
            (_, _, Line::Dialling { attempt, give_up_at }) if now >= give_up_at => {
                self.agent_failed(attempt, AgentFailure::NoAnswer, now);
                self.accept_when_ready();
            }
            _ => {}
        }
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
        let line = match live.line {
            Line::Dialling { give_up_at, .. } => Some(give_up_at),
            Line::Joined { .. } | Line::Prompts { .. } => None,
        };
        [Some(phase), media, line].into_iter().flatten().min()
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
        let farewell = match &self.state {
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
        self.actions.extend(farewell);
        self.actions.push_back(Action::Release(reason.clone()));
        self.state = State::Ended(reason);
    }

    fn answered(&mut self, answer: Arc<str>, now: Instant) {
        let State::Answering = self.state else { return };
        self.actions.push_back(Action::PreAccept(answer.clone()));
        let Some(line) = self.put_through(0, now) else {
            return self.end(EndReason::NoAgent(AgentFailure::NotConfigured));
        };
        self.state = State::Live(Live {
            answer,
            phase: Phase::PreAccepting,
            media: Media::Connecting { give_up_at: None },
            line,
            last_failure: None,
        });
    }

    fn pre_accepted(&mut self, result: Result<(), GraphTrouble>, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        if live.phase != Phase::PreAccepting {
            return;
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
            }
            Err(trouble) => self.end(EndReason::PreAcceptFailed(trouble)),
        }
    }

    fn accepted(&mut self, result: Result<(), GraphTrouble>, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        if live.phase != Phase::Accepting {
            return;
        }
        if let Err(trouble) = result {
            return self.end(EndReason::AcceptFailed(trouble));
        }
        live.phase = Phase::Talking { end_at: now + self.options.max_duration };
        self.actions.push_back(Action::Report(Progress::Accepted));
        self.actions.push_back(Action::StartSound);
        match live.line {
            Line::Joined { .. } => {}
            Line::Dialling { .. } => self.actions.push_back(self.waiting_sound()),
            Line::Prompts { attempt } => self.actions.push_back(Action::PlayPrompts { attempt }),
        }
    }

    /// What a caller who has been accepted hears while nobody is on the line.
    fn waiting_sound(&self) -> Action {
        match self.options.answer {
            AnswerWhen::AtOnce => Action::PlayRingback,
            AnswerWhen::AgentReady => Action::PlayHold,
        }
    }

    /// Both sides ready: the caller's wait is over.
    fn accept_when_ready(&mut self) {
        let State::Live(live) = &mut self.state else { return };
        let agent_ready = match (live.line, self.options.answer) {
            (Line::Joined { .. } | Line::Prompts { .. }, _) | (Line::Dialling { .. }, AnswerWhen::AtOnce) => true,
            (Line::Dialling { .. }, AnswerWhen::AgentReady) => false,
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

    fn media_failed(&mut self, failure: MediaFailure, now: Instant) {
        let State::Live(live) = &mut self.state else { return };
        match (failure, live.media) {
            (MediaFailure::ClosedByPeer, Media::Connecting { .. } | Media::Up) => {
                live.media = Media::Closed { give_up_at: now + WAIT_FOR_TERMINATE };
            }
            (MediaFailure::ClosedByPeer, Media::Closed { .. }) => {}
            (failure, _) => self.end(EndReason::MediaFailed(failure)),
        }
    }

    fn agent_joined(&mut self, joined: usize) {
        let State::Live(live) = &mut self.state else { return };
        let Line::Dialling { attempt, .. } = live.line else { return };
        if attempt == joined {
            live.line = Line::Joined { attempt };
            self.actions.push_back(Action::Report(Progress::AgentJoined { attempt }));
        }
    }

    fn agent_failed(&mut self, failed: usize, failure: AgentFailure, now: Instant) {
        let Some(was_joined) = self.on_line(failed) else { return };
        self.actions.push_back(Action::DropAgent { attempt: failed });
        self.actions.push_back(Action::Report(Progress::AgentFailed { attempt: failed, failure }));
        let Some(line) = self.put_through(failed + 1, now) else {
            return self.end(match was_joined {
                true => EndReason::AgentLost(failure),
                false => EndReason::NoAgent(failure),
            });
        };
        let State::Live(live) = &mut self.state else { return };
        live.line = line;
        live.last_failure = Some((failed, failure));
        if let Phase::Talking { .. } = live.phase {
            match line {
                Line::Prompts { attempt } => self.actions.push_back(Action::PlayPrompts { attempt }),
                Line::Dialling { .. } if was_joined => self.actions.push_back(Action::PlayHold),
                Line::Dialling { .. } | Line::Joined { .. } => {}
            }
        }
    }

    fn agent_hung_up(&mut self, attempt: usize) {
        if self.on_line(attempt).is_some() {
            self.end(EndReason::AgentHungUp);
        }
    }

    fn prompt_finished(&mut self) {
        let State::Live(Live { line: Line::Prompts { .. }, phase: Phase::Talking { .. }, last_failure, .. }) =
            &self.state
        else {
            return;
        };
        self.end(match last_failure {
            Some((_, failure)) => EndReason::AgentLost(*failure),
            None => EndReason::PromptFinished,
        });
    }

    /// Whether the agent of `attempt` is dialled (`Some(false)`) or joined (`Some(true)`); late words of
    /// earlier agents are for nobody.
    fn on_line(&self, attempt: usize) -> Option<bool> {
        let State::Live(live) = &self.state else { return None };
        match live.line {
            Line::Dialling { attempt: dialled, .. } if dialled == attempt => Some(false),
            Line::Joined { attempt: joined } if joined == attempt => Some(true),
            Line::Dialling { .. } | Line::Joined { .. } | Line::Prompts { .. } => None,
        }
    }

    /// Begins with `targets[attempt]`. None when nobody is left.
    fn put_through(&mut self, attempt: usize, now: Instant) -> Option<Line> {
        match self.options.targets.get(attempt)? {
            Target::Agent => {
                self.actions.push_back(Action::Dial { attempt });
                Some(Line::Dialling { attempt, give_up_at: now + self.options.agent_timeout })
            }
            Target::Prompts => Some(Line::Prompts { attempt }),
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
