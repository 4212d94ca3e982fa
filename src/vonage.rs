//! Vonage's words: an NCCO as verbs. Those of TwiML fit, and the interpreter runs both.
//!
//! The names are those of Vonage's "NCCO reference". Unknown fields are passed over; an unknown action is a mistake.

use std::collections::BTreeMap;
use std::time::Duration;

use patchcord_media::opus::SampleRate;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::twilio::shown;
use crate::twilio::twiml::{Connect, LOOP_MOST, MAX_PARAMETERS, Sound, SoundSource, TwimlError, Verb};

const MAX_ACTIONS: usize = 500;
/// Vonage takes no more from `talk` at once.
const MAX_TALK_CHARS: usize = 1500;
/// Of `wait`, in seconds.
const WAIT: (f64, f64) = (0.1, 7200.0);

/// How an app's WebSocket is opened and spoken to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Of the PCM, in both directions.
    pub sample_rate: SampleRate,
    /// The header field of the upgrade.
    pub authorization: Option<Authorization>,
}

/// The value of `Authorization`, which no log shows.
#[derive(Clone, Debug)]
pub struct Authorization(pub SecretString);

impl PartialEq for Authorization {
    fn eq(&self, other: &Self) -> bool {
        self.0.expose_secret() == other.0.expose_secret()
    }
}

impl Eq for Authorization {}

/// Reads an NCCO. The error names the action and has nothing else that the app wrote.
pub fn parse(document: &str) -> Result<Vec<Verb>, TwimlError> {
    let no_ncco = || TwimlError::new("the answer is no NCCO, which is a JSON array of actions");
    let actions: Vec<Map<String, Value>> = serde_json::from_str(document).map_err(|_| no_ncco())?;
    if actions.len() > MAX_ACTIONS {
        return Err(TwimlError::new(format!("the NCCO has more than {MAX_ACTIONS} actions")));
    }
    actions.into_iter().map(verb).collect()
}

fn verb(mut action: Map<String, Value>) -> Result<Verb, TwimlError> {
    let name = action.remove("action");
    match name.as_ref().and_then(Value::as_str).unwrap_or_default() {
        "connect" => connect(fields("connect", action)?),
        "stream" => stream(fields("stream", action)?),
        "talk" => talk(fields("talk", action)?),
        "wait" => {
            let Wait { timeout } = fields("wait", action)?;
            Ok(Verb::Pause(Duration::from_secs_f64(timeout.unwrap_or(10.0).clamp(WAIT.0, WAIT.1))))
        }
        "" => Err(TwimlError::new("an action of the NCCO has no name")),
        name => Err(TwimlError::new(format!(
            "the NCCO action {} is not supported: connect, stream, talk and wait are",
            shown(name)
        ))),
    }
}

fn fields<T: DeserializeOwned>(name: &str, action: Map<String, Value>) -> Result<T, TwimlError> {
    let wrong = |_| TwimlError::new(format!("the NCCO action {name} lacks a field, or has one of a wrong type"));
    serde_json::from_value(Value::Object(action)).map_err(wrong)
}

fn connect(Connection { endpoint }: Connection) -> Result<Verb, TwimlError> {
    let Ok([endpoint]) = <[AnyEndpoint; 1]>::try_from(endpoint) else {
        return Err(TwimlError::new("connect has one endpoint, and no more"));
    };
    let kind = endpoint.kind.as_str();
    let (Some(url), "websocket") = (endpoint.uri, kind) else {
        let kind = shown(kind);
        return Err(TwimlError::new(format!(
            "connect to an endpoint {kind} is not supported: to a websocket with its uri"
        )));
    };
    if endpoint.headers.len() > MAX_PARAMETERS {
        return Err(TwimlError::new(format!("connect has more than {MAX_PARAMETERS} headers")));
    }
    let headers = endpoint.headers.into_iter().map(|(name, value)| {
        let text = value.as_str().map(str::to_owned);
        (name, text.unwrap_or_else(|| value.to_string()))
    });
    let sample_rate = match endpoint.content_type.as_deref().unwrap_or("audio/l16;rate=16000") {
        "audio/l16;rate=8000" => SampleRate::Hz8000,
        "audio/l16;rate=16000" => SampleRate::Hz16000,
        "audio/l16;rate=24000" => SampleRate::Hz24000,
        _ => return Err(TwimlError::new("content-type of connect is not audio/l16;rate=8000, 16000 or 24000")),
    };
    let authorization = endpoint.authorization.map(authorization).transpose()?;
    let parameters = headers.collect();
    let vonage = Some(Box::new(Endpoint { sample_rate, authorization }));
    Ok(Verb::Connect(Connect { url, name: None, status_callback: None, parameters, action: None, vonage }))
}

