//! TwiML: a document as verbs. What is not known here is a mistake that names the verb, so that nothing of a document is
//! passed over in silence. Unknown attributes are: most say something about the sound of Twilio's own voices.

use std::collections::BTreeMap;
use std::time::Duration;

use thiserror::Error;

use super::Method;
use super::reader::{self, Element, shown};
use super::status::Stages;

/// Twilio takes no more from `<Say>` at once.
const MAX_SAY_CHARS: usize = 4096;
/// What `loop="0"` means, as long as Twilio keeps it up.
const LOOP_MOST: u32 = 1000;
const MAX_SECONDS: u64 = 24 * 60 * 60;
/// They are all in memory before the first is heard.
const MAX_GATHER_SOUNDS: usize = 32;
/// As many people as a call has beside its agent.
const MAX_CALLEES: usize = 8;
/// As many parameters as the dialect's `start` may hold.
const MAX_PARAMETERS: usize = 100;

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
    pub(super) fn new(text: impl Into<String>) -> Self {
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
    Ok(Connect { url, name, status_callback, parameters, action: action(element)? })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(verbs: &str) -> Result<Vec<Verb>, String> {
        parse(&format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response>{verbs}</Response>\n"))
            .map_err(|error| error.to_string())
    }

    fn file(url: &str) -> Sound {
        Sound { source: SoundSource::File(url.to_owned()), times: 1 }
    }

    #[test]
    fn a_stream_is_read_with_its_parameters() {
        let document =
            "<Connect action='/after' method='GET'><Stream url=\"wss://bot.example.com/m?a=1&amp;b=2\" name='x'
             statusCallback='/stream' statusCallbackMethod='get'>
            <Parameter name=\"from\" value=\"+1 &lt;x&gt;\"/></Stream></Connect><Hangup/>";
        let connect = Connect {
            url: "wss://bot.example.com/m?a=1&b=2".to_owned(),
            name: Some("x".to_owned()),
            status_callback: Some(Callback { url: "/stream".to_owned(), method: Method::Get }),
            parameters: BTreeMap::from([("from".to_owned(), "+1 <x>".to_owned())]),
            action: Some(Callback { url: "/after".to_owned(), method: Method::Get }),
        };
        assert_eq!(read(document), Ok(vec![Verb::Connect(connect), Verb::Hangup]));
    }

    #[test]
    fn sounds_are_files_prompts_and_texts() {
        let say =
            |text: &str| SoundSource::Text { text: text.to_owned(), voice: "alice".into(), language: "de".into() };
        let document =
            "<Say voice='alice' language='de' loop='0'>Tom &amp; <break/><emphasis>J&#233;r&ocirc;me</emphasis></Say>"
                .replace("&ocirc;", "ô");
        assert_eq!(read(&document), Ok(vec![Verb::Sound(Sound { source: say("Tom & Jérôme"), times: 1000 })]));
        let prompt = Sound { source: SoundSource::Prompt("goodbye".to_owned()), times: 2 };
        let document = "<Play> https://app.example.com/a.mp3\n</Play><Play loop='2'>prompt:goodbye</Play><Pause/>";
        let pause = Verb::Pause(Duration::from_secs(1));
        assert_eq!(
            read(document),
            Ok(vec![Verb::Sound(file("https://app.example.com/a.mp3")), Verb::Sound(prompt), pause])
        );
    }

    #[test]
    fn a_gather_has_twilios_defaults() {
        let usual = Gather {
            num_digits: None,
            timeout: Duration::from_secs(5),
            finish_on_key: Some('#'),
            action: Callback::default(),
            action_on_empty_result: false,
            sounds: Vec::new(),
        };
        assert_eq!(read("<Gather/>"), Ok(vec![Verb::Gather(usual.clone())]));
        let document = "<Gather input='dtmf speech' numDigits='4' timeout='3' finishOnKey='' action='/pin' \
            actionOnEmptyResult='true' speechTimeout='auto'><Play>pin.wav</Play><Pause length='2'/></Gather>";
        let silence = Sound { source: SoundSource::Silence(Duration::from_secs(2)), times: 1 };
        let gather = Gather {
            num_digits: Some(4),
            timeout: Duration::from_secs(3),
            finish_on_key: None,
            action: Callback { url: "/pin".to_owned(), method: Method::Post },
            action_on_empty_result: true,
            sounds: vec![file("pin.wav"), silence],
        };
        assert_eq!(read(document), Ok(vec![Verb::Gather(gather)]));
    }

    #[test]
    fn callees_are_numbers_addresses_and_routes() {
        let callee = |verbs: &str| match read(verbs).as_deref() {
            Ok([Verb::Dial(dial)]) => Ok(dial.nouns[0].callee.clone()),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.clone()),
        };
        assert_eq!(callee("<Dial>+1 (202) 555-0143</Dial>"), Ok(Callee::Number("+12025550143".to_owned())));
        assert_eq!(callee("<Dial><Number url='/x'>202</Number></Dial>"), Ok(Callee::Number("202".to_owned())));
        assert_eq!(callee("<Dial>\n<Sip>sip:a@b</Sip></Dial>"), Ok(Callee::Sip("sip:a@b".to_owned())));
        assert_eq!(callee("<Dial><Client>sales</Client></Dial>"), Ok(Callee::Route("sales".to_owned())));
        assert!(callee("<Dial>support</Dial>").unwrap_err().contains("<Dial> holds no phone number"));
        let many = format!("<Dial>{}</Dial>", "<Sip>sip:a@b</Sip>".repeat(9));
        assert!(callee(&many).unwrap_err().contains("more than 8 callees"));
    }

    #[test]
    fn callees_ring_together_and_each_has_a_status_callback() {
        let document = "<Dial hangupOnStar='true' callerId='+1'><Number statusCallback='/s' statusCallbackMethod='GET' \
            statusCallbackEvent='initiated answered'>1</Number><Client statusCallback='/t'>sales</Client></Dial>";
        let verbs = read(document).unwrap();
        let [Verb::Dial(dial)] = &verbs[..] else { panic!("{verbs:?}") };
        assert!(dial.hangup_on_star && dial.has_caller_id);
        let told =
            |url: &str, method, stages| (Callback { url: url.to_owned(), method }, Stages::read([stages]).unwrap());
        assert_eq!(dial.nouns[0].status, Some(told("/s", Method::Get, "initiated answered")));
        assert_eq!(dial.nouns[1].status, Some(told("/t", Method::Post, "completed")));
    }

    #[test]
    fn mistakes_name_the_verb() {
        for (verbs, what) in [
            ("<Record/>", "<Record> is not supported"),
            ("<Reject reason='rude'/>", "reason of <Reject> is not rejected or busy"),
            ("<Gather input='speech'/>", "input of <Gather> is not dtmf"),
            ("<Gather finishOnKey='12'/>", "finishOnKey of <Gather>"),
            ("<Gather numDigits='0'/>", "numDigits of <Gather> is not a whole number from 1 to 128"),
            ("<Gather><Dial>1</Dial></Gather>", "<Dial> inside of <Gather> is not supported"),
            ("<Pause length='-1'/>", "length of <Pause>"),
            ("<Connect/>", "<Connect> has one <Stream>"),
            ("<Connect><Room>a</Room></Connect>", "<Room> inside of <Connect> is not supported"),
            ("<Connect><Stream/></Connect>", "<Stream> has no url"),
            ("<Connect><Stream url='wss://a' track='both_tracks'/></Connect>", "track of <Stream>"),
            ("<Connect><Stream url='wss://a'><Say>a</Say></Stream></Connect>", "<Stream> has <Parameter"),
            ("<Redirect method='PUT'>/a</Redirect>", "method of <Redirect> is not GET or POST"),
            ("<Play digits='1'/>", "<Play digits>"),
            ("<Enqueue>support</Enqueue>", "<Enqueue> is not supported"),
            ("<Dial><Queue>support</Queue></Dial>", "<Queue> inside of <Dial> is not supported"),
            ("<Dial><Conference>a</Conference></Dial>", "<Conference> inside of <Dial> is not supported"),
            ("<Dial sequential='true'><Sip>sip:a@b</Sip></Dial>", "sequential of <Dial> is not false"),
            ("<Dial record='record-from-answer'>1</Dial>", "record of <Dial> is not do-not-record"),
            ("<Dial><Sip statusCallbackEvent='won'>sip:a@b</Sip></Dial>", "statusCallbackEvent of <Sip>"),
            ("<Say/>", "<Say> is empty"),
            ("<Say>&boom;</Say>", "an entity"),
            ("<Say", "is not closed"),
            ("<Say a", "an attribute of <Say>"),
            ("</Say>", "no XML"),
        ] {
            let error = read(verbs).unwrap_err();
            assert!(error.contains(what), "{verbs}: {error}");
        }
        assert!(parse("<Play/>").unwrap_err().to_string().contains("<Play>, not <Response>"));
        for document in ["", "hello", "<Response>", "<Response/><Response/>", "{\"a\":1}"] {
            assert!(parse(document).is_err(), "{document}");
        }
    }

    #[test]
    fn bombs_are_refused() {
        let entities = "<!DOCTYPE a [<!ENTITY a \"aaaa\"><!ENTITY b \"&a;&a;\">]><Response><Say>&b;</Say></Response>";
        assert!(parse(entities).unwrap_err().to_string().contains("DTD"));
        assert!(read(&"<Say>a</Say>".repeat(501)).unwrap_err().contains("more than 500 elements"));
        assert!(read(&"<Gather>".repeat(10_000)).unwrap_err().contains("64 KiB"));
        assert!(read(&"<Gather>".repeat(100)).unwrap_err().contains("nests deeper"));
        assert!(read(&format!("<Say>{}</Say>", "a".repeat(70_000))).unwrap_err().contains("64 KiB"));
        assert!(read(&format!("<Say>{}</Say>", "a".repeat(5_000))).unwrap_err().contains("4096"));
        let sounds = format!("<Gather>{}</Gather>", "<Play loop='0'>a.wav</Play>".repeat(33));
        assert!(read(&sounds).unwrap_err().contains("more than 32 sounds"));
        let attributes: String = (0..40).map(|number| format!(" a{number}=''")).collect();
        assert!(read(&format!("<Pause{attributes}/>")).unwrap_err().contains("attribute"));
    }
}
