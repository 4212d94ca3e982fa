//! Live and past calls in one list, from a call's start to long after its end.

use std::time::{Duration, SystemTime};

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, READER, WRITER};
use super::{talk, with_keys};
use crate::people::quiet_caller;
use crate::service::{TestOptions, TestService};

const NEVER: &str = "call_01k0000000000000000000000a";

fn ids(page: &Value) -> Vec<&str> {
    page["calls"].as_array().into_iter().flatten().filter_map(|call| call["id"].as_str()).collect()
}

/// Looping prompts, so that calls last until they are hung up.
async fn patient() -> anyhow::Result<TestService> {
    let options = TestOptions { route: "loop = true".to_owned(), ..with_keys() };
    TestService::start_with("prompt:hold", options).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_has_one_shape_while_it_lives_and_afterwards() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let path = format!("/v1/calls/{id}");
    let recording = client.act(&id, "start_recording", json!({})).await?.body["recording_id"].clone();
    talk.service.event("call.recording_started").await?;
    let live = client.get(&path).await?.body;
    talk.call.hang_up().await?;
    let told = talk.service.event("call.ended").await?.data;

    let past = client.get(&path).await?.body;
    let keys = |call: &Value| call.as_object().map(|call| call.keys().cloned().collect::<Vec<_>>());
    assert_eq!(keys(&live), keys(&past));
    for key in ["id", "wacid", "direction", "from", "to", "route", "began_at", "client_state", "recordings"] {
        assert_eq!(live[key], past[key], "{key}");
    }
    assert_eq!(past["recordings"], json!([recording]));
    for key in ["reason", "fault", "hung_up_by", "meta_error_code", "sound", "stages"] {
        assert_eq!(past[key], told[key], "{key}");
    }
    for key in ["reason", "fault", "hung_up_by", "meta_error_code", "sound", "ended_at", "client_state"] {
        assert_eq!(live[key], Value::Null, "{key}");
    }
    assert_eq!((&live["state"], &past["state"]), (&"talking".into(), &"ended".into()));
    assert_eq!((&past["reason"], &past["hung_up_by"]), (&"caller_hung_up".into(), &"caller".into()));
    assert_eq!(past["talked_ms"], told["talked_ms"]);
    assert!(past["ended_at"].is_string() && past["accepted_at"].is_string(), "{past}");
    assert_eq!(client.get("/v1/calls?state=ended").await?.body["calls"], json!([past]));
    assert_eq!(client.get("/v1/calls").await?.body["calls"], json!([past]));
    client.get(&format!("/v1/calls/{NEVER}")).await?.is_problem(404, "call_not_found");
    Ok(())
}

