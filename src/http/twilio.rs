//! Twilio's REST API for calls, as far as apps that answer TwiML use it: place a call, look at it, end it, and give it another
//! document. It is closed without `[twilio]`.
//!
//! Twilio's own documents describe it, so `/openapi.json` does not.

mod call;
mod error;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension, Path, RawQuery, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;
use url::Url;
use url::form_urlencoded;

use super::api::Keys;
use super::server::Connection;
use crate::call::command::{CallCommand, CourseCommand, Destination};
use crate::call::event::CallId;
use crate::call::refusal::{Refusal, RefusalCode};
use crate::calls::origin::Placement;
use crate::calls::{Agents, CallOrder, Calls};
use crate::clock;
use crate::egress::Hosts;
use crate::settings::{CurrentSettings, Settings};
use crate::store::Store;
use crate::twilio::status::{Stages, StatusCallback};
use crate::twilio::{API_VERSION, Account, Method, Source, call_of, twiml};
use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::graph::Callee;
use call::{Known, call_json};
use error::TwilioError;

/// A document of 64 KiB as a form, and the fields beside it.
const BODY_LIMIT_BYTES: usize = 256 * 1024;
/// Deadline of one read from the store.
const LOOKED_WITHIN: Duration = Duration::from_secs(2);
/// The most calls of one page, which is all there is.
const MOST_LISTED: usize = 1000;
/// How long a phone rings if the request does not say it.
const USUAL_RING: Duration = Duration::from_secs(60);
/// As in the control API.
const RING: [Duration; 2] = [Duration::from_secs(5), Duration::from_secs(80)];

/// What the handlers share.
struct Facade {
    settings: CurrentSettings,
    calls: Calls,
    store: Store,
    keys: Arc<Keys>,
}

/// The routes below `/2010-04-01`.
pub(super) fn router(settings: CurrentSettings, calls: Calls, store: Store, keys: Arc<Keys>) -> Router {
    let base = format!("/{API_VERSION}/Accounts/{{account}}");
    Router::new()
        .route(&format!("{base}/Calls.json"), get(list).post(place))
        .route(&format!("{base}/Calls/{{call}}"), get(read).post(update))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(Arc::new(Facade { settings, calls, store, keys }))
}

