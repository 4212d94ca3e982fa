//! Calls that the app places: from its request to `connect`, from Meta's answer to media, and many of them beside others.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::app::{self, Api};
use crate::control::gap_ms;
use crate::scene::{PickedUp, Route, Scene};
use crate::table::{Goal, Table, quantile};

const CALLS: usize = 200;
const CALLS_PER_SECOND: u32 = 20;
const TALKING: usize = 200;
const TALKING_PER_SECOND: u32 = 100;
const RUSH: usize = 500;
const RUSH_PER_SECOND: u32 = 50;
/// A call is hung up when so many came after it.
const LIVE: usize = 50;
/// For the last media to come up, and for the last packets.
const SETTLE: Duration = Duration::from_secs(2);
/// A packet is late if a phone with a jitter buffer of 20 ms would have had nothing to play.
const LATE_MS: f64 = 40.0;

/// One call after the other, each picked up at once.
pub async fn one_by_one() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let mut disk = disk_syncs()?;
    let mut scene = Scene::start_with(Route::HoldMusic, &app::section()).await?;
    // Connections to Meta and the allocator are warm after the first calls.
    place(&mut scene, 10, CALLS_PER_SECOND).await?;
    let (written_at, calls) = place(&mut scene, CALLS, CALLS_PER_SECOND).await?;
    let mut connects: Vec<f64> =
        calls.iter().map(|call| ms(call.placed.connect_at - written_at[number(call)])).collect();
    let mut media: Vec<f64> =
        calls.iter().filter_map(|call| Some(ms(call.phone.connected_at.get()? - call.answered_at))).collect();
    let synced =
        format!("{:.2} ms to sync the disk, p99 {:.2} ms", quantile(&mut disk, 0.5), quantile(&mut disk, 0.99));
    table.row("request written to connect read, p50", quantile(&mut connects, 0.5), "ms", Goal::Shown);
    table.row("request written to connect read, p99", quantile(&mut connects, 0.99), "ms", Goal::AtMost(5.0));
    table.note(format!("the call is on disk before connect is sent; p50 of this machine: {synced}"));
    table.row("answer written to media up, p50", quantile(&mut media, 0.5), "ms", Goal::Shown);
    table.row(
        format!("answer written to media up, worst of {CALLS}"),
        quantile(&mut media, 1.0),
        "ms",
        Goal::AtMost(60.0),
    );
    table.row("calls with media", media.len() as f64, "", Goal::AtLeast(CALLS as f64));
    Ok(table)
}

/// Fifty calls a second for ten seconds, beside two hundred talking calls.
pub async fn many() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let mut scene = Scene::start_with(Route::HoldMusic, &app::section()).await?;
    scene.place(TALKING, TALKING_PER_SECOND).await?;
    tokio::time::sleep(SETTLE).await;
    for call in &scene.calls[..TALKING] {
        call.phone.take_notes()?;
    }
    let began = Instant::now();
    let (_, calls) = place(&mut scene, RUSH, RUSH_PER_SECOND).await?;
    let rate = RUSH as f64 / began.elapsed().as_secs_f64();
    let with_media = calls.iter().filter(|call| call.phone.connected_at.get().is_some()).count();
    let mut gaps = Vec::new();
    for call in &scene.calls[..TALKING] {
        gaps.extend(call.phone.notes().arrivals.windows(2).map(|pair| gap_ms(&pair[0], &pair[1])));
    }
    let late = gaps.iter().filter(|gap| **gap >= LATE_MS).count();
    table.row("calls placed, beside 200 that talk", rate, "a second", Goal::AtLeast(f64::from(RUSH_PER_SECOND) * 0.8));
    table.row(format!("of {RUSH}, with media"), with_media as f64, "", Goal::AtLeast(RUSH as f64));
    table.row(format!("late of {} packets to the 200", gaps.len()), late as f64, "", Goal::AtMost(0.0));
    table.row("  from packet to packet, p99", quantile(&mut gaps, 0.99), "ms", Goal::Shown);
    table.row("  from packet to packet, worst", quantile(&mut gaps, 1.0), "ms", Goal::Shown);
    Ok(table)
}

/// Places calls at this rate; each is picked up at once, and hung up a while later. Gives when each request was written, and
/// the calls.
async fn place(scene: &mut Scene, calls: usize, per_second: u32) -> anyhow::Result<(Vec<Instant>, Vec<PickedUp>)> {
    let service = scene.service.http;
    let ordering = tokio::task::spawn_local(app::beside(move || order(service, calls, per_second)));
    let picking = async {
        let (mut all, mut live) = (Vec::with_capacity(calls), VecDeque::new());
        for number in 0..calls {
            all.push(scene.pick_up_next().await?);
            live.push_back(number);
            if live.len() > LIVE
                && let Some(oldest) = live.pop_front()
            {
                scene.callee_hangs_up(&all[oldest]).await?;
            }
        }
        Ok((all, live))
    };
    // An order that is refused ends both.
    let (written_at, (all, live)) = tokio::try_join!(async { ordering.await? }, picking)?;
    tokio::time::sleep(SETTLE).await;
    for number in live {
        scene.callee_hangs_up(&all[number]).await?;
    }
    Ok((written_at, all))
}

fn order(service: SocketAddr, calls: usize, per_second: u32) -> anyhow::Result<Vec<Instant>> {
    let (mut api, began) = (Api::connect(service)?, Instant::now());
    (0..calls)
        .map(|number| {
            let at = began + Duration::from_secs(1) * number as u32 / per_second;
            std::thread::sleep(at.saturating_duration_since(Instant::now()));
            let body = json!({ "to": format!("1202{number:07}"), "tracker": number.to_string() });
            Ok(api.post("/v1/calls", &body)?.1)
        })
        .collect()
}

/// How long this machine's disk takes for a small write that survives a power failure.
fn disk_syncs() -> anyhow::Result<Vec<f64>> {
    let path = std::env::temp_dir().join(format!("patchcord-bench-sync-{}", std::process::id()));
    let mut file = File::create(&path)?;
    let times = (0..200).map(|_| {
        let began = Instant::now();
        file.write_all(&[0; 4096])?;
        file.sync_data()?;
        Ok(ms(began.elapsed()))
    });
    let times: anyhow::Result<Vec<f64>> = times.collect();
    std::fs::remove_file(&path)?;
    times
}

/// Which order it was.
fn number(call: &PickedUp) -> usize {
    call.placed.tracker.parse().unwrap_or_default()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
