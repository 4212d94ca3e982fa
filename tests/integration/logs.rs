//! What an operator reads in the log.

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::Stage;
use patchcord_simulator::meta::{Meta, MetaOptions};

use crate::people::{agent, quiet_caller};
use crate::program::Program;
use crate::service::{Folder, TestOptions};

#[tokio::test(flavor = "multi_thread")]
async fn a_log_in_a_pipe_has_no_colours_and_durations_of_a_few_digits() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let mut program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    let call = meta.place_call(quiet_caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let accepted = program.line_with("accepted after").await?;
    call.hang_up().await?;
    let ended = program.line_with("caller_hung_up").await?;
    for line in [accepted, ended] {
        let (_, after) = line.split_once(" after ").unwrap_or_else(|| panic!("no duration: {line}"));
        let mut words = after.split([' ', ':']);
        let (number, unit) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        assert!(number.len() <= 3 && number.parse::<f64>().is_ok(), "{line}");
        assert!(["ms", "s", "min"].contains(&unit), "{line}");
    }
    let log = program.finish().await?;
    assert!(!log.contains('\u{1b}'), "an escape sequence in a pipe: {log:?}");
    Ok(())
}
