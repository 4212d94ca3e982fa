//! Calls that the application places.

use patchcord::call::event::CallId;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Call, EndedBy, Stage};
use patchcord_simulator::callee::{AnswerWebhooks, Callee, CalleeOptions, Setup};
use patchcord_simulator::meta::{Meta, MetaOptions, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::client::{Answer, Client, READER, WRITER};
use crate::events::{App, has_no_gaps};
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_hears_next, agent_with_voice, caller,
    caller_hears_first, heard_voices, objections, until_caller_hears,
};
use crate::program::Program;
use crate::service::{Folder, TestOptions, TestService};

const NUMBER: &str = "12025550143";

/// A service with an agent, and somebody who permits calls.
struct Scene {
    service: TestService,
    agent: Agent,
    callee: Callee,
}

impl Scene {
    async fn start() -> anyhow::Result<Self> {
        Self::with(CalleeOptions::default(), TestOptions::default()).await
    }

    async fn with(callee: CalleeOptions, options: TestOptions) -> anyhow::Result<Self> {
        let agent = Agent::start(agent()).await?;
        let service = TestService::start_with(&agent.url(), options).await?;
        let callee = service.meta.permit(CalleeOptions { person: caller(), ..callee });
        Ok(Self { service, agent, callee })
    }

    async fn order(&self, body: Value) -> anyhow::Result<Answer> {
        order(&Client::new(&self.service, WRITER), body).await
    }

    /// A call to the callee, as the API shows it at first.
    async fn place(&self, mut more: Value) -> anyhow::Result<(CallId, Value)> {
        more["to"] = NUMBER.into();
        let answer = self.order(more).await?;
        assert_eq!(answer.status, 201, "{answer:?}");
        let id = answer.body["id"].as_str().and_then(CallId::parse);
        Ok((id.ok_or_else(|| anyhow::anyhow!("{answer:?}"))?, answer.body))
    }

    /// The data of `call.ended`, and the record.
    async fn ended(&mut self, call: &CallId) -> anyhow::Result<(Value, Value)> {
        let ended = self.service.event("call.ended").await?;
        assert_eq!(ended.call_id, *call);
        let record = Client::new(&self.service, READER).get(&format!("/v1/calls/{call}")).await?;
        assert_eq!(record.body["direction"], "business_initiated", "{record:?}");
        Ok((ended.data, record.body))
    }

    /// Callee and agent talk with each other until the callee hangs up.
    async fn conversation(mut self, call: &Call, id: &CallId) -> anyhow::Result<()> {
        let session = self.agent.wait_for_session(1).await?;
        call.wait_until(Stage::MediaUp).await?;
        assert_eq!(call.pick_up().await?, 200);
        self.service.event("call.accepted").await?;
        session.wait_for_message("accepted").await?;
        assert_eq!(heard_voices(&caller_hears_first(call, SECOND).await?), [AGENT_HZ]);
        assert_eq!(heard_voices(&agent_hears_next(&session, SECOND).await?), [CALLER_HZ]);
        call.hang_up().await?;
        let (ended, record) = self.ended(id).await?;
        assert_eq!((&ended["reason"], &ended["hung_up_by"]), (&"callee_hung_up".into(), &"callee".into()));
        assert!(record["accepted_at"].is_string() && record["talked_ms"].as_u64() >= Some(1000), "{record}");
        assert_eq!(session.wait_for_message("stop").await?["reason"], "callee_hung_up");
        assert_eq!(self.service.actions(), ["connect"], "Meta's own end is not repeated to it");
        assert_eq!(objections(call), [], "{}", call.seen());
        Ok(())
    }
}

async fn order(client: &Client, body: Value) -> anyhow::Result<Answer> {
    client.ask(Method::POST, "/v1/calls", Some(body.to_string().into_bytes())).await
}

