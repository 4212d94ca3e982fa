//! The requests to an app that answers TwiML, and for the files that its documents name.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response};
use url::Url;
use url::form_urlencoded::Serializer;

use super::Context;
use crate::agent::dialect::identity::{Parties, uuid_of};
use crate::call::agent_failure::{AgentFailure, AgentFailureKind};
use crate::call::description::CallDirection;
use crate::cause::cause_of;
use crate::egress::{Hosts, Use};
use crate::telemetry::shown;
use crate::twilio::interpreter::Request;
use crate::twilio::{API_VERSION, Account, Method, call_sid, sign};

/// As large as Twilio takes.
const MAX_DOCUMENT_BYTES: usize = 64 * 1024;
/// Two minutes of uncompressed speech at 16 kHz.
pub(super) const MAX_SOUND_BYTES: usize = 4 * 1024 * 1024;

/// Where to connect for a URL.
pub(super) struct Reach {
    pub url: Url,
    /// If there are none, the host is resolved.
    pub addresses: Vec<SocketAddr>,
    /// In place of what all agents have in common.
    pub tls: Option<Arc<rustls::ClientConfig>>,
}

/// Finds out where to connect: the app's own URLs lead to the app, others must be on the egress list.
pub(super) async fn reach(context: &Context, url: &Url, meant_for: Use) -> Result<Reach, AgentFailure> {
    if let Some(home) = &context.agent.home
        && let Some(url) = home.local_of(url)
    {
        return Ok(Reach { url, addresses: home.addresses.clone(), tls: context.agent.tls.clone() });
    }
    let egress = &context.options.settings.get().egress;
    let checked = egress.check(url.as_str(), meant_for, Hosts::Listed).await;
    let checked =
        checked.map_err(|refused| AgentFailureKind::Refused.because(format!("a URL of its document: {refused}")))?;
    Ok(Reach { url: checked.url().clone(), addresses: checked.addresses().to_vec(), tls: None })
}

/// Asks the app for a document.
pub(super) async fn ask(context: &Context, request: &Request) -> Result<String, AgentFailure> {
    let mut form = match context.twilio() {
        Some(account) => call_fields(context, account),
        None => answer_fields(context),
    };
    form.extend(request.fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    let callee = context.call_sid_of_leg(request.callee);
    form.extend(callee.map(|call_sid| ("DialCallSid".to_owned(), call_sid)));
    let body = send(context, &request.url, request.method, form).await?;
    String::from_utf8(body.into()).map_err(|_| AgentFailureKind::ProtocolError.because("its document is not UTF-8"))
}

/// One request with these fields, which a Twilio app finds signed; gives the body of the response.
pub(super) async fn send(
    context: &Context,
    url: &Url,
    method: Method,
    mut form: Vec<(String, String)>,
) -> Result<Bytes, AgentFailure> {
    let encoded = Serializer::new(String::new()).extend_pairs(&form).finish();
    let mut url = url.clone();
    if method == Method::Get {
        let query = [url.query().unwrap_or_default(), &encoded].join("&");
        url.set_query(Some(query.trim_start_matches('&')));
        form.clear();
    }
    let headers = match context.twilio() {
        Some(account) => twilio_headers(&sign(&account.auth_token, url.as_str(), &form)),
        None => HeaderMap::from_iter([(ACCEPT, HeaderValue::from_static("application/json, */*"))]),
    };
    let request = |client: &Client, url| match method {
        Method::Get => client.get(url),
        Method::Post => {
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8");
            client.post(url).header(CONTENT_TYPE, kind).body(encoded)
        }
    };
    exchange(context, &url, headers, MAX_DOCUMENT_BYTES, request).await
}

fn twilio_headers(signature: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static("application/xml, text/xml, */*"));
    // Base64 is a header's value.
    if let Ok(signature) = HeaderValue::from_str(signature) {
        headers.insert(HeaderName::from_static("x-twilio-signature"), signature);
    }
    let token = format!("{:032x}", rand::random::<u128>());
    if let Ok(token) = HeaderValue::from_str(&token) {
        headers.insert(HeaderName::from_static("i-twilio-idempotency-token"), token);
    }
    headers
}

/// Loads a file that a document names.
pub(super) async fn load(context: &Context, url: &Url) -> Result<Bytes, AgentFailure> {
    exchange(context, url, HeaderMap::new(), MAX_SOUND_BYTES, |client, url| client.get(url)).await
}

