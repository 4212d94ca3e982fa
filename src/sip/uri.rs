//! SipUri: the address of a phone, as a route or a phone's REFER names it (RFC 3261 §19.1).

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use super::srtp::Srtp;

/// Longer user parts and hosts are no addresses of people.
const MAX_USER_BYTES: usize = 128;
/// A `Replaces` has a Call-ID and two tags.
const MAX_HEADER_BYTES: usize = 512;
/// The headers of a REFER's target that we send (RFC 3891, RFC 3892).
const REFERRED: [&str; 2] = ["Replaces", "Referred-By"];
/// RFC 1035 §2.3.4.
const MAX_HOST_BYTES: usize = 253;

/// A `sip:` or `sips:` address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SipUri {
    /// `sips:`: TLS on every hop.
    pub is_secure: bool,
    /// The part before `@`, as written.
    pub user: Option<String>,
    /// The name or address behind it.
    pub host: Host,
    /// None for the transport's usual one, which a lookup of the name may change.
    pub port: Option<u16>,
    /// None for the usual one: TLS of `sips:`, else UDP.
    pub transport: Option<Transport>,
    /// Ours alone, and never sent: None for what [`SrtpRules`](super::SrtpRules) say.
    pub srtp: Option<Srtp>,
    /// Headers of our INVITE, as a REFER's target has them behind `?`: `Replaces` and `Referred-By` only.
    pub headers: Vec<(&'static str, String)>,
}

/// The host of an address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// In lower case.
    Name(String),
    /// IPv6 stands in brackets in the text.
    Address(IpAddr),
}

/// What carries SIP messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// One message in a datagram.
    Udp,
    /// A stream of messages.
    Tcp,
    /// The same, encrypted.
    Tls,
    /// One message in a frame of a WebSocket that the phone has opened (RFC 7118). No address in the configuration has it.
    Ws,
}

impl SipUri {
    const FORM: &str =
        "give an address such as sip:200@pbx.example, with ;transport=tcp or ;transport=tls if it is not UDP";

    /// Reads `sip:USER@HOST:PORT;transport=…`. The error says what to write instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text.split_once(':').ok_or(Self::FORM)?;
        let is_secure = match scheme.to_ascii_lowercase().as_str() {
            "sip" => false,
            "sips" => true,
            _ => return Err(Self::FORM.to_owned()),
        };
        if rest.contains('?') {
            return Err("headers behind ? are not sent: leave them out".to_owned());
        }
        let mut parts = rest.split(';');
        let address = parts.next().unwrap_or_default();
        let (user, host) = match address.rsplit_once('@') {
            Some((user, host)) => (Some(read_user(user)?), host),
            None => (None, address),
        };
        let (host, port) = read_host(host)?;
        let (mut transport, mut srtp) = (None, None);
        for parameter in parts {
            match parameter.split_once('=').map(|(name, value)| (name.to_ascii_lowercase(), value)) {
                Some((name, value)) if name == "transport" => transport = Some(Transport::of_name(value)?),
                Some((name, value)) if name == "srtp" => srtp = Some(Srtp::of_name(value)?),
                // RFC 3261 §19.1.1: the user part is a telephone number, which it may be without this.
                Some((name, "phone")) if name == "user" => {}
                Some(_) | None => return Err("the only parameters are transport, srtp and user=phone".to_owned()),
            }
        }
        if is_secure && matches!(transport, Some(Transport::Udp)) {
            return Err("sips: is never carried by UDP: leave transport out, or give transport=tls".to_owned());
        }
        Ok(Self { is_secure, user, host, port, transport, srtp, headers: Vec::new() })
    }

    /// Reads the target of a phone's REFER, which may have [`headers`](Self::headers) and parameters of others.
    pub fn parse_referred(text: &str) -> Result<Self, String> {
        let (address, headers) = text.split_once('?').unwrap_or((text, ""));
        let is_ours = |parameter: &&str| {
            let name = parameter.split('=').next().unwrap_or_default();
            name.eq_ignore_ascii_case("transport") || name.eq_ignore_ascii_case("srtp")
        };
        let mut parts = address.split(';');
        let start = parts.next().unwrap_or_default().to_owned();
        let mut uri = Self::parse(&parts.filter(is_ours).fold(start, |text, part| text + ";" + part))?;
        // Whether audio is encrypted is not a phone's to say.
        uri.srtp = None;
        for (name, value) in headers.split('&').filter_map(|header| header.split_once('=')) {
            // RFC 3261 §19.1.5: what could harm is left out.
            if let Some(name) = REFERRED.into_iter().find(|known| known.eq_ignore_ascii_case(name)) {
                uri.set_header(name, &unescaped(value).ok_or("a header behind ? is malformed")?)?;
            }
        }
        Ok(uri)
    }

    /// Adds a header. The error says why it cannot be sent.
    pub fn set_header(&mut self, name: &'static str, value: &str) -> Result<(), String> {
        let is_printable = value.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        if value.is_empty() || value.len() > MAX_HEADER_BYTES || !is_printable {
            return Err("a header behind ? is malformed".to_owned());
        }
        self.headers.retain(|(other, _)| *other != name);
        self.headers.push((name, value.to_owned()));
        Ok(())
    }

    /// For logs, events and the API: without headers, which name other calls.
    pub fn shown(&self) -> String {
        Self { headers: Vec::new(), ..self.clone() }.to_string()
    }

    /// The host of an address of any form, such as a Request-URI with parameters that mean something to its writer.
    pub fn host_of(text: &str) -> Option<Host> {
        let (scheme, rest) = text.split_once(':')?;
        if !["sip", "sips"].iter().any(|known| scheme.eq_ignore_ascii_case(known)) {
            return None;
        }
        let address = rest.split([';', '?']).next().unwrap_or_default();
        let host = address.rsplit_once('@').map_or(address, |(_, host)| host);
        read_host(host).ok().map(|(host, _)| host)
    }

    /// What carries messages to it.
    pub fn transport(&self) -> Transport {
        match (self.is_secure, self.transport) {
            // RFC 3261 §26.2.2: `sips:` with transport=tcp means TLS over TCP.
            (true, _) => Transport::Tls,
            (false, transport) => transport.unwrap_or(Transport::Udp),
        }
    }

    /// The port, or the transport's usual one.
    pub fn port_or_usual(&self) -> u16 {
        self.port.unwrap_or_else(|| self.transport().usual_port())
    }

    /// As a phone may see it.
    pub fn on_the_wire(&self) -> String {
        Self { srtp: None, headers: Vec::new(), ..self.clone() }.to_string()
    }

    /// Whether `other` is the same person at the same place, however it is reached.
    pub fn is_same_person(&self, other: &Self) -> bool {
        (&self.user, &self.host) == (&other.user, &other.host)
    }
}

