//! The `listen` and `stream` verbs of jambonz, the platform's side, with bidirectional audio: PCM in binary messages, JSON in
//! text messages.

use std::collections::BTreeMap;

use bytes::Bytes;
use patchcord_media::opus::SampleRate;
use patchcord_media::source::MarkStatus;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::identity::{Parties, account_of, uuid_of};
use super::payload::Payload;
use super::{Dialect, FromAgent, Incoming, json_message, lenient, parsed, wav};
use crate::agent::intake::Intake;
use crate::agent::notice::{ErrorCode, Notice, Start};
use crate::agent::{Encoding, SoundFormat};
use crate::call::description::CallDirection;

/// Begins the name of a mark behind a clip; the rest is the clip's id as JSON.
const CLIP: &str = "\u{1}clip ";
/// Durations of keys are in units of the telephone-event clock (RFC 4733).
const CLOCK_PER_MS: u32 = 8;

/// The translator of one connection.
pub(super) struct Jambonz {
    sample_rate: SampleRate,
    /// Marks that have not been reported.
    waiting: usize,
    /// The first of them that are not reported: the app has dropped them.
    dropped: usize,
}

impl Dialect for Jambonz {
    fn subprotocols(&self) -> &'static [&'static str] {
        // The second one is that of its older documentation.
        &["audio.drachtio.org", "audio.jambonz.org"]
    }

    fn format(&self, configured: SoundFormat) -> SoundFormat {
        match configured.encoding {
            Encoding::PcmS16le => configured,
            Encoding::Opus => SoundFormat { encoding: Encoding::PcmS16le, sample_rate: SampleRate::Hz24000 },
        }
    }

    fn read(&mut self, message: Incoming, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let text = match message {
            Incoming::Binary(sound) => {
                inbox.push(FromAgent::Sound(sound));
                return Ok(());
            }
            Incoming::Text(text) => text,
        };
        match parsed::<FromApp>(&text)? {
            FromApp::Mark { data } => self.mark(data.name, inbox),
            FromApp::ClearMarks => self.dropped = self.waiting,
            FromApp::KillAudio => inbox.push(FromAgent::Clear),
            FromApp::PlayAudio { data } => self.play(&data, inbox)?,
            FromApp::Disconnect => inbox.push(FromAgent::Bye),
            FromApp::Other => {}
        }
        Ok(())
    }

    fn write_notice(&mut self, notice: &Notice, outbox: &mut Vec<Message>) {
        match notice {
            Notice::Start(start) => {
                self.sample_rate = start.format.sample_rate;
                outbox.push(json_message(&Metadata::of(start)));
            }
            Notice::Dtmf { digit: Some(digit), duration_ms } => {
                let duration = (duration_ms * CLOCK_PER_MS).to_string();
                outbox.push(json_message(&Dtmf { event: "dtmf", dtmf: *digit, duration }));
            }
            Notice::Mark { name, status } => outbox.extend(self.marked(name, *status)),
            // The refused mark is not reported.
            Notice::Error { code: ErrorCode::TooManyMarks, .. } => self.waiting = self.waiting.saturating_sub(1),
            Notice::Stop { .. } => outbox.push(Message::Binary(Bytes::new())),
            Notice::Accepted
            | Notice::Dtmf { digit: None, .. }
            | Notice::Cleared(_)
            | Notice::Xoff { .. }
            | Notice::Xon { .. }
            | Notice::Event(_)
            | Notice::CommandResult { .. }
            | Notice::Error { .. } => {}
        }
    }

    fn write_sound(&mut self, sound: Bytes, outbox: &mut Vec<Message>) {
        outbox.push(Message::Binary(sound));
    }
}

impl Default for Jambonz {
    fn default() -> Self {
        Self { sample_rate: SampleRate::Hz16000, waiting: 0, dropped: 0 }
    }
}

impl Jambonz {
    fn mark(&mut self, name: String, inbox: &mut Vec<FromAgent>) {
        self.waiting += 1;
        inbox.push(FromAgent::Mark { name });
    }

    /// A clip; `playDone` follows it.
    fn play(&mut self, clip: &Clip, inbox: &mut Vec<FromAgent>) -> Result<(), String> {
        let sound = self.sound(clip)?;
        if !clip.queue_play {
            inbox.push(FromAgent::Clear);
        }
        inbox.push(FromAgent::Sound(sound));
        self.mark(format!("{CLIP}{}", clip.id), inbox);
        Ok(())
    }

