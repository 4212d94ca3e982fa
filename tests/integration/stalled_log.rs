//! A reader of the program's log stops: lines are lost, and calls are not affected.

use anyhow::Context;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::Stage;
use patchcord_simulator::meta::{Meta, MetaOptions};
use tokio::time::timeout;

use crate::drills::report;
use crate::people::{AGENT_HZ, SECOND, agent, caller, heard_voices};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions};

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_answered_while_nobody_reads_the_log() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    program.stop_reading();
    let http = reqwest::Client::builder().no_proxy().build()?;
    // Until the pipe and the queue behind it are full, and lines are lost.
    let mut webhooks = 0;
    loop {
        for _ in 0..500 {
            // Each unreadable webhook is one log line.
            let status = timeout(DEADLINE, meta.send_webhook("{".to_owned())).await.context("a webhook hangs")??;
            assert_eq!(status, 400);
            webhooks += 1;
        }
        let metrics = http.get(format!("{}/metrics", program.url())).send();
        let metrics = timeout(DEADLINE, metrics).await.context("metrics hang")??.text().await?;
        let lost = metrics.lines().find_map(|line| line.strip_prefix("patchcord_log_lines_lost_total "));
        if lost.context("lost lines are counted")? != "0" {
            break;
        }
        assert!(webhooks < 50_000, "no line is lost after {webhooks} webhooks");
    }
    for probe in ["/livez", "/readyz"] {
        let answer = timeout(DEADLINE, http.get(format!("{}{probe}", program.url())).send()).await??;
        assert_eq!(answer.status(), 200, "{probe}");
    }
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);
    call.hang_up().await?;
    program.signal("TERM")?;
    assert!(program.ended_unread().await?.success());
    report("stalled log", &format!("{webhooks} webhooks answered while nobody read; a call accepted and heard"));
    Ok(())
}
