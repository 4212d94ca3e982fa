//! An app's webhook: keeps the raw requests that it acknowledges, and acknowledges nothing while it is down.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::client::keys;
use crate::service::{DEADLINE, TestOptions};

pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
    received: mpsc::UnboundedReceiver<String>,
    server: JoinHandle<()>,
}

struct Shared {
    is_down: AtomicBool,
    received: mpsc::UnboundedSender<String>,
}

impl Receiver {
    pub async fn start() -> anyhow::Result<Self> {
        let (sender, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { is_down: AtomicBool::new(false), received: sender });
        let router = Router::new().route("/events", post(take)).with_state(shared.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve until aborted") });
        Ok(Self { address, shared, received, server })
    }

    /// A service that delivers to it and gives an event up at its first failure.
    pub fn options(&self) -> TestOptions {
        let events = format!(
            "[events]\ngive_up_after = \"1ms\"\n[[events.webhooks]]\nname = \"app\"\nurl = \"http://{}/events\"\n\
             secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"",
            self.address
        );
        TestOptions { events, api: keys(), ..TestOptions::default() }
    }

    pub fn set_down(&self, is_down: bool) {
        self.shared.is_down.store(is_down, Ordering::Release);
    }

    /// The bodies of this many events, in the order of acknowledgement.
    pub async fn next(&mut self, count: usize) -> anyhow::Result<Vec<String>> {
        let mut bodies = Vec::new();
        for _ in 0..count {
            bodies.push(timeout(DEADLINE, self.received.recv()).await.context("no more events")?.context("gone")?);
        }
        Ok(bodies)
    }

    /// Up to the end of a call.
    pub async fn until_end(&mut self) -> anyhow::Result<Vec<String>> {
        let mut bodies = Vec::new();
        loop {
            bodies.extend(self.next(1).await?);
            let last: Value = serde_json::from_str(&bodies[bodies.len() - 1])?;
            if last["type"] == "call.ended" {
                return Ok(bodies);
            }
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State(shared): State<Arc<Shared>>, body: String) -> StatusCode {
    if shared.is_down.load(Ordering::Acquire) {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    // The test may be over.
    let _ = shared.received.send(body);
    StatusCode::NO_CONTENT
}