    /// At the rate of the connection.
    fn sound(&self, clip: &Clip) -> Result<Bytes, String> {
        let content = Payload::L16.of_base64(&clip.audio_content)?;
        let (samples, hz) = match clip.audio_content_type.as_str() {
            "raw" => (content, clip.sample_rate.unwrap_or(self.sample_rate.hz())),
            "wav" | "wave" => wav::read(&content)?,
            _ => return Err("audioContentType is neither \"raw\" nor \"wav\"".to_owned()),
        };
        Ok(Intake::clip(self.sample_rate, Intake::check(hz)?, samples))
    }

    fn marked(&mut self, name: &str, status: MarkStatus) -> Option<Message> {
        self.waiting = self.waiting.saturating_sub(1);
        let is_dropped = self.dropped > 0;
        self.dropped = self.dropped.saturating_sub(1);
        if let Some(id) = name.strip_prefix(CLIP) {
            let id = serde_json::from_str(id).unwrap_or_default();
            return Some(json_message(&Report { kind: "playDone", data: PlayDone { id } }));
        }
        let event = match status {
            MarkStatus::Played => "playout",
            MarkStatus::Cleared => "cleared",
        };
        (!is_dropped).then(|| json_message(&Report { kind: "mark", data: Marked { name, event } }))
    }
}

/// The first message. The route's parameters are its metadata.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    call_sid: String,
    account_sid: String,
    application_sid: String,
    call_id: &'a str,
    direction: &'static str,
    from: String,
    to: String,
    caller_name: &'a str,
    sample_rate: u32,
    mix_type: &'static str,
    #[serde(flatten)]
    metadata: BTreeMap<&'a str, &'a str>,
}

impl<'a> Metadata<'a> {
    fn of(start: &'a Start) -> Self {
        const OURS: [&str; 10] = [
            "callSid",
            "accountSid",
            "applicationSid",
            "callId",
            "direction",
            "from",
            "to",
            "callerName",
            "sampleRate",
            "mixType",
        ];
        let Parties { from, to } = Parties::of(&start.call);
        let account = account_of(start);
        let metadata = start.parameters.iter().filter(|(name, _)| !OURS.contains(&name.as_str()));
        Self {
            call_sid: uuid_of(start.call_id.as_str()),
            account_sid: account.clone(),
            application_sid: account,
            call_id: start.call_id.as_str(),
            direction: match start.call.direction {
                CallDirection::UserInitiated => "inbound",
                CallDirection::BusinessInitiated => "outbound",
            },
            from,
            to,
            caller_name: start.call.user.name.as_deref().unwrap_or_default(),
            sample_rate: start.format.sample_rate.hz(),
            mix_type: "mono",
            metadata: metadata.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
        }
    }
}

#[derive(Serialize)]
struct Dtmf {
    event: &'static str,
    dtmf: char,
    duration: String,
}

#[derive(Serialize)]
struct Report<T> {
    #[serde(rename = "type")]
    kind: &'static str,
    data: T,
}

#[derive(Serialize)]
struct Marked<'a> {
    name: &'a str,
    event: &'static str,
}

