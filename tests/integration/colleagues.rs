//! Colleagues: a person at a page hands its caller over to another one, by name or through the queue.

use patchcord::call::event::CallId;
use patchcord_simulator::call::Call;
use serde_json::{Value, json};

use crate::api::client::{ADA, Answer, BOB, Client, READER};
use crate::browser::Session;
use crate::people::{
    AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, caller_hears_next, heard_voices, until_caller_hears,
};
use crate::queues::{Person, service, waits};
use crate::service::{DEADLINE, TestOptions, TestService};

/// Ada talks with a caller.
struct Scene {
    service: TestService,
    call: Call,
    id: CallId,
    ada: Person,
    page: Session,
}

impl Scene {
    async fn start() -> anyhow::Result<Self> {
        let mut service = service("wrap_up = \"10m\"", TestOptions::default()).await?;
        let mut ada = Person::takes_calls(&service, ADA).await?;
        let (call, id) = waits(&mut service).await?;
        ada.rings().await?;
        let page = ada.answers(&service, &id, AGENT_HZ).await?;
        service.event("call.agent_joined").await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        Ok(Self { service, call, id, ada, page })
    }

    /// An action of Ada's.
    async fn act(&self, action: &str, body: Value) -> anyhow::Result<Answer> {
        self.ada.api.act(self.id.as_str(), action, body).await
    }

    async fn transfer(&self, body: Value) -> anyhow::Result<()> {
        let begun = self.act("transfer", body).await?;
        anyhow::ensure!(begun.status == 202, "{begun:?}");
        Ok(())
    }

    async fn shown(&self) -> anyhow::Result<Value> {
        Ok(Client::new(&self.service, READER).get(&format!("/v1/calls/{}", self.id)).await?.body)
    }

    /// Waits until these are what each of them hears: the caller's voice is heard by nobody who is on hold with it.
    async fn agents_talk_alone(&self, first: &Session, second: &Session) -> anyhow::Result<()> {
        until_hears(first, &[SECOND_AGENT_HZ]).await?;
        until_hears(second, &[AGENT_HZ]).await?;
        until_caller_hears(&self.call, &[HOLD_NOTE_HZ]).await
    }
}

