//! IP addresses: whether they are public, and ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use url::{Host, Url};

/// IPv4 addresses that cannot be reached from everywhere.
///
/// Source: IANA, "IPv4 Special-Purpose Address Registry", all that is not globally reachable there, and "IPv4 Multicast
/// Address Space Registry". The blocks for documentation are left out, so that examples work ([`DOCUMENTATION`]). Of
/// 192.0.0.0/24 and 192.88.99.0/24 everything is refused, also the few addresses in them that are reachable.
const SPECIAL_V4: [AddressRange; 13] = [
    // This network; RFC 791 §3.2.
    range_v4([0, 0, 0, 0], 8),
    // Private; RFC 1918.
    range_v4([10, 0, 0, 0], 8),
    // Shared by a provider and its customers; RFC 6598. Alibaba's 100.100.100.200 is in it.
    range_v4([100, 64, 0, 0], 10),
    // Loopback; RFC 1122 §3.2.1.3.
    range_v4([127, 0, 0, 0], 8),
    // Link-local; RFC 3927. Most clouds' 169.254.169.254 and .170.2 are in it.
    range_v4([169, 254, 0, 0], 16),
    // Private; RFC 1918.
    range_v4([172, 16, 0, 0], 12),
    // Protocol assignments; RFC 6890 §2.1. Oracle's 192.0.0.192 is in it.
    range_v4([192, 0, 0, 0], 24),
    // Relays of 6to4, deprecated; RFC 7526.
    range_v4([192, 88, 99, 0], 24),
    // Private; RFC 1918.
    range_v4([192, 168, 0, 0], 16),
    // Benchmarks; RFC 2544.
    range_v4([198, 18, 0, 0], 15),
    // Multicast; RFC 5771.
    range_v4([224, 0, 0, 0], 4),
    // Reserved, and the broadcast; RFC 1112 §4, RFC 919 §7.
    range_v4([240, 0, 0, 0], 4),
    // Azure's platform, public by its looks; Microsoft, "What is 168.63.129.16?".
    range_v4([168, 63, 129, 16], 32),
];

/// IPv6 addresses inside of [`GLOBAL_UNICAST`] that cannot be reached from everywhere.
///
/// Source: IANA, "IPv6 Special-Purpose Address Registry". Of 2001::/23 everything is refused, also the few blocks in it
/// that are reachable.
const SPECIAL_V6: [AddressRange; 1] = [
    // Teredo, ORCHID and other protocols' own; RFC 2928, RFC 4380.
    range_v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
];

/// The only IPv6 space from which addresses for everybody are given out; all else is reserved, or for one network: the
/// loopback, unique local addresses (Amazon's fd00:ec2::254, Google's fd20:ce::254), link-local and old site-local ones,
/// multicast, the discard prefix, segment routing. Source: IANA, "Internet Protocol Version 6 Address Space".
const GLOBAL_UNICAST: AddressRange = range_v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);

/// Reserved for documentation.
const DOCUMENTATION: [AddressRange; 5] = [
    // RFC 5737.
    range_v4([192, 0, 2, 0], 24),
    // RFC 5737.
    range_v4([198, 51, 100, 0], 24),
    // RFC 5737.
    range_v4([203, 0, 113, 0], 24),
    // RFC 3849.
    range_v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    // RFC 9637.
    range_v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];

/// IPv6 addresses that stand for an IPv4 address, and in which pair of their groups that is. They are as public as it.
const EMBEDDING: [(AddressRange, usize); 4] = [
    // IPv4-mapped; RFC 4291 §2.5.5.2.
    (range_v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), 6),
    // IPv4-translated; RFC 2765 §2.1.
    (range_v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), 6),
    // The well-known prefix of translators (NAT64); RFC 6052 §2.1. Their own one, RFC 8215, leads wherever they say.
    (range_v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), 6),
    // 6to4; RFC 3056 §2.
    (range_v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), 1),
];

/// Whether a URL leads to this machine or a private network: by a private address, or by a name that only such a network
/// knows (RFC 6761, RFC 6762, RFC 8375, and names without a dot).
pub(crate) fn is_nearby(url: &Url) -> bool {
    url.host().is_some_and(|host| is_nearby_host(&host.to_owned()))
}

/// The same of a host.
pub(crate) fn is_nearby_host(host: &Host<String>) -> bool {
    match host {
        Host::Ipv4(address) => !is_public(IpAddr::V4(*address)),
        Host::Ipv6(address) => !is_public(IpAddr::V6(*address)),
        Host::Domain(name) => {
            let name = name.trim_end_matches('.');
            let last = name.rsplit('.').next().unwrap_or(name);
            !name.contains('.')
                || ["localhost", "local", "internal", "lan", "test"].contains(&last)
                || name.ends_with(".home.arpa")
                || name.ends_with(".svc")
        }
    }
}

