//! An agent's server goes away in the middle of calls and comes back: how soon the callers are heard there again.

use std::time::Duration;

use anyhow::Context;

use crate::agent::Talk;
use crate::machine;
use crate::scene::{Route, Scene};
use crate::table::{Goal, Table, quantile};

const CALLS: usize = 50;
const PER_SECOND: u32 = 50;
/// Long enough for the pauses between two tries to be the longest.
const AWAY: Duration = Duration::from_secs(4);
/// Calls that are not back by then are missing.
const WINDOW: Duration = Duration::from_secs(3);

/// From the moment at which the agent's port is open again to the caller's audio at the agent.
pub async fn audio_back() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let mut scene = Scene::start(Route::Agent(Talk::Speak)).await?;
    scene.place(CALLS, PER_SECOND).await?;
    tokio::time::sleep(AWAY).await;
    let before = scene.agents.logs().len();
    scene.agents.go_down();
    tokio::time::sleep(AWAY).await;
    scene.agents.come_back().await?;
    let reachable_at = machine::clock();
    tokio::time::sleep(WINDOW).await;
    let logs = scene.agents.logs();
    let back = logs.get(before..).context("the agents of before")?;
    let first = back.iter().filter_map(|log| log.first_heard.get());
    let mut waits: Vec<f64> = first.map(|at| at.saturating_sub(reachable_at).as_secs_f64() * 1e3).collect();
    let figure = format!("{CALLS} calls, agent away for {} s: reachable to audio back", AWAY.as_secs());
    table.row(format!("{figure}, p50"), quantile(&mut waits, 0.5), "ms", Goal::Shown);
    table.row(format!("{figure}, worst"), quantile(&mut waits, 1.0), "ms", Goal::AtMost(1000.0));
    table.row("  calls that are back", waits.len() as f64, "", Goal::AtLeast(CALLS as f64));
    Ok(table)
}
