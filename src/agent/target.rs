//! AgentTarget: where a call may be put through to.

use std::collections::BTreeMap;
use std::sync::Arc;

use url::Url;

use super::{
    AppSocketOptions, AudioSocketOptions, BrowserId, CallingPhone, ModelOptions, ModelVendor, OfferOptions,
    TwimlOptions, WebSocketOptions, shown_address,
};
use crate::call::AttemptKind;
use crate::queue::{AgentName, QueueName};
use crate::routes::Route;
use crate::sip::{SipUri, TrunkNumber};
use crate::twilio::Notation;

/// The most addresses of one agent.
const MAX_INSTANCES: usize = 16;

/// Where a call may be put through to. A new way to reach agents is a variant here, and an arm of `agent::spawn`.
#[derive(Clone, Debug)]
pub enum AgentTarget {
    /// An agent behind a WebSocket.
    WebSocket(WebSocketOptions),
    /// The application, which opens a WebSocket to us.
    App(AppSocketOptions),
    /// An agent behind AudioSocket, over TCP.
    AudioSocket(AudioSocketOptions),
    /// A page whose offer the call's worker has answered. No configuration names it.
    Browser(BrowserId),
    /// An agent behind an HTTP endpoint that answers our WebRTC offer.
    Offer(OfferOptions),
    /// An app that says in TwiML, or in an NCCO, what happens to the call.
    Twiml(TwimlOptions),
    /// A speech model without an app.
    Model(ModelOptions),
    /// A SIP phone.
    Sip(SipUri),
    /// All registered phones of a user, by the user's name.
    SipUser(String),
    /// A number behind a trunk.
    Trunk(TrunkNumber),
    /// A phone that has called us, and is the agent of its call. No configuration names it.
    CallingPhone(CallingPhone),
    /// A queue, in which the caller waits for a person at a page.
    Queue(QueueName),
    /// A person by name, at a page, who takes the caller now or not at all.
    Person(AgentName),
    /// Prompts; the call ends after them.
    Prompts {
        /// In the order they are played; at least one.
        names: Vec<String>,
        /// Whether they repeat until the caller hangs up.
        repeat: bool,
    },
}

impl AgentTarget {
    /// The forms that [`parse`](Self::parse) takes, as advice.
    pub const FORMS: &str = "give ws://, wss://, app, audiosocket://, offer:https://, twiml:https://, ncco:https://, openai-realtime:MODEL, sip:, sip-user:NAME, sip-trunk:NAME/NUMBER, queue:NAME, agent:NAME or prompt:NAME";

