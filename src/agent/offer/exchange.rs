//! The HTTP request that carries our offer, and its response with the answer, within one deadline.

use std::collections::BTreeMap;
use std::time::Duration;

use patchcord_media::sdp::{Answer, Direction, SdpError};
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode};
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};

use super::options::{OfferFormat, OfferOptions};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::cause::cause_of;
use crate::pulse::Standstills;
use crate::telemetry::shown;

/// The longest response; an SDP is no longer either.
const MAX_ANSWER_BYTES: usize = 64 * 1024;
const SDP: &str = "application/sdp";

/// Why there is no answer. The texts are for people and hold no secret: no URL, and nothing that the endpoint wrote.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExchangeError {
    #[error("its header {0:?} cannot be sent")]
    Header(String),
    #[error("its endpoint could not be reached: {0}")]
    Unreachable(String),
    #[error("its endpoint did not answer within {}", shown(*.0))]
    TimedOut(Duration),
    #[error("its endpoint answered with HTTP {0}, and redirects are not followed")]
    Redirected(StatusCode),
    #[error("its endpoint answered with HTTP {0}")]
    Status(StatusCode),
    #[error("its endpoint answered with more than 64 KiB")]
    TooLarge,
    #[error("its answer is not JSON with \"sdp\" and \"type\": \"answer\"; offer_format says how it answers")]
    NotJson,
    #[error("its answer is not text")]
    NotText,
    #[error("its answer cannot be used: {0}")]
    Sdp(#[from] SdpError),
    #[error("its answer cannot be used: its audio is inactive")]
    Inactive,
}

/// Posts the offer and reads the answer. Redirects are not followed. Our own standstills extend the deadline.
pub(super) async fn exchange(
    agent: &OfferOptions,
    offer: String,
    request_data: &Value,
    tls: &rustls::ClientConfig,
    limit: Duration,
    mut standstills: Standstills,
) -> Result<Answer, ExchangeError> {
    let posted = standstills.timeout(limit, post(agent, offer, request_data, tls)).await;
    let body = posted.unwrap_or(Err(ExchangeError::TimedOut(limit)))?;
    read_answer(agent.format, &body)
}

async fn post(
    agent: &OfferOptions,
    offer: String,
    request_data: &Value,
    tls: &rustls::ClientConfig,
) -> Result<Vec<u8>, ExchangeError> {
    let (content_type, body) = write_offer(agent, offer, request_data);
    let mut headers = configured_headers(agent)?;
    headers.insert(CONTENT_TYPE, content_type);
    let accepted = match agent.format {
        OfferFormat::Json => "application/json",
        OfferFormat::Sdp | OfferFormat::Form => SDP,
    };
    headers.entry(ACCEPT).or_insert(HeaderValue::from_static(accepted));
    let request = client(agent, tls)?.post(agent.url.clone()).headers(headers).body(body);
    let mut response = request.send().await.map_err(|error| unreachable(&error))?;
    match response.status() {
        status if status.is_redirection() => Err(ExchangeError::Redirected(status)),
        status if !status.is_success() => Err(ExchangeError::Status(status)),
        _ => read_body(&mut response).await,
    }
}

/// For one request: it is closed with its client.
fn client(agent: &OfferOptions, tls: &rustls::ClientConfig) -> Result<Client, ExchangeError> {
    let mut builder = Client::builder().redirect(Policy::none()).no_proxy().tls_backend_preconfigured(tls.clone());
    if let (Some(host), false) = (agent.url.domain(), agent.addresses.is_empty()) {
        builder = builder.resolve_to_addrs(host, &agent.addresses);
    }
    builder.build().map_err(|error| unreachable(&error))
}

