//! Proof that a webhook comes from Meta: HMAC-SHA256 over the raw body, keyed with the app secret.
//!
//! No crate, because the check is one header and one call of `hmac`.

use std::collections::HashMap;

use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use super::PhoneNumberId;

/// The header that carries the proof. The older SHA-1 header `X-Hub-Signature` is ignored.
pub const SIGNATURE_HEADER: &str = "x-hub-signature-256";

/// The app secrets of all numbers. Numbers of different Meta apps are signed for by different secrets.
#[derive(Clone, Debug, Default)]
pub struct AppSecrets {
    /// Sign for every number that has none of its own.
    pub shared: Vec<SecretString>,
    /// The numbers that have their own; only these sign for them.
    pub own: HashMap<PhoneNumberId, Vec<SecretString>>,
}

/// Who signed a webhook, and so which numbers it may speak of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    is_shared: bool,
    /// The numbers with secrets of their own, and whether one of these signed.
    own: HashMap<PhoneNumberId, bool>,
}

impl AppSecrets {
    /// Says who signed the body. One that no secret at all signed is not believed; see [`verify`].
    pub fn verify(&self, header: Option<&str>, body: &[u8]) -> Result<Signer, SignatureError> {
        let is_shared = is_good(verify(header, body, &self.shared))?;
        let mut own = HashMap::new();
        for (number, secrets) in &self.own {
            own.insert(number.clone(), is_good(verify(header, body, secrets))?);
        }
        let signer = Signer { is_shared, own };
        let is_known = signer.is_shared || signer.own.values().any(|signed| *signed);
        is_known.then_some(signer).ok_or(SignatureError::Wrong)
    }
}

impl Signer {
    /// Whether what it says of this number's calls is to be believed. One app cannot announce the calls of another's
    /// number.
    pub fn speaks_for(&self, number: &PhoneNumberId) -> bool {
        self.own.get(number).copied().unwrap_or(self.is_shared)
    }
}

fn is_good(verdict: Result<(), SignatureError>) -> Result<bool, SignatureError> {
    match verdict {
        Ok(()) => Ok(true),
        Err(SignatureError::Wrong) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Checks `header` (the value of [`SIGNATURE_HEADER`]) against the body exactly as it arrived.
///
/// Any of `secrets` may match: several apps can share one address, and a secret is rotated by
/// keeping the old one beside the new one for a while. The comparison takes constant time, and every
/// secret is tried, so that the time tells nothing about which one is near.
///
/// Source: Meta, "Webhooks: Getting Started", validating payloads.
pub fn verify(header: Option<&str>, body: &[u8], secrets: &[SecretString]) -> Result<(), SignatureError> {
    let header = header.ok_or(SignatureError::Missing)?;
    let digits = header.trim().strip_prefix("sha256=").ok_or(SignatureError::Malformed)?;
    let claimed = digest_from_hex(digits).ok_or(SignatureError::Malformed)?;

    let mut matched = false;
    for secret in secrets {
        matched |= is_signed_with(secret, body, &claimed);
    }
    if matched { Ok(()) } else { Err(SignatureError::Wrong) }
}

/// Why a webhook is not believed. All of them are answered alike, with 401.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// There is no signature header.
    #[error("the webhook carries no X-Hub-Signature-256 header")]
    Missing,
    /// The header is not `sha256=` and 64 hexadecimal digits.
    #[error("the X-Hub-Signature-256 header is not sha256= and 64 hexadecimal digits")]
    Malformed,
    /// No configured app secret gives this signature.
    #[error("the webhook is signed with none of the configured app secrets")]
    Wrong,
}

fn is_signed_with(secret: &SecretString, body: &[u8], claimed: &[u8; 32]) -> bool {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).expect("HMAC takes a key of any length");
    mac.update(body);
    mac.verify_slice(claimed).is_ok()
}

fn digest_from_hex(digits: &str) -> Option<[u8; 32]> {
    if digits.len() != 64 {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.as_bytes().chunks_exact(2)) {
        *byte = (hex_value(pair[0])? << 4) | hex_value(pair[1])?;
    }
    Some(digest)
}

