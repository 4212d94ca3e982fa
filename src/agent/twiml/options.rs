//! TwimlOptions: where the TwiML of an agent comes from, and which address of the app is its own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::address::is_nearby;
use crate::agent::websocket::REDIAL_FOR;
use crate::twilio::{Method, Notation, Source};

/// An app that says in TwiML, or in an NCCO, what happens to a call.
#[derive(Clone, Debug)]
pub struct TwimlOptions {
    /// How its documents are written.
    pub notation: Notation,
    /// The first document.
    pub source: Source,
    /// The app's own address; None for a document without one.
    pub home: Option<Home>,
    /// Asked once when the app fails.
    pub fallback: Option<Url>,
    /// Beneath the parameters of a document's `<Stream>`.
    pub parameters: BTreeMap<String, String>,
    /// For the app's own URLs, in place of what all agents have in common.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// How long a stream is dialled again after its connection broke; zero for not at all.
    pub redial_for: Duration,
}

/// An app's own address. Its other URLs there need not be on the egress list.
#[derive(Clone, Debug)]
pub struct Home {
    /// By which the app knows itself: it is signed, and others are relative to it.
    pub public: Url,
    /// Where we connect instead.
    pub local: Url,
    /// The addresses of the local host, if they were resolved and checked before
    /// ([`CheckedUrl`](crate::egress::CheckedUrl)); if empty, it is resolved for each connection.
    pub addresses: Vec<SocketAddr>,
}

impl TwimlOptions {
    /// An app at this URL, which knows itself by it.
    pub fn at(url: Url, method: Method, addresses: Vec<SocketAddr>) -> Self {
        let home = Home { public: url.clone(), local: url.clone(), addresses };
        Self {
            notation: Notation::Twiml,
            source: Source::Url(url, method),
            home: Some(home),
            fallback: None,
            parameters: BTreeMap::new(),
            tls: None,
            redial_for: REDIAL_FOR,
        }
    }

    /// A document that was given.
    pub fn document(document: String) -> Self {
        Self {
            notation: Notation::Twiml,
            source: Source::Document(document),
            home: None,
            fallback: None,
            parameters: BTreeMap::new(),
            tls: None,
            redial_for: REDIAL_FOR,
        }
    }

    /// Reads the URL behind `twiml:` or `ncco:`. The error says what to write instead.
    pub(in crate::agent) fn parse(notation: Notation, text: &str) -> Result<Self, String> {
        let scheme = notation.scheme();
        let url =
            Url::parse(text).map_err(|error| format!("{scheme}: needs a URL such as {scheme}:https://…: {error}"))?;
        if !matches!(url.scheme(), "https" | "http") || url.host().is_none() {
            return Err(format!("give {scheme}:https://…, or {scheme}:http://… for an app nearby"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a password in a URL ends in logs: leave it out".to_owned());
        }
        if url.fragment().is_some() {
            return Err("the URL of an app has no part after #".to_owned());
        }
        if url.scheme() == "http" && !is_nearby(&url) {
            let advice = "http:// would carry the call in the clear through the internet: use";
            return Err(format!("{advice} {scheme}:https://"));
        }
        // Both platforms' own defaults.
        let method = match notation {
            Notation::Twiml => Method::Post,
            Notation::Ncco => Method::Get,
        };
        Ok(Self { notation, ..Self::at(url, method, Vec::new()) })
    }

    /// The app knows itself by this URL.
    pub fn set_public(&mut self, public: Url) {
        if let (Source::Url(url, _), Some(home)) = (&mut self.source, &mut self.home) {
            url.clone_from(&public);
            home.public = public;
        }
    }

    /// The address without secrets, for logs, events and the API.
    pub fn shown(&self) -> String {
        let (scheme, home) = (self.notation.scheme(), self.home.as_ref());
        let shown = |home: &Home| format!("{scheme}:{}", super::super::shown_address(&home.local));
        home.map_or_else(|| scheme.to_owned(), shown)
    }
}

impl Home {
    /// Where to connect for one of the app's own URLs; None if it is another's.
    ///
    /// Many apps make the URL of their stream of the `Host` header and a fixed `wss://`, while they listen in the clear, and
    /// some leave the port out (FastRTC).
    pub fn local_of(&self, url: &Url) -> Option<Url> {
        let is_socket = matches!(url.scheme(), "ws" | "wss");
        let has_no_port = is_socket && url.port().is_none() && self.local.scheme() == "http";
        let is_same_port = url.port_or_known_default() == self.public.port_or_known_default();
        if url.host() != self.public.host() || !(is_same_port || has_no_port) {
            return None;
        }
        let mut local = self.local.clone();
        local.set_path(url.path());
        local.set_query(url.query());
        let scheme = match (is_socket, self.local.scheme()) {
            (true, "http") => "ws",
            (true, _) => "wss",
            (false, scheme) => scheme,
        }
        .to_owned();
        local.set_scheme(&scheme).ok()?;
        Some(local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_apps_own_urls_lead_to_where_it_listens() {
        let mut app = TwimlOptions::parse(Notation::Twiml, "http://127.0.0.1:5000/voice").unwrap();
        let local = |app: &TwimlOptions, url: &str| {
            app.home.as_ref().unwrap().local_of(&url.parse().unwrap()).map(String::from)
        };
        assert_eq!(local(&app, "http://127.0.0.1:5000/menu?a=1").as_deref(), Some("http://127.0.0.1:5000/menu?a=1"));
        assert_eq!(local(&app, "wss://127.0.0.1:5000/media").as_deref(), Some("ws://127.0.0.1:5000/media"));
        assert_eq!(local(&app, "wss://127.0.0.1/media").as_deref(), Some("ws://127.0.0.1:5000/media"));
        assert_eq!(local(&app, "https://127.0.0.1/menu"), None);
        assert_eq!(local(&app, "http://127.0.0.2:5000/menu"), None);
        app.set_public("https://bot.example.com/voice".parse().unwrap());
        assert_eq!(local(&app, "https://bot.example.com/menu").as_deref(), Some("http://127.0.0.1:5000/menu"));
        assert_eq!(local(&app, "wss://bot.example.com/media").as_deref(), Some("ws://127.0.0.1:5000/media"));
        assert_eq!(local(&app, "http://127.0.0.1:5000/menu"), None, "it is reached by its public address alone");
        let app = TwimlOptions::parse(Notation::Twiml, "https://bot.example.com/voice").unwrap();
        assert_eq!(local(&app, "wss://bot.example.com/media").as_deref(), Some("wss://bot.example.com/media"));
        assert_eq!(local(&app, "wss://bot.example.com:444/media"), None);
    }

    #[test]
    fn what_is_no_app_is_told() {
        for (text, advice) in [
            ("bot", "needs a URL"),
            ("ftp://bot", "give twiml:https://"),
            ("http://bot.example.com/voice", "in the clear"),
            ("https://a:b@bot.example.com/voice", "password"),
            ("https://bot.example.com/voice#x", "#"),
        ] {
            assert!(TwimlOptions::parse(Notation::Twiml, text).unwrap_err().contains(advice), "{text}");
        }
    }
}
