//! How many calls a business number places: in a second, at once, and in its queue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use futures_util::future::join_all;
use futures_util::{StreamExt, TryStreamExt, stream};
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::CallerOptions;
use patchcord_simulator::callee::{AnswerWebhooks, Callee, CalleeOptions};
use patchcord_simulator::meta::{Meta, MetaOptions, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::client::{Answer, Client, READER, WRITER};
use crate::drills::report;
use crate::events::App;
use crate::people::{agent, quiet_caller};
use crate::program::Program;
use crate::service::{Folder, TestOptions, TestService};

/// Numbers from the range for fiction; nobody there has permitted calls unless a scene says so.
const NUMBER: &str = "12025550143";
const STRANGER: &str = "12025550177";

/// A service with limits, and somebody who permits calls.
struct Scene {
    service: TestService,
    _agent: Agent,
    callee: Callee,
}

impl Scene {
    /// With these limits, such as `per_second = 1`.
    async fn with(placing: &str) -> anyhow::Result<Self> {
        let agent = Agent::start(agent()).await?;
        let options = TestOptions { number: format!("placing = {{ {placing} }}"), ..TestOptions::default() };
        let service = TestService::start_with(&agent.url(), options).await?;
        let callee = service.meta.permit(CalleeOptions { person: quiet_caller(), ..CalleeOptions::default() });
        Ok(Self { service, _agent: agent, callee })
    }

    async fn order(&self, to: &str, key: &str) -> anyhow::Result<Answer> {
        self.place(key, json!({ "to": to })).await
    }

    async fn place(&self, key: &str, body: Value) -> anyhow::Result<Answer> {
        Client::new(&self.service, WRITER).once(key, "/v1/calls", &body.to_string()).await
    }

    /// The data of the call's end.
    async fn end_of(&mut self, id: &str) -> anyhow::Result<Value> {
        loop {
            let ended = self.service.event("call.ended").await?;
            if ended.call_id.as_str() == id {
                return Ok(ended.data);
            }
        }
    }
}

fn retry_after(answer: &Answer) -> Option<u64> {
    answer.header("retry-after")?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_live_call_than_the_number_may_place_is_refused() -> anyhow::Result<()> {
    let mut scene = Scene::with("live = 1").await?;
    assert_eq!(scene.order(NUMBER, "first").await?.status, 201);
    let call = scene.callee.next_call().await?;
    let refused = scene.order(STRANGER, "second").await?;
    refused.is_problem(429, "number_busy");
    assert!(retry_after(&refused) >= Some(1), "{refused:?}");
    assert_eq!(call.decline().await?, 200);
    scene.service.event("call.ended").await?;
    scene.service.all_ended().await?;
    let again = scene.order(STRANGER, "second").await?;
    assert_eq!(again.status, 201, "a refused order is not the answer to its retry: {again:?}");
    assert_eq!(scene.service.event("call.ended").await?.data["reason"], "no_permission");
    assert_eq!(scene.service.count_of("connect"), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_starts_no_more_calls_in_a_second_than_it_may() -> anyhow::Result<()> {
    let scene = Scene::with("per_second = 1").await?;
    let keys: Vec<String> = (0..8).map(|number| format!("order-{number}")).collect();
    // Each to another person, because it is known after the first refusal who permits no calls.
    let people: Vec<String> = (0..8).map(stranger).collect();
    let answers = join_all(keys.iter().zip(&people).map(|(key, person)| scene.order(person, key))).await;
    let (mut placed, mut refused) = (0, Vec::new());
    for (key, answer) in keys.iter().zip(answers) {
        let answer = answer?;
        match answer.status {
            201 => placed += 1,
            _ => {
                answer.is_problem(429, "number_rate_limited");
                assert_eq!(retry_after(&answer), Some(1), "{answer:?}");
                refused.push(key);
            }
        }
    }
    // On a machine that takes seconds for eight requests, more than one are placed.
    assert!(placed >= 1 && !refused.is_empty(), "{placed} placed");
    assert!(scene.service.count_of("connect") <= placed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_come_in_do_not_count() -> anyhow::Result<()> {
    let mut scene = Scene::with("live = 1").await?;
    let caller = CallerOptions { from: Some("12025550144".to_owned()), ..quiet_caller() };
    let _incoming = scene.service.call(caller).await?;
    scene.service.event("call.accepted").await?;
    let placed: Value = scene.order(NUMBER, "first").await?.body;
    assert_eq!(placed["state"], "placing", "{placed}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_call_waits_for_its_turn_and_keeps_its_id() -> anyhow::Result<()> {
    let mut scene = Scene::with("live = 1").await?;
    assert_eq!(scene.order(NUMBER, "first").await?.status, 201);
    let first = scene.callee.next_call().await?;
    let wanted = json!({ "to": NUMBER, "when": "queued", "client_state": "order 7", "tracker": "job-7" });
    let queued = scene.place("second", wanted.clone()).await?;
    assert_eq!((queued.status, &queued.body["state"]), (202, &"queued".into()), "{queued:?}");
    assert_eq!((&queued.body["priority"], &queued.body["tracker"]), (&5.into(), &"job-7".into()));
    let again = scene.place("second", wanted).await?;
    assert_eq!((again.status, &again.body), (202, &queued.body), "one Idempotency-Key queues one call");
    let id = queued.body["id"].as_str().unwrap_or_default().to_owned();
    let reader = Client::new(&scene.service, READER);
    let listed = reader.get("/v1/queued_calls").await?.body;
    assert_eq!(listed, json!({ "queued_calls": [queued.body], "next": null }));
    assert_eq!(reader.get(&format!("/v1/queued_calls/{id}")).await?.body, queued.body);
    reader.get(&format!("/v1/calls/{id}")).await?.is_problem(404, "call_not_found");
    let event = scene.service.event("call.queued").await?;
    assert_eq!((event.call_id.as_str(), event.sequence), (id.as_str(), 1));
    assert_eq!((event.client_state.as_deref(), &event.data["tracker"]), (Some("order 7"), &"job-7".into()));

    assert_eq!(first.decline().await?, 200);
    let second = scene.callee.next_call().await?;
    assert_eq!(second.opaque_callback_data().as_deref(), Some("job-7"));
    let placed = scene.service.event("call.placed").await?;
    assert_eq!((placed.call_id.as_str(), placed.sequence), (id.as_str(), 2));
    assert_eq!(placed.client_state.as_deref(), Some("order 7"));
    reader.get(&format!("/v1/queued_calls/{id}")).await?.is_problem(409, "already_placed");
    let cancelled = Client::new(&scene.service, WRITER).delete(&format!("/v1/queued_calls/{id}")).await?;
    cancelled.is_problem(409, "already_placed");
    assert_eq!(second.decline().await?, 200);
    let ended = scene.end_of(&id).await?;
    assert_eq!(ended["reason"], "callee_declined");
    assert_eq!(scene.service.count_of("connect"), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_bounded_and_a_queued_call_is_cancelled_or_expires() -> anyhow::Result<()> {
    let mut scene = Scene::with("live = 1, queued = 2").await?;
    assert_eq!(scene.order(NUMBER, "first").await?.status, 201);
    let first = scene.callee.next_call().await?;
    let queued = |more: Value| {
        let mut body = json!({ "to": STRANGER, "when": "queued" });
        if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
            body.extend(more);
        }
        body
    };
    let short = scene.place("short", queued(json!({ "expires_in": "1s", "priority": 0 }))).await?;
    let long = scene.place("long", queued(json!({ "expires_in": "1h", "priority": 9 }))).await?;
    assert_eq!((short.status, long.status), (202, 202), "{short:?} {long:?}");
    let refused = scene.place("third", queued(json!({}))).await?;
    refused.is_problem(429, "queue_full");
    assert!(retry_after(&refused).is_some(), "{refused:?}");
    let [short, long] = [short, long].map(|answer| answer.body["id"].as_str().unwrap_or_default().to_owned());
    let ended = scene.end_of(&short).await?;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"queue_expired".into(), &"nobody".into()));
    let writer = Client::new(&scene.service, WRITER);
    writer.get(&format!("/v1/queued_calls/{short}")).await?.is_problem(409, "call_ended");
    assert_eq!(writer.get(&format!("/v1/calls/{short}")).await?.body["reason"], "queue_expired");
    assert_eq!(writer.delete(&format!("/v1/queued_calls/{long}")).await?.status, 204);
    assert_eq!(scene.end_of(&long).await?["reason"], "hung_up_by_api");
    writer.delete(&format!("/v1/queued_calls/{long}")).await?.is_problem(409, "call_ended");
    writer.delete("/v1/queued_calls/call_01k0000000000000000000000").await?.is_problem(404, "call_not_found");
    assert_eq!(first.decline().await?, 200);
    scene.service.all_ended().await?;
    assert_eq!(scene.service.count_of("connect"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_calls_that_cannot_be_read_say_what_to_give() -> anyhow::Result<()> {
    let scene = Scene::with("live = 1").await?;
    let cases = [
        (json!({ "when": "later" }), "when:"),
        (json!({ "priority": 3 }), "priority:"),
        (json!({ "when": "now", "expires_in": "1h" }), "expires_in:"),
        (json!({ "when": "queued", "priority": 10 }), "priority:"),
        (json!({ "when": "queued", "expires_in": "25h" }), "expires_in:"),
        (json!({ "when": "queued", "expires_in": "soon" }), "expires_in:"),
        (json!({ "when": "queued", "expires_at": "2020-01-31T18:00:00Z" }), "expires_at:"),
        (json!({ "when": "queued", "expires_at": "2020-01-31T18:00:00Z", "expires_in": "1h" }), "expires_at:"),
    ];
    for (number, (mut body, advice)) in cases.into_iter().enumerate() {
        body["to"] = STRANGER.into();
        let answer = scene.place(&format!("case-{number}"), body.clone()).await?;
        answer.is_problem(422, "invalid_command");
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(advice)), "{body}: {answer:?}");
    }
    let nowhere = scene.place("route", json!({ "to": STRANGER, "when": "queued", "route": "nowhere" })).await?;
    nowhere.is_problem(422, "unknown_route");
    let page = Client::new(&scene.service, READER).get("/v1/queued_calls?after=call_1").await?;
    page.is_problem(400, "invalid_page");
    Ok(())
}

/// SIGTERM leaves the queue as it is, and the next process goes on with it: by priority, then by age.
#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_places_what_is_queued_in_its_order() -> anyhow::Result<()> {
    const CALLS: usize = 40;
    let mut scene = Restarts::start("per_second = 1000, live = 1").await?;
    let program = scene.program().await?;
    let writer = Client::at(program.url(), WRITER);
    // The first call keeps the number busy until the restart.
    assert_eq!(order(&writer, json!({ "to": NUMBER })).await?.status, 201);
    let first = scene.callee.next_call().await?;
    let mut expected = Vec::new();
    for number in 0..CALLS {
        let (to, priority) = (stranger(number), number % 4);
        let queued = order(&writer, json!({ "to": to, "when": "queued", "priority": priority })).await?;
        assert_eq!(queued.status, 202, "{queued:?}");
        expected.push((priority, to));
    }
    expected.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    program.signal("TERM")?;
    // Without its call it has nothing to wait for.
    assert_eq!(first.decline().await?, 200);
    program.ended().await?;
    assert_eq!(scene.called(), [NUMBER], "a service that stops places nothing");

    let program = scene.program().await?;
    for _ in 0..CALLS + 1 {
        scene.app.until("call.ended").await?;
    }
    let called: Vec<String> = expected.into_iter().map(|(_, to)| to).collect();
    assert_eq!(scene.called()[1..], called);
    program.finish().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_queued_call_is_placed_twice_or_lost_by_three_crashes() -> anyhow::Result<()> {
    crashes(300, 3).await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make drills"]
async fn no_queued_call_of_ten_thousand_is_placed_twice_or_lost_by_ten_crashes() -> anyhow::Result<()> {
    crashes(10_000, 10).await
}

/// kill -9 while calls are placed from the queue: each is connected once at most, and has one end.
async fn crashes(calls: usize, kills: usize) -> anyhow::Result<()> {
    const LIVE: usize = 20;
    let began = Instant::now();
    let mut scene = Restarts::start(&format!("per_second = 1000, live = {LIVE}")).await?;
    let mut program = scene.program().await?;
    let writer = Client::at(program.url(), WRITER);
    let orders = (0..calls).map(|number| order(&writer, json!({ "to": stranger(number), "when": "queued" })));
    let queued: Vec<Answer> = stream::iter(orders).buffer_unordered(32).try_collect().await?;
    let ids: BTreeSet<String> = queued
        .iter()
        .map(|queued| {
            assert_eq!(queued.status, 202, "{queued:?}");
            queued.body["id"].as_str().unwrap_or_default().to_owned()
        })
        .collect();
    assert_eq!(ids.len(), calls);
    let queued_in = began.elapsed();
    let mut story = Story::default();
    for kill in 1..=kills {
        // The queue is dispatched while it fills, so that some of it may be placed already.
        let placed = calls * kill / (kills + 1);
        while story.placed.len() < placed {
            story.take(&scene.app.next().await?);
        }
        program.finish().await?;
        program = scene.program().await?;
    }
    while story.ends.len() < calls {
        story.take(&scene.app.next().await?);
    }
    program.finish().await?;
    assert_eq!(story.ends.keys().cloned().collect::<BTreeSet<_>>(), ids);
    let called = scene.called();
    assert_eq!(called.iter().collect::<BTreeSet<_>>().len(), called.len(), "nobody is called twice");
    let of = |reason: &str| story.ends.values().filter(|one| *one == reason).count();
    // A call whose connect may have been sent is told as lost; all others are placed after the crash.
    let (placed, lost) = (of("no_permission"), of("service_lost"));
    assert_eq!(placed + lost, calls, "{:?}", story.ends);
    assert!(lost <= kills * LIVE && called.len() >= placed, "{lost} lost, {} called, {placed} refused", called.len());
    let figure = format!(
        "{calls} orders queued in {queued_in:.1?}, {kills} kills: {} called once, {lost} told as lost, 0 forgotten, {:.1?}",
        called.len(),
        began.elapsed()
    );
    report("kill -9, queued calls", &figure);
    Ok(())
}

/// What the app has learned of queued calls.
#[derive(Default)]
struct Story {
    /// Those that left the queue to be placed.
    placed: BTreeSet<String>,
    /// Those that ended, with the reason.
    ends: BTreeMap<String, String>,
}

impl Story {
    fn take(&mut self, event: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let id = text(&event["call_id"]);
        match event["type"].as_str() {
            Some("call.placed") => assert!(self.placed.insert(id), "placed twice: {event}"),
            Some("call.ended") => {
                let reason = text(&event["data"]["reason"]);
                assert_eq!(self.ends.insert(id, reason), None, "a second end: {event}");
            }
            _ => {}
        }
    }
}

/// Meta's limit of a day, which a restart does not begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_number_places_no_more_calls_in_a_day_than_it_may() -> anyhow::Result<()> {
    let mut scene = Restarts::start("per_day = 2").await?;
    let mut program = scene.program().await?;
    for _ in 0..2 {
        let placed = order(&Client::at(program.url(), WRITER), json!({ "to": NUMBER })).await?;
        assert_eq!(placed.status, 201, "{placed:?}");
        assert_eq!(scene.callee.next_call().await?.decline().await?, 200);
        scene.app.until("call.ended").await?;
    }
    let refused_at = SystemTime::now();
    for _ in 0..2 {
        let refused = order(&Client::at(program.url(), WRITER), json!({ "to": NUMBER })).await?;
        refused.is_problem(429, "number_day_limit");
        let next = humantime::parse_rfc3339(refused.body["next_allowed_at"].as_str().unwrap_or_default())?;
        let wait = next.duration_since(refused_at)?;
        assert!((23 * 60 * 60..=24 * 60 * 60 + 60).contains(&wait.as_secs()), "{refused:?}");
        assert!(retry_after(&refused) > Some(80_000), "{refused:?}");
        // It waits in the queue, and is not given up.
        let queued = order(&Client::at(program.url(), WRITER), json!({ "to": NUMBER, "when": "queued" })).await?;
        assert_eq!(queued.status, 202, "{queued:?}");
        program.finish().await?;
        program = scene.program().await?;
    }
    let waiting = Client::at(program.url(), READER).get("/v1/queued_calls").await?.body;
    assert_eq!(waiting["queued_calls"].as_array().map(Vec::len), Some(2), "{waiting}");
    assert_eq!(scene.called().len(), 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_meta_refuses_does_not_count_as_one_of_the_day() -> anyhow::Result<()> {
    let mut scene = Scene::with("per_day = 1").await?;
    for number in 0..2 {
        let placed = scene.order(&stranger(number), &format!("order-{number}")).await?;
        assert_eq!(placed.status, 201, "{placed:?}");
        assert_eq!(scene.service.event("call.ended").await?.data["reason"], "no_permission");
        scene.service.all_ended().await?;
    }
    assert_eq!(scene.order(NUMBER, "taken").await?.status, 201);
    scene.callee.next_call().await?;
    scene.order(NUMBER, "one-more").await?.is_problem(429, "number_day_limit");
    Ok(())
}

/// Its reply to connect is lost, and no webhook shows the call.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_meta_never_names_counts_as_one_of_the_day() -> anyhow::Result<()> {
    let mut scene = Restarts::start("per_day = 1").await?;
    let callee = scene.meta.permit(CalleeOptions {
        person: CallerOptions { from: Some(STRANGER.to_owned()), ..quiet_caller() },
        webhooks: AnswerWebhooks::ByHand,
        ..CalleeOptions::default()
    });
    scene.meta.script("connect", vec![Reply::DoneButNoReply]);
    let mut program = scene.program().await?;
    let client = Client::at(program.url(), WRITER);
    let placed = order(&client, json!({ "to": STRANGER })).await?;
    assert_eq!(placed.status, 201, "{placed:?}");
    let _call = callee.next_call().await?;
    let hangup = format!("/v1/calls/{}/actions/hangup", placed.body["id"].as_str().unwrap_or_default());
    assert_eq!(client.ask(Method::POST, &hangup, None).await?.status, 202);
    let told = scene.app.until("call.ended").await?;
    assert_eq!(told[told.len() - 1]["data"]["reason"], "hung_up_by_api");
    for _ in 0..2 {
        let refused = order(&Client::at(program.url(), WRITER), json!({ "to": NUMBER })).await?;
        refused.is_problem(429, "number_day_limit");
        program.finish().await?;
        program = scene.program().await?;
    }
    assert_eq!(scene.called(), [STRANGER]);
    Ok(())
}

/// The program that is restarted, with its Meta and its app.
struct Restarts {
    folder: Folder,
    app: App,
    meta: Meta,
    agent: Agent,
    callee: Callee,
    placing: String,
}

impl Restarts {
    async fn start(placing: &str) -> anyhow::Result<Self> {
        let (folder, app) = (Folder::new()?, App::start().await?);
        let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
        let callee = meta.permit(CalleeOptions { person: quiet_caller(), ..CalleeOptions::default() });
        Ok(Self { folder, app, meta, agent, callee, placing: format!("placing = {{ {placing} }}") })
    }

    async fn program(&self) -> anyhow::Result<Program> {
        let options = TestOptions { route: String::new(), number: self.placing.clone(), ..self.app.options() };
        Program::start(&self.folder, &self.meta, &self.agent, options).await
    }

    /// Whom Meta was asked to call, in order.
    fn called(&self) -> Vec<String> {
        let connects = self.meta.requests().into_iter().filter(|request| request.action == "connect");
        connects.map(|request| request.body["to"].as_str().unwrap_or_default().to_owned()).collect()
    }
}

fn stranger(number: usize) -> String {
    format!("1202555{:04}", 5000 + number)
}

async fn order(client: &Client, body: Value) -> anyhow::Result<Answer> {
    client.ask(Method::POST, "/v1/calls", Some(body.to_string().into_bytes())).await
}
