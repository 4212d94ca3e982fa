//! Assembles the service from a configuration, and stops it without losing a call.

mod sip;
mod storage;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::agent::{AgentStatus, Instances};
use crate::call::end::EndReason;
use crate::call::event::CallEvent;
use crate::calls::from_phones;
use crate::calls::media_sockets::MediaSockets;
use crate::calls::recovery::Recovery;
use crate::calls::session::SessionOptions;
use crate::calls::terminations::Terminations;
use crate::calls::{CallQueue, Calls, CallsOptions};
use crate::config::{Config, restart};
use crate::health::Health;
use crate::http::api::ApiOptions;
use crate::http::forward::Forwarding;
use crate::http::server::Server;
use crate::http::{self, HttpOptions};
use crate::permissions::{Permissions, PermissionsOptions};
use crate::prompts::{self, PromptLibrary};
use crate::pulse::Pulse;
use crate::queues::QueuesHandle;
use crate::settings::{CurrentSettings, Settings};
use crate::sip::{Listen, UserAgent};
use crate::whatsapp::graph::{self, GraphClient, GraphOptions};
use crate::{descriptors, events, telemetry};
use sip::{attend_queues, phone_rules};
use storage::{Storage, webhooks};
use workers::{Workers, start_workers};

/// Events that a slow listener may lag behind; beyond it the listener loses the oldest and gets their number.
const EVENTS: usize = 4096;
/// Time for Meta and the agents to be told of the end, once all calls are ended.
const FAREWELL: Duration = Duration::from_secs(10);
/// For a queued call that is being placed: it is live then, or queued.
const QUEUE_AT_REST_WITHIN: Duration = Duration::from_secs(5);
/// For requests in progress, once no call is live.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// For phones to answer our last BYE.
const HUNG_UP_WITHIN: Duration = Duration::from_secs(2);

/// For the workers' threads to end, once nothing uses them.
const WORKERS_JOINED_WITHIN: Duration = Duration::from_secs(2);

/// A running service.
pub struct App {
    /// The address of the HTTP listener.
    pub address: SocketAddr,
    calls: Calls,
    /// Events of all calls.
    events: broadcast::Sender<CallEvent>,
    http: HttpSide,
    worker_threads: Vec<std::thread::JoinHandle<()>>,
    user_agent: Option<UserAgent>,
    /// Places queued calls.
    call_queue: JoinHandle<()>,
    /// End calls at Meta: recovery and terminations.
    endings: Tasks,
    /// Everything else that runs beside the calls.
    background: Tasks,
    storage: Storage,
    configuration: Configuration,
}

/// The HTTP server and the event streams that it serves.
struct HttpSide {
    server: Server,
    /// True closes event sockets; the channel is closed once the last of them has ended.
    stop_streams: watch::Sender<bool>,
}

/// What a reload changes, or compares with.
struct Configuration {
    at_start: Config,
    settings: CurrentSettings,
    prompts: PromptLibrary,
}

/// Tasks that run until they are stopped.
struct Tasks(Vec<JoinHandle<()>>);

