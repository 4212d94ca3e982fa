//! `patchcord demo`: one simulated WhatsApp call end to end on this machine, with live progress.
//!
//! The service is the real one; Meta, the phone and the agent are simulated, over real HTTP, WebRTC and WebSocket on
//! loopback. Both sides speak recorded speech, and both are checked to have heard the other's.

mod screen;
mod standstill;

use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use patchcord_simulator::agent::{Agent, AgentOptions, AgentSession};
use patchcord_simulator::call::{Call, CallerOptions, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use patchcord_simulator::sound;
use patchcord_simulator::speech::Speech;
use tokio::sync::broadcast;
use tokio::time::timeout;

use crate::agent::DialectName;
use crate::app::App;
use crate::call::event::CallEvent;
use crate::clock;
use crate::config::{Config, Environment};
use crate::telemetry::shown;
use screen::Screen;
use standstill::Watch;

/// Opus at 40 kbit/s changes a waveform a little; other speech has next to nothing in common.
const SAME_SPEECH: f64 = 0.8;
/// Nothing in a call on loopback takes longer.
const PATIENCE: Duration = Duration::from_secs(15);
/// UDP ports of a local service; ports that are in use are skipped.
const PORTS: u16 = 64;

/// Options of the demo.
#[derive(Args)]
pub struct DemoOptions {
    /// Folder for the output: two WAV files and the recording.
    #[arg(long, default_value = "patchcord-demo")]
    output: PathBuf,
}

/// One call; success only if both sides heard the right speech.
pub async fn run(options: DemoOptions) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&options.output).with_context(|| options.output.display().to_string())?;
    let mut screen = Screen::start();
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(AgentOptions { greeting: sound::agent_clip(), ..AgentOptions::default() }).await?;
    let app = App::start(local_config(&meta, &LocalAgent::native(&agent.url()), &options.output)?).await?;
    meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
    screen.say(&format!(
        "service on http://{}, fake Meta on {}, agent on {}",
        app.address,
        meta.graph_url(),
        agent.url()
    ));

    let mut events = app.events();
    let watch = Watch::start()?;
    let caller = CallerOptions { speech: Speech::caller(), ..CallerOptions::default() };
    let call = meta.place_call(caller).await?;
    show_until("call.accepted", &mut events, &call, &mut screen).await?;
    let session = agent.wait_for_session(0).await?;
    talk(&call, &session, &mut screen).await?;
    call.hang_up().await?;
    let stood_still = watch.end();
    let recorded = show_until("call.recording_finished", &mut events, &call, &mut screen).await?;
    let ended = show_until("call.ended", &mut events, &call, &mut screen).await?;
    app.stop(std::future::ready(())).await;

    let report = Report::of(&call, &session, &ended, stood_still)?;
    let mut files = report.write(&options.output)?;
    files.push(name_recording(&options.output, &recorded)?);
    screen.report(&report, &files);
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shows each event until one of this kind.
async fn show_until(
    kind: &str,
    events: &mut broadcast::Receiver<CallEvent>,
    call: &Call,
    screen: &mut Screen,
) -> anyhow::Result<CallEvent> {
    loop {
        let event = timeout(PATIENCE, events.recv())
            .await
            .with_context(|| format!("waited {} for {kind}; {}", shown(PATIENCE), call.seen()))??;
        screen.step(call.placed_at().elapsed(), &event);
        if event.kind == kind {
            return Ok(event);
        }
        anyhow::ensure!(event.kind != "call.ended", "the call ended early: {}", event.data["detail"]);
    }
}

/// Shows the audio of both sides until both have finished.
async fn talk(call: &Call, session: &AgentSession, screen: &mut Screen) -> anyhow::Result<()> {
    let length = |clip: Vec<i16>| Duration::from_secs_f64(clip.len() as f64 / 16_000.0);
    // A little longer than the longer of the two, for the codec's delay.
    let enough = length(sound::caller_clip()).max(length(sound::agent_clip())) + Duration::from_millis(300);
    let began = clock::now();
    let mut picture = tokio::time::interval(Duration::from_millis(100));
    loop {
        picture.tick().await;
        let (agent_heard, caller_heard) = (session.heard(), call.heard()?);
        screen.levels(began.elapsed(), enough, &caller_heard, &agent_heard);
        let heard = length(agent_heard).min(length(caller_heard));
        if heard >= enough {
            screen.end_levels();
            return Ok(());
        }
        anyhow::ensure!(began.elapsed() < enough + PATIENCE, "the sound stopped: {}", call.seen());
    }
}

