//! Placed calls when something goes wrong: lost packets, lost and doubled webhooks, people who hang up at any moment.

use std::collections::BTreeSet;

use anyhow::Context;
use patchcord_simulator::agent::{Agent, AgentOptions, AgentSession};
use patchcord_simulator::call::{Call, CallerOptions, EndedBy, Stage};
use patchcord_simulator::callee::{AnswerWebhooks, Callee, CalleeOptions, Setup};
use patchcord_simulator::meta::Reply;
use patchcord_simulator::network::{Conditions, NetworkOptions};
use patchcord_simulator::sound;
use patchcord_simulator::speech::Speech;
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::client::{Client, WRITER};
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, agent, agent_hears_next, caller, caller_hears_first, heard_voices, objections,
    quiet_caller, speech_synthesis,
};
use crate::service::{TestOptions, TestService};

const NUMBER: &str = "12025550143";

/// A service with an agent, and somebody who permits calls.
struct Scene {
    service: TestService,
    agent: Agent,
    callee: Callee,
}

impl Scene {
    async fn with(callee: CalleeOptions, agent: AgentOptions, calls: &str) -> anyhow::Result<Self> {
        let agent = Agent::start(agent).await?;
        let options = TestOptions { calls: calls.to_owned(), ..TestOptions::default() };
        let service = TestService::start_with(&agent.url(), options).await?;
        let callee = service.meta.permit(callee);
        Ok(Self { service, agent, callee })
    }

    /// Orders a call; gives its phone.
    async fn place(&self, more: Value) -> anyhow::Result<Call> {
        self.order(more).await?;
        self.callee.next_call().await
    }

    async fn order(&self, mut body: Value) -> anyhow::Result<()> {
        body["to"] = NUMBER.into();
        let body = Some(body.to_string().into_bytes());
        let placed = Client::new(&self.service, WRITER).ask(Method::POST, "/v1/calls", body).await?;
        anyhow::ensure!(placed.status == 201, "{placed:?}");
        Ok(())
    }

    /// The agent's conversation, once it is on the line.
    async fn session(&self) -> anyhow::Result<AgentSession> {
        let session = self.agent.wait_for_session(1).await?;
        session.wait_for_message("start").await?;
        Ok(session)
    }

    /// The call's one end, and that nothing of it is left. Gives the reason.
    async fn only_end(&mut self) -> anyhow::Result<String> {
        let ended = self.service.event("call.ended").await?.data;
        self.service.all_ended().await?;
        assert_eq!(self.service.kinds().iter().filter(|kind| **kind == "call.ended").count(), 1);
        assert_eq!(self.service.count_of("connect"), 1, "nobody is rung twice");
        Ok(ended["reason"].as_str().unwrap_or_default().to_owned())
    }
}

fn callee(person: CallerOptions) -> CalleeOptions {
    CalleeOptions { person, ..CalleeOptions::default() }
}

