//! Data that outlives the process, in one SQLite file: call records, recordings, events to deliver, idempotency keys.
//!
//! [`Store`] is a handle. One thread owns the writing connection and commits waiting writes in groups; a second
//! connection reads and never blocks the writer. No call waits for the disk, except in
//! [`Written::confirmed`], which has a deadline. While the file cannot be written (a full disk), calls go on and
//! their records wait in memory, bounded by [`StoreOptions::most_waiting`].

mod schema;
mod writer;
mod write_queue;
mod job;
mod calls;
mod arrivals;
mod terminations;
mod queued_calls;
mod recordings;
mod outbox;
mod permissions;
mod delivery_clock;
mod keys;
mod status_callbacks;
mod retention;

pub use arrivals::{Arrival, Unanswered, WacidDigest, Written, wacid_digest};
pub use calls::{CallEnd, CallFilter, CallRecord, CallState};
pub use keys::Claim;
pub use outbox::{
    DeadLetter, DeadLetterFilter, Delivery, Endpoint, EventRecord, FORWARD, Forward, Kinds, Replay, Settlement,
    StoredEvent,
};
pub use permissions::PermissionFact;
pub use queued_calls::{QUEUED_FOR, QueuePlace, QueueSummary, QueuedCall, QueuedCallFilter};
pub use recordings::{FinishedRecording, RecordingFilter, RecordingRecord};
pub use retention::Retention;
pub use schema::OpenError;
pub use terminations::{PendingTermination, Termination, TerminationAction, TerminationQueue};

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use tokio::sync::{oneshot, watch};
use tracing::{error, warn};

use crate::clock;
use crate::free_space::{FreeBytes, FreeSpace};
use calls::Unwritten;
use delivery_clock::DeliveryClock;
use job::{InTrouble, Job};
use write_queue::{Load, Queue};
use writer::Writer;

/// Deliveries given up or replayed in one batch, so that no call's write waits for long.
const MOVED_AT_ONCE: usize = 1000;

/// The store's file and bounds.
#[derive(Debug, Clone)]
pub struct StoreOptions {
    /// The SQLite file; `-wal`, `-shm` and `.lock` are beside it.
    pub path: PathBuf,
    /// The receivers of events. Every event stored from now on is delivered to each endpoint that takes its kind.
    pub endpoints: Vec<Endpoint>,
    /// Writes that may wait for the disk. Beyond it events are refused; call records may use twice as much.
    pub most_waiting: usize,
    /// The same bound in bytes.
    pub most_waiting_bytes: usize,
    /// Time between attempts while the file cannot be written.
    pub retry_every: Duration,
    /// How long records are kept.
    pub retention: Retention,
    /// The floor of free space on the file's disk, in bytes: below it the store is low; 0 for no floor.
    pub min_free_bytes: u64,
    /// How free space is measured.
    pub free_bytes: FreeBytes,
}

impl StoreOptions {
    /// The usual bounds: 10,000 writes of 64 MiB together.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            endpoints: Vec::new(),
            most_waiting: 10_000,
            most_waiting_bytes: 64 << 20,
            retry_every: Duration::from_secs(1),
            retention: Retention::default(),
            min_free_bytes: 0,
            free_bytes: FreeBytes::default(),
        }
    }
}

/// Why an operation of the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The queue is full: this write was not accepted.
    #[error("the store's queue is full")]
    Full,
    /// The file cannot be written at present. A call's record is written later, anything else is not.
    #[error("the store cannot be written at present")]
    Unwritable,
    /// It may be written later, but not within the deadline.
    #[error("the store did not write in time")]
    TimedOut,
    /// SQLite rejects the write for good; the log says why.
    #[error("the store refuses this record")]
    Refused,
    /// The file cannot be read.
    #[error("the store cannot be read: {0}")]
    Unreadable(String),
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A handle to the store; clones share it.
#[derive(Clone)]
pub struct Store(Arc<Shared>);

