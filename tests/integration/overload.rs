//! An overloaded service rejects new calls and keeps the live ones.

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{EndedBy, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};

use crate::drills::report;
use crate::people::{AGENT_HZ, SECOND, agent, caller, caller_hears_first, caller_hears_next, heard_voices, objections};
use crate::program::Program;
use crate::service::{Folder, TestOptions, TestService};

#[tokio::test(flavor = "multi_thread")]
async fn an_overloaded_service_rejects_new_calls_and_keeps_those_it_has() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    // No tick is that punctual.
    let media = Some("max_lateness = \"1ns\"".to_owned());
    let mut program = Program::start(&folder, &meta, &agent, TestOptions { media, ..TestOptions::default() }).await?;
    let live = meta.place_call(caller()).await?;
    live.wait_until(Stage::FirstPacket).await?;
    program.line_with("worker 0 is overloaded and takes no new calls").await?;

    let rejected = meta.place_call(caller()).await?;
    rejected.wait_until(Stage::Ended).await?;
    assert_eq!(rejected.ended_by(), Some(EndedBy::Rejected), "{}", rejected.seen());
    program.line_with("no room for another call: the media workers are overloaded").await?;
    assert_eq!(heard_voices(&caller_hears_next(&live, SECOND).await?), [AGENT_HZ], "{}", live.seen());
    live.hang_up().await?;
    assert_eq!(objections(&live), [], "{}", live.seen());

    // Without calls there is no load.
    program.line_with("worker 0 takes calls again").await?;
    let next = meta.place_call(caller()).await?;
    next.wait_until(Stage::FirstPacket).await?;
    report("overload", "the new call is rejected, the live one is heard without a gap; calls are taken again");
    Ok(())
}

/// A hundredth of a core is less than two calls of unknown cost need, so the second is rejected before the first talks.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_calls_admitted_before_leave_no_room_for_is_rejected() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let media = Some("max_load_percent = 1\nmax_lateness = \"1s\"".to_owned());
    let mut service = TestService::start_with(&agent.url(), TestOptions { media, ..TestOptions::default() }).await?;
    let admitted = service.call(caller()).await?;
    let rejected = service.call(caller()).await?;
    let ended = service.end_of(&rejected).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"overloaded".into(), &"operator".into()));
    assert!(ended["detail"].to_string().contains("media worker"), "{ended}");
    rejected.wait_until(Stage::Ended).await?;
    assert_eq!(rejected.ended_by(), Some(EndedBy::Rejected), "{}", rejected.seen());
    admitted.wait_until(Stage::Accepted).await?;
    assert_eq!(heard_voices(&caller_hears_first(&admitted, SECOND).await?), [AGENT_HZ], "{}", admitted.seen());
    assert_eq!(objections(&admitted), [], "{}", admitted.seen());
    Ok(())
}

/// No disk has that much room.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_whose_store_runs_out_of_disk_rejects_new_calls_by_name() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    // Among the keys of [store].
    let options = TestOptions { events: "min_free = \"1000000 GB\"".to_owned(), ..TestOptions::default() };
    let mut service = TestService::start_with(&agent.url(), options).await?;
    let readiness = service.get("/readyz").await?;
    assert_eq!((readiness.status, readiness.body.contains("store.min_free")), (503, true), "{readiness:?}");
    assert_eq!(service.get("/livez").await?.status, 200);
    let rejected = service.call(caller()).await?;
    let ended = service.end_of(&rejected).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"overloaded".into(), &"operator".into()));
    assert!(ended["detail"].to_string().contains("less than store.min_free is left"), "{ended}");
    rejected.wait_until(Stage::Ended).await?;
    assert_eq!(rejected.ended_by(), Some(EndedBy::Rejected), "{}", rejected.seen());
    Ok(())
}
