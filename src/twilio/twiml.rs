//! TwiML: a document as verbs. What is not known here is a mistake that names the verb, so that nothing of a document is
//! passed over in silence. Unknown attributes are: most say something about the sound of Twilio's own voices.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;

use super::Method;
use super::reader::{self, Element, shown};
use super::status::Stages;
use crate::vonage::Endpoint;

/// Twilio takes no more from `<Say>` at once.
const MAX_SAY_CHARS: usize = 4096;
/// What `loop="0"` means, as long as Twilio keeps it up.
pub(crate) const LOOP_MOST: u32 = 1000;
const MAX_SECONDS: u64 = 24 * 60 * 60;
/// They are all in memory before the first is heard.
const MAX_GATHER_SOUNDS: usize = 32;
/// As many people as a call has beside its agent.
const MAX_CALLEES: usize = 8;
/// As many parameters as the dialect's `start` may hold.
pub(crate) const MAX_PARAMETERS: usize = 100;

/// Why a document cannot be run. The text holds nothing that the app wrote but names of verbs and attributes.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct TwimlError(String);

/// One instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// `<Play>` or `<Say>`.
    Sound(Sound),
    /// `<Pause>`.
    Pause(Duration),
    /// `<Gather>`.
    Gather(Gather),
    /// `<Connect><Stream>`.
    Connect(Connect),
    /// `<Dial>`.
    Dial(Dial),
    /// `<Redirect>`.
    Redirect(Callback),
    /// `<Reject>`.
    Reject(RejectReason),
    /// `<Hangup>`.
    Hangup,
}

/// Something to be heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// What.
    pub source: SoundSource,
    /// How often; at least once.
    pub times: u32,
}

/// What is heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SoundSource {
    /// A text, in a voice and language by Twilio's names.
    Text {
        /// What is said.
        text: String,
        /// The `voice` attribute.
        voice: String,
        /// The `language` attribute.
        language: String,
    },
    /// A prompt of the library, by name.
    Prompt(String),
    /// A file behind a URL, absolute or relative to the document's.
    File(String),
    /// Nothing, inside of a `<Gather>`.
    Silence(Duration),
}

/// Where to go on, and how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callback {
    /// Absolute, or relative to the document's; empty for the document's own.
    pub url: String,
    /// How it is asked.
    pub method: Method,
}

/// Keys to collect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gather {
    /// Ends the gather after so many keys.
    pub num_digits: Option<usize>,
    /// For each key.
    pub timeout: Duration,
    /// Ends the gather and is no digit.
    pub finish_on_key: Option<char>,
    /// Gets the digits.
    pub action: Callback,
    /// Whether it is also asked without any.
    pub action_on_empty_result: bool,
    /// Heard before; the first key stops them.
    pub sounds: Vec<Sound>,
}

/// A media stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The app's WebSocket, absolute or relative to the document's URL.
    pub url: String,
    /// What `statusCallback` calls it in place of its id.
    pub name: Option<String>,
    /// Told when it starts, stops and fails.
    pub status_callback: Option<Callback>,
    /// `customParameters` of the stream's `start`.
    pub parameters: BTreeMap<String, String>,
    /// Asked after the stream, instead of the next verb.
    pub action: Option<Callback>,
    /// How Vonage's protocol is spoken, in place of Twilio's.
    pub vonage: Option<Box<Endpoint>>,
}

/// Somebody to be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dial {
    /// At least one. They ring together, and the first who answers has the caller.
    pub nouns: Vec<Noun>,
    /// How long it rings.
    pub timeout: Duration,
    /// How long it may talk.
    pub time_limit: Duration,
    /// Asked afterwards, instead of the next verb.
    pub action: Option<Callback>,
    /// The caller's key * ends it.
    pub hangup_on_star: bool,
    /// The document says whose number the callee sees.
    pub has_caller_id: bool,
}

/// One who is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noun {
    /// Who.
    pub callee: Callee,
    /// Told how the call of this one goes.
    pub status: Option<(Callback, Stages)>,
}

/// Whom a `<Dial>` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Callee {
    /// `<Sip>`: an address.
    Sip(String),
    /// `<Number>`, or text: a phone number in digits, with a `+` before them if the document has one.
    Number(String),
    /// `<Client>`: a route of the configuration.
    Route(String),
}

/// Why a call is declined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// `rejected`
    Rejected,
    /// `busy`
    Busy,
}

