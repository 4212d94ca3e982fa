//! The cost of a talking call in each protocol of agents, beside PCM in our own.

use std::time::Duration;

use patchcord_media::opus::SILENCE;

use crate::phone::off_pace_ms;
use crate::relaying::note_doubts;
use crate::scene::{Route, Scene, Window};
use crate::table::{Goal, Table, quantile};
use crate::wire::{APPS, MODELS, NATIVE, TWILIO, Wire};

const CALLS: usize = 50;
const MANY_CALLS: usize = 100;
const WINDOW: Duration = Duration::from_secs(4);
const LONG_WINDOW: Duration = Duration::from_secs(10);
const PER_SECOND: u32 = 100;
/// A packet that is later than its successor was due.
const LATE_MS: f64 = 20.0;
/// Of mu-law as base64 in JSON, against PCM in our own protocol.
const MULAW_AT_MOST: f64 = 1.25;

/// The protocols of apps.
pub async fn apps() -> anyhow::Result<Table> {
    beside_native(&APPS).await
}

/// The protocols of speech models.
pub async fn models() -> anyhow::Result<Table> {
    beside_native(&MODELS).await
}

/// A hundred calls to apps of Twilio's protocol on one worker.
pub async fn many() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let Seen { window, mut off_ms, .. } = see(TWILIO, MANY_CALLS, LONG_WINDOW).await?;
    table.row(format!("{MANY_CALLS} calls: worker, 20 ms both ways"), window.worker_us(), "µs", Goal::Shown);
    table.row("  of the core", window.core_share() * 100.0, "%", Goal::Shown);
    let late = off_ms.iter().filter(|off| **off > LATE_MS).count();
    table.row("  packets to callers, off 20 ms by, p99", quantile(&mut off_ms, 0.99), "ms", Goal::AtMost(2.0));
    table.row(format!("  late packets of {}", off_ms.len()), late as f64, "", Goal::AtMost(0.0));
    note_doubts(&mut table, MANY_CALLS, &window);
    Ok(table)
}

/// Our own protocol comes first and last, so that a machine that becomes slower is seen.
async fn beside_native(wires: &[Wire]) -> anyhow::Result<Table> {
    let mut table = Table::default();
    let first = see(NATIVE, CALLS, WINDOW).await?;
    let mut seen = Vec::new();
    for wire in wires {
        seen.push((wire, see(*wire, CALLS, WINDOW).await?));
    }
    let last = see(NATIVE, CALLS, WINDOW).await?;
    let floor = f64::midpoint(first.window.worker_us(), last.window.worker_us());
    table.row(format!("{CALLS} calls: worker, 20 ms both ways; {}", NATIVE.name), floor, "µs", Goal::Shown);
    for (wire, seen) in &seen {
        let goal = match wire.is_mulaw_in_json() {
            true => Goal::TimesFloor { floor, most: MULAW_AT_MOST },
            false => Goal::Beside(floor),
        };
        table.row(format!("  {}", wire.name), seen.window.worker_us(), "µs", goal);
        note_doubts(&mut table, CALLS, &seen.window);
        if seen.voiced < first.voiced * 0.9 {
            let [voiced, native] = [seen.voiced, first.voiced].map(|share| share * 100.0);
            table.note(format!("{}: callers heard {voiced:.0} % speech, of native agents {native:.0} %", wire.name));
        }
    }
    let (first, last) = (first.window.worker_us(), last.window.worker_us());
    table.note(format!("{}: {first:.1} µs before all others, {last:.1} µs behind them.", NATIVE.name));
    Ok(table)
}

struct Seen {
    window: Window,
    /// The share of packets to callers that are no silence, 0 to 1.
    voiced: f64,
    /// By how much each step from packet to packet was off 20 ms.
    off_ms: Vec<f64>,
}

async fn see(wire: Wire, calls: usize, lasting: Duration) -> anyhow::Result<Seen> {
    let mut scene = Scene::start(Route::Wire(wire)).await?;
    scene.place(calls, PER_SECOND).await?;
    for call in &scene.calls {
        call.phone.take_notes()?;
    }
    let window = scene.watch(lasting).await?;
    let notes: Vec<_> = scene.calls.iter().map(|call| call.phone.notes()).collect();
    let arrivals = || notes.iter().flat_map(|notes| &notes.arrivals);
    let voiced = arrivals().filter(|arrival| arrival.payload.len() > SILENCE.len()).count();
    Ok(Seen {
        window,
        voiced: voiced as f64 / arrivals().count().max(1) as f64,
        off_ms: notes.iter().flat_map(|notes| off_pace_ms(&notes.arrivals)).collect(),
    })
}
