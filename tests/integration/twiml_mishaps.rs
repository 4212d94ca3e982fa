//! Apps that answer TwiML late, never or with something else, and the edges of `<Gather>`.

use anyhow::Context;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::sound::{self, PHONE_RATE};
use patchcord_simulator::twiml_app::{Page, TwimlApp};
use tokio::time::timeout;

use crate::people::{
    AGENT_HZ, GOODBYE_NOTES_HZ, SECOND, SECOND_AGENT_HZ, caller_hears_next, heard_voices, objections, quiet_caller,
    tone, until_caller_hears,
};
use crate::service::{DEADLINE, TestOptions, TestService};
use crate::twiml::{TOKEN, account, ends_without_accept, wav};

/// An app whose `/voice` says this.
async fn app(verbs: &str) -> anyhow::Result<(TwimlApp, TestService)> {
    app_with(verbs, TestOptions::default()).await
}

/// The same with a second for each answer.
async fn hasty_app(verbs: &str, route: &str) -> anyhow::Result<(TwimlApp, TestService)> {
    let (route, calls) = (route.to_owned(), "agent_timeout = \"1s\"".to_owned());
    app_with(verbs, TestOptions { route, calls, ..TestOptions::default() }).await
}

async fn app_with(verbs: &str, options: TestOptions) -> anyhow::Result<(TwimlApp, TestService)> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", verbs);
    let options = TestOptions { more_routes: account(""), ..options };
    let service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    Ok((app, service))
}

