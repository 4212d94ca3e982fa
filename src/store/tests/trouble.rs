//! A disk that is full, a file that cannot be written, a queue that is full: calls go on, and nothing is lost unsaid.

use std::sync::mpsc;

use super::*;

/// Leaves no room for another page.
fn fill_the_disk(connection: &Connection) -> rusqlite::Result<()> {
    let pages: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    connection.query_row(&format!("PRAGMA max_page_count = {pages}"), [], |_| Ok(()))
}

fn empty_the_disk(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("PRAGMA max_page_count = 1000000", [], |_| Ok(()))
}

#[tokio::test]
async fn on_a_full_disk_calls_go_on_and_their_records_follow_when_there_is_room() {
    let folder = Folder::new();
    let store = open(&folder);
    on_writer(&store, fill_the_disk).await;
    let large = CallRecord { agents: vec!["x".repeat(100_000)], ..call(1) };
    assert_eq!(began(&store, large, LONG).await, Err(StoreError::Unwritable));
    assert_eq!(began(&store, call(2), LONG).await, Err(StoreError::Unwritable));
    store.call_ended(ended(2), event("call_0002", 1, "call.ended"), LONG);
    assert_eq!(store.idempotent("app", "k", [1; 32]).await, Err(StoreError::Unwritable));
    assert_eq!(store.call("call_0002").await, Ok(Some(ended(2))), "it waits in memory and is found there");
    assert_eq!(store.call("call_0003").await, Ok(None), "reading goes on");
    assert_eq!(store.waiting(), 3, "the end and the word of it are one");

    on_writer(&store, empty_the_disk).await;
    store.flush().await.unwrap();
    assert!(store.call("call_0001").await.unwrap().is_some());
    assert_eq!(store.call("call_0002").await, Ok(Some(ended(2))));
    assert_eq!(store.events_after(0, 10).await.unwrap().len(), 3, "two beginnings and an end");
    assert_eq!(store.idempotent("app", "k", [1; 32]).await, Ok(Claim::New), "what was refused was not done");
    assert_eq!(store.waiting(), 0);
}

