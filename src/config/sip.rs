//! `[sip]`: where the user agent listens, whose phones register, and what phones may do. Trunks are in `trunks`.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::problem::nearest;
use super::read::Section;
use super::trunks::{self, Trunk};
use crate::agent::{AgentTarget, sip_user_name};
use crate::routes::Route;
use crate::sip::digest::{Algorithm, Ha1};
use crate::sip::{Host, Listen, ReferRule, SipUri, Srtp, SrtpRules, Transport};
use crate::whatsapp::PhoneNumberId;

/// The SIP user agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sip {
    /// Where it listens; not empty, unless phones open WebSockets.
    pub listen: Vec<Listen>,
    /// Whether phones may open WebSockets at the HTTP listener.
    pub websocket: bool,
    /// The addresses that phones are told, one of each family; those of `[media]` if empty.
    pub advertise: Vec<IpAddr>,
    /// How long a phone rings.
    pub ring_timeout: Duration,
    /// Whom a phone may hand its caller over to.
    pub refer_to: Vec<ReferRule>,
    /// Whether audio is encrypted.
    pub srtp: SrtpRules,
    /// Whether a phone behind a NAT is found by where its audio comes from.
    pub latching: bool,
    /// Certificates.
    pub tls: SipTls,
    /// Shown to phones that register, and hashed with their passwords.
    pub realm: String,
    /// Hosts that phones register at; empty for the addresses that they are told.
    pub domains: Vec<Host>,
    /// Whose phones may register.
    pub users: Vec<SipUser>,
    /// Whom people are called through, and who calls through us.
    pub trunks: Vec<Trunk>,
    /// The DNS server that is asked; the system's if None.
    pub dns: Option<SocketAddr>,
}

/// A user whose phones register.
#[derive(Debug, Clone)]
pub struct SipUser {
    /// As in `sip-user:NAME` and in the phone's settings.
    pub name: String,
    /// Whether its phones may call WhatsApp users.
    pub may_call: bool,
    /// The business number that they call from; None for the only one there is.
    pub number: Option<PhoneNumberId>,
    secret: UserSecret,
}

/// What a user's phone must know.
#[derive(Debug, Clone)]
enum UserSecret {
    Password(SecretString),
    Hashed(HashedSecret),
}

/// H(name:realm:password), by algorithm.
#[derive(Debug, Clone)]
pub(super) struct HashedSecret(pub Vec<(Algorithm, SecretString)>);

/// The certificates of SIP over TLS, as PEM files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SipTls {
    /// Ours and its key, for `tls:` listeners.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The authorities of phones; those of the system if None.
    pub ca: Option<PathBuf>,
}

impl Sip {
    /// None if nothing is to listen.
    pub(super) fn read(mut section: Section<'_, '_>, numbers: &[PhoneNumberId]) -> Option<Self> {
        const SECOND: Duration = Duration::from_secs(1);
        let websocket = section.flag("websocket").unwrap_or(false);
        let keys = [
            "advertise",
            "ring_timeout",
            "refer_to",
            "srtp",
            "srtp_keys_in_clear",
            "latching",
            "tls",
            "realm",
            "domains",
            "users",
            "trunks",
            "dns",
        ];
        if keys.into_iter().any(|key| section.has(key)) && !websocket {
            section.require("listen", "give [\"udp:0.0.0.0:5060\"], or set websocket = true");
        }
        let listen = section.list("listen", Listen::parse);
        if listen.as_ref().is_some_and(Vec::is_empty) {
            section.note("listen", Some("[]".to_owned()), "give [\"udp:0.0.0.0:5060\"], or leave it out");
        }
        let tls = SipTls::read(section.section("tls"));
        let listens_tls = listen.iter().flatten().any(|listen| listen.transport == Transport::Tls);
        if listens_tls && tls.identity.is_none() {
            let advice = "a tls: listener needs a certificate: give { cert = \"sip.pem\", key = \"sip.key\" }";
            section.note("tls", None, advice);
        }
        let advertise = section.list("advertise", |text| {
            text.parse::<IpAddr>().map_err(|_| "give addresses such as \"203.0.113.7\"".to_owned())
        });
        let ring_timeout = section.duration("ring_timeout", 60 * SECOND).unwrap_or(20 * SECOND);
        let refer_to = section.list("refer_to", ReferRule::parse).unwrap_or_default();
        let srtp = SrtpRules {
            usual: section.text("srtp", Srtp::of_name).unwrap_or_default(),
            keys_in_clear: section.flag("srtp_keys_in_clear").unwrap_or(false),
        };
        let latching = section.flag("latching").unwrap_or(false);
        let realm = section.text("realm", realm).unwrap_or_else(|| "patchcord".to_owned());
        let domains = section.list("domains", domain).unwrap_or_default();
        let users: Vec<Option<SipUser>> =
            section.sections("users").into_iter().map(|user| SipUser::read(user, numbers)).collect();
        note_double_users(&section, &users);
        let trunks: Vec<Option<Trunk>> =
            section.sections("trunks").into_iter().map(|trunk| Trunk::read(trunk, numbers, srtp)).collect();
        trunks::note_doubles(&section, &trunks);
        let dns = section.parsed("dns", "127.0.0.1:53");
        section.end();
        Some(Self {
            dns,
            listen: listen.or(websocket.then(Vec::new))?,
            websocket,
            advertise: advertise.unwrap_or_default(),
            ring_timeout,
            refer_to,
            srtp,
            latching,
            tls,
            realm,
            domains,
            users: users.into_iter().collect::<Option<_>>()?,
            trunks: trunks.into_iter().collect::<Option<_>>()?,
        })
    }
}

