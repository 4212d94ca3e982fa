//! A client of the control API, and the keys of the service under test.

use std::fmt;
use std::time::Duration;

use anyhow::Context;
use aws_lc_rs::digest;
use futures_util::StreamExt;
use patchcord_simulator::sound::{self, PHONE_RATE};
use reqwest::Method;
use reqwest::header::HeaderMap;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::service::{DEADLINE, TestService};

/// Scope `calls:read`.
pub const READER: &str = "patchcord_reader_0";
/// Scope `calls:read`, one request a second.
pub const HASTY: &str = "patchcord_hasty_0";
/// Scope `calls:write`.
pub const WRITER: &str = "patchcord_writer_0";
/// Scope `recordings:read`.
pub const RECORDINGS: &str = "patchcord_recordings_0";
/// Scope `admin`.
pub const ADMIN: &str = "patchcord_admin_0";
/// Scopes `calls:write` and `egress:any`.
pub const OUTWARD: &str = "patchcord_outward_0";
/// Scope `metrics:read`.
pub const METRICS: &str = "patchcord_metrics_0";
/// Scope `agent:*`.
pub const ADA: &str = "patchcord_ada_0";
/// Scope `agent:*`.
pub const BOB: &str = "patchcord_bob_0";
/// Only `egress:any`, which opens no route.
pub const NOBODY: &str = "patchcord_nobody_0";

/// The configuration of all keys.
pub fn keys() -> String {
    // Tests that poll do so as fast as they can.
    let often = ", requests_per_second = 100000";
    let keys = [
        (READER, "calls:read", ""),
        (HASTY, "calls:read", ", requests_per_second = 1"),
        (WRITER, "calls:write", often),
        (OUTWARD, "calls:write\", \"egress:any", ""),
        (RECORDINGS, "recordings:read", ""),
        (ADMIN, "admin", often),
        (METRICS, "metrics:read", ""),
        (ADA, "agent:*", often),
        (BOB, "agent:*", often),
        (NOBODY, "egress:any", ""),
        ("patchcord_expired_0", "calls:write", ", expires = \"2020-01-01T00:00:00Z\""),
    ];
    let keys = keys.map(|(key, scope, more)| {
        let id = key.split('_').nth(1).unwrap_or_default();
        let digest = digest::digest(&digest::SHA256, key.as_bytes());
        let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        format!("{{ id = \"{id}\", sha256 = \"{sha256}\", scopes = [\"{scope}\"]{more} }}")
    });
    format!("keys = [{}]", keys.join(", "))
}

/// One app with its key.
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
    /// The `X-Forwarded-For` of a proxy.
    forwarded_for: Option<&'static str>,
}

