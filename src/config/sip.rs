//! `[sip]`: where the user agent listens, and what phones may do.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::read::Section;
use crate::agent::AgentTarget;
use crate::routes::Route;
use crate::sip::{Listen, ReferRule, SipUri, Transport};

/// The SIP user agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sip {
    /// Where it listens; not empty.
    pub listen: Vec<Listen>,
    /// The addresses that phones are told, one of each family; those of `[media]` if empty.
    pub advertise: Vec<IpAddr>,
    /// How long a phone rings.
    pub ring_timeout: Duration,
    /// Whom a phone may hand its caller over to.
    pub refer_to: Vec<ReferRule>,
    /// Certificates.
    pub tls: SipTls,
}

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
    pub(super) fn read(mut section: Section<'_, '_>) -> Option<Self> {
        const SECOND: Duration = Duration::from_secs(1);
        if ["advertise", "ring_timeout", "refer_to", "tls"].into_iter().any(|key| section.has(key)) {
            section.require("listen", "give [\"udp:0.0.0.0:5060\"]");
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
        section.end();
        Some(Self { listen: listen?, advertise: advertise.unwrap_or_default(), ring_timeout, refer_to, tls })
    }
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
            let AgentTarget::Sip(uri) = target else { continue };
            let place = match index {
                0 => format!("routes.{}.agent", route.name),
                _ => format!("routes.{}.fallback", route.name),
            };
            if let Some(advice) = advice_for(uri, sip, is_given) {
                root.note(&place, Some(format!("\"{uri}\"")), advice);
            }
        }
    }
}

fn advice_for(uri: &SipUri, sip: Option<&Sip>, is_given: bool) -> Option<&'static str> {
    if !is_given {
        return Some("sip.listen is not set: add [sip] with listen = [\"udp:0.0.0.0:5060\"]");
    }
    // A connection needs no listener: phones answer on it.
    let needs_udp = uri.transport() == Transport::Udp;
    let has_udp = sip.is_none_or(|sip| sip.listen.iter().any(|listen| listen.transport == Transport::Udp));
    let advice =
        "nothing listens on UDP: add \"udp:0.0.0.0:5060\" to sip.listen, or give ;transport=tcp or ;transport=tls";
    (needs_udp && !has_udp).then_some(advice)
}
