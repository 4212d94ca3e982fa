//! AgentSide: which agent has the caller, which is tried next, and to which the call is being transferred.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::agent_failure::{AgentFailure, AgentFailureKind};
use super::end::EndReason;
use super::refusal::{Refusal, RefusalCode};
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

/// The application's commands.
impl AgentSide {
    /// Puts the caller through to others, in their order; the present agents leave.
    pub fn connect(&mut self, attempts: Vec<AttemptKind>, hears: CallerHears, now: Instant, actions: &mut Actions) {
        let first = self.plan(attempts);
        if let State::Planned { .. } = self.state {
            self.state = State::Planned { first };
            return;
        }
        let Some(first) = first else { return };
        self.drop_all(LeaveReason::Replaced, actions);
        self.last_failure = None;
        self.put_through(first, hears, now, actions);
        if hears == CallerHears::Us && matches!(self.state, State::Dialling { .. }) {
            actions.push_back(Action::PlayHold);
        }
    }

    /// An agent takes the place of the one that is on the line, or dialled, once it has joined. What was to follow that one's
    /// loss follows this one's.
    pub fn take_over(&mut self, hears: CallerHears, now: Instant, actions: &mut Actions) {
        let (before, is_joined) = match self.state {
            State::Joined { attempt } => (Some(attempt), true),
            State::Dialling { attempt, .. } | State::Interrupted { attempt, .. } => (Some(attempt), false),
            State::Transferring { from: None, to, .. } => (Some(to), false),
            State::Transferring { from: Some(from), .. } | State::Consulting { from, .. } => (Some(from), false),
            State::Planned { .. } | State::Parked | State::Queued { .. } | State::Prompts { .. } => (None, false),
        };
        let to = Attempt::new(self.attempts.len());
        if let (Some(from), true, CallerHears::Us) = (before, is_joined, hears) {
            self.plan(vec![AttemptKind::Agent]);
            self.reach_beside(Some(from), to, Handover::TakeOver, now, actions);
        } else {
            self.connect(vec![AttemptKind::Agent], hears, now, actions);
        }
        self.attempts[to.number()].next = before.and_then(|before| self.planned(before).next);
    }

    /// Leaves the caller without an agent.
    pub fn park(&mut self, hears: CallerHears, actions: &mut Actions) -> Result<(), Refusal> {
        if self.state == State::Parked {
            return Err(Refusal::new(RefusalCode::NoAgent, "no agent is on the line: connect one"));
        }
        self.drop_all(LeaveReason::Disconnected, actions);
        self.state = State::Parked;
        if hears == CallerHears::Us {
            actions.push_back(Action::PlayHold);
        }
        Ok(())
    }

    /// Dials another agent while the caller is on hold. A cold transfer hands the caller over as soon as it joins.
    pub fn transfer(
        &mut self,
        attempts: Vec<AttemptKind>,
        warm: bool,
        now: Instant,
        actions: &mut Actions,
    ) -> Result<(), Refusal> {
        let from = match self.state {
            State::Joined { attempt } => attempt,
            State::Interrupted { attempt, .. } => {
                self.transfer_from_lost(attempt, attempts, now, actions);
                return Ok(());
            }
            State::Transferring { .. } | State::Consulting { .. } => {
                let advice = "a transfer is under way: complete_transfer or cancel_transfer first";
                return Err(Refusal::new(RefusalCode::TransferUnderWay, advice));
            }
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Prompts { .. } => {
                return Err(Refusal::new(
                    RefusalCode::NoAgent,
                    "no agent is on the line to transfer from: use connect",
                ));
            }
        };
        let Some(kind) = attempts.first().copied() else { return Ok(()) };
        let Some(to) = self.plan(attempts) else { return Ok(()) };
        let handover = if warm { Handover::Warm } else { Handover::Cold };
        if kind.joins_beside(handover) {
            actions.push_back(Action::Hold);
            self.reach_beside(Some(from), to, handover, now, actions);
        } else {
            self.let_go(from, LeaveReason::Transferred, actions);
            // What follows is wanted, whichever agent failed before.
            self.last_failure = None;
            self.put_through(to, CallerHears::Us, now, actions);
            actions.push_back(Action::Report(Progress::Transferred { from: Some(from), to }));
        }
        Ok(())
    }

