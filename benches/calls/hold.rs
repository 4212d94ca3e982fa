//! Hold music: what a waiting caller costs, and how evenly packets come to many of them.

use std::time::Duration;

use crate::floor;
use crate::machine;
use crate::phone::Arrival;
use crate::relaying::note_doubts;
use crate::scene::{Route, Scene};
use crate::table::{Goal, Table, quantile};

const WAITING: usize = 1_000;
const SPACED: usize = 500;
const WINDOW: Duration = Duration::from_secs(8);
const PER_SECOND: u32 = 100;
const ENCODES: &str = "patchcord_opus_encodes_total";

/// A thousand callers wait: their packets are opened and thrown away, prepared frames are sent. None is rejected, because
/// they cost little.
pub async fn music() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let floor = floor::udp_echo(WAITING).await?;
    let mut scene = Scene::start_refusing(Route::HoldMusic).await?;
    scene.place(WAITING, PER_SECOND).await?;
    let (encodes, lost) = (scene.service.metric(ENCODES).await?, machine::datagrams_lost()?);
    let window = scene.watch(WINDOW).await?;
    let lost = machine::datagrams_lost()? - lost;
    table.row(
        format!("{WAITING} callers: worker, 20 ms; UDP echo with AES-GCM"),
        window.worker_us(),
        "µs",
        Goal::TimesFloor { floor, most: 1.3 },
    );
    table.row("  whole process", window.process_us(), "µs", Goal::Shown);
    table.row("  of the core", window.core_share() * 100.0, "%", Goal::AtMost(100.0));
    match encodes.zip(scene.service.metric(ENCODES).await?) {
        Some((before, after)) => {
            table.row("  frames encoded meanwhile", (after - before) as f64, "", Goal::AtMost(0.0));
        }
        None => table.note(format!("the service has no metric {ENCODES}: nobody counted its encodes")),
    }
    table.note("A caller on hold sends too: the floor opens a packet of speech and seals one for each 20 ms.");
    if lost > 0 {
        table.note(format!("{lost} datagrams found no room at a socket, of {} sent", window.sent + window.heard));
    }
    note_doubts(&mut table, WAITING, &window);
    Ok(table)
}

/// The time between one packet and the next, as the kernel has them for the phones.
pub async fn spacing() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let punctuality = floor::punctuality().await?;
    let mut scene = Scene::start(Route::HoldMusic).await?;
    scene.place(SPACED, PER_SECOND).await?;
    for call in &scene.calls {
        call.phone.take_notes()?;
    }
    let window = scene.watch(WINDOW).await?;
    let (mut off, mut missing) = (Vec::new(), 0);
    for call in &scene.calls {
        for pair in call.phone.notes().arrivals.windows(2) {
            match gap_ms(&pair[0], &pair[1]) {
                Some(gap) => off.push((gap - 20.0).abs()),
                None => missing += 1,
            }
        }
    }
    let figure = format!("{SPACED} callers on hold: from packet to packet, off 20 ms by");
    table.row(format!("{figure}, p50"), quantile(&mut off, 0.5), "ms", Goal::Shown);
    table.row(format!("{figure}, p99"), quantile(&mut off, 0.99), "ms", Goal::AtMost(2.0));
    table.row(format!("{figure}, worst of {}", off.len()), quantile(&mut off, 1.0), "ms", Goal::Shown);
    table.note(punctuality);
    if missing > 0 {
        table.note(format!("{missing} packets did not follow the one before them"));
    }
    note_doubts(&mut table, SPACED, &window);
    Ok(table)
}

/// None if a packet is missing between them.
fn gap_ms(one: &Arrival, next: &Arrival) -> Option<f64> {
    let follows = one.sequence.wrapping_add(1) == next.sequence;
    follows.then_some((next.at.as_secs_f64() - one.at.as_secs_f64()) * 1e3)
}