impl TwimlError {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

/// Reads a document.
pub fn parse(document: &str) -> Result<Vec<Verb>, TwimlError> {
    let root = reader::read(document.trim_start_matches('\u{feff}').trim())?;
    if root.name != "Response" {
        return Err(TwimlError::new(format!("the root element is <{}>, not <Response>", shown(&root.name))));
    }
    root.children.iter().map(verb).collect()
}

fn verb(element: &Element) -> Result<Verb, TwimlError> {
    Ok(match element.name.as_str() {
        "Say" | "Play" => Verb::Sound(sound(element)?),
        "Pause" => Verb::Pause(pause(element)?),
        "Gather" => Verb::Gather(gather(element)?),
        "Connect" => Verb::Connect(connect(element)?),
        "Dial" => Verb::Dial(dial(element)?),
        "Redirect" => Verb::Redirect(Callback { url: text_of(element), method: method(element, "method")? }),
        "Reject" => Verb::Reject(match element.attribute("reason") {
            None | Some("rejected") => RejectReason::Rejected,
            Some("busy") => RejectReason::Busy,
            Some(_) => return Err(wrong(element, "reason", "rejected or busy")),
        }),
        "Hangup" => Verb::Hangup,
        name => return Err(TwimlError::new(format!("<{}> is not supported", shown(name)))),
    })
}

fn sound(element: &Element) -> Result<Sound, TwimlError> {
    let times = match whole(element, "loop", 0, u64::from(u32::MAX))? {
        None => 1,
        Some(0) => LOOP_MOST,
        Some(times) => times.min(u64::from(LOOP_MOST)) as u32,
    };
    let text = text_of(element);
    if element.attribute("digits").is_some() {
        return Err(TwimlError::new("<Play digits> is not supported: WhatsApp's phones take no keys"));
    }
    if text.is_empty() {
        return Err(TwimlError::new(format!("<{}> is empty", element.name)));
    }
    let attribute = |name: &str| element.attribute(name).unwrap_or_default().to_owned();
    let source = match element.name.as_str() {
        "Say" if text.chars().count() > MAX_SAY_CHARS => {
            return Err(TwimlError::new(format!("<Say> has more than {MAX_SAY_CHARS} characters")));
        }
        "Say" => SoundSource::Text { text, voice: attribute("voice"), language: attribute("language") },
        _ => match text.strip_prefix("prompt:") {
            Some(name) => SoundSource::Prompt(name.to_owned()),
            None => SoundSource::File(text),
        },
    };
    Ok(Sound { source, times })
}

fn pause(element: &Element) -> Result<Duration, TwimlError> {
    seconds(element, "length", Duration::from_secs(1))
}

fn gather(element: &Element) -> Result<Gather, TwimlError> {
    let takes_keys = element.attribute("input").is_none_or(|input| input.split_whitespace().any(|kind| kind == "dtmf"));
    if !takes_keys {
        return Err(wrong(element, "input", "dtmf: speech is not recognised"));
    }
    let finish_on_key = match element.attribute("finishOnKey").unwrap_or("#") {
        "" => None,
        text => {
            let mut keys = text.chars();
            let key = keys.next().filter(|key| matches!(key, '0'..='9' | '*' | '#') && keys.next().is_none());
            Some(key.ok_or_else(|| wrong(element, "finishOnKey", "one of 0-9, *, #, or nothing"))?)
        }
    };
    // "auto" is for speech, and means the default for keys.
    let timeout = match element.attribute("timeout") {
        Some("auto") => Duration::from_secs(5),
        _ => seconds(element, "timeout", Duration::from_secs(5))?.max(Duration::from_millis(100)),
    };
    if element.children.len() > MAX_GATHER_SOUNDS {
        return Err(TwimlError::new(format!("<Gather> has more than {MAX_GATHER_SOUNDS} sounds")));
    }
    let mut sounds = Vec::new();
    for child in &element.children {
        sounds.push(match child.name.as_str() {
            "Say" | "Play" => sound(child)?,
            "Pause" => Sound { source: SoundSource::Silence(pause(child)?), times: 1 },
            name => return Err(TwimlError::new(format!("<{}> inside of <Gather> is not supported", shown(name)))),
        });
    }
    Ok(Gather {
        num_digits: whole(element, "numDigits", 1, 128)?.map(|digits| digits as usize),
        timeout,
        finish_on_key,
        action: action(element)?.unwrap_or_default(),
        action_on_empty_result: flag(element, "actionOnEmptyResult")?,
        sounds,
    })
}

fn connect(element: &Element) -> Result<Connect, TwimlError> {
    let [stream] = &element.children[..] else {
        return Err(TwimlError::new("<Connect> has one <Stream>, and nothing else"));
    };
    if stream.name != "Stream" {
        return Err(TwimlError::new(format!("<{}> inside of <Connect> is not supported", shown(&stream.name))));
    }
    let url = stream.attribute("url").map(str::trim).filter(|url| !url.is_empty());
    let url = url.ok_or_else(|| TwimlError::new("<Stream> has no url"))?.to_owned();
    if !matches!(stream.attribute("track"), None | Some("inbound_track")) {
        return Err(wrong(stream, "track", "inbound_track: a stream in both directions has no other"));
    }
    let mut parameters = BTreeMap::new();
    for child in &stream.children {
        let name = child.attribute("name").filter(|_| child.name == "Parameter");
        let (Some(name), Some(value)) = (name, child.attribute("value")) else {
            return Err(TwimlError::new("<Stream> has <Parameter name=\"…\" value=\"…\"/>, and nothing else"));
        };
        parameters.insert(name.to_owned(), value.to_owned());
    }
    if parameters.len() > MAX_PARAMETERS {
        return Err(TwimlError::new(format!("<Stream> has more than {MAX_PARAMETERS} parameters")));
    }
    let name = stream.attribute("name").map(str::to_owned).filter(|name| !name.is_empty());
    let status_callback = callback(stream, "statusCallback", "statusCallbackMethod")?;
    Ok(Connect { url, name, status_callback, parameters, action: action(element)?, vonage: None })
}

fn dial(element: &Element) -> Result<Dial, TwimlError> {
    let nouns = match &element.children[..] {
        [] => vec![Noun { callee: number(element)?, status: None }],
        several if several.len() > MAX_CALLEES => {
            return Err(TwimlError::new(format!("<Dial> names more than {MAX_CALLEES} callees")));
        }
        several => several.iter().map(noun).collect::<Result<_, _>>()?,
    };
    if flag(element, "sequential")? {
        return Err(wrong(
            element,
            "sequential",
            "false: callees ring together, and a <Dial> behind this one rings later",
        ));
    }
    if !matches!(element.attribute("record"), None | Some("do-not-record" | "false")) {
        return Err(wrong(element, "record", "do-not-record: the route's `record` says it"));
    }
    Ok(Dial {
        nouns,
        timeout: seconds(element, "timeout", Duration::from_secs(30))?.max(Duration::from_secs(1)),
        time_limit: seconds(element, "timeLimit", Duration::from_secs(4 * 60 * 60))?.max(Duration::from_secs(1)),
        action: action(element)?,
        hangup_on_star: flag(element, "hangupOnStar")?,
        has_caller_id: element.attribute("callerId").is_some(),
    })
}

fn noun(element: &Element) -> Result<Noun, TwimlError> {
    let callee = match element.name.as_str() {
        "Number" => number(element)?,
        "Sip" => Callee::Sip(text_of(element)),
        "Client" => Callee::Route(text_of(element)),
        name => return Err(TwimlError::new(format!("<{}> inside of <Dial> is not supported", shown(name)))),
    };
    let stages = Stages::read(element.attribute("statusCallbackEvent"));
    let advice = "some of initiated, ringing, answered and completed, with spaces between";
    let stages = stages.ok_or_else(|| wrong(element, "statusCallbackEvent", advice))?;
    let told = callback(element, "statusCallback", "statusCallbackMethod")?;
    Ok(Noun { callee, status: told.map(|told| (told, stages)) })
}

fn number(element: &Element) -> Result<Callee, TwimlError> {
    let number: String = text_of(element).chars().filter(|sign| !matches!(sign, ' ' | '-' | '(' | ')' | '.')).collect();
    let digits = number.strip_prefix('+').unwrap_or(&number);
    let is_number = (1..=20).contains(&digits.len()) && digits.bytes().all(|digit| digit.is_ascii_digit());
    match is_number {
        true => Ok(Callee::Number(number)),
        false => Err(TwimlError::new(format!("<{}> holds no phone number", element.name))),
    }
}

fn text_of(element: &Element) -> String {
    element.text.trim().to_owned()
}

/// The verb's `action`, if it has one.
fn action(element: &Element) -> Result<Option<Callback>, TwimlError> {
    callback(element, "action", "method")
}

/// A URL, if this attribute is there, and how it is asked.
fn callback(element: &Element, url: &str, how: &str) -> Result<Option<Callback>, TwimlError> {
    let method = method(element, how)?;
    Ok(element.attribute(url).map(|url| Callback { url: url.trim().to_owned(), method }))
}

fn method(element: &Element, name: &str) -> Result<Method, TwimlError> {
    let Some(text) = element.attribute(name) else { return Ok(Method::Post) };
    Method::parse(text).ok_or_else(|| wrong(element, name, "GET or POST"))
}

fn flag(element: &Element, name: &str) -> Result<bool, TwimlError> {
    match element.attribute(name) {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(wrong(element, name, "true or false")),
    }
}

fn seconds(element: &Element, name: &str, usual: Duration) -> Result<Duration, TwimlError> {
    Ok(whole(element, name, 0, MAX_SECONDS)?.map_or(usual, Duration::from_secs))
}

fn whole(element: &Element, name: &str, least: u64, most: u64) -> Result<Option<u64>, TwimlError> {
    let Some(text) = element.attribute(name) else { return Ok(None) };
    let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
    number.map(Some).ok_or_else(|| wrong(element, name, &format!("a whole number from {least} to {most}")))
}

fn wrong(element: &Element, attribute: &str, wanted: &str) -> TwimlError {
    TwimlError::new(format!("{attribute} of <{}> is not {wanted}", shown(&element.name)))
}
