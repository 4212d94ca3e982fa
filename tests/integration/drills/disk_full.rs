//! A full disk, on a tmpfs of a few megabytes. Below `store.min_free` new calls are rejected; without that floor calls are
//! accepted and heard. Events follow once there is room again. Mounting needs root.

use std::path::Path;
use std::process::Command;

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{EndedBy, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};

use super::report;
use crate::events::App;
use crate::people::{SECOND, agent, caller, caller_hears_next, objections};
use crate::program::Program;
use crate::service::{Folder, TestOptions};

/// Enough for the idle store, and soon full.
const SIZE_MB: usize = 16;
/// The floor, which is left for live calls.
const MIN_FREE_MB: usize = 8;
/// Calls while the disk is full.
const CALLS: usize = 5;

struct Tmpfs<'a>(&'a Path);

impl<'a> Tmpfs<'a> {
    fn mount(at: &'a Path) -> anyhow::Result<Self> {
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &format!("size={SIZE_MB}m"), "tmpfs"]).arg(at).status()?;
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

    /// Uses up this many megabytes.
    fn take(&self, megabytes: usize) -> std::io::Result<()> {
        std::fs::write(self.0.join("filler"), vec![0_u8; megabytes << 20])
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
async fn below_the_floor_new_calls_are_rejected_and_live_ones_go_on() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let disk = Tmpfs::mount(&folder.0)?;
    let mut app = App::start().await?;
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let options = with_floor(&app, MIN_FREE_MB);
    let mut program = Program::start(&folder, &meta, &agent, options).await?;
    let live = meta.place_call(caller()).await?;
    live.wait_until(Stage::FirstPacket).await?;
    disk.take(SIZE_MB - MIN_FREE_MB)?;
    program.line_with("less than store.min_free is left").await?;
    for _ in 0..CALLS {
        let rejected = meta.place_call(caller()).await?;
        rejected.wait_until(Stage::Ended).await?;
        assert_eq!(rejected.ended_by(), Some(EndedBy::Rejected), "{}", rejected.seen());
        let events = app.until("call.ended").await?;
        let detail = &events[events.len() - 1]["data"]["detail"];
        assert!(detail.to_string().contains("store.min_free"), "{detail}");
    }
    caller_hears_next(&live, SECOND).await?;
    assert_eq!(objections(&live), [], "{}", live.seen());
    live.hang_up().await?;
    app.until("call.ended").await?;
    disk.free()?;
    program.line_with("the store's disk has room again").await?;
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let log = program.finish().await?;
    assert_eq!(log.matches("less than store.min_free is left on the store's disk: new calls").count(), 1, "{log}");
    report("disk nearly full", &format!("{CALLS} of {CALLS} new calls rejected and told, 1 live call untouched"));
    Ok(())
}

/// The app's events, and a floor of the store's disk.
fn with_floor(app: &App, megabytes: usize) -> TestOptions {
    let options = app.options();
    // Among the keys of [store].
    TestOptions { events: format!("min_free = \"{megabytes} MB\"\n{}", options.events), ..options }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "mounts a tmpfs as root: make drills"]
async fn no_call_is_harmed_by_a_full_disk() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let disk = Tmpfs::mount(&folder.0)?;
    let mut app = App::start().await?;
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let program = Program::start(&folder, &meta, &agent, with_floor(&app, 0)).await?;
    disk.fill()?;
    for _ in 0..CALLS {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::FirstPacket).await?;
        caller_hears_next(&call, SECOND).await?;
        assert_eq!(objections(&call), [], "{}", call.seen());
        call.hang_up().await?;
    }
    disk.free()?;
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
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
