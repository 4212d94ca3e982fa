//! One agent with several instances, each at an address of its own.

use anyhow::Context;
use patchcord_simulator::agent::{Agent, Behaviour};
use serde_json::{Value, json};

use crate::api::client::{Client, READER};
use crate::people::{AGENT_HZ, SECOND_AGENT_HZ, agent, agent_with_voice, caller, objections, until_caller_hears};
use crate::service::{TestOptions, TestService};

/// Two instances, told apart by their voices.
struct Pair {
    first: Agent,
    second: Agent,
    service: TestService,
}

impl Pair {
    async fn start(choice: &str) -> anyhow::Result<Self> {
        let (first, second) = (Agent::start(agent()).await?, Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?);
        let urls = format!("[\"{}?key=confidential\", \"{}\"]", first.url(), second.url());
        let options = TestOptions { route: format!("agent_choice = \"{choice}\""), ..TestOptions::default() };
        let service = TestService::start_with(&urls, options).await?;
        Ok(Self { first, second, service })
    }

    /// How an instance is shown.
    async fn view(&self, agent: &Agent) -> anyhow::Result<Value> {
        let answer = Client::new(&self.service, READER).get("/v1/agents").await?.body;
        assert!(!answer.to_string().contains("confidential"), "{answer}");
        let agents = answer["agents"].as_array().context("a list")?;
        agents.iter().find(|view| view["url"] == agent.url()).cloned().with_context(|| answer.to_string())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_first_instance_is_down_the_call_goes_to_the_second() -> anyhow::Result<()> {
    let mut pair = Pair::start("first").await?;
    pair.first.set_behaviour(Behaviour::RefuseHttp(503));
    let call = pair.service.call(caller()).await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    pair.service.event("call.agent_joined").await?;
    assert!(!pair.service.kinds().contains(&"call.agent_lost"), "the agent was reached");
    let (down, up) = (pair.view(&pair.first).await?, pair.view(&pair.second).await?);
    assert_eq!(
        (&down["last_outcome"]["outcome"], &up["last_outcome"]["outcome"]),
        (&json!("refused"), &json!("joined"))
    );
    assert_eq!((&down["live_calls"], &up["live_calls"]), (&json!(0), &json!(1)), "{down} {up}");
    assert_eq!((&down["breaker"]["state"], &down["breaker"]["consecutive_failures"]), (&json!("closed"), &json!(1)));
    assert_eq!(up["breaker"]["last_failure"], Value::Null);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_fails_three_times_is_left_alone_and_shown_as_open() -> anyhow::Result<()> {
    let mut pair = Pair::start("first").await?;
    pair.first.set_behaviour(Behaviour::RefuseHttp(503));
    for number in 1..=4 {
        let call = pair.service.call(caller()).await?;
        pair.second.wait_for_session(number).await?;
        pair.service.event("call.accepted").await?;
        call.hang_up().await?;
        pair.service.event("call.ended").await?;
    }
    assert_eq!(pair.first.connections(), 3, "the fourth call did not try it");
    let down = pair.view(&pair.first).await?;
    let breaker = &down["breaker"];
    assert_eq!((&breaker["state"], &breaker["consecutive_failures"]), (&json!("open"), &json!(3)), "{down}");
    assert!(breaker["next_try_at"].is_string(), "{down}");
    let failure = &breaker["last_failure"];
    assert!(failure["detail"].as_str().is_some_and(|detail| detail.contains("503")), "{down}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_spread_over_the_instances_by_their_number() -> anyhow::Result<()> {
    let pair = Pair::start("least_busy").await?;
    let mut calls = Vec::new();
    for number in 1..=2 {
        for instance in [&pair.first, &pair.second] {
            calls.push(pair.service.call(caller()).await?);
            instance.wait_for_session(number).await?.wait_for_message("accepted").await?;
        }
    }
    for instance in [&pair.first, &pair.second] {
        assert_eq!(pair.view(instance).await?["live_calls"], 2);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_in_the_middle_of_a_call_is_replaced_by_another() -> anyhow::Result<()> {
    let mut pair = Pair::start("first").await?;
    let call = pair.service.call(caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let session = pair.first.wait_for_session(1).await?;
    pair.first.set_behaviour(Behaviour::RefuseHttp(503));
    session.reset().await;
    pair.service.event("call.agent_rejoined").await?;
    let start = pair.second.wait_for_session(1).await?.wait_for_message("start").await?;
    assert_eq!(start["resume"]["stream_id"], session.messages_of("start")[0]["stream_id"], "{start}");
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}
