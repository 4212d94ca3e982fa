//! Hold, mute and transfer, and calls that the application controls.

use patchcord::call::event::CallId;
use patchcord_simulator::agent::{Agent, AgentAudio, AgentOptions, AgentSession, Encoding, Pace};
use patchcord_simulator::call::{Call, EndedBy, Stage};
use patchcord_simulator::sound::{self, PHONE_RATE};
use serde_json::{Value, json};

use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next,
    agent_with_voice, caller, caller_hears_next, heard_voices, objections, quiet_caller, until_caller_hears,
};
use crate::service::{Talk, TestOptions, TestService};

/// The note of the built-in busy tone.
const BUSY_HZ: f64 = 425.0;

/// An agent on the line, and another whom the route "second" leads to.
struct Scene {
    talk: Talk,
    call: CallId,
    second: Agent,
}

impl Scene {
    async fn start() -> anyhow::Result<Self> {
        // A minute each, so that neither falls silent before the scenario is over.
        let talkative = |agent: AgentOptions| AgentOptions { greeting: agent.greeting.repeat(3), ..agent };
        Self::with([agent(), agent_with_voice(SECOND_AGENT_HZ)].map(talkative), "").await
    }

    /// `second_route` has additional keys of the second agent's route.
    async fn with(agents: [AgentOptions; 2], second_route: &str) -> anyhow::Result<Self> {
        // Everything they say is sent before it is heard.
        let [first, second] = agents.map(|agent| AgentOptions { pace: Pace::Burst, ..agent });
        let second = Agent::start(second).await?;
        let more_routes = format!(
            "[routes.second]\nagent = \"{}\"\n{second_route}\n[routes.nobody]\nagent = \"ws://127.0.0.1:9/\"\n\
             [routes.closing]\nagent = \"prompt:goodbye,busy\"",
            second.url()
        );
        let options = TestOptions { more_routes, ..TestOptions::default() };
        let mut talk = Talk::start_with(caller(), first, options).await?;
        let call = talk.service.event("call.accepted").await?.call_id;
        Ok(Self { talk, call, second })
    }

    /// The agents talk with each other, and the caller is on hold.
    async fn consulting() -> anyhow::Result<(Self, AgentSession)> {
        let mut scene = Self::start().await?;
        assert_eq!(scene.transfer_to("second", true).await, Ok(json!({})));
        let second = scene.second.wait_for_session(1).await?;
        scene.talk.service.event("call.agent_joined").await?;
        Ok((scene, second))
    }

    async fn act(&self, action: &str, body: Value) -> Result<Value, String> {
        self.talk.service.act(&self.call, action, body).await
    }

    /// An action without fields.
    async fn ask(&self, action: &str) -> Result<Value, String> {
        self.act(action, Value::Null).await
    }

    async fn transfer_to(&self, route: &str, warm: bool) -> Result<Value, String> {
        self.act("transfer", json!({ "route": route, "warm": warm })).await
    }

    /// What the caller hears in the second second from now.
    async fn caller_hears(&self) -> anyhow::Result<Vec<i16>> {
        Ok(caller_hears_next(&self.talk.call, 2 * SECOND).await?[PHONE_RATE as usize..].to_vec())
    }
}

async fn agent_hears(session: &AgentSession) -> anyhow::Result<Vec<f64>> {
    Ok(heard_voices(&agent_hears_next(session, 2 * SECOND).await?[PHONE_RATE as usize..]))
}

/// Waits until the caller hears the hold music, and no voice from then on.
async fn hears_hold_music(call: &Call) -> anyhow::Result<()> {
    until_caller_hears(call, &[HOLD_NOTE_HZ, 329.63, 392.0]).await?;
    let mut heard = heard_voices(&caller_hears_next(call, 2 * SECOND).await?);
    // Where a busy machine cuts a note of the music, its edge may be taken for the caller's own voice.
    heard.retain(|voice| *voice != CALLER_HZ);
    assert_eq!(heard, [0.0; 0]);
    Ok(())
}

