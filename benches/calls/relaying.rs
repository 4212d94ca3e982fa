//! The cost of a talking call: processor time and memory, for few and many calls.

use std::time::Duration;

use crate::agent::Talk;
use crate::floor;
use crate::machine;
use crate::scene::{Route, Scene, Window};
use crate::table::{Goal, Table};

const WINDOW: Duration = Duration::from_secs(8);
/// How fast calls come while they gather.
const PER_SECOND: u32 = 100;
/// Calls before memory is measured: the first ones warm everything up.
const FIRST_CALLS: usize = 5;
const FRAME_US: f64 = 20_000.0;

/// Opus packets handed through: a call's whole cost is the system's.
pub async fn opus() -> anyhow::Result<Table> {
    let mut table = Table::default();
    for calls in [50, 200, 500] {
        let udp = floor::udp_echo(calls).await?;
        let tcp = floor::tcp_echo(calls).await?;
        let seen = see(Talk::Echo, calls).await?;
        let cost = seen.window.worker_us();
        table.row(
            format!("{calls} calls: worker, 20 ms both ways; UDP echo with AES-GCM"),
            cost,
            "µs",
            Goal::TimesFloor { floor: udp, most: 1.5 },
        );
        table.row("  the same beside UDP echo and TCP echo together", cost, "µs", Goal::Beside(udp + tcp));
        table.row("  whole process", seen.window.process_us(), "µs", Goal::Shown);
        table.row("  memory of a call", seen.call_kb, "kB", Goal::Shown);
        note_doubts(&mut table, calls, &seen.window);
    }
    table.note(
        "An agent on a WebSocket costs a TCP message each way as well: UDP echo alone is the floor of relaying to RTP.",
    );
    Ok(table)
}

/// PCM both ways: decoded and encoded for every call.
pub async fn pcm() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let codec = floor::codec().await?;
    table.row("codec alone, decode and encode 20 ms", codec, "µs", Goal::Shown);
    let mut costs = Vec::new();
    for calls in [50, 120] {
        let (udp, tcp) = (floor::udp_echo(calls).await?, floor::tcp_echo(calls).await?);
        let seen = see(Talk::Speak, calls).await?;
        let cost = seen.window.worker_us();
        costs.push(cost);
        table.row(
            format!("{calls} calls: worker, 20 ms both ways; codec + UDP {udp:.1} + TCP {tcp:.1}"),
            cost,
            "µs",
            Goal::TimesFloor { floor: codec + udp + tcp, most: 1.25 },
        );
        table.row("  whole process", seen.window.process_us(), "µs", Goal::Shown);
        table.row("  calls a core bears, by division", FRAME_US / cost, "", Goal::AtLeast(160.0));
        table.row("  memory of a call", seen.call_kb, "kB", Goal::AtMost(200.0));
        note_doubts(&mut table, calls, &seen.window);
    }
    if let [few, many] = costs.as_slice() {
        table.row("a call among 120, against one among 50", *many, "µs", Goal::AtMost(*few));
        table.note("reference, not measured in this run: Pipecat bears 8 / 24 such calls on a core.");
        table.note("500 such calls are more than one core bears; 120 are about what it does.");
    }
    Ok(table)
}

struct Seen {
    window: Window,
    call_kb: f64,
}

async fn see(talk: Talk, calls: usize) -> anyhow::Result<Seen> {
    let mut scene = Scene::start(Route::Agent(talk)).await?;
    scene.place(FIRST_CALLS, PER_SECOND).await?;
    let before_kb = machine::resident_kb(scene.service.process())?;
    scene.place(calls - FIRST_CALLS, PER_SECOND).await?;
    let window = scene.watch(WINDOW).await?;
    let call_kb = (machine::resident_kb(scene.service.process())? - before_kb) / (calls - FIRST_CALLS) as f64;
    Ok(Seen { window, call_kb })
}

/// Notes of everything that makes the figures unreliable.
pub fn note_doubts(table: &mut Table, calls: usize, window: &Window) {
    let through = window.went_through(calls);
    if through < 0.99 {
        let share = window.core_share() * 100.0;
        table.note(format!(
            "{calls} calls: only {:.1} % of the packets went through, with {share:.0} % of the core",
            through * 100.0
        ));
    }
    let waited = window.used.waited.as_secs_f64() / window.took.as_secs_f64();
    if waited > 0.05 {
        table.note(format!(
            "{calls} calls: others had the worker's core for {:.0} % of the time while it wanted to run",
            waited * 100.0
        ));
    }
}
