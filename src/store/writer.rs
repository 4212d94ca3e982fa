//! The writing thread: it commits waiting writes in groups and keeps what cannot be written at present.
//!
//! A commit is in the write-ahead log when it returns. Groups are committed with `synchronous=NORMAL`: they survive
//! the end of the process, however sudden, and do not wait for the disk. A group with a durable write
//! is committed with `FULL`, which syncs the log, including all earlier groups.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::{oneshot, watch};
use tracing::{error, info, warn};

use super::schema::Lock;
use super::{Retention, StoreError, retention};
use crate::clock;
use crate::free_space::FreeSpace;
use crate::telemetry::shown;
use crate::throttle::Throttle;

/// Large enough that a commit's cost is shared, small enough that readers see news within milliseconds.
const GROUP: usize = 512;
/// Time between log lines while the file cannot be written.
const TOLD_EVERY: Duration = Duration::from_secs(60);

/// One write, and the reply to its caller.
pub(super) struct Job {
    work: Box<dyn Work>,
    bytes: usize,
    /// Whether the commit must survive a power failure.
    is_durable: bool,
    /// Whether it adds events for deliverers and listeners.
    is_news: bool,
    in_trouble: InTrouble,
}

/// What happens to a write while the file cannot be written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum InTrouble {
    /// The write waits in memory, and the caller waits for it.
    Keep,
    /// The write waits in memory; the caller gets an error at once.
    KeepAndTell,
    /// The write is dropped; the caller gets an error at once.
    Refuse,
}

impl Job {
    /// A write without a reply.
    pub(super) fn new(bytes: usize, mut run: impl FnMut(&Connection) -> rusqlite::Result<()> + Send + 'static) -> Self {
        let work = Asked { run: move |connection: &Connection| run(connection), answer: None, reply: None };
        Self { work: Box::new(work), bytes, is_durable: false, is_news: false, in_trouble: InTrouble::Keep }
    }

    /// A write with a reply. `run` may run again after a failed commit; only the last result counts.
    pub(super) fn asking<T: Send + 'static>(
        bytes: usize,
        in_trouble: InTrouble,
        run: impl FnMut(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (reply, answer) = oneshot::channel();
        let work = Asked { run, answer: None, reply: Some(reply) };
        (Self { work: Box::new(work), bytes, is_durable: false, is_news: false, in_trouble }, answer)
    }

    pub(super) fn durable(self) -> Self {
        Self { is_durable: true, ..self }
    }

    pub(super) fn news(self) -> Self {
        Self { is_news: true, ..self }
    }

    /// Adds a callback that runs on the thread once the write is committed or rejected for good.
    pub(super) fn then(self, done: impl FnOnce() + Send + 'static) -> Self {
        Self { work: Box::new(Followed { work: self.work, done: Some(done) }), ..self }
    }
}

trait Work: Send {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()>;
    /// Called once it is committed or rejected for good; possibly earlier with [`StoreError::Unwritable`].
    fn tell(&mut self, outcome: Result<(), StoreError>);
}

struct Asked<T, Run> {
    run: Run,
    answer: Option<T>,
    reply: Option<oneshot::Sender<Result<T, StoreError>>>,
}

impl<T: Send, Run: FnMut(&Connection) -> rusqlite::Result<T> + Send> Work for Asked<T, Run> {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.answer = Some((self.run)(connection)?);
        Ok(())
    }

    fn tell(&mut self, outcome: Result<(), StoreError>) {
        let Some(reply) = self.reply.take() else { return };
        let answer = outcome.and_then(|()| self.answer.take().ok_or(StoreError::Refused));
        // The caller may have given up at its deadline.
        let _ = reply.send(answer);
    }
}

struct Followed<Done> {
    work: Box<dyn Work>,
    done: Option<Done>,
}

impl<Done: FnOnce() + Send> Work for Followed<Done> {
    fn run(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        self.work.run(connection)
    }

    fn tell(&mut self, outcome: Result<(), StoreError>) {
        // An error may be reported before the write is done.
        if matches!(outcome, Ok(()) | Err(StoreError::Refused))
            && let Some(done) = self.done.take()
        {
            done();
        }
        self.work.tell(outcome);
    }
}

/// The queue to the thread. Bounded by count and bytes of everything that is not committed yet, in the channel or
/// kept back by a failure; on overflow a write gets [`StoreError::Full`].
pub(super) struct Queue {
    jobs: Sender<Message>,
    load: Arc<Load>,
}

enum Message {
    Job(Job),
    Close,
    /// Run immediately, outside of any group: tests fill the disk and empty it this way.
    #[cfg(test)]
    Now(Box<dyn FnOnce(&Connection) + Send>),
}

