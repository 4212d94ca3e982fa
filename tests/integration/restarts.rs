//! A webhook that was answered 200 is neither lost nor acted on twice, whenever the process ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Announce, Call, CallerOptions, EndedBy, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions, Reply};
use serde_json::Value;

use crate::drills::report;
use crate::events::{App, has_no_gaps};
use crate::people::{AGENT_HZ, SECOND, agent, caller, caller_hears_next, heard_voices, objections};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions, TestService};

/// The environment of a program that is restarted.
struct Scene {
    folder: Folder,
    app: App,
    meta: Meta,
    agent: Agent,
}

impl Scene {
    async fn new() -> anyhow::Result<Self> {
        let (folder, app) = (Folder::new()?, App::start().await?);
        let meta = Meta::start(MetaOptions::default()).await?;
        Ok(Self { folder, app, meta, agent: Agent::start(agent()).await? })
    }

    async fn start(&self) -> anyhow::Result<Program> {
        let options = TestOptions { route: String::new(), ..self.app.options() };
        Program::start(&self.folder, &self.meta, &self.agent, options).await
    }

    /// Number of requests for this action on a call.
    fn asked(&self, action: &str, call: &Call) -> usize {
        let asked = self.meta.requests().into_iter();
        asked.filter(|asked| asked.action == action && asked.call_id == call.wacid()).count()
    }

    /// Puts a later call through, so that all effects of an earlier webhook have happened.
    async fn a_call_goes_through(&self) -> anyhow::Result<()> {
        let call = self.meta.place_call(caller()).await?;
        call.wait_until(Stage::FirstPacket).await?;
        call.hang_up().await?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_meta_has_no_answer_to_is_answered_by_the_next_start() -> anyhow::Result<()> {
    let mut scene = Scene::new().await?;
    scene.meta.script("pre_accept", vec![Reply::Hang]);
    let program = scene.start().await?;
    let call = scene.meta.place_call(caller()).await?;
    scene.meta.wait_for_request("pre_accept", 1).await?;
    program.finish().await?;

    let again = scene.start().await?;
    // Meta repeats the webhook to the new process.
    for _ in 0..3 {
        assert_eq!(call.send_connect().await?, 200);
    }
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(heard_voices(&caller_hears_next(&call, SECOND).await?), [AGENT_HZ]);
    call.hang_up().await?;
    let events = scene.app.until("call.ended").await?;
    has_no_gaps(&events);
    let kinds: Vec<&str> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "call.incoming").count(), 1, "{kinds:?}");
    assert_eq!(events[events.len() - 1]["data"]["reason"], "caller_hung_up");
    assert_eq!(["pre_accept", "accept", "terminate"].map(|action| scene.asked(action, &call)), [2, 1, 0]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    again.finish().await?;
    report("Graph away at hang-up", "ended at Meta once Graph was back, and not again after a restart");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_meta_took_unseen_is_ended_by_the_next_start() -> anyhow::Result<()> {
    let mut scene = Scene::new().await?;
    scene.meta.script("pre_accept", vec![Reply::DoneButHangs]);
    let program = scene.start().await?;
    let call = scene.meta.place_call(caller()).await?;
    call.wait_until(Stage::PreAccepted).await?;
    program.finish().await?;

    let again = scene.start().await?;
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated), "{}", call.seen());
    let events = scene.app.until("call.ended").await?;
    has_no_gaps(&events);
    assert_eq!(events[events.len() - 1]["data"]["reason"], "service_lost");
    assert_eq!(scene.asked("terminate", &call), 1);
    again.finish().await?;
    Ok(())
}

/// The offer is stored, but Meta has given up ringing.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_rung_for_too_long_is_ended_by_the_next_start() -> anyhow::Result<()> {
    let mut scene = Scene::new().await?;
    scene.meta.script("pre_accept", vec![Reply::Hang]);
    let program = scene.start().await?;
    let call = scene.meta.place_call(caller()).await?;
    program.finish().await?;
    let store = rusqlite::Connection::open(scene.folder.0.join("patchcord.db"))?;
    assert_eq!(store.execute("UPDATE calls SET began_at = began_at - 60000", [])?, 1);
    drop(store);

    let again = scene.start().await?;
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated), "{}", call.seen());
    let events = scene.app.until("call.ended").await?;
    assert_eq!(events[events.len() - 1]["data"]["reason"], "service_lost");
    again.finish().await?;
    Ok(())
}

