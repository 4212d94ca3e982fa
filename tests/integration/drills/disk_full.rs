//! A full disk, on a tmpfs of a few megabytes: calls are accepted and heard, and what happens once there is room again is
//! told. Mounting needs root.

use std::path::Path;
use std::process::Command;

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::Stage;
use patchcord_simulator::meta::{Meta, MetaOptions};

use super::report;
use crate::events::App;
use crate::people::{SECOND, agent, caller, caller_hears_next, objections};
use crate::program::Program;
use crate::service::Folder;

/// Enough for the store at rest, and soon full.
const SIZE: &str = "size=16m";
/// Calls while the disk is full.
const CALLS: usize = 5;

struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(at: &'a Path) -> anyhow::Result<Self> {
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", SIZE, "tmpfs"]).arg(at).status()?;
        anyhow::ensure!(status.success(), "mount -t tmpfs needs root: {status}");
        Ok(Self(at))
    }

    /// Writes until nothing more fits.
    fn fill(&self) -> std::io::Result<()> {
        use std::io::Write;
        let mut file = std::fs::File::create(self.0.join("filler"))?;
        for piece in [vec![0_u8; 64 * 1024], vec![0_u8; 512]] {
            while file.write_all(&piece).is_ok() {}
        }
        Ok(())
    }

    fn free(&self) -> std::io::Result<()> {
        std::fs::remove_file(self.0.join("filler"))
    }
}

impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        // Lazily: the program may still have its files open.
        let _ = Command::new("umount").arg("-l").arg(self.0).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a tmpfs as root: make drills"]
async fn no_call_is_harmed_by_a_full_disk() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let disk = Tmpfs::mount(&folder.0)?;
    let mut app = App::start().await?;
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let program = Program::start(&folder, &meta, &agent, app.options()).await?;
    disk.fill()?;
    for _ in 0..CALLS {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::Accepted).await?;
        caller_hears_next(&call, SECOND).await?;
        assert_eq!(objections(&call), [], "{}", call.seen());
        call.hang_up().await?;
    }
    disk.free()?;
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::Accepted).await?;
    call.hang_up().await?;
    loop {
        let events = app.until("call.ended").await?;
        if events.iter().any(|event| event["type"] == "call.incoming" && event["data"]["wacid"] == call.wacid()) {
            break;
        }
    }
    program.finish().await?;
    report("disk full", &format!("{CALLS} of {CALLS} calls accepted and heard; told again once there is room"));
    Ok(())
}
