//! Speech models without an app: each vendor's protocol, against a strict stand-in.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Call, CallerOptions, Stage};
use patchcord_simulator::model::{Model, ModelScript, ModelSession, Vendor};
use patchcord_simulator::network::NetworkOptions;
use patchcord_simulator::sound::{self, PHONE_RATE};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::api::client::{ADA, Client, READER};
use crate::people::{
    AGENT_HZ, CALLER_HZ, HOLD_NOTE_HZ, SECOND_AGENT_HZ, agent_with_voice, caller, objections, until_caller_hears,
};
use crate::queues::Person;
use crate::service::{DEADLINE, TestOptions, TestService};

const RATE: u32 = 24_000;
const KEY: &str = "key-of-the-vendor";

/// The model greets, both hear each other, the caller interrupts, and the model hangs up by its function.
async fn a_conversation(vendor: Vendor, agent: &str) -> anyhow::Result<(ModelSession, Call)> {
    let greeting = sound::tone(AGENT_HZ, RATE, 3000);
    let model = Model::start(ModelScript { greeting, ..script(vendor) }).await?;
    let route = format!(
        "model = {{ url = \"{}\", key = \"{KEY}\", greeting = \"Hello\", instructions = \"Be brief\", tools = [\"hangup\"] }}",
        model.url()
    );
    let mut service = TestService::start_with(agent, TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    call.wait_until(Stage::FirstPacket).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.wait_for_tone(CALLER_HZ).await?;
    // A minute that nobody hears the end of.
    session.say(&sound::tone(SECOND_AGENT_HZ, RATE, 60_000)).await;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    session.hear_speech().await;
    session.say(&sound::tone(AGENT_HZ, RATE, 3000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.call_functions(&[("f1", "hangup", json!({}))]).await;
    session.end_response().await;
    session.wait_for_end().await?;
    let end = service.end_of(&call).await?;
    assert_eq!((&end["reason"], &end["hung_up_by"]), (&json!("agent_hung_up"), &json!("agent")), "{vendor:?}: {end}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok((session, call))
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_model_talks_and_learns_what_was_heard_when_interrupted() -> anyhow::Result<()> {
    let (session, call) = a_conversation(Vendor::OpenAi, "openai-realtime:gpt-realtime").await?;
    assert_eq!(session.path(), "/v1?model=gpt-realtime");
    let truncated = session.wait_for("truncation", |message| message["type"] == "conversation.item.truncate").await?;
    assert_eq!(truncated["item_id"], "item_0");
    let told_ms = truncated["audio_end_ms"].as_u64().unwrap_or_default() as usize;
    let heard_ms = tone_ms(&call, SECOND_AGENT_HZ)?;
    assert!(told_ms.abs_diff(heard_ms) < 400, "the caller heard {heard_ms} ms of it: {truncated}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gemini_talks() -> anyhow::Result<()> {
    a_conversation(Vendor::Gemini, "gemini-live:gemini-live").await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn elevenlabs_talks_and_its_pings_are_answered() -> anyhow::Result<()> {
    let (session, _call) = a_conversation(Vendor::ElevenLabs, "elevenlabs:agent_1").await?;
    assert_eq!(session.path(), "/v1?agent_id=agent_1");
    session.wait_for("pong", |message| *message == json!({"type": "pong", "event_id": 1})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deepgram_talks() -> anyhow::Result<()> {
    a_conversation(Vendor::Deepgram, "deepgram-agent:gpt-4o-mini").await.map(drop)
}

/// Its tool `end_call` closes once all is sent, which is long before all is heard.
#[tokio::test(flavor = "multi_thread")]
async fn elevenlabs_is_heard_to_its_last_word_though_it_has_closed() -> anyhow::Result<()> {
    let greeting = sound::tone(AGENT_HZ, RATE, 4000);
    let model = Model::start(ModelScript { greeting, ..script(Vendor::ElevenLabs) }).await?;
    let route = format!("model = {{ url = \"{}\", key = \"{KEY}\" }}", model.url());
    let mut service = TestService::start_with("elevenlabs:a", TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.close(1000).await;
    let end = service.end_of(&call).await?;
    assert_eq!((&end["reason"], &end["hung_up_by"]), (&json!("agent_hung_up"), &json!("agent")), "{end}");
    let heard_ms = tone_ms(&call, AGENT_HZ)?;
    assert!(heard_ms >= 3700, "the caller heard {heard_ms} ms of 4000");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

/// What the model has said is heard, although its connection ends soon.
#[tokio::test(flavor = "multi_thread")]
async fn gemini_is_dialled_again_before_google_ends_its_connection() -> anyhow::Result<()> {
    let greeting = sound::tone(AGENT_HZ, RATE, 3000);
    let model = Model::start(ModelScript { greeting, ..script(Vendor::Gemini) }).await?;
    let route = format!("model = {{ url = \"{}\", key = \"{KEY}\", greeting = \"Hello\" }}", model.url());
    let mut service = TestService::start_with("gemini-live:m", TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.tell(&json!({"goAway": {"timeLeft": "50s"}})).await;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(
        (&lost["detail"], &lost["redialling"]),
        (&json!("the vendor ends the connection (goAway)"), &json!(true))
    );
    let next = model.wait_for_session_number(1).await?;
    next.wait_for_tone(CALLER_HZ).await?;
    let heard_ms = tone_ms(&call, AGENT_HZ)?;
    assert!(heard_ms >= 2700, "the caller heard {heard_ms} ms of 3000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_quota_gives_way_to_the_fallback() -> anyhow::Result<()> {
    let model = Model::start(script(Vendor::OpenAi)).await?;
    let route = format!("model = {{ url = \"{}\", key = \"{KEY}\" }}", model.url());
    let mut service =
        TestService::start_with("openai-realtime:m", TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    session.wait_for_tone(CALLER_HZ).await?;
    let details = json!({"type": "failed", "error": {"type": "insufficient_quota", "code": "insufficient_quota"}});
    let response = json!({"status": "failed", "status_details": details, "usage": null});
    session.tell(&json!({"type": "response.done", "event_id": "e9", "response": response})).await;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(lost["detail"], "a response of the model failed: insufficient_quota", "{lost}");
    let end = service.end_of(&call).await?;
    assert_eq!(end["reason"], "agent_lost", "{end}");
    Ok(())
}

/// The caller's media do not come up, so that no sound goes to the model.
#[tokio::test(flavor = "multi_thread")]
async fn deepgram_is_kept_while_there_is_no_sound_for_it() -> anyhow::Result<()> {
    let model = Model::start(script(Vendor::Deepgram)).await?;
    let route = format!("model = {{ url = \"{}\", key = \"{KEY}\" }}", model.url());
    let calls = r#"agent_idle_timeout = "1s""#.to_owned();
    let options = TestOptions { route, calls, ..TestOptions::default() };
    let service = TestService::start_with("deepgram-agent:m", options).await?;
    let _call = service.call(CallerOptions { network: NetworkOptions::cut(), ..caller() }).await?;
    let session = model.wait_for_session().await?;
    session.wait_for("KeepAlive", |message| message["type"] == "KeepAlive").await?;
    Ok(())
}

/// Google ends every connection after some minutes, in the middle of the conversation.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_with_gemini_goes_on_over_another_connection() -> anyhow::Result<()> {
    let greeting = sound::tone(AGENT_HZ, RATE, 20_000);
    let model = Model::start(ModelScript { greeting, ..script(Vendor::Gemini) }).await?;
    let route = format!("model = {{ url = \"{}\", key = \"{KEY}\", greeting = \"Hello\" }}", model.url());
    let service = TestService::start_with("gemini-live:m", TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.close(1011).await;
    let session = model.wait_for_session_number(1).await?;
    session.wait_for_tone(CALLER_HZ).await?;
    let told = session.messages();
    assert_eq!(told[0]["setup"]["sessionResumption"], json!({"handle": "handle_1"}));
    assert_eq!(told.len(), 1, "it does not greet again: {told:?}");
    session.say(&sound::tone(SECOND_AGENT_HZ, RATE, 20_000)).await;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

/// What the vendor does with a wrong key, as the operator reads it.
async fn with_a_wrong_key(vendor: Vendor, agent: &str) -> anyhow::Result<Value> {
    let model = Model::start(script(vendor)).await?;
    let route = format!("model = {{ url = \"{}\", key = \"another\" }}", model.url());
    let mut service = TestService::start_with(agent, TestOptions { route, ..TestOptions::default() }).await?;
    let call = service.call(caller()).await?;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!(lost["failure"], "refused", "{lost}");
    let end = service.end_of(&call).await?;
    assert_eq!((&end["reason"], &end["usage"]), (&json!("no_agent"), &json!([])), "{end}");
    assert_eq!(lost["detail"].as_str().map(|detail| end["detail"].to_string().contains(detail)), Some(true), "{end}");
    Ok(lost["detail"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_told_in_the_end_of_the_call() -> anyhow::Result<()> {
    for (vendor, agent, detail) in [
        (Vendor::OpenAi, "openai-realtime:gpt-realtime", "the model reported invalid_api_key"),
        (Vendor::Gemini, "gemini-live:m", "it closed with code 1007 (invalid payload data) before it was ready"),
        (Vendor::ElevenLabs, "elevenlabs:a", "the WebSocket upgrade was refused: HTTP 401 Unauthorized"),
        (Vendor::Deepgram, "deepgram-agent:m", "the WebSocket upgrade was refused: HTTP 401 Unauthorized"),
    ] {
        assert_eq!(with_a_wrong_key(vendor, agent).await?, detail, "{vendor:?}");
    }
    Ok(())
}

/// A model that calls functions of an app: two at once, one of which fails, and one whose arguments are wrong.
async fn a_conversation_with_functions(vendor: Vendor, agent: &str) -> anyhow::Result<Value> {
    let mut app = App::start().await?;
    let model =
        Model::start(ModelScript { speaks_on: sound::tone(SECOND_AGENT_HZ, RATE, 20_000), ..script(vendor) }).await?;
    let mut service = TestService::start_with(agent, app.options(&model)).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    call.wait_until(Stage::FirstPacket).await?;
    session.wait_for_tone(CALLER_HZ).await?;
    let calls = [
        ("f1", "order_status", json!({"number": "A-17"})),
        ("f2", "refund", json!({})),
        ("f3", "order_status", json!({"number": 17})),
        ("f4", "fly", json!({})),
    ];
    session.call_functions(&calls).await;
    assert!(session.result_of("f3").await?.contains("arguments.number: give string"));
    assert!(session.result_of("f4").await?.contains("there is no such function"));
    let (first, second) = (app.asked().await?, app.asked().await?);
    let (order, refund) = if first.body["function"] == "order_status" { (first, second) } else { (second, first) };
    assert_eq!(order.body["arguments"], json!({"number": "A-17"}));
    assert_eq!(order.body["call"]["from"]["wa_id"], "12025550143");
    assert_eq!(order.body["parameters"], json!({"language": "en"}));
    assert_eq!(order.headers["webhook-id"].to_str()?, order.body["id"]);
    assert!(order.headers["webhook-signature"].to_str()?.starts_with("v1,"));
    order.answers(StatusCode::OK, r#"{"status":"sent"}"#);
    assert!(session.result_of("f1").await?.contains("sent"));
    refund.answers(StatusCode::INTERNAL_SERVER_ERROR, "the caller's name");
    let failed = session.result_of("f2").await?;
    assert!(failed.contains("the function answered with HTTP 500") && !failed.contains("name"), "{failed}");
    session.end_response().await;
    // The model speaks on, and its caller has heard none of it.
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    let id = service.event("call.accepted").await?.call_id;
    let live = Client::new(&service, READER).get(&format!("/v1/calls/{id}")).await?.body["usage"].clone();
    assert_eq!(live[0]["model"], agent, "{live}");
    call.hang_up().await?;
    let usage = service.end_of(&call).await?["usage"].clone();
    let past = Client::new(&service, READER).get(&format!("/v1/calls/{id}")).await?.body["usage"].clone();
    assert_eq!((&usage, usage[0]["model"].as_str()), (&past, Some(agent)));
    assert!(usage[0]["connected_ms"].as_u64() >= live[0]["connected_ms"].as_u64(), "{usage}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(usage[0].clone())
}

/// Of the response with the function calls and of the one after it.
fn tokens_of_two_responses(usage: &Value) {
    let mut tokens = usage.clone();
    for key in ["model", "connected_ms"] {
        tokens.as_object_mut().map(|tokens| tokens.remove(key));
    }
    let expected = json!({
        "input_tokens": 200, "cached_input_tokens": 40, "input_audio_tokens": 120,
        "output_tokens": 100, "output_audio_tokens": 80,
    });
    assert_eq!(tokens, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn openais_model_calls_functions_of_an_app_and_speaks_on() -> anyhow::Result<()> {
    let usage = a_conversation_with_functions(Vendor::OpenAi, "openai-realtime:gpt-realtime").await?;
    tokens_of_two_responses(&usage);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gemini_calls_functions_of_an_app_and_speaks_on() -> anyhow::Result<()> {
    let usage = a_conversation_with_functions(Vendor::Gemini, "gemini-live:gemini-live").await?;
    tokens_of_two_responses(&usage);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn elevenlabs_calls_functions_of_an_app_and_speaks_on() -> anyhow::Result<()> {
    let usage = a_conversation_with_functions(Vendor::ElevenLabs, "elevenlabs:agent_1").await?;
    assert_eq!((&usage["input_tokens"], usage["connected_ms"].as_u64() > Some(0)), (&Value::Null, true), "{usage}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deepgram_calls_functions_of_an_app_and_speaks_on() -> anyhow::Result<()> {
    let usage = a_conversation_with_functions(Vendor::Deepgram, "deepgram-agent:gpt-4o-mini").await?;
    assert_eq!(usage["output_tokens"], Value::Null, "{usage}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_eight_functions_are_under_way_and_the_end_of_the_call_ends_them() -> anyhow::Result<()> {
    let mut app = App::start().await?;
    let model = Model::start(script(Vendor::Gemini)).await?;
    let mut service = TestService::start_with("gemini-live:m", app.options(&model)).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    call.wait_until(Stage::FirstPacket).await?;
    session.wait_for_tone(CALLER_HZ).await?;
    let ids: Vec<String> = (0..9).map(|number| format!("f{number}")).collect();
    let calls: Vec<_> = ids.iter().map(|id| (id.as_str(), "refund", json!({}))).collect();
    session.call_functions(&calls).await;
    assert!(session.result_of("f8").await?.contains("too many functions are under way"));
    let mut asked = Vec::new();
    for _ in 0..8 {
        asked.push(app.asked().await?);
    }
    call.hang_up().await?;
    service.end_of(&call).await?;
    for question in asked {
        question.given_up().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_slow_or_says_too_much_is_an_error_for_the_model_alone() -> anyhow::Result<()> {
    let mut app = App::start().await?;
    let model = Model::start(script(Vendor::Deepgram)).await?;
    let mut options = app.options(&model);
    options.route = options.route.replace("tools_timeout = \"30s\"", "tools_timeout = \"300ms\"");
    let mut service = TestService::start_with("deepgram-agent:m", options).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    call.wait_until(Stage::FirstPacket).await?;
    session.call_functions(&[("f1", "refund", json!({}))]).await;
    let _question = app.asked().await?;
    assert!(session.result_of("f1").await?.contains("did not answer in time"));
    session.call_functions(&[("f2", "refund", json!({}))]).await;
    app.asked().await?.answers(StatusCode::OK, &"x".repeat(40_000));
    assert!(session.result_of("f2").await?.contains("more than 32 KiB"));
    session.call_functions(&[("f3", "refund", json!({}))]).await;
    app.asked().await?.answers(StatusCode::TEMPORARY_REDIRECT, "");
    assert!(session.result_of("f3").await?.contains("HTTP 307"));
    session.call_functions(&[("f4", "refund", json!({}))]).await;
    app.asked().await?.answers(StatusCode::NO_CONTENT, "");
    assert_eq!(session.result_of("f4").await?, r#"{"ok":true}"#);
    session.wait_for_tone(CALLER_HZ).await?;
    assert!(!service.kinds().contains(&"call.ended"));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

/// The model says that it hands the caller over, and calls the function while most of that waits to be heard.
async fn hands_over(session: &ModelSession) {
    session.say(&sound::tone(AGENT_HZ, RATE, 4000)).await;
    session.call_functions(&[("f1", "transfer", json!({"to": "people"}))]).await;
    session.end_response().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_hands_its_caller_over_to_a_queue_behind_its_words() -> anyhow::Result<()> {
    let model = Model::start(script(Vendor::OpenAi)).await?;
    let route = format!("model = {{ url = \"{}\", key = \"{KEY}\", transfer_to = [\"people\"] }}", model.url());
    let more_routes = "[routes.people]\nagent = \"queue:support\"\n[queues.support]".to_owned();
    let options = TestOptions { route, more_routes, ..TestOptions::default() };
    let mut service = TestService::start_with("openai-realtime:gpt-realtime", options).await?;
    let mut ada = Person::takes_calls(&service, ADA).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    let id = service.event("call.accepted").await?.call_id;
    call.wait_until(Stage::FirstPacket).await?;
    hands_over(&session).await;
    assert_eq!(ada.rings().await?["call_id"], id.as_str());
    session.wait_for_end().await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    let said = tone_ms(&call, AGENT_HZ)?;
    assert!(said > 3500, "the caller heard {said} ms of 4 s");
    let _page = ada.answers(&service, &id, SECOND_AGENT_HZ).await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    call.hang_up().await?;
    let end = service.end_of(&call).await?;
    assert_eq!(end["usage"][0]["model"], "openai-realtime:gpt-realtime");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_hands_its_caller_over_to_the_agent_of_a_route() -> anyhow::Result<()> {
    let model = Model::start(script(Vendor::Gemini)).await?;
    let bot = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let route = format!("model = {{ url = \"{}\", key = \"{KEY}\", transfer_to = [\"people\"] }}", model.url());
    let more_routes = format!("[routes.people]\nagent = \"{}\"", bot.url());
    let options = TestOptions { route, more_routes, ..TestOptions::default() };
    let mut service = TestService::start_with("gemini-live:m", options).await?;
    let call = service.call(caller()).await?;
    let session = model.wait_for_session().await?;
    call.wait_until(Stage::FirstPacket).await?;
    hands_over(&session).await;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    session.wait_for_end().await?;
    let said = tone_ms(&call, AGENT_HZ)?;
    assert!(said > 3500, "the caller heard {said} ms of 4 s");
    service.event("call.transferred").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_dialled_again_knows_it_and_does_not_greet_the_caller_twice() -> anyhow::Result<()> {
    for (vendor, agent) in [
        (Vendor::OpenAi, "openai-realtime:gpt-realtime"),
        (Vendor::ElevenLabs, "elevenlabs:a"),
        (Vendor::Deepgram, "deepgram-agent:m"),
    ] {
        let greeting = sound::tone(AGENT_HZ, RATE, 1000);
        let model = Model::start(ModelScript { greeting, ..script(vendor) }).await?;
        let keys =
            format!("url = \"{}\", key = \"{KEY}\", greeting = \"Hello\", instructions = \"Be brief\"", model.url());
        let options = TestOptions { route: format!("model = {{ {keys} }}"), ..TestOptions::default() };
        let mut service = TestService::start_with(agent, options).await?;
        let call = service.call(caller()).await?;
        let first = model.wait_for_session().await?;
        until_caller_hears(&call, &[AGENT_HZ]).await?;
        first.wait_for_tone(CALLER_HZ).await?;
        first.close(1011).await;
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!(lost["redialling"], true, "{vendor:?}: {lost}");
        service.event("call.agent_rejoined").await?;
        let second = model.wait_for_session_number(1).await?;
        second.wait_for_tone(CALLER_HZ).await?;
        second.say(&sound::tone(SECOND_AGENT_HZ, RATE, 2000)).await;
        let greeted_ms = tone_ms(&call, AGENT_HZ)?;
        until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
        assert_eq!(tone_ms(&call, AGENT_HZ)?, greeted_ms, "{vendor:?}");
        let [before, after] = [first, second].map(|session| json!(session.messages()).to_string());
        let is_told = |messages: &str| messages.contains("Do not greet the caller again");
        assert_eq!((is_told(&before), is_told(&after)), (false, true), "{vendor:?}: {after}");
        assert!(after.contains("Be brief"), "{vendor:?}: {after}");
        assert_eq!(objections(&call), [], "{vendor:?}: {}", call.seen());
    }
    Ok(())
}

fn script(vendor: Vendor) -> ModelScript {
    ModelScript { vendor, key: KEY.to_owned(), greeting: Vec::new(), speaks_on: Vec::new() }
}

/// For how long the caller has heard this tone, in steps of 100 ms.
fn tone_ms(call: &Call, hz: f64) -> anyhow::Result<usize> {
    let heard = call.heard()?;
    let pieces = heard.chunks_exact(PHONE_RATE as usize / 10);
    Ok(100 * pieces.filter(|piece| sound::hears(piece, PHONE_RATE, hz)).count())
}

/// The app that performs functions.
struct App {
    address: SocketAddr,
    questions: mpsc::UnboundedReceiver<Question>,
    server: JoinHandle<()>,
}

/// One call of a function, which waits for its answer.
struct Question {
    headers: HeaderMap,
    body: Value,
    answer: oneshot::Sender<(StatusCode, String)>,
}

impl App {
    async fn start() -> anyhow::Result<Self> {
        let (sender, questions) = mpsc::unbounded_channel();
        let router = Router::new().route("/functions", post(ask)).route("/refunds", post(ask)).with_state(sender);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve until aborted") });
        Ok(Self { address, questions, server })
    }

    /// A model with the functions `order_status` and `refund`.
    fn options(&self, model: &Model) -> TestOptions {
        let app = self.address;
        let route = format!(
            r#"
            parameters = {{ language = "en" }}
            [routes.reception.model]
            url = "{}"
            key = "{KEY}"
            tools_webhook = "http://{app}/functions"
            tools_secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
            tools_timeout = "30s"
            [[routes.reception.model.tools]]
            name = "order_status"
            description = "How an order stands."
            parameters = {{ type = "object", properties = {{ number = {{ type = "string" }} }}, required = ["number"] }}
            [[routes.reception.model.tools]]
            name = "refund"
            description = "Refund the last order."
            webhook = "http://{app}/refunds"
            [[routes.reception.model.tools]]
            name = "hangup"
            "#,
            model.url()
        );
        TestOptions { route, ..TestOptions::default() }
    }

    async fn asked(&mut self) -> anyhow::Result<Question> {
        timeout(DEADLINE, self.questions.recv()).await.context("no function was called")?.context("the app is gone")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Question {
    fn answers(self, status: StatusCode, body: &str) {
        // The service may have given it up.
        let _ = self.answer.send((status, body.to_owned()));
    }

    /// The service closes the connection without an answer.
    async fn given_up(mut self) -> anyhow::Result<()> {
        timeout(DEADLINE, self.answer.closed()).await.context("the function is still waited for")
    }
}

async fn ask(
    State(questions): State<mpsc::UnboundedSender<Question>>,
    headers: HeaderMap,
    axum::Json(body): axum::Json<Value>,
) -> (StatusCode, String) {
    let (answer, answered) = oneshot::channel();
    // The test may be over.
    let _ = questions.send(Question { headers, body, answer });
    answered.await.unwrap_or((StatusCode::SERVICE_UNAVAILABLE, String::new()))
}
