//! Registrar: where the phones of our users are (RFC 3261 §10). Pure.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use thiserror::Error;

use super::contact::{Contact, ContactUri, Contacts};
use super::flow::Flow;

/// A phone that asks for less is told this.
pub const LEAST_SECONDS: u32 = 60;
/// Without a wish of the phone's.
const USUAL_SECONDS: u32 = 3600;
/// A phone that was switched off is called for this long at most.
const MOST_SECONDS: u32 = 7200;
/// Of one user. The one that was refreshed longest ago gives way: phones take new addresses and leave the old ones behind.
const MAX_BINDINGS: usize = 10;
const MAX_CALL_ID_BYTES: usize = 256;

/// Where the phones of all users are.
#[derive(Default)]
pub struct Registrar {
    users: HashMap<String, Vec<Binding>>,
}

/// What a REGISTER asks for. Its sender is known to be the user.
pub(super) struct Registration<'a> {
    pub user: &'a str,
    pub call_id: &'a str,
    pub cseq: u32,
    pub contacts: Contacts,
    /// The `Expires` header.
    pub expires: Option<u32>,
    pub flow: &'a Flow,
}

/// One phone of a user.
#[derive(Clone)]
pub(super) struct Binding {
    pub uri: ContactUri,
    /// From 0 to 1000.
    pub q: u16,
    pub expires_at: Instant,
    /// The way back to it.
    pub flow: Flow,
    instance: Option<String>,
    refreshed_at: Instant,
    call_id: String,
    cseq: u32,
}

/// Why nothing was changed.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RegisterRefused {
    /// 423
    #[error("the interval is too brief")]
    TooBrief,
    /// 500: a later request of this phone came first (RFC 3261 §10.3).
    #[error("the request is out of order")]
    OutOfOrder,
    /// 400
    #[error("the request is malformed")]
    Malformed,
    /// 403: a user speaks for himself only.
    #[error("the request is for another user")]
    SomebodyElse,
}

impl Registrar {
    /// Follows a request, in whole or not at all. Gives what is bound then.
    pub(super) fn register(
        &mut self,
        registration: &Registration<'_>,
        now: Instant,
    ) -> Result<Vec<Binding>, RegisterRefused> {
        if registration.call_id.len() > MAX_CALL_ID_BYTES {
            return Err(RegisterRefused::Malformed);
        }
        let mut bindings = self.contacts(registration.user, now);
        match &registration.contacts {
            Contacts::Asked => return Ok(bindings),
            Contacts::All if registration.expires != Some(0) => return Err(RegisterRefused::Malformed),
            Contacts::All => {
                if bindings.iter().any(|binding| binding.is_newer_than(registration)) {
                    return Err(RegisterRefused::OutOfOrder);
                }
                bindings.clear();
            }
            Contacts::Listed(contacts) => {
                for contact in contacts {
                    bind(&mut bindings, registration, contact, now)?;
                }
            }
        }
        while bindings.len() > MAX_BINDINGS {
            let oldest = bindings.iter().enumerate().min_by_key(|(_, binding)| binding.refreshed_at);
            oldest.map(|(at, _)| at).map(|at| bindings.remove(at));
        }
        if bindings.is_empty() {
            self.users.remove(registration.user);
        } else {
            self.users.insert(registration.user.to_owned(), bindings.clone());
        }
        Ok(bindings)
    }

    /// The phones of a user, the preferred ones first.
    pub(super) fn contacts(&self, user: &str, now: Instant) -> Vec<Binding> {
        let bindings = self.users.get(user).into_iter().flatten();
        let mut bindings: Vec<Binding> = bindings.filter(|binding| binding.is_live(now)).cloned().collect();
        bindings.sort_by_key(|binding| std::cmp::Reverse(binding.q));
        bindings
    }

