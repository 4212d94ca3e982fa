//! Trunks: phone systems and providers, for calls in both directions.

mod keepalive;
mod reach;
mod targets;

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rsipstack::sip::{Header, HeadersExt, Request};

use super::authenticator::{Authenticator, Claim, Sender};
use super::client_auth::Account;
use super::digest::{Algorithm, Ha1};
use super::flow::Flow;
use super::leg::Callee;
use super::registering::{challenge_headers, claim_headers, is_for};
use super::uri::{SipUri, is_user};
use crate::address::AddressRange;
use crate::clock;
pub(super) use keepalive::keep_alive;
pub(super) use reach::reach;
pub(super) use targets::Failed;
use targets::Targets;

/// A header of an INVITE that becomes a parameter of its call is cut off behind this: all of them fit into a `client_state`.
const MAX_PARAMETER_BYTES: usize = 200;

/// What is configured about one trunk.
#[derive(Clone, Debug)]
pub struct TrunkOptions {
    /// As in `sip-trunk:NAME/NUMBER`.
    pub name: String,
    /// Its servers, without user parts, in the order in which they are called; at least one.
    pub targets: Vec<SipUri>,
    /// Who we are to them.
    pub account: Option<Account>,
    /// Where its calls to us come from.
    pub allow: Vec<AddressRange>,
    /// Name and password that its calls to us must show; None if their address is enough.
    pub incoming: Option<(String, secrecy::SecretString)>,
    /// Headers of each INVITE.
    pub headers: Vec<(String, String)>,
    /// What we call ourselves in `From` and `P-Asserted-Identity`.
    pub identity: Option<SipUri>,
    /// Whether it learns the number of the person on WhatsApp.
    pub gives_number: bool,
    /// How often its servers are asked whether they are there; None for never.
    pub keepalive: Option<Duration>,
    /// Headers of its INVITEs that become parameters of their calls, and the names of these.
    pub parameters: BTreeMap<String, String>,
}

/// A number behind a trunk, and what its INVITE has beside the usual headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkNumber {
    /// The trunk.
    pub trunk: String,
    /// The user part of the Request-URI.
    pub number: String,
    /// Headers that the route gives.
    pub headers: Vec<(String, String)>,
}

/// A call through a trunk.
#[derive(Clone)]
pub struct TrunkCall {
    pub(super) trunk: Arc<Trunk>,
    /// The user part of the Request-URI.
    pub(super) number: String,
}

/// A trunk and what is known of it now.
pub struct Trunk {
    pub(super) options: TrunkOptions,
    account: Option<Arc<Account>>,
    targets: Mutex<Targets>,
    /// Of calls to us.
    authenticator: Option<Mutex<Authenticator>>,
}

/// All trunks of a user agent.
pub(super) struct Trunks(HashMap<String, Arc<Trunk>>);

impl TrunkNumber {
    /// Reads `NAME/NUMBER`. The error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let advice = "give the trunk's name and a number, such as sip-trunk:pbx/200";
        let (trunk, number) = text.split_once('/').ok_or(advice)?;
        let trunk = trunk_name(trunk)?;
        match is_user(number) {
            true => Ok(Self { trunk, number: number.to_owned(), headers: Vec::new() }),
            false => Err("the number behind / has 1 to 128 letters, digits and signs such as + . _ -".to_owned()),
        }
    }
}

/// Reads the name of a trunk. The error says what a name may hold.
pub fn trunk_name(name: &str) -> Result<String, String> {
    let is_plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    match (1..=64).contains(&name.len()) && is_plain {
        true => Ok(name.to_owned()),
        false => Err("a trunk's name has 1 to 64 letters, digits, '.', '_' or '-'".to_owned()),
    }
}

impl Trunks {
    pub fn new(all: Vec<TrunkOptions>) -> Self {
        Self(all.into_iter().map(|options| (options.name.clone(), Arc::new(Trunk::new(options)))).collect())
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Trunk>> {
        self.0.get(name)
    }

    pub fn all(&self) -> impl Iterator<Item = &Arc<Trunk>> {
        self.0.values()
    }

    /// Who we are to a phone behind one of the servers, if we are somebody there.
    pub fn account_at(&self, to: &Callee) -> Option<Arc<Account>> {
        let Callee::Address(uri) = to else { return None };
        let place = |uri: &SipUri| (uri.host.clone(), uri.port_or_usual(), uri.transport());
        let is_there = |trunk: &&Arc<Trunk>| trunk.options.targets.iter().any(|target| place(target) == place(uri));
        self.0.values().find(is_there)?.account.clone()
    }

    /// The trunk whose calls come from this address. Ranges of two trunks do not overlap.
    pub fn at(&self, address: IpAddr) -> Option<&Arc<Trunk>> {
        self.0.values().find(|trunk| trunk.options.allow.iter().any(|range| range.contains(address)))
    }
}

impl Trunk {
    fn new(options: TrunkOptions) -> Self {
        let authenticator = options.incoming.as_ref().map(|(username, password)| {
            let hash = |algorithm| Ha1::new(algorithm, username, &options.name, password);
            let users = HashMap::from([(username.clone(), [Algorithm::Sha256, Algorithm::Md5].map(hash).to_vec())]);
            Mutex::new(Authenticator::new(&options.name, users, rand::random(), clock::now()))
        });
        let account = options.account.clone().map(Arc::new);
        let targets = Mutex::new(Targets::new(options.targets.len()));
        Self { options, account, targets, authenticator }
    }

    /// Its name in the configuration.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Whether a call that comes from one of its addresses is its own. The error is the answer.
    pub(super) fn check(&self, request: &Request, flow: &Flow, now: Instant) -> Result<(), (u16, Vec<Header>)> {
        let Some(authenticator) = &self.authenticator else { return Ok(()) };
        let mut authenticator = locked(authenticator);
        authenticator.expire(now);
        let (method, is_for) = (request.method.to_string(), |uri: &str| is_for(request, uri));
        let claim = Claim { headers: claim_headers(request), method: &method, is_for: &is_for, from: flow.ip() };
        let is_stale = match authenticator.judge(&claim, now) {
            Sender::User(_) => return Ok(()),
            Sender::Unknown => false,
            Sender::Stale => true,
            Sender::Wrong => return Err((403, Vec::new())),
        };
        Err((401, challenge_headers(authenticator.challenges(flow.ip(), rand::random(), is_stale, now))))
    }

    /// What the headers of its INVITE say about the call.
    pub(super) fn parameters(&self, request: &Request) -> BTreeMap<String, String> {
        let value = |header: &String| {
            let value = request.header_value(header)?;
            let ends = value.char_indices().map(|(at, sign)| at + sign.len_utf8());
            let end = ends.take_while(|end| *end <= MAX_PARAMETER_BYTES).last().unwrap_or(0);
            Some(value[..end].chars().filter(|sign| !sign.is_control()).collect())
        };
        let named = self.options.parameters.iter();
        named.filter_map(|(header, parameter)| Some((parameter.clone(), value(header)?))).collect()
    }

    fn targets(&self) -> MutexGuard<'_, Targets> {
        locked(&self.targets)
    }
}

/// The locks are held between two awaits only, and what they guard is valid at every step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_behind_a_trunk_is_read() {
        let read = TrunkNumber::parse("pbx/+4930123456").unwrap();
        assert_eq!((read.trunk.as_str(), read.number.as_str()), ("pbx", "+4930123456"));
        for wrong in ["pbx", "/200", "p bx/200", "pbx/", "pbx/2 0", "pbx/200@x", "pbx/2\r\n0", "pbx/2;x=y"] {
            assert!(TrunkNumber::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
