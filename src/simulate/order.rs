//! A call placed with one request, `POST /calls`: what it may ask for, and the report.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use patchcord_simulator::call::{Call, CallerOptions, EndedBy, Stage};
use patchcord_simulator::sound;
use patchcord_simulator::speech::Speech;
use serde::Deserialize;
use serde_json::{Value, json};

use super::agent_news::AgentNews;
use super::{CALLS_AT_ONCE, Simulation, draw_seed};

/// The longest call that one request may ask for, in seconds.
pub(super) const LONGEST_CALL: f64 = 600.0;
/// The most keys of one request.
const DIGITS_AT_MOST: usize = 64;
/// Bytes of a file with speech: ten minutes at 48 kHz, in two channels, are 115 MB.
const SPEECH_BYTES: u64 = 128 << 20;
/// Who calls unless the request says otherwise; the number is from the range for fiction.
pub(super) const CALLER_NUMBER: &str = "12025550143";
pub(super) const CALLER_NAME: &str = "Example Caller";

/// The body of `POST /calls`; every field is optional.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Order {
    /// The caller's number, digits.
    pub(super) from: String,
    /// The caller's profile name.
    pub(super) name: String,
    /// A local WAV file with the caller's speech, 16-bit at 8 to 192 kHz; the built-in clip by default.
    pub(super) speech: Option<PathBuf>,
    /// Repeats the speech.
    pub(super) repeat: bool,
    /// The caller hangs up this many seconds after accept.
    pub(super) seconds: f64,
    /// Keys that the caller presses after a second.
    pub(super) digits: String,
}

impl Default for Order {
    fn default() -> Self {
        Self {
            from: CALLER_NUMBER.to_owned(),
            name: CALLER_NAME.to_owned(),
            speech: None,
            repeat: false,
            seconds: 15.0,
            digits: String::new(),
        }
    }
}

/// A refused request, with a sentence for the developer.
type Refused = (StatusCode, String);

fn bad_request(sentence: &str) -> Refused {
    (StatusCode::BAD_REQUEST, format!("{sentence}\n"))
}

pub(super) async fn place(State(simulation): State<Arc<Simulation>>, body: String) -> Result<Json<Value>, Refused> {
    let order = Order::read(&body).map_err(|sentence| bad_request(&sentence))?;
    let Ok(_seat) = simulation.free.try_acquire() else {
        return Err((StatusCode::TOO_MANY_REQUESTS, format!("{CALLS_AT_ONCE} calls are under way: wait for one\n")));
    };
    let path = order.speech.clone();
    // Reading the file may block, and encoding takes time.
    let speech = tokio::task::spawn_blocking(move || path.map_or(Ok(Speech::caller()), |path| read_speech(&path)));
    let speech = speech.await.unwrap_or_else(|error| Err(error.into()));
    let speech = speech.map_err(|error| bad_request(&format!("speech: {error:#}")))?;
    let report = simulation.run(order, speech).await;
    report.map(Json).map_err(|error| (StatusCode::BAD_GATEWAY, format!("{error:#}\n")))
}

impl Order {
    /// The error is a sentence.
    fn read(body: &str) -> Result<Self, String> {
        let order: Self = match body.trim() {
            "" => Self::default(),
            text => serde_json::from_str(text).map_err(|error| format!("the body: {error}"))?,
        };
        order.check()?;
        Ok(order)
    }

    pub(super) fn check(&self) -> Result<(), String> {
        check_caller(&self.from, &self.name)?;
        // Not a number is in no range.
        if self.seconds <= 0.0 || !(0.0..=LONGEST_CALL).contains(&self.seconds) {
            return Err(format!("seconds: give a number above 0, at most {LONGEST_CALL}"));
        }
        check_digits(&self.digits)
    }
}

/// The error is a sentence.
pub(super) fn check_digits(digits: &str) -> Result<(), String> {
    let is_key = |key: char| matches!(key, '0'..='9' | '*' | '#' | 'A'..='D');
    match digits.len() <= DIGITS_AT_MOST && digits.chars().all(is_key) {
        true => Ok(()),
        false => Err(format!("digits: give at most {DIGITS_AT_MOST} of 0-9, *, #, A-D")),
    }
}

/// Meta's business-scoped id of the person with this number: webhooks have had one since 2026.
pub(super) fn user_id(number: &str) -> String {
    format!("US.{number}")
}

/// The error is a sentence.
pub(super) fn check_caller(from: &str, name: &str) -> Result<(), String> {
    // E.164 has at most 15 digits.
    if !(1..=15).contains(&from.len()) || !from.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("from: give the caller's number, 1 to 15 digits".to_owned());
    }
    if name.chars().count() > 100 {
        return Err("name: give at most 100 characters".to_owned());
    }
    Ok(())
}

pub(super) fn read_speech(path: &Path) -> anyhow::Result<Speech> {
    let shown = || path.display().to_string();
    // A pipe or a device might never end, or block.
    anyhow::ensure!(std::fs::metadata(path).with_context(shown)?.is_file(), "{} is no file", path.display());
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).with_context(shown)?;
    file.take(SPEECH_BYTES + 1).read_to_end(&mut bytes).with_context(shown)?;
    anyhow::ensure!(bytes.len() as u64 <= SPEECH_BYTES, "{} is larger than 128 MB", path.display());
    Speech::wav(&bytes).with_context(shown)
}

impl Simulation {
    /// One call from the webhook to its end, and its report.
    async fn run(&self, order: Order, speech: Speech) -> anyhow::Result<Value> {
        let speech = if order.repeat { speech.looped() } else { speech };
        let seed = Some(draw_seed());
        let caller = CallerOptions {
            user_id: Some(user_id(&order.from)),
            from: Some(order.from),
            name: order.name,
            speech,
            seed,
            ..CallerOptions::default()
        };
        let call = self.meta.place_call(caller).await?;
        let accepted = call.wait_until_within(Stage::Accepted, Duration::from_secs(60)).await;
        if accepted.is_ok() {
            if !order.digits.is_empty() {
                tokio::time::sleep(Duration::from_secs(1)).await;
                call.send_dtmf(&order.digits).await;
            }
            // An error here only means that the call did not end by itself.
            if call.wait_until_within(Stage::Ended, Duration::from_secs_f64(order.seconds)).await.is_err() {
                call.hang_up().await?;
            }
        }
        report(&call, &self.output, &self.agent_news)
    }
}

/// What became of a call.
pub(super) fn report(call: &Call, folder: &Path, agent_news: &AgentNews) -> anyhow::Result<Value> {
    let heard = call.heard()?;
    let file = folder.join(format!("caller-heard-{}.wav", call.seed()));
    std::fs::write(&file, sound::write_wav(16_000, &heard)?).with_context(|| file.display().to_string())?;
    let stages: serde_json::Map<String, Value> = call
        .stages()
        .into_iter()
        .map(|(stage, at)| (stage.name().to_owned(), json!(at.duration_since(call.placed_at()).as_millis() as u64)))
        .collect();
    let objections: Vec<String> = call.objections().iter().map(ToString::to_string).collect();
    Ok(json!({
        "seed": call.seed(),
        "ended_by": call.ended_by().map(EndedBy::name),
        "stages_ms": stages,
        "heard_seconds": heard.len() as f64 / 16_000.0,
        "heard_file": file,
        "objections": objections,
        "agent_failures": agent_news.failures(call.wacid()),
    }))
}
