//! A bot behind an HTTP endpoint that answers WebRTC offers, as Pipecat and OpenAI do; and endpoints that do not.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::DEADLINE;
use crate::page::Page;
use crate::speech::Speech;
use crate::watched::Watched;

/// What an endpoint does with an offer.
#[derive(Debug, Clone)]
pub enum Answering {
    /// Answers; the bot says this.
    Properly(Speech),
    /// Answers with another certificate's fingerprint.
    WrongFingerprint,
    /// Answers with this status and body.
    With(u16, String),
    /// Redirects to this URL.
    Elsewhere(String),
    /// Never answers.
    Never,
}

/// An offer that came.
#[derive(Debug, Clone)]
pub struct Offered {
    /// The last part of the path.
    pub name: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: String,
}

/// A server whose endpoints are `/NAME`. It ends when it is dropped.
#[derive(Debug)]
pub struct Answerer {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    endpoints: HashMap<String, Answering>,
    offers: Watched<Vec<Offered>>,
    pages: Watched<Vec<Arc<Page>>>,
}

impl Answerer {
    /// A server on loopback with these endpoints.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub async fn start(endpoints: impl IntoIterator<Item = (&'static str, Answering)>) -> anyhow::Result<Self> {
        let endpoints = endpoints.into_iter().map(|(name, answering)| (name.to_owned(), answering)).collect();
        let shared = Arc::new(Shared { endpoints, offers: Watched::default(), pages: Watched::default() });
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let router = Router::new().route("/{name}", post(answer)).with_state(shared.clone());
        let server = tokio::spawn(async move {
            // If it stops, the test sees a refused connection.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shared, server })
    }

    /// The URL of an endpoint.
    #[must_use]
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}", self.address)
    }

    /// The offers so far.
    #[must_use]
    pub fn offers(&self) -> Vec<Offered> {
        self.shared.offers.lock().clone()
    }

    /// The bot that answered so many offers before, connected.
    ///
    /// # Errors
    /// When it has not come, or is not connected, in time.
    pub async fn bot(&self, number: usize) -> anyhow::Result<Arc<Page>> {
        let answered = self.shared.pages.wait(|pages| pages.get(number).cloned());
        let page = timeout(DEADLINE, answered).await.context("nobody has offered")?;
        page.connected().await?;
        Ok(page)
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let body = String::from_utf8_lossy(&body).into_owned();
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    let offer = sdp_of(&kind, &body);
    let answering = shared.endpoints.get(&name).cloned();
    shared.offers.lock().push(Offered { name, headers, body });
    let (answering, offer) = match (answering, offer) {
        (Some(answering), Some(offer)) => (answering, offer),
        (None, _) => return StatusCode::NOT_FOUND.into_response(),
        (_, None) => return StatusCode::BAD_REQUEST.into_response(),
    };
    match answering {
        Answering::Properly(speech) => join(&shared, &kind, &offer, speech, str::to_owned).await,
        Answering::WrongFingerprint => join(&shared, &kind, &offer, Speech::silence(), other_certificate).await,
        Answering::With(status, body) => {
            (StatusCode::from_u16(status).unwrap_or(StatusCode::IM_A_TEAPOT), body).into_response()
        }
        Answering::Elsewhere(url) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url)]).into_response(),
        Answering::Never => std::future::pending().await,
    }
}

async fn join(shared: &Shared, kind: &str, offer: &str, speech: Speech, rewrite: fn(&str) -> String) -> Response {
    let Ok(page) = Page::answering(offer, speech).await else { return StatusCode::BAD_REQUEST.into_response() };
    let answer = rewrite(page.answer());
    shared.pages.lock().push(Arc::new(page));
    match kind {
        "application/json" => {
            let body = json!({ "sdp": answer, "type": "answer", "pc_id": "SmallWebRTCConnection#0" });
            ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
        }
        _ => (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/sdp")], answer).into_response(),
    }
}

/// The offer in a body of this type.
fn sdp_of(kind: &str, body: &str) -> Option<String> {
    match kind.split(';').next()? {
        "application/json" => {
            let body: Value = serde_json::from_str(body).ok()?;
            Some(body["sdp"].as_str().filter(|_| body["type"] == "offer")?.to_owned())
        }
        "application/sdp" => Some(body.to_owned()),
        "multipart/form-data" => {
            let boundary = kind.split_once("boundary=")?.1;
            let field = body.split(&format!("--{boundary}")).find(|field| field.contains("name=\"sdp\""))?;
            Some(field.split_once("\r\n\r\n")?.1.to_owned())
        }
        _ => None,
    }
}

fn other_certificate(answer: &str) -> String {
    let wrong = format!("a=fingerprint:sha-256 {}", ["A5"; 32].join(":"));
    let lines = answer.lines().map(|line| if line.starts_with("a=fingerprint:") { &*wrong } else { line });
    lines.map(|line| format!("{line}\r\n")).collect()
}