fn configured_headers(agent: &OfferOptions) -> Result<HeaderMap, ExchangeError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &agent.headers {
        let bad = || ExchangeError::Header(name.clone());
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

fn write_offer(agent: &OfferOptions, offer: String, request_data: &Value) -> (HeaderValue, String) {
    match agent.format {
        OfferFormat::Json => {
            let body = json!({ "sdp": offer, "type": "offer", "request_data": request_data });
            (HeaderValue::from_static("application/json"), body.to_string())
        }
        OfferFormat::Sdp => (HeaderValue::from_static(SDP), offer),
        OfferFormat::Form => {
            let boundary = format!("patchcord-{:032x}", rand::random::<u128>());
            let kind = format!("multipart/form-data; boundary={boundary}");
            let kind = HeaderValue::from_str(&kind).expect("letters and digits make a header");
            (kind, write_form(&boundary, &offer, &agent.parameters))
        }
    }
}

/// `multipart/form-data` (RFC 7578), whose names are escaped as browsers do.
fn write_form(boundary: &str, offer: &str, parameters: &BTreeMap<String, String>) -> String {
    let fields = std::iter::once(("sdp", offer)).chain(parameters.iter().map(|(name, value)| (&**name, &**value)));
    let mut form = String::new();
    for (name, value) in fields {
        let name = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
        form += &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n");
    }
    form + &format!("--{boundary}--\r\n")
}

async fn read_body(response: &mut Response) -> Result<Vec<u8>, ExchangeError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(ExchangeError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The answer of a response's body.
fn read_answer(format: OfferFormat, body: &[u8]) -> Result<Answer, ExchangeError> {
    #[derive(Deserialize)]
    struct Answered {
        sdp: String,
        #[serde(rename = "type")]
        kind: String,
    }
    let answer = match format {
        OfferFormat::Json => {
            let answered: Answered = serde_json::from_slice(body).map_err(|_| ExchangeError::NotJson)?;
            if answered.kind != "answer" {
                return Err(ExchangeError::NotJson);
            }
            Answer::parse(&answered.sdp)?
        }
        OfferFormat::Sdp | OfferFormat::Form => {
            Answer::parse(std::str::from_utf8(body).map_err(|_| ExchangeError::NotText)?)?
        }
    };
    match answer.direction {
        Direction::SendRecv | Direction::SendOnly | Direction::RecvOnly => Ok(answer),
        Direction::Inactive => Err(ExchangeError::Inactive),
    }
}

fn unreachable(error: &reqwest::Error) -> ExchangeError {
    ExchangeError::Unreachable(cause_of(error))
}

impl From<ExchangeError> for AgentFailure {
    fn from(error: ExchangeError) -> Self {
        let kind = match error {
            ExchangeError::TimedOut(_) => AgentFailureKind::NoAnswer,
            ExchangeError::Header(_)
            | ExchangeError::Unreachable(_)
            | ExchangeError::Redirected(_)
            | ExchangeError::Status(_) => AgentFailureKind::Refused,
            ExchangeError::TooLarge
            | ExchangeError::NotJson
            | ExchangeError::NotText
            | ExchangeError::Sdp(_)
            | ExchangeError::Inactive => AgentFailureKind::ProtocolError,
        };
        kind.because(error)
    }
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;

    const ANSWER: &str = concat!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=group:BUNDLE audio\r\n",
        "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\nc=IN IP4 0.0.0.0\r\na=mid:audio\r\na=sendrecv\r\na=rtcp-mux\r\n",
        "a=ice-ufrag:abcd\r\na=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=setup:active\r\na=rtpmap:111 opus/48000/2\r\n",
        "a=fingerprint:sha-256 00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\r\n",
    );

    fn agent(format: OfferFormat) -> OfferOptions {
        let parameters = BTreeMap::from([("session".to_owned(), r#"{"type":"realtime"}"#.to_owned())]);
        OfferOptions { format, parameters, ..OfferOptions::at(Url::parse("https://bot.example.com/offer").unwrap()) }
    }

    fn offered(format: OfferFormat) -> (String, String) {
        let (kind, body) = write_offer(&agent(format), "v=0\r\n".to_owned(), &json!({ "call_id": "call_1" }));
        (kind.to_str().unwrap().to_owned(), body)
    }

    #[test]
    fn an_offer_is_written_as_each_endpoint_reads_it() {
        let (kind, body) = offered(OfferFormat::Json);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(kind, "application/json");
        assert_eq!(body, json!({ "sdp": "v=0\r\n", "type": "offer", "request_data": { "call_id": "call_1" } }));
        assert_eq!(offered(OfferFormat::Sdp), ("application/sdp".to_owned(), "v=0\r\n".to_owned()));
        let (kind, body) = offered(OfferFormat::Form);
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        let wanted = [
            format!("--{boundary}\r\nContent-Disposition: form-data; name=\"sdp\"\r\n\r\nv=0\r\n\r\n"),
            format!(
                "--{boundary}\r\nContent-Disposition: form-data; name=\"session\"\r\n\r\n{{\"type\":\"realtime\"}}\r\n"
            ),
            format!("--{boundary}--\r\n"),
        ];
        assert_eq!(body, wanted.concat());
    }

    #[test]
    fn an_answer_is_read_and_anything_else_is_told_apart() {
        let json = |sdp: &str, kind: &str| json!({ "sdp": sdp, "type": kind, "pc_id": "x" }).to_string();
        let read = |format, body: &str| read_answer(format, body.as_bytes()).map(|answer| answer.opus.payload_type);
        assert_eq!(read(OfferFormat::Json, &json(ANSWER, "answer")).unwrap(), 111);
        assert_eq!(read(OfferFormat::Sdp, ANSWER).unwrap(), 111);
        let inactive = ANSWER.replace("sendrecv", "inactive");
        for (format, body, wanted) in [
            (OfferFormat::Json, json(ANSWER, "offer"), "its answer is not JSON with"),
            (OfferFormat::Json, ANSWER.to_owned(), "its answer is not JSON with"),
            (OfferFormat::Json, json("v=0\r\n", "answer"), "the SDP has no audio"),
            (OfferFormat::Form, json(ANSWER, "answer"), "its answer cannot be used"),
            (OfferFormat::Sdp, ANSWER.replace("m=audio 9", "m=audio 0"), "the SDP refuses audio"),
            (OfferFormat::Sdp, inactive, "its audio is inactive"),
        ] {
            let error = read(format, &body).unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
            assert_eq!(AgentFailure::from(error).kind, AgentFailureKind::ProtocolError);
        }
    }
}
