//! Names: the servers and addresses of hosts, by the DNS. `locate` says what its answers mean.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use rsipstack::transport::SipAddr;
use rsipstack::transport::transport_layer::DomainResolver;
use tokio::time::timeout;

use super::locate::{self, Naptr, Server, Srv, Start};
use super::uri::{Host, SipUri, Transport};
use crate::clock;

/// For all questions about one address.
const WITHIN: Duration = Duration::from_secs(3);
/// For those about its services: a DNS that does not know such questions leaves time for the address.
const SERVICES_WITHIN: Duration = Duration::from_millis(1500);
/// Longer than an INVITE takes with its CANCEL.
const PINNED_FOR: Duration = Duration::from_secs(120);
const MAX_PINNED: usize = 1000;
/// Servers that one call tries for one address.
const MAX_HOPS: usize = 4;
/// Most domains have no services. That is remembered for so long if the DNS does not say how long.
const ABSENT_FOR: Duration = Duration::from_secs(60);

/// Looks names up.
pub(super) struct Names {
    /// None if the system says nothing of a DNS server: then only addresses are looked up, by the system's own ways.
    dns: Option<TokioResolver>,
    /// The configuration names a DNS server, which knows addresses too.
    is_named: bool,
    /// What something listens for here.
    usable: Vec<Transport>,
    pinned: Mutex<HashMap<(String, u16), (SocketAddr, Instant)>>,
}

/// Where to send, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub address: SocketAddr,
    pub transport: Transport,
}

impl Names {
    /// By this DNS server, or by the system's.
    pub fn new(server: Option<SocketAddr>, usable: Vec<Transport>) -> Self {
        let dns = match server {
            Some(server) => resolver_at(server),
            None => TokioResolver::builder_tokio().and_then(|mut builder| {
                builder.options_mut().negative_min_ttl = Some(ABSENT_FOR);
                builder.build()
            }),
        };
        Self { dns: dns.ok(), is_named: server.is_some(), usable, pinned: Mutex::default() }
    }

