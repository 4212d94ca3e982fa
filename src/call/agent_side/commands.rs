//! The application's commands to the agent side of a call: connect, park, transfer.

use std::time::Instant;

use super::{Action, Actions, AgentSide, Attempt, AttemptKind, CallerHears, Handover, LeaveReason, Progress, State};
use crate::call::refusal::{Refusal, RefusalCode};

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
