//! An app written for Twilio Voice: it answers requests with TwiML, and checks their signatures by its own arithmetic.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::pending;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use anyhow::Context;
use aws_lc_rs::hmac;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{StreamExt, stream};
use reqwest::Url;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::DEADLINE;
use crate::watched::Watched;

/// What a path answers.
#[derive(Debug, Clone)]
pub enum Page {
    /// A document with these verbs.
    Verbs(String),
    /// A body as it is, with its content type.
    Body(&'static str, Vec<u8>),
    /// An error.
    Status(u16),
    /// A redirect to this URL.
    Elsewhere(String),
    /// Nothing at all.
    Never,
    /// The beginning of a document, and nothing more.
    Stuck,
}

/// A request that came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The path.
    pub path: String,
    /// `GET` or `POST`.
    pub method: String,
    /// Those of the form and of the query.
    pub fields: BTreeMap<String, String>,
    /// Whether the signature is that of the account's token.
    pub is_signed: bool,
}

/// A server whose paths answer TwiML. It ends when it is dropped.
#[derive(Debug)]
pub struct TwimlApp {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    address: SocketAddr,
    auth_token: String,
    pages: Watched<HashMap<String, Page>>,
    asked: Watched<Vec<Asked>>,
}

impl TwimlApp {
    /// A server on loopback whose account has this token.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub async fn start(auth_token: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let auth_token = auth_token.to_owned();
        let shared = Arc::new(Shared { address, auth_token, pages: Watched::default(), asked: Watched::default() });
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let server = tokio::spawn(async move {
            // If it stops, the test sees a refused connection.
            let _ = axum::serve(listener, router).await;
        });
        Ok(Self { address, shared, server })
    }

    /// From now on a path answers with these verbs.
    pub fn says(&self, path: &str, verbs: impl Into<String>) {
        self.answers(path, Page::Verbs(verbs.into()));
    }

    /// From now on a path answers this.
    pub fn answers(&self, path: &str, page: Page) {
        self.shared.pages.lock().insert(path.to_owned(), page);
    }

    /// The URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().clone()
    }

    /// The request number `nth` for a path, counted from 1.
    ///
    /// # Errors
    /// When it has not come in time.
    pub async fn wait_for(&self, path: &str, nth: usize) -> anyhow::Result<Asked> {
        let nth_of = |asked: &Vec<Asked>| asked.iter().filter(|asked| asked.path == path).nth(nth - 1).cloned();
        let found = timeout(DEADLINE, self.shared.asked.wait(nth_of)).await;
        found.with_context(|| format!("{path} was not asked {nth} times; asked: {:?}", self.asked()))
    }
}

impl Drop for TwimlApp {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(
    State(shared): State<Arc<Shared>>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let path = uri.path().to_owned();
    let form = String::from_utf8_lossy(&body).into_owned();
    let is_signed = shared.is_signed(&uri, &form, &headers);
    let fields = pairs(&form).into_iter().chain(pairs(uri.query().unwrap_or_default())).collect();
    shared.asked.lock().push(Asked { path: path.clone(), method: method.to_string(), fields, is_signed });
    let page = shared.pages.lock().get(&path).cloned();
    match page {
        None => StatusCode::NOT_FOUND.into_response(),
        Some(Page::Status(status)) => StatusCode::from_u16(status).unwrap_or_default().into_response(),
        Some(Page::Elsewhere(url)) => (StatusCode::FOUND, [(header::LOCATION, url)]).into_response(),
        Some(Page::Never) => pending().await,
        Some(Page::Stuck) => {
            let begun = stream::iter([Ok::<_, Infallible>(Bytes::from_static(b"<Response>"))]);
            Body::from_stream(begun.chain(stream::pending())).into_response()
        }
        Some(Page::Body(kind, body)) => ([(header::CONTENT_TYPE, kind)], body).into_response(),
        Some(Page::Verbs(verbs)) => {
            let document = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>{verbs}</Response>");
            ([(header::CONTENT_TYPE, "text/xml")], document).into_response()
        }
    }
}

impl Shared {
    /// Twilio's "Validating Signatures": base64 of HMAC-SHA1 over the URL and each field of the form, sorted by name.
    fn is_signed(&self, uri: &Uri, form: &str, headers: &HeaderMap) -> bool {
        let mut fields = pairs(form);
        fields.sort();
        let mut text = format!("http://{}{uri}", self.address);
        for (name, value) in fields {
            text += &name;
            text += &value;
        }
        let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, self.auth_token.as_bytes());
        let signature = STANDARD.encode(hmac::sign(&key, text.as_bytes()));
        headers.get("x-twilio-signature").is_some_and(|given| given.as_bytes() == signature.as_bytes())
    }
}

fn pairs(encoded: &str) -> Vec<(String, String)> {
    let url = Url::parse(&format!("http://form/?{encoded}"));
    url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}
