//! Queued calls: orders to place calls, which wait for the pace of their number.
//!
//! An order leaves the queue once. [`Store::take_queued`] deletes it and writes the first record of its call in one
//! durable commit, so after a crash it is either still queued, and was never placed, or it is an unfinished call, which
//! is ended and not placed again.

use std::fmt;
use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde_json::Value;

use super::job::{InTrouble, Job};
use super::write_queue::Queue;
use super::{CallRecord, EventRecord, Store, StoreError, answered, at_of, calls, ms_of, outbox};
use crate::call::description::{BusinessNumber, CallDescription, CallDirection, WhatsAppUser};
use crate::call::end::EndReason;
use crate::call::event::{CallEvent, CallId, Figures, Stages, ended_data};
use crate::clock;

/// The longest time that a call may be queued. The id of a call is made when it is queued, so this bounds how much older
/// than its record an id may be.
pub const QUEUED_FOR: Duration = Duration::from_secs(24 * 60 * 60);
/// A queued call has had one event, `call.queued`.
const ENDED_SEQUENCE: u64 = 2;

/// A call that waits to be placed. `Debug` shows nothing personal.
#[derive(Clone, PartialEq)]
pub struct QueuedCall {
    /// The id that the call has from its queueing to its end.
    pub call_id: CallId,
    /// The business number.
    pub phone_number_id: String,
    /// The route's name.
    pub route: String,
    /// The person on WhatsApp, as in events.
    pub to: Value,
    /// The app's tracker.
    pub tracker: Option<String>,
    /// The app's `client_state`.
    pub client_state: Option<String>,
    /// Calls of a higher priority are placed first.
    pub priority: u8,
    /// When it was queued.
    pub queued_at: SystemTime,
    /// When it is given up.
    pub expires_at: SystemTime,
    /// What else is needed to place it: for those who queued it.
    pub order: String,
}

/// The place of a queued call in the list: by priority, then by age.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueuePlace {
    /// The call's priority.
    pub priority: u8,
    /// Counts the calls as they were queued.
    pub position: i64,
}

/// Filter of a list of queued calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueuedCallFilter {
    /// Only calls from this business number.
    pub phone_number_id: Option<String>,
    /// Only those after this place.
    pub after: Option<QueuePlace>,
    /// The most entries.
    pub limit: usize,
}

/// What the previous process left in the queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueSummary {
    /// The numbers with queued calls, and how many each has.
    pub numbers: Vec<(String, usize)>,
}

impl QueuedCall {
    /// The record of its call, which begins at this time.
    fn record(&self, began_at: SystemTime) -> CallRecord {
        let id = self.call_id.as_str();
        let description = CallDescription {
            wacid: None,
            direction: CallDirection::BusinessInitiated,
            user: WhatsAppUser::from_json(&self.to),
            number: BusinessNumber { phone_number_id: self.phone_number_id.clone(), display_phone_number: None },
        };
        CallRecord {
            tracker: self.tracker.clone(),
            client_state: self.client_state.clone(),
            ..CallRecord::new(id, description, &self.route, began_at)
        }
    }

    /// Record and event of a call that ends in the queue.
    fn end(&self, reason: &EndReason, now: SystemTime) -> (CallRecord, CallEvent) {
        let stages = Stages { ended: now.duration_since(self.queued_at).ok(), ..Stages::default() };
        let mut record = self.record(self.queued_at);
        record.end(reason, &stages, &Value::Null);
        let (id, client_state) = (self.call_id.clone(), self.client_state.clone());
        let data = ended_data(reason, &stages, Figures::NONE, None);
        (record, CallEvent::new(id, ENDED_SEQUENCE, "call.ended", client_state, data, now))
    }

    /// Approximate size in memory, for the queue's bound.
    fn size_bytes(&self) -> usize {
        let texts = [&self.tracker, &self.client_state].into_iter().flatten().map(String::len).sum::<usize>();
        texts + self.order.len() + 1024
    }
}

