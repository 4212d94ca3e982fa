//! Queues: callers wait for people who sign in with a key, and who answer in a page.

use anyhow::Context;
use patchcord::call::event::CallId;
use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour, Pace};
use patchcord_simulator::call::{Call, EndedBy, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use patchcord_simulator::page::Page;
use patchcord_simulator::speech::Speech;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::api::client::{ADA, ADMIN, Answer, BOB, Client, READER, WRITER, wav};
use crate::browser::{self, Session};
use crate::events::{App, has_no_gaps};
use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, HOLD_NOTE_HZ, SECOND, SECOND_AGENT_HZ, agent, caller, caller_hears_next,
    heard_voices, objections, quiet_caller, until_caller_hears,
};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, Talk, TestOptions, TestService};

/// An open stream of server-sent events.
pub struct Stream {
    events: tokio::sync::mpsc::UnboundedReceiver<Value>,
    reading: JoinHandle<()>,
    seen: Vec<Value>,
}

/// An agent with one page.
pub struct Person {
    pub api: Client,
    pub page: Stream,
}

impl Stream {
    pub async fn open(api: &Client, path: &str) -> anyhow::Result<Self> {
        let mut response = api.stream(path).await?;
        anyhow::ensure!(response.status() == 200, "{response:?}");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let (told, events) = tokio::sync::mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            let mut text = String::new();
            // The stream's end, or the connection's.
            while let Ok(Some(bytes)) = response.chunk().await {
                text.push_str(&String::from_utf8_lossy(&bytes));
                while let Some((event, rest)) = text.split_once("\n\n").map(|(a, b)| (a.to_owned(), b.to_owned())) {
                    text = rest;
                    event_of(&event).into_iter().for_each(|event| drop(told.send(event)));
                }
            }
        });
        Ok(Self { events, reading, seen: Vec::new() })
    }

    /// The next event of this type; others are skipped.
    pub async fn next(&mut self, kind: &str) -> anyhow::Result<Value> {
        let found = timeout(DEADLINE, async {
            loop {
                let event = self.events.recv().await.context("the stream is over")?;
                self.seen.push(event.clone());
                if event["type"] == kind {
                    return anyhow::Ok(event);
                }
            }
        });
        found.await.ok().with_context(|| format!("no {kind}: {:#?}", self.seen))?
    }

    pub async fn state(&mut self, state: &str) -> anyhow::Result<Value> {
        loop {
            let told = self.next("agent.state").await?;
            if told["state"] == state {
                return Ok(told);
            }
        }
    }

    async fn ends(mut self) -> anyhow::Result<()> {
        Ok(timeout(DEADLINE, async { while self.events.recv().await.is_some() {} }).await?)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The data, with the event's own type. None for a comment.
fn event_of(text: &str) -> Option<Value> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let mut event: Value = serde_json::from_str(field("data")?).ok()?;
    match field("event") {
        Some(kind) => event["type"] = kind.into(),
        None => assert_eq!(Some(event["id"].as_str().unwrap_or_default()), field("id")),
    }
    Some(event)
}

impl Person {
    /// Signed in, and available.
    pub async fn takes_calls(service: &TestService, key: &str) -> anyhow::Result<Self> {
        let mut person = Self::signs_in(service, key).await?;
        let shown = person.set_available(true).await?;
        assert_eq!((shown.status, &shown.body["state"]), (200, &"idle".into()), "{shown:?}");
        person.page.state("idle").await?;
        Ok(person)
    }

    pub async fn signs_in(service: &TestService, key: &str) -> anyhow::Result<Self> {
        let api = Client::new(service, key);
        let mut page = Stream::open(&api, "/v1/agent/events").await?;
        page.state("away").await?;
        Ok(Self { api, page })
    }

    pub async fn set_available(&self, available: bool) -> anyhow::Result<Answer> {
        let body = json!({ "available": available }).to_string().into_bytes();
        self.api.ask(Method::PUT, "/v1/agent/availability", Some(body)).await
    }