impl SipUser {
    fn read(mut section: Section<'_, '_>, numbers: &[PhoneNumberId]) -> Option<Self> {
        section.require("name", "give the name that the phone registers with");
        let name = section.text("name", sip_user_name);
        if section.has("password") == section.has("ha1") {
            let advice =
                "give either password = { env = \"ALICE_SIP_PASSWORD\" } or ha1 = { md5 = \"…\", sha256 = \"…\" }";
            section.note("password", None, advice);
        }
        let password = section.secret("password").map(UserSecret::Password);
        let hashed = HashedSecret::read(section.section("ha1"), "name:realm:password").map(UserSecret::Hashed);
        let may_call = section.flag("may_call").unwrap_or(false);
        let number = read_number(&mut section, numbers);
        section.end();
        Some(Self { name: name?, may_call, number, secret: password.or(hashed)? })
    }

    /// What proofs are checked against.
    pub fn hashes(&self, realm: &str) -> Vec<Ha1> {
        match &self.secret {
            UserSecret::Password(password) => [Algorithm::Md5, Algorithm::Sha256]
                .map(|algorithm| Ha1::new(algorithm, &self.name, realm, password))
                .to_vec(),
            UserSecret::Hashed(HashedSecret(hashes)) => {
                hashes.iter().map(|(algorithm, hash)| Ha1::of_hash(*algorithm, hash.clone())).collect()
            }
        }
    }

    /// The secret as text, to be compared.
    fn exposed(&self) -> Vec<&str> {
        match &self.secret {
            UserSecret::Password(password) => vec![password.expose_secret()],
            UserSecret::Hashed(HashedSecret(hashes)) => hashes.iter().map(|(_, hash)| hash.expose_secret()).collect(),
        }
    }
}

/// Whether a restart would change anything.
impl PartialEq for SipUser {
    fn eq(&self, other: &Self) -> bool {
        let of = |user: &Self| (user.name.clone(), user.may_call, user.number.clone());
        of(self) == of(other) && self.exposed() == other.exposed()
    }
}

impl Eq for SipUser {}

/// The business number that calls are placed from.
pub(super) fn read_number(section: &mut Section<'_, '_>, numbers: &[PhoneNumberId]) -> Option<PhoneNumberId> {
    section.text("number", |text| {
        let id = PhoneNumberId::parse(text).ok().filter(|id| numbers.contains(id));
        id.ok_or_else(|| "give the phone_number_id of one of [[whatsapp.numbers]]".to_owned())
    })
}

impl HashedSecret {
    /// `of` says what is hashed.
    pub fn read(mut section: Section<'_, '_>, of: &str) -> Option<Self> {
        let mut hashes = Vec::new();
        for (key, algorithm, digits) in [("md5", Algorithm::Md5, 32), ("sha256", Algorithm::Sha256, 64)] {
            let Some(hash) = section.secret(key) else { continue };
            let text = hash.expose_secret();
            if text.len() != digits || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                section.note(key, None, format!("give the hash of {of}, {digits} hexadecimal digits"));
            }
            hashes.push((algorithm, text.to_ascii_lowercase().into()));
        }
        section.end();
        (!hashes.is_empty()).then_some(Self(hashes))
    }
}