impl fmt::Debug for QueuedCall {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("QueuedCall")
            .field("call_id", &self.call_id)
            .field("priority", &self.priority)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Queues a call and stores its `call.queued`; returns once both would survive a power failure. False if `most` calls
    /// of the number are queued: then nothing changes.
    pub async fn queue_call(&self, call: QueuedCall, event: EventRecord, most: usize) -> Result<bool, StoreError> {
        let (endpoints, due_at) = (self.0.endpoints.clone(), self.delivery_ms());
        let bytes = call.size_bytes() + event.size_bytes();
        let (job, answer) = Job::asking(bytes, InTrouble::Refuse, move |connection| {
            let is_added = add(connection, &call, most)?;
            if is_added {
                outbox::add_event(connection, &event, &endpoints, due_at)?;
            }
            Ok(is_added)
        });
        self.0.queue.send(job.durable().news(), Queue::USUAL_SHARE)?;
        answered(answer).await
    }

    /// The next call of a number: the oldest of the highest priority.
    pub async fn next_queued(&self, phone_number_id: &str) -> Result<Option<QueuedCall>, StoreError> {
        let phone_number_id = Some(phone_number_id.to_owned());
        let filter = QueuedCallFilter { phone_number_id, limit: 1, ..QueuedCallFilter::default() };
        Ok(self.queued_calls(filter).await?.pop().map(|(_, call)| call))
    }

    /// Takes a call from the queue to be placed, and writes its first record with this beginning; returns once both would
    /// survive a power failure. False if it is not queued any more. On an error nothing was taken.
    pub async fn take_queued(&self, call: QueuedCall, began_at: SystemTime) -> Result<bool, StoreError> {
        let (job, answer) = Job::asking(call.size_bytes(), InTrouble::Refuse, move |connection| {
            let is_taken = remove(connection, call.call_id.as_str())?;
            if is_taken {
                calls::save(connection, &call.record(began_at))?;
            }
            Ok(is_taken)
        });
        self.0.queue.send(job.durable(), Queue::USUAL_SHARE)?;
        answered(answer).await
    }

    /// Ends a call that is still queued, with its record and its `call.ended`. None if it is not queued any more.
    pub async fn end_queued(&self, call_id: &str, reason: EndReason) -> Result<Option<CallEvent>, StoreError> {
        let (call_id, endpoints, due_at) = (call_id.to_owned(), self.0.endpoints.clone(), self.delivery_ms());
        let now = clock::wall();
        let (job, answer) = Job::asking(4096, InTrouble::Refuse, move |connection| {
            let Some(call) = one(connection, &call_id)? else { return Ok(None) };
            let (record, event) = call.end(&reason, now);
            remove(connection, &call_id)?;
            calls::save(connection, &record)?;
            outbox::add_event(connection, &EventRecord::of(&event), &endpoints, due_at)?;
            Ok(Some(event))
        });
        self.0.queue.send(job.durable().news(), Queue::USUAL_SHARE)?;
        answered(answer).await
    }

    /// At most `limit` ids of queued calls that have expired, and when the next one of the others does.
    pub async fn expired_queued(&self, limit: usize) -> Result<(Vec<CallId>, Option<SystemTime>), StoreError> {
        let now = ms_of(clock::wall());
        self.read(move |connection| expired(connection, now, limit)).await
    }

    /// A page of queued calls in the order in which each number places them, with their places.
    pub async fn queued_calls(&self, filter: QueuedCallFilter) -> Result<Vec<(QueuePlace, QueuedCall)>, StoreError> {
        self.read(move |connection| page(connection, &filter)).await
    }

    /// One queued call.
    pub async fn queued_call(&self, call_id: &str) -> Result<Option<QueuedCall>, StoreError> {
        let call_id = call_id.to_owned();
        self.read(move |connection| one(connection, &call_id)).await
    }

    /// How many calls are queued, by number.
    pub async fn queue_summary(&self) -> Result<QueueSummary, StoreError> {
        self.read(|connection| {
            let mut statement = connection
                .prepare_cached("SELECT phone_number_id, count(*) FROM queued_calls GROUP BY phone_number_id")?;
            let count = |row: &Row<'_>| Ok((row.get(0)?, usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0)));
            Ok(QueueSummary { numbers: statement.query_map([], count)?.collect::<Result<_, _>>()? })
        })
        .await
    }
}

const COLUMNS: &str = "position, call_id, phone_number_id, route, callee, tracker, client_state, priority, queued_at, \
                       expires_at, order_json";

