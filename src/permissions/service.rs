//! Permissions: the shell of the ledgers. It learns from webhooks, calls and Graph, and says what is allowed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::broadcast;
use tracing::{info, warn};

use super::country::Country;
use super::fact::{Fact, Source, What};
use super::ledger::{Ledger, NO_PERMISSION, PERMANENT, SECOND_END, Status, TOO_MANY_CALLS, TOO_MANY_REQUESTS};
use super::numbers::{NumberNotes, Numbers};
use super::rules::{DAY, Rules};
use super::verdict::{Forbidden, Reason};
use super::{Moment, PermissionEvent, Person};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::routes::Number;
use crate::settings::CurrentSettings;
use crate::store::{PermissionFact, Store, StoreError, Written};
use crate::whatsapp::error::MetaError;
use crate::whatsapp::graph::{Callee, FailureKind, GraphClient, GraphFailure, NumberCredentials};
use crate::whatsapp::permission::{CallsPaused, PermissionReply, PermissionResponse};
use crate::whatsapp::{Party, PhoneNumberId};

/// Events that a slow listener may lag behind; beyond it the listener loses the oldest.
const EVENTS: usize = 1024;
/// For a fact to be on disk before Meta gets its 200, or the application its answer.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);
/// For a ledger to be read before a call is placed. Without it Graph decides.
const READ_WITHIN: Duration = Duration::from_millis(500);
/// Look-ups in a second. Source: Meta, "Calling API: Reference" (2026-06), which says 5; "User call permissions" says 100.
const LOOK_UPS_PER_SECOND: u32 = 5;
/// A look-up waits this long for its turn; beyond it it is refused.
const TURN_WITHIN: Duration = Duration::from_secs(3);

/// What permissions are made of.
pub struct PermissionsOptions {
    /// The current business numbers.
    pub settings: CurrentSettings,
    /// To Meta.
    pub graph: GraphClient,
    /// Where the ledgers are.
    pub store: Store,
}

/// The permissions of all numbers. Cheap to clone.
#[derive(Clone)]
pub struct Permissions(Arc<Shared>);

struct Shared {
    options: PermissionsOptions,
    events: broadcast::Sender<PermissionEvent>,
    numbers: Mutex<Numbers>,
    /// When the next look-up may leave.
    next_look_up: Mutex<Instant>,
}

/// What is known of one person, for the API.
pub struct Found {
    /// The business number.
    pub phone_number_id: String,
    /// The person, with every id that is known.
    pub person: Person,
    /// The facts.
    pub ledger: Ledger,
    /// The limits of the number.
    pub rules: Rules,
    /// When it was looked at.
    pub now: Moment,
    /// Why the number places no calls to anybody, if it does not.
    pub number_refusal: Option<Refusal>,
}

impl Permissions {
    /// Reads what is known of the numbers.
    pub async fn start(options: PermissionsOptions) -> Self {
        let known = options.store.number_notes().await.unwrap_or_else(|error| {
            warn!("what is known of the business numbers cannot be read: {error}");
            Vec::new()
        });
        Self::new(options, known)
    }

    /// With this knowledge of the numbers.
    pub fn new(options: PermissionsOptions, known: Vec<(String, NumberNotes)>) -> Self {
        let (events, _) = broadcast::channel(EVENTS);
        let (numbers, next_look_up) = (Mutex::new(Numbers::new(known)), Mutex::new(clock::now()));
        Self(Arc::new(Shared { options, events, numbers, next_look_up }))
    }

