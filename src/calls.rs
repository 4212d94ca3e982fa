//! Calls: which calls live, and which were over before they began.
//!
//! Meta's webhooks are doubled, batched and unordered. A `connect` is admitted once by its wacid; a `terminate` for a
//! call nobody knows leaves a tombstone, so that its late `connect` is not answered.

mod table;
pub mod snapshot;
pub mod session;
pub mod destination;
pub mod decision_webhook;
pub mod terminations;
pub mod recovery;
mod takeover;

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tracing::{debug, info, warn};

use crate::agent::AgentStatus;
use crate::call::Input;
use crate::call::command::CallCommand;
use crate::call::end::{EndReason, Shortage};
use crate::call::event::{CallEvent, CallId};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::egress::Hosts;
use crate::routes::Number;
use crate::settings::CurrentSettings;
use crate::store::{self, Store, Written};
use crate::throttle::Throttle;
use crate::whatsapp::clock::ClockSkew;
use crate::whatsapp::graph::GraphClient;
use crate::whatsapp::signature::Signer;
use crate::whatsapp::webhook::{Connect, Direction, Notice, Terminate, TerminateStatus};
use crate::whatsapp::{PhoneNumberId, WaCallId};
use crate::worker::{WorkerHandle, placement};
use destination::targets_of;
use session::commands::{AppCommand, Inbox};
use session::{Session, SessionOptions, WRITTEN_WITHIN};
use snapshot::{CallFacts, CallSnapshot, CallStatus};
use table::{CallTable, LiveCall};
use terminations::Terminations;

/// A `connect` older than this is a late retry: Meta has given the call up.
const STALE_AFTER_S: i64 = 60;
/// A clock further off than this deserves a warning: it eats half of what a `connect` may take.
const SKEW_TO_TELL_S: i64 = 30;
/// For a call to do what the application asks, which it does at once unless its worker is stuck.
const PERFORMED_WITHIN: Duration = Duration::from_secs(10);

/// What every call of this process is given.
pub struct CallsOptions {
    /// The business numbers with their routes, as they are at the moment.
    pub settings: CurrentSettings,
    /// Live calls at most; one more is rejected at Meta at once.
    pub max_calls: usize,
    /// For every session.
    pub session: SessionOptions,
    /// To Meta.
    pub graph: GraphClient,
    /// To Meta, of calls that are over.
    pub terminations: Terminations,
    /// Where calls live.
    pub workers: Vec<WorkerHandle>,
    /// To whoever listens.
    pub events: broadcast::Sender<CallEvent>,
    /// What must outlive the process.
    pub store: Store,
}

/// All calls of this process. Cheap to clone.
#[derive(Clone)]
pub struct Calls(Arc<Shared>);

struct Shared {
    options: CallsOptions,
    /// Where sessions run.
    runtime: Handle,
    table: Mutex<CallTable>,
    clock: Mutex<ClockSkew>,
    warnings: Warnings,
    draining: AtomicBool,
    /// Told whenever a call has ended.
    ended: Notify,
}

/// Warnings that webhooks could cause at will.
#[derive(Default)]
struct Warnings {
    stale: Throttle,
    skew: Throttle,
}

/// What a session begins with.
struct NewCall {
    id: CallId,
    connect: Connect,
    number: Arc<Number>,
    worker: WorkerHandle,
    received_at: Instant,
    began_at: SystemTime,
    /// Why it ends at once.
    refusal: Option<EndReason>,
}

/// What became of one notice; the names are metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A new call.
    Admitted,
    /// It reached its call.
    Delivered,
    /// The call lives already, or has ended.
    Duplicate,
    /// Its `terminate` came first.
    AlreadyTerminated,
    /// Too old to be answered.
    Stale,
    /// Signed with an app secret that is not the number's.
    WrongSecret,
    /// Not for a call of ours: another number, another direction.
    NotOurs,
    /// A kind we do not know.
    Unknown,
    /// It lacked what its kind needs.
    Malformed,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Delivered => "delivered",
            Self::Duplicate => "duplicate",
            Self::AlreadyTerminated => "already_terminated",
            Self::Stale => "stale",
            Self::WrongSecret => "wrong_secret",
            Self::NotOurs => "not_ours",
            Self::Unknown => "unknown",
            Self::Malformed => "malformed",
        }
    }
}

impl Calls {
    /// No calls yet. Sessions run on the runtime that this is called on.
    pub fn new(options: CallsOptions) -> Self {
        let shared = Shared {
            options,
            runtime: Handle::current(),
            table: Mutex::default(),
            clock: Mutex::new(ClockSkew::new(unix_s(), Instant::now())),
            warnings: Warnings::default(),
            draining: AtomicBool::new(false),
            ended: Notify::new(),
        };
        Self(Arc::new(shared))
    }