/// Waiting writes, and their bounds.
pub(super) struct Load {
    pub(super) most_jobs: usize,
    pub(super) most_bytes: usize,
    jobs: AtomicUsize,
    bytes: AtomicUsize,
    is_full_told: AtomicBool,
    /// Start of the present failure to write the file.
    failing_since: Mutex<Option<Instant>>,
    /// Whether less than the floor is free on the disk.
    is_low: AtomicBool,
}

impl Load {
    pub(super) fn new(most_jobs: usize, most_bytes: usize) -> Self {
        let (jobs, bytes) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (is_full_told, failing_since) = (AtomicBool::new(false), Mutex::new(None));
        let is_low = AtomicBool::new(false);
        Self { most_jobs, most_bytes, jobs, bytes, is_full_told, failing_since, is_low }
    }

    fn failing_since(&self) -> Option<Instant> {
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_failing_since(&self, since: Option<Instant>) {
        *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner) = since;
        let failing_for = since.map_or(Duration::ZERO, |since| since.elapsed());
        metrics::gauge!("patchcord_store_failing_seconds").set(failing_for.as_secs_f64());
    }

    fn reserve(&self, bytes: usize, share: usize) -> bool {
        let jobs = self.jobs.fetch_add(1, Ordering::AcqRel) + 1;
        let bytes_now = self.bytes.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let has_room = jobs <= self.most_jobs * share && bytes_now <= self.most_bytes * share;
        if !has_room {
            self.release(bytes);
        }
        has_room
    }

    fn release(&self, bytes: usize) {
        let left = self.jobs.fetch_sub(1, Ordering::AcqRel) - 1;
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if left < self.most_jobs / 2 {
            self.is_full_told.store(false, Ordering::Release);
        }
    }
}

impl Queue {
    /// The share of call records, in multiples of the bound: a lost call is worse than a lost event.
    pub(super) const CALLS_SHARE: usize = 2;
    /// The share of events and everything else.
    pub(super) const USUAL_SHARE: usize = 1;

    pub(super) fn send(&self, job: Job, share: usize) -> Result<(), StoreError> {
        let bytes = job.bytes;
        if !self.load.reserve(bytes, share) {
            metrics::counter!("patchcord_store_overflows_total").increment(1);
            if !self.load.is_full_told.swap(true, Ordering::AcqRel) {
                error!("the store's queue is full: {} writes wait; refusing new ones", self.load.most_jobs);
            }
            return Err(StoreError::Full);
        }
        self.jobs.send(Message::Job(job)).map_err(|_| {
            self.load.release(bytes);
            StoreError::Closed
        })
    }

    /// Earlier writes are still written.
    pub(super) fn close(&self) {
        // The thread may have ended already.
        let _ = self.jobs.send(Message::Close);
    }

    #[cfg(test)]
    pub(super) fn do_now(&self, run: impl FnOnce(&Connection) + Send + 'static) {
        self.jobs.send(Message::Now(Box::new(run))).expect("the thread lives");
    }

    /// How long the file has been unwritable.
    pub(super) fn failing_for(&self) -> Option<Duration> {
        self.load.failing_since().map(|since| since.elapsed())
    }

    pub(super) fn is_low(&self) -> bool {
        self.load.is_low.load(Ordering::Acquire)
    }

    /// Number of writes that are not committed yet.
    pub(super) fn waiting(&self) -> usize {
        self.load.jobs.load(Ordering::Acquire)
    }
}

/// The state of the thread.
pub(super) struct Writer {
    connection: Connection,
    jobs: Receiver<Message>,
    load: Arc<Load>,
    disk: FreeSpace,
    low_disk_line: Throttle,
    waiting: VecDeque<Job>,
    trouble: Option<Trouble>,
    retry_every: Duration,
    retention: Retention,
    clean_at: Instant,
    positions: watch::Sender<i64>,
    is_full_sync: bool,
    is_closed: bool,
    /// Held while the file is open.
    _lock: Lock,
}

/// The file cannot be written at present.
struct Trouble {
    retry_at: Instant,
    reason: String,
    /// Time of the last log line.
    told_at: Instant,
}

/// Why a group is not committed.
enum Failed {
    /// The file or its disk failed: the same writes can succeed later.
    File(String),
    /// One of the writes can never succeed: a bug of ours.
    Write(String),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        if is_about_the_file(&error) { Self::File(error.to_string()) } else { Self::Write(error.to_string()) }
    }
}

