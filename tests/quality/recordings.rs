//! Records real calls, and the same codec without a call, for `score.py` to compare. `make quality` runs both.
//!
//! One sequence of sentences is said in both directions at once: by the phone, and by an agent of 16 kHz PCM. Service,
//! ICE, DTLS, SRTP and Opus are real, on loopback; loss is simulated, from a printed seed.
//! The one argument is a folder that holds `sentences/*.wav` (16 kHz mono); the recordings and `plan.json` go there.

#![allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#![expect(clippy::print_stdout, reason = "whoever waits for it sees how far it is")]

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use patchcord::app::App;
use patchcord::demo::{LocalAgent, local_config};
use patchcord_media::opus::{Decoder, Encoder, Profile, SampleRate, inspect};
use patchcord_simulator::agent::{Agent, AgentOptions, AgentSession, Pace};
use patchcord_simulator::call::{Call, CallerOptions, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use patchcord_simulator::network::{Conditions, NetworkOptions};
use patchcord_simulator::phone::ear::{self, HeardPacket};
use patchcord_simulator::phone::{OPUS, TICKS_PER_FRAME};
use patchcord_simulator::sound::{self, PHONE_RATE};
use patchcord_simulator::speech::Speech;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

/// Random loss in percent, and how many calls with it. It matters which packets are lost, so the figure is the median
/// over several; without loss a second call tells whether the machine stuttered in the first.
const CALLS: [(u32, usize); 5] = [(0, 2), (3, 3), (5, 3), (10, 3), (20, 3)];
/// Before the first sentence: meanwhile every agent delivers all of its sound, 20 MB through one service.
const BEGINNING: Duration = Duration::from_secs(4);
/// Between and after the sentences.
const PAUSE: Duration = Duration::from_millis(800);
/// How much longer than the script both sides listen, because of codec and network delay.
const TAIL: Duration = Duration::from_millis(600);
/// 20 ms at [`PHONE_RATE`], which is also the agent's rate.
const FRAME_SAMPLES: usize = 320;

/// Opus packets of 20 ms each.
type Packets = Vec<Arc<[u8]>>;

/// What both sides say.
struct Script {
    pcm: Vec<i16>,
    /// Where each sentence stands, in samples.
    sentences: Vec<Range<usize>>,
}

/// A call under way. The network loses so much of it in each direction.
struct Talk {
    call: Call,
    session: AgentSession,
    loss_percent: u32,
}

/// What was heard in a call from its beginning.
struct Heard {
    loss_percent: u32,
    by_agent: Vec<i16>,
    by_caller: Vec<i16>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // Cargo adds arguments of its own, which begin with dashes.
    let folder = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let folder = PathBuf::from(folder.context("give the folder that holds sentences/*.wav")?);
    let seed: u64 = std::env::var("SEED").map_or(Ok(1), |seed| seed.parse()).context("SEED is a number")?;
    let script = Script::read(&folder.join("sentences"))?;
    let (phone, service) = (said_by_phone(&script.pcm)?, said_by_service(&script.pcm)?);
    let calls: usize = CALLS.iter().map(|(_, calls)| calls).sum();
    println!("{calls} calls of {:.0} s at the same time, SEED={seed}", script.length().as_secs_f64());

    let mut recordings = Vec::new();
    for (number, heard) in hold_calls(&script, seed, &folder).await?.into_iter().enumerate() {
        let lost = losses(phone.len(), heard.loss_percent, seed + number as u64);
        for (direction, call, codec) in [
            ("caller to agent", &heard.by_agent, decoded_by_service(&phone, &lost)?),
            ("agent to caller", &heard.by_caller, decoded_by_phone(&service, &lost)?),
        ] {
            let name = format!("{}-{}-percent-{number}", direction.replace(' ', "-"), heard.loss_percent);
            recordings.push(json!({
                "direction": direction,
                "loss_percent": heard.loss_percent,
                "call": write(&folder, &format!("{name}-call"), call)?,
                "codec": write(&folder, &format!("{name}-codec"), &codec)?,
            }));
        }
    }
    let plan = json!({
        "reference": write(&folder, "reference", &script.pcm)?,
        "sentences": script.sentences.iter().map(|at| [at.start, at.end]).collect::<Vec<_>>(),
        "fec_share": {"caller to agent": fec_share(&phone), "agent to caller": fec_share(&service)},
        "recordings": recordings,
    });
    std::fs::write(folder.join("plan.json"), plan.to_string()).context("plan.json")
}

/// Every call at the same time through one service, each with its own share of loss.
async fn hold_calls(script: &Script, seed: u64, folder: &Path) -> anyhow::Result<Vec<Heard>> {
    // All at once, as synthesised speech comes: a busy machine cannot make this agent stutter.
    let agent = Agent::start(AgentOptions { pace: Pace::Burst, ..AgentOptions::default() }).await?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let app = App::start(local_config(&meta, &LocalAgent::native(&agent.url()), folder)?).await?;
    meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
    let mut talks = Vec::new();
    for loss_percent in CALLS.into_iter().flat_map(|(loss, calls)| std::iter::repeat_n(loss, calls)) {
        let seed = seed + talks.len() as u64;
        let call = meta.place_call(CallerOptions { seed: Some(seed), ..CallerOptions::default() }).await?;
        call.wait_until(Stage::Accepted).await?;
        let loss = Conditions { loss: f64::from(loss_percent) / 100.0, ..Conditions::default() };
        call.set_network(NetworkOptions::both_ways(loss)).await;
        talks.push(Talk { session: agent.wait_for_session(talks.len() + 1).await?, call, loss_percent });
    }
    // Speech begins once all calls are connected, so that connecting does not affect it.
    let speech = Speech::pcm(&script.pcm)?;
    let mut ends = Vec::new();
    for Talk { call, session, .. } in &talks {
        session.say(&script.pcm).await;
        call.say(speech.clone()).await;
        ends.push(SampleRate::Hz16000.duration(session.heard().len() as u64) + script.length() + TAIL);
    }
    let mut heard = Vec::new();
    for (Talk { call, session, loss_percent }, end) in talks.into_iter().zip(ends) {
        let by_agent = session.hear_for(end).await?;
        heard.push(Heard { loss_percent, by_agent, by_caller: call.heard()? });
        call.hang_up().await?;
    }
    app.stop(std::future::ready(())).await;
    Ok(heard)
}

/// The phone's encoder.
fn said_by_phone(pcm: &[i16]) -> anyhow::Result<Packets> {
    let speech = Speech::pcm(pcm)?;
    Ok((0..speech.len()).map(|at| speech.frame(at)).collect())
}

/// The service's encoder in its default profile.
fn said_by_service(pcm: &[i16]) -> anyhow::Result<Packets> {
    let mut encoder = Encoder::new(SampleRate::Hz16000, Profile::default())?;
    let mut packet = Vec::new();
    let encode = |frame: &[i16]| {
        encoder.encode(frame, &mut packet)?;
        anyhow::Ok(packet.as_slice().into())
    };
    pcm.chunks_exact(FRAME_SAMPLES).map(encode).collect()
}

/// The service's decoder, for an agent of 16 kHz.
fn decoded_by_service(packets: &[Arc<[u8]>], lost: &[bool]) -> anyhow::Result<Vec<i16>> {
    let mut decoder = Decoder::new(SampleRate::Hz16000)?;
    let mut pcm = Vec::new();
    let mut missing = 0;
    for (packet, lost) in packets.iter().zip(lost) {
        if *lost {
            missing += FRAME_SAMPLES;
            continue;
        }
        decoder.decode_lost(Some(packet), std::mem::take(&mut missing), &mut pcm)?;
        decoder.decode(packet, &mut pcm)?;
    }
    Ok(pcm)
}

/// The phone's decoder.
fn decoded_by_phone(packets: &[Arc<[u8]>], lost: &[bool]) -> anyhow::Result<Vec<i16>> {
    let now = Instant::now();
    let heard = |(index, (payload, _)): (usize, (&Arc<[u8]>, &bool))| HeardPacket {
        at: now,
        payload_type: OPUS,
        seq: index as u16,
        timestamp: index as u32 * TICKS_PER_FRAME,
        ssrc: 1,
        marker: false,
        len: payload.len(),
        payload: payload.clone(),
    };
    let arrived = packets.iter().zip(lost).enumerate().filter(|(_, (_, lost))| !**lost);
    ear::play(&arrived.map(heard).collect::<Vec<_>>())
}

/// Which packets are lost; never the first, with which a line begins.
fn losses(packets: usize, percent: u32, seed: u64) -> Vec<bool> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..packets).map(|at| at > 0 && random.random::<f64>() < f64::from(percent) / 100.0).collect()
}

