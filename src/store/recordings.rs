//! Records of recordings: their call and their outcome. The audio is in files elsewhere.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};

use super::job::Job;
use super::{Queue, Store, StoreError, at_of, ms_of};
use crate::clock;
use crate::recordings::RecordingResult;

/// The record of one recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordingRecord {
    /// The id, as in the file's name.
    pub id: String,
    /// The recorded call.
    pub call_id: String,
    /// Start of the recording.
    pub began_at: SystemTime,
    /// None while it is being recorded.
    pub finished: Option<FinishedRecording>,
}

/// The outcome of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinishedRecording {
    /// Time at which the file was closed.
    pub at: SystemTime,
    /// Length of the audio.
    pub duration_ms: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// SHA-256 of the file, in hexadecimal; empty if there is no file.
    pub sha256: String,
    /// Whether nothing is missing.
    pub complete: bool,
    /// Why something is missing, for people.
    pub problem: Option<String>,
}

/// Filter of a list of recordings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordingFilter {
    /// Only recordings of this call.
    pub call_id: Option<String>,
    /// Only recordings with a smaller id, that is, those that began earlier.
    pub before: Option<String>,
    /// The most entries.
    pub limit: usize,
}

impl Store {
    /// Stores the start of a recording. Never waits.
    pub fn recording_began(&self, id: &str, call_id: &str) {
        let (id, call_id, now) = (id.to_owned(), call_id.to_owned(), clock::wall());
        self.note(512, move |connection| began(connection, &id, &call_id, now));
    }

    /// Stores the outcome of a recording. Never waits.
    pub fn recording_finished(&self, result: &RecordingResult) {
        let (result, now) = (result.clone(), clock::wall());
        self.note(1024, move |connection| finished(connection, &result, now));
    }

    /// Forgets a recording whose file is deleted. Never waits.
    pub fn recording_deleted(&self, id: &str) {
        let id = id.to_owned();
        self.note(256, move |connection| {
            connection.prepare_cached("DELETE FROM recordings WHERE id = ?1")?.execute([&id]).map(drop)
        });
    }

    /// A page of recordings, newest first.
    pub async fn recordings(&self, filter: RecordingFilter) -> Result<Vec<RecordingRecord>, StoreError> {
        self.read(move |connection| page(connection, &filter)).await
    }

    /// One recording; None if it is unknown, or deleted.
    pub async fn recording(&self, id: &str) -> Result<Option<RecordingRecord>, StoreError> {
        let id = id.to_owned();
        self.read(move |connection| one(connection, &id)).await
    }

    fn note(&self, bytes: usize, run: impl FnMut(&Connection) -> rusqlite::Result<()> + Send + 'static) {
        // The queue has counted and logged it.
        let _ = self.0.queue.send(Job::new(bytes, run), Queue::CALLS_SHARE);
    }
}

fn began(connection: &Connection, id: &str, call_id: &str, at: SystemTime) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO recordings (id, call_id, began_at) VALUES (?1, ?2, ?3)")?
        .execute(params![id, call_id, ms_of(at)])
        .map(drop)
}

fn finished(connection: &Connection, result: &RecordingResult, at: SystemTime) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "UPDATE recordings SET finished_at = :at, duration_ms = :duration_ms, size_bytes = :size_bytes,
            sha256 = :sha256, complete = :complete, problem = :problem
         WHERE id = :id",
    )?;
    let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let values = named_params! {
        ":at": ms_of(at),
        ":duration_ms": number(result.duration_ms),
        ":size_bytes": number(result.size_bytes),
        ":sha256": result.sha256,
        ":complete": result.complete,
        ":problem": result.problem,
        ":id": result.id.as_str(),
    };
    statement.execute(values).map(drop)
}

const COLUMNS: &str = "id, call_id, began_at, finished_at, duration_ms, size_bytes, sha256, complete, problem";

fn one(connection: &Connection, id: &str) -> rusqlite::Result<Option<RecordingRecord>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM recordings WHERE id = ?1"))?;
    statement.query_row([id], read).optional()
}

fn page(connection: &Connection, filter: &RecordingFilter) -> rusqlite::Result<Vec<RecordingRecord>> {
    let call = if filter.call_id.is_some() { "AND call_id = :call" } else { "AND :call IS NULL" };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM recordings
         WHERE id < :before {call} ORDER BY id DESC LIMIT :limit"
    ))?;
    let rows = statement.query_map(
        named_params! {
            ":call": filter.call_id,
            // Greater than every id, which begins with "rec_".
            ":before": filter.before.as_deref().unwrap_or("s"),
            ":limit": filter.limit as i64,
        },
        read,
    )?;
    rows.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<RecordingRecord> {
    let finished_at: Option<i64> = row.get("finished_at")?;
    let number = |name| Ok::<_, rusqlite::Error>(row.get::<_, i64>(name)?.unsigned_abs());
    let finished = match finished_at {
        None => None,
        Some(at) => Some(FinishedRecording {
            at: at_of(at),
            duration_ms: number("duration_ms")?,
            size_bytes: number("size_bytes")?,
            sha256: row.get("sha256")?,
            complete: row.get("complete")?,
            problem: row.get("problem")?,
        }),
    };
    let began_at = at_of(row.get("began_at")?);
    Ok(RecordingRecord { id: row.get("id")?, call_id: row.get("call_id")?, began_at, finished })
}
