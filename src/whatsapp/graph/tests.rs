//! The client against a real HTTP server that replies by a script.

use std::collections::VecDeque;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, Response, StatusCode, Uri};
use tokio::net::{TcpListener, TcpSocket};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::*;

#[tokio::test]
async fn every_request_has_the_documented_shape() {
    let graph = Graph::with_replies((0..4).map(|_| success())).await;
    let client = graph.client();
    let accept = fixture("graph-accept-request.json");
    let answer = accept["session"]["sdp"].as_str().unwrap().to_owned();
    let callback_data = CallbackData::parse("bridge-session-42").unwrap();

    client.pre_accept(&number(), &call_id(), &answer).await.unwrap();
    client.accept(&number(), &call_id(), &answer, Some(&callback_data)).await.unwrap();
    client.reject(&number(), &call_id()).await.unwrap();
    client.terminate(&number(), &call_id()).await.unwrap();

    let names = ["pre-accept", "accept", "reject", "terminate"];
    let requests = graph.requests();
    assert_eq!(requests.len(), names.len());
    for (request, name) in requests.iter().zip(names) {
        assert_eq!(request.body, fixture(&format!("graph-{name}-request.json")), "{name}");
        assert_eq!(request.path, "/v26.0/200000000000002/calls");
        assert_eq!(request.authorization, "Bearer token");
        assert_eq!(request.content_type, "application/json");
    }
}

#[tokio::test]
async fn connect_gives_the_new_call_and_names_the_callee_either_way() {
    let reply = || Reply::json(200, &fixture("graph-connect-response.json"));
    let graph = Graph::with_replies([reply(), reply()]).await;
    let client = graph.client();
    let job = CallbackData::parse("job-7f3a").unwrap();

    let by_number = Callee::WaId("12025550143".to_owned());
    let call_id = client.connect(&number(), &by_number, "v=0\r\n", Some(&job)).await.unwrap();
    let by_user_id = Callee::UserId("US.13491208655302741918".to_owned());
    client.connect(&number(), &by_user_id, "v=0\r\n", None).await.unwrap();

    assert!(call_id.as_str().starts_with("wacid.HBgL"));
    let requests = graph.requests();
    let session = json!({ "sdp_type": "offer", "sdp": "v=0\r\n" });
    assert_eq!(
        requests[0].body,
        json!({ "messaging_product": "whatsapp", "to": "12025550143", "action": "connect",
                "session": session, "biz_opaque_callback_data": "job-7f3a" })
    );
    assert_eq!(
        requests[1].body,
        json!({ "messaging_product": "whatsapp", "recipient": "US.13491208655302741918", "action": "connect",
                "session": session })
    );
}

#[tokio::test]
async fn passing_trouble_is_tried_again() {
    let transient = json!({ "error": { "code": 9999, "is_transient": true } });
    for trouble in [
        Reply::text(500, "<html>"),
        Reply::text(502, "<html>"),
        Reply::text(503, ""),
        Reply::text(429, ""),
        error_reply(400, 1),
        error_reply(400, 2),
        error_reply(400, 4),
        error_reply(400, 80007),
        error_reply(400, 130_429),
        error_reply(500, 138_004),
        error_reply(429, 138_002),
        Reply::json(400, &transient),
    ] {
        let graph = Graph::with_replies([trouble.clone(), trouble.clone(), success()]).await;
        let done = graph.client().accept(&number(), &call_id(), "v=0", None).await;
        assert_eq!(done, Ok(Done { attempts: 3, was_done_before: false }), "{trouble:?}");
    }
}

