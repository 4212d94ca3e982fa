//! `[routes.NAME]`: which agent a number's callers talk to, and how.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use patchcord_media::opus::{Profile, SampleRate};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::events::{app_url, signing_secret};
use super::model::Model;
use super::read::Section;
use super::trunks::read_headers;
use crate::agent::tls::AgentTlsFiles;
use crate::agent::{
    AgentTarget, AppSocketOptions, Choice, DialectName, Encoding, OfferFormat, REDIAL_FOR, SoundFormat,
    UpgradeSignature, prompt_name,
};
use crate::call::route::{AnswerWhen, BargeIn};
use crate::routes::{AgentDefaults, DecisionWebhook, Route};
use crate::twilio::Notation;

/// Nobody listens to hold music for a lost agent longer than this.
const LONGEST_REDIAL: Duration = Duration::from_secs(300);

/// `None` if something is wrong, which is noted then.
pub(super) fn read(name: &str, mut section: Section<'_, '_>) -> Option<Route> {
    section.require("agent", AgentTarget::FORMS);
    let agent = section.texts("agent", |texts| {
        let targets = texts.into_iter().map(AgentTarget::parse).collect::<Result<Vec<_>, _>>()?;
        AgentTarget::instances(targets)
    });
    let choice = section.text("agent_choice", read_choice).unwrap_or_default();
    let fallback = section.list("fallback", AgentTarget::parse).unwrap_or_default();
    if let Some((_, before_last)) = fallback.split_last()
        && before_last.iter().any(|target| !target.prompts().is_empty())
    {
        section.note("fallback", None, "nothing after a prompt is ever reached: put the prompt last");
    }
    let dialect = section.text("dialect", read_dialect).unwrap_or_default();
    let is_rate_given = section.has("sample_rate");
    let format = read_format(&mut section, dialect);
    let offer_format = section.text("offer_format", read_offer_format).unwrap_or_default();
    // A phone rings for half a minute at most, and a queue may take longer.
    let usual = match agent.as_ref().and_then(AgentTarget::queue) {
        Some(_) => AnswerWhen::AtOnce,
        None => AnswerWhen::default(),
    };
    let answer = section.text("answer", read_answer).unwrap_or(usual);
    let profile = section.text("profile", read_profile).unwrap_or(Profile::Eco);
    let ringback = section.text("ringback", prompt_name).unwrap_or_else(|| "ringback".to_owned());
    let hold = section.text("hold", prompt_name).unwrap_or_else(|| "hold".to_owned());
    let repeat = section.flag("loop").unwrap_or(false);
    let record = section.flag("record").unwrap_or(false);
    let barge_in = section.text("barge_in", read_barge_in).unwrap_or_default();
    let parameters = section.text_table("parameters").unwrap_or_default();
    let headers = section.secret_table("headers").unwrap_or_default();
    check_headers(&section, &headers);
    let sip_headers = read_headers(&mut section, "sip_headers");
    let redial_for = section.duration_or_zero("redial_for", LONGEST_REDIAL).unwrap_or(REDIAL_FOR);
    let agent_tls = read_agent_tls(&mut section);
    let fallback_url =
        section.text("twilio_fallback_url", |text| app_url(text, "https://app.example.com/fallback", "calls"));
    let public_url =
        section.text("twilio_url", |text| Url::parse(text).map_err(|error| format!("give a URL: {error}")));
    let all = || agent.iter().chain(&fallback);
    let is_app = |target: &AgentTarget| matches!(target, AgentTarget::Twiml(app) if app.notation == Notation::Twiml);
    check_twilio_url(&section, public_url.as_ref(), all().any(is_app));
    if fallback_url.is_some() && !all().any(is_app) {
        section.note("twilio_fallback_url", None, "it is for an app that answers TwiML: agent = \"twiml:https://…\"");
    }
    let signature = read_signature(&mut section, dialect, public_url.clone());
    let decide = read_decide(&mut section);
    let is_model_given = section.has("model");
    let model = Model::read(is_model_given, section.section("model"));
    let agents = AgentDefaults { dialect, format, profile, repeat, offer_format };
    let has_agent = agent.is_some();
    let mut targets: Vec<_> = agent.into_iter().chain(fallback).collect();
    for target in &mut targets {
        apply(target, agents, &parameters, &headers);
        match target {
            AgentTarget::WebSocket(agent) => {
                agent.signature.clone_from(&signature);
                (agent.redial_for, agent.choice) = (redial_for, choice);
            }
            AgentTarget::Model(model) => model.redial_for = redial_for,
            AgentTarget::Trunk(number) => number.headers.clone_from(&sip_headers),
            AgentTarget::Twiml(app) => {
                app.redial_for = redial_for;
                if app.notation == Notation::Twiml {
                    app.fallback.clone_from(&fallback_url);
                    public_url.iter().for_each(|url| app.set_public(url.clone()));
                }
            }
            AgentTarget::AudioSocket(agent) => {
                // Most servers know nothing but the protocol's own 8 kHz.
                agent.sample_rate = if is_rate_given { format.sample_rate } else { agent.sample_rate };
                if format.encoding == Encoding::Opus {
                    section.note(
                        "encoding",
                        Some("\"opus\"".to_owned()),
                        "AudioSocket carries PCM: leave encoding out",
                    );
                }
            }
            AgentTarget::App(_)
            | AgentTarget::Browser(_)
            | AgentTarget::Offer(_)
            | AgentTarget::Sip(_)
            | AgentTarget::SipUser(_)
            | AgentTarget::CallingPhone(_)
            | AgentTarget::Queue(_)
            | AgentTarget::Person(_)
            | AgentTarget::Prompts { .. } => {}
        }
    }
    model.apply(&section, &mut targets);
    section.end();
    if !has_agent {
        return None;
    }
    Some(Route {
        name: name.to_owned(),
        targets,
        agents,
        agent_tls,
        answer,
        ringback,
        hold,
        record,
        barge_in,
        decide: decide?.map(Arc::new),
    })
}

