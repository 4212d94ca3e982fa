//! What the application and the agent ask of a call: its course is decided here, its sound on the worker.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Session;
use crate::agent::AgentTarget;
use crate::call::command::{Accept, CallCommand, Owner, Reject, Transfer};
use crate::call::end::EndReason;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::{AcceptWith, Attempt, Call, Input, Request};
use crate::calls::destination::targets_of;
use crate::calls::has_ended;
use crate::egress::Hosts;
use crate::worker::Command;

/// Whom one call may be put through to in all; an app that goes on for ever is mistaken.
const MAX_ATTEMPTS: usize = 1000;

/// What comes to a session from handle.
pub struct Inbox {
    /// The end, from Meta or because the service targets. The first one counts, whatever waits among the commands.
    pub endings: mpsc::Receiver<Input>,
    /// The application's commands; one that finds no room waits.
    pub commands: mpsc::Receiver<AppCommand>,
}

/// The other side of an [`Inbox`].
#[derive(Clone)]
pub struct SessionHandle {
    endings: mpsc::Sender<Input>,
    commands: mpsc::Sender<AppCommand>,
}

/// Commands waiting for one call, which takes them at once.
const COMMANDS: usize = 64;

impl Inbox {
    /// Empty, with its other side.
    pub fn new() -> (SessionHandle, Self) {
        let (send_ending, endings) = mpsc::channel(1);
        let (send_command, commands) = mpsc::channel(COMMANDS);
        (SessionHandle { endings: send_ending, commands: send_command }, Self { endings, commands })
    }
}

impl SessionHandle {
    /// Ends the call. False when an earlier end is on its way, or the call is over.
    pub fn end(&self, ending: Input) -> bool {
        self.endings.try_send(ending).is_ok()
    }

    /// Passes a command on, when there is room. An error means that the call is over.
    pub async fn command(&self, command: AppCommand) -> Result<(), Refusal> {
        self.commands.send(command).await.map_err(|_| has_ended())
    }
}

/// One command of the application, already checked.
pub struct AppCommand {
    /// What to do.
    pub command: CallCommand,
    /// To whom the command leads, where it does.
    pub targets: Vec<AgentTarget>,
    /// Kept with the call from now on, if given.
    pub client_state: Option<String>,
    /// The ids of what was begun, null for what is done, or why not.
    pub reply: oneshot::Sender<Result<Value, Refusal>>,
}

/// A command of the agent of `attempt`, and to whom it leads.
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
                // Its worker does not know it yet.
                let refusal =
                    Refusal::new(RefusalCode::CallNotAccepted, "the call has just come: wait until it is accepted");
                let _ = reply.send(Err(refusal));
                return;
            }
            let id = self.id.clone();
            self.command(Command::Perform { call: id, command, owner: Owner::App, reply }).await;
            return;
        }
        // Whoever asked may have gone.
        let _ = reply.send(self.request(call, command, targets, EndReason::HungUpByApi));
    }

    pub(super) async fn agent_command(
        &mut self,
        call: &mut Call,
        attempt: Attempt,
        request_id: Value,
        command: CallCommand,
    ) {
        let Some(to) = command.destination().cloned() else {
            return self
                .run_agent_command(call, AgentCommand { attempt, request_id, command, targets: Ok(Vec::new()) })
                .await;
        };
        let settings = self.settings.get();
        // A name takes its time to be resolved, and the call goes on.
        self.resolving.spawn(async move {
            let targets = targets_of(&to, &settings, Hosts::Listed).await;
            AgentCommand { attempt, request_id, command, targets }
        });
    }

    /// Does what an agent asks for, once it is known to whom it leads.
    pub(super) async fn run_agent_command(&mut self, call: &mut Call, command: AgentCommand) {
        let AgentCommand { attempt, request_id, command, targets } = command;
        let outcome = targets.and_then(|targets| self.request(call, command, targets, EndReason::AgentHungUp));
        self.command(Command::AnswerAgent { call: self.id.clone(), attempt, request_id, outcome }).await;
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
                call.handle(Input::HangUp(hung_up), Instant::now());
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
        call.request(request, Instant::now())?;
        // The line counts them on from those it had.
        self.targets.extend(targets);
        Ok(if begins { json!({}) } else { Value::Null })
    }

    pub(super) fn keep_client_state(&mut self, client_state: String) {
        self.client_state = Some(client_state.clone());
        self.record.client_state = Some(client_state);
        self.store.call_updated(self.record.clone());
    }
}
