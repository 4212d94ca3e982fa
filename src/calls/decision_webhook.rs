//! The decision webhook: while a call rings, the app decides what happens to it.
//!
//! It is posted `call.incoming` as everybody else is, signed as a Standard Webhook, and answers with a short list of
//! commands or with nothing. Whatever goes wrong costs the call at most the route's `decide_timeout`: then the route
//! stands as it is configured. Nothing is tried twice, because the caller waits.

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::destination::targets_of;
use crate::agent::AgentTarget;
use crate::call::command::{CallCommand, MAX_CLIENT_STATE_BYTES};
use crate::call::refusal::Refusal;
use crate::cause::cause_of;
use crate::clock;
use crate::egress::Hosts;
use crate::events::signature;
use crate::pulse::Standstills;
use crate::routes::DecisionWebhook;
use crate::settings::Settings;
use crate::store::EventRecord;

/// The longest answer; the rest is not read.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// The most commands in one answer.
pub const MAX_ACTIONS: usize = 16;

/// What the app decided. Without commands the route applies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// In the order to perform them; each is checked.
    pub commands: Vec<CallCommand>,
    /// Kept with the call.
    pub client_state: Option<String>,
}

/// A decision with its targets resolved.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// In their order.
    pub steps: Vec<Step>,
    /// Kept with the call.
    pub client_state: Option<String>,
}

/// One command, and the targets that it names.
#[derive(Clone, Debug)]
pub struct Step {
    /// The command.
    pub command: CallCommand,
    /// Empty for a command without a destination.
    pub targets: Vec<AgentTarget>,
}

/// Why there is no decision. The texts are for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDecision {
    /// The answer did not arrive completely in time.
    #[error("it did not answer in time")]
    TimedOut,
    /// No connection, or it broke.
    #[error("it could not be reached: {0}")]
    Unreachable(String),
    /// It redirected the request.
    #[error("it answered with HTTP {0}, and redirects are not followed")]
    Redirected(u16),
    /// Any other status than 2xx.
    #[error("it answered with HTTP {0}")]
    Status(u16),
    /// More than 64 KB.
    #[error("it answered with more than 64 KB")]
    TooLarge,
    /// Not a JSON object.
    #[error("its answer is not a JSON object")]
    NotJson,
    /// A destination is unknown or not allowed; the text says which action and why.
    #[error("its answer leads nowhere: {0}")]
    NoDestination(String),
    /// JSON that is not a list of commands; the text says where.
    #[error("its answer cannot be done: {0}")]
    Senseless(String),
}

impl DecisionWebhook {
    /// Asks what becomes of the call that this `call.incoming` tells of. `http` follows no redirects
    /// ([`client_settings`](crate::events::client_settings)). One destination that may not be led to spoils all. A
    /// standstill of ours extends the deadline: the answer may wait unread in our socket.
    pub async fn decide(
        &self,
        http: &Client,
        incoming: &EventRecord,
        settings: &Settings,
        mut standstills: Standstills,
    ) -> Result<Plan, NoDecision> {
        let deciding = async {
            let decision = read(&self.exchange(http, incoming).await?)?;
            plan(decision, settings).await
        };
        let planned = standstills.timeout(self.timeout, deciding).await.unwrap_or(Err(NoDecision::TimedOut));
        let outcome = match &planned {
            Ok(plan) if plan.steps.is_empty() => "route",
            Ok(_) => "decided",
            Err(error) => error.name(),
        };
        metrics::counter!("patchcord_decisions_total", "outcome" => outcome).increment(1);
        planned
    }

