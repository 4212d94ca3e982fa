//! A fake Meta: it sends signed webhooks, answers the Graph API, and puts simulated callers through.

mod bodies;
mod graph;
mod ringing;
pub mod permissions;
mod wacid;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::DEADLINE;
use crate::browser::incoming::{BrowserPhone, RingingCall};
use crate::browser::{BrowserCall, BrowserCaller};
use crate::call::{Announce, Call, CallRecord, CallerOptions, EndedBy, LiveCall};
use crate::callee::{Callee, CalleeOptions, UNTAKEN_CALLS};
use crate::phone::shell::{Order, now};

pub(crate) use bodies::{Direction, Parties};
pub(crate) use wacid::base64;

pub use graph::{GraphRequest, Reply};
use permissions::Word;

/// Calls remembered after their end; beyond that ended ones are forgotten.
const MOST_CALLS: usize = 10_000;
/// A webhook that is not answered in this time has failed (Meta's FAQ: about 20 s).
const WEBHOOK_TIMEOUT: Duration = Duration::from_secs(20);

/// The account that Meta serves.
#[derive(Debug, Clone)]
pub struct MetaOptions {
    /// Where webhooks go; plain HTTP. May be empty until [`Meta::set_webhook_url`].
    pub webhook_url: String,
    /// Signs the webhooks.
    pub app_secret: String,
    /// The business number's id, the node of the Graph API.
    pub phone_number_id: String,
    /// The business number, digits.
    pub display_phone_number: String,
    /// The token that Graph requests must bear.
    pub access_token: String,
    /// The WhatsApp business account's id.
    pub waba_id: String,
    /// Where the Graph API listens.
    pub listen: SocketAddr,
}

impl Default for MetaOptions {
    fn default() -> Self {
        Self {
            webhook_url: String::new(),
            app_secret: "simulated-app-secret".to_owned(),
            phone_number_id: "200000000000002".to_owned(),
            // From the range for fiction of a country whose numbers may call.
            display_phone_number: "447700900199".to_owned(),
            access_token: "simulated-access-token".to_owned(),
            waba_id: "100000000000001".to_owned(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        }
    }
}

/// A running Meta. Dropping it closes the Graph API and forgets what was under way.
#[derive(Debug)]
pub struct Meta {
    shared: Arc<MetaShared>,
    address: SocketAddr,
}

impl Meta {
    /// Starts the Graph API.
    ///
    /// # Errors
    /// When the address is not to be had.
    pub async fn start(options: MetaOptions) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(options.listen).await.context("bind the Graph API")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(MetaShared {
            webhook_url: Mutex::new(options.webhook_url.clone()),
            options,
            client: client()?,
            calls: Mutex::default(),
            callees: Mutex::default(),
            browser_phones: Mutex::default(),
            permissions: Mutex::default(),
            graph: Mutex::default(),
            changed: watch::Sender::new(()),
            tasks: Mutex::default(),
            runtime: Handle::current(),
        });
        let server = graph::serve(listener, Arc::downgrade(&shared));
        shared.spawn(server);
        Ok(Self { shared, address })
    }

    /// What to give the service as its `graph_url`, without a slash at the end.
    #[must_use]
    pub fn graph_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where webhooks go from now on.
    pub fn set_webhook_url(&self, url: impl Into<String>) {
        *self.shared.webhook_url.lock().unwrap_or_else(PoisonError::into_inner) = url.into();
    }

    /// The account.
    #[must_use]
    pub fn options(&self) -> &MetaOptions {
        &self.shared.options
    }

    /// Every Graph request so far, in the order of arrival.
    #[must_use]
    pub fn requests(&self) -> Vec<GraphRequest> {
        self.shared.graph().requests.clone()
    }

    /// Waits for the n-th request (from 1) of an action, at most 10 s.
    ///
    /// # Errors
    /// When time is up; the text names the requests that came.
    pub async fn wait_for_request(&self, action: &str, nth: usize) -> anyhow::Result<GraphRequest> {
        let mut changed = self.shared.changed.subscribe();
        let found = tokio::time::timeout(DEADLINE, async {
            loop {
                changed.mark_unchanged();
                let request =
                    self.requests().into_iter().filter(|request| request.action == action).nth(nth.max(1) - 1);
                if let Some(request) = request {
                    return Ok(request);
                }
                changed.changed().await.context("Meta is kept by this handle")?;
            }
        })
        .await;
        match found {
            Ok(found) => found,
            Err(_) => {
                let seen: Vec<_> =
                    self.requests().into_iter().map(|request| (request.action, request.status)).collect();
                bail!("waited {DEADLINE:?} for {action} number {nth}; requests so far: {seen:?}")
            }
        }
    }

