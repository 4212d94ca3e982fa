//! A caller and a WebRTC agent: Opus relayed between two SRTP lines, beside a caller on hold, who has one.

use std::time::Duration;

use crate::machine;
use crate::phone::off_pace_ms;
use crate::relaying::note_doubts;
use crate::scene::{Route, Scene, Window};
use crate::table::{Goal, Table, quantile};

const CALLS: usize = 200;
const WINDOW: Duration = Duration::from_secs(8);
/// Each handshake of a bot costs its core some milliseconds.
const PER_SECOND: u32 = 40;
/// A packet that is later than its successor was due.
const LATE_MS: f64 = 20.0;

/// Two hundred calls of each kind on one worker.
pub async fn relayed() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let (hold, _) = see(Route::HoldMusic).await?;
    let lost = machine::datagrams_lost()?;
    let (relayed, mut off) = see(Route::Bot).await?;
    let lost = machine::datagrams_lost()? - lost;
    table.row(
        format!("{CALLS} calls: worker, 20 ms both ways; {CALLS} callers on hold"),
        relayed.worker_us(),
        "µs",
        Goal::TimesFloor { floor: hold.worker_us(), most: 2.0 },
    );
    table.row("  whole process", relayed.process_us(), "µs", Goal::Beside(hold.process_us()));
    table.row("  of the core", relayed.core_share() * 100.0, "%", Goal::Shown);
    let late = off.iter().filter(|off| **off > LATE_MS).count();
    table.row("  packets to callers, off 20 ms by, p99", quantile(&mut off, 0.99), "ms", Goal::AtMost(2.0));
    table.row(format!("  late packets of {}", off.len()), late as f64, "", Goal::AtMost(0.0));
    if lost > 0 {
        table.note(format!("{lost} datagrams found no room at a socket, of {} sent", relayed.sent + relayed.heard));
    }
    note_doubts(&mut table, CALLS, &hold);
    note_doubts(&mut table, CALLS, &relayed);
    Ok(table)
}

/// The window, and by how much each step from packet to packet was off 20 ms.
async fn see(route: Route) -> anyhow::Result<(Window, Vec<f64>)> {
    let mut scene = Scene::start(route).await?;
    scene.place(CALLS, PER_SECOND).await?;
    for call in &scene.calls {
        call.phone.take_notes()?;
    }
    let window = scene.watch(WINDOW).await?;
    let off = scene.calls.iter().flat_map(|call| off_pace_ms(&call.phone.notes().arrivals)).collect();
    Ok((window, off))
}
