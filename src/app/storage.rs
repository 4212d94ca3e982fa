//! Opens what outlives the process: the store with the deliveries of its events, and the recordings.

use std::time::Duration;

use anyhow::Context;
use tracing::{info, warn};

use crate::config::Config;
use crate::config::events::{FORWARD_ENDPOINT, TWILIO_CALLS_ENDPOINT, TWILIO_ENDPOINT};
use crate::events::{self, Events, EventsOptions, Format, Webhook, twilio_status};
use crate::recordings::upload::Archive;
use crate::recordings::{RecordingResult, Recordings, RecordingsOptions};
use crate::settings::CurrentSettings;
use crate::store::{FORWARD, Kinds, Store, StoreOptions};

/// For recordings to be written when the service stops, and for uploads in progress.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);
/// For events in flight to be acknowledged when the service stops; the rest follows after the next start.
const DELIVERED_WITHIN: Duration = Duration::from_secs(2);

/// What is kept on disk.
pub(super) struct Storage {
    pub store: Store,
    /// Events from the store to the app's webhooks.
    deliveries: Events,
    /// None if the folder cannot be used and no route records.
    pub recordings: Option<Recordings>,
}

impl Storage {
    /// Gives also the recordings of an earlier process, which are closed now.
    pub async fn open(config: &Config, settings: &CurrentSettings) -> anyhow::Result<(Self, Vec<RecordingResult>)> {
        let (recordings, closed) = start_recordings(config).await?;
        let store = open_store(config).await?;
        let deliveries = deliver_events(config, &store, settings)?;
        Ok((Self { store, deliveries, recordings }, closed))
    }

    pub async fn finish_recordings(&self) {
        if let Some(recordings) = &self.recordings {
            recordings.stop(WRITTEN_WITHIN).await;
        }
    }

    /// Delivers what can be delivered at once, and closes the store.
    pub async fn close(self) {
        self.deliveries.stop(DELIVERED_WITHIN).await;
        self.store.close().await;
    }
}

async fn open_store(config: &Config) -> anyhow::Result<Store> {
    let mut options = StoreOptions::new(&config.store.path);
    options.endpoints = webhooks(config).iter().map(Webhook::endpoint).collect();
    options.retention.calls = config.store.keep_calls;
    options.retention.events = config.store.keep_events;
    options.min_free_bytes = config.store.min_free_bytes;
    Ok(tokio::task::spawn_blocking(move || Store::open(options)).await.context("the store")??)
}

fn deliver_events(config: &Config, store: &Store, settings: &CurrentSettings) -> anyhow::Result<Events> {
    let http = events::client_settings(reqwest::Client::builder()).build().context("the HTTP client")?;
    let mut options = EventsOptions::new(webhooks(config));
    options.give_up_after = config.events.give_up_after;
    options.settings = Some(settings.clone());
    Ok(Events::start(store, options, &http))
}

/// All receivers of events and forwarded webhooks.
pub(super) fn webhooks(config: &Config) -> Vec<Webhook> {
    let forward = config.whatsapp.forward_url.as_ref().map(|url| Webhook {
        name: FORWARD_ENDPOINT.to_owned(),
        url: url.clone(),
        // Meta's own signature is forwarded.
        secrets: Vec::new(),
        kinds: Kinds::Only(vec![FORWARD.to_owned()]),
        format: Format::Events,
    });
    let account = config.twilio.as_ref();
    let status =
        account.zip(account.and_then(|account| account.status_callback.clone())).map(|(account, url)| Webhook {
            name: TWILIO_ENDPOINT.to_owned(),
            url,
            // The account's token signs.
            secrets: Vec::new(),
            kinds: Kinds::Only(twilio_status::KINDS.map(str::to_owned).to_vec()),
            format: Format::TwilioStatus(account.clone()),
        });
    let status_of_calls = account.map(|_| Webhook {
        name: TWILIO_CALLS_ENDPOINT.to_owned(),
        // Each call has its own.
        url: config.whatsapp.graph_url.clone(),
        secrets: Vec::new(),
        kinds: Kinds::Only(twilio_status::KINDS.map(str::to_owned).to_vec()),
        format: Format::TwilioStatusOfCalls,
    });
    config.events.webhooks.iter().cloned().chain(forward).chain(status).chain(status_of_calls).collect()
}

/// A folder that cannot be used stops the start only if a route records.
async fn start_recordings(config: &Config) -> anyhow::Result<(Option<Recordings>, Vec<RecordingResult>)> {
    let options = RecordingsOptions {
        dir: config.recordings.dir.clone(),
        upload: config.recordings.upload.as_ref().map(Archive::from_config).transpose().context("recordings.upload")?,
        keep_local: config.recordings.keep_local,
        max_age: config.recordings.max_age,
        min_free_bytes: config.recordings.min_free_bytes,
    };
    let is_needed = config.routes.values().any(|route| route.record);
    match Recordings::start(options).await {
        Ok((recordings, closed)) => {
            for recording in &closed {
                info!(recording.id = %recording.id, "recording {} of an earlier process is closed", recording.id);
            }
            Ok((Some(recordings), closed))
        }
        Err(error) if is_needed => Err(error),
        Err(error) => {
            warn!("calls cannot be recorded: {error:#}");
            Ok((None, Vec::new()))
        }
    }
}
