//! Guard 1: only authenticated connectivity checks reach the ICE agent.
//!
//! The agent settles role conflicts before it checks a message's integrity, and takes unauthenticated
//! indications as signs of life. So one forged datagram could take the controlling role from us, and
//! a few could keep a dead call alive.

use std::net::SocketAddr;
use std::sync::Arc;

use rtc_crypto::{HmacAlgorithm, Mac, RTCCryptoProvider};

use super::PeerError;
use super::stun::{StunKind, StunMessage};

/// Addresses that the remote has proven to be at. A phone that changes networks needs a few.
const MOST_ADDRESSES: usize = 16;

/// Knows both sides' credentials and which addresses have shown that they know them too.
pub(super) struct StunGuard {
    /// USERNAME of requests to us: `ours:theirs`.
    username: String,
    requests: Box<dyn Mac>,
    responses: Box<dyn Mac>,
    proven: Vec<SocketAddr>,
}

impl StunGuard {
    pub fn new(
        crypto: &Arc<dyn RTCCryptoProvider>,
        local: (&str, &str),
        remote: (&str, &str),
    ) -> Result<StunGuard, PeerError> {
        let keyed = |password: &str| {
            crypto.crypto().new_hmac(HmacAlgorithm::Sha1, password.as_bytes()).map_err(|_| PeerError::Crypto)
        };
        Ok(StunGuard {
            username: format!("{}:{}", local.0, remote.0),
            requests: keyed(local.1)?,
            responses: keyed(remote.1)?,
            proven: Vec::with_capacity(2),
        })
    }

    /// Reads a message and checks its name and signature. `None`: drop it.
    pub fn admit<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Option<StunMessage<'a>> {
        let message = StunMessage::parse(datagram)?;
        let integrity = message.integrity.as_ref()?;
        let mac = match message.kind {
            StunKind::Request if message.username? == self.username.as_bytes() => &mut self.requests,
            StunKind::Request => return None,
            StunKind::Success => &mut self.responses,
        };
        mac.verify(&[&integrity.header, integrity.attributes], integrity.tag).ok()?;
        if !self.is_proven(from) {
            if self.proven.len() >= MOST_ADDRESSES {
                return None;
            }
            self.proven.push(from);
        }
        Some(message)
    }

    /// Whether an authenticated message has come from here.
    pub fn is_proven(&self, address: SocketAddr) -> bool {
        self.proven.contains(&address)
    }
}
