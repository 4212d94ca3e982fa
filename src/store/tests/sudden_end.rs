//! A process that is killed: what it was told is stored is there for the next one.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Set in the process that is killed; the path of its store.
const VICTIM: &str = "PATCHCORD_TEST_VICTIM";
/// What the victim says when it has been told that all is stored.
const STORED: &str = "all is stored";

#[tokio::test]
async fn what_was_confirmed_survives_the_kill_of_the_process() {
    let folder = Folder::new();
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::sudden_end::victim", "--nocapture"])
        .env(VICTIM, folder.file())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(victim.stdout.take().unwrap()).lines();
    let is_stored = said.map_while(Result::ok).any(|line| line.contains(STORED));
    assert!(Store::open(folder.options()).is_err(), "the victim still holds it");
    victim.kill().unwrap();
    victim.wait().unwrap();
    assert!(is_stored);

    let store = Store::open(StoreOptions { endpoints: vec![endpoint("a")], ..folder.options() }).unwrap();
    assert_eq!(store.unfinished_calls(None, 10).await.unwrap(), [call(1)]);
    assert_eq!(store.pending("a").await, Ok(501));
    let (due, _) = store.due("a", now_ms(), 10).await.unwrap();
    assert_eq!(due[0].id, "evt_call_0001_0");
}

/// Does nothing unless it is the victim.
#[tokio::test]
async fn victim() {
    let Some(path) = std::env::var_os(VICTIM) else { return };
    let options = StoreOptions { endpoints: vec![endpoint("a")], ..StoreOptions::new(path) };
    let store = Store::open(options).unwrap();
    began(&store, call(1), LONG).await.unwrap();
    for sequence in 1..=500 {
        store.event(event("call_0001", sequence, "call.dtmf")).unwrap();
    }
    store.flush().await.unwrap();
    println!("{STORED}");
    std::future::pending::<()>().await;
}
