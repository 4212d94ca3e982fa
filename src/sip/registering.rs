//! REGISTER: phones of our users say where they are, once they have shown their password.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rsipstack::sip::{Header, HeadersExt, Request, StatusCode, Uri};
use rsipstack::transaction::transaction::Transaction;

use tokio::sync::watch;

use super::authenticator::{Authenticator, Claim, Sender};
use super::contact::Contacts;
use super::digest::{Challenge, Ha1};
use super::flow::{Flow, Flows};
use super::gate::Gate;
use super::registrar::{Binding, LEAST_SECONDS, RegisterRefused, Registrar, Registration};
use crate::clock;

/// How often expired phones are forgotten and the present ones counted.
pub(super) const SWEEP: Duration = Duration::from_secs(10);

/// Our users and their phones.
pub(super) struct Registrations {
    authenticator: Mutex<Authenticator>,
    registrar: Mutex<Registrar>,
    flows: Flows,
    gate: Gate,
    /// The users with a phone.
    present: watch::Sender<BTreeSet<String>>,
}

/// A response without a body.
struct Reply {
    code: u16,
    headers: Vec<Header>,
}

impl Registrations {
    pub fn new(realm: &str, users: HashMap<String, Vec<Ha1>>, flows: Flows, gate: Gate) -> Self {
        let authenticator = Authenticator::new(realm, users, rand::random(), clock::now());
        let registrar = Mutex::default();
        Self { authenticator: Mutex::new(authenticator), registrar, flows, gate, present: watch::Sender::default() }
    }

    /// Answers a REGISTER.
    pub async fn answer(&self, transaction: &mut Transaction) -> rsipstack::Result<()> {
        // A connection that is closed takes no answer.
        let Some(flow) = self.flows.of(transaction) else { return Ok(()) };
        let Reply { code, headers } = self.decide(&transaction.original, &flow, clock::now());
        transaction.reply_with(StatusCode::from(code), headers, None).await
    }

    /// The phones of a user, the preferred ones first.
    pub fn contacts(&self, user: &str) -> Vec<Binding> {
        locked(&self.registrar).contacts(user, clock::now())
    }

    /// Whether a registered phone's datagrams come from this address.
    pub fn is_at(&self, address: SocketAddr) -> bool {
        locked(&self.registrar).is_at(address, clock::now())
    }

    /// The users with a phone, now and from now on.
    pub fn present(&self) -> watch::Receiver<BTreeSet<String>> {
        self.present.subscribe()
    }

    /// Forgets what has expired.
    pub fn sweep(&self, now: Instant) {
        locked(&self.authenticator).expire(now);
        let (phones, addresses, users) = {
            let mut registrar = locked(&self.registrar);
            (registrar.expire(now), registrar.addresses(), registrar.users())
        };
        self.present.send_if_modified(|present| {
            let is_news = *present != users;
            *present = users;
            is_news
        });
        self.gate.set_phones(addresses);
        metrics::gauge!("patchcord_sip_registered_phones").set(phones as f64);
    }

    fn decide(&self, request: &Request, flow: &Flow, now: Instant) -> Reply {
        let user = match self.who(request, flow, now) {
            Ok(user) => user,
            Err((code, headers)) => {
                let outcome = if code == 401 { "challenged" } else { "wrong" };
                return answered(outcome, code, headers);
            }
        };
        match self.register(&user, request, flow, now) {
            Ok(bindings) => {
                self.sweep(now);
                answered("registered", 200, bindings.iter().map(|binding| shown(binding, now)).collect())
            }
            Err(RegisterRefused::TooBrief) => {
                answered("refused", 423, vec![Header::MinExpires(LEAST_SECONDS.to_string().into())])
            }
            Err(RegisterRefused::OutOfOrder) => answered("refused", 500, Vec::new()),
            Err(RegisterRefused::Malformed) => answered("refused", 400, Vec::new()),
            Err(RegisterRefused::SomebodyElse) => answered("refused", 403, Vec::new()),
        }
    }

    /// Whether a request shows credentials for our realm.
    pub fn is_claimed(&self, request: &Request) -> bool {
        let shown = claim_headers(request);
        shown.iter().any(|value| locked(&self.authenticator).is_for_realm(value))
    }

