//! WebSocketOptions: how an agent behind a WebSocket is reached.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use patchcord_media::opus::{Profile, SampleRate};
use secrecy::SecretString;
use url::Url;

use super::Terms;
use super::signature::UpgradeSignature;
use crate::address::is_nearby;
use crate::agent::{Choice, DialectName, Encoding, SoundFormat};
use crate::call::event::CallId;

/// An agent behind a WebSocket: how it is reached, and its sound format.
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    /// `ws://` or `wss://`.
    pub url: Url,
    /// Where other instances of the same agent are.
    pub more_urls: Vec<Url>,
    /// Which of all these addresses is dialled first.
    pub choice: Choice,
    /// The addresses of the host, if they were resolved and checked before ([`CheckedUrl`](crate::egress::CheckedUrl)):
    /// then no other is connected to. If empty, the host is resolved when the agent is dialled. They are of `url`, and
    /// there is no other then.
    pub addresses: Vec<SocketAddr>,
    /// Header fields of the upgrade request, such as `Authorization`.
    pub headers: Vec<(String, SecretString)>,
    /// In place of what all agents have in common: the route's own authorities, or a certificate of ours.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// Proves that the upgrade request is ours; None leaves it unsigned.
    pub signature: Option<UpgradeSignature>,
    /// The protocol on the WebSocket.
    pub dialect: DialectName,
    /// The sound format until the agent changes it. A dialect with a fixed format ignores it.
    pub format: SoundFormat,
    /// How PCM is encoded for the caller.
    pub profile: Profile,
    /// The `parameters` of the `Start` notice.
    pub parameters: BTreeMap<String, String>,
    /// How long it is dialled again after its connection broke in the middle of a call; zero for not at all.
    pub redial_for: Duration,
}

/// How long an agent is dialled again unless its route says otherwise. A server restarts within it, and few callers wait
/// longer.
pub const REDIAL_FOR: Duration = Duration::from_secs(20);

impl WebSocketOptions {
    /// An agent at this address with the defaults of a route.
    pub fn at(url: Url) -> Self {
        Self {
            url,
            more_urls: Vec::new(),
            choice: Choice::default(),
            addresses: Vec::new(),
            headers: Vec::new(),
            tls: None,
            signature: None,
            dialect: DialectName::Native,
            format: SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz16000 },
            profile: Profile::Eco,
            parameters: BTreeMap::new(),
            redial_for: REDIAL_FOR,
        }
    }

    /// All its addresses, in the order of the configuration.
    pub fn urls(&self) -> impl Iterator<Item = &Url> {
        std::iter::once(&self.url).chain(&self.more_urls)
    }

    /// The same at this one of its addresses, with the proof that the upgrade request is ours.
    pub(super) fn signed(&self, url: &Url, call: &CallId, now: SystemTime) -> Self {
        let mut signed = Self { url: url.clone(), more_urls: Vec::new(), ..self.clone() };
        let signature = self.signature.as_ref().map(|signature| signature.headers(url, call, now));
        signed.headers.extend(signature.into_iter().flatten());
        signed
    }

    pub(super) fn terms(&self) -> Terms<'_> {
        Terms { format: self.format, profile: self.profile, parameters: &self.parameters }
    }

    /// Reads `ws://…` or `wss://…`. The error says what to write instead.
    pub(in crate::agent) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("this is no address: {error}"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a password in an address ends in logs: put it into headers.Authorization".to_owned());
        }
        if url.fragment().is_some() {
            return Err("a WebSocket's address has no part after #".to_owned());
        }
        if url.scheme() == "ws" && !is_nearby(&url) {
            return Err("ws:// would carry the call's sound in the clear through the internet: use wss://".to_owned());
        }
        Ok(Self::at(url))
    }
}
