//! Meta's errors: the meaning of each code, what to do about it, and texts.

use std::fmt;

use serde_json::Value;

use super::Hidden;

/// An error as Meta reports it, in a Graph reply or in a `terminate` webhook.
///
/// Only `code` is almost always present. `Debug` shows no text of Meta's, because texts may quote
/// the request; [`MetaError::details_for_log`] gives a redacted one.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct MetaError {
    /// Meta's error code; `None` if the reply had no readable error.
    pub code: Option<i64>,
    /// `error_subcode`, which Meta's support asks for.
    pub subcode: Option<i64>,
    /// `message`, or `title` where there is no message.
    pub message: Option<String>,
    /// `error_data.details`: the exact reason, where Meta gives one.
    pub details: Option<String>,
    /// The id by which Meta's support finds the request.
    pub fbtrace_id: Option<String>,
    /// `is_transient`: Meta's hint that a retry may help.
    pub is_transient: Option<bool>,
    /// HTTP status of the reply; `None` in a webhook.
    pub http_status: Option<u16>,
}

impl MetaError {
    /// Reads one error object, of a Graph reply or of a webhook's `errors` list.
    pub(crate) fn from_json(error: &Value) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Self {
            code: integer(&error["code"]),
            subcode: integer(&error["error_subcode"]),
            message: text(&error["message"]).or_else(|| text(&error["title"])),
            details: text(&error["error_data"]["details"]),
            fbtrace_id: text(&error["fbtrace_id"]),
            is_transient: error["is_transient"].as_bool(),
            http_status: None,
        }
    }

    /// What the code means.
    pub fn meaning(&self) -> MetaErrorCode {
        self.code.map_or(MetaErrorCode::Unlisted, MetaErrorCode::from_code)
    }

    /// The details, or else the message, with everything that could be a number or an id redacted, at most 200 characters.
    pub fn details_for_log(&self) -> Option<String> {
        let text = self.details.as_deref().or(self.message.as_deref())?;
        let words = text.split_whitespace().map(|word| if is_personal(word) { "…" } else { word });
        let cleaned = words.collect::<Vec<_>>().join(" ");
        Some(cleaned.chars().take(200).collect())
    }
}

impl fmt::Debug for MetaError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("MetaError")
            .field("code", &self.code)
            .field("subcode", &self.subcode)
            .field("message", &Hidden::of(self.message.as_deref()))
            .field("details", &Hidden::of(self.details.as_deref()))
            .field("fbtrace_id", &self.fbtrace_id)
            .field("is_transient", &self.is_transient)
            .field("http_status", &self.http_status)
            .finish()
    }
}

impl fmt::Display for MetaError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code, self.http_status) {
            (Some(code), _) => write!(formatter, "Meta's error {code}: {}", self.meaning().for_operator()),
            (None, Some(status)) => write!(formatter, "HTTP status {status} without a readable error"),
            (None, None) => formatter.write_str("an error without a code"),
        }
    }
}

/// The kind of an error, which says who can do something about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MetaErrorClass {
    /// A transient problem at Meta: the same request may succeed now.
    Retry,
    /// A rate or amount is exceeded: retry slower, or later.
    BackOff,
    /// The request is invalid; a retry cannot help.
    FixRequest,
    /// The number, the app or the token is not set up for this.
    Config,
    /// The business account: payment, quality, policy.
    Account,
    /// The user has not agreed to be called.
    Permission,
    /// The user cannot be reached on WhatsApp.
    User,
    /// The call, or another with the same user, is not in a state for this.
    State,
    /// We were too late.
    Timing,
    /// No usable media arrived from our side.
    OurMedia,
    /// The caller's phone or its network.
    CallerSide,
    /// An undocumented code.
    Unknown,
}

