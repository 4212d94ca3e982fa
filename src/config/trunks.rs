//! `[[sip.trunks]]`: phone systems and providers, for calls in both directions.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::problem::nearest;
use super::read::Section;
use super::sip::{HashedSecret, Sip, read_number};
use crate::address::AddressRange;
use crate::sip::digest::Ha1;
use crate::sip::{Account, Secret, SipUri, SrtpRules, TrunkNumber, TrunkOptions, trunk_name};
use crate::whatsapp::PhoneNumberId;

/// Headers that we or the SIP library write. A second one from the configuration would contradict the call.
const OURS: [&str; 29] = [
    "accept",
    "allow",
    "authorization",
    "call-id",
    "contact",
    "content-encoding",
    "content-length",
    "content-type",
    "cseq",
    "event",
    "expires",
    "from",
    "max-forwards",
    "min-se",
    "p-asserted-identity",
    "proxy-authorization",
    "proxy-require",
    "rack",
    "record-route",
    "referred-by",
    "replaces",
    "require",
    "route",
    "rseq",
    "session-expires",
    "supported",
    "to",
    "via",
    "x-whatsapp-call-id",
];
/// Names of one letter are short for headers of ours (RFC 3261 §7.3.3).
const MIN_NAME: usize = 2;
const MAX_HEADERS: usize = 16;
/// They are all in each event of the call.
const MAX_PARAMETERS: usize = 8;
const MAX_VALUE_BYTES: usize = 512;
/// Servers of one trunk. One call tries them all while WhatsApp rings.
const MAX_TARGETS: usize = 8;

/// A trunk.
#[derive(Debug, Clone)]
pub struct Trunk {
    /// What the user agent needs to know.
    pub options: TrunkOptions,
    /// Whether its callers may call WhatsApp users.
    pub may_call: bool,
    /// The business number that they call from; None for the only one there is.
    pub number: Option<PhoneNumberId>,
}

impl Trunk {
    pub(super) fn read(mut section: Section<'_, '_>, numbers: &[PhoneNumberId], srtp: SrtpRules) -> Option<Self> {
        section.require("name", "give a name for agent = \"sip-trunk:NAME/NUMBER\"");
        section.require("targets", "give its servers, such as [\"sip:pbx.example;transport=tls\"]");
        let name = section.text("name", trunk_name);
        let targets = section.list("targets", target);
        if let Some(targets) = &targets {
            note_targets(&section, targets, srtp);
        }
        let account = read_account(&mut section);
        let allow = section.list("allow", |text| {
            text.parse::<AddressRange>()
                .map_err(|()| "give addresses and ranges, such as \"203.0.113.7\" or \"203.0.113.0/24\"".to_owned())
        });
        let incoming = read_incoming(&mut section);
        let may_call = section.flag("may_call").unwrap_or(false);
        if may_call && allow.as_ref().is_none_or(Vec::is_empty) {
            section.note(
                "allow",
                None,
                "may_call needs the addresses that its calls come from: give [\"203.0.113.0/24\"]",
            );
        }
        let number = read_number(&mut section, numbers);
        let headers = read_headers(&mut section, "headers");
        let identity = section.text("identity", identity);
        let gives_number = section.text("caller_identity", gives_number).unwrap_or(false);
        let most = Duration::from_secs(60 * 60);
        let keepalive = section.duration_or_zero("keepalive", most).unwrap_or(Duration::from_secs(30));
        let parameters = read_parameters(&mut section);
        section.end();
        let options = TrunkOptions {
            name: name?,
            targets: targets?,
            account: account?,
            allow: allow.unwrap_or_default(),
            incoming: incoming?,
            headers,
            identity,
            gives_number,
            keepalive: (!keepalive.is_zero()).then_some(keepalive),
            parameters,
        };
        Some(Self { options, may_call, number })
    }
}