    /// The events from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<PermissionEvent> {
        self.0.events.subscribe()
    }

    /// A reply in one of Meta's webhooks. None if it names no number of ours, or nobody.
    pub fn replied(&self, reply: &PermissionReply) -> Option<Written> {
        let number = reply.phone_number_id.as_ref().filter(|id| self.is_ours(id))?;
        let person = Person::of(&reply.from)?;
        if let Some(shown) = &reply.display_phone_number {
            self.number_shown(number, shown);
        }
        let kind = match reply.response {
            PermissionResponse::Accept { .. } => "accept",
            PermissionResponse::Reject => "reject",
        };
        metrics::counter!("patchcord_permission_replies_total", "response" => kind).increment(1);
        Some(self.learn(number, person, fact_of(reply, Moment::from(clock::wall())), false))
    }

    /// A webhook shows the number so.
    pub fn number_shown(&self, number: &PhoneNumberId, display_phone_number: &str) {
        if self.is_ours(number) {
            let news = self.numbers().shown(number, display_phone_number);
            self.keep_notes(news);
        }
    }

    /// Meta's id of the number that is shown so, if it is known.
    pub fn id_of(&self, display_phone_number: &str) -> Option<PhoneNumberId> {
        self.numbers().id_of(display_phone_number)
    }

    /// Meta has paused the calls of a number for low quality.
    pub fn calls_paused(&self, pause: &CallsPaused) {
        let news = self.numbers().paused(&pause.display_phone_number, Moment::of_seconds(pause.until));
        if !news.is_empty() {
            warn!("Meta has paused the calls that one of the numbers places: its quality is low");
        }
        self.keep_notes(news);
    }

    /// A call that we placed was connected.
    pub fn call_answered(&self, number: &PhoneNumberId, callee: &Callee, call_id: &str) {
        self.note(number, callee.into(), Some(call_id), What::CallAnswered { placed: true }, false);
    }

    /// A call of the person to us was connected: it resets the limit of requests. Nothing is kept of other callers.
    pub fn caller_answered(&self, number: &PhoneNumberId, caller: &Party, call_id: &str) {
        if let Some(person) = Person::of(caller) {
            self.note(number, person, Some(call_id), What::CallAnswered { placed: false }, true);
        }
    }

    /// A call that we placed rang in vain, or was declined.
    pub fn call_unanswered(&self, number: &PhoneNumberId, callee: &Callee, call_id: &str) {
        self.note(number, callee.into(), Some(call_id), What::CallUnanswered, false);
    }

    /// Meta refused a call or a request.
    pub fn refused(&self, number: &PhoneNumberId, callee: &Callee, error: &MetaError) {
        if let Some(what) = refusal_fact(error) {
            self.note(number, callee.into(), None, what, false);
        }
    }

    /// Whether a call may be placed, as far as is known here; what is not known is left to Graph.
    pub async fn check_call(&self, number: &PhoneNumberId, callee: &Callee) -> Result<(), Refusal> {
        let allowed = self.judge_call(number, callee).await;
        if let Err(refusal) = &allowed {
            metrics::counter!("patchcord_permission_refusals_total", "code" => refusal.code.name()).increment(1);
            info!("a call is not placed: {}", refusal.code.name());
        }
        allowed
    }

    async fn judge_call(&self, number: &PhoneNumberId, callee: &Callee) -> Result<(), Refusal> {
        self.check_number(number)?;
        let read = tokio::time::timeout(READ_WITHIN, self.stored(number, &callee.into())).await;
        let found = match read.unwrap_or(Err(StoreError::TimedOut)) {
            Ok(found) => found,
            Err(error) => {
                warn!("a call is placed without a check of its permission: {error}");
                return Ok(());
            }
        };
        let may_call = found.ledger.may_call(&found.rules, found.now);
        may_call.map_err(|forbidden| found.refusal(forbidden))
    }

    /// Why the number places no calls to anybody, if that is known.
    pub(super) fn check_number(&self, number: &PhoneNumberId) -> Result<(), Refusal> {
        let numbers = self.numbers();
        let Some((shown, notes)) = numbers.of(number) else { return Ok(()) };
        let countries = &self.0.options.settings.get().countries_without_outgoing_calls;
        if let Some(country) = Country::of_number(countries, shown) {
            let message = format!(
                "Meta has no business-initiated calls for numbers of this country ({}): call from a number of another \
                 country, or take it off whatsapp.countries_without_outgoing_calls if that has changed",
                country.code()
            );
            return Err(Refusal::new(RefusalCode::CountryNotSupported, message));
        }
        match notes.paused_until.filter(|until| Moment::from(clock::wall()) < *until) {
            None => Ok(()),
            Some(until) => Err(Refusal {
                next_allowed_at: Some(until.time()),
                ..Refusal::new(
                    RefusalCode::CallingPaused,
                    format!("Meta has paused this number's calls for low quality until {}", until.rfc3339()),
                )
            }),
        }
    }

    /// What is known of a person. Graph is asked if the ledger does not know, or if `refresh` says so.
    pub async fn look(
        &self,
        number: &Number,
        callee: &Callee,
        refresh: bool,
    ) -> Result<Result<Found, Refusal>, StoreError> {
        let id = &number.phone_number_id;
        let mut found = self.stored(id, &callee.into()).await?;
        if !(refresh || found.ledger.needs_graph(&found.rules, found.now)) {
            return Ok(Ok(found));
        }
        let asked = match self.take_turn().await {
            Ok(()) => self.0.options.graph.call_permissions(&credentials(number), callee).await,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let answer = match asked {
            Ok(answer) => answer,
            Err(failure) => return Ok(Err(self.failed(&failure, &found))),
        };
        let fact = Fact::new(Moment::from(clock::wall()), None, What::LookedUp(Box::new(answer)));
        found.ledger.learn(&fact, &found.rules);
        found.now = fact.at;
        // The store logs a disk that does not answer in time.
        let _ = self.learn(id, callee.into(), fact, false).confirmed().await;
        Ok(Ok(found))
    }

    pub(super) async fn stored(&self, number: &PhoneNumberId, person: &Person) -> Result<Found, StoreError> {
        let known = self.0.options.store.permission(number.as_str(), person).await?;
        let (known_as, ledger) = known.unwrap_or_default();
        // Each holds the lock.
        let rules = self.numbers().rules(number);
        let number_refusal = self.check_number(number).err();
        Ok(Found {
            phone_number_id: number.as_str().to_owned(),
            person: Person {
                wa_id: person.wa_id.clone().or(known_as.wa_id),
                user_id: person.user_id.clone().or(known_as.user_id),
            },
            ledger,
            rules,
            now: Moment::from(clock::wall()),
            number_refusal,
        })
    }

    /// The refusal that a failed request becomes. The ledger learns from it first.
    pub(super) fn failed(&self, failure: &GraphFailure, found: &Found) -> Refusal {
        match &failure.kind {
            FailureKind::Refused(error) => found.clone_with(error).refusal_of(error),
            FailureKind::Unknown(_) => Refusal::new(
                RefusalCode::MetaUnavailable,
                "Meta gave no readable answer: the request may have been performed; look before you repeat it",
            ),
            FailureKind::Unreachable(_) | FailureKind::NoSockets(_) => {
                Refusal::new(RefusalCode::MetaUnavailable, "Meta cannot be reached: try again later")
            }
        }
    }

    pub(super) fn learn(&self, number: &PhoneNumberId, person: Person, fact: Fact, is_for_known: bool) -> Written {
        let learned = PermissionFact {
            phone_number_id: number.as_str().to_owned(),
            person,
            fact,
            rules: self.numbers().rules(number),
            is_for_known,
        };
        let events = self.0.events.clone();
        let publish = move |event: PermissionEvent| {
            metrics::counter!("patchcord_permission_events_total", "kind" => event.kind).increment(1);
            // There may be no listener.
            let _ = events.send(event);
        };
        self.0.options.store.permission_learned(learned, publish, WRITTEN_WITHIN)
    }

    pub(super) fn graph(&self) -> &GraphClient {
        &self.0.options.graph
    }

    /// Something that happened now; nobody waits for it to be stored.
    fn note(&self, number: &PhoneNumberId, person: Person, id: Option<&str>, what: What, is_for_known: bool) {
        let fact = Fact::new(Moment::from(clock::wall()), id.map(str::to_owned), what);
        drop(self.learn(number, person, fact, is_for_known));
    }

    fn is_ours(&self, number: &PhoneNumberId) -> bool {
        self.0.options.settings.get().numbers.get(number).is_some()
    }

    fn keep_notes(&self, news: Vec<(String, NumberNotes)>) {
        for (number, notes) in news {
            self.0.options.store.number_noted(number, notes);
        }
    }

    /// Held for a look-up only.
    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.0.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spreads look-ups over time.
    async fn take_turn(&self) -> Result<(), Refusal> {
        let now = clock::now();
        let at = {
            let mut next = self.0.next_look_up.lock().unwrap_or_else(PoisonError::into_inner);
            let at = (*next).max(now);
            if at > now + TURN_WITHIN {
                return Err(Refusal::new(
                    RefusalCode::LookupLimit,
                    format!("Meta takes {LOOK_UPS_PER_SECOND} look-ups of permissions a second: ask slower"),
                ));
            }
            *next = at + Duration::from_secs(1) / LOOK_UPS_PER_SECOND;
            at
        };
        tokio::time::sleep_until(at.into()).await;
        Ok(())
    }
}

