//! Queued calls: their order, their bound, and what survives.

use std::collections::BTreeSet;

use super::*;
use crate::call::end::EndReason;
use crate::call::event::CallId;

const NUMBER: &str = "200000000000002";

fn queued(priority: u8, expires_at: SystemTime) -> QueuedCall {
    QueuedCall {
        call_id: CallId::generate(),
        phone_number_id: NUMBER.to_owned(),
        route: "reception".to_owned(),
        to: json!({ "wa_id": "12025550143" }),
        tracker: Some("job-7".to_owned()),
        client_state: None,
        priority,
        queued_at: whole_ms(clock::wall()),
        expires_at: whole_ms(expires_at),
        order: "{}".to_owned(),
    }
}

fn late() -> SystemTime {
    clock::wall() + Duration::from_secs(3600)
}

async fn queue(store: &Store, call: &QueuedCall, most: usize) -> bool {
    let event = event(call.call_id.as_str(), 1, "call.queued");
    store.queue_call(call.clone(), event, most).await.unwrap()
}

/// Takes everything, as it is placed.
async fn take_all(store: &Store) -> Vec<CallId> {
    let mut taken = Vec::new();
    while let Some(call) = store.next_queued(NUMBER).await.unwrap() {
        assert!(store.take_queued(call.clone(), clock::wall()).await.unwrap());
        assert!(!store.take_queued(call.clone(), clock::wall()).await.unwrap(), "a call is taken once");
        taken.push(call.call_id);
    }
    taken
}

#[tokio::test]
async fn ten_thousand_calls_survive_and_are_taken_by_priority_then_age() {
    const CALLS: usize = 10_000;
    let folder = Folder::new();
    let store = open(&folder);
    let mut calls: Vec<QueuedCall> = (0..CALLS).map(|number| queued((number % 10) as u8, late())).collect();
    for some in calls.chunks(500) {
        let queueing = some.iter().map(|call| queue(&store, call, CALLS));
        assert!(futures_util::future::join_all(queueing).await.into_iter().all(|is_queued| is_queued));
    }
    assert!(!queue(&store, &queued(9, late()), CALLS).await, "the queue is full");
    store.close().await;
    drop(store);

    let store = open(&folder);
    assert_eq!(store.queue_summary().await.unwrap().numbers, [(NUMBER.to_owned(), CALLS)]);
    // The sort is stable.
    calls.sort_by_key(|call| std::cmp::Reverse(call.priority));
    let mut after = None;
    let mut listed = Vec::new();
    loop {
        let filter = QueuedCallFilter { phone_number_id: None, after, limit: 999 };
        let page = store.queued_calls(filter).await.unwrap();
        let Some((last, _)) = page.last() else { break };
        after = Some(*last);
        listed.extend(page.into_iter().map(|(_, call)| call));
    }
    assert!(listed == calls, "the list has the order of the queue");
    for call in &calls[..200] {
        assert_eq!(store.next_queued(NUMBER).await.unwrap().as_ref(), Some(call));
        assert!(store.take_queued(call.clone(), clock::wall()).await.unwrap());
    }
}

#[tokio::test]
async fn a_taken_call_is_unfinished_for_the_next_process_and_a_queued_one_is_queued() {
    let folder = Folder::new();
    let store = open(&folder);
    let (first, second) = (queued(5, late()), queued(5, late()));
    assert!(queue(&store, &first, 10).await && queue(&store, &second, 10).await);
    assert!(store.take_queued(first.clone(), clock::wall()).await.unwrap());
    store.close().await;
    drop(store);

    let store = open(&folder);
    let unfinished = store.unfinished_calls(None, 10).await.unwrap();
    assert_eq!(unfinished.len(), 1);
    let record = &unfinished[0];
    assert_eq!((record.call_id.as_str(), record.tracker.as_deref()), (first.call_id.as_str(), Some("job-7")));
    assert_eq!(
        (record.description.direction.name(), record.description.user.clone()),
        ("business_initiated", WhatsAppUser::from_json(&first.to))
    );
    assert_eq!(store.last_sequence(first.call_id.as_str()).await.unwrap(), 1);
    assert_eq!(take_all(&store).await, [second.call_id]);
}

#[tokio::test]
async fn a_call_that_ends_in_the_queue_has_a_record_and_one_end() {
    let folder = Folder::new();
    let store = open(&folder);
    let (expired, kept) = (queued(5, clock::wall() - Duration::from_secs(1)), queued(5, late()));
    assert!(queue(&store, &expired, 10).await && queue(&store, &kept, 10).await);
    let (due, next) = store.expired_queued(10).await.unwrap();
    assert_eq!((due, next), (vec![expired.call_id.clone()], Some(kept.expires_at)));
    let id = expired.call_id.as_str();
    let ended = store.end_queued(id, EndReason::QueueExpired).await.unwrap().unwrap();
    assert_eq!((ended.sequence, ended.kind, &ended.data["reason"]), (2, "call.ended", &"queue_expired".into()));
    assert!(store.end_queued(id, EndReason::HungUpByApi).await.unwrap().is_none());
    let record = store.call(id).await.unwrap().unwrap();
    assert_eq!(record.end_reason(), Some("queue_expired"));
    assert_eq!(store.queued_call(id).await.unwrap(), None);
    assert_eq!(take_all(&store).await, [kept.call_id]);
}

#[tokio::test]
async fn calls_whose_id_is_older_than_their_beginning_are_found_by_it() {
    let folder = Folder::new();
    let store = open(&folder);
    let call = queued(5, late());
    assert!(queue(&store, &call, 10).await);
    let began_at = whole_ms(clock::wall() + QUEUED_FOR);
    assert!(store.take_queued(call.clone(), began_at).await.unwrap());
    let filter = CallFilter { began_after: Some(began_at), limit: 10, ..CallFilter::default() };
    let found = store.calls(filter).await.unwrap().into_iter().map(|call| call.call_id);
    assert_eq!(found.collect::<BTreeSet<_>>(), BTreeSet::from([call.call_id.as_str().to_owned()]));
}