#[tokio::test]
async fn a_read_only_file_is_full_at_its_bound_and_catches_up_from_there() {
    let folder = Folder::new();
    let store = Store::open(StoreOptions { most_waiting: 100, ..folder.options() }).unwrap();
    on_writer(&store, |connection| connection.pragma_update(None, "query_only", true)).await;
    let taken = (1..=150).filter(|sequence| store.event(event("call_1", *sequence, "call.dtmf")).is_ok()).count();
    assert_eq!(taken, 100);
    assert_eq!(store.event(event("call_1", 151, "call.dtmf")), Err(StoreError::Full));
    assert_eq!(began(&store, call(1), LONG).await, Err(StoreError::Unwritable), "a call outranks an event");
    store.call_ended(ended(1), event("call_0001", 1, "call.ended"), LONG);

    on_writer(&store, |connection| connection.pragma_update(None, "query_only", false)).await;
    store.flush().await.unwrap();
    let sequences: Vec<i64> =
        store.events_after(0, 1000).await.unwrap().into_iter().map(|event| event.position).collect();
    assert_eq!(sequences, (1..=102).collect::<Vec<i64>>(), "the end of a call outranks other events");
    assert_eq!(store.call("call_0001").await, Ok(Some(ended(1))));
    store.event(event("call_1", 101, "call.dtmf")).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.events_after(102, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn bytes_are_bounded_too() {
    let folder = Folder::new();
    let store = Store::open(StoreOptions { most_waiting_bytes: 10_000, ..folder.options() }).unwrap();
    let forward = Forward { id: "fwd_1".to_owned(), headers: Vec::new(), body: vec![0; 20_000].into() };
    assert_eq!(store.forward(forward.clone(), LONG).await, Err(StoreError::Full));
    assert_eq!(store.waiting(), 0);
    store.forward(Forward { body: vec![0; 5000].into(), ..forward }, LONG).await.unwrap();
}

#[tokio::test]
async fn a_forward_that_cannot_be_written_is_refused_and_not_kept() {
    let folder = Folder::new();
    let store = open(&folder);
    on_writer(&store, |connection| connection.pragma_update(None, "query_only", true)).await;
    let forward = Forward { id: "fwd_1".to_owned(), headers: Vec::new(), body: b"{}".as_slice().into() };
    assert_eq!(store.forward(forward.clone(), LONG).await, Err(StoreError::Unwritable));
    assert_eq!(store.waiting(), 0);
    on_writer(&store, |connection| connection.pragma_update(None, "query_only", false)).await;
    store.flush().await.unwrap();
    store.forward(forward, LONG).await.unwrap();
}

#[tokio::test]
async fn a_call_waits_no_longer_than_its_deadline() {
    let folder = Folder::new();
    let store = open(&folder);
    let (go_on, wait) = mpsc::channel::<()>();
    store.0.queue.do_now(move |_| wait.recv().unwrap());
    assert_eq!(began(&store, call(1), Duration::from_millis(1)).await, Err(StoreError::TimedOut));
    go_on.send(()).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.call("call_0001").await, Ok(Some(call(1))), "it is written all the same");
}

#[tokio::test]
async fn one_record_that_can_never_be_written_spoils_no_other() {
    let folder = Folder::new();
    let store = open(&folder);
    let (go_on, wait) = mpsc::channel::<()>();
    store.0.queue.do_now(move |_| wait.recv().unwrap());
    store.call_updated(call(1));
    let (bad, answer) = Job::asking(1, InTrouble::Keep, |connection| connection.execute("nonsense", []));
    store.0.queue.send(bad, Queue::USUAL_SHARE).unwrap();
    store.call_updated(call(2));
    go_on.send(()).unwrap();
    assert_eq!(answered(answer).await, Err(StoreError::Refused));
    store.flush().await.unwrap();
    assert!(store.call("call_0001").await.unwrap().is_some() && store.call("call_0002").await.unwrap().is_some());
    assert_eq!(store.waiting(), 0);
}

#[tokio::test]
async fn closing_writes_all_that_waits() {
    let folder = Folder::new();
    let store = open(&folder);
    for number in 1..=3000 {
        store.call_updated(call(number));
    }
    store.close().await;
    assert_eq!(store.waiting(), 0);
    assert!(store.call("call_3000").await.unwrap().is_some());
    let log = folder.0.join("patchcord.db-wal");
    assert_eq!(log.metadata().map_or(0, |log| log.len()), 0, "a copy of the file alone is whole");
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_known_until_it_can_although_nothing_waits() {
    let folder = Folder::new();
    let store = open(&folder);
    assert_eq!(store.failing_for(), None);
    on_writer(&store, |connection| connection.pragma_update(None, "query_only", true)).await;
    assert_eq!(store.idempotent("app", "k", [1; 32]).await, Err(StoreError::Unwritable));
    assert_eq!(store.waiting(), 0);
    assert!(store.failing_for().is_some());
    on_writer(&store, |connection| connection.pragma_update(None, "query_only", false)).await;
    // It is tried again every 5 ms here, with nobody asking.
    tokio::time::timeout(LONG, async {
        while store.failing_for().is_some() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_write_that_panics_is_refused_and_those_beside_it_are_written() {
    let folder = Folder::new();
    let store = open(&folder);
    let (go_on, may_go_on) = mpsc::channel::<()>();
    // The three wait behind this, and so are one group.
    store.0.queue.do_now(move |_| may_go_on.recv().unwrap());
    store.event(event("call_1", 1, "call.dtmf")).unwrap();
    let (job, answer) = Job::asking(100, InTrouble::Keep, |_| -> rusqlite::Result<()> { panic!("a mistake") });
    store.0.queue.send(job, Queue::USUAL_SHARE).unwrap();
    store.event(event("call_1", 2, "call.dtmf")).unwrap();
    go_on.send(()).unwrap();

    assert_eq!(answer.await.unwrap(), Err(StoreError::Refused));
    store.flush().await.unwrap();
    assert_eq!(store.events_after(0, 10).await.unwrap().len(), 2);
    store.event(event("call_1", 3, "call.dtmf")).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.events_after(0, 10).await.unwrap().len(), 3);
    assert_eq!(store.waiting(), 0);
}

#[tokio::test]
async fn a_disk_below_the_floor_is_seen_within_a_second_and_still_written() {
    let folder = Folder::new();
    let free = Arc::new(AtomicU64::new(999));
    let left = free.clone();
    let free_bytes = FreeBytes::from_fn(move |_| Ok(left.load(Ordering::Relaxed)));
    let options = StoreOptions { min_free_bytes: 1000, free_bytes, ..folder.options() };
    let store = Store::open(options).unwrap();
    assert!(store.is_low(), "already when it is opened");
    assert_eq!(began(&store, call(1), LONG).await, Ok(()));
    for free_now in [1000, 999] {
        free.store(free_now, Ordering::Relaxed);
        // The thread looks once a second, whether it writes or not.
        while store.is_low() != (free_now < 1000) {
            tokio::task::yield_now().await;
        }
    }
    store.close().await;
}
