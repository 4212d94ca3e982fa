//! Call records: one row for each call, from its start to its end, and pages of them for the API.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde_json::Value;

use super::{QUEUED_FOR, Store, StoreError, at_of, ms_of};
use crate::call::description::{BusinessNumber, CallDescription, CallDirection, WhatsAppUser};
use crate::call::end::EndReason;
use crate::call::event::Stages;
use crate::call::signaling::Signaling;
use crate::call::usage::ModelUsage;
use crate::clock;

/// The record of one call. `Debug` shows nothing personal.
#[derive(Clone, PartialEq)]
pub struct CallRecord {
    /// Our own id.
    pub call_id: String,
    /// Meta's id, which contains the caller's number: for API bodies, never for logs.
    pub wacid: Option<String>,
    /// The business number.
    pub phone_number_id: String,
    /// The business number as people write it.
    pub display_phone_number: Option<String>,
    /// The route's name.
    pub route: String,
    /// Who placed it.
    pub direction: CallDirection,
    /// The person on WhatsApp, as in events.
    pub from: Value,
    /// The tracker that the application gave a call that it placed or signals.
    pub tracker: Option<String>,
    /// Who exchanges its messages with Meta.
    pub signaling: Signaling,
    /// The app's `client_state`.
    pub client_state: Option<String>,
    /// Arrival of Meta's webhook, or of the request to place the call.
    pub began_at: SystemTime,
    /// Meta's confirmation of our accept, or the callee's accept.
    pub accepted_at: Option<SystemTime>,
    /// End of the call; `None` while it is live.
    pub ended_at: Option<SystemTime>,
    /// [`EndReason::name`](crate::call::end::EndReason::name).
    pub reason: Option<String>,
    /// [`Fault::name`](crate::call::end::Fault::name).
    pub fault: Option<String>,
    /// [`EndReason::hung_up_by`].
    pub hung_up_by: Option<String>,
    /// Meta's error code, where one ended the call.
    pub meta_error_code: Option<i64>,
    /// [`Stages::to_json`](crate::call::event::Stages::to_json).
    pub stages: Value,
    /// Counters and quality of the audio, as in `call.ended`.
    pub sound: Value,
    /// Ids of its recordings.
    pub recordings: Vec<String>,
    /// Agents of queues that had the caller, by name, in their order.
    pub agents: Vec<String>,
    /// What its speech models have used, as in `call.ended`.
    pub usage: Vec<ModelUsage>,
}

impl CallRecord {
    /// The record of a new call.
    pub fn new(
        call_id: impl Into<String>,
        phone_number_id: impl Into<String>,
        route: impl Into<String>,
        began_at: SystemTime,
    ) -> Self {
        Self {
            call_id: call_id.into(),
            wacid: None,
            phone_number_id: phone_number_id.into(),
            display_phone_number: None,
            route: route.into(),
            direction: CallDirection::default(),
            from: Value::Null,
            tracker: None,
            signaling: Signaling::default(),
            client_state: None,
            began_at,
            accepted_at: None,
            ended_at: None,
            reason: None,
            fault: None,
            hung_up_by: None,
            meta_error_code: None,
            stages: Value::Null,
            sound: Value::Null,
            recordings: Vec::new(),
            agents: Vec::new(),
            usage: Vec::new(),
        }
    }

    /// Who calls whom.
    pub fn description(&self) -> CallDescription {
        let text = |key: &str| self.from[key].as_str().map(str::to_owned);
        CallDescription {
            wacid: self.wacid.clone(),
            direction: self.direction,
            user: WhatsAppUser { wa_id: text("wa_id"), user_id: text("user_id"), name: text("name") },
            number: BusinessNumber {
                phone_number_id: self.phone_number_id.clone(),
                display_phone_number: self.display_phone_number.clone(),
            },
        }
    }

    /// Sets the call's end, which is now.
    pub fn end(&mut self, reason: &EndReason, stages: &Stages, sound: &Value) {
        self.ended_at = Some(clock::wall());
        self.reason = Some(reason.name().to_owned());
        self.fault = Some(reason.fault().name().to_owned());
        self.hung_up_by = Some(reason.hung_up_by().to_owned());
        self.meta_error_code = reason.meta_error_code();
        self.stages = stages.to_json();
        self.sound = sound.clone();
    }

    /// Approximate size in memory, for the queue's bound.
    pub(super) fn size_bytes(&self) -> usize {
        let texts =
            [&self.wacid, &self.client_state, &self.tracker].into_iter().flatten().map(String::len).sum::<usize>();
        // Reason, stages and figures have some hundred bytes each.
        texts + 2048
    }
}

