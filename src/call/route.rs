//! Routes: to whom the callers of a number are put through.

use std::collections::HashMap;
use std::sync::Arc;

use secrecy::SecretString;

use super::Target;
use crate::agent::AgentOptions;
use crate::whatsapp::PhoneNumberId;

/// One route: whom to try, in order.
#[derive(Clone, Debug)]
pub struct Route {
    /// The name in the configuration.
    pub name: String,
    /// The agent first, then the fallbacks.
    pub stops: Vec<Stop>,
}

/// One place a route can lead to.
#[derive(Clone, Debug)]
pub enum Stop {
    /// An agent to dial.
    Agent(AgentOptions),
    /// A prompt by name.
    Prompt(String),
}

/// One business number.
#[derive(Clone, Debug)]
pub struct Number {
    /// Meta's id.
    pub phone_number_id: PhoneNumberId,
    /// Authorises Graph requests for it.
    pub access_token: SecretString,
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
    /// The stops as the call's state machine counts them.
    pub fn targets(&self) -> Vec<Target> {
        self.stops
            .iter()
            .map(|stop| match stop {
                Stop::Agent(_) => Target::Agent,
                Stop::Prompt(name) => Target::Prompt(name.clone()),
            })
            .collect()
    }
}
