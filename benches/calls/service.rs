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
/// Ports for callers; each port carries any number of callers at different addresses.
const PORTS: u16 = 16;
const READY_WITHIN: Duration = Duration::from_secs(10);

/// What differs from measurement to measurement.
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
    /// The agent of its one route.
    pub agent: String,
    /// `pcm_s16le` or `opus`.
    pub encoding: &'static str,
}

/// A running service. Dropping it kills it.
#[derive(Debug)]
pub struct Service {
    child: Child,
    config: PathBuf,
    /// Where it takes webhooks.
    pub http: SocketAddr,
    /// From its start to the first 200 of `/readyz`.
    pub ready_after: Duration,
}

impl Service {
    /// Starts one and waits until it is ready.
    pub async fn start(options: &ServiceOptions) -> anyhow::Result<Self> {
        let http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let config = std::env::temp_dir().join(format!("patchcord-bench-{}-{}.toml", std::process::id(), http.port()));
        std::fs::write(&config, config_text(http, options)?)?;
        let started = Instant::now();
        let child = machine::pinned(crate::SERVICE_CORE, Path::new(PROGRAM))
            .args(["serve", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            // Hundreds of calls begin: their log lines are written, as they always are, and not read.
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {PROGRAM}"))?;
        let mut service = Self { child, config, http, ready_after: Duration::ZERO };
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

    async fn is_ready(&self) -> bool {
        let asked = async {
            let mut stream = TcpStream::connect(self.http).await?;
            stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: bench\r\nconnection: close\r\n\r\n").await?;
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).await?;
            Ok::<_, std::io::Error>(reply)
        };
        asked.await.is_ok_and(|reply| reply.starts_with(b"HTTP/1.1 200"))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to kill or to wait for.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.config);
    }
}

fn config_text(http: SocketAddr, options: &ServiceOptions) -> anyhow::Result<String> {
    let first = free_port()?;
    let ServiceOptions { graph_url, app_secret, phone_number_id, access_token, agent, encoding } = options;
    Ok(format!(
        r#"
        [http]
        listen = "{http}"
        [media]
        listen = ["127.0.0.1"]
        ports = "{first}-{last}"
        workers = 1
        allow_private = true
        [whatsapp]
        graph_url = "{graph_url}"
        verify_token = "verify-me"
        app_secrets = ["{app_secret}"]
        [[whatsapp.numbers]]
        phone_number_id = "{phone_number_id}"
        access_token = "{access_token}"
        route = "reception"
        [routes.reception]
        agent = "{agent}"
        encoding = "{encoding}"
        "#,
        last = first + PORTS,
    ))
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
