//! What may change while the service runs: numbers and their secrets, routes, API keys.
//!
//! Whoever needs one of them asks [`CurrentSettings`] anew for each use, and keeps what it got for as long as that takes:
//! a call keeps the route that it began with.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::Context;
use patchcord_media::opus::{Profile, SampleRate};
use secrecy::SecretString;

use crate::agent::{AgentOptions, Encoding, SoundFormat};
use crate::call::route::{AnswerWhen, BargeIn};
use crate::config::api::{ApiKey, Page};
use crate::config::route::AgentTarget;
use crate::config::{self, Config};
use crate::egress::Egress;
use crate::routes::{Number, Numbers, Route, Routes, Stop};
use crate::whatsapp::signature::AppSecrets;

/// One reading of the configuration.
#[derive(Debug, Default)]
pub struct Settings {
    /// For Meta's subscription check.
    pub verify_token: SecretString,
    /// One of them must have signed a webhook.
    pub app_secrets: AppSecrets,
    /// The business numbers with their tokens and routes.
    pub numbers: Numbers,
    /// Whom callers can be put through to.
    pub routes: Routes,
    /// The routes as they are configured, by name.
    pub configured_routes: BTreeMap<String, config::route::Route>,
    /// The numbers' ids, each with the name of its route.
    pub numbers_with_routes: Vec<(String, String)>,
    /// Who may use the control API.
    pub api_keys: Vec<ApiKey>,
    /// Pages that need a key.
    pub closed_pages: Vec<Page>,
    /// Where callers of the API and decisions may lead us.
    pub egress: Egress,
}

impl Settings {
    /// From a configuration that has been checked.
    pub fn read(config: &Config) -> anyhow::Result<Self> {
        let routes = Routes::new(config.routes.iter().map(|(name, route)| read_route(name, route)));
        let ids = config.whatsapp.numbers.iter();
        Ok(Self {
            verify_token: config.whatsapp.verify_token.clone(),
            app_secrets: app_secrets(config),
            numbers: numbers(config, &routes)?,
            routes,
            configured_routes: config.routes.clone(),
            numbers_with_routes: ids
                .map(|number| (number.phone_number_id.as_str().to_owned(), number.route.clone()))
                .collect(),
            api_keys: config.api.keys.clone(),
            closed_pages: config.api.closed.clone(),
            egress: Egress::new(config.egress.allow.iter().cloned()),
        })
    }
}

/// The settings of the moment. Clones lead to the same ones.
#[derive(Clone, Debug, Default)]
pub struct CurrentSettings(Arc<RwLock<Arc<Settings>>>);

impl CurrentSettings {
    /// These, until they are replaced.
    pub fn new(settings: Settings) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(settings))))
    }

    /// All of one reading. The lock is held for a moment only; what is behind it is never half written.
    pub fn get(&self) -> Arc<Settings> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on these.
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
            route: route.with_context(|| format!("the route {:?} does not exist", number.route))?,
        })
    });
    Ok(Numbers::new(numbers.collect::<anyhow::Result<Vec<_>>>()?))
}

fn read_route(name: &str, route: &config::route::Route) -> Route {
    let stops = std::iter::once(&route.agent).chain(&route.fallback).map(|target| match target {
        AgentTarget::Prompts(names) => Stop::Prompts { names: names.clone(), repeat: route.repeat },
        AgentTarget::WebSocket(url) => Stop::Agent(AgentOptions {
            url: url.clone(),
            addresses: Vec::new(),
            headers: route.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            dialect: route.dialect,
            format: SoundFormat {
                encoding: match route.encoding {
                    config::route::Encoding::PcmS16le => Encoding::PcmS16le,
                    config::route::Encoding::Opus => Encoding::Opus,
                },
                sample_rate: SampleRate::from_hz(route.sample_rate).unwrap_or(SampleRate::Hz16000),
            },
            profile: match route.profile {
                config::route::Profile::Eco => Profile::Eco,
                config::route::Profile::Hq => Profile::Hq,
            },
            parameters: route.parameters.clone(),
        }),
    });
    Route {
        name: name.to_owned(),
        stops: stops.collect(),
        answer: match route.answer {
            config::route::Answer::WhenAgentReady => AnswerWhen::AgentReady,
            config::route::Answer::AtOnce => AnswerWhen::AtOnce,
            config::route::Answer::OnCommand => AnswerWhen::OnCommand,
        },
        ringback: route.ringback.clone(),
        hold: route.hold.clone(),
        record: route.record,
        decide: route.decide.clone().map(Arc::new),
        barge_in: match route.barge_in {
            config::route::BargeIn::Off => BargeIn::Off,
            config::route::BargeIn::Events => BargeIn::Events,
            config::route::BargeIn::Clear => BargeIn::Clear,
        },
    }
}
