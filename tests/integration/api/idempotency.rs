//! `Idempotency-Key`: a repeated request is performed once.

use serde_json::json;

use super::client::{ADMIN, Client, READER, WRITER};
use super::{talk, with_keys};
use crate::service::{DEADLINE, TestService};

#[tokio::test(flavor = "multi_thread")]
async fn the_same_request_twice_is_done_once_and_answered_byte_for_byte() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let play = format!("/v1/calls/{id}/actions/play");
    let body = json!({ "prompts": ["hold"], "loop": true }).to_string();
    let first = client.once("order-7", &play, &body).await?;
    assert_eq!((first.status, first.header("idempotency-replayed")), (202, None), "{first:?}");
    for _ in 0..3 {
        let again = client.once("order-7", &play, &body).await?;
        assert_eq!((again.status, &again.bytes), (202, &first.bytes));
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.header("content-type"), first.header("content-type"));
    }
    // It was one playback: a new key begins the next.
    let next = client.once("order-8", &play, &body).await?.body["playback_id"].as_u64();
    assert_eq!(next, first.body["playback_id"].as_u64().map(|id| id + 1));

    let other = json!({ "prompts": ["busy"] }).to_string();
    client.once("order-7", &play, &other).await?.is_problem(422, "idempotency_key_reused");
    let elsewhere = format!("/v1/calls/{id}/actions/gather");
    client.once("order-7", &elsewhere, &body).await?.is_problem(422, "idempotency_key_reused");
    // Refusals are repeated too.
    let stop = format!("/v1/calls/{id}/actions/stop_gather");
    let refused = client.once("order-9", &stop, "{}").await?;
    refused.is_problem(409, "nothing_gathers");
    client.once("order-10", &elsewhere, "{}").await?;
    let again = client.once("order-9", &stop, "{}").await?;
    again.is_problem(409, "nothing_gathers");
    assert_eq!((&again.bytes, again.header("idempotency-replayed")), (&refused.bytes, Some("true")));
    Ok(())
}

/// What is stored for a day must not open a call.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_given_once_and_never_stored() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let path = format!("/v1/calls/{id}/webrtc_tokens");
    let first = client.once("page-1", &path, r#"{"role": "listen"}"#).await?;
    let token = first.body["token"].as_str().unwrap_or_default().to_owned();
    assert_eq!((first.status, token.is_empty()), (201, false), "{first:?}");
    let again = client.once("page-1", &path, r#"{"role": "listen"}"#).await?;
    again.is_problem(409, "response_not_kept");
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(client.once("page-2", &path, r#"{"role": "listen"}"#).await?.status, 201);
    client.once("page-3", &path, r#"{"role": "boss"}"#).await?.is_problem(422, "invalid_command");
    client.once("page-3", &path, r#"{"role": "boss"}"#).await?.is_problem(422, "invalid_command");
    for file in std::fs::read_dir(&talk.service.folder.0)? {
        let path = file?.path();
        if path.is_file() {
            let bytes = std::fs::read(&path)?;
            assert!(!bytes.windows(token.len()).any(|part| part == token.as_bytes()), "{}", path.display());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_at_once_one_is_done_and_the_others_wait_or_get_its_answer() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let path = format!("/v1/calls/{id}/actions/hangup");
    let asked = (0..20).map(|_| client.once("hang-up", &path, ""));
    let mut done = Vec::new();
    for answer in futures_util::future::join_all(asked).await {
        let answer = answer?;
        match answer.status {
            202 => done.push(answer.bytes),
            _ => {
                answer.is_problem(409, "request_in_progress");
                assert_eq!(answer.header("retry-after"), Some("1"));
            }
        }
    }
    assert!(!done.is_empty() && done.iter().all(|bytes| *bytes == done[0]), "{done:?}");
    talk.service.all_ended().await?;
    // After the call has ended, the response is still that of the hang-up.
    assert_eq!(client.once("hang-up", &path, "").await?.bytes, done[0]);
    client.act(&id, "hangup", json!({})).await?.is_problem(409, "call_ended");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_whoever_sent_it() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let replay = "/v1/dead_letters/replay";
    let admin = Client::new(&talk.service, ADMIN);
    let play = format!("/v1/calls/{id}/actions/play");
    assert_eq!(client.once("k", &play, &json!({ "prompts": ["hold"] }).to_string()).await?.status, 202);
    assert_eq!(admin.once("k", replay, "{}").await?.status, 202);
    // A key without the scope learns nothing of other keys' requests.
    Client::new(&talk.service, READER).once("k", &play, "{}").await?.is_problem(403, "missing_scope");
    Ok(())
}

/// The file is locked, as by a hanging backup.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_cannot_be_written_holds_up_no_command() -> anyhow::Result<()> {
    let (mut talk, client) = talk().await?;
    let id = talk.service.event("call.accepted").await?.call_id.to_string();
    let holder = rusqlite::Connection::open(talk.service.folder.0.join("patchcord.db"))?;
    holder.busy_timeout(DEADLINE)?;
    holder.execute_batch("BEGIN IMMEDIATE")?;
    let play = format!("/v1/calls/{id}/actions/play");
    let done = client.once("k", &play, &json!({ "prompts": ["hold"] }).to_string()).await?;
    assert_eq!((done.status, done.header("idempotency-replayed")), (202, Some("unknown")), "{done:?}");
    assert_eq!(client.act(&id, "hangup", json!({})).await?.status, 202);
    talk.service.event("call.ended").await?;
    talk.service.all_ended().await?;
    // Its record waits in memory, and is found there.
    let past = client.get(&format!("/v1/calls/{id}")).await?;
    assert_eq!((past.status, &past.body["reason"]), (200, &"hung_up_by_api".into()), "{past:?}");
    assert_eq!(client.get("/v1/calls?state=ended").await?.body["calls"], json!([past.body]));
    holder.execute_batch("ROLLBACK")?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_key_is_refused_and_a_get_needs_none() -> anyhow::Result<()> {
    let service = TestService::start_with("prompt:goodbye", with_keys()).await?;
    let client = Client::new(&service, WRITER);
    let path = "/v1/calls/call_01k0000000000000000000000a/actions/hangup";
    for key in ["", "with space", &"k".repeat(256), "\u{e9}"] {
        client.once(key, path, "{}").await?.is_problem(400, "invalid_idempotency_key");
    }
    client.once(&"k".repeat(255), path, "{}").await?.is_problem(404, "call_not_found");
    client.once("large", path, &"a".repeat(1024 * 1024 + 1)).await?.is_problem(413, "body_too_large");
    Ok(())
}
