//! Apps that answer well, badly, slowly or not at all, each a real server on this machine.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::post;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use url::Url;

use super::*;
use crate::call::command::SoundCommand;
use crate::events::{SigningSecret, client_settings};
use crate::pulse::Pulse;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const LONG: Duration = Duration::from_secs(60);

fn incoming() -> EventRecord {
    let body = Arc::from(&br#"{"type":"call.incoming"}"#[..]);
    EventRecord {
        id: "evt_1".to_owned(),
        call_id: "call_1".to_owned(),
        sequence: 1,
        kind: "call.incoming".to_owned(),
        body,
    }
}

/// What comes of asking this address.
async fn ask(url: &str, timeout: Duration) -> Result<Decision, NoDecision> {
    ask_while(url, timeout, &Arc::default()).await
}

/// The same, on a loop with this pulse.
async fn ask_while(url: &str, timeout: Duration, pulse: &Arc<Pulse>) -> Result<Decision, NoDecision> {
    // A second test in one process finds the provider installed, which is as good.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = client_settings(Client::builder()).no_proxy().build().unwrap();
    let secret = SigningSecret::parse(SECRET).unwrap();
    let webhook = DecisionWebhook { url: Url::parse(url).unwrap(), secret, timeout };
    let standstills = Standstills::of(pulse, Instant::now());
    let plan = webhook.decide(&http, &incoming(), &Settings::default(), standstills).await?;
    let commands = plan.steps.into_iter().map(|step| step.command).collect();
    Ok(Decision { commands, client_state: plan.client_state })
}

/// What comes of asking an app that answers like this.
async fn asked_of(app: Router) -> Result<Decision, NoDecision> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/calls", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let decided = ask(&url, LONG).await;
    server.abort();
    decided
}

fn answering(answer: impl Into<String>) -> Router {
    let answer = answer.into();
    Router::new().route("/calls", post(async move || answer))
}

#[tokio::test]
async fn the_app_is_told_of_the_call_signed_and_says_what_to_do() {
    let (sender, mut received) = mpsc::unbounded_channel::<(HeaderMap, Bytes)>();
    let answer = r#"{"actions": [{"action": "play", "prompts": ["hold"]}, {"action": "start_recording"}],
        "client_state": "customer 7", "comment": "ignored"}"#;
    let app = async move |headers: HeaderMap, body: Bytes| {
        sender.send((headers, body)).unwrap();
        answer
    };
    let decision = asked_of(Router::new().route("/calls", post(app))).await.unwrap();
    assert_eq!(decision.client_state.as_deref(), Some("customer 7"));
    assert!(
        matches!(
            decision.commands[..],
            [CallCommand::Sound(SoundCommand::Play(_)), CallCommand::Sound(SoundCommand::StartRecording)]
        ),
        "{decision:?}"
    );

    let (headers, body) = received.recv().await.unwrap();
    assert_eq!(body, &incoming().body[..]);
    assert_eq!(
        (&headers["webhook-id"], &headers["content-type"]),
        (&"evt_1".parse().unwrap(), &"application/json".parse().unwrap())
    );
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&STANDARD.decode(&SECRET[6..]).unwrap()).unwrap();
    mac.update(b"evt_1.");
    mac.update(headers["webhook-timestamp"].as_bytes());
    mac.update(b".");
    mac.update(&body);
    assert_eq!(headers["webhook-signature"], format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())).as_str());
}

#[tokio::test]
async fn nothing_said_means_that_the_route_stands() {
    for nothing in ["", " \r\n", "{}", r#"{"actions": []}"#, r#"{"actions": null, "client_state": null}"#] {
        assert_eq!(asked_of(answering(nothing)).await, Ok(Decision::default()), "{nothing:?}");
    }
    let silent = Router::new().route("/calls", post(async || StatusCode::NO_CONTENT));
    assert_eq!(asked_of(silent).await, Ok(Decision::default()));
}

