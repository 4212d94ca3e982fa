//! Calls of the business to the phone page without a browser, and to people of `POST /callees`.

use reqwest::Method;

use super::page::{Events, Simulator, offer, place_of, short};
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);
const NUMBER: &str = "12025550143";

impl Simulator {
    /// A page that may be called.
    async fn open_phone(&self, query: &str) -> anyhow::Result<Events> {
        let response = self.get(&format!("/api/phone?{query}")).await?;
        assert_eq!(response.status(), 200);
        Ok(Events { response, unread: String::new() })
    }

    async fn events_of(&self, id: &str) -> anyhow::Result<Events> {
        let response = self.get(&format!("/api/calls/{id}/events")).await?;
        Ok(Events { response, unread: String::new() })
    }

    /// Graph's `connect` with this offer: its status, and Meta's id of the call.
    async fn connect(&self, to: &str, offer: &str) -> anyhow::Result<(u16, Value)> {
        let account = self.simulation.meta.options();
        let url = format!("{}/v26.0/{}/calls", self.simulation.meta.graph_url(), account.phone_number_id);
        let session = json!({ "sdp_type": "offer", "sdp": offer });
        let body = json!({ "messaging_product": "whatsapp", "action": "connect", "to": to, "session": session });
        let request = self.http.post(url).bearer_auth(&account.access_token).body(body.to_string());
        let response = request.send().await?;
        Ok((response.status().as_u16(), serde_json::from_str(&response.text().await?)?))
    }

    /// The service of this process places a call.
    async fn place(&self, more: Value) -> anyhow::Result<Value> {
        let app = self.service.app.as_ref().unwrap();
        let mut body = json!({ "to": NUMBER });
        body.as_object_mut().unwrap().extend(more.as_object().cloned().unwrap_or_default());
        let request = self.http.post(format!("http://{}/v1/calls", app.address)).bearer_auth(&self.service.key);
        let response = request.body(body.to_string()).send().await?;
        assert_eq!(response.status(), 201);
        Ok(serde_json::from_str(&response.text().await?)?)
    }

