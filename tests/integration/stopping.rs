//! Stopping the service: live calls may end by themselves, the rest is ended, new ones are rejected.

use std::future::{Future, pending, poll_fn};
use std::net::TcpStream;
use std::task::Poll;

use anyhow::Context;
use patchcord_simulator::agent::{Agent, Behaviour, SessionEnd};
use patchcord_simulator::call::{Call, EndedBy, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use tokio::sync::oneshot;

use crate::api::client::{Client, WRITER};
use crate::people::{AGENT_HZ, SECOND, agent, caller, caller_hears_next, heard_voices, objections};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, Talk, TestOptions};

fn drain_timeout(timeout: &str) -> TestOptions {
    TestOptions { calls: format!("drain_timeout = \"{timeout}\""), ..TestOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_lets_live_calls_end_and_rejects_new_ones() -> anyhow::Result<()> {
    let Talk { service, session, call, agent } = Talk::start_with(caller(), agent(), drain_timeout("60s")).await?;
    let (address, meta) = (service.app.address, service.meta);
    let api = Client::at(&format!("http://{address}"), WRITER);
    let stopping = service.app.stop(pending());
    tokio::pin!(stopping);
    // The first poll begins the drain.
    assert!(poll_fn(|context| Poll::Ready(stopping.as_mut().poll(context).is_pending())).await);

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
        assert_eq!(api.get("/v1/calls?state=live").await?.body["calls"].as_array().map(Vec::len), Some(1));
        call.hang_up().await?;
        assert_eq!(session.wait_for_message("stop").await?["reason"], "caller_hung_up");
        anyhow::Ok(())
    };
    let both = async { tokio::join!(&mut stopping, conversation) };
    let ((), conversation) = tokio::time::timeout(2 * DEADLINE, both).await.context("the service did not stop")?;
    conversation?;
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
    let (address, mut events) = (service.app.address, service.app.events());
    tokio::time::timeout(DEADLINE, service.app.stop(pending())).await.context("the service did not stop")?;
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

/// The real program: the first signal lets the call go on, the second does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_ends_its_calls_at_the_second_signal_and_leaves_cleanly() -> anyhow::Result<()> {
    // The ringing call must not time out meanwhile, however slow the machine.
    let calls = "drain_timeout = \"1h\"\nagent_timeout = \"25s\"".to_owned();
    let options = TestOptions { calls, ..TestOptions::default() };
    for signals in [["TERM", "TERM"], ["TERM", "INT"], ["INT", "INT"]] {
        let folder = Folder::new()?;
        let meta = Meta::start(MetaOptions::default()).await?;
        let agent = Agent::start(agent()).await?;
        let mut program = Program::start(&folder, &meta, &agent, options.clone()).await?;
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::FirstPacket).await?;
        agent.set_behaviour(Behaviour::NeverAnswerHandshake);
        let ringing = meta.place_call(caller()).await?;
        ringing.wait_until(Stage::MediaUp).await?;

        program.signal(signals[0])?;
        program.line_with("stopping: 2 calls go on for up to 1 h").await?;
        let late = meta.place_call(caller()).await?;
        late.wait_until(Stage::Ended).await?;
        assert_eq!(late.ended_by(), Some(EndedBy::Rejected));
        assert_eq!(heard_voices(&caller_hears_next(&call, SECOND).await?), [AGENT_HZ]);
        assert_eq!((call.ended_by(), ringing.ended_by()), (None, None));

        program.signal(signals[1])?;
        let status = program.ended().await?;
        assert_eq!(status.code(), Some(0), "{signals:?}: {status}");
        assert_eq!([&call, &ringing].map(Call::ended_by), [Some(EndedBy::Terminated); 2]);
        let stop = agent.wait_for_session(1).await?.wait_for_message("stop").await?;
        assert_eq!(stop["reason"], "shutting_down");
        for call in [&call, &ringing, &late] {
            let asked = meta.requests().into_iter().filter(|asked| asked.call_id == call.wacid());
            let ends = asked.filter(|asked| ["terminate", "reject"].contains(&asked.action.as_str()));
            assert_eq!((ends.count(), objections(call)), (1, vec![]), "{}", call.seen());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_calls_stops_at_once() -> anyhow::Result<()> {
    let service = crate::service::TestService::start_with("prompt:goodbye", drain_timeout("1h")).await?;
    tokio::time::timeout(DEADLINE, service.app.stop(pending())).await.context("the service did not stop")
}