/// The outcome of the call.
struct Report {
    agent_heard: Vec<i16>,
    caller_heard: Vec<i16>,
    /// Similarity of what the agent heard to the caller's speech.
    caller_to_agent: f64,
    agent_to_caller: f64,
    greeting_whole: bool,
    objections: Vec<String>,
    packets: usize,
    accept_to_sound: Option<Duration>,
    reason: String,
    /// The longest standstill of the machine. It may explain a failure, but does not excuse it.
    stood_still: Duration,
}

impl Report {
    fn of(call: &Call, session: &AgentSession, ended: &CallEvent, stood_still: Duration) -> anyhow::Result<Self> {
        let (agent_heard, caller_heard) = (session.heard_at_phone_rate(), call.heard()?);
        let stage = |wanted| call.stages().into_iter().find(|(stage, _)| *stage == wanted).map(|(_, at)| at);
        let accept_to_sound = stage(Stage::FirstSound)
            .zip(stage(Stage::Accepted))
            .map(|(sound, accepted)| sound.saturating_duration_since(accepted));
        Ok(Self {
            caller_to_agent: sound::similarity(&sound::caller_clip(), &agent_heard),
            agent_to_caller: sound::similarity(&sound::agent_clip(), &caller_heard),
            greeting_whole: sound::beginning_is_whole(&sound::agent_clip(), &caller_heard),
            objections: call.objections().iter().map(ToString::to_string).collect(),
            packets: call.heard_packets().len(),
            accept_to_sound,
            reason: ended.data["detail"].as_str().unwrap_or_default().to_owned(),
            stood_still,
            agent_heard,
            caller_heard,
        })
    }

    fn is_good(&self) -> bool {
        self.caller_to_agent > SAME_SPEECH
            && self.agent_to_caller > SAME_SPEECH
            && self.greeting_whole
            && self.objections.is_empty()
    }

    fn write(&self, folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let files = [folder.join("agent-heard.wav"), folder.join("caller-heard.wav")];
        for (file, heard) in files.iter().zip([&self.agent_heard, &self.caller_heard]) {
            std::fs::write(file, sound::write_wav(16_000, heard)?).with_context(|| file.display().to_string())?;
        }
        Ok(files.into())
    }
}

/// Gives the recording a name that the next demo overwrites.
fn name_recording(folder: &Path, recorded: &CallEvent) -> anyhow::Result<PathBuf> {
    let file = folder.join(recorded.data["file_name"].as_str().unwrap_or_default());
    let named = folder.join("both-sides.opus");
    std::fs::rename(&file, &named).with_context(|| file.display().to_string())?;
    Ok(named)
}

/// The agent of a service on this machine.
pub struct LocalAgent<'a> {
    /// Where its WebSocket is.
    pub url: &'a str,
    /// What it speaks there.
    pub dialect: DialectName,
}

impl<'a> LocalAgent<'a> {
    /// An agent that speaks `patchcord.v1`.
    pub fn native(url: &'a str) -> Self {
        Self { url, dialect: DialectName::Native }
    }
}

/// A configuration for loopback, with this Meta and this agent; calls are recorded into `folder`.
pub fn local_config(meta: &Meta, agent: &LocalAgent<'_>, folder: &Path) -> anyhow::Result<Config> {
    let account = meta.options();
    let first = free_port()?;
    // JSON strings are valid TOML strings.
    let text = format!(
        r#"
        [http]
        listen = "127.0.0.1:0"
        [media]
        listen = ["127.0.0.1"]
        ports = "{first}-{last}"
        allow_private = true
        [whatsapp]
        graph_url = {graph:?}
        verify_token = "local"
        app_secrets = [{secret:?}]
        [[whatsapp.numbers]]
        phone_number_id = {number:?}
        access_token = {token:?}
        route = "reception"
        [routes.reception]
        agent = {url:?}
        dialect = {dialect:?}
        fallback = ["prompt:goodbye"]
        record = true
        [recordings]
        dir = {folder:?}
        [store]
        path = {store:?}
        "#,
        url = agent.url,
        dialect = agent.dialect.name(),
        store = folder.join("patchcord.db"),
        last = first + PORTS,
        graph = meta.graph_url(),
        secret = account.app_secret,
        number = account.phone_number_id,
        token = account.access_token,
    );
    Config::parse(&text, "the local configuration", &Environment::default())
        .map_err(|problems| anyhow::anyhow!("{problems}"))
}

/// A free UDP port, low enough for the ports after it.
fn free_port() -> anyhow::Result<u16> {
    loop {
        let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        if port < u16::MAX - PORTS {
            return Ok(port);
        }
    }
}
