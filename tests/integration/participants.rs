//! Participants that listen, whisper or join, and music under the agent's voice.

use patchcord::call::event::CallId;
use patchcord_simulator::agent::{Agent, AgentOptions, AgentSession, Pace};
use patchcord_simulator::sound::{self, PHONE_RATE};
use serde_json::{Value, json};

use crate::people::{
    AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next, agent_with_voice, caller,
    caller_hears_next, heard_voices, objections, speech_synthesis, tone,
};
use crate::service::{Talk, TestOptions, TestService};

/// A call with a supervisor whom the route "supervisor" leads to.
struct Supervised {
    talk: Talk,
    call: CallId,
    supervisor: Agent,
}

impl Supervised {
    async fn start() -> anyhow::Result<Self> {
        let supervisor = Agent::start(AgentOptions { pace: Pace::Burst, ..agent_with_voice(SECOND_AGENT_HZ) }).await?;
        let options = TestOptions {
            more_routes: format!("[routes.supervisor]\nagent = \"{}\"", supervisor.url()),
            ..TestOptions::default()
        };
        let speaker = AgentOptions { pace: Pace::Burst, ..agent() };
        let mut talk = Talk::start_with(caller(), speaker, options).await?;
        let call = talk.service.event("call.accepted").await?.call_id;
        Ok(Self { talk, call, supervisor })
    }

    async fn invite(&mut self, role: &str) -> anyhow::Result<(u32, AgentSession)> {
        let invite = json!({ "route": "supervisor", "role": role });
        let invited = act(&self.talk.service, &self.call, "invite", invite).await?;
        let joined = self.talk.service.event("call.guest_joined").await?;
        assert_eq!(joined.data["guest_id"], invited["guest_id"]);
        let session = self.supervisor.wait_for_session(1).await?;
        session.wait_for_message("accepted").await?;
        Ok((invited["guest_id"].as_u64().unwrap_or_default() as u32, session))
    }

    /// The voices that the caller, the agent and the supervisor hear in the second second from now.
    async fn who_hears_whom(&self, supervisor: &AgentSession) -> anyhow::Result<[Vec<f64>; 3]> {
        let Talk { session, call, .. } = &self.talk;
        let (by_caller, by_agent, by_supervisor) = tokio::try_join!(
            caller_hears_next(call, 2 * SECOND),
            agent_hears_next(session, 2 * SECOND),
            agent_hears_next(supervisor, 2 * SECOND)
        )?;
        Ok([by_caller, by_agent, by_supervisor].map(|heard| heard_voices(&heard[PHONE_RATE as usize..])))
    }
}

async fn act(service: &TestService, call: &CallId, action: &str, body: Value) -> anyhow::Result<Value> {
    service.act(call, action, body).await.map_err(anyhow::Error::msg)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_listens_whispers_joins_and_leaves() -> anyhow::Result<()> {
    let mut scene = Supervised::start().await?;
    let (guest_id, supervisor) = scene.invite("listen").await?;
    let [by_caller, by_agent, by_supervisor] = scene.who_hears_whom(&supervisor).await?;
    assert_eq!(by_caller, [AGENT_HZ], "a listener is not heard");
    assert_eq!(by_agent, [CALLER_HZ], "a listener is not heard");
    assert_eq!(by_supervisor, [CALLER_HZ, AGENT_HZ]);

    supervisor.say(&tone(SECOND_AGENT_HZ, 60_000)).await;
    let role = json!({ "guest_id": guest_id, "role": "whisper" });
    act(&scene.talk.service, &scene.call, "set_role", role).await?;
    let [by_caller, by_agent, by_supervisor] = scene.who_hears_whom(&supervisor).await?;
    assert_eq!(by_caller, [AGENT_HZ], "a whisper is for the agent");
    assert_eq!(by_agent, [CALLER_HZ, SECOND_AGENT_HZ]);
    assert_eq!(by_supervisor, [CALLER_HZ, AGENT_HZ], "nobody hears himself");

    let role = json!({ "guest_id": guest_id, "role": "join" });
    act(&scene.talk.service, &scene.call, "set_role", role).await?;
    let [by_caller, by_agent, by_supervisor] = scene.who_hears_whom(&supervisor).await?;
    assert_eq!(by_caller, [AGENT_HZ, SECOND_AGENT_HZ]);
    assert_eq!(by_agent, [CALLER_HZ, SECOND_AGENT_HZ]);
    assert_eq!(by_supervisor, [CALLER_HZ, AGENT_HZ]);

    act(&scene.talk.service, &scene.call, "dismiss", json!({ "guest_id": guest_id })).await?;
    assert_eq!(supervisor.wait_for_message("stop").await?["reason"], "dismissed");
    let Talk { session, call, .. } = &scene.talk;
    let (by_caller, by_agent) =
        tokio::try_join!(caller_hears_next(call, 4 * SECOND), agent_hears_next(session, 2 * SECOND))?;
    assert_eq!(heard_voices(&by_caller[3 * PHONE_RATE as usize..]), [AGENT_HZ]);
    assert_eq!(heard_voices(&by_agent[PHONE_RATE as usize..]), [CALLER_HZ]);
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_who_vanishes_is_told_and_the_call_goes_on() -> anyhow::Result<()> {
    let mut scene = Supervised::start().await?;
    let (guest_id, supervisor) = scene.invite("join").await?;
    supervisor.reset().await;
    let left = scene.talk.service.event("call.guest_left").await?;
    assert_eq!((&left.data["guest_id"], &left.data["reason"]), (&guest_id.into(), &"disconnected".into()));
    assert_eq!(
        heard_voices(&caller_hears_next(&scene.talk.call, 4 * SECOND).await?[3 * PHONE_RATE as usize..]),
        [AGENT_HZ]
    );
    let unknown = json!({ "route": "nobody", "role": "listen" });
    let refused = scene.talk.service.act(&scene.call, "invite", unknown).await;
    assert_eq!(refused, Err("unknown_route".to_owned()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn music_plays_under_the_voice_until_it_is_stopped() -> anyhow::Result<()> {
    let mut talk = Talk::start_with(caller(), speech_synthesis(), TestOptions::default()).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    let Talk { service, session, call, .. } = &talk;
    let music = json!({ "prompts": ["hold"], "loop": true, "under_voice": true });
    act(service, &id, "play", music).await?;
    let is_music =
        |heard: &[i16]| [HOLD_NOTE_HZ, 329.63, 392.0].iter().any(|note| sound::hears(heard, PHONE_RATE, *note));
    assert!(is_music(&caller_hears_next(call, 3 * SECOND).await?));
    session.say(&tone(AGENT_HZ, 6000)).await;
    assert_eq!(heard_voices(&caller_hears_next(call, 3 * SECOND).await?), [AGENT_HZ]);
    assert!(is_music(&caller_hears_next(call, 7 * SECOND).await?[4 * PHONE_RATE as usize..]));
    act(service, &id, "stop_playback", Value::Null).await?;
    let after = caller_hears_next(call, 4 * SECOND).await?;
    assert!(sound::rms(&after[3 * PHONE_RATE as usize..]) < 10.0, "silence");
    assert_eq!(objections(call), [], "{}", call.seen());
    Ok(())
}
