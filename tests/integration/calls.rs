//! A call from the webhook to its end.

use std::time::Duration;

use patchcord_simulator::agent::{Agent, AgentOptions};
use patchcord_simulator::call::{CallerOptions, EndedBy, Stage};
use patchcord_simulator::sound;
use patchcord_simulator::speech::Speech;

use crate::service::TestService;

const CALLER_HZ: f64 = 440.0;
const AGENT_HZ: f64 = 1000.0;

fn caller() -> CallerOptions {
    CallerOptions { speech: Speech::tone(CALLER_HZ).unwrap().looped(), ..CallerOptions::default() }
}

fn agent() -> AgentOptions {
    AgentOptions { greeting: sound::tone(AGENT_HZ, 16_000, 5_000), ..AgentOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_accepted_when_both_sides_are_ready_and_each_hears_the_other() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let mut service = TestService::start(&agent.url()).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::Accepted).await?;
    let session = agent.wait_for_session(0).await?;
    session.wait_for_message("accepted").await?;

    let second = Duration::from_secs(1);
    assert_eq!(sound::voices_heard(&session.hear_for(second).await?, 16_000, &[CALLER_HZ, AGENT_HZ]), [CALLER_HZ]);
    assert_eq!(sound::voices_heard(&call.hear_for(second).await?, 16_000, &[CALLER_HZ, AGENT_HZ]), [AGENT_HZ]);

    assert_eq!(call.hang_up().await?, 200);
    assert_eq!(service.end_reason().await?, "caller_hung_up");
    assert_eq!(session.wait_for_message("stop").await?["reason"], "caller_hung_up");
    assert_eq!(service.actions(), ["pre_accept", "accept"]);
    assert_eq!(call.objections(), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_says_bye_ends_the_call_at_meta() -> anyhow::Result<()> {
    let agent = Agent::start(agent()).await?;
    let mut service = TestService::start(&agent.url()).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::Accepted).await?;
    agent.wait_for_session(0).await?.bye().await;
    assert_eq!(service.end_reason().await?, "agent_hung_up");
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(service.actions(), ["pre_accept", "accept", "terminate"]);
    Ok(())
}
