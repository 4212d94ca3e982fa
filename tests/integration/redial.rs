//! Agents whose connection breaks in the middle of a call, and who are dialled again.

use std::collections::BTreeSet;

use anyhow::Context;
use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour, Pace};
use patchcord_simulator::call::EndedBy;
use patchcord_simulator::foreign_agent::{ForeignAgent, Protocol};
use serde_json::{Value, json};

use crate::people::{
    AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next, agent_with_voice, caller,
    heard_voices, objections, quiet_caller, tone, until_caller_hears,
};
use crate::service::{Talk, TestOptions, TestService, counter};

fn route(keys: &str) -> TestOptions {
    TestOptions { route: keys.to_owned(), ..TestOptions::default() }
}

/// Its server takes no connections from now on.
fn go_down(agent: &Agent) {
    agent.set_behaviour(Behaviour::RefuseHttp(503));
}

impl Talk {
    /// The agent's server is killed; gives the event.
    async fn break_connection(&mut self) -> anyhow::Result<Value> {
        go_down(&self.agent);
        self.session.reset().await;
        let lost = self.service.event("call.agent_lost").await?.data;
        assert_eq!((&lost["failure"], &lost["redialling"]), (&"disconnected".into(), &true.into()), "{lost}");
        Ok(lost)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_connection_breaks_is_back_in_the_same_call_and_learns_what_was_heard() -> anyhow::Result<()> {
    let options = AgentOptions {
        greeting: tone(AGENT_HZ, 500),
        mark_after_greeting: Some("hello".to_owned()),
        pace: Pace::Burst,
        ..AgentOptions::default()
    };
    let mut talk = Talk::start_with(caller(), options, TestOptions::default()).await?;
    talk.session.say(&tone(AGENT_HZ, 60_000)).await;
    talk.session.send(&json!({ "type": "mark", "name": "story" })).await;
    assert_eq!(talk.session.wait_for_message("mark").await?["status"], "played");
    until_caller_hears(&talk.call, &[AGENT_HZ]).await?;

    let lost = talk.break_connection().await?;
    assert_eq!(lost["attempt"], 0);
    until_caller_hears(&talk.call, &[HOLD_NOTE_HZ]).await?;
    talk.agent.set_behaviour(Behaviour::Normal);
    let session = talk.agent.wait_for_session(2).await?;
    let start = session.wait_for_message("start").await?;
    let before = &talk.session.messages_of("start")[0];
    assert_eq!((&start["call_id"], &start["wacid"]), (&before["call_id"], &before["wacid"]));
    let resume = &start["resume"];
    assert_eq!((&resume["stream_id"], &resume["reason"]), (&before["stream_id"], &"disconnected".into()), "{resume}");
    let ms = |field: &str| resume[field].as_u64().with_context(|| format!("{field} in {resume}"));
    let (played, dropped) = (ms("played_ms")?, ms("dropped_ms")?);
    assert!(played >= 500 && dropped >= 30_000, "{resume}");
    // Half a sample of the crossfade more or less.
    assert!((60_400..=60_520).contains(&(played + dropped)), "{resume}");
    assert!(ms("away_ms")? >= 1000, "the caller heard music meanwhile: {resume}");
    let marks = json!([{ "name": "hello", "status": "played" }, { "name": "story", "status": "cleared" }]);
    assert_eq!((&resume["marks"], &resume["sequence"]), (&marks, &Value::Null));

    let back = talk.service.event("call.agent_rejoined").await?.data;
    assert!(back["attempt"] == 0 && back["away_ms"].as_u64() >= Some(1000), "{back}");
    session.wait_for_message("accepted").await?;
    session.say(&tone(SECOND_AGENT_HZ, 20_000)).await;
    until_caller_hears(&talk.call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(heard_voices(&agent_hears_next(&session, SECOND).await?), [CALLER_HZ]);

    let ssrcs: BTreeSet<u32> = talk.call.heard_packets().iter().map(|packet| packet.ssrc).collect();
    assert_eq!((ssrcs.len(), talk.service.count_of("accept")), (1, 1));
    assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    talk.call.hang_up().await?;
    assert_eq!(talk.service.end_of(&talk.call).await?["reason"], "caller_hung_up");
    assert_eq!(session.wait_for_message("stop").await?["reason"], "caller_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stays_away_is_followed_by_the_fallback() -> anyhow::Result<()> {
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let options = route(&format!("redial_for = \"1s\"\nfallback = [{:?}]", second.url()));
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    talk.break_connection().await?;
    let lost = talk.service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["attempt"], &lost["redialling"]), (&0.into(), &false.into()), "{lost}");
    assert!(lost["detail"].as_str().is_some_and(|detail| detail.contains("503")), "{lost}");
    assert_eq!(talk.service.event("call.agent_joined").await?.data["attempt"], 1);
    until_caller_hears(&talk.call, &[SECOND_AGENT_HZ]).await?;
    assert!(talk.agent.connections() >= 2, "it was tried");
    assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_stays_away_with_nobody_to_follow_ends_the_call() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(quiet_caller(), agent(), route("redial_for = \"1s\"")).await?;
    talk.break_connection().await?;
    let ended = talk.service.end_of(&talk.call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"agent_lost".into(), &"agent".into()), "{ended}");
    talk.service.all_ended().await?;
    assert_eq!(talk.call.ended_by(), Some(EndedBy::Terminated));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_while_the_agent_is_redialled_ends_the_call_at_once() -> anyhow::Result<()> {
    let dismissed = counter(r#"patchcord_agent_redials_total{outcome="dismissed"}"#);
    let mut talk = Talk::start_with(caller(), agent(), route("redial_for = \"5m\"")).await?;
    talk.break_connection().await?;
    talk.call.hang_up().await?;
    assert_eq!(talk.service.end_of(&talk.call).await?["reason"], "caller_hung_up");
    talk.service.all_ended().await?;
    assert!(counter(r#"patchcord_agent_redials_total{outcome="dismissed"}"#) > dismissed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_agent_is_redialled_the_caller_can_be_transferred_and_cannot_be_put_on_hold() -> anyhow::Result<()> {
    let other = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let more_routes = format!("[routes.other]\nagent = {:?}", other.url());
    let options = TestOptions { more_routes, ..route("redial_for = \"5m\"") };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    talk.break_connection().await?;
    for (action, body) in [("hold", json!({})), ("mute", json!({ "party": "agent" }))] {
        assert_eq!(talk.service.act(&id, action, body).await, Err("no_agent".to_owned()), "{action}");
    }
    assert_eq!(talk.service.act(&id, "transfer", json!({ "route": "other" })).await, Ok(json!({})));
    let transferred = talk.service.event("call.transferred").await?.data;
    assert_eq!(transferred, json!({ "completed": true, "from_attempt": null, "to_attempt": 1 }));
    until_caller_hears(&talk.call, &[SECOND_AGENT_HZ]).await?;
    let session = other.wait_for_session(1).await?;
    assert_eq!(heard_voices(&agent_hears_next(&session, SECOND).await?), [CALLER_HZ]);
    assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_answers_no_ping_is_dialled_again() -> anyhow::Result<()> {
    let frozen = AgentOptions { behaviour: Behaviour::SlowReader, ..AgentOptions::default() };
    let agent = Agent::start(frozen).await?;
    let options = TestOptions { calls: r#"agent_idle_timeout = "2s""#.to_owned(), ..TestOptions::default() };
    let mut service = TestService::start_with(&agent.url(), options).await?;
    let call = service.call(caller()).await?;
    agent.wait_for_session(1).await?;
    agent.set_behaviour(Behaviour::Normal);
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["failure"], &lost["redialling"]), (&"unresponsive".into(), &true.into()), "{lost}");
    service.event("call.agent_rejoined").await?;
    let session = agent.wait_for_session(2).await?;
    assert_eq!(session.wait_for_message("start").await?["resume"]["reason"], "unresponsive");
    assert_eq!(heard_voices(&session.hear_for(SECOND).await?), [CALLER_HZ]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_of_another_platform_starts_afresh() -> anyhow::Result<()> {
    let agent = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let mut service = TestService::start_with(&agent.url(), route("dialect = \"twilio\"")).await?;
    let call = service.call(caller()).await?;
    let first = agent.wait_for_call(1).await?;
    first.wait_for_tone(CALLER_HZ).await?;
    first.restart().await;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(lost["detail"], "closed with code 1012 (service restart)");
    service.event("call.agent_rejoined").await?;
    let second = agent.wait_for_call(2).await?;
    second.wait_for_tone(CALLER_HZ).await?;
    let [before, after] = [first, second].map(|session| session.messages()[1].clone());
    assert_eq!(after["start"]["callSid"], before["start"]["callSid"]);
    assert_ne!(after["streamSid"], before["streamSid"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}