    pub async fn rings(&mut self) -> anyhow::Result<Value> {
        self.page.next("agent.ringing").await
    }

    pub async fn stops_ringing(&mut self) -> anyhow::Result<Value> {
        Ok(self.page.next("agent.ring_stopped").await?["reason"].clone())
    }

    pub async fn post(&self, call: &CallId, what: &str) -> anyhow::Result<Answer> {
        self.api.ask(Method::POST, &format!("/v1/agent/calls/{call}/{what}"), Some(Vec::new())).await
    }

    async fn token(&self, call: &CallId) -> anyhow::Result<String> {
        let answer = self.post(call, "answer").await?;
        anyhow::ensure!(answer.status == 200, "{answer:?}");
        assert_eq!(answer.body["expires_in_s"], 60);
        Ok(answer.body["token"].as_str().context("a token")?.to_owned())
    }

    /// Answers, and connects a page that speaks with this voice.
    pub async fn answers(&self, service: &TestService, call: &CallId, voice_hz: f64) -> anyhow::Result<Session> {
        let (token, page) = (self.token(call).await?, Page::start(Speech::tone(voice_hz)?).await?);
        let response = browser::offer(service, call, &token, page.offer()).await?;
        let session = browser::answered(service, response, token, page).await?;
        session.page.connected().await?;
        Ok(session)
    }
}

/// A service whose callers wait in the queue "support", with these keys.
pub async fn service(queue: &str, options: TestOptions) -> anyhow::Result<TestService> {
    let more_routes = format!("{}\n[queues.support]\n{queue}", options.more_routes);
    TestService::start_with("queue:support", TestOptions { more_routes, ..options }).await
}

/// A caller who hears that it waits.
pub async fn waits(service: &mut TestService) -> anyhow::Result<(Call, CallId)> {
    let call = service.call(caller()).await?;
    let id = service.event("queue.entered").await?.call_id;
    call.wait_until(Stage::FirstPacket).await?;
    Ok((call, id))
}

