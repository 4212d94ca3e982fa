//! Events in one global order, and the pending deliveries of each webhook endpoint.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use tracing::warn;

use crate::call::event::CallEvent;
use crate::permissions::PermissionEvent;

/// A receiver of events, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its name, which identifies it across restarts.
    pub name: String,
    /// The kinds it receives.
    pub kinds: Kinds,
}

/// The kinds of events that an endpoint receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kinds {
    /// Every event, but no forwarded webhooks.
    Events,
    /// Exact kinds such as `call.ended`, families such as `call.*`, and [`FORWARD`].
    Only(Vec<String>),
}

/// The kind of a forwarded webhook.
pub const FORWARD: &str = "forward";

impl Kinds {
    /// Whether an event of this kind is delivered.
    pub fn take(&self, kind: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_suffix('*') {
            Some("") => kind != FORWARD,
            Some(family) => kind.starts_with(family),
            None => kind == pattern,
        };
        match self {
            Self::Events => kind != FORWARD,
            Self::Only(patterns) => patterns.iter().any(fits),
        }
    }
}

/// One event as it is stored and sent: serialised once, so that all receivers get the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// `evt_…`
    pub id: String,
    /// Whose event.
    pub call_id: String,
    /// Number of the event within the call, from 1.
    pub sequence: u64,
    /// Such as `call.ended`.
    pub kind: String,
    /// The JSON.
    pub body: Arc<[u8]>,
}

impl EventRecord {
    /// Serialises the event, once.
    pub fn of(event: &CallEvent) -> Self {
        let body = serde_json::to_vec(event).expect("an event is texts, a number and a JSON value");
        Self {
            id: event.id.clone(),
            call_id: event.call_id.as_str().to_owned(),
            sequence: event.sequence,
            kind: event.kind.to_owned(),
            body: body.into(),
        }
    }

    /// Approximate size in memory, for the queue's bound.
    pub(super) fn size_bytes(&self) -> usize {
        self.body.len() + 512
    }
}

/// A webhook of Meta's to forward unchanged, including its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Our unique id of it.
    pub id: String,
    /// Headers to forward, such as `x-hub-signature-256`.
    pub headers: Vec<(String, String)>,
    /// The raw body.
    pub body: Arc<[u8]>,
}

/// One event of the global order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Position in the global order of events; it may have gaps.
    pub position: i64,
    /// `evt_…`
    pub id: String,
    /// Whose event; None of a permission.
    pub call_id: Option<String>,
    /// Such as `call.ended`.
    pub kind: String,
    /// The JSON.
    pub body: Arc<[u8]>,
}

/// A delivery that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event's place in the global order.
    pub position: i64,
    /// The event's id.
    pub id: String,
    /// The event's kind.
    pub kind: String,
    /// Additional headers; only forwarded webhooks have them.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Arc<[u8]>,
    /// Attempts so far.
    pub attempts: u32,
    /// When it was first to be delivered, in ms since 1970.
    pub queued_at: i64,
}

/// The outcome of one attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Acknowledged.
    Delivered,
    /// To be retried.
    Again {
        /// Time of the next attempt, in ms since 1970.
        due_at: i64,
        /// The error, for the operator.
        error: String,
    },
    /// Given up.
    Dead {
        /// The last error.
        error: String,
    },
}

/// A dead delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event's position in the global order.
    pub position: i64,
    /// The endpoint's name.
    pub endpoint: String,
    /// The event's id.
    pub id: String,
    /// The call of the event; None for a forwarded webhook and for a permission.
    pub call_id: Option<String>,
    /// The event's kind.
    pub kind: String,
    /// Number of attempts.
    pub attempts: u32,
    /// When it was first to be delivered.
    pub queued_at: SystemTime,
    /// What went wrong at last.
    pub error: String,
}

/// Filter of a list of dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only this endpoint's.
    pub endpoint: Option<String>,
    /// Only those after this position and endpoint.
    pub after: Option<(i64, String)>,
    /// The most entries.
    pub limit: usize,
}

/// Which dead letters to replay; all of them by default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Only those of this endpoint.
    pub endpoint: Option<String>,
    /// Only these events, by id.
    pub events: Option<Vec<String>>,
}

