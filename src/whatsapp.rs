//! Meta's side: webhooks, the Graph API, and error codes.

pub mod clock;
pub mod error;
pub mod graph;
mod repair;
pub mod permission;
pub mod signature;
pub mod webhook;

use std::fmt;

use serde::{Deserialize, Serialize};

/// One WhatsApp call, by Meta's name for it: `wacid.` and base64 text of no fixed length.
///
/// The base64 holds the caller's phone number in the clear, so the id is personal data:
/// `Debug` hides it and there is no `Display`. Ask for it by name with [`WaCallId::as_str`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WaCallId(String);

impl WaCallId {
    /// Captured ids have about 110 characters; a far longer text is not an id.
    const MAX_CHARS: usize = 512;

    /// Accepts any printable ASCII word of 1 to 512 characters; Meta documents no format.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let is_word = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > Self::MAX_CHARS || !is_word {
            return Err(InvalidId);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as Meta writes it, for Meta and for API bodies; never for logs, metrics, URLs or file names.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for WaCallId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<WaCallId> for String {
    fn from(id: WaCallId) -> Self {
        id.0
    }
}

impl fmt::Debug for WaCallId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("WaCallId(hidden)")
    }
}

/// One business number, by its id in the Graph API: decimal digits.
///
/// It becomes part of a URL, so only digits are accepted. `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PhoneNumberId(String);

impl PhoneNumberId {
    /// Known ids have 15 to 17 digits.
    const MAX_DIGITS: usize = 32;

    /// Takes 1 to 32 decimal digits.
    pub fn parse(text: &str) -> Result<Self, InvalidId> {
        let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
        if text.is_empty() || text.len() > Self::MAX_DIGITS || !is_digits {
            return Err(InvalidId);
        }
        Ok(Self(text.to_owned()))
    }

    /// The id as Meta writes it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PhoneNumberId {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        Self::parse(&text)
    }
}

impl From<PhoneNumberId> for String {
    fn from(id: PhoneNumberId) -> Self {
        id.0
    }
}

impl fmt::Debug for PhoneNumberId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("PhoneNumberId(hidden)")
    }
}

/// The text is not an id of this kind. The error does not contain it, because it may be personal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id of this kind")]
pub struct InvalidId;

/// One party of a call, as far as Meta identifies it. Every field may be missing.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// Phone number in digits, without `+`. Missing if the person uses a username.
    pub wa_id: Option<String>,
    /// Business-scoped user id such as `US.13491208655302741918`; the better key when present.
    pub user_id: Option<String>,
    /// Business-scoped id shared by linked portfolios, such as `US.ENT.11815799212886844830`.
    pub parent_user_id: Option<String>,
    /// The profile name; Meta repeats the number here when it knows no name.
    pub name: Option<String>,
    /// The WhatsApp username.
    pub username: Option<String>,
}

impl Party {
    /// The user key that Meta advises: the business-scoped id, else the number.
    pub fn key(&self) -> Option<&str> {
        self.user_id.as_deref().or(self.wa_id.as_deref())
    }
}

impl fmt::Debug for Party {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Party")
            .field("wa_id", &Hidden::of(self.wa_id.as_deref()))
            .field("user_id", &Hidden::of(self.user_id.as_deref()))
            .field("parent_user_id", &Hidden::of(self.parent_user_id.as_deref()))
            .field("name", &Hidden::of(self.name.as_deref()))
            .field("username", &Hidden::of(self.username.as_deref()))
            .finish()
    }
}

/// Replaces text in `Debug` output that must not reach a log: it shows only whether there is any.
#[derive(Clone, Copy)]
pub(crate) struct Hidden(bool);

impl Hidden {
    pub(crate) fn of(text: Option<&str>) -> Self {
        Self(text.is_some())
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.0 { "hidden" } else { "none" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_take_what_meta_sends_and_nothing_that_could_change_a_url() {
        assert!(WaCallId::parse("wacid.HBgLMTIwMjU1NTAxNDMV+/==").is_ok());
        for wrong in ["", "wacid.a b", "wacid.\n", &"w".repeat(513)] {
            assert_eq!(WaCallId::parse(wrong), Err(InvalidId));
        }
        assert!(PhoneNumberId::parse("200000000000002").is_ok());
        for wrong in ["", "2/../1", "12 ", "PNID", &"1".repeat(33)] {
            assert_eq!(PhoneNumberId::parse(wrong), Err(InvalidId));
        }
    }

    #[test]
    fn debug_output_names_nobody() {
        let party = Party {
            wa_id: Some("12025550143".to_owned()),
            user_id: Some("US.13491208655302741918".to_owned()),
            name: Some("Example Caller".to_owned()),
            ..Party::default()
        };
        let call_id = WaCallId::parse("wacid.HBgLMTIwMjU1NTAxNDMV").unwrap();
        let number_id = PhoneNumberId::parse("200000000000002").unwrap();

        let shown = format!("{party:?} {call_id:?} {number_id:?}");

        for hidden in ["12025550143", "13491208655302741918", "Example", "HBgL", "200000000000002"] {
            assert!(!shown.contains(hidden), "{shown}");
        }
        assert_eq!(party.key(), Some("US.13491208655302741918"));
    }
}
