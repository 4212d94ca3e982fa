//! The decision webhook: while a call rings, the app is asked what is to become of it.
//!
//! It is posted `call.incoming` as everybody else is, signed as a Standard Webhook, and answers with a short list of
//! commands or with nothing. Whatever goes wrong costs the call at most the route's `decide_timeout`: then the route
//! stands as it is configured. Nothing is tried twice, because the caller waits.

use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Client, Response};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;

use super::command::{CallCommand, MAX_CLIENT_STATE_BYTES};
use crate::events::SigningSecret;
use crate::events::signature;
use crate::store::EventRecord;

/// What is said in answer, at most; it is read no further.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
/// Commands in one answer at most.
const MAX_ACTIONS: usize = 16;

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct DecisionWebhook {
    /// Where it is.
    pub url: Url,
    /// Signs what is posted.
    pub secret: SigningSecret,
    /// For the whole exchange.
    pub timeout: Duration,
}

/// What the app wants. Without commands the route stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be done in this order; each is one that a call could do.
    pub commands: Vec<CallCommand>,
    /// Kept with the call.
    pub client_state: Option<String>,
}

/// Why there is no decision. The texts are for the operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoDecision {
    /// Nothing, or not all of it, came in time.
    #[error("it did not answer in time")]
    TimedOut,
    /// No connection, or it broke.
    #[error("it could not be reached")]
    Unreachable,
    /// It pointed elsewhere.
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
    /// JSON that does not say what to do; the text says where.
    #[error("its answer cannot be done: {0}")]
    Senseless(String),
}

impl DecisionWebhook {
    /// Asks what becomes of the call that this `call.incoming` tells of. `http` follows no redirects
    /// ([`client_settings`](crate::events::client_settings)).
    pub async fn ask(&self, http: &Client, incoming: &EventRecord) -> Result<Decision, NoDecision> {
        let asked = tokio::time::timeout(self.timeout, self.exchange(http, incoming)).await;
        let decided = asked.unwrap_or(Err(NoDecision::TimedOut)).and_then(|answer| read(&answer));
        let outcome = match &decided {
            Ok(decision) if decision.commands.is_empty() => "route",
            Ok(_) => "decided",
            Err(error) => error.name(),
        };
        metrics::counter!("patchcord_decisions_total", "outcome" => outcome).increment(1);
        decided
    }

    async fn exchange(&self, http: &Client, incoming: &EventRecord) -> Result<Vec<u8>, NoDecision> {
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let secrets = std::slice::from_ref(&self.secret);
        signature::add_headers(&mut headers, secrets, &incoming.id, SystemTime::now(), &incoming.body);
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
            Self::Unreachable => "unreachable",
            Self::Redirected(_) => "redirected",
            Self::Status(_) => "bad_status",
            Self::TooLarge => "too_large",
            Self::NotJson => "not_json",
            Self::Senseless(_) => "senseless",
        }
    }
}

fn unanswered(error: &reqwest::Error) -> NoDecision {
    if error.is_timeout() { NoDecision::TimedOut } else { NoDecision::Unreachable }
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

/// As the app writes it. Keys that are not known are for a later version.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    actions: Option<Vec<Value>>,
    #[serde(default)]
    client_state: Option<String>,
}

/// Reads what the app answered. One action that makes no sense spoils all: half a decision is none.
pub fn read(answer: &[u8]) -> Result<Decision, NoDecision> {
    if answer.trim_ascii().is_empty() {
        return Ok(Decision::default());
    }
    let object: Map<String, Value> = serde_json::from_slice(answer).map_err(|_| NoDecision::NotJson)?;
    let answer: Answer =
        serde_json::from_value(Value::Object(object)).map_err(|error| NoDecision::Senseless(error.to_string()))?;
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
    let command: CallCommand = serde_json::from_value(action).map_err(|error| senseless(error.to_string()))?;
    command.check().map_err(|refusal| senseless(refusal.message))?;
    Ok(command)
}

#[cfg(test)]
mod tests;
