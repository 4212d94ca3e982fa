//! The store against a real file: what survives, what is refused, and what happens when the disk says no.

mod arrivals;
mod books;
mod queued_calls;
mod trouble;
mod delivery;
mod permissions;
mod sudden_end;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::{Value, json};

use super::*;
use crate::call::description::{BusinessNumber, CallDescription, WhatsAppUser};

/// Far longer than anything here takes.
const LONG: Duration = Duration::from_secs(30);

/// A temporary folder, deleted on drop.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("patchcord-store-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.0.join("patchcord.db")
    }

    pub(crate) fn options(&self) -> StoreOptions {
        // The calls of these tests took place in 1970.
        let retention = Retention { calls: Duration::from_secs(100 * 366 * 24 * 60 * 60), ..Retention::default() };
        StoreOptions { retry_every: Duration::from_millis(5), retention, ..StoreOptions::new(self.file()) }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Whatever remains is in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn open(folder: &Folder) -> Store {
    Store::open(folder.options()).unwrap()
}

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn call(number: u64) -> CallRecord {
    CallRecord::new(format!("call_{number:04}"), description(None), "reception", time(1_000_000 + number))
}

fn description(wacid: Option<&str>) -> CallDescription {
    let number = BusinessNumber { phone_number_id: "200000000000002".to_owned(), display_phone_number: None };
    CallDescription { wacid: wacid.map(str::to_owned), number, ..CallDescription::default() }
}

/// Meta's name of a call.
fn named(wacid: &str, call: CallRecord) -> CallRecord {
    CallRecord { description: CallDescription { wacid: Some(wacid.to_owned()), ..call.description }, ..call }
}

/// Its `call.incoming` precedes all other events of the call.
async fn began(store: &Store, call: CallRecord, within: Duration) -> Result<(), StoreError> {
    let incoming = event(&call.call_id, 0, "call.incoming");
    store.call_began(Arrival { call, offer: None, incoming }, within).confirmed().await
}

fn ended(number: u64) -> CallRecord {
    CallRecord {
        accepted_at: Some(time(1_000_010 + number)),
        end: Some(end(time(1_000_020 + number), "caller_hung_up")),
        ..call(number)
    }
}

fn end(at: SystemTime, reason: &str) -> CallEnd {
    CallEnd {
        at,
        reason: reason.to_owned(),
        fault: "nobody".to_owned(),
        hung_up_by: "caller".to_owned(),
        meta_error_code: None,
        stages: json!({ "ended_ms": 20_000.0 }),
        sound: Value::Null,
    }
}

pub(crate) fn event(call_id: &str, sequence: u64, kind: &str) -> EventRecord {
    let body = json!({ "call_id": call_id, "sequence": sequence, "type": kind }).to_string().into_bytes();
    EventRecord {
        id: format!("evt_{call_id}_{sequence}"),
        call_id: call_id.to_owned(),
        sequence,
        kind: kind.to_owned(),
        body: body.into(),
    }
}

pub(crate) fn letters(limit: usize) -> DeadLetterFilter {
    DeadLetterFilter { limit, ..DeadLetterFilter::default() }
}

fn endpoint(name: &str) -> Endpoint {
    Endpoint { name: name.to_owned(), kinds: Kinds::Events }
}

/// Runs on the writing thread, before all waiting writes.
async fn on_writer(store: &Store, run: impl FnOnce(&Connection) -> rusqlite::Result<()> + Send + 'static) {
    let (done, is_done) = oneshot::channel();
    store.0.queue.do_now(move |connection| {
        run(connection).unwrap();
        done.send(()).unwrap();
    });
    is_done.await.unwrap();
}

fn raw(path: &Path) -> Connection {
    Connection::open(path).unwrap()
}
