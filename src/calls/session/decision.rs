//! The decision of a call: the app is asked while everything else goes on, and what it wants is done in its order.

use std::time::Instant;

use tokio::sync::oneshot;
use tokio::task::JoinError;
use tracing::{Instrument, warn};

use super::{Session, answer_of};
use crate::call::command::{CallCommand, Owner};
use crate::call::end::EndReason;
use crate::call::refusal::Refusal;
use crate::call::{Call, Input};
use crate::calls::decision_webhook::{NoDecision, Plan, Step};
use crate::pulse::Standstills;
use crate::worker::Command;

impl Session {
    /// Asks, if the route wants it: the call dials nobody before the answer, or before the time for it is up.
    pub(super) fn request_decision(&mut self) {
        let (Some(webhook), Some(incoming)) = (self.number.route.decide.clone(), self.incoming.take()) else { return };
        let (http, settings) = (self.options.http.clone(), self.settings.get());
        let standstills = Standstills::of(&self.options.pulse, Instant::now());
        self.decision.spawn(async move { webhook.decide(&http, &incoming, &settings, standstills).await });
    }

    /// Does what can be done while the phone rings, and keeps the rest until the caller hears us.
    pub(super) fn decided(&mut self, call: &mut Call, outcome: Result<Result<Plan, NoDecision>, JoinError>) {
        let plan = outcome.unwrap_or_else(|_| Err(NoDecision::Unreachable("a mistake in Patchcord".to_owned())));
        let plan = plan.unwrap_or_else(|error| {
            warn!("the decision webhook of the route {:?} decides nothing: {error}", self.number.route.name);
            Plan::default()
        });
        if let Some(client_state) = plan.client_state {
            self.keep_client_state(client_state);
        }
        for step in plan.steps {
            match step.command {
                CallCommand::Accept(_)
                | CallCommand::Reject(_)
                | CallCommand::Hangup
                | CallCommand::Connect(_)
                | CallCommand::Disconnect => self.take_step(call, step),
                _ => self.postponed.push(step),
            }
        }
        call.handle(Input::Decided, Instant::now());
    }

    /// To be called once the caller hears us.
    pub(super) async fn run_postponed(&mut self, call: &mut Call) {
        for step in std::mem::take(&mut self.postponed) {
            if step.command.is_for_the_call() {
                self.take_step(call, step);
                continue;
            }
            let (reply, done) = oneshot::channel();
            let (id, command) = (self.id.clone(), step.command);
            self.command(Command::Perform { call: id, command, owner: Owner::App, reply }).await;
            let standstills = Standstills::of(&self.options.pulse, Instant::now());
            self.requests.spawn(
                async {
                    if let Some(Err(refusal)) = answer_of(done, standstills).await {
                        tell(&refusal);
                    }
                    None
                }
                .in_current_span(),
            );
        }
    }

    fn take_step(&mut self, call: &mut Call, step: Step) {
        if let Err(refusal) = self.request(call, step.command, step.targets, EndReason::HungUpByApi) {
            tell(&refusal);
        }
    }
}

/// The app has no request that could be answered.
fn tell(refusal: &Refusal) {
    metrics::counter!("patchcord_decision_steps_refused_total", "code" => refusal.code.name()).increment(1);
    warn!("a step of the decision is not done: {}: {}", refusal.code.name(), refusal.message);
}
