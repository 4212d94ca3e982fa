//! Assembles the service from a configuration, and stops it without losing a call.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use patchcord_media::peer::Identity;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::agent::{self, AgentStatus, AudioRules, Instances, SipOptions, SocketOptions};
use crate::call::end::EndReason;
use crate::call::event::CallEvent;
use crate::calls::from_phones::{self, PhoneRule, PhoneRules};
use crate::calls::media_sockets::MediaSockets;
use crate::calls::recovery::Recovery;
use crate::calls::session::SessionOptions;
use crate::calls::terminations::Terminations;
use crate::calls::{CallQueue, Calls, CallsOptions};
use crate::config::events::{FORWARD_ENDPOINT, TWILIO_CALLS_ENDPOINT, TWILIO_ENDPOINT};
use crate::config::sip::{Sip, SipUser};
use crate::config::trunks::Trunk;
use crate::config::{Config, restart};
use crate::events::{self, Events, EventsOptions, Format, Webhook, twilio_status};
use crate::health::Health;
use crate::http::api::ApiOptions;
use crate::http::forward::Forwarding;
use crate::http::server::Server;
use crate::http::{self, HttpOptions};
use crate::permissions::{Permissions, PermissionsOptions};
use crate::prompts::{self, PromptLibrary};
use crate::pulse::Pulse;
use crate::queue::QueueName;
use crate::queues::{self, QueueDesk};
use crate::recordings::upload::Archive;
use crate::recordings::{RecordingResult, Recordings, RecordingsOptions};
use crate::settings::{CurrentSettings, Settings};
use crate::sip::{Host, IncomingCall, Listen, RegistrarOptions, SipUri, UserAgent, UserAgentOptions};
use crate::store::{FORWARD, Kinds, Store, StoreOptions};
use crate::whatsapp::graph::{self, GraphClient, GraphOptions};
use crate::worker::load::LoadLimits;
use crate::worker::{self, Silence, WorkerHandle, WorkerOptions};
use crate::{descriptors, public_address, sip, telemetry};

/// Events that a slow listener may lag behind; beyond it the listener loses the oldest and gets their number.
const EVENTS: usize = 4096;
/// Time for Meta and the agents to be told of the end, once all calls are ended.
const FAREWELL: Duration = Duration::from_secs(10);

/// For a queued call that is being placed: it is live then, or queued.
const QUEUE_AT_REST_WITHIN: Duration = Duration::from_secs(5);
/// For requests in progress, once no call is live.
const CLOSED_WITHIN: Duration = Duration::from_secs(1);
/// For recordings to be written when the service stops, and for uploads in progress.
const WRITTEN_WITHIN: Duration = Duration::from_secs(5);

/// For phones to answer our last BYE.
const HUNG_UP_WITHIN: Duration = Duration::from_secs(2);

/// For events in flight to be acknowledged when the service stops; the rest follows after the next start.
const DELIVERED_WITHIN: Duration = Duration::from_secs(2);