    /// Whether a phone's datagrams come from this address.
    pub fn is_at(&self, address: SocketAddr, now: Instant) -> bool {
        let mut bindings = self.users.values().flatten();
        bindings.any(|binding| binding.flow.is_datagrams_from(address) && binding.is_live(now))
    }

    /// The users with a phone, as far as [`expire`](Self::expire) has looked.
    pub fn users(&self) -> BTreeSet<String> {
        self.users.keys().cloned().collect()
    }

    /// Where the phones of all users are.
    pub fn addresses(&self) -> HashSet<IpAddr> {
        self.users.values().flatten().map(|binding| binding.flow.ip()).collect()
    }

    /// Forgets what has expired; gives the number of phones that are left.
    pub fn expire(&mut self, now: Instant) -> usize {
        self.users.retain(|_, bindings| {
            bindings.retain(|binding| binding.is_live(now));
            !bindings.is_empty()
        });
        self.users.values().map(Vec::len).sum()
    }
}

fn bind(
    bindings: &mut Vec<Binding>,
    registration: &Registration<'_>,
    contact: &Contact,
    now: Instant,
) -> Result<(), RegisterRefused> {
    let seconds = contact.expires.or(registration.expires).unwrap_or(USUAL_SECONDS);
    if (1..LEAST_SECONDS).contains(&seconds) {
        return Err(RegisterRefused::TooBrief);
    }
    let is_same = |binding: &Binding| match (&binding.instance, &contact.instance) {
        (Some(known), Some(instance)) => known == instance,
        (Some(_) | None, Some(_) | None) => binding.uri == contact.uri,
    };
    if bindings.iter().any(|binding| is_same(binding) && binding.is_newer_than(registration)) {
        return Err(RegisterRefused::OutOfOrder);
    }
    bindings.retain(|binding| !is_same(binding));
    if seconds > 0 {
        bindings.push(Binding {
            uri: contact.uri.clone(),
            q: contact.q,
            expires_at: now + Duration::from_secs(seconds.min(MOST_SECONDS).into()),
            flow: registration.flow.clone(),
            instance: contact.instance.clone(),
            refreshed_at: now,
            call_id: registration.call_id.to_owned(),
            cseq: registration.cseq,
        });
    }
    Ok(())
}

impl Binding {
    fn is_live(&self, now: Instant) -> bool {
        now < self.expires_at && self.flow.is_open()
    }

