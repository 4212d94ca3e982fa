//! Call permissions: requests and their replies, what the ledger knows, and Meta's limits kept before Meta does.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{CallerOptions, Stage};
use patchcord_simulator::callee::{Callee, CalleeOptions};
use patchcord_simulator::meta::permissions::PermissionReply;
use patchcord_simulator::meta::{Meta, MetaOptions, Reply};
use reqwest::Method;
use serde_json::{Value, json};

use crate::api::client::{Answer, Client, READER, RECORDINGS, WRITER, next_of, open_events, open_events_at};
use crate::events::App;
use crate::people::{agent, caller, quiet_caller};
use crate::program::Program;
use crate::service::{Folder, TestOptions, TestService};

const NUMBER: &str = "12025550143";
const MINUTE: Duration = Duration::from_secs(60);
const USER_ID: &str = "US.13491208655302741918";

/// A service, the app that receives its events, and somebody who has permitted nothing yet.
struct Scene {
    service: TestService,
    app: App,
    person: Callee,
    _agent: Agent,
}

impl Scene {
    async fn start() -> anyhow::Result<Self> {
        Self::with(MetaOptions::default(), |options| options).await
    }

    async fn with(meta: MetaOptions, more: impl FnOnce(TestOptions) -> TestOptions) -> anyhow::Result<Self> {
        let app = App::start().await?;
        let agent = Agent::start(agent()).await?;
        let options = more(TestOptions { route: String::new(), ..app.options() });
        let service = TestService::start_at(Meta::start(meta).await?, &agent.url(), options).await?;
        let person = service.meta.meet(CalleeOptions { person: person(), ..CalleeOptions::default() });
        Ok(Self { service, app, person, _agent: agent })
    }

    /// A number that may have one live call, which rings.
    async fn one_live_call() -> anyhow::Result<Self> {
        let mut scene = Self::with(MetaOptions::default(), |options| TestOptions {
            number: "placing = { live = 1 }".to_owned(),
            ..options
        })
        .await?;
        scene.person.reply(PermissionReply::PermitInProfile).await?;
        assert_eq!(scene.event().await?["type"], "permission.granted");
        assert_eq!(scene.order().await?.status, 201);
        Ok(scene)
    }

    fn client(&self) -> Client {
        Client::new(&self.service, WRITER)
    }

    async fn look(&self, user: &str) -> anyhow::Result<Value> {
        look(&self.client(), user).await
    }

    async fn request(&self, mut body: Value) -> anyhow::Result<Answer> {
        body["to"] = NUMBER.into();
        post(&self.client(), "/v1/permissions/requests", body).await
    }

    async fn order(&self) -> anyhow::Result<Answer> {
        post(&self.client(), "/v1/calls", json!({ "to": NUMBER })).await
    }

    /// Queues a call and gives its id.
    async fn queue(&self, mut body: Value) -> anyhow::Result<String> {
        (body["to"], body["when"]) = (NUMBER.into(), "queued".into());
        let queued = post(&self.client(), "/v1/calls", body).await?;
        anyhow::ensure!(queued.status == 202, "{queued:?}");
        Ok(queued.body["id"].as_str().unwrap_or_default().to_owned())
    }

    /// Meta pauses the number's calls until then.
    async fn pause(&self, until: SystemTime) -> anyhow::Result<()> {
        let seconds = |time: SystemTime| time.duration_since(UNIX_EPOCH).map(|since| since.as_secs());
        let (now, until) = (seconds(SystemTime::now())?, seconds(until)?);
        let webhook = json!({ "object": "whatsapp_business_account", "entry": [{ "id": "0", "time": now, "changes": [{
            "field": "account_update", "value": { "phone_number": "447700900199", "event": "ACCOUNT_RESTRICTION",
                "restriction_info": [{ "restriction_type": "RESTRICTED_BUSINESS_INITIATED_CALLING", "expiration": until }] } }] }] });
        assert_eq!(self.service.meta.send_webhook(webhook.to_string()).await?, 200);
        Ok(())
    }

