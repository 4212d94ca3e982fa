//! The agent side of a call: who has the caller, who is tried next, and to whom the call is being transferred. Pure.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::agent_failure::{AgentFailure, AgentFailureKind};
use super::end::EndReason;
use super::refusal::{Refusal, RefusalCode};
use super::{Action, Left, Progress};

/// Someone or something the caller can be put through to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// An agent that is dialled and joins.
    Agent,
    /// Prompts of the route; when they have ended, the call ends.
    Prompts,
}

/// Whether the caller hears us, and what it hears while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hears {
    /// The phone's own ringing.
    NotYet,
    /// Us.
    Us,
}

/// The agent's side of one call.
#[derive(Debug)]
pub(super) struct AgentSide {
    agent_timeout: Duration,
    /// Everybody who was ever to be tried, by attempt. The route's are the first.
    targets: Vec<Planned>,
    state: State,
    /// Why the last agent failed; it becomes the reason of the end when nobody is left.
    last_failure: Option<AgentFailure>,
}

#[derive(Debug)]
struct Planned {
    target: Target,
    /// Who is tried if this one fails.
    next: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Not begun; who will be the first. None leaves the call without an agent.
    Planned {
        first: Option<usize>,
    },
    /// Nobody; the application decides who comes.
    Parked,
    Dialling {
        attempt: usize,
        give_up_at: Instant,
    },
    Joined {
        attempt: usize,
    },
    Prompts {
        attempt: usize,
    },
    /// `to` is dialled while `from`, if it is still there, keeps its seat and the caller is on hold.
    Transferring {
        from: Option<usize>,
        to: usize,
        warm: bool,
        give_up_at: Instant,
    },
    /// `from` and `to` talk with each other while the caller is on hold.
    Consulting {
        from: usize,
        to: usize,
    },
}

/// What it does is said here; a reason is the call's end.
type Actions = VecDeque<Action>;

impl AgentSide {
    /// Nobody is tried before [`begin`](Self::begin).
    pub fn new(targets: Vec<Target>, agent_timeout: Duration) -> Self {
        let mut side =
            Self { agent_timeout, targets: Vec::new(), state: State::Planned { first: None }, last_failure: None };
        let first = side.plan(targets);
        side.state = State::Planned { first };
        side
    }

    /// Whether somebody, or a prompt, is there to talk with the caller.
    pub fn is_ready(&self) -> bool {
        matches!(self.state, State::Joined { .. } | State::Prompts { .. })
    }

    /// Who is on the line.
    pub fn agent(&self) -> Option<usize> {
        match self.state {
            State::Joined { attempt } => Some(attempt),
            State::Transferring { from, .. } => from,
            State::Consulting { from, .. } => Some(from),
            State::Planned { .. } | State::Parked | State::Dialling { .. } | State::Prompts { .. } => None,
        }
    }

    /// Tries the first. An error is the call's end: nobody is there to be tried.
    pub fn begin(&mut self, hears: Hears, now: Instant, actions: &mut Actions) -> Result<(), EndReason> {
        let State::Planned { first } = self.state else { return Ok(()) };
        let Some(first) = first else {
            return Err(EndReason::NoAgent(AgentFailureKind::NotConfigured.into()));
        };
        self.put_through(first, hears, now, actions);
        Ok(())
    }

    /// What the caller hears from accept on, if it must be said.
    pub fn sound(&self, waiting: Action) -> Option<Action> {
        match self.state {
            State::Planned { .. } | State::Parked | State::Dialling { .. } => Some(waiting),
            State::Prompts { attempt } => Some(Action::PlayPrompts { attempt }),
            State::Joined { .. } | State::Transferring { .. } | State::Consulting { .. } => None,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Dialling { give_up_at, .. } | State::Transferring { give_up_at, .. } => Some(give_up_at),
            State::Planned { .. }
            | State::Parked
            | State::Joined { .. }
            | State::Prompts { .. }
            | State::Consulting { .. } => None,
        }
    }