impl App {
    /// Starts everything; when it returns, webhooks are taken. An error says what to set.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        // In a second service of the process the provider is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let metrics = telemetry::start_metrics();
        let descriptors = descriptors::prepare(&config);
        let prompts = PromptLibrary::load(&config.prompts.dir)?;
        prompts::check_routes(&config.routes, &prompts)?;
        prompts::check_queues(&config.queues, &prompts)?;
        let settings = CurrentSettings::new(Settings::read(&config)?);
        let (storage, closed) = Storage::open(&config, &settings).await?;
        let (store, recordings) = (storage.store.clone(), storage.recordings.clone());
        let pulse = Arc::new(Pulse::default());
        let graph = graph_client(&config, &pulse)?;
        let terminations = Terminations::new(store.clone(), graph.clone(), settings.clone());
        let instances = Instances::default();
        let Workers { handles: workers, threads: worker_threads, user_agent, from_phones } =
            start_workers(&config, &settings, &prompts, &recordings, &instances).await?;
        let health = Health::of(pulse.clone(), workers.iter().map(|worker| worker.pulse().clone()).collect());
        let (listeners, _) = broadcast::channel(EVENTS);
        let (queues, queueing) = QueuesHandle::start(config.queues.clone(), &pulse);
        let permissions = Permissions::start(PermissionsOptions {
            settings: settings.clone(),
            graph: graph.clone(),
            store: store.clone(),
        })
        .await;
        let attending = tokio::spawn(attend_queues(&config, queues.clone(), user_agent.as_ref()));
        let calls = Calls::new(CallsOptions {
            settings: settings.clone(),
            max_calls: config.calls.max_calls,
            session: session_options(&config, prompts.clone(), queues.clone(), &pulse)?,
            graph,
            terminations: terminations.clone(),
            workers,
            events: listeners.clone(),
            store: store.clone(),
            permissions: permissions.clone(),
        });
        calls.count_placed().await;
        let calling =
            tokio::spawn(from_phones::run(from_phones, calls.clone(), phone_rules(&config), listeners.clone()));
        let listener = TcpListener::bind(config.http.listen)
            .await
            .with_context(|| format!("http.listen = \"{}\" cannot be opened", config.http.listen))?;
        let address = listener.local_addr()?;
        // Webhooks that arrive now wait until the server runs.
        let recovery = Recovery {
            store: store.clone(),
            terminations: terminations.clone(),
            recordings: recordings.clone(),
            resumed: Arc::new(calls.take_over().await),
            closed: Arc::new(closed),
        };
        let recovery = tokio::spawn(recovery.run());
        let call_queue = tokio::spawn(CallQueue::new(calls.clone()).run());
        let terminations = tokio::spawn(terminations.run());
        let (stop_streams, stopping) = watch::channel(false);
        let http_options = HttpOptions {
            settings: settings.clone(),
            calls: calls.clone(),
            health,
            forwarding: Forwarding::start(&store),
            store: store.clone(),
            is_store_required: config.store.required,
            metrics,
            max_webhook_bytes: config.http.limits.max_webhook_bytes,
            proxies: config.http.proxies.clone(),
            allow_origins: config.http.allow_origins.clone(),
            public_url: config.http.public_url.clone(),
            phones: user_agent.clone(),
        };
        let api = ApiOptions {
            settings: settings.clone(),
            calls: calls.clone(),
            store: store.clone(),
            events: listeners.clone(),
            prompts: prompts.clone(),
            permissions,
            recordings: recordings.clone(),
            queues,
            instances,
            webhooks: webhooks(&config).into_iter().map(|webhook| webhook.name).collect(),
            stopping,
        };
        let router = http::router(http_options, api);
        let server = Server::start(listener, router, &config.http, descriptors.http);
        info!(http.address = %address, "patchcord is ready on http://{address}");
        let prompt_watch = tokio::spawn(prompts.clone().watch());
        let beating = tokio::spawn(async move { match pulse.keep().await {} });
        Ok(Self {
            address,
            calls,
            events: listeners,
            http: HttpSide { server, stop_streams },
            worker_threads,
            user_agent,
            call_queue,
            endings: Tasks(vec![recovery, terminations]),
            background: Tasks(vec![prompt_watch, attending, queueing, beating, calling]),
            storage,
            configuration: Configuration { at_start: config, settings, prompts },
        })
    }

    /// Where SIP is listened for; empty without `[sip]`.
    pub fn sip_listening(&self) -> &[Listen] {
        self.user_agent.as_ref().map_or(&[], UserAgent::listening)
    }

    /// All events of all calls from now on.
    pub fn events(&self) -> broadcast::Receiver<CallEvent> {
        self.events.subscribe()
    }

    /// Waits until no call is live, and the first attempt to end each at Meta is over.
    pub async fn all_ended(&self) {
        self.calls.all_ended().await;
    }

    /// Applies numbers, secrets, routes and API keys of a configuration; live calls go on as they began. An
    /// error changes nothing.
    pub fn reload(&self, config: &Config) -> anyhow::Result<()> {
        let Configuration { at_start, settings, prompts } = &self.configuration;
        prompts::check_routes(&config.routes, prompts)?;
        if self.storage.recordings.is_none() && config.routes.values().any(|route| route.record) {
            anyhow::bail!("a route has record = true, but the recordings folder cannot be used: restart the service");
        }
        settings.replace(Settings::read(config)?);
        info!(
            "configuration reloaded: {} numbers, {} routes, {} API keys",
            config.whatsapp.numbers.len(),
            config.routes.len(),
            config.api.keys.len()
        );
        let waiting = restart::needed_for(at_start, config);
        if !waiting.is_empty() {
            warn!("these changes need a restart: {}", waiting.join(", "));
        }
        Ok(())
    }

    /// Takes no new calls, lets the live ones go on for the drain time or until `hurry` comes, ends the rest at
    /// Meta, and stops.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        self.end_calls(hurry).await;
        self.http.stop().await;
        self.background.stop().await;
        // The calls hold the handles to the workers; with the last handle the threads end.
        drop(self.calls);
        if let Some(user_agent) = &self.user_agent {
            user_agent.stop(HUNG_UP_WITHIN).await;
        }
        self.storage.finish_recordings().await;
        // Calls that they have not ended, here or at Meta, are ended by the next start.
        self.endings.stop().await;
        self.storage.close().await;
        let threads = self.worker_threads;
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|worker| worker.join().is_ok()));
        match tokio::time::timeout(WORKERS_JOINED_WITHIN, joined).await {
            Ok(Ok(true)) => info!("stopped"),
            _ => warn!("stopped, with a worker that did not end cleanly"),
        }
    }

    async fn end_calls(&mut self, hurry: impl Future<Output = ()>) {
        self.calls.drain();
        if tokio::time::timeout(QUEUE_AT_REST_WITHIN, &mut self.call_queue).await.is_err() {
            // A call that it has taken from the queue is ended by the next start.
            warn!("a queued call was being placed, and the store does not answer");
            self.call_queue.abort();
        }
        let drain_timeout = self.configuration.at_start.calls.drain_timeout;
        let live = self.calls.count();
        if live > 0 {
            info!("stopping: {live} calls go on for up to {}", telemetry::shown(drain_timeout));
        }
        tokio::select! {
            () = self.all_ended() => {}
            () = tokio::time::sleep(drain_timeout) => {}
            () = hurry => {}
        }
        self.calls.hang_up_all(&EndReason::ShuttingDown);
        if tokio::time::timeout(FAREWELL, self.all_ended()).await.is_err() {
            warn!("{} calls could not be ended in time", self.calls.count());
        }
    }
}