struct Shared {
    queue: Queue,
    reader: Arc<Mutex<Connection>>,
    endpoints: Arc<[Endpoint]>,
    /// Position of the last call of the previous process.
    unfinished_up_to: i64,
    positions: watch::Sender<i64>,
    unwritten: Arc<Unwritten>,
    delivery_clock: Mutex<DeliveryClock>,
    /// An offset of our clock in ms, for tests.
    #[cfg(test)]
    clock_set_by: std::sync::atomic::AtomicI64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens or creates the file, migrates it to the current schema and starts the thread. Blocking; call it at the start.
    pub fn open(options: StoreOptions) -> Result<Self, OpenError> {
        let StoreOptions { path, endpoints, most_waiting, most_waiting_bytes, retry_every, retention, .. } = options;
        let schema::Opened { writer: connection, reader, lock } = schema::open(&path)?;
        let disk = FreeSpace::new(path.clone(), options.min_free_bytes, options.free_bytes);
        let endpoints: Arc<[Endpoint]> = endpoints.into();
        let unavailable =
            |error: rusqlite::Error| OpenError::Unavailable { path: path.clone(), reason: error.to_string() };
        take_over(&connection, &endpoints).map_err(unavailable)?;
        let unfinished_up_to = calls::last_position(&connection).map_err(unavailable)?;
        let last = retention::last_position(&connection).map_err(unavailable)?;
        let positions = watch::Sender::new(last);
        let load = Load::new(most_waiting, most_waiting_bytes);
        let (writer, queue) = Writer::new((connection, lock), load, disk, retry_every, retention, positions.clone());
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| OpenError::Unavailable { path: path.clone(), reason: error.to_string() })?;
        let reader = Arc::new(Mutex::new(reader));
        let (thread, unwritten) = (Mutex::new(Some(thread)), Arc::default());
        Ok(Self(Arc::new(Shared {
            queue,
            reader,
            endpoints,
            unfinished_up_to,
            positions,
            unwritten,
            delivery_clock: Mutex::new(DeliveryClock::new(now_ms(), clock::now())),
            #[cfg(test)]
            clock_set_by: std::sync::atomic::AtomicI64::new(0),
            thread,
        })))
    }

    /// Writes everything that waits and ends the thread. Later writes get [`StoreError::Closed`].
    pub async fn close(&self) {
        self.0.queue.close();
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        if !matches!(tokio::task::spawn_blocking(move || thread.join()).await, Ok(Ok(()))) {
            error!("the store's thread did not end cleanly");
        }
    }

    /// Writes the present record of a call. Never waits; a full queue is counted and logged.
    pub fn call_updated(&self, call: CallRecord) {
        let (bytes, call) = (call.size_bytes(), Arc::new(call));
        let saved = call.clone();
        let job = Job::new(bytes, move |connection| calls::save(connection, &saved));
        // The queue has counted and logged it.
        let _ = self.save(job, &call);
    }

    /// Writes the call's record with its end, and the `call.ended` event, atomically. The first end written stays. The
    /// write is confirmed once it would survive a power failure; the end is not published before, because after a power
    /// failure the next process would publish a different one.
    pub fn call_ended(&self, call: CallRecord, event: EventRecord, deadline: Duration) -> Written {
        debug_assert!(call.end.is_some(), "an ended call has an end");
        let (bytes, call) = (call.size_bytes() + event.size_bytes(), Arc::new(call));
        let (saved, endpoints, now) = (call.clone(), self.0.endpoints.clone(), self.delivery_ms());
        let (job, answer) = Job::asking(bytes, InTrouble::KeepAndTell, move |connection| {
            calls::save(connection, &saved)?;
            arrivals::forget_offer(connection, &saved.call_id)?;
            outbox::add_event(connection, &event, &endpoints, now)
        });
        let sent = self.save(job.durable().news(), &call);
        arrivals::confirmation(sent, answer, deadline, "the end of a call is published before it is on disk")
    }

    /// Keeps the app's text with a call that has ended. False if no ended call has this id.
    pub async fn set_client_state(&self, call_id: &str, client_state: String) -> Result<bool, StoreError> {
        let call_id = call_id.to_owned();
        self.ask(InTrouble::Refuse, move |connection| calls::set_client_state(connection, &call_id, &client_state))
            .await
    }

    /// From now on reads find the record, in memory or in the file.
    fn save(&self, job: Job, call: &Arc<CallRecord>) -> Result<(), StoreError> {
        let unwritten = self.0.unwritten.clone();
        unwritten.insert(call);
        let written = call.clone();
        let sent = self.0.queue.send(job.then(move || unwritten.remove(&written)), Queue::CALLS_SHARE);
        sent.inspect_err(|_| self.0.unwritten.remove(call))
    }

    /// Stores an event and its deliveries. Never waits; on an error the event is not stored.
    /// The same event again, or a second `call.ended` of a call, changes nothing.
    pub fn event(&self, event: EventRecord) -> Result<(), StoreError> {
        let (bytes, endpoints, now) = (event.size_bytes(), self.0.endpoints.clone(), self.delivery_ms());
        let job = Job::new(bytes, move |connection| outbox::add_event(connection, &event, &endpoints, now));
        self.0.queue.send(job.news(), Queue::USUAL_SHARE)
    }

    /// Whether an endpoint takes [`FORWARD`].
    pub fn forwards(&self) -> bool {
        self.0.endpoints.iter().any(|endpoint| endpoint.kinds.take(FORWARD))
    }

    /// Stores one of Meta's webhooks for every endpoint that takes [`FORWARD`]; returns once it would survive
    /// the end of the process. After [`StoreError::TimedOut`] it may still be written. The same id again changes nothing.
    pub async fn forward(&self, forward: Forward, deadline: Duration) -> Result<(), StoreError> {
        let endpoints = self.0.endpoints.clone();
        let bytes = forward.body.len() + 1024;
        let now = self.delivery_ms();
        let (job, answer) = Job::asking(bytes, InTrouble::Refuse, move |connection| {
            outbox::add_forward(connection, &forward, &endpoints, now)
        });
        self.0.queue.send(job.news(), Queue::USUAL_SHARE)?;
        tokio::time::timeout(deadline, answered(answer)).await.unwrap_or(Err(StoreError::TimedOut))
    }

    /// Claims an idempotency key of the API key `key_id` for the request with this digest.
    pub async fn idempotent(&self, key_id: &str, key: &str, request_digest: [u8; 32]) -> Result<Claim, StoreError> {
        let (key_id, key, now) = (key_id.to_owned(), key.to_owned(), now_ms());
        self.ask(InTrouble::Refuse, move |connection| keys::claim(connection, &key_id, &key, &request_digest, now))
            .await
    }

    /// Keeps the response of a request whose [`Claim`] was new, for 24 h. Respond after it.
    pub async fn remember(&self, key_id: &str, key: &str, status: u16, body: &[u8]) -> Result<(), StoreError> {
        let (key_id, key, body) = (key_id.to_owned(), key.to_owned(), body.to_owned());
        self.ask(InTrouble::KeepAndTell, move |connection| keys::remember(connection, &key_id, &key, status, &body))
            .await
    }

    /// Releases a new claim: the request failed and may be retried.
    pub async fn forget(&self, key_id: &str, key: &str) -> Result<(), StoreError> {
        let (key_id, key) = (key_id.to_owned(), key.to_owned());
        self.ask(InTrouble::KeepAndTell, move |connection| keys::forget(connection, &key_id, &key)).await
    }

    /// Calls that the previous process left without an end, oldest first, after the call `after`. Calls that began
    /// since then are never among them.
    pub async fn unfinished_calls(&self, after: Option<&str>, limit: usize) -> Result<Vec<CallRecord>, StoreError> {
        let (after, up_to) = (after.map(str::to_owned), self.0.unfinished_up_to);
        self.read(move |connection| calls::unfinished(connection, after.as_deref(), up_to, limit)).await
    }

    /// One call by our id, also while its record is not in the file yet.
    pub async fn call(&self, call_id: &str) -> Result<Option<CallRecord>, StoreError> {
        if let Some(call) = self.0.unwritten.get(call_id) {
            return Ok(Some(call));
        }
        let call_id = call_id.to_owned();
        self.read(move |connection| calls::one(connection, &call_id)).await
    }

    /// A page of calls, newest first, including those whose records are not in the file yet.
    pub async fn calls(&self, filter: CallFilter) -> Result<Vec<CallRecord>, StoreError> {
        // The end of a call that is live in the file may be among these.
        let unwritten = self.0.unwritten.shown(&CallFilter { state: None, ..filter.clone() });
        let in_file = CallFilter { limit: filter.limit + unwritten.len(), ..filter.clone() };
        let written = self.read(move |connection| calls::page(connection, &in_file)).await?;
        Ok(calls::merged(unwritten, written, &filter))
    }

    /// Up to `limit` events after a position, oldest first, without forwarded webhooks.
    pub async fn events_after(&self, position: i64, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        self.read(move |connection| outbox::events_after(connection, position, limit)).await
    }

    /// The position of an event, by its id; `None` if it was never stored or has expired.
    pub async fn event_position(&self, id: &str) -> Result<Option<i64>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| outbox::position_of(connection, &id)).await
    }

    /// The position of the last committed event. It changes with every group of events, so a listener waits on it and
    /// then reads [`Store::events_after`].
    pub fn last_position(&self) -> watch::Receiver<i64> {
        self.0.positions.subscribe()
    }

    /// Dead letters, oldest first.
    pub async fn dead_letters(&self, filter: DeadLetterFilter) -> Result<Vec<DeadLetter>, StoreError> {
        self.read(move |connection| outbox::dead_letters(connection, &filter)).await
    }

    /// Queues dead letters of configured endpoints for delivery again; gives their number.
    pub async fn replay(&self, which: Replay) -> Result<usize, StoreError> {
        let mut sum = 0;
        loop {
            let (which, endpoints, now) = (which.clone(), self.0.endpoints.clone(), self.delivery_ms());
            let run = move |connection: &Connection| outbox::replay(connection, &which, &endpoints, now, MOVED_AT_ONCE);
            let (job, answer) = Job::asking(256, InTrouble::Refuse, run);
            self.0.queue.send(job.news(), Queue::USUAL_SHARE)?;
            let revived = answered(answer).await?;
            sum += revived;
            if revived < MOVED_AT_ONCE {
                return Ok(sum);
            }
        }
    }

    /// Number of deliveries that wait for an endpoint, including those in flight.
    pub async fn pending(&self, endpoint: &str) -> Result<usize, StoreError> {
        let endpoint = endpoint.to_owned();
        self.read(move |connection| outbox::pending(connection, &endpoint)).await
    }

    /// Number of writes that wait for the disk.
    pub fn waiting(&self) -> usize {
        self.0.queue.waiting()
    }

    /// Returns once all earlier writes are committed, however long the file cannot be written.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.ask(InTrouble::Keep, |_| Ok(())).await
    }

    /// The due deliveries of an endpoint, at most one for each call, and the time of the next one.
    pub(crate) async fn due(
        &self,
        endpoint: &str,
        now: i64,
        limit: usize,
    ) -> Result<(Vec<Delivery>, Option<i64>), StoreError> {
        let endpoint = endpoint.to_owned();
        self.read(move |connection| {
            let due = outbox::due(connection, &endpoint, now, limit)?;
            Ok((due, outbox::next_due(connection, &endpoint, now)?))
        })
        .await
    }

    /// Stores the outcome of an attempt; returns once committed, so that the call's next event can follow.
    pub(crate) async fn settle(&self, endpoint: &str, position: i64, settlement: Settlement) -> Result<(), StoreError> {
        let endpoint = endpoint.to_owned();
        self.ask(InTrouble::Keep, move |connection| outbox::settle(connection, &endpoint, position, &settlement)).await
    }

    /// Makes everything that waits for an endpoint due now.
    pub(crate) async fn hurry(&self, endpoint: &str, now: i64) -> Result<(), StoreError> {
        let endpoint = endpoint.to_owned();
        self.ask(InTrouble::Refuse, move |connection| outbox::hurry(connection, &endpoint, now)).await
    }

    /// The clock of deliveries, in ms since 1970: it never goes back within a process.
    pub(crate) fn delivery_ms(&self) -> i64 {
        let wall = now_ms();
        #[cfg(test)]
        let wall = wall + self.0.clock_set_by.load(std::sync::atomic::Ordering::Relaxed);
        self.0.delivery_clock.lock().unwrap_or_else(PoisonError::into_inner).read(wall, clock::now())
    }

    /// Shifts our clock by so many ms.
    #[cfg(test)]
    pub(crate) fn set_clock_by(&self, ms: i64) {
        self.0.clock_set_by.store(ms, std::sync::atomic::Ordering::Relaxed);
    }

    /// Makes due now what is due after `latest`: no backoff is that long, so our clock was set back since.
    pub(crate) async fn bring_near(&self, endpoint: &str, now: i64, latest: i64) -> Result<(), StoreError> {
        let endpoint = endpoint.to_owned();
        self.ask(InTrouble::Refuse, move |connection| outbox::bring_near(connection, &endpoint, now, latest)).await
    }

    /// Gives up deliveries that have waited for an endpoint since before `queued_before`; gives their number.
    pub(crate) async fn give_up(&self, endpoint: &str, queued_before: i64, error: &str) -> Result<usize, StoreError> {
        let mut sum = 0;
        loop {
            let (endpoint, error) = (endpoint.to_owned(), error.to_owned());
            let run = move |connection: &Connection| {
                outbox::give_up(connection, &endpoint, queued_before, &error, MOVED_AT_ONCE)
            };
            let dead = self.ask(InTrouble::Refuse, run).await?;
            sum += dead;
            if dead < MOVED_AT_ONCE {
                return Ok(sum);
            }
        }
    }

    /// How long the file has been unwritable; `None` while it can be written.
    pub fn failing_for(&self) -> Option<Duration> {
        self.0.queue.failing_for()
    }

    /// Whether less than the floor is free on the file's disk. The space below it is for writes of live calls.
    pub fn is_low(&self) -> bool {
        self.0.queue.is_low()
    }

    async fn ask<T: Send + 'static>(
        &self,
        in_trouble: InTrouble,
        run: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (job, answer) = Job::asking(1024, in_trouble, run);
        // Settlements make room, so they may use the calls' share.
        let share = if in_trouble == InTrouble::Keep { Queue::CALLS_SHARE } else { Queue::USUAL_SHARE };
        self.0.queue.send(job, share)?;
        answered(answer).await
    }

    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let reader = self.0.reader.clone();
        let outcome = tokio::task::spawn_blocking(move || {
            let connection = reader.lock().unwrap_or_else(PoisonError::into_inner);
            read(&connection)
        });
        match outcome.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(StoreError::Unreadable(error.to_string())),
            Err(_) => Err(StoreError::Closed),
        }
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

async fn answered<T>(answer: oneshot::Receiver<Result<T, StoreError>>) -> Result<T, StoreError> {
    answer.await.unwrap_or(Err(StoreError::Closed))
}

/// Cleans up what the previous process left unfinished.
fn take_over(connection: &Connection, endpoints: &[Endpoint]) -> rusqlite::Result<()> {
    keys::forget_unanswered(connection)?;
    terminations::hurry(connection, now_ms())?;
    let dead = outbox::forget_other_endpoints(connection, endpoints)?;
    if dead > 0 {
        warn!("{dead} deliveries to endpoints that are no longer configured are dead letters now");
    }
    Ok(())
}

pub(crate) fn now_ms() -> i64 {
    ms_of(clock::wall())
}

/// The time with the file's precision, so that it reads the same from memory and file.
pub(crate) fn whole_ms(at: SystemTime) -> SystemTime {
    at_of(ms_of(at))
}

/// Milliseconds since 1970; 0 for an earlier time.
fn ms_of(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn at_of(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests;
