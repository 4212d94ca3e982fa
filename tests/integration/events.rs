//! Events that the app receives of calls, also after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::Context;
use aws_lc_rs::digest;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use patchcord_media::recorder::measure;
use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour};
use patchcord_simulator::call::{Call, EndedBy, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::api::client::{Client, RECORDINGS, WRITER, keys};
use crate::people::{SECOND, agent, caller, caller_hears_next, quiet_caller};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, Talk, TestOptions};

/// An app that takes events and acknowledges each.
pub struct App {
    address: SocketAddr,
    received: mpsc::UnboundedReceiver<(HeaderMap, Value)>,
    /// Ids of the events so far: an event that was not acknowledged in time is repeated.
    known: BTreeSet<String>,
    server: JoinHandle<()>,
}

impl App {
    pub async fn start() -> anyhow::Result<Self> {
        let (sender, received) = mpsc::unbounded_channel();
        let router = Router::new().route("/events", post(take)).with_state(sender);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve until aborted") });
        Ok(Self { address, received, known: BTreeSet::new(), server })
    }

    pub fn options(&self) -> TestOptions {
        let events = format!(
            "[[events.webhooks]]\nurl = \"http://{}/events\"\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"",
            self.address
        );
        TestOptions { events, route: "record = true".to_owned(), ..TestOptions::default() }
    }

    /// The next new event.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            let (headers, event) =
                timeout(DEADLINE, self.received.recv()).await.context("no more events")?.context("the app is gone")?;
            anyhow::ensure!(headers["webhook-id"].to_str()? == event["id"], "{headers:?}");
            anyhow::ensure!(headers["webhook-signature"].to_str()?.starts_with("v1,"), "{headers:?}");
            if self.known.insert(event["id"].as_str().unwrap_or_default().to_owned()) {
                return Ok(event);
            }
        }
    }

    /// All events up to the first of this kind, in order of arrival.
    pub async fn until(&mut self, kind: &str) -> anyhow::Result<Vec<Value>> {
        let mut events: Vec<Value> = Vec::new();
        while events.last().is_none_or(|event| event["type"] != kind) {
            events.push(self.next().await?);
        }
        Ok(events)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(
    State(sender): State<mpsc::UnboundedSender<(HeaderMap, Value)>>,
    headers: HeaderMap,
    axum::Json(event): axum::Json<Value>,
) {
    // The test may be over.
    let _ = sender.send((headers, event));
}

pub fn has_no_gaps(events: &[Value]) {
    let sequences: Vec<u64> = events.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    assert_eq!(sequences, (1..=events.len() as u64).collect::<Vec<_>>(), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_told_everything_of_a_call_in_order() -> anyhow::Result<()> {
    let mut app = App::start().await?;
    let talk = Talk::start_with(quiet_caller(), AgentOptions::default(), app.options()).await?;
    talk.call.hang_up().await?;
    let events = app.until("call.ended").await?;
    has_no_gaps(&events);
    assert_eq!(events[0]["type"], "call.incoming");
    let ended = &events[events.len() - 1]["data"];
    assert_eq!((&ended["reason"], &ended["hung_up_by"]), (&"caller_hung_up".into(), &"caller".into()));
    Ok(())
}

/// kill -9 in the middle of a call: the next start ends it at Meta, closes its recording, and sends the missing events.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_killed_is_ended_by_the_next_start_once() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut app = App::start().await?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let mut program = Program::start(&folder, &meta, &agent, app.options()).await?;
    let call: Call = meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    call.hear_for(2 * SECOND).await?;
    program.line_with("accepted after").await?;
    program.finish().await?;

    let again = Program::start(&folder, &meta, &agent, app.options()).await?;
    call.wait_until(Stage::Ended).await?;
    let events = app.until("call.ended").await?;
    has_no_gaps(&events);
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "call.ended").count(), 1);
    assert_eq!(kinds[kinds.len() - 2], "call.recording_finished", "{kinds:?}");
    assert_eq!(events[events.len() - 1]["data"]["reason"], "service_lost");
    // A clean stop writes what came of it.
    again.signal("TERM")?;
    again.ended().await?;

    // A third start finds nothing to end.
    let third = Program::start(&folder, &meta, &agent, app.options()).await?;
    let log = third.finish().await?;
    assert!(!log.contains("of an earlier run are ended"), "{log}");
    assert_eq!(meta.requests().iter().filter(|request| request.action == "terminate").count(), 1);
    Ok(())
}