#[tokio::test]
async fn a_no_that_will_stay_is_not_tried_again() {
    let fingerprint = Reply::json(400, &fixture("graph-error-100-fingerprint.json"));
    let transient = json!({ "error": { "code": 100, "is_transient": true } });
    for (refusal, code) in [
        (fingerprint, Some(100)),
        (Reply::json(400, &fixture("graph-error-138008-sdp-validation.json")), Some(138_008)),
        (Reply::json(401, &fixture("graph-error-138006-no-permission.json")), Some(138_006)),
        (Reply::json(401, &fixture("graph-error-190-token-expired.json")), Some(190)),
        (Reply::json(500, &transient), Some(100)),
        (error_reply(500, 138_007), Some(138_007)),
        (error_reply(400, 138_012), Some(138_012)),
        (error_reply(400, 138_003), Some(138_003)),
        (Reply::json(200, &json!({ "success": false })), None),
        (Reply::text(404, "nothing here"), None),
    ] {
        let graph = Graph::with_replies([refusal.clone(), success()]).await;
        let failure = graph.client().pre_accept(&number(), &call_id(), "v=0").await.unwrap_err();
        assert_eq!(failure.attempts, 1, "{refusal:?}");
        assert_eq!(refused(failure).code, code, "{refusal:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_all_that_metas_support_asks_for() {
    let graph = Graph::with_replies([Reply::json(400, &fixture("graph-error-100-fingerprint.json"))]).await;
    let failure = graph.client().accept(&number(), &call_id(), "v=0", None).await.unwrap_err();
    let error = refused(failure);
    assert_eq!(error.http_status, Some(400));
    assert_eq!(error.subcode, Some(2_494_010));
    assert_eq!(error.details.as_deref(), Some("Fingerprint algo is not SHA256"));
    assert_eq!(error.fbtrace_id.as_deref(), Some("AexampleTraceId000000001"));
}

/// Meta's texts may quote what was sent, cut anywhere.
#[tokio::test]
async fn half_an_emoji_in_a_reply_does_not_hide_what_meta_says() {
    let refusal = r#"{"error":{"code":138008,"message":"Ana \ud83d"}}"#;
    let graph = Graph::with_replies([Reply::text(400, refusal)]).await;
    let failure = graph.client().accept(&number(), &call_id(), "v=0", None).await.unwrap_err();
    assert_eq!(refused(failure).code, Some(138_008));
    let graph = Graph::with_replies([Reply::text(200, r#"{"success":true,"name":"\ude00"}"#)]).await;
    let done = graph.client().accept(&number(), &call_id(), "v=0", None).await;
    assert_eq!(done, Ok(Done { attempts: 1, was_done_before: false }));
}

#[tokio::test]
async fn a_wish_to_come_back_later_is_granted_if_it_fits_the_budget() {
    let graph = Graph::with_replies([Reply::text(429, "").with_header("retry-after", "0"), success()]).await;
    let done = graph.client().terminate(&number(), &call_id()).await;
    assert_eq!(done.map(|done| done.attempts), Ok(2));

    let graph = Graph::with_replies([Reply::text(429, "").with_header("retry-after", "3600"), success()]).await;
    let failure = graph.client().terminate(&number(), &call_id()).await.unwrap_err();
    assert_eq!(failure.attempts, 1);
    assert_eq!(refused(failure).http_status, Some(429));
}

#[tokio::test]
async fn only_silence_means_unknown() {
    let graph = Graph::with_replies([Reply::Hang, Reply::Hang, Reply::Hang, Reply::Hang]).await;
    let options = GraphOptions {
        budget: Duration::from_millis(400),
        attempt_timeout: Duration::from_millis(150),
        ..graph.options()
    };
    let failure = client(options).accept(&number(), &call_id(), "v=0", None).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Unknown("no answer in time".to_owned()));
    assert!((2..=4).contains(&failure.attempts), "{failure:?}");
}

#[tokio::test]
async fn a_lost_accept_that_had_arrived_is_a_success() {
    let already = json!({ "error": { "code": 100, "message": "Invalid parameter",
                                     "error_data": { "details": "Call is already in progress" } } });
    let graph = Graph::with_replies([Reply::Hang, Reply::json(400, &already)]).await;
    let options = GraphOptions { attempt_timeout: Duration::from_millis(600), ..graph.options() };
    let done = client(options).accept(&number(), &call_id(), "v=0", None).await;
    assert_eq!(done, Ok(Done { attempts: 2, was_done_before: true }));
}

#[tokio::test]
async fn a_no_after_silence_is_believed() {
    let graph = Graph::with_replies([Reply::Hang, error_reply(400, 138_008)]).await;
    let options = GraphOptions { attempt_timeout: Duration::from_millis(600), ..graph.options() };
    let failure = client(options).accept(&number(), &call_id(), "v=0", None).await.unwrap_err();
    assert_eq!(refused(failure).code, Some(138_008));
}

#[tokio::test]
async fn a_connect_of_unknown_end_never_rings_twice() {
    for reply in [
        Reply::Hang,
        Reply::text(504, "<html>"),
        Reply::text(200, "not json"),
        Reply::json(200, &json!({ "success": true })),
    ] {
        let graph = Graph::with_replies([reply, Reply::json(200, &fixture("graph-connect-response.json"))]).await;
        let options = GraphOptions { attempt_timeout: Duration::from_millis(150), ..graph.options() };
        let callee = Callee::WaId("12025550143".to_owned());
        let failure = client(options).connect(&number(), &callee, "v=0", None).await.unwrap_err();
        assert!(matches!(failure, GraphFailure { kind: FailureKind::Unknown(_), attempts: 1 }), "{failure}");
        assert_eq!(graph.requests().len(), 1);
    }
}

#[tokio::test]
async fn nobody_listening_is_unreachable() {
    // Bound but not listening: the port stays ours, and refuses.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let options = GraphOptions { budget: Duration::from_millis(300), ..options_for(address) };
    let failure = client(options).reject(&number(), &call_id()).await.unwrap_err();
    let FailureKind::Unreachable(cause) = &failure.kind else { panic!("{failure}") };
    assert!(cause.contains("Connection refused"), "{cause}");
    assert!(failure.attempts > 1);
}

#[tokio::test]
async fn an_endless_reply_is_not_read_to_its_end() {
    let padding = "x".repeat(1024 * 1024);
    let refusal = json!({ "padding": padding, "error": { "code": 138_008 } });
    let graph = Graph::with_replies([Reply::json(400, &refusal)]).await;
    let failure = graph.client().accept(&number(), &call_id(), "v=0", None).await.unwrap_err();
    assert_eq!(refused(failure), MetaError { http_status: Some(400), ..MetaError::default() });

    let yes = json!({ "padding": padding, "success": true });
    let graph = Graph::with_replies([Reply::json(200, &yes), success()]).await;
    let done = graph.client().accept(&number(), &call_id(), "v=0", None).await;
    assert_eq!(done.map(|done| done.attempts), Ok(2));
}

#[tokio::test]
async fn a_redirect_is_a_refusal_and_takes_the_token_nowhere() {
    let elsewhere = Graph::with_replies([success()]).await;
    let target = format!("http://{}/elsewhere", elsewhere.address);
    for status in [301, 302, 307, 308] {
        let graph = Graph::with_replies([Reply::text(status, "").with_header("location", &target)]).await;
        let failure = graph.client().accept(&number(), &call_id(), "v=0", None).await.unwrap_err();
        assert_eq!(refused(failure).http_status, Some(status));
    }
    assert_eq!(elsewhere.requests().len(), 0);
}

#[tokio::test]
async fn a_failure_is_logged_once_with_its_trace_and_nothing_personal() {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).with_max_level(LevelFilter::TRACE);
    let _guard = tracing::subscriber::set_default(subscriber.finish());
    let details = format!("Call {} of 12025550143 has no fingerprint", call_id().as_str());
    let refusal = json!({ "error": { "code": 100, "error_subcode": 2_494_010, "fbtrace_id": "Atrace1",
                                     "message": "text", "error_data": { "details": details } } });
    let graph = Graph::with_replies([Reply::text(500, ""), Reply::json(400, &refusal)]).await;

    graph.client().accept(&number(), &call_id(), "v=0 secret-sdp", None).await.unwrap_err();

    let log = log.text();
    let ours: Vec<&str> = log.lines().filter(|line| line.contains("patchcord")).collect();
    assert_eq!(ours.len(), 1, "{log}");
    for part in
        ["WARN", "accept", "meta.code=100", "meta.subcode=2494010", "Atrace1", "has no fingerprint", "http.status=400"]
    {
        assert!(ours[0].contains(part), "{part} in {}", ours[0]);
    }
    for hidden in ["token", "secret-sdp", "wacid", "12025550143", "200000000000002"] {
        assert!(!ours[0].contains(hidden), "{hidden} in {}", ours[0]);
    }
}

#[test]
fn which_refusals_mean_that_it_is_done() {
    use Action::{Accept, Connect, PreAccept, Reject, Terminate};
    for (text, done) in [
        ("Call already accepted", &[PreAccept, Accept][..]),
        ("The call is already in progress", &[PreAccept, Accept]),
        ("A pre_accept is already in progress", &[PreAccept, Accept]),
        ("Call already terminated by the user", &[Reject, Terminate]),
        ("Call has already ended", &[Reject, Terminate]),
        ("The call has already completed or failed", &[Reject, Terminate]),
        ("Reject already in progress", &[Reject, Terminate]),
        ("Call not found", &[Reject, Terminate]),
        ("There is no call with this call_id", &[Reject, Terminate]),
        ("Failed to terminate the call", &[]),
        ("Invalid parameter", &[]),
    ] {
        for code in [Some(100), Some(138_003), Some(999_999), None] {
            let error = MetaError { code, details: Some(text.to_owned()), ..MetaError::default() };
            for action in [Connect, PreAccept, Accept, Reject, Terminate] {
                assert_eq!(retry::is_done_before(action, &error), done.contains(&action), "{action:?}: {text}");
            }
        }
        let account = MetaError { code: Some(190), details: Some(text.to_owned()), ..MetaError::default() };
        assert!(!retry::is_done_before(Terminate, &account));
    }
    let wrong_number = "Unsupported post request. Object with ID '1' does not exist";
    let error = MetaError {
        code: Some(100),
        subcode: Some(33),
        message: Some(wrong_number.to_owned()),
        ..MetaError::default()
    };
    assert!(!retry::is_done_before(Terminate, &error));
}

#[test]
fn callback_data_has_metas_limit() {
    assert!(CallbackData::parse(&"é".repeat(512)).is_ok());
    assert!(CallbackData::parse(&"x".repeat(513)).is_err());
}

fn usual_options() -> GraphOptions {
    GraphOptions::new("http://127.0.0.1:1".parse().unwrap(), "v26.0")
}

fn refusal(retry_after_s: Option<u64>) -> Outcome {
    let error = MetaError { http_status: Some(429), ..MetaError::default() };
    Outcome::Refused { error, retry_after: retry_after_s.map(Duration::from_secs) }
}

#[test]
fn jitter_doubles_up_to_a_bound_and_waits_never_leave_the_budget() {
    let options = usual_options();
    for seed in 0..100 {
        let chance = Mutex::new(StdRng::seed_from_u64(seed));
        let start = Instant::now();
        let mut waits = Waits::new(&options, &chance, start);
        let (mut spent, mut tries) = (Duration::ZERO, 0);
        while let Some(wait) = waits.before_next(Action::Accept, &Outcome::Unreachable(String::new()), start + spent) {
            let most = (options.first_backoff * 2_u32.pow(tries)).min(options.longest_backoff);
            assert!(wait >= options.shortest_wait && wait <= options.shortest_wait + most, "{wait:?} of {most:?}");
            spent += wait;
            tries += 1;
        }
        assert!(spent < options.budget && spent > options.budget / 2, "{spent:?}");
    }
}

/// Meta's `Retry-After: 0` was obeyed to the letter: 5000 requests for one call in 8 s.
#[test]
fn no_wish_of_metas_makes_a_hot_loop() {
    let options = usual_options();
    for wish in [Some(0), None, Some(1)] {
        let chance = Mutex::new(StdRng::seed_from_u64(7));
        let start = Instant::now();
        let mut waits = Waits::new(&options, &chance, start);
        let (mut spent, mut tries) = (Duration::ZERO, 1);
        while let Some(wait) = waits.before_next(Action::Accept, &refusal(wish), start + spent) {
            assert!(wait >= Duration::from_millis(200).max(Duration::from_secs(wish.unwrap_or(0))), "{wait:?}");
            spent += wait;
            tries += 1;
        }
        assert!((4..=20).contains(&tries), "{tries} tries with {wish:?}");
    }
}

#[test]
fn calls_refused_together_do_not_come_back_together() {
    let options = usual_options();
    let chance = Mutex::new(StdRng::seed_from_u64(7));
    let now = Instant::now();
    for wish in [None, Some(1)] {
        let waits =
            (0..100).map(|_| Waits::new(&options, &chance, now).before_next(Action::Accept, &refusal(wish), now));
        let mut waits: Vec<Duration> = waits.map(Option::unwrap).collect();
        waits.sort_unstable();
        assert!(waits[99] - waits[0] > Duration::from_millis(180), "{:?} to {:?}", waits[0], waits[99]);
    }
}

/// The chance in a wait never makes a wish miss the budget that fits it.
#[test]
fn a_wish_that_just_fits_the_budget_is_granted() {
    let options = usual_options();
    let chance = Mutex::new(StdRng::seed_from_u64(7));
    let now = Instant::now();
    let wait = |wish| Waits::new(&options, &chance, now).before_next(Action::Accept, &refusal(Some(wish)), now);
    assert!(wait(7).is_some_and(|wait| wait >= Duration::from_secs(7) && wait < options.budget));
    assert_eq!(wait(8), None);
}

#[tokio::test]
async fn a_429_for_one_call_makes_the_next_call_of_its_number_wait() {
    let refused_with = || Reply::text(429, "").with_header("retry-after", "1");
    let graph = Graph::with_replies([refused_with(), success(), success()]).await;
    let options = GraphOptions { budget: Duration::from_millis(500), ..graph.options() };
    let client = client(options);
    let failure = client.accept(&number(), &call_id(), "v=0", None).await.unwrap_err();
    assert_eq!((failure.attempts, refused(failure).http_status), (1, Some(429)));
    // Another number is asked for at once, while this one waits.
    let other = NumberCredentials { phone_number_id: PhoneNumberId::parse("7").unwrap(), ..number() };
    let began = Instant::now();
    assert_eq!(client.reject(&other, &call_id()).await.map(|done| done.attempts), Ok(1));
    assert_eq!(graph.requests().len(), 2);
    // What does not fit its budget fails with Meta's own word, and without a request.
    let failure = client.reject(&number(), &call_id()).await;
    match failure {
        Err(failure) => assert_eq!((failure.attempts, refused(failure).http_status), (0, Some(429))),
        // A machine so slow that the wait was over.
        Ok(_) => assert!(began.elapsed() > Duration::from_millis(400)),
    }
}

/// What is logged while it is the log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// A stand-in for Meta that replies by its script and keeps what it was asked.
struct Graph {
    address: std::net::SocketAddr,
    script: Script,
}

type Script = Arc<Mutex<(VecDeque<Reply>, Vec<Request>)>>;

struct Request {
    path: String,
    authorization: String,
    content_type: String,
    body: Value,
}

#[derive(Debug, Clone)]
enum Reply {
    Now { status: u16, headers: Vec<(String, String)>, body: String },
    Hang,
}

impl Graph {
    async fn with_replies(replies: impl IntoIterator<Item = Reply>) -> Self {
        let script: Script = Arc::new(Mutex::new((replies.into_iter().collect(), Vec::new())));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(reply).with_state(script.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, script }
    }

    fn options(&self) -> GraphOptions {
        options_for(self.address)
    }

    fn client(&self) -> GraphClient {
        client(self.options())
    }

    fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut self.script.lock().unwrap().1)
    }
}

impl Reply {
    fn text(status: u16, body: &str) -> Self {
        Self::Now { status, headers: Vec::new(), body: body.to_owned() }
    }

    fn json(status: u16, body: &Value) -> Self {
        Self::text(status, &body.to_string())
    }

    fn with_header(self, name: &str, value: &str) -> Self {
        let Self::Now { status, mut headers, body } = self else { return self };
        headers.push((name.to_owned(), value.to_owned()));
        Self::Now { status, headers, body }
    }
}

async fn reply(State(script): State<Script>, uri: Uri, headers: HeaderMap, body: String) -> Response<Body> {
    let header = |name| headers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
    let reply = {
        let mut script = script.lock().unwrap();
        script.1.push(Request {
            path: uri.path().to_owned(),
            authorization: header("authorization"),
            content_type: header("content-type"),
            body: serde_json::from_str(&body).unwrap(),
        });
        script.0.pop_front().expect("the script has a reply for every request")
    };
    match reply {
        Reply::Hang => std::future::pending().await,
        Reply::Now { status, headers, body } => {
            let mut response = Response::builder().status(StatusCode::from_u16(status).unwrap());
            for (name, value) in headers {
                response = response.header(name, value);
            }
            response.body(Body::from(body)).unwrap()
        }
    }
}

/// Patience of seconds with waits of milliseconds.
fn options_for(address: std::net::SocketAddr) -> GraphOptions {
    GraphOptions {
        shortest_wait: Duration::from_millis(1),
        first_backoff: Duration::from_millis(10),
        longest_backoff: Duration::from_millis(40),
        jitter_seed: 7,
        ..GraphOptions::new(format!("http://{address}").parse().unwrap(), "v26.0")
    }
}

fn client(options: GraphOptions) -> GraphClient {
    // Whoever comes first installs it for the whole process.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = client_settings(reqwest::Client::builder()).no_proxy().build().unwrap();
    GraphClient::new(http, options)
}

fn number() -> NumberCredentials {
    NumberCredentials {
        phone_number_id: PhoneNumberId::parse("200000000000002").unwrap(),
        access_token: "token".into(),
    }
}

fn call_id() -> WaCallId {
    let accept = fixture("graph-accept-request.json");
    WaCallId::parse(accept["call_id"].as_str().unwrap()).unwrap()
}

fn success() -> Reply {
    Reply::json(200, &fixture("graph-success-response.json"))
}

fn error_reply(status: u16, code: i64) -> Reply {
    Reply::json(status, &json!({ "error": { "code": code, "type": "OAuthException" } }))
}

fn refused(failure: GraphFailure) -> MetaError {
    match failure.kind {
        FailureKind::Refused(error) => error,
        other => panic!("refused, not {other:?}"),
    }
}

fn fixture(name: &str) -> Value {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/whatsapp");
    serde_json::from_slice(&std::fs::read(format!("{folder}/{name}")).unwrap()).unwrap()
}
