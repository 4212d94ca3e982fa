//! The `Reason` header (RFC 3326): why a request or response was sent, read from a phone and written for it. Pure.

use std::fmt;

/// Longer texts are cut.
const MAX_TEXT_CHARS: usize = 60;

/// One reason of a phone, made safe for logs and events: letters of its text, and no digits, so that no number of anybody
/// is among them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reason {
    protocol: &'static str,
    cause: Option<u16>,
    text: String,
}

impl Reason {
    /// Reads a header's value. None for a protocol that we do not know, and for one that says nothing.
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = split_unquoted(value).map(str::trim);
        let protocol = parts.next()?;
        let protocol = ["SIP", "Q.850"].into_iter().find(|known| known.eq_ignore_ascii_case(protocol))?;
        let (mut cause, mut text) = (None, String::new());
        for (name, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "cause" => cause = value.parse::<u16>().ok().filter(|cause| *cause < 1000),
                "text" => text = plain(value),
                _ => {}
            }
        }
        (cause.is_some() || !text.is_empty()).then_some(Self { protocol, cause, text })
    }
}

/// As in a log line: `Q.850 16 Normal call clearing`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.protocol)?;
        if let Some(cause) = self.cause {
            write!(f, " {cause}")?;
        }
        match self.text.is_empty() {
            true => Ok(()),
            false => write!(f, " {}", self.text),
        }
    }
}

/// The value that says our reason by its stable name.
pub(super) fn ours(name: &str) -> String {
    // RFC 3326 §2: the cause of a BYE or CANCEL is a status code that fits it.
    format!("SIP;cause=200;text=\"{name}\"")
}

/// The parameters, of which one may be quoted.
fn split_unquoted(value: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    value.split(move |sign| {
        is_quoted ^= sign == '"';
        sign == ';' && !is_quoted
    })
}

fn plain(text: &str) -> String {
    let is_kept = |sign: &char| sign.is_ascii_alphabetic() || matches!(sign, ' ' | '_' | '-' | ',' | '.' | '\'');
    let kept: String = text.chars().filter(is_kept).take(MAX_TEXT_CHARS).collect();
    kept.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reasons_are_read_as_phones_write_them_and_say_nobodys_number() {
        let read = |value: &str| Reason::parse(value).map(|reason| reason.to_string());
        assert_eq!(read("Q.850;cause=16;text=\"Normal call clearing\""), Some("Q.850 16 Normal call clearing".into()));
        assert_eq!(read("sip ;text=\"a; b=c\" ; cause=200"), Some("SIP 200 a bc".into()));
        assert_eq!(read("Q.850;cause=19"), Some("Q.850 19".into()));
        assert_eq!(read("SIP;text=\"call +1 202 555 0100\u{7}\""), Some("SIP call".into()));
        assert_eq!(read(&format!("SIP;text=\"{}\"", "x".repeat(500))).map(|text| text.len()), Some(64));
        for nothing in ["", "SIP", "SIP;cause=x", "X.25;cause=1", "SIP;cause=99999"] {
            assert_eq!(read(nothing), None, "{nothing}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic_or_long(text in "\\PC*") {
            for value in [text.clone(), format!("SIP;cause=1;text={text}")] {
                prop_assert!(Reason::parse(&value).is_none_or(|reason| reason.to_string().len() < 80));
            }
        }
    }
}
