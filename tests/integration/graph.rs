//! Failures of Meta's Graph API, and their effect on a call.

use std::time::Duration;

use anyhow::Context;
use patchcord_simulator::agent::{Agent, AgentOptions};
use patchcord_simulator::call::{EndedBy, Stage};
use patchcord_simulator::meta::Reply;
use patchcord_simulator::objection::Objection;
use patchcord_simulator::sound;

use crate::people::{AGENT_HZ, SECOND, agent, caller, heard_voices, objections, speech_synthesis};
use crate::service::{Talk, TestOptions, TestService};

/// A service and its agent before any call, to script Meta's replies.
async fn ready(options: TestOptions) -> anyhow::Result<(Agent, TestService)> {
    let agent = Agent::start(agent()).await?;
    let service = TestService::start_with(&agent.url(), options).await?;
    Ok((agent, service))
}

fn internal_error() -> Reply {
    Reply::Error { status: 500, body: r#"{"error":{"message":"An unknown error occurred","code":1}}"#.to_owned() }
}

fn refusal(code: u32, message: &str) -> Reply {
    let body = format!(r#"{{"error":{{"message":"{message}","type":"OAuthException","code":{code}}}}}"#);
    Reply::Error { status: 400, body }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_accept_that_fails_twice_at_metas_is_tried_again() -> anyhow::Result<()> {
    let (_agent, service) = ready(TestOptions::default()).await?;
    service.meta.script("pre_accept", vec![internal_error(), internal_error()]);
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);
    assert_eq!(service.actions(), ["pre_accept", "pre_accept", "pre_accept", "accept"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_is_waited_for_as_long_as_meta_wishes() -> anyhow::Result<()> {
    let (_agent, service) = ready(TestOptions::default()).await?;
    service.meta.script("accept", vec![Reply::RetryAfter(SECOND)]);
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let first = service.meta.wait_for_request("accept", 1).await?;
    let second = service.meta.wait_for_request("accept", 2).await?;
    assert!(second.at - first.at >= SECOND, "tried again after {:?}", second.at - first.at);
    assert_eq!(service.count_of("accept"), 2);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_hangs_is_tried_again_with_the_same_bytes() -> anyhow::Result<()> {
    let (_agent, service) = ready(TestOptions::default()).await?;
    service.meta.script("accept", vec![Reply::Hang]);
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    let first = service.meta.wait_for_request("accept", 1).await?;
    let second = service.meta.wait_for_request("accept", 2).await?;
    assert_eq!(first.body, second.body);
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_whose_reply_is_lost_is_found_done() -> anyhow::Result<()> {
    let (agent, mut service) = ready(TestOptions::default()).await?;
    service.meta.script("accept", vec![Reply::DoneButNoReply]);
    let call = service.call(caller()).await?;
    agent.wait_for_session(1).await?.wait_for_message("accepted").await?;
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);
    call.hang_up().await?;
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    assert_eq!(service.actions(), ["pre_accept", "accept", "accept"]);
    // Only a retry can tell.
    assert_eq!(objections(&call), [Objection::AcceptedTwice], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_meta_refuses_frees_the_agent_and_ends_the_call() -> anyhow::Result<()> {
    let (agent, mut service) = ready(TestOptions::default()).await?;
    service.meta.script("accept", vec![refusal(138_000, "Calling is not enabled")]);
    let call = service.call(caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"accept_failed".into(), &"operator".into()), "{ended}");
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("138000")), "{ended}");
    let stop = agent.wait_for_session(1).await?.wait_for_message("stop").await?;
    assert_eq!(stop["reason"], "accept_failed");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(service.actions(), ["pre_accept", "accept", "terminate"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_fails_for_ever_ends_the_call_when_its_budget_is_spent() -> anyhow::Result<()> {
    let options = TestOptions { calls: r#"graph_budget = "2s""#.to_owned(), ..TestOptions::default() };
    let (agent, mut service) = ready(options).await?;
    service.meta.script("accept", (0..100).map(|_| internal_error()).collect());
    let call = service.call(caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"accept_failed".into(), &"meta".into()), "{ended}");
    agent.wait_for_session(1).await?.wait_for_message("stop").await?;
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    let tries = service.count_of("accept");
    assert!((2..=20).contains(&tries), "{tries} tries in two seconds");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_token_is_tried_exactly_once_and_is_the_operators_fault() -> anyhow::Result<()> {
    let options = TestOptions { access_token: Some("expired-token".to_owned()), ..TestOptions::default() };
    let (_agent, mut service) = ready(options).await?;
    let call = service.call(caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"pre_accept_failed".into(), &"operator".into()), "{ended}");
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("190")), "{ended}");
    service.all_ended().await?;
    assert_eq!(service.actions(), ["pre_accept", "reject"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meta_that_cannot_be_told_of_the_end_does_not_keep_the_call() -> anyhow::Result<()> {
    let options = TestOptions { calls: r#"graph_budget = "2s""#.to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let Talk { service, session, call, .. } = &mut talk;
    service.meta.script("terminate", (0..100).map(|_| Reply::Reset).collect());
    session.bye().await;
    assert_eq!(service.end_of(call).await?["reason"], "agent_hung_up");
    service.all_ended().await?;
    assert!(service.count_of("terminate") >= 2, "{:?}", service.actions());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_that_is_not_there_ends_the_call_as_metas_fault() -> anyhow::Result<()> {
    // Bound but not listening: connections are refused, and no other process can take the port.
    let closed = tokio::net::TcpSocket::new_v4()?;
    closed.bind("127.0.0.1:0".parse()?)?;
    let options = TestOptions {
        calls: r#"graph_budget = "1s""#.to_owned(),
        graph_url: Some(format!("http://{}", closed.local_addr()?)),
        ..TestOptions::default()
    };
    let (agent, mut service) = ready(options).await?;
    let call = service.call(caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"pre_accept_failed".into(), &"meta".into()), "{ended}");
    agent.wait_for_session(1).await?.wait_for_message("stop").await?;
    service.all_ended().await
}

#[tokio::test(flavor = "multi_thread")]
async fn sound_flows_right_after_a_slow_pre_accept() -> anyhow::Result<()> {
    let (_agent, mut service) = ready(TestOptions::default()).await?;
    let late = Duration::from_millis(2500);
    service.meta.script("pre_accept", vec![Reply::Delay(late, Box::new(Reply::Ok))]);
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);
    call.hang_up().await?;
    let stages = service.end_of(&call).await?["stages"].take();
    let at = |stage: &str| stages[stage].as_f64().with_context(|| format!("{stage} in {stages}"));
    assert!(at("pre_accepted_ms")? >= 2500.0, "{stages}");
    assert!(at("media_connected_ms")? - at("pre_accepted_ms")? < 2000.0, "{stages}");
    assert_eq!(service.actions(), ["pre_accept", "accept"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pre_accept_slower_than_one_try_is_sent_again_and_the_call_goes_on() -> anyhow::Result<()> {
    let (_agent, service) = ready(TestOptions::default()).await?;
    service.meta.script("pre_accept", vec![Reply::DoneButHangs]);
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);
    assert_eq!(service.actions(), ["pre_accept", "pre_accept", "accept"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_said_while_accept_is_on_its_way_is_heard_from_its_first_sample() -> anyhow::Result<()> {
    let greeting = sound::agent_clip();
    let agent = Agent::start(AgentOptions { greeting: greeting.clone(), ..speech_synthesis() }).await?;
    let service = TestService::start(&agent.url()).await?;
    service.meta.script("accept", vec![Reply::Delay(2 * SECOND, Box::new(Reply::Ok))]);
    let call = service.call(caller()).await?;
    let heard = call.hear_for(5 * SECOND).await?;
    assert!(sound::beginning_is_whole(&greeting, &heard), "{:?}", sound::find(&greeting, &heard));
    assert!(sound::similarity(&greeting, &heard) > 0.8, "{:?}", sound::find(&greeting, &heard));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}
