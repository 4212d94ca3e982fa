//! The configuration: one TOML file and the environment, read once at the start.
//!
//! Everything that is wrong is reported together, one line for each problem. The structs here are plain; each
//! module converts them into its own options.

pub mod api;
mod environment;
pub mod events;
pub mod http;
pub mod media;
mod problem;
pub mod queues;
mod read;
pub mod recordings;
pub mod restart;
mod route;
mod model;
mod tools;
pub mod sip;
pub mod trunks;
pub mod store;
mod twilio;

pub use environment::Environment;
pub use problem::{ConfigErrors, Problem};

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use toml::Table;
use url::Url;

use crate::address::is_nearby;
use crate::egress::Allowed;
use crate::permissions::Country;
use crate::routes::{PlacingLimits, Route};
use crate::twilio::Account;
use crate::whatsapp::PhoneNumberId;
use api::Api;
use events::Events;
use http::Http;
use media::Media;
use problem::nearest;
use queues::Queues;
use read::{Notes, Section};
use recordings::Recordings;
use sip::Sip;
use store::Store;

/// The whole configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[http]`
    pub http: Http,
    /// `[media]`
    pub media: Media,
    /// `[whatsapp]`
    pub whatsapp: WhatsApp,
    /// `[routes.NAME]`
    pub routes: BTreeMap<String, Arc<Route>>,
    /// `[queues.NAME]`
    pub queues: Queues,
    /// `[calls]`
    pub calls: Calls,
    /// `[sip]`; None without `listen`: there is no SIP.
    pub sip: Option<Sip>,
    /// `[prompts]`
    pub prompts: Prompts,
    /// `[recordings]`
    pub recordings: Recordings,
    /// `[api]`
    pub api: Api,
    /// `[egress]`
    pub egress: Egress,
    /// `[twilio]`; None without it.
    pub twilio: Option<Arc<Account>>,
    /// `[store]`
    pub store: Store,
    /// `[events]`
    pub events: Events,
    /// `[log]`
    pub log: Log,
}

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
    /// A name in [`Config::routes`].
    pub route: String,
    /// Shown to agents and in logs.
    pub display_name: Option<String>,
}

/// How long things may take, and how many calls there may be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calls {
    /// From Meta's webhook to our accept. Meta gives up after 30 to 60 s.
    pub accept_timeout: Duration,
    /// From our answer to a path for sound. As long as [`accept_timeout`](Self::accept_timeout) unless configured.
    pub media_timeout: Duration,
    /// For one agent to join.
    pub agent_timeout: Duration,
    /// How long nothing may come from an agent, not even an answer to a ping.
    pub agent_idle_timeout: Duration,
    /// For a whole call.
    pub max_duration: Duration,
    /// Of silence from the caller's side, or of unanswered connectivity checks, before a warning.
    pub media_lost_warn: Duration,
    /// Of unanswered connectivity checks before the call ends: the caller is gone.
    pub media_lost_end: Duration,
    /// Without RTP and RTCP before the call ends although the checks are answered.
    pub media_silent_end: Duration,
    /// For live calls to end after SIGTERM.
    pub drain_timeout: Duration,
    /// For one Graph request with its retries.
    pub graph_budget: Duration,
    /// Live calls at once; more are rejected.
    pub max_calls: usize,
}

/// Where the user's own prompts are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prompts {
    /// A folder; missing means only the built-in ones.
    pub dir: PathBuf,
}

/// Where API callers and decisions may lead us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Egress {
    /// Hosts and ranges of addresses; nothing else may be named.
    pub allow: Vec<Allowed>,
}

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// For eyes or for machines.
    pub format: LogFormat,
    /// Directives such as `info,patchcord::call=debug`.
    pub filter: String,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For eyes.
    Text,
    /// One object a line.
    Json,
}

impl Config {
    /// Reads the file and what the environment sets. Relative paths in it are relative to the working directory.
    pub fn load(path: &Path, environment: &Environment) -> Result<Self, ConfigErrors> {
        let file_name = path.display().to_string();
        match std::fs::read_to_string(path) {
            Ok(text) => Self::parse(&text, &file_name, environment),
            Err(error) => {
                let advice = format!("the configuration cannot be read: {error}");
                let problem = Problem { source: file_name, place: "file".to_owned(), value: None, advice };
                Err(ConfigErrors::new(vec![problem]))
            }
        }
    }

    /// Reads a configuration's text. Messages name `file_name`. Opens no file but those of `{ file = "…" }` secrets.
    pub fn parse(text: &str, file_name: &str, environment: &Environment) -> Result<Self, ConfigErrors> {
        read(text, file_name, environment).0
    }
}

