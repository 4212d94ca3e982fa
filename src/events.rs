//! Events of calls, posted to the app's webhooks as Standard Webhooks: signed, at least once, in order for each call.
//!
//! What is to be delivered waits in the [`Store`], so memory holds only what is on its way, and a restart goes on
//! where the process ended. Each endpoint has a task of its own: a slow one makes no other wait. A call's next event
//! leaves only when the one before was acknowledged or given up; different calls do not wait for each other.

mod deliverer;
mod attempt;
mod backoff;
pub(crate) mod signature;

pub use signature::{InvalidSecret, SigningSecret};

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;
use url::Url;

use crate::store::{Endpoint, Kinds, Store};
use deliverer::Deliverer;

/// Somewhere events are posted to.
#[derive(Debug, Clone, PartialEq)]
pub struct Webhook {
    /// Its identity across restarts and in logs.
    pub name: String,
    /// Where it is.
    pub url: Url,
    /// Each gives one signature, so that one can be replaced; without any there is none.
    pub secrets: Vec<SigningSecret>,
    /// Which events it gets.
    pub kinds: Kinds,
}

impl Webhook {
    /// What the store must know of it, for [`StoreOptions::endpoints`](crate::store::StoreOptions::endpoints).
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { name: self.name.clone(), kinds: self.kinds.clone() }
    }
}

/// How events are delivered.
#[derive(Debug, Clone)]
pub struct EventsOptions {
    /// Where to; the store was opened with the same.
    pub webhooks: Vec<Webhook>,
    /// Requests to one endpoint at once, each for a different call.
    pub parallel: usize,
    /// For one request, from the connection to the end of the answer.
    pub attempt_timeout: Duration,
    /// Before the second try of an event; each wait after is twice as long.
    pub first_backoff: Duration,
    /// The longest wait between two tries, and the most that a `retry-after` is believed.
    pub longest_backoff: Duration,
    /// The longest wait before an endpoint that fails whatever it gets is probed again.
    pub longest_probe: Duration,
    /// After this time an event that fails becomes a dead letter.
    pub give_up_after: Duration,
    /// For the chance in the waits.
    pub jitter_seed: u64,
}

impl EventsOptions {
    /// The usual times.
    pub fn new(webhooks: Vec<Webhook>) -> Self {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        Self {
            webhooks,
            parallel: 32,
            attempt_timeout: Duration::from_secs(10),
            first_backoff: Duration::from_secs(1),
            longest_backoff: HOUR,
            longest_probe: Duration::from_secs(30),
            give_up_after: 24 * HOUR,
            jitter_seed: rand::random(),
        }
    }
}

/// What every client for webhooks must have: no redirects, which could carry events elsewhere.
pub fn client_settings(builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
    builder.redirect(Policy::none()).connect_timeout(Duration::from_secs(5))
}

/// The running deliveries.
#[derive(Debug)]
pub struct Events {
    stop: watch::Sender<bool>,
    deliverers: Vec<JoinHandle<()>>,
}

impl Events {
    /// Starts a task for each endpoint. `http` was built with [`client_settings`].
    pub fn start(store: &Store, options: EventsOptions, http: &reqwest::Client) -> Self {
        let (stop, stopped) = watch::channel(false);
        let options = Arc::new(options);
        let start = |index| Deliverer::new(store.clone(), options.clone(), index, http.clone(), stopped.clone());
        let deliverers = (0..options.webhooks.len()).map(|index| tokio::spawn(start(index).run())).collect();
        Self { stop, deliverers }
    }

    /// Begins no new request and waits for those on their way. What is cut at the deadline is delivered again after
    /// the next start. Close the store after it.
    pub async fn stop(self, deadline: Duration) {
        self.stop.send_replace(true);
        let cut_at = tokio::time::Instant::now() + deadline;
        for mut deliverer in self.deliverers {
            if tokio::time::timeout_at(cut_at, &mut deliverer).await.is_err() {
                warn!("deliveries of events are cut: they follow after the next start");
                deliverer.abort();
                // Its end is what counts, not how.
                let _ = deliverer.await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
