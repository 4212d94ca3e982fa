//! Recordings: channels, pause, protection, and their events.

use std::path::PathBuf;

use aws_lc_rs::digest;
use patchcord::call::event::CallId;
use patchcord_media::recorder::measure;
use patchcord_simulator::agent::{Agent, AgentOptions, Pace};
use patchcord_simulator::call::Stage;
use patchcord_simulator::meta::{Meta, MetaOptions};
use patchcord_simulator::sound::PHONE_RATE;
use serde_json::Value;

use crate::people::{AGENT_HZ, SECOND, agent, caller, caller_hears_next, objections};
use crate::program::Program;
use crate::service::{Folder, Talk, TestOptions, TestService};

pub fn recorded() -> TestOptions {
    TestOptions { route: "record = true".to_owned(), ..TestOptions::default() }
}

fn speaker() -> AgentOptions {
    AgentOptions { pace: Pace::Burst, ..agent() }
}

pub fn path_of(service: &TestService, finished: &Value) -> PathBuf {
    service.folder.0.join("recordings").join(finished["file_name"].as_str().unwrap_or_default())
}

async fn act(service: &TestService, call: &CallId, action: &str) -> anyhow::Result<Value> {
    service.act(call, action, Value::Null).await.map_err(anyhow::Error::msg)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_call_is_a_file_as_long_as_the_talk() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(caller(), speaker(), recorded()).await?;
    let Talk { service, call, .. } = &mut talk;
    let started = service.event("call.recording_started").await?.data;
    caller_hears_next(call, 3 * SECOND).await?;
    call.hang_up().await?;
    let finished = service.event("call.recording_finished").await?.data;
    let ended = service.event("call.ended").await?.data;
    assert_eq!(finished["recording_id"], started["recording_id"]);
    assert_eq!((&finished["complete"], &finished["problem"]), (&true.into(), &Value::Null), "{finished}");
    let bytes = std::fs::read(path_of(service, &finished))?;
    assert_eq!(finished["size_bytes"], bytes.len());
    let sha256: String =
        digest::digest(&digest::SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(finished["sha256"], sha256);
    let duration = finished["duration_ms"].as_u64().unwrap();
    assert!(duration.abs_diff(ended["talked_ms"].as_u64().unwrap()) < 500, "{duration} {ended}");
    assert_eq!(measure(&bytes[..])?.duration.as_millis() as u64, duration);
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_starts_pauses_resumes_and_stops_a_recording() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(caller(), speaker(), TestOptions::default()).await?;
    let Talk { service, call, .. } = &mut talk;
    let id = service.event("call.accepted").await?.call_id;
    let refused = service.act(&id, "pause_recording", Value::Null).await;
    assert_eq!(refused, Err("not_recording".to_owned()));
    let begun = act(service, &id, "start_recording").await?;
    let again = service.act(&id, "start_recording", Value::Null).await;
    assert_eq!(again, Err("already_recording".to_owned()));
    caller_hears_next(call, SECOND).await?;
    act(service, &id, "pause_recording").await?;
    caller_hears_next(call, 2 * SECOND).await?;
    act(service, &id, "resume_recording").await?;
    caller_hears_next(call, SECOND).await?;
    act(service, &id, "stop_recording").await?;
    let finished = service.event("call.recording_finished").await?.data;
    assert_eq!(finished["recording_id"], begun["recording_id"]);
    let bytes = std::fs::read(path_of(service, &finished))?;
    // A tone takes some hundred bytes for each frame and channel, silence sixteen: two of four seconds are quiet.
    let loud = loud_seconds(&bytes);
    assert!((1.0..3.0).contains(&loud), "{loud} s of sound in {finished}");
    assert!(finished["duration_ms"].as_u64().unwrap() >= 3900, "the pause counts: {finished}");
    assert_eq!(crate::people::heard_voices(&caller_hears_next(call, SECOND).await?), [AGENT_HZ]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn protection_keeps_sound_out_of_the_recording() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(caller(), speaker(), recorded()).await?;
    let Talk { service, call, .. } = &mut talk;
    let id = service.event("call.accepted").await?.call_id;
    act(service, &id, "protect").await?;
    caller_hears_next(call, 3 * SECOND).await?;
    act(service, &id, "stop_recording").await?;
    let finished = service.event("call.recording_finished").await?.data;
    let loud = loud_seconds(&std::fs::read(path_of(service, &finished))?);
    assert!(loud < 1.0, "{loud} s of sound");
    Ok(())
}

/// A killed process leaves a file that is playable to its last second; the next start closes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_survives_kill_9() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(speaker()).await?;
    let mut program = Program::start(&folder, &meta, &agent, recorded()).await?;
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    call.hear_for(3 * SECOND).await?;
    let heard = call.heard()?.len() as u64 * 1000 / u64::from(PHONE_RATE);
    program.line_with("accepted after").await?;
    program.finish().await?;

    let left = only_file(&folder)?;
    assert!(left.to_string_lossy().ends_with(".opus.part"), "{}", left.display());
    let duration = measure(std::fs::File::open(&left)?)?.duration.as_millis() as u64;
    assert!(duration + 1000 >= heard, "{duration} ms are left of {heard}");

    let again = Program::start(&folder, &meta, &agent, recorded()).await?;
    let closed = only_file(&folder)?;
    assert_eq!(closed.extension().and_then(|extension| extension.to_str()), Some("opus"), "{}", closed.display());
    assert_eq!(measure(std::fs::File::open(&closed)?)?.duration.as_millis() as u64, duration);
    again.finish().await?;
    Ok(())
}

fn only_file(folder: &Folder) -> anyhow::Result<PathBuf> {
    let files = std::fs::read_dir(folder.0.join("recordings"))?;
    let files = files.map(|file| Ok(file?.path())).collect::<std::io::Result<Vec<_>>>()?;
    anyhow::ensure!(files.len() == 1, "{files:?}");
    Ok(files[0].clone())
}

/// How many seconds of the file have sound in them, by the length of its packets.
pub fn loud_seconds(bytes: &[u8]) -> f64 {
    let mut reader = ogg::PacketReader::new(std::io::Cursor::new(bytes));
    let mut loud = 0;
    while let Ok(Some(packet)) = reader.read_packet() {
        loud += usize::from(!packet.data.starts_with(b"Opus") && packet.data.len() > 60);
    }
    loud as f64 * 0.02
}
