//! IP addresses: which of them anybody can reach, and ranges of them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Whether an address can be reached from anywhere.
///
/// Ranges: IANA's registries of special-purpose addresses (RFC 6890). An IPv6 address that only wraps an IPv4 one is as
/// public as that one. Documentation ranges count as public, so that examples work; see [`is_for_documentation`].
pub(crate) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match wrapped(address) {
            Some(wrapped) => is_public_v4(wrapped),
            None => is_public_v6(address),
        },
    }
}

/// Whether an address is set aside for examples (RFC 5737, RFC 3849, RFC 9637): nobody is there.
pub(crate) fn is_for_documentation(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => address.is_documentation(),
        IpAddr::V6(address) => match address.segments() {
            [0x2001, 0x0db8, ..] => true,
            [0x3fff, second, ..] => second < 0x1000,
            _ => false,
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !match address.octets() {
        // This network; RFC 1122 §3.2.1.3.
        [0, ..] => true,
        // Shared between a provider and its customers; RFC 6598.
        [100, second, ..] => (64..128).contains(&second),
        // Protocol assignments, and the old relays of 6to4; RFC 6890, RFC 7526.
        [192, 0, 0, _] | [192, 88, 99, _] => true,
        // Benchmarks; RFC 2544.
        [198, 18 | 19, ..] => true,
        // Reserved, and the broadcast.
        [240..=255, ..] => true,
        _ => address.is_loopback() || address.is_private() || address.is_link_local() || address.is_multicast(),
    }
}

/// Not for addresses that wrap one of IPv4.
fn is_public_v6(address: Ipv6Addr) -> bool {
    !match address.segments() {
        // Unspecified, loopback, and what was once an IPv4 address with zeros before it (RFC 4291 §2.5.5.1).
        [0, 0, 0, 0, 0, 0, _, _] => true,
        // A translator's own prefix (RFC 8215), which leads wherever its operator says.
        [0x0064, 0xff9b, 1, ..] => true,
        // Discarded; RFC 6666.
        [0x0100, 0, 0, _, ..] => true,
        // Teredo, ORCHID and other protocols' own (RFC 2928).
        [0x2001, second, ..] => second < 0x0200,
        // Segment routing inside of one network; RFC 9602.
        [0x5f00, ..] => true,
        // Site-local, as it was before RFC 3879.
        [first, ..] if first & 0xffc0 == 0xfec0 => true,
        _ => address.is_unique_local() || address.is_unicast_link_local() || address.is_multicast(),
    }
}

/// The IPv4 address behind one of a translator (RFC 6052) or of 6to4 (RFC 3056).
fn wrapped(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(of(high, low)),
        _ => None,
    }
}

/// A range of addresses such as `10.0.0.0/8`; a single address is one as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressRange {
    first: IpAddr,
    /// Leading bits that all have in common.
    prefix: u32,
}

impl AddressRange {
    /// Whether the address is in it. An IPv4 address in IPv6's clothes is looked at as what it is.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address.to_canonical()) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                let differing = u32::from(first) ^ u32::from(address);
                differing.leading_zeros() >= self.prefix
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                let differing = u128::from(first) ^ u128::from(address);
                differing.leading_zeros() >= self.prefix
            }
            _ => false,
        }
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
            (["::ffff:127.0.0.1", "::ffff:10.0.0.1"], ["::ffff:8.8.8.8", "::ffff:1.1.1.1"]),
            (["64:ff9b::10.0.0.1", "64:ff9b::127.0.0.1"], ["64:ff9b::8.8.8.8", "64:ff9b::1.1.1.1"]),
            (["64:ff9b:1::", "64:ff9b:1::8.8.8.8"], ["64:ff9b::8.8.8.8", "65::1"]),
            (["100::", "100::ffff:ffff:ffff:ffff"], ["100:0:1::", "101::1"]),
            (["2001::1", "2001:1ff:ffff::"], ["2001:200::", "2001:4860::8888"]),
            (["2002:7f00:1::", "2002:a00:1::1"], ["2002:808:808::", "2003::1"]),
            (["5f00::", "5f00:ffff::1"], ["5eff::1", "5f01::1"]),
            (["fc00::", "fdff:ffff::1"], ["fbff::1", "2a00::1"]),
            (["fe80::", "febf:ffff::1"], ["fe00::1", "fe7f::1"]),
            (["fec0::", "feff:ffff::1"], ["fe00::1", "fe7f::1"]),
            (["ff00::", "ffff::1"], ["2a00::1", "fb00::1"]),
        ] {
            inside.iter().for_each(|text| assert!(!is_public(address(text)), "{text}"));
            outside.iter().for_each(|text| assert!(is_public(address(text)), "{text}"));
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
