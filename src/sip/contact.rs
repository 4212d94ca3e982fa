//! Contacts: what the `Contact` headers of a REGISTER say (RFC 3261 §10.2, RFC 5626 §4). Pure.

use std::fmt;

/// Longer addresses are attacks: a phone's has less than 200 bytes.
const MAX_URI_BYTES: usize = 512;
/// More contacts in one request are attacks.
const MAX_CONTACTS: usize = 20;
const MAX_INSTANCE_BYTES: usize = 128;

/// Where a phone says it is, to the letter: its parameters mean something to the phone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ContactUri(String);

/// A contact that a phone wants bound, or removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contact {
    /// Where it is.
    pub uri: ContactUri,
    /// How much it is preferred, from 0 to 1000.
    pub q: u16,
    /// How long it shall be bound, in seconds; 0 removes it. None for what the request says.
    pub expires: Option<u32>,
    /// The phone's own id (`+sip.instance`), which outlives changes of its address.
    pub instance: Option<String>,
}

/// All of a request's contacts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Contacts {
    /// There are none: the phone asks what is bound.
    Asked,
    /// `*`: all shall be removed.
    All,
    /// These, at least one.
    Listed(Vec<Contact>),
}

/// A `Contact` header that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl ContactUri {
    /// Reads a `sip:` or `sips:` address without brackets.
    pub fn parse(text: &str) -> Result<Self, Malformed> {
        let is_sip = ["sip:", "sips:"].iter().any(|scheme| {
            text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
                && text.len() > scheme.len()
        });
        let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\"".contains(&byte));
        let is_uri = is_sip && is_plain && text.len() <= MAX_URI_BYTES;
        is_uri.then(|| Self(text.to_owned())).ok_or(Malformed)
    }

    /// As the phone wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ContactUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Contacts {
    /// Reads the values of all `Contact` headers of a request.
    pub fn read<'a>(values: impl IntoIterator<Item = &'a str>) -> Result<Self, Malformed> {
        let values = values.into_iter().flat_map(|value| split(value, ','));
        let values: Vec<&str> =
            values.map(str::trim).filter(|value| !value.is_empty()).take(MAX_CONTACTS + 1).collect();
        match values.as_slice() {
            [] => Ok(Self::Asked),
            ["*"] => Ok(Self::All),
            values if values.len() > MAX_CONTACTS => Err(Malformed),
            values => values.iter().map(|value| Contact::parse(value)).collect::<Result<_, _>>().map(Self::Listed),
        }
    }
}

impl Contact {
    fn parse(value: &str) -> Result<Self, Malformed> {
        let (uri, parameters) = match bracket(value) {
            Some(at) => {
                let (uri, parameters) = value[at + 1..].split_once('>').ok_or(Malformed)?;
                (uri, parameters)
            }
            // RFC 3261 §20.10: without brackets all parameters are the header's.
            None => value.split_at(value.find(';').unwrap_or(value.len())),
        };
        let mut contact = Self { uri: ContactUri::parse(uri.trim())?, q: 1000, expires: None, instance: None };
        for parameter in split(parameters, ';') {
            let Some((name, value)) = parameter.split_once('=') else { continue };
            let (name, value) = (name.trim(), value.trim());
            if name.eq_ignore_ascii_case("expires") {
                // RFC 3261 §10.2.1.1: malformed means as long as usual.
                contact.expires = value.parse().ok();
            } else if name.eq_ignore_ascii_case("q") {
                contact.q = preference(value).unwrap_or(1000);
            } else if name.eq_ignore_ascii_case("+sip.instance") {
                contact.instance = (value.len() <= MAX_INSTANCE_BYTES).then(|| value.trim_matches('"').to_owned());
            }
        }
        Ok(contact)
    }
}

/// RFC 3261 §25.1: `0` to `1` with three digits behind the point.
fn preference(text: &str) -> Option<u16> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    let is_number = rest.len() <= 3 && rest.bytes().all(|byte| byte.is_ascii_digit());
    let whole: u16 = whole.parse().ok().filter(|whole| *whole <= 1 && is_number)?;
    let thousandths: u16 = format!("{rest:0<3}").parse().ok()?;
    Some(whole * 1000 + thousandths).filter(|q| *q <= 1000)
}

/// Where the address begins, behind a display name that may be quoted.
fn bracket(value: &str) -> Option<usize> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    value.bytes().position(|byte| {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_quoted => is_escaped = true,
            b'"' => is_quoted = !is_quoted,
            b'<' => return !is_quoted,
            _ => {}
        }
        false
    })
}

/// The parts between separators that stand neither in quotes nor in brackets.
fn split(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped, mut is_in_brackets) = (false, false, false);
    text.split(move |sign: char| {
        match sign {
            _ if is_escaped => is_escaped = false,
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            '<' if !is_quoted => is_in_brackets = true,
            '>' if !is_quoted => is_in_brackets = false,
            _ => return sign == separator && !is_quoted && !is_in_brackets,
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn listed(values: &[&str]) -> Vec<(String, u16, Option<u32>, Option<String>)> {
        match Contacts::read(values.iter().copied()).unwrap() {
            Contacts::Listed(contacts) => contacts
                .into_iter()
                .map(|contact| (contact.uri.to_string(), contact.q, contact.expires, contact.instance))
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn contacts_are_read_as_phones_write_them() {
        assert_eq!(
            listed(&[
                "<sip:alice@192.0.2.1:5060;ob>;q=0.5;expires=60, \"A, <b>\" <sips:a,b@c>;Q=1.0;x",
                "sip:a@b;expires=0"
            ]),
            [
                ("sip:alice@192.0.2.1:5060;ob".to_owned(), 500, Some(60), None),
                ("sips:a,b@c".to_owned(), 1000, None, None),
                ("sip:a@b".to_owned(), 1000, Some(0), None),
            ]
        );
        let page = "<sip:k3@x7.invalid;transport=ws>;reg-id=1;+sip.instance=\"<urn:uuid:1>\";expires=600";
        assert_eq!(listed(&[page])[0].3.as_deref(), Some("<urn:uuid:1>"));
        assert_eq!(listed(&["<sip:a@b>;expires=soon;q=7"])[0].1, 1000);
        assert_eq!(Contacts::read([]), Ok(Contacts::Asked));
        assert_eq!(Contacts::read(["*"]), Ok(Contacts::All));
    }

    #[test]
    fn what_is_no_contact_is_malformed() {
        for value in ["tel:+1555", "<sip:a@b", "<sip:>", "sip:a b@c", "*, sip:a@b", "<sip:a@b\u{e9}>", "x"] {
            assert_eq!(Contacts::read([value]), Err(Malformed), "{value}");
        }
        assert_eq!(Contacts::read([["sip:a@b"; 21].join(",").as_str()]), Err(Malformed));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*") {
            let _ = Contacts::read([text.as_str()]);
            let _ = Contacts::read([format!("<sip:{text}>;q={text}").as_str()]);
        }
    }
}
