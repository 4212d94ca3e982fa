//! Deliveries to a real HTTP receiver on loopback, which answers well, badly, late or not at all.

mod receiver;

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::store::tests::{Folder, event, letters};
use crate::store::{EventRecord, FORWARD, Forward, Replay, StoreOptions};
use receiver::{Answer, Received, Receiver};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const NEW_SECRET: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(180);

#[tokio::test]
async fn an_event_comes_signed_and_byte_for_byte_as_it_was_stored() {
    let mut receiver = Receiver::start(|_| Answer::Status(204)).await;
    let mut webhook = webhook("app", &receiver.url);
    webhook.secrets.push(SigningSecret::parse(NEW_SECRET).unwrap());
    let folder = Folder::new();
    let service = Service::start(&folder, vec![webhook]);
    let sent = event("call_1", 1, "call.ended");
    service.store.event(sent.clone()).unwrap();
    let received = receiver.next().await;
    assert_eq!(received.body, sent.body[..]);
    assert_eq!(received.header("webhook-id"), sent.id);
    assert_eq!(received.header("content-type"), "application/json");
    let timestamp = received.header("webhook-timestamp");
    assert!(timestamp.parse::<i64>().unwrap().abs_diff(crate::store::now_ms() / 1000) <= 60);
    let mut signed = format!("{}.{timestamp}.", sent.id).into_bytes();
    signed.extend_from_slice(&received.body);
    // A receiver that knows one of the secrets finds one valid signature.
    let signatures: Vec<&str> = received.header("webhook-signature").split(' ').collect();
    let right: Vec<String> = [SECRET, NEW_SECRET].map(|secret| independent_signature(secret, &signed)).into();
    assert_eq!(signatures, right);
    service.all_settled("app").await;
    service.stop().await;
}

#[tokio::test]
async fn a_forwarded_webhook_keeps_metas_signature() {
    let mut receiver = Receiver::start(|_| Answer::Status(200)).await;
    let webhook =
        Webhook { secrets: Vec::new(), kinds: Kinds::Only(vec![FORWARD.to_owned()]), ..webhook("app", &receiver.url) };
    let folder = Folder::new();
    let service = Service::start(&folder, vec![webhook]);
    service.store.event(event("call_1", 1, "call.ended")).unwrap();
    let headers = [("x-hub-signature-256", "sha256=00"), ("content-type", "text/x"), ("Host", "evil"), ("a b", "c")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let forward = Forward { id: "fwd_1".to_owned(), headers, body: b"raw".as_slice().into() };
    service.store.forward(forward, LONG).await.unwrap();
    let received = receiver.next().await;
    assert_eq!(received.body, b"raw");
    assert_eq!(received.header("x-hub-signature-256"), "sha256=00");
    assert_eq!(received.header("content-type"), "text/x");
    assert!(received.header("host").starts_with("127.0.0.1"));
    assert!(!received.headers.contains_key("webhook-signature"));
    service.all_settled("app").await;
    service.stop().await;
}

#[tokio::test]
async fn each_call_keeps_its_order_however_often_the_receiver_fails() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let chance = Mutex::new(StdRng::seed_from_u64(seed));
    let mut receiver = Receiver::start(move |_| match chance.lock().unwrap().random_range(0..10) {
        0 => Answer::Status(500),
        1 => Answer::Status(429),
        2 => Answer::Status(302),
        _ => Answer::Status(200),
    })
    .await;
    let folder = Folder::new();
    let service = Service::start(&folder, vec![webhook("app", &receiver.url)]);
    for sequence in 1..=10 {
        for call in 1..=40 {
            service.store.event(event(&format!("call_{call}"), sequence, "call.dtmf")).unwrap();
        }
    }
    service.all_settled("app").await;
    let mut expected: HashMap<String, u64> = HashMap::new();
    for received in receiver.all() {
        let next = expected.entry(received.call_id()).or_insert(1);
        assert_eq!(received.sequence(), *next, "{}", received.call_id());
        *next += u64::from(received.is_acknowledged);
    }
    assert!(expected.len() == 40 && expected.values().all(|next| *next == 11));
    service.stop().await;
}

#[tokio::test]
async fn ten_thousand_events_wait_for_a_receiver_that_is_down_and_come_once_each() {
    let mut receiver = Receiver::bind(|_| Answer::Status(200)).await;
    let folder = Folder::new();
    let service = Service::start(&folder, vec![webhook("app", &receiver.url)]);
    for number in 0..10_000 {
        let event = event(&format!("call_{}", number % 500), 1 + number / 500, "call.dtmf");
        // More at once than may wait for the disk.
        if number % 5000 == 0 {
            service.store.flush().await.unwrap();
        }
        service.store.event(event).unwrap();
    }
    service.store.flush().await.unwrap();
    assert_eq!(service.store.pending("app").await, Ok(10_000));
    receiver.listen();
    let mut last: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..10_000 {
        let event = receiver.next().await;
        let last = last.entry(event.call_id()).or_default();
        assert_eq!(event.sequence(), *last + 1);
        *last += 1;
    }
    service.all_settled("app").await;
    assert_eq!(receiver.all().len(), 0, "none comes twice");
    assert_eq!(service.store.dead_letters(letters(1)).await.unwrap(), []);
    service.stop().await;
}

