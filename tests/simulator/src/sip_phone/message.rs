//! SIP messages of the phone: read and written as text.

use std::fmt;
use std::net::SocketAddr;

use anyhow::Context;

/// One message.
#[derive(Clone, Debug)]
pub struct SipMessage {
    /// The first line.
    pub start: String,
    /// In their order.
    pub headers: Vec<(String, String)>,
    /// Usually an SDP.
    pub body: String,
}

impl SipMessage {
    /// None for what is no SIP.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_owned(), value.trim().to_owned()))
        };
        let headers = lines.map(header).collect::<Option<_>>()?;
        Some(Self { start, headers, body: body.to_owned() })
    }

    /// None for a response.
    #[must_use]
    pub fn method(&self) -> Option<&str> {
        self.start.strip_suffix(" SIP/2.0")?.split(' ').next()
    }

    /// None for a request.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?.split(' ').next()?.parse().ok()
    }

    /// The first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set_header(&mut self, name: &str, value: String) {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.insert(0, (name.to_owned(), value));
    }

    /// A response of the phone to it.
    pub(crate) fn response(&self, code: u16, tag: &str, address: SocketAddr, more: &[String], body: &str) -> Self {
        let copied = |name: &&(String, String)| {
            ["Via", "From", "Call-ID", "CSeq", "Record-Route"].iter().any(|wanted| wanted.eq_ignore_ascii_case(&name.0))
        };
        let mut headers: Vec<_> = self.headers.iter().filter(copied).cloned().collect();
        let to = self.header("To").unwrap_or_default();
        let to = if to.contains(";tag=") { to.to_owned() } else { format!("{to};tag={tag}") };
        headers.push(("To".to_owned(), to));
        headers.push(("Contact".to_owned(), format!("<sip:200@{address}>")));
        headers.extend(more.iter().filter_map(|line| split(line)));
        headers.push(("Content-Length".to_owned(), body.len().to_string()));
        Self { start: format!("SIP/2.0 {code} Simulated"), headers, body: body.to_owned() }
    }

    /// A request of the phone in the dialog of this INVITE.
    pub(crate) fn request_in(
        invite: &Self,
        (method, sequence): (&str, u32),
        (tag, address): (&str, SocketAddr),
        more: &[&str],
        body: &str,
    ) -> anyhow::Result<Self> {
        let of = |name: &str| invite.header(name).map(str::to_owned).context("the INVITE has it");
        let contact = of("Contact")?;
        let target =
            contact.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(&*contact, |(uri, _)| uri);
        let mut headers = vec![
            ("Via".to_owned(), format!("SIP/2.0/UDP {address};rport;branch=z9hG4bKphone{:x}", rand::random::<u64>())),
            ("Max-Forwards".to_owned(), "70".to_owned()),
            ("From".to_owned(), format!("{};tag={tag}", of("To")?)),
            ("To".to_owned(), of("From")?),
            ("Call-ID".to_owned(), of("Call-ID")?),
            ("CSeq".to_owned(), format!("{sequence} {method}")),
            ("Contact".to_owned(), format!("<sip:200@{address}>")),
        ];
        headers.extend(more.iter().filter_map(|line| split(line)));
        headers.push(("Content-Length".to_owned(), body.len().to_string()));
        Ok(Self { start: format!("{method} {target} SIP/2.0"), headers, body: body.to_owned() })
    }
}

pub(super) fn split(line: &str) -> Option<(String, String)> {
    line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
}

impl fmt::Display for SipMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\r\n", self.start)?;
        for (name, value) in &self.headers {
            write!(f, "{name}: {value}\r\n")?;
        }
        write!(f, "\r\n{}", self.body)
    }
}
