//! One attempt of a request to the Graph API, and its outcome.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{RequestBuilder, Response, StatusCode};
use serde_json::Value;

use crate::cause::{cause_of, shortage_of};
use crate::whatsapp::error::MetaError;
use crate::whatsapp::repair;

/// Replies have a few hundred bytes. A longer one is not read to its end.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// The outcome of one attempt.
#[derive(Debug, PartialEq)]
pub(super) enum Outcome {
    /// Meta performed it, with this reply.
    Success(Value),
    /// Meta did not perform it.
    Refused {
        error: MetaError,
        /// The `retry-after` header.
        retry_after: Option<Duration>,
    },
    /// The request was sent, or may have been, and no readable reply came; the text says what did.
    Unknown(String),
    /// The request was not sent; the text says why.
    Unreachable(String),
    /// The request was not sent because this machine has no more sockets; the text names the limit.
    NoSockets(String),
}

/// Sends the request and reads its reply, both within `timeout`.
pub(super) async fn send(request: RequestBuilder, timeout: Duration) -> Outcome {
    match request.timeout(timeout).send().await {
        Ok(response) => read_reply(response).await,
        Err(error) if error.is_connect() || error.is_builder() => match shortage_of(&error) {
            Some(shortage) => Outcome::NoSockets(shortage),
            None => Outcome::Unreachable(cause_of(&error)),
        },
        Err(error) if error.is_timeout() => Outcome::Unknown("no answer in time".to_owned()),
        Err(error) => Outcome::Unknown(cause_of(&error)),
    }
}

async fn read_reply(mut response: Response) -> Outcome {
    let status = response.status();
    let retry_after = retry_after(&response);
    let reply = read_json(&mut response).await;
    if status.is_success() {
        return match reply {
            Some(reply) => judge_success(status, reply),
            None => unreadable(status),
        };
    }
    let reply = reply.unwrap_or(Value::Null);
    if is_gateway_trouble(status) && !reply["error"].is_object() {
        return unreadable(status);
    }
    Outcome::Refused { error: error_of(status, &reply), retry_after }
}

/// A gateway between Meta and us replied; the outcome of the request behind it is unknown.
fn is_gateway_trouble(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT)
}

/// A 200 is a success unless its body says otherwise. Samples of replies to `connect` lack `success`.
fn judge_success(status: StatusCode, reply: Value) -> Outcome {
    let is_refused = reply["success"] == false || reply["error"].is_object();
    match (is_refused, reply.is_object()) {
        (true, _) => Outcome::Refused { error: error_of(status, &reply), retry_after: None },
        (false, true) => Outcome::Success(reply),
        (false, false) => unreadable(status),
    }
}

fn unreadable(status: StatusCode) -> Outcome {
    Outcome::Unknown(format!("HTTP {} without a readable reply", status.as_u16()))
}

fn error_of(status: StatusCode, reply: &Value) -> MetaError {
    MetaError { http_status: Some(status.as_u16()), ..MetaError::from_json(&reply["error"]) }
}

async fn read_json(response: &mut Response) -> Option<Value> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.ok()? {
        if body.len() + chunk.len() > MAX_REPLY_BYTES {
            return None;
        }
        body.extend_from_slice(&chunk);
    }
    repair::read(&body).ok()
}

/// The header in seconds; its other form, a date, is not used by Meta.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
