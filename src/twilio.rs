//! Twilio's words: its account, ids, signature and TwiML, so that an app written for Twilio Voice works with Patchcord.
//!
//! Nothing here does I/O. The agent that runs a document is `agent/twiml`, and the REST API is `http/twilio`.

pub mod twiml;
mod reader;
pub mod interpreter;
pub mod status;

pub(crate) use reader::shown;

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use ulid::Ulid;
use url::Url;

use crate::call::description::CallDescription;
use crate::call::event::CallId;
use crate::vonage;
use crate::whatsapp::PhoneNumberId;

/// The version in paths and requests; Twilio has had no other since 2010.
pub const API_VERSION: &str = "2010-04-01";

/// The account that apps know us by.
#[derive(Clone, Debug)]
pub struct Account {
    /// `AC` and 32 hexadecimal digits.
    pub sid: String,
    /// Signs our requests, and is the password of the REST API.
    pub auth_token: SecretString,
    /// A program that reads the text of `<Say>` and writes a WAV file. Without one `<Say>` is an error; if it is empty, `<Say>` is skipped.
    pub say_command: Option<Vec<String>>,
    /// Meta's ids of business numbers by their digits, which Twilio's API names them by.
    pub numbers: BTreeMap<String, PhoneNumberId>,
    /// Gets a request whenever the status of a call changes.
    pub status_callback: Option<Url>,
    /// The SIP address of a phone number, or its place behind a trunk, with `{number}` in it. None: `<Number>` is an error.
    pub dial_number: Option<String>,
}

impl Account {
    /// The same call with the digits of its business number, which Meta does not say of calls that we place.
    pub fn with_number(&self, call: &CallDescription) -> CallDescription {
        let mut call = call.clone();
        if call.number.display_phone_number.is_none() {
            let is_it = |id: &PhoneNumberId| id.as_str() == call.number.phone_number_id;
            let known = self.numbers.iter().find(|(_, id)| is_it(id)).map(|(digits, _)| digits.clone());
            call.number.display_phone_number = known;
        }
        call
    }
}

/// Where the TwiML of a call comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The app answers a request with it.
    Url(Url, Method),
    /// It was given with the request that began it.
    Document(String),
}

/// In which of two notations an app writes its documents, and by whose rules it is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Notation {
    /// Twilio's.
    #[default]
    Twiml,
    /// Vonage's.
    Ncco,
}

impl Notation {
    /// The scheme of such an app in the configuration.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Twiml => "twiml",
            Self::Ncco => "ncco",
        }
    }

    /// What plays a file.
    pub fn play(self) -> &'static str {
        match self {
            Self::Twiml => "<Play>",
            Self::Ncco => "stream",
        }
    }

    /// What speaks a text.
    pub fn say(self) -> &'static str {
        match self {
            Self::Twiml => "<Say>",
            Self::Ncco => "talk",
        }
    }

    /// Reads a document.
    pub fn parse(self, document: &str) -> Result<Vec<twiml::Verb>, twiml::TwimlError> {
        match self {
            Self::Twiml => twiml::parse(document),
            Self::Ncco => vonage::parse(document),
        }
    }
}

/// How an app is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Method {
    /// The fields are a form.
    #[default]
    Post,
    /// The fields are in the query.
    Get,
}

impl Method {
    /// Reads a verb's `method`, or a field of the REST API.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            _ if text.eq_ignore_ascii_case("POST") => Some(Self::Post),
            _ if text.eq_ignore_ascii_case("GET") => Some(Self::Get),
            _ => None,
        }
    }
}

/// The id that apps know a call by.
pub fn call_sid(call: &CallId) -> String {
    let ulid = call.as_str().strip_prefix("call_").and_then(|ulid| Ulid::from_string(ulid).ok()).unwrap_or_default();
    format!("CA{:032x}", ulid.0)
}

