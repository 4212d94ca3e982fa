//! Callers who come to an app that answers TwiML from another agent, and calls that it gets of us.

use patchcord::call::event::CallId;
use patchcord_simulator::call::Stage;
use patchcord_simulator::callee::CalleeOptions;
use patchcord_simulator::foreign_agent::{ForeignAgent, Protocol};
use patchcord_simulator::twiml_app::TwimlApp;
use reqwest::Method;
use serde_json::json;

use crate::api::client::{Client, WRITER};
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND_AGENT_HZ, agent, caller, objections, quiet_caller, tone, until_caller_hears,
};
use crate::service::{Talk, TestOptions, TestService};
use crate::twiml::{TOKEN, account, stream};

/// A caller with an agent, and an app behind the route `menu`.
async fn talking(app: &TwimlApp) -> anyhow::Result<(Talk, CallId)> {
    let more_routes = format!("{}[routes.menu]\nagent = \"twiml:{}\"\n", account(""), app.url("/voice"));
    let options = TestOptions { more_routes, ..TestOptions::default() };
    let mut talk = Talk::start_with(caller(), agent(), options).await?;
    let id = talk.service.event("call.accepted").await?.call_id;
    until_caller_hears(&talk.call, &[AGENT_HZ]).await?;
    Ok((talk, id))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_api_transfers_a_caller_to_an_app_and_its_menu_hears_the_keys() -> anyhow::Result<()> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", "<Gather action=\"/chosen\" numDigits=\"1\"/>");
    app.says("/chosen", "<Hangup/>");
    let (mut talk, id) = talking(&app).await?;
    assert_eq!(talk.service.act(&id, "transfer", json!({ "route": "menu" })).await, Ok(json!({})));
    let asked = app.wait_for("/voice", 1).await?.fields;
    assert_eq!((asked["CallStatus"].as_str(), asked["Direction"].as_str()), ("in-progress", "inbound"));
    assert_eq!(talk.service.event("call.transferred").await?.data["completed"], true);
    assert_eq!(talk.session.wait_for_message("stop").await?["reason"], "transferred");
    talk.call.send_dtmf("4").await;
    assert_eq!(app.wait_for("/chosen", 1).await?.fields["Digits"], "4");
    assert_eq!(talk.service.end_of(&talk.call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_transfers_its_caller_to_the_stream_of_an_app() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", stream(&bot));
    let (mut talk, _) = talking(&app).await?;
    let transfer = json!({ "type": "command", "request_id": "1", "action": "transfer", "route": "menu" });
    talk.session.send(&transfer).await;
    let session = bot.wait_for_call(1).await?;
    talk.service.event("call.transferred").await?;
    session.say(&tone(SECOND_AGENT_HZ, 20_000)).await;
    until_caller_hears(&talk.call, &[SECOND_AGENT_HZ]).await?;
    session.wait_for_tone(CALLER_HZ).await?;
    let start = session.messages()[1].clone();
    assert_eq!(start["start"]["callSid"], app.wait_for("/voice", 1).await?.fields["CallSid"].as_str());
    session.hang_up().await;
    assert_eq!(talk.service.end_of(&talk.call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&talk.call), [], "{}", talk.call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_fails_in_a_transfer_leaves_the_caller_with_the_first_agent() -> anyhow::Result<()> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", "<Record/>");
    let (mut talk, id) = talking(&app).await?;
    talk.session.say(&tone(AGENT_HZ, 60_000)).await;
    assert_eq!(talk.service.act(&id, "transfer", json!({ "route": "menu" })).await, Ok(json!({})));
    let failed = talk.service.event("call.transferred").await?.data;
    assert_eq!(failed["completed"], false, "{failed}");
    until_caller_hears(&talk.call, &[AGENT_HZ]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_we_place_for_a_route_is_answered_by_its_app() -> anyhow::Result<()> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", "<Gather action=\"/chosen\" numDigits=\"1\" timeout=\"20\"/>");
    app.says("/chosen", "<Hangup/>");
    let numbers = "numbers = { \"+12025550199\" = \"200000000000002\" }";
    let options = TestOptions { more_routes: account(numbers), ..TestOptions::default() };
    let mut service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    let callee = service.meta.permit(CalleeOptions { person: quiet_caller(), ..CalleeOptions::default() });
    let order = json!({ "to": "12025550143" }).to_string().into_bytes();
    let placed = Client::new(&service, WRITER).ask(Method::POST, "/v1/calls", Some(order)).await?;
    assert_eq!(placed.status, 201, "{placed:?}");
    let call = callee.next_call().await?;
    call.wait_until(Stage::MediaUp).await?;
    let asked = app.wait_for("/voice", 1).await?.fields;
    let field = |name: &str| asked.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((field("Direction"), field("CallStatus")), ("outbound-api", "ringing"), "{asked:?}");
    assert_eq!((field("To"), field("Called")), ("+12025550143", "+12025550143"), "{asked:?}");
    assert_eq!((field("From"), field("Caller")), ("+12025550199", "+12025550199"), "{asked:?}");
    call.pick_up().await?;
    service.event("call.accepted").await?;
    call.wait_until(Stage::FirstPacket).await?;
    call.send_dtmf("6").await;
    let chosen = app.wait_for("/chosen", 1).await?.fields;
    assert_eq!((chosen["Digits"].as_str(), chosen["CallStatus"].as_str()), ("6", "in-progress"));
    assert_eq!(service.event("call.ended").await?.data["reason"], "agent_hung_up");
    Ok(())
}