fn by_hand() -> CalleeOptions {
    CalleeOptions { webhooks: AnswerWebhooks::ByHand, ..CalleeOptions::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn callee_and_agent_talk_and_events_records_and_agent_know_who_called() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let wanted = json!({ "tracker": "job-7f3a", "client_state": "order 7", "parameters": { "order": "7" } });
    let (id, placed) = scene.place(wanted).await?;
    assert_eq!((&placed["direction"], &placed["tracker"]), (&"business_initiated".into(), &"job-7f3a".into()));
    assert_eq!((&placed["from"]["wa_id"], &placed["client_state"]), (&NUMBER.into(), &"order 7".into()));
    let event = scene.service.event("call.placed").await?;
    assert_eq!((&event.call_id, event.client_state.as_deref()), (&id, Some("order 7")));
    assert_eq!(event.data["tracker"], "job-7f3a");

    let call = scene.callee.next_call().await?;
    assert_eq!(call.opaque_callback_data().as_deref(), Some("job-7f3a"));
    let ringing = scene.service.event("call.ringing").await?;
    assert_eq!((&ringing.data["wacid"], &ringing.data["tracker"]), (&call.wacid().into(), &"job-7f3a".into()));
    let shown = Client::new(&scene.service, READER).get(&format!("/v1/calls/{id}")).await?.body;
    assert_eq!((&shown["wacid"], &shown["state"]), (&call.wacid().into(), &"ringing".into()));

    let start = scene.agent.wait_for_session(1).await?.wait_for_message("start").await?;
    assert_eq!((&start["direction"], &start["wacid"]), (&"business_initiated".into(), &call.wacid().into()));
    assert_eq!((&start["from"]["wa_id"], &start["parameters"]["order"]), (&NUMBER.into(), &"7".into()));
    scene.conversation(&call, &id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn metas_relay_may_open_dtls_itself() -> anyhow::Result<()> {
    let callee = CalleeOptions { setup: Setup::Active, ..CalleeOptions::default() };
    let scene = Scene::with(callee, TestOptions::default()).await?;
    let (id, _) = scene.place(json!({})).await?;
    let call = scene.callee.next_call().await?;
    assert_eq!(call.opaque_callback_data().as_deref(), Some(id.as_str()), "without a tracker it is our id");
    scene.conversation(&call, &id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn metas_answer_may_come_before_its_reply_to_connect() -> anyhow::Result<()> {
    let callee = CalleeOptions { webhooks: AnswerWebhooks::BeforeReply, ..CalleeOptions::default() };
    let scene = Scene::with(callee, TestOptions::default()).await?;
    let (id, _) = scene.place(json!({})).await?;
    let call = scene.callee.next_call().await?;
    scene.conversation(&call, &id).await
}

/// connect is sent once: a second one would ring twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_connect_whose_reply_is_lost_goes_on_when_meta_shows_the_call() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    scene.service.meta.script("connect", vec![Reply::DoneButNoReply]);
    let (id, _) = scene.place(json!({ "tracker": "campaign" })).await?;
    let call = scene.callee.next_call().await?;
    scene.conversation(&call, &id).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_meta_shows_after_its_end_is_ended_there() -> anyhow::Result<()> {
    let mut scene = Scene::with(by_hand(), TestOptions::default()).await?;
    scene.service.meta.script("connect", vec![Reply::DoneButNoReply]);
    let (id, _) = scene.place(json!({})).await?;
    let call = scene.callee.next_call().await?;
    assert_eq!(scene.service.act(&id, "hangup", Value::Null).await, Ok(json!({})));
    assert_eq!(scene.ended(&id).await?.0["reason"], "hung_up_by_api");
    scene.service.all_ended().await?;
    assert_eq!(scene.service.count_of("terminate"), 0, "Meta has not named it");
    assert_eq!(call.ring().await?, 200);
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(scene.service.count_of("connect"), 1);
    Ok(())
}

/// The reply to connect, still on its way at the end, names the call.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_given_up_before_metas_reply_is_ended_after_it() -> anyhow::Result<()> {
    let mut scene = Scene::with(by_hand(), TestOptions::default()).await?;
    scene.service.meta.script("connect", vec![Reply::Delay(2 * SECOND, Box::new(Reply::Ok))]);
    let (id, _) = scene.place(json!({})).await?;
    scene.service.meta.wait_for_request("connect", 1).await?;
    assert_eq!(scene.service.act(&id, "hangup", Value::Null).await, Ok(json!({})));
    assert_eq!(scene.ended(&id).await?.0["reason"], "hung_up_by_api");
    let call = scene.callee.next_call().await?;
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_who_declines_is_told_apart_from_one_who_does_not_answer() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let (id, _) = scene.place(json!({})).await?;
    let call = scene.callee.next_call().await?;
    scene.service.event("call.agent_joined").await?;
    assert_eq!(call.decline().await?, 200);
    let (ended, record) = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["hung_up_by"]), (&"callee_declined".into(), &"callee".into()));
    assert_eq!((&ended["fault"], &record["accepted_at"]), (&"nobody".into(), &Value::Null));
    assert_eq!(scene.agent.wait_for_session(1).await?.wait_for_message("stop").await?["reason"], "callee_declined");

    let (id, _) = scene.place(json!({ "ring_timeout": "5s" })).await?;
    let call = scene.callee.next_call().await?;
    let (ended, _) = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["hung_up_by"]), (&"no_answer".into(), &"patchcord".into()));
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(scene.service.actions(), ["connect", "connect", "terminate"]);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_graph_refuses_ends_with_a_reason_of_its_own() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let stranger = scene.order(json!({ "to": "12025550177" })).await?;
    assert_eq!(stranger.status, 201, "{stranger:?}");
    let ended = scene.service.event("call.ended").await?.data;
    assert_eq!((&ended["reason"], &ended["meta_error_code"]), (&"no_permission".into(), &138_006.into()));
    assert_eq!(ended["fault"], "operator");

    let (first, _) = scene.place(json!({})).await?;
    let call = scene.callee.next_call().await?;
    let (second, _) = scene.place(json!({})).await?;
    let (ended, _) = scene.ended(&second).await?;
    assert_eq!((&ended["reason"], &ended["meta_error_code"]), (&"callee_busy".into(), &138_003.into()));
    assert_eq!(call.ended_by(), None, "the first call goes on");
    assert_eq!(scene.service.count_of("terminate"), 0);
    assert_eq!(scene.service.act(&first, "hangup", Value::Null).await, Ok(json!({})));
    call.wait_until(Stage::Ended).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_cannot_be_used_ends_the_call_at_meta() -> anyhow::Result<()> {
    let mut scene = Scene::with(by_hand(), TestOptions::default()).await?;
    let (id, _) = scene.place(json!({})).await?;
    let call = scene.callee.next_call().await?;
    let body = call.connect_body().replace("opus/48000/2", "PCMU/8000");
    assert_eq!(scene.service.meta.send_webhook(body).await?, 200);
    let (ended, _) = scene.ended(&id).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"answer_refused".into(), &"meta".into()));
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_transfers_and_hangs_up_a_placed_call() -> anyhow::Result<()> {
    let second = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let more_routes = format!("[routes.second]\nagent = \"{}\"", second.url());
    let options = TestOptions { more_routes, ..TestOptions::default() };
    let mut scene = Scene::with(CalleeOptions::default(), options).await?;
    let (id, _) = scene.place(json!({})).await?;
    let call = scene.callee.next_call().await?;
    scene.service.event("call.agent_joined").await?;
    assert_eq!(scene.service.act(&id, "accept", Value::Null).await, Err("invalid_command".to_owned()));
    assert_eq!(scene.service.act(&id, "reject", Value::Null).await, Err("invalid_command".to_owned()));
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up().await?;
    scene.service.event("call.accepted").await?;
    assert_eq!(scene.service.act(&id, "transfer", json!({ "route": "second" })).await, Ok(json!({})));
    assert_eq!(scene.service.event("call.transferred").await?.data["completed"], true);
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(scene.service.act(&id, "hangup", Value::Null).await, Ok(json!({})));
    assert_eq!(scene.ended(&id).await?.0["reason"], "hung_up_by_api");
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_for_one_call_and_a_call_without_an_agent() -> anyhow::Result<()> {
    let more_routes = "[routes.news]\nagent = \"prompt:goodbye\"".to_owned();
    let mut scene =
        Scene::with(CalleeOptions::default(), TestOptions { more_routes, ..TestOptions::default() }).await?;
    let (id, placed) = scene.place(json!({ "route": "news" })).await?;
    assert_eq!(placed["route"], "news");
    let call = scene.callee.next_call().await?;
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up().await?;
    assert_eq!(scene.ended(&id).await?.0["reason"], "prompt_finished");
    call.wait_until(Stage::Ended).await?;

    let (id, _) = scene.place(json!({ "without_agent": true })).await?;
    let call = scene.callee.next_call().await?;
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up().await?;
    scene.service.event("call.accepted").await?;
    assert_eq!(scene.service.act(&id, "connect", json!({ "route": "reception" })).await, Ok(json!({})));
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_that_cannot_be_carried_out_say_what_to_give() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    let long = "x".repeat(513);
    let cases = [
        (json!({}), "invalid_command", "to:"),
        (json!({ "to": "0123" }), "invalid_command", "to:"),
        (json!({ "to": "+49 30 1234" }), "invalid_command", "to:"),
        (json!({ "to": NUMBER, "to_user_id": "US.1" }), "invalid_command", "one of to and to_user_id"),
        (json!({ "to": NUMBER, "phone_number_id": "999" }), "unknown_number", "phone_number_id:"),
        (json!({ "to": NUMBER, "route": "nowhere" }), "unknown_route", "[routes.nowhere]"),
        (json!({ "to": NUMBER, "route": "reception", "without_agent": true }), "invalid_command", "without_agent:"),
        (json!({ "to": NUMBER, "tracker": long }), "invalid_command", "512"),
        (json!({ "to": NUMBER, "ring_timeout": "4s" }), "invalid_command", "ring_timeout:"),
        (json!({ "to": NUMBER, "ringtimeout": "30s" }), "invalid_command", "ringtimeout"),
        (json!({ "to": NUMBER, "url": "ws://agents.example/" }), "url_not_allowed", "url:"),
    ];
    for (body, code, advice) in cases {
        let answer = scene.order(body.clone()).await?;
        answer.is_problem(422, code);
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(advice)), "{body}: {answer:?}");
    }
    let reader = Client::new(&scene.service, READER);
    order(&reader, json!({ "to": NUMBER })).await?.is_problem(403, "missing_scope");
    assert_eq!(scene.service.actions(), [""; 0]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_call_that_rings_at_a_crash_is_ended_by_the_next_start() -> anyhow::Result<()> {
    let (folder, mut app) = (Folder::new()?, App::start().await?);
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let callee = meta.permit(CalleeOptions { person: caller(), ..CalleeOptions::default() });
    let options = || TestOptions { route: String::new(), ..app.options() };
    let (first, second) = (options(), options());
    let program = Program::start(&folder, &meta, &agent, first).await?;
    let placed = order(&Client::at(program.url(), WRITER), json!({ "to": NUMBER })).await?;
    assert_eq!(placed.status, 201, "{placed:?}");
    let call = callee.next_call().await?;
    // The call's name is stored before the event.
    app.until("call.ringing").await?;
    program.finish().await?;

    let again = Program::start(&folder, &meta, &agent, second).await?;
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated), "{}", call.seen());
    let events = app.until("call.ended").await?;
    assert_eq!(events[events.len() - 1]["data"]["reason"], "service_lost");
    let record =
        Client::at(again.url(), READER).get(&format!("/v1/calls/{}", placed.body["id"].as_str().unwrap())).await?;
    assert_eq!(
        (&record.body["direction"], &record.body["reason"]),
        (&"business_initiated".into(), &"service_lost".into())
    );
    again.finish().await?;
    Ok(())
}