fn authorization(given: GivenAuthorization) -> Result<Authorization, TwimlError> {
    let is_value = |value: &String| value.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    match (given.kind.as_str(), given.value.filter(is_value)) {
        ("custom", Some(value)) => Ok(Authorization(value.into())),
        _ => Err(TwimlError::new("authorization of connect is not of the type custom with a value of printable ASCII")),
    }
}

fn stream(Stream { stream_url, repeat }: Stream) -> Result<Verb, TwimlError> {
    let Ok([url]) = <[String; 1]>::try_from(stream_url) else {
        return Err(TwimlError::new("streamUrl of stream is not one URL in an array"));
    };
    let source = match url.strip_prefix("prompt:") {
        Some(name) => SoundSource::Prompt(name.to_owned()),
        None => SoundSource::File(url),
    };
    Ok(sound(source, repeat))
}

fn talk(Talk { text, language, repeat }: Talk) -> Result<Verb, TwimlError> {
    if !(1..=MAX_TALK_CHARS).contains(&text.chars().count()) {
        return Err(TwimlError::new(format!("text of talk has not 1 to {MAX_TALK_CHARS} characters")));
    }
    // Vonage has numbers for its own voices.
    Ok(sound(SoundSource::Text { text, voice: String::new(), language: language.unwrap_or_default() }, repeat))
}

/// `loop`: once without it, and 0 for ever.
fn sound(source: SoundSource, repeat: Option<u32>) -> Verb {
    let times = match repeat {
        None => 1,
        Some(0) => LOOP_MOST,
        Some(times) => times.min(LOOP_MOST),
    };
    Verb::Sound(Sound { source, times })
}

#[derive(Deserialize)]
struct Connection {
    endpoint: Vec<AnyEndpoint>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct AnyEndpoint {
    #[serde(rename = "type")]
    kind: String,
    uri: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, Value>,
    authorization: Option<GivenAuthorization>,
}

#[derive(Deserialize)]
struct GivenAuthorization {
    #[serde(rename = "type")]
    kind: String,
    value: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stream {
    stream_url: Vec<String>,
    #[serde(rename = "loop")]
    repeat: Option<u32>,
}

#[derive(Deserialize)]
struct Talk {
    text: String,
    language: Option<String>,
    #[serde(rename = "loop")]
    repeat: Option<u32>,
}

#[derive(Deserialize)]
struct Wait {
    timeout: Option<f64>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(ncco: &Value) -> Result<Vec<Verb>, String> {
        parse(&ncco.to_string()).map_err(|error| error.to_string())
    }

    /// A `connect` to a WebSocket with these fields of its endpoint.
    fn to_websocket(fields: &Value) -> Value {
        let mut endpoint = json!({"type": "websocket", "uri": "wss://bot.example.com/socket"});
        endpoint.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!([{"action": "connect", "from": "447700900000", "endpoint": [endpoint]}])
    }

