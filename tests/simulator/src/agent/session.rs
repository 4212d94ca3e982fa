//! One connection of the service to an agent: what came in, and the means to say something.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::{AgentAudio, Encoding};
use crate::DEADLINE;
use crate::sound::{self, PHONE_RATE};

/// Audio kept per session: half an hour of 16 kHz PCM; what comes later is counted and not kept.
const MOST_AUDIO_BYTES: usize = 64 << 20;
/// Control messages kept per session.
const MOST_MESSAGES: usize = 100_000;

/// A text message of the service.
#[derive(Debug, Clone)]
pub struct ControlMessage {
    /// When it came.
    pub at: Instant,
    /// Its JSON; null if it was none.
    pub message: Value,
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SessionEnd {
    /// The service closed the WebSocket with this code, 1005 if it gave none.
    Closed(u16, String),
    /// The connection broke.
    Broken(String),
    /// This agent ended it.
    ByAgent,
}

/// A session. Clones are the same session.
#[derive(Debug, Clone)]
pub struct AgentSession {
    pub(super) record: Arc<SessionRecord>,
    pub(super) orders: mpsc::Sender<SessionOrder>,
}

/// What a session can be told.
#[derive(Debug)]
pub(super) enum SessionOrder {
    Text(String),
    Binary(Vec<u8>),
    Audio(Vec<i16>),
    DropQueued,
    Close(u16),
    Reset,
}

#[derive(Debug)]
pub(super) struct SessionRecord {
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) state: Mutex<SessionState>,
    pub(super) changed: watch::Sender<()>,
    pub(super) keeps_audio: bool,
}

#[derive(Debug)]
pub(super) struct SessionState {
    pub(super) audio: AgentAudio,
    pub(super) messages: Vec<ControlMessage>,
    pub(super) audio_messages: Vec<(Instant, Vec<u8>)>,
    pub(super) audio_bytes: u64,
    pub(super) audio_count: u64,
    pub(super) end: Option<SessionEnd>,
}

