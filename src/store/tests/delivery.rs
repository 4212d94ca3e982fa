//! The outbox: one order for all events, one ending for a call, and at each endpoint one event of a call at a time.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use super::*;

async fn with_endpoints(folder: &Folder, endpoints: &[Endpoint]) -> Store {
    Store::open(StoreOptions { endpoints: endpoints.to_vec(), ..folder.options() }).unwrap()
}

async fn due(store: &Store, endpoint: &str) -> Vec<String> {
    store.flush().await.unwrap();
    let (due, _) = store.due(endpoint, now_ms(), 100).await.unwrap();
    due.into_iter().map(|delivery| delivery.id).collect()
}

async fn position(store: &Store, id: &str) -> i64 {
    store.event_position(id).await.unwrap().unwrap()
}

async fn settle(store: &Store, endpoint: &str, id: &str, settlement: Settlement) {
    store.settle(endpoint, position(store, id).await, settlement).await.unwrap();
}

fn dead() -> Settlement {
    Settlement::Dead { error: "HTTP 500".to_owned() }
}

#[tokio::test]
async fn events_have_one_order_and_a_listener_goes_on_where_it_was() {
    let folder = Folder::new();
    let store = open(&folder);
    let mut last = store.last_position();
    for sequence in 1..=3 {
        store.event(event("call_1", sequence, "call.dtmf")).unwrap();
        store.event(event("call_2", sequence, "call.dtmf")).unwrap();
    }
    let forward = Forward { id: "fwd_1".to_owned(), headers: Vec::new(), body: b"{}".as_slice().into() };
    store.forward(forward, LONG).await.unwrap();
    store.flush().await.unwrap();
    last.changed().await.unwrap();
    assert_eq!(*last.borrow_and_update(), 7);
    let after = position(&store, "evt_call_2_1").await;
    let ids: Vec<String> = store.events_after(after, 3).await.unwrap().into_iter().map(|event| event.id).collect();
    assert_eq!(ids, ["evt_call_1_2", "evt_call_2_2", "evt_call_1_3"]);
    assert_eq!(store.events_after(6, 10).await.unwrap(), [], "a forwarded webhook is no event");
    assert_eq!(store.event_position("evt_unknown").await.unwrap(), None);
}

#[tokio::test]
async fn a_call_has_one_ending_and_one_event_of_each_number() {
    let folder = Folder::new();
    let store = with_endpoints(&folder, &[endpoint("a")]).await;
    store.event(event("call_1", 1, "call.ended")).unwrap();
    store.event(event("call_1", 1, "call.ended")).unwrap();
    store.event(EventRecord { id: "evt_other".to_owned(), ..event("call_1", 1, "call.dtmf") }).unwrap();
    store.event(event("call_1", 2, "call.ended")).unwrap();
    store.event(event("call_2", 1, "call.ended")).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.events_after(0, 10).await.unwrap().len(), 2);
    assert_eq!(store.pending("a").await, Ok(2));
}

#[tokio::test]
async fn the_next_event_of_a_call_is_due_when_the_one_before_is_done() {
    let folder = Folder::new();
    let store = with_endpoints(&folder, &[endpoint("a"), endpoint("b")]).await;
    for sequence in 1..=3 {
        store.event(event("call_1", sequence, "call.dtmf")).unwrap();
    }
    store.event(event("call_2", 1, "call.dtmf")).unwrap();
    assert_eq!(due(&store, "a").await, ["evt_call_1_1", "evt_call_2_1"]);
    settle(&store, "a", "evt_call_1_1", Settlement::Delivered).await;
    assert_eq!(due(&store, "a").await, ["evt_call_1_2", "evt_call_2_1"]);
    let later = Settlement::Again { due_at: now_ms() + 3_600_000, error: "HTTP 500".to_owned() };
    settle(&store, "a", "evt_call_1_2", later).await;
    assert_eq!(due(&store, "a").await, ["evt_call_2_1"]);
    let (_, next_due) = store.due("a", now_ms(), 10).await.unwrap();
    assert!(next_due.is_some());
    store.hurry("a", now_ms()).await.unwrap();
    assert_eq!(due(&store, "a").await, ["evt_call_2_1", "evt_call_1_2"]);
    settle(&store, "a", "evt_call_1_2", dead()).await;
    assert_eq!(due(&store, "a").await, ["evt_call_1_3", "evt_call_2_1"]);
    assert_eq!(due(&store, "b").await, ["evt_call_1_1", "evt_call_2_1"], "the other endpoint is on its own");
}

