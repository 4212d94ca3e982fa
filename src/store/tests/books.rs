//! Call records, pages of them, idempotency keys, retention, and files of every age.

use super::*;
use crate::call::description::CallDirection;
use crate::call::signaling::Signaling;
use crate::call::usage::ModelUsage;

#[tokio::test]
async fn a_call_is_read_back_as_it_was_written_also_by_the_next_process() {
    let folder = Folder::new();
    let store = open(&folder);
    let mut first = named("wacid.X", call(1));
    first.description.user.wa_id = Some("1".to_owned());
    began(&store, first.clone(), LONG).await.unwrap();
    assert_eq!(store.call("call_0001").await.unwrap(), Some(first.clone()));
    let all = CallRecord {
        description: first.description,
        client_state: Some("order 7".to_owned()),
        end: Some(CallEnd {
            meta_error_code: Some(138_021),
            sound: json!({ "lost": 3 }),
            ..end(time(1_000_030), "meta_error")
        }),
        recordings: vec!["rec_1".to_owned(), "rec_2".to_owned()],
        usage: vec![usage()],
        ..ended(1)
    };
    store.call_updated(all.clone());
    store.close().await;
    drop(store);
    let store = open(&folder);
    assert_eq!(store.call("call_0001").await.unwrap(), Some(all));
    assert_eq!(store.call("call_0002").await.unwrap(), None);
    assert!(!format!("{:?}", call(1)).contains("2000000"));
}

fn usage() -> ModelUsage {
    ModelUsage {
        model: "openai-realtime:gpt-realtime".to_owned(),
        connected_ms: 61_000,
        input_tokens: Some(200),
        cached_input_tokens: Some(40),
        input_audio_tokens: Some(120),
        output_tokens: None,
        output_audio_tokens: None,
    }
}

#[tokio::test]
async fn a_number_has_placed_what_meta_took_and_what_it_may_have_taken() {
    let folder = Folder::new();
    let store = open(&folder);
    let placed = |number: u64, mut record: CallRecord| {
        record.description.direction = CallDirection::BusinessInitiated;
        record.description.number.phone_number_id = number.to_string();
        record
    };
    let named = |record| named("wacid.X", record);
    for record in [
        named(placed(1, ended(1))),
        placed(2, call(2)),
        placed(3, ended(3)),
        named(ended(4)),
        CallRecord { signaling: Signaling::External, ..named(placed(5, ended(5))) },
        CallRecord { began_at: time(0), ..named(placed(6, ended(6))) },
        CallRecord { may_be_at_meta: true, ..placed(7, ended(7)) },
    ] {
        store.call_updated(record);
    }
    store.flush().await.unwrap();
    let found = store.placed_since(call(1).began_at).await.unwrap();
    let numbers: Vec<&str> = found.iter().map(|(number, _)| number.as_str()).collect();
    assert_eq!(numbers, ["1", "2", "7"], "Meta refused 3, 4 came in, an app signalled 5, and 6 is of an earlier day");
}

#[tokio::test]
async fn a_call_ends_once_and_what_comes_later_does_not_change_how() {
    let folder = Folder::new();
    let store = open(&folder);
    store.call_updated(ended(1));
    let second = CallRecord {
        end: Some(end(time(2_000_000), "agent_hung_up")),
        recordings: vec!["rec_1".to_owned()],
        ..ended(1)
    };
    store.call_updated(second);
    store.call_updated(call(1));
    store.call_updated(CallRecord { recordings: vec!["rec_1".to_owned()], ..call(1) });
    store.flush().await.unwrap();
    let found = store.call("call_0001").await.unwrap().unwrap();
    assert_eq!(found, CallRecord { recordings: vec!["rec_1".to_owned()], ..ended(1) });
}

