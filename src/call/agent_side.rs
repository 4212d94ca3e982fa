//! AgentSide: which agent has the caller, which is tried next, and to which the call is being transferred.

mod commands;
mod steps;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::agent_failure::{AgentFailure, AgentFailureKind};
use super::end::EndReason;
use super::{Action, Attempt, LeaveReason, Progress};

/// What an attempt puts the caller through to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptKind {
    /// An agent, which is dialled and joins.
    Agent,
    /// A person by name, whose page rings. It takes the caller now or not at all.
    Person,
    /// A queue, whose agents take the caller when they are free.
    Queue,
    /// Prompts; the call ends after them.
    Prompts,
}

impl AttemptKind {
    /// Whether the present agent stays until this one joins. In a blind transfer to a queue it leaves at once: it need not
    /// wait as long as a queue may take.
    fn joins_beside(self, handover: Handover) -> bool {
        match self {
            Self::Agent | Self::Person => true,
            Self::Queue => handover == Handover::Warm,
            Self::Prompts => false,
        }
    }
}

/// A transfer that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The agent that is to take over.
    pub to: Attempt,
    /// How far it has come.
    pub stage: TransferStage,
}

/// How far a transfer has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferStage {
    /// The second agent is dialled, or rings.
    Asking,
    /// Both agents talk.
    Consulting,
}

impl TransferStage {
    /// The stable name in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Asking => "asking",
            Self::Consulting => "consulting",
        }
    }
}

/// What the caller hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallerHears {
    /// The phone's own ringing: accept is not confirmed yet.
    Ringing,
    /// Our audio.
    Us,
}

/// The agent's side of one call.
#[derive(Debug)]
pub(super) struct AgentSide {
    agent_timeout: Duration,
    /// Every attempt planned so far, by its number; the route's come first.
    attempts: Vec<Planned>,
    state: State,
    /// Why the last agent failed; the end reason when no attempt is left.
    last_failure: Option<AgentFailure>,
}

#[derive(Debug)]
struct Planned {
    kind: AttemptKind,
    /// The attempt that follows if this one fails.
    next: Option<Attempt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not begun. Without a first attempt the call cannot begin.
    Planned {
        first: Option<Attempt>,
    },
    /// No agent; the application decides which one comes.
    Parked,
    Dialling {
        attempt: Attempt,
        give_up_at: Instant,
    },
    /// The caller waits in a queue, or for a person; both have deadlines of their own.
    Queued {
        attempt: Attempt,
    },
    Joined {
        attempt: Attempt,
    },
    /// The agent's connection is lost, and its task tries to bring it back while the caller is on hold.
    Interrupted {
        attempt: Attempt,
        since: Instant,
        back_within: Duration,
        give_up_at: Instant,
    },
    Prompts {
        attempt: Attempt,
    },
    /// `to` is dialled while `from`, if it is still connected, waits and the caller is on hold. In a take-over they go on
    /// talking. Without a deadline `to` is a queue or a person, which have their own.
    Transferring {
        from: Option<Attempt>,
        to: Attempt,
        handover: Handover,
        give_up_at: Option<Instant>,
    },
    /// `from` and `to` talk to each other while the caller is on hold.
    Consulting {
        from: Attempt,
        to: Attempt,
    },
}

/// How the caller comes from one agent to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handover {
    /// As soon as the second agent joins.
    Cold,
    /// The agents talk first.
    Warm,
    /// The second agent takes the place of the first when it joins. If it fails, nothing has changed.
    TakeOver,
}

/// Where the methods below append what is to be done. `Break` ends the call with that reason.
type Actions = VecDeque<Action>;

impl AgentSide {
    /// Dials no agent before [`begin`](Self::begin).
    pub fn new(attempts: Vec<AttemptKind>, agent_timeout: Duration) -> Self {
        let mut side =
            Self { agent_timeout, attempts: Vec::new(), state: State::Planned { first: None }, last_failure: None };
        let first = side.plan(attempts);
        side.state = State::Planned { first };
        side
    }

    /// Whether an agent or prompts are ready for the caller. A queue that a call begins with is ready once its agent is; a
    /// later one is at once, because no phone rings as long as a queue may take.
    pub fn is_ready(&self) -> bool {
        match self.state {
            State::Joined { .. } | State::Prompts { .. } => true,
            State::Queued { attempt } => attempt != Attempt::new(0),
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Interrupted { .. }
            | State::Transferring { .. }
            | State::Consulting { .. } => false,
        }
    }