#[tokio::test]
async fn dead_letters_come_back_behind_what_waits_and_one_at_a_time() {
    let folder = Folder::new();
    let store = with_endpoints(&folder, &[endpoint("a")]).await;
    for sequence in 1..=4 {
        store.event(event("call_1", sequence, "call.dtmf")).unwrap();
    }
    for id in ["evt_call_1_1", "evt_call_1_2"] {
        assert_eq!(due(&store, "a").await, [id]);
        settle(&store, "a", id, dead()).await;
    }
    let dead = store.dead_letters(letters(10)).await.unwrap();
    assert_eq!(dead.len(), 2);
    assert_eq!((dead[0].id.as_str(), dead[0].attempts, dead[0].error.as_str()), ("evt_call_1_1", 1, "HTTP 500"));
    assert_eq!(
        store.replay(Replay { events: Some(vec!["evt_call_1_2".to_owned()]), ..Replay::default() }).await,
        Ok(1)
    );
    assert_eq!(store.replay(Replay::default()).await, Ok(1));
    assert_eq!(store.dead_letters(letters(10)).await.unwrap(), []);
    let mut order = Vec::new();
    while let [id] = &due(&store, "a").await[..] {
        order.push(id.clone());
        settle(&store, "a", id, Settlement::Delivered).await;
    }
    assert_eq!(order, ["evt_call_1_3", "evt_call_1_1", "evt_call_1_2", "evt_call_1_4"]);
}

#[tokio::test]
async fn what_waited_too_long_is_given_up_and_what_came_later_goes_on() {
    let folder = Folder::new();
    let store = with_endpoints(&folder, &[endpoint("a")]).await;
    store.event(event("call_1", 1, "call.dtmf")).unwrap();
    store.flush().await.unwrap();
    on_writer(&store, |connection| connection.execute("UPDATE deliveries SET queued_at = 5", []).map(drop)).await;
    store.event(event("call_1", 2, "call.dtmf")).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.give_up("a", 5, "no connection").await, Ok(0));
    assert_eq!(store.give_up("a", 6, "no connection").await, Ok(1));
    assert_eq!(due(&store, "a").await, ["evt_call_1_2"]);
    assert_eq!(store.dead_letters(letters(10)).await.unwrap()[0].error, "no connection");
}

#[tokio::test]
async fn an_endpoint_gets_the_kinds_it_asked_for() {
    let folder = Folder::new();
    let only = |name: &str, kinds: &[&str]| Endpoint {
        name: name.to_owned(),
        kinds: Kinds::Only(kinds.iter().map(|kind| (*kind).to_owned()).collect()),
    };
    let endpoints = [
        endpoint("all"),
        only("end", &["call.ended"]),
        only("keys", &["call.dtmf.*", "call.x"]),
        only("fwd", &[FORWARD]),
    ];
    let store = with_endpoints(&folder, &endpoints).await;
    store.event(event("call_1", 1, "call.dtmf.received")).unwrap();
    store.event(event("call_1", 2, "call.ended")).unwrap();
    let headers = vec![("x-hub-signature-256".to_owned(), "sha256=00".to_owned())];
    let forward = Forward { id: "fwd_1".to_owned(), headers: headers.clone(), body: b"{}".as_slice().into() };
    for _ in 0..2 {
        // Meta repeats itself; the app hears it once.
        store.forward(forward.clone(), LONG).await.unwrap();
    }
    store.flush().await.unwrap();
    let counts = async |name: &str| store.pending(name).await.unwrap();
    assert_eq!((counts("all").await, counts("end").await, counts("keys").await, counts("fwd").await), (2, 1, 1, 1));
    let (forwards, _) = store.due("fwd", now_ms(), 10).await.unwrap();
    assert_eq!((forwards[0].headers.clone(), &forwards[0].body[..]), (headers, &b"{}"[..]));
    assert!(Kinds::Only(vec!["*".to_owned()]).take("call.ended") && !Kinds::Only(vec!["*".to_owned()]).take(FORWARD));
}

