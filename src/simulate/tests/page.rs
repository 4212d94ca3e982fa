//! The phone page without a browser: what is served, what is refused, and the events of a call in their order.

use reqwest::Response;
use reqwest::header::CONTENT_TYPE;

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
/// Meta's own shape; the address is one of this machine where nobody listens.
const OFFER: &str = include_str!("../../../tests/simulator/fixtures/sdp-offer-user-initiated-2026-10.sdp");

pub(super) fn offer() -> String {
    let on_this_machine = |line: &str| !line.starts_with("a=candidate:") || line.contains("203.0.113.50");
    let lines: Vec<&str> = OFFER.lines().filter(|line| on_this_machine(line)).collect();
    lines.join("\r\n").replace("203.0.113.50", "127.0.0.1") + "\r\n"
}

/// A simulator with a service of its own, as the page sees it.
pub(super) struct Simulator {
    pub(super) address: String,
    pub(super) http: reqwest::Client,
    pub(super) simulation: Arc<Simulation>,
    pub(super) service: Service,
    _folder: Folder,
}

impl Simulator {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let folder = Folder::new();
        let meta = Meta::start(MetaOptions::default()).await?;
        let service = Service::start(&meta, &Target::Echo, folder.path()).await?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = format!("http://{}", listener.local_addr()?);
        let simulation = Simulation::new(meta, folder.path().to_owned(), Target::Echo, None);
        tokio::spawn(axum::serve(listener, router(simulation.clone())).into_future());
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { address, http, simulation, service, _folder: folder })
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Response> {
        Ok(self.http.get(format!("{}{path}", self.address)).send().await?)
    }

    pub(super) async fn post(&self, path: &str, body: impl Into<String>) -> anyhow::Result<(u16, Value)> {
        let request = self.http.post(format!("{}{path}", self.address)).header(CONTENT_TYPE, "application/json");
        let response = request.body(body.into()).send().await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_str(&response.text().await?).unwrap_or_default()))
    }

    /// Places a call and opens its events.
    async fn call(&self, faults: &Value) -> anyhow::Result<(String, Events)> {
        let order = json!({ "sdp": offer(), "from": "12025550123", "faults": faults, "seed": 7 });
        let (status, reply) = self.post("/api/calls", order.to_string()).await?;
        assert_eq!((status, &reply["seed"]), (200, &json!(7)), "{reply}");
        let id = reply["call"].as_str().unwrap().to_owned();
        let response = self.get(&format!("/api/calls/{id}/events")).await?;
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        Ok((id, Events { response, unread: String::new() }))
    }

    async fn hang_up(&self, id: &str) -> anyhow::Result<()> {
        assert_eq!(self.post(&format!("/api/calls/{id}/hang_up"), "").await?.0, 204);
        Ok(())
    }
}

/// The events of one call, as they come.
pub(super) struct Events {
    pub(super) response: Response,
    pub(super) unread: String,
}

impl Events {
    /// The next one, or None at the end of the stream.
    async fn next(&mut self) -> anyhow::Result<Option<(String, Value)>> {
        loop {
            while let Some((event, rest)) = self.unread.split_once("\n\n") {
                let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                let found = field("event").zip(field("data")).map(|(kind, data)| (kind.to_owned(), data.to_owned()));
                self.unread = rest.to_owned();
                if let Some((kind, data)) = found {
                    return Ok(Some((kind, serde_json::from_str(&data)?)));
                }
            }
            match tokio::time::timeout(PATIENCE, self.response.chunk()).await?? {
                Some(bytes) => self.unread.push_str(std::str::from_utf8(&bytes)?),
                None => return Ok(None),
            }
        }
    }

