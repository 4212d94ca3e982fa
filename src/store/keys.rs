//! Idempotency keys: a repeated request is performed once and gets the same response.

use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, params};

/// How long a response is kept.
pub(super) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What to do with a request that has an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// A new request: perform it, then [`Store::remember`](super::Store::remember) the response.
    New,
    /// A repeated request: give this response again.
    Replay {
        /// The HTTP status.
        status: u16,
        /// The body.
        body: Vec<u8>,
    },
    /// The key was used for a different request.
    Conflict,
    /// The first request is still in progress.
    InProgress,
}

/// Claims the key for a request, or finds its earlier use.
pub(super) fn claim(
    connection: &Connection,
    key_id: &str,
    key: &str,
    request_digest: &[u8],
    now: i64,
) -> rusqlite::Result<Claim> {
    let oldest = now.saturating_sub_unsigned(KEPT.as_millis() as u64);
    let mut find = connection.prepare_cached(
        "SELECT request_digest, status, body FROM idempotency_keys WHERE key_id = ?1 AND key = ?2 AND claimed_at > ?3",
    )?;
    let found = find
        .query_row(params![key_id, key, oldest], |row| {
            Ok((row.get::<_, Vec<u8>>(0)?, row.get::<_, Option<u16>>(1)?, row.get::<_, Option<Vec<u8>>>(2)?))
        })
        .optional()?;
    match found {
        Some((digest, ..)) if digest != request_digest => Ok(Claim::Conflict),
        Some((_, Some(status), body)) => Ok(Claim::Replay { status, body: body.unwrap_or_default() }),
        Some((_, None, _)) => Ok(Claim::InProgress),
        None => {
            connection
                .prepare_cached(
                    "INSERT OR REPLACE INTO idempotency_keys (key_id, key, request_digest, claimed_at)
                     VALUES (?1, ?2, ?3, ?4)",
                )?
                .execute(params![key_id, key, request_digest, now])?;
            Ok(Claim::New)
        }
    }
}

pub(super) fn remember(
    connection: &Connection,
    key_id: &str,
    key: &str,
    status: u16,
    body: &[u8],
) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE idempotency_keys SET status = ?3, body = ?4 WHERE key_id = ?1 AND key = ?2")?
        .execute(params![key_id, key, status, body])?;
    Ok(())
}

pub(super) fn forget(connection: &Connection, key_id: &str, key: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("DELETE FROM idempotency_keys WHERE key_id = ?1 AND key = ?2 AND status IS NULL")?
        .execute(params![key_id, key])?;
    Ok(())
}

/// Forgets requests that were in progress when the previous process ended.
pub(super) fn forget_unanswered(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("DELETE FROM idempotency_keys WHERE status IS NULL", []).map(drop)
}
