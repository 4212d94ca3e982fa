//! The advertised address: configured, found by STUN, or the sockets' own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::net::{UdpSocket, lookup_host};
use tokio::time::timeout;

use crate::address::is_public;
use crate::config::media::{Advertise, Media};

/// RFC 8489 §6.2.1 waits 500 ms before it repeats a request.
const STUN_WAIT: Duration = Duration::from_millis(500);
const STUN_TRIES: usize = 4;
const STUN_MAGIC_COOKIE: u32 = 0x2112_A442;

/// One pair for each listen address: the bound address and the advertised one.
/// An error says what to set.
pub async fn find(media: &Media) -> anyhow::Result<Vec<(IpAddr, IpAddr)>> {
    let mut pairs = Vec::new();
    for listen in &media.listen {
        if let Some(advertised) = advertised_for(*listen, media).await? {
            if !media.allow_private && !is_public(advertised) {
                bail!(
                    "{advertised} is not reachable from the internet: set media.advertise to the public address, or \
                     media.allow_private = true for a closed network"
                );
            }
            pairs.push((*listen, advertised));
        }
    }
    if pairs.is_empty() {
        bail!("no address to advertise was found: set media.advertise to the public address of this machine");
    }
    Ok(pairs)
}

/// None if this machine has no address of the family, as on hosts without IPv6.
async fn advertised_for(listen: IpAddr, media: &Media) -> anyhow::Result<Option<IpAddr>> {
    match &media.advertise {
        Advertise::Configured(addresses) => {
            Ok(addresses.iter().copied().find(|address| address.is_ipv4() == listen.is_ipv4()))
        }
        Advertise::Stun(servers) => ask_stun(listen, servers).await.map(Some),
        Advertise::Bound if listen.is_unspecified() => Ok(own_address(listen).await),
        Advertise::Bound => Ok(Some(listen)),
    }
}

/// The address this machine would send from. Connecting a UDP socket sends nothing.
async fn own_address(listen: IpAddr) -> Option<IpAddr> {
    // Documentation addresses (RFC 5737, RFC 3849): any address beyond this network does.
    let beyond: IpAddr = match listen {
        IpAddr::V4(_) => Ipv4Addr::new(192, 0, 2, 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
    };
    let socket = UdpSocket::bind((listen, 0)).await.ok()?;
    socket.connect((beyond, 9)).await.ok()?;
    Some(socket.local_addr().ok()?.ip())
}

async fn ask_stun(listen: IpAddr, servers: &[String]) -> anyhow::Result<IpAddr> {
    let mut failures = Vec::new();
    for server in servers {
        match ask_one(listen, server).await {
            Ok(address) => return Ok(address),
            Err(error) => failures.push(format!("{server}: {error:#}")),
        }
    }
    bail!(
        "no STUN server of media.stun answered ({}): is UDP open? Or set media.advertise to the public address",
        failures.join("; ")
    )
}

async fn ask_one(listen: IpAddr, server: &str) -> anyhow::Result<IpAddr> {
    let same_family = |address: &SocketAddr| address.is_ipv4() == listen.is_ipv4();
    let server = lookup_host(server).await?.find(same_family).context("no address of this family")?;
    let socket = UdpSocket::bind((listen, 0)).await?;
    socket.connect(server).await?;
    let transaction: [u8; 12] = rand::random();
    let mut reply = [0; 512];
    for _ in 0..STUN_TRIES {
        socket.send(&binding_request(transaction)).await?;
        if let Ok(Ok(length)) = timeout(STUN_WAIT, socket.recv(&mut reply)).await
            && let Some(mapped) = mapped_address(&reply[..length], transaction)
        {
            return Ok(mapped.ip());
        }
    }
    bail!("no answer")
}

/// RFC 8489 §5: type, length, cookie, transaction.
fn binding_request(transaction: [u8; 12]) -> [u8; 20] {
    let mut request = [0; 20];
    request[1] = 0x01;
    request[4..8].copy_from_slice(&STUN_MAGIC_COOKIE.to_be_bytes());
    request[8..].copy_from_slice(&transaction);
    request
}

/// XOR-MAPPED-ADDRESS of a success response to this transaction (RFC 8489 §14.2).
fn mapped_address(reply: &[u8], transaction: [u8; 12]) -> Option<SocketAddr> {
    let (header, mut attributes) = reply.split_at_checked(20)?;
    if header[..2] != [0x01, 0x01] || header[4..8] != STUN_MAGIC_COOKIE.to_be_bytes() || header[8..] != transaction {
        return None;
    }
    while let Some((head, rest)) = attributes.split_at_checked(4) {
        let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
        let value = rest.get(..length)?;
        if head[..2] == [0x00, 0x20] {
            return unmask(value, &header[4..20]);
        }
        attributes = rest.get(length.next_multiple_of(4)..)?;
    }
    None
}

fn unmask(value: &[u8], mask: &[u8]) -> Option<SocketAddr> {
    let (head, address) = value.split_at_checked(4)?;
    let port = u16::from_be_bytes([head[2] ^ mask[0], head[3] ^ mask[1]]);
    let unmasked: Vec<u8> = address.iter().zip(mask).map(|(byte, mask)| byte ^ mask).collect();
    let ip = match head[1] {
        1 => IpAddr::from(<[u8; 4]>::try_from(unmasked).ok()?),
        2 => IpAddr::from(<[u8; 16]>::try_from(unmasked).ok()?),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 5769 §2.2 and §2.3, sample responses: 192.0.2.1 port 32853 and 2001:db8:1234:5678:11:2233:4455:6677.
    const TRANSACTION: [u8; 12] = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];

    fn response(attribute: &[u8]) -> Vec<u8> {
        let mut reply = binding_request(TRANSACTION).to_vec();
        reply[0] = 0x01;
        reply[3] = attribute.len() as u8;
        reply.extend_from_slice(attribute);
        reply
    }

    #[tokio::test]
    async fn stun_servers_that_do_not_help_are_each_named_with_the_cause() {
        // No name has a label of more than 63 octets, and no IPv6 server helps an IPv4 socket.
        let servers = [format!("{}:3478", "a".repeat(64)), "[::1]:3478".to_owned()];
        let error = ask_stun(Ipv4Addr::LOCALHOST.into(), &servers).await.unwrap_err().to_string();
        assert!(error.contains("a:3478: ") && error.contains("[::1]:3478: no address of this family"), "{error}");
    }

    #[test]
    fn the_rfcs_sample_addresses_are_read() {
        let v4 = response(&[0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(mapped_address(&v4, TRANSACTION), Some("192.0.2.1:32853".parse().unwrap()));
        let v6 = response(&[
            0x00, 0x20, 0x00, 0x14, 0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25,
            0xf4, 0xb5, 0xbe, 0xd2, 0xb9, 0xd9,
        ]);
        let expected = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(mapped_address(&v6, TRANSACTION), Some(expected));
    }

    #[test]
    fn foreign_replies_are_not_believed() {
        let mut reply = response(&[0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43]);
        assert_eq!(mapped_address(&reply, [0; 12]), None);
        reply.truncate(27);
        assert_eq!(mapped_address(&reply, TRANSACTION), None);
        for length in 0..reply.len() {
            assert_eq!(mapped_address(&reply[..length], TRANSACTION), None);
        }
    }
}
