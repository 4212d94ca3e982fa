//! `/v1/events`: a WebSocket with all events of all calls, from now on or from an earlier event on, that also takes
//! commands.

#![expect(unused_qualifications, reason = "utoipa writes them")]

mod live;
mod past;
mod sse;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Extension, Query, Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tracing::info;
use utoipa::IntoParams;

use super::auth::Caller;
use super::{Api, calls, too_many_streams};
use crate::agent::dialect::native;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::config::api::Scope;
use crate::http::error::{ApiError, Problem};
use crate::store::{StoreError, StoredEvent};
use live::{Live, LiveEvent};
use past::{Past, Told};
use sse::SseStream;

/// The longest command; a longer message closes the socket.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// A reader that does not read for this long is disconnected.
const SENT_WITHIN: Duration = Duration::from_secs(10);
/// For the reader's part of the closing handshake.
const CLOSED_WITHIN: Duration = Duration::from_millis(500);
/// Keeps proxies from closing an idle socket.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Two unanswered pings.
const SILENT_FOR: Duration = Duration::from_secs(50);
/// Close code: the reader missed events and must read the calls again.
const TOO_SLOW: u16 = 4008;

/// Where the stream begins.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventQuery {
    /// The id of the last event that was read: the events after it are sent first, including those that nobody was
    /// connected for. Without it the stream begins now.
    #[param(example = "evt_01k0000000000000000000000a", pattern = "^evt_[0-9a-hjkmnp-tv-z]{26}$")]
    after: Option<String>,
}

