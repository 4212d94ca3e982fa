//! One `a=candidate` line (RFC 8839 §5.1): an address of the remote.

use std::net::{IpAddr, SocketAddr};

/// A UDP address of the remote, with its priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Its address.
    pub address: SocketAddr,
    /// The higher, the more the remote prefers it.
    pub priority: u32,
}

impl Candidate {
    /// Reads the part after `a=candidate:`.
    ///
    /// None for everything we cannot use: TCP, the RTCP component, mDNS names, port 0, malformed lines. They are skipped
    /// and do not fail a call, as are extensions after the type.
    pub(super) fn parse(value: &str) -> Option<Candidate> {
        let mut words = value.split_ascii_whitespace();
        let _foundation = words.next()?;
        let component = words.next()?;
        let transport = words.next()?;
        let priority = words.next()?.parse().ok()?;
        let ip: IpAddr = words.next()?.parse().ok()?;
        let port: u16 = words.next()?.parse().ok()?;
        let usable = component == "1" && transport.eq_ignore_ascii_case("udp") && port != 0;
        usable.then_some(Candidate { address: SocketAddr::new(ip, port), priority })
    }

    /// The priority of our own host candidate number `index` (RFC 8445 §5.1.2.1).
    pub(crate) fn host_priority(index: usize) -> u32 {
        const HOST_PREFERENCE: u32 = 126;
        let local_preference = 65_535 - u32::try_from(index.min(65_535)).unwrap_or(65_535);
        (HOST_PREFERENCE << 24) | (local_preference << 8) | 255
    }
}