/// Defines the table of codes once, as an enum with properties.
macro_rules! meta_error_codes {
    ($($code:literal $name:ident $class:ident $text:literal)*) => {
        /// Meta's error codes, by meaning. Source: Meta, "Calling API: Troubleshooting" and "Cloud API error codes".
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum MetaErrorCode {
            $(#[doc = concat!("Code ", $code, ": ", $text, ".")] $name,)*
            /// Codes 10 and 200 to 299: the app or token has not been granted a permission.
            NotGranted,
            /// A code that is not in Meta's tables, or no code.
            Unlisted,
        }

        impl MetaErrorCode {
            /// Every code with a number of its own, in the order of the table.
            pub const LISTED: &[(i64, Self)] = &[$(($code, Self::$name),)*];

            /// What to do about it.
            pub fn class(self) -> MetaErrorClass {
                match self {
                    $(Self::$name => MetaErrorClass::$class,)*
                    Self::NotGranted => MetaErrorClass::Config,
                    Self::Unlisted => MetaErrorClass::Unknown,
                }
            }

            /// For the log and the operator: the cause, and a remedy if there is one.
            pub fn for_operator(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                    Self::NotGranted => "the token lacks a permission: grant whatsapp_business_messaging and whatsapp_business_management",
                    Self::Unlisted => "not in Meta's tables",
                }
            }
        }
    };
}

meta_error_codes! {
    // Calling.
    100 InvalidParameter FixRequest "the request or its SDP is invalid, see the details"
    613 PermissionLookups BackOff "call permissions are looked up too often"
    131009 NotSupportedInCountry Config "call buttons are not supported in the sender's country"
    131026 RequestUndeliverable User "the permission request cannot be delivered, the user's WhatsApp is too old"
    131030 NotOnTestList Config "a test number may only call numbers on its allow-list: add this one in the app dashboard"
    131044 NoPaymentMethod Account "the business account has no valid payment method"
    131055 SipIsOn Config "the number is in SIP mode: switch SIP off in the number's calling settings"
    138000 CallingNotEnabled Config "calling is not enabled on the number: enable it in the number's calling settings"
    138001 NotCallable User "the user cannot be called on WhatsApp"
    138002 TooManyCalls BackOff "the number has reached its limit of calls at once"
    138003 AlreadyInACall State "a call with this user is already running"
    138004 ConnectionError Retry "Meta could not set the call up"
    138005 CallingTooFast BackOff "the number starts calls too fast"
    138006 NoCallPermission Permission "the user has not allowed calls: send a call permission request first"
    138007 ConnectTimeout Timing "the answer came too late, or its SDP was not applied in time"
    138008 SdpRefused FixRequest "Meta refuses the SDP"
    138009 TooManyRequests Permission "this user has been asked for permission too often: one request a day, two a week"
    138011 Undefined138011 Unknown "undefined by Meta, whose advice is to have a conversation open before asking for permission"
    138012 TooManyCallsToUser BackOff "this user has been called too often today, the details name the next time"
    138013 NotAvailableInCountry Config "this number's country does not allow business-initiated calls"
    138014 PausedForQuality Account "Meta has paused calling on this number for low quality"
    138015 CannotBeEnabled Config "calling cannot be enabled, the messaging limit is below 2000"
    138017 PermissionIsPermanent Permission "the user has allowed calls for good, no request is needed"
    138018 PrerequisitesMissing Config "the app is not subscribed to the calls webhook field, and SIP is off"
    138019 ClientSetupFailed CallerSide "the caller's WhatsApp could not set the call up"
    138020 RelayUnreachable CallerSide "the caller's WhatsApp could not reach Meta's relay"
    138021 NoMediaFromUs OurMedia "no sound from us reached the caller for too long: is UDP open, and media.advertise right"
    138022 NoMediaFromCaller CallerSide "the caller's WhatsApp sent no sound for too long"
    138023 NoMediaSignals OurMedia "the call was accepted but never had sound: is UDP open, and media.advertise right"
    // Graph and Cloud API.
    0 NotAuthenticated Config "the access token is not accepted"
    190 TokenExpired Config "the access token has expired or was revoked: put a new one in access_token"
    3 NotCapable Config "the app lacks the capability or permission"
    1 UnknownProblem Retry "an unknown problem at Meta"
    2 ServiceProblem Retry "Meta's service has a problem of the moment"
    4 AppRateLimit BackOff "the app sends too many requests"
    80007 AccountRateLimit BackOff "the WhatsApp business account sends too many requests"
    130429 NumberThroughput BackOff "the number's throughput is exceeded"
    131056 TooManyMessagesToUser BackOff "too many messages to this user in a short time"
    368 BlockedForPolicy Account "the account is blocked for a while for breaking a policy"
    130497 CountryForbidden Account "the account may not reach users in that country"
    131031 AccountLocked Account "the account is locked"
    33 NoSuchObject Config "the number does not exist, or the token may not see it: is phone_number_id right"
}

