//! AppFunction: a function of a model that the operator's app performs, as a signed request and its response.

use std::time::Duration;

use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response};
use serde_json::Value;
use url::Url;

use super::tools::FunctionResult;
use crate::cause::cause_of;
use crate::clock;
use crate::events::SigningSecret;
use crate::events::signature::add_headers;
use crate::pulse::Standstills;

/// The longest answer. A model reads all of it, and the caller waits.
const MAX_ANSWER_BYTES: usize = 32 * 1024;

/// A function of the operator's app.
#[derive(Clone, Debug, PartialEq)]
pub struct AppFunction {
    /// What the model calls it.
    pub name: String,
    /// What it is for, to the model.
    pub description: String,
    /// The JSON schema of its parameters.
    pub parameters: Value,
    /// Receives each call. It is the operator's, so the egress guard is not asked.
    pub url: Url,
    /// Signs each request.
    pub secret: SigningSecret,
    /// For the whole exchange.
    pub timeout: Duration,
}

/// Why there is no result. The texts are for the model and the operator, and hold neither the URL nor what the app wrote.
#[derive(Debug, thiserror::Error)]
enum FunctionError {
    #[error("the function did not answer in time")]
    TimedOut,
    #[error("the function cannot be reached: {0}")]
    Unreachable(String),
    #[error("the function answered with HTTP {0}")]
    Status(u16),
    #[error("the function answered with more than 32 KiB")]
    TooLarge,
    #[error("the function's answer is not text")]
    NotText,
}

impl FunctionError {
    /// The stable name in metrics.
    fn name(&self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Unreachable(_) => "unreachable",
            Self::Status(_) => "bad_status",
            Self::TooLarge => "too_large",
            Self::NotText => "not_text",
        }
    }
}

/// For the functions of one connection to a model. Redirects are not followed: the request is signed for one address.
pub(in crate::agent) fn client(tls: &rustls::ClientConfig) -> reqwest::Result<Client> {
    Client::builder().redirect(Policy::none()).no_proxy().tls_backend_preconfigured(tls.clone()).build()
}

impl AppFunction {
    /// Has the app perform it. `id` is the request's. Our own standstills extend the deadline.
    pub(in crate::agent) async fn call(
        &self,
        http: &Client,
        id: &str,
        request: &Value,
        mut standstills: Standstills,
    ) -> FunctionResult {
        let exchanged = standstills.timeout(self.timeout, self.exchange(http, id, request)).await;
        let result = exchanged.unwrap_or(Err(FunctionError::TimedOut));
        let outcome = result.as_ref().map_or_else(FunctionError::name, |_| "ok");
        metrics::counter!("patchcord_model_functions_total", "outcome" => outcome).increment(1);
        match result {
            Ok(text) => FunctionResult { text, is_error: false },
            Err(error) => FunctionResult::error(&error.to_string()),
        }
    }

    async fn exchange(&self, http: &Client, id: &str, request: &Value) -> Result<String, FunctionError> {
        let body = request.to_string();
        let mut headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        add_headers(&mut headers, std::slice::from_ref(&self.secret), id, clock::wall(), body.as_bytes());
        let sent = http.post(self.url.clone()).headers(headers).body(body).send().await;
        let mut response = sent.map_err(|error| unreachable(&error))?;
        match response.status() {
            status if status.is_success() => read_body(&mut response).await,
            status => Err(FunctionError::Status(status.as_u16())),
        }
    }
}

async fn read_body(response: &mut Response) -> Result<String, FunctionError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(FunctionError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(body).map_err(|_| FunctionError::NotText)?;
    // A model expects a result, also of a function that has none to give.
    Ok(if text.trim().is_empty() { r#"{"ok":true}"#.to_owned() } else { text })
}

fn unreachable(error: &reqwest::Error) -> FunctionError {
    FunctionError::Unreachable(cause_of(error))
}

#[cfg(test)]
pub(in crate::agent) mod tests {
    use serde_json::json;

    use super::*;

    /// `order_status(number)`, at an address that nobody answers.
    pub(in crate::agent) fn order_status() -> AppFunction {
        AppFunction {
            name: "order_status".to_owned(),
            description: "How an order stands.".to_owned(),
            parameters: json!({
                "type": "object", "properties": {"number": {"type": "string"}}, "required": ["number"],
            }),
            url: "http://127.0.0.1:9/functions".parse().unwrap(),
            secret: SigningSecret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap(),
            timeout: Duration::from_secs(10),
        }
    }
}
