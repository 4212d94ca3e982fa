//! Agents: the bots and people on our side who talk with the caller, and the ways to reach them.
//!
//! An agent's task runs on the worker that owns the call, so that no frame crosses threads.

pub mod notice;
pub(crate) mod port;
mod instances;
mod intake;
mod unbuffered;
pub mod websocket;
pub mod audiosocket;
pub(crate) mod browser;
mod offer;
mod twiml;
pub(crate) mod sip;
pub mod dialect;
pub mod model;
mod target;
pub mod tls;
mod status;

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use patchcord_media::opus::SampleRate;
use tokio::task::JoinSet;
use url::Url;

pub use audiosocket::AudioSocketOptions;
pub use browser::BrowserId;
pub use dialect::DialectName;
pub use instances::{BreakerState, Choice, InstanceView, Instances};
pub use model::{ModelOptions, ModelVendor};
pub use offer::{OfferFormat, OfferOptions};
pub use sip::{CallingPhone, PhoneId};
pub use status::{AgentOutcome, AgentStatus};
pub use target::{AgentTarget, prompt_name, queue_name, sip_user_name};
pub use twiml::{Home, TwimlOptions};
pub use websocket::{AppSocketOptions, REDIAL_FOR, UpgradeSignature, WebSocketOptions};

use crate::call::agent_failure::AgentFailureKind;
use crate::settings::CurrentSettings;
use port::AgentPort;
use sip::Whom;
pub use sip::{AudioRules, SipOptions};

/// The format of an agent's sound, in both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoundFormat {
    /// The encoding.
    pub encoding: Encoding,
    /// For Opus its RTP clock, 48 kHz.
    pub sample_rate: SampleRate,
}

/// How an agent's sound is encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// 16-bit little-endian samples, mono.
    PcmS16le,
    /// One Opus packet of 20 ms.
    Opus,
}

/// One attempt to put a call through to an agent.
#[derive(Clone, Debug)]
pub struct Dial {
    /// The agent.
    pub target: AgentTarget,
    /// How much of the agent's sound is queued.
    pub max_buffer: Duration,
}

/// What all agents' sockets of a worker have in common.
#[derive(Clone)]
pub struct SocketOptions {
    /// For `wss://` and `offer:https://`.
    pub tls: Arc<rustls::ClientConfig>,
    /// From dialling to the agent's joining.
    pub connect_timeout: Duration,
    /// How long nothing may arrive, not even an answer to a ping, until an agent counts as lost.
    pub idle_timeout: Duration,
    /// How the addresses of agents fare.
    pub instances: Instances,
    /// None if the service speaks no SIP.
    pub sip: Option<SipOptions>,
    /// What a document of TwiML may name: routes, and hosts.
    pub settings: CurrentSettings,
}

/// Starts the task of an agent on this thread, among `tasks`. It ends when the agent has left or is dismissed. A new way
/// to reach agents is an arm here.
pub(crate) fn spawn(tasks: &mut JoinSet<()>, target: AgentTarget, port: AgentPort, options: SocketOptions) {
    let port = Rc::new(port);
    match target {
        AgentTarget::WebSocket(agent) => {
            let dialect = agent.dialect;
            let translate = Box::new(move || dialect.translator());
            start(tasks, port.clone(), websocket::run(agent, translate, port, options));
        }
        AgentTarget::App(app) => start(tasks, port.clone(), websocket::accepted::run(app, port, options)),
        AgentTarget::Model(model) => {
            let socket = model.socket();
            let translate = Box::new(model.translators());
            start(tasks, port.clone(), websocket::run(socket, translate, port, options));
        }
        AgentTarget::AudioSocket(agent) => start(tasks, port.clone(), audiosocket::run(agent, port, options)),
        AgentTarget::Browser(id) => start(tasks, port.clone(), browser::run(id, port)),
        AgentTarget::Offer(agent) => start(tasks, port.clone(), offer::run(agent, port, options)),
        AgentTarget::Twiml(app) => start(tasks, port.clone(), twiml::run(app, port, options)),
        AgentTarget::Sip(uri) => start(tasks, port.clone(), sip::run(Whom::At(uri), port, options.sip)),
        AgentTarget::CallingPhone(phone) => start(tasks, port.clone(), sip::wait(phone, port, options.sip)),
        AgentTarget::SipUser(name) => start(tasks, port.clone(), sip::run(Whom::User(name), port, options.sip)),
        AgentTarget::Trunk(number) => start(tasks, port.clone(), sip::run(Whom::Behind(number), port, options.sip)),
        // A session waits in the queue, and a call plays its prompts itself.
        AgentTarget::Queue(_) | AgentTarget::Person(_) | AgentTarget::Prompts { .. } => {
            port.failed(AgentFailureKind::NotConfigured.into());
        }
    }
}

fn start(tasks: &mut JoinSet<()>, port: Rc<AgentPort>, talk: impl Future<Output = ()> + 'static) {
    // By a combinator: to await the talk in a block of its own takes its memory twice.
    let task = AssertUnwindSafe(talk).catch_unwind().map(move |talked| {
        if talked.is_err() {
            port.task_panicked();
        }
    });
    // No span: it would be entered and left for every packet.
    tasks.spawn_local(task);
}

/// An agent's address without credentials and query, which may be secret.
pub fn shown_address(url: &Url) -> String {
    let mut url = url.clone();
    // Only a URL that has no host could refuse to lose its credentials, and then it has none.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.into()
}

impl SoundFormat {
    /// Reads what an agent asks for. The error says what is not supported.
    pub fn new(encoding: &str, hz: u32) -> Result<Self, String> {
        let encoding = match encoding {
            "pcm_s16le" => Encoding::PcmS16le,
            "opus" => return Ok(Self { encoding: Encoding::Opus, sample_rate: SampleRate::Hz48000 }),
            other => return Err(format!("encoding {other:?} is not \"pcm_s16le\" or \"opus\"")),
        };
        let sample_rate =
            SampleRate::from_hz(hz).ok_or_else(|| format!("sample_rate {hz} is not 8000, 16000, 24000 or 48000"))?;
        Ok(Self { encoding, sample_rate })
    }
}

impl Encoding {
    /// The stable name in the configuration, the API and the native protocol.
    pub fn name(self) -> &'static str {
        match self {
            Self::PcmS16le => "pcm_s16le",
            Self::Opus => "opus",
        }
    }

    /// The encoding of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::PcmS16le, Self::Opus].into_iter().find(|encoding| encoding.name() == name)
    }
}