impl Found {
    /// Whether the person may be called, and the number may call.
    pub fn may_call(&self) -> Result<(), Refusal> {
        if let Some(refusal) = &self.number_refusal {
            return Err(refusal.clone());
        }
        self.ledger.may_call(&self.rules, self.now).map_err(|forbidden| self.refusal(forbidden))
    }

    /// Whether the person may be asked.
    pub fn may_request(&self) -> Result<(), Refusal> {
        if let Some(refusal) = &self.number_refusal {
            return Err(refusal.clone());
        }
        self.ledger.may_request(&self.rules, self.now).map_err(|forbidden| self.refusal(forbidden))
    }

    pub(super) fn refusal(&self, forbidden: Forbidden) -> Refusal {
        let Forbidden { reason, next_allowed_at } = forbidden;
        let (code, message) = match reason {
            Reason::NoPermission => (RefusalCode::NoPermission, self.no_permission(next_allowed_at)),
            Reason::RequestLimit => (
                RefusalCode::RequestLimit,
                format!(
                    "this person has been asked as often as Meta allows ({} in 24 h, {} in 7 days; a connected call begins \
                     the count anew){}",
                    self.rules.requests_per_day,
                    self.rules.requests_per_week,
                    then("the next request", next_allowed_at)
                ),
            ),
            Reason::CallLimit => (
                RefusalCode::CallLimit,
                format!(
                    "this person has been called as often as Meta allows ({} connected calls in {} h){}",
                    self.ledger.call_limits(&self.rules, self.now)[0].max,
                    DAY.as_secs() / 3600,
                    then("the next call", next_allowed_at)
                ),
            ),
            Reason::AlreadyPermitted => {
                (RefusalCode::AlreadyPermitted, "this person permits calls for good: call without asking".to_owned())
            }
        };
        Refusal { next_allowed_at: next_allowed_at.map(Moment::time), ..Refusal::new(code, message) }
    }

