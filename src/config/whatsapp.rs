//! `[whatsapp]` and `[[whatsapp.numbers]]`: Meta's side, and the business numbers.

use std::collections::BTreeSet;

use secrecy::SecretString;
use url::Url;

use super::problem::nearest;
use super::read::Section;
use super::{events, web_url};
use crate::address::is_nearby;
use crate::permissions::Country;
use crate::routes::PlacingLimits;
use crate::whatsapp::PhoneNumberId;

const GRAPH_URL: &str = "https://graph.facebook.com";
const GRAPH_VERSION: &str = "v26.0";

/// Meta's side; empty without the section.
#[derive(Debug, Clone)]
pub struct WhatsApp {
    /// `https://graph.facebook.com`, or a simulator.
    pub graph_url: Url,
    /// `v26.0`
    pub graph_version: String,
    /// What Meta must say when the webhook address is registered.
    pub verify_token: SecretString,
    /// Sign the webhooks of all numbers that have no secrets of their own.
    pub app_secrets: Vec<SecretString>,
    /// Where webhooks go that are not about calls of ours.
    pub forward_url: Option<Url>,
    /// Countries whose numbers place no calls; where it is empty, Meta decides.
    pub countries_without_outgoing_calls: Vec<Country>,
    /// No id twice; none if apps signal all calls.
    pub numbers: Vec<Number>,
}

/// One business number.
#[derive(Debug, Clone)]
pub struct Number {
    /// Meta's id of it.
    pub phone_number_id: PhoneNumberId,
    /// Authorises Graph requests for it.
    pub access_token: SecretString,
    /// Sign the webhooks of this number, and nothing else does; empty for the shared ones.
    pub app_secrets: Vec<SecretString>,
    /// Its live calls at once; more are rejected.
    pub max_calls: Option<usize>,
    /// How many calls are placed from it.
    pub placing: PlacingLimits,
    /// A name in [`Config::routes`](super::Config::routes).
    pub route: String,
    /// Shown to agents and in logs.
    pub display_name: Option<String>,
}

impl WhatsApp {
    /// Without the section no webhook is believed, as no secret signs any.
    pub(super) fn without(section: Section<'_, '_>) -> Option<Self> {
        section.end();
        Some(Self {
            graph_url: Url::parse(GRAPH_URL).ok()?,
            graph_version: GRAPH_VERSION.to_owned(),
            verify_token: SecretString::default(),
            app_secrets: Vec::new(),
            countries_without_outgoing_calls: Country::WITHOUT_OUTGOING_CALLS.to_vec(),
            forward_url: None,
            numbers: Vec::new(),
        })
    }

    pub(super) fn read(mut section: Section<'_, '_>, routes: &[&str]) -> Option<Self> {
        let graph_url = section.text("graph_url", graph_url).or_else(|| Url::parse(GRAPH_URL).ok());
        let graph_version = section.text("graph_version", graph_version);
        section
            .require("verify_token", "give the word that you enter beside the webhook's address in the app dashboard");
        let verify_token = section.secret("verify_token");
        let forward_url = section
            .text("forward_url", |text| events::app_url(text, "https://chat.example.com/webhook", "Meta's webhooks"));
        let countries = section.list("countries_without_outgoing_calls", Country::of_code);
        section.require("numbers", "give at least one [[whatsapp.numbers]]");
        let numbers: Vec<Option<Number>> =
            section.sections("numbers").into_iter().map(|number| Number::read(number, routes)).collect();
        note_double_numbers(&section, &numbers);
        // A number that is wrong in itself may have had secrets of its own.
        let all_have_their_own = !numbers.is_empty()
            && numbers.iter().all(|number| number.as_ref().is_none_or(|number| !number.app_secrets.is_empty()));
        let app_secrets = read_app_secrets(&mut section, !all_have_their_own);
        section.end();
        Some(Self {
            graph_url: graph_url?,
            graph_version: graph_version.unwrap_or_else(|| GRAPH_VERSION.to_owned()),
            verify_token: verify_token?,
            app_secrets: app_secrets?,
            forward_url,
            countries_without_outgoing_calls: countries.unwrap_or_else(|| Country::WITHOUT_OUTGOING_CALLS.to_vec()),
            numbers: numbers.into_iter().collect::<Option<_>>()?,
        })
    }
}