fn apply(
    target: &mut AgentTarget,
    agents: AgentDefaults,
    parameters: &BTreeMap<String, String>,
    headers: &BTreeMap<String, SecretString>,
) {
    match target {
        AgentTarget::WebSocket(agent) => {
            agent.dialect = agents.dialect;
            agent.format = agents.format;
            agent.profile = agents.profile;
            agent.headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            agent.parameters.clone_from(parameters);
        }
        AgentTarget::Offer(agent) => {
            agent.format = agents.offer_format;
            agent.headers = headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
            agent.parameters.clone_from(parameters);
        }
        AgentTarget::Model(model) => model.parameters.clone_from(parameters),
        AgentTarget::App(app) => {
            *app = AppSocketOptions { parameters: parameters.clone(), ..AppSocketOptions::of(&agents) };
        }
        AgentTarget::AudioSocket(agent) => agent.profile = agents.profile,
        AgentTarget::Twiml(app) => app.parameters.clone_from(parameters),
        AgentTarget::Browser(_)
        | AgentTarget::Sip(_)
        | AgentTarget::SipUser(_)
        | AgentTarget::Trunk(_)
        | AgentTarget::CallingPhone(_)
        | AgentTarget::Queue(_)
        | AgentTarget::Person(_) => {}
        AgentTarget::Prompts { repeat, .. } => *repeat = agents.repeat,
    }
}

/// `None` if something is wrong, which is noted then.
#[expect(clippy::option_option, reason = "the outer one says whether it could be read")]
fn read_decide(section: &mut Section<'_, '_>) -> Option<Option<DecisionWebhook>> {
    /// The caller waits, and Meta gives up after 30 to 60 s.
    const MOST: Duration = Duration::from_secs(3);
    let is_given = section.has("decide");
    if is_given {
        section.require("decide_secret", "it signs what is asked: give { env = \"DECIDE_SECRET\" }");
    } else if section.has("decide_secret") || section.has("decide_timeout") {
        section.require("decide", "nothing is asked without an address: give \"https://app.example.com/calls\"");
    }
    let url = section.text("decide", |text| app_url(text, "https://app.example.com/calls", "calls"));
    let secret = section.secret("decide_secret");
    let timeout = section.duration("decide_timeout", MOST).unwrap_or(MOST);
    if !is_given {
        return Some(None);
    }
    let secret = signing_secret(section, "decide_secret", &secret?)?;
    Some(Some(DecisionWebhook { url: url?, secret, timeout }))
}

fn read_dialect(text: &str) -> Result<DialectName, String> {
    let names = || DialectName::ALL.iter().map(|dialect| format!("\"{}\"", dialect.name())).collect::<Vec<_>>();
    DialectName::of_name(text).ok_or_else(|| format!("give one of {}", names().join(", ")))
}

/// An app that answers TwiML has a public voice URL, and a bot on a WebSocket the address of that.
fn check_twilio_url(section: &Section<'_, '_>, url: Option<&Url>, has_app: bool) {
    let Some(url) = url else { return };
    let (schemes, example) = match has_app {
        true => (["http", "https"], "https://bot.example.com/voice"),
        false => (["ws", "wss"], "wss://bot.example.com/media"),
    };
    if !schemes.contains(&url.scheme()) || url.host().is_none() {
        let advice = format!("give the app's public address, such as \"{example}\"");
        section.note("twilio_url", Some(format!("\"{url}\"")), advice);
    }
}