impl Writer {
    pub(super) fn new(
        (connection, lock): (Connection, Lock),
        load: Load,
        disk: FreeSpace,
        retry_every: Duration,
        retention: Retention,
        positions: watch::Sender<i64>,
    ) -> (Self, Queue) {
        let (sender, jobs) = mpsc::channel();
        let load = Arc::new(load);
        let queue = Queue { jobs: sender, load: load.clone() };
        let mut writer = Self {
            connection,
            jobs,
            load,
            disk,
            low_disk_line: Throttle::default(),
            waiting: VecDeque::new(),
            trouble: None,
            retry_every,
            retention,
            clean_at: clock::now(),
            positions,
            // SQLite's default.
            is_full_sync: true,
            is_closed: false,
            _lock: lock,
        };
        // Before the first call, in case the disk is low at the start.
        writer.watch_disk();
        (writer, queue)
    }

    /// Runs until the queue is closed.
    pub(super) fn run(mut self) {
        while !self.is_closed {
            self.collect();
            self.watch_disk();
            if self.is_closed {
                self.trouble = self.trouble.map(|trouble| Trouble { retry_at: clock::now(), ..trouble });
            }
            self.write();
            self.clean();
        }
        if !self.waiting.is_empty() {
            error!("{} records are lost: the store could not be written before the end", self.waiting.len());
        }
        // Moves the write-ahead log into the file, so that a copy of the file is complete.
        if let Err(error) = self.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
            info!("the store's write-ahead log stays beside it until the next start: {error}");
        }
    }

    /// Waits for work and takes a group of it.
    fn collect(&mut self) {
        let wake_at = self.trouble.as_ref().map_or(self.clean_at, |trouble| trouble.retry_at);
        let wake_at = self.disk.look_at().map_or(wake_at, |look_at| wake_at.min(look_at));
        match self.jobs.recv_timeout(wake_at.saturating_duration_since(clock::now())) {
            Ok(message) => self.take(message),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => self.is_closed = true,
        }
        while self.waiting.len() < GROUP || self.trouble.is_some() || self.is_closed {
            let Ok(message) = self.jobs.try_recv() else { break };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Job(job) => self.waiting.push_back(job),
            Message::Close => self.is_closed = true,
            #[cfg(test)]
            Message::Now(run) => run(&self.connection),
        }
    }

    fn watch_disk(&mut self) {
        let now = clock::now();
        let is_low = self.disk.is_low(now);
        if self.load.is_low.swap(is_low, Ordering::AcqRel) == is_low {
            return;
        }
        metrics::gauge!("patchcord_store_disk_low").set(if is_low { 1.0 } else { 0.0 });
        match (is_low, self.low_disk_line.admit(now)) {
            (true, Some(_)) => error!(
                "less than store.min_free is left on the store's disk: new calls are rejected until there is room; live \
                 calls go on"
            ),
            (false, _) => info!("the store's disk has room again: new calls are taken"),
            (true, None) => {}
        }
    }

    fn write(&mut self) {
        if self.trouble.as_ref().is_some_and(|trouble| clock::now() < trouble.retry_at) {
            self.turn_away();
            return;
        }
        if self.trouble.is_some() && self.waiting.is_empty() && !self.is_closed {
            return self.probe();
        }
        while !self.waiting.is_empty() {
            let mut group: Vec<Job> = self.waiting.drain(..self.waiting.len().min(GROUP)).collect();
            match self.commit(&mut group) {
                Ok(()) => self.committed(group),
                Err(Failed::File(reason)) => return self.put_back(group, reason),
                Err(Failed::Write(_)) if group.len() > 1 => {
                    if let Err((rest, reason)) = self.write_one_by_one(group) {
                        return self.put_back(rest, reason);
                    }
                }
                Err(Failed::Write(reason)) => self.refuse(group, &reason),
            }
        }
    }

    /// A write that fails would fail its whole group, so each is committed alone. Returns what a failing file left undone.
    fn write_one_by_one(&mut self, group: Vec<Job>) -> Result<(), (Vec<Job>, String)> {
        let mut jobs = group.into_iter();
        while let Some(job) = jobs.next() {
            let mut single = vec![job];
            match self.commit(&mut single) {
                Ok(()) => self.committed(single),
                Err(Failed::File(reason)) => {
                    single.extend(jobs);
                    return Err((single, reason));
                }
                Err(Failed::Write(reason)) => self.refuse(single, &reason),
            }
        }
        Ok(())
    }

    fn commit(&mut self, group: &mut [Job]) -> Result<(), Failed> {
        let is_full_sync = group.iter().any(|job| job.is_durable);
        if is_full_sync != self.is_full_sync {
            self.connection.pragma_update(None, "synchronous", if is_full_sync { "full" } else { "normal" })?;
            self.is_full_sync = is_full_sync;
        }
        // Rolls back if dropped without a commit.
        let transaction = self.connection.transaction()?;
        for job in group {
            // An uncaught panic would end the thread and lose every later write.
            let done = catch_unwind(AssertUnwindSafe(|| job.work.run(&transaction)));
            done.map_err(|_| Failed::Write("a panic".to_owned()))??;
        }
        Ok(transaction.commit()?)
    }

    /// Rewrites an existing value to see whether the file can be written again, although nothing waits.
    fn probe(&mut self) {
        let rewrite = |connection: &Connection| {
            let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
            connection.pragma_update(None, "user_version", version)
        };
        match rewrite(&self.connection) {
            Ok(()) => self.committed(Vec::new()),
            Err(error) => self.put_back(Vec::new(), error.to_string()),
        }
    }

    fn committed(&mut self, group: Vec<Job>) {
        if self.trouble.take().is_some() {
            self.load.set_failing_since(None);
            info!("the store can be written again; writing {} waiting records", group.len() + self.waiting.len());
        }
        let has_news = group.iter().any(|job| job.is_news);
        for mut job in group {
            self.load.release(job.bytes);
            job.work.tell(Ok(()));
        }
        if has_news {
            let last = retention::last_position(&self.connection).unwrap_or(0);
            self.positions.send_replace(last);
        }
    }

    fn put_back(&mut self, group: Vec<Job>, reason: String) {
        for job in group.into_iter().rev() {
            self.waiting.push_front(job);
        }
        metrics::counter!("patchcord_store_failures_total").increment(1);
        let now = clock::now();
        self.load.set_failing_since(self.load.failing_since().or(Some(now)));
        let told_at = self.trouble.as_ref().filter(|trouble| trouble.reason == reason).map(|trouble| trouble.told_at);
        let told_at = told_at.filter(|told_at| now.saturating_duration_since(*told_at) < TOLD_EVERY);
        if told_at.is_none() {
            error!(
                "the store has been unwritable for {}: {reason}; calls go on, up to {} records are kept in memory \
                 and written when it works again",
                shown(self.load.failing_since().unwrap_or(now).elapsed()),
                self.load.most_jobs
            );
        }
        self.trouble = Some(Trouble { retry_at: now + self.retry_every, reason, told_at: told_at.unwrap_or(now) });
        self.turn_away();
    }

    /// Fails the writes that must not wait for the file.
    fn turn_away(&mut self) {
        let load = &self.load;
        self.waiting.retain_mut(|job| {
            let stays = job.in_trouble != InTrouble::Refuse;
            if !stays {
                load.release(job.bytes);
            }
            if job.in_trouble != InTrouble::Keep {
                job.work.tell(Err(StoreError::Unwritable));
            }
            stays
        });
    }

    /// The write can never succeed: a bug of ours.
    fn refuse(&self, group: Vec<Job>, reason: &str) {
        for mut job in group {
            metrics::counter!("patchcord_store_refused_total").increment(1);
            error!("bug: a record is lost, because SQLite rejects it: {reason}");
            self.load.release(job.bytes);
            job.work.tell(Err(StoreError::Refused));
        }
    }

    /// Deletes a small batch of expired records between two groups.
    fn clean(&mut self) {
        let now = clock::now();
        if now < self.clean_at || self.trouble.is_some() || self.is_closed {
            return;
        }
        let wait = match retention::clean(&mut self.connection, &self.retention, super::now_ms()) {
            Ok(0) => self.retention.every,
            // More may have expired, but writes come first.
            Ok(_) => Duration::from_millis(20).min(self.retention.every),
            Err(error) => {
                warn!("cannot delete expired records: {error}");
                self.retention.every
            }
        };
        self.clean_at = now + wait;
    }
}

/// Whether the file or its disk failed, so that the same write can succeed later.
fn is_about_the_file(error: &rusqlite::Error) -> bool {
    use ErrorCode as Code;
    matches!(
        error.sqlite_error_code(),
        Some(
            Code::DiskFull
                | Code::ReadOnly
                | Code::SystemIoFailure
                | Code::CannotOpen
                | Code::DatabaseBusy
                | Code::DatabaseLocked
                | Code::DatabaseCorrupt
                | Code::NotADatabase
                | Code::PermissionDenied
                | Code::AuthorizationForStatementDenied
                | Code::OutOfMemory
                | Code::FileLockingProtocolFailed
                | Code::NoLargeFileSupport
        )
    )
}
