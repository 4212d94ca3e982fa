//! The guard of URLs named by others: by API clients, agents, or a decision webhook.
//!
//! A host must be on the operator's list. Its name is resolved once; all its addresses must be public or in a range
//! on the list, and the connection is made to just these addresses, so that the name cannot change in
//! between (DNS rebinding). Redirects are not followed. URLs in the configuration are the operator's and
//! are not checked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use url::{Host, Url};

use crate::address::{AddressRange, is_for_documentation, is_public};
use crate::call::refusal::RefusalCode;

/// Deadline of a name resolution.
const RESOLVED_WITHIN: Duration = Duration::from_secs(3);
/// The longest accepted URL.
const MAX_URL_BYTES: usize = 2048;
/// The most addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// The allow list. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Egress(Arc<[Allowed]>);

/// One entry of the operator's list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Allowed {
    /// `*`: every host, as far as its addresses are public or in a range.
    AnyHost,
    /// One host by its name, in lower case and without a dot at the end.
    Host(String),
    /// `*.example.com`: every host below this name, and not the name itself.
    Below(String),
    /// Addresses, including private ones: for URLs that contain them, and for names that resolve to them.
    Range(AddressRange),
}

/// The use of a URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// `https://`, or `http://` inside of an allowed private network.
    Web,
    /// `wss://`, or `ws://` inside of an allowed private network.
    WebSocket,
    /// `audiosocket://` inside of an allowed private network.
    AudioSocket,
}

/// The hosts that a caller may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Those on the list.
    Listed,
    /// All, as far as their addresses are public or in a range on the list: an API key with `egress:any`.
    Any,
}

/// An allowed URL, with the only addresses to connect to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedUrl {
    url: Url,
    addresses: Vec<SocketAddr>,
}