/// The share of packets that carry a copy of the one before them.
fn fec_share(packets: &[Arc<[u8]>]) -> f64 {
    let with_fec = packets.iter().filter(|packet| inspect(packet).is_ok_and(|facts| facts.has_fec)).count();
    with_fec as f64 / packets.len() as f64
}

/// Writes a WAV file; its name in the folder.
fn write(folder: &Path, name: &str, pcm: &[i16]) -> anyhow::Result<String> {
    let file = format!("{name}.wav");
    std::fs::write(folder.join(&file), sound::write_wav(PHONE_RATE, pcm)?).with_context(|| file.clone())?;
    Ok(file)
}

impl Script {
    /// The sentences of a folder in the order of their names, then the simulator's two recordings of real speech.
    fn read(folder: &Path) -> anyhow::Result<Self> {
        let entries = std::fs::read_dir(folder).with_context(|| folder.display().to_string())?;
        let mut files = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
        files.sort();
        let mut sentences = Vec::new();
        for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "wav")) {
            let (rate, pcm) = sound::read_wav(&std::fs::read(file)?).with_context(|| file.display().to_string())?;
            anyhow::ensure!(rate == PHONE_RATE, "{} is not of {PHONE_RATE} Hz", file.display());
            sentences.push(pcm);
        }
        sentences.extend([sound::caller_clip(), sound::agent_clip()]);
        Ok(Self::of(&sentences))
    }

    fn of(sentences: &[Vec<i16>]) -> Self {
        let silence = |duration| vec![0; SampleRate::Hz16000.samples_in(duration)];
        let mut script = Self { pcm: silence(BEGINNING), sentences: Vec::new() };
        for sentence in sentences {
            let start = script.pcm.len();
            script.pcm.extend_from_slice(sentence);
            script.sentences.push(start..script.pcm.len());
            script.pcm.extend(silence(PAUSE));
        }
        script.pcm.resize(script.pcm.len().next_multiple_of(FRAME_SAMPLES), 0);
        script
    }

    fn length(&self) -> Duration {
        SampleRate::Hz16000.duration(self.pcm.len() as u64)
    }
}