/// Stream events
///
/// A WebSocket. Each event is a text frame with the usual JSON, in order for each call and for each person's permission. A reader that is so slow that it
/// would miss events is closed with 4008; after a disconnect, open the stream again with `after`. A text
/// frame
/// `{"type":"command","request_id":…,"call_id":"call_…","action":"play",…}` performs the action of this name and
/// is answered by `{"type":"result","request_id":…,"ok":…,"data"|"code","message"}`; it needs the scope `calls:write`.
///
/// With `Accept: text/event-stream` it is a stream of server-sent events instead: `id` is the event's id, `data` the usual
/// JSON. It takes no commands.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventQuery), responses(
    (status = 101, description = "Events follow"),
    (status = 200, description = "Events follow, with `Accept: text/event-stream`", body = String, content_type = "text/event-stream"),
    (status = 400, description = "`not_a_websocket`, `invalid_after`, `bad_request`", body = Problem, content_type = "application/problem+json"),
    (status = 410, description = "`event_not_kept`: the event of `after` has expired or does not exist", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`too_many_streams`, `store_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn open(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Query(query): Query<EventQuery>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let place = |api: &Api| api.streams.clone().try_acquire_owned().map_err(|_| too_many_streams());
    if super::sse::is_asked_for(request.headers()) {
        let place = place(&api)?;
        let past = query.past(&api).await?;
        let (events, stopping) = (live(&api), api.options.stopping.clone());
        info!(api.key = caller.id(), "event stream opened with the key {}", caller.id());
        return Ok(super::sse::respond(stopping, |writer| async move {
            let _place = place;
            SseStream { writer, past, told: Told::default(), events, caller }.run().await
        }));
    }
    let response = create_response_with_body(&request, Body::empty).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "not_a_websocket", format!("open this with a WebSocket: {error}"))
    })?;
    let place = place(&api)?;
    let past = query.past(&api).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (events, stopping) = (live(&api), api.options.stopping.clone());
    // Ends with its socket, or when the service stops: `App::stop` waits until every clone of `stopping` is dropped.
    tokio::spawn(async move {
        let _place = place;
        let Ok(upgraded) = upgrade.await else { return };
        info!(api.key = caller.id(), "event stream opened with the key {}", caller.id());
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let why = EventStream::new(socket, past, events, stopping, Commands { api, caller }).run().await;
        info!("event stream closed: {why}");
    });
    Ok(response)
}

/// Every event from now on.
fn live(api: &Api) -> Live {
    Live::new(api.options.events.subscribe(), api.options.permissions.subscribe())
}

impl EventQuery {
    async fn past(&self, api: &Api) -> Result<Option<Past>, ApiError> {
        match &self.after {
            Some(id) => Past::after(&api.options.store, id).await.map(Some),
            None => Ok(None),
        }
    }
}

/// One reader of events.
struct EventStream<S> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    source: SplitStream<WebSocketStream<S>>,
    /// Stored events still to be sent; None once the reader has caught up.
    past: Option<Past>,
    told: Told,
    events: Live,
    stopping: watch::Receiver<bool>,
    commands: Commands,
    heard_at: Instant,
}

/// Executes a reader's commands.
struct Commands {
    api: Arc<Api>,
    caller: Arc<Caller>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> EventStream<S> {
    fn new(
        socket: WebSocketStream<S>,
        past: Option<Past>,
        events: Live,
        stopping: watch::Receiver<bool>,
        commands: Commands,
    ) -> Self {
        let (sink, source) = socket.split();
        Self { sink, source, past, told: Told::default(), events, stopping, commands, heard_at: clock::now() }
    }

    /// Serves until the stream ends; gives the reason.
    async fn run(mut self) -> &'static str {
        let mut pings = tokio::time::interval(PING_EVERY);
        loop {
            let served = tokio::select! {
                page = read(&self.past), if self.past.is_some() => self.tell_past(page).await,
                event = self.events.recv(), if self.past.is_none() => self.tell(event).await,
                message = self.source.next() => self.take(message).await,
                _ = pings.tick() => self.ping().await,
                () = stopped(&mut self.stopping) => self.say_goodbye().await,
            };
            if let Err(why) = served {
                return why;
            }
        }
    }

    async fn tell_past(&mut self, page: Result<Vec<StoredEvent>, StoreError>) -> Result<(), &'static str> {
        let Ok(page) = page else {
            return self.close(CloseCode::Again.into(), "the store cannot be read", "the store cannot be read").await;
        };
        for event in &page {
            let text = Utf8Bytes::try_from(bytes::Bytes::copy_from_slice(&event.body)).map_err(|_| "no text")?;
            self.send_message(Message::Text(text)).await?;
            self.told.insert(event.id.clone());
        }
        pass(&mut self.past, &mut self.events, &page);
        Ok(())
    }

    async fn tell(&mut self, event: Result<LiveEvent, RecvError>) -> Result<(), &'static str> {
        match event {
            Ok(event) if self.told.take(event.id()) => Ok(()),
            Ok(event) => self.send(&event).await,
            Err(RecvError::Lagged(_)) => self.close(TOO_SLOW, "events were missed", "the reader is too slow").await,
            Err(RecvError::Closed) => self.close(CloseCode::Away.into(), "stopping", "the service stops").await,
        }
    }

    async fn take(&mut self, message: Option<Result<Message, Error>>) -> Result<(), &'static str> {
        let message = message.ok_or("the reader is gone")?.map_err(|_| "the connection broke")?;
        self.heard_at = clock::now();
        match message {
            Message::Text(text) => match self.commands.answer(&text).await {
                Some(answer) => self.send_message(Message::text(answer)).await,
                None => Ok(()),
            },
            Message::Close(_) => Err("the reader closed the socket"),
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    async fn ping(&mut self) -> Result<(), &'static str> {
        if self.heard_at.elapsed() > SILENT_FOR {
            return Err("the reader answered no ping");
        }
        if !self.commands.caller.is_known() {
            return self.close(CloseCode::Policy.into(), "the key is gone", "its key is no longer configured").await;
        }
        self.send_message(Message::Ping(bytes::Bytes::new())).await
    }

    /// Sends the events up to now, then closes.
    async fn say_goodbye(&mut self) -> Result<(), &'static str> {
        // A reader that is behind reconnects after the next start.
        while self.past.is_none()
            && let Ok(event) = self.events.try_recv()
        {
            self.tell(Ok(event)).await?;
        }
        self.close(CloseCode::Away.into(), "stopping", "the service stops").await
    }

    async fn close(&mut self, code: u16, reason: &'static str, why: &'static str) -> Result<(), &'static str> {
        let frame = CloseFrame { code: code.into(), reason: Utf8Bytes::from_static(reason) };
        self.send_message(Message::Close(Some(frame))).await?;
        // A reader that is still sending would see a broken connection instead of the code (RFC 6455 §7.1.1).
        let parting = async { while let Some(Ok(_)) = self.source.next().await {} };
        // A reader that does not answer is disconnected.
        let _ = tokio::time::timeout(CLOSED_WITHIN, parting).await;
        Err(why)
    }

    async fn send(&mut self, json: &impl Serialize) -> Result<(), &'static str> {
        let text = serde_json::to_string(json).map_err(|_| "an event is no JSON")?;
        self.send_message(Message::text(text)).await
    }

    async fn send_message(&mut self, message: Message) -> Result<(), &'static str> {
        match tokio::time::timeout(SENT_WITHIN, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err("the connection broke"),
            Err(_) => Err("the reader is too slow"),
        }
    }
}

/// Called only while there is a past.
async fn read(past: &Option<Past>) -> Result<Vec<StoredEvent>, StoreError> {
    match past {
        Some(past) => past.read().await,
        None => Ok(Vec::new()),
    }
}

/// Moves on past a page of stored events, to the live ones after the last.
fn pass(past: &mut Option<Past>, events: &mut Live, page: &[StoredEvent]) {
    let Some(reading) = past else { return };
    match (reading.passed(page), reading.is_joined) {
        (true, _) => {}
        (false, false) => {
            reading.is_joined = true;
            *events = events.resubscribe();
        }
        (false, true) => *past = None,
    }
}

/// A dropped sender means stop too.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

impl Commands {
    /// None for anything but a command: unknown types belong to later versions.
    async fn answer(&self, text: &str) -> Option<String> {
        let Ok(mut message) = serde_json::from_str::<Map<String, Value>>(text) else {
            let refusal = Refusal::new(RefusalCode::InvalidCommand, "the message is not a JSON object");
            return Some(native::write_result(&Value::Null, &Err(refusal)));
        };
        if message.get("type").and_then(Value::as_str) != Some("command") {
            return None;
        }
        let request_id = message.remove("request_id").unwrap_or_default();
        Some(native::write_result(&request_id, &self.perform(message).await))
    }

    async fn perform(&self, mut message: Map<String, Value>) -> Result<Value, Refusal> {
        if !self.caller.may(Scope::CallsWrite) {
            return Err(Refusal::new(RefusalCode::MissingScope, "this key lacks the scope \"calls:write\""));
        }
        self.caller.take_turn(clock::now()).map_err(|error| {
            Refusal::new(RefusalCode::of_name(error.code).unwrap_or(RefusalCode::InternalError), error.detail)
        })?;
        let mut take = |key| match message.remove(key) {
            Some(Value::String(text)) => Ok(text),
            _ => Err(Refusal::new(RefusalCode::InvalidCommand, format!("{key}: give it as a text"))),
        };
        let (call_id, action) = (take("call_id")?, take("action")?);
        calls::perform(&self.api.options, self.caller.hosts(), &call_id, &action, message).await
    }
}

#[cfg(test)]
pub(super) mod tests;
