//! `[media]`: the addresses and ports where callers' sound arrives.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use super::read::Section;
use crate::address::is_public;

/// Where sound travels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Media {
    /// Addresses to open UDP sockets on.
    pub listen: Vec<IpAddr>,
    /// Addresses to tell callers.
    pub advertise: Advertise,
    /// UDP ports.
    pub ports: PortRange,
    /// Threads; 0 is one for each core.
    pub workers: usize,
    /// Of one core, in percent: a worker that takes more takes no new calls.
    pub max_load_percent: u32,
    /// A worker whose tick is later takes no new calls.
    pub max_lateness: Duration,
    /// Whether loopback and private addresses are offered and checked: for tests and closed networks.
    pub allow_private: bool,
}

/// How the addresses to tell callers are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Advertise {
    /// These, as configured.
    Configured(Vec<IpAddr>),
    /// Ask these STUN servers, as `host:port`.
    Stun(Vec<String>),
    /// The addresses that the sockets are bound to. For `0.0.0.0` and `::` that is known only once they are,
    /// so the code that binds them must refuse private ones unless `allow_private`.
    Bound,
}

/// UDP ports from the first to the last, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// At least 1.
    pub first: u16,
    /// At least `first`.
    pub last: u16,
}

impl PortRange {
    /// How many there are.
    pub fn count(self) -> usize {
        usize::from(self.last - self.first) + 1
    }
}

impl FromStr for PortRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (first, last) = text.split_once('-').ok_or(())?;
        let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port > 0).ok_or(());
        let (first, last) = (port(first)?, port(last)?);
        if first > last { Err(()) } else { Ok(Self { first, last }) }
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.first, self.last)
    }
}

impl Media {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let listen = section.list("listen", address);
        let listen = listen.unwrap_or_else(|| vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)]);
        let configured = section.list("advertise", address);
        let stun = section.list("stun", stun_server).filter(|servers| !servers.is_empty());
        let ports = section.text("ports", |text| {
            text.parse().map_err(|()| "give a first and a last port, such as \"40000-40255\"".to_owned())
        });
        let workers = section.whole("workers", 0, 1024).unwrap_or(0) as usize;
        let max_load_percent = section.whole("max_load_percent", 1, 100).unwrap_or(90);
        let max_lateness = section.duration("max_lateness", Duration::from_secs(1));
        let max_lateness = max_lateness.unwrap_or(Duration::from_millis(10));
        let allow_private = section.flag("allow_private").unwrap_or(false);
        let advertise = match (configured, stun) {
            (Some(addresses), _) if !addresses.is_empty() => Advertise::Configured(addresses),
            (_, Some(servers)) => Advertise::Stun(servers),
            (_, None) => Advertise::Bound,
        };
        let ports = ports.unwrap_or(PortRange { first: 40000, last: 40255 });
        let media = Self { listen, advertise, ports, workers, max_load_percent, max_lateness, allow_private };
        media.check(&section);
        section.end();
        media
    }

    fn check(&self, section: &Section<'_, '_>) {
        if self.listen.is_empty() {
            section.note("listen", Some("[]".to_owned()), "give at least one address, such as \"0.0.0.0\"");
        }
        if self.ports.count() < self.workers {
            let advice = format!("{} workers need at least as many ports", self.workers);
            section.note("ports", Some(format!("\"{}\"", self.ports)), advice);
        }
        match &self.advertise {
            Advertise::Configured(addresses) => self.check_advertised(section, addresses),
            Advertise::Bound => self.check_bound(section),
            Advertise::Stun(_) => {}
        }
    }

    fn check_advertised(&self, section: &Section<'_, '_>, addresses: &[IpAddr]) {
        for address in addresses {
            let shown = Some(format!("\"{address}\""));
            if address.is_unspecified() || address.is_multicast() {
                section.note("advertise", shown, "nobody can send to this address: give the public one");
            } else if !self.allow_private && !is_public(*address) {
                section.note("advertise", shown, unreachable_advice(*address));
            } else if !self.listen.iter().any(|listen| listen.is_ipv4() == address.is_ipv4()) {
                let (family, any) = if address.is_ipv4() { ("IPv4", "0.0.0.0") } else { ("IPv6", "::") };
                let advice = format!("media.listen has no {family} address to receive on: add \"{any}\" to it");
                section.note("advertise", shown, advice);
            }
        }
    }

    /// Callers get the bound addresses, so each must be reachable. Wildcards are resolved later.
    fn check_bound(&self, section: &Section<'_, '_>) {
        let is_reachable = |address: &&IpAddr| address.is_unspecified() || is_public(**address);
        for address in self.listen.iter().filter(|address| !self.allow_private && !is_reachable(address)) {
            section.note("listen", Some(format!("\"{address}\"")), unreachable_advice(*address));
        }
    }
}

fn unreachable_advice(address: IpAddr) -> String {
    format!(
        "nobody outside can reach {address}: set media.advertise to the public address, or media.allow_private = \
         true for a closed network"
    )
}

fn address(text: &str) -> Result<IpAddr, String> {
    text.parse().map_err(|_| format!("\"{text}\" is no IP address; give one such as \"203.0.113.7\""))
}

fn stun_server(text: &str) -> Result<String, String> {
    let wrong = || format!("\"{text}\" is no STUN server; give host:port, such as \"stun.example.com:3478\"");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
    if host.is_empty() || host.contains('/') || port.is_none() {
        return Err(wrong());
    }
    Ok(text.to_owned())
}
