//! Calls that have just come in: what the next process knows of them.

use super::*;

const WACID: &str = "wacid.HBgLMTIwMjU1NTAxNDM";

fn arrival(number: u64) -> Arrival {
    let call = named(&format!("{WACID}{number}"), call(number));
    let incoming = event(&call.call_id, 1, "call.incoming");
    Arrival { call, offer: Some(format!("offer {number}")), incoming }
}

async fn arrive(store: &Store, number: u64) {
    store.call_began(arrival(number), LONG).confirmed().await.unwrap();
}

/// The offers that the next process finds.
async fn unanswered(store: Store, folder: &Folder) -> Vec<String> {
    store.close().await;
    drop(store);
    let next = open(folder);
    let calls = next.unanswered_calls(100).await.unwrap();
    next.close().await;
    calls.into_iter().map(|call| call.offer).collect()
}

#[tokio::test]
async fn a_call_that_came_in_can_be_answered_by_the_next_process_alone() {
    let folder = Folder::new();
    let store = open(&folder);
    arrive(&store, 1).await;
    store.event(event("call_0001", 2, "call.agent_lost")).unwrap();
    store.flush().await.unwrap();
    assert!(store.unanswered_calls(10).await.unwrap().is_empty(), "its own process answers it");
    store.close().await;
    drop(store);

    let next = open(&folder);
    arrive(&next, 2).await;
    let found = next.unanswered_calls(10).await.unwrap();
    let [found] = found.as_slice() else { panic!("{} calls", found.len()) };
    let Arrival { call, incoming, .. } = arrival(1);
    assert_eq!((&found.call, found.offer.as_str(), &found.incoming, found.sequence), (&call, "offer 1", &incoming, 2));
}

#[tokio::test]
async fn an_offer_goes_with_the_answer_the_end_and_metas_word() {
    let folder = Folder::new();
    let store = open(&folder);
    for number in 1..=4 {
        arrive(&store, number).await;
    }
    store.call_answered("call_0001");
    let end = named(&format!("{WACID}2"), ended(2));
    store.call_ended(end, event("call_0002", 2, "call.ended"), LONG).confirmed().await.unwrap();
    store.call_terminated(&format!("{WACID}3"), LONG).confirmed().await.unwrap();
    assert_eq!(unanswered(store, &folder).await, ["offer 4"]);
    let offers: i64 = raw(&folder.file()).query_row("SELECT count(*) FROM offers", [], |row| row.get(0)).unwrap();
    assert_eq!(offers, 1, "what is of no use is not kept");
}

/// Full of a disk, the store writes all of it later, or nothing.
#[tokio::test]
async fn a_call_is_written_with_its_event_or_not_at_all() {
    let folder = Folder::new();
    let store = open(&folder);
    on_writer(&store, |connection| connection.execute_batch("DROP TABLE offers")).await;
    assert_eq!(store.call_began(arrival(1), LONG).confirmed().await, Err(StoreError::Refused));
    assert_eq!(store.call("call_0001").await, Ok(None));
    assert_eq!(store.events_after(0, 10).await, Ok(Vec::new()));
}

#[tokio::test]
async fn calls_that_were_seen_are_known_for_a_day() {
    let folder = Folder::new();
    let store = open(&folder);
    arrive(&store, 1).await;
    store.call_terminated("wacid.first", LONG).confirmed().await.unwrap();
    store.close().await;
    drop(store);
    let day = i64::try_from(arrivals_day().as_millis()).unwrap();
    raw(&folder.file())
        .execute("INSERT INTO seen_calls VALUES (x'00000000000000000000000000000000', ?1)", [now_ms() - day - 1000])
        .unwrap();

    let next = open(&folder);
    let seen = next.seen_calls(10).await.unwrap();
    let mut digests: Vec<WacidDigest> = seen.iter().map(|(digest, _)| *digest).collect();
    let mut expected = [wacid_digest(&format!("{WACID}1")), wacid_digest("wacid.first")];
    digests.sort_unstable();
    expected.sort_unstable();
    assert_eq!(digests, expected);
    assert_eq!(next.seen_calls(1).await.unwrap().len(), 1);
    // Cleaning comes after the first write.
    next.flush().await.unwrap();
    next.close().await;
    let kept: i64 = raw(&folder.file()).query_row("SELECT count(*) FROM seen_calls", [], |row| row.get(0)).unwrap();
    assert_eq!(kept, 2, "the one of the day before is deleted");
}

