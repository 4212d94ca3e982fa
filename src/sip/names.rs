//! Names: the addresses of hosts. An address stays the same for a while, so that all requests of a call go to one place.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rsipstack::transport::SipAddr;
use rsipstack::transport::transport_layer::DomainResolver;
use tokio::time::timeout;

use super::uri::{Host, SipUri};
use crate::clock;

/// For one look-up.
const WITHIN: Duration = Duration::from_secs(3);
/// Longer than an INVITE takes with its CANCEL.
const PINNED_FOR: Duration = Duration::from_secs(120);
const MAX_PINNED: usize = 1000;

/// Looks names up. Only addresses (A, AAAA) are asked for.
#[derive(Default)]
pub(super) struct Names {
    pinned: Mutex<HashMap<(String, u16), (SocketAddr, Instant)>>,
}

impl Names {
    /// The address of a phone or proxy. The error names no host.
    pub async fn find(&self, uri: &SipUri) -> Result<SocketAddr, &'static str> {
        match &uri.host {
            Host::Address(address) => Ok(SocketAddr::new(*address, uri.port_or_usual())),
            Host::Name(name) => self.look_up(name, uri.port_or_usual()).await,
        }
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
        let found = timeout(WITHIN, tokio::net::lookup_host((name, port))).await;
        let found = found.map_err(|_| "its name was not resolved in time")?.map_err(|_| "its name does not exist")?;
        // IPv4 first: a phone system rarely has both, and then this one is kept.
        let address = found.min_by_key(SocketAddr::is_ipv6).ok_or("its name has no address")?;
        let mut pinned = self.pinned();
        if pinned.len() >= MAX_PINNED {
            pinned.retain(|_, (_, until)| now < *until);
        }
        if pinned.len() < MAX_PINNED {
            pinned.insert(key, (address, now + PINNED_FOR));
        }
        Ok(address)
    }

    /// The lock is held for a look-up in memory only, and the map is valid at every step.
    fn pinned(&self) -> MutexGuard<'_, HashMap<(String, u16), (SocketAddr, Instant)>> {
        self.pinned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For the library's own requests in a dialog: CANCEL, ACK, BYE.
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