/// A response. `body` is null if it is not JSON.
pub struct Answer {
    pub status: u16,
    pub body: Value,
    pub bytes: Vec<u8>,
    headers: HeaderMap,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// Asserts problem details (RFC 9457) with this status and code and a sentence.
    #[track_caller]
    pub fn is_problem(&self, status: u16, code: &str) {
        assert_eq!((self.status, &self.body["code"]), (status, &code.into()), "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.body["status"], status, "{self:?}");
        assert!(self.body["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{self:?}");
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {} ({} bytes)", self.status, self.body, self.bytes.len())
    }
}

impl Client {
    /// Without a key for "".
    pub fn new(service: &TestService, key: &str) -> Self {
        Self::at(&service.url(""), key)
    }

    /// A client of the service at this URL, which has no trailing slash.
    pub fn at(url: &str, key: &str) -> Self {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client without TLS can be made");
        Self { http, base: url.to_owned(), key: key.to_owned(), forwarded_for: None }
    }

    /// As if through a reverse proxy that sends this `X-Forwarded-For`.
    pub fn through_a_proxy(self, forwarded_for: &'static str) -> Self {
        Self { forwarded_for: Some(forwarded_for), ..self }
    }

    pub async fn ask(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> anyhow::Result<Answer> {
        let mut request = self.request(method, path);
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body);
        }
        read(request).await
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.ask(Method::DELETE, path, None).await
    }

    /// Performs an action on a call; null sends no body.
    pub async fn act(&self, call: &str, action: &str, body: Value) -> anyhow::Result<Answer> {
        let body = (!body.is_null()).then(|| body.to_string().into_bytes());
        self.ask(Method::POST, &format!("/v1/calls/{call}/actions/{action}"), body).await
    }

    /// Posts with this `Idempotency-Key`.
    pub async fn once(&self, key: &str, path: &str, body: &str) -> anyhow::Result<Answer> {
        read(self.request(Method::POST, path).header("idempotency-key", key).body(body.to_owned())).await
    }

    pub async fn upload(&self, path: &str, content_type: &str, body: Vec<u8>) -> anyhow::Result<Answer> {
        read(self.request(Method::PUT, path).header("content-type", content_type).body(body)).await
    }

    pub async fn fetch(&self, path: &str, range: Option<&str>) -> anyhow::Result<Answer> {
        let mut request = self.request(Method::GET, path);
        if let Some(range) = range {
            request = request.header("range", range);
        }
        read(request).await
    }

    /// The response headers for a page of another origin.
    pub async fn headers_for_origin(&self, method: Method, path: &str, origin: &str) -> anyhow::Result<HeaderMap> {
        let asked = self.request(method, path).header("origin", origin).header("access-control-request-method", "GET");
        Ok(timeout(DEADLINE, asked.send()).await??.headers().clone())
    }

    /// Opens a stream of server-sent events.
    pub async fn stream(&self, path: &str) -> anyhow::Result<reqwest::Response> {
        let request = self.request(Method::GET, path).header("accept", "text/event-stream");
        Ok(timeout(DEADLINE, request.send()).await??)
    }

    fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(client) = self.forwarded_for {
            request = request.header("x-forwarded-for", client);
        }
        match self.key.as_str() {
            "" => request,
            key => request.bearer_auth(key),
        }
    }
}

async fn read(request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
    let response = timeout(DEADLINE, request.send()).await??;
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = response.bytes().await?.to_vec();
    Ok(Answer { status, body: serde_json::from_slice(&bytes).unwrap_or_default(), bytes, headers })
}

/// An open event socket.
pub type Events = WebSocketStream<MaybeTlsStream<TcpStream>>;

pub async fn open_events(service: &TestService, key: &str) -> anyhow::Result<Events> {
    open_events_at(service, key, "").await
}

/// With a query, such as `?after=evt_…`.
pub async fn open_events_at(service: &TestService, key: &str, query: &str) -> anyhow::Result<Events> {
    let mut request = format!("ws://{}/v1/events{query}", service.app.address).into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse()?);
    let (socket, _) = timeout(DEADLINE, tokio_tungstenite::connect_async(request)).await??;
    Ok(socket)
}

/// The next text.
pub async fn next(events: &mut Events) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&next_text(events).await?)?)
}

/// The same, unparsed.
pub async fn next_text(events: &mut Events) -> anyhow::Result<String> {
    loop {
        let message =
            timeout(DEADLINE, events.next()).await.context("nothing came")?.context("the socket closed")??;
        if let Message::Text(text) = message {
            return Ok(text.to_string());
        }
    }
}

/// The next text of this type; others are skipped.
pub async fn next_of(events: &mut Events, kind: &str) -> anyhow::Result<Value> {
    loop {
        let message = next(events).await?;
        if message["type"] == kind {
            return Ok(message);
        }
    }
}

/// A tone as a WAV file.
pub fn wav(hz: f64, duration: Duration) -> anyhow::Result<Vec<u8>> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: PHONE_RATE,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut bytes = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut bytes, spec)?;
    for sample in sound::tone(hz, PHONE_RATE, duration.as_millis() as u32) {
        writer.write_sample(sample)?;
    }
    writer.finalize()?;
    Ok(bytes.into_inner())
}
