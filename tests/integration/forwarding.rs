//! A number whose webhook serves Patchcord and a chat app: everything but our calls is forwarded to the app.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Call, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::people::{agent, caller};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions, TestService, counter};

/// A chat app that refuses a given number of requests.
struct ChatApp {
    address: SocketAddr,
    refusals: Arc<AtomicUsize>,
    received: mpsc::UnboundedReceiver<(HeaderMap, Bytes)>,
    server: JoinHandle<()>,
}

type Shared = (mpsc::UnboundedSender<(HeaderMap, Bytes)>, Arc<AtomicUsize>);

impl ChatApp {
    async fn start() -> anyhow::Result<Self> {
        let (sender, received) = mpsc::unbounded_channel();
        let refusals = Arc::new(AtomicUsize::new(0));
        let router = Router::new().route("/webhook", post(take)).with_state((sender, refusals.clone()));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve until aborted") });
        Ok(Self { address, refusals, received, server })
    }

    fn options(&self) -> TestOptions {
        let whatsapp = format!("forward_url = \"http://{}/webhook?app=1\"", self.address);
        TestOptions { whatsapp, ..TestOptions::default() }
    }

    async fn next(&mut self) -> anyhow::Result<(HeaderMap, Bytes)> {
        timeout(DEADLINE, self.received.recv()).await.context("nothing was forwarded")?.context("the app is gone")
    }
}

impl Drop for ChatApp {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn take(State((sender, refusals)): State<Shared>, headers: HeaderMap, body: Bytes) -> StatusCode {
    if refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
        return StatusCode::SERVICE_UNAVAILABLE;
    }
    // The test may be over.
    let _ = sender.send((headers, body));
    StatusCode::OK
}

