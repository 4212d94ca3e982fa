//! The service runs out of file descriptors for a while.

use anyhow::Context;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::{Announce, CallerOptions, Stage};
use patchcord_simulator::meta::{Meta, MetaOptions, Reply};
use tokio::net::TcpStream;

use crate::drills::report;
use crate::people::{agent, caller};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions};

/// Idle clients take no descriptor that a call needs.
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
    // A client that has just connected is not evicted, so there is room only a moment later.
    let metrics = format!("{}/metrics", program.url());
    let served = async { while !reqwest::get(&metrics).await.is_ok_and(|reply| reply.status() == 200) {} };
    tokio::time::timeout(DEADLINE, served).await.context("idle clients keep everybody else out")?;
    for _ in 0..3 {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::FirstPacket).await?;
        call.hang_up().await?;
        program.line_with(": the caller hung up").await?;
    }
    let log = program.finish().await?;
    assert!(log.contains("96 open files are too few for 1000 calls"), "{log}");
    assert!(!log.contains("no socket can be opened") && !log.contains("no file descriptors are left"), "{log}");
    report("idle clients", &format!("{} on {DESCRIPTORS} descriptors: 3 of 3 calls accepted", 2 * DESCRIPTORS));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passing_lack_of_descriptors_costs_no_later_call() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let mut program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    let webhooks = Webhooks::open(&program, &meta).await?;
    let lost = meta.place_call(CallerOptions { announce: Announce::ByHand, ..caller() }).await?;
    let before = program.limit_files(Some(1))?;
    assert_eq!(before.current, before.maximum, "the limit was raised at the start");
    webhooks.post(lost.connect_body()).await?;
    let told = program.line_with("no socket can be opened").await?;
    assert!(told.contains("raise the limit nofile"), "{told}");
    program.line_with("the system gives no more sockets").await?;

    program.limit_files(None)?;
    for _ in 0..2 {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::FirstPacket).await?;
        call.hang_up().await?;
        program.line_with(": the caller hung up").await?;
    }
    let log = program.finish().await?;
    assert_eq!(log.matches("no socket can be opened").count(), 1, "{log}");
    assert!(!log.contains("is passed over"), "{log}");
    report("descriptors gone and back", "1 call refused meanwhile, 2 of 2 accepted afterwards, no port lost");
    Ok(())
}

/// The open connection to Graph is busy with another call, so this call needs a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_to_meta_without_a_descriptor_is_not_metas_fault() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let agent = Agent::start(agent()).await?;
    let options = TestOptions {
        // No agent is dialled, so the call does not fail for lack of one first.
        route: "answer = \"on_command\"".to_owned(),
        calls: "graph_budget = \"2s\"".to_owned(),
        ..TestOptions::default()
    };
    let mut program = Program::start(&folder, &meta, &agent, options).await?;
    let webhooks = Webhooks::open(&program, &meta).await?;
    meta.script("pre_accept", vec![Reply::Delay(DEADLINE, Box::new(Reply::Ok))]);
    let busy = meta.place_call(caller()).await?;
    meta.wait_for_request("pre_accept", 1).await?;
    let lost = meta.place_call(CallerOptions { announce: Announce::ByHand, ..caller() }).await?;
    program.limit_files(Some(1))?;
    webhooks.post(lost.connect_body()).await?;
    let told = program.line_with("Meta was not asked").await?;
    assert!(told.contains("Too many open files") && told.contains("raise the limit nofile"), "{told}");
    let ended = program.line_with(": pre_accept failed: the system gives no more sockets").await?;
    assert!(ended.contains("operator"), "{ended}");

    program.limit_files(None)?;
    // Meta is still told that the call is over.
    meta.wait_for_request("reject", 1).await?;
    drop(busy);
    let call = meta.place_call(caller()).await?;
    call.wait_until(Stage::PreAccepted).await?;
    program.finish().await?;
    report("no descriptor for Graph", "1 call ended as the operator's shortage, rejected at Meta afterwards");
    Ok(())
}

/// Meta's webhooks on one connection that stays open, so that they need no descriptor of the program.
struct Webhooks<'a> {
    http: reqwest::Client,
    url: String,
    meta: &'a Meta,
}

impl<'a> Webhooks<'a> {
    async fn open(program: &Program, meta: &'a Meta) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder().no_proxy().build()?;
        let webhooks = Self { http, url: format!("{}/webhooks/whatsapp", program.url()), meta };
        webhooks.post(r#"{"object":"whatsapp_business_account","entry":[]}"#.to_owned()).await?;
        Ok(webhooks)
    }

    async fn post(&self, body: String) -> anyhow::Result<()> {
        let request = self.http.post(&self.url).header("x-hub-signature-256", self.meta.signature(body.as_bytes()));
        // Read to its end, so that the connection stays.
        request.body(body).send().await?.error_for_status()?.text().await?;
        Ok(())
    }
}
