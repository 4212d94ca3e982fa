//! The writing thread: it commits waiting writes in groups and keeps what cannot be written at present.
//!
//! A commit is in the write-ahead log when it returns. Groups are committed with `synchronous=NORMAL`: they survive
//! the end of the process, however sudden, and do not wait for the disk. A group with a durable write
//! is committed with `FULL`, which syncs the log, including all earlier groups.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::job::{InTrouble, Job};
use super::schema::Lock;
use super::write_queue::{Load, Message, Queue};
use super::{Retention, StoreError, retention};
use crate::clock;
use crate::free_space::FreeSpace;
use crate::telemetry::shown;
use crate::throttle::Throttle;

/// Large enough that a commit's cost is shared, small enough that readers see news within milliseconds.
const GROUP: usize = 512;
/// Time between log lines while the file cannot be written.
const TOLD_EVERY: Duration = Duration::from_secs(60);

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
