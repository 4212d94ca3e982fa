//! Commands of the application and of agents: the call's course is decided here, its sound on the worker.

use serde_json::Value;
use tokio::sync::oneshot;

use super::Session;
use crate::agent::AgentTarget;
use crate::call::command::{
    Accept, CallCommand, CommandResult, CourseCommand, Owner, Reject, SetClientState, SoundCommand, Transfer,
};
use crate::call::end::EndReason;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::call::{AcceptWith, Attempt, Call, Input, Request};
use crate::calls::destination::targets_of;
use crate::clock;
use crate::egress::Hosts;
use crate::worker::{Command, Report};

/// The most attempts of one call; an app that makes more has a bug.
pub(super) const MAX_ATTEMPTS: usize = 1000;

/// One command of the application, already checked.
pub struct AppCommand {
    /// The command.
    pub command: CallCommand,
    /// The targets that it names.
    pub targets: Vec<AgentTarget>,
    /// Kept with the call from now on, if given.
    pub client_state: Option<String>,
    pub reply: oneshot::Sender<Result<CommandResult, Refusal>>,
}

/// A command of the agent of `attempt`, with the targets that it names.
pub(super) struct AgentCommand {
    attempt: Attempt,
    request_id: Value,
    command: CourseCommand,
    targets: Result<Vec<AgentTarget>, Refusal>,
}

impl Session {
    pub(super) async fn app_command(&mut self, call: &mut Call, command: AppCommand) {
        let AppCommand { command, targets, client_state, reply } = command;
        if let Some(client_state) = client_state {
            self.keep_client_state(client_state);
        }
        // The API request may be gone.
        match command {
            CallCommand::Course(command) => {
                let result = self.change_course(call, command, targets, EndReason::HungUpByApi);
                // A client that reads the call after our reply must see the change.
                self.record.show(call, self.people(call));
                let _ = reply.send(result);
            }
            // The worker has not taken the call yet.
            CallCommand::Sound(_) if !call.has_media() => {
                let advice = "the call is not set up yet: wait until it is accepted";
                let _ = reply.send(Err(Refusal::new(RefusalCode::CallNotAccepted, advice)));
            }
            CallCommand::Sound(command) => self.perform_sound(command, reply).await,
            CallCommand::Signal(command) => self.take_signal(call, command, reply),
        }
    }

    /// Has the worker perform an application's command.
    pub(super) async fn perform_sound(
        &mut self,
        command: SoundCommand,
        reply: oneshot::Sender<Result<CommandResult, Refusal>>,
    ) {
        let call = self.context.id.clone();
        self.command(Command::Perform { call, command, owner: Owner::App, reply }).await;
    }

    async fn agent_command(&mut self, call: &mut Call, attempt: Attempt, request_id: Value, command: CourseCommand) {
        let Some(to) = command.destination().cloned() else {
            let command = AgentCommand { attempt, request_id, command, targets: Ok(Vec::new()) };
            return self.run_agent_command(call, command).await;
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
        let outcome = targets.and_then(|targets| self.change_course(call, command, targets, EndReason::AgentHungUp));
        self.command(Command::AnswerAgent { call: self.context.id.clone(), attempt, request_id, outcome }).await;
    }

    /// Puts a command to the call. `hung_up` is the end reason of a hangup.
    pub(super) fn change_course(
        &mut self,
        call: &mut Call,
        command: CourseCommand,
        targets: Vec<AgentTarget>,
        hung_up: EndReason,
    ) -> Result<CommandResult, Refusal> {
        if self.targets.len() + targets.len() > MAX_ATTEMPTS {
            let advice = format!("this call was put through {MAX_ATTEMPTS} times, which is enough");
            return Err(Refusal::new(RefusalCode::TooManyAttempts, advice));
        }
        let attempts: Vec<_> = targets.iter().map(AgentTarget::attempt_kind).collect();
        let request = match command {
            CourseCommand::Hangup => {
                call.handle(Input::HangUp(hung_up), clock::now());
                return Ok(CommandResult::Started);
            }
            CourseCommand::SetClientState(SetClientState { client_state }) => {
                self.keep_client_state(client_state);
                return Ok(CommandResult::Done);
            }
            CourseCommand::Accept(Accept { without_agent: true, .. }) => Request::Accept { with: AcceptWith::Nobody },
            CourseCommand::Accept(_) if attempts.is_empty() => Request::Accept { with: AcceptWith::Route },
            CourseCommand::Accept(_) => Request::Accept { with: AcceptWith::Others(attempts) },
            CourseCommand::Reject(Reject { reason }) => Request::Reject { why: reason },
            CourseCommand::Connect(_) => Request::Connect { attempts },
            CourseCommand::Disconnect => Request::Disconnect,
            CourseCommand::Transfer(Transfer { warm, .. }) => Request::Transfer { attempts, warm },
            CourseCommand::CompleteTransfer => Request::CompleteTransfer,
            CourseCommand::CancelTransfer => Request::CancelTransfer,
        };
        let result = match request {
            Request::Disconnect => CommandResult::Done,
            Request::Accept { .. }
            | Request::Reject { .. }
            | Request::Connect { .. }
            | Request::TakeOver
            | Request::Transfer { .. }
            | Request::CompleteTransfer
            | Request::CancelTransfer => CommandResult::Started,
        };
        call.request(request, clock::now())?;
        // The call numbers them after the attempts it had.
        self.targets.extend(targets);
        Ok(result)
    }

    pub(super) fn keep_client_state(&mut self, client_state: String) {
        self.events.set_client_state(client_state.clone());
        self.record.keep_client_state(client_state);
    }

    pub(super) async fn take_report(&mut self, call: &mut Call, report: Report) {
        if self.queue_takes(&report).await {
            return;
        }
        if let Report::Asked { attempt, request_id, command } = report {
            self.agent_command(call, attempt, request_id, command).await;
        } else if let Some(input) = self.read_report(report) {
            call.handle(input, clock::now());
        }
    }
}
