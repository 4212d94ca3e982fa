//! An app in control of many calls: latency of events and requests, the effect of a rush of new calls on the others, and
//! the cost of events that are not acknowledged.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::app::{self, Api};
use crate::floor;
use crate::machine;
use crate::phone::Arrival;
use crate::scene::{Route, Scene};
use crate::table::{Goal, Table, quantile};

const EVENT_CALLS: usize = 250;
const LIVE: usize = 1_000;
const READS: usize = 2_000;
const LISTS: usize = 40;
const READ_EVERY: Duration = Duration::from_millis(5);
const TALKING: usize = 200;
const RUSH: usize = 1_000;
const PER_SECOND: u32 = 100;
/// A call of the rush is hung up after this many further calls: about a second later.
const RUSH_LIVE: usize = 100;
/// A packet is late if a phone with a jitter buffer of 20 ms would have had nothing to play.
const LATE_MS: f64 = 40.0;
const QUEUED: usize = 10_000;
/// Each is a call that is rejected for its broken offer.
const EVENTS_OF_A_REFUSED_CALL: usize = 2;
const REFUSED_PER_SECOND: u32 = 400;
/// The allocator and tables have settled by then.
const WARM: usize = 1_000;
const DELIVERED_WITHIN: Duration = Duration::from_secs(90);

/// While calls come and go, from an event to the app's socket.
pub async fn events() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let mut scene = Scene::start_with(Route::HoldMusic, &app::section()).await?;
    scene.place(5, PER_SECOND).await?;
    let service = scene.service.http;
    let listening = tokio::task::spawn_local(app::beside(move || app::listen(service)));
    let began = Instant::now();
    for number in 0..EVENT_CALLS {
        tokio::time::sleep_until((began + Duration::from_secs(1) * number as u32 / (PER_SECOND / 2)).into()).await;
        scene.place_one().await?;
        if number >= RUSH_LIVE {
            scene.hang_up(number - RUSH_LIVE).await?;
        }
    }
    let mut waits = listening.await??;
    table.row("from an event to the open socket, p50", quantile(&mut waits, 0.5), "ms", Goal::Shown);
    table.row("from an event to the open socket, p99", quantile(&mut waits, 0.99), "ms", Goal::AtMost(5.0));
    table.note(format!("{} events of {EVENT_CALLS} calls, {} calls a second", waits.len(), PER_SECOND / 2));
    Ok(table)
}

/// With a thousand callers on hold music, the app requests one call, and two hundred.
pub async fn reading() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let punctuality = floor::punctuality().await?;
    let mut scene = Scene::start_with(Route::HoldMusic, &app::section()).await?;
    // If they talked, they would use nine tenths of the service's one core.
    scene.hush();
    machine::take_turns(scene.service.process());
    scene.place(LIVE, PER_SECOND).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (service, process) = (scene.service.http, scene.service.process());
    let (began, used) = (Instant::now(), machine::usage(process)?);
    let (mut reads, mut lists) = app::beside(move || read(service)).await?;
    let used = machine::usage(process)? - used;
    table.row(format!("reading one of {LIVE} live calls, p50"), quantile(&mut reads, 0.5), "ms", Goal::Shown);
    table.row(format!("reading one of {LIVE} live calls, p99"), quantile(&mut reads, 0.99), "ms", Goal::AtMost(5.0));
    table.row("a page of 200 of them, p50", quantile(&mut lists, 0.5), "ms", Goal::Shown);
    table.row(format!("a page of 200 of them, worst of {LISTS}"), quantile(&mut lists, 1.0), "ms", Goal::Shown);
    table.note(punctuality);
    let share = used.process.as_secs_f64() / began.elapsed().as_secs_f64();
    table.note(format!("meanwhile the service had {:.0} % of its core for the sound of them", share * 100.0));
    Ok(table)
}

fn read(service: SocketAddr) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    let mut api = Api::connect(service)?;
    let (mut ids, mut lists, mut reads) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LISTS {
        std::thread::sleep(READ_EVERY);
        let (page, took) = api.get("/v1/calls?state=live&limit=200")?;
        lists.push(took.as_secs_f64() * 1e3);
        ids = page["calls"]
            .as_array()
            .context("calls")?
            .iter()
            .filter_map(|it| Some(it["id"].as_str()?.to_owned()))
            .collect();
    }
    anyhow::ensure!(ids.len() == 200, "{} calls on the page", ids.len());
    for number in 0..READS {
        std::thread::sleep(READ_EVERY);
        reads.push(api.get(&format!("/v1/calls/{}", ids[number % ids.len()]))?.1.as_secs_f64() * 1e3);
    }
    Ok((reads, lists))
}