    /// Reads `ws://…`, `wss://…`, `app`, `audiosocket://…`, `offer:https://…`, `twiml:https://…`, `ncco:https://…`,
    /// `openai-realtime:MODEL` and the like ([`ModelVendor`]), `sip:…`, `sip-user:NAME`, `sip-trunk:NAME/NUMBER`, `queue:NAME` (or `browser:NAME`), `agent:NAME`,
    /// `prompt:NAME` or `prompt:NAME,NAME`. The error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "app" {
            return Ok(Self::App(AppSocketOptions::of(&Route::unnamed().agents)));
        }
        let (scheme, rest) = text.split_once(':').ok_or(Self::FORMS)?;
        if let Some(vendor) = ModelVendor::of_scheme(scheme) {
            return ModelOptions::parse(vendor, rest).map(Self::Model);
        }
        match scheme {
            "ws" | "wss" => WebSocketOptions::parse(text).map(Self::WebSocket),
            "audiosocket" => AudioSocketOptions::parse(text).map(Self::AudioSocket),
            "offer" => OfferOptions::parse(rest).map(Self::Offer),
            "twiml" => TwimlOptions::parse(Notation::Twiml, rest).map(Self::Twiml),
            "ncco" => TwimlOptions::parse(Notation::Ncco, rest).map(Self::Twiml),
            "prompt" => {
                let names = rest.split(',').map(|name| prompt_name(name.trim())).collect::<Result<_, _>>()?;
                Ok(Self::Prompts { names, repeat: false })
            }
            "queue" | "browser" => queue_name(rest).map(Self::Queue),
            "agent" => agent_name(rest).map(Self::Person),
            "sip" | "sips" => SipUri::parse(text).map(Self::Sip),
            "sip-user" => sip_user_name(rest).map(Self::SipUser),
            "sip-trunk" => TrunkNumber::parse(rest).map(Self::Trunk),
            _ => Err(Self::FORMS.to_owned()),
        }
    }

    /// One agent with several instances, each at an address of a WebSocket. The error says what to write instead.
    pub fn instances(targets: Vec<Self>) -> Result<Self, String> {
        let mut agents = Vec::with_capacity(targets.len());
        match <[Self; 1]>::try_from(targets) {
            Ok([only]) => return Ok(only),
            Err(targets) if targets.len() > MAX_INSTANCES => {
                return Err(format!("give at most {MAX_INSTANCES} addresses"));
            }
            Err(targets) => {
                for target in targets {
                    let Self::WebSocket(agent) = target else {
                        let advice =
                            "only ws:// and wss:// may be several instances of one agent: put others into fallback";
                        return Err(advice.to_owned());
                    };
                    agents.push(agent);
                }
            }
        }
        let mut agents = agents.into_iter();
        let mut agent = agents.next().ok_or(Self::FORMS)?;
        agent.more_urls = agents.map(|agent| agent.url).collect();
        Ok(Self::WebSocket(agent))
    }

    /// The addresses of WebSockets at which it is.
    pub fn urls(&self) -> Vec<Url> {
        match self {
            Self::WebSocket(agent) => agent.urls().cloned().collect(),
            Self::Model(model) => vec![model.socket().url],
            Self::App(_)
            | Self::Twiml(_)
            | Self::AudioSocket(_)
            | Self::Trunk(_)
            | Self::Browser(_)
            | Self::Offer(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::CallingPhone(_)
            | Self::Queue(_)
            | Self::Person(_)
            | Self::Prompts { .. } => Vec::new(),
        }
    }

    /// The stable name of how it is reached.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::WebSocket(_) => "websocket",
            Self::App(_) => "app",
            Self::AudioSocket(_) => "audiosocket",
            Self::Browser(_) => "browser",
            Self::Offer(_) => "offer",
            Self::Twiml(app) => app.notation.scheme(),
            Self::Model(_) => "model",
            Self::Sip(_) => "sip",
            Self::SipUser(_) => "sip_user",
            Self::Trunk(_) => "sip_trunk",
            Self::CallingPhone(_) => "calling_phone",
            Self::Queue(_) => "queue",
            Self::Person(_) => "person",
            Self::Prompts { .. } => "prompts",
        }
    }

    /// The target without secrets, for logs, events and the API.
    pub fn shown(&self) -> String {
        match self {
            Self::WebSocket(agent) => agent.urls().map(shown_address).collect::<Vec<_>>().join(", "),
            Self::App(_) => "app".to_owned(),
            Self::AudioSocket(agent) => agent.to_string(),
            Self::Browser(_) => "browser".to_owned(),
            Self::Offer(agent) => format!("offer:{}", shown_address(&agent.url)),
            Self::Twiml(app) => app.shown(),
            Self::Model(model) => model.to_string(),
            Self::Sip(uri) => uri.shown(),
            Self::SipUser(name) => format!("sip-user:{name}"),
            Self::Trunk(TrunkNumber { trunk, number, .. }) => format!("sip-trunk:{trunk}/{number}"),
            Self::CallingPhone(_) => "calling_phone".to_owned(),
            Self::Queue(name) => format!("queue:{name}"),
            Self::Person(name) => format!("agent:{name}"),
            Self::Prompts { names, .. } => format!("prompt:{}", names.join(",")),
        }
    }

    /// The prompts that it plays, by name.
    pub fn prompts(&self) -> &[String] {
        match self {
            Self::WebSocket(_)
            | Self::App(_)
            | Self::AudioSocket(_)
            | Self::Browser(_)
            | Self::Offer(_)
            | Self::Twiml(_)
            | Self::Model(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::Trunk(_)
            | Self::CallingPhone(_)
            | Self::Queue(_)
            | Self::Person(_) => &[],
            Self::Prompts { names, .. } => names,
        }
    }

    /// What an attempt at it does.
    pub fn attempt_kind(&self) -> AttemptKind {
        match self {
            Self::WebSocket(_)
            | Self::App(_)
            | Self::AudioSocket(_)
            | Self::Browser(_)
            | Self::Offer(_)
            | Self::Twiml(_)
            | Self::Model(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::Trunk(_)
            | Self::CallingPhone(_) => AttemptKind::Agent,
            Self::Queue(_) => AttemptKind::Queue,
            Self::Person(_) => AttemptKind::Person,
            Self::Prompts { .. } => AttemptKind::Prompts,
        }
    }

    /// Passes these on in the agent's `start` too.
    pub fn add_parameters(&mut self, parameters: &BTreeMap<String, String>) {
        match self {
            Self::WebSocket(agent) => agent.parameters.extend(parameters.clone()),
            Self::App(agent) => agent.parameters.extend(parameters.clone()),
            Self::Offer(agent) => agent.parameters.extend(parameters.clone()),
            Self::Model(model) => model.parameters.extend(parameters.clone()),
            Self::Twiml(app) => app.parameters.extend(parameters.clone()),
            Self::AudioSocket(_)
            | Self::Browser(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::Trunk(_)
            | Self::CallingPhone(_)
            | Self::Queue(_)
            | Self::Person(_)
            | Self::Prompts { .. } => {}
        }
    }

    /// Is connected to with these settings, where TLS is spoken.
    pub fn set_tls(&mut self, tls: &Arc<rustls::ClientConfig>) {
        match self {
            Self::WebSocket(agent) => agent.tls = Some(tls.clone()),
            Self::Offer(agent) => agent.tls = Some(tls.clone()),
            Self::Twiml(app) => app.tls = Some(tls.clone()),
            Self::Model(model) => model.tls = Some(tls.clone()),
            Self::App(_)
            | Self::AudioSocket(_)
            | Self::Browser(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::Trunk(_)
            | Self::CallingPhone(_)
            | Self::Queue(_)
            | Self::Person(_)
            | Self::Prompts { .. } => {}
        }
    }

    /// The queue that it is.
    pub fn queue(&self) -> Option<&QueueName> {
        match self {
            Self::Queue(name) => Some(name),
            Self::WebSocket(_)
            | Self::App(_)
            | Self::AudioSocket(_)
            | Self::Browser(_)
            | Self::Offer(_)
            | Self::Twiml(_)
            | Self::Model(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::Trunk(_)
            | Self::CallingPhone(_)
            | Self::Person(_)
            | Self::Prompts { .. } => None,
        }
    }

    /// The application's socket that it is.
    pub fn app(&self) -> Option<&AppSocketOptions> {
        match self {
            Self::App(app) => Some(app),
            Self::WebSocket(_)
            | Self::AudioSocket(_)
            | Self::Browser(_)
            | Self::Offer(_)
            | Self::Twiml(_)
            | Self::Model(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::Trunk(_)
            | Self::CallingPhone(_)
            | Self::Queue(_)
            | Self::Person(_)
            | Self::Prompts { .. } => None,
        }
    }

    /// The speech model that it is.
    pub fn model(&self) -> Option<&ModelOptions> {
        match self {
            Self::Model(model) => Some(model),
            Self::WebSocket(_)
            | Self::App(_)
            | Self::AudioSocket(_)
            | Self::Browser(_)
            | Self::Offer(_)
            | Self::Twiml(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::Trunk(_)
            | Self::CallingPhone(_)
            | Self::Queue(_)
            | Self::Person(_)
            | Self::Prompts { .. } => None,
        }
    }

    /// The person that it is.
    pub fn person(&self) -> Option<&AgentName> {
        match self {
            Self::Person(name) => Some(name),
            Self::WebSocket(_)
            | Self::App(_)
            | Self::AudioSocket(_)
            | Self::Browser(_)
            | Self::Offer(_)
            | Self::Twiml(_)
            | Self::Model(_)
            | Self::Sip(_)
            | Self::SipUser(_)
            | Self::Trunk(_)
            | Self::CallingPhone(_)
            | Self::Queue(_)
            | Self::Prompts { .. } => None,
        }
    }
}

/// Reads the name of a prompt. The error says what a name may hold.
pub fn prompt_name(name: &str) -> Result<String, String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !is_plain {
        return Err("a prompt's name is 1 to 128 letters, digits, '.', '_' or '-', and starts with no '.'".to_owned());
    }
    Ok(name.to_owned())
}

/// Reads the name of a person, which is the id of an API key. The error says what a name may hold.
fn agent_name(name: &str) -> Result<AgentName, String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match (1..=64).contains(&name.len()) && is_plain {
        true => Ok(name.into()),
        false => Err("an agent's name is the id of its API key: 1 to 64 letters, digits or hyphens".to_owned()),
    }
}

/// Reads the name of a user whose phones register. The error says what a name may hold.
pub fn sip_user_name(name: &str) -> Result<String, String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    match (1..=64).contains(&name.len()) && is_plain {
        true => Ok(name.to_owned()),
        false => Err("a SIP user's name has 1 to 64 letters, digits, '.', '_' or '-'".to_owned()),
    }
}

/// Reads the name of a queue. The error says what a name may hold.
pub fn queue_name(name: &str) -> Result<QueueName, String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    match (1..=64).contains(&name.len()) && is_plain {
        true => Ok(name.into()),
        false => Err("a queue's name has 1 to 64 letters, digits, '_' or '-'".to_owned()),
    }
}
