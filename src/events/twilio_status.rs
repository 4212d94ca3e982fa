//! Twilio's status callbacks: an event as the form that apps written for Twilio Voice expect, with Twilio's signature.

use std::sync::Arc;
use std::time::SystemTime;

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, RequestBuilder};
use serde::Deserialize;
use url::form_urlencoded::Serializer;

use super::Webhook;
use crate::agent::dialect::identity::Parties;
use crate::call::description::CallDirection;
use crate::call::event::CallId;
use crate::store::{CallRecord, Delivery, Store};
use crate::twilio::{API_VERSION, Account, call_sid, rfc2822, sign, status_of_end};

/// The kinds of events that have a callback.
pub const KINDS: [&str; 5] = ["call.placed", "call.incoming", "call.ringing", "call.accepted", "call.ended"];

/// What is read of an event.
#[derive(Deserialize)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub kind: String,
    pub call_id: String,
    pub occurred_at: String,
}

/// The request of a delivery. None if nothing is known of its call any more. The error is for the operator.
pub(super) async fn request(
    http: &Client,
    store: &Store,
    webhook: &Webhook,
    account: &Arc<Account>,
    delivery: &Delivery,
) -> Result<Option<RequestBuilder>, String> {
    let event: Event = serde_json::from_slice(&delivery.body).map_err(|_| "the event cannot be read".to_owned())?;
    let record = store.call(&event.call_id).await.map_err(|error| format!("the call cannot be read: {error}"))?;
    let Some((record, call)) = record.zip(CallId::parse(&event.call_id)) else { return Ok(None) };
    let form = form(&event, &record, &call, account);
    let signature = sign(&account.auth_token, webhook.url.as_str(), &form);
    let body = Serializer::new(String::new()).extend_pairs(&form).finish();
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8");
    let request = http.post(webhook.url.clone()).header(CONTENT_TYPE, kind).body(body);
    let token = HeaderName::from_static("i-twilio-idempotency-token");
    Ok(Some(request.header("x-twilio-signature", signature).header(token, &delivery.id)))
}

pub(super) fn form(event: &Event, record: &CallRecord, call: &CallId, account: &Account) -> Vec<(String, String)> {
    let Parties { from, to } = Parties::of(&account.with_number(&record.description));
    let status = match event.kind.as_str() {
        "call.placed" => "initiated",
        "call.accepted" => "in-progress",
        "call.ended" => status_of_end(record.accepted_at.is_some(), record.end_reason().unwrap_or_default()),
        _ => "ringing",
    };
    let direction = match record.description.direction {
        CallDirection::UserInitiated => "inbound",
        CallDirection::BusinessInitiated => "outbound-api",
    };
    let at = humantime::parse_rfc3339(&event.occurred_at).unwrap_or(SystemTime::UNIX_EPOCH);
    let mut fields = vec![
        ("CallSid", call_sid(call)),
        ("AccountSid", account.sid.clone()),
        ("From", from.clone()),
        ("To", to.clone()),
        ("Caller", from),
        ("Called", to),
        ("CallStatus", status.to_owned()),
        ("Direction", direction.to_owned()),
        ("ApiVersion", API_VERSION.to_owned()),
        ("CallbackSource", "call-progress-events".to_owned()),
        ("Timestamp", rfc2822(at)),
    ];
    if event.kind == "call.ended" {
        let talked = record.accepted_at.zip(record.ended_at());
        let talked = talked.map_or(0, |(from, to)| to.duration_since(from).unwrap_or_default().as_secs());
        fields.push(("CallDuration", talked.to_string()));
        fields.push(("Duration", talked.div_ceil(60).to_string()));
    }
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
