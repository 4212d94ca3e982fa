//! Hold, mute and transfer, and calls whose course the application decides.

use patchcord::call::command::{Accept, CallCommand, Destination, Hold, Mute, MuteParty, Reject, Transfer};
use patchcord::call::event::CallId;
use patchcord_simulator::agent::{Agent, AgentOptions, AgentSession, Pace};
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::sound::{self, PHONE_RATE};
use serde_json::{Value, json};

use crate::people::{
    AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next, agent_with_voice, caller,
    caller_hears_next, heard_voices, objections, quiet_caller,
};
use crate::service::{Talk, TestOptions, TestService};

/// An agent on the line, and another whom the route "second" leads to.
struct Scene {
    talk: Talk,
    call: CallId,
    second: Agent,
}

impl Scene {
    async fn start() -> anyhow::Result<Self> {
        Self::with(agent(), "").await
    }

    /// `second` are further keys of the second route.
    async fn with(first: AgentOptions, second_route: &str) -> anyhow::Result<Self> {
        let second = Agent::start(AgentOptions { pace: Pace::Burst, ..agent_with_voice(SECOND_AGENT_HZ) }).await?;
        let more_routes = format!(
            "[routes.second]\nagent = \"{}\"\n{second_route}\n[routes.nobody]\nagent = \"ws://127.0.0.1:9/\"",
            second.url()
        );
        let options = TestOptions { more_routes, ..TestOptions::default() };
        let first = AgentOptions { pace: Pace::Burst, greeting: first.greeting.repeat(3), ..first };
        let mut talk = Talk::start_with(caller(), first, options).await?;
        let call = talk.service.event("call.accepted").await?.call_id;
        Ok(Self { talk, call, second })
    }

    async fn asked(&self, command: CallCommand) -> Result<Value, &'static str> {
        self.talk.service.app.calls().perform(&self.call, command).await.map_err(|refusal| refusal.code)
    }

    /// Who is heard by the caller in the second second from now.
    async fn caller_hears(&self) -> anyhow::Result<Vec<i16>> {
        Ok(caller_hears_next(&self.talk.call, 2 * SECOND).await?[PHONE_RATE as usize..].to_vec())
    }
}

async fn agent_hears(session: &AgentSession) -> anyhow::Result<Vec<f64>> {
    Ok(heard_voices(&agent_hears_next(session, 2 * SECOND).await?[PHONE_RATE as usize..]))
}

/// Waits until the caller hears a note of the hold music, and hears nobody from then on.
async fn hears_hold_music(call: &Call) -> anyhow::Result<()> {
    let notes = [HOLD_NOTE_HZ, 329.63, 392.0];
    let mut heard = caller_hears_next(call, SECOND).await?;
    while !notes.iter().any(|note| sound::hears(&heard, PHONE_RATE, *note)) {
        heard = caller_hears_next(call, SECOND).await?;
    }
    assert_eq!(heard_voices(&caller_hears_next(call, 2 * SECOND).await?), [0.0; 0]);
    Ok(())
}

fn to_route(route: &str) -> Destination {
    Destination { route: Some(route.to_owned()), ..Destination::default() }
}

