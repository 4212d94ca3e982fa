//! Which remote addresses may be sent to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Whether an address from an SDP may be sent connectivity checks.
///
/// Otherwise an SDP could make this machine probe its own network. Multicast, broadcast and unspecified addresses are
/// never sent to; private ones only if the operator allows it.
pub(crate) fn is_allowed(address: SocketAddr, allow_private: bool) -> bool {
    let ip = address.ip().to_canonical();
    let reachable = match ip {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_multicast() && !ip.is_broadcast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    address.port() != 0 && reachable && (allow_private || !is_private(ip))
}

fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback() || ip.is_link_local() || is_this_network_or_shared(ip),
        IpAddr::V6(ip) => {
            let is_embedded = embedded(ip).is_some_and(|ip| is_private(ip.into()));
            ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local() || is_embedded
        }
    }
}

/// The IPv4 address that an IPv6 one leads to: IPv4-compatible (RFC 4291 §2.5.5.1), IPv4-translated (RFC 2765 §2.1), a
/// translator's (RFC 6052 §2.1), or 6to4's (RFC 3056 §2).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    match ip.segments() {
        [0, 0, 0, 0, 0 | 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, _, _, _, _, _] => Some(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low))),
        _ => None,
    }
}

/// 0.0.0.0/8 (RFC 1122) and the carriers' 100.64.0.0/10 (RFC 6598).
fn is_this_network_or_shared(ip: Ipv4Addr) -> bool {
    let [first, second, ..] = ip.octets();
    first == 0 || (first == 100 && (64..128).contains(&second))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(text: &str, allow_private: bool) -> bool {
        is_allowed(text.parse().unwrap(), allow_private)
    }

    #[test]
    fn private_addresses_need_permission() {
        for text in [
            "10.0.0.1:5",
            "192.168.1.1:5",
            "127.0.0.1:5",
            "169.254.0.1:5",
            "100.64.0.1:5",
            "[::1]:5",
            "[fd00::1]:5",
            "[fe80::1]:5",
            "[::ffff:10.0.0.1]:5",
            "0.1.2.3:5",
            "[::ffff:0:127.0.0.1]:5",
            "[::10.0.0.1]:5",
            "[64:ff9b::169.254.169.254]:5",
            "[2002:c0a8:101::1]:5",
        ] {
            assert!(!allowed(text, false), "{text}");
            assert!(allowed(text, true), "{text}");
        }
    }

    #[test]
    fn nobody_may_make_us_send_to_everybody() {
        for text in ["224.0.0.1:5", "[ff02::1]:5", "255.255.255.255:5", "0.0.0.0:5", "[::]:5", "203.0.113.1:0"] {
            assert!(!allowed(text, true), "{text}");
        }
    }

    #[test]
    fn public_addresses_are_welcome() {
        for text in
            ["203.0.113.50:3480", "[2001:db8::1]:3480", "157.240.1.1:3478", "100.128.0.1:5", "[64:ff9b::8.8.8.8]:5"]
        {
            assert!(allowed(text, false), "{text}");
        }
    }
}
