//! `[sip]`: where the user agent listens, and what phones may do.

use std::net::IpAddr;
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
}

impl Sip {
    /// None if nothing is to listen.
    pub(super) fn read(mut section: Section<'_, '_>) -> Option<Self> {
        const SECOND: Duration = Duration::from_secs(1);
        if ["advertise", "ring_timeout", "refer_to"].into_iter().any(|key| section.has(key)) {
            section.require("listen", "give [\"udp:0.0.0.0:5060\"]");
        }
        let listen = section.list("listen", Listen::parse);
        if listen.as_ref().is_some_and(Vec::is_empty) {
            section.note("listen", Some("[]".to_owned()), "give [\"udp:0.0.0.0:5060\"], or leave it out");
        }
        let unbuilt = listen.iter().flatten().find(|listen| listen.transport != Transport::Udp);
        if let Some(unbuilt) = unbuilt {
            let advice = "TCP and TLS are not built yet: give udp:ADDRESS:PORT";
            section.note("listen", Some(format!("\"{unbuilt}\"")), advice);
        }
        let advertise = section.list("advertise", |text| {
            text.parse::<IpAddr>().map_err(|_| "give addresses such as \"203.0.113.7\"".to_owned())
        });
        let ring_timeout = section.duration("ring_timeout", 60 * SECOND).unwrap_or(20 * SECOND);
        let refer_to = section.list("refer_to", ReferRule::parse).unwrap_or_default();
        section.end();
        Some(Self { listen: listen?, advertise: advertise.unwrap_or_default(), ring_timeout, refer_to })
    }
}

/// Notes each target of a route that the user agent cannot call.
pub(super) fn check_routes<'r>(root: &Section<'_, '_>, routes: impl Iterator<Item = &'r Route>, is_given: bool) {
    for route in routes {
        for (index, target) in route.targets.iter().enumerate() {
            let AgentTarget::Sip(uri) = target else { continue };
            let place = match index {
                0 => format!("routes.{}.agent", route.name),
                _ => format!("routes.{}.fallback", route.name),
            };
            if let Some(advice) = advice_for(uri, is_given) {
                root.note(&place, Some(format!("\"{uri}\"")), advice);
            }
        }
    }
}

fn advice_for(uri: &SipUri, is_given: bool) -> Option<&'static str> {
    match uri.transport() {
        _ if !is_given => Some("sip.listen is not set: add [sip] with listen = [\"udp:0.0.0.0:5060\"]"),
        Transport::Udp => None,
        Transport::Tcp | Transport::Tls => Some("TCP and TLS are not built yet: give sip: without a transport"),
    }
}
