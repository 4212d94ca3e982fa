//! The simulator against a small answerer of its own stack: proves that a good service passes and a bad one
//! is noticed.

#![allow(clippy::disallowed_methods, reason = "a test begins at some moment")]
#![expect(clippy::unwrap_used, reason = "in a test every failure is a failure of the test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use hmac::{Hmac, Mac};
use patchcord_simulator::{
    Announce, CallerOptions, Conditions, EndedBy, LoadOptions, Meta, MetaOptions, NetworkOptions, Objection, Reply,
    Speech, Stage, sound,
};
use serde_json::{Value, json};
use sha2::Sha256;
use str0m::change::SdpOffer;
use str0m::media::Mid;
use str0m::net::{Protocol, Receive};
use str0m::rtp::{RtpWrite, Ssrc};
use str0m::{Candidate, Event, Input, Output, Rtc};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{mpsc, watch};

#[tokio::test]
async fn a_good_answerer_hears_and_is_heard_without_objection() {
    let (meta, mut webhooks) = meta().await;
    let caller = CallerOptions { speech: Speech::caller(), ..CallerOptions::default() };
    let call = meta.place_call(caller).await.unwrap();
    let answerer = Answerer::answer(&meta, &webhooks.next().await, Manner::default()).await;
    assert_eq!(answerer.post("pre_accept").await.0, 200);
    let media_up = call.wait_until(Stage::MediaUp).await.unwrap();
    assert_eq!(answerer.post("accept").await.0, 200);
    let accepted = call.wait_until(Stage::Accepted).await.unwrap();
    assert!(media_up <= accepted);
    call.wait_until(Stage::FirstSound).await.unwrap();
    call.send_dtmf("42#").await;
    let heard = call.hear_for(Duration::from_secs(4)).await.unwrap();
    let found = sound::find(&sound::agent_clip(), &heard);
    assert!(found.similarity > 0.8, "{found:?}, {}", call.seen());
    assert!(sound::beginning_is_whole(&sound::agent_clip(), &heard));
    assert_eq!(call.hang_up().await.unwrap(), 200);
    let terminate = webhooks.next().await;
    assert_eq!(terminate["event"], "terminate");
    assert_eq!(terminate["status"], "COMPLETED");
    assert!(terminate["start_time"].is_string());
    assert_eq!(call.objections(), []);
    let heard = answerer.heard();
    assert!(heard.packets > 150, "the answerer heard {} packets", heard.packets);
    assert_eq!(heard.digits, "42#");
}

#[tokio::test]
async fn sound_before_accept_gaps_and_second_sources_are_noticed() {
    let (meta, mut webhooks) = meta().await;
    let call = meta.place_call(CallerOptions::default()).await.unwrap();
    let manner = Manner { too_early: true, skip_one_at: Some(20), second_ssrc_at: Some(40), ..Manner::default() };
    let mut answerer = Answerer::answer(&meta, &webhooks.next().await, manner).await;
    answerer.post("pre_accept").await;
    call.wait_until(Stage::MediaUp).await.unwrap();
    answerer.wait_for_sent(10).await;
    answerer.post("accept").await;
    call.hear_for(Duration::from_secs(1)).await.unwrap();
    let objections = call.objections();
    assert_eq!(objections[0], Objection::RtpBeforeAccept);
    assert!(objections.iter().any(|objection| matches!(objection, Objection::SequenceGap { .. })), "{objections:?}");
    assert!(objections.iter().any(|objection| matches!(objection, Objection::SecondSsrc { .. })), "{objections:?}");
}

#[tokio::test]
async fn a_phone_that_hears_nothing_hangs_up_with_138021() {
    let (meta, mut webhooks) = meta().await;
    let caller = CallerOptions { patience: Duration::from_millis(300), ..CallerOptions::default() };
    let call = meta.place_call(caller).await.unwrap();
    let answerer = Answerer::answer(&meta, &webhooks.next().await, Manner { mute: true, ..Manner::default() }).await;
    answerer.post("accept").await;
    let terminate = webhooks.next().await;
    assert_eq!(terminate["status"], "FAILED");
    assert_eq!(terminate["errors"][0]["code"], 138_021);
    assert_eq!(call.ended_by(), Some(EndedBy::HeardNothing));
}