/// As Meta writes it: escaped, and with unordered keys.
fn message(id: &str) -> String {
    format!(
        r#"{{"object":"whatsapp_business_account","entry":[{{"id":"1","changes":[{{"value":{{"messages":[{{"text":{{"body":"Za\u017c\u00f3\u0142\u0107 \ud83d\ude00 <\/b>"}},"id":"wamid.{id}","type":"text"}}]}},"field":"messages"}}]}}]}}"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_reaches_the_chat_app_byte_for_byte_with_metas_signature() -> anyhow::Result<()> {
    let mut app = ChatApp::start().await?;
    let service = TestService::start_with("prompt:goodbye", app.options()).await?;
    app.refusals.store(2, Ordering::SeqCst);
    let body = message("1");
    let metas = [
        ("content-type", "application/json; charset=utf-8"),
        ("user-agent", "facebookexternalua"),
        ("x-hub-signature", "sha1=00"),
        ("x-forwarded-for", "203.0.113.9"),
        ("cookie", "a=b"),
    ];
    assert_eq!(service.post_signed_with(body.clone(), &metas).await?.status, 200);
    let (headers, received) = app.next().await?;
    assert_eq!(received, body.as_bytes());
    assert_eq!(headers["x-hub-signature-256"], service.meta.signature(body.as_bytes()).as_str());
    for (name, value) in &metas[..3] {
        assert_eq!(headers[*name], *value, "{name}");
    }
    assert!(!headers.contains_key("x-forwarded-for") && !headers.contains_key("cookie"), "{headers:?}");

    // Meta repeats the webhook; the app gets it once.
    assert_eq!(service.post_signed(body).await?.status, 200);
    let next = message("2");
    assert_eq!(service.post_signed(next.clone()).await?.status, 200);
    assert_eq!(app.next().await?.1, next.as_bytes());
    Ok(())
}

/// Texts cut in the middle of an emoji, and worse: the bytes are forwarded unchanged, so that the signature matches.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_not_quite_json_reaches_the_chat_app_byte_for_byte() -> anyhow::Result<()> {
    let mut app = ChatApp::start().await?;
    let service = TestService::start_with("prompt:goodbye", app.options()).await?;
    let [before, behind] = [&b"Za"[..], b"</b>"];
    for text in [&br"\ud83d"[..], br"\ude00\ud83d", b"\xf0\x9f\x98", b"\xff\x01\t", br"\ud8", br"\\ud83d\ud83d"] {
        let whole = message(&format!("half-{}", text.len())).into_bytes();
        let at = whole.windows(2).position(|window| window == before).context("the text")?;
        let body = [&whole[..at], text, behind, &whole[at..]].concat();
        assert_eq!(service.post_signed(body.clone()).await?.status, 200, "{text:?}");
        let (headers, received) = app.next().await?;
        assert_eq!(received, body, "{text:?}");
        assert_eq!(headers["x-hub-signature-256"], service.meta.signature(&body).as_str());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn our_calls_stay_here_and_everything_else_goes_on() -> anyhow::Result<()> {
    let mut app = ChatApp::start().await?;
    let agent = Agent::start(agent()).await?;
    let mut service = TestService::start_with(&agent.url(), app.options()).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    call.hang_up().await?;
    service.end_of(&call).await?;

    // A message and a call in one body: the app gets the whole body, and the call is answered.
    let second = service.unannounced(caller()).await?;
    let mixed = with_a_message(&second)?;
    assert_eq!(service.post_signed(mixed.clone()).await?.status, 200);
    assert_eq!(app.next().await?.1, mixed.as_bytes());
    second.wait_until(Stage::FirstPacket).await?;

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/whatsapp");
    for name in [
        "webhook-account-settings-update.json",
        "webhook-call-permission-reply-accept-temporary.json",
        "webhook-status-ringing.json",
        "webhook-unknown-event.json",
        "webhook-call-recording-available.json",
        // A call to a number that is not configured here.
        "webhook-connect-user-initiated-2025-10.json",
    ] {
        let body = std::fs::read_to_string(folder.join(name))?;
        let body = body.replace(&service.meta.options().phone_number_id, "299999999999999");
        assert_eq!(service.post_signed(body.clone()).await?.status, 200, "{name}");
        assert_eq!(app.next().await?.1, body.as_bytes(), "{name}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_meta_did_not_sign_goes_nowhere() -> anyhow::Result<()> {
    let mut app = ChatApp::start().await?;
    let service = TestService::start_with("prompt:goodbye", app.options()).await?;
    let other = service.meta.signature(b"something else");
    for signature in [None, Some(other.as_str())] {
        assert_eq!(service.post(message("forged"), signature).await?.status, 401);
    }
    let right = message("right");
    assert_eq!(service.post_signed(right.clone()).await?.status, 200);
    assert_eq!(app.next().await?.1, right.as_bytes());
    Ok(())
}

/// kill -9 right after Meta got its 200, while the app is down: the next start delivers what it missed.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_meta_has_its_200_for_survives_a_kill() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let mut app = ChatApp::start().await?;
    app.refusals.store(usize::MAX, Ordering::SeqCst);
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let program = Program::start(&folder, &meta, &agent, app.options()).await?;
    let body = message("kept");
    assert_eq!(meta.send_webhook(body.clone()).await?, 200);
    program.finish().await?;

    app.refusals.store(0, Ordering::SeqCst);
    let again = Program::start(&folder, &meta, &agent, app.options()).await?;
    assert_eq!(app.next().await?.1, body.as_bytes());
    let log = again.finish().await?;
    assert!(!log.contains("wamid"), "{log}");
    Ok(())
}

/// Another program locks the store's file: Meta gets 503 and retries, and calls go on.
#[tokio::test(flavor = "multi_thread")]
async fn while_nothing_can_be_stored_meta_is_asked_to_come_again() -> anyhow::Result<()> {
    let app = ChatApp::start().await?;
    let agent = Agent::start(agent()).await?;
    let service = TestService::start_with(&agent.url(), app.options()).await?;
    let refused = r#"patchcord_forwards_total{outcome="refused"}"#;
    let before = counter(refused);
    let holder = rusqlite::Connection::open(service.folder.0.join("patchcord.db"))?;
    holder.execute_batch("BEGIN IMMEDIATE")?;
    let posted = service.post_signed(message("1")).await?;
    assert_eq!((posted.status, posted.content_type.as_str()), (503, "application/problem+json"));
    assert!(counter(refused) > before);
    let call = service.unannounced(caller()).await?;
    assert_eq!(service.post_signed(with_a_message(&call)?).await?.status, 503);
    call.wait_until(Stage::FirstPacket).await?;
    Ok(())
}

/// The call's connect with a message beside it.
fn with_a_message(call: &Call) -> anyhow::Result<String> {
    let mut body: Value = serde_json::from_str(&call.connect_body())?;
    let change = json!({"field": "messages", "value": {"messages": [{"id": "wamid.3", "type": "text"}]}});
    body["entry"].as_array_mut().context("entries")?.push(json!({"id": "1", "changes": [change]}));
    Ok(body.to_string())
}
