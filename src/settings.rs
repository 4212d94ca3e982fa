//! What may change while the service runs: numbers and their secrets, routes, API keys.
//!
//! Readers take them from [`CurrentSettings`] for each use. A call keeps the route that it began with.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use secrecy::SecretString;

use crate::config::Config;
use crate::config::api::{ApiKey, Page, Scope};
use crate::egress::Egress;
use crate::permissions::Country;
use crate::queue::{AgentName, QueueName};
use crate::routes::{Number, Numbers, Route, Routes};
use crate::twilio::Account;
use crate::whatsapp::signature::AppSecrets;

/// The settings of one reading of the configuration.
#[derive(Debug, Default)]
pub struct Settings {
    /// For Meta's subscription check.
    pub verify_token: SecretString,
    /// One of them must have signed a webhook.
    pub app_secrets: AppSecrets,
    /// The business numbers with their tokens and routes.
    pub numbers: Numbers,
    /// Countries whose numbers place no calls.
    pub countries_without_outgoing_calls: Vec<Country>,
    /// Where callers are put through to.
    pub routes: Routes,
    /// Where callers wait for people, by name.
    pub queues: BTreeSet<QueueName>,
    /// Who may use the control API.
    pub api_keys: Vec<ApiKey>,
    /// Pages that need a key.
    pub closed_pages: Vec<Page>,
    /// Which URLs the API and decisions may name.
    pub egress: Egress,
    /// The account of apps that answer TwiML, and of Twilio's REST API.
    pub twilio: Option<Arc<Account>>,
}

impl Settings {
    /// From a configuration that has been checked. Opens the certificates and keys of routes; an error names the key.
    pub fn read(config: &Config) -> anyhow::Result<Self> {
        let routes = config.routes.values().map(Route::with_tls).collect::<anyhow::Result<Vec<_>>>()?;
        let routes = Routes::new(routes);
        Ok(Self {
            verify_token: config.whatsapp.verify_token.clone(),
            app_secrets: app_secrets(config),
            numbers: numbers(config, &routes)?,
            countries_without_outgoing_calls: config.whatsapp.countries_without_outgoing_calls.clone(),
            routes,
            queues: config.queues.keys().cloned().collect(),
            api_keys: config.api.keys.clone(),
            closed_pages: config.api.closed.clone(),
            egress: Egress::new(config.egress.allow.iter().cloned()),
            twilio: config.twilio.clone(),
        })
    }

    /// The agent of the API key with this id, if that key has one.
    pub fn agent_name(&self, id: &str) -> Option<AgentName> {
        self.api_keys
            .iter()
            .find(|key| key.id == id && key.scopes.contains(&Scope::Agent))
            .map(|key| key.id.as_str().into())
    }
}

/// The current settings. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct CurrentSettings(Arc<RwLock<Arc<Settings>>>);

impl CurrentSettings {
    /// These, until [`replace`](Self::replace).
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(settings))))
    }

    /// The current settings, all of one reading.
    pub fn get(&self) -> Arc<Settings> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces them.
    pub fn replace(&self, settings: Settings) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings);
    }
}

fn app_secrets(config: &Config) -> AppSecrets {
    let numbers = config.whatsapp.numbers.iter().filter(|number| !number.app_secrets.is_empty());
    AppSecrets {
        shared: config.whatsapp.app_secrets.clone(),
        own: numbers.map(|number| (number.phone_number_id.clone(), number.app_secrets.clone())).collect(),
    }
}

fn numbers(config: &Config, routes: &Routes) -> anyhow::Result<Numbers> {
    let numbers = config.whatsapp.numbers.iter().map(|number| {
        let route = routes.get(&number.route);
        Ok(Number {
            phone_number_id: number.phone_number_id.clone(),
            access_token: number.access_token.clone(),
            max_calls: number.max_calls,
            placing: number.placing,
            route: route.with_context(|| format!("the route {:?} does not exist", number.route))?,
        })
    });
    Ok(Numbers::new(numbers.collect::<anyhow::Result<Vec<_>>>()?))
}
