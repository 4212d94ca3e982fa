//! Requests to Meta's Graph API, with their retries.
//!
//! This is the only layer that retries. Each request has a time budget; within it, refused
//! connections, transient errors and rate limits are retried, permanent refusals are not.

mod attempt;
mod messages;
mod pace;
mod retry;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::SeedableRng;
use rand::rngs::StdRng;

use reqwest::redirect::Policy;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;
use url::Url;

use super::error::MetaError;
use super::{Party, PhoneNumberId, WaCallId};
use crate::pulse::{Pulse, Standstills};
use attempt::Outcome;
pub use messages::SentMessage;
use pace::Paces;
use retry::Waits;

/// A client of Meta's Graph API. Cheap to clone; all clones share connections.
#[derive(Clone)]
pub struct GraphClient {
    http: reqwest::Client,
    options: GraphOptions,
    chance: Arc<Mutex<StdRng>>,
    paces: Arc<Mutex<Paces>>,
}

/// The address of the API, and the timing of requests.
#[derive(Debug, Clone)]
pub struct GraphOptions {
    /// `https://graph.facebook.com`, or a simulator.
    pub base_url: Url,
    /// `v26.0`.
    pub version: String,
    /// Time budget of one request with all its retries.
    pub budget: Duration,
    /// Deadline of one attempt; a request that exceeds it may or may not have been performed.
    pub attempt_timeout: Duration,
    /// The shortest wait between two attempts, even if Meta asks for less (`Retry-After: 0`).
    pub shortest_wait: Duration,
    /// The most jitter before the second attempt; it doubles from then on.
    pub first_backoff: Duration,
    /// The most jitter of any wait.
    pub longest_backoff: Duration,
    /// Seed of the jitter; tests set it.
    pub jitter_seed: u64,
    /// The pulse of the runtime that requests run on: a freeze does not use up the budget.
    pub pulse: Arc<Pulse>,
}

impl GraphOptions {
    /// The defaults: attempts of up to 5 s within 8 s, so that a call can still be saved while it rings.
    pub fn new(base_url: Url, version: impl Into<String>) -> Self {
        Self {
            base_url,
            version: version.into(),
            budget: Duration::from_secs(8),
            attempt_timeout: Duration::from_secs(5),
            shortest_wait: Duration::from_millis(200),
            first_backoff: Duration::from_millis(200),
            longest_backoff: Duration::from_millis(1600),
            jitter_seed: rand::random(),
            pulse: Arc::default(),
        }
    }
}

/// A business number and its access token.
#[derive(Debug, Clone)]
pub struct NumberCredentials {
    /// The business number.
    pub phone_number_id: PhoneNumberId,
    /// Sent in the `Authorization` header and nowhere else.
    pub access_token: SecretString,
}

/// The person to call.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Callee {
    /// A phone number in digits.
    WaId(String),
    /// A business-scoped user id.
    UserId(String),
}

impl Callee {
    /// Digits of a phone number, with or without `+`. The error says what to give.
    pub fn number(text: &str) -> Result<Self, &'static str> {
        let digits = text.strip_prefix('+').unwrap_or(text);
        // ITU-T E.164 §6: 15 digits at most, and no country code begins with 0.
        let is_number = (5..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit());
        match is_number && !digits.starts_with('0') {
            true => Ok(Self::WaId(digits.to_owned())),
            false => Err("give a phone number with its country code: 5 to 15 digits, such as 12025550143"),
        }
    }

    /// A business-scoped user id. The error says what to give.
    pub fn user_id(text: &str) -> Result<Self, &'static str> {
        let is_id = (1..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        match is_id {
            true => Ok(Self::UserId(text.to_owned())),
            false => Err("give a business-scoped user id, such as US.13491208655302741918"),
        }
    }

    /// Whether Meta means this person.
    pub fn is(&self, party: &Party) -> bool {
        match self {
            Self::WaId(digits) => party.wa_id.as_deref() == Some(digits.as_str()),
            Self::UserId(user_id) => party.user_id.as_deref() == Some(user_id.as_str()),
        }
    }
}

impl std::fmt::Debug for Callee {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::WaId(_) => "WaId(hidden)",
            Self::UserId(_) => "UserId(hidden)",
        })
    }
}

/// Text that Meta returns in the webhooks of a call: at most 512 characters.
#[derive(Clone, PartialEq, Eq)]
pub struct CallbackData(String);

