//! Requests that the simulator accepts and refuses, and its reports.

mod incoming;
mod page;

use std::net::Ipv4Addr;

use patchcord_simulator::sound;

use super::order::Order;
use super::*;
use crate::store::tests::Folder;

/// The simulator's door, and its fake Meta's URL for webhooks still to be set.
async fn door(meta: Meta, output: PathBuf) -> anyhow::Result<String> {
    door_of(meta, output, None).await
}

/// The same beside a service.
async fn door_of(meta: Meta, output: PathBuf, app: Option<&App>) -> anyhow::Result<String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let simulation = Simulation::new(meta, output, Target::Echo, app);
    tokio::spawn(axum::serve(listener, router(simulation)).into_future());
    Ok(format!("http://{address}/calls"))
}

async fn post_to(door: &str, body: impl Into<String>) -> anyhow::Result<(u16, String)> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().build()?;
    let answer = http.post(door).body(body.into()).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_makes_no_call_is_refused_with_a_sentence() -> anyhow::Result<()> {
    let folder = Folder::new();
    let meta = Meta::start(MetaOptions::default()).await?;
    let door = door(meta, folder.path().to_owned()).await?;
    let text = folder.path().join("speech.txt");
    std::fs::write(&text, "no sound")?;
    for (body, sentence) in [
        (r#"{"seconds": -5}"#.to_owned(), "seconds: give a number above 0, at most 600"),
        (r#"{"seconds": 0}"#.to_owned(), "seconds: "),
        (r#"{"seconds": 1e9}"#.to_owned(), "seconds: "),
        (r#"{"seconds": 600.1}"#.to_owned(), "seconds: "),
        (r#"{"seconds": 1e999}"#.to_owned(), "the body: "),
        (r#"{"seconds": NaN}"#.to_owned(), "the body: "),
        (r#"{"seconds": null}"#.to_owned(), "the body: "),
        (r#"{"minutes": 5}"#.to_owned(), "unknown field"),
        (r#"{"from": "+1 202 555"}"#.to_owned(), "from: "),
        (r#"{"from": ""}"#.to_owned(), "from: "),
        (format!(r#"{{"from": "{}"}}"#, "1".repeat(16)), "from: "),
        (format!(r#"{{"name": "{}"}}"#, "n".repeat(101)), "name: "),
        (r#"{"digits": "12x"}"#.to_owned(), "digits: "),
        (format!(r#"{{"digits": "{}"}}"#, "1".repeat(65)), "digits: "),
        (r#"{"speech": "/nowhere/at-all.wav"}"#.to_owned(), "speech: /nowhere/at-all.wav"),
        (r#"{"speech": "/dev/zero"}"#.to_owned(), "is no file"),
        (format!(r#"{{"speech": {text:?}}}"#), "speech: "),
        ("seconds=5".to_owned(), "the body: "),
    ] {
        let (status, said) = post_to(&door, body.clone()).await?;
        assert_eq!(status, 400, "{body}: {said}");
        assert!(said.contains(sentence), "{body}: {said}");
    }
    Ok(())
}

#[test]
fn a_number_that_is_none_is_in_no_range() {
    for seconds in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0] {
        assert!(Order { seconds, ..Order::default() }.check().is_err(), "{seconds}");
    }
    assert_eq!(Order { seconds: 600.0, ..Order::default() }.check(), Ok(()));
    assert_eq!(Order { seconds: 0.001, ..Order::default() }.check(), Ok(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_reported_in_words() -> anyhow::Result<()> {
    let folder = Folder::new();
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(AgentOptions { greeting: sound::agent_clip(), ..AgentOptions::default() }).await?;
    let app = App::start(local_config(&meta, &LocalAgent::native(&agent.url()), folder.path())?).await?;
    meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
    let door = door_of(meta, folder.path().to_owned(), Some(&app)).await?;
    let (status, said) = post_to(&door, r#"{"seconds": 1, "digits": "5"}"#).await?;
    assert_eq!(status, 200, "{said}");
    let report: Value = serde_json::from_str(&said)?;
    assert_eq!(report["ended_by"], "caller", "{report}");
    for stage in ["pre_accepted", "media_up", "accepted", "first_packet", "first_sound", "ended"] {
        assert!(report["stages_ms"][stage].is_u64(), "{stage}: {report}");
    }
    assert_eq!(report["stages_ms"].as_object().map(serde_json::Map::len), Some(6), "{report}");
    assert_eq!(report["agent_failures"], json!([]), "{report}");
    app.stop(std::future::ready(())).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_says_why_there_was_no_agent() -> anyhow::Result<()> {
    let folder = Folder::new();
    let meta = Meta::start(MetaOptions::default()).await?;
    // It takes connections and ends them.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let url = format!("ws://{}/call", listener.local_addr()?);
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let app = App::start(local_config(&meta, &LocalAgent::native(&url), folder.path())?).await?;
    meta.set_webhook_url(format!("http://{}/webhooks/whatsapp", app.address));
    let door = door_of(meta, folder.path().to_owned(), Some(&app)).await?;
    let (status, said) = post_to(&door, r#"{"seconds": 30}"#).await?;
    assert_eq!(status, 200, "{said}");
    let report: Value = serde_json::from_str(&said)?;
    assert_eq!(report["ended_by"], "terminated", "{report}");
    let failures = report["agent_failures"].as_array().cloned().unwrap_or_default();
    let [failure] = failures.as_slice() else { anyhow::bail!("one failure: {report}") };
    assert!(failure.as_str().is_some_and(|failure| failure.starts_with("refused: ")), "{report}");
    app.stop(std::future::ready(())).await;
    Ok(())
}