/// Whether an address can be reached from anywhere, and is nobody's but its owner's: no cloud's metadata service either.
///
/// Documentation ranges count as public, so that examples work; see [`is_for_documentation`].
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !is_in(&SPECIAL_V4, address),
        IpAddr::V6(address) => match embedded(address) {
            Some(embedded) => is_public(embedded) && !is_tunnel_inside(address),
            None => {
                let is_global = GLOBAL_UNICAST.contains(address.into()) && !is_in(&SPECIAL_V6, address.into());
                is_global && !is_tunnel_inside(address)
            }
        },
    }
}

/// Whether an address is reserved for documentation.
pub(crate) fn is_for_documentation(address: IpAddr) -> bool {
    is_in(&DOCUMENTATION, address)
}

fn is_in(table: &[AddressRange], address: IpAddr) -> bool {
    table.iter().any(|range| range.contains(address))
}

fn embedded(address: Ipv6Addr) -> Option<IpAddr> {
    let (_, group) = EMBEDDING.iter().find(|(range, _)| range.holds_v6(address))?;
    Some(v4_in(address, *group))
}

/// ISATAP (RFC 5214 §6.1): with any prefix, the last 32 bits are an IPv4 address to tunnel to.
fn is_tunnel_inside(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, _, _]) && !is_public(v4_in(address, 6))
}

fn v4_in(address: Ipv6Addr, group: usize) -> IpAddr {
    let groups = address.segments();
    Ipv4Addr::from((u32::from(groups[group]) << 16) | u32::from(groups[group + 1])).into()
}

const fn range_v4(first: [u8; 4], prefix: u32) -> AddressRange {
    let [a, b, c, d] = first;
    AddressRange { first: IpAddr::V4(Ipv4Addr::new(a, b, c, d)), prefix }
}

const fn range_v6(first: [u16; 8], prefix: u32) -> AddressRange {
    let [a, b, c, d, e, f, g, h] = first;
    AddressRange { first: IpAddr::V6(Ipv6Addr::new(a, b, c, d, e, f, g, h)), prefix }
}

/// A range of addresses such as `10.0.0.0/8`, or a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    /// Length of the prefix in bits.
    prefix: u32,
}

impl AddressRange {
    /// Whether the range contains the address. An IPv4 address in an IPv6 notation counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differing = u32::from(first) ^ u32::from(address);
                differing.leading_zeros() >= self.prefix
            }
            (IpAddr::V6(_), IpAddr::V6(address)) => self.holds_v6(address),
            _ => false,
        }
    }

    /// Whether some address is in both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.first) || other.contains(self.first)
    }

    /// The same for an IPv6 address as written.
    fn holds_v6(&self, address: Ipv6Addr) -> bool {
        let IpAddr::V6(first) = self.first else { return false };
        let differing = u128::from(first) ^ u128::from(address);
        differing.leading_zeros() >= self.prefix
    }
}