    /// Nothing was read for `gap`: whoever is dialled has that much longer, at most as if it were dialled now.
    pub fn stood_still(&mut self, gap: Duration, now: Instant) {
        match &mut self.state {
            State::Dialling { give_up_at, .. } | State::Transferring { give_up_at, .. } => {
                *give_up_at = (*give_up_at + gap).min(now + self.agent_timeout);
            }
            State::Planned { .. }
            | State::Parked
            | State::Joined { .. }
            | State::Prompts { .. }
            | State::Consulting { .. } => {}
        }
    }

    /// An agent that has not answered in time is given up.
    pub fn handle_timeout(&mut self, hears: Hears, now: Instant, actions: &mut Actions) -> Result<(), EndReason> {
        match self.state {
            State::Dialling { attempt, give_up_at } | State::Transferring { to: attempt, give_up_at, .. }
                if now >= give_up_at =>
            {
                self.failed(attempt, AgentFailureKind::NoAnswer.into(), hears, now, actions)
            }
            _ => Ok(()),
        }
    }

    /// The agent dialled as `joined` is listening. Late words of earlier agents are for nobody.
    pub fn joined(&mut self, joined: usize, actions: &mut Actions) {
        match self.state {
            State::Dialling { attempt, .. } if attempt == joined => {
                self.state = State::Joined { attempt };
                actions.push_back(Action::Report(Progress::AgentJoined { attempt }));
            }
            State::Transferring { from, to, warm, .. } if to == joined => {
                actions.push_back(Action::Report(Progress::AgentJoined { attempt: to }));
                match from {
                    Some(from) if warm => self.state = State::Consulting { from, to },
                    Some(from) => {
                        self.let_go(from, Left::Transferred, actions);
                        self.hand_over(Some(from), to, actions);
                    }
                    None => self.hand_over(None, to, actions),
                }
            }
            _ => {}
        }
    }

    /// The agent dialled as `failed` could not be reached, or is gone.
    pub fn failed(
        &mut self,
        failed: usize,
        failure: AgentFailure,
        hears: Hears,
        now: Instant,
        actions: &mut Actions,
    ) -> Result<(), EndReason> {
        let was_joined = match self.state {
            State::Dialling { attempt, .. } if attempt == failed => false,
            State::Joined { attempt } if attempt == failed => true,
            State::Transferring { from, to, .. } if to == failed || from == Some(failed) => from == Some(failed),
            State::Consulting { from, to } if from == failed || to == failed => true,
            _ => return Ok(()),
        };
        actions.push_back(Action::DropAgent { attempt: failed, left: Left::Failed });
        actions.push_back(Action::Report(Progress::AgentFailed { attempt: failed, failure: failure.clone() }));
        match self.state {
            State::Transferring { from: Some(from), .. } if from == failed => self.lose_first(actions),
            State::Transferring { from: Some(from), to, .. } => self.try_next(from, to, failure, now, actions),
            State::Consulting { from, to } if from == failed => self.hand_over(Some(from), to, actions),
            State::Consulting { from, to } => self.give_back(from, to, Some(failure), actions),
            _ => {
                let Some(next) = self.targets[failed].next else {
                    return Err(match was_joined {
                        true => EndReason::AgentLost(failure),
                        false => EndReason::NoAgent(failure),
                    });
                };
                self.last_failure = Some(failure);
                self.put_through(next, hears, now, actions);
                if was_joined && hears == Hears::Us && matches!(self.state, State::Dialling { .. }) {
                    actions.push_back(Action::PlayHold);
                }
            }
        }
        Ok(())
    }

