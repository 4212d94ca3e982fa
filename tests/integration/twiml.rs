//! An app that says in TwiML what happens to a call, as apps written for Twilio Voice do.

use anyhow::Context;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{EndedBy, Stage};
use patchcord_simulator::foreign_agent::{ForeignAgent, Protocol};
use patchcord_simulator::sound;
use patchcord_simulator::twiml_app::{Page, TwimlApp};

use crate::people::{
    AGENT_HZ, CALLER_HZ, GOODBYE_NOTES_HZ, SECOND, SECOND_AGENT_HZ, agent_hears_next, agent_with_voice, caller,
    heard_voices, objections, quiet_caller, tone, until_caller_hears,
};
use crate::service::{TestOptions, TestService};

pub const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
pub const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The account, and hosts of this machine.
pub fn account(keys: &str) -> String {
    format!(
        "[twilio]\naccount_sid = \"{ACCOUNT}\"\nauth_token = \"{TOKEN}\"\n{keys}\n[egress]\nallow = [\"127.0.0.0/8\"]\n"
    )
}

/// An app whose `/voice` says this, and the service whose callers it gets.
async fn app(verbs: &str) -> anyhow::Result<(TwimlApp, TestService)> {
    app_with(verbs, TestOptions { more_routes: account(""), ..TestOptions::default() }).await
}

async fn app_with(verbs: &str, options: TestOptions) -> anyhow::Result<(TwimlApp, TestService)> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", verbs);
    let service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    Ok((app, service))
}