    /// Replies for the next requests of an action, one each; then normal again.
    pub fn script(&self, action: &str, replies: Vec<Reply>) {
        self.shared.graph().scripts.entry(action.to_owned()).or_default().extend(replies);
    }

    /// Sends a webhook, signed. Returns the service's HTTP status.
    ///
    /// # Errors
    /// When the service cannot be reached or does not answer in 20 s.
    pub async fn send_webhook(&self, body: impl Into<Vec<u8>>) -> anyhow::Result<u16> {
        self.shared.post(body.into(), None).await
    }

    /// Sends a webhook without a signature.
    ///
    /// # Errors
    /// As [`Meta::send_webhook`].
    pub async fn send_unsigned(&self, body: impl Into<Vec<u8>>) -> anyhow::Result<u16> {
        self.shared.post(body.into(), Some("")).await
    }

    /// Sends a webhook with this `X-Hub-Signature-256`.
    ///
    /// # Errors
    /// As [`Meta::send_webhook`].
    pub async fn send_with_signature(&self, body: impl Into<Vec<u8>>, signature: &str) -> anyhow::Result<u16> {
        self.shared.post(body.into(), Some(signature)).await
    }

    /// The signature that Meta would put on this body.
    #[must_use]
    pub fn signature(&self, body: &[u8]) -> String {
        bodies::signature(&self.shared.options.app_secret, body)
    }

    /// Somebody calls: a phone begins to ring and the connect webhook goes out.
    ///
    /// # Errors
    /// When no socket is to be had, or the webhook is not answered with 200 (see [`Announce`]).
    pub async fn place_call(&self, options: CallerOptions) -> anyhow::Result<Call> {
        let announce = options.announce;
        let call = self.shared.ring(options).await?;
        match announce {
            Announce::AtOnce => {
                let status = call.send_connect().await?;
                anyhow::ensure!(status == 200, "the service answered the connect webhook with {status}");
            }
            Announce::After(delay) => {
                let (shared, live) = (self.shared.clone(), call.live.clone());
                self.shared.spawn(async move {
                    tokio::time::sleep(delay).await;
                    report("connect", shared.post(live.record.connect_body().into_bytes(), None).await);
                });
            }
            Announce::ByHand => {}
        }
        Ok(call)
    }

    /// Somebody permits calls from the business, for good and without limits. Everybody else has not.
    #[must_use]
    pub fn permit(&self, options: CalleeOptions) -> Callee {
        let person = self.shared.parties_of(&options.person);
        self.shared.permissions.lock().unwrap_or_else(PoisonError::into_inner).permit(&person);
        self.meet(options)
    }

    /// Somebody who has not permitted calls yet; Meta's rules and limits hold for calls and requests.
    #[must_use]
    pub fn meet(&self, options: CalleeOptions) -> Callee {
        let (calls, taken) = mpsc::channel(UNTAKEN_CALLS);
        let keys = [&options.person.from, &options.person.user_id].map(Clone::clone);
        let word = Word { meta: self.shared.clone(), person: self.shared.parties_of(&options.person) };
        let reachable = Reachable { options, place: Place::Phone(calls) };
        let mut callees = self.shared.callees();
        callees.extend(keys.into_iter().flatten().map(|key| (key, reachable.clone())));
        Callee::new(taken, word)
    }

    /// Nobody with this number or user id permits calls any more, but for a browser.
    pub fn withdraw(&self, key: &str) {
        self.shared.callees().remove(key);
    }

    /// A browser permits calls from the business, as long as the handle lives and no [`Meta::permit`] takes them. Of two
    /// with one number the later one rings.
    #[must_use]
    pub fn open_browser_phone(&self, options: CalleeOptions) -> BrowserPhone {
        let (calls, ringing) = mpsc::channel(UNTAKEN_CALLS);
        let id = rand::random();
        self.shared.browser_phones().push((id, Reachable { options, place: Place::Browser(calls) }));
        BrowserPhone::new(self.shared.clone(), id, ringing)
    }