impl HttpSide {
    async fn stop(self) {
        self.stop_streams.send_replace(true);
        let streams = tokio::time::timeout(CLOSED_WITHIN, self.stop_streams.closed());
        let (requests_ended, streams) = tokio::join!(self.server.stop(CLOSED_WITHIN), streams);
        if !requests_ended || streams.is_err() {
            info!("open HTTP connections were cut off");
        }
    }
}

impl Tasks {
    async fn stop(self) {
        for task in self.0 {
            task.abort();
            // It ends as cancelled.
            let _ = task.await;
        }
    }
}

fn graph_client(config: &Config, pulse: &Arc<Pulse>) -> anyhow::Result<GraphClient> {
    let http = graph::client_settings(reqwest::Client::builder()).build().context("the HTTP client")?;
    let mut options = GraphOptions::new(config.whatsapp.graph_url.clone(), &config.whatsapp.graph_version);
    options.budget = config.calls.graph_budget;
    options.jitter_seed = rand::random();
    options.pulse = pulse.clone();
    Ok(GraphClient::new(http, options))
}

fn session_options(
    config: &Config,
    prompts: PromptLibrary,
    queues: QueuesHandle,
    pulse: &Arc<Pulse>,
) -> anyhow::Result<SessionOptions> {
    Ok(SessionOptions {
        accept_timeout: config.calls.accept_timeout,
        media_timeout: config.calls.media_timeout,
        agent_timeout: config.calls.agent_timeout,
        ring_timeout: config.sip.as_ref().map_or(Duration::ZERO, |sip| sip.ring_timeout),
        max_duration: config.calls.max_duration,
        max_buffer: patchcord_media::source::DEFAULT_MAX_BUFFER,
        prompts,
        agents: AgentStatus::default(),
        queues,
        media_sockets: MediaSockets::new(config.http.public_url.clone()),
        pulse: pulse.clone(),
        http: events::client_settings(reqwest::Client::builder()).build().context("the HTTP client")?,
    })
}
