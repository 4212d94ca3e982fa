//! The service under measurement: a child process on its own core.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::machine;

/// The program as built beside this one.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_patchcord");
/// Ports for callers, of which each carries any number at different addresses; and one for each WebRTC agent, each SIP phone
/// and each call that is placed.
const PORTS: u16 = 1024;
/// Below the folder in which the service runs.
const RECORDINGS: &str = "recordings";
const READY_WITHIN: Duration = Duration::from_secs(10);

/// The configuration of one measurement.
#[derive(Debug)]
pub struct ServiceOptions {
    /// Where it finds Graph.
    pub graph_url: String,
    /// Signs its webhooks.
    pub app_secret: String,
    /// Its number at Meta, and the token for it.
    pub phone_number_id: String,
    /// See `phone_number_id`.
    pub access_token: String,
    /// The lines of its one route.
    pub route: String,
    /// More sections.
    pub sections: String,
    /// Whether the load limits are on, as by default.
    pub refuses: bool,
}

/// A route to an agent on a WebSocket; the encoding is `pcm_s16le` or `opus`.
pub fn to_agent(agent: &str, encoding: &str) -> String {
    format!("agent = \"{agent}\"\nencoding = \"{encoding}\"\n")
}

/// A running service. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    child: Child,
    folder: PathBuf,
    /// Where it takes webhooks.
    pub http: SocketAddr,
    /// From its start to the first 200 of `/readyz`.
    pub ready_after: Duration,
}

impl Service {
    /// Starts one and waits until it is ready.
    pub async fn start(options: &ServiceOptions) -> anyhow::Result<Self> {
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let folder = std::env::temp_dir().join(format!("patchcord-bench-{}-{}", std::process::id(), http.port()));
        std::fs::create_dir_all(&folder)?;
        let config = folder.join("patchcord.toml");
        std::fs::write(&config, config_text(http, options)?)?;
        let started = Instant::now();
        let child = machine::pinned(crate::SERVICE_CORE, Path::new(PROGRAM))
            .args(["serve", "--config"])
            .arg(&config)
            .current_dir(&folder)
            .stdout(Stdio::null())
            // Log lines are written as usual, and not read.
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {PROGRAM}"))?;
        let mut service = Self { child, folder, http, ready_after: Duration::ZERO };
        while !service.is_ready().await {
            if let Some(status) = service.child.try_wait()? {
                bail!("the service ended with {status} before it was ready");
            }
            anyhow::ensure!(started.elapsed() < READY_WITHIN, "the service was not ready within {READY_WITHIN:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        service.ready_after = started.elapsed();
        Ok(service)
    }

    /// Its process id.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// The value of a metric without labels; None if there is none.
    pub async fn metric(&self, name: &str) -> anyhow::Result<Option<u64>> {
        let page = self.get("/metrics").await?;
        let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map(|text| text.trim().parse()).transpose().with_context(|| format!("the metric {name}"))
    }

    /// How many bytes of recordings it has written so far.
    pub fn recorded_bytes(&self) -> u64 {
        bytes_below(&self.folder.join(RECORDINGS))
    }

    async fn is_ready(&self) -> bool {
        self.get("/readyz").await.is_ok_and(|reply| reply.starts_with("HTTP/1.1 200"))
    }

    async fn get(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.http).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply).await?;
        Ok(reply)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill or to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn config_text(http: SocketAddr, options: &ServiceOptions) -> anyhow::Result<String> {
    let first = free_port()?;
    let ServiceOptions { graph_url, app_secret, phone_number_id, access_token, route, sections, refuses } = options;
    let limits = if *refuses { "" } else { "max_load_percent = 100\nmax_lateness = \"1s\"" };
    Ok(format!(
        r#"
        [http]
        listen = "{http}"
        [media]
        listen = ["127.0.0.1"]
        ports = "{first}-{last}"
        workers = 1
        {limits}
        allow_private = true
        [whatsapp]
        graph_url = "{graph_url}"
        countries_without_outgoing_calls = []
        verify_token = "verify-me"
        app_secrets = ["{app_secret}"]
        [[whatsapp.numbers]]
        phone_number_id = "{phone_number_id}"
        access_token = "{access_token}"
        route = "reception"
        placing = {{ per_second = 1000, live = 10000 }}
        [recordings]
        dir = "{RECORDINGS}"
        [routes.reception]
        {route}
        {sections}
        "#,
        last = first + PORTS,
    ))
}

fn bytes_below(folder: &Path) -> u64 {
    let Ok(entries) = folder.read_dir() else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(about) if about.is_dir() => bytes_below(&entry.path()),
        Ok(about) => about.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// A port that is free now, low enough for the ones after it.
fn free_port() -> anyhow::Result<u16> {
    loop {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if port < u16::MAX - PORTS {
            return Ok(port);
        }
    }
}
