//! The part of a call that we place, up to its conversation: connect, Meta's answer, ringing, and the callee's word.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::agent_side::{AgentSide, CallerHears};
use super::end::{EndReason, GraphTrouble};
use super::{Action, Call, CallOptions, Live, Media, Phase, Progress, State};

/// Meta's first webhook follows connect within a second. A call whose connect got no reply is given up without one.
pub(super) const SHOWN_WITHIN: Duration = Duration::from_secs(15);

impl Call {
    /// A call that we place. Without attempts the callee hears hold music until the application connects an agent.
    pub fn placed(options: CallOptions, now: Instant) -> Self {
        let mut actions = std::collections::VecDeque::from([Action::MakeOffer]);
        let mut agent_side = AgentSide::new(options.attempts.clone(), options.agent_timeout);
        if options.attempts.is_empty() {
            // Nobody is there to leave.
            let _ = agent_side.park(CallerHears::Ringing, &mut actions);
        }
        Self {
            accept_by: now + options.accept_timeout,
            agent_side,
            is_placed: true,
            decided: true,
            options,
            state: State::Offering,
            is_under_load: false,
            actions,
        }
    }

    pub(super) fn offered(&mut self, offer: Arc<str>) -> ControlFlow<EndReason> {
        let State::Offering = self.state else { return ControlFlow::Continue(()) };
        self.actions.push_back(Action::Connect(offer.clone()));
        let media = Media::Unanswered { give_up_at: None };
        self.state = State::Live(Live { sdp: offer, phase: Phase::Connecting, media });
        ControlFlow::Continue(())
    }

    pub(super) fn connected(&mut self, result: Result<(), GraphTrouble>, now: Instant) -> ControlFlow<EndReason> {
        let State::Live(live) = &mut self.state else { return ControlFlow::Continue(()) };
        if live.phase != Phase::Connecting {
            // A webhook has shown that Meta has the call, whatever became of the reply.
            return ControlFlow::Continue(());
        }
        match result {
            Ok(()) => self.metas_now(now),
            Err(GraphTrouble::Unknown) => {
                live.phase = Phase::Unconfirmed { give_up_at: now + SHOWN_WITHIN };
                ControlFlow::Continue(())
            }
            Err(trouble) => ControlFlow::Break(EndReason::ConnectFailed(trouble)),
        }
    }

    pub(super) fn answer_received(&mut self, answer: Arc<str>, now: Instant) -> ControlFlow<EndReason> {
        let State::Live(live) = &mut self.state else { return ControlFlow::Continue(()) };
        let Media::Unanswered { .. } = live.media else { return ControlFlow::Continue(()) };
        live.media = Media::Connecting { give_up_at: Some(now + self.options.media_timeout) };
        self.actions.push_back(Action::ApplyAnswer(answer));
        self.metas_now(now)
    }

    pub(super) fn callee_rings(&mut self, now: Instant) -> ControlFlow<EndReason> {
        let flow = self.metas_now(now);
        if let State::Live(live) = &mut self.state
            && live.phase == Phase::Dialled
        {
            live.phase = Phase::CalleeRings;
            self.actions.push_back(Action::Report(Progress::Ringing));
        }
        flow
    }

    pub(super) fn picked_up(&mut self, now: Instant) -> ControlFlow<EndReason> {
        let flow = self.metas_now(now);
        let State::Live(live) = &mut self.state else { return flow };
        if matches!(live.phase, Phase::Dialled | Phase::CalleeRings) {
            live.phase = Phase::PickedUp;
            if let Media::Unanswered { give_up_at } = &mut live.media {
                *give_up_at = Some(now + self.options.media_timeout);
            }
        }
        flow
    }

    /// Meta has the call: an agent is dialled while the callee's phone rings.
    fn metas_now(&mut self, now: Instant) -> ControlFlow<EndReason> {
        let State::Live(live) = &mut self.state else { return ControlFlow::Continue(()) };
        if !matches!(live.phase, Phase::Connecting | Phase::Unconfirmed { .. }) {
            return ControlFlow::Continue(());
        }
        live.phase = Phase::Dialled;
        self.begin_agent_side(now)
    }

    /// Talks once the callee has accepted and media are up.
    pub(super) fn talk_when_ready(&mut self, now: Instant) {
        if let State::Live(Live { phase: Phase::PickedUp, media: Media::Up, .. }) = &self.state {
            self.start_talking(now);
        }
    }

    /// Whether the callee accepted and media are not up yet.
    pub(super) fn is_picked_up(&self) -> bool {
        matches!(self.state, State::Live(Live { phase: Phase::PickedUp, .. }))
    }

    /// Whether Meta cannot have the call: connect is not sent yet, or did not reach it.
    pub(super) fn is_unknown_to_meta(&self, reason: &EndReason) -> bool {
        let is_unsent = self.actions.iter().any(|action| matches!(action, Action::Connect(_)));
        let is_refused = matches!(reason, EndReason::ConnectFailed(trouble) if *trouble != GraphTrouble::Unknown);
        self.is_placed && (is_unsent || is_refused)
    }
}