/// Meta had the call when the process was killed, and its reply never came.
#[tokio::test(flavor = "multi_thread")]
async fn a_placed_call_that_meta_had_not_named_at_a_crash_is_ended_when_it_shows() -> anyhow::Result<()> {
    let (folder, mut app) = (Folder::new()?, App::start().await?);
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let callee = meta.permit(CalleeOptions { person: caller(), ..by_hand() });
    let options = || TestOptions { route: String::new(), ..app.options() };
    let (first, second) = (options(), options());
    meta.script("connect", vec![Reply::DoneButHangs]);
    let program = Program::start(&folder, &meta, &agent, first).await?;
    let placed = order(&Client::at(program.url(), WRITER), json!({ "to": NUMBER })).await?;
    assert_eq!(placed.status, 201, "{placed:?}");
    let call = callee.next_call().await?;
    program.finish().await?;

    let again = Program::start(&folder, &meta, &agent, second).await?;
    let events = app.until("call.ended").await?;
    has_no_gaps(&events);
    assert_eq!(events[events.len() - 1]["data"]["reason"], "service_lost");
    assert_eq!(call.ended_by(), None);
    assert_eq!(call.ring().await?, 200);
    call.wait_until(Stage::Ended).await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated), "{}", call.seen());
    again.finish().await?;
    Ok(())
}