#[tokio::test]
async fn meta_refuses_what_it_should_and_says_why() {
    let (meta, mut webhooks) = meta().await;
    let call = meta.place_call(CallerOptions::default()).await.unwrap();
    let mut answerer = Answerer::answer(&meta, &webhooks.next().await, Manner::default()).await;
    let good = answerer.answer.clone();
    answerer.answer = good.replace("sha-256", "sha-512");
    let (status, body) = answerer.post("pre_accept").await;
    assert_eq!((status, &body["error"]["error_subcode"]), (400, &json!(2_494_010)));
    answerer.answer = good.clone();
    assert_eq!(answerer.post("pre_accept").await.0, 200);
    answerer.answer = good.replace("\r\ns=", "\r\ns=x");
    assert_eq!(answerer.post("accept").await.0, 400);
    answerer.answer = good;
    assert_eq!(answerer.post("accept").await.0, 200);
    assert_eq!(answerer.post("accept").await.0, 400);
    assert_eq!(answerer.post("terminate").await.0, 200);
    assert_eq!(webhooks.next().await["status"], "COMPLETED");
    assert_eq!(answerer.post("terminate").await.0, 400);
    let objections = call.objections();
    for expected in [Objection::AnswerChanged, Objection::AcceptedTwice, Objection::TerminateAfterEnd] {
        assert!(objections.contains(&expected), "{objections:?}");
    }
    assert_eq!(call.ended_by(), Some(EndedBy::Terminated));
}

#[tokio::test]
async fn scripted_faults_come_once_each_and_in_order() {
    let (meta, mut webhooks) = meta().await;
    let call = meta.place_call(CallerOptions::default()).await.unwrap();
    let answerer = Answerer::answer(&meta, &webhooks.next().await, Manner::default()).await;
    let done_but =
        vec![Reply::Reset, Reply::server_error(), Reply::RetryAfter(Duration::from_secs(3)), Reply::DoneButNoReply];
    meta.script("pre_accept", done_but);
    assert!(answerer.try_post("pre_accept").await.is_err());
    assert_eq!(answerer.post("pre_accept").await.0, 500);
    assert_eq!(answerer.post("pre_accept").await.0, 429);
    assert!(call.stages().is_empty());
    assert!(answerer.try_post("pre_accept").await.is_err());
    call.wait_until(Stage::PreAccepted).await.unwrap();
    assert_eq!(answerer.post("pre_accept").await.0, 200);
    let statuses: Vec<u16> = meta.requests().iter().map(|request| request.status).collect();
    assert_eq!(statuses, [0, 500, 429, 0, 200]);
}

#[tokio::test]
async fn a_bad_network_still_carries_a_call() {
    let (meta, mut webhooks) = meta().await;
    let network = NetworkOptions::both_ways(Conditions {
        loss: 0.05,
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(20),
        drop_first_dtls: 1,
        ..Conditions::default()
    });
    let caller = CallerOptions { network, seed: Some(7), ..CallerOptions::default() };
    let call = meta.place_call(caller).await.unwrap();
    let answerer = Answerer::answer(&meta, &webhooks.next().await, Manner::default()).await;
    answerer.post("accept").await;
    let heard = call.hear_for(Duration::from_secs(4)).await.unwrap();
    assert!(sound::similarity(&sound::agent_clip(), &heard) > 0.7, "{}", call.seen());
    // Losses of the network are not the service's fault.
    assert_eq!(call.objections(), []);
    assert!(call.counts().await.lost > 0);
    call.set_network(NetworkOptions::cut()).await;
}

#[tokio::test]
async fn a_passive_answer_connects_under_protest() {
    let (meta, mut webhooks) = meta().await;
    let call = meta.place_call(CallerOptions { talk_before_accept: true, ..CallerOptions::default() }).await.unwrap();
    let manner = Manner { passive: true, ..Manner::default() };
    let mut answerer = Answerer::answer(&meta, &webhooks.next().await, manner).await;
    answerer.post("pre_accept").await;
    call.wait_until(Stage::MediaUp).await.unwrap();
    assert_eq!(call.objections(), [Objection::AnswerNotActive]);
    let heard = answerer.heard.wait_for(|heard| heard.packets >= 5);
    tokio::time::timeout(Duration::from_secs(10), heard).await.expect("the phone talks before accept").unwrap();
    drop(call);
    let error = answerer.post("accept").await;
    assert_eq!(error.0, 400);
}

#[tokio::test]
async fn the_settings_of_the_number_can_be_read_with_its_token() {
    let (meta, _webhooks) = meta().await;
    let url = format!("{}/v26.0/{}/settings", meta.graph_url(), meta.options().phone_number_id);
    let client = client();
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    let settings = client.get(&url).bearer_auth(&meta.options().access_token).send().await.unwrap();
    assert_eq!(settings.json::<Value>().await.unwrap()["calling"]["status"], "ENABLED");
}

