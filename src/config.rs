//! The configuration: one TOML file and the environment, read once at the start.
//!
//! Everything that is wrong is reported together, one line for each problem. The structs here are plain; each
//! module converts them into its own options.

pub mod api;
mod calls;
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
mod whatsapp;

pub use calls::Calls;
pub use environment::Environment;
pub use problem::{ConfigErrors, Problem};
pub use whatsapp::{Number, WhatsApp};

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Table;
use url::Url;

use crate::egress::Allowed;
use crate::routes::Route;
use crate::twilio::Account;
use crate::whatsapp::PhoneNumberId;
use api::Api;
use events::Events;
use http::Http;
use media::Media;
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

fn is_route_name(name: &str) -> bool {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    (1..=64).contains(&name.len()) && is_plain
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
