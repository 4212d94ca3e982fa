//! The decision webhook: the app decides a call while it rings, or fails to.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Call, EndedBy, Stage};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::people::{AGENT_HZ, SECOND, SECOND_AGENT_HZ, agent, agent_with_voice, caller, caller_hears_first};
use crate::people::{heard_voices, objections};
use crate::service::{DEADLINE, TestOptions, TestService, counter};

/// The app's answer.
#[derive(Clone, Debug)]
pub enum Says {
    Json(Value),
    Rubbish,
    ElseWhere(String),
    Nothing,
    /// It never answers.
    Hangs,
}

/// The app that decides.
pub struct App {
    address: SocketAddr,
    asked: mpsc::UnboundedReceiver<(HeaderMap, Value)>,
    server: JoinHandle<()>,
}

type Shared = (mpsc::UnboundedSender<(HeaderMap, Value)>, Arc<Mutex<Says>>);

impl App {
    pub async fn that_says(says: Says) -> anyhow::Result<Self> {
        let (sender, asked) = mpsc::unbounded_channel();
        let router = Router::new().route("/calls", post(decide)).with_state((sender, Arc::new(Mutex::new(says))));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let server = tokio::spawn(async move { axum::serve(listener, router).await.expect("serve until aborted") });
        Ok(Self { address, asked, server })
    }

    /// The keys of a route that asks it.
    pub fn keys(&self) -> String {
        let address = self.address;
        format!("decide = \"http://{address}/calls\"\ndecide_secret = \"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\"")
    }

    /// A service with this decision webhook and a second route `sales`.
    fn options(&self, sales: &Agent) -> TestOptions {
        TestOptions {
            route: self.keys(),
            more_routes: format!("[routes.sales]\nagent = \"{}\"", sales.url()),
            ..TestOptions::default()
        }
    }

