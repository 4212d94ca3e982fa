//! Where we listen: `udp:0.0.0.0:5060`.

use std::fmt;
use std::net::SocketAddr;

use super::uri::Transport;

/// One listening address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// What arrives there.
    pub transport: Transport,
    /// Port 0 lets the system choose.
    pub address: SocketAddr,
}

impl Listen {
    /// Reads `udp:ADDRESS:PORT`, `tcp:…` or `tls:…`. The error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || "give an address such as \"udp:0.0.0.0:5060\"".to_owned();
        let (transport, address) = text.split_once(':').ok_or_else(form)?;
        let transport = Transport::of_name(transport).map_err(|_| form())?;
        Ok(Self { transport, address: address.parse().map_err(|_| form())? })
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.transport.name(), self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listening_address_is_read() {
        for text in ["udp:0.0.0.0:5060", "tcp:127.0.0.1:0", "tls:[::]:5061"] {
            assert_eq!(Listen::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "0.0.0.0:5060", "ws:0.0.0.0:80", "udp:pbx:5060", "udp:0.0.0.0"] {
            assert!(Listen::parse(text).is_err(), "{text}");
        }
    }
}