fn arrivals_day() -> Duration {
    super::super::arrivals::SEEN_FOR
}

#[tokio::test]
async fn nobody_hears_of_an_end_before_it_is_synced() {
    let folder = Folder::new();
    let store = open(&folder);
    let mut news = store.last_position();
    store.event(event("call_0001", 1, "call.incoming")).unwrap();
    news.changed().await.unwrap();
    let synced = async || {
        let (tell, told) = oneshot::channel();
        on_writer(&store, |connection| {
            let level = connection.query_row("PRAGMA synchronous", [], |row| row.get::<_, i64>(0))?;
            tell.send(level).unwrap();
            Ok(())
        })
        .await;
        told.await.unwrap()
    };
    assert_eq!(synced().await, 1, "NORMAL: an event survives the process");
    store.call_ended(ended(1), event("call_0001", 2, "call.ended"), LONG);
    news.changed().await.unwrap();
    assert_eq!(synced().await, 2, "FULL: the end of a call survives a loss of power");
}

#[tokio::test]
async fn a_write_that_many_wait_for_is_confirmed_to_each() {
    let folder = Folder::new();
    let store = open(&folder);
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    store.0.queue.do_now(move |_| wait.recv().unwrap());
    let written = store.call_began(arrival(1), LONG);
    let late = store.call_began(arrival(2), Duration::ZERO);
    assert_eq!(late.confirmed().await, Err(StoreError::TimedOut));
    go_on.send(()).unwrap();
    assert_eq!(tokio::join!(written.confirmed(), written.confirmed()), (Ok(()), Ok(())));
    store.flush().await.unwrap();
    assert!(store.call("call_0002").await.unwrap().is_some(), "it is written all the same");
}

#[tokio::test]
async fn unfinished_calls_come_in_pages() {
    let folder = Folder::new();
    let store = open(&folder);
    for number in 1..=5 {
        store.call_updated(call(number));
    }
    store.close().await;
    drop(store);
    let next = open(&folder);
    let mut seen: Vec<String> = Vec::new();
    loop {
        let page = next.unfinished_calls(seen.last().map(String::as_str), 2).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|call| call.call_id));
    }
    assert_eq!(seen, ["call_0001", "call_0002", "call_0003", "call_0004", "call_0005"]);
}

fn termination(number: u64) -> Termination {
    Termination {
        call_id: format!("call_{number:04}"),
        wacid: format!("{WACID}{number}"),
        phone_number_id: "200000000000002".to_owned(),
        action: TerminationAction::Reject,
    }
}

#[tokio::test]
async fn an_ending_waits_until_meta_knows_of_it_and_is_due_at_once_for_the_next_process() {
    let folder = Folder::new();
    let store = open(&folder);
    let (minute, later) = (Duration::from_secs(60), SystemTime::now() + Duration::from_secs(50));
    for number in 1..=4 {
        store.termination_began(termination(number), later);
    }
    store.termination_began(termination(5), SystemTime::now() - minute);
    store.termination_began(Termination { action: TerminationAction::Terminate, ..termination(5) }, later);
    store.flush().await.unwrap();
    let book = store.terminations(10, minute).await.unwrap();
    assert!(book.due.len() == 1 && book.due[0].termination == termination(5), "the first word stays");
    assert_eq!((book.waiting, book.next_due_at), (5, Some(whole_ms(later))));
    assert_eq!(store.terminations(10, Duration::ZERO).await.unwrap().due.len(), 5, "due later than anything can be");

    store.termination_done("call_0001");
    store.call_terminated(&termination(2).wacid, LONG).confirmed().await.unwrap();
    store.termination_failed("call_0005", later).await.unwrap();
    assert!(store.terminations(10, minute).await.unwrap().due.is_empty());
    store.close().await;
    drop(store);
    let book = open(&folder).terminations(10, minute).await.unwrap();
    let mut due: Vec<(String, u32)> = book.due.into_iter().map(|one| (one.termination.call_id, one.attempts)).collect();
    due.sort();
    assert_eq!(due, [("call_0003".to_owned(), 0), ("call_0004".to_owned(), 0), ("call_0005".to_owned(), 1)]);
}
