//! A damaged store: the start refuses it by name instead of losing records one by one, and a backup repairs it.

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::Stage;
use patchcord_simulator::meta::{Meta, MetaOptions};

use super::report;
use crate::people::{agent, caller};
use crate::program::Program;
use crate::service::{Folder, TestOptions};

/// Calls before the damage.
const CALLS: usize = 3;
/// Page size of the SQLite file, in bytes.
const PAGE: usize = 4096;

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_store_stops_the_start_and_a_backup_mends_it() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let start = async || Program::start(&folder, &meta, &agent, TestOptions::default()).await;
    let mut program = start().await?;
    for _ in 0..CALLS {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::FirstPacket).await?;
        call.hang_up().await?;
        program.line_with(": the caller hung up").await?;
    }
    program.signal("TERM")?;
    assert!(program.ended().await?.success());

    // A clean stop leaves everything in the file itself, so a copy of it is a backup.
    let file = folder.0.join("patchcord.db");
    let backup = std::fs::read(&file)?;
    let mut damaged = backup.clone();
    let middle = damaged.len() / 2 / PAGE * PAGE;
    damaged[middle..middle + PAGE].fill(0xa5);
    std::fs::write(&file, damaged)?;
    let Err(refused) = start().await else { anyhow::bail!("a damaged store was opened") };
    let refused = format!("{refused:#}");
    assert!(refused.contains("patchcord.db is damaged") && refused.contains("backup"), "{refused}");

    std::fs::write(&file, backup)?;
    let program = start().await?;
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    program.finish().await?;
    report("damaged store", "the start names the file and the remedy; with the backup a call is accepted");
    Ok(())
}