impl Store {
    /// The sequence number of the last stored event of a call; 0 if there is none.
    pub async fn last_sequence(&self, call_id: &str) -> Result<u64, StoreError> {
        let call_id = call_id.to_owned();
        self.read(move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT coalesce(max(sequence), 0) FROM events WHERE call_id = ?1")?;
            statement.query_row([&call_id], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs)
        })
        .await
    }
}

impl Store {
    /// Number and time of each call since then that we placed and Meta took, the oldest first. One without an end may have been
    /// taken.
    pub async fn placed_since(&self, since: SystemTime) -> Result<Vec<(String, SystemTime)>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT phone_number_id, began_at FROM calls
                 WHERE call_id >= ?1 AND began_at >= ?2 AND direction = 'business_initiated' AND signaling = 'graph'
                    AND (wacid IS NOT NULL OR ended_at IS NULL)
                 ORDER BY began_at",
            )?;
            let first = first_id(since.checked_sub(EARLIER_ID).unwrap_or(UNIX_EPOCH));
            let read = |row: &Row<'_>| Ok((row.get(0)?, at_of(row.get(1)?)));
            statement.query_map(params![first, ms_of(since)], read)?.collect()
        })
        .await
    }
}

impl fmt::Debug for CallRecord {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("CallRecord")
            .field("call_id", &self.call_id)
            .field("route", &self.route)
            .field("began_at", &self.began_at)
            .field("ended_at", &self.ended_at)
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Filter of a list of calls. No `Debug`, because it holds the caller's number.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct CallFilter {
    /// Only live or only ended ones.
    pub state: Option<CallState>,
    /// Only calls to this business number.
    pub phone_number_id: Option<String>,
    /// Only calls of this route.
    pub route: Option<String>,
    /// Only calls of the WhatsApp user with this number.
    pub wa_id: Option<String>,
    /// Only calls that this agent of a queue had.
    pub agent: Option<String>,
    /// Only calls that began at this time or later.
    pub began_after: Option<SystemTime>,
    /// Only calls that began before this time.
    pub began_before: Option<SystemTime>,
    /// Only calls with a smaller id, that is, calls that began earlier.
    pub before: Option<String>,
    /// The most entries.
    pub limit: usize,
}

impl CallFilter {
    /// Whether the filter takes this call.
    fn shows(&self, call: &CallRecord) -> bool {
        let is_wanted = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
        let state = if call.ended_at.is_some() { CallState::Ended } else { CallState::Live };
        self.state.is_none_or(|wanted| wanted == state)
            && is_wanted(&self.phone_number_id, &call.phone_number_id)
            && is_wanted(&self.route, &call.route)
            && self.wa_id.as_ref().is_none_or(|wa_id| call.from["wa_id"] == **wa_id)
            && self.agent.as_ref().is_none_or(|agent| call.agents.contains(agent))
            && self.began_after.is_none_or(|after| call.began_at >= after)
            && self.began_before.is_none_or(|before| call.began_at < before)
            && self.before.as_ref().is_none_or(|before| call.call_id < *before)
    }
}

/// Whether a call is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallState {
    /// It has not ended.
    Live,
    /// It has ended.
    Ended,
}

/// Calls whose latest record is not in the file yet. A call that has just ended is found here, also
/// while the file cannot be written. Bounded by the queue: each entry belongs to a waiting write.
#[derive(Default)]
pub(super) struct Unwritten(Mutex<HashMap<String, Arc<CallRecord>>>);

impl Unwritten {
    pub(super) fn insert(&self, call: &Arc<CallRecord>) {
        self.book().insert(call.call_id.clone(), call.clone());
    }

    /// Removes exactly this record; a newer one stays.
    pub(super) fn remove(&self, call: &Arc<CallRecord>) {
        let mut book = self.book();
        if book.get(&call.call_id).is_some_and(|newest| Arc::ptr_eq(newest, call)) {
            book.remove(&call.call_id);
        }
    }

    pub(super) fn get(&self, call_id: &str) -> Option<CallRecord> {
        self.book().get(call_id).map(|call| CallRecord::clone(call))
    }

    pub(super) fn shown(&self, filter: &CallFilter) -> Vec<CallRecord> {
        let book = self.book();
        book.values().filter(|call| filter.shows(call)).map(|call| CallRecord::clone(call)).collect()
    }