/// The same with several calls at once: two are being recorded, and one still rings.
#[tokio::test(flavor = "multi_thread")]
async fn all_calls_that_were_killed_are_ended_by_the_next_start_once_each() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut app = App::start().await?;
    // The ringing call must not time out before the kill, however slow the machine.
    let calls = "agent_timeout = \"25s\"".to_owned();
    let options = TestOptions { route: String::new(), api: keys(), calls, ..app.options() };
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let program = Program::start(&folder, &meta, &agent, options.clone()).await?;
    let mut calls = Vec::new();
    for _ in 0..3 {
        calls.push(meta.place_call(caller()).await?);
        calls[calls.len() - 1].wait_until(Stage::FirstPacket).await?;
    }
    let client = Client::at(program.url(), WRITER);
    let listed = client.get("/v1/calls").await?.body;
    let record = async |call: &Value| -> anyhow::Result<Value> {
        let call = call["id"].as_str().context("an id")?;
        Ok(client.act(call, "start_recording", Value::Null).await?.body["recording_id"].clone())
    };
    let long = record(&listed["calls"][1]).await?;
    let mut events = app.until("call.recording_started").await?;
    agent.set_behaviour(Behaviour::NeverAnswerHandshake);
    calls.push(meta.place_call(quiet_caller()).await?);
    events.extend(app.until("call.media_connected").await?);
    caller_hears_next(&calls[1], 2 * SECOND).await?;
    let short = record(&listed["calls"][0]).await?;
    events.extend(app.until("call.recording_started").await?);
    program.finish().await?;

    let started_at = Instant::now();
    let again = Program::start(&folder, &meta, &agent, options.clone()).await?;
    for call in &calls {
        call.wait_until(Stage::Ended).await?;
        assert_eq!(call.ended_by(), Some(EndedBy::Terminated), "{}", call.seen());
    }
    let terminated = meta.requests().into_iter().filter(|request| request.action == "terminate");
    let took = terminated.map(|request| request.at - started_at).max().context("a terminate")?;
    println!("Meta knew of {} ends {took:?} after the start", calls.len());
    // On a quiet machine it is a tenth of a second.
    assert!(took < Duration::from_secs(10), "{took:?}");

    for _ in &calls {
        events.extend(app.until("call.ended").await?);
    }
    every_call_has_one_end(&events, calls.len());
    every_record_has_its_end(&Client::at(again.url(), WRITER), calls.len()).await?;
    let finished = events.iter().filter(|event| event["type"] == "call.recording_finished");
    let finished: Vec<(&Value, &Value)> = finished.map(|event| (&event["call_id"], &event["data"])).collect();
    let told_of = |recording| finished.iter().filter(|(_, data)| data["recording_id"] == recording).collect::<Vec<_>>();
    let ([(by_long, long)], [(by_short, short)]) = (told_of(long).as_slice(), told_of(short).as_slice()) else {
        anyhow::bail!("{finished:#?}")
    };
    assert_eq!((*by_long, *by_short), (&listed["calls"][1]["id"], &listed["calls"][0]["id"]));
    let client = Client::at(again.url(), RECORDINGS);
    assert!(long["duration_ms"].as_u64().is_some_and(|duration| duration >= 1000), "{long}");
    is_the_file(&client, long).await?;
    // It had only just begun; a page is written every second.
    match short["size_bytes"].as_u64() {
        Some(0) => assert!(short["problem"].is_string(), "{short}"),
        _ => is_the_file(&client, short).await?,
    }
    for recording in client.get("/v1/recordings").await?.body["recordings"].as_array().context("a list")? {
        assert!(recording["finished_at"].is_string(), "{recording}");
    }
    // A clean stop writes what came of it.
    again.signal("TERM")?;
    again.ended().await?;

    // A third start finds nothing to end, and sends nothing new.
    let third = Program::start(&folder, &meta, &agent, options).await?;
    let log = third.finish().await?;
    assert!(!log.contains("of an earlier run are ended"), "{log}");
    let asked = meta.requests();
    for call in &calls {
        let of_call = asked.iter().filter(|asked| asked.action == "terminate" && asked.call_id == call.wacid());
        assert_eq!(of_call.count(), 1, "{}", call.seen());
    }
    while let Ok((_, event)) = app.received.try_recv() {
        assert!(app.known.contains(event["id"].as_str().unwrap_or_default()), "{event}");
    }
    Ok(())
}

fn every_call_has_one_end(events: &[Value], calls: usize) {
    let mut by_call = BTreeMap::<&str, Vec<Value>>::new();
    for event in events {
        by_call.entry(event["call_id"].as_str().unwrap_or_default()).or_default().push(event.clone());
    }
    assert_eq!(by_call.len(), calls, "{events:#?}");
    for events in by_call.values() {
        has_no_gaps(events);
        let is_end: Vec<bool> = events.iter().map(|event| event["type"] == "call.ended").collect();
        assert_eq!(is_end.iter().position(|is_end| *is_end), Some(events.len() - 1), "{events:#?}");
        assert_eq!(events[events.len() - 1]["data"]["reason"], "service_lost");
    }
}

async fn every_record_has_its_end(client: &Client, calls: usize) -> anyhow::Result<()> {
    let listed = client.get("/v1/calls").await?.body["calls"].take();
    let listed = listed.as_array().context("a list")?;
    let ids: BTreeSet<&str> = listed.iter().filter_map(|call| call["id"].as_str()).collect();
    assert_eq!((listed.len(), ids.len()), (calls, calls), "{listed:#?}");
    for call in listed {
        assert_eq!((&call["state"], &call["reason"]), (&"ended".into(), &"service_lost".into()), "{call:#}");
    }
    Ok(())
}

/// The event of an interrupted recording matches the file that the API serves.
async fn is_the_file(client: &Client, finished: &Value) -> anyhow::Result<()> {
    let id = finished["recording_id"].as_str().context("an id")?;
    let file = client.fetch(&format!("/v1/recordings/{id}"), None).await?;
    let measured = measure(&file.bytes[..])?;
    let digest = digest::digest(&digest::SHA256, &file.bytes);
    let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let facts = ["size_bytes", "duration_ms", "sha256", "complete"].map(|key| &finished[key]);
    let expected = [json!(file.bytes.len()), json!(measured.duration.as_millis() as u64), json!(sha256), json!(false)];
    assert_eq!(facts, expected.each_ref(), "{finished}");
    Ok(())
}
