//! Guard 1: only authenticated connectivity checks reach the ICE agent.
//!
//! The agent settles role conflicts before it checks a message's integrity, and takes unauthenticated
//! indications for signs of life. So one forged datagram could take the controlling role from us, and
//! a few could keep a dead call alive.

use std::net::SocketAddr;
use std::sync::Arc;

use rtc_crypto::{HmacAlgorithm, Mac, RTCCryptoProvider};

use super::PeerError;
use super::stun::{StunKind, StunMessage};

/// Proven addresses of the remote. A phone that changes networks needs a few. One more is refused, and no earlier one is
/// dropped for it: the ICE agent cannot drop one, and checks all of them.
const MOST_ADDRESSES: usize = 16;

/// Both sides' credentials, and the addresses that have proven to know them.
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

    /// Reads a message, checks its username and signature, and notes its sender's address. None: drop the message.
    pub fn admit<'a>(&mut self, from: SocketAddr, datagram: &'a [u8]) -> Option<StunMessage<'a>> {
        let message = self.authenticate(datagram)?;
        if !self.is_proven(from) {
            if self.proven.len() >= MOST_ADDRESSES {
                return None;
            }
            self.proven.push(from);
        }
        Some(message)
    }

    /// Reads a message and checks its username and signature. Changes nothing.
    pub fn authenticate<'a>(&mut self, datagram: &'a [u8]) -> Option<StunMessage<'a>> {
        let message = StunMessage::parse(datagram)?;
        let integrity = message.integrity.as_ref()?;
        let mac = match message.kind {
            StunKind::Request if message.username? == self.username.as_bytes() => &mut self.requests,
            StunKind::Request => return None,
            StunKind::Success => &mut self.responses,
        };
        mac.verify(&[&integrity.header, integrity.attributes], integrity.tag).ok()?;
        Some(message)
    }

    /// Whether an authenticated message has come from this address.
    pub fn is_proven(&self, address: SocketAddr) -> bool {
        self.proven.contains(&address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCAL: (&str, &str) = ("ours", "our password, 22 letters");
    const REMOTE: (&str, &str) = ("theirs", "their password, 22 letters");

    fn crypto() -> Arc<dyn RTCCryptoProvider> {
        rtc_crypto::default_provider().unwrap()
    }

    fn guard() -> StunGuard {
        StunGuard::new(&crypto(), LOCAL, REMOTE).unwrap()
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([203, 0, 113, 1], port))
    }

    /// A message of this class, named and signed like this.
    fn message(class: u8, username: &str, password: &str) -> Vec<u8> {
        let name_length = username.len().next_multiple_of(4);
        let length = u8::try_from(4 + name_length + 24).unwrap();
        let mut bytes = vec![class, 1, 0, length, 0x21, 0x12, 0xa4, 0x42];
        bytes.extend([3; 12]);
        bytes.extend([0, 6, 0, u8::try_from(username.len()).unwrap()]);
        bytes.extend(username.bytes());
        bytes.resize(24 + name_length, 0);
        let mut tag = [0; 20];
        let mut mac = crypto().crypto().new_hmac(HmacAlgorithm::Sha1, password.as_bytes()).unwrap();
        mac.sign(&[&bytes], &mut tag).unwrap();
        bytes.extend([0, 8, 0, 20]);
        bytes.extend(tag);
        bytes
    }

    #[test]
    fn only_who_knows_both_names_and_our_password_is_asked_in() {
        let mut guard = guard();
        for (username, password) in
            [("ours:theirs", REMOTE.1), ("ours:others", LOCAL.1), ("theirs:ours", LOCAL.1), ("ours", LOCAL.1)]
        {
            assert!(guard.admit(address(1), &message(0, username, password)).is_none());
            assert!(!guard.is_proven(address(1)));
        }
        assert!(guard.admit(address(1), &message(0, "ours:theirs", LOCAL.1)).is_some());
        assert!(guard.is_proven(address(1)) && !guard.is_proven(address(2)));
    }

    #[test]
    fn only_who_knows_the_remote_password_answers() {
        let mut guard = guard();
        assert!(guard.admit(address(1), &message(1, "", LOCAL.1)).is_none());
        assert!(guard.admit(address(1), &message(1, "", REMOTE.1)).is_some());
    }

    #[test]
    fn a_changed_message_is_refused() {
        let good = message(0, "ours:theirs", LOCAL.1);
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(guard().admit(address(1), &bad).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_remote_may_be_at_sixteen_addresses() {
        let mut guard = guard();
        let request = message(0, "ours:theirs", LOCAL.1);
        let admitted = (1..100).filter(|port| guard.admit(address(*port), &request).is_some());
        assert_eq!(admitted.count(), 16);
        assert!(guard.admit(address(1), &request).is_some());
    }
}