    /// The first agent leaves and the second gets the caller.
    pub fn complete_transfer(&mut self, actions: &mut Actions) -> Result<(), Refusal> {
        match self.state {
            State::Consulting { from, to } => {
                self.let_go(from, LeaveReason::Transferred, actions);
                self.hand_over(Some(from), to, actions);
                Ok(())
            }
            // The first agent need not wait as long as a queue may take.
            State::Transferring { from: Some(from), to, handover: Handover::Warm, .. }
                if self.planned(to).kind == AttemptKind::Queue =>
            {
                self.let_go(from, LeaveReason::Transferred, actions);
                self.lose_first(actions);
                Ok(())
            }
            State::Transferring { from, to, handover: Handover::Warm, give_up_at } => {
                // The second agent gets the caller as soon as it joins.
                self.state = State::Transferring { from, to, handover: Handover::Cold, give_up_at };
                Ok(())
            }
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. }
            | State::Transferring { .. } => Err(no_transfer()),
        }
    }

    /// The second agent leaves and the first has the caller again.
    pub fn cancel_transfer(&mut self, actions: &mut Actions) -> Result<(), Refusal> {
        match self.state {
            State::Consulting { from, to } => {
                self.let_go(to, LeaveReason::Cancelled, actions);
                self.give_back(from, to, None, actions);
                Ok(())
            }
            State::Transferring { from: Some(from), to, handover: Handover::Cold | Handover::Warm, .. } => {
                actions.push_back(Action::DropAgent { attempt: to, reason: LeaveReason::Cancelled });
                self.give_back(from, to, None, actions);
                Ok(())
            }
            State::Planned { .. }
            | State::Parked
            | State::Dialling { .. }
            | State::Queued { .. }
            | State::Joined { .. }
            | State::Interrupted { .. }
            | State::Prompts { .. }
            | State::Transferring { .. } => Err(no_transfer()),
        }
    }
}

fn no_transfer() -> Refusal {
    Refusal::new(RefusalCode::NoTransfer, "no transfer is under way that this applies to")
}

/// The steps of both.
impl AgentSide {
    /// Appends attempts and returns the first of them.
    fn plan(&mut self, attempts: Vec<AttemptKind>) -> Option<Attempt> {
        let first = self.attempts.len();
        let last = (first + attempts.len()).checked_sub(1)?;
        let planned = |(index, kind)| Planned { kind, next: (index < last).then(|| Attempt::new(index + 1)) };
        self.attempts.extend((first..).zip(attempts).map(planned));
        (self.attempts.len() > first).then(|| Attempt::new(first))
    }

    fn planned(&self, attempt: Attempt) -> &Planned {
        &self.attempts[attempt.number()]
    }

    fn put_through(&mut self, attempt: Attempt, hears: CallerHears, now: Instant, actions: &mut Actions) {
        match self.planned(attempt).kind {
            AttemptKind::Agent => {
                actions.push_back(Action::Dial { attempt });
                self.state = State::Dialling { attempt, give_up_at: now + self.agent_timeout };
            }
            AttemptKind::Person | AttemptKind::Queue => {
                self.state = State::Queued { attempt };
                actions.push_back(Action::EnterQueue { attempt });
                if hears == CallerHears::Us {
                    actions.push_back(Action::PlayQueueHold { attempt });
                }
            }
            AttemptKind::Prompts => {
                self.state = State::Prompts { attempt };
                if hears == CallerHears::Us {
                    actions.push_back(Action::PlayPrompts { attempt });
                }
            }
        }
    }

    /// The caller of an agent that is being tried again goes to others, who take over as soon as they join. If they fail,
    /// what was to follow the lost agent follows.
    fn transfer_from_lost(&mut self, lost: Attempt, attempts: Vec<AttemptKind>, now: Instant, actions: &mut Actions) {
        let follows = self.planned(lost).next;
        let kind = attempts.first().copied();
        let Some((to, kind)) = self.plan(attempts).zip(kind) else { return };
        if let Some(last) = self.attempts.last_mut() {
            last.next = follows;
        }
        actions.push_back(Action::DropAgent { attempt: lost, reason: LeaveReason::Transferred });
        self.last_failure = None;
        if kind.joins_beside(Handover::Cold) {
            self.reach_beside(None, to, Handover::Cold, now, actions);
            self.let_wait(to, actions);
        } else {
            self.put_through(to, CallerHears::Us, now, actions);
            actions.push_back(Action::Report(Progress::Transferred { from: None, to }));
        }
    }