impl CallbackData {
    /// Meta's limit for `biz_opaque_callback_data`.
    pub const MAX_CHARS: usize = 512;

    /// Accepts up to 512 characters.
    pub fn parse(text: &str) -> Result<Self, CallbackDataTooLong> {
        if text.chars().count() > Self::MAX_CHARS {
            return Err(CallbackDataTooLong);
        }
        Ok(Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The callback data has more than 512 characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("biz_opaque_callback_data has more than 512 characters")]
pub struct CallbackDataTooLong;

/// Meta has performed the request, now or earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// Number of attempts.
    pub attempts: u32,
    /// Meta refused because it was done already: an earlier attempt that seemed lost had arrived.
    pub was_done_before: bool,
}

/// Meta has not performed the request, as far as is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} (after {attempts} attempts)")]
pub struct GraphFailure {
    /// The last outcome.
    pub kind: FailureKind,
    /// Number of attempts.
    pub attempts: u32,
}

impl GraphFailure {
    /// Whether the same request may succeed later, once a problem at Meta or of the operator's is solved.
    pub fn may_pass(&self) -> bool {
        use super::error::MetaErrorClass as Class;
        match &self.kind {
            FailureKind::Unknown(_) | FailureKind::Unreachable(_) | FailureKind::NoSockets(_) => true,
            FailureKind::Refused(error) => {
                retry::can_change(error) || matches!(error.meaning().class(), Class::Config | Class::Account)
            }
        }
    }
}

/// The outcome of a failed request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FailureKind {
    /// Meta refused.
    #[error("Meta refused: {0}")]
    Refused(MetaError),
    /// An attempt got no readable reply: it may have been performed. Clean up as if it was.
    #[error("Meta gave no readable reply: {0}")]
    Unknown(String),
    /// No attempt reached Meta: it was not performed.
    #[error("Meta could not be reached: {0}")]
    Unreachable(String),
    /// No attempt was possible for lack of sockets on this machine: it was not performed.
    #[error("Meta was not asked: {0}")]
    NoSockets(String),
}

/// Meta's actions on a call, by Meta's names, and what else is asked of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Connect,
    PreAccept,
    Accept,
    Reject,
    Terminate,
    /// A message to a person.
    SendMessage,
    /// What a person permits.
    LookUp,
}

impl Action {
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::PreAccept => "pre_accept",
            Self::Accept => "accept",
            Self::Reject => "reject",
            Self::Terminate => "terminate",
            Self::SendMessage => "messages",
            Self::LookUp => "call_permissions",
        }
    }

    /// The edge of the number's node.
    fn edge(self) -> &'static str {
        match self {
            Self::Connect | Self::PreAccept | Self::Accept | Self::Reject | Self::Terminate => "calls",
            Self::SendMessage | Self::LookUp => self.name(),
        }
    }

    /// A second `connect` could ring the user's phone twice, and a second message would be read; the other actions are
    /// idempotent.
    fn may_follow_an_unknown_end(self) -> bool {
        !matches!(self, Self::Connect | Self::SendMessage)
    }

    /// Limits of look-ups are their own: they do not slow the calls of the number.
    fn shares_the_pace(self) -> bool {
        self != Self::LookUp
    }
}

/// Required settings of every client for Graph: no redirects, which could carry the token elsewhere.
/// TLS and the rest are the caller's.
pub fn client_settings(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder
        .redirect(Policy::none())
        .referer(false)
        .connect_timeout(Duration::from_secs(2))
        .pool_idle_timeout(Duration::from_secs(60))
        .tcp_nodelay(true)
        .user_agent(concat!("patchcord/", env!("CARGO_PKG_VERSION")))
}

impl GraphClient {
    /// `http` comes from a builder that went through [`client_settings`].
    pub fn new(http: reqwest::Client, options: GraphOptions) -> Self {
        let chance = Arc::new(Mutex::new(StdRng::seed_from_u64(options.jitter_seed)));
        Self { http, options, chance, paces: Arc::default() }
    }

    /// Lets Meta set up media while the phone still rings. `accept` must send the same `answer_sdp`.
    pub async fn pre_accept(
        &self,
        number: &NumberCredentials,
        call_id: &WaCallId,
        answer_sdp: &str,
    ) -> Result<Done, GraphFailure> {
        let body = with_session(about(call_id, Action::PreAccept), "answer", answer_sdp);
        self.act(number, Action::PreAccept, &body).await
    }

