//! `[routes.NAME]`: which agent a number's callers talk to, and in what form their sound travels.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use url::{Host, Url};

use super::events::{app_url, signing_secret};
use super::read::Section;
use crate::address::is_public;
use crate::agent::DialectName;
use crate::routes::DecisionWebhook;

/// How one route's calls reach an agent.
#[derive(Debug, Clone)]
pub struct Route {
    /// Tried first.
    pub agent: AgentTarget,
    /// Tried in this order when the agent refuses or is lost; empty means to hang up.
    pub fallback: Vec<AgentTarget>,
    /// What the agent's WebSocket speaks.
    pub dialect: DialectName,
    /// Hz towards and from the agent: 8000, 16000, 24000 or 48000; always 48000 for Opus.
    pub sample_rate: u32,
    /// The form of the sound towards and from the agent.
    pub encoding: Encoding,
    /// When the call is accepted.
    pub answer: Answer,
    /// The prompt a caller hears until the first agent joins, where the call is accepted at once.
    pub ringback: String,
    /// The prompt a caller hears while another agent is found.
    pub hold: String,
    /// Whether the prompts of this route begin again when they have ended.
    pub repeat: bool,
    /// Whether its calls are recorded from accept on.
    pub record: bool,
    /// Asked what becomes of each call.
    pub decide: Option<DecisionWebhook>,
    /// What the caller's speech brings about by itself.
    pub barge_in: BargeIn,
    /// How our sound is encoded for the caller.
    pub profile: Profile,
    /// Handed to the agent in `start`.
    pub parameters: BTreeMap<String, String>,
    /// Sent with the WebSocket's request, such as `Authorization`.
    pub headers: BTreeMap<String, SecretString>,
}

/// Where a call can be put through to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentTarget {
    /// A voice bot behind `ws://` or `wss://`.
    WebSocket(Url),
    /// Prompts by name, in their order; then we hang up.
    Prompts(Vec<String>),
}

/// The form of the sound on an agent's WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// 16-bit little-endian samples, one channel.
    PcmS16le,
    /// One Opus packet in each message.
    Opus,
}

/// When a call is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Once sound can flow and the agent is there; the caller hears the phone's own ringing until then.
    WhenAgentReady,
    /// Once sound can flow; the caller hears our ringback until the agent is there.
    AtOnce,
    /// When the application says so; the caller hears the phone's own ringing until then.
    OnCommand,
}

/// What the caller's speech brings about by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BargeIn {
    /// Nothing.
    Off,
    /// Events.
    Events,
    /// Events, and the agent's queue is cleared.
    Clear,
}

/// What the encoder is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Little processor time, 40 kbit/s.
    Eco,
    /// The best sound, 32 kbit/s.
    Hq,
}

impl Route {
    /// `None` if something is wrong, which is noted then.
    pub(super) fn read(mut section: Section<'_, '_>) -> Option<Self> {
        section.require("agent", TARGET_FORMS);
        let agent = section.text("agent", AgentTarget::parse);
        let fallback = section.list("fallback", AgentTarget::parse).unwrap_or_default();
        if let Some((_, before_last)) = fallback.split_last()
            && before_last.iter().any(|target| matches!(target, AgentTarget::Prompts(_)))
        {
            section.note("fallback", None, "nothing after a prompt is ever reached: put the prompt last");
        }
        let dialect = section.text("dialect", read_dialect).unwrap_or_default();
        let encoding = section.text("encoding", read_encoding).unwrap_or(Encoding::PcmS16le);
        let sample_rate = read_sample_rate(&mut section, encoding);
        let answer = section.text("answer", read_answer).unwrap_or(Answer::WhenAgentReady);
        let profile = section.text("profile", read_profile).unwrap_or(Profile::Eco);
        let ringback = section.text("ringback", prompt_name).unwrap_or_else(|| "ringback".to_owned());
        let hold = section.text("hold", prompt_name).unwrap_or_else(|| "hold".to_owned());
        let repeat = section.flag("loop").unwrap_or(false);
        let record = section.flag("record").unwrap_or(false);
        let barge_in = section.text("barge_in", read_barge_in).unwrap_or(BargeIn::Off);
        let parameters = section.text_table("parameters").unwrap_or_default();
        let headers = section.secret_table("headers").unwrap_or_default();
        check_headers(&section, &headers);
        let decide = read_decide(&mut section);
        section.end();
        Some(Self {
            agent: agent?,
            fallback,
            dialect,
            sample_rate,
            encoding,
            answer,
            ringback,
            hold,
            repeat,
            record,
            decide: decide?,
            barge_in,
            profile,
            parameters,
            headers,
        })
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

const TARGET_FORMS: &str = "give ws://, wss:// or prompt:NAME";

impl AgentTarget {
    /// Takes `ws://…`, `wss://…`, `prompt:NAME` or `prompt:NAME,NAME`; an error says what would be right.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once(':').ok_or(TARGET_FORMS)?;
        match scheme {
            "ws" | "wss" => websocket_url(text).map(Self::WebSocket),
            "prompt" => {
                rest.split(',').map(|name| prompt_name(name.trim())).collect::<Result<_, _>>().map(Self::Prompts)
            }
            "audiosocket" | "sip" | "sips" | "browser" => {
                Err(format!("{scheme}: is not built yet; use ws://, wss:// or prompt:NAME"))
            }
            _ => Err(TARGET_FORMS.to_owned()),
        }
    }
}

fn websocket_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("this is no address: {error}"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a password in an address ends in logs: put it into headers.Authorization".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a WebSocket's address has no part after #".to_owned());
    }
    if url.scheme() == "ws" && !is_nearby(&url) {
        return Err("ws:// would carry the call's sound in the clear through the internet: use wss://".to_owned());
    }
    Ok(url)
}