/// A call is listed at every moment between its end and its record on disk.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_is_found_at_every_moment() -> anyhow::Result<()> {
    let mut service = patient().await?;
    let client = Client::new(&service, WRITER);
    for _ in 0..3 {
        let call = service.call(quiet_caller()).await?;
        let id = service.event("call.accepted").await?.call_id.to_string();
        let path = format!("/v1/calls/{id}");
        call.hang_up().await?;
        let mut states = Vec::new();
        while states.last().is_none_or(|state| state != "ended") {
            let (one, list) = tokio::join!(client.get(&path), client.get("/v1/calls?limit=5"));
            let (one, list) = (one?, list?);
            assert_eq!(one.status, 200, "{states:?} {one:?}");
            assert!(ids(&list.body).contains(&id.as_str()), "{states:?} {list:?}");
            let state = one.body["state"].as_str().unwrap_or_default().to_owned();
            assert_eq!(state == "ended", one.body["reason"].is_string(), "{one:?}");
            states.push(state);
        }
        service.all_ended().await?;
        assert_eq!(client.get(&path).await?.body["reason"], "caller_hung_up");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_listed_page_by_page_the_newest_first() -> anyhow::Result<()> {
    let mut service = patient().await?;
    let client = Client::new(&service, WRITER);
    let (mut all, mut calls) = (Vec::new(), Vec::new());
    for number in 0..5 {
        let call = service.call(quiet_caller()).await?;
        all.insert(0, service.event("call.accepted").await?.call_id.to_string());
        // Past and live ones alternate.
        if number % 2 == 0 {
            call.hang_up().await?;
            service.event("call.ended").await?;
        }
        calls.push(call);
    }
    let (mut seen, mut path) = (Vec::new(), "/v1/calls?limit=2".to_owned());
    loop {
        let page = client.get(&path).await?.body;
        seen.extend(ids(&page).into_iter().map(str::to_owned));
        let Some(next) = page["next"].as_str() else { break };
        assert_eq!(seen.last().map(String::as_str), Some(next));
        path = format!("/v1/calls?limit=2&after={next}");
    }
    assert_eq!(seen, all);
    let live = client.get("/v1/calls?state=live").await?.body;
    assert_eq!(ids(&live), [all[1].as_str(), all[3].as_str()]);
    let ended = client.get("/v1/calls?state=ended").await?.body;
    assert_eq!(ids(&ended), [all[0].as_str(), all[2].as_str(), all[4].as_str()]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_show_what_they_name() -> anyhow::Result<()> {
    let mut service = patient().await?;
    let client = Client::new(&service, READER);
    let number = service.meta.options().phone_number_id.clone();
    let past = service.call(quiet_caller()).await?;
    service.event("call.accepted").await?;
    past.hang_up().await?;
    service.event("call.ended").await?;
    let _live = service.call(quiet_caller()).await?;
    service.event("call.accepted").await?;
    let hour = Duration::from_secs(3600);
    let stamp = |time: SystemTime| humantime::format_rfc3339_seconds(time).to_string();
    let (before, later) = (stamp(SystemTime::now() - hour), stamp(SystemTime::now() + hour));
    for (query, count) in [
        (format!("phone_number_id={number}"), 2),
        ("phone_number_id=1".to_owned(), 0),
        ("route=reception".to_owned(), 2),
        ("route=nowhere".to_owned(), 0),
        ("wa_id=12025550143".to_owned(), 2),
        ("wa_id=12025550143&state=ended".to_owned(), 1),
        ("wa_id=12025550144".to_owned(), 0),
        (format!("since={before}&until={later}"), 2),
        (format!("since={before}&until={later}&state=ended&route=reception&phone_number_id={number}"), 1),
        (format!("since={later}"), 0),
        (format!("until={before}"), 0),
    ] {
        let page = client.get(&format!("/v1/calls?{query}")).await?;
        assert_eq!((page.status, ids(&page.body).len()), (200, count), "{query}: {page:?}");
    }
    for (query, code) in [
        ("limit=0", "invalid_page"),
        ("limit=201", "invalid_page"),
        ("limit=many", "bad_request"),
        ("limit=1&limit=2", "bad_request"),
        ("after=first", "invalid_page"),
        ("state=dead", "invalid_filter"),
        ("wa_id=somebody", "invalid_filter"),
        ("since=yesterday", "invalid_filter"),
        ("until=2026-13-01T00:00:00Z", "invalid_filter"),
    ] {
        client.get(&format!("/v1/calls?{query}")).await?.is_problem(400, code);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_a_past_call_is_refused_by_its_state() -> anyhow::Result<()> {
    let mut service = patient().await?;
    let client = Client::new(&service, WRITER);
    let call = service.call(quiet_caller()).await?;
    let id = service.event("call.accepted").await?.call_id.to_string();
    call.hang_up().await?;
    service.event("call.ended").await?;
    service.all_ended().await?;
    for action in ["hangup", "play", "gather"] {
        let answer = client.act(&id, action, json!({ "prompts": ["hold"] })).await?;
        answer.is_problem(409, "call_ended");
        assert_eq!(answer.body["state"], "ended");
        client.act(NEVER, action, json!({ "prompts": ["hold"] })).await?.is_problem(404, "call_not_found");
    }
    client.ask(Method::DELETE, &format!("/v1/calls/{id}"), None).await?.is_problem(405, "method_not_allowed");
    Ok(())
}

/// No response has CORS headers.
#[tokio::test(flavor = "multi_thread")]
async fn no_other_site_is_let_in() -> anyhow::Result<()> {
    let service = patient().await?;
    let client = Client::new(&service, READER);
    for (method, path) in [(Method::GET, "/v1/calls"), (Method::OPTIONS, "/v1/calls"), (Method::GET, "/openapi.json")] {
        let headers = client.headers_for_origin(method, path, "https://elsewhere.example").await?;
        assert!(headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{headers:?}");
    }
    Ok(())
}
