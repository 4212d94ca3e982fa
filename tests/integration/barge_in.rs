//! Barge-in: the caller's speech is reported and, if the route is so configured, silences the agent.

use patchcord_simulator::agent::{AgentOptions, Pace};
use patchcord_simulator::call::CallerOptions;
use patchcord_simulator::sound;
use patchcord_simulator::speech::Speech;

use crate::people::{AGENT_HZ, SECOND, caller_hears_first, caller_hears_next, objections, quiet_caller, tone};
use crate::service::{Talk, TestOptions};

/// A caller who repeats a sentence.
fn speaker() -> CallerOptions {
    CallerOptions { speech: Speech::caller(), ..quiet_caller() }
}

/// An agent with a long answer, all of it delivered at once.
fn talker() -> AgentOptions {
    AgentOptions { greeting: tone(AGENT_HZ, 60_000), pace: Pace::Burst, ..AgentOptions::default() }
}

fn route(barge_in: &str) -> TestOptions {
    TestOptions { route: format!("barge_in = \"{barge_in}\""), ..TestOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_s_speech_clears_what_the_agent_still_has_to_say() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), talker(), route("clear")).await?;
    let Talk { service, session, call, .. } = &mut talk;
    // The agent needs a moment to send it, and the caller something to interrupt.
    caller_hears_first(call, SECOND).await?;
    call.say(Speech::caller()).await;
    service.event("call.speech_started").await?;
    let cleared = session.wait_for_message("cleared").await?;
    let (played, dropped) = (cleared["played_ms"].as_u64().unwrap(), cleared["dropped_ms"].as_u64().unwrap());
    assert_eq!(played + dropped, 60_000, "{cleared}");
    assert_eq!(session.wait_for_message("event").await?["event"]["type"], "call.speech_started");
    let after = caller_hears_next(call, SECOND).await?;
    assert!(sound::rms(&after[after.len() / 2..]) < 10.0, "the agent is silent");
    service.event("call.speech_stopped").await?;
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_alone_leave_the_agent_talking() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(speaker(), talker(), route("events")).await?;
    let Talk { service, session, call, .. } = &mut talk;
    service.event("call.speech_started").await?;
    service.event("call.speech_stopped").await?;
    assert!(sound::hears(&caller_hears_next(call, SECOND).await?, sound::PHONE_RATE, AGENT_HZ));
    assert!(session.messages_of("cleared").is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_nobody_listens() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(speaker(), talker(), TestOptions::default()).await?;
    let Talk { service, call, .. } = &mut talk;
    caller_hears_next(call, 3 * SECOND).await?;
    assert!(!service.kinds().contains(&"call.speech_started"));
    Ok(())
}
