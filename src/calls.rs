//! Calls: the registry of this process's calls. It admits each call once and starts its session.

mod table;
mod webhooks;
mod placing;
mod external;
mod queued;
mod placements;
mod pacing;
mod naming;
mod webhook_clock;
pub mod origin;
pub mod snapshot;
pub mod session;
pub mod from_phones;
pub mod destination;
pub mod decision_webhook;
pub mod terminations;
pub mod recovery;
mod takeover;
pub mod media_sockets;

use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use patchcord_media::sdp::{Fragment, Offer};
use tokio::runtime::Handle;
use tokio::sync::{Notify, broadcast, oneshot, watch};
use tracing::warn;

use crate::agent::websocket::Opening;
use crate::agent::{AgentStatus, BrowserId, DialectName};
use crate::browser::token::{Grant, TokenDigest};
use crate::call::Input;
use crate::call::command::{CallCommand, CommandResult};
use crate::call::end::EndReason;
use crate::call::event::{CallEvent, CallId};
use crate::call::refusal::{Refusal, RefusalCode};
use crate::clock;
use crate::egress::Hosts;
use crate::permissions::Permissions;
use crate::routes::Number;
use crate::settings::CurrentSettings;
use crate::store::{Store, Written};
use crate::whatsapp::PhoneNumberId;
use crate::whatsapp::graph::GraphClient;
use crate::worker::{BrowserAnswer, BrowserCommand, TakenFragment, WorkerHandle};
use destination::targets_of;
pub use external::{ExternalOrder, NotTaken};
use media_sockets::{MediaGrant, MediaSockets};
use naming::Naming;
use origin::Origin;
pub use placing::{Agents, CallOrder};
use queued::QueueSignal;
pub use queued::{CallQueue, Expiry, Queueing};
use session::{AppCommand, BrowserOffer, BrowserRequest, Inbox, Session, SessionOptions, SocketRequest};
use snapshot::{CallFacts, CallSnapshot, CallStatus};
use table::{CallTable, LiveCall, SharedTable};
use terminations::Terminations;
use webhook_clock::WebhookClock;

/// For a command to be performed, which happens at once unless the call's worker is stuck.
const PERFORMED_WITHIN: Duration = Duration::from_secs(10);
/// For a call's first record to be on disk before Meta gets its 200 and accept is sent, and for its end to be there before
/// it is published.
const WRITTEN_WITHIN: Duration = Duration::from_secs(1);

/// What every call of this process is given.
pub struct CallsOptions {
    /// The current business numbers with their routes.
    pub settings: CurrentSettings,
    /// The most live calls; one more is rejected at Meta at once.
    pub max_calls: usize,
    /// For every session.
    pub session: SessionOptions,
    /// To Meta.
    pub graph: GraphClient,
    /// Ends calls at Meta.
    pub terminations: Terminations,
    /// Where calls live.
    pub workers: Vec<WorkerHandle>,
    /// To the listeners.
    pub events: broadcast::Sender<CallEvent>,
    /// What must outlive the process.
    pub store: Store,
    /// Who may be called.
    pub permissions: Permissions,
}

/// All calls of this process. Cheap to clone.
#[derive(Clone)]
pub struct Calls(Arc<Shared>);

struct Shared {
    options: CallsOptions,
    /// Where sessions run.
    runtime: Handle,
    table: SharedTable,
    naming: Naming,
    clock: WebhookClock,
    draining: AtomicBool,
    /// To the task that places queued calls.
    queue: QueueSignal,
    /// Notified whenever a call has ended.
    ended: Notify,
}

/// What a session begins with.
struct NewCall {
    id: CallId,
    origin: Origin,
    number: Arc<Number>,
    worker: WorkerHandle,
    /// By the monotonic clock.
    received_at: Instant,
    /// By the wall clock.
    began_at: SystemTime,
    naming: Naming,
}

impl Calls {
    /// No calls yet. Sessions run on the runtime that this is called on.
    pub fn new(options: CallsOptions) -> Self {
        let table = SharedTable::default();
        let shared = Shared {
            naming: Naming::new(table.clone(), options.terminations.clone()),
            options,
            runtime: Handle::current(),
            table,
            clock: WebhookClock::new(clock::now()),
            draining: AtomicBool::new(false),
            queue: QueueSignal::default(),
            ended: Notify::new(),
        };
        Self(Arc::new(shared))
    }