impl Number {
    fn read(mut section: Section<'_, '_>, routes: &[&str]) -> Option<Self> {
        section.require("phone_number_id", "give the number's id from the app dashboard, in digits");
        let phone_number_id = section.text("phone_number_id", |text| {
            PhoneNumberId::parse(text).map_err(|_| "give the number's id from the app dashboard, in digits".to_owned())
        });
        section.require("access_token", "give { env = \"WHATSAPP_TOKEN\" }");
        let access_token = section.secret("access_token");
        section.require("route", "give the name of a [routes.…] section");
        let route = section.text("route", |name| existing_route(name, routes));
        let display_name = section.text("display_name", |name| Ok(name.to_owned()));
        let app_secrets = read_app_secrets(&mut section, false);
        let max_calls = section.whole("max_calls", 1, 1_000_000).map(|most| most as usize);
        let placing = read_placing(section.section("placing"));
        section.end();
        Some(Self {
            phone_number_id: phone_number_id?,
            access_token: access_token?,
            app_secrets: app_secrets?,
            max_calls,
            placing,
            route: route?,
            display_name,
        })
    }
}

/// The access token travels there, so clear text is for this machine and private networks only.
fn graph_url(text: &str) -> Result<Url, String> {
    let url = web_url(text, GRAPH_URL)?;
    if url.scheme() == "http" && !is_nearby(&url) {
        return Err("http:// would carry the access token in the clear: use https://".to_owned());
    }
    Ok(url)
}

fn graph_version(text: &str) -> Result<String, String> {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    match text.strip_prefix('v').and_then(|version| version.split_once('.')) {
        Some((major, minor)) if is_number(major) && is_number(minor) => Ok(text.to_owned()),
        _ => Err("give a version such as \"v26.0\"".to_owned()),
    }
}

fn read_placing(mut section: Section<'_, '_>) -> PlacingLimits {
    let usual = PlacingLimits::default();
    let limits = PlacingLimits {
        per_second: section.whole("per_second", 1, 1000).unwrap_or(usual.per_second),
        per_day: section.whole("per_day", 1, 1_000_000).map_or(usual.per_day, |most| most as usize),
        live: section.whole("live", 1, 1_000_000).map_or(usual.live, |most| most as usize),
        queued: section.whole("queued", 1, 1_000_000).map_or(usual.queued, |most| most as usize),
    };
    section.end();
    limits
}

/// `None` if something is wrong, which is noted then.
fn read_app_secrets(section: &mut Section<'_, '_>, is_required: bool) -> Option<Vec<SecretString>> {
    const FORGED: &str = "without one, anybody could forge webhooks: give";
    if !section.has("app_secrets") {
        if is_required {
            section.require("app_secrets", &format!("{FORGED} [{{ env = \"WHATSAPP_APP_SECRET\" }}]"));
        }
        // Asked for all the same, so that the key is known.
        section.secrets("app_secrets");
        return (!is_required).then(Vec::new);
    }
    let secrets = section.secrets("app_secrets")?;
    if secrets.is_empty() {
        section.note("app_secrets", Some("[]".to_owned()), format!("{FORGED} at least one"));
        return None;
    }
    Some(secrets)
}

fn existing_route(name: &str, routes: &[&str]) -> Result<String, String> {
    if routes.contains(&name) {
        return Ok(name.to_owned());
    }
    Err(match nearest(name, routes.iter().copied()) {
        Some(near) => format!("there is no section [routes.{name}]; did you mean \"{near}\"?"),
        None => format!("there is no section [routes.{name}]"),
    })
}

fn note_double_numbers(section: &Section<'_, '_>, numbers: &[Option<Number>]) {
    let mut seen = BTreeSet::new();
    for (index, number) in numbers.iter().enumerate() {
        let Some(number) = number else { continue };
        if !seen.insert(&number.phone_number_id) {
            let place = format!("numbers[{index}].phone_number_id");
            section.note(&place, None, "this number stands twice: keep one of them");
        }
    }
}
