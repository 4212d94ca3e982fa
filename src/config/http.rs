//! `[http]`: the listener, its deadlines, and its limits for clients.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use url::Url;

use super::read::Section;
use super::web_url;
use crate::address::AddressRange;

/// Where webhooks and the API are served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Http {
    /// The listener's address; port 0 lets the system choose.
    pub listen: SocketAddr,
    /// How the outside sees it.
    pub public_url: Option<Url>,
    /// What clients may take.
    pub limits: Limits,
    /// Origins whose pages may read the API's responses, such as `https://app.example.com` (CORS).
    pub allow_origins: Vec<String>,
    /// Addresses of reverse proxies: their `X-Forwarded-For` is believed, and they may open any number of connections.
    pub proxies: Vec<AddressRange>,
}

/// What clients may take of time, connections and memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// From the first byte of a request's head to its last; of a new connection, from its beginning.
    pub head_timeout: Duration,
    /// Between two parts of a request's body.
    pub body_timeout: Duration,
    /// For a client to take some more of a response.
    pub write_timeout: Duration,
    /// From one request on a connection to the next.
    pub idle_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Of one address, without those that have shown an API key or a signature of Meta's.
    pub max_connections_per_address: usize,
    /// Bodies of webhooks in memory, in bytes of all together; the first 64 KiB of each are not counted.
    pub max_webhook_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            // Longer than a reverse proxy keeps its own end open (nginx 60 s, Caddy 120 s): a connection that is closed
            // while a webhook is under way costs that webhook.
            idle_timeout: Duration::from_secs(150),
            max_connections: 512,
            max_connections_per_address: 64,
            // Ten batches of the size that Meta sends at most.
            max_webhook_bytes: 32 * 1024 * 1024,
        }
    }
}

impl Http {
    pub(super) fn read(mut section: Section<'_, '_>) -> Self {
        let listen = section.parsed("listen", "0.0.0.0:8080");
        let public_url = section.text("public_url", |text| web_url(text, "https://calls.example.com"));
        let limits = Limits::read(&mut section);
        let proxies = section.list("proxies", |text| {
            text.parse().map_err(|()| format!("\"{text}\" is no address or range, such as \"10.0.0.0/8\""))
        });
        let allow_origins = section.list("allow_origins", origin).unwrap_or_default();
        section.end();
        Self {
            allow_origins,
            listen: listen.unwrap_or(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080))),
            public_url,
            limits,
            proxies: proxies.unwrap_or_else(private_ranges),
        }
    }
}

impl Limits {
    fn read(section: &mut Section<'_, '_>) -> Self {
        const HOUR: Duration = Duration::from_secs(60 * 60);
        let usual = Self::default();
        Self {
            head_timeout: section.duration("head_timeout", HOUR).unwrap_or(usual.head_timeout),
            body_timeout: section.duration("body_timeout", HOUR).unwrap_or(usual.body_timeout),
            write_timeout: section.duration("write_timeout", HOUR).unwrap_or(usual.write_timeout),
            idle_timeout: section.duration("idle_timeout", HOUR).unwrap_or(usual.idle_timeout),
            max_connections: count(section, "max_connections", usual.max_connections),
            max_connections_per_address: count(
                section,
                "max_connections_per_address",
                usual.max_connections_per_address,
            ),
            max_webhook_bytes: section
                .whole("max_webhook_bytes", 3 * 1024 * 1024, 1024 * 1024 * 1024)
                .map_or(usual.max_webhook_bytes, |bytes| bytes as usize),
        }
    }
}

/// Reads an origin as browsers send it: scheme, host, and the port unless it is the scheme's own.
fn origin(text: &str) -> Result<String, String> {
    let origin = Url::parse(text).ok().map(|url| url.origin().ascii_serialization());
    match origin {
        Some(origin) if origin == text && text.starts_with("http") => Ok(origin),
        Some(_) | None => Err(format!("\"{text}\" is no origin, such as \"https://app.example.com\"")),
    }
}

fn count(section: &mut Section<'_, '_>, key: &'static str, usual: usize) -> usize {
    section.whole(key, 1, 100_000).map_or(usual, |count| count as usize)
}

/// Loopback and private networks (RFC 1918, RFC 4193, link-local): where a reverse proxy of one's own stands.
fn private_ranges() -> Vec<AddressRange> {
    let ranges = ["127.0.0.0/8", "::1", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7"];
    ranges.iter().filter_map(|range| range.parse().ok()).collect()
}