    /// Answers the call: from now on the caller hears us. `answer_sdp` is identical to that of `pre_accept`.
    pub async fn accept(
        &self,
        number: &NumberCredentials,
        call_id: &WaCallId,
        answer_sdp: &str,
        callback_data: Option<&CallbackData>,
    ) -> Result<Done, GraphFailure> {
        let body = with_session(about(call_id, Action::Accept), "answer", answer_sdp);
        self.act(number, Action::Accept, &with_callback_data(body, callback_data)).await
    }

    /// Refuses a call that has no answer of ours yet.
    pub async fn reject(&self, number: &NumberCredentials, call_id: &WaCallId) -> Result<Done, GraphFailure> {
        self.act(number, Action::Reject, &about(call_id, Action::Reject)).await
    }

    /// Ends a call, also one that is only pre-accepted. Not needed when the user hung up.
    pub async fn terminate(&self, number: &NumberCredentials, call_id: &WaCallId) -> Result<Done, GraphFailure> {
        self.act(number, Action::Terminate, &about(call_id, Action::Terminate)).await
    }

    /// When the next request of this number may leave, if Meta has slowed it.
    pub fn slowed_until(&self, number: &PhoneNumberId, now: std::time::Instant) -> Option<std::time::Instant> {
        self.paces().slowed_until(number, now.into()).map(Instant::into_std)
    }

    /// Calls a user. Not retried once an attempt may have reached Meta, because the phone would ring twice.
    pub async fn connect(
        &self,
        number: &NumberCredentials,
        callee: &Callee,
        offer_sdp: &str,
        callback_data: Option<&CallbackData>,
    ) -> Result<WaCallId, GraphFailure> {
        let mut body = json!({ "messaging_product": "whatsapp", "action": Action::Connect.name() });
        match callee {
            Callee::WaId(digits) => body["to"] = digits.as_str().into(),
            Callee::UserId(user_id) => body["recipient"] = user_id.as_str().into(),
        }
        let body = with_callback_data(with_session(body, "offer", offer_sdp), callback_data);
        let logged = |failure| logged(Action::Connect, failure);
        let (reply, attempts) = self.request(number, Action::Connect, &body).await.map_err(logged)?;
        let call_id = reply["calls"][0]["id"].as_str().and_then(|id| WaCallId::parse(id).ok());
        // A success without an id: a phone may be ringing, for a call that cannot be identified.
        let kind = || FailureKind::Unknown("a success without the call's id".to_owned());
        call_id.ok_or_else(|| logged(GraphFailure { kind: kind(), attempts }))
    }

    async fn act(&self, number: &NumberCredentials, action: Action, body: &Value) -> Result<Done, GraphFailure> {
        let failure = match self.request(number, action, body).await {
            Ok((_, attempts)) => return Ok(Done { attempts, was_done_before: false }),
            Err(failure) => failure,
        };
        match &failure.kind {
            FailureKind::Refused(error) if retry::is_done_before(action, error) => {
                Ok(Done { attempts: failure.attempts, was_done_before: true })
            }
            FailureKind::Refused(_)
            | FailureKind::Unknown(_)
            | FailureKind::Unreachable(_)
            | FailureKind::NoSockets(_) => Err(logged(action, failure)),
        }
    }

    /// Retries until Meta accepts or refuses for good, or the budget is used up.
    async fn request(
        &self,
        number: &NumberCredentials,
        action: Action,
        body: &Value,
    ) -> Result<(Value, u32), GraphFailure> {
        let url = self.url(number, action, body);
        let mut waits = Waits::new(&self.options, &self.chance, Instant::now());
        let mut standstills = Standstills::of(&self.options.pulse, Instant::now().into_std());
        let mut attempts = 0;
        let mut may_have_happened = false;
        loop {
            match self.pace(number, action, &waits) {
                Ok(at) => tokio::time::sleep_until(at).await,
                Err(error) => {
                    let last = Outcome::Refused { error, retry_after: None };
                    return Err(GraphFailure { kind: final_kind(last, may_have_happened), attempts });
                }
            }
            attempts += 1;
            let request = match action {
                Action::LookUp => self.http.get(url.clone()),
                Action::Connect
                | Action::PreAccept
                | Action::Accept
                | Action::Reject
                | Action::Terminate
                | Action::SendMessage => self.http.post(url.clone()).json(body),
            };
            let request = request.bearer_auth(number.access_token.expose_secret());
            let outcome = attempt::send(request, waits.attempt_timeout(Instant::now())).await;
            if let Outcome::Success(reply) = outcome {
                if action.shares_the_pace() {
                    self.paces().taken(&number.phone_number_id);
                }
                return Ok((reply, attempts));
            }
            if let Some((error, wait)) = retry::slows_number(&outcome).filter(|_| action.shares_the_pace()) {
                // If Meta asks for a longer wait than a request lasts, one request is tried in that time.
                let wait = wait.min(self.options.budget);
                self.paces().refused(&number.phone_number_id, error, wait, Instant::now());
            }
            may_have_happened |= matches!(outcome, Outcome::Unknown(_));
            if let Some(gap) = standstills.next(Instant::now().into_std()) {
                waits.stood_still(gap, Instant::now());
            }
            match waits.before_next(action, &outcome, Instant::now()) {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(GraphFailure { kind: final_kind(outcome, may_have_happened), attempts }),
            }
        }
    }