/// Stores an event and its deliveries. The same event again, or a second end of a call, changes nothing.
pub(super) fn add_event(
    connection: &Connection,
    event: &EventRecord,
    endpoints: &[Endpoint],
    now: i64,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT OR IGNORE INTO events (id, call_id, sequence, kind, body, stored_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    let sequence = i64::try_from(event.sequence).unwrap_or(i64::MAX);
    if insert.execute(params![event.id, event.call_id, sequence, event.kind, &event.body[..], now])? == 0 {
        metrics::counter!("patchcord_store_double_events_total").increment(1);
        warn!(
            call.id = %event.call_id,
            "event {} of call {} was stored before and is not stored again", event.sequence, event.call_id
        );
        return Ok(());
    }
    add_deliveries(connection, &event.kind, &event.call_id, endpoints, now)
}

/// Stores an event of a person's permission and its deliveries, in the lane of the person.
pub(super) fn add_permission_event(
    connection: &Connection,
    event: &PermissionEvent,
    lane: &str,
    endpoints: &[Endpoint],
    now: i64,
) -> rusqlite::Result<()> {
    let body = serde_json::to_vec(event).expect("an event is texts and a JSON value");
    connection
        .prepare_cached("INSERT INTO events (id, kind, body, stored_at) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![event.id, event.kind, body, now])?;
    add_deliveries(connection, event.kind, lane, endpoints, now)
}

/// Stores a webhook to forward. Meta's webhooks are unordered, so each is a lane of its own.
pub(super) fn add_forward(
    connection: &Connection,
    forward: &Forward,
    endpoints: &[Endpoint],
    now: i64,
) -> rusqlite::Result<()> {
    let mut insert = connection.prepare_cached(
        "INSERT OR IGNORE INTO events (id, kind, headers, body, stored_at) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    let headers = serde_json::to_string(&forward.headers).unwrap_or_default();
    if insert.execute(params![forward.id, FORWARD, headers, &forward.body[..], now])? == 0 {
        return Ok(());
    }
    add_deliveries(connection, FORWARD, &forward.id, endpoints, now)
}

fn add_deliveries(
    connection: &Connection,
    kind: &str,
    lane: &str,
    endpoints: &[Endpoint],
    now: i64,
) -> rusqlite::Result<()> {
    let position = connection.last_insert_rowid();
    let mut insert = connection.prepare_cached(
        "INSERT INTO deliveries (endpoint, position, lane, state, attempts, due_at, queued_at)
         VALUES (?1, ?2, ?3,
            NOT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_lane
                WHERE endpoint = ?1 AND lane = ?3 AND state < 2), 0, ?4, ?4)",
    )?;
    for endpoint in endpoints.iter().filter(|endpoint| endpoint.kinds.take(kind)) {
        insert.execute(params![endpoint.name, position, lane, now])?;
    }
    Ok(())
}

/// Stores the outcome of an attempt, and makes the next delivery of its lane due if this one is finished.
pub(super) fn settle(
    connection: &Connection,
    endpoint: &str,
    position: i64,
    settlement: &Settlement,
) -> rusqlite::Result<()> {
    let mut find =
        connection.prepare_cached("SELECT lane FROM deliveries WHERE endpoint = ?1 AND position = ?2 AND state > 0")?;
    let Some(lane) = find.query_row(params![endpoint, position], |row| row.get::<_, String>(0)).optional()? else {
        // It was replayed in the meantime, behind another delivery.
        return Ok(());
    };
    match settlement {
        Settlement::Delivered => {
            connection
                .prepare_cached("DELETE FROM deliveries WHERE endpoint = ?1 AND position = ?2")?
                .execute(params![endpoint, position])?;
            free_lane(connection, endpoint, &lane)
        }
        Settlement::Again { due_at, error } => {
            connection
                .prepare_cached(
                    "UPDATE deliveries SET attempts = attempts + 1, due_at = ?3, last_error = ?4
                     WHERE endpoint = ?1 AND position = ?2",
                )?
                .execute(params![endpoint, position, due_at, error])?;
            Ok(())
        }
        Settlement::Dead { error } => {
            connection
                .prepare_cached(
                    "UPDATE deliveries SET attempts = attempts + 1, state = 2, last_error = ?3
                     WHERE endpoint = ?1 AND position = ?2",
                )?
                .execute(params![endpoint, position, error])?;
            free_lane(connection, endpoint, &lane)
        }
    }
}

/// Makes the first waiting delivery the next of its lane, unless one is already. A lane is short and an endpoint's rows are
/// many, so the index is named: otherwise SQLite may scan everything that is next for the endpoint.
fn free_lane(connection: &Connection, endpoint: &str, lane: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "UPDATE deliveries SET state = 1 WHERE endpoint = ?1
                AND position = (SELECT min(position) FROM deliveries INDEXED BY deliveries_lane
                    WHERE endpoint = ?1 AND lane = ?2 AND state < 2)
                AND NOT EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_lane
                    WHERE endpoint = ?1 AND lane = ?2 AND state < 2 AND state = 1)",
        )?
        .execute(params![endpoint, lane])?;
    Ok(())
}