/// A refusal with this code.
fn refused(code: &str) -> Result<Value, String> {
    Err(code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_hands_the_caller_over_in_the_same_line() -> anyhow::Result<()> {
    for (first, encoding) in [(Encoding::Pcm, "opus"), (Encoding::Opus, "opus"), (Encoding::Opus, "pcm_s16le")] {
        let first = AgentOptions { audio: Some(AgentAudio { encoding: first, sample_rate: 16_000 }), ..agent() };
        let agents = [first, agent_with_voice(SECOND_AGENT_HZ)];
        let mut scene = Scene::with(agents, &format!("encoding = \"{encoding}\"")).await?;
        assert_eq!(scene.transfer_to("second", false).await, Ok(json!({})));
        let told = scene.talk.service.event("call.transferred").await?;
        assert_eq!(told.data, json!({ "completed": true, "from_attempt": 0, "to_attempt": 1 }));
        let second = scene.second.wait_for_session(1).await?;
        second.wait_for_message("accepted").await?;
        assert_eq!(scene.talk.session.wait_for_message("stop").await?["reason"], "transferred");
        assert_eq!(heard_voices(&scene.caller_hears().await?), [SECOND_AGENT_HZ]);
        assert_eq!(agent_hears(&second).await?, [CALLER_HZ], "{encoding}");
        assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_nobody_takes_gives_the_caller_back_to_the_first_agent() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    assert_eq!(scene.transfer_to("nobody", false).await, Ok(json!({})));
    let told = scene.talk.service.event("call.transferred").await?;
    let data = &told.data;
    assert_eq!((&data["completed"], &data["reason"]), (&false.into(), &"refused".into()), "{data}");
    assert_eq!((&data["from_attempt"], &data["to_attempt"]), (&0.into(), &1.into()), "{data}");
    assert!(data["detail"].as_str().is_some_and(|detail| detail.contains("Connection refused")), "{data}");
    assert_eq!(heard_voices(&scene.caller_hears().await?), [AGENT_HZ]);
    assert_eq!(agent_hears(&scene.talk.session).await?, [CALLER_HZ]);
    assert_eq!(scene.transfer_to("nowhere", false).await, refused("unknown_route"));
    assert_eq!(scene.ask("complete_transfer").await, refused("no_transfer"));
    assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_warm_transfer_the_agents_talk_first_and_the_caller_hears_music() -> anyhow::Result<()> {
    let (mut scene, second) = Scene::consulting().await?;
    let ((), first_hears, second_hears) =
        tokio::try_join!(hears_hold_music(&scene.talk.call), agent_hears(&scene.talk.session), agent_hears(&second))?;
    assert_eq!(first_hears, [SECOND_AGENT_HZ]);
    assert_eq!(second_hears, [AGENT_HZ]);

    assert_eq!(scene.ask("complete_transfer").await, Ok(json!({})));
    second.wait_for_message("accepted").await?;
    assert_eq!(scene.talk.session.wait_for_message("stop").await?["reason"], "transferred");
    assert_eq!(scene.talk.service.event("call.transferred").await?.data["completed"], true);
    assert_eq!(heard_voices(&scene.caller_hears().await?), [SECOND_AGENT_HZ]);
    assert_eq!(agent_hears(&second).await?, [CALLER_HZ]);
    assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unheld_in_a_warm_transfer_all_three_talk_until_one_agent_leaves() -> anyhow::Result<()> {
    for completes in [true, false] {
        let (mut scene, second) = Scene::consulting().await?;
        hears_hold_music(&scene.talk.call).await?;
        assert_eq!(scene.ask("unhold").await, Ok(Value::Null));
        let first = scene.talk.session.clone();
        let (caller, by_first, by_second) =
            tokio::try_join!(scene.caller_hears(), agent_hears(&first), agent_hears(&second))?;
        assert_eq!(heard_voices(&caller), [AGENT_HZ, SECOND_AGENT_HZ]);
        assert_eq!(by_first, [CALLER_HZ, SECOND_AGENT_HZ], "nobody hears himself");
        assert_eq!(by_second, [CALLER_HZ, AGENT_HZ], "nobody hears himself");

        let (end, stays, leaves, reason) = match completes {
            true => ("complete_transfer", &second, &first, "transferred"),
            false => ("cancel_transfer", &first, &second, "transfer_cancelled"),
        };
        assert_eq!(scene.ask(end).await, Ok(json!({})));
        assert_eq!(leaves.wait_for_message("stop").await?["reason"], reason);
        let left = scene.talk.service.event("call.agent_left").await?.data;
        assert_eq!(left, json!({ "attempt": u8::from(!completes), "reason": reason }));
        assert_eq!(scene.talk.service.event("call.transferred").await?.data["completed"], completes);
        let (caller, by_agent) = tokio::try_join!(scene.caller_hears(), agent_hears(stays))?;
        assert_eq!(heard_voices(&caller), [if completes { SECOND_AGENT_HZ } else { AGENT_HZ }]);
        assert_eq!(by_agent, [CALLER_HZ]);
        assert_eq!(scene.ask("cancel_transfer").await, refused("no_transfer"));
        assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn transferred_to_prompts_the_caller_hears_them_to_their_end_and_the_call_is_over() -> anyhow::Result<()> {
    for held in [false, true] {
        let mut scene = Scene::start().await?;
        if held {
            assert_eq!(scene.ask("hold").await, Ok(Value::Null));
        }
        // A warm transfer to prompts is a cold one.
        assert_eq!(scene.transfer_to("closing", held).await, Ok(json!({})));
        assert_eq!(scene.talk.session.wait_for_message("stop").await?["reason"], "transferred");
        let ended = scene.talk.service.end_of(&scene.talk.call).await?;
        assert_eq!((&ended["reason"], &ended["fault"]), (&"prompt_finished".into(), &"nobody".into()), "{ended}");
        let told = scene.talk.service.event("call.agent_left").await?;
        assert_eq!(told.data, json!({ "attempt": 0, "reason": "transferred" }));
        let told = scene.talk.service.event("call.transferred").await?;
        assert_eq!(told.data, json!({ "completed": true, "from_attempt": 0, "to_attempt": 1 }));
        let mut kinds = scene.talk.service.kinds();
        kinds.retain(|kind| *kind != "call.unheld");
        assert_eq!(kinds[kinds.len() - 3..], ["call.agent_left", "call.transferred", "call.ended"]);

        scene.talk.service.all_ended().await?;
        assert_eq!(scene.talk.call.ended_by(), Some(EndedBy::Terminated));
        let heard = scene.talk.call.heard()?;
        let notes = [GOODBYE_NOTES_HZ[0], BUSY_HZ];
        let first = notes
            .map(|note| heard.chunks(PHONE_RATE as usize / 5).position(|part| sound::hears(part, PHONE_RATE, note)));
        assert!(first.is_sorted() && first[0].is_some(), "in their order: {first:?}");
        assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_hold_the_caller_hears_music_and_the_agent_nothing() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    assert_eq!(scene.ask("unhold").await, refused("not_on_hold"));
    assert_eq!(scene.ask("hold").await, Ok(Value::Null));
    let ((), agent) = tokio::try_join!(hears_hold_music(&scene.talk.call), agent_hears(&scene.talk.session))?;
    assert_eq!(agent, [0.0; 0]);
    assert_eq!(scene.ask("unhold").await, Ok(Value::Null));
    let (caller, agent) = tokio::try_join!(scene.caller_hears(), agent_hears(&scene.talk.session))?;
    assert_eq!((heard_voices(&caller), agent), (vec![AGENT_HZ], vec![CALLER_HZ]));

    for (party, heard) in [("agent", (vec![], vec![CALLER_HZ])), ("caller", (vec![AGENT_HZ], vec![]))] {
        assert_eq!(scene.act("mute", json!({ "party": party })).await, Ok(Value::Null));
        let (caller, agent) = tokio::try_join!(scene.caller_hears(), agent_hears(&scene.talk.session))?;
        assert_eq!((heard_voices(&caller), agent), heard, "{party:?}");
        assert_eq!(scene.act("unmute", json!({ "party": party })).await, Ok(Value::Null));
    }
    let (caller, agent) = tokio::try_join!(scene.caller_hears(), agent_hears(&scene.talk.session))?;
    assert_eq!((heard_voices(&caller), agent), (vec![AGENT_HZ], vec![CALLER_HZ]));
    assert_eq!(objections(&scene.talk.call), [], "{}", scene.talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_takes_the_agent_away_and_connects_another() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    assert_eq!(scene.ask("disconnect").await, Ok(Value::Null));
    assert_eq!(scene.talk.service.event("call.agent_left").await?.data["reason"], "disconnected");
    assert_eq!(scene.talk.session.wait_for_message("stop").await?["reason"], "disconnected");
    hears_hold_music(&scene.talk.call).await?;
    assert_eq!(scene.ask("hold").await, refused("no_agent"));
    assert_eq!(scene.transfer_to("second", false).await, refused("no_agent"));
    assert_eq!(scene.act("connect", json!({ "route": "second" })).await, Ok(json!({})));
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
    assert_eq!(told, ["call.held", "call.agent_lost", "call.transferred"]);
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

/// A ringing call that waits for the application.
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
    let accept = json!({ "without_agent": true });
    let keeping = json!({ "without_agent": true, "client_state": "ticket 17" });
    assert_eq!(service.act(&id, "accept", keeping).await, Ok(json!({})));
    assert_eq!(service.event("call.accepted").await?.client_state.as_deref(), Some("ticket 17"));
    assert_eq!(service.act(&id, "accept", accept).await, refused("call_already_accepted"));
    assert_eq!(agent.connections(), 0, "nobody was dialled");
    call.wait_until(Stage::FirstPacket).await?;
    assert_eq!(service.act(&id, "connect", json!({ "route": "reception" })).await, Ok(json!({})));
    assert_eq!(heard_voices(&caller_hears_next(&call, 3 * SECOND).await?[2 * PHONE_RATE as usize..]), [AGENT_HZ]);
    let joined = service.event("call.agent_joined").await?;
    assert_eq!((joined.data["attempt"].as_u64(), joined.client_state.as_deref()), (Some(1), Some("ticket 17")));
    assert_eq!(service.act(&id, "hangup", Value::Null).await, Ok(json!({})));
    let ended = service.event("call.ended").await?;
    assert_eq!((&ended.data["reason"], ended.client_state.as_deref()), (&"hung_up_by_api".into(), Some("ticket 17")));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_application_accepts_with_the_routes_agent_or_rejects() -> anyhow::Result<()> {
    let (mut service, _agent, call, id) = ringing().await?;
    assert_eq!(service.act(&id, "accept", Value::Null).await, Ok(json!({})));
    service.event("call.agent_joined").await?;
    assert_eq!(heard_voices(&caller_hears_next(&call, 2 * SECOND).await?[PHONE_RATE as usize..]), [AGENT_HZ]);

    let (mut service, agent, call, id) = ringing().await?;
    assert_eq!(service.act(&id, "reject", json!({ "reason": "closed today" })).await, Ok(json!({})));
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["detail"]), (&"rejected_by_api".into(), &"closed today".into()));
    assert_eq!((&ended["hung_up_by"], agent.connections()), (&"app".into(), 0));
    Ok(())
}
