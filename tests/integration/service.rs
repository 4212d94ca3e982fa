//! The service under test with its Meta: everything on loopback, every port from the system.

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use patchcord::app::App;
use patchcord::call::event::{CallEvent, CallId};
use patchcord::config::{Config, Environment};
use patchcord_simulator::agent::{Agent, AgentOptions, AgentSession};
use patchcord_simulator::call::{Announce, Call, CallerOptions, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions, Reply};
use serde_json::Value;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::api::client::{Client, WRITER, keys};
use crate::{log_watch, people};

/// The longest any single step of a scenario may take.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// UDP ports of one service; ports that are in use are skipped.
const PORTS: u16 = 64;

/// The counters of the whole process. Other scenarios count too, so a test can only ask that a counter has grown.
static METRICS: LazyLock<PrometheusHandle> =
    LazyLock::new(|| PrometheusBuilder::new().install_recorder().expect("nobody installs a recorder before this"));

/// A service, its Meta, and the events since its start.
pub struct TestService {
    pub app: App,
    pub meta: Meta,
    http: reqwest::Client,
    /// Where recordings go.
    pub folder: Folder,
    events: broadcast::Receiver<CallEvent>,
    seen: Vec<CallEvent>,
    /// Number of events that [`TestService::event`] has consumed.
    passed: usize,
}

/// A scenario's changes of the default configuration; all texts are TOML lines.
#[derive(Clone, Default)]
pub struct TestOptions {
    /// Additional keys of the route.
    pub route: String,
    /// Additional sections.
    pub more_routes: String,
    /// Keys of `[calls]`.
    pub calls: String,
    /// Keys of `[media]`, in place of load limits that no test on a busy machine reaches.
    pub media: Option<String>,
    /// Listen on IPv6 as well.
    pub ipv6: bool,
    /// `[[events.webhooks]]` sections.
    pub events: String,
    /// Keys of `[log]`.
    pub log: String,
    /// Additional keys of `[whatsapp]`.
    pub whatsapp: String,
    /// Additional keys of the number.
    pub number: String,
    /// Additional `[[whatsapp.numbers]]`.
    pub more_numbers: String,
    /// Secrets accepted in addition to Meta's.
    pub more_secrets: Vec<String>,
    /// A number other than the one that is called.
    pub phone_number_id: Option<String>,
    /// A token other than Meta's.
    pub access_token: Option<String>,
    /// Delay of Meta's reply to accept, so that the agent has sent everything before it is heard.
    pub accept_takes: Duration,
    /// A Graph API other than Meta's.
    pub graph_url: Option<String>,
    /// Keys of `[api]`, in place of the default API keys.
    pub api: String,
    /// Keys of `[http]`.
    pub http: String,
    /// The section `[sip]`.
    pub sip: String,
    /// Leave the section `[whatsapp]` out: apps signal all calls.
    pub without_whatsapp: bool,
}

/// A temporary folder, deleted on drop.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new() -> anyhow::Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("patchcord-test-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Whatever remains is in the system's temporary folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The reply to a webhook.
#[derive(Debug)]
pub struct Posted {
    pub status: u16,
    pub content_type: String,
    pub body: String,
}

/// An accepted call and its parties.
pub struct Talk {
    pub service: TestService,
    pub agent: Agent,
    pub session: AgentSession,
    pub call: Call,
}

impl Talk {
    /// The default caller and this agent, talking.
    pub async fn start(agent: AgentOptions) -> anyhow::Result<Self> {
        Self::start_with(people::caller(), agent, TestOptions::default()).await
    }

    pub async fn start_with(caller: CallerOptions, agent: AgentOptions, options: TestOptions) -> anyhow::Result<Self> {
        let agent = Agent::start(agent).await?;
        let accept = Reply::Delay(options.accept_takes, Box::new(Reply::Ok));
        let service = TestService::start_with(&agent.url(), options).await?;
        service.meta.script("accept", vec![accept]);
        let call = service.call(caller).await?;
        call.wait_until(Stage::Accepted).await?;
        let session = agent.wait_for_session(1).await?;
        session.wait_for_message("accepted").await?;
        Ok(Self { service, agent, session, call })
    }
}

impl TestService {
    /// A service whose callers reach this agent.
    pub async fn start(agent: &str) -> anyhow::Result<Self> {
        Self::start_with(agent, TestOptions::default()).await
    }

    pub async fn start_with(agent: &str, options: TestOptions) -> anyhow::Result<Self> {
        Self::start_at(Meta::start(MetaOptions::default()).await?, agent, options).await
    }