    /// Takes everything one webhook said, in its order. What its signer may not speak of is counted and passed over.
    /// Returns at once; Meta has its 200 when what it said is written.
    pub fn take(&self, notices: Vec<Notice>, signer: &Signer) -> Vec<Written> {
        let received_at = Instant::now();
        notices.iter().filter_map(Notice::timestamp).for_each(|stamp| self.observe_clock(stamp, received_at));
        let mut writes = Vec::new();
        for notice in notices {
            let (outcome, written) = self.take_one(notice, signer, received_at);
            writes.extend(written);
            metrics::counter!("patchcord_webhook_events_total", "outcome" => outcome.name()).increment(1);
        }
        writes
    }

    /// Whether a notice is of a call that is answered here: somebody calls one of our numbers.
    pub fn owns(&self, notice: &Notice) -> bool {
        let (direction, number) = match notice {
            Notice::Connect(connect) => (Some(connect.direction), &connect.phone_number_id),
            Notice::Terminate(terminate) => (terminate.direction, &terminate.phone_number_id),
            // Only calls that the business places have statuses.
            Notice::Status(_) | Notice::NotOurs { .. } | Notice::Unknown { .. } | Notice::Malformed { .. } => {
                return false;
            }
        };
        let is_known = number.as_ref().is_none_or(|id| self.0.options.settings.get().numbers.get(id).is_some());
        is_known && direction != Some(Direction::BusinessInitiated)
    }

    fn take_one(&self, notice: Notice, signer: &Signer, received_at: Instant) -> (Outcome, Option<Written>) {
        let outcome = match notice {
            Notice::Connect(connect) if may_not_speak(signer, connect.phone_number_id.as_ref()) => Outcome::WrongSecret,
            Notice::Terminate(terminate) if may_not_speak(signer, terminate.phone_number_id.as_ref()) => {
                Outcome::WrongSecret
            }
            Notice::Connect(connect) => return self.admit(*connect, received_at),
            Notice::Terminate(terminate) => return self.terminate(&terminate, signer),
            Notice::Status(_) => {
                debug!("a status of a business-initiated call, of which there are none yet");
                Outcome::NotOurs
            }
            Notice::NotOurs { .. } => Outcome::NotOurs,
            Notice::Unknown { field, event } => {
                info!(
                    webhook.field = field,
                    webhook.event = event,
                    "a kind of webhook that is not known is passed over"
                );
                Outcome::Unknown
            }
            Notice::Malformed { why } => {
                warn!("a webhook entry cannot be read and is passed over: {why}");
                Outcome::Malformed
            }
        };
        (outcome, None)
    }

    fn admit(&self, connect: Connect, received_at: Instant) -> (Outcome, Option<Written>) {
        if connect.direction == Direction::BusinessInitiated {
            return (Outcome::NotOurs, None);
        }
        let mut table = self.table();
        table.forget_old(received_at);
        if let Some(live) = table.live.get(&connect.call_id) {
            // Its first webhook may have had no reply yet.
            return (Outcome::Duplicate, Some(live.first_record.clone()));
        }
        if table.is_buried(&connect.call_id) {
            return (Outcome::AlreadyTerminated, None);
        }
        if self.is_stale(&connect, received_at) {
            return (Outcome::Stale, None);
        }
        let settings = self.0.options.settings.get();
        let Some(number) = connect.phone_number_id.as_ref().and_then(|id| settings.numbers.get(id)) else {
            warn!("a call came for a number that is not configured; add it under [[whatsapp.numbers]]");
            return (Outcome::NotOurs, None);
        };
        let worker = placement::best(&self.0.options.workers, Instant::now());
        let refusal = if self.0.draining.load(Ordering::Relaxed) {
            Some(EndReason::ShuttingDown)
        } else if table.live.len() >= self.0.options.max_calls {
            Some(EndReason::Overloaded(Shortage::Calls))
        } else if number.max_calls.is_some_and(|most| table.count_of(&number.phone_number_id) >= most) {
            Some(EndReason::NumberOverloaded)
        } else if self.0.options.store.is_low() {
            Some(EndReason::Overloaded(Shortage::Disk))
        } else if worker.is_overloaded() {
            Some(EndReason::Overloaded(Shortage::Load))
        } else {
            None
        };
        let is_refused = refusal.is_some();
        let began_at = store::whole_ms(SystemTime::now());
        let new_call = NewCall { id: CallId::generate(), connect, number, worker, received_at, began_at, refusal };
        let first_record = self.begin(table, new_call, |session| session.begin(is_refused));
        (Outcome::Admitted, Some(first_record))
    }