fn hex_value(digit: u8) -> Option<u8> {
    let value = char::from(digit).to_digit(16)?;
    u8::try_from(value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Vector {
        app_secret: String,
        body_utf8: Option<String>,
        body_file: Option<String>,
        x_hub_signature_256: String,
    }

    impl Vector {
        fn body(&self) -> Vec<u8> {
            match (&self.body_utf8, &self.body_file) {
                (Some(text), _) => text.clone().into_bytes(),
                (None, Some(file)) => fixture(file),
                (None, None) => panic!("a vector has a body"),
            }
        }
    }

    #[test]
    fn every_vector_is_believed_and_its_neighbours_are_not() {
        let vectors: Vec<Vector> = serde_json::from_slice(&fixture("signature-vectors.json")).unwrap();
        assert_eq!(vectors.len(), 5);
        for vector in vectors {
            let body = vector.body();
            let header = vector.x_hub_signature_256.as_str();
            let right = secrets(&[&vector.app_secret]);
            assert_eq!(verify(Some(header), &body, &right), Ok(()));
            assert_eq!(verify(Some(&header.to_uppercase().replace("SHA256", "sha256")), &body, &right), Ok(()));

            let mut longer = body.clone();
            longer.push(b'\n');
            assert_eq!(verify(Some(header), &longer, &right), Err(SignatureError::Wrong));
            assert_eq!(verify(Some(header), &body, &secrets(&["other"])), Err(SignatureError::Wrong));
            assert_eq!(verify(Some(header), &body, &[]), Err(SignatureError::Wrong));
        }
    }

    #[test]
    fn a_wrong_first_byte_and_a_wrong_last_byte_are_refused_alike() {
        let body = br#"{"object":"whatsapp_business_account","entry":[]}"#;
        let right = "dec6a680679a968e7e0319355b23599cbfc54502c0784668e9618baa0c633756";
        let secrets = secrets(&["test_app_secret"]);
        for wrong in [right.replacen('d', "e", 1), format!("{}7", &right[..63])] {
            let header = format!("sha256={wrong}");
            assert_eq!(verify(Some(&header), body, &secrets), Err(SignatureError::Wrong));
        }
    }

    #[test]
    fn during_a_rotation_the_old_and_the_new_secret_are_both_believed() {
        let body = b"";
        let header = "sha256=d860e29f7346b0bc6ac0f8f3308c923ce7899e3993350440043fd48f42d48e61";
        assert_eq!(verify(Some(header), body, &secrets(&["another-secret", "new"])), Ok(()));
        assert_eq!(verify(Some(header), body, &secrets(&["new", "another-secret"])), Ok(()));
    }

    #[test]
    fn a_secret_speaks_for_its_own_numbers_alone() {
        let body = b"";
        let header = Some("sha256=d860e29f7346b0bc6ac0f8f3308c923ce7899e3993350440043fd48f42d48e61");
        let number = |digits: &str| PhoneNumberId::parse(digits).unwrap();
        let signed_with = |shared: &[&str], own: &[(&str, &[&str])]| {
            let own = own.iter().map(|(digits, texts)| (number(digits), secrets(texts))).collect();
            AppSecrets { shared: secrets(shared), own }.verify(header, body)
        };
        let spoken_for = |signer: Signer| ["1", "2", "3"].map(|digits| signer.speaks_for(&number(digits)));

        let shared = signed_with(&["another-secret"], &[("2", &["a"]), ("3", &["b"])]).unwrap();
        assert_eq!(spoken_for(shared), [true, false, false]);
        let own = signed_with(&["shared"], &[("2", &["old", "another-secret"]), ("3", &["b"])]).unwrap();
        assert_eq!(spoken_for(own), [false, true, false]);
        let both = signed_with(&["another-secret"], &[("2", &["another-secret"]), ("3", &["b"])]).unwrap();
        assert_eq!(spoken_for(both), [true, true, false]);
        assert_eq!(signed_with(&["shared"], &[("2", &["a"])]), Err(SignatureError::Wrong));
        assert_eq!(AppSecrets::default().verify(None, body), Err(SignatureError::Missing));
        assert_eq!(AppSecrets::default().verify(header, body), Err(SignatureError::Wrong));
    }

    #[test]
    fn a_rewritten_body_is_refused_even_if_it_means_the_same() {
        let vectors: Vec<Vector> = serde_json::from_slice(&fixture("signature-vectors.json")).unwrap();
        let vector =
            vectors.iter().find(|vector| vector.body_utf8.as_deref().is_some_and(|body| body.contains("\\u00f3")));
        let vector = vector.expect("one vector holds escaped text");
        let meaning: serde_json::Value = serde_json::from_slice(&vector.body()).unwrap();
        let rewritten = serde_json::to_vec(&meaning).unwrap();
        let verdict = verify(Some(&vector.x_hub_signature_256), &rewritten, &secrets(&[&vector.app_secret]));
        assert_eq!(verdict, Err(SignatureError::Wrong));
    }

    #[test]
    fn headers_of_another_shape_are_refused_without_a_look_at_the_body() {
        let secrets = secrets(&["test_app_secret"]);
        assert_eq!(verify(None, b"{}", &secrets), Err(SignatureError::Missing));
        for wrong in ["", "sha256=", "sha1=00", "sha256=zz", &format!("sha256={}", "é".repeat(32)), &"f".repeat(64)] {
            assert_eq!(verify(Some(wrong), b"{}", &secrets), Err(SignatureError::Malformed), "{wrong}");
        }
    }

    fn secrets(texts: &[&str]) -> Vec<SecretString> {
        texts.iter().map(|text| SecretString::from(*text)).collect()
    }

    fn fixture(name: &str) -> Vec<u8> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/whatsapp");
        std::fs::read(format!("{folder}/{name}")).unwrap()
    }
}