    fn no_permission(&self, next_request: Option<Moment>) -> String {
        let why = match self.ledger.status(&self.rules, self.now) {
            Status::Expired(at) => format!("the permission ran out at {}", at.rfc3339()),
            Status::Denied => "the person refused the request".to_owned(),
            Status::Revoked => "the permission was revoked".to_owned(),
            Status::Absent | Status::Unknown | Status::Permanent | Status::Temporary(_) => {
                "the person has not permitted calls from this number".to_owned()
            }
        };
        let step = match next_request.filter(|at| *at > self.now) {
            None => "; send a permission request first".to_owned(),
            at => then("the next permission request", at),
        };
        format!("{why}{step}")
    }

    /// With what Meta's refusal teaches.
    fn clone_with(&self, error: &MetaError) -> Self {
        let mut ledger = self.ledger.clone();
        if let Some(what) = refusal_fact(error) {
            ledger.learn(&Fact::new(self.now, None, what), &self.rules);
        }
        Self {
            phone_number_id: self.phone_number_id.clone(),
            person: self.person.clone(),
            ledger,
            rules: self.rules,
            now: self.now,
            number_refusal: None,
        }
    }

    /// Meta's refusal in the words of the API: the same codes as those of our own refusals.
    fn refusal_of(&self, error: &MetaError) -> Refusal {
        let verdict = match error.code {
            Some(NO_PERMISSION) => self.ledger.may_call(&self.rules, self.now).err(),
            Some(TOO_MANY_REQUESTS) => self.ledger.may_request(&self.rules, self.now).err(),
            Some(TOO_MANY_CALLS) => self.ledger.may_call(&self.rules, self.now).err(),
            Some(_) | None => None,
        };
        let code = code_of(error.code);
        let details = error.details_for_log().map(|details| format!(" ({details})")).unwrap_or_default();
        Refusal {
            next_allowed_at: verdict.and_then(|verdict| verdict.next_allowed_at).map(Moment::time),
            meta_error_code: error.code,
            ..Refusal::new(code, format!("Meta refused: {error}{details}"))
        }
    }
}

