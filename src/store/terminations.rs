//! Terminations: `terminate` and `reject` requests that Meta has not confirmed yet.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::job::{InTrouble, Job};
use super::write_queue::Queue;
use super::{Store, StoreError, at_of, ms_of};
use crate::clock;

/// The request that ends a call at Meta.
#[derive(Clone, PartialEq, Eq)]
pub struct Termination {
    /// Our id of the call.
    pub call_id: String,
    /// Meta's id of it, which is personal data.
    pub wacid: String,
    /// The business number.
    pub phone_number_id: String,
    /// How the call ends.
    pub action: TerminationAction,
}

/// How a call ends at Meta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminationAction {
    /// Meta has no answer of ours.
    Reject,
    /// Meta has one, or may have.
    Terminate,
}

/// A request that is not confirmed.
pub struct PendingTermination {
    /// What to send.
    pub termination: Termination,
    /// When the call ended.
    pub began_at: SystemTime,
    /// Attempts so far.
    pub attempts: u32,
}

/// All that are pending, and which of them are due.
pub struct TerminationQueue {
    /// To be sent now, the longest due first.
    pub due: Vec<PendingTermination>,
    /// How many are pending, due ones included.
    pub waiting: usize,
    /// When the oldest of them began.
    pub oldest: Option<SystemTime>,
    /// When the next is due.
    pub next_due_at: Option<SystemTime>,
}

impl TerminationAction {
    fn name(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Terminate => "terminate",
        }
    }

    fn of_name(name: &str) -> Self {
        if name == "reject" { Self::Reject } else { Self::Terminate }
    }
}

impl Store {
    /// Stores a request, due from `due_at` on unless it is done before. Never waits; a full queue is counted and logged.
    pub fn termination_began(&self, termination: Termination, due_at: SystemTime) {
        let (now, due_at) = (ms_of(clock::wall()), ms_of(due_at));
        let bytes = termination.wacid.len() + 512;
        let job = Job::new(bytes, move |connection| add(connection, &termination, now, due_at));
        // The queue has counted and logged it.
        let _ = self.0.queue.send(job, Queue::CALLS_SHARE);
    }

    /// Meta has confirmed it, or never will. Never waits.
    pub fn termination_done(&self, call_id: &str) {
        let call_id = call_id.to_owned();
        let job = Job::new(256, move |connection| {
            connection.prepare_cached("DELETE FROM terminations WHERE call_id = ?1")?.execute([&call_id])?;
            Ok(())
        });
        // The queue has counted and logged it; one more attempt then does no harm.
        let _ = self.0.queue.send(job, Queue::CALLS_SHARE);
    }

    /// Stores that an attempt has failed and when the next is due; returns once committed.
    pub async fn termination_failed(&self, call_id: &str, due_at: SystemTime) -> Result<(), StoreError> {
        let (call_id, due_at) = (call_id.to_owned(), ms_of(due_at));
        self.ask(InTrouble::Refuse, move |connection| {
            connection
                .prepare_cached("UPDATE terminations SET due_at = ?2, attempts = attempts + 1 WHERE call_id = ?1")?
                .execute(params![call_id, due_at])?;
            Ok(())
        })
        .await
    }

    /// All that are pending, with at most `limit` of those that are due. One that is due later than `longest_wait` from
    /// now is due as well: the clock has been set back.
    pub async fn terminations(&self, limit: usize, longest_wait: Duration) -> Result<TerminationQueue, StoreError> {
        let now = clock::wall();
        let (now, latest) = (ms_of(now), ms_of(now + longest_wait));
        self.read(move |connection| queue(connection, now, latest, limit)).await
    }
}

/// A call ends once, so the first request stays.
fn add(connection: &Connection, termination: &Termination, now: i64, due_at: i64) -> rusqlite::Result<()> {
    let Termination { call_id, wacid, phone_number_id, action } = termination;
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO terminations (call_id, wacid, phone_number_id, action, began_at, due_at, attempts)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
        )?
        .execute(params![call_id, wacid, phone_number_id, action.name(), now, due_at])?;
    Ok(())
}

/// Meta itself says that the call is over.
pub(super) fn forget(connection: &Connection, wacid: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM terminations WHERE wacid = ?1")?.execute([wacid])?;
    Ok(())
}

/// Those of the previous process are due at once.
pub(super) fn hurry(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE terminations SET due_at = ?1", [now]).map(drop)
}

fn queue(connection: &Connection, now: i64, latest: i64, limit: usize) -> rusqlite::Result<TerminationQueue> {
    let (waiting, oldest): (i64, Option<i64>) = connection
        .prepare_cached("SELECT count(*), min(began_at) FROM terminations")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut due = connection.prepare_cached(
        "SELECT call_id, wacid, phone_number_id, action, began_at, attempts FROM terminations
         WHERE due_at <= ?1 OR due_at > ?2 ORDER BY due_at LIMIT ?3",
    )?;
    let due = due.query_map(params![now, latest, limit as i64], read)?.collect::<Result<_, _>>()?;
    let next = connection
        .prepare_cached("SELECT due_at FROM terminations WHERE due_at > ?1 ORDER BY due_at LIMIT 1")?
        .query_row([now], |row| row.get::<_, i64>(0))
        .optional()?;
    let waiting = usize::try_from(waiting).unwrap_or(0);
    Ok(TerminationQueue { due, waiting, oldest: oldest.map(at_of), next_due_at: next.map(at_of) })
}

fn read(row: &Row<'_>) -> rusqlite::Result<PendingTermination> {
    let termination = Termination {
        call_id: row.get(0)?,
        wacid: row.get(1)?,
        phone_number_id: row.get(2)?,
        action: TerminationAction::of_name(&row.get::<_, String>(3)?),
    };
    Ok(PendingTermination { termination, began_at: at_of(row.get(4)?), attempts: row.get(5)? })
}
