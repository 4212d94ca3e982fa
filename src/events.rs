//! Events of calls, posted to the app's webhooks as Standard Webhooks: signed, at least once, in order for each call.
//!
//! Deliveries wait in the [`Store`], so memory holds only those in flight, and a restart continues
//! where the process ended. Each endpoint has a task of its own: a slow one does not delay the others. A call's next event
//! leaves only when the previous one was acknowledged or given up; different calls do not wait for each other.

mod deliverer;
mod attempt;
mod backoff;
pub mod twilio_status;
mod status_of_calls;
pub(crate) mod signature;

pub use signature::{InvalidSecret, SigningSecret};

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tracing::warn;
use url::Url;

use crate::settings::CurrentSettings;
use crate::store::{Endpoint, Kinds, Store};
use crate::twilio::Account;
use deliverer::Deliverer;

/// A receiver of events.
#[derive(Debug, Clone)]
pub struct Webhook {
    /// Its name, which identifies it across restarts and in logs.
    pub name: String,
    /// Its address.
    pub url: Url,
    /// Each adds one signature, so that a secret can be rotated; without secrets requests are not signed.
    pub secrets: Vec<SigningSecret>,
    /// The kinds of events it receives.
    pub kinds: Kinds,
    /// How they are written.
    pub format: Format,
}

/// How a webhook writes events.
#[derive(Debug, Clone, Default)]
pub enum Format {
    /// As they are, in JSON.
    #[default]
    Events,
    /// As Twilio's status callbacks of this account.
    TwilioStatus(Arc<Account>),
    /// The same for the status callbacks of single calls: the URL is the call's, and each is asked once, as Twilio does.
    TwilioStatusOfCalls,
}

impl Webhook {
    /// The endpoint for [`StoreOptions::endpoints`](crate::store::StoreOptions::endpoints).
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { name: self.name.clone(), kinds: self.kinds.clone() }
    }
}

/// Settings of delivery.
#[derive(Debug, Clone)]
pub struct EventsOptions {
    /// The receivers; the store was opened with the same.
    pub webhooks: Vec<Webhook>,
    /// Concurrent requests to one endpoint, each for a different call.
    pub parallel: usize,
    /// Deadline of one request, from the connection to the end of the response.
    pub attempt_timeout: Duration,
    /// Wait before the second attempt; each further wait is twice as long.
    pub first_backoff: Duration,
    /// The longest wait between two attempts, which also bounds `retry-after`.
    pub longest_backoff: Duration,
    /// The longest wait between two probes of an endpoint that is down.
    pub longest_probe: Duration,
    /// A failing event becomes a dead letter after this time.
    pub give_up_after: Duration,
    /// Seed of the jitter.
    pub jitter_seed: u64,
    /// What says where the URLs of single calls lead; without it none is asked.
    pub settings: Option<CurrentSettings>,
}

impl EventsOptions {
    /// The default times.
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
            settings: None,
        }
    }
}

/// Required settings of every client for webhooks: no redirects, which could carry events elsewhere.
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

    /// Starts no new request and waits for those in flight. Requests cut off at the deadline are repeated after
    /// the next start. Close the store after it.
    pub async fn stop(self, deadline: Duration) {
        self.stop.send_replace(true);
        let cut_at = tokio::time::Instant::now() + deadline;
        for mut deliverer in self.deliverers {
            if tokio::time::timeout_at(cut_at, &mut deliverer).await.is_err() {
                warn!("event deliveries in flight were cut off: they are repeated after the next start");
                deliverer.abort();
                // It ends as cancelled.
                let _ = deliverer.await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
