//! Calls whose app keeps Meta's webhooks and requests for itself: the service carries the media and asks Meta for nothing.

use anyhow::Context;
use patchcord::call::event::CallId;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Announce, Call, CallerOptions, EndedBy, Stage};
use patchcord_simulator::callee::{AnswerWebhooks, Callee, CalleeOptions, Setup};
use patchcord_simulator::meta::{Meta, MetaOptions};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::client::{Answer, Client, READER, WRITER};
use crate::events::App;
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next, agent_with_voice, caller,
    caller_hears_first, heard_voices, objections, until_caller_hears,
};
use crate::program::Program;
use crate::service::{Folder, Talk, TestOptions, TestService};

const NUMBER: &str = "12025550143";

/// A service without `[whatsapp]`, an agent, and Meta, whose webhooks and requests are the app's: the test plays it.
struct Scene {
    service: TestService,
    agent: Agent,
}

impl Scene {
    async fn start() -> anyhow::Result<Self> {
        Self::with(TestOptions::default()).await
    }

    async fn with(options: TestOptions) -> anyhow::Result<Self> {
        let agent = Agent::start(agent()).await?;
        let options = TestOptions { without_whatsapp: true, ..options };
        let service = TestService::start_with(&agent.url(), options).await?;
        Ok(Self { service, agent })
    }

    async fn order(&self, body: &Value) -> anyhow::Result<Answer> {
        order(&Client::new(&self.service, WRITER), body).await
    }

    /// Somebody calls, and the app has the call taken. Gives the call, our id and our answer.
    async fn taken(&self, caller: CallerOptions) -> anyhow::Result<(Call, CallId, String)> {
        let call = self.service.unannounced(caller).await?;
        let taken = self.order(&offered(&call)).await?;
        let id = id_of(&taken)?;
        let answer = taken.body["answer"].as_str().context("our answer")?.to_owned();
        assert_eq!(taken.body.get("offer"), None, "{taken:?}");
        Ok((call, id, answer))
    }

    /// A call up to its conversation.
    async fn talking(&mut self) -> anyhow::Result<(Call, CallId)> {
        let (call, id, answer) = self.taken(caller()).await?;
        assert_eq!(graph(&self.service.meta, &call, "pre_accept", &answer).await?, 200);
        self.service.event("call.ready_to_accept").await?;
        assert_eq!(graph(&self.service.meta, &call, "accept", &answer).await?, 200);
        assert_eq!(self.service.act(&id, "accepted", Value::Null).await, Ok(Value::Null));
        self.service.event("call.accepted").await?;
        Ok((call, id))
    }

    /// The data of `call.ended`; the record has the same reason.
    async fn ended(&mut self, id: &CallId) -> anyhow::Result<Value> {
        let ended = self.service.event("call.ended").await?;
        assert_eq!(ended.call_id, *id);
        let record = Client::new(&self.service, READER).get(&format!("/v1/calls/{id}")).await?.body;
        assert_eq!((&record["signaling"], &record["reason"]), (&"external".into(), &ended.data["reason"]), "{record}");
        Ok(ended.data)
    }

    /// The app places a call: gives the callee's call, and our id.
    async fn placed(&self, callee: &Callee) -> anyhow::Result<(Call, CallId)> {
        let taken = self.order(&placing()).await?;
        let id = id_of(&taken)?;
        assert_eq!((&taken.body["state"], taken.body.get("answer")), (&"placing".into(), None), "{taken:?}");
        let offer = taken.body["offer"].as_str().context("our offer")?;
        let connect = json!({
            "messaging_product": "whatsapp", "action": "connect", "to": NUMBER,
            "session": { "sdp_type": "offer", "sdp": offer },
        });
        assert_eq!(request(&self.service.meta, &connect).await?, 200);
        Ok((callee.next_call().await?, id))
    }
}

/// What the app posts when Meta has announced this call to it.
fn offered(call: &Call) -> Value {
    json!({
        "signaling": "external",
        "wacid": call.wacid(),
        "offer": call.offer(),
        "from": { "wa_id": NUMBER, "name": "Example Caller" },
        "to": { "phone_number_id": "200000000000002", "display_phone_number": "12025550199" },
        "route": "reception",
        "client_state": "ticket 7",
    })
}

