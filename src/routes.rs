//! Routes and numbers: to whom the callers of a number are put through.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use url::Url;

use crate::agent::AgentOptions;
use crate::call::AttemptKind;
use crate::call::route::{AnswerWhen, BargeIn};
use crate::events::SigningSecret;
use crate::whatsapp::PhoneNumberId;

/// One route: whom to try, in order.
#[derive(Clone, Debug)]
pub struct Route {
    /// The name in the configuration.
    pub name: String,
    /// The agent first, then the fallbacks.
    pub stops: Vec<Stop>,
    /// When its calls are accepted.
    pub answer: AnswerWhen,
    /// The prompt a caller hears until the first agent joins, where calls are accepted at once.
    pub ringback: String,
    /// The prompt a caller hears while another agent is found.
    pub hold: String,
    /// Whether its calls are recorded from accept on.
    pub record: bool,
    /// The app that is asked what becomes of each call.
    pub decide: Option<Arc<DecisionWebhook>>,
    /// Whether we listen for the caller's speech.
    pub barge_in: BargeIn,
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

/// One place a route can lead to.
#[derive(Clone, Debug)]
pub enum Stop {
    /// An agent to dial.
    Agent(AgentOptions),
    /// Prompts by name, in their order.
    Prompts {
        /// At least one.
        names: Vec<String>,
        /// From the beginning again until the caller hangs up.
        repeat: bool,
    },
}

/// All routes by their names. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Routes(Arc<HashMap<String, Arc<Route>>>);

impl Routes {
    /// A repeated name is the last one's.
    pub fn new(routes: impl IntoIterator<Item = Route>) -> Self {
        Self(Arc::new(routes.into_iter().map(|route| (route.name.clone(), Arc::new(route))).collect()))
    }

    /// The route of that name.
    pub fn get(&self, name: &str) -> Option<Arc<Route>> {
        self.0.get(name).cloned()
    }
}

/// One business number.
#[derive(Clone, Debug)]
pub struct Number {
    /// Meta's id.
    pub phone_number_id: PhoneNumberId,
    /// Authorises Graph requests for it.
    pub access_token: SecretString,
    /// Its live calls at most; one more is rejected at Meta at once.
    pub max_calls: Option<usize>,
    /// Where its callers go.
    pub route: Arc<Route>,
}

/// All numbers of the service.
#[derive(Clone, Debug, Default)]
pub struct Numbers(HashMap<PhoneNumberId, Arc<Number>>);

impl Numbers {
    /// The numbers by their id; a repeated id is the last one's.
    pub fn new(numbers: impl IntoIterator<Item = Number>) -> Self {
        Self(numbers.into_iter().map(|number| (number.phone_number_id.clone(), Arc::new(number))).collect())
    }

    /// The number that was called, if it is ours.
    pub fn get(&self, id: &PhoneNumberId) -> Option<Arc<Number>> {
        self.0.get(id).cloned()
    }
}

impl Route {
    /// Whoever it leads to first, if that is an agent.
    pub fn first_agent(&self) -> Option<&AgentOptions> {
        match self.stops.first()? {
            Stop::Agent(agent) => Some(agent),
            Stop::Prompts { .. } => None,
        }
    }

    /// What the attempts at its stops do.
    pub fn attempts(&self) -> Vec<AttemptKind> {
        self.stops.iter().map(Stop::attempt_kind).collect()
    }
}

impl Stop {
    /// What an attempt at it does.
    pub fn attempt_kind(&self) -> AttemptKind {
        match self {
            Self::Agent(_) => AttemptKind::Agent,
            Self::Prompts { .. } => AttemptKind::Prompts,
        }
    }
}
