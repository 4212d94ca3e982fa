//! One attempt to deliver an event, and its outcome.

use std::time::{Duration, SystemTime};

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT};
use reqwest::{Client, Response, StatusCode};

use super::{Format, Webhook, signature, twilio_status};
use crate::cause::cause_of;
use crate::clock;
use crate::store::{Delivery, Store};

/// A response is read this far, so that its connection can be reused; its content is ignored.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Any 2xx.
    Acknowledged,
    /// Anything else. The event may have arrived nevertheless.
    Failed {
        /// The error for the operator, without the address.
        error: String,
        /// The endpoint's `retry-after`.
        retry_after: Option<Duration>,
    },
    /// It is not tried again, and says nothing of the endpoint's other events.
    Lost {
        /// The error for the operator, without the address.
        error: String,
    },
}

/// Posts the event, all within `timeout`.
pub(super) async fn post(
    http: &Client,
    store: &Store,
    webhook: &Webhook,
    delivery: &Delivery,
    timeout: Duration,
) -> Outcome {
    let request = match &webhook.format {
        // One without settings asks nobody.
        Format::TwilioStatusOfCalls => return Outcome::Acknowledged,
        Format::Events => http
            .post(webhook.url.clone())
            .headers(headers(webhook, delivery, clock::wall()))
            .body(reqwest::Body::from(bytes::Bytes::from_owner(delivery.body.clone()))),
        Format::TwilioStatus(account) => {
            match twilio_status::request(http, store, webhook, account, delivery).await {
                Ok(Some(request)) => request,
                // Its record has expired, so nobody waits for it.
                Ok(None) => return Outcome::Acknowledged,
                Err(error) => return failed(error),
            }
        }
    };
    match request.timeout(timeout).send().await {
        Ok(response) => judge(response).await,
        Err(error) if error.is_timeout() => failed("no answer in time".to_owned()),
        Err(error) if error.is_connect() => failed(format!("no connection: {}", cause_of(&error))),
        Err(error) => failed(format!("the connection broke: {}", cause_of(&error))),
    }
}

fn failed(error: String) -> Outcome {
    Outcome::Failed { error, retry_after: None }
}

async fn judge(mut response: Response) -> Outcome {
    let status = response.status();
    let retry_after = retry_after(&response);
    if status.is_success() {
        drain(&mut response).await;
        return Outcome::Acknowledged;
    }
    let error = match status {
        StatusCode::GONE => "HTTP 410: the endpoint is gone".to_owned(),
        status if status.is_redirection() => format!("HTTP {}: redirects are not followed", status.as_u16()),
        status => format!("HTTP {}", status.as_u16()),
    };
    Outcome::Failed { error, retry_after }
}

/// The status acknowledges; a truncated body changes nothing.
async fn drain(response: &mut Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = response.chunk().await {
        read += chunk.len();
        if read > MAX_ANSWER_BYTES {
            return;
        }
    }
}

/// The header in seconds; its other form, a date, is ignored.
fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The timestamp is that of the attempt, so that an event that has waited for long still passes the receiver's age check.
fn headers(webhook: &Webhook, delivery: &Delivery, now: SystemTime) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("patchcord/", env!("CARGO_PKG_VERSION"))));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    for (name, value) in &delivery.headers {
        insert(&mut headers, name, value);
    }
    signature::add_headers(&mut headers, &webhook.secrets, &delivery.id, now, &delivery.body);
    headers
}

/// Skips invalid headers and those of the connection itself (RFC 9110, section 7.6.1).
fn insert(headers: &mut HeaderMap, name: &str, value: &str) {
    const OF_THE_CONNECTION: [&str; 8] =
        ["connection", "content-length", "expect", "host", "keep-alive", "te", "transfer-encoding", "upgrade"];
    let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) else {
        return;
    };
    if !OF_THE_CONNECTION.contains(&name.as_str()) {
        headers.insert(name, value);
    }
}