#[derive(Serialize)]
struct PlayDone {
    id: Value,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
enum FromApp {
    Mark {
        data: AppMark,
    },
    ClearMarks,
    KillAudio,
    PlayAudio {
        data: Clip,
    },
    Disconnect,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct AppMark {
    #[serde(deserialize_with = "lenient::text")]
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Clip {
    audio_content_type: String,
    /// A WAV file has its own.
    #[serde(default, deserialize_with = "lenient::whole")]
    sample_rate: Option<u32>,
    audio_content: String,
    #[serde(default)]
    id: Value,
    /// Behind what is being played, not instead of it.
    #[serde(default)]
    queue_play: bool,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::testing::{read, started, texts, told};
    use super::super::wav;
    use super::*;

    #[test]
    fn the_first_message_has_the_call_and_the_metadata() {
        let mut jambonz = Jambonz::default();
        let start = started(&mut jambonz);
        assert_eq!(start.len(), 1);
        let expected = [
            ("sampleRate", json!(16000)),
            ("mixType", json!("mono")),
            ("direction", json!("inbound")),
            ("from", json!("+12025550143")),
            ("to", json!("+12025550199")),
            ("language", json!("de")),
        ];
        for (name, value) in expected {
            assert_eq!(start[0][name], value, "{name}");
        }
        let mut outbox = Vec::new();
        jambonz.write_notice(&Notice::Stop { reason: "caller_hung_up" }, &mut outbox);
        assert_eq!(texts(&outbox), vec![json!(0)]);
        let key = told(&mut jambonz, &Notice::Dtmf { digit: Some('5'), duration_ms: 200 });
        assert_eq!(key, vec![json!({"event": "dtmf", "dtmf": "5", "duration": "1600"})]);
    }

    #[test]
    fn marks_tell_whether_they_were_heard_and_can_be_dropped() {
        let mut jambonz = Jambonz::default();
        let mark = |name: &str| format!(r#"{{"type":"mark","data":{{"name":"{name}"}}}}"#);
        let notice = |name: &str, status| Notice::Mark { name: name.into(), status };
        assert_eq!(read(&mut jambonz, &mark("a")), Ok(vec![FromAgent::Mark { name: "a".into() }]));
        let heard = told(&mut jambonz, &notice("a", MarkStatus::Played));
        assert_eq!(heard, vec![json!({"type": "mark", "data": {"name": "a", "event": "playout"}})]);
        read(&mut jambonz, &mark("b")).unwrap();
        read(&mut jambonz, r#"{"type":"clearMarks"}"#).unwrap();
        read(&mut jambonz, &mark("c")).unwrap();
        assert_eq!(read(&mut jambonz, r#"{"type":"killAudio"}"#), Ok(vec![FromAgent::Clear]));
        assert_eq!(told(&mut jambonz, &notice("b", MarkStatus::Cleared)), Vec::<Value>::new());
        let cleared = told(&mut jambonz, &notice("c", MarkStatus::Cleared));
        assert_eq!(cleared, vec![json!({"type": "mark", "data": {"name": "c", "event": "cleared"}})]);
    }

    #[test]
    fn a_clip_replaces_what_plays_unless_it_is_queued() {
        let mut jambonz = Jambonz::default();
        started(&mut jambonz);
        let clip = |rate: &str, rest: &str| {
            let data = format!(r#""audioContentType":"raw","sampleRate":{rate},"audioContent":"AQA="{rest}"#);
            format!(r#"{{"type":"playAudio","data":{{{data}}}}}"#)
        };
        let said = read(&mut jambonz, &clip("16000", r#","id":"x""#)).unwrap();
        let [FromAgent::Clear, FromAgent::Sound(sound), FromAgent::Mark { name }] = &said[..] else {
            panic!("{said:?}");
        };
        assert_eq!(sound[..], [1, 0]);
        let done = told(&mut jambonz, &Notice::Mark { name: name.clone(), status: MarkStatus::Played });
        assert_eq!(done, vec![json!({"type": "playDone", "data": {"id": "x"}})]);
        let queued = read(&mut jambonz, &clip(r#""16000""#, r#","queuePlay":true"#)).unwrap();
        assert!(matches!(&queued[..], [FromAgent::Sound(_), FromAgent::Mark { .. }]));
        let narrow = read(&mut jambonz, &clip("8000", r#","queuePlay":true"#)).unwrap();
        assert!(matches!(&narrow[0], FromAgent::Sound(sound) if sound.len() == 640), "a frame at 16 kHz: {narrow:?}");
        assert!(read(&mut jambonz, &clip("11025", "")).unwrap_err().contains("11025"));
        assert_eq!(read(&mut jambonz, r#"{"type":"disconnect"}"#), Ok(vec![FromAgent::Bye]));
    }

    #[test]
    fn a_clip_may_be_a_wav_file_at_a_rate_of_its_own() {
        let mut jambonz = Jambonz::default();
        started(&mut jambonz);
        let content = Payload::L16.to_base64(wav::tests::file(1, 24_000, &[0; 960], 960));
        let data = json!({"audioContentType": "wav", "audioContent": content, "queuePlay": true});
        let said = read(&mut jambonz, &json!({"type": "playAudio", "data": data}).to_string()).unwrap();
        assert!(matches!(&said[0], FromAgent::Sound(sound) if sound.len() == 640), "{said:?}");
    }
}
