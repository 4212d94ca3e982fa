//! A DNS server: what it is told of each name, over UDP on loopback, with messages written by hand (RFC 1035).

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

const CLASS_IN: u16 = 1;
const NAME_ERROR: u16 = 3;
const TTL_SECONDS: u32 = 60;

/// What a name has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsRecord {
    /// RFC 1035 §3.4.1.
    A(Ipv4Addr),
    /// RFC 2782.
    Srv {
        /// Lower goes first.
        priority: u16,
        /// Share among equals.
        weight: u16,
        /// Where the server listens.
        port: u16,
        /// Its name.
        target: String,
    },
    /// RFC 3403, with the flag `s`.
    Naptr {
        /// Lower goes first.
        order: u16,
        /// Such as `SIP+D2U`.
        service: String,
        /// The name of its SRV records.
        replacement: String,
    },
}

/// A server that knows some names; others do not exist.
pub struct DnsServer {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<(String, u16)>>>,
    task: JoinHandle<()>,
}

impl DnsServer {
    /// Starts one at a port of its own.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(records: &[(&str, DnsRecord)]) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0").await.context("bind a DNS server")?;
        let (address, asked) = (socket.local_addr()?, Arc::<Mutex<Vec<_>>>::default());
        let mut known: BTreeMap<String, Vec<DnsRecord>> = BTreeMap::new();
        for (name, record) in records {
            known.entry((*name).to_owned()).or_default().push(record.clone());
        }
        let task = tokio::spawn(serve(socket, known, asked.clone()));
        Ok(Self { address, asked, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The questions so far: a name, and the number of a type.
    #[must_use]
    pub fn asked(&self) -> Vec<(String, u16)> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl DnsRecord {
    fn kind(&self) -> u16 {
        match self {
            Self::A(_) => 1,
            Self::Srv { .. } => 33,
            Self::Naptr { .. } => 35,
        }
    }

    fn data(&self) -> Vec<u8> {
        let mut data = Vec::new();
        match self {
            Self::A(address) => data.extend(address.octets()),
            Self::Srv { priority, weight, port, target } => {
                [priority, weight, port].into_iter().for_each(|number| data.extend(number.to_be_bytes()));
                data.extend(name(target));
            }
            Self::Naptr { order, service, replacement } => {
                [*order, 0].into_iter().for_each(|number| data.extend(number.to_be_bytes()));
                for text in ["s", service, ""] {
                    data.push(text.len() as u8);
                    data.extend(text.as_bytes());
                }
                data.extend(name(replacement));
            }
        }
        data
    }
}

fn name(text: &str) -> Vec<u8> {
    let labels = text.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

async fn serve(socket: UdpSocket, known: BTreeMap<String, Vec<DnsRecord>>, asked: Arc<Mutex<Vec<(String, u16)>>>) {
    let mut buffer = [0; 1500];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        let Some((question, end, kind)) = question(&buffer[..length]) else { continue };
        asked.lock().unwrap_or_else(PoisonError::into_inner).push((question.clone(), kind));
        let response = answer(&buffer[..end], known.get(&question), kind);
        // Whoever asked may have gone.
        let _ = socket.send_to(&response, from).await;
    }
}

/// The name that is asked for in lower case, where the question ends, and the type.
fn question(bytes: &[u8]) -> Option<(String, usize, u16)> {
    let (mut labels, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
    Some((labels.join("."), at + 4, kind))
}

fn answer(question: &[u8], records: Option<&Vec<DnsRecord>>, kind: u16) -> Vec<u8> {
    let found: Vec<&DnsRecord> = records.into_iter().flatten().filter(|record| record.kind() == kind).collect();
    let code = if records.is_some() { 0 } else { NAME_ERROR };
    let mut response = question[..2].to_vec();
    // A response that is authoritative, to a question that wanted recursion, which is there.
    response.extend((0x8580 | code).to_be_bytes());
    for count in [1, found.len() as u16, 0, 0] {
        response.extend(count.to_be_bytes());
    }
    response.extend(&question[12..]);
    for record in found {
        // The name of the question, by its place.
        response.extend([0xc0, 12]);
        response.extend(record.kind().to_be_bytes());
        response.extend(CLASS_IN.to_be_bytes());
        response.extend(TTL_SECONDS.to_be_bytes());
        let data = record.data();
        response.extend((data.len() as u16).to_be_bytes());
        response.extend(data);
    }
    response
}