/// Meta's error code as a code of ours.
fn code_of(meta: Option<i64>) -> RefusalCode {
    match meta {
        Some(NO_PERMISSION) => RefusalCode::NoPermission,
        Some(TOO_MANY_REQUESTS) => RefusalCode::RequestLimit,
        Some(TOO_MANY_CALLS) => RefusalCode::CallLimit,
        Some(PERMANENT) => RefusalCode::AlreadyPermitted,
        Some(613) => RefusalCode::LookupLimit,
        Some(138_013) => RefusalCode::CountryNotSupported,
        Some(138_014) => RefusalCode::CallingPaused,
        Some(131_026 | 138_001) => RefusalCode::PersonUnreachable,
        Some(_) | None => RefusalCode::RefusedByMeta,
    }
}

fn then(what: &str, at: Option<Moment>) -> String {
    at.map_or_else(String::new, |at| format!(": {what} is allowed at {}", at.rfc3339()))
}

pub(super) fn credentials(number: &Number) -> NumberCredentials {
    NumberCredentials { phone_number_id: number.phone_number_id.clone(), access_token: number.access_token.clone() }
}

/// A reply without a time, which Meta does not send, is of now.
fn fact_of(reply: &PermissionReply, now: Moment) -> Fact {
    let at = reply.timestamp.map_or(now, |seconds| Moment::of_seconds(seconds).plus(SECOND_END));
    let source = if reply.is_automatic { Source::Automatic } else { Source::Reply };
    // An automatic reply names the call that brought it about.
    let answers = reply.answers.clone().filter(|_| !reply.is_automatic);
    let what = match reply.response {
        PermissionResponse::Accept { expires_at } => {
            What::Granted { until: expires_at.map(Moment::of_seconds), source, answers }
        }
        PermissionResponse::Reject if answers.is_some() => What::Denied { answers },
        PermissionResponse::Reject => What::Revoked { source },
    };
    Fact::new(at, reply.message_id.clone(), what)
}

/// None for a refusal that says nothing of a person's permission or limits.
fn refusal_fact(error: &MetaError) -> Option<What> {
    let code = error.code?;
    let is_told = matches!(code, NO_PERMISSION | TOO_MANY_REQUESTS | TOO_MANY_CALLS | PERMANENT);
    is_told.then(|| What::Refused { code, until: until_of(error) })
}

/// Meta's details name the time of the next call, in a form that it does not document: Unix seconds are understood.
fn until_of(error: &MetaError) -> Option<Moment> {
    let words = error.details.as_deref()?.split(|letter: char| !letter.is_ascii_digit());
    let now = Moment::from(clock::wall());
    let times = words.filter(|word| word.len() == 10).filter_map(|word| word.parse().ok()).map(Moment::of_seconds);
    times.into_iter().find(|at| *at > now && *at < now.plus(DAY * 8))
}