    /// Somebody calls from a browser: its offer goes out with the connect webhook, in the background.
    ///
    /// # Errors
    /// When a relay is needed and no socket is to be had.
    pub async fn place_browser_call(&self, caller: BrowserCaller) -> anyhow::Result<BrowserCall> {
        self.shared.ring_browser(caller).await
    }
}

impl Meta {
    /// A phone that runs on another runtime; its connect webhook is sent by hand.
    pub(crate) async fn ring_on(&self, runtime: &Handle, options: CallerOptions) -> anyhow::Result<Call> {
        let shared = self.shared.clone();
        runtime.spawn(async move { shared.ring(options).await }).await.context("a phone's task")?
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

/// Somebody whom the business may call, and where the calls to them go.
#[derive(Debug, Clone)]
pub(crate) struct Reachable {
    pub(crate) options: CalleeOptions,
    pub(crate) place: Place,
}

/// Where calls to somebody ring.
#[derive(Debug, Clone)]
pub(crate) enum Place {
    /// A simulated phone.
    Phone(mpsc::Sender<Call>),
    /// A browser.
    Browser(mpsc::Sender<RingingCall>),
}

/// What the Graph API, the calls and the handle share.
#[derive(Debug)]
pub(crate) struct MetaShared {
    options: MetaOptions,
    webhook_url: Mutex<String>,
    client: reqwest::Client,
    calls: Mutex<HashMap<String, LiveCall>>,
    /// Whom the business may call, by number and by user id.
    callees: Mutex<HashMap<String, Reachable>>,
    /// Browsers that may be called, the latest last.
    browser_phones: Mutex<Vec<(u64, Reachable)>>,
    /// Who permits what.
    permissions: Mutex<permissions::Book>,
    graph: Mutex<graph::Journal>,
    changed: watch::Sender<()>,
    tasks: Mutex<JoinSet<()>>,
    /// The runtime that Meta runs on, whichever thread calls.
    runtime: Handle,
}

impl MetaShared {
    /// Ends a call once: the phone falls silent and the terminate webhook goes out. 0 if it had ended before.
    pub(crate) async fn finish(&self, live: &LiveCall, by: EndedBy) -> anyhow::Result<u16> {
        if !live.record.end(by, now()) {
            return Ok(0);
        }
        live.line.order(Order::Vanish).await;
        self.send_terminate(live).await
    }

    /// The terminate webhook, the last thing in a call.
    pub(crate) async fn send_terminate(&self, live: &LiveCall) -> anyhow::Result<u16> {
        let Some(browser) = &live.browser else {
            let sent = self.post(live.record.terminate_body().into_bytes(), None).await;
            let parties = &live.record.parties;
            if parties.direction == Direction::BusinessInitiated && live.record.lock().accepted_unix_s.is_none() {
                self.count_unanswered(parties).await;
            }
            return sent;
        };
        let sent = browser.deliver(self, &live.record, "terminate").await;
        browser.trace.close();
        sent
    }

    /// Posts a webhook; without a signature given it is the right one, an empty one is left out.
    pub(crate) async fn post(&self, body: Vec<u8>, signature: Option<&str>) -> anyhow::Result<u16> {
        let url = self.webhook_url.lock().unwrap_or_else(PoisonError::into_inner).clone();
        anyhow::ensure!(!url.is_empty(), "no webhook URL is set");
        let signature = signature.map_or_else(|| bodies::signature(&self.options.app_secret, &body), str::to_owned);
        let mut request = self
            .client
            .post(&url)
            .header("content-type", "application/json")
            .header("user-agent", "facebookexternalua");
        if !signature.is_empty() {
            request = request.header("x-hub-signature-256", signature);
        }
        let response = request.body(body).send().await.with_context(|| format!("post a webhook to {url}"))?;
        Ok(response.status().as_u16())
    }

    pub(crate) fn callee(&self, key: &str) -> Option<Reachable> {
        let phone = self.callees().get(key).cloned();
        phone.or_else(|| {
            let browsers = self.browser_phones();
            let is_called = |(_, phone): &&(u64, Reachable)| phone.options.person.from.as_deref() == Some(key);
            browsers.iter().rev().find(is_called).map(|(_, phone)| phone.clone())
        })
    }

    fn callees(&self) -> MutexGuard<'_, HashMap<String, Reachable>> {
        self.callees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn browser_phones(&self) -> MutexGuard<'_, Vec<(u64, Reachable)>> {
        self.browser_phones.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a call with this number is under way.
    pub(crate) fn is_busy(&self, callee: &CallerOptions) -> bool {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.values().any(|live| {
            let parties = &live.record.parties;
            (&parties.from, &parties.user_id) == (&callee.from, &callee.user_id) && live.record.lock().ended.is_none()
        })
    }

    /// The person and the business, for a webhook that is about no call.
    pub(crate) fn parties_of(&self, person: &CallerOptions) -> Parties {
        self.parties_with(person, Direction::UserInitiated)
    }

    fn parties_with(&self, options: &CallerOptions, direction: Direction) -> Parties {
        let account = &self.options;
        // The id holds a number even where Meta does not tell it; this one is from the range for fiction.
        let number = options.from.as_deref().unwrap_or("12025550100");
        Parties {
            direction,
            waba_id: account.waba_id.clone(),
            phone_number_id: account.phone_number_id.clone(),
            display_phone_number: account.display_phone_number.clone(),
            wacid: wacid::wacid(number, &account.display_phone_number, direction, rand::random()),
            from: options.from.clone(),
            user_id: options.user_id.clone(),
            username: options.username.clone(),
            name: options.name.clone(),
            cta_payload: options.cta_payload.clone(),
            deeplink_payload: options.deeplink_payload.clone(),
        }
    }

    fn remember(&self, live: &LiveCall) {
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.len() >= MOST_CALLS {
            calls.retain(|_, live| live.record.lock().ended.is_none());
        }
        calls.insert(live.record.parties.wacid.clone(), live.clone());
    }

    pub(crate) fn call(&self, wacid: &str) -> Option<LiveCall> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).get(wacid).cloned()
    }

