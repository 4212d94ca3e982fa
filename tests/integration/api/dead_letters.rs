//! Dead letters: listing and replay.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use super::client::{ADMIN, Client, WRITER};
use super::receiver::Receiver;
use crate::people::quiet_caller;
use crate::service::{DEADLINE, TestService, config_text};

/// All pages of dead letters, once there are this many.
async fn letters(client: &Client, count: usize) -> anyhow::Result<Vec<Value>> {
    let look = async {
        loop {
            let (mut letters, mut path) = (Vec::new(), "/v1/dead_letters?limit=2".to_owned());
            loop {
                let page = client.get(&path).await?;
                anyhow::ensure!(page.status == 200, "{page:?}");
                letters.extend(page.body["dead_letters"].as_array().cloned().unwrap_or_default());
                let Some(next) = page.body["next"].as_str() else { break };
                path = format!("/v1/dead_letters?limit=2&after={next}");
            }
            if letters.len() >= count {
                return anyhow::Ok(letters);
            }
        }
    };
    tokio::time::timeout(DEADLINE, look).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_did_not_take_is_listed_and_sent_again() -> anyhow::Result<()> {
    let mut receiver = Receiver::start().await?;
    receiver.set_down(true);
    let mut service = TestService::start_with("prompt:hold,hold", receiver.options()).await?;
    let admin = Client::new(&service, ADMIN);
    let call = service.call(quiet_caller()).await?;
    service.event("call.accepted").await?;
    call.hang_up().await?;
    let ended = service.event("call.ended").await?;
    let told = ended.sequence as usize;
    let dead = letters(&admin, told).await?;
    assert_eq!(dead.len(), told, "{dead:#?}");
    assert!(dead.iter().all(|letter| letter["webhook"] == "app" && letter["call_id"] == ended.call_id.as_str()));
    let last = &dead[told - 1];
    assert_eq!((&last["event_id"], &last["type"]), (&json!(ended.id), &json!("call.ended")));
    assert!(last["error"].as_str().is_some_and(|error| error.contains("503")), "{last}");
    assert!(last["queued_at"].is_string() && last["attempts"].is_u64(), "{last}");

    for (key, body, status, code) in [
        ("bad-1", json!({ "webhook": "other" }), 422, "unknown_webhook"),
        ("bad-2", json!({ "event_ids": "evt_1" }), 422, "invalid_replay"),
        ("bad-3", json!({ "event_ids": vec!["evt_1"; 1001] }), 422, "invalid_replay"),
        ("bad-4", json!([]), 400, "invalid_json"),
    ] {
        admin.once(key, "/v1/dead_letters/replay", &body.to_string()).await?.is_problem(status, code);
    }
    admin.get("/v1/dead_letters?after=nowhere").await?.is_problem(400, "invalid_page");
    Client::new(&service, WRITER).get("/v1/dead_letters").await?.is_problem(403, "missing_scope");
    assert_eq!(admin.get("/v1/dead_letters?webhook=other").await?.body["dead_letters"], json!([]));

    receiver.set_down(false);
    let one = admin.once("one", "/v1/dead_letters/replay", &json!({ "event_ids": [ended.id] }).to_string()).await?;
    assert_eq!((one.status, &one.body), (202, &json!({ "replayed": 1 })));
    let first: Value = serde_json::from_str(&receiver.next(1).await?[0])?;
    assert_eq!(first["id"], json!(ended.id));
    let rest = admin.once("rest", "/v1/dead_letters/replay", &json!({ "webhook": "app" }).to_string()).await?;
    assert_eq!((rest.status, &rest.body), (202, &json!({ "replayed": told - 1 })));
    // A second replay sends nothing.
    let again = admin.once("rest", "/v1/dead_letters/replay", &json!({ "webhook": "app" }).to_string()).await?;
    assert_eq!(again.bytes, rest.bytes);
    let came = receiver.next(told - 1).await?;
    let sequence = |body: &String| serde_json::from_str::<Value>(body).ok()?["sequence"].as_u64();
    let sequences: Vec<u64> = came.iter().filter_map(sequence).collect();
    assert_eq!(sequences, (1..told as u64).collect::<Vec<_>>());
    assert_eq!(sequences.iter().collect::<BTreeSet<_>>().len(), told - 1);
    assert_eq!(admin.get("/v1/dead_letters").await?.body, json!({ "dead_letters": [], "next": null }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_has_the_running_service_send_them_again() -> anyhow::Result<()> {
    let mut receiver = Receiver::start().await?;
    receiver.set_down(true);
    let mut service = TestService::start_with("prompt:hold,hold", receiver.options()).await?;
    let call = service.call(quiet_caller()).await?;
    service.event("call.accepted").await?;
    call.hang_up().await?;
    let told = service.event("call.ended").await?.sequence as usize;
    letters(&Client::new(&service, ADMIN), told).await?;
    receiver.set_down(false);

    let config = config_text(&service.meta, "prompt:hold", &service.folder.0, &receiver.options())?;
    let listen = format!("listen = \"{}\"", service.app.address);
    let file = service.folder.0.join("patchcord.toml");
    std::fs::write(&file, config.replace("listen = \"127.0.0.1:0\"", &listen))?;
    let replay = |key: &'static str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_patchcord"));
        command.args(["replay", "--webhook", "app", "--config"]).arg(&file).env("PATCHCORD_KEY", key);
        tokio::task::spawn_blocking(move || command.output())
    };
    let refused = replay(WRITER).await??;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("lacks the scope"), "{refused:?}");
    let done = replay(ADMIN).await??;
    assert_eq!(String::from_utf8_lossy(&done.stdout), format!("{told} dead letters are tried again\n"), "{done:?}");
    assert_eq!(receiver.until_end().await?.len(), told);
    Ok(())
}
