//! Forwarding: Meta's webhooks about anything but our calls go on to the app they are meant for.
//!
//! The whole body is forwarded, byte for byte and with Meta's signature, even if it also contains one of our calls: split in
//! two, neither half would match the signature. Meta gets its 200 once the body is in the store, so nothing is lost when the
//! process ends. While it cannot be stored, Meta gets 503 and retries for days.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::http::HeaderMap;
use sha2::{Digest, Sha256};
use tracing::{error, info};

use crate::store::{Forward, Store, StoreError};

/// Deadline for storing a body. Meta waits for about 20 s, and a call in the same body waits for this reply.
const STORED_WITHIN: Duration = Duration::from_secs(1);
/// Headers that the app needs to read the body and to verify that Meta sent it.
const HEADERS: [&str; 4] = ["content-type", "user-agent", "x-hub-signature", "x-hub-signature-256"];

/// The path to the app. The store bounds what waits.
pub struct Forwarding {
    store: Store,
    is_failing: AtomicBool,
}

impl Forwarding {
    /// None if no endpoint takes forwarded webhooks.
    pub fn start(store: &Store) -> Option<Self> {
        store.forwards().then(|| Self { store: store.clone(), is_failing: AtomicBool::new(false) })
    }

    /// Keeps a webhook with a valid signature until the app has it. The same body again is the same webhook.
    pub(super) async fn take(&self, headers: &HeaderMap, body: Bytes) -> Result<(), StoreError> {
        let id = format!("fwd_{}", hex(&Sha256::digest(&body)[..16]));
        let headers = HEADERS.iter().filter_map(|name| Some(((*name).to_owned(), text(headers, name)?)));
        let forward = Forward { id, headers: headers.collect(), body: body.as_ref().into() };
        let outcome = self.store.forward(forward, STORED_WITHIN).await;
        let label = if outcome.is_ok() { "stored" } else { "refused" };
        metrics::counter!("patchcord_forwards_total", "outcome" => label).increment(1);
        let was_failing = self.is_failing.swap(outcome.is_err(), Ordering::Relaxed);
        match (&outcome, was_failing) {
            (Err(error), false) => error!("webhooks cannot be forwarded, so Meta is asked to repeat them: {error}"),
            (Ok(()), true) => info!("webhooks are forwarded again"),
            _ => {}
        }
        outcome
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
