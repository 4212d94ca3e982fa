//! SDES keys: `a=crypto` lines (RFC 4568, RFC 7714 §14), read and written.

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use rand::TryRngCore;
use rand::rngs::OsRng;

use super::NegotiationError;

/// The padding is required, and some phones leave it out.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A crypto suite that we speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CryptoSuite {
    /// `AES_CM_128_HMAC_SHA1_80`, which every phone has.
    AesCm128HmacSha1_80,
    /// `AEAD_AES_128_GCM`.
    AeadAes128Gcm,
    /// `AEAD_AES_256_GCM`.
    AeadAes256Gcm,
}

/// A master key with its salt. Its memory is not printed anywhere.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey(Vec<u8>);

/// The keys of both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SdesKeys {
    /// The suite of both directions.
    pub suite: CryptoSuite,
    /// Encrypts what we send.
    pub local: MasterKey,
    /// Decrypts what the phone sends.
    pub remote: MasterKey,
}

/// One usable `a=crypto` line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crypto {
    pub tag: u32,
    pub suite: CryptoSuite,
    pub key: MasterKey,
}

impl CryptoSuite {
    /// In the order in which we offer them.
    pub const ALL: [Self; 3] = [Self::AesCm128HmacSha1_80, Self::AeadAes256Gcm, Self::AeadAes128Gcm];

    /// As in an `a=crypto` line.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }

    /// Bytes of the master key and of its salt.
    pub(crate) fn lengths(self) -> (usize, usize) {
        match self {
            Self::AesCm128HmacSha1_80 => (16, 14),
            Self::AeadAes128Gcm => (16, 12),
            Self::AeadAes256Gcm => (32, 12),
        }
    }
}

impl MasterKey {
    pub(crate) fn random(suite: CryptoSuite) -> Result<Self, NegotiationError> {
        let (key, salt) = suite.lengths();
        let mut bytes = vec![0; key + salt];
        OsRng.try_fill_bytes(&mut bytes).map_err(|_| NegotiationError::Crypto)?;
        Ok(Self(bytes))
    }

    /// Key and salt.
    pub(crate) fn split(&self, suite: CryptoSuite) -> Option<(&[u8], &[u8])> {
        let (key, salt) = suite.lengths();
        (self.0.len() == key + salt).then(|| self.0.split_at(key))
    }
}

impl Crypto {
    /// Reads the part after `a=crypto:`. None for a line that we cannot use: another suite, several keys, an MKI, or a
    /// parameter that changes the session (RFC 4568 §6.3).
    pub fn parse(value: &str) -> Option<Self> {
        let mut words = value.split_ascii_whitespace();
        let tag = words.next()?.parse().ok()?;
        let name = words.next()?;
        let suite = CryptoSuite::ALL.into_iter().find(|suite| suite.name().eq_ignore_ascii_case(name))?;
        let key = words.next()?.strip_prefix("inline:")?;
        if words.any(|parameter| !parameter.to_ascii_uppercase().starts_with("WSH=")) {
            return None;
        }
        let mut parts = key.split('|');
        let bytes = BASE64.decode(parts.next()?).ok()?;
        // What else there is may only be the lifetime: an MKI has a colon, a second key a semicolon.
        if parts.any(|part| part.contains([':', ';'])) {
            return None;
        }
        let key = MasterKey(bytes);
        key.split(suite)?;
        Some(Self { tag, suite, key })
    }
}

/// The value of an `a=crypto` line.
impl std::fmt::Display for Crypto {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {} inline:{}", self.tag, self.suite.name(), BASE64.encode(&self.key.0))
    }
}

impl std::fmt::Debug for MasterKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("MasterKey(..)")
    }
}
