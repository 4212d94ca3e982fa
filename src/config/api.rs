//! `[api]`: who may use the control API, and for what.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::problem::nearest;
use super::queues::{Queues, no_such_queue, skill};
use super::read::Section;
use crate::agent::AgentTarget;
use crate::queue::{QueueName, Skill};
use crate::routes::Route;

/// Who may use the control API.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Api {
    /// Empty closes the API.
    pub keys: Vec<ApiKey>,
    /// Pages that need a key; the others are anybody's.
    pub closed: Vec<Page>,
}

/// What anybody may read, unless it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Page {
    /// `/metrics`
    Metrics,
    /// `/openapi.json`
    OpenApi,
}

impl Page {
    const ALL: [Self; 2] = [Self::Metrics, Self::OpenApi];

    /// As in the configuration.
    pub fn path(self) -> &'static str {
        match self {
            Self::Metrics => "/metrics",
            Self::OpenApi => "/openapi.json",
        }
    }

    /// What a key must allow for it when it is closed.
    pub fn needs(self) -> Scope {
        match self {
            Self::Metrics => Scope::MetricsRead,
            Self::OpenApi => Scope::CallsRead,
        }
    }

    fn parse(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|page| page.path() == text);
        found.ok_or_else(|| format!("give some of {}", Self::ALL.map(Self::path).join(", ")))
    }
}

/// One key, of which only the digest is known.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// Its name, in logs and in `patchcord_<id>_<secret>`.
    pub id: String,
    /// SHA-256 of the whole key. A key is 256 bits of chance, so a plain digest guards it.
    pub sha256: [u8; 32],
    /// What it allows.
    pub scopes: Vec<Scope>,
    /// Whose callers it may take, as an agent.
    pub queues: QueueScope,
    /// What its agent can do.
    pub skills: BTreeSet<Skill>,
    /// From then on it allows nothing.
    pub expires: Option<SystemTime>,
    /// So many it may go on with, and twice as many at once after a rest.
    pub requests_per_second: u32,
}

impl ApiKey {
    /// Unless the configuration says otherwise.
    pub const REQUESTS_PER_SECOND: u32 = 100;
}

/// The queues that a key may sign in to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueueScope {
    /// By name.
    pub named: BTreeSet<QueueName>,
    /// `agent:*`: all that there are.
    pub all: bool,
}

/// What an API key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// Look at calls.
    CallsRead,
    /// Place, steer and end calls.
    CallsWrite,
    /// Fetch recordings.
    RecordingsRead,
    /// Settings and keys.
    Admin,
    /// Name any host as an agent or an event's target.
    EgressAny,
    /// Read `/metrics`, where it is closed.
    MetricsRead,
    /// Take the callers of some queues ([`QueueScope`]), and steer these calls.
    Agent,
}

/// One item of a key's scopes.
enum ScopeItem {
    Scope(Scope),
    Queue(QueueName),
    AllQueues,
}

impl Scope {
    const ALL: [Self; 7] = [
        Self::CallsRead,
        Self::CallsWrite,
        Self::RecordingsRead,
        Self::Admin,
        Self::EgressAny,
        Self::MetricsRead,
        Self::Agent,
    ];

    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::CallsRead => "calls:read",
            Self::CallsWrite => "calls:write",
            Self::RecordingsRead => "recordings:read",
            Self::Admin => "admin",
            Self::EgressAny => "egress:any",
            Self::MetricsRead => "metrics:read",
            Self::Agent => "agent:QUEUE",
        }
    }

    fn parse(text: &str, queues: &Queues) -> Result<ScopeItem, String> {
        match text.strip_prefix("agent:") {
            Some("*") => return Ok(ScopeItem::AllQueues),
            Some(queue) => {
                let known = queues.get_key_value(queue);
                return known
                    .map(|(name, _)| ScopeItem::Queue(name.clone()))
                    .ok_or_else(|| no_such_queue(queue, queues));
            }
            None => {}
        }
        let names = Self::ALL.map(Self::name);
        let found = Self::ALL.into_iter().find(|scope| scope.name() == text);
        found.map(ScopeItem::Scope).ok_or_else(|| match nearest(text, names) {
            Some(near) => format!("there is no scope \"{text}\"; did you mean \"{near}\"?"),
            None => format!("there is no scope \"{text}\"; give some of {}", names.join(", ")),
        })
    }
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ApiKey").field("id", &self.id).field("scopes", &self.scopes).finish_non_exhaustive()
    }
}