    /// The agent of `attempt` said goodbye.
    pub fn hung_up(&mut self, left: usize, now: Instant, actions: &mut Actions) -> Result<(), EndReason> {
        match self.state {
            State::Dialling { attempt, .. } | State::Joined { attempt } if attempt == left => {
                Err(EndReason::AgentHungUp)
            }
            State::Transferring { from, .. } if from == Some(left) => {
                self.let_go(left, Left::HungUp, actions);
                self.lose_first(actions);
                Ok(())
            }
            State::Transferring { to, .. } if to == left => {
                self.failed(left, AgentFailureKind::Refused.into(), Hears::Us, now, actions)
            }
            State::Consulting { from, to } if from == left => {
                self.let_go(from, Left::HungUp, actions);
                self.hand_over(Some(from), to, actions);
                Ok(())
            }
            State::Consulting { from, to } if to == left => {
                self.let_go(to, Left::HungUp, actions);
                self.give_back(from, to, None, actions);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Why the call ends when the prompts that stood in for an agent have ended; None if none stand in.
    pub fn prompts_finished(&self) -> Option<EndReason> {
        let State::Prompts { .. } = self.state else { return None };
        Some(self.last_failure.clone().map_or(EndReason::PromptFinished, EndReason::AgentLost))
    }
}

/// What the application asks for.
impl AgentSide {
    /// Puts the caller through to others, from now on and in their order; whoever is there leaves.
    pub fn connect(&mut self, targets: Vec<Target>, hears: Hears, now: Instant, actions: &mut Actions) {
        let first = self.plan(targets);
        if let State::Planned { .. } = self.state {
            self.state = State::Planned { first };
            return;
        }
        let Some(first) = first else { return };
        self.send_everybody_away(Left::Replaced, actions);
        self.last_failure = None;
        self.put_through(first, hears, now, actions);
        if hears == Hears::Us && matches!(self.state, State::Dialling { .. }) {
            actions.push_back(Action::PlayHold);
        }
    }

    /// Leaves the caller without an agent.
    pub fn park(&mut self, hears: Hears, actions: &mut Actions) -> Result<(), Refusal> {
        if self.state == State::Parked {
            return Err(Refusal::new(RefusalCode::NoAgent, "no agent is on the line: connect one"));
        }
        self.send_everybody_away(Left::Disconnected, actions);
        self.state = State::Parked;
        if hears == Hears::Us {
            actions.push_back(Action::PlayHold);
        }
        Ok(())
    }

    /// Brings another agent in while the caller is on hold; cold, it takes over as soon as it is there.
    pub fn transfer(
        &mut self,
        targets: Vec<Target>,
        warm: bool,
        now: Instant,
        actions: &mut Actions,
    ) -> Result<(), Refusal> {
        let from = match self.state {
            State::Joined { attempt } => attempt,
            State::Transferring { .. } | State::Consulting { .. } => {
                let advice = "a transfer is under way: complete_transfer or cancel_transfer first";
                return Err(Refusal::new(RefusalCode::TransferUnderWay, advice));
            }
            _ => {
                return Err(Refusal::new(
                    RefusalCode::NoAgent,
                    "no agent is on the line to transfer from: use connect",
                ));
            }
        };
        let is_to_agent = targets.first() == Some(&Target::Agent);
        let Some(to) = self.plan(targets) else { return Ok(()) };
        match is_to_agent {
            true => {
                actions.push_back(Action::Hold);
                self.dial_beside(Some(from), to, warm, now, actions);
            }
            false => {
                self.let_go(from, Left::Transferred, actions);
                // The prompts are what was wanted, whoever failed before.
                self.last_failure = None;
                self.state = State::Prompts { attempt: to };
                actions.push_back(Action::PlayPrompts { attempt: to });
                actions.push_back(Action::Report(Progress::Transferred { from: Some(from), to }));
            }
        }
        Ok(())
    }

    /// The first agent leaves and the second takes the caller.
    pub fn complete_transfer(&mut self, actions: &mut Actions) -> Result<(), Refusal> {
        match self.state {
            State::Consulting { from, to } => {
                self.let_go(from, Left::Transferred, actions);
                self.hand_over(Some(from), to, actions);
                Ok(())
            }
            State::Transferring { from, to, warm: true, give_up_at } => {
                // It takes over as soon as it is there.
                self.state = State::Transferring { from, to, warm: false, give_up_at };
                Ok(())
            }
            _ => Err(no_transfer()),
        }
    }

    /// The second agent leaves and the first has the caller again.
    pub fn cancel_transfer(&mut self, actions: &mut Actions) -> Result<(), Refusal> {
        match self.state {
            State::Consulting { from, to } => {
                self.let_go(to, Left::Cancelled, actions);
                self.give_back(from, to, None, actions);
                Ok(())
            }
            State::Transferring { from: Some(from), to, .. } => {
                actions.push_back(Action::DropAgent { attempt: to, left: Left::Cancelled });
                self.give_back(from, to, None, actions);
                Ok(())
            }
            _ => Err(no_transfer()),
        }
    }
}

fn no_transfer() -> Refusal {
    Refusal::new(RefusalCode::NoTransfer, "no transfer is under way that this could be said of")
}

/// The steps they are made of.
impl AgentSide {
    /// Notes whom to try; says who is the first.
    fn plan(&mut self, targets: Vec<Target>) -> Option<usize> {
        let first = self.targets.len();
        let last = (first + targets.len()).checked_sub(1)?;
        let planned = |(index, target)| Planned { target, next: (index < last).then_some(index + 1) };
        self.targets.extend((first..).zip(targets).map(planned));
        (self.targets.len() > first).then_some(first)
    }

    fn put_through(&mut self, attempt: usize, hears: Hears, now: Instant, actions: &mut Actions) {
        match self.targets[attempt].target {
            Target::Agent => {
                actions.push_back(Action::Dial { attempt });
                self.state = State::Dialling { attempt, give_up_at: now + self.agent_timeout };
            }
            Target::Prompts => {
                self.state = State::Prompts { attempt };
                if hears == Hears::Us {
                    actions.push_back(Action::PlayPrompts { attempt });
                }
            }
        }
    }

    fn dial_beside(&mut self, from: Option<usize>, to: usize, warm: bool, now: Instant, actions: &mut Actions) {
        actions.push_back(Action::DialBeside { attempt: to });
        self.state = State::Transferring { from, to, warm, give_up_at: now + self.agent_timeout };
    }

    /// The next of those that the transfer may lead to; if there is none, the first agent has the caller again.
    fn try_next(&mut self, from: usize, failed: usize, failure: AgentFailure, now: Instant, actions: &mut Actions) {
        let State::Transferring { warm, .. } = self.state else { return };
        match self.targets[failed].next.filter(|next| self.targets[*next].target == Target::Agent) {
            Some(next) => self.dial_beside(Some(from), next, warm, now, actions),
            None => self.give_back(from, failed, Some(failure), actions),
        }
    }

    /// The first agent is gone while the second is dialled: the caller waits for the second.
    fn lose_first(&mut self, actions: &mut Actions) {
        if let State::Transferring { to, give_up_at, .. } = self.state {
            self.state = State::Transferring { from: None, to, warm: false, give_up_at };
            actions.push_back(Action::PlayHold);
        }
    }

    /// The first agent has left; the second takes the caller.
    fn hand_over(&mut self, from: Option<usize>, to: usize, actions: &mut Actions) {
        self.state = State::Joined { attempt: to };
        actions.push_back(Action::Promote { attempt: to });
        actions.push_back(Action::Report(Progress::Transferred { from, to }));
    }

    fn give_back(&mut self, from: usize, to: usize, failure: Option<AgentFailure>, actions: &mut Actions) {
        self.state = State::Joined { attempt: from };
        actions.push_back(Action::Unhold);
        actions.push_back(Action::Report(Progress::TransferFailed { from, to, failure }));
    }

    fn let_go(&mut self, attempt: usize, left: Left, actions: &mut Actions) {
        actions.push_back(Action::DropAgent { attempt, left });
        actions.push_back(Action::Report(Progress::AgentLeft { attempt, left }));
    }

    fn send_everybody_away(&mut self, left: Left, actions: &mut Actions) {
        let (joined, dialled) = match self.state {
            State::Dialling { attempt, .. } => ([None, None], Some(attempt)),
            State::Joined { attempt } => ([Some(attempt), None], None),
            State::Transferring { from, to, .. } => ([from, None], Some(to)),
            State::Consulting { from, to } => ([Some(from), Some(to)], None),
            State::Planned { .. } | State::Parked | State::Prompts { .. } => ([None, None], None),
        };
        for attempt in joined.into_iter().flatten() {
            self.let_go(attempt, left, actions);
        }
        // Nobody was told that it came, so nobody is told that it left.
        actions.extend(dialled.map(|attempt| Action::DropAgent { attempt, left }));
    }
}