    /// The next event of a permission.
    async fn event(&mut self) -> anyhow::Result<Value> {
        loop {
            let event = self.app.next().await?;
            if event["type"].as_str().is_some_and(|kind| kind.starts_with("permission.")) {
                return Ok(event);
            }
        }
    }

    /// A call that nobody answers.
    async fn call_in_vain(&mut self) -> anyhow::Result<()> {
        let placed = self.order().await?;
        assert_eq!(placed.status, 201, "{placed:?}");
        let call = self.person.next_call().await?;
        self.service.event("call.ringing").await?;
        assert_eq!(call.decline().await?, 200);
        assert_eq!(self.service.event("call.ended").await?.data["reason"], "callee_declined");
        Ok(())
    }

    /// A call that is answered.
    async fn talk(&mut self) -> anyhow::Result<()> {
        let placed = self.order().await?;
        assert_eq!(placed.status, 201, "{placed:?}");
        let call = self.person.next_call().await?;
        call.wait_until(Stage::MediaUp).await?;
        call.pick_up().await?;
        self.service.event("call.accepted").await?;
        call.hang_up().await?;
        self.service.event("call.ended").await?;
        Ok(())
    }
}

fn person() -> CallerOptions {
    CallerOptions { user_id: Some(USER_ID.to_owned()), ..quiet_caller() }
}

async fn post(client: &Client, path: &str, body: Value) -> anyhow::Result<Answer> {
    client.ask(Method::POST, path, Some(body.to_string().into_bytes())).await
}

