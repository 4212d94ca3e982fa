//! A reader of events that reconnects: it resumes after the last event it knows, and misses nothing.

use serde_json::Value;
use tokio_tungstenite::tungstenite::{Error, http::StatusCode};

use super::client::{self, READER};
use super::receiver::Receiver;
use crate::people::quiet_caller;
use crate::service::TestService;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_goes_on_behind_the_last_event_it_knows_with_the_bytes_that_webhooks_get() -> anyhow::Result<()> {
    let mut receiver = Receiver::start().await?;
    let mut service = TestService::start_with("prompt:hold,hold", receiver.options()).await?;
    let mut socket = client::open_events(&service, READER).await?;
    let call = service.call(quiet_caller()).await?;
    service.event("call.accepted").await?;
    let mut seen = vec![client::next_text(&mut socket).await?, client::next_text(&mut socket).await?];
    drop(socket);
    call.hang_up().await?;
    service.event("call.ended").await?;

    // Disconnected until after the end: all missed events arrive, then live ones.
    let last: Value = serde_json::from_str(&seen[1])?;
    let query = format!("?after={}", last["id"].as_str().unwrap_or_default());
    let mut socket = client::open_events_at(&service, READER, &query).await?;
    let posted = receiver.until_end().await?;
    while seen.len() < posted.len() {
        seen.push(client::next_text(&mut socket).await?);
    }
    assert_eq!(seen, posted);
    let call = service.call(quiet_caller()).await?;
    assert_eq!(client::next(&mut socket).await?["type"], "call.incoming");
    service.event("call.accepted").await?;
    call.hang_up().await?;
    client::next_of(&mut socket, "call.ended").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_nobody_knows_is_told_before_the_socket_opens() -> anyhow::Result<()> {
    let receiver = Receiver::start().await?;
    let service = TestService::start_with("prompt:hold", receiver.options()).await?;
    for (query, status) in [
        ("?after=evt_01k0000000000000000000000a", StatusCode::GONE),
        ("?after=7", StatusCode::BAD_REQUEST),
        ("?after=", StatusCode::BAD_REQUEST),
    ] {
        let error = client::open_events_at(&service, READER, query).await.err();
        let refused = error.and_then(|error| error.downcast::<Error>().ok());
        let Some(Error::Http(response)) = refused else { anyhow::bail!("{query}: {refused:?}") };
        assert_eq!(response.status(), status, "{query}");
    }
    Ok(())
}