fn placing() -> Value {
    json!({
        "signaling": "external",
        "direction": "business_initiated",
        "from": { "wa_id": NUMBER },
        "to": { "phone_number_id": "200000000000002" },
        "route": "reception",
        "tracker": "job-7f3a",
    })
}

fn by_hand(setup: Setup) -> CalleeOptions {
    CalleeOptions { person: caller(), webhooks: AnswerWebhooks::ByHand, setup }
}

async fn order(client: &Client, body: &Value) -> anyhow::Result<Answer> {
    client.ask(Method::POST, "/v1/calls", Some(body.to_string().into_bytes())).await
}

fn id_of(taken: &Answer) -> anyhow::Result<CallId> {
    assert_eq!(taken.status, 201, "{taken:?}");
    taken.body["id"].as_str().and_then(CallId::parse).with_context(|| format!("{taken:?}"))
}

/// A request of the app to Meta, with an SDP answer unless it is empty.
async fn graph(meta: &Meta, call: &Call, action: &str, answer: &str) -> anyhow::Result<u16> {
    let mut body = json!({ "messaging_product": "whatsapp", "call_id": call.wacid(), "action": action });
    if !answer.is_empty() {
        body["session"] = json!({ "sdp_type": "answer", "sdp": answer });
    }
    request(meta, &body).await
}

async fn request(meta: &Meta, body: &Value) -> anyhow::Result<u16> {
    let account = meta.options();
    let url = format!("{}/v26.0/{}/calls", meta.graph_url(), account.phone_number_id);
    let http = reqwest::Client::builder().no_proxy().build()?;
    let request = http.post(url).bearer_auth(&account.access_token).header("content-type", "application/json");
    Ok(request.body(body.to_string()).send().await?.status().as_u16())
}

