//! New calls: their first record with the offer, and the ids of all calls seen in the last day.
//!
//! An offer is kept only until Meta has an answer or the call is over: with it the next process can answer the
//! call. Ids are stored as digests, because an id contains the caller's number.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use rusqlite::{Connection, Row, named_params, params};
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;
use tracing::warn;

use super::job::{InTrouble, Job};
use super::write_queue::Queue;
use super::{CallRecord, EventRecord, Store, StoreError, answered, at_of, calls, ms_of, now_ms, outbox, terminations};
use crate::clock;

/// How long a call's id is kept: longer than Meta retries a webhook.
pub(super) const SEEN_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The digest of Meta's id of a call, stored in its place.
pub type WacidDigest = [u8; 16];

/// Computes the digest of Meta's id of a call.
pub fn wacid_digest(wacid: &str) -> WacidDigest {
    let mut digest = WacidDigest::default();
    digest.copy_from_slice(&Sha256::digest(wacid)[..16]);
    digest
}

/// A new call. It is written atomically.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Its first record.
    pub call: CallRecord,
    /// The offer, for a later answer; `None` for a call that is refused.
    pub offer: Option<String>,
    /// Its `call.incoming`.
    pub incoming: EventRecord,
}

/// A call of the previous process to which Meta has no answer, as far as is known.
pub struct Unanswered {
    /// Its record.
    pub call: CallRecord,
    /// The offer.
    pub offer: String,
    /// Its `call.incoming`.
    pub incoming: EventRecord,
    /// The sequence number of its last event.
    pub sequence: u64,
}

/// A pending write. Clones wait for the same write.
#[derive(Clone)]
pub struct Written(Shared<BoxFuture<'static, Result<(), StoreError>>>);

impl Written {
    /// A write that is already done.
    pub fn already() -> Self {
        Self(async { Ok(()) }.boxed().shared())
    }

    /// Returns once the write would survive the end of the process. It fails at the deadline, or at once while
    /// the file cannot be written; the data is then written as soon as possible.
    pub async fn confirmed(&self) -> Result<(), StoreError> {
        self.0.clone().await
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Written").field(&self.0.peek()).finish()
    }
}

impl Store {
    /// Stores a new call. The write is confirmed once it would survive a power failure.
    pub fn call_began(&self, arrival: Arrival, deadline: Duration) -> Written {
        let Arrival { call, offer, incoming } = arrival;
        let bytes = call.size_bytes() + offer.as_ref().map_or(0, String::len) + incoming.size_bytes();
        let call = Arc::new(call);
        let (saved, endpoints) = (call.clone(), self.0.endpoints.clone());
        let (now, due_at) = (now_ms(), self.delivery_ms());
        let (job, answer) = Job::asking(bytes, InTrouble::KeepAndTell, move |connection| {
            calls::save(connection, &saved)?;
            add(connection, &saved, offer.as_deref(), now)?;
            outbox::add_event(connection, &incoming, &endpoints, due_at)
        });
        let sent = self.save(job.durable().news(), &call);
        confirmation(sent, answer, deadline, "a call goes on before its record is on disk")
    }

    /// Stores that Meta ended a call, seen before or not. Its offer and its pending termination are deleted.
    pub fn call_terminated(&self, wacid: &str, deadline: Duration) -> Written {
        let (digest, wacid, now) = (wacid_digest(wacid), wacid.to_owned(), now_ms());
        let (job, answer) = Job::asking(512, InTrouble::KeepAndTell, move |connection| {
            see(connection, &digest, now)?;
            terminations::forget(connection, &wacid)?;
            connection.prepare_cached("DELETE FROM offers WHERE wacid_digest = ?1")?.execute([digest])?;
            Ok(())
        });
        let sent = self.0.queue.send(job, Queue::CALLS_SHARE);
        confirmation(sent, answer, deadline, "the end of a call is not stored yet")
    }

    /// Stores that Meta has our answer: the next process cannot give another. Never waits.
    pub fn call_answered(&self, call_id: &str) {
        let call_id = call_id.to_owned();
        let job = Job::new(256, move |connection| forget_offer(connection, &call_id));
        // The queue has counted and logged it.
        let _ = self.0.queue.send(job, Queue::CALLS_SHARE);
    }

    /// Calls of the previous process with neither an answer nor an end, oldest first.
    pub async fn unanswered_calls(&self, limit: usize) -> Result<Vec<Unanswered>, StoreError> {
        let up_to = self.0.unfinished_up_to;
        self.read(move |connection| unanswered(connection, up_to, limit)).await
    }

    /// The calls seen in the last day, at most `limit`, newest first, each with its time.
    pub async fn seen_calls(&self, limit: usize) -> Result<Vec<(WacidDigest, SystemTime)>, StoreError> {
        let since = ms_of(clock::wall() - SEEN_FOR);
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT wacid_digest, seen_at FROM seen_calls WHERE seen_at > ?1 ORDER BY seen_at DESC LIMIT ?2",
            )?;
            statement.query_map(params![since, limit as i64], |row| Ok((row.get(0)?, at_of(row.get(1)?))))?.collect()
        })
        .await
    }
}