#[tokio::test]
async fn a_load_tells_what_its_callers_experienced() {
    let (meta, mut webhooks) = meta().await;
    let meta = Arc::new(meta);
    let (graph, mut answerers) = (meta.clone(), Vec::new());
    tokio::spawn(async move {
        loop {
            let call = webhooks.next().await;
            if call["event"] == "connect" {
                let answerer = Answerer::answer(&graph, &call, Manner { echo: true, ..Manner::default() }).await;
                answerer.post("pre_accept").await;
                answerer.post("accept").await;
                answerers.push(answerer);
            }
        }
    });
    let options = LoadOptions { calls: 10, per_second: 20.0, talk: Duration::from_secs(3), ..LoadOptions::default() };
    let report = patchcord_simulator::load::run(&meta, &options).await.unwrap();
    assert_eq!((report.up, report.still_up), (10, 10), "{report}");
    assert!((1400..1600).contains(&report.received), "{report}");
    assert!(report.echo.count >= 10 && report.echo.median < Duration::from_millis(100), "{report}");
    assert_eq!((report.lost, report.objections.len()), (0, 0), "{report}");
}

#[tokio::test]
async fn a_terminate_may_overtake_its_connect() {
    let (meta, mut webhooks) = meta().await;
    let call = meta.place_call(CallerOptions { announce: Announce::ByHand, ..CallerOptions::default() }).await.unwrap();
    call.hang_up().await.unwrap();
    call.send_connect().await.unwrap();
    assert_eq!(webhooks.next().await["event"], "terminate");
    assert_eq!(webhooks.next().await["event"], "connect");
    assert_eq!(meta.send_unsigned("{}").await.unwrap(), 401);
    assert_eq!(meta.send_with_signature("{}", "sha256=00").await.unwrap(), 401);
}

// What follows is the answerer.

/// Meta, and a webhook receiver that checks signatures as a service does.
async fn meta() -> (Meta, Webhooks) {
    let meta = Meta::start(MetaOptions { app_secret: SECRET.to_owned(), ..MetaOptions::default() }).await.unwrap();
    let (sender, receiver) = mpsc::channel(64);
    let router = Router::new().route("/", post(webhook)).with_state(sender);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    meta.set_webhook_url(format!("http://{}/", listener.local_addr().unwrap()));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (meta, Webhooks(receiver))
}

async fn webhook(State(sender): State<mpsc::Sender<Value>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(&body);
    let expected: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    if headers.get("x-hub-signature-256").is_none_or(|given| given != format!("sha256={expected}").as_str()) {
        return StatusCode::UNAUTHORIZED;
    }
    let body: Value = serde_json::from_slice(&body).unwrap();
    sender.send(body["entry"][0]["changes"][0]["value"]["calls"][0].clone()).await.unwrap();
    StatusCode::OK
}

const SECRET: &str = "a secret of this test";

struct Webhooks(mpsc::Receiver<Value>);

impl Webhooks {
    async fn next(&mut self) -> Value {
        tokio::time::timeout(Duration::from_secs(10), self.0.recv()).await.expect("a webhook within 10 s").unwrap()
    }
}

/// How the answerer sends; by default well.
#[derive(Debug, Clone, Copy, Default)]
struct Manner {
    mute: bool,
    passive: bool,
    echo: bool,
    too_early: bool,
    skip_one_at: Option<u64>,
    second_ssrc_at: Option<u64>,
}

#[derive(Debug, Clone, Default)]
struct Heard {
    sent: u64,
    packets: u64,
    digits: String,
    last_digit: Option<u32>,
}

/// A WebRTC answerer: str0m as full ICE agent and DTLS client.
struct Answerer {
    answer: String,
    wacid: String,
    graph: String,
    client: reqwest::Client,
    accepted: watch::Sender<bool>,
    heard: watch::Receiver<Heard>,
}

