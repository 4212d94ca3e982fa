//! OfferOptions: how an agent behind an HTTP endpoint that answers WebRTC offers is reached.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use secrecy::SecretString;
use url::Url;

use crate::address::is_nearby;

/// An agent behind an HTTP endpoint that answers WebRTC offers.
#[derive(Clone, Debug)]
pub struct OfferOptions {
    /// `https://`, or `http://` nearby.
    pub url: Url,
    /// The addresses of the host, if they were resolved and checked before ([`CheckedUrl`](crate::egress::CheckedUrl)):
    /// then no other is connected to. If empty, the host is resolved when the agent is dialled.
    pub addresses: Vec<SocketAddr>,
    /// Header fields of the request, such as `Authorization`.
    pub headers: Vec<(String, SecretString)>,
    /// In place of what all agents have in common: the route's own authorities, or a certificate of ours.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// How offer and answer are written.
    pub format: OfferFormat,
    /// In `request_data`, or as fields of the form.
    pub parameters: BTreeMap<String, String>,
}

/// How the offer is posted, and how the answer comes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OfferFormat {
    /// JSON `{"sdp", "type": "offer", "request_data"}`, answered by JSON `{"sdp", "type": "answer"}`: Pipecat and aiortc's
    /// examples.
    #[default]
    Json,
    /// `application/sdp` both ways, as in WHIP.
    Sdp,
    /// A form with the field `sdp` and one for each parameter, answered by SDP: OpenAI's `/v1/realtime/calls`.
    Form,
}

impl OfferOptions {
    /// An agent at this URL with the defaults of a route.
    pub fn at(url: Url) -> Self {
        Self {
            url,
            addresses: Vec::new(),
            headers: Vec::new(),
            tls: None,
            format: OfferFormat::default(),
            parameters: BTreeMap::new(),
        }
    }

    /// Reads `https://…` or `http://…`. The error says what to write instead.
    pub(in crate::agent) fn parse(text: &str) -> Result<Self, String> {
        let url = Url::parse(text).map_err(|error| format!("offer: needs a URL such as offer:https://…: {error}"))?;
        if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
            return Err("give offer:https://…, or offer:http://… for a bot nearby".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a password in a URL ends in logs: put it into headers.Authorization".to_owned());
        }
        if url.fragment().is_some() {
            return Err("the URL of an agent has no part after #".to_owned());
        }
        if url.scheme() == "http" && !is_nearby(&url) {
            let advice = "http:// would carry the call's keys in the clear through the internet: use offer:https://";
            return Err(advice.to_owned());
        }
        Ok(Self::at(url))
    }
}

impl OfferFormat {
    /// The stable name in the configuration and the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Sdp => "sdp",
            Self::Form => "form",
        }
    }

    /// The format of this name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Json, Self::Sdp, Self::Form].into_iter().find(|format| format.name() == name)
    }
}