    pub async fn question(&mut self) -> anyhow::Result<(HeaderMap, Value)> {
        timeout(DEADLINE, self.asked.recv()).await.context("nobody asked")?.context("the app is gone")
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn decide(
    State((asked, says)): State<Shared>,
    headers: HeaderMap,
    axum::Json(question): axum::Json<Value>,
) -> Response {
    // The test may be over.
    let _ = asked.send((headers, question));
    let says = says.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    match says {
        Says::Json(answer) => axum::Json(answer).into_response(),
        Says::Rubbish => "<html>busy</html>".into_response(),
        Says::ElseWhere(url) => (StatusCode::TEMPORARY_REDIRECT, [(header::LOCATION, url)]).into_response(),
        Says::Nothing => StatusCode::NO_CONTENT.into_response(),
        Says::Hangs => std::future::pending().await,
    }
}

/// The route's own agent, and the one of `sales`.
async fn agents() -> anyhow::Result<(Agent, Agent)> {
    Ok((Agent::start(agent()).await?, Agent::start(agent_with_voice(SECOND_AGENT_HZ)).await?))
}

async fn accepted(service: &TestService) -> anyhow::Result<Call> {
    let call = service.call(caller()).await?;
    call.wait_until(Stage::FirstPacket).await?;
    Ok(call)
}

async fn voices(call: &Call) -> anyhow::Result<Vec<f64>> {
    Ok(heard_voices(&caller_hears_first(call, SECOND).await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_puts_the_caller_through_to_another_route_and_records() -> anyhow::Result<()> {
    let (own, sales) = agents().await?;
    let answer = json!({
        "actions": [{"action": "start_recording"}, {"action": "connect", "route": "sales", "parameters": {"tier": "gold"}}],
        "client_state": "customer 7",
    });
    let mut app = App::that_says(Says::Json(answer)).await?;
    let mut service = TestService::start_with(&own.url(), app.options(&sales)).await?;
    let call = accepted(&service).await?;
    assert_eq!(voices(&call).await?, [SECOND_AGENT_HZ]);
    assert_eq!(own.connections(), 0);
    let session = sales.wait_for_session(1).await?;
    assert_eq!(session.wait_for_message("start").await?["parameters"]["tier"], "gold");

    let (headers, question) = app.question().await?;
    assert_eq!((&question["type"], &question["sequence"]), (&"call.incoming".into(), &1.into()));
    assert_eq!(question["data"]["wacid"], call.wacid());
    assert_eq!(headers["webhook-id"].to_str()?, question["id"]);
    assert!(headers["webhook-signature"].to_str()?.starts_with("v1,"));

    service.event("call.recording_started").await?;
    call.hang_up().await?;
    service.end_of(&call).await?;
    let ended = service.event("call.ended").await?;
    assert_eq!(serde_json::to_value(&ended)?["client_state"], "customer 7");
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_names_an_agent_by_its_url_where_the_operator_allows_it() -> anyhow::Result<()> {
    let (own, sales) = agents().await?;
    let (_, elsewhere) = agents().await?;
    let answer = json!({"actions": [{"action": "accept", "url": elsewhere.url()}]});
    let app = App::that_says(Says::Json(answer)).await?;
    let options = app.options(&sales);
    let more_routes = format!("{}\n[egress]\nallow = [\"127.0.0.0/8\"]", options.more_routes);
    let service = TestService::start_with(&own.url(), TestOptions { more_routes, ..options }).await?;
    let call = accepted(&service).await?;
    assert_eq!(voices(&call).await?, [SECOND_AGENT_HZ]);
    assert_eq!((own.connections(), sales.connections(), elsewhere.connections()), (0, 0, 1));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_accepts_with_nobody_and_plays() -> anyhow::Result<()> {
    let (own, sales) = agents().await?;
    let answer = json!({"actions": [
        {"action": "accept", "without_agent": true},
        {"action": "play", "prompts": ["goodbye"]},
        {"action": "gather", "max_digits": 1, "first_digit_timeout_ms": 1},
        {"action": "unhold"},
    ]});
    let app = App::that_says(Says::Json(answer)).await?;
    let mut service = TestService::start_with(&own.url(), app.options(&sales)).await?;
    let call = accepted(&service).await?;
    // Each begins when the previous one has begun; a refused one does not stop the others.
    service.event("call.gather_finished").await?;
    service.event("call.playback_finished").await?;
    assert!(counter(r#"patchcord_decision_steps_refused_total{code="not_on_hold"}"#) > 0);
    assert_eq!((own.connections(), sales.connections()), (0, 0));
    assert_eq!(objections(&call), [], "{}", call.seen());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_app_turns_a_caller_away() -> anyhow::Result<()> {
    let (own, sales) = agents().await?;
    let answer = json!({"actions": [{"action": "reject", "reason": "blocked since Monday"}]});
    let app = App::that_says(Says::Json(answer)).await?;
    let mut service = TestService::start_with(&own.url(), app.options(&sales)).await?;
    let call = service.call(caller()).await?;
    call.wait_until(Stage::Ended).await?;
    assert!(matches!(call.ended_by(), Some(EndedBy::Rejected | EndedBy::Terminated)), "{}", call.seen());
    assert_eq!(service.end_of(&call).await?["hung_up_by"], "app");
    assert_eq!(own.connections(), 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_says_nothing_leaves_the_route_as_it_is() -> anyhow::Result<()> {
    let (own, sales) = agents().await?;
    let app = App::that_says(Says::Nothing).await?;
    let service = TestService::start_with(&own.url(), app.options(&sales)).await?;
    assert_eq!(voices(&accepted(&service).await?).await?, [AGENT_HZ]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_an_app_does_wrong_the_route_stands_and_the_cause_is_counted() -> anyhow::Result<()> {
    let (own, sales) = agents().await?;
    let (sender, mut reached) = mpsc::unbounded_channel();
    let inside = Router::new().fallback(async move || sender.send(()).map_err(|_| StatusCode::GONE));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let inner = listener.local_addr()?;
    let server = tokio::spawn(async move { axum::serve(listener, inside).await.expect("serve until aborted") });
    let connect = |to: Value| Says::Json(json!({"actions": [{"action": "play", "prompts": ["busy"]}, to]}));
    for (says, cause) in [
        (Says::Hangs, "timed_out"),
        (Says::Rubbish, "not_json"),
        (Says::ElseWhere(format!("http://{inner}/latest/meta-data/")), "redirected"),
        (connect(json!({"action": "connect", "url": format!("ws://{inner}/")})), "no_destination"),
        (connect(json!({"action": "connect", "url": "wss://169.254.169.254/"})), "no_destination"),
        (connect(json!({"action": "connect", "route": "nobody"})), "no_destination"),
        (connect(json!({"action": "explode"})), "senseless"),
    ] {
        let metric = format!("patchcord_decisions_total{{outcome=\"{cause}\"}}");
        let before = counter(&metric);
        let shown = format!("{says:?}");
        let app = App::that_says(says).await?;
        let options = app.options(&sales);
        let route = format!("{}\ndecide_timeout = \"500ms\"", options.route);
        let service = TestService::start_with(&own.url(), TestOptions { route, ..options }).await?;
        let call = accepted(&service).await.context(shown.clone())?;
        assert_eq!(voices(&call).await?, [AGENT_HZ], "{shown}");
        assert!(counter(&metric) > before, "{shown}");
        call.hang_up().await?;
        service.all_ended().await?;
    }
    assert_eq!(sales.connections(), 0);
    assert!(reached.try_recv().is_err(), "an inner address was reached");
    server.abort();
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_app_thinks_meta_has_our_answer_and_nobody_is_dialled() -> anyhow::Result<()> {
    let (own, sales) = agents().await?;
    let app = App::that_says(Says::Hangs).await?;
    let service = TestService::start_with(&own.url(), app.options(&sales)).await?;
    let placed_at = std::time::Instant::now();
    let call = service.call(caller()).await?;
    call.wait_until(Stage::PreAccepted).await?;
    let pre_accepted = placed_at.elapsed();
    call.wait_until(Stage::FirstPacket).await?;
    let accepted = placed_at.elapsed();
    assert!(accepted >= Duration::from_secs(3), "dialled before the app was given up: {accepted:?}");
    assert!(pre_accepted < Duration::from_secs(3), "{pre_accepted:?}");
    assert_eq!(own.connections(), 1);
    Ok(())
}
