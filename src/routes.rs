//! Routes and numbers: where the callers of a business number are put through to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use patchcord_media::opus::{Profile, SampleRate};
use secrecy::SecretString;
use url::Url;

use crate::agent::tls::AgentTlsFiles;
use crate::agent::{AgentTarget, DialectName, Encoding, Home, OfferFormat, SoundFormat};
use crate::call::AttemptKind;
use crate::call::route::{AnswerWhen, BargeIn};
use crate::events::SigningSecret;
use crate::whatsapp::PhoneNumberId;

/// One route.
#[derive(Clone, Debug)]
pub struct Route {
    /// The name in the configuration.
    pub name: String,
    /// The agent first, then the fallbacks in their order.
    pub targets: Vec<AgentTarget>,
    /// What its agents have in common, as configured; each of `targets` holds it already.
    pub agents: AgentDefaults,
    /// The files behind its agents' TLS, if they are not what all agents have in common.
    pub agent_tls: Option<AgentTlsFiles>,
    /// When its calls are accepted.
    pub answer: AnswerWhen,
    /// The prompt a caller hears until the first agent joins, where calls are accepted at once.
    pub ringback: String,
    /// The prompt a caller hears on hold, and while another agent is dialled.
    pub hold: String,
    /// Whether its calls are recorded from accept on.
    pub record: bool,
    /// Whether the caller's speech is detected, and what it does.
    pub barge_in: BargeIn,
    /// The app that decides what happens to each call.
    pub decide: Option<Arc<DecisionWebhook>>,
}

/// What the agents of a route have in common.
#[derive(Clone, Copy, Debug)]
pub struct AgentDefaults {
    /// The protocol on the WebSocket.
    pub dialect: DialectName,
    /// The sound on the WebSocket.
    pub format: SoundFormat,
    /// How audio is encoded for the caller.
    pub profile: Profile,
    /// Whether prompts repeat until the caller hangs up.
    pub repeat: bool,
    /// How our offers are posted.
    pub offer_format: OfferFormat,
}

/// The app that decides what happens to a route's calls.
#[derive(Clone, Debug)]
pub struct DecisionWebhook {
    /// Receives `call.incoming`.
    pub url: Url,
    /// Signs the request.
    pub secret: SigningSecret,
    /// For the whole exchange.
    pub timeout: Duration,
}

/// All routes, sorted by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Routes(Arc<BTreeMap<String, Arc<Route>>>);

/// One business number.
#[derive(Clone, Debug)]
pub struct Number {
    /// Meta's id.
    pub phone_number_id: PhoneNumberId,
    /// Authorises Graph requests for the number.
    pub access_token: SecretString,
    /// The most live calls it may have; one more is rejected at Meta at once.
    pub max_calls: Option<usize>,
    /// How many calls are placed from it.
    pub placing: PlacingLimits,
    /// Where its callers go.
    pub route: Arc<Route>,
}

/// How many calls are placed from one business number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacingLimits {
    /// Calls that start within a second.
    pub per_second: u32,
    /// Calls that start within 24 h.
    pub per_day: usize,
    /// Placed calls that live.
    pub live: usize,
    /// Calls that wait in the queue.
    pub queued: usize,
}

impl Default for PlacingLimits {
    /// Meta takes 10,000 new calls in 24 h from a number (Meta, "Business-initiated calls", 2026-09) and does not say how many a
    /// second: at five a second a day's calls
    /// start in half an hour. Each call has a UDP port to itself until it is answered, so fifty leave four fifths of the
    /// usual 256 ports to incoming calls. The queue holds a day's calls.
    fn default() -> Self {
        Self { per_second: 5, per_day: 10_000, live: 50, queued: 10_000 }
    }
}

/// All numbers of the service.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    by_id: HashMap<PhoneNumberId, Arc<Number>>,
    /// In the order of the configuration.
    ids: Vec<PhoneNumberId>,
}

