//! The phone's SRTP (RFC 3711, RFC 7714) with keys from the SDP (RFC 4568), written from the RFCs so that it shares no
//! code with the service. RTP only: the phone sends no RTCP.

use anyhow::Context;
use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, AES_256, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// RFC 3711 §4.2.1: 80 bits.
const HMAC_TAG: usize = 10;
const HEADER: usize = 12;

/// How a phone encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// `AES_CM_128_HMAC_SHA1_80`
    AesCm,
    /// `AEAD_AES_128_GCM`
    Gcm128,
    /// `AEAD_AES_256_GCM`
    Gcm256,
}

/// The keys of both directions, from an offer and the phone's own choice.
#[derive(Clone)]
pub(super) struct Keys {
    suite: Suite,
    tag: String,
    local: Vec<u8>,
    remote: Vec<u8>,
}

/// One direction's cipher, and how often its sequence numbers have wrapped.
pub(super) struct Cipher {
    suite: Suite,
    key: Vec<u8>,
    auth: hmac::Key,
    salt: Vec<u8>,
    rollovers: u32,
    last: Option<u16>,
}

impl Suite {
    fn name(self) -> &'static str {
        match self {
            Self::AesCm => "AES_CM_128_HMAC_SHA1_80",
            Self::Gcm128 => "AEAD_AES_128_GCM",
            Self::Gcm256 => "AEAD_AES_256_GCM",
        }
    }

    /// Bytes of key and salt.
    fn lengths(self) -> (usize, usize) {
        match self {
            Self::AesCm => (16, 14),
            Self::Gcm128 => (16, 12),
            Self::Gcm256 => (32, 12),
        }
    }
}

impl Keys {
    /// None if the offer has no key of this suite.
    pub fn answering(offer: &str, suite: Suite) -> anyhow::Result<Option<Self>> {
        let cryptos = offer.lines().filter_map(|line| line.trim().strip_prefix("a=crypto:"));
        let words = cryptos.map(|line| line.split(' ').collect::<Vec<_>>());
        let Some(line) = words.into_iter().find(|words| words.get(1) == Some(&suite.name())) else { return Ok(None) };
        let inline = line.get(2).and_then(|key| key.strip_prefix("inline:")).context("an inline key")?;
        let remote = STANDARD.decode(inline.split('|').next().unwrap_or_default())?;
        let (key, salt) = suite.lengths();
        anyhow::ensure!(remote.len() == key + salt, "the key of {} is {} bytes long", suite.name(), remote.len());
        let local = (0..key + salt).map(|_| rand::random()).collect();
        let tag = line.first().copied().unwrap_or_default().to_owned();
        Ok(Some(Self { suite, tag, local, remote }))
    }

    /// Its line in the phone's SDP.
    pub fn line(&self) -> String {
        format!("a=crypto:{} {} inline:{}\r\n", self.tag, self.suite.name(), STANDARD.encode(&self.local))
    }

    pub fn outbound(&self) -> anyhow::Result<Cipher> {
        Cipher::new(self.suite, &self.local)
    }

    pub fn inbound(&self) -> anyhow::Result<Cipher> {
        Cipher::new(self.suite, &self.remote)
    }
}