    /// Starts the session of a new call. The table is held until the call stands in it, so that the same call is not
    /// begun twice.
    fn begin(
        &self,
        mut table: MutexGuard<'_, CallTable>,
        new_call: NewCall,
        first: impl FnOnce(&mut Session) -> Written,
    ) -> Written {
        let NewCall { id, connect, number, worker, received_at, began_at, refusal } = new_call;
        let (handle, inbox) = Inbox::new();
        let (status_sender, status) = watch::channel(CallStatus::new());
        let facts = Arc::new(facts(&id, &connect, &number.route.name, began_at, received_at));
        let (called, wacid) = (number.phone_number_id.clone(), connect.call_id.clone());
        let session = Session::new(id.clone(), connect, number, worker, &self.0.options, status_sender, received_at);
        let mut session = session.begun_at(began_at);
        let first_record = first(&mut session);
        let live = LiveCall {
            id: id.clone(),
            session: handle,
            number: called,
            facts,
            status,
            first_record: first_record.clone(),
        };
        table.live.insert(wacid.clone(), live);
        table.by_id.insert(id, wacid.clone());
        metrics::gauge!("patchcord_calls_active").set(table.live.len() as f64);
        drop(table);
        let calls = self.clone();
        let ended = self.0.runtime.spawn(session.run(inbox, refusal));
        self.0.runtime.spawn(async move {
            // A session that panicked has logged it; its call must not count as live for ever.
            if ended.await.is_err() {
                metrics::counter!("patchcord_sessions_failed_total").increment(1);
            }
            calls.bury(&wacid);
        });
        first_record
    }

    /// A `connect` without a timestamp is taken as fresh.
    fn is_stale(&self, connect: &Connect, received_at: Instant) -> bool {
        let Some(age) = connect.timestamp.map(|stamp| self.clock().age_s(stamp, received_at)) else { return false };
        let is_stale = age > STALE_AFTER_S;
        if is_stale && let Some(held_back) = self.0.warnings.stale.admit(received_at) {
            warn!(
                webhook.age_s = age,
                webhooks.held_back = held_back,
                "a call was not answered: by this machine's clock its webhook came {age} s after it was sent. Is this \
                 machine's clock right? If not, set it (NTP); if it is, the webhook came late, because the service \
                 was down or the way from Meta to it is slow"
            );
        }
        is_stale
    }

    /// Every signed webhook says something about our clock.
    fn observe_clock(&self, stamp: u64, now: Instant) {
        let ahead = {
            let mut clock = self.clock();
            clock.observe(stamp, now);
            clock.ahead_s(unix_s(), now)
        };
        metrics::gauge!("patchcord_clock_ahead_seconds").set(ahead as f64);
        if ahead.abs() >= SKEW_TO_TELL_S && self.0.warnings.skew.admit(now).is_some() {
            let direction = if ahead > 0 { "fast" } else { "slow" };
            warn!(
                clock.ahead_s = ahead,
                "this machine's clock is {} s {direction} by the timestamps of Meta's webhooks: set it (NTP). Until \
                 then the age of calls is judged by Meta's clock",
                ahead.abs()
            );
        }
    }

    fn clock(&self) -> MutexGuard<'_, ClockSkew> {
        self.0.clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// That the call is over is kept, so that its late `connect` is not answered by the next process either.
    fn terminate(&self, terminate: &Terminate, signer: &Signer) -> (Outcome, Option<Written>) {
        let mut table = self.table();
        let outcome = match table.live.get(&terminate.call_id) {
            Some(live) if may_not_speak(signer, Some(&live.number)) => return (Outcome::WrongSecret, None),
            Some(live) => {
                let input = Input::Terminated {
                    failed: terminate.status == TerminateStatus::Failed,
                    error: terminate.errors.first().and_then(|error| error.code),
                };
                match live.session.end(input) {
                    true => Outcome::Delivered,
                    // Another end came first; the call is on its way out.
                    false => Outcome::Duplicate,
                }
            }
            None => {
                let is_known = table.is_buried(&terminate.call_id);
                table.bury(&terminate.call_id, None, Instant::now());
                if is_known { Outcome::Duplicate } else { Outcome::AlreadyTerminated }
            }
        };
        drop(table);
        (outcome, Some(self.0.options.store.call_terminated(terminate.call_id.as_str(), WRITTEN_WITHIN)))
    }