#[tokio::test]
async fn a_receiver_that_hangs_is_left_after_the_timeout_and_asked_again() {
    let mut receiver = Receiver::start(|count| if count < 2 { Answer::Hang } else { Answer::Status(200) }).await;
    let folder = Folder::new();
    let mut options = quick(vec![webhook("app", &receiver.url)]);
    options.attempt_timeout = Duration::from_millis(50);
    let service = Service::start_with(&folder, options);
    service.store.event(event("call_1", 1, "call.ended")).unwrap();
    service.all_settled("app").await;
    assert_eq!(receiver.all().len(), 3);
    service.stop().await;
}

#[tokio::test]
async fn a_slow_endpoint_makes_no_other_wait_and_a_stop_does_not_wait_for_it() {
    let mut good = Receiver::start(|_| Answer::Status(200)).await;
    let mut stuck = Receiver::start(|_| Answer::Hang).await;
    let folder = Folder::new();
    let service = Service::start(&folder, vec![webhook("stuck", &stuck.url), webhook("good", &good.url)]);
    for call in 1..=100 {
        service.store.event(event(&format!("call_{call}"), 1, "call.ended")).unwrap();
    }
    service.all_settled("good").await;
    assert_eq!(good.all().len(), 100);
    // As many as are allowed in flight, and no more.
    for _ in 0..32 {
        stuck.next().await;
    }
    assert_eq!(service.store.pending("stuck").await, Ok(100));
    service.events.stop(Duration::ZERO).await;
    assert_eq!(stuck.all().len(), 0);
    service.store.close().await;
}

#[tokio::test]
async fn what_was_sent_and_not_acknowledged_comes_again_after_a_restart() {
    let mut receiver = Receiver::start(|count| if count == 0 { Answer::Hang } else { Answer::Status(200) }).await;
    let folder = Folder::new();
    let service = Service::start(&folder, vec![webhook("app", &receiver.url)]);
    service.store.event(event("call_1", 1, "call.began")).unwrap();
    service.store.event(event("call_1", 2, "call.ended")).unwrap();
    let first = receiver.next().await;
    service.events.stop(Duration::ZERO).await;
    service.store.close().await;
    drop(service.store);

    let service = Service::start(&folder, vec![webhook("app", &receiver.url)]);
    let again = receiver.next().await;
    assert_eq!((again.body.clone(), again.header("webhook-id")), (first.body.clone(), first.header("webhook-id")));
    assert_eq!(receiver.next().await.sequence(), 2);
    service.all_settled("app").await;
    service.stop().await;
}

#[tokio::test]
async fn after_too_long_an_event_is_a_dead_letter_and_can_be_replayed() {
    let mut receiver = Receiver::start(|count| if count < 2 { Answer::Status(410) } else { Answer::Status(200) }).await;
    let folder = Folder::new();
    let mut options = quick(vec![webhook("app", &receiver.url)]);
    options.give_up_after = Duration::ZERO;
    let service = Service::start_with(&folder, options);
    service.store.event(event("call_1", 1, "call.began")).unwrap();
    service.store.event(event("call_1", 2, "call.ended")).unwrap();
    service.store.event(event("call_1", 3, "call.late")).unwrap();
    service.all_settled("app").await;
    let dead = service.store.dead_letters(letters(10)).await.unwrap();
    assert_eq!(dead.iter().map(|letter| letter.kind.as_str()).collect::<Vec<_>>(), ["call.began", "call.ended"]);
    assert!(dead.iter().all(|letter| letter.attempts == 1 && letter.error.contains("HTTP 410")));
    assert_eq!(service.store.replay(Replay::default()).await, Ok(2));
    service.all_settled("app").await;
    let sequences: Vec<u64> = receiver.all().iter().map(Received::sequence).collect();
    assert_eq!(sequences, [1, 2, 3, 1, 2]);
    assert_eq!(service.store.dead_letters(letters(10)).await.unwrap(), []);
    service.stop().await;
}

#[tokio::test]
async fn behind_an_endpoint_that_is_down_old_events_die_without_a_request_each() {
    let mut receiver = Receiver::start(|_| Answer::Status(503)).await;
    let folder = Folder::new();
    let mut options = quick(vec![webhook("app", &receiver.url)]);
    options.give_up_after = Duration::ZERO;
    options.parallel = 4;
    let service = Service::start_with(&folder, options);
    for call in 0..1000 {
        service.store.event(event(&format!("call_{call}"), 1, "call.ended")).unwrap();
    }
    service.all_settled("app").await;
    assert_eq!(service.store.dead_letters(letters(2000)).await.unwrap().len(), 1000);
    let requests = receiver.all().len();
    assert!(requests < 100, "{requests}");
    service.stop().await;
}