/// A stream to this agent.
pub fn stream(agent: &ForeignAgent) -> String {
    format!(
        "<Connect><Stream url=\"{}\" name=\"talk\"><Parameter name=\"plan\" value=\"gold\"/></Stream></Connect>",
        agent.url()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_talks_and_the_verb_behind_it_runs_once_the_app_has_left() -> anyhow::Result<()> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let (app, mut service) =
        app(&format!("{}<Redirect method=\"GET\">/after?from=stream</Redirect>", stream(&bot))).await?;
    app.says("/after", "<Play>prompt:goodbye</Play>");
    let call = service.call(caller()).await?;
    let session = bot.wait_for_call(1).await?;
    call.wait_until(Stage::FirstPacket).await?;
    session.say(&tone(AGENT_HZ, 3000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    session.wait_for_tone(CALLER_HZ).await?;

    let asked = app.wait_for("/voice", 1).await?;
    let field = |name: &str| asked.fields.get(name).map(String::as_str).unwrap_or_default();
    assert!(asked.is_signed, "{asked:?}");
    assert_eq!((field("AccountSid"), field("CallStatus"), field("Direction")), (ACCOUNT, "ringing", "inbound"));
    assert!(field("CallSid").starts_with("CA") && field("From").starts_with('+'), "{asked:?}");
    let start = session.messages()[1].clone();
    assert_eq!(
        (&start["start"]["callSid"], &start["start"]["accountSid"]),
        (&field("CallSid").into(), &ACCOUNT.into())
    );
    assert_eq!(start["start"]["customParameters"]["plan"], "gold");
    assert!(session.header("x-twilio-signature").is_some());

    session.hang_up().await;
    let after = app.wait_for("/after", 1).await?;
    assert_eq!((after.method.as_str(), after.fields["CallStatus"].as_str()), ("GET", "in-progress"));
    assert!(after.is_signed && after.fields["from"] == "stream", "{after:?}");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    let heard = sound::voices_heard(&call.heard()?, 16_000, &GOODBYE_NOTES_HZ);
    assert_eq!(heard, GOODBYE_NOTES_HZ);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gathered_digits_go_to_the_action_and_a_file_is_heard() -> anyhow::Result<()> {
    let menu = "<Gather numDigits=\"2\" action=\"/chosen\"><Play loop=\"0\">prompt:hold</Play></Gather>";
    let (app, mut service) = app(menu).await?;
    app.says("/chosen", "<Play>/sounds/answer.wav</Play><Gather action=\"/done\" finishOnKey=\"*\"/>");
    app.answers("/sounds/answer.wav", Page::Body("audio/wav", wav(&tone(SECOND_AGENT_HZ, 3000))));
    app.says("/done", "<Hangup/>");
    let call = service.call(quiet_caller()).await?;
    call.wait_until(Stage::FirstSound).await?;
    call.send_dtmf("42").await;
    assert_eq!(app.wait_for("/chosen", 1).await?.fields["Digits"], "42");
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    service.event("call.playback_finished").await?;
    call.send_dtmf("7*").await;
    let done = app.wait_for("/done", 1).await?;
    assert_eq!((done.fields["Digits"].as_str(), done.fields["FinishedOnKey"].as_str()), ("7", "*"));
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_who_is_dialled_talks_with_the_caller_and_the_app_has_it_back_afterwards() -> anyhow::Result<()> {
    let sales = Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?;
    let options = TestOptions {
        more_routes: format!("{}[routes.sales]\nagent = \"{}\"\n", account(""), sales.url()),
        ..TestOptions::default()
    };
    let dial = "<Dial action=\"/dialled\"><Client>sales</Client></Dial>";
    let (app, mut service) = app_with(dial, options).await?;
    app.says("/dialled", "<Hangup/>");
    let call = service.call(caller()).await?;
    let session = sales.wait_for_session(1).await?;
    until_caller_hears(&call, &[SECOND_AGENT_HZ]).await?;
    let heard = agent_hears_next(&session, SECOND).await?;
    assert_eq!(heard_voices(&heard), [CALLER_HZ]);
    session.bye().await;
    let dialled = app.wait_for("/dialled", 1).await?;
    assert_eq!(dialled.fields["DialCallStatus"], "completed");
    assert!(dialled.fields.contains_key("DialCallDuration"), "{dialled:?}");
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_declined_while_it_rings() -> anyhow::Result<()> {
    let (_app, mut service) = app("<Reject reason=\"busy\"/>").await?;
    let call = service.call(quiet_caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!((&ended["reason"], &ended["detail"]), (&"rejected_by_api".into(), &"busy".into()), "{ended}");
    service.all_ended().await?;
    assert_eq!((service.count_of("accept"), call.ended_by()), (0, Some(EndedBy::Terminated)));
    Ok(())
}

/// An app that answers this fails before the call is accepted, and the end says why.
pub async fn ends_without_accept(page: Page, why: &str) -> anyhow::Result<()> {
    let (app, mut service) = app("").await?;
    app.answers("/voice", page);
    let call = service.call(quiet_caller()).await?;
    let ended = service.end_of(&call).await?;
    assert_eq!(ended["reason"], "no_agent", "{why}: {ended}");
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains(why)), "{why}: {ended}");
    assert_eq!(service.count_of("accept"), 0, "{why}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_cannot_be_run_end_the_call_and_the_reason_says_why() -> anyhow::Result<()> {
    let bomb =
        "<!DOCTYPE r [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">]><Response><Say>&b;</Say></Response>";
    for (page, why) in [
        (Page::Verbs("<Redirect>/voice</Redirect>".into()), "a circle of <Redirect>"),
        (Page::Body("text/xml", bomb.into()), "DTD"),
        (Page::Body("text/xml", vec![b'a'; 100_000]), "more than 64 KiB"),
        (Page::Verbs("<Record/>".into()), "<Record> is not supported"),
        (Page::Verbs("<Say>Hello</Say>".into()), "twilio.say_command"),
        (Page::Verbs("<Play>prompt:nothing</Play>".into()), "<Play> names a prompt that does not exist"),
        (Page::Verbs("<Connect><Stream url=\"wss://bot.example.com/x\"/></Connect>".into()), "[egress] allow"),
        (Page::Status(500), "HTTP 500"),
        (Page::Elsewhere("https://app.example.com/".into()), "redirects are not followed"),
    ] {
        ends_without_accept(page, why).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_app_is_replaced_by_its_fallback_url() -> anyhow::Result<()> {
    let app = TwimlApp::start(TOKEN).await?;
    app.answers("/voice", Page::Status(503));
    app.says("/fallback", "<Play>prompt:goodbye</Play>");
    let route = format!("twilio_fallback_url = \"{}\"", app.url("/fallback"));
    let options = TestOptions { route, more_routes: account(""), ..TestOptions::default() };
    let mut service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    let call = service.call(quiet_caller()).await?;
    let asked = app.wait_for("/fallback", 1).await?;
    assert_eq!(asked.fields["ErrorUrl"], app.url("/voice"));
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(sound::voices_heard(&call.heard()?, 16_000, &GOODBYE_NOTES_HZ), GOODBYE_NOTES_HZ);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_is_told_how_a_call_stands() -> anyhow::Result<()> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", "<Play>prompt:beep</Play>");
    app.says("/status", "");
    let more_routes = account(&format!("status_callback = \"{}\"", app.url("/status")));
    let options = TestOptions { more_routes, ..TestOptions::default() };
    let mut service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    let call = service.call(quiet_caller()).await?;
    service.end_of(&call).await?;
    let sid = app.wait_for("/voice", 1).await?.fields["CallSid"].clone();
    for (nth, status) in [(1, "ringing"), (2, "in-progress"), (3, "completed")] {
        let told = app.wait_for("/status", nth).await?;
        assert!(told.is_signed, "{told:?}");
        assert_eq!((&told.fields["CallStatus"], &told.fields["CallSid"]), (&status.to_owned(), &sid));
        assert_eq!(told.fields.contains_key("CallDuration"), status == "completed", "{told:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_is_spoken_by_the_operators_program() -> anyhow::Result<()> {
    let file = std::env::temp_dir().join(format!("patchcord-say-{}.wav", std::process::id()));
    std::fs::write(&file, wav(&tone(AGENT_HZ, 3000)))?;
    let program =
        "say_command = [\"/bin/sh\", \"-c\", 'read text; test \"$text $SAY_LANGUAGE\" = \"Good day de-DE\" && cat ";
    let keys = format!("{program}{}']", file.display());
    let options = TestOptions { more_routes: account(&keys), ..TestOptions::default() };
    let (_app, mut service) = app_with("<Say language=\"de-DE\">Good day\n</Say>", options).await?;
    let call = service.call(quiet_caller()).await?;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    std::fs::remove_file(&file).context("the file is there")?;
    Ok(())
}

/// A WAV file of mono samples at the phone's rate.
pub fn wav(pcm: &[i16]) -> Vec<u8> {
    let bytes = (pcm.len() * 2) as u32;
    let mut file = b"RIFF".to_vec();
    file.extend((36 + bytes).to_le_bytes());
    file.extend(b"WAVEfmt \x10\0\0\0\x01\0\x01\0");
    file.extend(16_000_u32.to_le_bytes());
    file.extend(32_000_u32.to_le_bytes());
    file.extend(b"\x02\0\x10\0data");
    file.extend(bytes.to_le_bytes());
    file.extend(pcm.iter().flat_map(|sample| sample.to_le_bytes()));
    file
}
