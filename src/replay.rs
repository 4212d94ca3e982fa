//! `patchcord replay`: has a running service send its dead letters again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// Holds an API key with the scope `admin`. A key on the command line would be seen by everybody on the machine.
const KEY: &str = "PATCHCORD_KEY";
/// The service itself takes a few seconds at the most.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// Which dead letters; all of them unless said otherwise.
#[derive(clap::Args)]
pub struct ReplayOptions {
    /// The configuration of the running service. The environment variable PATCHCORD_KEY holds an API key of it.
    #[arg(long, short)]
    pub config: PathBuf,
    /// Only this webhook's, by its name.
    #[arg(long)]
    webhook: Option<String>,
    /// Only this event, by its id; may be given more than once.
    #[arg(long)]
    event: Vec<String>,
}

/// Asks the service that listens there; says how many deliveries are on their way again.
pub async fn run(options: ReplayOptions, listen: SocketAddr) -> anyhow::Result<u64> {
    let key = std::env::var(KEY).with_context(|| format!("set {KEY} to an API key with the scope admin"))?;
    let events = (!options.event.is_empty()).then_some(options.event);
    let body = json!({ "webhook": options.webhook, "event_ids": events });
    let url = format!("http://{}/v1/dead_letters/replay", reachable(listen));
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWERED_WITHIN).build()?;
    let response = http.post(&url).bearer_auth(key).json(&body).send().await;
    let response = response.with_context(|| format!("no service answers at {url}"))?;
    let status = response.status();
    let answer: Value = response.json().await.with_context(|| format!("what answers at {url} is no Patchcord"))?;
    match answer["replayed"].as_u64() {
        Some(replayed) if status.is_success() => Ok(replayed),
        _ => bail!("the service refuses: {}", answer["detail"].as_str().unwrap_or(status.as_str())),
    }
}

/// A service that listens everywhere is reached on this machine.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}
