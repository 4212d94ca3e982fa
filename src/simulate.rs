//! `patchcord simulate`: a fake Meta and phones that stay up: a web page that is a phone, and calls placed with one request.

mod agent_news;
mod order;
mod page;
mod browser_order;
mod browser_calls;
mod browser_phone;
mod callees;
mod event;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_news::AgentNews;
use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use browser_calls::BrowserCalls;
use callees::Callees;
use clap::Args;
use patchcord_simulator::agent::{Agent, AgentOptions};
use patchcord_simulator::meta::{Meta, MetaOptions};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::agent::DialectName;
use crate::app::App;
use crate::config::api::{ApiKey, QueueScope, Scope};
use crate::demo::{LocalAgent, local_config};
use crate::http::error::ApiError;
use crate::pages;

/// Concurrent calls; one more is refused.
const CALLS_AT_ONCE: usize = 64;
/// Bits of a whole number in JavaScript.
const SEED_BITS: u32 = 53;
/// For the requests under way when the simulator stops, once every call of a page is hung up.
const ANSWERED_WITHIN: Duration = Duration::from_secs(2);

/// What the simulator runs against.
#[derive(Args)]
pub struct SimulateOptions {
    /// Where the phone page and the requests for calls are served.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Your agent: a service is started in this process and puts the calls through to it. Without it, and without
    /// --webhook, the agent is a built-in echo.
    #[arg(long, value_name = "WS_URL", conflicts_with = "webhook")]
    agent: Option<String>,
    /// What your agent speaks: `native`, or the protocol of another platform that it was written for, such as `twilio`.
    #[arg(long, value_name = "NAME", requires = "agent", value_parser = read_dialect, default_value = "native")]
    dialect: DialectName,
    /// A service that runs already; its config needs the graph_url, secret, number and token printed at the start.
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// Where the fake Graph API listens.
    #[arg(long, default_value = "127.0.0.1:8091")]
    graph_listen: SocketAddr,
    /// Where the WAV files of what the callers heard go, and the store and recordings of a service started here.
    #[arg(long, default_value = "patchcord-simulator")]
    output: PathBuf,
}

/// What the handlers share.
struct Simulation {
    meta: Meta,
    output: PathBuf,
    target: Target,
    free: Arc<Semaphore>,
    browser_calls: BrowserCalls,
    callees: Callees,
    agent_news: Arc<AgentNews>,
    /// Whether the simulator stops.
    stopping: watch::Sender<bool>,
}

/// Where the calls go.
enum Target {
    /// To a service of this process, and from there to the agent built in.
    Echo,
    /// To a service of this process, and from there to this agent.
    Agent(String, DialectName),
    /// To a service that runs already, by its webhook.
    Service(String),
}

fn read_dialect(name: &str) -> Result<DialectName, String> {
    let names = || DialectName::ALL.iter().map(|dialect| dialect.name()).collect::<Vec<_>>();
    DialectName::of_name(name).ok_or_else(|| format!("give one of {}", names().join(", ")))
}

impl Simulation {
    fn new(meta: Meta, output: PathBuf, target: Target, app: Option<&App>) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(CALLS_AT_ONCE));
        let (browser_calls, callees) = (BrowserCalls::default(), Callees::default());
        let (agent_news, stopping) = (AgentNews::of(app), watch::Sender::new(false));
        let simulation = Self { meta, output, target, free, browser_calls, callees, agent_news, stopping };
        let simulation = Arc::new(simulation);
        if let Some(app) = app {
            tokio::spawn(agent_news::follow(app.events(), simulation.clone()));
        }
        simulation
    }
}

/// Runs until Ctrl-C.
pub async fn run(options: SimulateOptions) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("--listen {}", options.listen))?;
    std::fs::create_dir_all(&options.output).with_context(|| options.output.display().to_string())?;
    let meta_options = MetaOptions { listen: options.graph_listen, ..MetaOptions::default() };
    let meta = Meta::start(meta_options).await.with_context(|| format!("--graph-listen {}", options.graph_listen))?;
    let target = match (options.agent, options.webhook) {
        (Some(agent), _) => Target::Agent(agent, options.dialect),
        (None, Some(webhook)) => Target::Service(webhook),
        (None, None) => Target::Echo,
    };
    let service = Service::start(&meta, &target, &options.output).await?;
    greet(&meta, &target, &service, listener.local_addr()?);
    let simulation = Simulation::new(meta, options.output, target, service.app.as_ref());
    serve(listener, simulation).await?;
    service.stop().await;
    Ok(())
}

/// What runs in this process beside the fake Meta.
struct Service {
    app: Option<App>,
    /// For the control API of `app`.
    key: String,
    /// Kept: dropping it would close the agent's port.
    _echo: Option<Agent>,
}

