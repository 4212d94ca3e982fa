//! The whole process freezes for a while, as on a machine that is suspended or swaps: no call, agent or request fails for it.

use std::time::Duration;

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions, Reply};

use crate::drills::report;
use crate::people::{AGENT_HZ, CALLER_HZ, SECOND, agent, agent_hears_next, caller, caller_hears_next, heard_voices};
use crate::program::Program;
use crate::service::{Folder, TestOptions};

/// Longer than each of the timeouts below.
const FROZEN: Duration = Duration::from_secs(12);

#[tokio::test(flavor = "multi_thread")]
async fn calls_outlive_a_freeze_of_the_service() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let calls = "media_lost_warn = \"5s\"\nmedia_lost_end = \"8s\"\nagent_idle_timeout = \"6s\"".to_owned();
    let mut program = Program::start(&folder, &meta, &agent, TestOptions { calls, ..TestOptions::default() }).await?;
    let mut calls: Vec<Call> = Vec::new();
    for _ in 0..3 {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::FirstPacket).await?;
        program.line_with("accepted after").await?;
        calls.push(call);
    }
    // One more, whose accept is in flight. Meta's reply arrives during the freeze.
    meta.script("accept", vec![Reply::Delay(SECOND, Box::new(Reply::Ok))]);
    calls.push(meta.place_call(caller()).await?);
    meta.wait_for_request("accept", calls.len()).await?;
    program.signal("STOP")?;
    // The freeze itself.
    tokio::time::sleep(FROZEN).await;
    program.signal("CONT")?;
    program.line_with("a worker stood still for 1").await?;
    for (number, call) in (1..).zip(&calls) {
        let session = agent.wait_for_session(number).await?;
        assert_eq!(heard_voices(&agent_hears_next(&session, SECOND).await?), [CALLER_HZ], "{}", call.seen());
        assert_eq!(heard_voices(&caller_hears_next(call, SECOND).await?), [AGENT_HZ], "{}", call.seen());
        call.hang_up().await?;
        program.line_with(": the caller hung up").await?;
    }
    let log = program.finish().await?;
    for blamed in ["was lost", "no media from the caller", "nothing came for"] {
        assert!(!log.contains(blamed), "{blamed}: {log}");
    }
    report("freeze of the process", &format!("{FROZEN:?}: {0} of {0} calls lived on", calls.len()));
    Ok(())
}