async fn until_hears(session: &Session, voices: &[f64]) -> anyhow::Result<()> {
    let waiting = async {
        while session.hears().await? != voices {}
        anyhow::Ok(())
    };
    let heard = tokio::time::timeout(DEADLINE, waiting).await;
    heard.map_err(|_| anyhow::anyhow!("the page does not hear {voices:?} Hz"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_colleague_called_by_name_takes_the_caller_and_notes_can_be_finished() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let mut bob = Person::takes_calls(&scene.service, BOB).await?;
    let before = scene.shown().await?;
    assert_eq!(before["agent"], json!({ "kind": "person", "name": "ada", "attempt": 0 }), "{before}");
    assert_eq!((&before["queue"], &before["on_hold"]), (&"support".into(), &false.into()), "{before}");

    scene.transfer(json!({ "agent": "bob" })).await?;
    let ring = bob.rings().await?;
    assert_eq!((&ring["call_id"], &ring["queue"]), (&scene.id.as_str().into(), &Value::Null), "{ring}");
    until_caller_hears(&scene.call, &[HOLD_NOTE_HZ]).await?;
    let asking = scene.shown().await?;
    let to = json!({ "to": { "kind": "person", "name": "bob", "attempt": 1 }, "stage": "asking" });
    assert_eq!((&asking["transfer"], &asking["on_hold"]), (&to, &true.into()), "{asking}");
    assert_eq!(asking["agent"]["name"], "ada", "{asking}");

    let second = bob.answers(&scene.service, &scene.id, SECOND_AGENT_HZ).await?;
    let told = scene.service.event("call.transferred").await?.data;
    assert_eq!(told, json!({ "completed": true, "from_attempt": 0, "to_attempt": 1 }));
    until_caller_hears(&scene.call, &[SECOND_AGENT_HZ]).await?;
    until_hears(&second, &[CALLER_HZ]).await?;
    let after = scene.shown().await?;
    assert_eq!((&after["agent"]["name"], &after["transfer"]), (&"bob".into(), &Value::Null), "{after}");
    assert_eq!((&after["on_hold"], &after["agents"]), (&false.into(), &json!(["ada", "bob"])), "{after}");

    let state = scene.ada.page.state("wrap_up").await?;
    assert_eq!(state["last_call_id"], scene.id.as_str());
    scene.call.hang_up().await?;
    bob.page.state("wrap_up").await?;
    let notes = json!({ "client_state": "wants a refund" });
    assert_eq!(scene.act("set_client_state", notes).await?.status, 200);
    let ended = scene.shown().await?;
    assert_eq!((&ended["state"], &ended["client_state"]), (&"ended".into(), &"wants a refund".into()), "{ended}");
    scene.act("hangup", Value::Null).await?.is_problem(403, "missing_scope");

    // The next call is the last one from then on.
    scene.ada.set_available(true).await?;
    let (_call, next) = waits(&mut scene.service).await?;
    scene.ada.rings().await?;
    let _page = scene.ada.answers(&scene.service, &next, AGENT_HZ).await?;
    scene.act("set_client_state", json!({ "client_state": "" })).await?.is_problem(403, "missing_scope");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_colleague_who_is_not_free_leaves_the_caller_with_the_first_agent() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    scene.act("transfer", json!({ "agent": "nobody" })).await?.is_problem(422, "unknown_agent");
    let refused = async |scene: &mut Scene, reason: &str| {
        let told = scene.service.event("call.transferred").await?.data;
        assert_eq!((&told["completed"], &told["reason"]), (&false.into(), &reason.into()), "{told}");
        until_hears(&scene.page, &[CALLER_HZ]).await?;
        until_caller_hears(&scene.call, &[AGENT_HZ]).await
    };
    scene.transfer(json!({ "agent": "bob" })).await?;
    refused(&mut scene, "unavailable").await?;
    let mut bob = Person::takes_calls(&scene.service, BOB).await?;
    scene.transfer(json!({ "agent": "bob", "warm": true })).await?;
    bob.rings().await?;
    assert_eq!(bob.post(&scene.id, "decline").await?.status, 204);
    refused(&mut scene, "declined").await?;
    scene.transfer(json!({ "agent": "ada" })).await?;
    refused(&mut scene, "busy").await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_warm_transfer_to_the_queue_both_agents_talk_first() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let mut bob = Person::takes_calls(&scene.service, BOB).await?;
    scene.transfer(json!({ "queue": "support", "warm": true })).await?;
    assert_eq!(bob.rings().await?["queue"], "support");
    let second = bob.answers(&scene.service, &scene.id, SECOND_AGENT_HZ).await?;
    scene.service.event("call.agent_joined").await?;
    scene.agents_talk_alone(&scene.page, &second).await?;
    assert_eq!(scene.shown().await?["transfer"]["stage"], "consulting");

    // Pages that reload come back to the same conversation.
    let second = bob.answers(&scene.service, &scene.id, SECOND_AGENT_HZ).await?;
    scene.agents_talk_alone(&scene.page, &second).await?;
    scene.page = scene.ada.answers(&scene.service, &scene.id, AGENT_HZ).await?;
    scene.agents_talk_alone(&scene.page, &second).await?;

    assert_eq!(scene.act("complete_transfer", Value::Null).await?.status, 202);
    assert_eq!(scene.service.event("call.transferred").await?.data["completed"], true);
    scene.ada.page.state("wrap_up").await?;
    until_caller_hears(&scene.call, &[SECOND_AGENT_HZ]).await?;
    until_hears(&second, &[CALLER_HZ]).await?;
    assert_eq!(heard_voices(&caller_hears_next(&scene.call, SECOND).await?), [SECOND_AGENT_HZ]);

    // And back again, which Bob calls off.
    scene.ada.set_available(true).await?;
    scene.ada.page.state("idle").await?;
    let act = async |action: &str, body: Value| bob.api.act(scene.id.as_str(), action, body).await;
    assert_eq!(act("transfer", json!({ "agent": "ada", "warm": true })).await?.status, 202);
    scene.ada.rings().await?;
    let first = scene.ada.answers(&scene.service, &scene.id, AGENT_HZ).await?;
    until_hears(&first, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(act("cancel_transfer", Value::Null).await?.status, 202);
    scene.ada.page.state("wrap_up").await?;
    until_hears(&second, &[CALLER_HZ]).await?;
    until_caller_hears(&scene.call, &[SECOND_AGENT_HZ]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_need_not_wait_until_somebody_of_the_queue_is_free() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    scene.transfer(json!({ "queue": "support", "warm": true })).await?;
    scene.service.event("queue.entered").await?;
    assert_eq!(scene.act("complete_transfer", Value::Null).await?.status, 202);
    scene.ada.page.state("wrap_up").await?;
    until_caller_hears(&scene.call, &[HOLD_NOTE_HZ]).await?;
    let mut bob = Person::signs_in(&scene.service, BOB).await?;
    bob.set_available(true).await?;
    bob.rings().await?;
    let second = bob.answers(&scene.service, &scene.id, SECOND_AGENT_HZ).await?;
    until_caller_hears(&scene.call, &[SECOND_AGENT_HZ]).await?;
    until_hears(&second, &[CALLER_HZ]).await?;
    Ok(())
}