    /// Held for a look-up only; the map is valid at every step.
    fn book(&self) -> MutexGuard<'_, HashMap<String, Arc<CallRecord>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Merges both lists under the filter, newest first. If a call is in both, the record with the end counts: the file may be
/// ahead of `unwritten`, or behind it.
pub(super) fn merged(unwritten: Vec<CallRecord>, mut written: Vec<CallRecord>, filter: &CallFilter) -> Vec<CallRecord> {
    for call in unwritten {
        match written.iter_mut().find(|known| known.call_id == call.call_id) {
            Some(known) if known.ended_at.is_none() => *known = call,
            Some(_) => {}
            None => written.push(call),
        }
    }
    written.retain(|call| filter.shows(call));
    written.sort_unstable_by(|one, other| other.call_id.cmp(&one.call_id));
    written.truncate(filter.limit);
    written
}

pub(super) const COLUMNS: &str = "call_id, wacid, phone_number_id, display_phone_number, route, caller, client_state, began_at, \
                       accepted_at, ended_at, reason, fault, hung_up_by, meta_error_code, stages, sound, recordings, agents, \
                       direction, tracker, signaling, usage";
/// An id is generated just before the call's start is recorded, and the clock may be set in between.
const ID_SLACK: Duration = Duration::from_secs(60);
/// The same where a call was queued after its id was generated.
const EARLIER_ID: Duration = QUEUED_FOR.saturating_add(ID_SLACK);

/// Writes the whole record. A call ends once: the first end stays.
pub(super) fn save(connection: &Connection, call: &CallRecord) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO calls (call_id, wacid, phone_number_id, display_phone_number, route, caller, client_state, began_at, accepted_at,
            ended_at, reason, fault, hung_up_by, meta_error_code, stages, sound, recordings, agents, direction, tracker, signaling, usage)
         VALUES (:call_id, :wacid, :phone_number_id, :display_phone_number, :route, :caller, :client_state, :began_at, :accepted_at,
            :ended_at, :reason, :fault, :hung_up_by, :meta_error_code, :stages, :sound, :recordings, :agents, :direction, :tracker, :signaling, :usage)
         ON CONFLICT (call_id) DO UPDATE SET
            wacid = coalesce(excluded.wacid, wacid), route = excluded.route, caller = excluded.caller,
            client_state = coalesce(excluded.client_state, client_state),
            accepted_at = coalesce(accepted_at, excluded.accepted_at),
            reason = iif(ended_at IS NULL, excluded.reason, reason),
            fault = iif(ended_at IS NULL, excluded.fault, fault),
            hung_up_by = iif(ended_at IS NULL, excluded.hung_up_by, hung_up_by),
            meta_error_code = iif(ended_at IS NULL, excluded.meta_error_code, meta_error_code),
            ended_at = coalesce(ended_at, excluded.ended_at),
            stages = excluded.stages, sound = excluded.sound, recordings = excluded.recordings,
            agents = excluded.agents, usage = excluded.usage",
    )?;
    statement.execute(named_params! {
        ":call_id": call.call_id,
        ":wacid": call.wacid,
        ":phone_number_id": call.phone_number_id,
        ":display_phone_number": call.display_phone_number,
        ":route": call.route,
        ":caller": call.from.to_string(),
        ":client_state": call.client_state,
        ":began_at": ms_of(call.began_at),
        ":accepted_at": call.accepted_at.map(ms_of),
        ":ended_at": call.ended_at.map(ms_of),
        ":reason": call.reason,
        ":fault": call.fault,
        ":hung_up_by": call.hung_up_by,
        ":meta_error_code": call.meta_error_code,
        ":stages": call.stages.to_string(),
        ":sound": call.sound.to_string(),
        ":recordings": Value::from(call.recordings.clone()).to_string(),
        ":agents": Value::from(call.agents.clone()).to_string(),
        ":direction": call.direction.name(),
        ":tracker": call.tracker,
        ":signaling": call.signaling.name(),
        ":usage": serde_json::to_string(&call.usage).expect("names and numbers always serialise"),
    })?;
    Ok(())
}

/// Whether there is such an ended call.
pub(super) fn set_client_state(connection: &Connection, call_id: &str, client_state: &str) -> rusqlite::Result<bool> {
    let mut statement =
        connection.prepare_cached("UPDATE calls SET client_state = ?2 WHERE call_id = ?1 AND ended_at IS NOT NULL")?;
    Ok(statement.execute(params![call_id, client_state])? > 0)
}

pub(super) fn one(connection: &Connection, call_id: &str) -> rusqlite::Result<Option<CallRecord>> {
    let mut statement = connection.prepare_cached(&format!("SELECT {COLUMNS} FROM calls WHERE call_id = ?1"))?;
    statement.query_row([call_id], read).optional()
}

