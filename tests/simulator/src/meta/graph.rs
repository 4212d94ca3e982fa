//! The Graph API: `POST /{version}/{phone_number_id}/calls`, `POST …/messages`, `GET …/call_permissions` and
//! `GET …/settings`, with Meta's rules and any fault asked for.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;

use super::bodies::permissions::NO_PERMISSION;
use super::bodies::replies;
use super::{MetaShared, Place, Reachable, report};
use crate::browser::BrowserLine;
use crate::call::trace::{GraphTrace, TraceEvent};
use crate::call::{EndedBy, LiveCall, Stage};
use crate::callee::{AnswerWebhooks, Setup};
use crate::cut::{CuttableListener, Knife};
use crate::objection::Objection;
use crate::phone::answer::{Answer, Refusal};
use crate::phone::shell::{Order, now};

/// Requests remembered; later ones are answered and forgotten.
const MOST_REQUESTS: usize = 100_000;

/// One request to the Graph API as it came, and how it was answered.
#[derive(Debug, Clone)]
pub struct GraphRequest {
    /// When it arrived.
    pub at: Instant,
    /// Its `action`; the edge's name for `settings`, `call_permissions` and `messages`; empty if it had none.
    pub action: String,
    /// Its `call_id`; empty if it had none.
    pub call_id: String,
    /// Its body, or the query of `call_permissions`; null if it was not JSON.
    pub body: Value,
    /// The HTTP status of the reply; 0 as long as there is none, also for connections that were cut.
    pub status: u16,
}

/// How one request is answered instead of normally.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Normally.
    Ok,
    /// With this status and body; nothing is applied.
    Error {
        /// HTTP status.
        status: u16,
        /// JSON text.
        body: String,
    },
    /// With 429, code 4 and a `Retry-After` of so many seconds; nothing is applied.
    RetryAfter(Duration),
    /// After this time, in the given way.
    Delay(Duration, Box<Reply>),
    /// Never; nothing is applied.
    Hang,
    /// The connection is reset; nothing is applied.
    Reset,
    /// The request is applied, then the connection is reset without a reply.
    DoneButNoReply,
    /// The request is applied, then nothing comes back.
    DoneButHangs,
    /// The request is applied, and the reply comes after this time.
    DoneButLate(Duration),
}

impl Reply {
    /// HTTP 401, code 190: the token has expired.
    #[must_use]
    pub fn token_expired() -> Self {
        Self::Error { status: 401, body: replies::TOKEN_EXPIRED.to_owned() }
    }

    /// HTTP 400, code 138008: "SDP Validation error".
    #[must_use]
    pub fn sdp_invalid() -> Self {
        Self::Error { status: 400, body: replies::sdp_invalid("Provided SDP is invalid") }
    }

    /// HTTP 400, code 100, with these details.
    #[must_use]
    pub fn invalid_parameter(details: &str) -> Self {
        Self::Error { status: 400, body: replies::invalid_parameter(details) }
    }

    /// HTTP 500 with a body that is no JSON, as a gateway gives it.
    #[must_use]
    pub fn server_error() -> Self {
        Self::Error { status: 500, body: "<html>Sorry, something went wrong.</html>".to_owned() }
    }
}

/// The requests received, and the script for the next ones.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    pub(crate) requests: Vec<GraphRequest>,
    pub(crate) scripts: HashMap<String, VecDeque<Reply>>,
}

/// A status and a JSON body.
type Outcome = (u16, String);

/// Serves until the task is ended.
pub(crate) async fn serve(listener: TcpListener, shared: Weak<MetaShared>) {
    let router = Router::new()
        .route("/{version}/{node}/calls", post(calls))
        .route("/{version}/{node}/settings", get(settings))
        .route("/{version}/{node}/call_permissions", get(call_permissions))
        .route("/{version}/{node}/messages", post(messages))
        .with_state(shared);
    let service = router.into_make_service_with_connect_info::<Knife>();
    if let Err(error) = axum::serve(CuttableListener(listener), service).await {
        tracing::error!("the simulated Graph API ended: {error}");
    }
}

