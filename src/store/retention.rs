//! Deletes expired records, in batches so small that no call's write waits for long.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::{arrivals, keys};

/// Rows of each table in one batch, which takes a few milliseconds.
const BATCH: i64 = 200;

/// How long records are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// Call records, from the call's end, records of recordings and status callbacks of calls, from their start, and call
    /// permissions, from the last thing learned of them.
    pub calls: Duration,
    /// Events and dead letters, from the time they were stored. Events that wait for delivery are kept.
    pub events: Duration,
    /// Time between two looks.
    pub every: Duration,
}

impl Default for Retention {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { calls: 30 * DAY, events: 7 * DAY, every: Duration::from_secs(60) }
    }
}

/// Deletes one batch and gives the number of rows: 0 means that nothing expired is left.
pub(super) fn clean(connection: &mut Connection, retention: &Retention, now: i64) -> rusqlite::Result<usize> {
    let before = |kept: Duration| now.saturating_sub(i64::try_from(kept.as_millis()).unwrap_or(i64::MAX));
    let transaction = connection.transaction()?;
    let calls = transaction.execute(
        "DELETE FROM calls WHERE position IN
            (SELECT position FROM calls WHERE ended_at IS NOT NULL AND ended_at < ?1 LIMIT ?2)",
        params![before(retention.calls), BATCH],
    )?;
    let recordings = transaction.execute(
        "DELETE FROM recordings WHERE id IN (SELECT id FROM recordings WHERE began_at < ?1 LIMIT ?2)",
        params![before(retention.calls), BATCH],
    )?;
    let events = clean_events(&transaction, before(retention.events))?;
    let keys = transaction.execute(
        "DELETE FROM idempotency_keys WHERE (key_id, key) IN
            (SELECT key_id, key FROM idempotency_keys WHERE claimed_at < ?1 LIMIT ?2)",
        params![before(keys::KEPT), BATCH],
    )?;
    let seen = transaction.execute(
        "DELETE FROM seen_calls WHERE wacid_digest IN
            (SELECT wacid_digest FROM seen_calls WHERE seen_at < ?1 LIMIT ?2)",
        params![before(arrivals::SEEN_FOR), BATCH],
    )?;
    let permissions = transaction.execute(
        "DELETE FROM permissions WHERE id IN (SELECT id FROM permissions WHERE changed_at < ?1 LIMIT ?2)",
        params![before(retention.calls), BATCH],
    )?;
    let callbacks = transaction.execute(
        "DELETE FROM status_callbacks WHERE call_id IN
            (SELECT call_id FROM status_callbacks WHERE named_at < ?1 LIMIT ?2)",
        params![before(retention.calls), BATCH],
    )?;
    transaction.commit()?;
    Ok(calls + recordings + events + keys + seen + permissions + callbacks)
}

fn clean_events(connection: &Connection, before: i64) -> rusqlite::Result<usize> {
    let mut old = connection.prepare_cached(
        "SELECT position FROM events WHERE stored_at < ?1 AND NOT EXISTS
            (SELECT 1 FROM deliveries WHERE deliveries.position = events.position AND deliveries.state < 2) LIMIT ?2",
    )?;
    let positions: Vec<i64> = old.query_map(params![before, BATCH], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for position in &positions {
        connection.prepare_cached("DELETE FROM deliveries WHERE position = ?1")?.execute([position])?;
        connection.prepare_cached("DELETE FROM events WHERE position = ?1")?.execute([position])?;
    }
    Ok(positions.len())
}

/// The last position assigned in the global order of events, whether the event still exists or not.
pub(super) fn last_position(connection: &Connection) -> rusqlite::Result<i64> {
    let mut statement =
        connection.prepare_cached("SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0)")?;
    statement.query_row([], |row| row.get(0))
}
