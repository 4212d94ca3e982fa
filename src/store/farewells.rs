//! Farewells: ends of calls that Meta has not confirmed yet, kept until it has.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::writer::{InTrouble, Job, Queue};
use super::{Store, StoreError, at_of, ms_of};

/// What Meta is to be told of a call that is over.
#[derive(Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Our id of the call.
    pub call_id: String,
    /// Meta's id of it, which is personal data.
    pub wacid: String,
    /// The business number.
    pub phone_number_id: String,
    /// How the call ends.
    pub action: FarewellAction,
}

/// How a call ends at Meta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FarewellAction {
    /// Meta has no answer of ours.
    Reject,
    /// Meta has one, or may have.
    Terminate,
}

/// One of those that wait.
pub struct WaitingFarewell {
    /// What to say.
    pub farewell: Farewell,
    /// The call ended.
    pub began_at: SystemTime,
    /// Tries so far.
    pub attempts: u32,
}

/// Those that wait, and which of them are due.
pub struct FarewellBook {
    /// To be said now, the one that is due for the longest first.
    pub due: Vec<WaitingFarewell>,
    /// How many wait, those that are due included.
    pub waiting: usize,
    /// When the oldest of them began.
    pub oldest: Option<SystemTime>,
    /// When the next is due.
    pub next_due_at: Option<SystemTime>,
}

impl FarewellAction {
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
    /// Notes what Meta is to be told, from `due_at` on unless it is done before. Never waits; what finds no room is
    /// counted and logged.
    pub fn farewell_began(&self, farewell: Farewell, due_at: SystemTime) {
        let (now, due_at) = (ms_of(SystemTime::now()), ms_of(due_at));
        let bytes = farewell.wacid.len() + 512;
        let job = Job::new(bytes, move |connection| add(connection, &farewell, now, due_at));
        // The queue has counted and told it.
        let _ = self.0.queue.send(job, Queue::CALLS_SHARE);
    }

    /// Meta knows, or never will. Never waits.
    pub fn farewell_done(&self, call_id: &str) {
        let call_id = call_id.to_owned();
        let job = Job::new(256, move |connection| {
            connection.prepare_cached("DELETE FROM farewells WHERE call_id = ?1")?.execute([&call_id])?;
            Ok(())
        });
        // The queue has counted and told it; Meta is told once more then, which does no harm.
        let _ = self.0.queue.send(job, Queue::CALLS_SHARE);
    }

    /// Notes that a try has failed, and when the next is due; returns once it is committed.
    pub async fn farewell_failed(&self, call_id: &str, due_at: SystemTime) -> Result<(), StoreError> {
        let (call_id, due_at) = (call_id.to_owned(), ms_of(due_at));
        self.ask(InTrouble::Refuse, move |connection| {
            connection
                .prepare_cached("UPDATE farewells SET due_at = ?2, attempts = attempts + 1 WHERE call_id = ?1")?
                .execute(params![call_id, due_at])?;
            Ok(())
        })
        .await
    }

    /// What waits, with at most `limit` of those that are due. One that is due later than `longest_wait` from now is due
    /// as well: the clock has been set back.
    pub async fn farewells(&self, limit: usize, longest_wait: Duration) -> Result<FarewellBook, StoreError> {
        let now = SystemTime::now();
        let (now, latest) = (ms_of(now), ms_of(now + longest_wait));
        self.read(move |connection| book(connection, now, latest, limit)).await
    }
}

/// A call ends once, so the first word stays.
fn add(connection: &Connection, farewell: &Farewell, now: i64, due_at: i64) -> rusqlite::Result<()> {
    let Farewell { call_id, wacid, phone_number_id, action } = farewell;
    connection
        .prepare_cached(
            "INSERT OR IGNORE INTO farewells (call_id, wacid, phone_number_id, action, began_at, due_at, attempts)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, 0)",
        )?
        .execute(params![call_id, wacid, phone_number_id, action.name(), now, due_at])?;
    Ok(())
}

/// Meta itself says that the call is over.
pub(super) fn forget(connection: &Connection, wacid: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM farewells WHERE wacid = ?1")?.execute([wacid])?;
    Ok(())
}

/// Those that the process before has left are due at once.
pub(super) fn hurry(connection: &Connection, now: i64) -> rusqlite::Result<()> {
    connection.execute("UPDATE farewells SET due_at = ?1", [now]).map(drop)
}

fn book(connection: &Connection, now: i64, latest: i64, limit: usize) -> rusqlite::Result<FarewellBook> {
    let (waiting, oldest): (i64, Option<i64>) = connection
        .prepare_cached("SELECT count(*), min(began_at) FROM farewells")?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let mut due = connection.prepare_cached(
        "SELECT call_id, wacid, phone_number_id, action, began_at, attempts FROM farewells
         WHERE due_at <= ?1 OR due_at > ?2 ORDER BY due_at LIMIT ?3",
    )?;
    let due = due.query_map(params![now, latest, limit as i64], read)?.collect::<Result<_, _>>()?;
    let next = connection
        .prepare_cached("SELECT due_at FROM farewells WHERE due_at > ?1 ORDER BY due_at LIMIT 1")?
        .query_row([now], |row| row.get::<_, i64>(0))
        .optional()?;
    let waiting = usize::try_from(waiting).unwrap_or(0);
    Ok(FarewellBook { due, waiting, oldest: oldest.map(at_of), next_due_at: next.map(at_of) })
}

fn read(row: &Row<'_>) -> rusqlite::Result<WaitingFarewell> {
    let farewell = Farewell {
        call_id: row.get(0)?,
        wacid: row.get(1)?,
        phone_number_id: row.get(2)?,
        action: FarewellAction::of_name(&row.get::<_, String>(3)?),
    };
    Ok(WaitingFarewell { farewell, began_at: at_of(row.get(4)?), attempts: row.get(5)? })
}
