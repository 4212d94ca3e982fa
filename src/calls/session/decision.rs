//! The decision of a call: the app gets `call.incoming` while media and pre_accept go on, and its commands are performed in
//! their order.

use tokio::sync::oneshot;
use tokio::task::{JoinError, JoinSet};
use tracing::{Instrument, warn};

use super::Session;
use crate::agent::AgentTarget;
use crate::call::command::{CallCommand, CourseCommand};
use crate::call::end::EndReason;
use crate::call::refusal::Refusal;
use crate::call::{Call, Input};
use crate::calls::decision_webhook::{NoDecision, Plan, Step};
use crate::clock;
use crate::pulse::Standstills;
use crate::store::EventRecord;

/// The decision webhook's request, and what is left of its answer.
#[derive(Default)]
pub(super) struct Decision {
    /// The event that the app gets.
    pub incoming: Option<EventRecord>,
    /// The request; at most one.
    pub asking: JoinSet<Result<Plan, NoDecision>>,
    /// Commands for when the caller hears us.
    postponed: Vec<Step>,
}

impl Decision {
    pub fn has_postponed(&self) -> bool {
        !self.postponed.is_empty()
    }
}

impl Session {
    /// Asks the app, if the route has a decision webhook. The call dials no agent before the answer or its deadline.
    pub(super) fn request_decision(&mut self) {
        let (Some(webhook), Some(incoming)) = (self.context.number.route.decide.clone(), self.decision.incoming.take())
        else {
            return;
        };
        let incoming = self.with_socket(incoming);
        let (http, settings) = (self.context.options.http.clone(), self.context.settings.get());
        let standstills = Standstills::of(&self.context.options.pulse, clock::now());
        self.decision.asking.spawn(async move { webhook.decide(&http, &incoming, &settings, standstills).await });
    }

    /// Performs the commands that a ringing call takes, and keeps the others until the caller hears us.
    pub(super) fn decided(&mut self, call: &mut Call, outcome: Result<Result<Plan, NoDecision>, JoinError>) {
        let plan = outcome.unwrap_or_else(|_| Err(NoDecision::Unreachable("a bug in Patchcord".to_owned())));
        let plan = plan.unwrap_or_else(|error| {
            warn!("the decision webhook of the route {:?} decides nothing: {error}", self.context.number.route.name);
            Plan::default()
        });
        if let Some(client_state) = plan.client_state {
            self.keep_client_state(client_state);
        }
        for Step { command, targets } in plan.steps {
            match command {
                CallCommand::Course(
                    command @ (CourseCommand::Accept(_)
                    | CourseCommand::Reject(_)
                    | CourseCommand::Hangup
                    | CourseCommand::Connect(_)
                    | CourseCommand::Disconnect
                    | CourseCommand::SetClientState(_)),
                ) => self.take_step(call, command, targets),
                command @ (CallCommand::Sound(_)
                | CallCommand::Course(
                    CourseCommand::Transfer(_) | CourseCommand::CompleteTransfer | CourseCommand::CancelTransfer,
                )) => self.decision.postponed.push(Step { command, targets }),
                // The decision was refused for it.
                CallCommand::Signal(_) => {}
            }
        }
        call.handle(Input::Decided, clock::now());
    }

    /// Performs the commands that had to wait. Call this once the caller hears us.
    pub(super) async fn run_postponed(&mut self, call: &mut Call) {
        for Step { command, targets } in std::mem::take(&mut self.decision.postponed) {
            let command = match command {
                CallCommand::Course(command) => {
                    self.take_step(call, command, targets);
                    continue;
                }
                CallCommand::Sound(command) => command,
                CallCommand::Signal(_) => continue,
            };
            let (reply, done) = oneshot::channel();
            self.perform_sound(command, reply).await;
            let done = self.worker.answer(done);
            self.requests.spawn(
                async {
                    if let Some(Err(refusal)) = done.await {
                        log_refusal(&refusal);
                    }
                    None
                }
                .in_current_span(),
            );
        }
    }

    fn take_step(&mut self, call: &mut Call, command: CourseCommand, targets: Vec<AgentTarget>) {
        if let Err(refusal) = self.change_course(call, command, targets, EndReason::HungUpByApi) {
            log_refusal(&refusal);
        }
    }
}

/// The app has no request that could carry the refusal.
fn log_refusal(refusal: &Refusal) {
    metrics::counter!("patchcord_decision_steps_refused_total", "code" => refusal.code.name()).increment(1);
    warn!("a step of the decision is not done: {}: {}", refusal.code.name(), refusal.message);
}