#[tokio::test]
async fn retry_after_is_believed_up_to_the_longest_wait() {
    let mut receiver = Receiver::start(|count| match count {
        0 => Answer::StatusAfter(503, 1_000_000),
        1 => Answer::StatusAfter(429, 0),
        _ => Answer::Status(200),
    })
    .await;
    let folder = Folder::new();
    let mut options = quick(vec![webhook("app", &receiver.url)]);
    options.longest_backoff = Duration::from_millis(100);
    let service = Service::start_with(&folder, options);
    service.store.event(event("call_1", 1, "call.ended")).unwrap();
    service.all_settled("app").await;
    let received = receiver.all();
    assert_eq!(received.len(), 3);
    let waited = received[1].at.duration_since(received[0].at);
    assert!(waited >= Duration::from_millis(99), "{waited:?}");
    service.stop().await;
}

const HOUR_MS: i64 = 3_600_000;

/// The first attempt is refused, and while the event waits for the second the clock is set back.
#[tokio::test]
async fn a_clock_that_is_set_back_makes_no_event_wait_for_the_jump() {
    let mut receiver = Receiver::start(|count| Answer::Status(if count < 3 { 500 } else { 200 })).await;
    let folder = Folder::new();
    let service = Service::start(&folder, vec![webhook("app", &receiver.url)]);
    service.store.event(event("call_1", 1, "call.ended")).unwrap();
    receiver.next().await;
    service.store.set_clock_by(-HOUR_MS);
    // An event after the jump does not wait either.
    service.store.event(event("call_2", 1, "call.ended")).unwrap();
    service.all_settled("app").await;
    service.stop().await;
}

/// A delivery that the previous process scheduled by a clock an hour fast does not wait for an hour.
#[tokio::test]
async fn what_waits_from_before_a_clock_was_set_back_is_delivered_after_the_start() {
    let mut receiver = Receiver::start(|_| Answer::Status(200)).await;
    let folder = Folder::new();
    let endpoints = vec![webhook("app", &receiver.url).endpoint()];
    let store = Store::open(StoreOptions { endpoints, ..folder.options() }).unwrap();
    store.set_clock_by(HOUR_MS);
    store.event(event("call_1", 1, "call.incoming")).unwrap();
    store.event(event("call_1", 2, "call.ended")).unwrap();
    store.close().await;
    drop(store);

    let service = Service::start(&folder, vec![webhook("app", &receiver.url)]);
    assert_eq!([receiver.next().await.sequence(), receiver.next().await.sequence()], [1, 2]);
    service.all_settled("app").await;
    service.stop().await;
}

struct Service {
    store: Store,
    events: Events,
}

impl Service {
    fn start(folder: &Folder, webhooks: Vec<Webhook>) -> Self {
        Self::start_with(folder, quick(webhooks))
    }

    fn start_with(folder: &Folder, options: EventsOptions) -> Self {
        // In a second service of the process the provider is installed already.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let endpoints = options.webhooks.iter().map(Webhook::endpoint).collect();
        let store = Store::open(StoreOptions { endpoints, ..folder.options() }).unwrap();
        let http = client_settings(reqwest::Client::builder()).no_proxy().build().unwrap();
        let events = Events::start(&store, options, &http);
        Self { store, events }
    }

    /// Returns once nothing waits for the endpoint.
    async fn all_settled(&self, endpoint: &str) {
        let settled = async {
            self.store.flush().await.unwrap();
            while self.store.pending(endpoint).await.unwrap() > 0 {
                // Each round waits for the writing thread, so it does not spin.
                self.store.flush().await.unwrap();
            }
        };
        tokio::time::timeout(LONG, settled).await.expect("everything is settled in time");
    }

    async fn stop(self) {
        self.events.stop(LONG).await;
        self.store.close().await;
    }
}

/// Waits of milliseconds instead of hours.
fn quick(webhooks: Vec<Webhook>) -> EventsOptions {
    EventsOptions {
        first_backoff: Duration::from_millis(1),
        longest_backoff: Duration::from_millis(5),
        longest_probe: Duration::from_millis(5),
        jitter_seed: 7,
        ..EventsOptions::new(webhooks)
    }
}

fn webhook(name: &str, url: &Url) -> Webhook {
    let secrets = vec![SigningSecret::parse(SECRET).unwrap()];
    Webhook { name: name.to_owned(), url: url.clone(), secrets, kinds: Kinds::Events, format: Format::Events }
}

/// An independent HMAC implementation.
fn independent_signature(secret: &str, signed: &[u8]) -> String {
    let key = STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &key);
    format!("v1,{}", STANDARD.encode(aws_lc_rs::hmac::sign(&key, signed)))
}

#[test]
fn an_events_bytes_are_made_once() {
    use crate::call::event::{CallEvent, CallId};
    let event = CallEvent::new(
        CallId::generate(),
        3,
        "call.ended",
        None,
        serde_json::json!({ "reason": "x" }),
        std::time::SystemTime::now(),
    );
    let record = EventRecord::of(&event);
    assert_eq!(record.body[..], serde_json::to_vec(&event).unwrap()[..]);
    assert_eq!((record.id, record.sequence, record.kind.as_str()), (event.id, 3, "call.ended"));
}