/// Meta's answer, as its `connect` webhook has it.
fn metas_answer(call: &Call) -> anyhow::Result<String> {
    let webhook: Value = serde_json::from_str(&call.connect_body())?;
    let sdp = &webhook["entry"][0]["changes"][0]["value"]["calls"][0]["session"]["sdp"];
    Ok(sdp.as_str().context("an SDP")?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_signals_itself_has_the_media_carried() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let (call, id, answer) = scene.taken(caller()).await?;
    let incoming = scene.service.event("call.incoming").await?;
    assert_eq!((&incoming.call_id, incoming.client_state.as_deref()), (&id, Some("ticket 7")));
    assert_eq!((&incoming.data["signaling"], &incoming.data["wacid"]), (&"external".into(), &call.wacid().into()));
    let shown = Client::new(&scene.service, READER).get(&format!("/v1/calls/{id}")).await?.body;
    assert_eq!((&shown["state"], &shown["direction"]), (&"ringing".into(), &"user_initiated".into()), "{shown}");

    assert_eq!(graph(&scene.service.meta, &call, "pre_accept", &answer).await?, 200);
    scene.service.event("call.ready_to_accept").await?;
    let kinds = scene.service.kinds();
    assert!(["call.media_connected", "call.agent_joined"].iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    let shown = Client::new(&scene.service, READER).get(&format!("/v1/calls/{id}")).await?.body;
    assert_eq!(shown["state"], "accepting", "{shown}");
    assert_eq!(graph(&scene.service.meta, &call, "accept", &answer).await?, 200);
    assert_eq!(scene.service.act(&id, "accepted", Value::Null).await, Ok(Value::Null));
    scene.service.event("call.accepted").await?;

    let session = scene.agent.wait_for_session(1).await?;
    let start = session.wait_for_message("start").await?;
    assert_eq!((&start["wacid"], &start["from"]["wa_id"]), (&call.wacid().into(), &NUMBER.into()));
    assert_eq!(start["to"]["phone_number_id"], "200000000000002");
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
    assert_eq!(heard_voices(&agent_hears_next(&session, SECOND).await?), [CALLER_HZ]);

    call.hang_up().await?;
    let over = json!({ "status": "COMPLETED", "duration": 3 });
    assert_eq!(scene.service.act(&id, "terminated", over.clone()).await, Ok(Value::Null));
    let ended = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["terminate_at_meta"]), (&"caller_hung_up".into(), &false.into()));
    assert_eq!(scene.service.act(&id, "terminated", over).await, Err("call_ended".to_owned()));
    assert_eq!(scene.service.actions(), ["pre_accept", "accept"], "all of them are the app's");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_told_to_end_a_call_that_ends_here() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let (call, id) = scene.talking().await?;
    let session = scene.agent.wait_for_session(1).await?;
    session.bye().await;
    let ended = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["terminate_at_meta"]), (&"agent_hung_up".into(), &true.into()));
    assert_eq!(scene.service.count_of("terminate"), 0, "the service asks Meta for nothing");
    assert_eq!(graph(&scene.service.meta, &call, "terminate", "").await?, 200);
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(objections(&call), [], "{}", call.seen());

    let (_, id, _) = scene.taken(caller()).await?;
    assert_eq!(scene.service.act(&id, "reject", json!({ "reason": "closed" })).await, Ok(json!({})));
    let ended = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["terminate_at_meta"]), (&"rejected_by_api".into(), &true.into()));

    let (_, id, _) = scene.taken(caller()).await?;
    assert_eq!(scene.service.act(&id, "terminated", json!({ "by": "app" })).await, Ok(Value::Null));
    let ended = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["terminate_at_meta"]), (&"terminated_by_app".into(), &false.into()));
    assert_eq!((&ended["hung_up_by"], &ended["fault"]), (&"app".into(), &"nobody".into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_before_media_starts_the_conversation_once_they_are_up() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let (call, id, answer) = scene.taken(caller()).await?;
    assert_eq!(scene.service.act(&id, "accepted", Value::Null).await, Ok(Value::Null));
    assert_eq!(scene.service.act(&id, "accepted", Value::Null).await, Ok(Value::Null), "it may come twice");
    assert_eq!(graph(&scene.service.meta, &call, "accept", &answer).await?, 200);
    scene.service.event("call.accepted").await?;
    assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
    let kinds = scene.service.kinds();
    assert!(!kinds.contains(&"call.ready_to_accept"), "{kinds:?}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_never_accepted_is_given_up() -> anyhow::Result<()> {
    let options = TestOptions { calls: "accept_timeout = \"3s\"".to_owned(), ..TestOptions::default() };
    let mut scene = Scene::with(options).await?;
    let (call, id, answer) = scene.taken(caller()).await?;
    assert_eq!(graph(&scene.service.meta, &call, "pre_accept", &answer).await?, 200);
    let ended = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"not_accepted_by_app".into(), &"operator".into()), "{ended}");
    assert_eq!(ended["terminate_at_meta"], true);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wacid_is_taken_once() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let (call, client) = (scene.service.unannounced(caller()).await?, Client::new(&scene.service, WRITER));
    let body = offered(&call).to_string();
    let taken = client.once("webhook-1", "/v1/calls", &body).await?;
    let id = id_of(&taken)?;
    let repeated = client.once("webhook-1", "/v1/calls", &body).await?;
    assert_eq!((repeated.status, &repeated.body), (201, &taken.body), "the same answer");
    let again = scene.order(&offered(&call)).await?;
    again.is_problem(409, "wacid_in_use");
    assert_eq!(again.body["call_id"], id.as_str(), "{again:?}");
    assert_eq!(scene.service.live_calls().await?, 1);
    scene.service.act(&id, "hangup", Value::Null).await.unwrap();
    scene.ended(&id).await?;
    scene.service.all_ended().await?;
    scene.order(&offered(&call)).await?.is_problem(409, "call_ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_call_is_refused_and_leaves_nothing() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let call = scene.service.unannounced(caller()).await?;
    let good = offered(&call);
    let with = |key: &str, value: Value| {
        let mut body = good.clone();
        body[key] = value;
        body
    };
    let without = |key: &str| {
        let mut body = good.clone();
        body.as_object_mut().unwrap().remove(key);
        body
    };
    let offer = |from: &str, to: &str| with("offer", call.offer().replace(from, to).into());
    for (body, code, word) in [
        (with("offer", "".into()), "offer_refused", "offer: "),
        (with("offer", "v=0\r\n".into()), "offer_refused", "offer: "),
        (with("offer", "\u{0}\u{1f600}".repeat(1000).into()), "offer_refused", "offer: "),
        (offer("opus/48000/2", "PCMU/8000"), "offer_refused", "pus"),
        (offer("a=fingerprint:", "a=x-fingerprint:"), "offer_refused", "fingerprint"),
        (offer("a=ice-ufrag:", "a=x-ice-ufrag:"), "offer_refused", "ice-"),
        (without("offer"), "invalid_command", "offer: "),
        (without("wacid"), "invalid_command", "wacid: "),
        (with("wacid", "two words".into()), "invalid_command", "wacid: "),
        (with("wacid", "w".repeat(600).into()), "invalid_command", "wacid: "),
        (with("offer", 7.into()), "invalid_command", "string"),
        (with("signaling", "sip".into()), "invalid_command", "signaling: "),
        (with("direction", "sideways".into()), "invalid_command", "direction: "),
        (with("direction", "business_initiated".into()), "invalid_command", "offer: "),
        (with("ring_timeout", "30s".into()), "invalid_command", "ring_timeout: "),
        (with("to", json!({ "phone_number_id": "+1" })), "invalid_command", "to.phone_number_id: "),
        (without("to"), "invalid_command", "to.phone_number_id: "),
        (with("from", json!({ "name": "n".repeat(300) })), "invalid_command", "from.name: "),
        (with("from", json!({ "age": 7 })), "invalid_command", "unknown field"),
        (with("answer", "v=0".into()), "invalid_command", "unknown field"),
        (with("route", "nowhere".into()), "unknown_route", "routes.nowhere"),
        (without("route"), "invalid_command", "route: "),
        (with("without_agent", true.into()), "invalid_command", "without_agent: "),
        (with("client_state", "x".repeat(5000).into()), "invalid_command", "client_state: "),
    ] {
        let refused = scene.order(&body).await?;
        refused.is_problem(422, code);
        let detail = refused.body["detail"].as_str().unwrap_or_default();
        assert!(detail.contains(word), "{word}: {detail}");
    }
    assert_eq!(scene.service.live_calls().await?, 0);
    assert_eq!(scene.service.kinds(), [""; 0]);

    let placing_with = |key: &str, value: Value| {
        let mut body = placing();
        body[key] = value;
        body
    };
    for body in [placing_with("ring_timeout", "1s".into()), placing_with("wacid", call.wacid().into())] {
        scene.order(&body).await?.is_problem(422, "invalid_command");
    }
    scene.order(&good).await.map(|taken| id_of(&taken))??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_service_signals_takes_no_reports() -> anyhow::Result<()> {
    let mut talk = Talk::start(agent()).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    for (action, body) in [
        ("answer", json!({ "answer": metas_answer(&talk.call)? })),
        ("ringing", Value::Null),
        ("accepted", Value::Null),
        ("terminated", json!({ "status": "COMPLETED" })),
    ] {
        let refused = talk.service.act(&id, action, body).await;
        assert!(["invalid_command", "answer_refused"].contains(&refused.clone().unwrap_err().as_str()), "{refused:?}");
    }
    assert_eq!(talk.call.ended_by(), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_places_a_call_in_both_roles_of_metas_relay() -> anyhow::Result<()> {
    for setup in [Setup::Passive, Setup::Active] {
        let mut scene = Scene::start().await?;
        let callee = scene.service.meta.permit(by_hand(setup));
        let (call, id) = scene.placed(&callee).await?;
        let placed = scene.service.event("call.placed").await?;
        assert_eq!((&placed.data["signaling"], &placed.data["tracker"]), (&"external".into(), &"job-7f3a".into()));
        let answer = json!({ "answer": metas_answer(&call)?, "wacid": call.wacid() });
        assert_eq!(scene.service.act(&id, "answer", answer.clone()).await, Ok(Value::Null));
        assert_eq!(scene.service.act(&id, "answer", answer).await, Ok(Value::Null), "it may come twice");
        assert_eq!(scene.service.act(&id, "ringing", Value::Null).await, Ok(Value::Null));
        let ringing = scene.service.event("call.ringing").await?;
        assert_eq!(ringing.data["wacid"], call.wacid());
        let session = scene.agent.wait_for_session(1).await?;
        call.wait_until(Stage::MediaUp).await?;
        call.pick_up().await?;
        assert_eq!(scene.service.act(&id, "accepted", Value::Null).await, Ok(Value::Null));
        scene.service.event("call.accepted").await?;
        let start = session.wait_for_message("start").await?;
        assert_eq!((&start["direction"], &start["wacid"]), (&"business_initiated".into(), &call.wacid().into()));
        assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ]);
        assert_eq!(heard_voices(&agent_hears_next(&session, SECOND).await?), [CALLER_HZ]);
        call.hang_up().await?;
        let over = json!({ "status": "COMPLETED", "duration": 3 });
        assert_eq!(scene.service.act(&id, "terminated", over).await, Ok(Value::Null));
        let ended = scene.ended(&id).await?;
        assert_eq!((&ended["reason"], &ended["terminate_at_meta"]), (&"callee_hung_up".into(), &false.into()));
        assert_eq!(scene.service.actions(), ["connect"]);
        assert_eq!(objections(&call), [], "{}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_who_declines_or_does_not_answer() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let callee = scene.service.meta.permit(by_hand(Setup::Passive));
    let (call, id) = scene.placed(&callee).await?;
    call.decline().await?;
    let declined = json!({ "status": "REJECTED" });
    assert_eq!(scene.service.act(&id, "terminated", declined).await, Ok(Value::Null));
    assert_eq!(scene.ended(&id).await?["reason"], "callee_declined");

    let mut body = placing();
    body["ring_timeout"] = "5s".into();
    let id = id_of(&scene.order(&body).await?)?;
    let ended = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["terminate_at_meta"]), (&"no_answer".into(), &true.into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_does_not_fit_is_refused_with_its_fault() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let callee = scene.service.meta.permit(by_hand(Setup::Passive));
    let (call, id) = scene.placed(&callee).await?;
    let good = metas_answer(&call)?;
    let client = Client::new(&scene.service, WRITER);
    for bad in ["", "v=0", &good.replace("opus/48000/2", "PCMU/8000"), &good.replace("a=fingerprint:", "a=x:")] {
        let refused = client.act(id.as_str(), "answer", json!({ "answer": bad })).await?;
        refused.is_problem(422, "answer_refused");
    }
    let unnamed = client.act(id.as_str(), "answer", json!({ "answer": good, "wacid": "two words" })).await?;
    unnamed.is_problem(422, "invalid_command");
    assert_eq!(scene.service.act(&id, "accepted", json!({ "wacid": call.wacid() })).await, Ok(Value::Null));
    assert_eq!(
        scene.service.act(&id, "accepted", json!({ "wacid": "wacid.other" })).await,
        Err("invalid_command".into())
    );

    // It reads well, and has no address that media can go to.
    let nowhere: String = good
        .lines()
        .filter(|line| !line.starts_with("a=candidate"))
        .fold(String::new(), |sdp, line| sdp + line + "\r\n");
    let refused = client.act(id.as_str(), "answer", json!({ "answer": nowhere })).await?;
    refused.is_problem(422, "answer_refused");
    let ended = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["terminate_at_meta"]), (&"answer_refused".into(), &true.into()));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn media_that_are_lost_end_the_call_and_the_app_ends_it_at_meta() -> anyhow::Result<()> {
    let calls = "media_lost_warn = \"1s\"\nmedia_lost_end = \"2s\"\nmedia_silent_end = \"3s\"".to_owned();
    let mut scene = Scene::with(TestOptions { calls, ..TestOptions::default() }).await?;
    let (call, id) = scene.talking().await?;
    call.vanish().await;
    let ended = scene.ended(&id).await?;
    assert_eq!((&ended["fault"], &ended["terminate_at_meta"]), (&"caller".into(), &true.into()), "{ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn recording_transfer_and_the_command_to_accept_work_as_with_any_call() -> anyhow::Result<()> {
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let options = TestOptions {
        route: "record = true\nanswer = \"on_command\"".to_owned(),
        more_routes: format!("[routes.second]\nagent = \"{}\"", second.url()),
        ..TestOptions::default()
    };
    let mut scene = Scene::with(options).await?;
    let (call, id, answer) = scene.taken(caller()).await?;
    assert_eq!(graph(&scene.service.meta, &call, "pre_accept", &answer).await?, 200);
    scene.service.event("call.media_connected").await?;
    assert_eq!(scene.service.act(&id, "accept", Value::Null).await, Ok(json!({})));
    scene.service.event("call.ready_to_accept").await?;
    assert_eq!(graph(&scene.service.meta, &call, "accept", &answer).await?, 200);
    assert_eq!(scene.service.act(&id, "accepted", Value::Null).await, Ok(Value::Null));
    scene.service.event("call.recording_started").await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(scene.service.act(&id, "transfer", json!({ "route": "second" })).await, Ok(json!({})));
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(scene.service.act(&id, "hangup", Value::Null).await, Ok(json!({})));
    let finished = scene.service.event("call.recording_finished").await?;
    assert_eq!(finished.data["complete"], true, "{:?}", finished.data);
    assert_eq!(scene.ended(&id).await?["reason"], "hung_up_by_api");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_route_takes_an_agent_later() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let call = scene.service.unannounced(caller()).await?;
    let mut body = offered(&call);
    body.as_object_mut().unwrap().remove("route");
    body["without_agent"] = true.into();
    let taken = scene.order(&body).await?;
    let (id, answer) = (id_of(&taken)?, taken.body["answer"].as_str().context("our answer")?);
    assert_eq!(graph(&scene.service.meta, &call, "pre_accept", answer).await?, 200);
    scene.service.event("call.ready_to_accept").await?;
    assert_eq!(graph(&scene.service.meta, &call, "accept", answer).await?, 200);
    assert_eq!(scene.service.act(&id, "accepted", Value::Null).await, Ok(Value::Null));
    scene.service.event("call.accepted").await?;
    assert_eq!(scene.service.act(&id, "connect", json!({ "route": "reception" })).await, Ok(json!({})));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(scene.service.act(&id, "hangup", Value::Null).await, Ok(json!({})));
    assert_eq!(scene.ended(&id).await?["reason"], "hung_up_by_api");
    Ok(())
}

/// The next process has no media of the call, and the app has to end it.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_killed_has_the_app_end_its_calls() -> anyhow::Result<()> {
    let (folder, mut app, meta) = (Folder::new()?, App::start().await?, Meta::start(MetaOptions::default()).await?);
    let agent = Agent::start(agent()).await?;
    let options = || TestOptions { without_whatsapp: true, route: String::new(), ..app.options() };
    let (first, second) = (options(), options());
    let program = Program::start(&folder, &meta, &agent, first).await?;
    let call = meta.place_call(CallerOptions { announce: Announce::ByHand, ..caller() }).await?;
    let client = Client::at(program.url(), WRITER);
    let taken = order(&client, &offered(&call)).await?;
    let (id, answer) = (id_of(&taken)?, taken.body["answer"].as_str().context("our answer")?);
    assert_eq!(graph(&meta, &call, "accept", answer).await?, 200);
    assert_eq!(client.act(id.as_str(), "accepted", Value::Null).await?.status, 200);
    call.wait_until(Stage::FirstSound).await?;
    let placed = id_of(&order(&client, &placing()).await?)?;
    // It is on disk then.
    app.until("call.placed").await?;
    program.finish().await?;

    let again = Program::start(&folder, &meta, &agent, second).await?;
    let mut told = Vec::new();
    for _ in [&id, &placed] {
        let events = app.until("call.ended").await?;
        told.push(events.into_iter().next_back().context("an end")?);
    }
    for ended in &told {
        assert_eq!(ended["data"]["reason"], "service_lost", "{ended}");
        assert_eq!(ended["data"]["terminate_at_meta"], true, "{ended}");
    }
    let mut ids: Vec<&str> = told.iter().filter_map(|ended| ended["call_id"].as_str()).collect();
    ids.sort_unstable();
    assert_eq!(ids, [id.as_str(), placed.as_str()]);
    assert_eq!(meta.requests().len(), 1, "only the app's accept");
    again.finish().await?;
    Ok(())
}
