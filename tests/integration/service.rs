//! One service under test, beside its Meta: everything on loopback, every port from the system.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, bail};
use patchcord::app::App;
use patchcord::call::event::CallEvent;
use patchcord::config::{Config, Environment};
use patchcord_simulator::call::{Call, CallerOptions};
use patchcord_simulator::meta::{Meta, MetaOptions};
use tokio::sync::broadcast;
use tokio::time::timeout;

/// The longest any single step of a scenario may take.
pub const DEADLINE: Duration = Duration::from_secs(15);
/// Ports for one service; those that others hold are passed over.
const PORTS: u16 = 64;

/// A service, its Meta, and the events since its start.
pub struct TestService {
    pub app: App,
    pub meta: Meta,
    events: broadcast::Receiver<CallEvent>,
}

/// What a scenario changes of the usual service.
#[derive(Default)]
pub struct TestOptions {
    /// More keys of the route, as TOML lines.
    pub route: String,
    /// Keys of `[calls]`, as TOML lines.
    pub calls: String,
    /// Keys of `[media]`, as TOML lines, beside the ports.
    pub media: String,
}

impl TestService {
    /// A service whose callers reach this agent.
    pub async fn start(agent: &str) -> anyhow::Result<Self> {
        Self::start_with(agent, TestOptions::default()).await
    }

    pub async fn start_with(agent: &str, options: TestOptions) -> anyhow::Result<Self> {
        let meta = Meta::start(MetaOptions::default()).await?;
        let config = config_text(&meta, agent, &options)?;
        let config = Config::parse(&config, "test.toml", &Environment::default())
            .map_err(|problems| anyhow::anyhow!("{problems}\n{config}"))?;
        let app = App::start(config).await?;
        meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
        let events = app.events();
        Ok(Self { app, meta, events })
    }

    /// Places a call as this caller.
    pub async fn call(&self, caller: CallerOptions) -> anyhow::Result<Call> {
        self.meta.place_call(caller).await
    }

    /// Waits for the next event of this kind; the ones before it are passed over and named in an error.
    pub async fn event(&mut self, kind: &str) -> anyhow::Result<CallEvent> {
        let mut seen = Vec::new();
        let found = timeout(DEADLINE, async {
            loop {
                let event = self.events.recv().await.context("the service is gone")?;
                if event.kind == kind {
                    return anyhow::Ok(event);
                }
                seen.push(event.kind);
            }
        })
        .await;
        match found {
            Ok(found) => found,
            Err(_) => bail!("waited {DEADLINE:?} for {kind}; came: {seen:?}"),
        }
    }

    /// Waits for the end of a call and gives its reason.
    pub async fn end_reason(&mut self) -> anyhow::Result<String> {
        let ended = self.event("call.ended").await?;
        Ok(ended.data["reason"].as_str().context("a reason")?.to_owned())
    }

    /// The actions that Meta was asked for, in order.
    pub fn actions(&self) -> Vec<String> {
        self.meta.requests().into_iter().map(|request| request.action).collect()
    }

    /// Waits until no call lives.
    pub async fn all_ended(&self) -> anyhow::Result<()> {
        timeout(DEADLINE, self.app.calls().all_ended()).await.context("calls still live")
    }
}

fn config_text(meta: &Meta, agent: &str, options: &TestOptions) -> anyhow::Result<String> {
    let account = meta.options();
    let first = free_port()?;
    Ok(format!(
        r#"
        [http]
        listen = "127.0.0.1:0"
        [media]
        listen = ["127.0.0.1"]
        ports = "{first}-{last}"
        workers = 1
        allow_private = true
        {media}
        [whatsapp]
        graph_url = "{graph}"
        verify_token = "verify-me"
        app_secrets = ["{secret}"]
        [[whatsapp.numbers]]
        phone_number_id = "{number}"
        access_token = "{token}"
        route = "reception"
        [routes.reception]
        agent = "{agent}"
        {route}
        [calls]
        {calls}
        "#,
        last = first + PORTS,
        media = options.media,
        graph = meta.graph_url(),
        secret = account.app_secret,
        number = account.phone_number_id,
        token = account.access_token,
        route = options.route,
        calls = options.calls,
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
