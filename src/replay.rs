//! `patchcord replay`: replays the dead letters of a running service.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// The variable with an API key of the scope `admin`. Every user of the machine could see a key on the command line.
const KEY: &str = "PATCHCORD_KEY";
/// The service takes a few seconds at most.
const ANSWERED_WITHIN: Duration = Duration::from_secs(15);

/// Which dead letters to replay; all of them by default.
#[derive(clap::Args)]
pub struct ReplayOptions {
    /// The configuration of the running service. The environment variable PATCHCORD_KEY has an API key of it.
    #[arg(long, short)]
    pub config: PathBuf,
    /// Only those of this webhook, by name.
    #[arg(long)]
    webhook: Option<String>,
    /// Only this event, by id; may be repeated.
    #[arg(long)]
    event: Vec<String>,
}

/// Sends the request to the service at this address; gives the number of queued deliveries.
pub async fn run(options: ReplayOptions, listen: SocketAddr) -> anyhow::Result<u64> {
    let key = std::env::var(KEY).with_context(|| format!("set {KEY} to an API key with the scope admin"))?;
    let events = (!options.event.is_empty()).then_some(options.event);
    let body = json!({ "webhook": options.webhook, "event_ids": events });
    let url = format!("http://{}/v1/dead_letters/replay", reachable(listen));
    let http = reqwest::Client::builder().no_proxy().timeout(ANSWERED_WITHIN).build()?;
    let response = http.post(&url).bearer_auth(key).json(&body).send().await;
    let response = response.with_context(|| format!("no service answers at {url}"))?;
    let status = response.status();
    let answer: Value = response.json().await.with_context(|| format!("{url} is not a Patchcord service"))?;
    match answer["replayed"].as_u64() {
        Some(replayed) if status.is_success() => Ok(replayed),
        _ => bail!("the service refuses: {}", answer["detail"].as_str().unwrap_or(status.as_str())),
    }
}

/// An unspecified listen address is reached by loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, listen.port())
}
