//! Challenges: a phone that is a server with passwords asks who calls, and checks the proof itself (RFC 7616).

use super::{DigestHash, SipMessage};

/// What a server asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// 401 or 407.
    pub code: u16,
    /// Whose users are asked for.
    pub realm: &'static str,
    /// Who may call.
    pub username: &'static str,
    /// What proves it.
    pub password: &'static str,
    /// The hash of the proof; of several the caller has to take the first.
    pub hashes: Vec<DigestHash>,
    /// So many proofs are good, but too old: they are asked for again, as stale.
    pub stale: u32,
}

impl Challenge {
    /// Header lines of the challenge with this number, from 1 on. Each has a nonce of its own.
    pub(super) fn headers(&self, number: u32) -> Vec<String> {
        let name = if self.code == 401 { "WWW-Authenticate" } else { "Proxy-Authenticate" };
        let stale = if (2..=self.stale + 1).contains(&number) { ", stale=true" } else { "" };
        let line = |hash: &DigestHash| {
            format!(
                "{name}: Digest realm=\"{}\", nonce=\"nonce{number}\", algorithm={}, qop=\"auth\"{stale}",
                self.realm,
                hash.name()
            )
        };
        self.hashes.iter().map(line).collect()
    }

    /// Whether a request proves knowledge of the password, after so many challenges.
    pub(super) fn is_met(&self, request: &SipMessage, challenges: u32) -> bool {
        let name = if self.code == 401 { "Authorization" } else { "Proxy-Authorization" };
        let nonce = format!("nonce{challenges}");
        let mut shown = request.headers.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        challenges > self.stale && shown.any(|(_, value)| self.is_proof(request, value, &nonce))
    }

    fn is_proof(&self, request: &SipMessage, value: &str, nonce: &str) -> bool {
        let Some(hash) = self.hashes.first() else { return false };
        let of = |name: &str| {
            let parts = value.trim_start_matches("Digest ").split(", ").filter_map(|part| part.split_once('='));
            let mut found = parts.filter(|(other, _)| *other == name);
            found.next().map(|(_, value)| value.trim_matches('"').to_owned()).unwrap_or_default()
        };
        // RFC 7616 §3.4: these are not quoted.
        let has_plain = value.contains("qop=auth,") && value.contains(&format!("algorithm={}", hash.name()));
        let (method, uri) = (request.method().unwrap_or_default(), of("uri"));
        let ha1 = hash.of(&format!("{}:{}:{}", self.username, self.realm, self.password));
        let ha2 = hash.of(&format!("{method}:{uri}"));
        let expected = hash.of(&format!("{ha1}:{nonce}:{}:{}:auth:{ha2}", of("nc"), of("cnonce")));
        let is_for = request.start.split(' ').nth(1) == Some(uri.as_str());
        has_plain && is_for && of("nonce") == nonce && of("username") == self.username && of("response") == expected
    }
}