fn by_hand() -> CalleeOptions {
    CalleeOptions { webhooks: AnswerWebhooks::ByHand, ..callee(caller()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn either_side_opens_dtls_through_a_network_that_loses_packets() -> anyhow::Result<()> {
    for (setup, loss, seed) in [
        (Setup::Passive, 0.1, 1),
        (Setup::Active, 0.1, 2),
        (Setup::Passive, 0.2, 3),
        (Setup::Active, 0.2, 4),
        (Setup::Active, 0.2, 5),
    ] {
        let network = NetworkOptions::both_ways(Conditions { loss, ..Conditions::default() });
        let person = CallerOptions { network, seed: Some(seed), ..caller() };
        let scene = Scene::with(CalleeOptions { setup, ..callee(person) }, agent(), "").await?;
        let talk = async {
            let call = scene.place(json!({})).await?;
            let session = scene.session().await?;
            call.wait_until(Stage::MediaUp).await?;
            assert_eq!(call.pick_up().await?, 200);
            assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ], "{}", call.seen());
            assert_eq!(heard_voices(&agent_hears_next(&session, SECOND).await?), [CALLER_HZ], "{}", call.seen());
            assert_eq!(objections(&call), [], "{}", call.seen());
            anyhow::Ok(())
        };
        talk.await.with_context(|| format!("{setup:?}, {loss} lost, seed {seed}"))?;
    }
    Ok(())
}

/// The agent talks while the phone rings; the callee hears it from its first sample.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_syllable_is_heard_after_accept() -> anyhow::Result<()> {
    let greeting = sound::agent_clip();
    let speaker = AgentOptions { greeting: greeting.clone(), ..speech_synthesis() };
    let scene = Scene::with(callee(quiet_caller()), speaker, "").await?;
    let call = scene.place(json!({})).await?;
    scene.session().await?;
    call.wait_until(Stage::MediaUp).await?;
    assert_eq!(call.counts().await.received, 0, "no RTP before accept");
    assert_eq!(call.pick_up().await?, 200);
    let heard = call.hear_for(5 * SECOND).await?;
    assert!(sound::beginning_is_whole(&greeting, &heard), "{:?}", sound::find(&greeting, &heard));
    assert!(sound::similarity(&greeting, &heard) > 0.8, "{:?}", sound::find(&greeting, &heard));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

/// Meta's ACCEPTED never comes. A callee who is heard has accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_callee_who_says_hello_is_answered_although_accepted_is_lost() -> anyhow::Result<()> {
    let person = CallerOptions { speech: Speech::caller(), ..quiet_caller() };
    let mut scene = Scene::with(callee(person), agent(), "").await?;
    let call = scene.place(json!({})).await?;
    scene.session().await?;
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up_unreported().await;
    scene.service.event("call.accepted").await?;
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
    // It comes after all.
    assert_eq!(call.pick_up().await?, 200);
    assert_eq!(call.hang_up().await?, 200);
    assert_eq!(scene.only_end().await?, "callee_hung_up");
    assert_eq!(scene.service.kinds().iter().filter(|kind| **kind == "call.accepted").count(), 1);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

/// A callee who says nothing either: the duration in Meta's terminate tells that the call was picked up.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_callee_whose_accepted_is_lost_has_hung_up_and_not_let_it_ring() -> anyhow::Result<()> {
    let mut scene = Scene::with(callee(quiet_caller()), agent(), "").await?;
    let call = scene.place(json!({})).await?;
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up_unreported().await;
    assert_eq!(call.hang_up().await?, 200);
    assert_eq!(scene.only_end().await?, "callee_hung_up");
    assert_eq!(scene.service.count_of("terminate"), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn accepted_without_an_answer_gives_the_call_up_at_meta() -> anyhow::Result<()> {
    let mut scene = Scene::with(by_hand(), agent(), "media_timeout = \"2s\"").await?;
    let call = scene.place(json!({})).await?;
    assert_eq!(call.pick_up().await?, 200);
    assert_eq!(scene.only_end().await?, "media_never_connected");
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    Ok(())
}

/// Meta takes the call and is never heard of again.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_any_webhook_rings_for_its_time_and_is_given_up_at_meta() -> anyhow::Result<()> {
    let mut scene = Scene::with(by_hand(), agent(), "").await?;
    let call = scene.place(json!({ "ring_timeout": "5s" })).await?;
    assert_eq!(scene.only_end().await?, "no_answer");
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_answers_and_an_answer_for_another_call_change_nothing() -> anyhow::Result<()> {
    let mut scene = Scene::with(by_hand(), agent(), "").await?;
    let call = scene.place(json!({})).await?;
    let connect = call.connect_body();
    let mut stranger: Value = serde_json::from_str(&connect)?;
    let of_stranger = &mut stranger["entry"][0]["changes"][0]["value"]["calls"][0];
    of_stranger["id"] = "wacid.HBgLMTIwMjU1NTAxNzcVAgARGBJBAA==".into();
    of_stranger["to"] = "12025550177".into();
    of_stranger["biz_opaque_callback_data"] = "a call of another program".into();
    let other_answer = connect.replace("a=ice-pwd:", "a=ice-pwd:another");
    for body in [stranger.to_string(), connect.clone(), connect, other_answer] {
        assert_eq!(scene.service.meta.send_webhook(body).await?, 200);
    }
    assert_eq!(call.ring().await?, 200);
    call.wait_until(Stage::MediaUp).await?;
    assert_eq!(call.pick_up().await?, 200);
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
    assert_eq!(call.hang_up().await?, 200);
    assert_eq!(scene.only_end().await?, "callee_hung_up");
    Ok(())
}

/// What has happened when the callee hangs up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Placed,
    Answered,
    Ringing,
    MediaUp,
    Accepted,
    Talking,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_may_hang_up_between_any_two_steps() -> anyhow::Result<()> {
    for last in [Step::Placed, Step::Answered, Step::Ringing, Step::MediaUp, Step::Accepted, Step::Talking] {
        let mut scene = Scene::with(by_hand(), agent(), "").await?;
        let call = scene.place(json!({})).await?;
        if last >= Step::Answered {
            assert_eq!(call.send_connect().await?, 200);
        }
        if last >= Step::Ringing {
            assert_eq!(call.ring().await?, 200);
        }
        if last >= Step::MediaUp {
            call.wait_until(Stage::MediaUp).await?;
        }
        if last >= Step::Accepted {
            assert_eq!(call.pick_up().await?, 200);
        }
        if last >= Step::Talking {
            call.wait_until(Stage::FirstSound).await?;
        }
        assert_eq!(call.hang_up().await?, 200);
        let reason = scene.only_end().await?;
        assert_eq!(reason, if last >= Step::Accepted { "callee_hung_up" } else { "no_answer" }, "after {last:?}");
        assert_eq!(scene.service.count_of("terminate"), 0, "after {last:?}: Meta knows it");
    }
    Ok(())
}

/// Meta's terminate comes before its reply to connect, and says neither who called nor whose call it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_terminate_without_a_direction_ends_a_call_that_meta_has_not_named() -> anyhow::Result<()> {
    for hidden in [&["direction"][..], &["direction", "to", "biz_opaque_callback_data"]] {
        let mut scene = Scene::with(by_hand(), agent(), "").await?;
        scene.service.meta.script("connect", vec![Reply::DoneButLate(2 * SECOND)]);
        scene.order(json!({ "ring_timeout": "80s" })).await?;
        let call = scene.callee.next_call().await?;
        let mut body: Value = serde_json::from_str(&call.terminate_body())?;
        let terminate = &mut body["entry"][0]["changes"][0]["value"]["calls"][0];
        let fields: BTreeSet<&str> = hidden.iter().copied().collect();
        terminate.as_object_mut().context("a call")?.retain(|key, _| !fields.contains(key.as_str()));
        assert_eq!(scene.service.meta.send_webhook(body.to_string()).await?, 200);
        assert_eq!(scene.only_end().await?, "no_answer", "without {hidden:?}");
        assert_eq!(scene.service.count_of("terminate"), 0, "Meta knows it");
    }
    Ok(())
}