async fn calls(
    State(shared): State<Weak<MetaShared>>,
    ConnectInfo(knife): ConnectInfo<Knife>,
    Path((_version, node)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(shared) = shared.upgrade() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    reply(&shared, &knife, Request::read(&node, &headers, &body)).await
}

async fn settings(
    State(shared): State<Weak<MetaShared>>,
    ConnectInfo(knife): ConnectInfo<Knife>,
    Path((_version, node)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let Some(shared) = shared.upgrade() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let request = Request { action: "settings".to_owned(), ..Request::read(&node, &headers, b"") };
    reply(&shared, &knife, request).await
}

async fn call_permissions(
    State(shared): State<Weak<MetaShared>>,
    ConnectInfo(knife): ConnectInfo<Knife>,
    Path((_version, node)): Path<(String, String)>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let Some(shared) = shared.upgrade() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let body = serde_json::to_value(query).unwrap_or_default();
    let request = Request { action: "call_permissions".to_owned(), body, ..Request::read(&node, &headers, b"") };
    reply(&shared, &knife, request).await
}

async fn messages(
    State(shared): State<Weak<MetaShared>>,
    ConnectInfo(knife): ConnectInfo<Knife>,
    Path((_version, node)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(shared) = shared.upgrade() else { return StatusCode::SERVICE_UNAVAILABLE.into_response() };
    let request = Request { action: "messages".to_owned(), ..Request::read(&node, &headers, &body) };
    reply(&shared, &knife, request).await
}

/// Answers as the script says, normally if it says nothing.
async fn reply(shared: &Arc<MetaShared>, knife: &Knife, request: Request) -> Response {
    let (index, at) = (shared.note(&request), now());
    let watch = shared.call(&request.call_id).and_then(|live| Watch::of(live, &request, at));
    let scripted = watch.as_ref().and_then(|watch| watch.browser.next_reply(&request.action));
    let scripted = scripted.or_else(|| shared.graph().scripts.get_mut(&request.action).and_then(VecDeque::pop_front));
    let mut reply = scripted.unwrap_or(Reply::Ok);
    while let Reply::Delay(delay, then) = reply {
        tokio::time::sleep(delay).await;
        reply = *then;
    }
    let retry_after = if let Reply::RetryAfter(after) = &reply { Some(after.as_secs()) } else { None };
    let (status, body) = match reply {
        Reply::Ok | Reply::Delay(..) => shared.apply(&request).await,
        Reply::Error { status, body } => (status, body),
        Reply::RetryAfter(_) => (429, replies::TOO_MANY.to_owned()),
        Reply::Hang => {
            if let Some(watch) = &watch {
                watch.replied(None);
            }
            pending().await
        }
        Reply::DoneButHangs => {
            shared.apply(&request).await;
            pending().await
        }
        Reply::DoneButLate(delay) => {
            let outcome = shared.apply(&request).await;
            tokio::time::sleep(delay).await;
            outcome
        }
        Reply::DoneButNoReply => {
            shared.apply(&request).await;
            knife.cut();
            (0, String::new())
        }
        Reply::Reset => {
            knife.cut();
            (0, String::new())
        }
    };
    shared.answered(index, status);
    // A call that this request began.
    let begun = || shared.call(&begun_call(&body)?).and_then(|live| Watch::of(live, &request, at));
    if let Some(watch) = watch.or_else(begun) {
        watch.replied(Some((status, body.clone())));
    }
    respond(status, body, retry_after)
}

/// The id in the reply to `connect`.
fn begun_call(reply: &str) -> Option<String> {
    let reply: Value = serde_json::from_str(reply).ok()?;
    Some(reply["calls"][0]["id"].as_str()?.to_owned())
}

fn respond(status: u16, body: String, retry_after: Option<u64>) -> Response {
    // After a cut the status does not matter: nothing is sent.
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_GATEWAY);
    let mut response = (status, [(header::CONTENT_TYPE, "application/json; charset=UTF-8")], body).into_response();
    if let Some(value) = retry_after.and_then(|seconds| seconds.to_string().parse().ok()) {
        response.headers_mut().insert(header::RETRY_AFTER, value);
    }
    response
}

/// A request whose call is watched.
struct Watch {
    live: LiveCall,
    browser: Arc<BrowserLine>,
    at: Instant,
    action: String,
    request: String,
}

impl Watch {
    fn of(live: LiveCall, request: &Request, at: Instant) -> Option<Self> {
        let browser = live.browser.clone()?;
        Some(Self { live, browser, at, action: request.action.clone(), request: request.text.clone() })
    }

    fn replied(&self, reply: Option<(u16, String)>) {
        let record = &self.live.record;
        self.browser.trace.push(TraceEvent::Graph(GraphTrace {
            at: record.since_placed(self.at),
            took: now().saturating_duration_since(self.at),
            action: self.action.clone(),
            request: self.request.clone(),
            reply,
        }));
    }
}

/// A request's parts, read but not judged.
#[derive(Debug)]
struct Request {
    node: String,
    bearer: Option<String>,
    action: String,
    call_id: String,
    body: Value,
    /// The body as it came.
    text: String,
}

impl Request {
    fn read(node: &str, headers: &HeaderMap, body: &[u8]) -> Self {
        let as_it_came = String::from_utf8_lossy(body).into_owned();
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
        Self {
            node: node.to_owned(),
            bearer: headers
                .get(header::AUTHORIZATION)
                .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "))
                .map(str::to_owned),
            action: text("action"),
            call_id: text("call_id"),
            body,
            text: as_it_came,
        }
    }

    /// Graph refuses unknown parameters with error 100; `to` is tolerated beside an answer.
    fn check_fields(&self) -> Result<(), String> {
        let Some(fields) = self.body.as_object() else { return Err("the body is no JSON object".to_owned()) };
        if self.body["messaging_product"] != "whatsapp" {
            return Err("messaging_product must be whatsapp".to_owned());
        }
        let extra: &[&str] = match self.action.as_str() {
            "connect" => &["session", "to", "recipient", "biz_opaque_callback_data", "recording", "transcription"],
            "pre_accept" => &["session", "to"],
            "accept" => &["session", "to", "biz_opaque_callback_data", "recording", "transcription"],
            "reject" | "terminate" => &[],
            other => return Err(format!("unknown action '{other}'")),
        };
        let known = |key: &str| matches!(key, "messaging_product" | "call_id" | "action") || extra.contains(&key);
        match fields.keys().find(|key| !known(key)) {
            Some(key) => Err(format!("unknown parameter '{key}'")),
            None => Ok(()),
        }
    }

    fn sdp(&self, kind: &str) -> Result<&str, String> {
        let session = &self.body["session"];
        if session["sdp_type"] != kind {
            return Err(format!("session.sdp_type must be {kind}"));
        }
        session["sdp"].as_str().ok_or_else(|| "session.sdp is missing".to_owned())
    }
}

impl MetaShared {
    fn note(&self, request: &Request) -> usize {
        let mut graph = self.graph();
        let index = graph.requests.len();
        if index < MOST_REQUESTS {
            graph.requests.push(GraphRequest {
                at: super::arrival(),
                action: request.action.clone(),
                call_id: request.call_id.clone(),
                body: request.body.clone(),
                status: 0,
            });
        }
        drop(graph);
        self.changed.send_replace(());
        index
    }

    fn answered(&self, index: usize, status: u16) {
        if let Some(request) = self.graph().requests.get_mut(index) {
            request.status = status;
        }
        self.changed.send_replace(());
    }

    async fn apply(self: &Arc<Self>, request: &Request) -> Outcome {
        if request.bearer.as_deref() != Some(&self.options.access_token) {
            return (401, replies::TOKEN_EXPIRED.to_owned());
        }
        if request.node != self.options.phone_number_id {
            return (400, replies::UNKNOWN_NODE.to_owned());
        }
        if request.action == "settings" {
            return (200, replies::SETTINGS.to_owned());
        }
        match request.action.as_str() {
            "call_permissions" => return self.look_up(&request.body),
            "messages" => return self.take_message(&request.body),
            _ => {}
        }
        if matches!(request.action.as_str(), "connect" | "") && request.call_id.is_empty() {
            return self.connect(request).await;
        }
        let live = self.call(&request.call_id);
        if let Err(details) = request.check_fields() {
            if let Some(live) = live {
                live.record.object(Objection::BadRequest(details.clone()));
            }
            return (400, replies::invalid_parameter(&details));
        }
        let Some(live) = live else {
            return (400, replies::invalid_parameter("no call with this call_id"));
        };
        match request.action.as_str() {
            "pre_accept" | "accept" => self.answer(&live, request).await,
            _ => self.end(&live, request).await,
        }
    }

    /// `connect`: the phone of somebody who permits it rings.
    async fn connect(self: &Arc<Self>, request: &Request) -> Outcome {
        if let Err(details) = request.check_fields() {
            return (400, replies::invalid_parameter(&details));
        }
        // `to` wins.
        let key = request.body["to"].as_str().or_else(|| request.body["recipient"].as_str()).unwrap_or_default();
        let Some(Reachable { options, place }) = self.callee(key) else {
            return (401, NO_PERMISSION.to_owned());
        };
        // Browsers permit all calls.
        if let Place::Phone(_) = &place
            && let Some(refusal) = self.call_refusal(key)
        {
            return refusal;
        }
        if self.is_busy(&options.person) {
            return (400, replies::BUSY.to_owned());
        }
        let text = match request.sdp("offer") {
            Ok(text) => text,
            Err(details) => return (400, replies::invalid_parameter(&details)),
        };
        let offer = match Answer::read_offer(text, options.setup == Setup::Active) {
            Ok(offer) => offer,
            Err(refusal) => return (400, refused(refusal)),
        };
        let objections = offer.objections.clone();
        let opaque = request.body["biz_opaque_callback_data"].as_str().map(str::to_owned);
        let (live, is_taken) = match place {
            Place::Phone(calls) => match self.ring_callee(&options, offer, opaque).await {
                Ok(call) => (call.live.clone(), calls.try_send(call).is_ok()),
                Err(error) => return (500, replies::invalid_parameter(&format!("{error:#}"))),
            },
            Place::Browser(calls) => {
                let call = self.ring_browser_callee(&options, text, opaque);
                (call.live.clone(), calls.try_send(call).is_ok())
            }
        };
        objections.into_iter().for_each(|objection| live.record.object(objection));
        if !is_taken {
            return (400, replies::BUSY.to_owned());
        }
        let body = replies::connected(&live.record.parties.wacid);
        if live.browser.is_some() {
            // The page's SDP announces it.
            return (200, body);
        }
        match options.webhooks {
            AnswerWebhooks::BeforeReply => self.announce_callee(&live).await,
            AnswerWebhooks::AfterReply => {
                let shared = self.clone();
                self.spawn(async move { shared.announce_callee(&live).await });
            }
            AnswerWebhooks::ByHand => {}
        }
        (200, body)
    }

    /// The answer of Meta's relay, and that the phone rings.
    async fn announce_callee(&self, live: &LiveCall) {
        report("connect", self.post(live.record.connect_body().into_bytes(), None).await);
        report("RINGING", self.post(live.record.status_body("RINGING").into_bytes(), None).await);
    }

    /// `reject` and `terminate`; the terminate webhook follows the reply, as at every end.
    async fn end(self: &Arc<Self>, live: &LiveCall, request: &Request) -> Outcome {
        let record = &live.record;
        let is_reject = request.action == "reject";
        let (ended, answered) = {
            let state = record.lock();
            (state.ended.is_some(), state.answer.is_some())
        };
        if ended {
            record.object(Objection::TerminateAfterEnd);
            return (400, replies::invalid_parameter("the call has already ended"));
        }
        if is_reject && answered {
            record.object(Objection::RejectAfterAnswer);
            return (400, replies::invalid_parameter("the call has already been answered"));
        }
        if record.end(if is_reject { EndedBy::Rejected } else { EndedBy::Terminated }, now()) {
            live.line.order(Order::Vanish).await;
            let (shared, live) = (self.clone(), live.clone());
            self.spawn(async move { report("terminate", shared.send_terminate(&live).await) });
        }
        (200, replies::SUCCESS.to_owned())
    }

    /// `pre_accept` and `accept`.
    async fn answer(&self, live: &LiveCall, request: &Request) -> Outcome {
        let record = &live.record;
        let is_accept = request.action == "accept";
        let text = match request.sdp("answer") {
            Ok(text) => text,
            Err(details) => {
                record.object(Objection::BadRequest(details.clone()));
                return (400, replies::invalid_parameter(&details));
            }
        };
        let (ended, accepted, before) = {
            let state = record.lock();
            (state.ended.is_some(), state.stages.contains_key(&Stage::Accepted), state.answer.clone())
        };
        if ended {
            record.object(Objection::AcceptAfterEnd);
            return (400, replies::invalid_parameter("the call has already ended"));
        }
        if accepted {
            record.object(Objection::AcceptedTwice);
            return (400, replies::invalid_parameter("the call has already been accepted"));
        }
        match before {
            Some(before) if before != text => {
                record.object(Objection::AnswerChanged);
                return (400, replies::invalid_parameter("the SDP answer differs from the one in pre_accept"));
            }
            Some(_) => {}
            None => {
                let answer = match Answer::read(text, record.sdp()) {
                    Ok(answer) => answer,
                    Err(refusal) => {
                        record.object(Objection::AnswerRefused(refusal.to_string()));
                        return (400, refused(refusal));
                    }
                };
                answer.objections.iter().cloned().for_each(|objection| record.object(objection));
                record.lock().answer = Some(text.to_owned());
                match &live.browser {
                    Some(browser) => browser.learn_answer(self, record, text),
                    None => drop(live.line.order(Order::LearnAnswer(Box::new(answer))).await),
                }
            }
        }
        if is_accept {
            {
                let mut state = record.lock();
                state.accepted_unix_s = Some((super::unix_ms() / 1000) as u64);
                state.opaque = request.body["biz_opaque_callback_data"].as_str().map(str::to_owned);
            }
            // The record first: what the phone hears from here on is heard.
            record.reach(Stage::Accepted, now());
            live.line.order(Order::Accepted).await;
        } else {
            record.reach(Stage::PreAccepted, now());
        }
        (200, replies::SUCCESS.to_owned())
    }
}

fn refused(refusal: Refusal) -> String {
    match refusal {
        Refusal::NoFingerprint | Refusal::FingerprintNotSha256 => replies::invalid_parameter(&refusal.to_string()),
        Refusal::Invalid(_) => replies::sdp_invalid(&refusal.to_string()),
    }
}
