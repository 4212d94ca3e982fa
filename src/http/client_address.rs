//! The client's address, also behind a reverse proxy.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;

use crate::address::AddressRange;

const FORWARDED_FOR: &str = "x-forwarded-for";

/// The client's address: the remote end of the connection or, if that is one of our proxies, the last address in
/// `X-Forwarded-For` that is not a proxy. None if a proxy names no client, or no valid address.
///
/// Entries further left are written by the client and prove nothing.
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, proxies: &[AddressRange]) -> Option<IpAddr> {
    let is_proxy = |address: IpAddr| proxies.iter().any(|range| range.contains(address));
    if !is_proxy(peer) {
        return Some(peer);
    }
    let mut client = None;
    for header in headers.get_all(FORWARDED_FOR).iter().rev() {
        for text in header.to_str().ok()?.rsplit(',') {
            let address = address(text.trim())?;
            client = Some(address);
            if !is_proxy(address) {
                return client;
            }
        }
    }
    // Every entry is on our own networks, so the client is too.
    client
}

/// The unit that limits count: an IPv4 address, or the /64 that one IPv6 host chooses its addresses from.
pub(super) fn home_of(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
    }
}

/// Some proxies append the port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address: IpAddr| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(peer: &str, headers: &[&'static str]) -> Option<String> {
        let proxies = ["127.0.0.0/8", "10.0.0.0/8"].map(|range| range.parse().unwrap());
        let mut map = HeaderMap::new();
        for header in headers {
            map.append(FORWARDED_FOR, HeaderValue::from_static(header));
        }
        client_address(peer.parse().unwrap(), &map, &proxies).map(|address| address.to_string())
    }

    #[test]
    fn a_header_is_believed_from_our_proxies_alone_and_only_as_far_as_they_have_written_it() {
        for (peer, headers, found) in [
            ("192.0.2.1", &[][..], Some("192.0.2.1")),
            ("192.0.2.1", &["198.51.100.1"], Some("192.0.2.1")),
            ("127.0.0.1", &["198.51.100.1"], Some("198.51.100.1")),
            ("127.0.0.1", &["203.0.113.9, 198.51.100.1"], Some("198.51.100.1")),
            ("127.0.0.1", &["203.0.113.9", "198.51.100.1,10.1.2.3"], Some("198.51.100.1")),
            ("127.0.0.1", &["10.9.9.9, 198.51.100.1"], Some("198.51.100.1")),
            ("127.0.0.1", &["10.1.2.3"], Some("10.1.2.3")),
            ("10.0.0.1", &["198.51.100.1:4711"], Some("198.51.100.1")),
            ("10.0.0.1", &["[2001:db8::1]:4711"], Some("2001:db8::1")),
            ("10.0.0.1", &["[2001:db8::1]"], Some("2001:db8::1")),
            ("10.0.0.1", &["::ffff:198.51.100.1"], Some("198.51.100.1")),
            ("127.0.0.1", &[], None),
            ("127.0.0.1", &[""], None),
            ("127.0.0.1", &["198.51.100.1, unknown"], None),
            ("127.0.0.1", &["198.51.100.1, 10.0.0.1, _hidden"], None),
        ] {
            assert_eq!(client(peer, headers), found.map(str::to_owned), "{peer} {headers:?}");
        }
    }
}