fn transfer_to(route: &str, warm: bool) -> CallCommand {
    CallCommand::Transfer(Transfer { to: to_route(route), warm })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_hands_the_caller_over_in_the_same_line() -> anyhow::Result<()> {
    for encoding in ["", "encoding = \"opus\""] {
        let mut scene = Scene::with(agent(), encoding).await?;
        assert_eq!(scene.asked(transfer_to("second", false)).await, Ok(json!({})));
        let told = scene.talk.service.event("call.transferred").await?;
        assert_eq!(told.data, json!({ "completed": true, "from_attempt": 0, "to_attempt": 1 }));
        let second = scene.second.wait_for_session(1).await?;
        second.wait_for_message("accepted").await?;
        assert_eq!(scene.talk.session.wait_for_message("stop").await?["reason"], "transferred");
        assert_eq!(heard_voices(&scene.caller_hears().await?), [SECOND_AGENT_HZ]);
        if encoding.is_empty() {
            assert_eq!(agent_hears(&second).await?, [CALLER_HZ]);
        }
        assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_nobody_takes_gives_the_caller_back_to_the_first_agent() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    assert_eq!(scene.asked(transfer_to("nobody", false)).await, Ok(json!({})));
    let told = scene.talk.service.event("call.transferred").await?;
    let expected = json!({ "completed": false, "from_attempt": 0, "to_attempt": 1, "reason": "refused" });
    assert_eq!(told.data, expected);
    assert_eq!(heard_voices(&scene.caller_hears().await?), [AGENT_HZ]);
    assert_eq!(agent_hears(&scene.talk.session).await?, [CALLER_HZ]);
    assert_eq!(scene.asked(transfer_to("nowhere", false)).await, Err("unknown_route"));
    assert_eq!(scene.asked(CallCommand::CompleteTransfer).await, Err("no_transfer"));
    assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_warm_transfer_the_agents_talk_first_and_the_caller_hears_music() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    assert_eq!(scene.asked(transfer_to("second", true)).await, Ok(json!({})));
    let second = scene.second.wait_for_session(1).await?;
    scene.talk.service.event("call.agent_joined").await?;
    let ((), first_hears, second_hears) =
        tokio::try_join!(hears_hold_music(&scene.talk.call), agent_hears(&scene.talk.session), agent_hears(&second))?;
    assert_eq!(first_hears, [SECOND_AGENT_HZ]);
    assert_eq!(second_hears, [AGENT_HZ]);

    second.say(&crate::people::tone(SECOND_AGENT_HZ, 20_000)).await;
    assert_eq!(scene.asked(CallCommand::CompleteTransfer).await, Ok(json!({})));
    second.wait_for_message("accepted").await?;
    assert_eq!(scene.talk.session.wait_for_message("stop").await?["reason"], "transferred");
    assert_eq!(scene.talk.service.event("call.transferred").await?.data["completed"], true);
    assert_eq!(heard_voices(&scene.caller_hears().await?), [SECOND_AGENT_HZ]);
    assert_eq!(agent_hears(&second).await?, [CALLER_HZ]);
    assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_hold_the_caller_hears_music_and_the_agent_nothing() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    assert_eq!(scene.asked(CallCommand::Unhold).await, Err("not_on_hold"));
    assert_eq!(scene.asked(CallCommand::Hold(Hold::default())).await, Ok(Value::Null));
    let ((), agent) = tokio::try_join!(hears_hold_music(&scene.talk.call), agent_hears(&scene.talk.session))?;
    assert_eq!(agent, [0.0; 0]);
    assert_eq!(scene.asked(CallCommand::Unhold).await, Ok(Value::Null));
    let (caller, agent) = tokio::try_join!(scene.caller_hears(), agent_hears(&scene.talk.session))?;
    assert_eq!((heard_voices(&caller), agent), (vec![AGENT_HZ], vec![CALLER_HZ]));

    for (party, heard) in [(MuteParty::Agent, (vec![], vec![CALLER_HZ])), (MuteParty::Caller, (vec![AGENT_HZ], vec![]))]
    {
        assert_eq!(scene.asked(CallCommand::Mute(Mute { party })).await, Ok(Value::Null));
        let (caller, agent) = tokio::try_join!(scene.caller_hears(), agent_hears(&scene.talk.session))?;
        assert_eq!((heard_voices(&caller), agent), heard, "{party:?}");
        assert_eq!(scene.asked(CallCommand::Unmute(Mute { party })).await, Ok(Value::Null));
    }
    let (caller, agent) = tokio::try_join!(scene.caller_hears(), agent_hears(&scene.talk.session))?;
    assert_eq!((heard_voices(&caller), agent), (vec![AGENT_HZ], vec![CALLER_HZ]));
    assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_takes_the_agent_away_and_connects_another() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    assert_eq!(scene.asked(CallCommand::Disconnect).await, Ok(Value::Null));
    assert_eq!(scene.talk.service.event("call.agent_left").await?.data["reason"], "disconnected");
    assert_eq!(scene.talk.session.wait_for_message("stop").await?["reason"], "disconnected");
    hears_hold_music(&scene.talk.call).await?;
    assert_eq!(scene.asked(CallCommand::Hold(Hold::default())).await, Err("no_agent"));
    assert_eq!(scene.asked(transfer_to("second", false)).await, Err("no_agent"));
    assert_eq!(scene.asked(CallCommand::Connect(to_route("second"))).await, Ok(json!({})));
    scene.talk.service.event("call.agent_joined").await?;
    assert_eq!(heard_voices(&scene.caller_hears().await?), [SECOND_AGENT_HZ]);
    assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_transfers_by_its_own_socket_and_is_told_all_events_if_it_asks() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    let session = &scene.talk.session;
    session.send(&json!({ "type": "ready", "events": true })).await;
    session
        .send(&json!({ "type": "command", "request_id": 7, "action": "transfer", "route": "nobody", "client_state": "x" }))
        .await;
    let result = session.wait_for_message("result").await?;
    assert_eq!((&result["request_id"], &result["ok"]), (&7.into(), &true.into()), "{result}");
    let mut told = Vec::new();
    while told.last().is_none_or(|kind| kind != "call.transferred") {
        let event = session.wait_for_nth_message("event", told.len() + 1).await?;
        told.push(event["event"]["type"].as_str().unwrap_or_default().to_owned());
    }
    assert_eq!(told, ["call.agent_lost", "call.transferred"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_asks_for_too_much_at_once_gets_an_answer_to_everything() -> anyhow::Result<()> {
    const COMMANDS: usize = 600;
    let mut scene = Scene::start().await?;
    for request_id in 0..COMMANDS {
        let action = if request_id % 2 == 0 { "cancel_transfer" } else { "play" };
        let command = json!({ "type": "command", "request_id": request_id, "action": action, "prompts": ["beep"] });
        scene.talk.session.send(&command).await;
    }
    scene.talk.session.wait_for_nth_message("result", COMMANDS).await?;
    let codes: std::collections::BTreeSet<String> = scene
        .talk
        .session
        .messages_of("result")
        .iter()
        .filter_map(|result| result["code"].as_str().map(str::to_owned))
        .collect();
    assert!(codes.contains("no_transfer"), "{codes:?}");
    assert!(codes.iter().all(|code| ["no_transfer", "too_many_commands"].contains(&code.as_str())), "{codes:?}");
    scene.talk.session.bye().await;
    assert_eq!(scene.talk.service.event("call.ended").await?.data["reason"], "agent_hung_up");
    Ok(())
}

/// A route whose calls wait for the application.
async fn ringing() -> anyhow::Result<(TestService, Agent, Call, CallId)> {
    let agent = Agent::start(AgentOptions { pace: Pace::Burst, ..agent() }).await?;
    let options = TestOptions { route: "answer = \"on_command\"".to_owned(), ..TestOptions::default() };
    let mut service = TestService::start_with(&agent.url(), options).await?;
    let call = service.call(quiet_caller()).await?;
    let id = service.event("call.media_connected").await?.call_id;
    Ok((service, agent, call, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_accepted_without_an_agent_is_the_applications_to_lead() -> anyhow::Result<()> {
    let (mut service, agent, call, id) = ringing().await?;
    let accept = CallCommand::Accept(Accept { without_agent: true, ..Accept::default() });
    let calls = service.app.calls();
    let kept = calls.perform_keeping(&id, accept.clone(), Some("ticket 17".to_owned())).await;
    assert_eq!(kept, Ok(json!({})));
    assert_eq!(service.event("call.accepted").await?.client_state.as_deref(), Some("ticket 17"));
    let calls = service.app.calls();
    assert_eq!(calls.perform(&id, accept).await.unwrap_err().code, "call_already_accepted");
    assert_eq!(agent.connections(), 0, "nobody was dialled");
    call.wait_until(Stage::Accepted).await?;
    let connect = CallCommand::Connect(to_route("reception"));
    assert_eq!(calls.perform(&id, connect).await, Ok(json!({})));
    assert_eq!(heard_voices(&caller_hears_next(&call, 3 * SECOND).await?[2 * PHONE_RATE as usize..]), [AGENT_HZ]);
    let joined = service.event("call.agent_joined").await?;
    assert_eq!((joined.data["attempt"].as_u64(), joined.client_state.as_deref()), (Some(1), Some("ticket 17")));
    assert_eq!(service.app.calls().perform(&id, CallCommand::Hangup).await, Ok(json!({})));
    let ended = service.event("call.ended").await?;
    assert_eq!((&ended.data["reason"], ended.client_state.as_deref()), (&"hung_up_by_api".into(), Some("ticket 17")));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_accepts_with_the_routes_agent_or_rejects() -> anyhow::Result<()> {
    let (mut service, _agent, call, id) = ringing().await?;
    let accept = CallCommand::Accept(Accept::default());
    assert_eq!(service.app.calls().perform(&id, accept).await, Ok(json!({})));
    service.event("call.agent_joined").await?;
    assert_eq!(heard_voices(&caller_hears_next(&call, 2 * SECOND).await?[PHONE_RATE as usize..]), [AGENT_HZ]);

    let (mut service, agent, call, id) = ringing().await?;
    let reject = CallCommand::Reject(Reject { reason: "closed today".to_owned() });
    assert_eq!(service.app.calls().perform(&id, reject).await, Ok(json!({})));
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["detail"]), (&"rejected_by_api".into(), &"closed today".into()));
    assert_eq!((&ended["hung_up_by"], agent.connections()), (&"app".into(), 0));
    Ok(())
}