async fn agent_states(service: &TestService) -> anyhow::Result<Vec<Value>> {
    let queues = Client::new(service, READER).get("/v1/queues").await?.body;
    let agents = queues["queues"][0]["agents"].as_array().context("a list")?;
    Ok(agents.iter().map(|agent| agent["state"].clone()).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_caller_is_answered_in_a_page_and_both_hear_each_other() -> anyhow::Result<()> {
    let mut service = service("", TestOptions::default()).await?;
    let (call, id) = waits(&mut service).await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    let shown = Client::new(&service, READER).get("/v1/queues").await?.body;
    let queue = &shown["queues"][0];
    assert_eq!((&queue["name"], &queue["waiting"][0]["call_id"]), (&"support".into(), &id.as_str().into()));

    let mut ada = Person::signs_in(&service, ADA).await?;
    ada.post(&id, "answer").await?.is_problem(409, "not_ringing");
    assert_eq!(ada.set_available(true).await?.body["queues"], json!(["support"]));
    let ring = ada.rings().await?;
    assert_eq!((&ring["call_id"], &ring["queue"]), (&id.as_str().into(), &"support".into()), "{ring}");
    assert!(ring["from"]["wa_id"].is_string() && ring["from"]["name"].is_string(), "{ring}");
    assert!(ring["waited_ms"].as_u64() > Some(0) && ring["ring_ms"].as_u64() > Some(10_000), "{ring}");
    let own = ada.api.get("/v1/agent").await?.body;
    assert_eq!(
        (&own["name"], &own["state"], &own["ring"]["call_id"]),
        (&"ada".into(), &"ringing".into(), &id.as_str().into())
    );
    assert_eq!(ada.api.get(&format!("/v1/calls/{id}")).await?.status, 200);

    let session = ada.answers(&service, &id, AGENT_HZ).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(session.hears().await?, [CALLER_HZ]);
    assert_eq!(heard_voices(&caller_hears_next(&call, SECOND).await?), [AGENT_HZ]);
    let answered = service.event("queue.answered").await?.data;
    assert_eq!((&answered["queue"], &answered["agent"]), (&"support".into(), &"ada".into()));
    assert_eq!(service.event("call.agent_joined").await?.data, json!({ "attempt": 0 }));
    ada.page.state("talking").await?;
    assert_eq!(ada.page.next("call.agent_joined").await?["call_id"], id.as_str());

    call.hang_up().await?;
    assert_eq!(ada.page.next("call.ended").await?["data"]["reason"], "caller_hung_up");
    assert!(ada.page.state("wrap_up").await?["until_ms"].as_u64() <= Some(10_000));
    assert_eq!(ada.set_available(true).await?.body["state"], "idle");
    let mine = ada.api.get("/v1/calls?mine=true").await?.body;
    assert_eq!(
        (&mine["calls"][0]["id"], &mine["calls"][0]["agents"]),
        (&id.as_str().into(), &json!(["ada"])),
        "{mine}"
    );
    assert_eq!(ada.api.get(&format!("/v1/calls/{id}")).await?.body["state"], "ended");
    let bob = Client::new(&service, BOB);
    assert_eq!(bob.get("/v1/calls?mine=true").await?.body["calls"], json!([]));
    let with = async |agent: &Client, number| agent.get(&format!("/v1/calls?mine=true&wa_id={number}")).await;
    assert_eq!(with(&ada.api, "12025550143").await?.body["calls"][0]["id"], id.as_str());
    assert_eq!(with(&ada.api, "12025550144").await?.body["calls"], json!([]));
    assert_eq!(with(&bob, "12025550143").await?.body["calls"], json!([]));
    bob.get("/v1/calls?wa_id=12025550143").await?.is_problem(403, "missing_scope");
    bob.get(&format!("/v1/calls/{id}")).await?.is_problem(403, "missing_scope");
    let counts = Client::new(&service, READER).get("/v1/queues").await?.body["queues"][0].clone();
    assert_eq!((&counts["counts"]["answered"], &counts["service_level"]), (&1.into(), &1.0.into()), "{counts}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_key_steers_its_own_call_and_no_other() -> anyhow::Result<()> {
    let mut service = service("wrap_up = 0", TestOptions::default()).await?;
    let mut ada = Person::takes_calls(&service, ADA).await?;
    let (call, id) = waits(&mut service).await?;
    let (_other_call, other) = waits(&mut service).await?;
    ada.rings().await?;
    let act = async |call: &CallId, action: &str| ada.api.act(call.as_str(), action, Value::Null).await;
    act(&id, "hold").await?.is_problem(403, "missing_scope");
    let _session = ada.answers(&service, &id, AGENT_HZ).await?;
    service.event("call.agent_joined").await?;
    assert_eq!(act(&id, "hold").await?.status, 200);
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    assert_eq!(act(&id, "unhold").await?.status, 200);
    act(&id, "start_recording").await?.is_problem(403, "missing_scope");
    let recordings = format!("/v1/recordings?call_id={id}");
    assert_eq!(ada.api.get(&recordings).await?.status, 200);
    Client::new(&service, BOB).get(&recordings).await?.is_problem(403, "missing_scope");
    ada.api.get("/v1/recordings").await?.is_problem(403, "missing_scope");
    let notes = json!({ "client_state": "called about an invoice" });
    assert_eq!(ada.api.act(id.as_str(), "set_client_state", notes).await?.status, 200);
    let shown = ada.api.get("/v1/calls?mine=true&state=live").await?.body["calls"][0].clone();
    assert_eq!((&shown["id"], &shown["client_state"]), (&id.as_str().into(), &"called about an invoice".into()));
    act(&other, "hangup").await?.is_problem(403, "missing_scope");
    ada.api.get(&format!("/v1/calls/{other}")).await?.is_problem(403, "missing_scope");
    ada.api.get("/v1/calls").await?.is_problem(403, "missing_scope");
    ada.api.get("/v1/events").await?.is_problem(403, "missing_scope");
    assert_eq!(ada.api.get("/v1/queues").await?.status, 200);
    let routes = ada.api.get("/v1/routes").await?.body;
    assert_eq!(routes, json!({ "routes": [{ "name": "reception" }], "next": null }), "names alone");
    assert_eq!(Client::new(&service, READER).get("/v1/routes").await?.body["routes"][0]["answer"], "at_once");
    Client::new(&service, WRITER).get("/v1/agent").await?.is_problem(403, "missing_scope");
    assert_eq!(act(&id, "hangup").await?.status, 202);
    assert_eq!(service.end_of(&call).await?["reason"], "hung_up_by_api");
    // Without wrap-up time the next caller rings.
    assert_eq!(ada.rings().await?["call_id"], other.as_str());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_while_it_rings_has_abandoned_the_queue() -> anyhow::Result<()> {
    let mut service = service("", TestOptions::default()).await?;
    let mut ada = Person::takes_calls(&service, ADA).await?;
    let (call, id) = waits(&mut service).await?;
    ada.rings().await?;
    service.event("call.accepted").await?;
    call.hang_up().await?;
    assert_eq!(ada.stops_ringing().await?, "caller_left");
    assert_eq!(service.event("queue.abandoned").await?.data["queue"], "support");
    let ended = service.event("call.ended").await?;
    assert_eq!((&ended.call_id, &ended.data["reason"]), (&id, &"caller_hung_up".into()));
    ada.post(&id, "answer").await?.is_problem(409, "not_ringing");
    assert_eq!(agent_states(&service).await?, ["idle"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_overflow_to_what_follows_the_queue() -> anyhow::Result<()> {
    let fallback = TestOptions { route: "fallback = [\"prompt:goodbye\"]".to_owned(), ..TestOptions::default() };
    for (queue, reason) in [("unstaffed = \"overflow\"", "no_agents"), ("max_wait = \"1s\"", "waited_too_long")] {
        let mut service = service(queue, fallback.clone()).await?;
        let call = service.call(quiet_caller()).await?;
        service.event("queue.entered").await?;
        let told = service.event("queue.overflowed").await?.data;
        assert_eq!((&told["queue"], &told["reason"]), (&"support".into(), &reason.into()));
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!((&lost["failure"], &lost["detail"]), (&"queue_overflow".into(), &reason.into()));
        until_caller_hears(&call, &GOODBYE_NOTES_HZ).await?;
        assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");
    }
    let mut service = service("max_waiting = 1", TestOptions::default()).await?;
    let (first, _) = waits(&mut service).await?;
    let second = service.call(quiet_caller()).await?;
    assert_eq!(service.end_of(&second).await?["reason"], "no_agent", "nothing follows the queue");
    assert_eq!(first.ended_by(), None);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_caller_hears_its_position_and_the_music_again() -> anyhow::Result<()> {
    let mut service = service("announce_every = \"4s\"\nannounce = \"place\"", TestOptions::default()).await?;
    let prompt = wav(SECOND_AGENT_HZ, 2 * SECOND)?;
    let uploaded = Client::new(&service, ADMIN).upload("/v1/prompts/place-1", "audio/wav", prompt).await?;
    anyhow::ensure!((200..300).contains(&uploaded.status), "{uploaded:?}");
    let call = service.call(quiet_caller()).await?;
    service.event("queue.entered").await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    assert_eq!(call.ended_by(), None);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_missed_or_declined_rings_at_the_next_agent() -> anyhow::Result<()> {
    let mut service = service("ring_timeout = \"1s\"\nmax_missed = 1", TestOptions::default()).await?;
    let mut ada = Person::takes_calls(&service, ADA).await?;
    let mut bob = Person::takes_calls(&service, BOB).await?;
    let (_call, id) = waits(&mut service).await?;
    ada.rings().await?;
    assert_eq!(ada.stops_ringing().await?, "missed");
    assert_eq!(ada.api.get("/v1/agent").await?.body["state"], "away", "it has missed too many");
    let missed = service.event("queue.missed").await?.data;
    assert_eq!(missed, json!({ "queue": "support", "agent": "ada", "reason": "missed" }));

    bob.rings().await?;
    assert_eq!(ada.set_available(true).await?.body["state"], "idle");
    assert_eq!(bob.post(&id, "decline").await?.status, 204);
    assert_eq!(bob.stops_ringing().await?, "declined");
    bob.post(&id, "decline").await?.is_problem(409, "not_ringing");
    assert_eq!(ada.rings().await?["call_id"], id.as_str());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_tabs_and_two_agents_one_gets_the_call() -> anyhow::Result<()> {
    let mut service = service("", TestOptions::default()).await?;
    let mut ada = Person::takes_calls(&service, ADA).await?;
    let mut tab = Stream::open(&ada.api, "/v1/agent/events").await?;
    assert_eq!(tab.state("idle").await?["call_id"], Value::Null);
    let bob = Person::takes_calls(&service, BOB).await?;
    let (call, id) = waits(&mut service).await?;
    ada.rings().await?;
    tab.next("agent.ringing").await?;
    bob.post(&id, "answer").await?.is_problem(409, "not_ringing");
    let session = ada.answers(&service, &id, AGENT_HZ).await?;
    assert_eq!(tab.next("agent.ring_stopped").await?["reason"], "answered_elsewhere");
    bob.post(&id, "answer").await?.is_problem(409, "not_ringing");
    until_caller_hears(&call, &[AGENT_HZ]).await?;

    // The other tab takes the call over, as a page that reloads does.
    let rejoined = ada.answers(&service, &id, SECOND_AGENT_HZ).await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(rejoined.hears().await?, [CALLER_HZ]);
    assert_eq!(heard_voices(&caller_hears_next(&call, SECOND).await?), [SECOND_AGENT_HZ]);
    assert_eq!(agent_states(&service).await?, ["talking", "idle"]);
    drop(session);
    assert_eq!(rejoined.leave().await?, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_last_page_is_gone_does_not_keep_the_caller() -> anyhow::Result<()> {
    let mut service = service("ring_timeout = \"5m\"", TestOptions::default()).await?;
    let mut ada = Person::takes_calls(&service, ADA).await?;
    let mut bob = Person::takes_calls(&service, BOB).await?;
    let (_call, id) = waits(&mut service).await?;
    ada.rings().await?;
    drop(ada.page);
    let gone_at = Instant::now();
    assert_eq!(timeout(2 * DEADLINE, bob.rings()).await??["call_id"], id.as_str());
    assert!(gone_at.elapsed() > 15 * SECOND, "a page may reload");
    assert_eq!(ada.api.get("/v1/agent").await?.body["state"], "signed_out");
    ada.api
        .ask(Method::PUT, "/v1/agent/availability", Some(br#"{"available": true}"#.to_vec()))
        .await?
        .is_problem(409, "not_signed_in");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_agent_answers_and_does_not_connect_waits_again() -> anyhow::Result<()> {
    let mut service = service("", TestOptions::default()).await?;
    let mut ada = Person::takes_calls(&service, ADA).await?;
    let (call, id) = waits(&mut service).await?;
    ada.rings().await?;
    ada.token(&id).await?;
    assert_eq!(service.event("queue.returned").await?.data, json!({ "queue": "support", "agent": "ada" }));
    ada.rings().await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    let _session = ada.answers(&service, &id, AGENT_HZ).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_hands_its_caller_over_to_a_queue() -> anyhow::Result<()> {
    let options = TestOptions { more_routes: "[queues.support]".to_owned(), ..TestOptions::default() };
    let bot = AgentOptions { pace: Pace::Burst, ..agent() };
    let Talk { mut service, session, call, agent: _agent } = Talk::start_with(caller(), bot, options).await?;
    let id = service.event("call.accepted").await?.call_id;
    let mut ada = Person::takes_calls(&service, ADA).await?;
    let refused = |code: &str| Err::<Value, _>(code.to_owned());
    assert_eq!(service.act(&id, "transfer", json!({ "queue": "sales" })).await, refused("unknown_queue"));
    assert_eq!(service.act(&id, "transfer", json!({ "queue": "support" })).await, Ok(json!({})));
    assert_eq!(session.wait_for_message("stop").await?["reason"], "transferred");
    assert_eq!(ada.rings().await?["call_id"], id.as_str());
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    let _session = ada.answers(&service, &id, SECOND_AGENT_HZ).await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(service.event("call.agent_joined").await?.data, json!({ "attempt": 1 }));

    // The page's agent connects the caller to the bot again, and is free.
    assert_eq!(service.act(&id, "connect", json!({ "route": "reception" })).await, Ok(json!({})));
    assert_eq!(ada.page.state("wrap_up").await?["call_id"], Value::Null);
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_all_calls_are_server_sent_events_too() -> anyhow::Result<()> {
    let mut service = service("", TestOptions::default()).await?;
    let reader = Client::new(&service, READER);
    let mut live = Stream::open(&reader, "/v1/events").await?;
    let (call, id) = waits(&mut service).await?;
    let incoming = live.next("call.incoming").await?;
    assert_eq!(incoming["call_id"], id.as_str());
    call.hang_up().await?;
    live.next("call.ended").await?;
    let after = incoming["id"].as_str().context("an id")?;
    let mut missed = Stream::open(&reader, &format!("/v1/events?after={after}")).await?;
    missed.next("call.ended").await?;
    let mut kinds: Vec<&Value> = missed.seen.iter().map(|event| &event["sequence"]).collect();
    kinds.dedup();
    assert_eq!(kinds.len(), missed.seen.len(), "no event comes twice");
    assert_eq!(missed.seen[0]["sequence"], 2);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_stops_ends_waiting_calls_and_streams() -> anyhow::Result<()> {
    let drain = TestOptions { calls: "drain_timeout = \"1s\"".to_owned(), ..TestOptions::default() };
    let mut service = service("", drain).await?;
    let ada = Person::signs_in(&service, ADA).await?;
    let (call, _) = waits(&mut service).await?;
    let started = Instant::now();
    timeout(DEADLINE, service.app.stop(std::future::pending())).await.context("the service did not stop")?;
    assert!(started.elapsed() >= SECOND, "callers may still be answered");
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
    ada.page.ends().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_waits_when_the_process_is_killed_is_ended_once() -> anyhow::Result<()> {
    let (folder, mut app) = (Folder::new()?, App::start().await?);
    let meta = Meta::start(MetaOptions::default()).await?;
    let bot = Agent::start(agent()).await?;
    bot.set_behaviour(Behaviour::NeverAnswerHandshake);
    let start = async || {
        let options = TestOptions {
            route: "fallback = [\"queue:support\"]".to_owned(),
            more_routes: "[queues.support]".to_owned(),
            calls: "agent_timeout = \"1s\"".to_owned(),
            ..app.options()
        };
        Program::start(&folder, &meta, &bot, options).await
    };
    let program = start().await?;
    let call = meta.place_call(caller()).await?;
    // A queue behind an agent accepts the call.
    call.wait_until(Stage::FirstPacket).await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    program.finish().await?;

    let again = start().await?;
    call.wait_until_within(Stage::Ended, DEADLINE).await?;
    let events = app.until("call.ended").await?;
    has_no_gaps(&events);
    assert_eq!(events[events.len() - 1]["data"]["reason"], "service_lost");
    let ends = meta.requests().into_iter().filter(|asked| asked.action == "terminate");
    assert_eq!((call.ended_by(), ends.count()), (Some(EndedBy::Terminated), 1));
    again.finish().await?;
    Ok(())
}