fn note_double_users(section: &Section<'_, '_>, users: &[Option<SipUser>]) {
    let mut seen = BTreeSet::new();
    for (index, user) in users.iter().enumerate() {
        if let Some(user) = user
            && !seen.insert(&user.name)
        {
            let value = Some(format!("\"{}\"", user.name));
            section.note(&format!("users[{index}].name"), value, "another user has this name");
        }
    }
}

/// It stands in a quoted string.
fn realm(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| (byte.is_ascii_graphic() || byte == b' ') && !b"\"\\".contains(&byte));
    match (1..=128).contains(&text.len()) && is_plain {
        true => Ok(text.to_owned()),
        false => Err("a realm has 1 to 128 signs of ASCII, without quotes and backslashes".to_owned()),
    }
}

fn domain(text: &str) -> Result<Host, String> {
    let host = SipUri::host_of(&format!("sip:{text}")).filter(|host| host.to_string().eq_ignore_ascii_case(text));
    host.ok_or_else(|| "give the name or address that phones register at, such as \"sip.example.com\"".to_owned())
}

impl SipTls {
    fn read(mut section: Section<'_, '_>) -> Self {
        if section.has("cert") || section.has("key") {
            section.require("cert", "give the path of our certificate, as PEM");
            section.require("key", "give the path of its private key, as PEM");
        }
        let mut path = |key| section.text(key, |text| Ok(PathBuf::from(text)));
        let (cert, key, ca) = (path("cert"), path("key"), path("ca"));
        section.end();
        Self { identity: cert.zip(key), ca }
    }
}

/// Notes each target of a route that the user agent cannot call.
pub(super) fn check_routes<'r>(
    root: &Section<'_, '_>,
    routes: impl Iterator<Item = &'r Route>,
    sip: Option<&Sip>,
    is_given: bool,
) {
    for route in routes {
        for (index, target) in route.targets.iter().enumerate() {
            let advice = match target {
                AgentTarget::Sip(uri) => advice_for(uri, sip, is_given).map(str::to_owned),
                AgentTarget::SipUser(name) => advice_for_user(name, sip, is_given),
                AgentTarget::Trunk(number) => trunks::advice_for(number, sip, is_given),
                AgentTarget::WebSocket(_)
                | AgentTarget::App(_)
                | AgentTarget::AudioSocket(_)
                | AgentTarget::Browser(_)
                | AgentTarget::CallingPhone(_)
                | AgentTarget::Offer(_)
                | AgentTarget::Twiml(_)
                | AgentTarget::Model(_)
                | AgentTarget::Queue(_)
                | AgentTarget::Person(_)
                | AgentTarget::Prompts { .. } => None,
            };
            let place = match index {
                0 => format!("routes.{}.agent", route.name),
                _ => format!("routes.{}.fallback", route.name),
            };
            if let Some(advice) = advice {
                root.note(&place, Some(format!("\"{}\"", target.shown())), advice);
            }
        }
    }
}

fn advice_for_user(name: &str, sip: Option<&Sip>, is_given: bool) -> Option<String> {
    if !is_given {
        return Some("sip.listen is not set: add [sip] with listen = [\"udp:0.0.0.0:5060\"]".to_owned());
    }
    let users = &sip?.users;
    let is_known = users.iter().any(|user| user.name == name);
    let near = nearest(name, users.iter().map(|user| user.name.as_str()));
    let advice = match near {
        Some(near) => format!("no [[sip.users]] has this name; did you mean sip-user:{near}?"),
        None => "no [[sip.users]] has this name".to_owned(),
    };
    (!is_known).then_some(advice)
}

fn advice_for(uri: &SipUri, sip: Option<&Sip>, is_given: bool) -> Option<&'static str> {
    if !is_given {
        return Some("sip.listen is not set: add [sip] with listen = [\"udp:0.0.0.0:5060\"]");
    }
    if let Some(Err(advice)) = sip.map(|sip| sip.srtp.for_phone(uri)) {
        return Some(advice);
    }
    // A connection needs no listener: phones answer on it.
    let needs_udp = uri.transport() == Transport::Udp;
    let has_udp = sip.is_none_or(|sip| sip.listen.iter().any(|listen| listen.transport == Transport::Udp));
    let advice =
        "nothing listens on UDP: add \"udp:0.0.0.0:5060\" to sip.listen, or give ;transport=tcp or ;transport=tls";
    (needs_udp && !has_udp).then_some(advice)
}
