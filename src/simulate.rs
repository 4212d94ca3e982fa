//! `patchcord simulate`: a fake Meta and phone that stay up, so that an app developer places a call with one request.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::Args;
use patchcord_simulator::call::{Call, CallerOptions, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use patchcord_simulator::sound;
use patchcord_simulator::speech::Speech;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::app::App;
use crate::demo::local_config;

/// The longest call that one request may ask for.
const LONGEST_CALL: Duration = Duration::from_secs(600);

/// What the simulator runs against.
#[derive(Args)]
pub struct SimulateOptions {
    /// Where to take requests for calls.
    #[arg(long, default_value = "127.0.0.1:8090")]
    listen: SocketAddr,
    /// Your agent: a service is started in this process and puts the calls through to it.
    #[arg(long, value_name = "WS_URL", conflicts_with = "webhook")]
    agent: Option<String>,
    /// A service that runs already; its config needs the graph_url, secret, number and token printed at the start.
    #[arg(long, value_name = "URL", required_unless_present = "agent")]
    webhook: Option<String>,
    /// Where the fake Graph API listens.
    #[arg(long, default_value = "127.0.0.1:8091")]
    graph_listen: SocketAddr,
    /// Where the WAV files of what the callers heard go, and the recordings of a service started here.
    #[arg(long, default_value = ".")]
    output: PathBuf,
}

struct Simulation {
    meta: Meta,
    output: PathBuf,
}

/// Runs until Ctrl-C.
#[expect(clippy::print_stdout, reason = "what a command says is its result")]
pub async fn run(options: SimulateOptions) -> anyhow::Result<()> {
    let meta_options = MetaOptions { listen: options.graph_listen, ..MetaOptions::default() };
    let meta = Meta::start(meta_options).await.with_context(|| format!("--graph-listen {}", options.graph_listen))?;
    let app = match &options.agent {
        Some(agent) => {
            let app = App::start(local_config(&meta, agent, &options.output)?).await?;
            meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
            Some(app)
        }
        None => {
            meta.set_webhook_url(options.webhook.clone().unwrap_or_default());
            None
        }
    };
    let account = meta.options();
    println!("Fake Meta is up. A service that is to be called needs:");
    println!("  whatsapp.graph_url             = \"{}\"", meta.graph_url());
    println!("  whatsapp.app_secrets           = [\"{}\"]", account.app_secret);
    println!("  whatsapp.numbers.phone_number_id = \"{}\"", account.phone_number_id);
    println!("  whatsapp.numbers.access_token  = \"{}\"", account.access_token);
    println!("  media.listen = [\"127.0.0.1\"], media.allow_private = true");
    println!();
    println!("Place a call:  curl -X POST http://{}/calls -d '{{\"seconds\": 10}}'", options.listen);
    println!("Ctrl-C stops.");
    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("--listen {}", options.listen))?;
    let simulation = Arc::new(Simulation { meta, output: options.output });
    let router = Router::new().route("/calls", post(place)).with_state(simulation);
    axum::serve(listener, router)
        .with_graceful_shutdown(async {
            // Without a handler for Ctrl-C the process ends by it all the same.
            let _ = tokio::signal::ctrl_c().await;
        })
        .await?;
    if let Some(app) = app {
        app.stop(std::future::ready(())).await;
    }
    Ok(())
}

/// The body of `POST /calls`; all of it may be left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Order {
    /// The caller's number, digits.
    from: String,
    /// The caller's profile name.
    name: String,
    /// A WAV file that the caller says, 16-bit at any rate; the built-in clip otherwise.
    speech: Option<PathBuf>,
    /// Say it again and again.
    repeat: bool,
    /// The caller hangs up after so long, if nobody did before.
    seconds: f64,
    /// Keys the caller presses after a second.
    digits: String,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            from: "12025550143".to_owned(),
            name: "Example Caller".to_owned(),
            speech: None,
            repeat: false,
            seconds: 15.0,
            digits: String::new(),
        }
    }
}

async fn place(State(simulation): State<Arc<Simulation>>, body: String) -> Result<Json<Value>, (StatusCode, String)> {
    let order: Order = match body.trim() {
        "" => Order::default(),
        text => serde_json::from_str(text).map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?,
    };
    let report = simulation.run(order).await;
    report.map(Json).map_err(|error| (StatusCode::BAD_GATEWAY, format!("{error:#}\n")))
}

impl Simulation {
    /// One call from the webhook to its end, and what came of it.
    async fn run(&self, order: Order) -> anyhow::Result<Value> {
        let mut speech = match &order.speech {
            Some(path) => Speech::wav(&std::fs::read(path).with_context(|| path.display().to_string())?)?,
            None => Speech::caller(),
        };
        if order.repeat {
            speech = speech.looped();
        }
        let caller = CallerOptions { from: Some(order.from), name: order.name, speech, ..CallerOptions::default() };
        let call = self.meta.place_call(caller).await?;
        let length = Duration::try_from_secs_f64(order.seconds).unwrap_or(LONGEST_CALL).min(LONGEST_CALL);
        let accepted = call.wait_until_within(Stage::Accepted, Duration::from_secs(60)).await;
        if accepted.is_ok() {
            if !order.digits.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                call.send_dtmf(&order.digits).await;
            }
            // An error here only says that the call did not end by itself.
            if call.wait_until_within(Stage::Ended, length).await.is_err() {
                call.hang_up().await?;
            }
        }
        report(&call, &self.output)
    }
}

fn report(call: &Call, folder: &Path) -> anyhow::Result<Value> {
    let heard = call.heard()?;
    let file = folder.join(format!("caller-heard-{}.wav", call.seed()));
    std::fs::write(&file, sound::write_wav(16_000, &heard)?).with_context(|| file.display().to_string())?;
    let stages: serde_json::Map<String, Value> = call
        .stages()
        .into_iter()
        .map(|(stage, at)| (format!("{stage:?}"), json!(at.duration_since(call.placed_at()).as_millis() as u64)))
        .collect();
    let objections: Vec<String> = call.objections().iter().map(|objection| format!("{objection:?}")).collect();
    Ok(json!({
        "ended_by": call.ended_by().map(|who| format!("{who:?}")),
        "stages_ms": stages,
        "heard_seconds": heard.len() as f64 / 16_000.0,
        "heard_file": file,
        "objections": objections,
    }))
}
