//! Call records in the file: one row for each call, and pages of them for the API.

mod filter;
mod record;
mod unwritten;

pub use filter::{CallFilter, CallState};
pub use record::{CallEnd, CallRecord};
pub(super) use unwritten::{Unwritten, merged};

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row, named_params, params};
use serde_json::Value;

use super::{QUEUED_FOR, Store, StoreError, at_of, ms_of};
use crate::call::description::{BusinessNumber, CallDescription, CallDirection, WhatsAppUser};
use crate::call::signaling::Signaling;

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

    /// Number and time of each call since then that we placed and Meta took, the oldest first; those that Meta may have
    /// taken are among them.
    pub async fn placed_since(&self, since: SystemTime) -> Result<Vec<(String, SystemTime)>, StoreError> {
        self.read(move |connection| {
            let mut statement = connection.prepare_cached(
                "SELECT phone_number_id, began_at FROM calls
                 WHERE call_id >= ?1 AND began_at >= ?2 AND direction = 'business_initiated' AND signaling = 'graph'
                    AND (wacid IS NOT NULL OR ended_at IS NULL OR may_be_at_meta)
                 ORDER BY began_at",
            )?;
            let first = first_id(since.checked_sub(EARLIER_ID).unwrap_or(UNIX_EPOCH));
            let read = |row: &Row<'_>| Ok((row.get(0)?, at_of(row.get(1)?)));
            statement.query_map(params![first, ms_of(since)], read)?.collect()
        })
        .await
    }
}

pub(super) const COLUMNS: &str = "call_id, wacid, phone_number_id, display_phone_number, route, caller, client_state, began_at, \
                       accepted_at, ended_at, reason, fault, hung_up_by, meta_error_code, stages, sound, recordings, agents, \
                       direction, tracker, signaling, usage, may_be_at_meta";
/// An id is generated just before the call's start is recorded, and the clock may be set in between.
const ID_SLACK: Duration = Duration::from_secs(60);
/// The same where a call was queued after its id was generated.
const EARLIER_ID: Duration = QUEUED_FOR.saturating_add(ID_SLACK);

/// Writes the whole record. A call ends once: the first end stays.
pub(super) fn save(connection: &Connection, call: &CallRecord) -> rusqlite::Result<()> {
    let mut statement = connection.prepare_cached(
        "INSERT INTO calls (call_id, wacid, phone_number_id, display_phone_number, route, caller, client_state, began_at, accepted_at,
            ended_at, reason, fault, hung_up_by, meta_error_code, stages, sound, recordings, agents, direction, tracker, signaling, usage,
            may_be_at_meta)
         VALUES (:call_id, :wacid, :phone_number_id, :display_phone_number, :route, :caller, :client_state, :began_at, :accepted_at,
            :ended_at, :reason, :fault, :hung_up_by, :meta_error_code, :stages, :sound, :recordings, :agents, :direction, :tracker, :signaling, :usage,
            :may_be_at_meta)
         ON CONFLICT (call_id) DO UPDATE SET
            wacid = coalesce(excluded.wacid, wacid), route = excluded.route, caller = excluded.caller,
            client_state = coalesce(excluded.client_state, client_state),
            accepted_at = coalesce(accepted_at, excluded.accepted_at),
            reason = iif(ended_at IS NULL, excluded.reason, reason),
            fault = iif(ended_at IS NULL, excluded.fault, fault),
            hung_up_by = iif(ended_at IS NULL, excluded.hung_up_by, hung_up_by),
            meta_error_code = iif(ended_at IS NULL, excluded.meta_error_code, meta_error_code),
            ended_at = coalesce(ended_at, excluded.ended_at),
            stages = iif(ended_at IS NULL, excluded.stages, stages),
            sound = iif(ended_at IS NULL, excluded.sound, sound),
            recordings = excluded.recordings, agents = excluded.agents, usage = excluded.usage,
            may_be_at_meta = max(may_be_at_meta, excluded.may_be_at_meta)",
    )?;
    let (who, end) = (&call.description, call.end.as_ref());
    let json = |value: Option<&Value>| value.unwrap_or(&Value::Null).to_string();
    statement.execute(named_params! {
        ":call_id": call.call_id,
        ":wacid": who.wacid,
        ":phone_number_id": who.number.phone_number_id,
        ":display_phone_number": who.number.display_phone_number,
        ":route": call.route,
        ":caller": who.user.to_json().to_string(),
        ":client_state": call.client_state,
        ":began_at": ms_of(call.began_at),
        ":accepted_at": call.accepted_at.map(ms_of),
        ":ended_at": end.map(|end| ms_of(end.at)),
        ":reason": end.map(|end| &end.reason),
        ":fault": end.map(|end| &end.fault),
        ":hung_up_by": end.map(|end| &end.hung_up_by),
        ":meta_error_code": end.and_then(|end| end.meta_error_code),
        ":stages": json(end.map(|end| &end.stages)),
        ":sound": json(end.map(|end| &end.sound)),
        ":recordings": Value::from(call.recordings.clone()).to_string(),
        ":agents": Value::from(call.agents.clone()).to_string(),
        ":direction": who.direction.name(),
        ":tracker": call.tracker,
        ":signaling": call.signaling.name(),
        ":usage": serde_json::to_string(&call.usage).expect("names and numbers always serialise"),
        ":may_be_at_meta": call.may_be_at_meta,
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
    Ok(CallRecord {
        call_id: row.get("call_id")?,
        description: CallDescription {
            wacid: row.get("wacid")?,
            direction: CallDirection::of_name(&row.get::<_, String>("direction")?).unwrap_or_default(),
            user: WhatsAppUser::from_json(&json(row, "caller")?),
            number: BusinessNumber {
                phone_number_id: row.get("phone_number_id")?,
                display_phone_number: row.get("display_phone_number")?,
            },
        },
        route: row.get("route")?,
        signaling: Signaling::of_name(&row.get::<_, String>("signaling")?).unwrap_or_default(),
        tracker: row.get("tracker")?,
        client_state: row.get("client_state")?,
        began_at: at_of(row.get("began_at")?),
        accepted_at: time("accepted_at")?,
        recordings: serde_json::from_value(json(row, "recordings")?).unwrap_or_default(),
        agents: serde_json::from_value(json(row, "agents")?).unwrap_or_default(),
        usage: serde_json::from_value(json(row, "usage")?).unwrap_or_default(),
        may_be_at_meta: row.get("may_be_at_meta")?,
        end: time("ended_at")?.map(|at| read_end(row, at)).transpose()?,
    })
}

fn read_end(row: &Row<'_>, at: SystemTime) -> rusqlite::Result<CallEnd> {
    Ok(CallEnd {
        at,
        reason: row.get("reason")?,
        fault: row.get("fault")?,
        hung_up_by: row.get("hung_up_by")?,
        meta_error_code: row.get("meta_error_code")?,
        stages: json(row, "stages")?,
        sound: json(row, "sound")?,
    })
}

/// A broken value of our own file reads as null, so that the rest of the record can still be shown.
fn json(row: &Row<'_>, column: &str) -> rusqlite::Result<Value> {
    Ok(serde_json::from_str(&row.get::<_, String>(column)?).unwrap_or_default())
}
