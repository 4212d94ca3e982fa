//! The WebSocket opening handshake (RFC 6455 §4.1) as a client: our request, and the check of the response. Pure.
//!
//! The check of the WebSocket library accepts only `Connection: Upgrade`, where the RFC asks for that token in a list, and
//! refuses a server that selects no subprotocol. So only the library's request is used.

use httparse::{Header, ParserConfig, Status};
use secrecy::ExposeSecret;
use tokio_tungstenite::tungstenite;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::handshake::client::{Request, generate_request};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue, StatusCode};

use super::options::WebSocketOptions;

/// The largest head of a response. Servers behind a proxy that sets cookies send 2 kB.
pub(super) const HEAD_LIMIT_BYTES: usize = 16 * 1024;
const HEADERS_AT_MOST: usize = 100;

const SUBPROTOCOLS: &str = "sec-websocket-protocol";
/// The first two bytes of a TLS alert and of a TLS handshake message (RFC 8446 §5.1).
const TLS_RECORDS: [&[u8]; 2] = [&[0x15, 0x03], &[0x16, 0x03]];

/// One upgrade request.
pub(super) struct Upgrade {
    request: Vec<u8>,
    accept_key: String,
    /// As offered.
    subprotocols: &'static [&'static str],
}

/// Why a response opens no WebSocket. The texts hold nothing that the server wrote.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error("{}", status_text(*.0))]
    Status(u16),
    #[error("the answer is TLS; is wss:// meant?")]
    Tls,
    #[error("the answer is not HTTP")]
    NotHttp,
    #[error("the answer's header is larger than {} kB or {HEADERS_AT_MOST} lines", HEAD_LIMIT_BYTES / 1024)]
    TooLarge,
    #[error("the answer's Upgrade header does not say websocket")]
    NoUpgrade,
    #[error("the answer's Connection header does not say Upgrade")]
    NoConnectionUpgrade,
    #[error("the answer's Sec-WebSocket-Accept is not that of our key")]
    WrongAccept,
    #[error("the answer selects a subprotocol that was not offered")]
    OtherSubprotocol,
    #[error("the answer selects an extension, and none was offered")]
    Extension,
}

impl Upgrade {
    pub(super) fn new(
        agent: &WebSocketOptions,
        subprotocols: &'static [&'static str],
    ) -> Result<Self, tungstenite::Error> {
        let (request, key) = generate_request(request(agent, subprotocols)?)?;
        Ok(Self { request, accept_key: derive_accept_key(key.as_bytes()), subprotocols })
    }

    /// The bytes to send.
    pub(super) fn request(&self) -> &[u8] {
        &self.request
    }

    /// The length of the response's head, after which the WebSocket begins; None while it is incomplete.
    pub(super) fn judge(&self, received: &[u8]) -> Result<Option<usize>, Refused> {
        let mut length = 0;
        loop {
            let mut lines = [httparse::EMPTY_HEADER; HEADERS_AT_MOST];
            let mut answer = httparse::Response::new(&mut lines);
            match parser().parse_response(&mut answer, &received[length..]) {
                Ok(Status::Complete(head)) => length += head,
                Ok(Status::Partial) if received.len() < HEAD_LIMIT_BYTES => return Ok(None),
                Ok(Status::Partial) | Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
                Err(_) if TLS_RECORDS.iter().any(|record| received.starts_with(record)) => return Err(Refused::Tls),
                Err(_) => return Err(Refused::NotHttp),
            }
            match answer.code {
                Some(101) => return self.check(&Lines(answer.headers)).map(|()| Some(length)),
                // RFC 9110 §15.2: any number of these may come before the answer.
                Some(100..=199) => {}
                code => return Err(Refused::Status(code.unwrap_or_default())),
            }
        }
    }

    fn check(&self, answer: &Lines<'_>) -> Result<(), Refused> {
        if !answer.has_token("upgrade", "websocket") {
            return Err(Refused::NoUpgrade);
        }
        if !answer.has_token("connection", "upgrade") {
            return Err(Refused::NoConnectionUpgrade);
        }
        if !answer.values("sec-websocket-accept").any(|value| value == self.accept_key.as_bytes()) {
            return Err(Refused::WrongAccept);
        }
        // A server may go on without one.
        let is_offered = |value: &[u8]| self.subprotocols.iter().any(|offered| value == offered.as_bytes());
        if !answer.values(SUBPROTOCOLS).all(is_offered) {
            return Err(Refused::OtherSubprotocol);
        }
        if answer.values("sec-websocket-extensions").any(|value| !value.is_empty()) {
            return Err(Refused::Extension);
        }
        Ok(())
    }
}

fn request(agent: &WebSocketOptions, subprotocols: &[&str]) -> Result<Request, tungstenite::Error> {
    let mut request = agent.url.as_str().into_client_request()?;
    let headers = request.headers_mut();
    if !subprotocols.is_empty() {
        headers.insert(SUBPROTOCOLS, HeaderValue::from_str(&subprotocols.join(", "))?);
    }
    for (name, value) in &agent.headers {
        let mut value = HeaderValue::from_str(value.expose_secret())?;
        value.set_sensitive(true);
        headers.insert(HeaderName::from_bytes(name.as_bytes())?, value);
    }
    Ok(request)
}

/// Old servers fold lines and put spaces before a colon.
fn parser() -> ParserConfig {
    let mut parser = ParserConfig::default();
    parser.allow_spaces_after_header_name_in_responses(true).allow_obsolete_multiline_headers_in_responses(true);
    parser
}

fn status_text(code: u16) -> String {
    let reason = StatusCode::from_u16(code).ok().and_then(|status| status.canonical_reason()).unwrap_or_default();
    let advice = match code {
        200..=299 => " instead of a WebSocket",
        300..=399 => ", and redirects are not followed",
        _ => "",
    };
    format!("{}{advice}", format!("HTTP {code:03} {reason}").trim_end())
}

/// The header lines of a response.
struct Lines<'a>(&'a [Header<'a>]);

impl<'a> Lines<'a> {
    fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        let lines = self.0.iter().filter(move |line| line.name.eq_ignore_ascii_case(name));
        lines.map(|line| line.value.trim_ascii())
    }

    /// Whether a list (RFC 9110 §5.6.1), which may span several lines, has this token.
    fn has_token(&self, name: &str, token: &str) -> bool {
        let mut tokens = self.values(name).flat_map(|value| value.split(|byte| *byte == b','));
        tokens.any(|one| one.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
    }
}

#[cfg(test)]
mod tests;
