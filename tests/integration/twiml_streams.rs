//! Media streams of apps that answer TwiML: what their `statusCallback` is told, and connections that break.

use patchcord_simulator::call::EndedBy;
use patchcord_simulator::foreign_agent::{ForeignAgent, Protocol};
use patchcord_simulator::sound;
use patchcord_simulator::twiml_app::{Asked, TwimlApp};

use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, HOLD_NOTE_HZ, SECOND_AGENT_HZ, caller, objections, quiet_caller, tone,
    until_caller_hears,
};
use crate::service::{TestOptions, TestService};
use crate::twiml::{ACCOUNT, TOKEN, account};

/// An app whose `/voice` opens a stream to this bot, tells `/stream` of it, and goes on with these verbs.
async fn app(bot: &ForeignAgent, then: &str, route: &str) -> anyhow::Result<(TwimlApp, TestService)> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/stream", "");
    let stream = format!("<Stream url=\"{}\" name=\"talk\" statusCallback=\"/stream\"/>", bot.url());
    app.says("/voice", format!("<Connect>{stream}</Connect>{then}"));
    let options = TestOptions { route: route.to_owned(), more_routes: account(""), ..TestOptions::default() };
    let service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    Ok((app, service))
}

/// The event and the stream of a callback, which is signed.
fn told(asked: &Asked) -> (&str, &str) {
    assert!(asked.is_signed, "{asked:?}");
    let field = |name: &str| asked.fields.get(name).map(String::as_str).unwrap_or_default();
    assert_eq!((field("AccountSid"), field("StreamName")), (ACCOUNT, "talk"), "{asked:?}");
    assert!(field("CallSid").starts_with("CA") && field("Timestamp").contains('T'), "{asked:?}");
    assert_eq!(field("StreamEvent") == "stream-error", asked.fields.contains_key("StreamError"), "{asked:?}");
    (field("StreamEvent"), field("StreamSid"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_callback_of_a_stream_is_told_when_it_starts_and_stops() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let (app, mut service) = app(&bot, "", "").await?;
    let call = service.call(caller()).await?;
    let session = bot.wait_for_call(1).await?;
    session.wait_for_tone(CALLER_HZ).await?;
    let sid = session.messages()[1]["streamSid"].as_str().unwrap_or_default().to_owned();
    assert_eq!(told(&app.wait_for("/stream", 1).await?), ("stream-started", sid.as_str()));
    call.hang_up().await?;
    assert_eq!(told(&app.wait_for("/stream", 2).await?), ("stream-stopped", sid.as_str()));
    service.end_of(&call).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_callback_of_a_stream_learns_that_it_cannot_be_opened() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let (app, mut service) = app(&bot, "<Play>prompt:goodbye</Play>", "").await?;
    drop(bot);
    let call = service.call(quiet_caller()).await?;
    let error = app.wait_for("/stream", 1).await?;
    assert_eq!(told(&error).0, "stream-error");
    assert!(error.fields["StreamError"].contains("refused"), "{error:?}");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up", "the next verb has run");
    assert_eq!(app.asked().iter().filter(|asked| asked.path == "/stream").count(), 1, "it never started");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_is_dialled_again_and_the_document_goes_on_where_it_was() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let (app, mut service) = app(&bot, "<Play>prompt:goodbye</Play>", "").await?;
    let call = service.call(caller()).await?;
    let first = bot.wait_for_call(1).await?;
    first.say(&tone(AGENT_HZ, 60_000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    first.restart().await;
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["failure"], &lost["redialling"]), (&"disconnected".into(), &true.into()), "{lost}");
    service.event("call.agent_rejoined").await?;
    let second = bot.wait_for_call(2).await?;
    second.wait_for_tone(CALLER_HZ).await?;
    second.say(&tone(SECOND_AGENT_HZ, 10_000)).await;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    let [before, after] = [first, second.clone()].map(|session| session.messages()[1].clone());
    assert_eq!(after["start"]["callSid"], before["start"]["callSid"]);

    let mut events = Vec::new();
    for nth in 1..=4 {
        let asked = app.wait_for("/stream", nth).await?;
        let (event, sid) = told(&asked);
        events.push((event.to_owned(), serde_json::Value::from(sid)));
    }
    let [old, new] = [&before, &after].map(|message| message["streamSid"].clone());
    let wanted = [("stream-started", &old), ("stream-error", &old), ("stream-stopped", &old), ("stream-started", &new)];
    assert_eq!(events, wanted.map(|(event, sid)| (event.to_owned(), sid.clone())));

    second.hang_up().await;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up", "the next verb has run");
    assert_eq!(sound::voices_heard(&call.heard()?, 16_000, &GOODBYE_NOTES_HZ), GOODBYE_NOTES_HZ);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stays_away_is_followed_by_the_next_verb() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let after = "<Gather action=\"/after\" numDigits=\"1\"/>";
    let (app, mut service) = app(&bot, after, "redial_for = \"2s\"").await?;
    app.says("/after", "<Play>prompt:goodbye</Play>");
    let call = service.call(quiet_caller()).await?;
    let session = bot.wait_for_call(1).await?;
    session.say(&tone(AGENT_HZ, 60_000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    drop(bot);
    session.restart().await;
    service.event("call.agent_lost").await?;
    until_caller_hears(&call, &[HOLD_NOTE_HZ]).await?;
    service.event("call.agent_rejoined").await?;
    call.send_dtmf("5").await;
    assert_eq!(app.wait_for("/after", 1).await?.fields["Digits"], "5");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stays_away_with_nothing_behind_it_is_followed_by_the_fallback() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let (_app, mut service) = app(&bot, "", "redial_for = \"1s\"\nfallback = [\"prompt:goodbye\"]").await?;
    let call = service.call(quiet_caller()).await?;
    let session = bot.wait_for_call(1).await?;
    service.event("call.accepted").await?;
    drop(bot);
    session.restart().await;
    assert_eq!(service.event("call.agent_lost").await?.data["redialling"], true);
    let lost = service.event("call.agent_lost").await?.data;
    assert_eq!((&lost["redialling"], &lost["failure"]), (&false.into(), &"refused".into()), "{lost}");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");
    assert_eq!(sound::voices_heard(&call.heard()?, 16_000, &GOODBYE_NOTES_HZ), GOODBYE_NOTES_HZ);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_while_a_stream_is_redialled_ends_the_call_at_once() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let (_app, mut service) = app(&bot, "<Play>prompt:goodbye</Play>", "redial_for = \"5m\"").await?;
    let call = service.call(quiet_caller()).await?;
    let session = bot.wait_for_call(1).await?;
    service.event("call.accepted").await?;
    drop(bot);
    session.restart().await;
    service.event("call.agent_lost").await?;
    call.hang_up().await?;
    assert_eq!(service.end_of(&call).await?["reason"], "caller_hung_up");
    service.all_ended().await?;
    assert_eq!(call.ended_by(), Some(EndedBy::Caller));
    Ok(())
}