#[tokio::test]
async fn calls_without_an_end_are_found_after_a_sudden_end_and_new_ones_are_not_among_them() {
    let folder = Folder::new();
    let store = open(&folder);
    for number in 1..=5 {
        began(&store, call(number), LONG).await.unwrap();
    }
    store.call_updated(ended(2));
    assert_eq!(store.unfinished_calls(None, 10).await.unwrap(), []);
    store.close().await;
    drop(store);

    let store = open(&folder);
    began(&store, call(6), LONG).await.unwrap();
    let ids = |calls: Vec<CallRecord>| calls.into_iter().map(|call| call.call_id).collect::<Vec<_>>();
    let unfinished = store.unfinished_calls(None, 10).await.unwrap();
    assert_eq!(ids(unfinished), ["call_0001", "call_0003", "call_0004", "call_0005"]);
    assert_eq!(ids(store.unfinished_calls(None, 2).await.unwrap()), ["call_0001", "call_0003"]);
    for number in [1, 3, 4, 5] {
        store.call_updated(ended(number));
    }
    store.flush().await.unwrap();
    assert_eq!(store.unfinished_calls(None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn pages_stay_right_while_calls_come_in() {
    let folder = Folder::new();
    let store = open(&folder);
    for number in 1..=25 {
        store.call_updated(call(number));
    }
    store.flush().await.unwrap();
    let mut seen: Vec<String> = Vec::new();
    for round in 0.. {
        let filter = CallFilter { before: seen.last().cloned(), limit: 10, ..CallFilter::default() };
        let page = store.calls(filter).await.unwrap();
        if page.is_empty() {
            break;
        }
        seen.extend(page.into_iter().map(|call| call.call_id));
        store.call_updated(call(100 + round));
    }
    let newest_first: Vec<String> = (1..=25).rev().map(|number| format!("call_{number:04}")).collect();
    assert_eq!(seen, newest_first);
}

#[tokio::test]
async fn a_filter_shows_what_it_names() {
    let folder = Folder::new();
    let store = open(&folder);
    // Half of it is written, and the rest is on its way for as long as the thread is kept busy.
    for number in 1..=6 {
        store.call_updated(dated(number));
    }
    store.call_updated(CallRecord { call_id: dated(2).call_id, ..ended(2) });
    store.flush().await.unwrap();
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    store.0.queue.do_now(move |_| wait.recv().unwrap_or(()));
    store.call_updated(CallRecord { call_id: dated(3).call_id, ..ended(3) });
    let mut to_sales = CallRecord { route: "sales".to_owned(), ..dated(9) };
    to_sales.description.number.phone_number_id = "7".to_owned();
    store.call_updated(to_sales);
    let shown = async |filter: CallFilter| {
        let calls =
            store.calls(CallFilter { limit: if filter.limit == 0 { 50 } else { filter.limit }, ..filter }).await;
        let seconds = |call: CallRecord| call.began_at.duration_since(time(1_000_000)).unwrap().as_secs();
        calls.unwrap().into_iter().map(seconds).collect::<Vec<_>>()
    };
    let all = CallFilter::default();
    for _ in 0..2 {
        assert_eq!(shown(all.clone()).await, [9, 6, 5, 4, 3, 2, 1]);
        assert_eq!(shown(CallFilter { state: Some(CallState::Ended), ..all.clone() }).await, [3, 2]);
        assert_eq!(shown(CallFilter { phone_number_id: Some("7".to_owned()), ..all.clone() }).await, [9]);
        assert_eq!(shown(CallFilter { route: Some("sales".to_owned()), ..all.clone() }).await, [9]);
        let between =
            CallFilter { began_after: Some(time(1_000_002)), began_before: Some(time(1_000_004)), ..all.clone() };
        assert_eq!(shown(between).await, [3, 2]);
        assert_eq!(shown(CallFilter { limit: 2, ..all.clone() }).await, [9, 6]);
        let live = CallFilter { state: Some(CallState::Live), ..all.clone() };
        assert_eq!(shown(live.clone()).await, [9, 6, 5, 4, 1]);
        assert_eq!(shown(CallFilter { limit: 5, ..live }).await, [9, 6, 5, 4, 1]);
        let _ = go_on.send(());
        store.flush().await.unwrap();
    }
    let nobody = store.0.unwritten.shown(&CallFilter::default());
    assert_eq!(nobody, []);
}

/// With an id as real ones are.
fn dated(number: u64) -> CallRecord {
    let id = ulid::Ulid::from_parts((1_000_000 + number) * 1000, 7).to_string().to_lowercase();
    CallRecord { call_id: format!("call_{id}"), ..call(number) }
}

#[tokio::test]
async fn a_call_is_found_before_its_record_is_in_the_file() {
    let folder = Folder::new();
    let store = open(&folder);
    let (go_on, wait) = std::sync::mpsc::channel::<()>();
    store.0.queue.do_now(move |_| wait.recv().unwrap_or(()));
    store.call_updated(call(1));
    assert_eq!(store.call("call_0001").await, Ok(Some(call(1))));
    store.call_updated(ended(1));
    assert_eq!(store.call("call_0001").await, Ok(Some(ended(1))));
    go_on.send(()).unwrap();
    store.flush().await.unwrap();
    assert_eq!(store.call("call_0001").await, Ok(Some(ended(1))));
}

#[tokio::test]
async fn the_same_request_twice_is_done_once_and_answered_alike() {
    let folder = Folder::new();
    let store = open(&folder);
    assert_eq!(store.idempotent("app", "k", [1; 32]).await, Ok(Claim::New));
    assert_eq!(store.idempotent("app", "k", [1; 32]).await, Ok(Claim::InProgress));
    assert_eq!(store.idempotent("app", "k", [2; 32]).await, Ok(Claim::Conflict));
    assert_eq!(store.idempotent("other", "k", [2; 32]).await, Ok(Claim::New));
    store.remember("app", "k", 202, b"{}").await.unwrap();
    let again = Claim::Replay { status: 202, body: b"{}".to_vec() };
    assert_eq!(store.idempotent("app", "k", [1; 32]).await, Ok(again.clone()));
    store.forget("app", "k").await.unwrap();
    assert_eq!(store.idempotent("app", "k", [1; 32]).await, Ok(again.clone()), "an answer is not forgotten");
    store.forget("other", "k").await.unwrap();
    assert_eq!(store.idempotent("other", "k", [3; 32]).await, Ok(Claim::New));
    store.close().await;
    drop(store);

    let store = open(&folder);
    assert_eq!(store.idempotent("app", "k", [1; 32]).await, Ok(again));
    assert_eq!(store.idempotent("other", "k", [3; 32]).await, Ok(Claim::New), "nobody is left to answer the first");
}

#[test]
fn a_claim_is_new_again_after_a_day() {
    let folder = Folder::new();
    drop(schema::open(&folder.file()).unwrap());
    let connection = raw(&folder.file());
    let day = keys::KEPT.as_millis() as i64;
    assert_eq!(keys::claim(&connection, "app", "k", &[1; 32], 1000).unwrap(), Claim::New);
    assert_eq!(keys::claim(&connection, "app", "k", &[2; 32], 999 + day).unwrap(), Claim::Conflict);
    assert_eq!(keys::claim(&connection, "app", "k", &[2; 32], 1000 + day).unwrap(), Claim::New);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_at_once_one_claims_a_key() {
    let folder = Folder::new();
    let store = open(&folder);
    for round in 0..20 {
        let key = format!("key {round}");
        let claims: Vec<_> = (0..8)
            .map(|_| {
                let (store, key) = (store.clone(), key.clone());
                tokio::spawn(async move { store.idempotent("app", &key, [7; 32]).await.unwrap() })
            })
            .collect();
        let mut new = 0;
        for claim in claims {
            match claim.await.unwrap() {
                Claim::New => new += 1,
                other => assert_eq!(other, Claim::InProgress),
            }
        }
        assert_eq!(new, 1);
    }
}

#[tokio::test]
async fn old_records_go_and_what_lives_or_waits_stays() {
    let folder = Folder::new();
    let store = Store::open(StoreOptions { endpoints: vec![endpoint("a")], ..folder.options() }).unwrap();
    for number in 1..=450 {
        store.call_updated(ended(number));
    }
    store.call_updated(call(500));
    store.event(event("call_1", 1, "call.ended")).unwrap();
    store.event(event("call_2", 1, "call.ended")).unwrap();
    store.flush().await.unwrap();
    let (due, _) = store.due("a", now_ms(), 1).await.unwrap();
    store.settle("a", due[0].position, Settlement::Delivered).await.unwrap();
    store.close().await;
    drop(store);

    let mut connection = raw(&folder.file());
    let far = now_ms() + 40 * 24 * 3_600_000;
    let mut deleted = Vec::new();
    while deleted.last() != Some(&0) {
        deleted.push(retention::clean(&mut connection, &Retention::default(), far).unwrap());
    }
    // In batches: 200 calls and an event, 200, 50, nothing.
    assert_eq!(deleted, [201, 200, 50, 0]);
    let count =
        |table| connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((count("calls"), count("events"), count("deliveries")), (1, 1, 1));
    // What was deleted was the last position or not: none is given twice.
    assert_eq!(retention::last_position(&connection).unwrap(), 2);
}

#[test]
fn a_file_of_every_older_version_becomes_todays() {
    for version in 0..=schema::MIGRATIONS.len() {
        let folder = Folder::new();
        let connection = raw(&folder.file());
        for step in schema::MIGRATIONS.iter().take(version) {
            connection.execute_batch(step).unwrap();
        }
        connection.pragma_update(None, "user_version", version as i64).unwrap();
        if version > 0 {
            let insert =
                "INSERT INTO calls (call_id, phone_number_id, route, caller, began_at, stages, sound, recordings)
                VALUES ('call_0001', '200000000000002', 'reception', 'null', 1000001000, 'null', 'null', '[]')";
            connection.execute(insert, []).unwrap();
        }
        drop(connection);
        let opened = schema::open(&folder.file()).unwrap();
        let found: i64 = opened.writer.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
        assert_eq!(found, schema::MIGRATIONS.len() as i64);
        assert_eq!(calls::one(&opened.reader, "call_0001").unwrap(), (version > 0).then(|| call(1)));
        keys::claim(&opened.writer, "app", "k", &[1; 32], 1).unwrap();
    }
}

#[test]
fn what_cannot_be_opened_is_told_in_one_line_that_says_what_to_do() {
    let newer = Folder::new();
    raw(&newer.file()).pragma_update(None, "user_version", 99).unwrap();
    let text = Folder::new();
    std::fs::write(text.file(), "this is no database ".repeat(100)).unwrap();
    let torn = Folder::new();
    drop(schema::open(&torn.file()).unwrap());
    let mut bytes = std::fs::read(torn.file()).unwrap();
    bytes[100..400].fill(0xff);
    std::fs::write(torn.file(), bytes).unwrap();
    let missing = StoreOptions::new(newer.0.join("missing/patchcord.db"));

    let told = |options: StoreOptions| Store::open(options).unwrap_err().to_string();
    for (said, words) in [
        (told(newer.options()), "written by a newer Patchcord (schema 99, this one knows"),
        (told(text.options()), "is damaged"),
        (told(torn.options()), "is damaged"),
        (told(missing), "check that its folder exists"),
    ] {
        assert!(said.contains(words) && !said.contains('\n'), "{said}");
    }
}

/// A page in the middle, which neither the schema nor the next call reads.
#[tokio::test]
async fn damage_inside_of_a_file_is_told_at_the_start() {
    let folder = Folder::new();
    let store = open(&folder);
    for number in 1..=500 {
        store.call_updated(ended(number));
    }
    store.close().await;
    drop(store);
    open(&folder).close().await;
    let mut bytes = std::fs::read(folder.file()).unwrap();
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xa5);
    std::fs::write(folder.file(), bytes).unwrap();
    let error = Store::open(folder.options()).unwrap_err().to_string();
    assert!(error.contains("is damaged") && error.contains("backup") && !error.contains('\n'), "{error}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_in_use_is_in_use_by_all_its_names() {
    let folder = Folder::new();
    let store = open(&folder);
    let (symbolic, hard, beside) = (folder.0.join("symbolic.db"), folder.0.join("hard.db"), Folder::new());
    std::os::unix::fs::symlink(folder.file(), &symbolic).unwrap();
    std::os::unix::fs::symlink(&folder.0, beside.0.join("folder")).unwrap();
    std::fs::hard_link(folder.file(), &hard).unwrap();
    for name in [symbolic, hard, beside.0.join("folder/patchcord.db")] {
        let opened = Store::open(StoreOptions { path: name.clone(), ..folder.options() });
        assert!(matches!(opened, Err(OpenError::InUse { .. })), "{}", name.display());
    }
    began(&store, call(1), LONG).await.unwrap();
    // A link that leads nowhere yet is a new store.
    let new = beside.0.join("new.db");
    std::os::unix::fs::symlink(beside.0.join("target.db"), &new).unwrap();
    let other = Store::open(StoreOptions { path: new, ..folder.options() }).unwrap();
    let target = StoreOptions { path: beside.0.join("target.db"), ..folder.options() };
    assert!(matches!(Store::open(target), Err(OpenError::InUse { .. })));
    other.close().await;
}

#[tokio::test]
async fn a_file_belongs_to_one_service_and_to_one_user() {
    let folder = Folder::new();
    let store = open(&folder);
    assert!(matches!(Store::open(folder.options()), Err(OpenError::InUse { .. })));
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        began(&store, call(1), LONG).await.unwrap();
        for name in ["patchcord.db", "patchcord.db-wal"] {
            let mode = std::fs::metadata(folder.0.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }
    store.close().await;
    assert_eq!(store.event(event("call_1", 1, "call.began")), Err(StoreError::Closed));
    open(&folder);
}