fn add(connection: &Connection, call: &QueuedCall, most: usize) -> rusqlite::Result<bool> {
    let queued: i64 = connection
        .prepare_cached("SELECT count(*) FROM queued_calls WHERE phone_number_id = ?1")?
        .query_row([&call.phone_number_id], |row| row.get(0))?;
    if usize::try_from(queued).unwrap_or(0) >= most {
        return Ok(false);
    }
    let mut insert = connection.prepare_cached(
        "INSERT INTO queued_calls (call_id, phone_number_id, route, callee, tracker, client_state, priority, queued_at,
            expires_at, order_json)
         VALUES (:call_id, :phone_number_id, :route, :callee, :tracker, :client_state, :priority, :queued_at,
            :expires_at, :order_json)",
    )?;
    insert.execute(named_params! {
        ":call_id": call.call_id.as_str(),
        ":phone_number_id": call.phone_number_id,
        ":route": call.route,
        ":callee": call.to.to_string(),
        ":tracker": call.tracker,
        ":client_state": call.client_state,
        ":priority": call.priority,
        ":queued_at": ms_of(call.queued_at),
        ":expires_at": ms_of(call.expires_at),
        ":order_json": call.order,
    })?;
    Ok(true)
}

fn remove(connection: &Connection, call_id: &str) -> rusqlite::Result<bool> {
    let mut delete = connection.prepare_cached("DELETE FROM queued_calls WHERE call_id = ?1")?;
    Ok(delete.execute([call_id])? > 0)
}

fn one(connection: &Connection, call_id: &str) -> rusqlite::Result<Option<QueuedCall>> {
    let mut find = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM queued_calls WHERE call_id = ?1"))?;
    find.query_row([call_id], |row| Ok(read(row)?.1)).optional()
}

fn expired(connection: &Connection, now: i64, limit: usize) -> rusqlite::Result<(Vec<CallId>, Option<SystemTime>)> {
    let mut due = connection
        .prepare_cached("SELECT call_id FROM queued_calls WHERE expires_at <= ?1 ORDER BY expires_at LIMIT ?2")?;
    let due = due.query_map(params![now, limit as i64], |row| call_id(row, 0))?.collect::<Result<_, _>>()?;
    let next: Option<i64> = connection
        .prepare_cached("SELECT min(expires_at) FROM queued_calls WHERE expires_at > ?1")?
        .query_row([now], |row| row.get(0))?;
    Ok((due, next.map(at_of)))
}

fn page(connection: &Connection, filter: &QueuedCallFilter) -> rusqlite::Result<Vec<(QueuePlace, QueuedCall)>> {
    // Inlined, because it decides which index fits.
    let number = if filter.phone_number_id.is_some() { "phone_number_id = :number" } else { ":number IS NULL" };
    let mut find = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM queued_calls WHERE {number}
            AND (urgency, position) > (:urgency, :position)
         ORDER BY urgency, position LIMIT :limit"
    ))?;
    let after = filter.after.unwrap_or(QueuePlace { priority: u8::MAX, position: 0 });
    let rows = find.query_map(
        named_params! {
            ":number": filter.phone_number_id,
            ":urgency": -i64::from(after.priority),
            ":position": after.position,
            ":limit": filter.limit as i64,
        },
        read,
    )?;
    rows.collect()
}

fn read(row: &Row<'_>) -> rusqlite::Result<(QueuePlace, QueuedCall)> {
    let priority = row.get(7)?;
    let to: String = row.get(4)?;
    let call = QueuedCall {
        call_id: call_id(row, 1)?,
        phone_number_id: row.get(2)?,
        route: row.get(3)?,
        to: serde_json::from_str(&to).unwrap_or_default(),
        tracker: row.get(5)?,
        client_state: row.get(6)?,
        priority,
        queued_at: at_of(row.get(8)?),
        expires_at: at_of(row.get(9)?),
        order: row.get(10)?,
    };
    Ok((QueuePlace { priority, position: row.get(0)? }, call))
}

fn call_id(row: &Row<'_>, column: usize) -> rusqlite::Result<CallId> {
    let text: String = row.get(column)?;
    CallId::parse(&text).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, "no id of a call".into())
    })
}
