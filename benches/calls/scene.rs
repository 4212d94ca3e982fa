//! A service with its environment, and its resource use during calls.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchcord_media::peer::Identity;
use patchcord_simulator::Speech;
use tokio::task::JoinHandle;

use crate::agent::{Agents, Talk};
use crate::bots::Bots;
use crate::machine::{self, Usage};
use crate::meta::{self, Call, Meta, Placed, Webhooks};
use crate::phone::Phone;
use crate::service::{self, Service, ServiceOptions};
use crate::sip_phones::{Codec, SipPhones};
use crate::talkers::Talkers;
use crate::wire::{NATIVE, Wire};

/// From the last webhook to the last accept.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(15);
/// Time for memory and caches to settle before a measurement.
const SETTLE: Duration = Duration::from_secs(2);

/// The target of a scene's calls.
#[derive(Clone, Copy, Debug)]
pub enum Route {
    /// To an agent: Opus for one that echoes, 16 kHz PCM for all others.
    Agent(Talk),
    /// The same, and recorded.
    Recorded(Talk),
    /// To an agent that talks in this protocol.
    Wire(Wire),
    /// To a bot that answers a WebRTC offer, as a browser's leg is.
    Bot,
    /// To a SIP phone with this codec.
    Sip(Codec),
    /// To SIPp at this port, which talks to nobody.
    Sipp {
        /// Of SIP, over UDP.
        port: u16,
    },
    /// To the built-in hold music, again and again.
    HoldMusic,
}

/// One service, its Meta, its agents, and phones that talk.
pub struct Scene {
    /// The child process.
    pub service: Service,
    /// All calls, in the order in which they were placed.
    pub calls: Vec<Rc<Call>>,
    /// All agents.
    pub agents: Agents,
    bots: Bots,
    talkers: Talkers,
    sip_phones: SipPhones,
    /// The callers' speech.
    pub speech: Speech,
    route: Route,
    meta: Meta,
    webhooks: Webhooks,
    identity: Arc<Identity>,
}

/// A call that the service placed, and its phone.
pub struct PickedUp {
    /// As Meta sees it.
    pub placed: Placed,
    /// The callee's.
    pub phone: Rc<Phone>,
    /// When the webhook with the answer was written.
    pub answered_at: Instant,
    running: JoinHandle<()>,
}

/// A measured interval.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// What the service used.
    pub used: Usage,
    /// How long it was.
    pub took: Duration,
    /// Packets that phones heard.
    pub heard: u64,
    /// Packets that phones sent.
    pub sent: u64,
    /// Messages that agents heard.
    pub agents_heard: u64,
    /// Messages that agents sent.
    pub agents_said: u64,
    /// Whether there were agents.
    pub with_agents: bool,
}

impl Window {
    /// Processor time of the worker for 20 ms of one call, both ways, in microseconds.
    pub fn worker_us(&self) -> f64 {
        self.used.worker.as_secs_f64() * 1e6 / self.frames()
    }

    /// The same of the whole process.
    pub fn process_us(&self) -> f64 {
        self.used.process.as_secs_f64() * 1e6 / self.frames()
    }

    /// Frames that went all the way, half of them in each direction, counted in pairs. Without agents one that a phone
    /// heard stands for the pair.
    fn frames(&self) -> f64 {
        let frames = if self.with_agents { (self.heard + self.agents_heard) as f64 / 2.0 } else { self.heard as f64 };
        frames.max(1.0)
    }

    /// Of the core on which the service stands, 0 to 1.
    pub fn core_share(&self) -> f64 {
        self.used.process.as_secs_f64() / self.took.as_secs_f64()
    }

    /// The smallest share of the packets that should have gone one of the four ways and did, 0 to 1.
    pub fn went_through(&self, calls: usize) -> f64 {
        let due = calls as f64 * self.took.as_secs_f64() / 0.02;
        let ways = [self.heard, self.sent, self.agents_heard, self.agents_said];
        ways.into_iter()
            .take(if self.with_agents { 4 } else { 2 })
            .map(|packets| packets as f64 / due)
            .fold(f64::INFINITY, f64::min)
    }
}

impl Scene {
    /// A service without calls.
    pub async fn start(route: Route) -> anyhow::Result<Self> {
        Self::start_with(route, "").await
    }

    /// The same with additional sections of configuration.
    pub async fn start_with(route: Route, sections: &str) -> anyhow::Result<Self> {
        Self::begin(route, sections, false).await
    }

    /// A service with its load limits on.
    pub async fn start_refusing(route: Route) -> anyhow::Result<Self> {
        Self::begin(route, "", true).await
    }

