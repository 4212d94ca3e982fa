//! A call from the webhook to its end.

use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour};
use patchcord_simulator::call::{CallerOptions, EndedBy, Stage};

use crate::people::{AGENT_HZ, CALLER_HZ, SECOND, agent, caller, heard_voices, objections};
use crate::service::{Talk, TestOptions, TestService};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_is_accepted_when_both_sides_are_ready_and_each_hears_the_other() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    assert_eq!(heard_voices(&session.hear_for(SECOND).await?), [CALLER_HZ]);
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);

    assert_eq!(call.hang_up().await?, 200);
    let ended = service.end_of(call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"caller_hung_up".into(), &"nobody".into()));
    assert_eq!(session.wait_for_message("stop").await?["reason"], "caller_hung_up");
    service.all_ended().await?;
    assert_eq!(service.actions(), ["pre_accept", "accept"]);
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_events_of_a_call_tell_its_story_without_gaps() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { service, call, .. } = &mut talk;
    call.hang_up().await?;
    let ended = service.event("call.ended").await?;
    let kinds = service.kinds();
    for kind in ["call.incoming", "call.pre_accepted", "call.media_connected", "call.agent_joined", "call.accepted"] {
        assert_eq!(kinds.iter().filter(|seen| **seen == kind).count(), 1, "{kind} in {kinds:?}");
    }
    assert_eq!(kinds.first(), Some(&"call.incoming"));
    assert_eq!(ended.sequence as usize, kinds.len());
    assert!(ended.data["stages"]["accepted_ms"].is_number(), "{}", ended.data);
    assert!(ended.data["sound"]["packets_to_caller"].is_number(), "{}", ended.data);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agent_is_told_who_calls_whom_and_meta_gets_our_id_back() -> anyhow::Result<()> {
    let options = TestOptions { route: r#"parameters = { language = "en" }"#.to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let Talk { session, call, .. } = &mut talk;
    let start = session.wait_for_message("start").await?;
    assert_eq!(start["version"], 1);
    assert_eq!(start["wacid"], call.wacid());
    assert_eq!(start["direction"], "user_initiated");
    assert_eq!(start["from"]["wa_id"], "12025550143");
    assert_eq!(start["from"]["name"], "Example Caller");
    assert_eq!(start["to"]["phone_number_id"], "200000000000002");
    assert_eq!(start["to"]["display_phone_number"], "447700900199");
    assert_eq!(start["audio"]["encoding"], "pcm_s16le");
    assert_eq!(start["audio"]["sample_rate"], 16_000);
    assert_eq!(start["max_buffer_ms"], 120_000);
    assert_eq!(start["parameters"]["language"], "en");
    assert_eq!(start["call_id"].as_str(), call.opaque_callback_data().as_deref());
    assert_eq!(session.header("sec-websocket-protocol"), Some("patchcord.v1"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_says_bye_ends_the_call_at_meta() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let Talk { service, session, call, .. } = &mut talk;
    session.bye().await;
    assert_eq!(service.end_of(call).await?["reason"], "agent_hung_up");
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    service.all_ended().await?;
    assert_eq!(service.actions(), ["pre_accept", "accept", "terminate"]);
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_while_it_rings_frees_the_agent() -> anyhow::Result<()> {
    // The agent that never answers keeps the phone ringing.
    let options = AgentOptions { behaviour: Behaviour::NeverAnswerHandshake, ..agent() };
    let agent = Agent::start(options).await?;
    let mut service = TestService::start(&agent.url()).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::MediaUp).await?;
    call.hang_up().await?;
    assert_eq!(service.end_of(&call).await?["reason"], "caller_gave_up");
    service.all_ended().await?;
    assert_eq!(service.actions(), ["pre_accept"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_longest_duration() -> anyhow::Result<()> {
    let options = TestOptions { calls: r#"max_duration = "2s""#.to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let Talk { service, session, call, .. } = &mut talk;
    let ended = service.end_of(call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"max_duration".into(), &"nobody".into()));
    assert!(ended["talked_ms"].as_u64().unwrap() >= 2000, "{ended}");
    assert_eq!(session.wait_for_message("stop").await?["reason"], "max_duration");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_is_ready_for_ends_at_the_accept_timeout() -> anyhow::Result<()> {
    let options = AgentOptions { behaviour: Behaviour::NeverAnswerHandshake, ..agent() };
    let agent = Agent::start(options).await?;
    let deadlines = "accept_timeout = \"2s\"\nagent_timeout = \"20s\"".to_owned();
    let mut service =
        TestService::start_with(&agent.url(), TestOptions { calls: deadlines, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"accept_timed_out".into(), &"agent".into()));
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(service.count_of("accept"), 0);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_phone_number_is_put_through_by_user_id() -> anyhow::Result<()> {
    let nameless = CallerOptions { from: None, user_id: Some("US.13491208655302741918".to_owned()), ..caller() };
    let mut talk = Talk::start_with(nameless, agent(), TestOptions::default()).await?;
    let Talk { session, call, .. } = &mut talk;
    let start = session.wait_for_message("start").await?;
    assert_eq!(start["from"]["user_id"], "US.13491208655302741918");
    assert!(start["from"].get("wa_id").is_none(), "{start}");
    assert_eq!(heard_voices(&call.hear_for(SECOND).await?), [AGENT_HZ]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_call_more_than_the_limit_is_rejected_at_meta() -> anyhow::Result<()> {
    let options = TestOptions { calls: "max_calls = 1".to_owned(), ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let Talk { service, call, .. } = &mut talk;
    let second = service.call(caller()).await?;
    let ended = service.end_of(&second).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"overloaded".into(), &"operator".into()));
    service.meta.wait_for_request("reject", 1).await?;
    second.wait_until(Stage::Ended).await?;
    assert_eq!(second.ended_by(), Some(EndedBy::Rejected));
    assert_eq!(call.ended_by(), None);
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_can_be_a_prompt_alone() -> anyhow::Result<()> {
    let mut service = TestService::start("prompt:goodbye").await?;
    let call = service.call(caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"prompt_finished".into(), &"nobody".into()));
    service.all_ended().await?;
    assert_eq!(service.actions(), ["pre_accept", "accept", "terminate"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}