impl MetaErrorCode {
    /// The meaning of a code; [`MetaErrorCode::Unlisted`] for an undocumented one.
    pub fn from_code(code: i64) -> Self {
        if code == 10 || (200..=299).contains(&code) {
            return Self::NotGranted;
        }
        let listed = Self::LISTED.iter().find(|(listed, _)| *listed == code);
        listed.map_or(Self::Unlisted, |(_, meaning)| *meaning)
    }

    /// For users of our API: what it means for the call, without internals.
    pub fn for_caller(self) -> &'static str {
        match self.class() {
            MetaErrorClass::Retry => "WhatsApp had a problem. Please try again.",
            MetaErrorClass::BackOff => "Too many calls at the moment. Please try again later.",
            MetaErrorClass::FixRequest => "The call could not be set up.",
            MetaErrorClass::Config => "This number cannot take or place calls at the moment.",
            MetaErrorClass::Account => "Calling is suspended for this business at the moment.",
            MetaErrorClass::Permission => "This person has not agreed to be called.",
            MetaErrorClass::User => "This person cannot be reached on WhatsApp.",
            MetaErrorClass::State => "There is already a call with this person.",
            MetaErrorClass::Timing => "The call was answered too late.",
            MetaErrorClass::OurMedia => "The call was lost because no sound got through.",
            MetaErrorClass::CallerSide => "The call was lost on the caller's side.",
            MetaErrorClass::Unknown => "The call failed.",
        }
    }
}

/// An integer that may be written as a number or as text.
pub(super) fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.trim().parse().ok())
}

/// Long digits are a phone number or an id; a wacid contains the phone number.
fn is_personal(word: &str) -> bool {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    digits >= 6 || word.contains("wacid") || word.contains("wamid")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_code_is_found_and_has_something_to_say() {
        for &(code, meaning) in MetaErrorCode::LISTED {
            assert_eq!(MetaErrorCode::from_code(code), meaning, "{code} stands twice");
            assert!(!meaning.for_operator().is_empty() && !meaning.for_caller().is_empty());
        }
    }

    #[test]
    fn classes_follow_metas_tables() {
        for (code, class) in [
            (100, MetaErrorClass::FixRequest),
            (138_008, MetaErrorClass::FixRequest),
            (190, MetaErrorClass::Config),
            (10, MetaErrorClass::Config),
            (200, MetaErrorClass::Config),
            (299, MetaErrorClass::Config),
            (2, MetaErrorClass::Retry),
            (130_429, MetaErrorClass::BackOff),
            (138_006, MetaErrorClass::Permission),
            (138_021, MetaErrorClass::OurMedia),
            (138_020, MetaErrorClass::CallerSide),
            (138_010, MetaErrorClass::Unknown),
            (-7, MetaErrorClass::Unknown),
        ] {
            assert_eq!(MetaErrorCode::from_code(code).class(), class, "{code}");
        }
    }

    #[test]
    fn everything_but_the_code_may_be_missing_and_the_code_may_be_text() {
        let error = MetaError::from_json(&json!({ "code": "138021" }));
        assert_eq!(error, MetaError { code: Some(138_021), ..MetaError::default() });
        assert_eq!(MetaError::from_json(&json!("nonsense")), MetaError::default());
        assert_eq!(MetaError::from_json(&json!({ "code": 1, "title": "T" })).message.as_deref(), Some("T"));
    }

    #[test]
    fn what_is_shown_of_an_error_holds_no_number_and_no_call_id() {
        let error = MetaError::from_json(&json!({
            "code": 100,
            "message": "secret message",
            "error_data": { "details": "Call wacid.HBgLMTIw from +1-202-555-0143 has no fingerprint" },
        }));
        assert_eq!(error.details_for_log().as_deref(), Some("Call … from … has no fingerprint"));
        let shown = format!("{error:?} {error}");
        assert!(!shown.contains("wacid") && !shown.contains("0143") && !shown.contains("secret"), "{shown}");
    }
}