/// Whether an address leads to this machine or a private network: an address of one, or a name that only
/// such a network knows (RFC 6761, RFC 6762, RFC 8375, and names without a dot).
pub(super) fn is_nearby(url: &Url) -> bool {
    match url.host() {
        None => false,
        Some(Host::Ipv4(address)) => !is_public(IpAddr::V4(address)),
        Some(Host::Ipv6(address)) => !is_public(IpAddr::V6(address)),
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            let last = name.rsplit('.').next().unwrap_or(name);
            !name.contains('.')
                || ["localhost", "local", "internal", "lan", "test"].contains(&last)
                || name.ends_with(".home.arpa")
                || name.ends_with(".svc")
        }
    }
}

fn prompt_name(name: &str) -> Result<String, String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if name.is_empty() || name.len() > 128 || name.starts_with('.') || !is_plain {
        return Err("a prompt's name is 1 to 128 letters, digits, '.', '_' or '-', and starts with no '.'".to_owned());
    }
    Ok(name.to_owned())
}

fn read_dialect(text: &str) -> Result<DialectName, String> {
    DialectName::of_name(text).ok_or_else(|| "this dialect is not built yet; use \"native\"".to_owned())
}

fn read_encoding(text: &str) -> Result<Encoding, String> {
    match text {
        "pcm_s16le" => Ok(Encoding::PcmS16le),
        "opus" => Ok(Encoding::Opus),
        _ => Err("give \"pcm_s16le\" or \"opus\"".to_owned()),
    }
}

fn read_sample_rate(section: &mut Section<'_, '_>, encoding: Encoding) -> u32 {
    const RATES: [u32; 4] = [8000, 16000, 24000, 48000];
    let usual = match encoding {
        Encoding::PcmS16le => 16000,
        Encoding::Opus => 48000,
    };
    let rate = section.whole("sample_rate", 1, 1_000_000).unwrap_or(usual);
    if !RATES.contains(&rate) {
        section.note("sample_rate", Some(rate.to_string()), "give 8000, 16000, 24000 or 48000");
    } else if encoding == Encoding::Opus && rate != 48000 {
        // RFC 7587, section 4.1: the clock of Opus always runs at 48 kHz.
        section.note("sample_rate", Some(rate.to_string()), "Opus always counts at 48000: leave sample_rate out");
    }
    rate
}

fn read_answer(text: &str) -> Result<Answer, String> {
    match text {
        "when_agent_ready" => Ok(Answer::WhenAgentReady),
        "at_once" => Ok(Answer::AtOnce),
        "on_command" => Ok(Answer::OnCommand),
        _ => Err("give \"when_agent_ready\", \"at_once\" or \"on_command\"".to_owned()),
    }
}

fn read_barge_in(text: &str) -> Result<BargeIn, String> {
    match text {
        "off" => Ok(BargeIn::Off),
        "events" => Ok(BargeIn::Events),
        "clear" => Ok(BargeIn::Clear),
        _ => Err("give \"off\", \"events\" or \"clear\"".to_owned()),
    }
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
