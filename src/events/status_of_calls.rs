//! The status callback of a single call, which Twilio's REST API has named: asked once, at a URL that the egress guard admits.

use reqwest::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use reqwest::{Client, Response};
use url::Url;
use url::form_urlencoded::Serializer;

use super::attempt::Outcome;
use super::twilio_status::{Event, form};
use crate::call::event::CallId;
use crate::cause::cause_of;
use crate::egress::{Hosts, Use};
use crate::settings::CurrentSettings;
use crate::store::{Delivery, Store};
use crate::twilio::status::{Stage, StatusCallback};
use crate::twilio::{Account, Method, sign};

/// Posts this event to the call's status callback, if it has one and subscribes to the event.
pub(super) async fn post(store: &Store, settings: &CurrentSettings, delivery: &Delivery) -> Outcome {
    match tell(store, settings, delivery).await {
        Ok(()) => Outcome::Acknowledged,
        Err(error) => Outcome::Lost { error },
    }
}

/// The error is for the operator.
async fn tell(store: &Store, settings: &CurrentSettings, delivery: &Delivery) -> Result<(), String> {
    let event: Event = serde_json::from_slice(&delivery.body).map_err(|_| "the event cannot be read".to_owned())?;
    let unread = |error| format!("the call cannot be read: {error}");
    let callback = store.status_callback(&event.call_id).await.map_err(unread)?;
    let Some(callback) = callback.and_then(|text| StatusCallback::of_json(&text)) else { return Ok(()) };
    if !callback.stages.has(stage_of(&event.kind)) {
        return Ok(());
    }
    let record = store.call(&event.call_id).await.map_err(unread)?;
    let account = settings.get().twilio.clone();
    // A record that has expired, or an account that is gone: nobody waits for it.
    let (Some(record), Some(call), Some(account)) = (record, CallId::parse(&event.call_id), account) else {
        return Ok(());
    };
    let form = form(&event, &record, &call, &account);
    let response = send(form, &callback, &account, settings, &delivery.id).await?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("HTTP {}", status.as_u16())),
    }
}

/// One signed request with this form.
async fn send(
    mut form: Vec<(String, String)>,
    callback: &StatusCallback,
    account: &Account,
    settings: &CurrentSettings,
    id: &str,
) -> Result<Response, String> {
    let mut url = Url::parse(&callback.url).map_err(|_| "its URL is none".to_owned())?;
    let encoded = Serializer::new(String::new()).extend_pairs(&form).finish();
    if callback.method == Method::Get {
        let query = [url.query().unwrap_or_default(), &encoded].join("&");
        url.set_query(Some(query.trim_start_matches('&')));
        form.clear();
    }
    let signature = sign(&account.auth_token, url.as_str(), &form);
    let (client, reached) = reach(&url, settings).await?;
    let request = match callback.method {
        Method::Get => client.get(reached),
        Method::Post => {
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded; charset=UTF-8");
            client.post(reached).header(CONTENT_TYPE, kind).body(encoded)
        }
    };
    let token = HeaderName::from_static("i-twilio-idempotency-token");
    let request = request.header("x-twilio-signature", signature).header(token, id);
    request.send().await.map_err(|error| format!("it could not be reached: {}", cause_of(&error)))
}

/// The URL to connect to, and a client that goes nowhere else: an app's own URLs lead to where it listens.
async fn reach(url: &Url, settings: &CurrentSettings) -> Result<(Client, Url), String> {
    let settings = settings.get();
    let home = settings.routes.home_of(url).and_then(|home| Some((home.local_of(url)?, home.addresses.clone())));
    let (reached, addresses) = match home {
        Some(home) => home,
        None => {
            let checked = settings.egress.check(url.as_str(), Use::Web, Hosts::Listed).await;
            let checked = checked.map_err(|refused| refused.to_string())?;
            (checked.url().clone(), checked.addresses().to_vec())
        }
    };
    let mut builder = super::client_settings(Client::builder()).no_proxy();
    if let (Some(host), false) = (reached.domain(), addresses.is_empty()) {
        builder = builder.resolve_to_addrs(host, &addresses);
    }
    let client = builder.build().map_err(|error| format!("the HTTP client: {error}"))?;
    Ok((client, reached))
}

/// What an event is by Twilio's name.
fn stage_of(kind: &str) -> Stage {
    match kind {
        "call.placed" => Stage::Initiated,
        "call.accepted" => Stage::Answered,
        "call.ended" => Stage::Completed,
        _ => Stage::Ringing,
    }
}