impl Route {
    /// The defaults of the configuration, for a call whose number has no route. It has no name and no agent.
    pub fn unnamed() -> Self {
        let format = SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz16000 };
        Self {
            name: String::new(),
            targets: Vec::new(),
            agents: AgentDefaults {
                dialect: DialectName::default(),
                format,
                profile: Profile::Eco,
                repeat: false,
                offer_format: OfferFormat::default(),
            },
            agent_tls: None,
            answer: AnswerWhen::default(),
            ringback: "ringback".to_owned(),
            hold: "hold".to_owned(),
            record: false,
            barge_in: BargeIn::default(),
            decide: None,
        }
    }

    /// The first target, if it can be dialled.
    pub fn first_agent(&self) -> Option<&AgentTarget> {
        self.targets.first().filter(|target| target.attempt_kind() == AttemptKind::Agent)
    }

    /// The same route, whose agents have the TLS settings of its files.
    pub fn with_tls(self: &Arc<Self>) -> anyhow::Result<Arc<Self>> {
        let Some(files) = &self.agent_tls else { return Ok(self.clone()) };
        let tls = files.read().with_context(|| format!("routes.{}", self.name))?;
        let mut route = Self::clone(self);
        route.targets.iter_mut().for_each(|target| target.set_tls(&tls));
        Ok(Arc::new(route))
    }

    /// What the attempts at its targets do.
    pub fn attempts(&self) -> Vec<AttemptKind> {
        self.targets.iter().map(AgentTarget::attempt_kind).collect()
    }

    /// Every prompt that it names.
    pub fn prompts(&self) -> impl Iterator<Item = &String> {
        self.targets.iter().flat_map(AgentTarget::prompts).chain([&self.ringback, &self.hold])
    }
}

impl Number {
    /// The same number for a call that takes another route.
    pub fn on(&self, route: Route) -> Arc<Self> {
        Arc::new(Self { route: Arc::new(route), ..self.clone() })
    }
}

impl Routes {
    /// Of two routes with one name the last one counts.
    pub fn new(routes: impl IntoIterator<Item = Arc<Route>>) -> Self {
        Self(Arc::new(routes.into_iter().map(|route| (route.name.clone(), route)).collect()))
    }

    /// The route of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Route>> {
        self.0.get(name).cloned()
    }

    /// The app of a route that answers TwiML and has this URL: the operator has named it.
    pub fn home_of(&self, url: &Url) -> Option<&Home> {
        let targets = self.0.values().flat_map(|route| &route.targets);
        let homes = targets.filter_map(|target| match target {
            AgentTarget::Twiml(app) => app.home.as_ref(),
            AgentTarget::WebSocket(_)
            | AgentTarget::App(_)
            | AgentTarget::AudioSocket(_)
            | AgentTarget::Browser(_)
            | AgentTarget::Offer(_)
            | AgentTarget::Model(_)
            | AgentTarget::Sip(_)
            | AgentTarget::SipUser(_)
            | AgentTarget::Trunk(_)
            | AgentTarget::CallingPhone(_)
            | AgentTarget::Queue(_)
            | AgentTarget::Person(_)
            | AgentTarget::Prompts { .. } => None,
        });
        homes.into_iter().find(|home| home.local_of(url).is_some())
    }

    /// All of them, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.0.values()
    }
}

impl Numbers {
    /// Of two numbers with one id the last one counts.
    pub fn new(numbers: impl IntoIterator<Item = Number>) -> Self {
        let mut all = Self::default();
        for number in numbers {
            let id = number.phone_number_id.clone();
            if all.by_id.insert(id.clone(), Arc::new(number)).is_none() {
                all.ids.push(id);
            }
        }
        all
    }

    /// The number of this id, if it is ours.
    pub fn get(&self, id: &PhoneNumberId) -> Option<Arc<Number>> {
        self.by_id.get(id).cloned()
    }

    /// The number, if there is exactly one.
    pub fn only(&self) -> Option<Arc<Number>> {
        match &self.ids[..] {
            [id] => self.get(id),
            _ => None,
        }
    }

    /// The ids of the numbers whose callers take this route.
    pub fn ids_on(&self, route: &str) -> Vec<String> {
        let takes_it = |id: &&PhoneNumberId| self.by_id.get(*id).is_some_and(|number| number.route.name == route);
        self.ids.iter().filter(takes_it).map(|id| id.as_str().to_owned()).collect()
    }
}