    fn bury(&self, wacid: &WaCallId) {
        let mut table = self.table();
        let id = table.live.remove(wacid).map(|live| live.id);
        if let Some(id) = &id {
            table.by_id.remove(id);
            self.agents().left(id);
        }
        metrics::gauge!("patchcord_calls_active").set(table.live.len() as f64);
        table.bury(wacid, id, Instant::now());
        drop(table);
        self.0.ended.notify_waiters();
    }

    /// Has a live call perform a command of the application. Gives the ids of what was begun, null for what is done, or
    /// why it was refused. `client_state`, if given, is kept with the call from then on; the command's URL may name one
    /// of `hosts`.
    pub async fn perform(
        &self,
        call: &CallId,
        command: CallCommand,
        client_state: Option<String>,
        hosts: Hosts,
    ) -> Result<Value, Refusal> {
        command.check()?;
        let session = self.table().live(call)?.session.clone();
        let targets = match command.destination() {
            Some(to) => targets_of(to, &self.0.options.settings.get(), hosts).await?,
            None => Vec::new(),
        };
        let (reply, done) = oneshot::channel();
        let answered = async {
            session.command(AppCommand { command, targets, client_state, reply }).await?;
            done.await.unwrap_or_else(|_| Err(has_ended()))
        };
        tokio::time::timeout(PERFORMED_WITHIN, answered).await.unwrap_or_else(|_| {
            Err(Refusal::new(
                RefusalCode::InternalError,
                "the call does not answer: it may still do what it was asked for",
            ))
        })
    }

    /// How a live call stands, without asking it. None for one that has ended, or never was.
    pub fn get(&self, call: &CallId) -> Option<CallSnapshot> {
        self.table().live(call).ok().map(LiveCall::snapshot)
    }

    /// At most `limit` live calls that are wanted, the newest first, from the one before `before` on.
    pub fn list(
        &self,
        before: Option<&CallId>,
        limit: usize,
        is_wanted: impl Fn(&CallFacts) -> bool,
    ) -> Vec<CallSnapshot> {
        let up_to = before.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.table();
        let calls = table.by_id.range::<CallId, _>((Bound::Unbounded, up_to)).rev();
        let live = calls.filter_map(|(_, wacid)| table.live.get(wacid)).filter(|live| is_wanted(&live.facts));
        live.take(limit).map(LiveCall::snapshot).collect()
    }

    /// How agents were last reached, and which calls they are in.
    pub fn agents(&self) -> &AgentStatus {
        &self.0.options.session.agents
    }

    /// How many calls live.
    pub fn count(&self) -> usize {
        self.table().live.len()
    }

    /// Whether new calls are refused because the service is stopping.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Refuses new calls, at Meta, from now on.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    /// Ends all calls; they are gone when [`Calls::all_ended`] returns.
    pub fn hang_up_all(&self, reason: &EndReason) {
        for live in self.table().live.values() {
            // Another end may have come first, which is as good.
            live.session.end(Input::HangUp(reason.clone()));
        }
    }

    /// Waits until no call lives.
    pub async fn all_ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            // Listens from here on, so that an end between the count and the wait is not missed.
            ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }

    /// The table is held for a few look-ups only, and what is behind it stays valid at every step.
    fn table(&self) -> MutexGuard<'_, CallTable> {
        self.0.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) fn has_ended() -> Refusal {
    Refusal::new(RefusalCode::CallEnded, "the call has ended")
}

fn may_not_speak(signer: &Signer, number: Option<&PhoneNumberId>) -> bool {
    let may_not = number.is_some_and(|number| !signer.speaks_for(number));
    if may_not {
        warn!(
            "a webhook tells of a call of a number that another app secret signs for, and is passed over: are the \
             app_secrets of that number right?"
        );
    }
    may_not
}

fn facts(id: &CallId, connect: &Connect, route: &str, began_at: SystemTime, received_at: Instant) -> CallFacts {
    CallFacts {
        id: id.clone(),
        wacid: connect.call_id.as_str().to_owned(),
        direction: connect.direction,
        wa_id: connect.from.wa_id.clone(),
        user_id: connect.from.user_id.clone(),
        name: connect.from.name.clone(),
        phone_number_id: connect.phone_number_id.as_ref().map(|id| id.as_str().to_owned()).unwrap_or_default(),
        display_phone_number: connect.display_phone_number.clone(),
        route: route.to_owned(),
        began_at,
        received_at,
    }
}

/// What our clock says, in seconds since 1970, as Meta stamps its webhooks.
fn unix_s() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