impl Api {
    pub(super) fn read(mut section: Section<'_, '_>, queues: &Queues) -> Self {
        let sections = section.sections("keys");
        let mut keys: Vec<ApiKey> = Vec::new();
        for (index, key) in sections.into_iter().enumerate() {
            let Some(key) = ApiKey::read(key, queues) else { continue };
            if keys.iter().any(|known| known.id == key.id) {
                section.note(&format!("keys[{index}].id"), Some(format!("\"{}\"", key.id)), "this id stands twice");
            }
            keys.push(key);
        }
        let closed = section.list("closed", Page::parse).unwrap_or_default();
        section.end();
        Self { keys, closed }
    }

    /// Notes every person that a route names and that no key signs in, and routes whose app has no way to a token.
    pub(super) fn check_routes<'r>(&self, root: &Section<'_, '_>, routes: impl IntoIterator<Item = &'r Route>) {
        let agents = || self.keys.iter().filter(|key| key.scopes.contains(&Scope::Agent)).map(|key| key.id.as_str());
        for route in routes {
            let app = route.targets.iter().position(|target| target.app().is_some());
            if let Some(index) = app.filter(|_| self.keys.is_empty() && route.decide.is_none()) {
                let key = if index == 0 { "agent" } else { "fallback" };
                let advice = "nobody gets a token for its WebSocket: give a key in [api], or decide to the route";
                root.note(&format!("routes.{}.{key}", route.name), Some("\"app\"".to_owned()), advice);
            }
            for (index, person) in route.targets.iter().map(AgentTarget::person).enumerate() {
                let Some(person) = person.filter(|person| !agents().any(|known| known == &***person)) else { continue };
                let key = if index == 0 { "agent" } else { "fallback" };
                let advice = match nearest(person, agents()) {
                    Some(near) => {
                        format!("no key in [api] with a scope \"agent:QUEUE\" has this id; did you mean \"{near}\"?")
                    }
                    None => "no key in [api] with a scope \"agent:QUEUE\" has this id".to_owned(),
                };
                root.note(&format!("routes.{}.{key}", route.name), Some(format!("\"agent:{person}\"")), advice);
            }
        }
    }
}

impl ApiKey {
    fn read(mut section: Section<'_, '_>, known: &Queues) -> Option<Self> {
        section.require("id", "give the key a name");
        let id = section.text("id", |text| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            let is_name = is_plain && (1..=64).contains(&text.len());
            is_name.then(|| text.to_owned()).ok_or("an id has 1 to 64 letters, digits or hyphens".to_owned())
        });
        section.require("sha256", "give the SHA-256 of the whole key as 64 hexadecimal digits");
        let sha256 = section.hidden_text("sha256", |text| {
            digest(text).ok_or("give the SHA-256 of the whole key as 64 hexadecimal digits, not the key".to_owned())
        });
        section.require("scopes", "give a list, such as [\"calls:write\"]");
        let items = section.list("scopes", |text| Scope::parse(text, known));
        let skills: Option<Vec<Skill>> = section.list("skills", skill);
        let expires = section.text("expires", |text| {
            humantime::parse_rfc3339(text).map_err(|_| "give a time such as \"2027-01-31T00:00:00Z\"".to_owned())
        });
        let requests_per_second = section.whole("requests_per_second", 1, 100_000).unwrap_or(Self::REQUESTS_PER_SECOND);
        section.end();
        let (mut scopes, mut queues) = (Vec::new(), QueueScope::default());
        for item in items? {
            match item {
                ScopeItem::Scope(scope) => scopes.push(scope),
                ScopeItem::Queue(name) => drop(queues.named.insert(name)),
                ScopeItem::AllQueues => queues.all = true,
            }
        }
        if queues.all || !queues.named.is_empty() {
            scopes.push(Scope::Agent);
        }
        let skills = skills.map(BTreeSet::from_iter).unwrap_or_default();
        Some(Self { id: id?, sha256: sha256?, scopes, queues, skills, expires, requests_per_second })
    }
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (index, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(digest)
}