impl FromStr for SipUri {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text)
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            write!(f, "{user}@")?;
        }
        write!(f, "{}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        if let Some(transport) = self.transport {
            write!(f, ";transport={}", transport.name())?;
        }
        if let Some(srtp) = self.srtp {
            write!(f, ";srtp={}", srtp.name())?;
        }
        for (index, (name, value)) in self.headers.iter().enumerate() {
            write!(f, "{}{name}={}", if index == 0 { '?' } else { '&' }, escaped(value))?;
        }
        Ok(())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

impl Transport {
    /// The name in a `transport` parameter and in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
        }
    }

    /// RFC 3261 §19.1.2.
    pub fn usual_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
            Self::Ws => 80,
        }
    }

    /// Reads a name.
    pub fn of_name(name: &str) -> Result<Self, String> {
        let all = [Self::Udp, Self::Tcp, Self::Tls];
        let found = all.into_iter().find(|transport| transport.name().eq_ignore_ascii_case(name));
        found.ok_or_else(|| "the transports are udp, tcp and tls".to_owned())
    }
}

fn read_user(user: &str) -> Result<String, String> {
    if user.contains(':') {
        return Err("a password does not belong in the address: give it to a trunk".to_owned());
    }
    match is_user(user) {
        true => Ok(user.to_owned()),
        false => Err("the part before @ has 1 to 128 letters, digits and signs such as + . _ -".to_owned()),
    }
}

/// RFC 3261 §25.1: unreserved and user-unreserved, but for the signs that separate the parts of an address.
pub(super) fn is_user(user: &str) -> bool {
    let is_plain = user.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,/".contains(&byte));
    (1..=MAX_USER_BYTES).contains(&user.len()) && is_plain
}

/// RFC 3261 §25.1: `%` and two digits stand for a byte.
fn escaped(value: &str) -> String {
    let escape = |byte: u8| match byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    value.bytes().map(escape).collect()
}

