//! Commands of the application and of agents: the call's course is decided here, its sound on the worker.

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::Session;
use crate::agent::AgentTarget;
use crate::call::command::{Accept, CallCommand, Owner, Reject, Transfer};
use crate::call::end::EndReason;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::{AcceptWith, Attempt, Call, Input, Request};
use crate::calls::destination::targets_of;
use crate::clock;
use crate::egress::Hosts;
use crate::worker::{Command, Report};

/// The most attempts of one call; an app that makes more has a bug.
const MAX_ATTEMPTS: usize = 1000;

/// One command of the application, already checked.
pub struct AppCommand {
    /// The command.
    pub command: CallCommand,
    /// The targets that it names.
    pub targets: Vec<AgentTarget>,
    /// Kept with the call from now on, if given.
    pub client_state: Option<String>,
    /// The ids of what was begun, null for what is done, or the refusal.
    pub reply: oneshot::Sender<Result<Value, Refusal>>,
}

/// A command of the agent of `attempt`, with the targets that it names.
pub(super) struct AgentCommand {
    attempt: Attempt,
    request_id: Value,
    command: CallCommand,
    targets: Result<Vec<AgentTarget>, Refusal>,
}

impl Session {
    pub(super) async fn app_command(&mut self, call: &mut Call, command: AppCommand) {
        let AppCommand { command, targets, client_state, reply } = command;
        if let Some(client_state) = client_state {
            self.keep_client_state(client_state);
        }
        if !command.is_for_the_call() {
            if call.state_name() == "answering" {
                // The worker has not taken the call yet.
                let refusal =
                    Refusal::new(RefusalCode::CallNotAccepted, "the call has just come: wait until it is accepted");
                let _ = reply.send(Err(refusal));
                return;
            }
            let id = self.context.id.clone();
            self.command(Command::Perform { call: id, command, owner: Owner::App, reply }).await;
            return;
        }
        // The API request may be gone.
        let _ = reply.send(self.request(call, command, targets, EndReason::HungUpByApi));
    }

    async fn agent_command(&mut self, call: &mut Call, attempt: Attempt, request_id: Value, command: CallCommand) {
        let Some(to) = command.destination().cloned() else {
            return self
                .run_agent_command(call, AgentCommand { attempt, request_id, command, targets: Ok(Vec::new()) })
                .await;
        };
        let settings = self.context.settings.get();
        // Resolving a name takes time, and the call goes on.
        self.resolving.spawn(async move {
            let targets = targets_of(&to, &settings, Hosts::Listed).await;
            AgentCommand { attempt, request_id, command, targets }
        });
    }

    /// Performs an agent's command once its targets are resolved.
    pub(super) async fn run_agent_command(&mut self, call: &mut Call, command: AgentCommand) {
        let AgentCommand { attempt, request_id, command, targets } = command;
        let outcome = targets.and_then(|targets| self.request(call, command, targets, EndReason::AgentHungUp));
        self.command(Command::AnswerAgent { call: self.context.id.clone(), attempt, request_id, outcome }).await;
    }

    pub(super) fn request(
        &mut self,
        call: &mut Call,
        command: CallCommand,
        targets: Vec<AgentTarget>,
        hung_up: EndReason,
    ) -> Result<Value, Refusal> {
        if self.targets.len() + targets.len() > MAX_ATTEMPTS {
            let advice = format!("this call was put through {MAX_ATTEMPTS} times, which is enough");
            return Err(Refusal::new(RefusalCode::TooManyAttempts, advice));
        }
        let attempts: Vec<_> = targets.iter().map(AgentTarget::attempt_kind).collect();
        let request = match command {
            CallCommand::Hangup => {
                call.handle(Input::HangUp(hung_up), clock::now());
                return Ok(json!({}));
            }
            CallCommand::Accept(Accept { without_agent: true, .. }) => Request::Accept { with: AcceptWith::Nobody },
            CallCommand::Accept(_) if attempts.is_empty() => Request::Accept { with: AcceptWith::Route },
            CallCommand::Accept(_) => Request::Accept { with: AcceptWith::Others(attempts) },
            CallCommand::Reject(Reject { reason }) => Request::Reject { why: reason },
            CallCommand::Connect(_) => Request::Connect { attempts },
            CallCommand::Disconnect => Request::Disconnect,
            CallCommand::Transfer(Transfer { warm, .. }) => Request::Transfer { attempts, warm },
            CallCommand::CompleteTransfer => Request::CompleteTransfer,
            CallCommand::CancelTransfer => Request::CancelTransfer,
            _ => return Err(Refusal::new(RefusalCode::InternalError, "this is for the call's worker")),
        };
        let begins = !matches!(request, Request::Disconnect);
        call.request(request, clock::now())?;
        // The call numbers them after the attempts it had.
        self.targets.extend(targets);
        Ok(if begins { json!({}) } else { Value::Null })
    }

    pub(super) fn keep_client_state(&mut self, client_state: String) {
        self.events.set_client_state(client_state.clone());
        self.record.keep_client_state(client_state);
    }

    pub(super) async fn take_report(&mut self, call: &mut Call, report: Report) {
        match report {
            Report::Asked { attempt, request_id, command } => {
                self.agent_command(call, attempt, request_id, command).await;
            }
            report => {
                if let Some(input) = self.read_report(report) {
                    call.handle(input, clock::now());
                }
            }
        }
    }
}