async fn look(client: &Client, user: &str) -> anyhow::Result<Value> {
    let answer = client.get(&format!("/v1/permissions/{user}")).await?;
    anyhow::ensure!(answer.status == 200, "{answer:?}");
    Ok(answer.body)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_permission_that_is_revoked_while_a_call_is_queued_ends_it_without_meta() -> anyhow::Result<()> {
    let mut scene = Scene::one_live_call().await?;
    let first = scene.person.next_call().await?;
    let queued = scene.queue(json!({})).await?;
    scene.person.reply(PermissionReply::Revoke).await?;
    assert_eq!(scene.event().await?["type"], "permission.revoked");
    let connects = scene.service.count_of("connect");
    assert_eq!(first.decline().await?, 200);
    loop {
        let ended = scene.service.event("call.ended").await?;
        if ended.call_id.as_str() != queued {
            continue;
        }
        assert_eq!((&ended.data["reason"], &ended.data["meta_error_code"]), (&"no_permission".into(), &Value::Null));
        assert_eq!((&ended.data["fault"], &ended.data["hung_up_by"]), (&"operator".into(), &"patchcord".into()));
        let detail = ended.data["detail"].as_str().unwrap_or_default();
        assert!(detail.starts_with("the queued call was not placed: the permission was revoked"), "{detail}");
        break;
    }
    assert_eq!(scene.service.count_of("connect"), connects);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_is_asked_accepts_and_is_called() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let refused = scene.order().await?;
    assert_eq!(refused.status, 201, "nothing is known yet: {refused:?}");
    let ended = scene.service.event("call.ended").await?;
    assert_eq!((&ended.data["reason"], &ended.data["meta_error_code"]), (&"no_permission".into(), &138_006.into()));
    // The ledger has learned from it.
    let again = scene.order().await?;
    again.is_problem(409, "no_permission");
    assert!(again.body["detail"].as_str().is_some_and(|detail| detail.contains("permission request")), "{again:?}");
    assert!(again.body["next_allowed_at"].is_string(), "{again:?}");
    assert_eq!(scene.service.count_of("connect"), 1);

    let sent = scene.request(json!({ "body": "May we call you about your order?" })).await?;
    assert_eq!(sent.status, 201, "{sent:?}");
    let asked = scene.service.meta.wait_for_request("messages", 1).await?;
    assert_eq!(
        asked.body,
        json!({
            "messaging_product": "whatsapp", "recipient_type": "individual", "to": NUMBER, "type": "interactive",
            "interactive": {
                "type": "call_permission_request", "action": { "name": "call_permission_request" },
                "body": { "text": "May we call you about your order?" },
            },
        })
    );
    let mut stream = open_events(&scene.service, READER).await?;
    scene.person.reply(PermissionReply::Accept).await?;
    let event = scene.event().await?;
    assert_eq!(
        (&event["type"], &event["call_id"], &event["sequence"]),
        (&"permission.granted".into(), &Value::Null, &Value::Null)
    );
    let data = &event["data"];
    assert_eq!((&data["request_id"], &data["source"]), (&sent.body["message_id"], &"reply".into()));
    assert_eq!((&data["permanent"], data["expires_at"].is_string()), (&false.into(), true));
    assert_eq!(data["user"], json!({ "wa_id": NUMBER, "user_id": USER_ID }));
    assert_eq!(next_of(&mut stream, "permission.granted").await?["id"], event["id"], "the stream has it too");

    for user in [NUMBER, USER_ID] {
        let shown = scene.look(user).await?;
        assert_eq!((&shown["status"], &shown["expires_at"]), (&"temporary".into(), &data["expires_at"]), "{shown}");
        assert_eq!((&shown["may_call"]["allowed"], &shown["source"]), (&true.into(), &"reply".into()));
    }
    assert_eq!(scene.service.count_of("call_permissions"), 0, "the ledger knew");
    scene.talk().await?;
    let shown = scene.look(NUMBER).await?;
    assert_eq!(shown["may_call"]["limits"], json!([{ "period": "24h", "max": 100, "used": 1 }]));
    assert_eq!(shown["may_request"]["allowed"], true, "a connected call begins the count anew");
    let kinds: Vec<&str> =
        shown["history"].as_array().into_iter().flatten().filter_map(|fact| fact["type"].as_str()).collect();
    // Meta's replies have whole seconds, so their place among the others differs.
    assert_eq!(BTreeSet::from_iter(kinds), BTreeSet::from(["call_answered", "granted", "requested", "refused"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_refuses_is_not_called_and_not_asked_again_before_its_time() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let sent = scene.request(json!({})).await?;
    assert_eq!(sent.status, 201, "{sent:?}");
    let asked = scene.service.meta.wait_for_request("messages", 1).await?;
    assert_eq!(asked.body["interactive"].get("body"), None, "WhatsApp has words of its own");
    let early = scene.request(json!({})).await?;
    early.is_problem(409, "request_limit");
    assert_eq!(scene.service.count_of("messages"), 1);

    scene.person.reply(PermissionReply::Reject).await?;
    let event = scene.event().await?;
    assert_eq!((&event["type"], &event["data"]["request_id"]), (&"permission.denied".into(), &sent.body["message_id"]));
    let refused = scene.order().await?;
    refused.is_problem(409, "no_permission");
    assert_eq!(refused.body["next_allowed_at"], early.body["next_allowed_at"], "when the person may be asked");
    let shown = scene.look(NUMBER).await?;
    assert_eq!((&shown["status"], &shown["may_request"]["reason"]), (&"denied".into(), &"request_limit".into()));
    assert_eq!(scene.service.actions(), ["messages"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_come_twice_and_in_any_order_make_one_event_and_one_state() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    scene.request(json!({})).await?;
    let accepted = scene.person.reply(PermissionReply::Accept).await?;
    assert_eq!(scene.event().await?["type"], "permission.granted");
    let (late, revoked) = (
        scene.person.reply_by_hand(PermissionReply::PermitInProfile),
        scene.person.reply(PermissionReply::Revoke).await?,
    );
    assert_eq!(scene.event().await?["type"], "permission.revoked");
    for body in [&accepted, &revoked, &late, &late, &accepted] {
        assert_eq!(scene.service.meta.send_webhook(body.clone()).await?, 200);
    }
    assert_eq!(scene.look(NUMBER).await?["status"], "revoked");
    scene.order().await?.is_problem(409, "no_permission");

    scene.person.reply(PermissionReply::CalledBack).await?;
    let event = scene.event().await?;
    assert_eq!(
        (&event["type"], &event["data"]["source"]),
        (&"permission.granted".into(), &"automatic".into()),
        "no other came between"
    );
    assert_eq!(event["data"]["request_id"], Value::Null, "nothing was asked");
    scene.person.reply(PermissionReply::PermitInProfile).await?;
    assert_eq!(scene.event().await?["data"]["permanent"], true);
    let shown = scene.look(NUMBER).await?;
    assert_eq!((&shown["status"], &shown["may_request"]["reason"]), (&"permanent".into(), &"already_permitted".into()));
    scene.request(json!({})).await?.is_problem(409, "already_permitted");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn graph_is_asked_for_what_the_ledger_does_not_know() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let shown = scene.look(NUMBER).await?;
    assert_eq!(
        (&shown["status"], &shown["source"], &shown["may_call"]["reason"]),
        (&"none".into(), &"graph".into(), &"no_permission".into())
    );
    let asked = scene.service.meta.wait_for_request("call_permissions", 1).await?;
    assert_eq!(asked.body, json!({ "user_wa_id": NUMBER }));
    assert_eq!(scene.look(NUMBER).await?["checked_at"], shown["checked_at"], "Graph's word is believed for a minute");
    scene.order().await?.is_problem(409, "no_permission");

    // No webhook came of this one.
    drop(scene.person.reply_by_hand(PermissionReply::PermitInProfile));
    let refreshed = scene.look(&format!("{USER_ID}?refresh=true")).await?;
    assert_eq!(refreshed["status"], "permanent", "{refreshed}");
    assert_eq!(scene.service.meta.wait_for_request("call_permissions", 2).await?.body, json!({ "recipient": USER_ID }));
    let refreshed = scene.look(&format!("%2B{NUMBER}?refresh=true")).await?;
    assert_eq!(refreshed["status"], "permanent", "{refreshed}");
    assert_eq!(scene.event().await?["type"], "permission.granted", "it was known that there was none");
    scene.talk().await?;

    scene
        .service
        .meta
        .script("call_permissions", vec![Reply::Error { status: 429, body: TOO_MANY_LOOK_UPS.to_owned() }]);
    let slow = scene.client().get("/v1/permissions/12025550177").await?;
    slow.is_problem(429, "lookup_limit");
    assert_eq!(slow.body["meta_error_code"], 613);
    scene.service.meta.script("call_permissions", vec![Reply::token_expired()]);
    let refused = scene.client().get("/v1/permissions/12025550177").await?;
    refused.is_problem(502, "refused_by_meta");
    assert_eq!(refused.body["meta_error_code"], 190);
    Ok(())
}

const TOO_MANY_LOOK_UPS: &str = r##"{"error":{"message":"(#613) Calls to this api have exceeded the rate limit.","type":"OAuthException","code":613,"fbtrace_id":"A"}}"##;

#[tokio::test(flavor = "multi_thread")]
async fn after_four_unanswered_calls_the_permission_is_gone() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    // Replies have whole seconds, and a call in the second of a reply counts as before it: this one is a minute old.
    let mut reply: Value = serde_json::from_str(&scene.person.reply_by_hand(PermissionReply::PermitInProfile))?;
    let minute_ago = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() - 60;
    reply["entry"][0]["changes"][0]["value"]["messages"][0]["timestamp"] = minute_ago.to_string().into();
    assert_eq!(scene.service.meta.send_webhook(reply.to_string()).await?, 200);
    assert_eq!(scene.event().await?["type"], "permission.granted");
    for _ in 0..3 {
        scene.call_in_vain().await?;
    }
    let shown = scene.look(NUMBER).await?;
    assert_eq!(
        (&shown["unanswered_calls"], &shown["is_warned"], &shown["status"]),
        (&3.into(), &true.into(), &"permanent".into())
    );
    scene.call_in_vain().await?;
    let event = scene.event().await?;
    assert_eq!((&event["type"], &event["data"]["source"]), (&"permission.revoked".into(), &"automatic".into()));
    scene.order().await?.is_problem(409, "no_permission");
    assert_eq!(scene.service.count_of("connect"), 4);
    // Meta's own word of it makes no second event.
    scene.person.reply(PermissionReply::Accept).await?;
    assert_eq!(scene.event().await?["type"], "permission.granted");
    scene.talk().await?;
    assert_eq!(scene.look(NUMBER).await?["unanswered_calls"], 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn metas_own_refusals_have_the_codes_of_ours() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    let refuse = |action: &str, status, code, details: &str| {
        let body = json!({ "error": { "message": format!("(#{code})"), "type": "OAuthException", "code": code,
            "error_data": { "messaging_product": "whatsapp", "details": details }, "fbtrace_id": "A" } });
        scene.service.meta.script(action, vec![Reply::Error { status, body: body.to_string() }]);
    };
    for (code, expected, http) in [
        (138_009, "request_limit", 409),
        (131_026, "person_unreachable", 409),
        (138_013, "country_not_supported", 409),
        (138_014, "calling_paused", 409),
        (132_001, "refused_by_meta", 502),
        (138_017, "already_permitted", 409),
    ] {
        refuse("messages", 400, code, "it is so");
        let to = format!("4477009001{:02}", code % 100);
        let answer = post(&scene.client(), "/v1/permissions/requests", json!({ "to": to })).await?;
        answer.is_problem(http, expected);
        assert_eq!(answer.body["meta_error_code"], code, "{answer:?}");
    }
    // Meta counts more calls than we know of, and says when the next one is allowed.
    scene.person.reply(PermissionReply::PermitInProfile).await?;
    let next = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + 3600;
    refuse("connect", 400, 138_012, &format!("The next call is allowed at {next}"));
    assert_eq!(scene.order().await?.status, 201);
    assert_eq!(scene.service.event("call.ended").await?.data["reason"], "call_limit");
    let refused = scene.order().await?;
    refused.is_problem(409, "call_limit");
    let next = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_secs(next)).to_string();
    assert_eq!(refused.body["next_allowed_at"], next.as_str());
    assert_eq!(scene.service.count_of("connect"), 1);
    Ok(())
}

/// The ledger is of another process; Meta keeps its limits itself.
#[tokio::test(flavor = "multi_thread")]
async fn meta_refuses_what_the_ledger_does_not_know_of() -> anyhow::Result<()> {
    let (mut app, agent) = (App::start().await?, Agent::start(agent()).await?);
    let meta = Meta::start(MetaOptions::default()).await?;
    let person = meta.meet(CalleeOptions { person: person(), ..CalleeOptions::default() });
    let options = || TestOptions { route: String::new(), ..app.options() };
    let (first, second, third) = (options(), options(), options());
    let (folder, elsewhere) = (Folder::new()?, Folder::new()?);
    let program = Program::start(&folder, &meta, &agent, first).await?;
    let client = Client::at(program.url(), WRITER);
    assert_eq!(post(&client, "/v1/permissions/requests", json!({ "to": NUMBER })).await?.status, 201);
    person.reply(PermissionReply::Accept).await?;
    app.until("permission.granted").await?;
    program.finish().await?;

    // The next process knows what the first one knew.
    let again = Program::start(&folder, &meta, &agent, second).await?;
    let client = Client::at(again.url(), WRITER);
    let shown = look(&client, NUMBER).await?;
    assert_eq!((&shown["status"], &shown["source"]), (&"temporary".into(), &"reply".into()));
    post(&client, "/v1/permissions/requests", json!({ "to": NUMBER })).await?.is_problem(409, "request_limit");
    assert_eq!(meta.requests().len(), 1);
    again.finish().await?;

    let other = Program::start(&elsewhere, &meta, &agent, third).await?;
    let client = Client::at(other.url(), WRITER);
    let refused = post(&client, "/v1/permissions/requests", json!({ "to": NUMBER })).await?;
    refused.is_problem(409, "request_limit");
    assert_eq!(refused.body["meta_error_code"], 138_009);
    person.let_days_pass(8);
    let shown = look(&client, &format!("{NUMBER}?refresh=true")).await?;
    assert_eq!((&shown["status"], &shown["may_request"]["allowed"]), (&"temporary".into(), &true.into()), "{shown}");
    let log = other.finish().await?;
    for hidden in [NUMBER, "13491208655302741918", "wamid.", "447700900199"] {
        assert!(!log.contains(hidden), "{hidden} is in the log");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_of_a_country_without_such_calls_places_none() -> anyhow::Result<()> {
    let meta = || MetaOptions { display_phone_number: "12025550199".to_owned(), ..MetaOptions::default() };
    let scene = Scene::with(meta(), |options| options).await?;
    // The number is known once a webhook has shown it.
    let incoming = scene.service.call(caller()).await?;
    incoming.wait_until(Stage::Accepted).await?;
    let refused = scene.order().await?;
    refused.is_problem(409, "country_not_supported");
    assert!(refused.body["detail"].as_str().is_some_and(|detail| detail.contains("US")), "{refused:?}");
    scene.request(json!({})).await?.is_problem(409, "country_not_supported");
    assert_eq!((scene.service.count_of("connect"), scene.service.count_of("messages")), (0, 0));
    incoming.hang_up().await?;

    let whatsapp = "countries_without_outgoing_calls = [\"EG\"]".to_owned();
    let scene = Scene::with(meta(), |options| TestOptions { whatsapp, ..options }).await?;
    scene.person.reply(PermissionReply::PermitInProfile).await?;
    assert_eq!(scene.order().await?.status, 201, "Meta decides");
    scene.person.next_call().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_meta_has_paused_places_no_calls_until_then() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    scene.person.reply(PermissionReply::PermitInProfile).await?;
    scene.pause(SystemTime::now() - MINUTE).await?;
    assert_eq!(scene.look(NUMBER).await?["may_call"]["allowed"], true, "it is over");
    scene.pause(SystemTime::now() + 60 * MINUTE).await?;
    let refused = scene.order().await?;
    refused.is_problem(409, "calling_paused");
    assert!(refused.body["next_allowed_at"].is_string(), "{refused:?}");
    Ok(())
}

/// The pause stops the number and not the call, which is placed when the pause is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_queued_call_waits_until_the_pause_of_its_number_is_over() -> anyhow::Result<()> {
    let mut scene = Scene::one_live_call().await?;
    let first = scene.person.next_call().await?;
    let queued = scene.queue(json!({})).await?;
    let over_at = SystemTime::now() + Duration::from_secs(3);
    scene.pause(over_at).await?;
    assert_eq!(first.decline().await?, 200);
    let _second = scene.person.next_call().await?;
    // Meta says it in whole seconds.
    assert!(SystemTime::now() + Duration::from_secs(1) > over_at);
    let placed = scene.service.event("call.placed").await?;
    let placed = if placed.call_id.as_str() == queued { placed } else { scene.service.event("call.placed").await? };
    assert_eq!(placed.call_id.as_str(), queued);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queued_call_of_a_paused_number_expires_without_meta() -> anyhow::Result<()> {
    let mut scene = Scene::one_live_call().await?;
    let first = scene.person.next_call().await?;
    let queued = scene.queue(json!({ "expires_in": "3s" })).await?;
    scene.pause(SystemTime::now() + 60 * MINUTE).await?;
    assert_eq!(first.decline().await?, 200);
    loop {
        let ended = scene.service.event("call.ended").await?;
        if ended.call_id.as_str() == queued {
            assert_eq!(ended.data["reason"], "queue_expired");
            break;
        }
    }
    assert_eq!(scene.service.count_of("connect"), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_asks_and_a_repeated_request_asks_once() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    let components = json!([{ "type": "body", "parameters": [{ "type": "text", "text": "Ada" }] }]);
    let body = json!({ "to_user_id": USER_ID, "template": { "name": "may_we_call", "language": "en_US", "components": components } });
    let ask = async || scene.client().once("key-1", "/v1/permissions/requests", &body.to_string()).await;
    let (first, again) = (ask().await?, ask().await?);
    assert_eq!((first.status, again.status), (201, 201), "{first:?} {again:?}");
    assert_eq!(first.body["message_id"], again.body["message_id"]);
    assert_eq!(first.body["user"]["user_id"], USER_ID);
    assert_eq!(scene.service.count_of("messages"), 1);
    let asked = scene.service.meta.wait_for_request("messages", 1).await?;
    assert_eq!(
        asked.body,
        json!({
            "messaging_product": "whatsapp", "recipient_type": "individual", "recipient": USER_ID, "type": "template",
            "template": { "name": "may_we_call", "language": { "code": "en_US" }, "components": components },
        })
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_sent_say_what_to_give() -> anyhow::Result<()> {
    let scene = Scene::start().await?;
    let long = "x".repeat(1025);
    let template = |more: Value| {
        let mut template = json!({ "name": "may_we_call", "language": "en_US" });
        template
            .as_object_mut()
            .into_iter()
            .for_each(|fields| fields.extend(more.as_object().cloned().unwrap_or_default()));
        template
    };
    let cases = [
        (json!({}), "to:"),
        (json!({ "to": "0123" }), "to:"),
        (json!({ "to": NUMBER, "to_user_id": USER_ID }), "one of to and to_user_id"),
        (json!({ "to": NUMBER, "body": "" }), "body:"),
        (json!({ "to": NUMBER, "body": long }), "body:"),
        (json!({ "to": NUMBER, "body": "x", "template": template(json!({})) }), "body:"),
        (json!({ "to": NUMBER, "template": template(json!({ "name": "May we call?" })) }), "template.name:"),
        (json!({ "to": NUMBER, "template": template(json!({ "language": "" })) }), "template.language:"),
        (json!({ "to": NUMBER, "template": template(json!({ "components": ["x"] })) }), "template.components:"),
        (json!({ "to": NUMBER, "text": "x" }), "text"),
    ];
    for (body, advice) in cases {
        let answer = post(&scene.client(), "/v1/permissions/requests", body.clone()).await?;
        answer.is_problem(422, "invalid_command");
        assert!(answer.body["detail"].as_str().is_some_and(|detail| detail.contains(advice)), "{body}: {answer:?}");
    }
    let unknown = json!({ "to": NUMBER, "phone_number_id": "999" });
    post(&scene.client(), "/v1/permissions/requests", unknown).await?.is_problem(422, "unknown_number");
    scene
        .client()
        .get(&format!("/v1/permissions/{NUMBER}?phone_number_id=999"))
        .await?
        .is_problem(422, "unknown_number");
    scene.client().get("/v1/permissions/0123").await?.is_problem(422, "invalid_command");
    let reader = Client::new(&scene.service, READER);
    post(&reader, "/v1/permissions/requests", json!({ "to": NUMBER })).await?.is_problem(403, "missing_scope");
    let other = Client::new(&scene.service, RECORDINGS);
    other.get(&format!("/v1/permissions/{NUMBER}")).await?.is_problem(403, "missing_scope");
    assert_eq!(scene.service.actions(), [""; 0]);
    Ok(())
}

/// Events that were missed are read from the store, those of permissions among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_comes_back_gets_the_events_of_permissions_too() -> anyhow::Result<()> {
    let mut scene = Scene::start().await?;
    scene.person.reply(PermissionReply::PermitInProfile).await?;
    let first = scene.event().await?;
    scene.person.reply(PermissionReply::Revoke).await?;
    let second = scene.event().await?;
    let query = format!("?after={}", first["id"].as_str().unwrap_or_default());
    let mut events = open_events_at(&scene.service, READER, &query).await?;
    assert_eq!(next_of(&mut events, "permission.revoked").await?, second);
    scene.person.reply(PermissionReply::CalledBack).await?;
    assert_eq!(next_of(&mut events, "permission.granted").await?["data"]["source"], "automatic");
    Ok(())
}