impl Answerer {
    async fn answer(meta: &Meta, connect: &Value, manner: Manner) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let mut rtc = str0m::RtcConfig::new().set_rtp_mode(true).clear_codecs().enable_opus(true, false);
        rtc.codec_config().add_config(
            126.into(),
            None,
            str0m::format::Codec::Tele,
            str0m::media::Frequency::FORTY_EIGHT_KHZ,
            None,
            str0m::format::FormatParams::default(),
        );
        let mut rtc = rtc.build(now());
        rtc.add_local_candidate(Candidate::host(address, "udp").unwrap());
        // str0m answers actpass with passive; told that the phone is passive it becomes the client.
        let role = if manner.passive { "setup:actpass" } else { "setup:passive" };
        let offer = connect["session"]["sdp"].as_str().unwrap().replace("setup:actpass", role);
        let answer = rtc.sdp_api().accept_offer(SdpOffer::from_sdp_string(&offer).unwrap()).unwrap();
        let accepted = watch::Sender::new(false);
        let (heard, receiver) = watch::channel(Heard::default());
        tokio::spawn(run(rtc, socket, address, manner, accepted.subscribe(), heard));
        Self {
            answer: answer.to_sdp_string(),
            wacid: connect["id"].as_str().unwrap().to_owned(),
            graph: format!("{}/v26.0/{}/calls", meta.graph_url(), meta.options().phone_number_id),
            client: client(),
            accepted,
            heard: receiver,
        }
    }

    async fn post(&self, action: &str) -> (u16, Value) {
        let reply = self.try_post(action).await.unwrap();
        if action == "accept" && reply.0 == 200 {
            self.accepted.send_replace(true);
        }
        reply
    }

    async fn try_post(&self, action: &str) -> Result<(u16, Value), reqwest::Error> {
        let mut body = json!({ "messaging_product": "whatsapp", "call_id": self.wacid, "action": action });
        if action.ends_with("accept") {
            body["session"] = json!({ "sdp_type": "answer", "sdp": self.answer });
        }
        let request = self.client.post(&self.graph).bearer_auth("simulated-access-token").json(&body);
        let response = request.send().await?;
        let status = response.status().as_u16();
        Ok((status, serde_json::from_str(&response.text().await?).unwrap_or_default()))
    }

    async fn wait_for_sent(&mut self, packets: u64) {
        let sent = self.heard.wait_for(|heard| heard.sent >= packets);
        tokio::time::timeout(Duration::from_secs(10), sent).await.expect("packets sent within 10 s").unwrap();
    }

    fn heard(&self) -> Heard {
        self.heard.borrow().clone()
    }
}

/// Plain HTTP only.
fn client() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder().tls_backend_preconfigured(tls).build().unwrap()
}

async fn run(
    mut rtc: Rtc,
    socket: UdpSocket,
    address: SocketAddr,
    manner: Manner,
    mut accepted: watch::Receiver<bool>,
    heard: watch::Sender<Heard>,
) {
    let mid = Mid::from("audio");
    let other = Ssrc::from(99);
    let mut buffer = [0; 2048];
    let mut connected = false;
    let mut next = None;
    let mut echo = Speech::silence().frame(0);
    loop {
        let deadline = loop {
            match rtc.poll_output() {
                Ok(Output::Transmit(out)) => drop(socket.send_to(&out.contents, out.destination).await),
                Ok(Output::Timeout(at)) => break at,
                Ok(Output::Event(Event::Connected)) => connected = true,
                Ok(Output::Event(Event::RtpPacket(packet))) => heard.send_modify(|heard| {
                    echo = packet.payload.clone();
                    heard.packets += 1;
                    if *packet.header.payload_type == 126 && heard.last_digit != Some(packet.header.timestamp) {
                        heard.last_digit = Some(packet.header.timestamp);
                        heard.digits.push("0123456789*#".chars().nth(packet.payload[0].into()).unwrap());
                    }
                }),
                Ok(Output::Event(_)) => {}
                Err(_) => return,
            }
        };
        let may_talk = connected && !manner.mute && (manner.too_early || *accepted.borrow());
        if may_talk && next.is_none() {
            next = Some(now());
        }
        if next.is_some_and(|at| at <= now()) {
            let index = heard.borrow().sent;
            let skipped = u64::from(manner.skip_one_at.is_some_and(|at| index >= at));
            let mut direct = rtc.direct_api();
            if manner.second_ssrc_at == Some(index) {
                direct.reset_stream_tx(mid, None, other, None);
            }
            let stream = direct.stream_tx_by_mid(mid, None).unwrap();
            let payload = if manner.echo { echo.clone() } else { Speech::agent().frame(index as usize) };
            stream.write_rtp(RtpWrite::new(111.into(), (index + skipped).into(), index as u32 * 960, now(), payload));
            heard.send_modify(|heard| heard.sent += 1);
            next = next.map(|at| at + Duration::from_millis(20));
            rtc.handle_input(Input::Timeout(now())).unwrap();
            continue;
        }
        let wake = next.map_or(deadline, |at| at.min(deadline));
        let input = tokio::select! {
            received = socket.recv_from(&mut buffer) => {
                let (length, source) = received.unwrap();
                match Receive::new(Protocol::Udp, source, address, &buffer[..length]) {
                    Ok(receive) => Input::Receive(now(), receive),
                    Err(_) => continue,
                }
            }
            () = tokio::time::sleep_until(wake.into()) => Input::Timeout(now()),
            changed = accepted.changed() => match changed {
                Ok(()) => Input::Timeout(now()),
                Err(_) => return,
            },
        };
        if rtc.handle_input(input).is_err() {
            return;
        }
    }
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}