impl Cipher {
    fn new(suite: Suite, master: &[u8]) -> anyhow::Result<Self> {
        let (key_length, salt_length) = suite.lengths();
        let (key, salt) = master.split_at(key_length);
        // RFC 3711 §4.3.1: the label stands above the 48 bits of an index that is zero.
        let derive = |label: u8, length: usize| {
            let mut iv = [0; 16];
            iv[..salt_length].copy_from_slice(salt);
            iv[7] ^= label;
            let mut stream = vec![0; length];
            counter_mode(key, iv, &mut stream)?;
            anyhow::Ok(stream)
        };
        let auth = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &derive(1, 20)?);
        Ok(Self { suite, key: derive(0, key_length)?, auth, salt: derive(2, salt_length)?, rollovers: 0, last: None })
    }

    pub fn encrypt(&mut self, packet: &[u8]) -> anyhow::Result<Vec<u8>> {
        let sequence = sequence_of(packet);
        let rollovers = self.rollovers_of(sequence);
        (self.rollovers, self.last) = (rollovers, Some(sequence));
        let (header, payload) = packet.split_at(HEADER);
        let mut sealed = payload.to_vec();
        match self.suite {
            Suite::AesCm => {
                counter_mode(&self.key, self.counter(packet, rollovers), &mut sealed)?;
                let tag = self.tag(&[header, &sealed].concat(), rollovers);
                sealed.extend(tag);
            }
            Suite::Gcm128 | Suite::Gcm256 => {
                let nonce = Nonce::assume_unique_for_key(self.nonce(packet, rollovers));
                self.gcm()?.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed)?;
            }
        }
        Ok([header, &sealed].concat())
    }

    /// None for what was not encrypted with this key.
    pub fn decrypt(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let sequence = sequence_of(packet);
        let rollovers = self.rollovers_of(sequence);
        let (header, sealed) = packet.split_at(HEADER);
        let plain = match self.suite {
            Suite::AesCm => {
                let (sealed, tag) = sealed.split_at(sealed.len().checked_sub(HMAC_TAG)?);
                if self.tag(&packet[..packet.len() - HMAC_TAG], rollovers) != tag {
                    return None;
                }
                let mut plain = sealed.to_vec();
                counter_mode(&self.key, self.counter(packet, rollovers), &mut plain).ok()?;
                plain
            }
            Suite::Gcm128 | Suite::Gcm256 => {
                let nonce = Nonce::assume_unique_for_key(self.nonce(packet, rollovers));
                let mut sealed = sealed.to_vec();
                self.gcm().ok()?.open_in_place(nonce, Aad::from(header), &mut sealed).ok()?.to_vec()
            }
        };
        (self.rollovers, self.last) = (rollovers, Some(sequence));
        Some([header, &plain].concat())
    }

    /// RFC 3711 §3.3.1.
    fn rollovers_of(&self, sequence: u16) -> u32 {
        let Some(last) = self.last else { return self.rollovers };
        match i32::from(sequence) - i32::from(last) {
            ..-0x8000 => self.rollovers.wrapping_add(1),
            0x8000.. => self.rollovers.wrapping_sub(1),
            _ => self.rollovers,
        }
    }

    /// RFC 3711 §4.1.1.
    fn counter(&self, packet: &[u8], rollovers: u32) -> [u8; 16] {
        let mut counter = [0; 16];
        counter[..14].copy_from_slice(&self.salt);
        let sender = sender_and_index(packet, rollovers);
        counter[4..14].iter_mut().zip(sender).for_each(|(byte, other)| *byte ^= other);
        counter
    }

    fn tag(&self, packet: &[u8], rollovers: u32) -> Vec<u8> {
        let signed = [packet, &rollovers.to_be_bytes()].concat();
        hmac::sign(&self.auth, &signed).as_ref()[..HMAC_TAG].to_vec()
    }

    /// RFC 7714 §8.1.
    fn nonce(&self, packet: &[u8], rollovers: u32) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce.copy_from_slice(&self.salt);
        let sender = sender_and_index(packet, rollovers);
        nonce[2..].iter_mut().zip(sender).for_each(|(byte, other)| *byte ^= other);
        nonce
    }

    fn gcm(&self) -> anyhow::Result<LessSafeKey> {
        let algorithm = if self.key.len() == 32 { &AES_256_GCM } else { &AES_128_GCM };
        Ok(LessSafeKey::new(UnboundKey::new(algorithm, &self.key)?))
    }
}

/// SSRC, rollover counter and sequence number: what makes each packet's keystream its own.
fn sender_and_index(packet: &[u8], rollovers: u32) -> Vec<u8> {
    [&packet[8..12], &rollovers.to_be_bytes(), &packet[2..4]].concat()
}

fn sequence_of(packet: &[u8]) -> u16 {
    u16::from_be_bytes([packet[2], packet[3]])
}

fn counter_mode(key: &[u8], counter: [u8; 16], bytes: &mut [u8]) -> anyhow::Result<()> {
    let algorithm = if key.len() == 32 { &AES_256 } else { &AES_128 };
    let key = EncryptingKey::ctr(UnboundCipherKey::new(algorithm, key)?)?;
    key.less_safe_encrypt(bytes, EncryptionContext::Iv128(counter.into()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test vector of RFC 3711 §B.3.
    #[test]
    fn keys_are_derived_as_in_the_rfc() -> anyhow::Result<()> {
        let master = [
            0xE1, 0xF9, 0x7A, 0x0D, 0x3E, 0x01, 0x8B, 0xE0, 0xD6, 0x4F, 0xA3, 0x2C, 0x06, 0xDE, 0x41, 0x39, 0x0E, 0xC6,
            0x75, 0xAD, 0x49, 0x8A, 0xFE, 0xEB, 0xB6, 0x96, 0x0B, 0x3A, 0xAB, 0xE6,
        ];
        let cipher = Cipher::new(Suite::AesCm, &master)?;
        assert_eq!(
            cipher.key,
            [0xC6, 0x1E, 0x7A, 0x93, 0x74, 0x4F, 0x39, 0xEE, 0x10, 0x73, 0x4A, 0xFE, 0x3F, 0xF7, 0xA0, 0x87]
        );
        assert_eq!(cipher.salt, [0x30, 0xCB, 0xBC, 0x08, 0x86, 0x3D, 0x8C, 0x85, 0xD4, 0x9D, 0xB3, 0x4A, 0x9A, 0xE1]);
        Ok(())
    }

    #[test]
    fn what_is_encrypted_is_decrypted_across_the_wrap_and_forgeries_are_not() -> anyhow::Result<()> {
        for suite in [Suite::AesCm, Suite::Gcm128, Suite::Gcm256] {
            let (key, salt) = suite.lengths();
            let master = vec![7; key + salt];
            let (mut ours, mut theirs) = (Cipher::new(suite, &master)?, Cipher::new(suite, &master)?);
            for sequence in [65_534_u16, 65_535, 0, 1] {
                let mut packet = vec![0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7];
                packet[2..4].copy_from_slice(&sequence.to_be_bytes());
                let sealed = ours.encrypt(&packet)?;
                let mut forged = sealed.clone();
                forged[13] ^= 1;
                assert_eq!(theirs.decrypt(&forged), None);
                assert_eq!(theirs.decrypt(&sealed), Some(packet), "{suite:?}");
            }
            assert_eq!(theirs.rollovers, 1);
        }
        Ok(())
    }
}