impl AgentSession {
    /// The path and query that the service asked for.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.record.path
    }

    /// A header of the service's handshake, by its lower-case name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.record.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every control message so far, in order.
    #[must_use]
    pub fn messages(&self) -> Vec<ControlMessage> {
        self.record.lock().messages.clone()
    }

    /// Every control message of a type so far.
    #[must_use]
    pub fn messages_of(&self, kind: &str) -> Vec<Value> {
        let messages = self.messages().into_iter().map(|message| message.message);
        messages.filter(|message| message["type"] == kind).collect()
    }

    /// The format of the audio in this session.
    #[must_use]
    pub fn audio(&self) -> AgentAudio {
        self.record.lock().audio
    }

    /// What the agent has heard, at the session's sample rate.
    #[must_use]
    pub fn heard(&self) -> Vec<i16> {
        let state = self.record.lock();
        match state.audio.encoding {
            Encoding::Pcm => {
                let bytes: Vec<u8> = state.audio_messages.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
                bytes.chunks_exact(2).map(|two| i16::from_le_bytes([two[0], two[1]])).collect()
            }
            Encoding::Opus => decode(&state),
        }
    }

    /// What the agent has heard, at 16 kHz, to compare it with what a phone says.
    #[must_use]
    pub fn heard_at_phone_rate(&self) -> Vec<i16> {
        sound::at_rate(&self.heard(), self.audio().sample_rate, PHONE_RATE)
    }

    /// When each audio message came, and its size in bytes.
    #[must_use]
    pub fn audio_messages(&self) -> Vec<(Instant, usize)> {
        self.record.lock().audio_messages.iter().map(|(at, bytes)| (*at, bytes.len())).collect()
    }

    /// How many audio messages came, kept or not.
    #[must_use]
    pub fn audio_count(&self) -> u64 {
        self.record.lock().audio_count
    }

    /// How the session ended, once it has.
    #[must_use]
    pub fn ended(&self) -> Option<SessionEnd> {
        self.record.lock().end.clone()
    }

    /// Waits for the first control message of a type, at most 10 s.
    ///
    /// # Errors
    /// When time is up or the session ends first; the text names what came.
    pub async fn wait_for_message(&self, kind: &str) -> anyhow::Result<Value> {
        self.wait_for_nth_message(kind, 1).await
    }

    /// Waits for the n-th control message (from 1) of a type, at most 10 s.
    ///
    /// # Errors
    /// When time is up or the session ends first; the text names what came.
    pub async fn wait_for_nth_message(&self, kind: &str, nth: usize) -> anyhow::Result<Value> {
        self.wait(DEADLINE, &format!("{kind} number {nth}"), |session| {
            session.messages_of(kind).into_iter().nth(nth.max(1) - 1)
        })
        .await
    }

    /// Waits until so much sound has been heard, at most 10 s longer than that; returns all of it.
    ///
    /// # Errors
    /// When time is up or the session ends first; the text says how much came.
    pub async fn hear_for(&self, sound: Duration) -> anyhow::Result<Vec<i16>> {
        self.wait(DEADLINE + sound, &format!("{sound:?} of sound"), |session| {
            (session.sound_heard() >= sound).then(|| session.heard())
        })
        .await
    }

    /// Waits until the session has ended, at most 10 s.
    ///
    /// # Errors
    /// When time is up.
    pub async fn wait_for_end(&self) -> anyhow::Result<SessionEnd> {
        self.wait(DEADLINE, "the end", Self::ended).await
    }

    /// Sends a control message.
    pub async fn send(&self, message: &Value) {
        self.order(SessionOrder::Text(message.to_string())).await;
    }

    /// Sends any text.
    pub async fn send_text(&self, text: &str) {
        self.order(SessionOrder::Text(text.to_owned())).await;
    }

    /// Sends any binary message, at once.
    pub async fn send_binary(&self, bytes: Vec<u8>) {
        self.order(SessionOrder::Binary(bytes)).await;
    }

    /// Says something: PCM at 16 kHz, in the session's format, chunks and pace.
    pub async fn say(&self, pcm: &[i16]) {
        self.order(SessionOrder::Audio(pcm.to_vec())).await;
    }

    /// Stops saying what is still queued in the agent, as before a `clear`.
    pub async fn stop_saying(&self) {
        self.order(SessionOrder::DropQueued).await;
    }

    /// Hangs up.
    pub async fn bye(&self) {
        self.send_text(r#"{"type":"bye"}"#).await;
    }

    /// Closes the WebSocket with a code.
    pub async fn close(&self, code: u16) {
        self.order(SessionOrder::Close(code)).await;
    }

    /// Resets the TCP connection.
    pub async fn reset(&self) {
        self.order(SessionOrder::Reset).await;
    }

    /// A session that has ended takes no orders, which is no fault.
    async fn order(&self, order: SessionOrder) {
        let _ = self.orders.send(order).await;
    }

    fn sound_heard(&self) -> Duration {
        let state = self.record.lock();
        match state.audio.encoding {
            Encoding::Pcm => Duration::from_micros(state.audio_bytes * 500_000 / u64::from(state.audio.sample_rate)),
            Encoding::Opus => Duration::from_millis(20 * state.audio_count),
        }
    }

    async fn wait<T>(&self, within: Duration, what: &str, look: impl Fn(&Self) -> Option<T>) -> anyhow::Result<T> {
        let mut changed = self.record.changed.subscribe();
        let found = tokio::time::timeout(within, async {
            loop {
                changed.mark_unchanged();
                let ended = self.ended();
                if let Some(found) = look(self) {
                    return Ok(found);
                }
                if let Some(end) = ended {
                    bail!("the session ended ({end:?}) before {what}; {}", self.seen());
                }
                changed.changed().await.context("the record is kept by this handle")?;
            }
        })
        .await;
        match found {
            Ok(found) => found,
            Err(_) => bail!("waited {within:?} for {what}; {}", self.seen()),
        }
    }

    fn seen(&self) -> String {
        let kinds: Vec<String> =
            self.messages().iter().map(|message| message.message["type"].as_str().unwrap_or("?").to_owned()).collect();
        format!("seen so far: messages {kinds:?}, {:?} of sound", self.sound_heard())
    }
}

impl SessionRecord {
    pub(super) fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn hear(&self, bytes: &[u8], at: Instant) {
        let mut state = self.lock();
        if self.keeps_audio && state.audio_bytes < MOST_AUDIO_BYTES as u64 {
            state.audio_messages.push((at, bytes.to_vec()));
        }
        state.audio_bytes += bytes.len() as u64;
        state.audio_count += 1;
        drop(state);
        self.changed.send_replace(());
    }

    pub(super) fn read(&self, text: &str, at: Instant) -> Value {
        let message: Value = serde_json::from_str(text).unwrap_or_default();
        let mut state = self.lock();
        if state.messages.len() < MOST_MESSAGES {
            state.messages.push(ControlMessage { at, message: message.clone() });
        }
        drop(state);
        self.changed.send_replace(());
        message
    }

    pub(super) fn end(&self, end: SessionEnd) {
        self.lock().end.get_or_insert(end);
        self.changed.send_replace(());
    }
}

fn decode(state: &SessionState) -> Vec<i16> {
    let Ok(mut decoder) = opus::Decoder::new(state.audio.sample_rate, opus::Channels::Mono) else { return Vec::new() };
    let mut pcm = Vec::new();
    let mut frame = vec![0_i16; 5760];
    for (_, packet) in &state.audio_messages {
        // A broken packet is heard as nothing; the test that counts will see it.
        let samples = decoder.decode(packet, &mut frame, false).unwrap_or(0);
        pcm.extend_from_slice(&frame[..samples]);
    }
    pcm
}
