//! What the app learns of calls, and keeps learning after a crash.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use patchcord_simulator::agent::{Agent, AgentOptions};
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::people::{agent, caller, quiet_caller};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, Talk, TestOptions};

/// An app that takes events and acknowledges each.
struct App {
    address: SocketAddr,
    received: mpsc::UnboundedReceiver<(HeaderMap, Value)>,
    server: JoinHandle<()>,
}

impl App {
    async fn start() -> anyhow::Result<Self> {
        let (sender, received) = mpsc::unbounded_channel();
        let router = Router::new().route("/events", post(take)).with_state(sender);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve until aborted") });
        Ok(Self { address, received, server })
    }

    fn options(&self) -> TestOptions {
        let events = format!(
            "[[events.webhooks]]\nurl = \"http://{}/events\"\nsecret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"",
            self.address
        );
        TestOptions { events, route: "record = true".to_owned(), ..TestOptions::default() }
    }

    /// The events of one call up to its end, in the order in which they came.
    async fn until_end(&mut self) -> anyhow::Result<Vec<Value>> {
        let mut events = Vec::new();
        loop {
            let (headers, event) =
                timeout(DEADLINE, self.received.recv()).await.context("no more events")?.context("the app is gone")?;
            anyhow::ensure!(headers["webhook-id"].to_str()? == event["id"], "{headers:?}");
            anyhow::ensure!(headers["webhook-signature"].to_str()?.starts_with("v1,"), "{headers:?}");
            let is_end = event["type"] == "call.ended";
            events.push(event);
            if is_end {
                return Ok(events);
            }
        }
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

fn has_no_gaps(events: &[Value]) {
    let sequences: Vec<u64> = events.iter().filter_map(|event| event["sequence"].as_u64()).collect();
    assert_eq!(sequences, (1..=events.len() as u64).collect::<Vec<_>>(), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_told_everything_of_a_call_in_order() -> anyhow::Result<()> {
    let mut app = App::start().await?;
    let talk = Talk::start_with(quiet_caller(), AgentOptions::default(), app.options()).await?;
    talk.call.hang_up().await?;
    let events = app.until_end().await?;
    has_no_gaps(&events);
    assert_eq!(events[0]["type"], "call.incoming");
    let ended = &events[events.len() - 1]["data"];
    assert_eq!((&ended["reason"], &ended["hung_up_by"]), (&"caller_hung_up".into(), &"caller".into()));
    Ok(())
}

/// kill -9 in the middle of a call: the next start ends it at Meta, closes its recording, and tells the app the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_was_killed_is_ended_by_the_next_start_once() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut app = App::start().await?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let mut program = Program::start(&folder, &meta, &agent, app.options()).await?;
    let call: Call = meta.place_call(caller()).await?;
    call.wait_until(Stage::Accepted).await?;
    call.hear_for(std::time::Duration::from_secs(2)).await?;
    program.line_with("accepted after").await?;
    program.finish().await?;

    let again = Program::start(&folder, &meta, &agent, app.options()).await?;
    call.wait_until(Stage::Ended).await?;
    let events = app.until_end().await?;
    has_no_gaps(&events);
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "call.ended").count(), 1);
    assert_eq!(kinds[kinds.len() - 2], "call.recording_finished", "{kinds:?}");
    assert_eq!(events[events.len() - 1]["data"]["reason"], "service_lost");
    again.finish().await?;

    // A third start finds nothing to end.
    let third = Program::start(&folder, &meta, &agent, app.options()).await?;
    let log = third.finish().await?;
    assert!(!log.contains("of an earlier run are ended"), "{log}");
    assert_eq!(meta.requests().iter().filter(|request| request.action == "terminate").count(), 1);
    Ok(())
}