    /// When the next attempt may leave, or Meta's last refusal of the number.
    fn pace(&self, number: &NumberCredentials, action: Action, waits: &Waits<'_>) -> Result<Instant, MetaError> {
        let now = Instant::now();
        match action.shares_the_pace() {
            true => self.paces().reserve(&number.phone_number_id, now, waits.latest_attempt()),
            false => Ok(now),
        }
    }

    /// Held for a look-up only.
    fn paces(&self) -> MutexGuard<'_, Paces> {
        self.paces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A look-up has its parameters in the query.
    fn url(&self, number: &NumberCredentials, action: Action, body: &Value) -> Url {
        let mut url = self.options.base_url.clone();
        if let (Action::LookUp, Some(parameters)) = (action, body.as_object()) {
            let texts = parameters.iter().filter_map(|(name, value)| Some((name, value.as_str()?)));
            url.query_pairs_mut().extend_pairs(texts);
        }
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend([&self.options.version, number.phone_number_id.as_str(), action.edge()]);
        }
        url
    }
}

/// A permanent refusal is final. Otherwise one attempt with an unknown outcome makes the whole unknown.
fn final_kind(last: Outcome, may_have_happened: bool) -> FailureKind {
    match last {
        Outcome::Refused { error, .. } if !may_have_happened || !retry::can_change(&error) => {
            FailureKind::Refused(error)
        }
        Outcome::Unreachable(cause) if !may_have_happened => FailureKind::Unreachable(cause),
        Outcome::NoSockets(cause) if !may_have_happened => FailureKind::NoSockets(cause),
        Outcome::Unreachable(cause) | Outcome::NoSockets(cause) | Outcome::Unknown(cause) => {
            FailureKind::Unknown(cause)
        }
        Outcome::Refused { error, .. } => FailureKind::Unknown(error.to_string()),
        // Not a failure.
        Outcome::Success(_) => FailureKind::Unknown(String::new()),
    }
}

fn about(call_id: &WaCallId, action: Action) -> Value {
    json!({ "messaging_product": "whatsapp", "call_id": call_id.as_str(), "action": action.name() })
}

/// `sdp_type` is `answer` for pre_accept and accept; with `offer`, as one of Meta's tables says, no call connects.
fn with_session(mut body: Value, sdp_type: &str, sdp: &str) -> Value {
    body["session"] = json!({ "sdp_type": sdp_type, "sdp": sdp });
    body
}

fn with_callback_data(mut body: Value, callback_data: Option<&CallbackData>) -> Value {
    if let Some(CallbackData(text)) = callback_data {
        body["biz_opaque_callback_data"] = text.as_str().into();
    }
    body
}

/// Failures are logged here, once, with the ids that Meta's support asks for and nothing personal.
fn logged(action: Action, failure: GraphFailure) -> GraphFailure {
    let (action, attempts) = (action.name(), failure.attempts);
    match &failure.kind {
        FailureKind::Refused(error) => warn!(
            graph.action = action,
            graph.attempts = attempts,
            meta.code = error.code,
            meta.subcode = error.subcode,
            meta.fbtrace_id = error.fbtrace_id,
            meta.details = error.details_for_log(),
            http.status = error.http_status,
            "Meta refused {action}: {error}"
        ),
        FailureKind::Unknown(_) | FailureKind::Unreachable(_) | FailureKind::NoSockets(_) => warn!(
            graph.action = action,
            graph.attempts = attempts,
            "{action} failed after {attempts} attempts: {}",
            failure.kind
        ),
    }
    failure
}

#[cfg(test)]
mod tests;
