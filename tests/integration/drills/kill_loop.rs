//! kill -9 at random moments of starting calls. The app learns of every call whose webhook was answered 200, each ends
//! once, and Meta learns of each end. A call whose 200 was lost in the kill may be known all the same; it ends likewise.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Context;
use futures_util::future::join_all;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Announce, Call, CallerOptions, EndedBy, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{report, seed};
use crate::api::client::{Client, WRITER, keys};
use crate::events::App;
use crate::people::{agent, caller};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions};

/// Calls that begin in each round.
const CALLS: usize = 4;
/// The calls of a round begin within this time, and the kill comes within twice this time.
const WITHIN: Duration = Duration::from_millis(150);

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_is_told_and_ended_across_three_kills() -> anyhow::Result<()> {
    kill_loop(3).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make drills"]
async fn what_was_answered_is_told_and_ended_across_forty_kills() -> anyhow::Result<()> {
    kill_loop(40).await
}

async fn kill_loop(rounds: usize) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(seed());
    let (folder, app) = (Folder::new()?, App::start().await?);
    let options = TestOptions { api: keys(), ..app.options() };
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let mut calls = Vec::new();
    let mut story = Story { app, wacids: BTreeMap::new(), kinds: BTreeMap::new() };
    let mut answered = BTreeSet::new();
    for _ in 0..rounds {
        let program = Program::start(&folder, &meta, &agent, options.clone()).await?;
        let begun = begin_calls(&meta, &mut random).await?;
        let killed = async {
            sleep(random.random_range(Duration::ZERO..2 * WITHIN)).await;
            program.finish().await
        };
        let (statuses, log) = tokio::join!(join_all(begun.iter().map(|(call, after)| announce(call, *after))), killed);
        log?;
        answered.extend(
            begun.iter().zip(statuses).filter(|(_, taken)| *taken).map(|((call, _), _)| call.wacid().to_owned()),
        );
        calls.extend(begun.into_iter().map(|(call, _)| call));
    }
    let program = Program::start(&folder, &meta, &agent, options.clone()).await?;
    hang_up_live(&program, &calls).await?;
    story.read_until_ended(&answered).await?;
    program.finish().await?;

    // One more start and one more call: a second end of an earlier call would come before this one's.
    let program = Program::start(&folder, &meta, &agent, options).await?;
    let last = meta.place_call(caller()).await?;
    last.wait_until(Stage::Accepted).await?;
    last.hang_up().await?;
    story.read_until_ended(&BTreeSet::from([last.wacid().to_owned()])).await?;
    program.finish().await?;

    for (wacid, kinds) in &story.kinds {
        let count = |kind: &str| kinds.iter().filter(|event| *event == kind).count();
        assert_eq!((count("call.incoming"), count("call.ended")), (1, 1), "{kinds:?} of {wacid}");
    }
    for call in calls.iter().filter(|call| story.kinds.contains_key(call.wacid())) {
        call.wait_until(Stage::Ended).await?;
        let by = call.ended_by();
        let is_told = matches!(by, Some(EndedBy::Caller | EndedBy::Terminated | EndedBy::Rejected));
        assert!(is_told, "Meta was not told of the end: {}", call.seen());
    }
    report("kill -9, answered webhooks", &format!("{} answered in {rounds} rounds, 0 forgotten", answered.len()));
    Ok(())
}

/// Phones that ring, and when each is announced.
async fn begin_calls(meta: &Meta, random: &mut StdRng) -> anyhow::Result<Vec<(Call, Duration)>> {
    let mut begun = Vec::new();
    for _ in 0..CALLS {
        let call = meta.place_call(CallerOptions { announce: Announce::ByHand, ..caller() }).await?;
        begun.push((call, random.random_range(Duration::ZERO..WITHIN)));
    }
    Ok(begun)
}

/// Whether the webhook was answered 200; a program that is gone answers nothing.
async fn announce(call: &Call, after: Duration) -> bool {
    sleep(after).await;
    call.send_connect().await.is_ok_and(|status| status == 200)
}

/// The callers that this start has answered, and nobody else, hang up. The calls of earlier starts are the program's
/// to end.
async fn hang_up_live(program: &Program, calls: &[Call]) -> anyhow::Result<()> {
    let listed = Client::at(program.url(), WRITER).get("/v1/calls?state=live").await?.body;
    let listed = listed["calls"].as_array().context("calls")?;
    let live: Vec<&str> = listed.iter().filter_map(|call| call["wacid"].as_str()).collect();
    for call in calls.iter().filter(|call| call.ended_by().is_none() && live.contains(&call.wacid())) {
        call.hang_up().await?;
    }
    Ok(())
}

/// What the app has learnt.
struct Story {
    app: App,
    /// By our own id.
    wacids: BTreeMap<String, String>,
    /// Of the events so far, by wacid.
    kinds: BTreeMap<String, Vec<String>>,
}

impl Story {
    /// Reads until these calls have ended, and every other call that the app knows of.
    async fn read_until_ended(&mut self, wanted: &BTreeSet<String>) -> anyhow::Result<()> {
        loop {
            let is_open = |kinds: &Vec<String>| !kinds.iter().any(|kind| kind == "call.ended");
            let unknown = wanted.iter().filter(|wacid| !self.kinds.contains_key(*wacid)).count();
            let open = self.kinds.values().filter(|kinds| is_open(kinds)).count();
            if unknown + open == 0 {
                return Ok(());
            }
            let next = timeout(DEADLINE, self.app.next()).await;
            let event =
                next.map_err(|_| anyhow::anyhow!("{unknown} calls without an event, {open} without an end"))??;
            self.take(&event);
        }
    }

    fn take(&mut self, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let call_id = text(&event["call_id"]);
        if event["type"] == "call.incoming" {
            self.wacids.insert(call_id.clone(), text(&event["data"]["wacid"]));
        }
        let wacid = self.wacids.get(&call_id).cloned().unwrap_or(call_id);
        self.kinds.entry(wacid).or_default().push(text(&event["type"]));
    }
}