    fn is_newer_than(&self, registration: &Registration<'_>) -> bool {
        self.call_id == registration.call_id && self.cseq >= registration.cseq
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    struct Desk {
        registrar: Registrar,
        now: Instant,
        cseq: u32,
    }

    impl Desk {
        fn new() -> Self {
            Self { registrar: Registrar::default(), now: Instant::now(), cseq: 1 }
        }

        /// `contacts` is a header's value; each request has the next CSeq of the same Call-ID.
        fn ask(&mut self, contacts: &str, expires: Option<u32>) -> Result<Vec<String>, RegisterRefused> {
            self.cseq += 1;
            self.ask_as("call", self.cseq, contacts, expires)
        }

        fn ask_as(
            &mut self,
            call_id: &str,
            cseq: u32,
            contacts: &str,
            expires: Option<u32>,
        ) -> Result<Vec<String>, RegisterRefused> {
            let flow = Flow::datagrams(([192, 0, 2, 1], 5060).into());
            let contacts = Contacts::read([contacts]).unwrap();
            let registration = Registration { user: "alice", call_id, cseq, contacts, expires, flow: &flow };
            let bound = self.registrar.register(&registration, self.now)?;
            Ok(bound.iter().map(|binding| self.shown(binding)).collect())
        }

        fn shown(&self, binding: &Binding) -> String {
            format!("{} {}", binding.uri, (binding.expires_at - self.now).as_secs())
        }

        fn contacts(&self) -> Vec<String> {
            self.registrar.contacts("alice", self.now).iter().map(|binding| self.shown(binding)).collect()
        }
    }

    #[test]
    fn phones_are_bound_refreshed_asked_for_and_removed() {
        let mut desk = Desk::new();
        assert_eq!(desk.ask("<sip:a@1>;q=0.2", None).unwrap(), ["sip:a@1 3600"]);
        assert_eq!(desk.ask("<sip:a@2>;expires=99999", Some(60)).unwrap(), ["sip:a@1 3600", "sip:a@2 7200"]);
        assert_eq!(desk.ask("", None).unwrap(), ["sip:a@2 7200", "sip:a@1 3600"]);
        desk.now += 100 * SECOND;
        assert_eq!(desk.ask("<sip:a@1>", Some(60)).unwrap(), ["sip:a@2 7100", "sip:a@1 60"]);
        assert_eq!(desk.ask("<sip:a@2>;expires=0", Some(60)).unwrap(), ["sip:a@1 60"]);
        assert_eq!(desk.ask("*", Some(60)), Err(RegisterRefused::Malformed));
        assert_eq!(desk.ask("*", Some(0)).unwrap(), [""; 0]);
        assert_eq!((desk.contacts(), desk.registrar.users.len()), (vec![], 0));
    }

    #[test]
    fn bindings_vanish_when_they_expire() {
        let mut desk = Desk::new();
        desk.ask("<sip:a@1>;expires=60, <sip:a@2>;expires=61", None).unwrap();
        desk.now += 60 * SECOND;
        assert_eq!(desk.contacts(), ["sip:a@2 1"]);
        assert_eq!(desk.registrar.expire(desk.now), 1);
        desk.now += SECOND;
        assert_eq!((desk.registrar.expire(desk.now), desk.contacts().len()), (0, 0));
    }

    #[test]
    fn a_brief_interval_is_refused_and_nothing_changes() {
        let mut desk = Desk::new();
        for (contacts, expires) in [("<sip:a@1>;expires=59", None), ("<sip:a@1>", Some(1))] {
            assert_eq!(desk.ask(contacts, expires), Err(RegisterRefused::TooBrief));
        }
        assert_eq!(desk.ask("<sip:a@1>, <sip:a@2>;expires=5", None), Err(RegisterRefused::TooBrief));
        assert_eq!(desk.contacts(), [""; 0]);
    }

    #[test]
    fn an_older_request_of_the_same_call_changes_nothing() {
        let mut desk = Desk::new();
        desk.ask_as("call", 7, "<sip:a@1>", None).unwrap();
        for cseq in [6, 7] {
            assert_eq!(desk.ask_as("call", cseq, "<sip:a@1>;expires=0", None), Err(RegisterRefused::OutOfOrder));
            assert_eq!(desk.ask_as("call", cseq, "*", Some(0)), Err(RegisterRefused::OutOfOrder));
        }
        // Another phone, or the same after a restart.
        assert_eq!(desk.ask_as("other", 1, "<sip:a@1>;expires=60", None).unwrap(), ["sip:a@1 60"]);
        assert_eq!(desk.ask_as("call", 8, "<sip:a@1>;expires=0", None).unwrap(), [""; 0]);
    }

    #[test]
    fn a_phone_with_an_instance_has_one_address_and_a_user_ten_phones() {
        let mut desk = Desk::new();
        let page = |name: &str| format!("<sip:{name}@x.invalid>;reg-id=1;+sip.instance=\"<urn:uuid:1>\"");
        desk.ask(&page("a"), None).unwrap();
        assert_eq!(desk.ask(&page("b"), None).unwrap(), ["sip:b@x.invalid 3600"]);
        for number in 0..MAX_BINDINGS {
            desk.now += SECOND;
            desk.ask(&format!("<sip:a@{number}>"), None).unwrap();
        }
        assert_eq!(desk.contacts().len(), MAX_BINDINGS);
        assert!(!desk.contacts().iter().any(|contact| contact.contains("invalid")), "the oldest gave way");
    }
}
