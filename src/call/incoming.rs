//! The part of an incoming call, up to its conversation: our answer, pre_accept, the app's decision, and accept.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use super::agent_side::CallerHears;
use super::end::{EndReason, GraphTrouble};
use super::refusal::{Refusal, RefusalCode};
use super::{AcceptWith, Action, AnswerWhen, Call, Live, Media, Phase, Progress, Signaling, State};

impl Call {
    pub(super) fn answered(&mut self, answer: Arc<str>, now: Instant) -> ControlFlow<EndReason> {
        let State::Answering = self.state else { return ControlFlow::Continue(()) };
        self.actions.push_back(Action::PreAccept(answer.clone()));
        if self.decided {
            self.agent_side.begin(CallerHears::Ringing, now, &mut self.actions)?;
        }
        let media = Media::Connecting { give_up_at: None };
        let phase = match self.options.signaling {
            Signaling::Graph => Phase::PreAccepting,
            // Whether and when it sends pre_accept is its own affair: media show it.
            Signaling::External => Phase::Ringing,
        };
        self.state = State::Live(Live { sdp: answer, phase, media });
        ControlFlow::Continue(())
    }

    pub(super) fn decide(&mut self, now: Instant) -> ControlFlow<EndReason> {
        self.decided |= self.options.answer != AnswerWhen::OnCommand;
        self.begin_agent_side(now)
    }

    pub(super) fn accept_with(&mut self, with: AcceptWith, now: Instant) -> ControlFlow<EndReason> {
        self.options.answer = AnswerWhen::AtOnce;
        match with {
            AcceptWith::Route => {}
            AcceptWith::Others(attempts) => {
                self.agent_side.connect(attempts, CallerHears::Ringing, now, &mut self.actions);
            }
            // It may be parked already.
            AcceptWith::Nobody => drop(self.agent_side.park(CallerHears::Ringing, &mut self.actions)),
        }
        self.decided = true;
        self.begin_agent_side(now)
    }

    pub(super) fn still_ringing(&self) -> Result<(), Refusal> {
        match &self.state {
            // The application has not accepted it yet.
            State::Live(Live { phase: Phase::Accepting, .. }) if self.is_external() => Ok(()),
            State::Live(Live { phase: Phase::Accepting | Phase::PickedUp | Phase::Talking { .. }, .. }) => {
                Err(Refusal::new(RefusalCode::CallAlreadyAccepted, "the call is accepted already"))
            }
            State::Live(_) | State::Answering | State::Offering | State::Ended(_) => Ok(()),
        }
    }

    pub(super) fn pre_accepted(&mut self, result: Result<(), GraphTrouble>, now: Instant) -> ControlFlow<EndReason> {
        let State::Live(live) = &mut self.state else { return ControlFlow::Continue(()) };
        if live.phase != Phase::PreAccepting {
            return ControlFlow::Continue(());
        }
        match result {
            // Media shows an unknown outcome: it comes up only if Meta took our answer.
            Ok(()) | Err(GraphTrouble::Unknown) => {
                live.phase = Phase::Ringing;
                if let Media::Connecting { give_up_at } = &mut live.media {
                    *give_up_at = Some(now + self.options.media_timeout);
                }
                if result.is_ok() {
                    self.actions.push_back(Action::Report(Progress::PreAccepted));
                }
                ControlFlow::Continue(())
            }
            Err(trouble) => ControlFlow::Break(EndReason::PreAcceptFailed(trouble)),
        }
    }

    pub(super) fn accepted(&mut self, result: Result<(), GraphTrouble>, now: Instant) -> ControlFlow<EndReason> {
        let State::Live(live) = &mut self.state else { return ControlFlow::Continue(()) };
        if live.phase != Phase::Accepting {
            return ControlFlow::Continue(());
        }
        if let Err(trouble) = result {
            return ControlFlow::Break(EndReason::AcceptFailed(trouble));
        }
        self.start_talking(now);
        ControlFlow::Continue(())
    }

    /// Sends accept once media and agent are ready.
    pub(super) fn accept_when_ready(&mut self) {
        let State::Live(live) = &mut self.state else { return };
        let agent_ready = match self.options.answer {
            AnswerWhen::AgentReady => self.agent_side.is_ready(),
            AnswerWhen::AtOnce => self.decided,
            AnswerWhen::OnCommand => false,
        };
        if live.phase == Phase::Ringing && live.media == Media::Up && agent_ready {
            live.phase = Phase::Accepting;
            self.actions.push_back(Action::Accept(live.sdp.clone()));
        }
    }
}