impl Service {
    async fn start(meta: &Meta, target: &Target, output: &Path) -> anyhow::Result<Self> {
        let (echo, url, dialect) = match target {
            Target::Echo => {
                let options = AgentOptions { echo: true, keeps_audio: false, ..AgentOptions::default() };
                let agent = Agent::start(options).await?;
                let url = agent.url();
                (Some(agent), url, DialectName::Native)
            }
            Target::Agent(url, dialect) => (None, url.clone(), *dialect),
            Target::Service(webhook) => {
                meta.set_webhook_url(webhook);
                return Ok(Self { app: None, key: String::new(), _echo: None });
            }
        };
        let key = format!("patchcord_simulator_{:032x}", rand::random::<u128>());
        let mut config = local_config(meta, &LocalAgent { url: &url, dialect }, output)?;
        config.api.keys.push(configured(&key));
        let app = App::start(config).await?;
        meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
        Ok(Self { app: Some(app), key, _echo: echo })
    }

    async fn stop(self) {
        if let Some(app) = self.app {
            app.stop(std::future::ready(())).await;
        }
    }
}

/// May read and control calls.
fn configured(key: &str) -> ApiKey {
    ApiKey {
        id: "simulator".to_owned(),
        sha256: Sha256::digest(key).into(),
        scopes: vec![Scope::CallsWrite],
        queues: QueueScope::default(),
        skills: BTreeSet::default(),
        expires: None,
        requests_per_second: ApiKey::REQUESTS_PER_SECOND,
    }
}

#[expect(clippy::print_stdout, reason = "what a command says is its result")]
fn greet(meta: &Meta, target: &Target, service: &Service, address: SocketAddr) {
    println!("The phone:      http://{address}/  (open it and press Call)");
    println!("or a request:   curl -X POST http://{address}/calls -d '{{\"seconds\": 10}}'");
    println!(
        "To be called:   leave the page open, or curl -X POST http://{address}/callees -d '{{\"after_seconds\": 2}}'"
    );
    match target {
        Target::Echo => println!("It calls:       the built-in echo agent; --agent ws://… calls your own"),
        Target::Agent(url, dialect) => println!("It calls:       the agent at {url} ({})", dialect.name()),
        Target::Service(webhook) => {
            let account = meta.options();
            println!("It calls:       the service at {webhook}, whose config needs");
            println!("  whatsapp.graph_url               = \"{}\"", meta.graph_url());
            println!("  whatsapp.app_secrets             = [\"{}\"]", account.app_secret);
            println!("  whatsapp.numbers.phone_number_id = \"{}\"", account.phone_number_id);
            println!("  whatsapp.numbers.access_token    = \"{}\"", account.access_token);
            println!("  media.listen = [\"127.0.0.1\"], media.allow_private = true");
        }
    }
    if let Some(app) = &service.app {
        println!("The API:        http://{}/v1 with the key {}", app.address, service.key);
    }
    println!("Ctrl-C stops.");
}

/// Serves until Ctrl-C; then the calls of the page end, and with them their streams.
async fn serve(listener: TcpListener, simulation: Arc<Simulation>) -> anyhow::Result<()> {
    let mut stopped = simulation.stopping.subscribe();
    let calls = simulation.clone();
    let serving = axum::serve(listener, router(simulation)).with_graceful_shutdown(async move {
        // Without a handler Ctrl-C ends the process anyway.
        let _ = tokio::signal::ctrl_c().await;
        calls.browser_calls.hang_up_all();
        calls.stopping.send_replace(true);
    });
    tokio::select! {
        served = serving.into_future() => Ok(served?),
        () = async {
            let _ = stopped.wait_for(|stopped| *stopped).await;
            tokio::time::sleep(ANSWERED_WITHIN).await;
        } => Ok(()),
    }
}

fn router(simulation: Arc<Simulation>) -> Router {
    Router::new()
        .route("/calls", post(order::place))
        .route("/api/simulation", get(describe))
        .merge(browser_calls::routes())
        .merge(browser_phone::routes())
        .merge(callees::routes())
        .merge(pages::routes(&page::FILES))
        .fallback(nothing_here)
        .layer(middleware::from_fn(pages::with_headers))
        .with_state(simulation)
}

async fn nothing_here() -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", "there is nothing at this path")
}

/// A seed that every reader of JSON holds exactly, JavaScript too.
fn draw_seed() -> u64 {
    rand::random::<u64>() >> (u64::BITS - SEED_BITS)
}

/// What the page says about itself.
async fn describe(State(simulation): State<Arc<Simulation>>) -> Json<Value> {
    let (agent, webhook) = match &simulation.target {
        Target::Echo => (Some("echo"), None),
        Target::Agent(url, _) => (Some(url.as_str()), None),
        Target::Service(webhook) => (None, Some(webhook)),
    };
    Json(json!({
        "agent": agent,
        "webhook": webhook,
        "number": simulation.meta.options().display_phone_number,
    }))
}

#[cfg(test)]
mod tests;