/// Makes everything that waits for an endpoint due now: it has just answered again.
pub(super) fn hurry(connection: &Connection, endpoint: &str, now: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE deliveries SET due_at = ?2 WHERE endpoint = ?1 AND state = 1 AND due_at > ?2")?
        .execute(params![endpoint, now])?;
    Ok(())
}

/// Makes everything that waits for an endpoint until after `latest` due now.
pub(super) fn bring_near(connection: &Connection, endpoint: &str, now: i64, latest: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE deliveries SET due_at = ?2 WHERE endpoint = ?1 AND state < 2 AND due_at > ?3")?
        .execute(params![endpoint, now, latest])?;
    Ok(())
}

/// Gives up at most `limit` deliveries that have waited for an endpoint since before `queued_before`; gives their number.
pub(super) fn give_up(
    connection: &Connection,
    endpoint: &str,
    queued_before: i64,
    error: &str,
    limit: usize,
) -> rusqlite::Result<usize> {
    let mut dead = connection.prepare_cached(
        "UPDATE deliveries SET state = 2, last_error = ?3
         WHERE endpoint = ?1 AND position IN (SELECT position FROM deliveries INDEXED BY deliveries_lane
            WHERE endpoint = ?1 AND state < 2 AND queued_at < ?2 LIMIT ?4)
         RETURNING endpoint, lane",
    )?;
    free_lanes(connection, dead.query_map(params![endpoint, queued_before, error, limit as i64], read_lane)?)
}

type Lane = (String, String);

fn read_lane(row: &Row<'_>) -> rusqlite::Result<Lane> {
    Ok((row.get(0)?, row.get(1)?))
}

/// Frees the lane of each delivery that has left it; gives their number.
fn free_lanes(
    connection: &Connection,
    changed: impl Iterator<Item = rusqlite::Result<Lane>>,
) -> rusqlite::Result<usize> {
    let changed = changed.collect::<rusqlite::Result<Vec<Lane>>>()?;
    let count = changed.len();
    for (endpoint, lane) in changed.into_iter().collect::<BTreeSet<Lane>>() {
        free_lane(connection, &endpoint, &lane)?;
    }
    Ok(count)
}

/// Queues up to `limit` dead letters of these endpoints again; gives their number.
pub(super) fn replay(
    connection: &Connection,
    which: &Replay,
    endpoints: &[Endpoint],
    now: i64,
    limit: usize,
) -> rusqlite::Result<usize> {
    // A delivery to an endpoint that is not configured would never be sent.
    let names = endpoints.iter().map(|endpoint| endpoint.name.as_str());
    let names: Vec<&str> = names.filter(|name| which.endpoint.as_ref().is_none_or(|only| only == name)).collect();
    let events = match which.events {
        Some(_) => "AND position IN (SELECT position FROM events WHERE id IN (SELECT value FROM json_each(:events)))",
        None => "AND :events IS NULL",
    };
    // At the end of their lane, or as its next.
    let mut revive = connection.prepare_cached(&format!(
        "UPDATE deliveries SET state = 0, attempts = 0, due_at = :now, queued_at = :now
         WHERE (endpoint, position) IN (SELECT endpoint, position FROM deliveries
            WHERE state = 2 AND endpoint IN (SELECT value FROM json_each(:names)) {events}
            ORDER BY position LIMIT :limit)
         RETURNING endpoint, lane"
    ))?;
    let (names, events) = (json_text(&names), which.events.as_ref().map(json_text));
    let revived = revive.query_map(
        named_params! { ":now": now, ":names": names, ":events": events, ":limit": limit as i64 },
        read_lane,
    )?;
    free_lanes(connection, revived)
}

fn json_text(texts: &impl serde::Serialize) -> String {
    serde_json::to_string(texts).unwrap_or_else(|_| "[]".to_owned())
}

