//! The people of the scenarios: each has a tone of its own, so that a test can tell who hears whom.

use std::time::Duration;

use anyhow::Context;
use patchcord_simulator::agent::{AgentOptions, AgentSession, Pace};
use patchcord_simulator::call::{Call, CallerOptions, Stage};
use patchcord_simulator::objection::Objection;
use patchcord_simulator::phone::ear::HeardPacket;
use patchcord_simulator::sound::{self, PHONE_RATE};
use patchcord_simulator::speech::Speech;
use tokio::time::timeout;

use crate::service::DEADLINE;

/// The caller's voice.
pub const CALLER_HZ: f64 = 440.0;
/// The agent's voice.
pub const AGENT_HZ: f64 = 1000.0;
/// The voice of the agent that takes over.
pub const SECOND_AGENT_HZ: f64 = 1500.0;
/// All voices.
pub const VOICES: [f64; 3] = [CALLER_HZ, AGENT_HZ, SECOND_AGENT_HZ];
/// The notes of the built-in goodbye, in their order.
pub const GOODBYE_NOTES_HZ: [f64; 3] = [659.26, 523.25, 392.0];
/// The first note of the built-in hold music.
pub const HOLD_NOTE_HZ: f64 = 261.63;

pub const SECOND: Duration = Duration::from_secs(1);

/// A caller who talks all the time.
pub fn caller() -> CallerOptions {
    CallerOptions { speech: Speech::tone(CALLER_HZ).expect("libopus encodes a tone"), ..quiet_caller() }
}

/// A caller who only listens. On a busy machine packets leave late; the benchmark measures how late.
pub fn quiet_caller() -> CallerOptions {
    CallerOptions { late_after: Duration::from_secs(5), ..CallerOptions::default() }
}

/// An agent that talks long enough for any scenario.
pub fn agent() -> AgentOptions {
    agent_with_voice(AGENT_HZ)
}

pub fn agent_with_voice(voice_hz: f64) -> AgentOptions {
    AgentOptions { greeting: tone(voice_hz, 20_000), ..AgentOptions::default() }
}

/// An agent that speaks only on request, and then sends everything at once.
pub fn speech_synthesis() -> AgentOptions {
    AgentOptions { pace: Pace::Burst, ..AgentOptions::default() }
}

/// At the phone's rate, like everything an agent is asked to say.
pub fn tone(voice_hz: f64, milliseconds: u32) -> Vec<i16> {
    sound::tone(voice_hz, PHONE_RATE, milliseconds)
}

/// The voices in these samples, at the phone's rate.
pub fn heard_voices(pcm: &[i16]) -> Vec<f64> {
    sound::voices_heard(pcm, PHONE_RATE, &VOICES)
}

/// What the caller hears from now on, for this long.
pub async fn caller_hears_next(call: &Call, time: Duration) -> anyhow::Result<Vec<i16>> {
    let before = call.heard()?.len();
    let heard = call.hear_for(sound_of(before) + time).await?;
    Ok(heard[before..].to_vec())
}

/// The same from the first sound on, which may take a moment on a busy machine.
pub async fn caller_hears_first(call: &Call, time: Duration) -> anyhow::Result<Vec<i16>> {
    call.wait_until(Stage::FirstSound).await?;
    caller_hears_next(call, time).await
}

/// Waits until the caller hears one of these tones.
pub async fn until_caller_hears(call: &Call, tones_hz: &[f64]) -> anyhow::Result<()> {
    let waiting = async {
        while sound::voices_heard(&caller_hears_next(call, SECOND).await?, PHONE_RATE, tones_hz).is_empty() {}
        anyhow::Ok(())
    };
    timeout(DEADLINE, waiting).await.with_context(|| format!("none of {tones_hz:?} Hz; {}", call.seen()))?
}

/// What an agent or participant hears from now on, for this long, at the phone's rate.
pub async fn agent_hears_next(session: &AgentSession, time: Duration) -> anyhow::Result<Vec<i16>> {
    let before = session.heard_at_phone_rate().len();
    session.hear_for(sound_of(before) + time).await?;
    Ok(session.heard_at_phone_rate()[before..].to_vec())
}

fn sound_of(samples: usize) -> Duration {
    Duration::from_millis(samples as u64 * 1000 / u64::from(PHONE_RATE))
}

/// The share of the seconds of this speech that are found in what was heard, each separately: a pause of the network,
/// or of a busy machine, moves what comes after it.
pub fn understood(said: &[i16], heard: &[i16]) -> f64 {
    let found: Vec<f64> =
        said.chunks_exact(PHONE_RATE as usize).map(|second| sound::similarity(second, heard)).collect();
    found.iter().filter(|similarity| **similarity > 0.5).count() as f64 / found.len() as f64
}

/// Whether each packet has sound in it; the service's silence is one cached packet of eight bytes.
pub fn talking(packets: &[HeardPacket]) -> Vec<bool> {
    packets.iter().map(|packet| packet.len > 8).collect()
}

/// The simulator's objections to the service's RTP and requests.
///
/// A worker that got no processor for more than 200 ms skips frames, and the timestamps jump. That
/// is correct RTP; the machine is at fault, and the sequence numbers show that no packet is missing.
pub fn objections(call: &Call) -> Vec<Objection> {
    let mut objections = call.objections();
    objections.retain(|objection| !matches!(objection, Objection::TimestampGap { .. }));
    objections
}