/// A running service.
pub struct App {
    /// The address of the HTTP listener.
    pub address: SocketAddr,
    calls: Calls,
    events: broadcast::Sender<CallEvent>,
    /// True closes event sockets; the channel is closed once the last of them has ended.
    stop_streams: watch::Sender<bool>,
    http: Server,
    workers: Vec<std::thread::JoinHandle<()>>,
    user_agent: Option<UserAgent>,
    /// Takes the calls of phones.
    calling: JoinHandle<()>,
    /// Signs SIP users in to their queues.
    attending: JoinHandle<()>,
    prompt_watch: JoinHandle<()>,
    /// The queues' task.
    queueing: JoinHandle<()>,
    /// The pulse of the control plane.
    beating: JoinHandle<()>,
    recordings: Option<Recordings>,
    /// Places queued calls.
    call_queue: JoinHandle<()>,
    recovery: JoinHandle<()>,
    terminations: JoinHandle<()>,
    deliveries: Events,
    store: Store,
    settings: CurrentSettings,
    prompts: PromptLibrary,
    /// The configuration at the start.
    config: Config,
}

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
        let (recordings, closed) = start_recordings(&config).await?;
        let store = open_store(&config).await?;
        let pulse = Arc::new(Pulse::default());
        let graph = graph_client(&config, &pulse)?;
        let settings = CurrentSettings::new(Settings::read(&config)?);
        let deliveries = deliver_events(&config, &store, &settings)?;
        let terminations = Terminations::new(store.clone(), graph.clone(), settings.clone());
        let instances = Instances::default();
        let Workers { handles: workers, threads, user_agent, from_phones } =
            start_workers(&config, &settings, &prompts, &recordings, &instances).await?;
        let health = Health::of(pulse.clone(), workers.iter().map(|worker| worker.pulse().clone()).collect());
        let (listeners, _) = broadcast::channel(EVENTS);
        let (queues, queueing) = QueueDesk::start(config.queues.clone(), &pulse);
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
        let http = Server::start(listener, router, &config.http, descriptors.http);
        info!(http.address = %address, "patchcord is ready on http://{address}");
        let prompt_watch = tokio::spawn(prompts.clone().watch());
        let beating = tokio::spawn(async move { match pulse.keep().await {} });
        Ok(Self {
            address,
            calls,
            events: listeners,
            stop_streams,
            http,
            workers: threads,
            user_agent,
            calling,
            attending,
            prompt_watch,
            queueing,
            beating,
            recordings,
            call_queue,
            recovery,
            terminations,
            deliveries,
            store,
            settings,
            prompts,
            config,
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
        prompts::check_routes(&config.routes, &self.prompts)?;
        if self.recordings.is_none() && config.routes.values().any(|route| route.record) {
            anyhow::bail!("a route has record = true, but the recordings folder cannot be used: restart the service");
        }
        self.settings.replace(Settings::read(config)?);
        info!(
            "configuration reloaded: {} numbers, {} routes, {} API keys",
            config.whatsapp.numbers.len(),
            config.routes.len(),
            config.api.keys.len()
        );
        let waiting = restart::needed_for(&self.config, config);
        if !waiting.is_empty() {
            warn!("these changes need a restart: {}", waiting.join(", "));
        }
        Ok(())
    }

    /// Takes no new calls, lets the live ones go on for the drain time or until `hurry` comes, ends the rest at
    /// Meta, and stops.
    pub async fn stop(mut self, hurry: impl Future<Output = ()>) {
        self.calls.drain();
        if tokio::time::timeout(QUEUE_AT_REST_WITHIN, &mut self.call_queue).await.is_err() {
            // A call that it has taken from the queue is ended by the next start.
            warn!("a queued call was being placed, and the store does not answer");
            self.call_queue.abort();
        }
        let drain_timeout = self.config.calls.drain_timeout;
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
        self.stop_streams.send_replace(true);
        let streams = tokio::time::timeout(CLOSED_WITHIN, self.stop_streams.closed());
        let (requests_ended, streams) = tokio::join!(self.http.stop(CLOSED_WITHIN), streams);
        if !requests_ended || streams.is_err() {
            info!("open HTTP connections were cut off");
        }
        for watching in [self.prompt_watch, self.attending, self.queueing, self.beating, self.calling] {
            watching.abort();
            // It ends as cancelled.
            let _ = watching.await;
        }
        // The calls hold the handles to the workers; with the last handle the threads end.
        drop(self.calls);
        if let Some(user_agent) = &self.user_agent {
            user_agent.stop(HUNG_UP_WITHIN).await;
        }
        if let Some(recordings) = &self.recordings {
            recordings.stop(WRITTEN_WITHIN).await;
        }
        // Calls that they have not ended, here or at Meta, are ended by the next start.
        for task in [self.recovery, self.terminations] {
            task.abort();
            let _ = task.await;
        }
        self.deliveries.stop(DELIVERED_WITHIN).await;
        self.store.close().await;
        let joined = tokio::task::spawn_blocking(move || self.workers.into_iter().all(|worker| worker.join().is_ok()));
        match tokio::time::timeout(Duration::from_secs(2), joined).await {
            Ok(Ok(true)) => info!("stopped"),
            _ => warn!("stopped, with a worker that did not end cleanly"),
        }
    }
}

/// What carries the calls.
struct Workers {
    handles: Vec<WorkerHandle>,
    threads: Vec<std::thread::JoinHandle<()>>,
    user_agent: Option<UserAgent>,
    /// Calls that phones ask for.
    from_phones: mpsc::Receiver<IncomingCall>,
}

async fn start_workers(
    config: &Config,
    settings: &CurrentSettings,
    prompts: &PromptLibrary,
    recordings: &Option<Recordings>,
    instances: &Instances,
) -> anyhow::Result<Workers> {
    let addresses = public_address::find(&config.media).await?;
    let (incoming, from_phones) = UserAgent::incoming_calls();
    let user_agent = start_user_agent(config, &addresses, incoming).await?;
    let phones = user_agent.as_ref().zip(config.sip.as_ref()).map(|(user_agent, sip)| SipOptions {
        user_agent: user_agent.clone(),
        ring_timeout: sip.ring_timeout,
        audio: AudioRules { allow_private: config.media.allow_private, latching: sip.latching, srtp: sip.srtp },
    });
    let options = WorkerOptions {
        identity: Arc::new(Identity::generate().context("no certificate could be made")?),
        addresses,
        ports: config.media.ports.first..=config.media.ports.last,
        allow_private: config.media.allow_private,
        silence: Silence {
            warn_after: config.calls.media_lost_warn,
            consent_lost_after: config.calls.media_lost_end,
            end_after: config.calls.media_silent_end,
        },
        load: LoadLimits {
            lateness: config.media.max_lateness,
            share: f64::from(config.media.max_load_percent) / 100.0,
        },
        sockets: SocketOptions {
            tls: Arc::new(agent::tls::usual()?),
            connect_timeout: config.calls.agent_timeout,
            idle_timeout: config.calls.agent_idle_timeout,
            instances: instances.clone(),
            sip: phones,
            settings: settings.clone(),
        },
        prompts: prompts.clone(),
        recordings: recordings.clone(),
        settings: settings.clone(),
    };
    let count = match config.media.workers {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get()),
        workers => workers,
    };
    let mut handles = Vec::with_capacity(count);
    let mut threads = Vec::with_capacity(count);
    for index in 0..count {
        let (handle, thread) = worker::start(options.clone(), index, count)?;
        handles.push(handle);
        threads.push(thread);
    }
    Ok(Workers { handles, threads, user_agent, from_phones })
}