    /// Reaches the next agent while the present one, if any, stays. Its kind [joins beside](AttemptKind::joins_beside)
    /// another.
    fn reach_beside(
        &mut self,
        from: Option<Attempt>,
        to: Attempt,
        handover: Handover,
        now: Instant,
        actions: &mut Actions,
    ) {
        let (action, give_up_at) = match self.planned(to).kind {
            AttemptKind::Agent => (Action::DialBeside { attempt: to }, Some(now + self.agent_timeout)),
            AttemptKind::Person | AttemptKind::Queue | AttemptKind::Prompts => {
                (Action::EnterQueueBeside { attempt: to }, None)
            }
        };
        actions.push_back(action);
        self.state = State::Transferring { from, to, handover, give_up_at };
    }

    /// Reaches the next target of the transfer; if there is none, the first agent gets the caller back.
    fn try_next(&mut self, from: Attempt, failed: Attempt, failure: AgentFailure, now: Instant, actions: &mut Actions) {
        let State::Transferring { handover, .. } = self.state else { return };
        match self.planned(failed).next.filter(|next| self.planned(*next).kind.joins_beside(handover)) {
            Some(next) => self.reach_beside(Some(from), next, handover, now, actions),
            None => self.give_back(from, failed, Some(failure), actions),
        }
    }

    /// The first agent is lost while the second is dialled: the caller waits for the second.
    fn lose_first(&mut self, actions: &mut Actions) {
        if let State::Transferring { to, handover, give_up_at, .. } = self.state {
            let handover = match handover {
                Handover::Cold | Handover::Warm => Handover::Cold,
                Handover::TakeOver => Handover::TakeOver,
            };
            self.state = State::Transferring { from: None, to, handover, give_up_at };
            self.let_wait(to, actions);
        }
    }

    /// What a caller without an agent hears until this one joins.
    fn let_wait(&self, to: Attempt, actions: &mut Actions) {
        actions.push_back(match self.planned(to).kind {
            AttemptKind::Person | AttemptKind::Queue => Action::PlayQueueHold { attempt: to },
            AttemptKind::Agent | AttemptKind::Prompts => Action::PlayHold,
        });
    }

    /// The second agent gets the caller.
    fn hand_over(&mut self, from: Option<Attempt>, to: Attempt, actions: &mut Actions) {
        self.state = State::Joined { attempt: to };
        actions.push_back(Action::Promote { attempt: to });
        actions.push_back(Action::Report(Progress::Transferred { from, to }));
    }

    fn give_back(&mut self, from: Attempt, to: Attempt, failure: Option<AgentFailure>, actions: &mut Actions) {
        self.state = State::Joined { attempt: from };
        actions.push_back(Action::Unhold);
        actions.push_back(Action::Report(Progress::TransferFailed { from, to, failure }));
    }

    fn let_go(&mut self, attempt: Attempt, reason: LeaveReason, actions: &mut Actions) {
        actions.push_back(Action::DropAgent { attempt, reason });
        actions.push_back(Action::Report(Progress::AgentLeft { attempt, reason }));
    }

    fn drop_all(&mut self, reason: LeaveReason, actions: &mut Actions) {
        let (joined, dialled) = match self.state {
            State::Dialling { attempt, .. } | State::Queued { attempt } | State::Interrupted { attempt, .. } => {
                ([None, None], Some(attempt))
            }
            State::Joined { attempt } => ([Some(attempt), None], None),
            State::Transferring { from, to, .. } => ([from, None], Some(to)),
            State::Consulting { from, to } => ([Some(from), Some(to)], None),
            State::Planned { .. } | State::Parked | State::Prompts { .. } => ([None, None], None),
        };
        for attempt in joined.into_iter().flatten() {
            self.let_go(attempt, reason, actions);
        }
        // No event announced it, or one said that it is lost, so none says that it left.
        actions.extend(dialled.map(|attempt| Action::DropAgent { attempt, reason }));
    }
}
