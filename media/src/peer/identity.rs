//! The certificate that every peer of this process shows, and its fingerprint.

use std::sync::Arc;

use rtc_crypto::{HashAlgorithm, RTCCryptoProvider};
use rtc_dtls::crypto::Certificate;

use super::PeerError;
use crate::sdp::Fingerprint;

/// A self-signed ECDSA P-256 certificate with its key. One per process: generating one is expensive, and a stable
/// fingerprint is easier to trace. P-256 keeps the handshake below one fragment.
pub struct Identity {
    pub(super) certificate: Certificate,
    pub(super) crypto: Arc<dyn RTCCryptoProvider>,
    fingerprint: Fingerprint,
}

impl Identity {
    /// Generates a key and certificate.
    pub fn generate() -> Result<Identity, PeerError> {
        let crypto = rtc_crypto::default_provider().map_err(|_| PeerError::Crypto)?;
        let names = vec!["patchcord.invalid".to_owned()];
        let certificate = Certificate::generate_self_signed(names, crypto.crypto()).map_err(|_| PeerError::Crypto)?;
        let der = certificate.certificate.first().ok_or(PeerError::Crypto)?;
        let fingerprint = fingerprint_of(crypto.as_ref(), der).ok_or(PeerError::Crypto)?;
        Ok(Identity { certificate, crypto, fingerprint })
    }

    /// SHA-256 of the certificate, as in the SDP.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Identity({})", self.fingerprint)
    }
}

/// SHA-256 of a certificate in DER.
pub(super) fn fingerprint_of(crypto: &dyn RTCCryptoProvider, der: &[u8]) -> Option<Fingerprint> {
    let hash = crypto.crypto().hash(HashAlgorithm::Sha256, der).ok()?;
    Some(Fingerprint(hash.try_into().ok()?))
}