/// Deliveries to endpoints that are no longer configured become dead letters, to be replayed once they are configured again.
pub(super) fn forget_other_endpoints(connection: &Connection, endpoints: &[Endpoint]) -> rusqlite::Result<usize> {
    let names: Vec<&str> = endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    connection.execute(
        "UPDATE deliveries SET state = 2, last_error = 'the endpoint is no longer configured'
         WHERE state < 2 AND endpoint NOT IN (SELECT value FROM json_each(?1))",
        [json_text(&names)],
    )
}

pub(super) fn due(connection: &Connection, endpoint: &str, now: i64, limit: usize) -> rusqlite::Result<Vec<Delivery>> {
    let mut statement = connection.prepare_cached(
        "SELECT d.position, e.id, e.kind, e.headers, e.body, d.attempts, d.queued_at
         FROM deliveries AS d JOIN events AS e ON e.position = d.position
         WHERE d.endpoint = ?1 AND d.state = 1 AND d.due_at <= ?2 ORDER BY d.due_at, d.position LIMIT ?3",
    )?;
    statement.query_map(params![endpoint, now, limit as i64], read_delivery)?.collect()
}

fn read_delivery(row: &Row<'_>) -> rusqlite::Result<Delivery> {
    let headers: Option<String> = row.get(3)?;
    Ok(Delivery {
        position: row.get(0)?,
        id: row.get(1)?,
        kind: row.get(2)?,
        headers: headers.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default(),
        body: read_body(row, 4)?,
        attempts: row.get(5)?,
        queued_at: row.get(6)?,
    })
}

fn read_body(row: &Row<'_>, column: usize) -> rusqlite::Result<Arc<[u8]>> {
    Ok(row.get_ref(column)?.as_blob()?.into())
}

/// Time at which the next delivery after `now` is due.
pub(super) fn next_due(connection: &Connection, endpoint: &str, now: i64) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection
        .prepare_cached("SELECT min(due_at) FROM deliveries WHERE endpoint = ?1 AND state = 1 AND due_at > ?2")?;
    statement.query_row(params![endpoint, now], |row| row.get(0))
}

/// Number of deliveries that wait for an endpoint.
pub(super) fn pending(connection: &Connection, endpoint: &str) -> rusqlite::Result<usize> {
    let mut statement =
        connection.prepare_cached("SELECT count(*) FROM deliveries WHERE endpoint = ?1 AND state < 2")?;
    statement.query_row([endpoint], |row| row.get::<_, i64>(0)).map(|count| usize::try_from(count).unwrap_or(0))
}

/// Dead letters in the order of their events.
pub(super) fn dead_letters(connection: &Connection, filter: &DeadLetterFilter) -> rusqlite::Result<Vec<DeadLetter>> {
    let mut statement = connection.prepare_cached(
        "SELECT d.position, d.endpoint, e.id, e.call_id, e.kind, d.attempts, d.queued_at, coalesce(d.last_error, '')
         FROM deliveries AS d JOIN events AS e ON e.position = d.position
         WHERE d.state = 2 AND (d.position, d.endpoint) > (?1, ?2) AND (?3 IS NULL OR d.endpoint = ?3)
         ORDER BY d.position, d.endpoint LIMIT ?4",
    )?;
    let read = |row: &Row<'_>| {
        Ok(DeadLetter {
            position: row.get(0)?,
            endpoint: row.get(1)?,
            id: row.get(2)?,
            call_id: row.get(3)?,
            kind: row.get(4)?,
            attempts: row.get(5)?,
            queued_at: super::at_of(row.get(6)?),
            error: row.get(7)?,
        })
    };
    let (position, endpoint) = filter.after.clone().unwrap_or_default();
    statement.query_map(params![position, endpoint, filter.endpoint, filter.limit as i64], read)?.collect()
}

pub(super) fn events_after(connection: &Connection, position: i64, limit: usize) -> rusqlite::Result<Vec<StoredEvent>> {
    let mut statement = connection.prepare_cached(
        "SELECT position, id, call_id, kind, body FROM events
         WHERE position > ?1 AND kind <> ?3 ORDER BY position LIMIT ?2",
    )?;
    let read = |row: &Row<'_>| {
        Ok(StoredEvent {
            position: row.get(0)?,
            id: row.get(1)?,
            call_id: row.get(2)?,
            kind: row.get(3)?,
            body: read_body(row, 4)?,
        })
    };
    statement.query_map(params![position, limit as i64, FORWARD], read)?.collect()
}

/// The position of an event, by its id.
pub(super) fn position_of(connection: &Connection, id: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT position FROM events WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}
