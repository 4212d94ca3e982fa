//! The steps of which inputs and commands are made: plan, dial, hand over, let go.

use std::time::Instant;

use super::{
    Action, Actions, AgentSide, Attempt, AttemptKind, CallerHears, Handover, LeaveReason, Planned, Progress, State,
};
use crate::call::agent_failure::AgentFailure;

impl AgentSide {
    /// Appends attempts and returns the first of them.
    pub(super) fn plan(&mut self, attempts: Vec<AttemptKind>) -> Option<Attempt> {
        let first = self.attempts.len();
        let last = (first + attempts.len()).checked_sub(1)?;
        let planned = |(index, kind)| Planned { kind, next: (index < last).then(|| Attempt::new(index + 1)) };
        self.attempts.extend((first..).zip(attempts).map(planned));
        (self.attempts.len() > first).then(|| Attempt::new(first))
    }

    pub(super) fn planned(&self, attempt: Attempt) -> &Planned {
        &self.attempts[attempt.number()]
    }

    pub(super) fn put_through(&mut self, attempt: Attempt, hears: CallerHears, now: Instant, actions: &mut Actions) {
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
    pub(super) fn transfer_from_lost(
        &mut self,
        lost: Attempt,
        attempts: Vec<AttemptKind>,
        now: Instant,
        actions: &mut Actions,
    ) {
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
    pub(super) fn reach_beside(
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
    pub(super) fn try_next(
        &mut self,
        from: Attempt,
        failed: Attempt,
        failure: AgentFailure,
        now: Instant,
        actions: &mut Actions,
    ) {
        let State::Transferring { handover, .. } = self.state else { return };
        match self.planned(failed).next.filter(|next| self.planned(*next).kind.joins_beside(handover)) {
            Some(next) => self.reach_beside(Some(from), next, handover, now, actions),
            None => self.give_back(from, failed, Some(failure), actions),
        }
    }

    /// The first agent is lost while the second is dialled: the caller waits for the second.
    pub(super) fn lose_first(&mut self, actions: &mut Actions) {
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
    pub(super) fn let_wait(&self, to: Attempt, actions: &mut Actions) {
        actions.push_back(match self.planned(to).kind {
            AttemptKind::Person | AttemptKind::Queue => Action::PlayQueueHold { attempt: to },
            AttemptKind::Agent | AttemptKind::Prompts => Action::PlayHold,
        });
    }

    /// The second agent gets the caller.
    pub(super) fn hand_over(&mut self, from: Option<Attempt>, to: Attempt, actions: &mut Actions) {
        self.state = State::Joined { attempt: to };
        actions.push_back(Action::Promote { attempt: to });
        actions.push_back(Action::Report(Progress::Transferred { from, to }));
    }

    pub(super) fn give_back(
        &mut self,
        from: Attempt,
        to: Attempt,
        failure: Option<AgentFailure>,
        actions: &mut Actions,
    ) {
        self.state = State::Joined { attempt: from };
        actions.push_back(Action::Unhold);
        actions.push_back(Action::Report(Progress::TransferFailed { from, to, failure }));
    }

    pub(super) fn let_go(&mut self, attempt: Attempt, reason: LeaveReason, actions: &mut Actions) {
        actions.push_back(Action::DropAgent { attempt, reason });
        actions.push_back(Action::Report(Progress::AgentLeft { attempt, reason }));
    }

    pub(super) fn drop_all(&mut self, reason: LeaveReason, actions: &mut Actions) {
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