    /// A service of this Meta.
    pub async fn start_at(meta: Meta, agent: &str, options: TestOptions) -> anyhow::Result<Self> {
        LazyLock::force(&METRICS);
        log_watch::begin();
        let folder = Folder::new()?;
        let config = config_text(&meta, agent, &folder.0, &options)?;
        let config = Config::parse(&config, "test.toml", &Environment::default())
            .map_err(|problems| anyhow::anyhow!("{problems}\n{config}"))?;
        let app = App::start(config).await?;
        meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
        let events = app.events();
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { app, meta, http, folder, events, seen: Vec::new(), passed: 0 })
    }

    /// Places a call as this caller.
    pub async fn call(&self, caller: CallerOptions) -> anyhow::Result<Call> {
        self.meta.place_call(caller).await
    }

    /// A call that is not announced to the service.
    pub async fn unannounced(&self, caller: CallerOptions) -> anyhow::Result<Call> {
        self.meta.place_call(CallerOptions { announce: Announce::ByHand, ..caller }).await
    }

    /// A call whose offer in the webhook is rewritten.
    pub async fn call_with_offer(
        &self,
        caller: CallerOptions,
        rewrite: impl FnOnce(&str) -> String,
    ) -> anyhow::Result<Call> {
        let call = self.unannounced(caller).await?;
        let mut body: Value = serde_json::from_str(&call.connect_body())?;
        body["entry"][0]["changes"][0]["value"]["calls"][0]["session"]["sdp"] = rewrite(call.offer()).into();
        let status = self.meta.send_webhook(body.to_string()).await?;
        anyhow::ensure!(status == 200, "the webhook was answered with {status}");
        Ok(call)
    }

    /// Posts a webhook with this signature, or without one.
    pub async fn post(&self, body: impl Into<Vec<u8>>, signature: Option<&str>) -> anyhow::Result<Posted> {
        let mut request = self.http.post(self.url("/webhooks/whatsapp")).body(body.into());
        if let Some(signature) = signature {
            request = request.header("x-hub-signature-256", signature);
        }
        read(request.send().await?).await
    }

    /// Posts a webhook signed by Meta, with additional headers.
    pub async fn post_signed_with(&self, body: impl Into<Vec<u8>>, headers: &[(&str, &str)]) -> anyhow::Result<Posted> {
        let body = body.into();
        let mut request = self.http.post(self.url("/webhooks/whatsapp"));
        request = request.header("x-hub-signature-256", self.meta.signature(&body));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        read(request.body(body).send().await?).await
    }

    /// Posts a webhook signed by Meta.
    pub async fn post_signed(&self, body: impl Into<Vec<u8>>) -> anyhow::Result<Posted> {
        let body = body.into();
        let signature = self.meta.signature(&body);
        self.post(body, Some(&signature)).await
    }

    /// Posts a webhook signed with another app secret.
    pub async fn post_signed_by(&self, secret: &str, body: impl Into<Vec<u8>>) -> anyhow::Result<Posted> {
        let body = body.into();
        self.post(body.clone(), Some(&signature(secret, &body))).await
    }

    /// Posts a webhook signed by Meta to a path other than the webhook's.
    pub async fn post_signed_to(&self, path: &str, body: impl Into<Vec<u8>>) -> anyhow::Result<Posted> {
        let body = body.into();
        let request = self.http.post(self.url(path)).header("x-hub-signature-256", self.meta.signature(&body));
        read(request.body(body).send().await?).await
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Posted> {
        read(self.http.get(self.url(path)).send().await?).await
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.app.address)
    }

    /// Waits for the next event of this kind; events before it are skipped and named in an error.
    pub async fn event(&mut self, kind: &str) -> anyhow::Result<CallEvent> {
        let passed = self.passed;
        let at = self.wait_for(kind, |seen| (passed..seen.len()).find(|at| seen[*at].kind == kind)).await?;
        self.passed = at + 1;
        Ok(self.seen[at].clone())
    }

    /// Waits for the end of this call; gives the data of its event.
    pub async fn end_of(&mut self, call: &Call) -> anyhow::Result<Value> {
        let wacid = call.wacid();
        self.wait_for("the end of the call", |seen| {
            let incoming = seen.iter().find(|event| event.kind == "call.incoming" && event.data["wacid"] == wacid)?;
            let ended = |event: &&CallEvent| event.kind == "call.ended" && event.call_id == incoming.call_id;
            seen.iter().find(ended).map(|event| event.data.clone())
        })
        .await
        .with_context(|| call.seen())
    }

    /// The kinds of the events so far.
    pub fn kinds(&mut self) -> Vec<&'static str> {
        while let Ok(event) = self.events.try_recv() {
            self.seen.push(event);
        }
        self.seen.iter().map(|event| event.kind).collect()
    }

    async fn wait_for<T>(&mut self, what: &str, look: impl Fn(&[CallEvent]) -> Option<T>) -> anyhow::Result<T> {
        let found = timeout(DEADLINE, async {
            loop {
                if let Some(found) = look(&self.seen) {
                    return anyhow::Ok(found);
                }
                self.seen.push(self.events.recv().await.context("the service is gone")?);
            }
        })
        .await;
        match found {
            Ok(found) => found,
            Err(_) => bail!("waited {DEADLINE:?} for {what}; came: {:?}", self.kinds()),
        }
    }

    /// The actions of all requests to Meta, in order.
    pub fn actions(&self) -> Vec<String> {
        self.meta.requests().into_iter().map(|request| request.action).collect()
    }

    /// Number of requests to Meta with this action.
    pub fn count_of(&self, action: &str) -> usize {
        self.actions().iter().filter(|asked| *asked == action).count()
    }

    /// Performs an action on a call over the control API. Gives the ids of what has begun, null for what is done, or the
    /// code of the refusal.
    pub async fn act(&self, call: &CallId, action: &str, body: Value) -> Result<Value, String> {
        let answer = Client::new(self, WRITER).act(call.as_str(), action, body).await;
        let mut answer = answer.map_err(|error| format!("{error:#}"))?;
        match answer.status {
            200 => Ok(Value::Null),
            202 => {
                answer.body.as_object_mut().and_then(|begun| begun.remove("call_id"));
                Ok(answer.body)
            }
            _ => Err(answer.body["code"].as_str().unwrap_or_default().to_owned()),
        }
    }

    /// Number of live calls.
    pub async fn live_calls(&self) -> anyhow::Result<usize> {
        let answer = Client::new(self, WRITER).get("/v1/calls?state=live").await?;
        Ok(answer.body["calls"].as_array().context("a list of calls")?.len())
    }

    /// Waits until no call is live and Meta has been told of every end.
    pub async fn all_ended(&self) -> anyhow::Result<()> {
        timeout(DEADLINE, self.app.all_ended()).await.context("calls still live")
    }
}

