//! Twilio's REST API for calls, as apps written for Twilio Voice use it.

use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::callee::CalleeOptions;
use patchcord_simulator::foreign_agent::{ForeignAgent, ForeignCall, Protocol};
use patchcord_simulator::meta::permissions::PermissionReply;
use patchcord_simulator::sound;
use patchcord_simulator::twiml_app::{Page, TwimlApp};
use reqwest::{Method, Url};
use serde_json::Value;

use crate::api::client::{Client, WRITER};
use crate::people::{AGENT_HZ, GOODBYE_NOTES_HZ, caller, objections, quiet_caller, tone, until_caller_hears};
use crate::service::{DEADLINE, TestOptions, TestService};
use crate::twiml::{ACCOUNT, TOKEN, account, stream};

/// The app's client of the API.
struct Rest<'a> {
    service: &'a TestService,
    token: &'static str,
}

impl Rest<'_> {
    /// The status and the body of a response.
    async fn ask(&self, method: Method, path: &str, fields: &[(&str, &str)]) -> anyhow::Result<(u16, Value)> {
        let mut form = Url::parse("http://form/")?;
        form.query_pairs_mut().extend_pairs(fields);
        let url = self.service.url(&format!("/2010-04-01/Accounts/{ACCOUNT}/{path}"));
        let request = reqwest::Client::new().request(method, url).basic_auth(ACCOUNT, Some(self.token));
        let request = request.header("content-type", "application/x-www-form-urlencoded");
        let response = request.body(form.query().unwrap_or_default().to_owned()).send().await?;
        Ok((response.status().as_u16(), response.json().await?))
    }

    async fn update(&self, call_sid: &str, fields: &[(&str, &str)]) -> anyhow::Result<(u16, Value)> {
        self.ask(Method::POST, &format!("Calls/{call_sid}.json"), fields).await
    }
}

fn rest(service: &TestService) -> Rest<'_> {
    Rest { service, token: TOKEN }
}

/// A caller who talks with an app's bot on a stream.
struct Talking {
    app: TwimlApp,
    service: TestService,
    call: Call,
    session: ForeignCall,
    sid: String,
    _bot: ForeignAgent,
}