/// One request and its response, within one deadline. Redirects are not followed.
async fn exchange(
    context: &Context,
    url: &Url,
    mut headers: HeaderMap,
    most_bytes: usize,
    request: impl FnOnce(&Client, Url) -> RequestBuilder,
) -> Result<Bytes, AgentFailure> {
    let limit = context.options.connect_timeout;
    let exchanged = async {
        let reach = reach(context, url, Use::Web).await?;
        headers.insert(USER_AGENT, HeaderValue::from_static(concat!("patchcord/", env!("CARGO_PKG_VERSION"))));
        // Apps make the addresses of their streams of it.
        if let Ok(host) = HeaderValue::from_str(&host_of(url)) {
            headers.insert(HOST, host);
        }
        let client = client(context, &reach)?;
        let sent = request(&client, reach.url).headers(headers).send().await;
        let mut response = sent.map_err(|error| unreachable(&error))?;
        match response.status() {
            status if status.is_redirection() => {
                let cause = format!("it answered with HTTP {status}, and redirects are not followed");
                Err(AgentFailureKind::Refused.because(cause))
            }
            status if !status.is_success() => {
                Err(AgentFailureKind::Refused.because(format!("it answered with HTTP {status}")))
            }
            _ => body_of(&mut response, most_bytes).await,
        }
    };
    let late = || AgentFailureKind::NoAnswer.because(format!("it did not answer within {}", shown(limit)));
    context.port.standstills().timeout(limit, exchanged).await.unwrap_or_else(|_| Err(late()))
}

/// For one request: it is closed with its client.
fn client(context: &Context, reach: &Reach) -> Result<Client, AgentFailure> {
    let tls = reach.tls.as_ref().unwrap_or(&context.options.tls).as_ref().clone();
    let mut builder = Client::builder().redirect(Policy::none()).no_proxy().tls_backend_preconfigured(tls);
    if let (Some(host), false) = (reach.url.domain(), reach.addresses.is_empty()) {
        builder = builder.resolve_to_addrs(host, &reach.addresses);
    }
    builder.build().map_err(|error| unreachable(&error))
}

async fn body_of(response: &mut Response, most_bytes: usize) -> Result<Bytes, AgentFailure> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(&error))? {
        if body.len() + chunk.len() > most_bytes {
            let cause = format!("it answered with more than {} KiB", most_bytes / 1024);
            return Err(AgentFailureKind::ProtocolError.because(cause));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.into())
}

fn unreachable(error: &reqwest::Error) -> AgentFailure {
    AgentFailureKind::Refused.because(format!("it could not be reached: {}", cause_of(error)))
}

fn host_of(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Vonage's "Answer webhook data fields". It writes numbers without their `+`.
fn answer_fields(context: &Context) -> Vec<(String, String)> {
    let Parties { from, to } = Parties::of(context.port.description());
    let uuid = uuid_of(context.port.call_id().as_str());
    let digits = |number: String| number.trim_start_matches('+').to_owned();
    let fields = [
        ("from", digits(from)),
        ("to", digits(to)),
        ("conversation_uuid", format!("CON-{uuid}")),
        ("uuid", uuid),
        ("endpoint_type", "phone".to_owned()),
    ];
    fields.map(|(name, value)| (name.to_owned(), value)).into()
}

/// What every request of a call says to a Twilio app.
fn call_fields(context: &Context, account: &Account) -> Vec<(String, String)> {
    let call = context.port.description();
    let Parties { from, to } = Parties::of(&account.with_number(call));
    let status = if context.port.is_accepted() { "in-progress" } else { "ringing" };
    let direction = match call.direction {
        CallDirection::UserInitiated => "inbound",
        CallDirection::BusinessInitiated => "outbound-api",
    };
    let sid = call_sid(context.port.call_id());
    let mut fields = vec![
        ("CallSid", sid),
        ("AccountSid", account.sid.clone()),
        ("From", from.clone()),
        ("To", to.clone()),
        ("Caller", from),
        ("Called", to),
        ("CallStatus", status.to_owned()),
        ("Direction", direction.to_owned()),
        ("ApiVersion", API_VERSION.to_owned()),
    ];
    if let Some(name) = &call.user.name {
        fields.push(("CallerName", name.clone()));
    }
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