/// Why a URL is refused. The texts are for the caller and reveal nothing of our network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not an absolute URL with a host, or far too long.
    #[error("this is no address: give a whole URL")]
    NotAUrl,
    /// Another scheme.
    #[error("this scheme is not taken: give {0}")]
    Scheme(&'static str),
    /// It has a user or password, which would appear in logs.
    #[error("the URL holds a user or a password: leave them out")]
    Credentials,
    /// Audio or commands would be unencrypted.
    #[error("this would travel in the clear through the internet: give {0}")]
    InTheClear(&'static str),
    /// The operator's list does not have it.
    #[error("this host is not on the list of the configuration: add it under [egress] allow")]
    HostNotAllowed,
    /// One of its addresses is not public.
    #[error("this host is at an address that is not public: add its range under [egress] allow")]
    AddressNotAllowed,
    /// The name does not exist, or the resolution timed out.
    #[error("this host's name cannot be resolved")]
    Unresolved,
}

impl Allowed {
    /// Reads one entry; the error gives examples.
    pub fn parse(text: &str) -> Result<Self, String> {
        const FORMS: &str =
            "give a host such as \"bots.example.com\" or \"*.example.com\", or a range such as \"10.0.0.0/8\"";
        if text == "*" {
            return Ok(Self::AnyHost);
        }
        if let Ok(range) = text.parse() {
            return Ok(Self::Range(range));
        }
        let (below, name) = text.strip_prefix("*.").map_or((false, text), |name| (true, name));
        match Host::parse(name) {
            Ok(Host::Domain(name)) if is_name(&name) => {
                let name = name.trim_end_matches('.').to_owned();
                Ok(if below { Self::Below(name) } else { Self::Host(name) })
            }
            _ => Err(format!("\"{text}\" is no host: {FORMS}")),
        }
    }

    fn takes_host(&self, host: &Host<&str>) -> bool {
        match (self, host) {
            (Self::AnyHost, _) => true,
            (Self::Host(name), Host::Domain(host)) => host.trim_end_matches('.') == name,
            (Self::Below(name), Host::Domain(host)) => {
                host.trim_end_matches('.').strip_suffix(name.as_str()).is_some_and(|rest| rest.ends_with('.'))
            }
            (Self::Range(range), Host::Ipv4(address)) => range.contains(IpAddr::V4(*address)),
            (Self::Range(range), Host::Ipv6(address)) => range.contains(IpAddr::V6(*address)),
            (Self::Host(_) | Self::Below(_), Host::Ipv4(_) | Host::Ipv6(_)) | (Self::Range(_), Host::Domain(_)) => {
                false
            }
        }
    }
}

impl Egress {
    /// Allows the entries of the list and nothing else.
    pub fn new(allow: impl IntoIterator<Item = Allowed>) -> Self {
        Self(allow.into_iter().collect())
    }

    /// Checks a URL and resolves its host once, within 3 s.
    pub async fn check(&self, text: &str, meant_for: Use, hosts: Hosts) -> Result<CheckedUrl, Refused> {
        self.check_with(text, meant_for, hosts, async |name, port| {
            Ok(tokio::net::lookup_host((name, port)).await?.collect())
        })
        .await
    }

    async fn check_with(
        &self,
        text: &str,
        meant_for: Use,
        hosts: Hosts,
        resolve: impl AsyncFnOnce(&str, u16) -> io::Result<Vec<SocketAddr>>,
    ) -> Result<CheckedUrl, Refused> {
        let url = parse(text, meant_for)?;
        // The URL library reads an address as a name where it does not know the scheme.
        let host = url.host_str().and_then(|host| Host::parse(host).ok()).ok_or(Refused::NotAUrl)?;
        let host = match &host {
            Host::Domain(name) => Host::Domain(name.as_str()),
            Host::Ipv4(address) => Host::Ipv4(*address),
            Host::Ipv6(address) => Host::Ipv6(*address),
        };
        if hosts == Hosts::Listed && !self.0.iter().any(|allowed| allowed.takes_host(&host)) {
            return Err(Refused::HostNotAllowed);
        }
        let port = url.port_or_known_default().filter(|port| *port > 0).ok_or(Refused::NotAUrl)?;
        let addresses = match host {
            Host::Ipv4(address) => vec![SocketAddr::from((address, port))],
            Host::Ipv6(address) => vec![SocketAddr::from((address, port))],
            Host::Domain(name) => {
                let resolved = tokio::time::timeout(RESOLVED_WITHIN, resolve(name, port)).await;
                resolved.map_err(|_| Refused::Unresolved)?.map_err(|_| Refused::Unresolved)?
            }
        };
        self.judge(&addresses, &url, meant_for)?;
        Ok(CheckedUrl { url, addresses: addresses.into_iter().take(MAX_ADDRESSES).collect() })
    }

    /// One forbidden address refuses them all: a name that resolves both inside and outside is not trusted.
    fn judge(&self, addresses: &[SocketAddr], url: &Url, meant_for: Use) -> Result<(), Refused> {
        if addresses.is_empty() {
            return Err(Refused::Unresolved);
        }
        if !addresses.iter().all(|address| self.takes_address(address.ip())) {
            return Err(Refused::AddressNotAllowed);
        }
        let is_inside = addresses.iter().all(|address| !is_public(address.ip()));
        if matches!(url.scheme(), "http" | "ws" | "audiosocket") && !is_inside {
            return Err(Refused::InTheClear(meant_for.safe_scheme()));
        }
        Ok(())
    }

    fn takes_address(&self, address: IpAddr) -> bool {
        let is_listed = |allowed: &Allowed| matches!(allowed, Allowed::Range(range) if range.contains(address));
        (is_public(address) && !is_for_documentation(address)) || self.0.iter().any(is_listed)
    }
}

impl CheckedUrl {
    /// The URL as given.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Its addresses, at least one.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// A client that connects to these addresses only: no second resolution, no redirect, no proxy. It is
    /// valid for this URL only.
    pub fn pin(&self, builder: reqwest::ClientBuilder) -> reqwest::ClientBuilder {
        let builder = builder.redirect(Policy::none()).no_proxy();
        match self.url.host() {
            Some(Host::Domain(name)) => builder.resolve_to_addrs(name, &self.addresses),
            Some(Host::Ipv4(_) | Host::Ipv6(_)) | None => builder,
        }
    }
}

impl Refused {
    /// Stable, for programs.
    pub fn code(self) -> RefusalCode {
        match self {
            Self::NotAUrl | Self::Scheme(_) | Self::Credentials | Self::InTheClear(_) => RefusalCode::InvalidUrl,
            Self::HostNotAllowed | Self::AddressNotAllowed => RefusalCode::UrlNotAllowed,
            Self::Unresolved => RefusalCode::UrlUnresolved,
        }
    }
}

impl Use {
    fn schemes(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Web => (&["https", "http"], "https://"),
            Self::WebSocket => (&["wss", "ws"], "wss://"),
            // It has no form that is encrypted.
            Self::AudioSocket => (&["audiosocket"], "wss://"),
        }
    }

    fn safe_scheme(self) -> &'static str {
        self.schemes().1
    }
}

fn parse(text: &str, meant_for: Use) -> Result<Url, Refused> {
    if text.len() > MAX_URL_BYTES {
        return Err(Refused::NotAUrl);
    }
    let url = Url::parse(text).map_err(|_| Refused::NotAUrl)?;
    if !meant_for.schemes().0.contains(&url.scheme()) {
        return Err(Refused::Scheme(meant_for.safe_scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused::Credentials);
    }
    if url.fragment().is_some() {
        return Err(Refused::NotAUrl);
    }
    Ok(url)
}

fn is_name(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    name.trim_end_matches('.').split('.').all(is_label)
}

#[cfg(test)]
mod tests;