/// A hundred calls a second for ten seconds, beside two hundred talking calls.
pub async fn rush() -> anyhow::Result<Table> {
    let mut table = Table::default();
    let mut scene = Scene::start(Route::HoldMusic).await?;
    scene.place(TALKING, PER_SECOND).await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for call in &scene.calls[..TALKING] {
        call.phone.take_notes()?;
    }
    let began = Instant::now();
    for number in 0..RUSH {
        tokio::time::sleep_until((began + Duration::from_secs(1) * number as u32 / PER_SECOND).into()).await;
        scene.place_one().await?;
        if number >= RUSH_LIVE {
            scene.hang_up(TALKING + number - RUSH_LIVE).await?;
        }
    }
    let took = began.elapsed();
    let accepted = scene.accepted(TALKING + RUSH).await;
    let mut gaps = Vec::new();
    for call in &scene.calls[..TALKING] {
        gaps.extend(call.phone.notes().arrivals.windows(2).map(|pair| gap_ms(&pair[0], &pair[1])));
    }
    let late = gaps.iter().filter(|gap| **gap >= LATE_MS).count();
    let rate = RUSH as f64 / took.as_secs_f64();
    table.row("new calls, beside 200 that talk", rate, "a second", Goal::AtLeast(f64::from(PER_SECOND) * 0.99));
    table.row(format!("of {RUSH}, accepted"), (accepted - TALKING) as f64, "", Goal::AtLeast(RUSH as f64));
    table.row(format!("late of {} packets to the 200", gaps.len()), late as f64, "", Goal::AtMost(0.0));
    table.row("  from packet to packet, p99", quantile(&mut gaps, 0.99), "ms", Goal::Shown);
    table.row("  from packet to packet, worst", quantile(&mut gaps, 1.0), "ms", Goal::Shown);
    Ok(table)
}

/// Distributes the time of lost packets among the others.
pub fn gap_ms(one: &Arrival, next: &Arrival) -> f64 {
    let packets = next.sequence.wrapping_sub(one.sequence).max(1);
    (next.at.as_secs_f64() - one.at.as_secs_f64()) * 1e3 / f64::from(packets)
}

/// Events for a webhook that is down, and then is not.
pub async fn dead_receiver() -> anyhow::Result<Table> {
    let mut table = Table::default();
    // A port that refuses until it is opened again.
    let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let webhook = format!(
        "[[events.webhooks]]\nurl = \"http://{address}/events\"\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"\n"
    );
    let mut scene = Scene::start_with(Route::HoldMusic, &webhook).await?;
    refuse(&mut scene, 0, WARM / EVENTS_OF_A_REFUSED_CALL).await?;
    let before_kb = machine::resident_kb(scene.service.process())?;
    refuse(&mut scene, WARM, QUEUED / EVENTS_OF_A_REFUSED_CALL).await?;
    let grown_mb = (machine::resident_kb(scene.service.process())? - before_kb) / 1e3;
    table.row(format!("memory that {QUEUED} waiting events cost"), grown_mb, "MB", Goal::AtMost(10.0));

    let came = Rc::new(Came::default());
    let listener = TcpListener::bind(address).await.context("the receiver's port is taken")?;
    let began = Instant::now();
    let server = tokio::task::spawn_local(receive(listener, came.clone()));
    let all = came.wait_for(WARM + QUEUED).await;
    server.abort();
    table.row("of them delivered when it returns", all as f64, "", Goal::AtLeast((WARM + QUEUED) as f64));
    table.row("  out of their call's order", *came.disordered.borrow() as f64, "", Goal::AtMost(0.0));
    table.row("  within", began.elapsed().as_secs_f64(), "s", Goal::Shown);
    Ok(table)
}

async fn refuse(scene: &mut Scene, first: usize, calls: usize) -> anyhow::Result<()> {
    let began = Instant::now();
    for number in 0..calls {
        let at = began + Duration::from_secs(1) * number as u32 / REFUSED_PER_SECOND;
        tokio::time::sleep_until(at.into()).await;
        scene.announce_broken(first + number).await?;
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    Ok(())
}

/// What the webhook has acknowledged.
#[derive(Default)]
struct Came {
    last: RefCell<HashMap<String, u64>>,
    all: RefCell<usize>,
    disordered: RefCell<usize>,
    changed: Notify,
}

impl Came {
    fn take(&self, event: &Value) {
        let (Some(call), Some(sequence)) = (event["call_id"].as_str(), event["sequence"].as_u64()) else { return };
        let last = self.last.borrow_mut().insert(call.to_owned(), sequence);
        *self.all.borrow_mut() += 1;
        *self.disordered.borrow_mut() += usize::from(sequence != last.unwrap_or(0) + 1);
        self.changed.notify_one();
    }

    async fn wait_for(&self, events: usize) -> usize {
        let waiting = async {
            while *self.all.borrow() < events {
                self.changed.notified().await;
            }
        };
        // On timeout the figures so far are reported.
        let _ = tokio::time::timeout(DELIVERED_WITHIN, waiting).await;
        *self.all.borrow()
    }
}

async fn receive(listener: TcpListener, came: Rc<Came>) {
    while let Ok((stream, _)) = listener.accept().await {
        let came = came.clone();
        // The service may close its connection whenever it wants.
        tokio::task::spawn_local(async move { drop(serve(stream, &came).await) });
    }
}

async fn serve(mut stream: TcpStream, came: &Came) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        while let Some((head, length)) = app::whole(&bytes)? {
            came.take(&serde_json::from_slice(&bytes[head..head + length])?);
            bytes.drain(..head + length);
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
        }
        anyhow::ensure!(stream.read_buf(&mut bytes).await? > 0, "the connection was closed");
    }
}
