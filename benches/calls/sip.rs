//! SIP phones: what their calls cost in each codec, and a rush of new ones beside calls that talk.

use std::time::{Duration, Instant};

use crate::floor;
use crate::machine;
use crate::phone::off_pace_ms;
use crate::relaying::note_doubts;
use crate::scene::{Route, Scene, Window};
use crate::sip_phones::Codec;
use crate::sipp::Sipp;
use crate::table::{Goal, Table, quantile};

const CALLS: usize = 200;
const WINDOW: Duration = Duration::from_secs(8);
const PER_SECOND: u32 = 50;
const FRAME_US: f64 = 20_000.0;
/// A packet that is later than its successor was due.
const LATE_MS: f64 = 20.0;

const LIVE: usize = 100;
const RUSH: usize = 500;
/// Each new call talks for so long.
const BRIEF: Duration = Duration::from_secs(1);

/// Opus from end to end: packets are relayed, beside callers on hold.
pub async fn opus() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let hold = see(Route::HoldMusic, CALLS).await?;
    let relayed = see(Route::Sip(Codec::Opus), CALLS).await?;
    table.row(
        format!("{CALLS} calls: worker, 20 ms both ways; {CALLS} callers on hold"),
        relayed.worker_us(),
        "µs",
        Goal::TimesFloor { floor: hold.worker_us(), most: 2.0 },
    );
    table.row("  whole process", relayed.process_us(), "µs", Goal::Beside(hold.process_us()));
    table.row("  calls a core bears, by division", FRAME_US / relayed.process_us(), "", Goal::Shown);
    note_doubts(&mut table, CALLS, &hold);
    note_doubts(&mut table, CALLS, &relayed);
    Ok(table)
}

/// G.711: decoded and encoded for every call, with a jitter buffer.
pub async fn pcmu() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let codec = floor::phone_codec().await?;
    table.row("codecs alone, Opus and mu-law, both ways, 20 ms", codec, "µs", Goal::Shown);
    for calls in [50, 120] {
        let (udp, plain) = (floor::udp_echo(calls).await?, floor::plain_udp_echo(calls).await?);
        let window = see(Route::Sip(Codec::Pcmu), calls).await?;
        let cost = window.worker_us();
        table.row(
            format!("{calls} calls: worker, 20 ms both ways; codecs + UDP with AES-GCM {udp:.1} + UDP {plain:.1}"),
            cost,
            "µs",
            Goal::TimesFloor { floor: codec + udp + plain, most: 1.3 },
        );
        table.row("  whole process", window.process_us(), "µs", Goal::Shown);
        table.row("  calls a core bears, by division", FRAME_US / window.process_us(), "", Goal::Shown);
        note_doubts(&mut table, calls, &window);
    }
    Ok(table)
}

/// Fifty new calls a second, each brief, beside a hundred that talk.
pub async fn rush() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let mut scene = Scene::start(Route::Sip(Codec::Pcmu)).await?;
    scene.place(LIVE, PER_SECOND).await?;
    for call in &scene.calls {
        call.phone.take_notes()?;
    }
    let lost = machine::datagrams_lost()?;
    let accepted = pour(&mut scene).await?;
    let lost = machine::datagrams_lost()? - lost;
    let live = &scene.calls[..LIVE];
    let mut off: Vec<f64> = live.iter().flat_map(|call| off_pace_ms(&call.phone.notes().arrivals)).collect();
    let late = off.iter().filter(|off| **off > LATE_MS).count();
    let figure = format!("new calls accepted, of {RUSH} at {PER_SECOND} a second");
    table.row(figure, accepted as f64, "", Goal::AtLeast(RUSH as f64));
    let figure = format!("{LIVE} live calls: packets to callers, off 20 ms by, p99");
    table.row(figure, quantile(&mut off, 0.99), "ms", Goal::AtMost(2.0));
    table.row(format!("  late packets of {}", off.len()), late as f64, "", Goal::AtMost(0.0));
    if lost > 0 {
        table.note(format!("{lost} datagrams found no room at a socket"));
    }
    table.note(format!("Phones talk PCMU; a new call lasts for {} s.", BRIEF.as_secs()));
    Ok(table)
}

/// The same rush without the talking calls, to a foreign program.
pub async fn foreign() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let sipp = Sipp::start(RUSH)?;
    let mut scene = Scene::start(Route::Sipp { port: sipp.port }).await?;
    let accepted = pour(&mut scene).await?;
    let (good, failed) = sipp.ended().await?;
    let figure = format!("calls accepted, of {RUSH} at {PER_SECOND} a second");
    table.row(figure, accepted as f64, "", Goal::AtLeast(RUSH as f64));
    table.row("  whole in SIPp's count", good as f64, "", Goal::AtLeast(RUSH as f64));
    table.row("  failed in SIPp's count", failed as f64, "", Goal::AtMost(0.0));
    Ok(table)
}

/// Places calls at this pace, ends each after a moment, and gives how many were accepted.
async fn pour(scene: &mut Scene) -> anyhow::Result<usize> {
    let (before, began) = (scene.calls.len(), Instant::now());
    let brief = (BRIEF.as_secs_f64() * f64::from(PER_SECOND)) as usize;
    for number in 0..RUSH + brief {
        tokio::time::sleep_until((began + Duration::from_secs(1) * number as u32 / PER_SECOND).into()).await;
        if number < RUSH {
            scene.place_one().await?;
        }
        if let Some(over) = number.checked_sub(brief) {
            scene.hang_up(before + over).await?;
        }
    }
    Ok(scene.accepted(before + RUSH).await - before)
}

async fn see(route: Route, calls: usize) -> anyhow::Result<Window> {
    let mut scene = Scene::start(route).await?;
    scene.place(calls, PER_SECOND).await?;
    scene.watch(WINDOW).await
}