/// None without `[sip]`: then nothing listens.
async fn start_user_agent(
    config: &Config,
    addresses: &[(IpAddr, IpAddr)],
    incoming: mpsc::Sender<IncomingCall>,
) -> anyhow::Result<Option<UserAgent>> {
    let Some(settings) = &config.sip else { return Ok(None) };
    let advertise = match settings.advertise.is_empty() {
        true => addresses.iter().map(|(_, advertised)| *advertised).collect(),
        false => settings.advertise.clone(),
    };
    let tls = match &settings.tls.ca {
        None => agent::tls::usual()?,
        Some(ca) => sip::tls::client(ca).with_context(|| format!("sip.tls.ca = {ca:?}"))?,
    };
    let server_tls = settings.tls.identity.as_ref().map(|(cert, key)| {
        sip::tls::server(cert, key).with_context(|| format!("sip.tls.cert = {cert:?}, key = {key:?}"))
    });
    let options = UserAgentOptions {
        listen: settings.listen.clone(),
        websocket: settings.websocket.then(|| websocket_address(config, &advertise)),
        advertise,
        refer_to: settings.refer_to.clone(),
        tls: Arc::new(tls),
        server_tls: server_tls.transpose()?.map(Arc::new),
        registrar: registrar_options(config, settings, addresses),
        dns: settings.dns,
        trunks: settings.trunks.iter().map(|trunk| trunk.options.clone()).collect(),
        incoming,
    };
    UserAgent::start(options).await.map(Some)
}

/// Ends at once if no queue has a SIP user.
fn attend_queues(
    config: &Config,
    queues: QueueDesk,
    user_agent: Option<&UserAgent>,
) -> impl Future<Output = ()> + Send + use<> {
    let mut users: BTreeMap<String, BTreeSet<QueueName>> = BTreeMap::new();
    for (name, queue) in &config.queues {
        for user in &queue.sip_users {
            users.entry(user.clone()).or_default().insert(name.clone());
        }
    }
    let registered = user_agent.and_then(UserAgent::registered_users);
    async move {
        if let Some(registered) = registered {
            queues::phones::attend(queues, users, registered).await;
        }
    }
}

/// Nobody may call by default.
fn phone_rules(config: &Config) -> PhoneRules {
    let users = config.sip.iter().flat_map(|sip| &sip.users);
    let rule = |user: &SipUser| PhoneRule { may_call: user.may_call, number: user.number.clone() };
    let trunks = config.sip.iter().flat_map(|sip| &sip.trunks);
    let rule_of_trunk = |trunk: &Trunk| PhoneRule { may_call: trunk.may_call, number: trunk.number.clone() };
    PhoneRules {
        users: users.map(|user| (user.name.clone(), rule(user))).collect(),
        trunks: trunks.map(|trunk| (trunk.options.name.clone(), rule_of_trunk(trunk))).collect(),
    }
}

/// None without users.
fn registrar_options(config: &Config, sip: &Sip, addresses: &[(IpAddr, IpAddr)]) -> Option<RegistrarOptions> {
    let users: HashMap<_, _> = sip.users.iter().map(|user| (user.name.clone(), user.hashes(&sip.realm))).collect();
    let mut domains = sip.domains.clone();
    if domains.is_empty() {
        let advertised = addresses.iter().flat_map(|(bound, advertised)| [*bound, *advertised]);
        let bound = sip.listen.iter().map(|listen| listen.address.ip());
        let all = advertised.chain(bound).chain(sip.advertise.iter().copied());
        domains.extend(all.filter(|address| !address.is_unspecified()).map(Host::Address));
        let named = config.http.public_url.as_ref().and_then(|url| url.host_str());
        let named = [named, Some(sip.realm.as_str())].into_iter().flatten();
        domains.extend(named.filter_map(|name| SipUri::host_of(&format!("sip:{name}"))));
    }
    (!users.is_empty()).then(|| RegistrarOptions { realm: sip.realm.clone(), domains, users })
}

/// What phones are told. They send over the socket that they have opened, so nothing is ever sent there.
fn websocket_address(config: &Config, advertise: &[IpAddr]) -> SocketAddr {
    let listen = config.http.listen;
    let ip = advertise.first().filter(|_| listen.ip().is_unspecified());
    SocketAddr::new(ip.copied().unwrap_or(listen.ip()), listen.port())
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
fn webhooks(config: &Config) -> Vec<Webhook> {
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
    queues: QueueDesk,
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
