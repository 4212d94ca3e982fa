//! What happens in a call, as a server-sent event: `answer`, `stage`, `webhook`, `graph`, `objection`,
//! `agent`, `ended`.

use std::time::Duration;

use axum::response::sse::Event;
use patchcord_simulator::call::trace::{GraphTrace, TraceEvent, WebhookTrace};
use serde::Serialize;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

/// One event.
pub(super) fn of(event: &TraceEvent) -> Event {
    let (name, data) = match event {
        TraceEvent::Answer { at, sdp } => ("answer", json!({ "at_ms": ms(*at), "sdp": sdp }).to_string()),
        TraceEvent::Stage { stage, at } => ("stage", json!({ "name": stage.name(), "ms": ms(*at) }).to_string()),
        TraceEvent::Webhook(webhook) => ("webhook", text(&WebhookEvent::of(webhook))),
        TraceEvent::Graph(graph) => ("graph", text(&GraphEvent::of(graph))),
        TraceEvent::Objection { at, text } => ("objection", json!({ "at_ms": ms(*at), "text": text }).to_string()),
        TraceEvent::Agent { at, text, failed } => {
            ("agent", json!({ "at_ms": ms(*at), "text": text, "failed": failed }).to_string())
        }
        TraceEvent::Ended { by } => ("ended", json!({ "by": by.name() }).to_string()),
    };
    Event::default().event(name).data(data)
}

#[derive(Serialize)]
struct WebhookEvent<'a> {
    /// Since the call was placed, as everywhere here.
    at_ms: u64,
    took_ms: u64,
    event: &'static str,
    /// Sent before; this is a copy on purpose.
    copy: bool,
    body: Box<RawValue>,
    status: Option<u16>,
    /// Why there is no status.
    error: Option<&'a str>,
}

impl<'a> WebhookEvent<'a> {
    fn of(webhook: &'a WebhookTrace) -> Self {
        Self {
            at_ms: ms(webhook.at),
            took_ms: ms(webhook.took),
            event: webhook.event,
            copy: webhook.copy,
            body: raw(&webhook.body),
            status: webhook.outcome.as_ref().ok().copied(),
            error: webhook.outcome.as_ref().err().map(String::as_str),
        }
    }
}

#[derive(Serialize)]
struct GraphEvent<'a> {
    at_ms: u64,
    took_ms: u64,
    action: &'a str,
    request: Box<RawValue>,
    /// Null where no reply was sent on purpose.
    status: Option<u16>,
    reply: Option<Box<RawValue>>,
}

impl<'a> GraphEvent<'a> {
    fn of(graph: &'a GraphTrace) -> Self {
        Self {
            at_ms: ms(graph.at),
            took_ms: ms(graph.took),
            action: &graph.action,
            request: raw(&graph.request),
            status: graph.reply.as_ref().map(|(status, _)| *status),
            reply: graph.reply.as_ref().map(|(_, body)| raw(body)),
        }
    }
}

/// JSON as it was sent, keys in their order; what is not JSON becomes a string.
fn raw(body: &str) -> Box<RawValue> {
    // Between the tokens of JSON a line end is white space; inside one it would not be JSON.
    let line = body.replace(['\r', '\n'], " ");
    RawValue::from_string(line).or_else(|_| to_raw_value(body)).unwrap_or_default()
}

fn text(event: &impl Serialize) -> String {
    serde_json::to_string(event).expect("keys are names, and no value refuses to be written")
}

fn ms(time: Duration) -> u64 {
    time.as_millis() as u64
}