    #[test]
    fn a_websocket_is_read_with_its_rate_headers_and_authorization() {
        let verbs = read(&to_websocket(&json!({
            "content-type": "audio/l16;rate=24000", "headers": {"plan": "gold", "visits": 3},
            "authorization": {"type": "custom", "value": "Bearer secret"},
        })));
        let endpoint =
            Endpoint { sample_rate: SampleRate::Hz24000, authorization: Some(Authorization("Bearer secret".into())) };
        let parameters = [("plan", "gold"), ("visits", "3")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        let connect = Connect {
            url: "wss://bot.example.com/socket".to_owned(),
            name: None,
            status_callback: None,
            parameters: parameters.into(),
            action: None,
            vonage: Some(Box::new(endpoint)),
        };
        assert_eq!(verbs, Ok(vec![Verb::Connect(connect)]));
        assert!(!format!("{verbs:?}").contains("secret"));
        let verbs = read(&to_websocket(&json!({})));
        let Ok([Verb::Connect(usual)]) = verbs.as_deref() else { panic!("{verbs:?}") };
        assert_eq!(usual.vonage, Some(Box::new(Endpoint { sample_rate: SampleRate::Hz16000, authorization: None })));
    }

    #[test]
    fn sounds_texts_and_waits_are_read() {
        let ncco = json!([
            {"action": "stream", "streamUrl": ["https://app.example.com/a.mp3"], "level": 0.5, "bargeIn": true},
            {"action": "stream", "streamUrl": ["prompt:goodbye"], "loop": 0},
            {"action": "talk", "text": "Hello", "language": "de-DE", "loop": 2, "premium": true},
            {"action": "wait", "timeout": 0.5}, {"action": "wait"}, {"action": "wait", "timeout": -1e300},
        ]);
        let sound = |source, times| Verb::Sound(Sound { source, times });
        let text = SoundSource::Text { text: "Hello".into(), voice: String::new(), language: "de-DE".into() };
        let wanted = vec![
            sound(SoundSource::File("https://app.example.com/a.mp3".into()), 1),
            sound(SoundSource::Prompt("goodbye".into()), 1000),
            sound(text, 2),
            Verb::Pause(Duration::from_millis(500)),
            Verb::Pause(Duration::from_secs(10)),
            Verb::Pause(Duration::from_millis(100)),
        ];
        assert_eq!(read(&ncco), Ok(wanted));
    }

    #[test]
    fn mistakes_name_the_action_and_nothing_else_of_the_app() {
        let phone = json!([{"action": "connect", "endpoint": [{"type": "phone", "number": "447700900000"}]}]);
        for (ncco, why) in [
            (json!({"action": "talk"}), "a JSON array of actions"),
            (json!(["talk"]), "a JSON array of actions"),
            (json!([{}]), "has no name"),
            (json!([{"action": "record"}]), "the NCCO action record is not supported"),
            (phone, "an endpoint phone is not supported"),
            (json!([{"action": "connect", "endpoint": []}]), "one endpoint"),
            (json!([{"action": "connect"}]), "the NCCO action connect lacks a field"),
            (to_websocket(&json!({"content-type": "audio/l16;rate=44100"})), "content-type of connect"),
            (to_websocket(&json!({"headers": "plan"})), "connect lacks a field, or has one of a wrong type"),
            (to_websocket(&json!({"authorization": {"type": "vonage"}})), "authorization of connect"),
            (to_websocket(&json!({"authorization": {"type": "custom", "value": "a\nb"}})), "authorization of connect"),
            (json!([{"action": "stream", "streamUrl": []}]), "streamUrl"),
            (json!([{"action": "talk", "text": ""}]), "text of talk"),
            (json!([{"action": "talk", "text": "a".repeat(1501)}]), "text of talk"),
            (json!([{"action": "wait", "timeout": "447700900000"}]), "the NCCO action wait"),
        ] {
            let error = read(&ncco).unwrap_err();
            assert!(error.contains(why) && !error.contains("447700900000"), "{ncco}: {error}");
        }
        assert!(parse("<Response/>").is_err() && parse("").is_err());
        assert!(parse(&format!("[{}]", "[".repeat(10_000))).is_err());
        assert!(
            parse(&format!("[{}{{}}]", "{\"action\":\"wait\"},".repeat(500))).unwrap_err().to_string().contains("500")
        );
    }
}