#[tokio::test]
async fn what_waits_for_an_endpoint_that_is_gone_dies_and_can_be_replayed() {
    let folder = Folder::new();
    let store = with_endpoints(&folder, &[endpoint("a"), endpoint("b")]).await;
    store.event(event("call_1", 1, "call.dtmf")).unwrap();
    store.event(event("call_1", 2, "call.ended")).unwrap();
    store.close().await;
    drop(store);
    let store = with_endpoints(&folder, &[endpoint("b")]).await;
    let dead = store.dead_letters(letters(10)).await.unwrap();
    assert_eq!(dead.len(), 2);
    let after = Some((dead[0].position, dead[0].endpoint.clone()));
    assert_eq!(store.dead_letters(DeadLetterFilter { after, ..letters(10) }).await.unwrap(), dead[1..]);
    let others = DeadLetterFilter { endpoint: Some("b".to_owned()), ..letters(10) };
    assert_eq!(store.dead_letters(others).await.unwrap(), []);
    assert_eq!(store.replay(Replay::default()).await, Ok(0), "nobody would take it");
    store.close().await;
    drop(store);
    let store = with_endpoints(&folder, &[endpoint("a"), endpoint("b")]).await;
    let elsewhere = Replay { endpoint: Some("b".to_owned()), events: None };
    assert_eq!(store.replay(elsewhere).await, Ok(0));
    assert_eq!(due(&store, "a").await, Vec::<String>::new());
    assert_eq!(store.replay(Replay::default()).await, Ok(2));
    assert_eq!(due(&store, "a").await, ["evt_call_1_1"]);
    assert_eq!(due(&store, "b").await, ["evt_call_1_1"]);
}

/// Whatever happens in whatever order, each call that waits has one event that is next, and none is lost.
#[test]
fn exactly_one_of_each_lane_is_next_after_anything_that_can_happen() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut chance = StdRng::seed_from_u64(seed);
    let folder = Folder::new();
    drop(schema::open(&folder.file()).unwrap());
    let connection = raw(&folder.file());
    connection.pragma_update(None, "synchronous", "off").unwrap();
    let (mut added, mut delivered, mut in_flight) = (0, 0, Vec::new());
    for now in 0..1500 {
        match chance.random_range(0..100) {
            0..40 => {
                added += 1;
                let call = format!("call_{}", chance.random_range(0..8));
                outbox::add_event(&connection, &event(&call, added, "call.dtmf"), &[endpoint("a")], now).unwrap();
            }
            40..60 => {
                in_flight = outbox::due(&connection, "a", i64::MAX, 4).unwrap();
            }
            60..97 => {
                let Some(delivery) = in_flight.choose(&mut chance) else { continue };
                let settlement = match chance.random_range(0..3) {
                    0 => Settlement::Delivered,
                    1 => Settlement::Again { due_at: now + 5, error: String::new() },
                    _ => dead(),
                };
                let before = count(&connection, "deliveries");
                outbox::settle(&connection, "a", delivery.position, &settlement).unwrap();
                delivered += before - count(&connection, "deliveries");
            }
            97 => drop(outbox::give_up(&connection, "a", now - 300, "old", 1000).unwrap()),
            98 => drop(outbox::replay(&connection, &Replay::default(), &[endpoint("a")], now, 100).unwrap()),
            _ => {
                let dead = outbox::dead_letters(&connection, &letters(1)).unwrap();
                let one = Replay { events: Some(dead.into_iter().map(|it| it.id).collect()), ..Replay::default() };
                outbox::replay(&connection, &one, &[endpoint("a")], now, 100).unwrap();
            }
        }
        let lanes = count(&connection, "(SELECT DISTINCT lane FROM deliveries WHERE state < 2)");
        let next = count(&connection, "deliveries WHERE state = 1");
        let lanes_with_next = count(&connection, "(SELECT DISTINCT lane FROM deliveries WHERE state = 1)");
        assert_eq!((next, lanes_with_next), (lanes, lanes), "after {now}");
    }
    assert_eq!(count(&connection, "deliveries") + delivered, added as i64);
}

fn count(connection: &Connection, what: &str) -> i64 {
    connection.query_row(&format!("SELECT count(*) FROM {what}"), [], |row| row.get(0)).unwrap()
}

/// Between two batches others write.
#[tokio::test]
async fn what_is_given_up_is_given_up_in_batches() {
    let folder = Folder::new();
    let store = Store::open(StoreOptions { endpoints: vec![endpoint("a")], ..folder.options() }).unwrap();
    for number in 0..2500 {
        store.event(event(&format!("call_{}", number % 7), number, "call.dtmf")).unwrap();
    }
    store.flush().await.unwrap();
    let (asked, answered) = oneshot::channel();
    on_writer(&store, move |connection| {
        let dead = outbox::give_up(connection, "a", i64::MAX, "old", 10)?;
        asked.send(dead).unwrap();
        Ok(())
    })
    .await;
    assert_eq!(answered.await, Ok(10));
    assert_eq!(store.pending("a").await, Ok(2490));
    assert_eq!(store.give_up("a", i64::MAX, "old").await, Ok(2490));
    assert_eq!(store.pending("a").await, Ok(0));
    assert_eq!(store.replay(Replay::default()).await, Ok(2500));
    let (due, _) = store.due("a", i64::MAX, 100).await.unwrap();
    assert_eq!(due.len(), 7, "one of each call is next");
}