/// Calls without an end up to the position `up_to` and after the call `after`, oldest first.
pub(super) fn unfinished(
    connection: &Connection,
    after: Option<&str>,
    up_to: i64,
    limit: usize,
) -> rusqlite::Result<Vec<CallRecord>> {
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM calls WHERE ended_at IS NULL AND position <= ?2
            AND position > coalesce((SELECT position FROM calls WHERE call_id = ?1), 0)
         ORDER BY position LIMIT ?3"
    ))?;
    statement.query_map(params![after, up_to, limit as i64], read)?.collect()
}

pub(super) fn last_position(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(position), 0) FROM calls", [], |row| row.get(0))
}

/// Newest first, by id. Ids contain the time, so they also bound the rows scanned for a time range.
pub(super) fn page(connection: &Connection, filter: &CallFilter) -> rusqlite::Result<Vec<CallRecord>> {
    // Inlined, because the values decide which index fits; all of them are our own.
    let (index, state) = match filter.state {
        None => ("", ""),
        // Few calls are live, and many have ended.
        Some(CallState::Live) => ("INDEXED BY calls_unfinished", "AND ended_at IS NULL"),
        Some(CallState::Ended) => ("", "AND ended_at IS NOT NULL"),
    };
    let number = if filter.phone_number_id.is_some() { "AND phone_number_id = :number" } else { "AND :number IS NULL" };
    let agent = match filter.agent {
        Some(_) => "AND EXISTS (SELECT 1 FROM json_each(agents) WHERE value = :agent)",
        None => "AND :agent IS NULL",
    };
    let route = if filter.route.is_some() { "AND route = :route" } else { "AND :route IS NULL" };
    let caller = match filter.wa_id {
        Some(_) => "AND json_extract(caller, '$.wa_id') = :wa_id",
        None => "AND :wa_id IS NULL",
    };
    let mut statement = connection.prepare_cached(&format!(
        "SELECT {COLUMNS} FROM calls {index}
         WHERE call_id < :before AND call_id >= :from AND began_at >= :after_ms AND began_at < :before_ms
            {state} {number} {route} {caller} {agent}
         ORDER BY call_id DESC LIMIT :limit"
    ))?;
    let first = filter.began_after.map(|after| first_id(after.checked_sub(EARLIER_ID).unwrap_or(UNIX_EPOCH)));
    let last = filter.began_before.map(|before| first_id(before + ID_SLACK));
    // Greater than every id, which begins with "call_".
    let before = [filter.before.clone(), last].into_iter().flatten().min().unwrap_or_else(|| "d".to_owned());
    let rows = statement.query_map(
        named_params! {
            ":before": before,
            ":from": first.unwrap_or_default(),
            ":after_ms": filter.began_after.map_or(i64::MIN, ms_of),
            ":before_ms": filter.began_before.map_or(i64::MAX, ms_of),
            ":number": filter.phone_number_id,
            ":route": filter.route,
            ":wa_id": filter.wa_id,
            ":agent": filter.agent,
            ":limit": filter.limit as i64,
        },
        read,
    )?;
    rows.collect()
}

/// The smallest id that a call of this moment can have.
fn first_id(at: SystemTime) -> String {
    format!("call_{}", ulid::Ulid::from_parts(ms_of(at).unsigned_abs(), 0).to_string().to_lowercase())
}

pub(super) fn read(row: &Row<'_>) -> rusqlite::Result<CallRecord> {
    let time = |name| Ok::<_, rusqlite::Error>(row.get::<_, Option<i64>>(name)?.map(at_of));
    let json = |name| Ok::<_, rusqlite::Error>(serde_json::from_str(&row.get::<_, String>(name)?).unwrap_or_default());
    let recordings: Value = json("recordings")?;
    Ok(CallRecord {
        call_id: row.get("call_id")?,
        wacid: row.get("wacid")?,
        phone_number_id: row.get("phone_number_id")?,
        display_phone_number: row.get("display_phone_number")?,
        route: row.get("route")?,
        direction: CallDirection::of_name(&row.get::<_, String>("direction")?).unwrap_or_default(),
        from: json("caller")?,
        tracker: row.get("tracker")?,
        signaling: Signaling::of_name(&row.get::<_, String>("signaling")?).unwrap_or_default(),
        client_state: row.get("client_state")?,
        began_at: at_of(row.get("began_at")?),
        accepted_at: time("accepted_at")?,
        ended_at: time("ended_at")?,
        reason: row.get("reason")?,
        fault: row.get("fault")?,
        hung_up_by: row.get("hung_up_by")?,
        meta_error_code: row.get("meta_error_code")?,
        stages: json("stages")?,
        sound: json("sound")?,
        recordings: serde_json::from_value(recordings).unwrap_or_default(),
        agents: serde_json::from_value(json("agents")?).unwrap_or_default(),
        usage: serde_json::from_value(json("usage")?).unwrap_or_default(),
    })
}