    /// Who sends a request. The error is the answer to somebody who has not shown it.
    pub fn who(&self, request: &Request, flow: &Flow, now: Instant) -> Result<String, (u16, Vec<Header>)> {
        match self.sender(request, flow, now) {
            Sender::User(user) => {
                flow.prove();
                Ok(user)
            }
            Sender::Unknown => Err((401, self.challenges(flow, false, now))),
            Sender::Stale => Err((401, self.challenges(flow, true, now))),
            Sender::Wrong => {
                self.gate.failed(flow.ip(), now);
                Err((403, Vec::new()))
            }
        }
    }

    fn sender(&self, request: &Request, flow: &Flow, now: Instant) -> Sender {
        let (method, is_for) = (request.method.to_string(), |uri: &str| is_for(request, uri));
        let claim = Claim { headers: claim_headers(request), method: &method, is_for: &is_for, from: flow.ip() };
        locked(&self.authenticator).judge(&claim, now)
    }

    fn challenges(&self, flow: &Flow, is_stale: bool, now: Instant) -> Vec<Header> {
        challenge_headers(locked(&self.authenticator).challenges(flow.ip(), rand::random(), is_stale, now))
    }

    fn register(
        &self,
        user: &str,
        request: &Request,
        flow: &Flow,
        now: Instant,
    ) -> Result<Vec<Binding>, RegisterRefused> {
        let malformed = |_| RegisterRefused::Malformed;
        let of = request.to_header().and_then(|to| to.uri()).map_err(malformed)?;
        // RFC 3261 §10.3, step 4.
        if of.user() != Some(user) {
            return Err(RegisterRefused::SomebodyElse);
        }
        let cseq = request.cseq_header().and_then(|cseq| cseq.seq()).map_err(malformed)?;
        let call_id = request.header_value("Call-ID").ok_or(RegisterRefused::Malformed)?;
        let values: Vec<String> = request.headers.iter().filter_map(contact).collect();
        let contacts = Contacts::read(values.iter().map(String::as_str)).map_err(|_| RegisterRefused::Malformed)?;
        if let Contacts::Listed(contacts) = &contacts
            && contacts.iter().any(|contact| Uri::try_from(contact.uri.as_str()).is_err())
        {
            return Err(RegisterRefused::Malformed);
        }
        let expires = request.header_value("Expires").and_then(|expires| expires.trim().parse().ok());
        let registration = Registration { user, call_id: &call_id, cseq, contacts, expires, flow };
        locked(&self.registrar).register(&registration, now)
    }
}

fn answered(outcome: &'static str, code: u16, headers: Vec<Header>) -> Reply {
    metrics::counter!("patchcord_sip_registers_total", "outcome" => outcome).increment(1);
    Reply { code, headers }
}

/// What a request shows of who sent it.
pub(super) fn claim_headers(request: &Request) -> Vec<String> {
    request.headers.iter().filter_map(credentials).collect()
}

/// Whether credentials for this address are for the request.
pub(super) fn is_for(request: &Request, uri: &str) -> bool {
    uri == request.uri.to_string() || Uri::try_from(uri).is_ok_and(|uri| uri == request.uri)
}

pub(super) fn challenge_headers(challenges: Vec<Challenge>) -> Vec<Header> {
    challenges.into_iter().map(|challenge| Header::WwwAuthenticate(challenge.to_string().into())).collect()
}

fn credentials(header: &Header) -> Option<String> {
    if let Header::Authorization(credentials) = header { Some(credentials.value().to_owned()) } else { None }
}

fn contact(header: &Header) -> Option<String> {
    if let Header::Contact(contact) = header { Some(contact.value().to_owned()) } else { None }
}

/// RFC 3261 §10.3, step 8.
fn shown(binding: &Binding, now: Instant) -> Header {
    let seconds = binding.expires_at.saturating_duration_since(now).as_secs();
    let (whole, thousandths) = (binding.q / 1000, binding.q % 1000);
    Header::Contact(format!("<{}>;q={whole}.{thousandths:03};expires={seconds}", binding.uri).into())
}

/// The locks are held between two awaits only, and what they guard is valid at every step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