/// How upgrade requests to the route's agents are signed.
fn read_signature(section: &mut Section<'_, '_>, dialect: DialectName, url: Option<Url>) -> Option<UpgradeSignature> {
    let url = url.filter(|url| matches!(url.scheme(), "ws" | "wss"));
    if url.is_some() {
        section
            .require("twilio_auth_token", "the address is part of its signature: give { env = \"TWILIO_AUTH_TOKEN\" }");
    }
    let secret = section.secret("agent_secret").and_then(|secret| signing_secret(section, "agent_secret", &secret));
    let auth_token = section.secret("twilio_auth_token");
    if dialect != DialectName::Twilio && (auth_token.is_some() || url.is_some()) {
        section.note("twilio_auth_token", None, "it is for dialect = \"twilio\"; agent_secret signs for every dialect");
    }
    match (secret, auth_token) {
        (Some(_), Some(_)) => {
            section.note("agent_secret", None, "Twilio's apps check twilio_auth_token: leave one of the two out");
            None
        }
        (Some(secret), None) => Some(UpgradeSignature::Webhooks(secret)),
        (None, Some(auth_token)) => Some(UpgradeSignature::Twilio { auth_token, url }),
        (None, None) => None,
    }
}

/// The files are opened later: a running service reads them again with the configuration.
fn read_agent_tls(section: &mut Section<'_, '_>) -> Option<AgentTlsFiles> {
    let is_given = section.has("agent_tls");
    let mut files = section.section("agent_tls");
    match (files.has("cert"), files.has("key")) {
        (true, false) => files.require("key", "a certificate proves nothing without its key: give \"client.key\""),
        (false, true) => files.require("cert", "a key is of no use without its certificate: give \"client.pem\""),
        (true, true) | (false, false) => {}
    }
    let mut path = |key| files.text(key, |text| Ok(PathBuf::from(text)));
    let (cert, key, ca) = (path("cert"), path("key"), path("ca"));
    files.end();
    is_given.then(|| AgentTlsFiles { identity: cert.zip(key), ca })
}

fn read_choice(text: &str) -> Result<Choice, String> {
    Choice::of_name(text).ok_or_else(|| "give \"first\" or \"least_busy\"".to_owned())
}

fn read_offer_format(text: &str) -> Result<OfferFormat, String> {
    OfferFormat::of_name(text).ok_or_else(|| "give \"json\", \"sdp\" or \"form\"".to_owned())
}

fn read_format(section: &mut Section<'_, '_>, dialect: DialectName) -> SoundFormat {
    let encoding = section
        .text("encoding", |text| Encoding::of_name(text).ok_or_else(|| "give \"pcm_s16le\" or \"opus\"".to_owned()));
    let encoding = encoding.unwrap_or(Encoding::PcmS16le);
    let usual = match encoding {
        Encoding::PcmS16le => dialect.usual_sample_rate(),
        Encoding::Opus => SampleRate::Hz48000,
    };
    let Some(hz) = section.whole("sample_rate", 1, 1_000_000) else {
        return SoundFormat { encoding, sample_rate: usual };
    };
    match (SampleRate::from_hz(hz), encoding) {
        (None, _) => section.note("sample_rate", Some(hz.to_string()), "give 8000, 16000, 24000 or 48000"),
        // RFC 7587, section 4.1: the clock of Opus always runs at 48 kHz.
        (Some(rate), Encoding::Opus) if rate != SampleRate::Hz48000 => {
            section.note("sample_rate", Some(hz.to_string()), "Opus always counts at 48000: leave sample_rate out");
        }
        (Some(_), Encoding::PcmS16le | Encoding::Opus) => {}
    }
    SoundFormat { encoding, sample_rate: SampleRate::from_hz(hz).unwrap_or(usual) }
}

fn read_answer(text: &str) -> Result<AnswerWhen, String> {
    let advice = "give \"when_agent_ready\", \"at_once\" or \"on_command\"";
    AnswerWhen::of_name(text).ok_or_else(|| advice.to_owned())
}

fn read_barge_in(text: &str) -> Result<BargeIn, String> {
    BargeIn::of_name(text).ok_or_else(|| "give \"off\", \"events\" or \"clear\"".to_owned())
}

fn read_profile(text: &str) -> Result<Profile, String> {
    match text {
        "eco" => Ok(Profile::Eco),
        "hq" => Ok(Profile::Hq),
        _ => Err("give \"eco\" or \"hq\"".to_owned()),
    }
}

/// Names and values must fit into a request (RFC 9110, section 5), and leave the handshake alone.
fn check_headers(section: &Section<'_, '_>, headers: &BTreeMap<String, SecretString>) {
    const OURS: [&str; 5] = ["connection", "content-length", "host", "transfer-encoding", "upgrade"];
    for (name, value) in headers {
        let lower = name.to_lowercase();
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
        let is_value = value.expose_secret().bytes().all(|byte| (0x20..0x7f).contains(&byte) || byte == b'\t');
        let place = format!("headers.{name}");
        if name.is_empty() || !is_name {
            section.note(&place, None, "a header's name has letters, digits and hyphens");
        } else if OURS.contains(&lower.as_str()) || lower.starts_with("sec-websocket-") {
            section.note(&place, None, "this header belongs to the connection itself; leave it out");
        } else if !is_value {
            section.note(&place, None, "a header's value is printable ASCII");
        }
    }
}
