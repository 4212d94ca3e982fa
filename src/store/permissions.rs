//! Ledgers of call permissions, one for each person at each business number, and what is known of the numbers.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Row, params};
use tracing::warn;

use super::arrivals::confirmation;
use super::job::{InTrouble, Job};
use super::outbox::{self, Endpoint};
use super::write_queue::Queue;
use super::{Store, StoreError, Written, now_ms};
use crate::permissions::{Fact, Ledger, NumberNotes, PermissionEvent, Person, Rules};

/// A fact, and whose it is.
#[derive(Clone)]
pub struct PermissionFact {
    /// The business number.
    pub phone_number_id: String,
    /// The person.
    pub person: Person,
    /// What happened.
    pub fact: Fact,
    /// The limits of the number.
    pub rules: Rules,
    /// Whether it is kept only of a person who has a ledger.
    pub is_for_known: bool,
}

/// One row.
struct Entry {
    id: i64,
    person: Person,
    ledger: Ledger,
}

impl Store {
    /// Stores a fact, and with it the event that it makes; `publish` gets the event once it is stored. Returns at once. The
    /// same fact again changes nothing.
    pub fn permission_learned(
        &self,
        learned: PermissionFact,
        publish: impl FnOnce(PermissionEvent) + Send + 'static,
        deadline: Duration,
    ) -> Written {
        let (endpoints, now) = (self.0.endpoints.clone(), self.delivery_ms());
        let made: Arc<Mutex<Option<PermissionEvent>>> = Arc::default();
        let event = made.clone();
        let (job, answer) = Job::asking(2048, InTrouble::KeepAndTell, move |connection| {
            let made = learn(connection, &learned, &endpoints, now)?;
            *event.lock().unwrap_or_else(PoisonError::into_inner) = made;
            Ok(())
        });
        let job = job.news().then(move || {
            if let Some(event) = made.lock().unwrap_or_else(PoisonError::into_inner).take() {
                publish(event);
            }
        });
        let sent = self.0.queue.send(job, Queue::CALLS_SHARE);
        confirmation(sent, answer, deadline, "a call permission is not stored yet")
    }

    /// What is known of a person at a number, and by which ids.
    pub async fn permission(
        &self,
        phone_number_id: &str,
        person: &Person,
    ) -> Result<Option<(Person, Ledger)>, StoreError> {
        let (phone_number_id, person) = (phone_number_id.to_owned(), person.clone());
        self.read(move |connection| {
            let found = find(connection, &phone_number_id, &person)?;
            Ok(found.into_iter().next().map(|entry| (entry.person, entry.ledger)))
        })
        .await
    }

    /// Stores what is known of business numbers. Never waits; a full queue is counted and logged.
    pub fn number_noted(&self, display_phone_number: String, notes: NumberNotes) {
        let job = Job::new(512, move |connection| {
            connection
                .prepare_cached(
                    "INSERT INTO business_numbers (display_phone_number, phone_number_id, paused_until)
                     VALUES (?1, ?2, ?3) ON CONFLICT (display_phone_number)
                     DO UPDATE SET phone_number_id = ?2, paused_until = ?3",
                )?
                .execute(params![
                    display_phone_number,
                    notes.phone_number_id,
                    notes.paused_until.map(crate::permissions::Moment::ms)
                ])?;
            Ok(())
        });
        // The queue has counted and logged it; the next webhook brings it again.
        let _ = self.0.queue.send(job, Queue::USUAL_SHARE);
    }

    /// What is known of business numbers, by the number as shown.
    pub async fn number_notes(&self) -> Result<Vec<(String, NumberNotes)>, StoreError> {
        self.read(|connection| {
            let mut all = connection.prepare_cached(
                "SELECT display_phone_number, phone_number_id, paused_until FROM business_numbers LIMIT 10000",
            )?;
            let read = |row: &Row<'_>| {
                let paused_until = row.get::<_, Option<i64>>(2)?.map(Into::into);
                Ok((row.get(0)?, NumberNotes { phone_number_id: row.get(1)?, paused_until }))
            };
            all.query_map([], read)?.collect()
        })
        .await
    }
}

fn learn(
    connection: &Connection,
    learned: &PermissionFact,
    endpoints: &[Endpoint],
    now: i64,
) -> rusqlite::Result<Option<PermissionEvent>> {
    let PermissionFact { phone_number_id, person, fact, rules, is_for_known } = learned;
    let Some(mut entry) = entry_of(connection, phone_number_id, person, *is_for_known)? else { return Ok(None) };
    let outcome = entry.ledger.learn(fact, rules);
    write(connection, &entry)?;
    let Some(kind) = outcome.event.filter(|_| outcome.is_new) else { return Ok(None) };
    let event = PermissionEvent::of(kind, fact, &entry.ledger, rules, (phone_number_id, &entry.person));
    // Events of one person reach the application in their order.
    outbox::add_permission_event(connection, &event, &format!("permission:{}", entry.id), endpoints, now)?;
    Ok(Some(event))
}

