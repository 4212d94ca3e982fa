//! `[events]`: the app's event webhooks, and how long a delivery is retried.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::read::Section;
use crate::address::is_nearby;
use crate::events::{Format, SigningSecret, Webhook};
use crate::store::{FORWARD, Kinds};

/// Where events go.
#[derive(Debug, Clone)]
pub struct Events {
    /// Each gets what it asks for; no name twice.
    pub webhooks: Vec<Webhook>,
    /// An event that fails for so long becomes a dead letter.
    pub give_up_after: Duration,
}

/// The name of the endpoint that [`WhatsApp::forward_url`](super::WhatsApp::forward_url) makes.
pub const FORWARD_ENDPOINT: &str = "whatsapp.forward_url";
/// The name of the endpoint that `twilio.status_callback` makes.
pub const TWILIO_ENDPOINT: &str = "twilio.status_callback";
/// The name of the endpoint that stands for the status callbacks of single calls.
pub const TWILIO_CALLS_ENDPOINT: &str = "twilio.status_callbacks_of_calls";

impl Events {
    pub(super) fn read(mut section: Section<'_, '_>) -> Option<Self> {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let give_up_after = section.duration("give_up_after", 30 * DAY).unwrap_or(DAY);
        let read: Vec<Option<Webhook>> = section.sections("webhooks").into_iter().map(read_webhook).collect();
        for (index, webhook) in read.iter().enumerate() {
            let Some(webhook) = webhook else { continue };
            if read[..index].iter().flatten().any(|other| other.name == webhook.name) {
                let advice = "this webhook stands twice: give each a name of its own";
                section.note(&format!("webhooks[{index}].name"), None, advice);
            }
        }
        section.end();
        Some(Self { webhooks: read.into_iter().collect::<Option<_>>()?, give_up_after })
    }
}

/// `None` if something is wrong, which is noted then.
fn read_webhook(mut section: Section<'_, '_>) -> Option<Webhook> {
    section.require("url", "give an address such as \"https://app.example.com/events\"");
    let url = section.text("url", webhook_url);
    let name = section.text("name", |text| match text.chars().count() {
        _ if [FORWARD_ENDPOINT, TWILIO_ENDPOINT, TWILIO_CALLS_ENDPOINT].contains(&text) => {
            Err("this name is taken: give another".to_owned())
        }
        1..=64 => Ok(text.to_owned()),
        _ => Err("a name has 1 to 64 letters".to_owned()),
    });
    section.require("secret", "it signs what is sent: give { env = \"EVENTS_SECRET\" }");
    let secret = section.secret("secret");
    let old_secrets = section.secrets("old_secrets").unwrap_or_default();
    let kinds = section.list("events", event_kind).map_or(Kinds::Events, Kinds::Only);
    let secret = signing_secret(&section, "secret", &secret?);
    let old_secrets: Vec<Option<SigningSecret>> =
        old_secrets.iter().map(|secret| signing_secret(&section, "old_secrets", secret)).collect();
    section.end();
    let secrets = std::iter::once(secret).chain(old_secrets).collect::<Option<_>>()?;
    let url = url?;
    Some(Webhook { name: name.unwrap_or_else(|| name_of(&url)), url, secrets, kinds, format: Format::Events })
}

pub(super) fn signing_secret(section: &Section<'_, '_>, key: &str, secret: &SecretString) -> Option<SigningSecret> {
    let parsed = SigningSecret::parse(secret.expose_secret());
    parsed.map_err(|error| section.note(key, None, error.to_string())).ok()
}

/// Without the query, which may hold a key and would stand in logs.
fn name_of(url: &Url) -> String {
    let mut named = url.clone();
    named.set_query(None);
    named.into()
}

fn webhook_url(text: &str) -> Result<Url, String> {
    app_url(text, "https://app.example.com/events", "events")
}

/// Where `what` is posted to: a request that is signed, over HTTPS unless it stays nearby.
pub(super) fn app_url(text: &str, example: &str, what: &str) -> Result<Url, String> {
    let example = format!("give an address such as \"{example}\"");
    let url = Url::parse(text).map_err(|_| example.clone())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() || url.fragment().is_some() {
        return Err(example);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(format!("a password in an address ends in logs: {what} are signed instead"));
    }
    if url.scheme() == "http" && !is_nearby(&url) {
        return Err(format!("http:// would carry {what} in the clear through the internet: use https://"));
    }
    Ok(url)
}

fn event_kind(text: &str) -> Result<String, String> {
    let stem = text.strip_suffix(".*").unwrap_or(text);
    let is_word = |word: &str| !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    let is_kind = stem.split('.').all(is_word) && (text.contains('.') || text == FORWARD);
    match is_kind || text == "*" {
        true => Ok(text.to_owned()),
        false => Err("give kinds such as \"call.ended\" or \"call.*\"".to_owned()),
    }
}