#[tokio::test]
async fn every_bad_answer_has_its_cause() {
    let large = format!(r#"{{"client_state": "{}"}}"#, "x".repeat(MAX_ANSWER_BYTES));
    let many = format!(r#"{{"actions": [{}]}}"#, vec![r#"{"action": "stop_playback"}"#; 17].join(","));
    let stateful = format!(r#"{{"client_state": "{}"}}"#, "x".repeat(4097));
    for (answer, cause) in [
        ("<html>no</html>", "not_json"),
        ("[]", "not_json"),
        ("null", "not_json"),
        ("{\"actions\": [", "not_json"),
        ("\u{0}", "not_json"),
        (large.as_str(), "too_large"),
        (many.as_str(), "senseless"),
        (stateful.as_str(), "senseless"),
        (r#"{"actions": {}}"#, "senseless"),
        (r#"{"actions": ["accept"]}"#, "senseless"),
        (r#"{"actions": [{}]}"#, "senseless"),
        (r#"{"actions": [{"action": "explode"}]}"#, "senseless"),
        (r#"{"actions": [{"action": "play", "prompts": []}]}"#, "senseless"),
        (r#"{"client_state": 7}"#, "senseless"),
        (r#"{"actions": [{"action": "connect"}]}"#, "senseless"),
        (r#"{"actions": [{"action": "accept"}, {"action": "connect", "route": "nobody"}]}"#, "no_destination"),
        (r#"{"actions": [{"action": "connect", "url": "ws://127.0.0.1:9000"}]}"#, "no_destination"),
        (r#"{"actions": [{"action": "accept", "url": "wss://169.254.169.254/"}]}"#, "no_destination"),
    ] {
        let failure = asked_of(answering(answer)).await.expect_err(answer);
        assert_eq!(failure.name(), cause, "{answer:.60}");
    }
    let deep = format!("{{\"a\": {}", "[".repeat(60_000));
    assert_eq!(asked_of(answering(deep)).await, Err(NoDecision::NotJson));
    let failed = |status| Router::new().route("/calls", post(async move || StatusCode::from_u16(status).unwrap()));
    for status in [400, 401, 404, 500, 503] {
        assert_eq!(asked_of(failed(status)).await, Err(NoDecision::Status(status)));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_wherever_it_leads() {
    let (sender, mut reached) = mpsc::unbounded_channel();
    let inside = Router::new().fallback(async move || sender.send(()).unwrap());
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let secret_place = format!("http://{}/latest/meta-data", listener.local_addr().unwrap());
    let server = tokio::spawn(async move { axum::serve(listener, inside).await.unwrap() });
    for status in [302, 303, 307, 308] {
        let to = secret_place.clone();
        let app = async move || -> Response {
            let mut response = Redirect::temporary(&to).into_response();
            *response.status_mut() = StatusCode::from_u16(status).unwrap();
            response
        };
        let decided = asked_of(Router::new().route("/calls", post(app))).await;
        assert_eq!(decided, Err(NoDecision::Redirected(status)));
    }
    assert!(reached.try_recv().is_err());
    server.abort();
}

#[tokio::test]
async fn one_that_hangs_or_drips_costs_no_more_than_the_timeout() {
    let timeout = Duration::from_millis(200);
    for said in ["", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{"] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}/calls", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            // What comes before the question is no answer.
            assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
            stream.write_all(said.as_bytes()).await.unwrap();
            // Until the other side has had enough.
            let _ = stream.read_to_end(&mut Vec::new()).await;
        });
        let asked_at = Instant::now();
        assert_eq!(ask(&url, timeout).await, Err(NoDecision::TimedOut), "{said:?}");
        assert!(asked_at.elapsed() >= timeout);
        server.abort();
    }
}

/// Our loop freezes for longer than the whole timeout while the app answers.
#[tokio::test]
async fn an_answer_that_comes_while_we_are_frozen_still_counts() {
    let (pulse, timeout) = (Arc::new(Pulse::default()), Duration::from_millis(500));
    pulse.beat(Instant::now());
    let (asked, mut is_asked) = mpsc::unbounded_channel();
    let app = async move || {
        asked.send(()).unwrap();
        // The app freezes with us, and answers when the timeout is long over.
        tokio::time::sleep(timeout / 2).await;
        r#"{"client_state": "customer 7"}"#
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/calls", listener.local_addr().unwrap());
    let app = Router::new().route("/calls", post(app));
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let freeze = async {
        is_asked.recv().await.unwrap();
        std::thread::sleep(Duration::from_millis(1500));
    };
    let (decided, ()) = tokio::join!(ask_while(&url, timeout, &pulse), freeze);
    assert_eq!(decided.unwrap().client_state.as_deref(), Some("customer 7"));
    server.abort();
}

#[tokio::test]
async fn one_that_is_not_there_or_breaks_off_is_unreachable() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/calls", listener.local_addr().unwrap());
    let breaking = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{").await.unwrap();
    });
    let broken = ask(&url, LONG).await.unwrap_err();
    assert!(matches!(&broken, NoDecision::Unreachable(cause) if !cause.is_empty()), "{broken}");
    breaking.await.unwrap();
    // Nobody listens there any more.
    let refused = ask(&url, LONG).await.unwrap_err();
    assert!(matches!(&refused, NoDecision::Unreachable(cause) if cause.contains("Connection refused")), "{refused}");
}
