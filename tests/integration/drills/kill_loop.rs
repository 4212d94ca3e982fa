//! kill -9 at random moments of starting calls. Every call whose webhook was answered 200 is told to the app and ended,
//! once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::future::join_all;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Announce, Call, CallerOptions};
use patchcord_simulator::meta::{Meta, MetaOptions};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::{report, seed};
use crate::events::App;
use crate::people::{agent, caller};
use crate::program::Program;
use crate::service::{DEADLINE, Folder};

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
    let (folder, mut app) = (Folder::new()?, App::start().await?);
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let mut calls = Vec::new();
    let mut answered = BTreeSet::new();
    for _ in 0..rounds {
        let program = Program::start(&folder, &meta, &agent, app.options()).await?;
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
    let program = Program::start(&folder, &meta, &agent, app.options()).await?;
    let told = everything_told(&mut app, &calls, &answered).await?;
    program.finish().await?;
    for (wacid, kinds) in &told {
        let count = |kind: &str| kinds.iter().filter(|told| *told == kind).count();
        assert_eq!((count("call.incoming"), count("call.ended")), (1, 1), "{kinds:?} of {wacid}");
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

/// The kinds of all events by wacid, once every answered call has its end. Calls that the last start has answered are
/// hung up by their callers.
async fn everything_told(
    app: &mut App,
    calls: &[Call],
    answered: &BTreeSet<String>,
) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let mut wacids = BTreeMap::new();
    let mut told = BTreeMap::<String, Vec<String>>::new();
    let mut waiting = answered.clone();
    for call in calls.iter().filter(|call| call.ended_by().is_none()) {
        call.hang_up().await?;
    }
    while !waiting.is_empty() {
        let next = timeout(DEADLINE, app.next()).await;
        let event = next.map_err(|_| anyhow::anyhow!("never ended: {}", waiting.len()))??;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let call_id = text(&event["call_id"]);
        if event["type"] == "call.incoming" {
            wacids.insert(call_id.clone(), text(&event["data"]["wacid"]));
        }
        let wacid = wacids.get(&call_id).cloned().unwrap_or(call_id);
        if event["type"] == "call.ended" {
            waiting.remove(&wacid);
        }
        told.entry(wacid).or_default().push(text(&event["type"]));
    }
    Ok(told)
}