    /// The ways to a phone or proxy, the preferred one first; at least one. The error names no host.
    pub async fn find(&self, uri: &SipUri) -> Result<Vec<Hop>, &'static str> {
        timeout(WITHIN, self.hops(uri)).await.unwrap_or(Err("its name was not resolved in time"))
    }

    async fn hops(&self, uri: &SipUri) -> Result<Vec<Hop>, &'static str> {
        let of_address = Server { host: uri.host.clone(), port: uri.port_or_usual(), transport: uri.transport() };
        let servers = match locate::start(uri, &self.usable) {
            Start::Server(server) => vec![server],
            Start::Domain { name, transports } => {
                let found = timeout(SERVICES_WITHIN, self.servers_of(&name, &transports)).await.unwrap_or_default();
                if found.is_empty() { vec![of_address] } else { found }
            }
        };
        let (mut hops, mut failure) = (Vec::new(), "its name has no address");
        for Server { host, port, transport } in servers {
            let found = match host {
                Host::Address(address) => Ok(SocketAddr::new(address, port)),
                Host::Name(name) => self.look_up(&name, port).await,
            };
            match found {
                Ok(address) => hops.push(Hop { address, transport }),
                Err(why) => failure = why,
            }
            if hops.len() == MAX_HOPS {
                break;
            }
        }
        if hops.is_empty() { Err(failure) } else { Ok(hops) }
    }

    /// The servers of a domain, by its NAPTR records, or by SRV records of the usual names.
    async fn servers_of(&self, name: &str, transports: &[Transport]) -> Vec<Server> {
        // A name without a dot is a host of a local network.
        let Some(dns) = self.dns.as_ref().filter(|_| name.contains('.')) else { return Vec::new() };
        let ask_for_services = transports.len() > 1;
        let usual = transports.iter().map(|transport| (*transport, locate::service_name(name, *transport)));
        let usual: Vec<(Transport, String)> = usual.collect();
        let services = match ask_for_services {
            true => {
                let records = records(dns, name, RecordType::NAPTR).await;
                locate::services(records.iter().filter_map(naptr).collect(), transports)
            }
            false => Vec::new(),
        };
        let services = if services.is_empty() { usual } else { services };
        let asked = join_all(services.iter().map(|(_, service)| records(dns, service, RecordType::SRV))).await;
        let servers = services.into_iter().zip(asked).flat_map(|((transport, _), records)| {
            locate::servers(records.iter().filter_map(srv).collect(), transport, &mut rand::rng())
        });
        servers.take(MAX_HOPS).collect()
    }

    async fn look_up(&self, name: &str, port: u16) -> Result<SocketAddr, &'static str> {
        // RFC 6761 §6.4. Phones in browsers give such names: they are reached over their own connection or not at all.
        if name.to_ascii_lowercase().trim_end_matches('.').ends_with(".invalid") {
            return Err("its name does not exist");
        }
        let key = (name.to_ascii_lowercase(), port);
        let now = clock::now();
        if let Some((address, until)) = self.pinned().get(&key).copied()
            && now < until
        {
            return Ok(address);
        }
        let found = timeout(WITHIN, self.addresses(name)).await;
        let mut found = found.map_err(|_| "its name was not resolved in time")?.ok_or("its name does not exist")?;
        // IPv4 first: a phone system rarely has both, and then this one is kept.
        found.sort_by_key(IpAddr::is_ipv6);
        let address = SocketAddr::new(*found.first().ok_or("its name has no address")?, port);
        let mut pinned = self.pinned();
        if pinned.len() >= MAX_PINNED {
            pinned.retain(|_, (_, until)| now < *until);
        }
        if pinned.len() < MAX_PINNED {
            pinned.insert(key, (address, now + PINNED_FOR));
        }
        Ok(address)
    }

    /// The system knows more names than the DNS, unless the configuration names a server.
    async fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        match self.dns.as_ref().filter(|_| self.is_named) {
            Some(dns) => Some(dns.lookup_ip(name).await.ok()?.iter().collect()),
            None => Some(tokio::net::lookup_host((name, 0)).await.ok()?.map(|found| found.ip()).collect()),
        }
    }

    /// The lock is held for a look-up in memory only, and the map is valid at every step.
    fn pinned(&self) -> MutexGuard<'_, HashMap<(String, u16), (SocketAddr, Instant)>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn resolver_at(server: SocketAddr) -> Result<TokioResolver, hickory_resolver::net::NetError> {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
        connection.port = server.port();
        connection
    });
    let server = NameServerConfig::new(server.ip(), true, connections.to_vec());
    let config = ResolverConfig::from_name_servers(vec![server]);
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.options_mut().negative_min_ttl = Some(ABSENT_FOR);
    builder.build()
}

/// None of them if the DNS does not know, or does not answer.
async fn records(dns: &TokioResolver, name: &str, kind: RecordType) -> Vec<RData> {
    // With a dot at its end no search domain is tried.
    let found = dns.lookup(format!("{name}."), kind).await;
    found.map(|found| found.answers().iter().map(|record| record.data.clone()).collect()).unwrap_or_default()
}

fn naptr(record: &RData) -> Option<Naptr> {
    let RData::NAPTR(record) = record else { return None };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some(Naptr {
        order: record.order,
        preference: record.preference,
        flags: text(&record.flags).to_ascii_lowercase(),
        service: text(&record.services).to_ascii_uppercase(),
        replacement: record.replacement.to_ascii().trim_end_matches('.').to_owned(),
    })
}

fn srv(record: &RData) -> Option<Srv> {
    let RData::SRV(record) = record else { return None };
    let target = record.target.to_ascii().trim_end_matches('.').to_owned();
    Some(Srv { priority: record.priority, weight: record.weight, port: record.port, target })
}

/// For requests of the library's own in a dialog, to hosts that a phone names in its Contact or Record-Route.
pub(super) struct LibraryNames(pub std::sync::Arc<Names>);

#[async_trait]
impl DomainResolver for LibraryNames {
    async fn resolve(&self, target: &SipAddr) -> rsipstack::Result<SipAddr> {
        let transport = target.r#type.unwrap_or_default();
        let port = target.addr.port.map_or_else(|| transport.default_port().into(), u16::from);
        let name = target.addr.host.to_string();
        let address = self.0.look_up(&name, port).await;
        let address = address.map_err(|error| rsipstack::Error::DnsResolutionError(error.to_owned()))?;
        Ok(SipAddr { r#type: Some(transport), addr: address.into() })
    }
}