    /// Counts the calls that earlier processes placed within Meta's day.
    pub async fn count_placed(&self) {
        let (now, wall) = (clock::now(), clock::wall());
        match self.0.options.store.placed_since(wall - pacing::DAY).await {
            Ok(placed) => {
                let mut table = self.table();
                for (number, began_at) in placed {
                    let Ok(number) = PhoneNumberId::parse(&number) else { continue };
                    table.pacing.placed_before(&number, wall.duration_since(began_at).unwrap_or_default(), now);
                }
            }
            Err(error) => warn!("the calls that were placed today cannot be counted: {error}"),
        }
    }

    /// Starts the session of a new call whose wacid, if it has one, is claimed. The table is locked until the call is
    /// in it. With a refusal the call ends at once. `first` writes the first record.
    fn start(
        &self,
        mut table: MutexGuard<'_, CallTable>,
        new_call: NewCall,
        refusal: Option<EndReason>,
        first: impl FnOnce(&mut Session) -> Written,
    ) -> Written {
        let (handle, inbox) = Inbox::new();
        let (status_sender, status) = watch::channel(CallStatus::new(new_call.origin.is_placed()));
        let id = new_call.id.clone();
        let number = new_call.number.phone_number_id.clone();
        let is_placed = new_call.origin.is_placed();
        let facts = Arc::new(CallFacts {
            id: id.clone(),
            description: new_call.origin.description(&new_call.number),
            tracker: new_call.origin.tracker().map(|data| data.as_str().to_owned()),
            signaling: new_call.origin.signaling(),
            route: new_call.number.route.name.clone(),
            began_at: new_call.began_at,
            received_at: new_call.received_at,
        });
        let mut session = Session::new(new_call, &self.0.options, status_sender);
        let first_record = first(&mut session);
        let live = LiveCall { session: handle, is_placed, number, facts, status, first_record: first_record.clone() };
        table.live.insert(id.clone(), live);
        metrics::gauge!("patchcord_calls_active").set(table.live.len() as f64);
        drop(table);
        let calls = self.clone();
        let ended = self.0.runtime.spawn(session.run(inbox, refusal));
        self.0.runtime.spawn(async move {
            // A session that panicked has logged it; its call must not count as live for ever.
            if ended.await.is_err() {
                metrics::counter!("patchcord_sessions_failed_total").increment(1);
            }
            calls.remove(&id);
        });
        first_record
    }

    fn remove(&self, call: &CallId) {
        let mut table = self.table();
        if table.live.remove(call).is_some() {
            table.directory.end(call, clock::now());
            // Its connect was never sent.
            if let Some(number) = table.placements.forget_ended(call) {
                table.pacing.not_taken(&number);
            }
            self.agents().left(call);
        }
        metrics::gauge!("patchcord_calls_active").set(table.live.len() as f64);
        drop(table);
        self.0.ended.notify_waiters();
    }

