//! Ledgers of permissions in the file: whose they are, and their events.

use std::sync::mpsc;

use super::*;
use crate::permissions::{Fact, Moment, Person, Rules, Source, Status, What};

const NUMBER: &str = "200000000000002";

fn person(wa_id: Option<&str>, user_id: Option<&str>) -> Person {
    Person { wa_id: wa_id.map(str::to_owned), user_id: user_id.map(str::to_owned) }
}

fn fact(second: u64, id: &str, what: What) -> Fact {
    Fact::new(Moment::of_seconds(second), Some(id.to_owned()), what)
}

fn granted() -> What {
    What::Granted { until: None, source: Source::Reply, answers: None }
}

/// Gives the event that it made.
async fn learn(store: &Store, person: Person, fact: Fact) -> Option<&'static str> {
    let (publish, published) = mpsc::channel();
    let learned =
        PermissionFact { phone_number_id: NUMBER.to_owned(), person, fact, rules: Rules::USUAL, is_for_known: false };
    let publish = move |event: crate::permissions::PermissionEvent| publish.send(event.kind).unwrap();
    store.permission_learned(learned, publish, LONG).confirmed().await.unwrap();
    published.try_recv().ok()
}

async fn status(store: &Store, person: &Person) -> Option<Status> {
    let (_, ledger) = store.permission(NUMBER, person).await.unwrap()?;
    Some(ledger.status(&Rules::USUAL, Moment::of_seconds(1000)))
}

#[tokio::test]
async fn a_permission_survives_and_its_event_is_stored_once() {
    let folder = Folder::new();
    let options = || StoreOptions { endpoints: vec![endpoint("app")], ..folder.options() };
    let store = Store::open(options()).unwrap();
    let ada = person(Some("447700900001"), None);
    let reply = fact(7, "wamid.1", granted());
    assert_eq!(learn(&store, ada.clone(), reply.clone()).await, Some("permission.granted"));
    assert_eq!(learn(&store, ada.clone(), reply).await, None, "the same message");
    store.close().await;

    let store = Store::open(options()).unwrap();
    assert_eq!(status(&store, &ada).await, Some(Status::Permanent));
    assert_eq!(status(&store, &person(Some("447700900002"), None)).await, None);
    assert!(store.permission("7", &ada).await.unwrap().is_none(), "another number's");
    let events = store.events_after(0, 10).await.unwrap();
    assert_eq!(
        events.iter().map(|event| (event.kind.as_str(), &event.call_id)).collect::<Vec<_>>(),
        [("permission.granted", &None)]
    );
    assert_eq!(store.pending("app").await, Ok(1));
}

#[tokio::test]
async fn a_webhook_that_names_both_ids_joins_what_was_learned_of_each() {
    let folder = Folder::new();
    let store = open(&folder);
    let (number, user) = (person(Some("447700900001"), None), person(None, Some("GB.1")));
    learn(&store, number.clone(), fact(1, "wamid.1", What::Requested)).await;
    learn(&store, user.clone(), fact(2, "wamid.2", What::Requested)).await;
    let both = person(Some("447700900001"), Some("GB.1"));
    learn(&store, both.clone(), fact(3, "wamid.3", granted())).await;
    for id in [&number, &user, &both] {
        let (known_as, ledger) = store.permission(NUMBER, id).await.unwrap().unwrap();
        assert_eq!((known_as == both, ledger.facts().len()), (true, 3));
    }
}

#[tokio::test]
async fn a_phone_number_that_has_another_owner_takes_no_permission_along() {
    let folder = Folder::new();
    let store = open(&folder);
    learn(&store, person(Some("447700900001"), Some("GB.1")), fact(1, "wamid.1", granted())).await;
    learn(&store, person(Some("447700900001"), Some("GB.2")), fact(2, "wamid.2", What::Requested)).await;
    assert_eq!(status(&store, &person(None, Some("GB.1"))).await, Some(Status::Permanent));
    assert_eq!(status(&store, &person(Some("447700900001"), None)).await, Some(Status::Unknown));
    // And back.
    learn(&store, person(Some("447700900001"), Some("GB.1")), fact(3, "wamid.3", What::Requested)).await;
    assert_eq!(status(&store, &person(Some("447700900001"), None)).await, Some(Status::Permanent));
    assert_eq!(status(&store, &person(None, Some("GB.2"))).await, Some(Status::Unknown));
}

#[tokio::test]
async fn nothing_is_kept_of_callers_who_were_neither_called_nor_asked() {
    let folder = Folder::new();
    let store = open(&folder);
    let caller = person(Some("447700900001"), None);
    let call = |is_for_known| PermissionFact {
        phone_number_id: NUMBER.to_owned(),
        person: caller.clone(),
        fact: fact(1, "call_1", What::CallAnswered { placed: false }),
        rules: Rules::USUAL,
        is_for_known,
    };
    store.permission_learned(call(true), |_| {}, LONG).confirmed().await.unwrap();
    assert!(store.permission(NUMBER, &caller).await.unwrap().is_none());
    learn(&store, caller.clone(), fact(0, "wamid.1", What::Requested)).await;
    store.permission_learned(call(true), |_| {}, LONG).confirmed().await.unwrap();
    assert_eq!(store.permission(NUMBER, &caller).await.unwrap().unwrap().1.facts().len(), 2);
}

#[tokio::test]
async fn a_ledger_that_cannot_be_read_begins_anew() {
    let folder = Folder::new();
    let store = open(&folder);
    let ada = person(Some("447700900001"), None);
    learn(&store, ada.clone(), fact(1, "wamid.1", granted())).await;
    on_writer(&store, |connection| connection.execute("UPDATE permissions SET ledger = '{'", []).map(drop)).await;
    assert_eq!(status(&store, &ada).await, Some(Status::Unknown));
    learn(&store, ada.clone(), fact(2, "wamid.2", granted())).await;
    assert_eq!(status(&store, &ada).await, Some(Status::Permanent));
}