impl FromStr for AddressRange {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u32>().map_err(|_| ())?)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().map_err(|_| ())?;
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(bits);
        if prefix > bits { Err(()) } else { Ok(Self { first, prefix }) }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
    }

    #[test]
    fn every_range_that_is_not_everybodys_is_known_to_its_edges() {
        for (inside, outside) in [
            (["0.0.0.0", "0.255.255.255"], ["1.0.0.0", "1.0.0.0"]),
            (["10.0.0.0", "10.255.255.255"], ["9.255.255.255", "11.0.0.0"]),
            (["100.64.0.0", "100.127.255.255"], ["100.63.255.255", "100.128.0.0"]),
            (["127.0.0.0", "127.255.255.255"], ["126.255.255.255", "128.0.0.0"]),
            (["169.254.0.0", "169.254.255.255"], ["169.253.255.255", "169.255.0.0"]),
            (["169.254.169.254", "169.254.170.2"], ["169.255.169.254", "169.255.0.1"]),
            (["172.16.0.0", "172.31.255.255"], ["172.15.255.255", "172.32.0.0"]),
            (["192.0.0.0", "192.0.0.255"], ["191.255.255.255", "192.0.1.0"]),
            (["192.88.99.0", "192.88.99.255"], ["192.88.98.255", "192.88.100.0"]),
            (["192.168.0.0", "192.168.255.255"], ["192.167.255.255", "192.169.0.0"]),
            (["198.18.0.0", "198.19.255.255"], ["198.17.255.255", "198.20.0.0"]),
            (["224.0.0.0", "239.255.255.255"], ["223.255.255.255", "223.0.0.1"]),
            (["240.0.0.0", "255.255.255.255"], ["223.255.255.255", "8.8.8.8"]),
            (["::", "::1"], ["2600::", "2a00::1"]),
            (["::7f00:1", "::808:808"], ["2600::808:808", "2600::1"]),
            (["168.63.129.16", "::ffff:168.63.129.16"], ["168.63.129.15", "168.63.129.17"]),
            (["::ffff:0:127.0.0.1", "::ffff:0:169.254.169.254"], ["::ffff:0:8.8.8.8", "::ffff:0:1.1.1.1"]),
            (["64:ff9b::168.63.129.16", "2002:a83f:8110::1"], ["64:ff9b::168.63.129.17", "2002:a83f:8111::1"]),
            (["2600::5efe:10.0.0.1", "2600::200:5efe:7f00:1"], ["2600::5efe:8.8.8.8", "2600::200:5efe:808:808"]),
            (["2002:808:808::5efe:10.0.0.1", "2001:0:808:808::1"], ["2002:808:808::5efe:8.8.8.8", "2001:200::1"]),
            (["::ffff:127.0.0.1", "::ffff:10.0.0.1"], ["::ffff:8.8.8.8", "::ffff:1.1.1.1"]),
            (["64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1"], ["64:ff9b::8.8.8.8", "64:ff9b::1.1.1.1"]),
            (["64:ff9b:1::", "64:ff9b:1::8.8.8.8"], ["64:ff9b::8.8.8.8", "2065::1"]),
            (["100::", "100::ffff:ffff:ffff:ffff"], ["2100::", "2101::1"]),
            (["2001::1", "2001:1ff:ffff::"], ["2001:200::", "2001:4860::8888"]),
            (["2002:7f00:1::", "2002:a00:1::1"], ["2002:808:808::", "2003::1"]),
            (["5f00::", "5f00:ffff::1"], ["2eff::1", "3f01::1"]),
            (["fc00::", "fdff:ffff::1"], ["2bff::1", "2a00::1"]),
            (["fe80::", "febf:ffff::1"], ["2e00::1", "2e7f::1"]),
            (["fec0::", "feff:ffff::1"], ["2e00::1", "2e7f::1"]),
            (["ff00::", "ffff::1"], ["2a00::1", "3b00::1"]),
            (["1fff:ffff::1", "4000::"], ["2000::1", "3fff:ffff::1"]),
        ] {
            inside.iter().for_each(|text| assert!(!is_public(address(text)), "{text}"));
            outside.iter().for_each(|text| assert!(is_public(address(text)), "{text}"));
        }
    }

    /// Metadata services of clouds, which hand out credentials. Sources: each cloud's page on its metadata service.
    #[test]
    fn no_clouds_metadata_service_is_public() {
        for (cloud, text) in [
            ("Amazon EC2, Azure, Google, Oracle, DigitalOcean, Hetzner, OpenStack", "169.254.169.254"),
            ("Amazon EC2", "fd00:ec2::254"),
            ("Amazon ECS", "169.254.170.2"),
            ("Amazon EKS", "169.254.170.23"),
            ("Amazon EKS", "fd00:ec2::23"),
            ("Azure's platform", "168.63.129.16"),
            ("Google", "fd20:ce::254"),
            ("Alibaba", "100.100.100.200"),
            ("Oracle", "192.0.0.192"),
            ("Tencent", "169.254.0.23"),
            ("Scaleway", "169.254.42.42"),
            ("Scaleway", "fd00:42::42"),
        ] {
            assert!(!is_public(address(text)), "{cloud}: {text}");
            if let IpAddr::V4(plain) = address(text) {
                let [a, b, c, d] = plain.octets();
                let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
                for dressed in [
                    format!("::ffff:{plain}"),
                    format!("::ffff:0:{plain}"),
                    format!("::{plain}"),
                    format!("64:ff9b::{plain}"),
                    format!("64:ff9b:1::{plain}"),
                    format!("2002:{high:x}:{low:x}::1"),
                    format!("2001:0:{high:x}:{low:x}::1"),
                    format!("2600::5efe:{plain}"),
                ] {
                    assert!(!is_public(address(&dressed)), "{cloud}: {dressed}");
                }
            }
        }
    }

    #[test]
    fn addresses_of_examples_are_public_and_known_for_what_they_are() {
        for text in ["192.0.2.1", "198.51.100.7", "203.0.113.7", "2001:db8::7", "3fff:fff::1", "::ffff:203.0.113.7"] {
            assert!(is_public(address(text)) && is_for_documentation(address(text)), "{text}");
        }
        for text in ["203.0.114.1", "2001:db9::1", "3fff:1000::1", "8.8.8.8", "10.0.0.1"] {
            assert!(!is_for_documentation(address(text)), "{text}");
        }
    }

    #[test]
    fn a_range_holds_its_addresses_and_no_others() {
        for (range, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("10.1.2.3", "10.1.2.3", "10.1.2.4"),
            ("10.1.2.3/8", "10.255.0.1", "11.0.0.0"),
            ("0.0.0.0/0", "255.255.255.255", "::1"),
            ("fd00::/8", "fdff::1", "fc00::1"),
            ("::1", "::1", "::2"),
            ("::/0", "ff00::1", "1.2.3.4"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::ffff:11.0.0.1"),
        ] {
            let parsed: AddressRange = range.parse().unwrap();
            assert!(parsed.contains(address(inside)), "{inside} in {range}");
            assert!(!parsed.contains(address(outside)), "{outside} in {range}");
            assert_eq!(parsed.to_string().parse(), Ok(parsed));
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/", "10.0.0.0/-1", "localhost", "/8"] {
            assert_eq!(wrong.parse::<AddressRange>(), Err(()), "{wrong}");
        }
    }
}
