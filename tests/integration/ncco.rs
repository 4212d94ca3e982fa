//! An app that answers NCCOs, as apps written for Vonage's Voice API do.

use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::foreign_agent::{ForeignAgent, Protocol};
use patchcord_simulator::sound;
use patchcord_simulator::twiml_app::{Page, TwimlApp};
use serde_json::{Value, json};

use crate::api::client::{Client, WRITER};
use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, caller, objections, quiet_caller, tone, until_caller_hears,
};
use crate::service::{TestOptions, TestService};

/// An app whose `/answer` is this, and the service whose callers it gets.
async fn app(ncco: &Value, keys: &str) -> anyhow::Result<(TwimlApp, TestService)> {
    let app = TwimlApp::start("").await?;
    app.answers("/answer", Page::Body("application/json", ncco.to_string().into()));
    let more_routes = "[egress]\nallow = [\"127.0.0.0/8\"]\n".to_owned();
    let options = TestOptions { route: keys.to_owned(), more_routes, ..TestOptions::default() };
    let service = TestService::start_with(&format!("ncco:{}", app.url("/answer")), options).await?;
    Ok((app, service))
}

/// An action that connects to this agent, with these fields of the endpoint.
fn connect(agent: &ForeignAgent, fields: &Value) -> Value {
    let mut endpoint = json!({"type": "websocket", "uri": agent.url()});
    for (name, value) in fields.as_object().into_iter().flatten() {
        endpoint[name] = value.clone();
    }
    json!({"action": "connect", "from": "447700900000", "endpoint": [endpoint]})
}

/// Why the call ended, and the failure's cause.
async fn end_of(service: &mut TestService, call: &Call) -> anyhow::Result<(Value, String)> {
    let ended = service.end_of(call).await?;
    Ok((ended["reason"].clone(), ended["detail"].as_str().unwrap_or_default().to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_talks_at_its_rate_and_the_action_behind_it_follows_once_the_app_has_left() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Vonage, 24_000).await?;
    let fields = json!({
        "content-type": "audio/l16;rate=24000", "headers": {"plan": "gold"},
        "authorization": {"type": "custom", "value": "Bearer secret"},
    });
    let ncco = json!([connect(&bot, &fields), {"action": "stream", "streamUrl": ["prompt:goodbye"]}]);
    let (app, mut service) = app(&ncco, "parameters = { language = \"de\" }").await?;
    let call = service.call(caller()).await?;
    let session = bot.wait_for_call(1).await?;
    call.wait_until(Stage::FirstPacket).await?;
    session.say(&tone(AGENT_HZ, 3000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.wait_for_tone(CALLER_HZ).await?;
    call.send_dtmf("5").await;
    session.wait_for_key('5').await?;

    let asked = app.wait_for("/answer", 1).await?;
    let field = |name: &str| asked.fields.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((asked.method.as_str(), field("endpoint_type")), ("GET", "phone"));
    assert!(field("from").bytes().all(|byte| byte.is_ascii_digit()) && !field("from").is_empty(), "{asked:?}");
    assert_eq!((field("uuid").len(), field("conversation_uuid")), (36, format!("CON-{}", field("uuid")).as_str()));
    let connected = json!({
        "event": "websocket:connected", "content-type": "audio/l16;rate=24000", "language": "de", "plan": "gold",
    });
    assert_eq!(session.messages()[0], connected);
    assert_eq!(session.header("authorization").as_deref(), Some("Bearer secret"));
    let shown = Client::new(&service, WRITER).get("/v1/routes").await?;
    assert_eq!(shown.body["routes"][0]["agent"], json!({ "type": "ncco", "url": app.url("/answer") }));

    session.hang_up().await;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    let heard = sound::voices_heard(&call.heard()?, 16_000, &GOODBYE_NOTES_HZ);
    assert_eq!(heard, GOODBYE_NOTES_HZ);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_is_heard_before_the_websocket_and_a_lost_one_is_the_end() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Vonage, 16_000).await?;
    let ncco = json!([{"action": "stream", "streamUrl": ["prompt:goodbye"]}, connect(&bot, &json!({}))]);
    let (_app, mut service) = app(&ncco, "redial_for = 0").await?;
    let call = service.call(quiet_caller()).await?;
    let session = bot.wait_for_call(1).await?;
    session.say(&tone(AGENT_HZ, 2000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let heard = sound::voices_heard(&call.heard()?, 16_000, &GOODBYE_NOTES_HZ);
    assert_eq!(heard, GOODBYE_NOTES_HZ);
    session.restart().await;
    assert_eq!(end_of(&mut service, &call).await?.0, "agent_lost");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ncco_that_cannot_be_run_ends_the_call_and_the_reason_names_the_action() -> anyhow::Result<()> {
    let foreign = json!({"type": "websocket", "uri": "wss://bot.example.com/socket"});
    for (ncco, why) in [
        (json!([{"action": "record"}]), "the NCCO action record is not supported"),
        (json!([{"action": "connect", "endpoint": [{"type": "sip", "uri": "sip:a@b"}]}]), "an endpoint sip"),
        (json!([{"action": "connect", "endpoint": [foreign]}]), "[egress] allow"),
        (json!([{"action": "talk", "text": "Hello"}]), "talk needs a program that speaks: set twilio.say_command"),
        (
            json!([{"action": "stream", "streamUrl": ["/missing.wav"]}]),
            "stream: could not be reached: it answered with HTTP 404",
        ),
        (json!({"error": "none"}), "no NCCO"),
    ] {
        let (_app, mut service) = app(&ncco, "").await?;
        let call = service.call(quiet_caller()).await?;
        let (_, detail) = end_of(&mut service, &call).await?;
        assert!(detail.contains(why), "{ncco}: {detail}");
    }
    Ok(())
}