/// Whether a restart would change anything.
impl PartialEq for Trunk {
    fn eq(&self, other: &Self) -> bool {
        self.compared() == other.compared()
    }
}

impl Eq for Trunk {}

impl Trunk {
    /// All of it as text, its secrets too.
    fn compared(&self) -> (String, Vec<String>) {
        let TrunkOptions { account, incoming, .. } = &self.options;
        let secrets = account.iter().flat_map(|account| match &account.secret {
            Secret::Password(password) => vec![password.expose_secret().to_owned()],
            Secret::Hashed(hashes) => hashes.iter().map(|ha1| ha1.expose().to_owned()).collect(),
        });
        let secrets = secrets.chain(incoming.iter().map(|(_, password)| password.expose_secret().to_owned()));
        // Secrets are not in it.
        (format!("{self:?}"), secrets.collect())
    }
}

fn target(text: &str) -> Result<SipUri, String> {
    let uri = SipUri::parse(text)?;
    match uri.user {
        None => Ok(uri),
        Some(_) => {
            Err("give a server without a user, such as sip:pbx.example: the number comes from the route".to_owned())
        }
    }
}

fn note_targets(section: &Section<'_, '_>, targets: &[SipUri], srtp: SrtpRules) {
    if targets.is_empty() || targets.len() > MAX_TARGETS {
        section.note("targets", None, format!("give 1 to {MAX_TARGETS} servers"));
    }
    if let Err(advice) = srtp.for_targets(targets) {
        section.note("targets", None, advice);
    }
}

/// `None` if something is wrong, which is noted then.
#[expect(clippy::option_option, reason = "the outer one says whether it could be read")]
fn read_account(section: &mut Section<'_, '_>) -> Option<Option<Account>> {
    let (has_password, has_hash) = (section.has("password"), section.has("ha1"));
    let username = section.text("username", quoted);
    let password = section.secret("password").map(Secret::Password);
    let hashed = HashedSecret::read(section.section("ha1"), "username:REALM:password, with the trunk's realm");
    let hashed = hashed.map(|hashed| {
        Secret::Hashed(hashed.0.iter().map(|(algorithm, hash)| Ha1::of_hash(*algorithm, hash.clone())).collect())
    });
    if username.is_some() != (has_password || has_hash) || has_password && has_hash {
        let advice =
            "give username and either password = { env = \"PBX_PASSWORD\" } or ha1 = { md5 = \"…\", sha256 = \"…\" }";
        section.note("username", None, advice);
        return None;
    }
    let Some(username) = username else { return Some(None) };
    Some(Some(Account { username, secret: password.or(hashed)? }))
}

/// What the trunk must show when it calls.
#[expect(clippy::option_option, reason = "the outer one says whether it could be read")]
fn read_incoming(section: &mut Section<'_, '_>) -> Option<Option<(String, SecretString)>> {
    let is_given = section.has("incoming");
    let mut incoming = section.section("incoming");
    if is_given {
        incoming.require("username", "give the name that the trunk calls with");
        incoming.require("password", "give what proves it, such as { env = \"PBX_INCOMING_PASSWORD\" }");
    }
    let both = incoming.text("username", quoted).zip(incoming.secret("password"));
    incoming.end();
    if is_given { both.map(Some) } else { Some(None) }
}

/// It stands in a quoted string.
fn quoted(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"\\".contains(&byte));
    match (1..=128).contains(&text.len()) && is_plain {
        true => Ok(text.to_owned()),
        false => Err("a name has 1 to 128 signs of ASCII, without blanks, quotes and backslashes".to_owned()),
    }
}

