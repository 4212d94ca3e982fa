//! AudioSocketOptions: how an agent behind AudioSocket is reached.

use std::fmt;
use std::net::SocketAddr;

use patchcord_media::opus::{Profile, SampleRate};
use url::{Host, Url};

use crate::address::is_nearby_host;

/// An agent that speaks AudioSocket.
#[derive(Clone, Debug)]
pub struct AudioSocketOptions {
    /// A name or an address.
    pub host: Host<String>,
    /// The TCP port.
    pub port: u16,
    /// The addresses of the host, if they were resolved and checked before ([`CheckedUrl`](crate::egress::CheckedUrl)):
    /// then no other is connected to. If empty, the host is resolved when the agent is dialled.
    pub addresses: Vec<SocketAddr>,
    /// The UUID that the agent is told, if it is not that of the call's id.
    pub id: Option<[u8; 16]>,
    /// Of the caller's audio. What the agent sends may have another.
    pub sample_rate: SampleRate,
    /// How the agent's audio is encoded for the caller.
    pub profile: Profile,
}

impl AudioSocketOptions {
    /// Reads what the configuration has: the address is the operator's, and has to be nearby.
    pub(in crate::agent) fn parse(text: &str) -> Result<Self, String> {
        let agent = Self::read(text)?;
        if !is_nearby_host(&agent.host) {
            let advice = "AudioSocket would carry the call's sound in the clear through the internet: use wss:// there";
            return Err(advice.to_owned());
        }
        Ok(agent)
    }

    /// Reads `audiosocket://HOST:PORT` or `audiosocket://HOST:PORT/UUID`. The error says what to write instead.
    pub(crate) fn read(text: &str) -> Result<Self, String> {
        const FORM: &str = "give audiosocket://HOST:PORT, or audiosocket://HOST:PORT/UUID";
        let url = Url::parse(text).map_err(|error| format!("this is no address: {error}"))?;
        let host = url.host_str().and_then(|host| Host::parse(host).ok()).ok_or(FORM)?;
        let port = url.port().filter(|port| *port > 0).ok_or(FORM)?;
        if !url.username().is_empty() || url.password().is_some() || url.query().is_some() || url.fragment().is_some() {
            return Err(FORM.to_owned());
        }
        let id = match url.path().trim_start_matches('/') {
            "" => None,
            id => {
                Some(read_uuid(id).ok_or("what follows the port is a UUID, as 40325ec2-5efd-4bd3-805f-53576e581d13")?)
            }
        };
        let (sample_rate, profile) = (SampleRate::Hz8000, Profile::Eco);
        Ok(Self { host, port, addresses: Vec::new(), id, sample_rate, profile })
    }
}

/// Without the UUID, by which an agent may know its callers.
impl fmt::Display for AudioSocketOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "audiosocket://{}:{}", self.host, self.port)
    }
}

/// 32 hexadecimal digits, with or without hyphens.
fn read_uuid(text: &str) -> Option<[u8; 16]> {
    let is_shaped =
        text.len() == 32 || (text.len() == 36 && text.match_indices('-').map(|(at, _)| at).eq([8, 13, 18, 23]));
    let digits: String = text.chars().filter(|character| *character != '-').collect();
    let is_hex = digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    let number = u128::from_str_radix(&digits, 16).ok()?;
    (is_shaped && is_hex).then(|| number.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_a_port_and_perhaps_a_uuid() {
        let plain = AudioSocketOptions::parse("audiosocket://127.0.0.1:9092").unwrap();
        assert_eq!((plain.port, plain.id, plain.sample_rate), (9092, None, SampleRate::Hz8000));
        let fixed = AudioSocketOptions::parse("audiosocket://[::1]:80/40325ec2-5efd-4bd3-805f-53576e581d13").unwrap();
        assert_eq!(fixed.to_string(), "audiosocket://[::1]:80");
        assert_eq!(fixed.id.map(|id| (id[0], id[15])), Some((0x40, 0x13)));
        for wrong in [
            "audiosocket://bot",
            "audiosocket://bot:0",
            "audiosocket:bot:9092",
            "audiosocket://:9092",
            "audiosocket://user:secret@bot:9092",
            "audiosocket://bot:9092/room",
            "audiosocket://bot:9092/+0325ec25efd4bd3805f53576e581d13",
            "audiosocket://bot:9092?a=b",
            "audiosocket://bots.example.com:9092",
            "audiosocket://8.8.8.8:9092",
        ] {
            assert!(AudioSocketOptions::parse(wrong).is_err(), "{wrong}");
        }
    }
}