/// `POST …/Calls.json`
async fn place(
    State(facade): State<Arc<Facade>>,
    connection: Option<Extension<Arc<Connection>>>,
    Path(account): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, TwilioError> {
    let account = facade.admit(&account, &headers, connection.as_deref())?;
    let fields = Fields::read(&body);
    let order = order_of(&fields, &facade.settings.get())?;
    let placed = facade.calls.place(order, Hosts::Listed).await?;
    Ok((StatusCode::CREATED, Json(call_json(&Known::of_live(&placed), &account))).into_response())
}

/// `GET …/Calls.json`: those that live.
async fn list(
    State(facade): State<Arc<Facade>>,
    connection: Option<Extension<Arc<Connection>>>,
    Path(account): Path<String>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Json<Value>, TwilioError> {
    let account = facade.admit(&account, &headers, connection.as_deref())?;
    let wanted = Fields::read(query.unwrap_or_default().as_bytes());
    let live = facade.calls.list(None, MOST_LISTED, |_, _| true);
    let known = live.iter().map(Known::of_live);
    let listed: Vec<Value> = known
        .filter(|call| wanted.get("Status").is_none_or(|status| status == call.status))
        .map(|call| call_json(&call, &account))
        .collect();
    let uri = format!("/{API_VERSION}/Accounts/{}/Calls.json", account.sid);
    Ok(Json(json!({
        "calls": listed,
        "page": 0, "page_size": MOST_LISTED, "start": 0, "end": listed.len().saturating_sub(1),
        "uri": uri, "first_page_uri": uri, "next_page_uri": null, "previous_page_uri": null,
    })))
}

/// `GET …/Calls/{CallSid}.json`
async fn read(
    State(facade): State<Arc<Facade>>,
    connection: Option<Extension<Arc<Connection>>>,
    Path((account, call)): Path<(String, String)>,
    headers: HeaderMap,
) -> Result<Json<Value>, TwilioError> {
    let account = facade.admit(&account, &headers, connection.as_deref())?;
    let call = call_named(&call)?;
    Ok(Json(call_json(&facade.look(&call).await?, &account)))
}

/// `POST …/Calls/{CallSid}.json`
async fn update(
    State(facade): State<Arc<Facade>>,
    connection: Option<Extension<Arc<Connection>>>,
    Path((account, call)): Path<(String, String)>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, TwilioError> {
    let account = facade.admit(&account, &headers, connection.as_deref())?;
    let (call, fields) = (call_named(&call)?, Fields::read(&body));
    let before = facade.look(&call).await?;
    let callback = status_callback_of(&fields)?;
    if let (Some(callback), None) = (callback, before.ended_at) {
        facade.store.name_status_callback(call.as_str(), callback.to_json());
    }
    if let Some(command) = command_of(&fields, &before)? {
        facade.calls.perform(&call, command, None, Hosts::Listed).await?;
    }
    Ok(Json(call_json(&facade.look(&call).await?, &account)))
}

impl Facade {
    /// Admits who knows the account and its token.
    fn admit(
        &self,
        account: &str,
        headers: &HeaderMap,
        connection: Option<&Arc<Connection>>,
    ) -> Result<Arc<Account>, TwilioError> {
        let settings = self.settings.get();
        let connection = connection.map(|connection| &**connection);
        let shown = self.keys.shown(headers, connection);
        let is_right = settings.twilio.as_ref().is_some_and(|account| knows(shown.authorization, account));
        self.keys.admit_secret("twilio", &shown, is_right, clock::now())?;
        let known = settings.twilio.clone().ok_or_else(TwilioError::unauthorized)?;
        if let Some(connection) = connection {
            connection.is_now_known();
        }
        if account != known.sid {
            return Err(TwilioError::not_found("the account of the path is not that of the configuration"));
        }
        Ok(known)
    }

    async fn look(&self, call: &CallId) -> Result<Known, TwilioError> {
        if let Some(live) = self.calls.get(call) {
            return Ok(Known::of_live(&live));
        }
        let looked = tokio::time::timeout(LOOKED_WITHIN, self.store.call(call.as_str())).await;
        match looked {
            Ok(Ok(Some(record))) => Ok(Known::of_record(&record, call.clone())),
            Ok(Ok(None)) => Err(TwilioError::not_found("no call has this id")),
            Ok(Err(_)) | Err(_) => Err(TwilioError::unavailable("past calls cannot be read: try again later")),
        }
    }
}

/// Basic authentication with the account and its token, in a time that says nothing of it.
fn knows(authorization: Option<&str>, account: &Account) -> bool {
    let Some((scheme, given)) = authorization.and_then(|header| header.split_once(' ')) else { return false };
    let wanted = format!("{}:{}", account.sid, account.auth_token.expose_secret());
    let given = STANDARD.decode(given.trim()).unwrap_or_default();
    scheme.eq_ignore_ascii_case("basic") && bool::from(given.ct_eq(wanted.as_bytes()))
}

fn call_named(text: &str) -> Result<CallId, TwilioError> {
    let sid = text.strip_suffix(".json").unwrap_or(text);
    call_of(sid).ok_or_else(|| TwilioError::not_found("no call has this id"))
}

/// What an update does to the call; None for nothing.
fn command_of(fields: &Fields, call: &Known) -> Result<Option<CallCommand>, TwilioError> {
    let over = || TwilioError::bad_request(21_220, "the call has ended");
    let is_over = call.ended_at.is_some();
    let is_answered = call.accepted_at.is_some();
    let hangup = CallCommand::from(CourseCommand::Hangup);
    match fields.get("Status") {
        // Apps hang up behind a caller who has done so.
        Some("completed" | "canceled") if is_over => return Ok(None),
        Some("completed") => return Ok(Some(hangup)),
        Some("canceled") if !is_answered => return Ok(Some(hangup)),
        Some("canceled") => return Err(TwilioError::bad_request(21_220, "the call is in progress: give completed")),
        Some(_) => return Err(TwilioError::bad_request(20_001, "Status: give completed or canceled")),
        None => {}
    }
    match source_of(fields)? {
        None => Ok(None),
        Some(_) if is_over => Err(over()),
        Some(source) => {
            let to = Destination { twiml: Some(Box::new(source)), ..Destination::default() };
            Ok(Some(CourseCommand::Connect(to).into()))
        }
    }
}

/// The TwiML that a request names.
fn source_of(fields: &Fields) -> Result<Option<Source>, TwilioError> {
    let method = method_of(fields, "Method")?;
    match (fields.get("Twiml"), fields.get("Url")) {
        (Some(document), _) => {
            twiml::parse(document).map_err(|error| TwilioError::bad_request(12_100, format!("Twiml: {error}")))?;
            Ok(Some(Source::Document(document.to_owned())))
        }
        (None, Some(url)) => {
            let url = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
            let url = url.ok_or_else(|| TwilioError::bad_request(21_205, "Url: give a whole URL"))?;
            Ok(Some(Source::Url(url, method)))
        }
        (None, None) => Ok(None),
    }
}

fn order_of(fields: &Fields, settings: &Settings) -> Result<CallOrder, TwilioError> {
    let to = fields.get("To").ok_or_else(|| TwilioError::bad_request(21_201, "To: give a phone number"))?;
    let to = to.strip_prefix("whatsapp:").unwrap_or(to);
    let callee = Callee::number(to).map_err(|advice| TwilioError::bad_request(21_211, format!("To: {advice}")))?;
    let from = fields.get("From").ok_or_else(|| TwilioError::bad_request(21_213, "From: give a business number"))?;
    let source = source_of(fields)?;
    let source = source.ok_or_else(|| TwilioError::bad_request(21_205, "give Url or Twiml"))?;
    let ring_timeout = match fields.get("Timeout").map(str::parse) {
        None => USUAL_RING,
        Some(Ok(seconds)) => Duration::from_secs(seconds).clamp(RING[0], RING[1]),
        Some(Err(_)) => return Err(TwilioError::bad_request(20_001, "Timeout: give a number of seconds")),
    };
    Ok(CallOrder {
        placement: Placement { callee, tracker: None, ring_timeout },
        phone_number_id: number_of(from, settings),
        agents: Agents::Of(Destination { twiml: Some(Box::new(source)), ..Destination::default() }),
        parameters: Default::default(),
        client_state: None,
        status_callback: status_callback_of(fields)?,
    })
}

/// The status callback of one call.
fn status_callback_of(fields: &Fields) -> Result<Option<StatusCallback>, TwilioError> {
    let Some(url) = fields.get("StatusCallback") else { return Ok(None) };
    let parsed = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url = parsed.ok_or_else(|| TwilioError::bad_request(21_609, "StatusCallback: give a whole URL"))?;
    let method = method_of(fields, "StatusCallbackMethod")?;
    let stages = Stages::read(fields.all("StatusCallbackEvent"));
    let advice = "StatusCallbackEvent: give initiated, ringing, answered or completed";
    let stages = stages.ok_or_else(|| TwilioError::bad_request(20_001, advice))?;
    Ok(Some(StatusCallback { url: url.into(), method, stages }))
}

fn method_of(fields: &Fields, name: &str) -> Result<Method, TwilioError> {
    let Some(text) = fields.get(name) else { return Ok(Method::Post) };
    Method::parse(text).ok_or_else(|| TwilioError::bad_request(20_001, format!("{name}: give GET or POST")))
}

/// The business number: Meta does not say which one has which digits, so `twilio.numbers` does. Without a match it is the
/// only one there is.
fn number_of(from: &str, settings: &Settings) -> Option<PhoneNumberId> {
    let from = from.strip_prefix("whatsapp:").unwrap_or(from);
    let known = settings.twilio.as_ref().and_then(|account| account.numbers.get(from).cloned());
    let by_id = || PhoneNumberId::parse(from).ok().filter(|id| settings.numbers.get(id).is_some());
    known.or_else(by_id)
}

/// The fields of a form or query.
struct Fields(Vec<(String, String)>);

impl Fields {
    fn read(encoded: &[u8]) -> Self {
        Self(form_urlencoded::parse(encoded).into_owned().collect())
    }

    /// A field that is not empty.
    fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Each of the fields with this name that are not empty.
    fn all(&self, name: &str) -> Vec<&str> {
        let fields = self.0.iter().filter(|(known, value)| known == name && !value.is_empty());
        fields.map(|(_, value)| value.as_str()).collect()
    }
}

impl From<Refusal> for TwilioError {
    fn from(refusal: Refusal) -> Self {
        let Refusal { code, message, .. } = refusal;
        let status = StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if code == RefusalCode::CallNotFound {
            return Self::not_found(message);
        }
        if code == RefusalCode::CallEnded {
            return Self::bad_request(21_220, message);
        }
        if matches!(code, RefusalCode::InvalidUrl | RefusalCode::UrlNotAllowed | RefusalCode::UrlUnresolved) {
            return Self::bad_request(21_205, message);
        }
        if matches!(code, RefusalCode::NoPermission | RefusalCode::CallLimit | RefusalCode::CallingPaused) {
            return Self::new(status, 21_216, message);
        }
        if code == RefusalCode::CountryNotSupported {
            return Self::new(status, 21_215, message);
        }
        if code == RefusalCode::PersonUnreachable {
            return Self::new(status, 21_214, message);
        }
        if code == RefusalCode::UnknownNumber {
            return Self::new(status, 21_212, message);
        }
        Self::of_status(status, message)
    }
}