/// Header names and values, as the INVITE has them.
pub(super) fn read_headers(section: &mut Section<'_, '_>, key: &'static str) -> Vec<(String, String)> {
    let headers = section.text_table(key).unwrap_or_default();
    if headers.len() > MAX_HEADERS {
        section.note(key, None, format!("give at most {MAX_HEADERS} headers"));
    }
    for (name, value) in &headers {
        let place = format!("{key}.{name}");
        let is_value = value.len() <= MAX_VALUE_BYTES && value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if let Some(advice) = wrong_name(name) {
            section.note(&place, None, advice);
        } else if value.trim().is_empty() || !is_value {
            section.note(&place, None, format!("a header's value has 1 to {MAX_VALUE_BYTES} printable signs of ASCII"));
        }
    }
    headers.into_iter().collect()
}

fn wrong_name(name: &str) -> Option<&'static str> {
    let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte));
    if name.len() < MIN_NAME || name.len() > 64 || !is_token {
        return Some("a header's name has 2 to 64 letters, digits and hyphens");
    }
    let is_ours = OURS.iter().any(|ours| ours.eq_ignore_ascii_case(name));
    is_ours.then_some("this header belongs to the call itself; leave it out")
}

fn read_parameters(section: &mut Section<'_, '_>) -> BTreeMap<String, String> {
    let named = section.text_table("headers_to_parameters").unwrap_or_default();
    if named.len() > MAX_PARAMETERS {
        section.note("headers_to_parameters", None, format!("give at most {MAX_PARAMETERS} headers"));
    }
    for (header, parameter) in &named {
        let place = format!("headers_to_parameters.{header}");
        let is_name = parameter.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte));
        if let Some(advice) = wrong_name(header) {
            section.note(&place, None, advice);
        } else if !(1..=64).contains(&parameter.len()) || !is_name {
            section.note(&place, None, "a parameter's name has 1 to 64 letters, digits, '_', '-' or '.'");
        }
    }
    named
}

fn identity(text: &str) -> Result<SipUri, String> {
    let advice = "give an address such as \"sip:+12025550100@example.com\"";
    let uri = SipUri::parse(text).map_err(|_| advice)?;
    let is_plain = uri.user.is_some() && uri.port.is_none() && uri.transport.is_none() && uri.srtp.is_none();
    if is_plain && !uri.is_secure { Ok(uri) } else { Err(advice.to_owned()) }
}

fn gives_number(text: &str) -> Result<bool, String> {
    match text {
        "none" => Ok(false),
        "number" => Ok(true),
        _ => Err("give \"none\", or \"number\" to let the trunk have the WhatsApp user's number".to_owned()),
    }
}

/// Two trunks of one name, or at one address.
pub(super) fn note_doubles(section: &Section<'_, '_>, trunks: &[Option<Trunk>]) {
    let mut seen = BTreeSet::new();
    for (index, trunk) in trunks.iter().enumerate() {
        let Some(Trunk { options, .. }) = trunk else { continue };
        if !seen.insert(&options.name) {
            let value = Some(format!("\"{}\"", options.name));
            section.note(&format!("trunks[{index}].name"), value, "another trunk has this name");
        }
        let earlier = trunks[..index].iter().flatten().flat_map(|other| &other.options.allow);
        if earlier.into_iter().any(|range| options.allow.iter().any(|other| range.overlaps(other))) {
            section.note(&format!("trunks[{index}].allow"), None, "another trunk's calls come from such an address");
        }
    }
}

/// What is wrong with a target of a route.
pub(super) fn advice_for(number: &TrunkNumber, sip: Option<&Sip>, is_given: bool) -> Option<String> {
    if !is_given {
        return Some("sip.listen is not set: add [sip] with listen = [\"udp:0.0.0.0:5060\"]".to_owned());
    }
    let trunks = &sip?.trunks;
    let is_known = trunks.iter().any(|trunk| trunk.options.name == number.trunk);
    let near = nearest(&number.trunk, trunks.iter().map(|trunk| trunk.options.name.as_str()));
    let advice = match near {
        Some(near) => format!("no [[sip.trunks]] has this name; did you mean sip-trunk:{near}/{}?", number.number),
        None => "no [[sip.trunks]] has this name".to_owned(),
    };
    (!is_known).then_some(advice)
}