    /// Performs a command of the application on a live call. `client_state`, if given, is kept with the call from
    /// then on; the command's URL may name one of `hosts`.
    pub async fn perform(
        &self,
        call: &CallId,
        command: CallCommand,
        client_state: Option<String>,
        hosts: Hosts,
    ) -> Result<CommandResult, Refusal> {
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

    /// Whether a call lives; the refusal says whether it did.
    pub fn is_live(&self, call: &CallId) -> Result<(), Refusal> {
        self.table().live(call).map(drop)
    }

    /// Answers a page's offer for a live call, as its token grants.
    pub async fn answer_browser(
        &self,
        offer: Box<Offer>,
        grant: Grant,
        token: TokenDigest,
    ) -> Result<BrowserAnswer, Refusal> {
        let call = grant.call.clone();
        self.browser(&call, |reply| BrowserRequest::Offer(BrowserOffer { offer, grant, token, reply })).await
    }

    /// Takes a page's candidates, or restarts its ICE. `etag` is of the session that they are for, if it matters.
    pub async fn take_fragment(
        &self,
        call: &CallId,
        (browser, token): (BrowserId, TokenDigest),
        etag: Option<String>,
        fragment: Fragment,
    ) -> Result<TakenFragment, Refusal> {
        let command = |reply| BrowserCommand::TakeFragment { browser, token, etag, fragment, reply };
        self.browser(call, |reply| BrowserRequest::ForWorker(command(reply))).await
    }

    /// A page leaves.
    pub async fn browser_leaves(
        &self,
        call: &CallId,
        (browser, token): (BrowserId, TokenDigest),
    ) -> Result<(), Refusal> {
        let command = |reply| BrowserCommand::Leave { browser, token, reply };
        self.browser(call, |reply| BrowserRequest::ForWorker(command(reply))).await
    }

    /// The addresses and tokens of media sockets.
    pub fn media_sockets(&self) -> &MediaSockets {
        &self.0.options.session.media_sockets
    }

    /// Seats a socket that the application opens, as its token grants. Gives the protocol that it speaks.
    pub async fn seat_socket(
        &self,
        grant: MediaGrant,
        dialect: Option<DialectName>,
        opening: Opening,
    ) -> Result<DialectName, Refusal> {
        let session = self.table().live(&grant.call)?.session.clone();
        let (reply, seated) = oneshot::channel();
        session.socket(SocketRequest { grant, dialect, opening, reply }).await?;
        answer_of(seated).await
    }

    async fn browser<T>(
        &self,
        call: &CallId,
        request: impl FnOnce(oneshot::Sender<Result<T, Refusal>>) -> BrowserRequest,
    ) -> Result<T, Refusal> {
        let session = self.table().live(call)?.session.clone();
        let (reply, done) = oneshot::channel();
        session.browser(request(reply)).await?;
        answer_of(done).await
    }

    /// The business number of this id, or the only one.
    pub fn number(&self, id: Option<&PhoneNumberId>) -> Result<Arc<Number>, Refusal> {
        placing::number_of(id, &self.0.options.settings.get())
    }

    /// A live call as it is now, without waiting for its session.
    pub fn get(&self, call: &CallId) -> Option<CallSnapshot> {
        self.table().live(call).ok().map(LiveCall::snapshot)
    }

    /// At most `limit` live calls that are wanted and began before the call `before`, the newest first.
    pub fn list(
        &self,
        before: Option<&CallId>,
        limit: usize,
        is_wanted: impl Fn(&CallFacts, &CallStatus) -> bool,
    ) -> Vec<CallSnapshot> {
        let up_to = before.map_or(Bound::Unbounded, Bound::Excluded);
        let table = self.table();
        let calls = table.live.range::<CallId, _>((Bound::Unbounded, up_to)).rev();
        let live = calls.map(|(_, live)| live).filter(|live| is_wanted(&live.facts, &live.status.borrow()));
        live.take(limit).map(LiveCall::snapshot).collect()
    }

    /// The last outcome of reaching each agent, and the calls that it is in.
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

    /// Refuses new calls, at Meta, from now on, and takes no more from the queue.
    pub fn drain(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
        self.0.queue.wake();
    }

    /// Ends all calls; [`Calls::all_ended`] waits for their ends.
    pub fn hang_up_all(&self, reason: &EndReason) {
        for live in self.table().live.values() {
            // An earlier end may be on its way to the session.
            live.session.end(Input::HangUp(reason.clone()));
        }
    }

    /// Waits until no call lives.
    pub async fn all_ended(&self) {
        loop {
            let ended = self.0.ended.notified();
            tokio::pin!(ended);
            // Registered before the count, so that an end in between is not missed.
            ended.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            ended.await;
        }
    }

    fn table(&self) -> MutexGuard<'_, CallTable> {
        self.0.table.lock()
    }
}

async fn answer_of<T>(reply: oneshot::Receiver<Result<T, Refusal>>) -> Result<T, Refusal> {
    match tokio::time::timeout(PERFORMED_WITHIN, reply).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) => Err(has_ended()),
        Err(_) => Err(Refusal::new(RefusalCode::NoAnswer, "the call does not answer")),
    }
}

fn has_ended() -> Refusal {
    Refusal::new(RefusalCode::CallEnded, "the call has ended")
}