/// A counter of the whole process, such as `patchcord_webhooks_total{outcome="ok"}`.
pub fn counter(name: &str) -> u64 {
    let text = METRICS.render();
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    value.unwrap_or(0)
}

/// Meta's signature of a body with this app secret.
pub fn signature(secret: &str, body: &[u8]) -> String {
    use hmac::{Hmac, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes a key of any length");
    mac.update(body);
    let hex: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={hex}")
}

async fn read(response: reqwest::Response) -> anyhow::Result<Posted> {
    let content_type = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    Ok(Posted {
        status: response.status().as_u16(),
        content_type: content_type.unwrap_or_default().to_owned(),
        body: response.text().await?,
    })
}

/// The configuration file of a service under test.
pub fn config_text(meta: &Meta, agent: &str, folder: &Path, options: &TestOptions) -> anyhow::Result<String> {
    let account = meta.options();
    let first = free_port()?;
    let secrets: Vec<&String> = options.more_secrets.iter().chain([&account.app_secret]).collect();
    let text = format!(
        r#"
        [http]
        listen = "127.0.0.1:0"
        {http}
        [media]
        listen = [{listen}]
        ports = "{first}-{last}"
        workers = 1
        allow_private = true
        {media}
        [whatsapp]
        graph_url = "{graph}"
        verify_token = "verify-me"
        app_secrets = {secrets:?}
        {whatsapp}
        [[whatsapp.numbers]]
        phone_number_id = "{number}"
        access_token = "{token}"
        route = "reception"
        {keys_of_number}
        {more_numbers}
        [routes.reception]
        agent = {agent}
        {route}
        {more_routes}
        [calls]
        {calls}
        [recordings]
        dir = "{folder}/recordings"
        [store]
        path = "{folder}/patchcord.db"
        {events}
        {sip}
        [prompts]
        dir = "{prompts}"
        [api]
        {api}
        [log]
        {log}
        "#,
        listen = if options.ipv6 { r#""127.0.0.1", "::1""# } else { r#""127.0.0.1""# },
        // Several addresses are written as a list.
        agent = if agent.starts_with('[') { agent.to_owned() } else { format!("{agent:?}") },
        last = first + PORTS,
        media = options.media.as_deref().unwrap_or("max_load_percent = 100\nmax_lateness = \"1s\""),
        graph = options.graph_url.clone().unwrap_or_else(|| meta.graph_url()),
        number = options.phone_number_id.as_ref().unwrap_or(&account.phone_number_id),
        token = options.access_token.as_ref().unwrap_or(&account.access_token),
        whatsapp = options.whatsapp,
        keys_of_number = options.number,
        more_numbers = options.more_numbers,
        route = options.route,
        more_routes = options.more_routes,
        calls = options.calls,
        log = options.log,
        folder = folder.display(),
        events = options.events,
        sip = options.sip,
        prompts = folder.join("prompts").display(),
        api = if options.api.is_empty() { keys() } else { options.api.clone() },
        http = options.http,
    );
    Ok(match options.without_whatsapp {
        true => without_whatsapp(&text),
        false => text,
    })
}

/// Without the section and its tables.
fn without_whatsapp(text: &str) -> String {
    let is_meta = |line: &str| line.starts_with("[whatsapp]") || line.starts_with("[[whatsapp.");
    let mut is_out = false;
    let lines = text.lines().map(str::trim).filter(|line| {
        is_out = if line.starts_with('[') { is_meta(line) } else { is_out };
        !is_out
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A free port, low enough for the ports after it.
fn free_port() -> anyhow::Result<u16> {
    loop {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if port < u16::MAX - PORTS {
            return Ok(port);
        }
    }
}