pub(super) fn confirmation(
    sent: Result<(), StoreError>,
    answer: oneshot::Receiver<Result<(), StoreError>>,
    within: Duration,
    loss: &'static str,
) -> Written {
    let by = tokio::time::Instant::now() + within;
    let confirmed = async move {
        let outcome = match sent {
            Ok(()) => tokio::time::timeout_at(by, answered(answer)).await.unwrap_or(Err(StoreError::TimedOut)),
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            metrics::counter!("patchcord_store_calls_unconfirmed_total").increment(1);
            warn!("{loss}: {error}");
        }
        outcome
    };
    Written(confirmed.boxed().shared())
}

fn add(connection: &Connection, call: &CallRecord, offer: Option<&str>, now: i64) -> rusqlite::Result<()> {
    let Some(digest) = call.description.wacid.as_deref().map(wacid_digest) else { return Ok(()) };
    see(connection, &digest, now)?;
    if let Some(offer) = offer {
        connection
            .prepare_cached("INSERT OR REPLACE INTO offers (call_id, wacid_digest, offer) VALUES (?1, ?2, ?3)")?
            .execute(params![call.call_id, digest, offer])?;
    }
    Ok(())
}

fn see(connection: &Connection, digest: &WacidDigest, now: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO seen_calls (wacid_digest, seen_at) VALUES (?1, ?2)")?
        .execute(params![digest, now])?;
    Ok(())
}

/// Called once Meta has an answer, and at the call's end.
pub(super) fn forget_offer(connection: &Connection, call_id: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM offers WHERE call_id = ?1")?.execute([call_id])?;
    Ok(())
}

fn unanswered(connection: &Connection, up_to: i64, limit: usize) -> rusqlite::Result<Vec<Unanswered>> {
    let columns = calls::COLUMNS.split(", ").map(|column| format!("calls.{column}")).collect::<Vec<_>>().join(", ");
    let mut statement = connection.prepare(&format!(
        "SELECT {columns}, offers.offer, events.id, events.sequence, events.kind, events.body,
            (SELECT max(sequence) FROM events AS told WHERE told.call_id = calls.call_id) AS last_sequence
         FROM calls JOIN offers ON offers.call_id = calls.call_id
            JOIN events ON events.call_id = calls.call_id AND events.kind = 'call.incoming'
         WHERE calls.ended_at IS NULL AND calls.position <= :up_to ORDER BY calls.position LIMIT :limit"
    ))?;
    let read = |row: &Row<'_>| {
        let call = calls::read(row)?;
        let incoming = EventRecord {
            id: row.get("id")?,
            call_id: call.call_id.clone(),
            sequence: row.get::<_, i64>("sequence")?.unsigned_abs(),
            kind: row.get("kind")?,
            body: row.get_ref("body")?.as_blob()?.into(),
        };
        let sequence = row.get::<_, i64>("last_sequence")?.unsigned_abs();
        Ok(Unanswered { call, offer: row.get("offer")?, incoming, sequence })
    };
    statement.query_map(named_params! { ":up_to": up_to, ":limit": limit as i64 }, read)?.collect()
}