/// kill -9 at the moment of the last 200, whatever the stage of each call.
#[tokio::test(flavor = "multi_thread")]
async fn every_call_that_meta_has_its_200_for_is_answered_or_ended_and_told() -> anyhow::Result<()> {
    const CALLS: usize = 6;
    let mut scene = Scene::new().await?;
    let program = scene.start().await?;
    let callers = (0..CALLS).map(|_| scene.meta.place_call(caller()));
    let calls = futures_util::future::try_join_all(callers).await?;
    program.finish().await?;

    let again = scene.start().await?;
    for call in &calls {
        // An error means that the call has ended or never began.
        if call.wait_until(Stage::Accepted).await.is_ok() {
            call.hang_up().await?;
        }
        assert!(call.ended_by().is_some(), "forgotten: {}", call.seen());
    }
    let mut events = Vec::new();
    for _ in &calls {
        events.extend(scene.app.until("call.ended").await?);
    }
    let mut by_call = BTreeMap::<&str, Vec<Value>>::new();
    for event in &events {
        by_call.entry(event["call_id"].as_str().context("an id")?).or_default().push(event.clone());
    }
    assert_eq!(by_call.len(), CALLS, "{events:#?}");
    for events in by_call.values() {
        has_no_gaps(events);
        let wacid = events[0]["data"]["wacid"].as_str().context("call.incoming comes first")?;
        assert!(calls.iter().any(|call| call.wacid() == wacid), "{wacid}");
    }
    again.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_the_process_before_is_not_admitted_again() -> anyhow::Result<()> {
    let mut scene = Scene::new().await?;
    let program = scene.start().await?;
    let call = scene.meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    call.hang_up().await?;
    scene.app.until("call.ended").await?;
    let over = scene.meta.place_call(CallerOptions { announce: Announce::ByHand, ..caller() }).await?;
    assert_eq!(scene.meta.send_webhook(over.terminate_body()).await?, 200);
    program.signal("TERM")?;
    program.ended().await?;

    for _ in 0..2 {
        let again = scene.start().await?;
        assert_eq!((call.send_connect().await?, over.send_connect().await?), (200, 200));
        scene.a_call_goes_through().await?;
        assert_eq!([&call, &over].map(|call| scene.asked("pre_accept", call)), [1, 0]);
        again.finish().await?;
    }
    Ok(())
}

/// Graph is down when a call ends: the call is ended at Meta once Graph is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_while_graph_is_away_is_ended_at_meta_later() -> anyhow::Result<()> {
    let mut scene = Scene::new().await?;
    scene.meta.script("terminate", vec![away(), away()]);
    let program = scene.start().await?;
    let call = scene.meta.place_call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    scene.agent.wait_for_session(1).await?.bye().await;
    let events = scene.app.until("call.ended").await?;
    assert_eq!(events[events.len() - 1]["data"]["reason"], "agent_hung_up");
    call.wait_until_within(Stage::Ended, DEADLINE).await?;
    assert_eq!((call.ended_by(), scene.asked("terminate", &call)), (Some(EndedBy::Terminated), 3));
    program.signal("TERM")?;
    program.ended().await?;

    // A confirmed request is not repeated.
    let again = scene.start().await?;
    scene.a_call_goes_through().await?;
    assert_eq!(scene.asked("terminate", &call), 3);
    assert_eq!(objections(&call), [], "{}", call.seen());
    again.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ending_that_meta_does_not_know_of_is_told_by_the_next_start() -> anyhow::Result<()> {
    // The process is killed, or stops cleanly.
    for is_killed in [true, false] {
        let mut scene = Scene::new().await?;
        scene.meta.script("terminate", vec![away()]);
        let mut program = scene.start().await?;
        let call = scene.meta.place_call(caller()).await?;
        call.wait_until(Stage::FirstPacket).await?;
        if is_killed {
            scene.agent.wait_for_session(1).await?.bye().await;
            program.line_with("; retrying").await?;
            program.finish().await?;
        } else {
            program.signal("TERM")?;
            program.line_with("calls go on for up to").await?;
            program.signal("TERM")?;
            program.ended().await?;
        }
        let again = scene.start().await?;
        call.wait_until_within(Stage::Ended, DEADLINE).await?;
        assert_eq!((call.ended_by(), scene.asked("terminate", &call)), (Some(EndedBy::Terminated), 2), "{is_killed}");
        scene.app.until("call.ended").await?;
        again.finish().await?;
    }
    Ok(())
}

/// Graph refuses, with a Retry-After far beyond the budget of a request.
fn away() -> Reply {
    Reply::RetryAfter(Duration::from_secs(3600))
}

/// Another program locks the store's file for longer than Meta may wait.
#[tokio::test(flavor = "multi_thread")]
async fn metas_200_waits_for_the_store_a_second_and_the_call_does_not() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    // Among the keys of [store].
    let options = TestOptions { events: "required = true".to_owned(), ..TestOptions::default() };
    let mut service = TestService::start_with(&agent.url(), options).await?;
    let call = service.unannounced(caller()).await?;
    let holder = rusqlite::Connection::open(service.folder.0.join("patchcord.db"))?;
    assert_eq!(service.get("/readyz").await?.status, 200);
    holder.execute_batch("BEGIN IMMEDIATE")?;
    let began_at = Instant::now();
    let answered = async { (call.send_connect().await, began_at.elapsed()) };
    let told = async { (service.event("call.incoming").await, began_at.elapsed()) };
    let ((status, answered_after), (incoming, told_after)) = tokio::join!(answered, told);
    assert_eq!((status?, incoming?.sequence), (200, 1));
    for waited in [answered_after, told_after] {
        assert!(waited >= Duration::from_millis(950), "Meta had its 200, and listeners their event, after {waited:?}");
    }
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(heard_voices(&caller_hears_next(&call, SECOND).await?), [AGENT_HZ]);
    // SQLite itself tries for two seconds.
    tokio::time::timeout(DEADLINE, async {
        while service.get("/readyz").await?.status != 503 {}
        anyhow::Ok(())
    })
    .await??;

    holder.execute_batch("COMMIT")?;
    // Ready again once what waited is written.
    tokio::time::timeout(DEADLINE, async {
        while service.get("/readyz").await?.status != 200 {}
        anyhow::Ok(())
    })
    .await??;
    let (began, wacid): (i64, String) =
        holder.query_row("SELECT count(*), max(wacid) FROM calls", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    assert_eq!((began, wacid.as_str()), (1, call.wacid()));
    Ok(())
}