    async fn exchange(&self, http: &Client, incoming: &EventRecord) -> Result<Vec<u8>, NoDecision> {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let secrets = std::slice::from_ref(&self.secret);
        signature::add_headers(&mut headers, secrets, &incoming.id, clock::wall(), &incoming.body);
        let body = bytes::Bytes::from_owner(incoming.body.clone());
        let request = http.post(self.url.clone()).headers(headers).body(body);
        let mut response = request.send().await.map_err(|error| unanswered(&error))?;
        let status = response.status();
        match status.as_u16() {
            200..=299 => read_body(&mut response).await,
            code if status.is_redirection() => Err(NoDecision::Redirected(code)),
            code => Err(NoDecision::Status(code)),
        }
    }
}

impl NoDecision {
    /// The stable name in metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Unreachable(_) => "unreachable",
            Self::Redirected(_) => "redirected",
            Self::Status(_) => "bad_status",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::NoDestination(_) => "no_destination",
            Self::Senseless(_) => "senseless",
        }
    }
}

async fn plan(decision: Decision, settings: &Settings) -> Result<Plan, NoDecision> {
    let mut steps = Vec::with_capacity(decision.commands.len());
    for (index, command) in decision.commands.into_iter().enumerate() {
        let targets = match command.destination() {
            Some(to) => targets_of(to, settings, Hosts::Listed).await,
            None => Ok(Vec::new()),
        };
        let nowhere = |refusal: Refusal| NoDecision::NoDestination(format!("actions[{index}]: {}", refusal.message));
        steps.push(Step { targets: targets.map_err(nowhere)?, command });
    }
    Ok(Plan { steps, client_state: decision.client_state })
}

fn unanswered(error: &reqwest::Error) -> NoDecision {
    match error.is_timeout() {
        true => NoDecision::TimedOut,
        false => NoDecision::Unreachable(cause_of(error)),
    }
}

async fn read_body(response: &mut Response) -> Result<Vec<u8>, NoDecision> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unanswered(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(NoDecision::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The JSON of the answer. Unknown keys belong to later versions.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    actions: Option<Vec<Value>>,
    #[serde(default)]
    client_state: Option<String>,
}

/// Reads the app's answer. One invalid action makes the whole answer invalid.
pub fn read(answer: &[u8]) -> Result<Decision, NoDecision> {
    if answer.trim_ascii().is_empty() {
        return Ok(Decision::default());
    }
    let object: Map<String, Value> = serde_json::from_slice(answer).map_err(|_| NoDecision::NotJson)?;
    let answer: Answer =
        serde_json::from_value(Value::Object(object)).map_err(|error| NoDecision::Senseless(without_values(&error)))?;
    let actions = answer.actions.unwrap_or_default();
    if actions.len() > MAX_ACTIONS {
        return Err(NoDecision::Senseless(format!("actions: give at most {MAX_ACTIONS}")));
    }
    if answer.client_state.as_ref().is_some_and(|state| state.len() > MAX_CLIENT_STATE_BYTES) {
        return Err(NoDecision::Senseless(format!("client_state: give at most {MAX_CLIENT_STATE_BYTES} bytes")));
    }
    let commands = actions.into_iter().enumerate().map(|(index, action)| read_action(index, action));
    Ok(Decision { commands: commands.collect::<Result<_, _>>()?, client_state: answer.client_state })
}

fn read_action(index: usize, action: Value) -> Result<CallCommand, NoDecision> {
    let senseless = |why: String| NoDecision::Senseless(format!("actions[{index}]: {why}"));
    let command: CallCommand = serde_json::from_value(action).map_err(|error| senseless(without_values(&error)))?;
    command.check().map_err(|refusal| senseless(refusal.message))?;
    match command {
        CallCommand::Course(_) | CallCommand::Sound(_) => Ok(command),
        CallCommand::Signal(_) => Err(senseless("report what happens at Meta by the API".to_owned())),
    }
}

/// The error goes to the log, and a value in it may be personal.
fn without_values(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.starts_with("missing field") || text.starts_with("unknown variant") {
        true => text.chars().take(200).collect(),
        false => "a value is of another type than it should be".to_owned(),
    }
}

#[cfg(test)]
mod tests;
