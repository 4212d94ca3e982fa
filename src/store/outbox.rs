//! Events in one global order, and for each webhook endpoint what is still to be delivered.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use tracing::warn;

use crate::call::event::CallEvent;

/// Somewhere events are posted to, as the store knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity across restarts.
    pub name: String,
    /// What it gets.
    pub kinds: Kinds,
}

/// Which kinds of events an endpoint gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kinds {
    /// Every event, and no forwarded webhook.
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

/// One event as it is stored and sent: its bytes are made once and go out alike everywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRecord {
    /// `evt_…`
    pub id: String,
    /// Whose event.
    pub call_id: String,
    /// Counts the call's events from 1.
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

    /// Roughly what it takes in memory, for the queue's bound.
    pub(super) fn size_bytes(&self) -> usize {
        self.body.len() + 512
    }
}

/// A webhook of Meta's to hand on as it came, its signature included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forward {
    /// Our id of it, unique.
    pub id: String,
    /// Names and values to send along, such as `x-hub-signature-256`.
    pub headers: Vec<(String, String)>,
    /// The raw body.
    pub body: Arc<[u8]>,
}

/// One event of the global order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Grows with every event of any call; not without gaps.
    pub position: i64,
    /// `evt_…`
    pub id: String,
    /// Whose event.
    pub call_id: String,
    /// Such as `call.ended`.
    pub kind: String,
    /// The JSON.
    pub body: Arc<[u8]>,
}

/// Something to post now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The event's place in the global order.
    pub position: i64,
    /// The event's id.
    pub id: String,
    /// The event's kind.
    pub kind: String,
    /// Extra headers; only forwarded webhooks have some.
    pub headers: Vec<(String, String)>,
    /// What is posted.
    pub body: Arc<[u8]>,
    /// Tries so far.
    pub attempts: u32,
    /// When it was first to be delivered, in ms since 1970.
    pub queued_at: i64,
}

/// What became of one try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// Acknowledged.
    Delivered,
    /// To be tried again at this time, in ms since 1970.
    Again {
        /// When.
        due_at: i64,
        /// What went wrong, in words for an operator.
        error: String,
    },
    /// Given up.
    Dead {
        /// What went wrong at last.
        error: String,
    },
}

/// A delivery that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The event's place in the global order.
    pub position: i64,
    /// The endpoint's name.
    pub endpoint: String,
    /// The event's id.
    pub id: String,
    /// Whose event; none for a forwarded webhook.
    pub call_id: Option<String>,
    /// The event's kind.
    pub kind: String,
    /// Tries made.
    pub attempts: u32,
    /// When it was first to be delivered.
    pub queued_at: SystemTime,
    /// What went wrong at last.
    pub error: String,
}

/// Which dead letters to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeadLetterFilter {
    /// Only this endpoint's.
    pub endpoint: Option<String>,
    /// Only those behind this position and endpoint.
    pub after: Option<(i64, String)>,
    /// How many at most.
    pub limit: usize,
}

/// Which dead letters are tried again; all of them unless said otherwise.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replay {
    /// Only at this endpoint.
    pub endpoint: Option<String>,
    /// Only of these events, by their ids.
    pub events: Option<Vec<String>>,
}

/// Stores an event and its deliveries. The same event twice, or a second ending of a call, changes nothing.
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

/// Stores a webhook to hand on. Meta's webhooks have no order among each other, so each is a lane of its own.
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

/// Notes what became of a try, and lets the next of its lane go if this one is out of the way.
pub(super) fn settle(
    connection: &Connection,
    endpoint: &str,
    position: i64,
    settlement: &Settlement,
) -> rusqlite::Result<()> {
    let mut find =
        connection.prepare_cached("SELECT lane FROM deliveries WHERE endpoint = ?1 AND position = ?2 AND state > 0")?;
    let Some(lane) = find.query_row(params![endpoint, position], |row| row.get::<_, String>(0)).optional()? else {
        // It was replayed meanwhile, behind another.
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

/// Makes the first that waits the next of its lane, unless one is already. A lane is short and an endpoint's rows are
/// many, so the index is named: left alone, SQLite may walk all that is next at the endpoint.
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

/// Whatever waits at an endpoint is due now: it has just answered again after a long silence.
pub(super) fn hurry(connection: &Connection, endpoint: &str, now: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE deliveries SET due_at = ?2 WHERE endpoint = ?1 AND state = 1 AND due_at > ?2")?
        .execute(params![endpoint, now])?;
    Ok(())
}

/// Whatever waits at an endpoint beyond `latest` is due now.
pub(super) fn bring_near(connection: &Connection, endpoint: &str, now: i64, latest: i64) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE deliveries SET due_at = ?2 WHERE endpoint = ?1 AND state < 2 AND due_at > ?3")?
        .execute(params![endpoint, now, latest])?;
    Ok(())
}

/// Gives up what has waited at an endpoint since before `queued_before`, at most `limit` of it; says how many.
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

/// Frees the lane of each delivery that was put elsewhere; says how many deliveries these were.
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

/// Puts up to `limit` dead letters of these endpoints back; says how many.
pub(super) fn replay(
    connection: &Connection,
    which: &Replay,
    endpoints: &[Endpoint],
    now: i64,
    limit: usize,
) -> rusqlite::Result<usize> {
    // Nobody would take what is put back for an endpoint that is not configured.
    let names = endpoints.iter().map(|endpoint| endpoint.name.as_str());
    let names: Vec<&str> = names.filter(|name| which.endpoint.as_ref().is_none_or(|only| only == name)).collect();
    let events = match which.events {
        Some(_) => "AND position IN (SELECT position FROM events WHERE id IN (SELECT value FROM json_each(:events)))",
        None => "AND :events IS NULL",
    };
    // Behind what waits in their lane already, or as its next.
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

/// What waits for endpoints that are no longer configured dies, and can be replayed once they are again.
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

/// When something becomes due after `now`.
pub(super) fn next_due(connection: &Connection, endpoint: &str, now: i64) -> rusqlite::Result<Option<i64>> {
    let mut statement = connection
        .prepare_cached("SELECT min(due_at) FROM deliveries WHERE endpoint = ?1 AND state = 1 AND due_at > ?2")?;
    statement.query_row(params![endpoint, now], |row| row.get(0))
}

/// How many deliveries wait at an endpoint.
pub(super) fn pending(connection: &Connection, endpoint: &str) -> rusqlite::Result<usize> {
    let mut statement =
        connection.prepare_cached("SELECT count(*) FROM deliveries WHERE endpoint = ?1 AND state < 2")?;
    statement.query_row([endpoint], |row| row.get::<_, i64>(0)).map(|count| usize::try_from(count).unwrap_or(0))
}

/// In the order of their events.
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
         WHERE position > ?1 AND call_id IS NOT NULL ORDER BY position LIMIT ?2",
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
    statement.query_map(params![position, limit as i64], read)?.collect()
}

/// Where an event stands, by its id.
pub(super) fn position_of(connection: &Connection, id: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT position FROM events WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()
}