/// The configuration, and every key that it asked for.
fn read(text: &str, file_name: &str, environment: &Environment) -> (Result<Config, ConfigErrors>, BTreeSet<String>) {
    let mut table = match text.parse::<Table>() {
        Ok(table) => table,
        Err(error) => return (Err(syntax_error(text, file_name, &error)), BTreeSet::new()),
    };
    let (written_by, problems) = environment.apply(&mut table);
    let notes =
        RefCell::new(Notes { file: file_name.to_owned(), environment, written_by, problems, known: BTreeSet::new() });
    let config = read_root(Section::root(table, &notes));
    let mut notes = notes.into_inner();
    note_single_underscores(&mut notes);
    let config = match config {
        Some(config) if notes.problems.is_empty() => Ok(config),
        _ => Err(ConfigErrors::new(notes.problems)),
    };
    (config, notes.known)
}

fn read_root(mut root: Section<'_, '_>) -> Option<Config> {
    let http = Http::read(root.section("http"));
    let media = Media::read(root.section("media"));
    let sections = root.named_sections("routes").into_iter();
    let routes: Vec<(String, Option<Route>)> = sections
        .map(|(name, section)| {
            let route = route::read(&name, section);
            (name, route)
        })
        .collect();
    let route_names: Vec<&str> = routes.iter().map(|(name, _)| name.as_str()).collect();
    for name in route_names.iter().filter(|name| !is_route_name(name)) {
        root.note(&format!("routes.{name}"), None, "a route's name has 1 to 64 letters, digits, '_' or '-'");
    }
    model::check_routes(&root, routes.iter().filter_map(|(_, route)| route.as_ref()), &route_names);
    // An app that signals its calls itself needs nothing but a key.
    let is_signaled_by_apps = !root.has("whatsapp") && root.has("api");
    let whatsapp = match (is_signaled_by_apps, root.section("whatsapp")) {
        (true, section) => WhatsApp::without(section),
        (false, section) => WhatsApp::read(section, &route_names),
    };
    let calls = Calls::read(root.section("calls"));
    let prompts = Prompts { dir: read_path(root.section("prompts"), "dir", "media/prompts") };
    let recordings = Recordings::read(root.section("recordings"));
    let queues = queues::read_all(&mut root);
    queues::check_routes(&root, routes.iter().filter_map(|(_, route)| route.as_ref()), &queues);
    let sip_section = root.section("sip");
    let has_sip = sip_section.has("listen") || sip_section.has("websocket");
    let numbers = whatsapp.iter().flat_map(|whatsapp| &whatsapp.numbers);
    let numbers: Vec<PhoneNumberId> = numbers.map(|number| number.phone_number_id.clone()).collect();
    let sip = Sip::read(sip_section, &numbers);
    sip::check_routes(&root, routes.iter().filter_map(|(_, route)| route.as_ref()), sip.as_ref(), has_sip);
    queues::check_sip_users(&root, &queues, sip.as_ref());
    let api = Api::read(root.section("api"), &queues);
    api.check_routes(&root, routes.iter().filter_map(|(_, route)| route.as_ref()));
    // Its earlier name is still read.
    let is_earlier = root.has("outbound") && !root.has("egress");
    let egress = Egress::read(root.section(if is_earlier { "outbound" } else { "egress" }));
    let has_twilio = root.has("twilio");
    let twilio = twilio::read(has_twilio, root.section("twilio")).map(Arc::new);
    twilio::check_routes(&root, routes.iter().filter_map(|(_, route)| route.as_ref()), has_twilio);
    let store = Store::read(root.section("store"));
    let events = Events::read(root.section("events"));
    let log = Log::read(root.section("log"));
    root.end();
    let routes = routes.into_iter().map(|(name, route)| Some((name, Arc::new(route?)))).collect::<Option<_>>()?;
    Some(Config {
        http,
        media,
        whatsapp: whatsapp?,
        routes,
        queues,
        calls,
        sip,
        prompts,
        recordings,
        api,
        egress,
        twilio,
        store,
        events: events?,
        log,
    })
}

