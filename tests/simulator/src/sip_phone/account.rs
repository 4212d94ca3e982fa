//! Whom a phone is for: it registers, and answers challenges by digest authentication (RFC 7616).

use std::net::SocketAddr;

use anyhow::Context;
use md5::Md5;
use sha2::{Digest, Sha256};

use super::message::split;
use super::{SipMessage, SipPhone};

/// A user of a registrar.
#[derive(Clone, Debug)]
pub struct SipAccount {
    /// Where the registrar listens.
    pub server: SocketAddr,
    /// The host in the user's address.
    pub domain: String,
    /// The user.
    pub name: String,
    /// What the user's phone knows.
    pub password: String,
    /// The hash that the phone can.
    pub hash: DigestHash,
}

/// The hash of a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigestHash {
    /// RFC 2617.
    Md5,
    /// RFC 8760.
    Sha256,
}

impl SipAccount {
    /// Proves knowledge of the password to one of the challenges of a response, for the count of uses of its nonce.
    ///
    /// # Errors
    /// When no challenge has the account's hash.
    pub fn proof(&self, challenge: &SipMessage, method: &str, uri: &str, count: u32) -> anyhow::Result<String> {
        let algorithm = self.hash.name();
        let values = challenge.headers.iter().filter(|(name, _)| name.ends_with("-Authenticate"));
        let parameter = |value: &str, name: &str| {
            let found = value.split(',').find_map(|part| part.trim().trim_start_matches("Digest ").strip_prefix(name));
            found.and_then(|rest| rest.strip_prefix('=')).map(|value| value.trim_matches('"').to_owned())
        };
        let mut ours = values.filter(|(_, value)| parameter(value, "algorithm").as_deref() == Some(algorithm));
        let (_, value) = ours.next().with_context(|| format!("a challenge with {algorithm}: {challenge}"))?;
        let realm = parameter(value, "realm").context("a realm")?;
        let nonce = parameter(value, "nonce").context("a nonce")?;
        let (ha1, ha2) = (
            self.hash.of(&format!("{}:{realm}:{}", self.name, self.password)),
            self.hash.of(&format!("{method}:{uri}")),
        );
        let response = self.hash.of(&format!("{ha1}:{nonce}:{count:08x}:0a4f113b:auth:{ha2}"));
        Ok(format!(
            "Digest username=\"{}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", response=\"{response}\", \
             algorithm={algorithm}, qop=auth, nc={count:08x}, cnonce=\"0a4f113b\"",
            self.name
        ))
    }
}

impl DigestHash {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Md5 => "MD5",
            Self::Sha256 => "SHA-256",
        }
    }

    pub(super) fn of(self, text: &str) -> String {
        let bytes = match self {
            Self::Md5 => Md5::digest(text).to_vec(),
            Self::Sha256 => Sha256::digest(text).to_vec(),
        };
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl SipPhone {
    /// Registers with these header lines beside the usual ones; without a `Contact` among them it says where it is. A
    /// challenge is answered once. Gives the last response.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn register(&self, account: &SipAccount, headers: &[&str]) -> anyhow::Result<SipMessage> {
        let contact = format!("Contact: <sip:{}@{}>", account.name, self.shared.contact());
        let has_contact = headers.iter().any(|line| line.starts_with("Contact:"));
        let headers: Vec<&str> = headers.iter().copied().chain((!has_contact).then_some(&*contact)).collect();
        let first = self.ask_to_register(account, &headers, None).await?;
        if first.code() != Some(401) {
            return Ok(first);
        }
        let proof = account.proof(&first, "REGISTER", &format!("sip:{}", account.domain), 1)?;
        self.ask_to_register(account, &headers, Some(&proof)).await
    }

    /// One REGISTER with exactly these header lines beside the usual ones, and this proof.
    ///
    /// # Errors
    /// When no response comes.
    pub async fn ask_to_register(
        &self,
        account: &SipAccount,
        headers: &[&str],
        proof: Option<&str>,
    ) -> anyhow::Result<SipMessage> {
        self.exchange(&self.register_request(account, headers, proof), account.server).await
    }

    /// Sends a message once, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be sent.
    pub async fn say(&self, message: &SipMessage, to: SocketAddr) -> anyhow::Result<()> {
        self.shared.socket.send_to(message.to_string().as_bytes(), to).await?;
        Ok(())
    }

    /// The request of [`ask_to_register`](Self::ask_to_register).
    #[must_use]
    pub fn register_request(&self, account: &SipAccount, headers: &[&str], proof: Option<&str>) -> SipMessage {
        let sequence = {
            let mut state = self.shared.state();
            state.registrations += 1;
            state.registrations
        };
        let (address, branch) = (self.shared.contact(), rand::random::<u64>());
        let user = format!("<sip:{}@{}>", account.name, account.domain);
        let mut all = vec![
            format!("Via: SIP/2.0/UDP {address};rport;branch=z9hG4bKphone{branch:x}"),
            "Max-Forwards: 70".to_owned(),
            format!("From: {user};tag=phone"),
            format!("To: {user}"),
            format!("Call-ID: registration@{address}"),
            format!("CSeq: {sequence} REGISTER"),
        ];
        all.extend(headers.iter().map(|line| (*line).to_owned()));
        all.extend(proof.map(|proof| format!("Authorization: {proof}")));
        all.push("Content-Length: 0".to_owned());
        SipMessage {
            start: format!("REGISTER sip:{} SIP/2.0", account.domain),
            headers: all.iter().filter_map(|line| split(line)).collect(),
            body: String::new(),
        }
    }
}