    /// Reads until an event of this kind that is so; all in order, this one last.
    pub(super) async fn until(
        &mut self,
        kind: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Vec<(String, Value)>> {
        let mut seen = Vec::new();
        while let Some(event) = self.next().await? {
            let found = event.0 == kind && is_so(&event.1);
            seen.push(event);
            if found {
                return Ok(seen);
            }
        }
        anyhow::bail!("the stream ended before {kind}: {seen:?}")
    }

    /// All that are left.
    pub(super) async fn rest(&mut self) -> anyhow::Result<Vec<(String, Value)>> {
        let mut seen = Vec::new();
        while let Some(event) = self.next().await? {
            seen.push(event);
        }
        Ok(seen)
    }
}

/// One word for each event: the stage, the webhook and its status, the action and its status.
pub(super) fn short(events: &[(String, Value)]) -> Vec<String> {
    let word = |(kind, data): &(String, Value)| match kind.as_str() {
        "stage" => format!("stage {}", data["name"].as_str().unwrap()),
        "webhook" if data["copy"] == true => format!("copy of {} {}", data["event"].as_str().unwrap(), data["status"]),
        "webhook" => format!("{} {}", data["event"].as_str().unwrap(), data["status"]),
        "graph" => format!("{} {}", data["action"].as_str().unwrap(), data["status"]),
        "ended" => format!("ended by {}", data["by"].as_str().unwrap()),
        other => other.to_owned(),
    };
    events.iter().map(word).collect()
}

pub(super) fn place_of(wanted: &str, words: &[String]) -> usize {
    words.iter().position(|word| word == wanted).unwrap_or_else(|| panic!("no {wanted}: {words:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_cannot_be_is_refused_as_a_problem() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    let with = |faults: &str| format!(r#"{{"sdp": "v=0", "faults": {faults}}}"#);
    for (body, sentence) in [
        ("".to_owned(), "the body: "),
        ("{}".to_owned(), "missing field `sdp`"),
        (r#"{"sdp": 5}"#.to_owned(), "the body: "),
        (r#"{"sdp": ""}"#.to_owned(), "sdp: "),
        (r#"{"sdp": "hello"}"#.to_owned(), "sdp: "),
        (json!({ "sdp": format!("v=0{}", " ".repeat(70_000)) }).to_string(), "sdp: "),
        (r#"{"sdp": "v=0", "seconds": 5}"#.to_owned(), "unknown field"),
        (r#"{"sdp": "v=0", "from": "+1"}"#.to_owned(), "from: "),
        (format!(r#"{{"sdp": "v=0", "name": "{}"}}"#, "n".repeat(101)), "name: "),
        (r#"{"sdp": "v=0", "seed": 9007199254740992}"#.to_owned(), "seed: "),
        (r#"{"sdp": "v=0", "seed": -1}"#.to_owned(), "the body: "),
        (with(r#"{"webhooks": "lost"}"#), "unknown variant"),
        (with(r#"{"graph_error": "503"}"#), "unknown variant"),
        (with(r#"{"late_answer_ms": -1}"#), "faults.late_answer_ms: give a number from 0 to 30000"),
        (with(r#"{"late_answer_ms": 30001}"#), "faults.late_answer_ms: "),
        (with(r#"{"loss_percent": 101}"#), "faults.loss_percent: "),
        (with(r#"{"loss_percent": 1e999}"#), "the body: "),
        (with(r#"{"delay_ms": 5001}"#), "faults.delay_ms: "),
        (with(r#"{"speed": 1}"#), "unknown field"),
    ] {
        let (status, problem) = simulator.post("/api/calls", body.clone()).await?;
        assert_eq!((status, &problem["code"]), (400, &json!("invalid_call")), "{body}: {problem}");
        assert!(problem["detail"].as_str().unwrap().contains(sentence), "{body}: {problem}");
    }
    let large = format!(r#"{{"sdp": "v=0{}"}}"#, " ".repeat(200_000));
    assert_eq!(simulator.post("/api/calls", large).await?.0, 413);
    // As a form of another site's page would send it.
    let foreign = simulator.http.post(format!("{}/api/calls", simulator.address)).body(r#"{"sdp": "v=0"}"#);
    assert_eq!(foreign.send().await?.status(), 415);
    for (path, code) in [("/api/calls/nobody/hang_up", "call_not_found"), ("/api/call", "not_found")] {
        let (status, problem) = simulator.post(path, "").await?;
        assert_eq!((status, &problem["code"]), (404, &json!(code)), "{problem}");
    }
    assert_eq!(simulator.get("/api/calls/nobody/events").await?.status(), 404);
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_comes_with_its_policy_and_names_no_other_host() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    let mut bytes = 0;
    for path in crate::simulate::page::FILES.iter().map(|file| file.path) {
        let response = simulator.get(path).await?;
        assert_eq!(response.status(), 200, "{path}");
        let policy = response.headers()["content-security-policy"].to_str()?;
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        let text = response.text().await?.replace("http://www.w3.org/2000/svg", "").replace("http://localhost", "");
        assert!(!text.contains("http://") && !text.contains("https://"), "{path}");
        assert!(!text.contains(" style=") && !text.contains("<script>") && !text.contains(" onclick="), "{path}");
        bytes += text.len();
    }
    assert!(bytes < 100_000, "{bytes} bytes before compression");
    assert_eq!(simulator.get("/phone/../Cargo.toml").await?.status(), 404);
    let about: Value = serde_json::from_str(&simulator.get("/api/simulation").await?.text().await?)?;
    assert_eq!(about, json!({ "agent": "echo", "webhook": null, "number": "447700900199" }));
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_order_and_show_what_was_sent() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    let (id, mut events) = simulator.call(&json!({})).await?;
    let begun = events.until("answer", |_| true).await?;
    let words = short(&begun);
    assert!(place_of("stage pre_accepted", &words) < place_of("answer", &words), "{words:?}");
    let [.., (_, answer)] = &begun[..] else { panic!("no event") };
    assert!(answer["sdp"].as_str().unwrap().starts_with("v=0\r\n"), "{answer}");
    let answer = answer.clone();
    simulator.hang_up(&id).await?;
    let mut all = begun;
    all.extend(events.rest().await?);
    let words = short(&all);
    assert!(place_of("stage ended", &words) < place_of("ended by caller", &words), "{words:?}");
    assert!(place_of("ended by caller", &words) < place_of("terminate 200", &words), "{words:?}");
    let connect = &all[place_of("connect 200", &words)].1;
    let call = &connect["body"]["entry"][0]["changes"][0]["value"]["calls"][0];
    assert_eq!(call["session"]["sdp"], offer(), "{connect}");
    assert_eq!(call["from"], "12025550123", "{connect}");
    let graph = &all[place_of("pre_accept 200", &words)].1;
    assert_eq!(graph["request"]["session"]["sdp"], answer["sdp"], "{graph}");
    assert_eq!(graph["reply"]["success"], true, "{graph}");
    assert_eq!(words.len(), 7, "{words:?}");
    // The events can be read again, and hanging up again does nothing.
    simulator.hang_up(&id).await?;
    let mut again =
        Events { response: simulator.get(&format!("/api/calls/{id}/events")).await?, unread: String::new() };
    assert_eq!(short(&again.rest().await?), words);
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_doubled_and_reordered_on_demand() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    let (id, mut events) = simulator.call(&json!({ "webhooks": "doubled" })).await?;
    events.until("answer", |_| true).await?;
    simulator.hang_up(&id).await?;
    let words = short(&events.rest().await?);
    assert_eq!(words.iter().filter(|word| *word == "copy of terminate 200").count(), 1, "{words:?}");
    let mut again =
        Events { response: simulator.get(&format!("/api/calls/{id}/events")).await?, unread: String::new() };
    let words = short(&again.rest().await?);
    assert_eq!(words.iter().filter(|word| word.ends_with("connect 200")).count(), 2, "{words:?}");
    assert_eq!(words.iter().filter(|word| *word == "pre_accept 200").count(), 1, "{words:?}");

    let (id, mut events) = simulator.call(&json!({ "webhooks": "reordered" })).await?;
    events.until("answer", |_| true).await?;
    simulator.hang_up(&id).await?;
    let words = short(&events.rest().await?);
    assert!(place_of("terminate 200", &words) < place_of("copy of connect 200", &words), "{words:?}");
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn graph_errors_and_late_answers_happen_on_demand() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    let (id, mut events) = simulator.call(&json!({ "graph_error": "pre_accept_500", "late_answer_ms": 300 })).await?;
    let seen = events.until("answer", |_| true).await?;
    let words = short(&seen);
    assert!(place_of("pre_accept 500", &words) < place_of("pre_accept 200", &words), "{words:?}");
    let at = |word: &str, key: &str| seen[place_of(word, &words)].1[key].as_u64().unwrap();
    assert!(at("answer", "at_ms") >= at("stage pre_accepted", "ms") + 300, "{seen:?}");
    let failed = &seen[place_of("pre_accept 500", &words)].1;
    assert!(failed["reply"].as_str().unwrap().contains("something went wrong"), "{failed}");
    simulator.hang_up(&id).await?;
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_and_delay_put_a_relay_between_both_sides() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    let (id, mut events) = simulator.call(&json!({ "loss_percent": 10, "delay_ms": 20 })).await?;
    let seen = events.until("answer", |_| true).await?;
    simulator.hang_up(&id).await?;
    let mut all = seen;
    all.extend(events.rest().await?);
    let words = short(&all);
    let candidates = |sdp: &Value| {
        let lines = sdp.as_str().unwrap().lines().filter(|line| line.starts_with("a=candidate:"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let connect = &all[place_of("connect 200", &words)].1;
    let offered = candidates(&connect["body"]["entry"][0]["changes"][0]["value"]["calls"][0]["session"]["sdp"]);
    let answered = candidates(&all[place_of("answer", &words)].1["sdp"]);
    let told = candidates(&all[place_of("pre_accept 200", &words)].1["request"]["session"]["sdp"]);
    assert_eq!((offered.len(), answered.len()), (1, 1));
    assert!(!offered[0].contains(" 3480 ") && answered[0] != told[0], "{offered:?} {answered:?} {told:?}");
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_that_goes_ends_its_call() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    let (id, mut events) = simulator.call(&json!({})).await?;
    events.until("answer", |_| true).await?;
    drop(events);
    let call = simulator.simulation.browser_calls.find(&id).map_err(|error| anyhow::anyhow!(error.detail))?.call;
    tokio::time::timeout(PATIENCE, call.finished()).await?;
    let mut again =
        Events { response: simulator.get(&format!("/api/calls/{id}/events")).await?, unread: String::new() };
    let words = short(&again.rest().await?);
    place_of("ended by caller", &words);
    place_of("terminate 200", &words);
    // Every seat is free again.
    let _all = tokio::time::timeout(PATIENCE, simulator.simulation.free.acquire_many(CALLS_AT_ONCE as u32)).await??;
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_does_not_take_the_webhook_ends_the_call() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    // Taken and closed again, so that nobody listens there.
    let nobody = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?.local_addr()?;
    simulator.simulation.meta.set_webhook_url(format!("http://{nobody}/webhooks/whatsapp"));
    let (_, mut events) = simulator.call(&json!({})).await?;
    let seen = events.rest().await?;
    assert_eq!(short(&seen), ["connect null", "stage ended", "ended by webhook_failed"]);
    assert!(seen[0].1["error"].as_str().unwrap().contains("post a webhook"), "{seen:?}");
    simulator.service.stop().await;
    Ok(())
}