    async fn begin(route: Route, sections: &str, refuses: bool) -> anyhow::Result<Self> {
        let talk = match route {
            Route::Agent(talk) | Route::Recorded(talk) => talk,
            // Never dialled.
            Route::Wire(_) | Route::Bot | Route::Sip(_) | Route::Sipp { .. } | Route::HoldMusic => Talk::Echo,
        };
        let (meta, agents) = (Meta::start().await?, Agents::start(talk).await?);
        let identity = Arc::new(Identity::generate()?);
        let speech = Speech::caller().looped();
        let bots = Bots::start(&identity, &speech).await?;
        let wire = if let Route::Wire(wire) = route { wire } else { NATIVE };
        let talkers = Talkers::start(wire).await?;
        let codec = if let Route::Sip(codec) = route { codec } else { Codec::Pcmu };
        let sip_phones = SipPhones::start(codec).await?;
        let to_agent = service::to_agent(&agents.url, if talk == Talk::Echo { "opus" } else { "pcm_s16le" });
        let service = Service::start(&ServiceOptions {
            graph_url: meta.graph_url.clone(),
            app_secret: meta::APP_SECRET.to_owned(),
            phone_number_id: meta::PHONE_NUMBER_ID.to_owned(),
            access_token: meta::ACCESS_TOKEN.to_owned(),
            route: match route {
                Route::Agent(_) => to_agent,
                Route::Recorded(_) => to_agent + "record = true",
                Route::Wire(wire) => wire.route(talkers.address),
                Route::Bot => format!("agent = \"{}\"\n", bots.url),
                Route::Sip(_) => format!("agent = \"{}\"\n", sip_phones.uri),
                Route::Sipp { port } => format!("agent = \"sip:200@127.0.0.1:{port}\"\n"),
                Route::HoldMusic => "agent = \"prompt:hold\"
loop = true"
                    .to_owned(),
            },
            sections: match route {
                Route::Sip(_) | Route::Sipp { .. } => format!("[sip]\nlisten = [\"udp:127.0.0.1:0\"]\n{sections}"),
                Route::Agent(_) | Route::Recorded(_) | Route::Wire(_) | Route::Bot | Route::HoldMusic => {
                    sections.to_owned()
                }
            },
            refuses,
        })
        .await?;
        let webhooks = Webhooks::connect(service.http).await?;
        Ok(Self {
            service,
            calls: Vec::new(),
            agents,
            bots,
            talkers,
            sip_phones,
            speech,
            route,
            meta,
            webhooks,
            identity,
        })
    }

    /// Places calls at this rate and waits until all are accepted.
    pub async fn place(&mut self, calls: usize, per_second: u32) -> anyhow::Result<()> {
        let began = Instant::now();
        for number in 0..calls {
            tokio::time::sleep_until((began + Duration::from_secs(1) * number as u32 / per_second).into()).await;
            self.place_one().await?;
        }
        let accepted = self.meta.accepted(self.calls.len(), ACCEPTED_WITHIN).await;
        anyhow::ensure!(accepted == self.calls.len(), "only {accepted} of {} calls were accepted", self.calls.len());
        Ok(())
    }

    /// Places one call and does not wait for it.
    pub async fn place_one(&mut self) -> anyhow::Result<()> {
        let phone = Phone::new(&self.identity, self.speech.clone()).await?;
        let call = self.meta.ring(phone);
        self.webhooks.announce(&call).await?;
        self.calls.push(call);
        Ok(())
    }

    /// From now on accepted callers listen and send nothing.
    pub fn hush(&self) {
        self.meta.hush();
    }

    /// The numbers of accepted and rejected calls, once complete or at the timeout.
    pub async fn settled(&self) -> (usize, usize) {
        self.meta.settled(self.calls.len(), ACCEPTED_WITHIN).await
    }

    /// The number of accepted calls, once complete or at the timeout.
    pub async fn accepted(&self, calls: usize) -> usize {
        self.meta.accepted(calls, ACCEPTED_WITHIN).await
    }

    /// A call that is refused for its offer.
    pub async fn announce_broken(&mut self, number: usize) -> anyhow::Result<()> {
        self.webhooks.announce_broken(number).await
    }

    /// The caller of this call hangs up.
    pub async fn hang_up(&mut self, number: usize) -> anyhow::Result<()> {
        self.webhooks.hang_up(&self.calls[number]).await
    }

    /// The next call that the service places is answered by a phone, and its callee picks up.
    pub async fn pick_up_next(&mut self) -> anyhow::Result<PickedUp> {
        let placed = self.meta.next_placed(ACCEPTED_WITHIN).await?;
        let phone = Phone::answering(&self.identity, self.speech.clone(), &placed.offer).await?;
        let running = phone.start();
        let answered_at = self.webhooks.answer(&placed, &phone.sdp).await?;
        self.webhooks.pick_up(&placed).await?;
        phone.accepted(Duration::ZERO);
        Ok(PickedUp { placed, phone, answered_at, running })
    }

    /// The callee of this call hangs up.
    pub async fn callee_hangs_up(&mut self, call: &PickedUp) -> anyhow::Result<()> {
        call.running.abort();
        self.webhooks.hang_up_placed(&call.placed).await
    }

    /// Measures the calls for some time.
    pub async fn watch(&self, lasting: Duration) -> anyhow::Result<Window> {
        tokio::time::sleep(SETTLE).await;
        let (began, before) = (Instant::now(), self.counts());
        let used = machine::usage(self.service.process())?;
        tokio::time::sleep(lasting).await;
        let used = machine::usage(self.service.process())? - used;
        let (took, after) = (began.elapsed(), self.counts());
        let [heard, sent, agents_heard, agents_said] = [0, 1, 2, 3].map(|at| after[at] - before[at]);
        let with_agents = !matches!(self.route, Route::HoldMusic);
        Ok(Window { used, took, heard, sent, agents_heard, agents_said, with_agents })
    }

    fn counts(&self) -> [u64; 4] {
        let heard = self.calls.iter().map(|call| call.phone.heard.get()).sum();
        let sent = self.calls.iter().map(|call| call.phone.sent.get()).sum();
        let agents_heard = self.agents.heard() + self.bots.heard() + self.talkers.heard() + self.sip_phones.heard();
        let agents_said = self.agents.said() + self.bots.said() + self.talkers.said() + self.sip_phones.said();
        [heard, sent, agents_heard, agents_said]
    }
}
