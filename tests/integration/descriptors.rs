//! The service runs out of file descriptors for a while.

use anyhow::Context;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Announce, CallerOptions, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions};
use tokio::net::TcpStream;

use crate::drills::report;
use crate::people::{agent, caller};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions};

/// Clients that connect and wait take no descriptor that a call needs.
#[tokio::test(flavor = "multi_thread")]
async fn http_leaves_calls_their_descriptors() -> anyhow::Result<()> {
    const DESCRIPTORS: usize = 96;
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let options = TestOptions { http: "max_connections = 1000".to_owned(), ..TestOptions::default() };
    let mut program = Program::start_with_descriptors(&folder, &meta, &agent, options, DESCRIPTORS).await?;
    let address = program.url().strip_prefix("http://").context("an address")?.to_owned();
    let mut idle = Vec::new();
    for _ in 0..2 * DESCRIPTORS {
        idle.push(TcpStream::connect(&address).await?);
    }
    // A client that has just come does not give way to the next one, so there is room only a moment later.
    let metrics = format!("{}/metrics", program.url());
    let served = async { while !reqwest::get(&metrics).await.is_ok_and(|reply| reply.status() == 200) {} };
    tokio::time::timeout(DEADLINE, served).await.context("idle clients keep everybody else out")?;
    for _ in 0..3 {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::Accepted).await?;
        call.hang_up().await?;
        program.line_with(": the caller hung up").await?;
    }
    let log = program.finish().await?;
    assert!(log.contains("96 open files are too few for 1000 calls"), "{log}");
    assert!(!log.contains("no socket can be opened") && !log.contains("no more file descriptors"), "{log}");
    report("idle clients", &format!("{} on {DESCRIPTORS} descriptors: 3 of 3 calls accepted", 2 * DESCRIPTORS));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_lack_of_descriptors_costs_no_later_call() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let mut program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    let (http, url) = (reqwest::Client::builder().no_proxy().build()?, format!("{}/webhooks/whatsapp", program.url()));
    let post = async |body: String| {
        let request = http.post(&url).header("x-hub-signature-256", meta.signature(body.as_bytes()));
        // Read to its end, so that the connection stays.
        request.body(body).send().await?.error_for_status()?.text().await
    };
    post(r#"{"object":"whatsapp_business_account","entry":[]}"#.to_owned()).await?;
    let lost = meta.place_call(CallerOptions { announce: Announce::ByHand, ..caller() }).await?;
    let before = program.limit_files(Some(1))?;
    assert_eq!(before.current, before.maximum, "the limit was raised at the start");
    post(lost.connect_body()).await?;
    let told = program.line_with("no socket can be opened").await?;
    assert!(told.contains("raise the limit nofile"), "{told}");
    program.line_with("the system gives no more sockets").await?;

    program.limit_files(None)?;
    for _ in 0..2 {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::Accepted).await?;
        call.hang_up().await?;
        program.line_with(": the caller hung up").await?;
    }
    let log = program.finish().await?;
    assert_eq!(log.matches("no socket can be opened").count(), 1, "{log}");
    assert!(!log.contains("is passed over"), "{log}");
    report("descriptors gone and back", "1 call refused meanwhile, 2 of 2 accepted afterwards, no port lost");
    Ok(())
}