impl WhatsApp {
    /// Without the section no webhook is believed, as no secret signs any.
    fn without(section: Section<'_, '_>) -> Option<Self> {
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

    fn read(mut section: Section<'_, '_>, routes: &[&str]) -> Option<Self> {
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

impl Calls {
    fn read(mut section: Section<'_, '_>) -> Self {
        const SECOND: Duration = Duration::from_secs(1);
        const MINUTE: Duration = Duration::from_secs(60);
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let mut time = |key, most, usual| section.duration(key, most).unwrap_or(usual);
        // Meta ends an unanswered call after 30 to 60 s.
        let accept_timeout = time("accept_timeout", MINUTE, 30 * SECOND);
        let calls = Self {
            accept_timeout,
            // A phone's side may answer our checks late; while Meta waits, so do we.
            media_timeout: time("media_timeout", MINUTE, accept_timeout),
            agent_timeout: time("agent_timeout", MINUTE, 8 * SECOND),
            agent_idle_timeout: time("agent_idle_timeout", DAY, 20 * SECOND),
            max_duration: time("max_duration", 7 * DAY, 4 * 60 * MINUTE),
            media_lost_warn: time("media_lost_warn", DAY, 5 * SECOND),
            media_lost_end: time("media_lost_end", DAY, 30 * SECOND),
            media_silent_end: time("media_silent_end", DAY, 2 * MINUTE),
            drain_timeout: time("drain_timeout", DAY, 30 * SECOND),
            graph_budget: time("graph_budget", MINUTE, 8 * SECOND),
            max_calls: section.whole("max_calls", 1, 1_000_000).unwrap_or(1000) as usize,
        };
        for (end, after) in [("media_lost_end", calls.media_lost_end), ("media_silent_end", calls.media_silent_end)] {
            if calls.media_lost_warn >= after {
                let shown = format!("\"{}\"", humantime::format_duration(calls.media_lost_warn));
                section.note("media_lost_warn", Some(shown), format!("the warning must come before {end}"));
            }
        }
        section.end();
        calls
    }
}

impl Egress {
    fn read(mut section: Section<'_, '_>) -> Self {
        let allow = section.list("allow", Allowed::parse).unwrap_or_default();
        section.end();
        Self { allow }
    }
}

impl Log {
    fn read(mut section: Section<'_, '_>) -> Self {
        let format = section.text("format", |text| match text {
            "text" => Ok(LogFormat::Text),
            "json" => Ok(LogFormat::Json),
            _ => Err("give \"text\" or \"json\"".to_owned()),
        });
        let filter = section.text("filter", |text| {
            let check = text.parse::<tracing_subscriber::filter::Targets>();
            check
                .map(|_| text.to_owned())
                .map_err(|_| "give levels, such as \"info\" or \"info,patchcord::call=debug\"".to_owned())
        });
        section.end();
        Self { format: format.unwrap_or(LogFormat::Text), filter: filter.unwrap_or_else(|| "info".to_owned()) }
    }
}

const GRAPH_URL: &str = "https://graph.facebook.com";
const GRAPH_VERSION: &str = "v26.0";

/// The access token travels there, so clear text is for this machine and private networks only.
fn graph_url(text: &str) -> Result<Url, String> {
    let url = web_url(text, GRAPH_URL)?;
    if url.scheme() == "http" && !is_nearby(&url) {
        return Err("http:// would carry the access token in the clear: use https://".to_owned());
    }
    Ok(url)
}

fn web_url(text: &str, example: &str) -> Result<Url, String> {
    let wrong = || format!("give an address such as \"{example}\"");
    let url = Url::parse(text).map_err(|_| wrong())?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if is_plain { Ok(url) } else { Err(wrong()) }
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

fn is_route_name(name: &str) -> bool {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    (1..=64).contains(&name.len()) && is_plain
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

fn read_path(mut section: Section<'_, '_>, key: &'static str, usual: &str) -> PathBuf {
    let path = section.text(key, |text| match text {
        "" => Err("give a path".to_owned()),
        text => Ok(PathBuf::from(text)),
    });
    section.end();
    path.unwrap_or_else(|| PathBuf::from(usual))
}

/// Only the place and the parser's words: the text around it may hold a secret.
fn syntax_error(text: &str, file_name: &str, error: &toml::de::Error) -> ConfigErrors {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let advice = error.message().replace('\n', ", ");
    let place = format!("line {line}");
    ConfigErrors::new(vec![Problem { source: file_name.to_owned(), place, value: None, advice }])
}

/// `PATCHCORD_HTTP_LISTEN` is most likely meant to set `http.listen`. Other names with our prefix are left
/// alone: orchestrators set some for a service of our name.
fn note_single_underscores(notes: &mut Notes<'_>) {
    for name in notes.environment.single_underscored() {
        let flat = name.to_lowercase();
        let meant = notes.known.iter().find(|known| known.contains('.') && known.replace('.', "_") == flat);
        if let Some(meant) = meant {
            let right = meant.replace('.', "__").to_uppercase();
            let advice = format!("a section and its key are two underscores apart: write PATCHCORD_{right}");
            notes.problems.push(environment::problem(&format!("PATCHCORD_{name}"), advice));
        }
    }
}

#[cfg(test)]
mod tests;