/// A caller who hears us.
async fn accepted(service: &mut TestService) -> anyhow::Result<Call> {
    let call = service.call(quiet_caller()).await?;
    service.event("call.accepted").await?;
    call.wait_until(Stage::FirstPacket).await?;
    Ok(call)
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_no_document_end_a_ringing_call_and_the_reason_says_why() -> anyhow::Result<()> {
    let html = "<!DOCTYPE html><html><body><h1>It works!</h1></body></html>";
    for (page, why) in [
        (Page::Body("text/html", html.into()), "DTD"),
        (Page::Body("text/html", "<html><body>It works!</body></html>".into()), "<html>, not <Response>"),
        (Page::Body("text/xml", b"<Response><Say>\xff\xfe</Say></Response>".to_vec()), "not UTF-8"),
        (Page::Body("application/json", b"{\"verbs\":[]}".to_vec()), "the document is empty"),
        (Page::Body("text/xml", Vec::new()), "the document is empty"),
        (Page::Verbs("<Hangup/>".repeat(2000)), "more than 500 elements"),
        (Page::Verbs(format!("{}{}", "<Gather>".repeat(50), "</Gather>".repeat(50))), "nests deeper"),
        (Page::Status(404), "HTTP 404"),
    ] {
        ends_without_accept(page, why).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_does_not_answer_in_time_is_followed_by_the_fallback() -> anyhow::Result<()> {
    for page in [Page::Never, Page::Stuck] {
        let (app, mut service) = hasty_app("", "fallback = [\"prompt:goodbye\"]").await?;
        app.answers("/voice", page);
        let call = service.call(quiet_caller()).await?;
        assert_eq!(service.event("call.agent_lost").await?.data["failure"], "no_answer");
        service.end_of(&call).await?;
        assert_eq!(sound::voices_heard(&call.heard()?, PHONE_RATE, &GOODBYE_NOTES_HZ), GOODBYE_NOTES_HZ);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_answers_no_more_in_the_middle_of_a_call_is_followed_by_the_fallback() -> anyhow::Result<()> {
    for page in [Page::Never, Page::Status(500)] {
        let menu = "<Gather action=\"/chosen\" numDigits=\"1\" timeout=\"20\"/>";
        let (app, mut service) = hasty_app(menu, "fallback = [\"prompt:goodbye\"]").await?;
        app.answers("/chosen", page);
        let call = accepted(&mut service).await?;
        call.send_dtmf("1").await;
        app.wait_for("/chosen", 1).await?;
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!(lost["redialling"], false, "{lost}");
        assert_eq!(service.end_of(&call).await?["reason"], "agent_lost");
        assert_eq!(sound::voices_heard(&call.heard()?, PHONE_RATE, &GOODBYE_NOTES_HZ), GOODBYE_NOTES_HZ);
        assert_eq!(objections(&call), [], "{}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_of_actions_that_nobody_hears_anything_of_ends() -> anyhow::Result<()> {
    let (app, mut service) = app("<Redirect>/next</Redirect>").await?;
    app.says("/next", "<Pause length=\"0\"/><Redirect method=\"GET\">/voice</Redirect>");
    let call = service.call(quiet_caller()).await?;
    let ended = service.end_of(&call).await?;
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("a circle")), "{ended}");
    assert_eq!(app.asked().len(), 10);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gather_ends_by_its_digits_its_key_or_its_silence() -> anyhow::Result<()> {
    for (attributes, keys, digits, key) in [
        ("numDigits=\"3\"", "1#", "1", "#"),
        ("numDigits=\"3\" finishOnKey=\"\"", "1#*", "1#*", ""),
        ("numDigits=\"2\" finishOnKey=\"*\"", "12", "12", ""),
        ("finishOnKey=\"5\"", "1235", "123", "5"),
        ("timeout=\"1\"", "12", "12", ""),
        ("timeout=\"1\" actionOnEmptyResult=\"true\"", "", "", ""),
        ("actionOnEmptyResult=\"true\"", "#", "", "#"),
    ] {
        let (app, mut service) = app(&format!("<Gather action=\"/chosen\" {attributes}/>")).await?;
        app.says("/chosen", "<Hangup/>");
        let call = accepted(&mut service).await?;
        call.send_dtmf(keys).await;
        let chosen = app.wait_for("/chosen", 1).await?.fields;
        let found = (chosen["Digits"].as_str(), chosen["FinishedOnKey"].as_str());
        assert_eq!(found, (digits, key), "{attributes}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gather_without_digits_is_followed_by_the_next_verb() -> anyhow::Result<()> {
    for (attributes, keys) in [("timeout=\"1\"", ""), ("timeout=\"20\"", "#")] {
        let verbs = format!("<Gather action=\"/chosen\" {attributes}/><Redirect>/next</Redirect>");
        let (app, mut service) = app(&verbs).await?;
        app.says("/next", "<Hangup/>");
        let call = accepted(&mut service).await?;
        call.send_dtmf(keys).await;
        assert!(!app.wait_for("/next", 1).await?.fields.contains_key("Digits"), "{attributes}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sounds_of_a_gather_are_heard_in_order_and_the_first_key_stops_them() -> anyhow::Result<()> {
    let menu = "<Gather action=\"/chosen\" numDigits=\"2\" timeout=\"30\"><Play>/sounds/a.wav</Play><Pause length=\"1\"/>\
        <Play loop=\"0\">/sounds/b.wav</Play></Gather>";
    let (app, mut service) = app(menu).await?;
    let sound = |hertz| Page::Body("audio/wav", wav(&tone(hertz, 1500)));
    app.answers("/sounds/a.wav", sound(AGENT_HZ));
    app.answers("/sounds/b.wav", sound(SECOND_AGENT_HZ));
    app.says("/chosen", "<Pause length=\"60\"/>");
    let call = accepted(&mut service).await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    call.send_dtmf("1").await;
    let silent = async {
        while !heard_voices(&caller_hears_next(&call, SECOND).await?).is_empty() {}
        anyhow::Ok(())
    };
    timeout(DEADLINE, silent).await.context("the sounds go on")??;
    call.send_dtmf("2").await;
    assert_eq!(app.wait_for("/chosen", 1).await?.fields["Digits"], "12");
    let heard = call.heard()?;
    let seconds: Vec<Vec<f64>> = heard.chunks(PHONE_RATE as usize / 2).map(heard_voices).collect();
    let first = seconds.iter().position(|voices| voices == &[AGENT_HZ]);
    let second = seconds.iter().position(|voices| voices == &[SECOND_AGENT_HZ]);
    assert!(first < second && first.is_some(), "{seconds:?}");
    let between = &seconds[first.unwrap_or(0)..second.unwrap_or(0)];
    assert!(between.iter().any(Vec::is_empty), "the pause is silent: {seconds:?}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}