    /// Ends a call from where one cannot wait for it.
    pub(crate) fn end_later(weak: &Weak<Self>, record: &CallRecord, by: EndedBy) {
        let Some(shared) = weak.upgrade() else { return };
        let Some(live) = shared.call(&record.parties.wacid) else { return };
        let finishing = shared.clone();
        shared.spawn(async move { report("terminate", finishing.finish(&live, by).await) });
    }

    pub(crate) fn graph(&self) -> MutexGuard<'_, graph::Journal> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(task, &self.runtime);
    }
}

/// A webhook nobody waits for: its failure is only told.
fn report(what: &str, sent: anyhow::Result<u16>) {
    match sent {
        Ok(0 | 200) => {}
        Ok(status) => tracing::warn!("the service answered the {what} webhook with {status}"),
        Err(error) => tracing::warn!("the {what} webhook failed: {error:#}"),
    }
}

/// Webhook URLs are plain HTTP on this machine, so the TLS of this client trusts nobody and needs no provider
/// of the process.
fn client() -> anyhow::Result<reqwest::Client> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .timeout(WEBHOOK_TIMEOUT)
        .build()
        .context("build an HTTP client")
}

pub(crate) fn unix_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis())
}

pub(crate) fn connect_body(parties: &Parties, timestamp: u64, sdp: &str, opaque: Option<&str>) -> String {
    match parties.direction {
        Direction::UserInitiated => bodies::connect(parties, timestamp, sdp),
        Direction::BusinessInitiated => bodies::connect_answer(parties, timestamp, sdp, opaque),
    }
}

pub(crate) fn status_body(parties: &Parties, status: &str, opaque: Option<&str>) -> String {
    bodies::status(parties, status, (unix_ms() / 1000) as u64, opaque)
}

pub(crate) fn terminate_body(
    parties: &Parties,
    at: u64,
    start: Option<u64>,
    heard_nothing: bool,
    opaque: Option<String>,
) -> String {
    bodies::terminate(parties, &bodies::Ending { at, start, heard_nothing, opaque })
}

/// When a request came, for those who compare it with stages.
pub(crate) fn arrival() -> Instant {
    now()
}