/// The call of an id that [`call_sid`] made; None for any other text.
pub fn call_of(sid: &str) -> Option<CallId> {
    let digits = sid.strip_prefix("CA").filter(|digits| digits.len() == 32)?;
    let is_ours = digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let number = is_ours.then(|| u128::from_str_radix(digits, 16).ok()).flatten()?;
    CallId::parse(&format!("call_{}", Ulid(number).to_string().to_lowercase()))
}

/// The status of a call that has ended, by whether it was answered and by the name of its
/// [`EndReason`](crate::call::end::EndReason).
pub fn status_of_end(is_answered: bool, reason: &str) -> &'static str {
    match (is_answered, reason) {
        (true, _) => "completed",
        (false, "no_answer" | "caller_gave_up" | "callee_unreachable") => "no-answer",
        (false, "callee_declined" | "callee_busy" | "rejected_by_api") => "busy",
        (false, "hung_up_by_api" | "agent_hung_up") => "canceled",
        (false, _) => "failed",
    }
}

/// A time as in `Fri, 27 Nov 2026 20:52:10 +0000`, which Twilio has from RFC 2822.
pub fn rfc2822(time: SystemTime) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let weekday = DAYS[(since.as_secs() / 86_400 % 7) as usize];
    // `2026-11-27T20:52:10Z`
    let written = humantime::format_rfc3339_seconds(UNIX_EPOCH + since).to_string();
    let (date, clock) = written.split_once('T').unwrap_or_default();
    let mut parts = date.splitn(3, '-');
    let (year, month, day) = (parts.next(), parts.next(), parts.next());
    let month = month.and_then(|month| month.parse::<usize>().ok()).and_then(|month| MONTHS.get(month.wrapping_sub(1)));
    let [year, day] = [year, day].map(Option::unwrap_or_default);
    format!("{weekday}, {day} {} {year} {} +0000", month.unwrap_or(&"Jan"), clock.trim_end_matches('Z'))
}

/// Twilio's "Validating Signatures": HMAC-SHA1 over the URL and the fields of a form, sorted by name, as base64.
pub fn sign(auth_token: &SecretString, url: &str, form: &[(String, String)]) -> String {
    let key = auth_token.expose_secret().as_bytes();
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes a key of any length");
    mac.update(url.as_bytes());
    let mut fields: Vec<&(String, String)> = form.iter().collect();
    fields.sort();
    for (name, value) in fields {
        mac.update(name.as_bytes());
        mac.update(value.as_bytes());
    }
    STANDARD.encode(mac.finalize().into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_found_by_the_id_that_apps_know() {
        let call = CallId::generate();
        let sid = call_sid(&call);
        assert_eq!((&sid[..2], sid.len()), ("CA", 34));
        assert_eq!(call_of(&sid), Some(call));
        for other in ["", "CA", "CAzz", &sid[1..], &sid.replace("CA", "AC"), &format!("{sid}0"), &"é".repeat(17)] {
            assert_eq!(call_of(other), None, "{other}");
        }
        // A ULID has 130 bits and its first digit is at most 7, so every number is one.
        assert!(call_of(&format!("CA{}", "f".repeat(32))).is_some());
    }

    #[test]
    fn times_are_written_as_twilio_does() {
        let at = |seconds| rfc2822(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
        assert_eq!(at(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(at(1_795_812_730), "Fri, 27 Nov 2026 20:52:10 +0000");
    }

    /// The example of Twilio's page "Webhooks security".
    #[test]
    fn a_form_is_signed_as_on_twilios_page() {
        let fields = [
            ("CallSid", "CA1234567890ABCDE"),
            ("Caller", "+14158675309"),
            ("Digits", "1234"),
            ("From", "+14158675309"),
            ("To", "+18005551212"),
        ];
        let form = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let signature = sign(&"12345".into(), "https://mycompany.com/myapp.php?foo=1&bar=2", &form);
        assert_eq!(signature, "RSOYDt4T1cUTdK1PDd93/VVr8B8=");
    }
}
