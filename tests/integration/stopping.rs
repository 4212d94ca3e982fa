//! Stopping the service: live calls may end by themselves, late ones are ended, new ones are refused.

use std::future::{Future, pending, poll_fn};
use std::net::TcpStream;
use std::task::Poll;

use anyhow::Context;
use patchcord_simulator::agent::SessionEnd;
use patchcord_simulator::call::{EndedBy, Stage};
use tokio::sync::oneshot;

use crate::people::{AGENT_HZ, SECOND, agent, caller, heard_voices, objections};
use crate::service::{DEADLINE, Talk, TestOptions};

fn drain_timeout(timeout: &str) -> TestOptions {
    TestOptions { calls: format!("drain_timeout = \"{timeout}\""), ..TestOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_lets_live_calls_end_and_rejects_new_ones() -> anyhow::Result<()> {
    let Talk { service, session, call, agent } = Talk::start_with(caller(), agent(), drain_timeout("60s")).await?;
    let (calls, address, meta) = (service.app.calls().clone(), service.app.address, service.meta);
    let stopping = service.app.stop(pending());
    tokio::pin!(stopping);
    // The first poll begins the drain.
    assert!(poll_fn(|context| Poll::Ready(stopping.as_mut().poll(context).is_pending())).await);
    assert!(calls.is_draining());

    let conversation = async {
        let ready = reqwest::get(format!("http://{address}/readyz")).await?;
        assert_eq!(ready.status(), 503);
        assert_eq!(reqwest::get(format!("http://{address}/livez")).await?.status(), 200);
        let late = meta.place_call(caller()).await?;
        late.wait_until(Stage::Ended).await?;
        assert_eq!(late.ended_by(), Some(EndedBy::Rejected));
        assert_eq!(late.objections(), []);
        assert_eq!(agent.connections(), 1);
        let before = call.heard()?.len();
        let heard = call.hear_for(SECOND * (before as u32 / 16_000 + 2)).await?;
        assert_eq!(heard_voices(&heard[before..]), [AGENT_HZ]);
        assert_eq!(calls.count(), 1);
        call.hang_up().await?;
        assert_eq!(session.wait_for_message("stop").await?["reason"], "caller_hung_up");
        anyhow::Ok(())
    };
    let both = async { tokio::join!(&mut stopping, conversation) };
    let ((), conversation) = tokio::time::timeout(2 * DEADLINE, both).await.context("the service did not stop")?;
    conversation?;
    assert_eq!(calls.count(), 0);
    assert!(TcpStream::connect(address).is_err(), "the port is still open");
    let actions: Vec<String> = meta.requests().into_iter().map(|request| request.action).collect();
    assert_eq!(actions, ["pre_accept", "accept", "reject"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_outlast_the_drain_are_ended_at_meta() -> anyhow::Result<()> {
    let talk = Talk::start_with(caller(), agent(), drain_timeout("1s")).await?;
    let Talk { service, session, call, agent: _agent } = talk;
    let (calls, address, mut events) = (service.app.calls().clone(), service.app.address, service.app.events());
    tokio::time::timeout(DEADLINE, service.app.stop(pending())).await.context("the service did not stop")?;
    assert_eq!(calls.count(), 0);
    let ended = events.recv().await?;
    assert_eq!((ended.kind, &ended.data["reason"]), ("call.ended", &"shutting_down".into()));
    assert_eq!(ended.data["fault"], "nobody");
    assert_eq!(session.wait_for_message("stop").await?["reason"], "shutting_down");
    assert!(matches!(session.wait_for_end().await?, SessionEnd::Closed(1000, _)));
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert!(TcpStream::connect(address).is_err(), "the port is still open");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_all_calls_now() -> anyhow::Result<()> {
    let talk = Talk::start_with(caller(), agent(), drain_timeout("1h")).await?;
    let Talk { service, call, session: _session, agent: _agent } = talk;
    let (hurry, hurried) = oneshot::channel::<()>();
    hurry.send(()).map_err(|()| anyhow::anyhow!("nobody listens"))?;
    let stop = service.app.stop(async { drop(hurried.await) });
    tokio::time::timeout(DEADLINE, stop).await.context("the service did not stop")?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_calls_stops_at_once() -> anyhow::Result<()> {
    let service = crate::service::TestService::start_with("prompt:goodbye", drain_timeout("1h")).await?;
    tokio::time::timeout(DEADLINE, service.app.stop(pending())).await.context("the service did not stop")
}
