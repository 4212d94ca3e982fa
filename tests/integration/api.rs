//! The control API: keys, live calls, prompts, recordings and events.

mod by_url;
pub mod client;
mod dead_letters;
mod idempotency;
mod past_calls;
mod receiver;
mod resuming;
mod sounds;
mod unauthenticated;

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use patchcord_simulator::agent::{AgentOptions, Pace};
use patchcord_simulator::call::Stage;
use patchcord_simulator::sound::{self, PHONE_RATE};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::people::{HOLD_NOTE_HZ, SECOND, agent, caller, caller_hears_next, objections, quiet_caller};
use crate::service::{DEADLINE, Talk, TestOptions, TestService};
use client::{Client, HASTY, NOBODY, READER, RECORDINGS, WRITER, keys, wav};

fn with_keys() -> TestOptions {
    TestOptions { api: keys(), ..TestOptions::default() }
}

async fn talk() -> anyhow::Result<(Talk, Client)> {
    let agent = AgentOptions { pace: Pace::Burst, ..agent() };
    let talk = Talk::start_with(caller(), agent, with_keys()).await?;
    let client = Client::new(&talk.service, WRITER);
    Ok((talk, client))
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_key_nothing_opens() -> anyhow::Result<()> {
    let service = TestService::start_with("prompt:goodbye", with_keys()).await?;
    let doors = [
        (Method::GET, "/v1/calls"),
        (Method::GET, "/v1/calls/call_01k0000000000000000000000"),
        (Method::POST, "/v1/calls/call_01k0000000000000000000000/actions/hangup"),
        (Method::GET, "/v1/prompts"),
        (Method::PUT, "/v1/prompts/a"),
        (Method::DELETE, "/v1/prompts/a"),
        (Method::GET, "/v1/recordings"),
        (Method::GET, "/v1/recordings/rec_01k0000000000000000000000"),
        (Method::DELETE, "/v1/recordings/rec_01k0000000000000000000000"),
        (Method::GET, "/v1/routes"),
        (Method::GET, "/v1/agents"),
        (Method::GET, "/v1/events"),
        (Method::GET, "/v1/dead_letters"),
        (Method::POST, "/v1/dead_letters/replay"),
    ];
    for (method, path) in doors {
        for (key, status, code) in [
            ("", 401, "key_missing"),
            ("patchcord_writer_wrong", 401, "key_unknown"),
            ("patchcord_expired_0", 401, "key_expired"),
            (NOBODY, 403, "missing_scope"),
        ] {
            let answer = Client::new(&service, key).ask(method.clone(), path, None).await?;
            answer.is_problem(status, code);
            assert_eq!(answer.body["scope"].is_string(), status == 403, "{answer:?}");
            assert_eq!(answer.header("www-authenticate").is_some(), status == 401, "{answer:?}");
        }
    }
    let reader = Client::new(&service, READER);
    assert_eq!(reader.get("/v1/calls").await?.status, 200);
    let answer = reader.act("call_01k0000000000000000000000", "hangup", json!({})).await?;
    answer.is_problem(403, "missing_scope");
    assert_eq!(answer.body["scope"], "calls:write");
    let no_keys = TestOptions { api: "keys = []".to_owned(), ..TestOptions::default() };
    let closed = TestService::start_with("prompt:goodbye", no_keys).await?;
    Client::new(&closed, READER).get("/v1/calls").await?.is_problem(403, "api_closed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_asks_too_fast_is_told_to_wait() -> anyhow::Result<()> {
    let service = TestService::start_with("prompt:goodbye", with_keys()).await?;
    let client = Client::new(&service, HASTY);
    let asked = futures_util::future::join_all((0..20).map(|_| client.get("/v1/routes"))).await;
    let answers = asked.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(answers.iter().filter(|answer| answer.status == 200).count() >= 2);
    assert!(!refused.is_empty());
    refused[0].is_problem(429, "rate_limited");
    assert_eq!(refused[0].header("retry-after"), Some("1"));
    // Another key has its own rate.
    assert_eq!(Client::new(&service, WRITER).get("/v1/routes").await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_call_is_listed_read_and_hung_up() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let page = client.get("/v1/calls").await?;
    assert_eq!((page.status, &page.body["next"]), (200, &Value::Null), "{page:?}");
    let listed = &page.body["calls"][0];
    let call = client.get(&format!("/v1/calls/{id}")).await?.body;
    for key in ["id", "wacid", "state", "direction", "from", "to", "route", "began_at", "stages", "agent_attempt"] {
        assert_eq!(listed[key], call[key], "{key}");
    }
    assert_eq!((&call["id"], &call["wacid"]), (&id.as_str().into(), &talk.call.wacid().into()));
    assert_eq!((&call["state"], &call["direction"]), (&"talking".into(), &"user_initiated".into()));
    assert_eq!((&call["route"], &call["agent_attempt"]), (&"reception".into(), &0.into()));
    assert_eq!(call["to"]["phone_number_id"], talk.service.meta.options().phone_number_id);
    assert!(call["duration_ms"].as_u64() >= call["talked_ms"].as_u64() && call["talked_ms"].is_u64(), "{call}");
    assert!(call["stages"]["accepted_ms"].is_f64(), "{call}");

    let answer = client.act(&id, "hangup", json!({})).await?;
    assert_eq!((answer.status, answer.body), (202, json!({ "call_id": id })));
    let ended = talk.service.event("call.ended").await?.data;
    assert_eq!((&ended["reason"], &ended["fault"]), (&"hung_up_by_api".into(), &"nobody".into()));
    talk.call.wait_until(Stage::Ended).await?;
    talk.service.all_ended().await?;
    assert_eq!(talk.service.count_of("terminate"), 1);
    for action in ["hangup", "stop_playback"] {
        let answer = client.act(&id, action, json!({})).await?;
        answer.is_problem(409, "call_ended");
        assert_eq!(answer.body["state"], "ended");
    }
    assert_eq!(client.get("/v1/calls?state=live").await?.body["calls"], json!([]));
    assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn several_actions_are_done_in_their_order_up_to_one_that_is_refused() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let path = format!("/v1/calls/{id}/actions");
    let actions = json!([
        { "action": "play", "prompts": ["hold"], "loop": true },
        { "action": "stop_playback" },
        { "action": "complete_transfer" },
        { "action": "hangup" },
    ]);
    let body = json!({ "actions": actions, "client_state": "ticket 17" }).to_string();
    let answer = client.once("several-1", &path, &body).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let told: Vec<_> = answer.body["results"].as_array().into_iter().flatten().collect();
    let done: Vec<_> = told.iter().map(|result| (&result["action"], &result["ok"], &result["code"])).collect();
    assert_eq!(
        done,
        [
            (&json!("play"), &json!(true), &Value::Null),
            (&json!("stop_playback"), &json!(true), &Value::Null),
            (&json!("complete_transfer"), &json!(false), &json!("no_transfer")),
        ]
    );
    let finished = talk.service.event("call.playback_finished").await?;
    assert_eq!((&finished.data["playback_id"], &told[0]["data"]["playback_id"]), (&json!(1), &json!(1)));
    assert_eq!(finished.client_state.as_deref(), Some("ticket 17"));
    assert_eq!(client.get(&format!("/v1/calls/{id}")).await?.body["client_state"], "ticket 17");
    for wrong in [json!({}), json!({ "actions": [] }), json!({ "actions": [1] }), json!({ "actions": [{}] })] {
        client.once(&wrong.to_string(), &path, &wrong.to_string()).await?.is_problem(422, "invalid_command");
    }
    talk.call.hang_up().await?;
    talk.service.event("call.ended").await?;
    talk.service.all_ended().await?;
    client.once("several-2", &path, &body).await?.is_problem(409, "call_ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn actions_are_done_and_say_what_they_began() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let begun = client.act(&id, "play", json!({ "prompts": ["hold"], "loop": true })).await?;
    assert_eq!((begun.status, &begun.body["call_id"]), (202, &json!(id)), "{begun:?}");
    assert!(sound::hears(&caller_hears_next(&talk.call, 4 * SECOND).await?, PHONE_RATE, HOLD_NOTE_HZ));
    let done = client.act(&id, "stop_playback", json!(null)).await?;
    assert_eq!((done.status, done.body), (200, json!({})));
    let event = talk.service.event("call.playback_finished").await?;
    assert_eq!(event.data["playback_id"], begun.body["playback_id"]);

    let gather = client.act(&id, "gather", json!({ "max_digits": 2 })).await?;
    assert_eq!((gather.status, gather.body["gather_id"].is_u64()), (202, true), "{gather:?}");
    assert_eq!(client.act(&id, "stop_gather", json!({})).await?.status, 200);
    assert_eq!(client.act(&id, "protect", json!({})).await?.status, 200);
    assert_eq!(client.act(&id, "unprotect", json!({})).await?.status, 200);
    let recording = client.act(&id, "start_recording", json!({})).await?;
    assert_eq!((recording.status, recording.body["recording_id"].is_string()), (202, true), "{recording:?}");
    for action in ["pause_recording", "resume_recording", "stop_recording"] {
        assert_eq!(client.act(&id, action, json!({})).await?.status, 200, "{action}");
    }
    assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_says_why_and_how_the_call_stands() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    for (action, body, status, code) in [
        ("stop_playback", json!({}), 409, "nothing_plays"),
        ("stop_gather", json!({}), 409, "nothing_gathers"),
        ("pause_recording", json!({}), 409, "not_recording"),
        ("play", json!({}), 422, "invalid_command"),
        ("play", json!({ "prompts": "hold" }), 422, "invalid_command"),
        ("play", json!({ "prompts": ["../../etc/passwd"] }), 422, "unknown_prompt"),
        ("play", json!({ "prompts": ["hold"], "action": "stop_gather" }), 202, ""),
        ("gather", json!({ "max_digits": 0 }), 422, "invalid_command"),
        ("send_dtmf", json!({ "digits": "x" }), 422, "invalid_command"),
        ("invite", json!({ "route": "nowhere", "role": "listen" }), 422, "unknown_route"),
        ("invite", json!({ "route": "reception", "role": "king" }), 422, "invalid_command"),
        ("dismiss", json!({ "guest_id": 9 }), 422, "unknown_guest"),
        ("fly", json!({}), 404, "unknown_action"),
        ("CallCommand", json!({}), 404, "unknown_action"),
    ] {
        let answer = client.act(&id, action, body).await?;
        match status {
            202 => assert_eq!(answer.status, 202, "{answer:?}"),
            _ => answer.is_problem(status, code),
        }
        assert_eq!(&answer.body["state"], &if status == 409 { json!("talking") } else { Value::Null }, "{answer:?}");
    }
    let path = format!("/v1/calls/{id}/actions/play");
    for body in ["{", "[]", "7", "\u{0}", &format!("{{\"a\":{}1", "[".repeat(10_000))] {
        let answer = client.ask(Method::POST, &path, Some(body.as_bytes().to_vec())).await?;
        answer.is_problem(400, "invalid_json");
    }
    let long = format!("{{\"prompts\":[\"{}\"]}}", "a".repeat(1024 * 1024));
    client.ask(Method::POST, &path, Some(long.into_bytes())).await?.is_problem(413, "body_too_large");
    for unknown in ["call_01k0000000000000000000000a", "call_1", "..", "%2e%2e%2fcalls", "%ff"] {
        let answer = client.act(unknown, "hangup", json!({})).await?;
        assert!(answer.status == 404 || answer.status == 400, "{unknown}: {answer:?}");
        assert!(answer.body["code"].is_string(), "{answer:?}");
    }
    client.act("call_01k00000000000000000000000", "hangup", json!({})).await?.is_problem(404, "call_not_found");
    client.get("/v1/nothing").await?.is_problem(404, "not_found");
    client.ask(Method::PATCH, "/v1/calls", None).await?.is_problem(405, "method_not_allowed");
    assert_eq!(client.get(&format!("/v1/calls/{id}")).await?.body["state"], "talking");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_rings_can_be_read_and_hung_up_but_not_played_to() -> anyhow::Result<()> {
    let behaviour = patchcord_simulator::agent::Behaviour::SlowHandshake(20 * SECOND);
    let late = patchcord_simulator::agent::Agent::start(AgentOptions { behaviour, ..agent() }).await?;
    let mut service = TestService::start_with(&late.url(), with_keys()).await?;
    let call = service.call(quiet_caller()).await?;
    let id = service.event("call.pre_accepted").await?.call_id.to_string();
    let client = Client::new(&service, WRITER);
    assert_eq!(client.get(&format!("/v1/calls/{id}")).await?.body["state"], "ringing");
    let answer = client.act(&id, "play", json!({ "prompts": ["hold"] })).await?;
    answer.is_problem(409, "call_not_accepted");
    assert_eq!(answer.body["state"], "ringing");
    assert_eq!(client.act(&id, "hangup", json!({})).await?.status, 202);
    assert_eq!(service.end_of(&call).await?["reason"], "hung_up_by_api");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_ask_at_once_and_each_gets_one_answer() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let asked = (0..100).map(|_| client.act(&id, "play", json!({ "prompts": ["hold"] })));
    let answers = futures_util::future::join_all(asked).await.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let mut ids: Vec<u64> = answers.iter().filter_map(|answer| answer.body["playback_id"].as_u64()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 100);
    // Of many hang-ups the first counts, and the call ends once.
    let asked = (0..20).map(|_| client.act(&id, "hangup", json!({})));
    for answer in futures_util::future::join_all(asked).await {
        let answer = answer?;
        assert!(answer.status == 202 || answer.body["code"] == "call_ended", "{answer:?}");
    }
    talk.service.all_ended().await?;
    assert_eq!(talk.service.kinds().iter().filter(|kind| **kind == "call.ended").count(), 1);
    assert_eq!(talk.service.count_of("terminate"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn prompts_are_uploaded_played_and_taken_away() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let admin = Client::new(&talk.service, client::ADMIN);
    let made = admin.upload("/v1/prompts/welcome", "audio/wav", wav(2000.0, 2 * SECOND)?).await?;
    assert_eq!((made.status, &made.body["name"]), (201, &"welcome".into()), "{made:?}");
    // The encoder rounds up to whole frames.
    assert!(made.body["duration_ms"].as_u64().is_some_and(|ms| (2000..2100).contains(&ms)), "{made:?}");
    assert_eq!((&made.body["file"], &made.body["built_in"]), (&"welcome.wav".into(), &false.into()));
    assert_eq!(client.act(&id, "play", json!({ "prompts": ["welcome"] })).await?.status, 202);
    assert!(sound::hears(&caller_hears_next(&talk.call, SECOND).await?, PHONE_RATE, 2000.0));

    let again = admin.upload("/v1/prompts/welcome?format=ogg", "text/plain", wav(2000.0, SECOND)?).await?;
    assert_eq!((again.status, &again.body["file"]), (200, &"welcome.ogg".into()), "{again:?}");
    assert!(again.body["duration_ms"].as_u64().is_some_and(|ms| (1000..1100).contains(&ms)), "{again:?}");
    let files: Vec<_> = std::fs::read_dir(talk.service.folder.0.join("prompts"))?.flatten().collect();
    assert_eq!(files.len(), 1, "{files:?}");

    for (path, kind, body, status, code) in [
        ("/v1/prompts/broken", "audio/wav", b"RIFF....".to_vec(), 422, "broken_prompt"),
        ("/v1/prompts/broken", "audio/wav", Vec::new(), 422, "broken_prompt"),
        ("/v1/prompts/broken", "text/html", wav(2000.0, SECOND)?, 415, "unknown_format"),
        ("/v1/prompts/a?format=exe", "audio/wav", wav(2000.0, SECOND)?, 415, "unknown_format"),
        ("/v1/prompts/..%2f..%2fevil", "audio/wav", wav(2000.0, SECOND)?, 400, "invalid_name"),
        ("/v1/prompts/%2e%2e", "audio/wav", wav(2000.0, SECOND)?, 0, ""),
        ("/v1/prompts/.hidden", "audio/wav", wav(2000.0, SECOND)?, 400, "invalid_name"),
        ("/v1/prompts/a%00b", "audio/wav", wav(2000.0, SECOND)?, 400, "invalid_name"),
        ("/v1/prompts/%ff", "audio/wav", wav(2000.0, SECOND)?, 400, "bad_request"),
    ] {
        let answer = admin.upload(path, kind, body).await?;
        match status {
            // The client normalises the path itself.
            0 => assert!(answer.status >= 400, "{answer:?}"),
            _ => answer.is_problem(status, code),
        }
    }
    let list = client.get("/v1/prompts").await?.body;
    let names: Vec<&str> = list["prompts"].as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(
        (names, &list["problems"]),
        (vec!["beep", "busy", "goodbye", "hold", "ringback", "welcome"], &json!([]))
    );

    admin.delete("/v1/prompts/hold").await?.is_problem(409, "prompt_built_in");
    admin.delete("/v1/prompts/nothing").await?.is_problem(404, "prompt_not_found");
    assert_eq!(admin.delete("/v1/prompts/welcome").await?.status, 204);
    client.act(&id, "play", json!({ "prompts": ["welcome"] })).await?.is_problem(422, "unknown_prompt");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn recordings_are_listed_fetched_in_parts_and_deleted() -> anyhow::Result<()> {
    let (mut talk, writer) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let recording = writer.act(&id, "start_recording", json!({})).await?.body;
    caller_hears_next(&talk.call, SECOND).await?;
    let path = format!("/v1/recordings/{}", recording["recording_id"].as_str().unwrap());
    let client = Client::new(&talk.service, RECORDINGS);
    let admin = Client::new(&talk.service, client::ADMIN);
    client.get(&path).await?.is_problem(404, "recording_not_found");
    admin.delete(&path).await?.is_problem(409, "recording_in_progress");
    let growing = client.get("/v1/recordings").await?.body["recordings"][0].clone();
    assert_eq!((&growing["call_id"], &growing["finished_at"]), (&json!(id), &Value::Null), "{growing}");
    assert_eq!(growing["is_kept_here"], false);
    writer.act(&id, "stop_recording", json!({})).await?;
    let finished = talk.service.event("call.recording_finished").await?.data;

    let list = client.get("/v1/recordings").await?.body;
    assert_eq!(list["recordings"][0]["id"], recording["recording_id"], "{list}");
    for key in ["size_bytes", "duration_ms", "sha256", "complete", "problem"] {
        assert_eq!(list["recordings"][0][key], finished[key], "{key}");
    }
    assert_eq!((&list["recordings"][0]["is_kept_here"], &list["next"]), (&json!(true), &Value::Null));
    assert_eq!(client.get(&format!("/v1/recordings?call_id={id}")).await?.body, list);
    assert_eq!(client.get("/v1/recordings?call_id=another").await?.body["recordings"], json!([]));
    client.get("/v1/recordings?after=first").await?.is_problem(400, "invalid_page");
    let file = std::fs::read(talk.service.folder.0.join("recordings").join(finished["file_name"].as_str().unwrap()))?;
    let whole = client.fetch(&path, None).await?;
    assert_eq!((whole.status, whole.header("content-type")), (200, Some("audio/ogg")));
    assert!(whole.bytes == file);
    for (range, status, bytes) in [
        ("bytes=0-3", 206, b"OggS".to_vec()),
        ("bytes=4-", 206, file[4..].to_vec()),
        ("bytes=-10", 206, file[file.len() - 10..].to_vec()),
        ("bytes=0-1,4-5", 200, file.clone()),
        ("nonsense", 200, file.clone()),
    ] {
        let part = client.fetch(&path, Some(range)).await?;
        assert_eq!((part.status, part.bytes == bytes), (status, true), "{range}");
        let length = part.header("content-length").and_then(|length| length.parse().ok());
        assert_eq!(length, Some(bytes.len()), "{range}");
    }
    let first = client.fetch(&path, Some("bytes=0-3")).await?;
    assert_eq!(first.header("content-range"), Some(format!("bytes 0-3/{}", file.len()).as_str()));
    let beyond = client.fetch(&path, Some(&format!("bytes={}-", file.len()))).await?;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, Some(format!("bytes */{}", file.len()).as_str()))
    );
    for wrong in ["..%2f..%2fetc%2fpasswd", "rec_1", "rec_01k0000000000000000000000a.opus"] {
        client.get(&format!("/v1/recordings/{wrong}")).await?.is_problem(404, "recording_not_found");
    }
    client.delete(&path).await?.is_problem(403, "missing_scope");
    assert_eq!(admin.delete(&path).await?.status, 204);
    client.get(&path).await?.is_problem(404, "recording_not_found");
    assert_eq!(client.get("/v1/recordings").await?.body["recordings"], json!([]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_are_shown_without_what_is_secret() -> anyhow::Result<()> {
    let options = TestOptions {
        route: "fallback = [\"prompt:goodbye\"]\nheaders = { Authorization = \"confidential\" }\n".to_owned(),
        ..with_keys()
    };
    let service = TestService::start_with("ws://127.0.0.1:9/call?token=confidential", options).await?;
    let answer = Client::new(&service, READER).get("/v1/routes").await?;
    let route = &answer.body["routes"][0];
    assert_eq!(
        route["agent"],
        json!({
            "type": "websocket", "url": "ws://127.0.0.1:9/call", "urls": ["ws://127.0.0.1:9/call"], "choice": "first",
            "redial_for_ms": 20_000,
        })
    );
    assert_eq!(route["fallback"], json!([{ "type": "prompts", "prompts": ["goodbye"] }]));
    assert_eq!(route["phone_number_ids"], json!([service.meta.options().phone_number_id]));
    assert!(!answer.body.to_string().contains("confidential"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_shown_with_what_came_of_the_last_try() -> anyhow::Result<()> {
    let agent = patchcord_simulator::agent::Agent::start(agent()).await?;
    let options = TestOptions {
        route: format!("fallback = [\"{}?token=confidential\", \"prompt:hold\"]", agent.url()),
        ..with_keys()
    };
    // The first address refuses connections.
    let mut service = TestService::start_with("ws://127.0.0.1:9/call", options).await?;
    let client = Client::new(&service, READER);
    let before = client.get("/v1/agents").await?.body;
    assert_eq!((before["agents"].as_array().map(Vec::len), &before["next"]), (Some(2), &Value::Null), "{before}");
    assert!(before["agents"].as_array().into_iter().flatten().all(|agent| agent["last_outcome"].is_null()));

    let call = service.call(quiet_caller()).await?;
    service.event("call.accepted").await?;
    let after = client.get("/v1/agents").await?;
    let found = |url: &str| after.body["agents"].as_array()?.iter().find(|agent| agent["url"] == url).cloned();
    let (lost, there) = (found("ws://127.0.0.1:9/call").unwrap(), found(&agent.url()).unwrap());
    assert_eq!((&lost["last_outcome"]["outcome"], &lost["live_calls"]), (&json!("refused"), &json!(0)), "{after:?}");
    assert_eq!((&there["last_outcome"]["outcome"], &there["live_calls"]), (&json!("joined"), &json!(1)), "{after:?}");
    assert_eq!((&there["routes"], &there["type"]), (&json!(["reception"]), &json!("websocket")));
    assert!(!after.body.to_string().contains("confidential"));
    call.hang_up().await?;
    service.event("call.ended").await?;
    service.all_ended().await?;
    let end = client.get("/v1/agents?limit=1").await?.body;
    assert_eq!((&end["agents"][0]["live_calls"], end["next"].is_string()), (&json!(0), true), "{end}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_streamed_in_their_order_and_commands_are_taken() -> anyhow::Result<()> {
    let service = TestService::start_with("prompt:hold,hold", with_keys()).await?;
    Client::new(&service, READER).get("/v1/events").await?.is_problem(400, "not_a_websocket");
    let mut reader = client::open_events(&service, READER).await?;
    let mut writer = client::open_events(&service, WRITER).await?;
    let call = service.call(quiet_caller()).await?;
    let mut sequence = 0;
    let id = loop {
        let event = client::next(&mut writer).await?;
        sequence += 1;
        assert_eq!(event["sequence"], sequence, "{event}");
        if event["type"] == "call.accepted" {
            break event["call_id"].clone();
        }
    };
    let ask = |socket_id: u64, action: &str| json!({ "type": "command", "request_id": socket_id, "call_id": id, "action": action, "prompts": ["busy"] });
    reader.send(Message::text(ask(1, "play").to_string())).await?;
    let refused = client::next_of(&mut reader, "result").await?;
    assert_eq!((&refused["ok"], &refused["code"]), (&false.into(), &"missing_scope".into()));
    for (request, action, ok, code) in [
        (2, "play", true, Value::Null),
        (3, "stop_playback", true, Value::Null),
        (4, "stop_gather", false, "nothing_gathers".into()),
        (5, "fly", false, "unknown_action".into()),
    ] {
        writer.send(Message::text(ask(request, action).to_string())).await?;
        let result = client::next_of(&mut writer, "result").await?;
        assert_eq!((&result["request_id"], &result["ok"], &result["code"]), (&request.into(), &ok.into(), &code));
    }
    for nonsense in ["{", "[]", "{}", "{\"type\":\"dance\"}"] {
        writer.send(Message::text(nonsense)).await?;
    }
    writer.send(Message::text(json!({ "type": "command", "call_id": 7, "action": "play" }).to_string())).await?;
    for _ in 0..3 {
        assert_eq!(client::next_of(&mut writer, "result").await?["code"], "invalid_command");
    }
    writer.send(Message::text(ask(6, "hangup").to_string())).await?;
    assert_eq!(client::next_of(&mut writer, "call.ended").await?["data"]["reason"], "hung_up_by_api");
    assert_eq!(client::next_of(&mut reader, "call.ended").await?["call_id"], id);
    assert_eq!(objections(&call), [], "{}", call.seen());

    // An idle reader does not delay the stop, and is told of it.
    timeout(DEADLINE, service.app.stop(std::future::pending())).await?;
    let closed = loop {
        match timeout(Duration::from_secs(5), reader.next()).await? {
            Some(Ok(Message::Close(frame))) => break frame.map(|frame| u16::from(frame.code)),
            Some(Ok(_)) => {}
            other => anyhow::bail!("{other:?}"),
        }
    };
    assert_eq!(closed, Some(1001));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_is_there_for_everybody() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    let document = Client::new(&service, "").get("/openapi.json").await?;
    assert_eq!((document.status, document.header("content-type")), (200, Some("application/json")));
    assert!(document.body["paths"]["/v1/calls/{call_id}/actions/{action}"]["post"].is_object());
    Ok(())
}
