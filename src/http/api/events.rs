//! `/v1/events`: a WebSocket with all events of all calls, from now or from an earlier event on, which also takes
//! commands.

#![expect(unused_qualifications, reason = "utoipa writes them")]

mod past;

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
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::create_response_with_body;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};
use tracing::info;
use utoipa::IntoParams;

use super::auth::Caller;
use super::{Api, calls};
use crate::agent::dialect::native;
use crate::call::event::CallEvent;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::config::api::Scope;
use crate::http::error::{ApiError, Problem};
use crate::store::{StoreError, StoredEvent};
use past::{Past, Told};

/// One command; a longer message ends the socket.
const MAX_MESSAGE_BYTES: usize = 64 * 1024;
/// Whoever does not read for so long is cut.
const SENT_WITHIN: Duration = Duration::from_secs(10);
/// For the reader's half of the close.
const CLOSED_WITHIN: Duration = Duration::from_millis(500);
/// Keeps proxies from closing a socket on which nothing happens.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Two pings without any word.
const SILENT_FOR: Duration = Duration::from_secs(50);
/// The reader missed events, so it must look at the calls anew.
const TOO_SLOW: u16 = 4008;

/// From where on.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct EventQuery {
    /// The id of the last event that was read: those after it come first, also those of a time when nobody listened.
    /// Without it there are only those from now on.
    #[param(example = "evt_01k0000000000000000000000a", pattern = "^evt_[0-9a-hjkmnp-tv-z]{26}$")]
    after: Option<String>,
}

/// Events as they happen
///
/// A WebSocket. Each event is a text frame with the same JSON as everywhere, each call's in their order. Whoever reads
/// so slowly that events would be missed is closed with 4008; whoever was cut off opens it again with `after`. A text
/// frame
/// `{"type":"command","request_id":…,"call_id":"call_…","action":"play",…}` does what the action of this name does and
/// is answered by `{"type":"result","request_id":…,"ok":…,"data"|"code","message"}`; it needs the scope `calls:write`.
#[utoipa::path(get, path = "/v1/events", tag = "events", params(EventQuery), responses(
    (status = 101, description = "The events follow"),
    (status = 400, description = "`not_a_websocket`, `invalid_after`, `bad_request`", body = Problem, content_type = "application/problem+json"),
    (status = 410, description = "`event_not_kept`: the event of `after` is too old, or never was", body = Problem, content_type = "application/problem+json"),
    (status = 503, description = "`too_many_streams`, `store_unavailable`", body = Problem, content_type = "application/problem+json"),
))]
pub(super) async fn open(
    State(api): State<Arc<Api>>,
    Extension(caller): Extension<Arc<Caller>>,
    Query(query): Query<EventQuery>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let response = create_response_with_body(&request, Body::empty).map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, "not_a_websocket", format!("open this with a WebSocket: {error}"))
    })?;
    let place = api.streams.clone().try_acquire_owned().map_err(|_| {
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_streams", "close another event socket first")
    })?;
    let past = match &query.after {
        Some(id) => Some(Past::after(&api.options.store, id).await?),
        None => None,
    };
    let upgrade = hyper::upgrade::on(&mut request);
    let (events, stopping) = (api.options.events.subscribe(), api.options.stopping.clone());
    // It ends with its socket, or when the service stops: `App::stop` waits until nobody holds `stopping`.
    tokio::spawn(async move {
        let _place = place;
        let Ok(upgraded) = upgrade.await else { return };
        info!(api.key = caller.id(), "events are read with the key {}", caller.id());
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let socket = WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, Some(config)).await;
        let why = EventStream::new(socket, past, events, stopping, Commands { api, caller }).run().await;
        info!("events are read no longer: {why}");
    });
    Ok(response)
}

/// One reader of events.
struct EventStream<S> {
    sink: SplitSink<WebSocketStream<S>, Message>,
    source: SplitStream<WebSocketStream<S>>,
    /// As long as the reader is behind.
    past: Option<Past>,
    told: Told,
    events: broadcast::Receiver<CallEvent>,
    stopping: watch::Receiver<bool>,
    commands: Commands,
    heard_at: Instant,
}

/// What a reader may ask for.
struct Commands {
    api: Arc<Api>,
    caller: Arc<Caller>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> EventStream<S> {
    fn new(
        socket: WebSocketStream<S>,
        past: Option<Past>,
        events: broadcast::Receiver<CallEvent>,
        stopping: watch::Receiver<bool>,
        commands: Commands,
    ) -> Self {
        let (sink, source) = socket.split();
        Self { sink, source, past, told: Told::default(), events, stopping, commands, heard_at: Instant::now() }
    }

    /// Serves until one side has had enough; says which.
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
        let Some(past) = &mut self.past else { return Ok(()) };
        match (past.passed(&page), past.is_joined) {
            (true, _) => {}
            (false, false) => {
                past.is_joined = true;
                self.events = self.events.resubscribe();
            }
            (false, true) => self.past = None,
        }
        Ok(())
    }

    async fn tell(&mut self, event: Result<CallEvent, RecvError>) -> Result<(), &'static str> {
        match event {
            Ok(event) if self.told.take(&event.id) => Ok(()),
            Ok(event) => self.send(&event).await,
            Err(RecvError::Lagged(_)) => self.close(TOO_SLOW, "events were missed", "the reader is too slow").await,
            Err(RecvError::Closed) => self.close(CloseCode::Away.into(), "stopping", "the service stops").await,
        }
    }

    async fn take(&mut self, message: Option<Result<Message, Error>>) -> Result<(), &'static str> {
        let message = message.ok_or("the reader is gone")?.map_err(|_| "the connection broke")?;
        self.heard_at = Instant::now();
        match message {
            Message::Text(text) => match self.commands.answer(&text).await {
                Some(answer) => self.send_message(Message::text(answer)).await,
                None => Ok(()),
            },
            Message::Close(_) => Err("the reader closed it"),
            Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        }
    }

    async fn ping(&mut self) -> Result<(), &'static str> {
        if self.heard_at.elapsed() > SILENT_FOR {
            return Err("the reader answers no ping");
        }
        if !self.commands.caller.is_known() {
            return self.close(CloseCode::Policy.into(), "the key is gone", "its key is not known any more").await;
        }
        self.send_message(Message::Ping(bytes::Bytes::new())).await
    }

    /// What has happened up to here is still told.
    async fn say_goodbye(&mut self) -> Result<(), &'static str> {
        // Whoever is behind opens this again after the next start.
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
        // A reader in the middle of a word would see a broken connection instead of the code (RFC 6455 §7.1.1).
        let parting = async { while let Some(Ok(_)) = self.source.next().await {} };
        // One that does not answer is left without it.
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

/// Only asked while there is a past.
async fn read(past: &Option<Past>) -> Result<Vec<StoredEvent>, StoreError> {
    match past {
        Some(past) => past.read().await,
        None => Ok(Vec::new()),
    }
}

/// A sender that is gone is a stop as well.
async fn stopped(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

impl Commands {
    /// None for what is no command; unknown types are for a later version.
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
        self.caller.take_turn(Instant::now()).map_err(|error| {
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
