//! Status callbacks of single calls, which Twilio's REST API names.

use rusqlite::{OptionalExtension, params};

use super::job::Job;
use super::write_queue::Queue;
use super::{Store, StoreError, ms_of};
use crate::clock;

impl Store {
    /// Stores what a call's status callback is, in place of the one before. Never waits; events that are stored later find it.
    pub fn name_status_callback(&self, call_id: &str, callback: String) {
        let (call_id, now) = (call_id.to_owned(), ms_of(clock::wall()));
        let job = Job::new(256 + callback.len(), move |connection| {
            let mut statement = connection.prepare_cached(
                "INSERT INTO status_callbacks (call_id, callback, named_at) VALUES (?1, ?2, ?3)
                 ON CONFLICT (call_id) DO UPDATE SET callback = excluded.callback",
            )?;
            statement.execute(params![call_id, callback, now]).map(drop)
        });
        // The queue has counted and logged it.
        let _ = self.0.queue.send(job, Queue::CALLS_SHARE);
    }

    /// What the status callback of a call is.
    pub async fn status_callback(&self, call_id: &str) -> Result<Option<String>, StoreError> {
        let call_id = call_id.to_owned();
        self.read(move |connection| {
            let mut statement =
                connection.prepare_cached("SELECT callback FROM status_callbacks WHERE call_id = ?1")?;
            statement.query_row([&call_id], |row| row.get(0)).optional()
        })
        .await
    }
}