    /// The agent that has the caller.
    pub fn agent(&self) -> Option<Attempt> {
        match self.state {
            State::Joined { attempt } => Some(attempt),
            State::Transferring { from, .. } => from,
            State::Consulting { from, .. } => Some(from),
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. } => None,
        }
    }

    /// The transfer that is under way.
    pub fn transfer_under_way(&self) -> Option<Transfer> {
        match self.state {
            State::Transferring { to, handover: Handover::Cold | Handover::Warm, .. } => {
                Some(Transfer { to, stage: TransferStage::Asking })
            }
            State::Consulting { to, .. } => Some(Transfer { to, stage: TransferStage::Consulting }),
            // The agent stays the same person, or is another one without a word.
            State::Transferring { handover: Handover::TakeOver, .. } => None,
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. } => None,
        }
    }

    /// Starts the first attempt.
    pub fn begin(&mut self, hears: CallerHears, now: Instant, actions: &mut Actions) -> ControlFlow<EndReason> {
        let State::Planned { first } = self.state else { return ControlFlow::Continue(()) };
        let Some(first) = first else {
            return ControlFlow::Break(EndReason::NoAgent(AgentFailureKind::NotConfigured.into()));
        };
        self.put_through(first, hears, now, actions);
        ControlFlow::Continue(())
    }

    /// What to play from accept on: the prompts, or `waiting` while no agent has joined.
    pub fn sound(&self, waiting: Action) -> Option<Action> {
        match self.state {
            State::Planned { .. } | State::Parked | State::Dialling { .. } | State::Interrupted { .. } => Some(waiting),
            State::Queued { attempt } => Some(Action::PlayQueueHold { attempt }),
            State::Prompts { attempt } => Some(Action::PlayPrompts { attempt }),
            State::Joined { .. } | State::Transferring { .. } | State::Consulting { .. } => None,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Dialling { give_up_at, .. } | State::Interrupted { give_up_at, .. } => Some(give_up_at),
            State::Transferring { give_up_at, .. } => give_up_at,
            State::Planned { .. }
            | State::Parked
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Prompts { .. }
            | State::Consulting { .. } => None,
        }
    }

    /// Moves the deadline of an agent that is dialled by `gap`, at most to what it would be if it were dialled now.
    pub fn extend_deadlines(&mut self, gap: Duration, now: Instant) {
        match &mut self.state {
            State::Dialling { give_up_at, .. } | State::Transferring { give_up_at: Some(give_up_at), .. } => {
                *give_up_at = (*give_up_at + gap).min(now + self.agent_timeout);
            }
            State::Interrupted { give_up_at, back_within, .. } => {
                *give_up_at = (*give_up_at + gap).min(now + *back_within);
            }
            State::Planned { .. }
            | State::Parked
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Prompts { .. }
            | State::Transferring { give_up_at: None, .. }
            | State::Consulting { .. } => {}
        }
    }

    /// Gives up an agent that has not answered in time.
    pub fn handle_timeout(
        &mut self,
        hears: CallerHears,
        now: Instant,
        actions: &mut Actions,
    ) -> ControlFlow<EndReason> {
        match self.state {
            State::Dialling { attempt, give_up_at }
            | State::Transferring { to: attempt, give_up_at: Some(give_up_at), .. }
                if now >= give_up_at =>
            {
                self.failed(attempt, AgentFailureKind::NoAnswer.into(), hears, now, actions)
            }
            State::Interrupted { attempt, give_up_at, .. } if now >= give_up_at => {
                self.failed(attempt, AgentFailureKind::Disconnected.into(), hears, now, actions)
            }
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. }
            | State::Transferring { .. }
            | State::Consulting { .. } => ControlFlow::Continue(()),
        }
    }

    /// The agent of the attempt `joined` is listening. Late reports of earlier agents are ignored.
    pub fn joined(&mut self, joined: Attempt, now: Instant, actions: &mut Actions) {
        match self.state {
            State::Interrupted { attempt, since, .. } if attempt == joined => {
                self.state = State::Joined { attempt };
                let away = now.saturating_duration_since(since);
                actions.push_back(Action::Report(Progress::AgentRejoined { attempt, away }));
            }
            State::Dialling { attempt, .. } | State::Queued { attempt } if attempt == joined => {
                self.state = State::Joined { attempt };
                actions.push_back(Action::Report(Progress::AgentJoined { attempt }));
            }
            State::Transferring { from, to, handover, .. } if to == joined => {
                actions.push_back(Action::Report(Progress::AgentJoined { attempt: to }));
                match (from, handover) {
                    (Some(from), Handover::Warm) => self.state = State::Consulting { from, to },
                    (Some(from), Handover::Cold) => {
                        self.let_go(from, LeaveReason::Transferred, actions);
                        self.hand_over(Some(from), to, actions);
                    }
                    (None, Handover::Cold | Handover::Warm) => self.hand_over(None, to, actions),
                    (from, Handover::TakeOver) => {
                        if let Some(from) = from {
                            self.let_go(from, LeaveReason::Replaced, actions);
                        }
                        self.state = State::Joined { attempt: to };
                        actions.push_back(Action::Promote { attempt: to });
                    }
                }
            }
            // Its page has reloaded, which ended the hold.
            State::Transferring { from: Some(from), handover: Handover::Cold | Handover::Warm, .. }
            | State::Consulting { from, .. }
                if from == joined =>
            {
                actions.push_back(Action::Hold);
            }
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. }
            | State::Transferring { .. }
            | State::Consulting { .. } => {}
        }
    }

    /// The connection to the agent of the attempt `lost` broke, and is tried again for `back_within` at most. Only a caller
    /// who has no other agent waits for it.
    pub fn interrupted(
        &mut self,
        (lost, failure): (Attempt, AgentFailure),
        back_within: Duration,
        hears: CallerHears,
        now: Instant,
        actions: &mut Actions,
    ) -> ControlFlow<EndReason> {
        let since = match self.state {
            State::Joined { attempt } if attempt == lost => {
                actions.push_back(Action::Report(Progress::AgentInterrupted { attempt, failure }));
                now
            }
            // A connection that came up broke before the agent was ready.
            State::Interrupted { attempt, since, .. } if attempt == lost => since,
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. }
            | State::Transferring { .. }
            | State::Consulting { .. } => return self.failed(lost, failure, hears, now, actions),
        };
        self.state = State::Interrupted { attempt: lost, since, back_within, give_up_at: now + back_within };
        if hears == CallerHears::Us {
            actions.push_back(Action::PlayHold);
        }
        ControlFlow::Continue(())
    }

    /// The agent of the attempt `failed` could not be reached, or is lost.
    pub fn failed(
        &mut self,
        failed: Attempt,
        failure: AgentFailure,
        hears: CallerHears,
        now: Instant,
        actions: &mut Actions,
    ) -> ControlFlow<EndReason> {
        let was_joined = match self.state {
            State::Dialling { attempt, .. } | State::Queued { attempt } if attempt == failed => false,
            State::Joined { attempt } | State::Interrupted { attempt, .. } if attempt == failed => true,
            State::Transferring { from, to, .. } if to == failed || from == Some(failed) => from == Some(failed),
            State::Consulting { from, to } if from == failed || to == failed => true,
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. }
            | State::Transferring { .. }
            | State::Consulting { .. } => return ControlFlow::Continue(()),
        };
        actions.push_back(Action::DropAgent { attempt: failed, reason: LeaveReason::Failed });
        actions.push_back(Action::Report(Progress::AgentFailed { attempt: failed, failure: failure.clone() }));
        match self.state {
            State::Transferring { from: Some(from), .. } if from == failed => self.lose_first(actions),
            State::Transferring { from: Some(from), handover: Handover::TakeOver, .. } => {
                self.state = State::Joined { attempt: from };
            }
            State::Transferring { from: Some(from), to, .. } => self.try_next(from, to, failure, now, actions),
            State::Consulting { from, to } if from == failed => self.hand_over(Some(from), to, actions),
            State::Consulting { from, to } => self.give_back(from, to, Some(failure), actions),
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. }
            | State::Transferring { .. } => {
                let was_on_hold = matches!(self.state, State::Interrupted { .. });
                let Some(next) = self.planned(failed).next else {
                    return ControlFlow::Break(match was_joined {
                        true => EndReason::AgentLost(failure),
                        false => EndReason::NoAgent(failure),
                    });
                };
                self.last_failure = Some(failure);
                self.put_through(next, hears, now, actions);
                if was_joined
                    && !was_on_hold
                    && hears == CallerHears::Us
                    && matches!(self.state, State::Dialling { .. })
                {
                    actions.push_back(Action::PlayHold);
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// The agent of the attempt `left` hung up.
    pub fn hung_up(&mut self, left: Attempt, now: Instant, actions: &mut Actions) -> ControlFlow<EndReason> {
        match self.state {
            State::Dialling { attempt, .. } | State::Joined { attempt } if attempt == left => {
                ControlFlow::Break(EndReason::AgentHungUp)
            }
            State::Transferring { from, .. } if from == Some(left) => {
                self.let_go(left, LeaveReason::HungUp, actions);
                self.lose_first(actions);
                ControlFlow::Continue(())
            }
            State::Transferring { to, .. } if to == left => {
                self.failed(left, AgentFailureKind::Refused.into(), CallerHears::Us, now, actions)
            }
            State::Consulting { from, to } if from == left => {
                self.let_go(from, LeaveReason::HungUp, actions);
                self.hand_over(Some(from), to, actions);
                ControlFlow::Continue(())
            }
            State::Consulting { from, to } if to == left => {
                self.let_go(to, LeaveReason::HungUp, actions);
                self.give_back(from, to, None, actions);
                ControlFlow::Continue(())
            }
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. }
            | State::Transferring { .. }
            | State::Consulting { .. } => ControlFlow::Continue(()),
        }
    }

    /// The reason of the end that follows the last prompt; None while no prompt has the caller.
    pub fn prompts_finished(&self) -> Option<EndReason> {
        let State::Prompts { .. } = self.state else { return None };
        Some(self.last_failure.clone().map_or(EndReason::PromptFinished, EndReason::AgentLost))
    }
}
