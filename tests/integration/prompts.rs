//! Prompts: in place of an agent, while an agent is dialled, and on request.

use std::time::Duration;

use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour, Pace};
use patchcord_simulator::call::Stage;
use patchcord_simulator::sound::{self, PHONE_RATE};
use serde_json::{Value, json};

use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next,
    agent_with_voice, caller, caller_hears_first, caller_hears_next, heard_voices, objections, quiet_caller,
};
use crate::service::{Talk, TestOptions, TestService};

/// The two notes of the built-in ringback.
const RINGBACK_HZ: f64 = 425.0;

fn at_once() -> TestOptions {
    TestOptions { route: "answer = \"at_once\"".to_owned(), ..TestOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn answered_at_once_the_caller_hears_ringback_until_the_agent_joins() -> anyhow::Result<()> {
    // Slow to answer, so that there is something to hear.
    let behaviour = Behaviour::SlowHandshake(2 * SECOND);
    let late = Agent::start(AgentOptions { behaviour, pace: Pace::Burst, ..agent() }).await?;
    let mut service = TestService::start_with(&late.url(), at_once()).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let before = call.hear_for(SECOND).await?;
    assert!(sound::hears(&before, PHONE_RATE, RINGBACK_HZ), "ringback");
    assert!(heard_voices(&before).is_empty(), "nobody else");
    let session = late.wait_for_session(1).await?;
    session.wait_for_message("accepted").await?;
    service.event("call.agent_joined").await?;
    assert_eq!(heard_voices(&agent_hears_next(&session, SECOND).await?), [CALLER_HZ]);
    assert_eq!(heard_voices(&caller_hears_next(&call, 2 * SECOND).await?[PHONE_RATE as usize..]), [AGENT_HZ]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn answered_at_once_and_nobody_there_the_fallback_still_speaks() -> anyhow::Result<()> {
    let refusing = Agent::start(AgentOptions { behaviour: Behaviour::RefuseHttp(503), ..agent() }).await?;
    let options = TestOptions {
        route: "answer = \"at_once\"\nfallback = [\"prompt:goodbye\"]".to_owned(),
        ..TestOptions::default()
    };
    let mut service = TestService::start_with(&refusing.url(), options).await?;
    let call = service.call(quiet_caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!(ended["reason"], "agent_lost");
    let heard = call.heard()?;
    for note in GOODBYE_NOTES_HZ {
        assert!(sound::hears(&heard, PHONE_RATE, note), "{note} Hz");
    }
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_plays_its_list_in_order_and_hangs_up() -> anyhow::Result<()> {
    let mut service = TestService::start("prompt:goodbye,busy").await?;
    let call = service.call(quiet_caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"prompt_finished".into(), &"nobody".into()));
    let heard = call.heard()?;
    let first = |hz: f64| heard.chunks(PHONE_RATE as usize / 5).position(|part| sound::hears(part, PHONE_RATE, hz));
    let (goodbye, busy) = (first(GOODBYE_NOTES_HZ[0]), first(RINGBACK_HZ));
    assert!(goodbye.is_some() && goodbye < busy, "{goodbye:?} {busy:?}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_playback_interrupts_the_agent_and_its_end_is_told() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    session.send(&json!({ "type": "command", "request_id": 1, "action": "play", "prompts": ["goodbye"] })).await;
    let result = session.wait_for_message("result").await?;
    assert_eq!((&result["request_id"], &result["ok"]), (&1.into(), &true.into()), "{result}");
    let told = session.wait_for_message("event").await?["event"].clone();
    assert_eq!(told["type"], "call.playback_finished");
    assert_eq!(told["data"]["playback_id"], result["data"]["playback_id"]);
    assert_eq!(told["data"]["completed"], true);
    let event = service.event("call.playback_finished").await?;
    assert_eq!(event.id, told["id"].as_str().unwrap_or_default());
    let heard = call.heard()?;
    assert!(GOODBYE_NOTES_HZ.iter().all(|note| sound::hears(&heard, PHONE_RATE, *note)));
    // The agent resumes where it was interrupted.
    assert_eq!(heard_voices(&caller_hears_next(call, 2 * SECOND).await?[PHONE_RATE as usize..]), [AGENT_HZ]);
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_may_loop_music_and_stop_it_at_once() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { service, call, .. } = &mut talk;
    let id = service.event("call.accepted").await?.call_id;
    let music = json!({ "prompts": ["hold"], "loop": true });
    let begun = service.act(&id, "play", music).await.map_err(anyhow::Error::msg)?;
    assert!(sound::hears(&caller_hears_next(call, 4 * SECOND).await?, PHONE_RATE, HOLD_NOTE_HZ));
    assert_eq!(service.act(&id, "stop_playback", Value::Null).await, Ok(Value::Null));
    let event = service.event("call.playback_finished").await?;
    assert_eq!((&event.data["playback_id"], &event.data["completed"]), (&begun["playback_id"], &false.into()));
    assert_eq!(service.act(&id, "stop_playback", Value::Null).await, Err("nothing_plays".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_refused_with_a_reason() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { session, .. } = &mut talk;
    for (nth, (command, code)) in [
        (json!({ "action": "play", "prompts": ["../secret"] }), "unknown_prompt"),
        (json!({ "action": "play", "prompts": [] }), "invalid_command"),
        (json!({ "action": "fly" }), "invalid_command"),
        (json!({ "action": "stop_gather" }), "nothing_gathers"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut message = command;
        message["type"] = "command".into();
        session.send(&message).await;
        let result = session.wait_for_nth_message("result", nth + 1).await?;
        assert_eq!((&result["ok"], &result["code"]), (&false.into(), &code.into()), "{result}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_lost_gives_way_to_the_next_in_one_unbroken_line() -> anyhow::Result<()> {
    let next = Agent::start(AgentOptions {
        behaviour: Behaviour::SlowHandshake(Duration::from_millis(2500)),
        pace: Pace::Burst,
        ..agent_with_voice(SECOND_AGENT_HZ)
    })
    .await?;
    let options =
        TestOptions { route: format!("redial_for = 0\nfallback = [\"{}\"]", next.url()), ..TestOptions::default() };
    let mut talk = Talk::start_with(quiet_caller(), agent(), options).await?;
    let Talk { service, session, call, .. } = &mut talk;
    assert_eq!(heard_voices(&caller_hears_first(call, SECOND).await?), [AGENT_HZ]);
    session.reset().await;
    service.event("call.agent_lost").await?;
    assert!(sound::hears(&caller_hears_next(call, SECOND).await?, PHONE_RATE, HOLD_NOTE_HZ), "hold music");
    next.wait_for_session(1).await?.wait_for_message("accepted").await?;
    assert_eq!(heard_voices(&caller_hears_next(call, 2 * SECOND).await?[PHONE_RATE as usize..]), [SECOND_AGENT_HZ]);
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}
