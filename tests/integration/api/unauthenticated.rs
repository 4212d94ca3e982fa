//! Clients without a key: guessed keys, and closed pages.

use anyhow::Context;
use reqwest::Method;
use tokio::time::timeout;

use super::client::{Answer, Client, METRICS, READER, WRITER};
use super::with_keys;
use crate::service::{DEADLINE, TestOptions, TestService, counter};

const WRONG: &str = "patchcord_writer_wrong";

/// Guesses until it is refused; gives the number of guesses.
async fn guess(client: &Client) -> anyhow::Result<(usize, Answer)> {
    let refused = async {
        for guesses in 0.. {
            let answer = client.get("/v1/calls").await?;
            if answer.status == 429 {
                return Ok((guesses, answer));
            }
            answer.is_problem(401, "key_unknown");
        }
        anyhow::bail!("there is no end")
    };
    timeout(DEADLINE, refused).await.context("guesses are not refused")?
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_guesses_keys_is_refused_for_a_while() -> anyhow::Result<()> {
    let options = TestOptions { http: "proxies = []".to_owned(), ..with_keys() };
    let service = TestService::start_with("prompt:goodbye", options).await?;
    let before = counter(r#"patchcord_api_refused_total{code="too_many_wrong_keys"}"#);
    let (guesses, refused) = guess(&Client::new(&service, WRONG)).await?;
    assert!(guesses >= 20, "{guesses}");
    refused.is_problem(429, "too_many_wrong_keys");
    assert!(refused.header("retry-after").is_some());
    assert!(counter(r#"patchcord_api_refused_total{code="too_many_wrong_keys"}"#) > before);
    assert_eq!(Client::new(&service, READER).get("/v1/calls").await?.status, 200, "another key");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_a_proxy_the_client_is_refused_that_guesses_and_no_other() -> anyhow::Result<()> {
    let service = TestService::start_with("prompt:goodbye", with_keys()).await?;
    let guesser = |key| Client::new(&service, key).through_a_proxy("10.9.9.9, 203.0.113.1");
    guess(&guesser(WRONG)).await?;
    guesser(WRITER).get("/v1/calls").await?.is_problem(429, "too_many_wrong_keys");
    let app = Client::new(&service, WRITER).through_a_proxy("203.0.113.1, 203.0.113.2");
    assert_eq!(app.get("/v1/calls").await?.status, 200);
    // If the proxy names no client, no client is refused for another's guesses.
    for _ in 0..50 {
        Client::new(&service, WRONG).get("/v1/calls").await?.is_problem(401, "key_unknown");
    }
    assert_eq!(Client::new(&service, WRITER).get("/v1/calls").await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_can_be_closed_to_those_without_a_key() -> anyhow::Result<()> {
    let mut options = with_keys();
    let open = TestService::start_with("prompt:goodbye", options.clone()).await?;
    options.api.push_str("\nclosed = [\"/metrics\", \"/openapi.json\"]");
    let closed = TestService::start_with("prompt:goodbye", options).await?;
    for (page, opens, scope) in [("/metrics", METRICS, "metrics:read"), ("/openapi.json", READER, "calls:read")] {
        assert_eq!(Client::new(&open, "").get(page).await?.status, 200, "{page}");
        assert_eq!(Client::new(&closed, opens).get(page).await?.status, 200, "{page}");
        Client::new(&closed, "").get(page).await?.is_problem(401, "key_missing");
        let other = if opens == METRICS { READER } else { METRICS };
        let refused = Client::new(&closed, other).get(page).await?;
        refused.is_problem(403, "missing_scope");
        assert_eq!(refused.body["scope"], scope);
        Client::new(&closed, opens).ask(Method::POST, page, None).await.map(|answer| assert_eq!(answer.status, 405))?;
    }
    for probe in ["/livez", "/readyz"] {
        assert_eq!(Client::new(&closed, "").get(probe).await?.status, 200);
    }
    Ok(())
}