/// None for what is no text.
fn unescaped(value: &str) -> Option<String> {
    let mut bytes = value.bytes();
    let mut text = Vec::new();
    while let Some(byte) = bytes.next() {
        text.push(match byte {
            b'%' => {
                let digits = [bytes.next()?, bytes.next()?];
                let digits = std::str::from_utf8(&digits).ok().filter(|digits| !digits.starts_with('+'))?;
                u8::from_str_radix(digits, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(text).ok()
}

fn read_host(text: &str) -> Result<(Host, Option<u16>), String> {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => {
            let address = address.parse::<Ipv6Addr>().map_err(|_| SipUri::FORM)?;
            (Host::Address(address.into()), rest.strip_prefix(':').or(if rest.is_empty() { None } else { Some("") }))
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            (read_name(host)?, port)
        }
    };
    let port = port.map(|port| port.parse::<u16>().ok().filter(|port| *port != 0).ok_or(SipUri::FORM)).transpose()?;
    Ok((host, port))
}

fn read_name(host: &str) -> Result<Host, String> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(Host::Address(address));
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
    };
    let is_name = host.len() <= MAX_HOST_BYTES && host.trim_end_matches('.').split('.').all(is_label);
    match is_name {
        true => Ok(Host::Name(host.trim_end_matches('.').to_ascii_lowercase())),
        false => Err(SipUri::FORM.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_address_is_read_with_its_port_and_transport() {
        let read = |text: &str| {
            let uri = SipUri::parse(text).unwrap();
            (uri.to_string(), uri.transport().name(), uri.port_or_usual())
        };
        assert_eq!(read("sip:200@127.0.0.1:5070"), ("sip:200@127.0.0.1:5070".to_owned(), "udp", 5070));
        assert_eq!(read("SIP:+15550100@PBX.example;user=phone"), ("sip:+15550100@pbx.example".to_owned(), "udp", 5060));
        assert_eq!(read("sip:a@[::1]:5;transport=TCP"), ("sip:a@[::1]:5;transport=tcp".to_owned(), "tcp", 5));
        assert_eq!(read("sips:pbx.example"), ("sips:pbx.example".to_owned(), "tls", 5061));
        assert_eq!(read("sip:a@b;transport=tls").2, 5061);
        assert_eq!(read("sip:a@b;SRTP=Required;transport=tls").0, "sip:a@b;transport=tls;srtp=required");
        assert_eq!(SipUri::parse("sips:a@b;srtp=off").unwrap().on_the_wire(), "sips:a@b");
    }

    #[test]
    fn what_is_no_address_is_refused_with_advice() {
        for text in [
            "sip:",
            "sip:@pbx",
            "sip:a b@pbx",
            "sip:a@pbx:0",
            "sip:a@pbx:99999",
            "sip:a@[::1",
            "sip:a@[1.2.3.4]",
            "sip:a@pbx;transport=carrier",
            "sip:a@pbx;lr",
            "sip:a@pbx;srtp=maybe",
            "sip:a:secret@pbx",
            "sip:a@pbx?Subject=x",
            "tel:+15550100",
            "sips:a@pbx;transport=udp",
            "sip:a@pbx\r\nX: y",
            "sip:a@-pbx",
            "sip:a@pbx..example",
        ] {
            assert!(SipUri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_referred_address_keeps_what_its_invite_needs_and_nothing_else() {
        let read = |text: &str| SipUri::parse_referred(text).map(|uri| uri.to_string());
        let replaces = "sip:201@pbx.example;transport=tcp?Replaces=a%40b%3Bto-tag%3D1%3Bfrom-tag%3D2";
        assert_eq!(read(replaces), Ok(replaces.to_owned()));
        assert_eq!(read(&format!("{replaces}&Subject=x&accept-contact=y")), Ok(replaces.to_owned()));
        assert_eq!(read("sips:201@pbx;srtp=off;line=abc;ob?replaces=a"), Ok("sips:201@pbx?Replaces=a".to_owned()));
        let uri = SipUri::parse_referred(replaces).unwrap();
        assert_eq!(uri.headers, [("Replaces", "a@b;to-tag=1;from-tag=2".to_owned())]);
        assert_eq!((uri.shown(), uri.on_the_wire()), ("sip:201@pbx.example;transport=tcp".to_owned(), uri.shown()));
        for malformed in ["%", "%4", "%zz", "%+1", "a%0D%0AX:y", "a%00", "%ff", ""] {
            assert!(read(&format!("sip:201@pbx?Replaces={malformed}")).is_err(), "{malformed}");
        }
        assert!(read(&format!("sip:201@pbx?Replaces={}", "a".repeat(513))).is_err());
    }

    proptest! {
        #[test]
        fn a_header_is_written_and_read_again(value in "[ -~]{1,40}") {
            let mut uri = SipUri::parse("sip:a@b").unwrap();
            uri.set_header("Replaces", &value).unwrap();
            prop_assert_eq!(SipUri::parse_referred(&uri.to_string()), Ok(uri));
        }

        #[test]
        fn what_was_read_is_written_and_read_again(text in "sips?:([a-z0-9+.]{1,9}@)?[a-z0-9.-]{1,12}(:[1-9][0-9]{0,3})?(;transport=(tcp|tls))?(;srtp=(off|offered|required))?") {
            if let Ok(uri) = SipUri::parse(&text) {
                prop_assert_eq!(SipUri::parse(&uri.to_string()), Ok(uri));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = SipUri::parse(&text);
            let _ = SipUri::parse(&format!("sip:{text}"));
            let _ = SipUri::parse_referred(&format!("sip:a@b?Replaces={text}"));
        }
    }
}