/// The person's row, made if there is none. A webhook that names both ids joins the rows of both.
fn entry_of(
    connection: &Connection,
    phone_number_id: &str,
    person: &Person,
    is_for_known: bool,
) -> rusqlite::Result<Option<Entry>> {
    let mut found = find(connection, phone_number_id, person)?.into_iter();
    let Some(mut entry) = found.next() else {
        return if is_for_known { Ok(None) } else { insert(connection, phone_number_id, person).map(Some) };
    };
    for other in found {
        let is_same_person = other.person.user_id.is_none() || entry.person.user_id.is_none();
        match is_same_person {
            true => {
                connection.prepare_cached("DELETE FROM permissions WHERE id = ?1")?.execute([other.id])?;
                entry.person.user_id = entry.person.user_id.or(other.person.user_id);
                entry.person.wa_id = entry.person.wa_id.or(other.person.wa_id);
                entry.ledger.merge(other.ledger);
            }
            // The phone number has another owner now.
            false => {
                connection.prepare_cached("UPDATE permissions SET wa_id = NULL WHERE id = ?1")?.execute([other.id])?;
            }
        }
    }
    let number_moved = person.wa_id.is_some() && person.user_id.is_some() && entry.person.user_id.is_some();
    if number_moved && entry.person.user_id != person.user_id {
        // Found by the number alone, which was another person's.
        connection.prepare_cached("UPDATE permissions SET wa_id = NULL WHERE id = ?1")?.execute([entry.id])?;
        return if is_for_known { Ok(None) } else { insert(connection, phone_number_id, person).map(Some) };
    }
    entry.person.wa_id = person.wa_id.clone().or(entry.person.wa_id);
    entry.person.user_id = person.user_id.clone().or(entry.person.user_id);
    Ok(Some(entry))
}

fn insert(connection: &Connection, phone_number_id: &str, person: &Person) -> rusqlite::Result<Entry> {
    connection
        .prepare_cached(
            "INSERT INTO permissions (phone_number_id, wa_id, user_id, ledger, changed_at)
             VALUES (?1, ?2, ?3, '{\"facts\":[]}', ?4)",
        )?
        .execute(params![phone_number_id, person.wa_id, person.user_id, now_ms()])?;
    Ok(Entry { id: connection.last_insert_rowid(), person: person.clone(), ledger: Ledger::default() })
}

fn write(connection: &Connection, entry: &Entry) -> rusqlite::Result<()> {
    let ledger = serde_json::to_string(&entry.ledger).expect("a ledger is numbers and texts");
    connection
        .prepare_cached("UPDATE permissions SET wa_id = ?2, user_id = ?3, ledger = ?4, changed_at = ?5 WHERE id = ?1")?
        .execute(params![entry.id, entry.person.wa_id, entry.person.user_id, ledger, now_ms()])?;
    Ok(())
}

/// The row of the user id first, then that of the phone number if it is another.
fn find(connection: &Connection, phone_number_id: &str, person: &Person) -> rusqlite::Result<Vec<Entry>> {
    let by = |column: &str, id: &Option<String>| -> rusqlite::Result<Option<Entry>> {
        let Some(id) = id else { return Ok(None) };
        let sql =
            format!("SELECT id, wa_id, user_id, ledger FROM permissions WHERE phone_number_id = ?1 AND {column} = ?2");
        connection.prepare_cached(&sql)?.query_row(params![phone_number_id, id], read).optional()
    };
    let by_user = by("user_id", &person.user_id)?;
    let by_number = by("wa_id", &person.wa_id)?;
    let is_other = |entry: &Entry| by_user.as_ref().is_none_or(|user| user.id != entry.id);
    let by_number = by_number.filter(is_other);
    Ok(by_user.into_iter().chain(by_number).collect())
}

fn read(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let text: String = row.get(3)?;
    let ledger = serde_json::from_str(&text).unwrap_or_else(|_| {
        warn!("a ledger of a call permission cannot be read and starts empty");
        Ledger::default()
    });
    Ok(Entry { id: row.get(0)?, person: Person { wa_id: row.get(1)?, user_id: row.get(2)? }, ledger })
}
