//! More calls than a core carries: which are rejected, and whether live calls are affected.

use std::time::{Duration, Instant};

use crate::agent::Talk;
use crate::relaying::note_doubts;
use crate::scene::{Route, Scene};
use crate::table::{Goal, Table};

/// Enough calls to measure the cost of one.
const FIRST_CALLS: usize = 40;
const FIRST_WINDOW: Duration = Duration::from_secs(4);
const WINDOW: Duration = Duration::from_secs(8);
const PER_SECOND: u32 = 20;
const FRAME_US: f64 = 20_000.0;

/// PCM calls arrive at an even rate, up to three times as many as the core carries.
pub async fn three_times() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let mut scene = Scene::start_refusing(Route::Agent(Talk::Speak)).await?;
    scene.place(FIRST_CALLS, PER_SECOND).await?;
    let carried = FRAME_US / scene.watch(FIRST_WINDOW).await?.worker_us();
    let placed = (3.0 * carried) as usize;
    let began = Instant::now();
    for number in 0..placed.saturating_sub(FIRST_CALLS) {
        tokio::time::sleep_until((began + Duration::from_secs(1) * number as u32 / PER_SECOND).into()).await;
        scene.place_one().await?;
    }
    let (accepted, rejected) = scene.settled().await;
    let window = scene.watch(WINDOW).await?;
    table.row("calls a core carries, by division", carried, "", Goal::Shown);
    table.row(format!("{placed} calls came: accepted"), accepted as f64, "", Goal::AtLeast(0.8 * carried));
    table.row("  rejected at once", rejected as f64, "", Goal::Shown);
    table.row("  neither", placed.saturating_sub(accepted + rejected) as f64, "", Goal::AtMost(0.0));
    let through = window.went_through(accepted) * 100.0;
    table.row("  packets of those who talk that went through", through, "%", Goal::AtLeast(99.0));
    table.row("  of the core", window.core_share() * 100.0, "%", Goal::Shown);
    note_doubts(&mut table, accepted, &window);
    Ok(table)
}