    /// The first report of the person's calls.
    async fn report(&self) -> anyhow::Result<Value> {
        let waiting = async {
            loop {
                let shown: Value = serde_json::from_str(&self.get(&format!("/callees/{NUMBER}")).await?.text().await?)?;
                if let Some(report) = shown["calls"].get(0) {
                    return anyhow::Ok(report.clone());
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await?
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_rings_at_the_page_which_takes_it_and_hangs_up() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    assert_eq!(simulator.connect(NUMBER, &offer()).await?.1["error"]["code"], 138_006, "nobody is there");
    let mut phone = simulator.open_phone("number=12025550143&relay=active").await?;
    assert_eq!(simulator.connect("12025550177", &offer()).await?.0, 401, "somebody else has not permitted it");
    let (status, reply) = simulator.connect(NUMBER, &offer()).await?;
    assert_eq!(status, 200, "{reply}");
    assert_eq!(simulator.connect(NUMBER, &offer()).await?.1["error"]["code"], 138_003, "one call at a time");
    let rung = phone.until("ring", |_| true).await?;
    let ring = &rung[0].1;
    assert_eq!(ring["from"], "447700900199");
    assert!(ring["sdp"].as_str().unwrap().contains("a=setup:passive"), "the relay is to be active: {ring}");
    let id = ring["call"].as_str().unwrap();
    let mut events = simulator.events_of(id).await?;
    assert_eq!(simulator.post(&format!("/api/calls/{id}/pick_up"), "").await?.0, 409, "the page has not answered");
    let answer = json!({ "sdp": offer().replace("actpass", "active") }).to_string();
    assert_eq!(simulator.post(&format!("/api/calls/{id}/answer"), answer.clone()).await?.0, 204);
    assert_eq!(simulator.post(&format!("/api/calls/{id}/answer"), answer).await?.0, 409);
    let mut all = events.until("webhook", |webhook| webhook["event"] == "RINGING").await?;
    assert_eq!(simulator.post(&format!("/api/calls/{id}/pick_up"), "").await?.0, 204);
    assert_eq!(simulator.post(&format!("/api/calls/{id}/decline"), "").await?.0, 409);
    all.extend(events.until("webhook", |webhook| webhook["event"] == "ACCEPTED").await?);
    assert_eq!(simulator.post(&format!("/api/calls/{id}/hang_up"), "").await?.0, 204);
    all.extend(events.rest().await?);
    let words = short(&all);
    let order = ["connect 200", "RINGING 200", "stage accepted", "ACCEPTED 200", "ended by caller", "terminate 200"];
    let places: Vec<usize> = order.iter().map(|word| words.iter().rposition(|found| found == word).unwrap()).collect();
    assert!(places.is_sorted(), "{words:?}");
    let graph = &all[all.iter().position(|(kind, _)| kind == "graph").unwrap()].1;
    assert_eq!((&graph["action"], &graph["status"]), (&json!("connect"), &json!(200)));
    let webhook = &all[all.iter().position(|(kind, _)| kind == "webhook").unwrap()].1;
    let call = &webhook["body"]["entry"][0]["changes"][0]["value"]["calls"][0];
    assert_eq!((&call["direction"], &call["session"]["sdp_type"]), (&json!("BUSINESS_INITIATED"), &json!("answer")));
    assert_eq!(call["id"], reply["calls"][0]["id"]);
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_declines_and_a_page_that_goes_is_not_called_any_more() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    let mut phone = simulator.open_phone("number=12025550143").await?;
    assert_eq!(simulator.connect(NUMBER, &offer()).await?.0, 200);
    let rung = phone.until("ring", |_| true).await?;
    let id = rung[0].1["call"].as_str().unwrap();
    let mut events = simulator.events_of(id).await?;
    assert_eq!(simulator.post(&format!("/api/calls/{id}/decline"), "").await?.0, 204);
    assert_eq!(simulator.post(&format!("/api/calls/{id}/decline"), "").await?.0, 409);
    let words = short(&events.rest().await?);
    assert!(place_of("ended by declined", &words) < place_of("REJECTED 200", &words), "{words:?}");
    assert!(place_of("REJECTED 200", &words) < place_of("terminate 200", &words), "{words:?}");

    drop(phone);
    let gone = async {
        while simulator.connect(NUMBER, &offer()).await?.0 == 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        anyhow::Ok(())
    };
    tokio::time::timeout(PATIENCE, gone).await??;
    for (query, sentence) in [("number=abc", "from: "), ("relay=sideways", ""), ("color=red", "")] {
        let response = simulator.get(&format!("/api/phone?{query}")).await?;
        assert_eq!(response.status(), 400, "{query}");
        assert!(response.text().await?.contains(sentence), "{query}");
    }
    let (status, problem) = simulator.post(&format!("/api/calls/{id}/answer"), r#"{"sdp": "hello"}"#).await?;
    assert_eq!((status, &problem["code"]), (400, &json!("invalid_call")), "{problem}");
    simulator.service.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn people_pick_up_decline_or_let_it_ring() -> anyhow::Result<()> {
    let simulator = Simulator::start().await?;
    for (order, ended_by, is_accepted) in [
        (json!({ "after_seconds": 0.2, "seconds": 1, "digits": "5" }), "caller", true),
        (json!({ "after_seconds": 0.2, "seconds": 1, "relay": "active" }), "caller", true),
        (json!({ "does": "declines", "after_seconds": 0 }), "declined", false),
        (json!({ "does": "lets_it_ring" }), "terminated", false),
    ] {
        let (status, reply) = simulator.post("/callees", order.to_string()).await?;
        assert_eq!((status, &reply["number"]), (201, &json!(NUMBER)), "{reply}");
        simulator.place(json!({ "ring_timeout": "5s" })).await?;
        let report = simulator.report().await?;
        assert_eq!(report["ended_by"], ended_by, "{order}: {report}");
        assert_eq!(report["stages_ms"]["accepted"].is_u64(), is_accepted, "{order}: {report}");
        assert_eq!(report["stages_ms"]["first_sound"].is_u64(), is_accepted, "{order}: {report}");
    }
    let remove = || simulator.http.request(Method::DELETE, format!("{}/callees/{NUMBER}", simulator.address)).send();
    assert_eq!(remove().await?.status(), 204);
    assert_eq!(remove().await?.status(), 404);
    assert_eq!(simulator.connect(NUMBER, &offer()).await?.0, 401);
    for (body, sentence) in [
        (r#"{"number": "+1"}"#, "number: "),
        (r#"{"does": "flies"}"#, "unknown variant"),
        (r#"{"after_seconds": 181}"#, "after_seconds: "),
        (r#"{"after_seconds": -1}"#, "after_seconds: "),
        (r#"{"seconds": 0}"#, "seconds: "),
        (r#"{"digits": "x"}"#, "digits: "),
        (r#"{"speech": "/nowhere.wav"}"#, "speech: "),
        (r#"{"from": "12025550143"}"#, "unknown field"),
    ] {
        let response = simulator.http.post(format!("{}/callees", simulator.address)).body(body).send().await?;
        assert_eq!(response.status(), 400, "{body}");
        let said = response.text().await?;
        assert!(said.contains(sentence), "{body}: {said}");
    }
    simulator.service.stop().await;
    Ok(())
}