async fn talking() -> anyhow::Result<Talking> {
    let bot = ForeignAgent::start(Protocol::Twilio, 8000).await?;
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", stream(&bot));
    let options = TestOptions { more_routes: account(""), ..TestOptions::default() };
    let service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    let call = service.call(caller()).await?;
    let session = bot.wait_for_call(1).await?;
    call.wait_until(Stage::FirstPacket).await?;
    session.say(&tone(AGENT_HZ, 60_000)).await;
    until_caller_hears(&call, &[AGENT_HZ]).await?;
    let sid = app.wait_for("/voice", 1).await?.fields["CallSid"].clone();
    Ok(Talking { app, service, call, session, sid, _bot: bot })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_looks_at_its_call_and_ends_it() -> anyhow::Result<()> {
    let Talking { mut service, call, session, sid, .. } = talking().await?;
    let (status, seen) = rest(&service).ask(Method::GET, &format!("Calls/{sid}.json"), &[]).await?;
    assert_eq!(
        (status, &seen["status"], &seen["direction"]),
        (200, &"in-progress".into(), &"inbound".into()),
        "{seen}"
    );
    let (_, listed) = rest(&service).ask(Method::GET, "Calls.json?Status=in-progress", &[]).await?;
    assert_eq!((listed["calls"].as_array().map(Vec::len), &listed["calls"][0]["sid"]), (Some(1), &sid.clone().into()));
    let (status, _) = rest(&service).update(&sid, &[("Status", "completed")]).await?;
    assert_eq!((status, session.wait_for_end().await?), (200, 1000));
    assert_eq!(service.end_of(&call).await?["reason"], "hung_up_by_api");
    service.all_ended().await?;
    let (status, seen) = rest(&service).update(&sid, &[("Status", "completed")]).await?;
    assert_eq!((status, &seen["status"]), (200, &"completed".into()), "it has ended already: {seen}");
    let (status, seen) = rest(&service).update(&sid, &[("Twiml", "<Response/>")]).await?;
    assert_eq!((status, &seen["code"]), (400, &21_220.into()), "{seen}");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_document_takes_the_caller_from_the_stream() -> anyhow::Result<()> {
    let Talking { app, mut service, call, session, sid, .. } = talking().await?;
    app.says("/menu", "<Gather action=\"/chosen\" numDigits=\"1\"/>");
    app.says("/chosen", "<Pause length=\"60\"/>");
    let (status, seen) = rest(&service).update(&sid, &[("Url", app.url("/menu").as_str())]).await?;
    assert_eq!((status, &seen["status"]), (200, &"in-progress".into()), "{seen}");
    session.wait_for_end().await?;
    let menu = app.wait_for("/menu", 1).await?;
    assert!(menu.is_signed && menu.fields["CallSid"] == sid, "{menu:?}");
    service.event("call.agent_joined").await?;
    service.event("call.agent_joined").await?;
    call.send_dtmf("3").await;
    assert_eq!(app.wait_for("/chosen", 1).await?.fields["Digits"], "3");
    let document = "<Response><Play>prompt:goodbye</Play></Response>";
    assert_eq!(rest(&service).update(&sid, &[("Twiml", document)]).await?.0, 200);
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    assert_eq!(sound::voices_heard(&call.heard()?, 16_000, &GOODBYE_NOTES_HZ), GOODBYE_NOTES_HZ);
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_done_is_told_with_twilios_codes() -> anyhow::Result<()> {
    let Talking { service, sid, .. } = talking().await?;
    let wrong = Rest { service: &service, token: "another" };
    let (status, seen) = wrong.update(&sid, &[("Status", "completed")]).await?;
    assert_eq!((status, &seen["code"], &seen["status"]), (401, &20_003.into(), &401.into()), "{seen}");
    for (fields, code) in [
        (&[("Status", "paused")], 20_001),
        (&[("Status", "canceled")], 21_220),
        (&[("Url", "nowhere")], 21_205),
        (&[("Url", "https://app.example.com/voice")], 21_205),
        (&[("Twiml", "<Response><Fly/></Response>")], 12_100),
    ] {
        let (status, seen) = rest(&service).update(&sid, fields).await?;
        assert_eq!((status, &seen["code"]), (400, &code.into()), "{fields:?}: {seen}");
        assert!(seen["message"].as_str().is_some_and(|message| !message.is_empty()), "{seen}");
    }
    let unknown = format!("CA{}", "0".repeat(32));
    for sid in [unknown.as_str(), "CA1", "x"] {
        let (status, seen) = rest(&service).update(sid, &[("Status", "completed")]).await?;
        assert_eq!((status, &seen["code"]), (404, &20_404.into()), "{seen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_placed_and_the_app_says_what_happens() -> anyhow::Result<()> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/placed", "<Play>prompt:goodbye</Play>");
    app.says("/voice", "");
    let options = TestOptions { more_routes: account(""), ..TestOptions::default() };
    let mut service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    let callee = service.meta.permit(CalleeOptions { person: quiet_caller(), ..CalleeOptions::default() });
    let url = app.url("/placed");
    let fields = [("To", "+12025550143"), ("From", "+12025550199"), ("Url", url.as_str())];
    let (status, seen) = rest(&service).ask(Method::POST, "Calls.json", &fields).await?;
    assert_eq!(
        (status, &seen["direction"], &seen["status"]),
        (201, &"outbound-api".into(), &"queued".into()),
        "{seen}"
    );
    let call = callee.next_call().await?;
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up().await?;
    let asked = app.wait_for("/placed", 1).await?;
    assert_eq!(asked.fields["CallSid"], seen["sid"].as_str().unwrap_or_default());
    assert_eq!(asked.fields["To"], "+12025550143");
    let ended = service.event("call.ended").await?;
    assert_eq!(ended.data["reason"], "agent_hung_up", "{:?}", ended.data);
    assert_eq!(sound::voices_heard(&call.heard()?, 16_000, &GOODBYE_NOTES_HZ), GOODBYE_NOTES_HZ);
    let (status, seen) = rest(&service).ask(Method::POST, "Calls.json", &fields[..2]).await?;
    assert_eq!((status, &seen["code"]), (400, &21_205.into()), "{seen}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_placed_call_has_a_status_callback_of_its_own_which_is_asked_once_for_each_stage() -> anyhow::Result<()> {
    let app = TwimlApp::start(TOKEN).await?;
    app.says("/voice", "");
    app.answers("/status", Page::Status(500));
    let options = TestOptions { more_routes: account(""), ..TestOptions::default() };
    let mut service = TestService::start_with(&format!("twiml:{}", app.url("/voice")), options).await?;
    let callee = service.meta.permit(CalleeOptions { person: quiet_caller(), ..CalleeOptions::default() });
    let (told, document) = (app.url("/status"), "<Response><Play>prompt:beep</Play></Response>");
    let mut fields = vec![("To", "+12025550143"), ("From", "+12025550199"), ("Twiml", document)];
    fields.extend(["initiated", "ringing", "answered completed"].map(|events| ("StatusCallbackEvent", events)));
    fields.push(("StatusCallback", &told));
    let (status, seen) = rest(&service).ask(Method::POST, "Calls.json", &fields).await?;
    assert_eq!(status, 201, "{seen}");
    let call = callee.next_call().await?;
    call.wait_until(Stage::MediaUp).await?;
    call.pick_up().await?;
    service.event("call.ended").await?;
    for (nth, status) in [(1, "initiated"), (2, "ringing"), (3, "in-progress"), (4, "completed")] {
        let asked = app.wait_for("/status", nth).await?;
        assert!(asked.is_signed, "{asked:?}");
        assert_eq!(
            (asked.fields["CallStatus"].as_str(), &asked.fields["CallSid"].as_str().into()),
            (status, &seen["sid"])
        );
    }
    for (field, value, code) in [
        ("StatusCallback", "ftp://a", 21_609),
        ("StatusCallbackEvent", "won", 20_001),
        ("StatusCallbackMethod", "PUT", 20_001),
    ] {
        let wrong: Vec<_> = fields.iter().copied().filter(|(name, _)| *name != field).chain([(field, value)]).collect();
        let (status, seen) = rest(&service).ask(Method::POST, "Calls.json", &wrong).await?;
        assert_eq!((status, &seen["code"]), (400, &code.into()), "{field}: {seen}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_call_gets_a_status_callback_which_is_told_of_its_end() -> anyhow::Result<()> {
    let Talking { app, service, sid, call, .. } = talking().await?;
    app.says("/status", "");
    let (told, method) = (app.url("/status?a=1"), ("StatusCallbackMethod", "GET"));
    assert_eq!(rest(&service).update(&sid, &[("StatusCallback", told.as_str()), method]).await?.0, 200);
    call.hang_up().await?;
    let asked = app.wait_for("/status", 1).await?;
    assert!(asked.is_signed && asked.method == "GET" && asked.fields["a"] == "1", "{asked:?}");
    assert_eq!((&asked.fields["CallStatus"], &asked.fields["CallSid"]), (&"completed".to_owned(), &sid));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_the_person_does_not_permit_is_refused_with_twilios_code() -> anyhow::Result<()> {
    let options = TestOptions { more_routes: account(""), ..TestOptions::default() };
    let service = TestService::start_with("prompt:goodbye", options).await?;
    let person = service.meta.permit(CalleeOptions { person: quiet_caller(), ..CalleeOptions::default() });
    person.reply(PermissionReply::Revoke).await?;
    let known = async {
        let client = Client::new(&service, WRITER);
        while client.get("/v1/permissions/12025550143").await?.body["status"] != "revoked" {}
        anyhow::Ok(())
    };
    tokio::time::timeout(DEADLINE, known).await??;
    let document = "<Response><Play>prompt:goodbye</Play></Response>";
    let order = |to: &'static str, from: &'static str| [("To", to), ("From", from), ("Twiml", document)];
    for (fields, code, words) in [
        (order("+12025550143", "+12025550199"), 21_216, "permi"),
        (order("nobody", "+12025550199"), 21_211, "To: "),
        (order("", "+12025550199"), 21_201, "To: "),
    ] {
        let (status, seen) = rest(&service).ask(Method::POST, "Calls.json", &fields).await?;
        assert_eq!((seen["status"].as_u64(), &seen["code"]), (Some(status.into()), &code.into()), "{seen}");
        assert!((400..500).contains(&status) && seen["more_info"].is_string(), "{seen}");
        assert!(seen["message"].as_str().is_some_and(|message| message.contains(words)), "{seen}");
    }
    assert_eq!(service.count_of("connect"), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_an_account_the_api_is_closed() -> anyhow::Result<()> {
    let service = TestService::start("prompt:goodbye").await?;
    service.call(quiet_caller()).await?;
    let (status, seen) = rest(&service).ask(Method::GET, "Calls.json", &[]).await?;
    assert_eq!((status, &seen["code"]), (401, &20_003.into()), "{seen}");
    Ok(())
}
