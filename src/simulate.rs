//! `patchcord simulate`: a fake Meta and phones that stay up: a web page that is a phone, and calls placed with one request.

mod order;
mod page;
mod browser_order;
mod browser_calls;
mod event;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use browser_calls::BrowserCalls;
use clap::Args;
use patchcord_simulator::agent::{Agent, AgentOptions};
use patchcord_simulator::meta::{Meta, MetaOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::demo::local_config;
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
}

/// Where the calls go.
enum Target {
    /// To a service of this process, and from there to the agent built in.
    Echo,
    /// To a service of this process, and from there to this agent.
    Agent(String),
    /// To a service that runs already, by its webhook.
    Service(String),
}

impl Simulation {
    fn new(meta: Meta, output: PathBuf, target: Target) -> Arc<Self> {
        let free = Arc::new(Semaphore::new(CALLS_AT_ONCE));
        Arc::new(Self { meta, output, target, free, browser_calls: BrowserCalls::default() })
    }
}

/// Runs until Ctrl-C.
pub async fn run(options: SimulateOptions) -> anyhow::Result<()> {
    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("--listen {}", options.listen))?;
    std::fs::create_dir_all(&options.output).with_context(|| options.output.display().to_string())?;
    let meta_options = MetaOptions { listen: options.graph_listen, ..MetaOptions::default() };
    let meta = Meta::start(meta_options).await.with_context(|| format!("--graph-listen {}", options.graph_listen))?;
    let target = match (options.agent, options.webhook) {
        (Some(agent), _) => Target::Agent(agent),
        (None, Some(webhook)) => Target::Service(webhook),
        (None, None) => Target::Echo,
    };
    let service = Service::start(&meta, &target, &options.output).await?;
    greet(&meta, &target, listener.local_addr()?);
    let simulation = Simulation::new(meta, options.output, target);
    serve(listener, simulation).await?;
    service.stop().await;
    Ok(())
}

/// What runs in this process beside the fake Meta.
struct Service {
    app: Option<App>,
    /// Kept: dropping it would close the agent's port.
    _echo: Option<Agent>,
}

impl Service {
    async fn start(meta: &Meta, target: &Target, output: &Path) -> anyhow::Result<Self> {
        let (echo, url) = match target {
            Target::Echo => {
                let options = AgentOptions { echo: true, keeps_audio: false, ..AgentOptions::default() };
                let agent = Agent::start(options).await?;
                let url = agent.url();
                (Some(agent), url)
            }
            Target::Agent(url) => (None, url.clone()),
            Target::Service(webhook) => {
                meta.set_webhook_url(webhook);
                return Ok(Self { app: None, _echo: None });
            }
        };
        let app = App::start(local_config(meta, &url, output)?).await?;
        meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
        Ok(Self { app: Some(app), _echo: echo })
    }

    async fn stop(self) {
        if let Some(app) = self.app {
            app.stop(std::future::ready(())).await;
        }
    }
}

#[expect(clippy::print_stdout, reason = "what a command says is its result")]
fn greet(meta: &Meta, target: &Target, address: SocketAddr) {
    println!("The phone:      http://{address}/  (open it and press Call)");
    println!("or a request:   curl -X POST http://{address}/calls -d '{{\"seconds\": 10}}'");
    match target {
        Target::Echo => println!("It calls:       the built-in echo agent; --agent ws://… calls your own"),
        Target::Agent(url) => println!("It calls:       the agent at {url}"),
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
    println!("Ctrl-C stops.");
}

/// Serves until Ctrl-C; then the calls of the page end, and with them their streams.
async fn serve(listener: TcpListener, simulation: Arc<Simulation>) -> anyhow::Result<()> {
    let (stopping, mut stopped) = tokio::sync::watch::channel(false);
    let calls = simulation.clone();
    let serving = axum::serve(listener, router(simulation)).with_graceful_shutdown(async move {
        // Without a handler Ctrl-C ends the process anyway.
        let _ = tokio::signal::ctrl_c().await;
        calls.browser_calls.hang_up_all();
        stopping.send_replace(true);
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
        Target::Agent(url) => (Some(url.as_str()), None),
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
