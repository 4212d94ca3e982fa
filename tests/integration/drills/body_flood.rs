//! A flood of large webhooks that nobody signed: their bodies share one bounded memory, and calls come through.

use anyhow::Context;
use futures_util::future::join_all;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::call::Stage;
use patchcord_simulator::meta::{Meta, MetaOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{memory_mb, report};
use crate::people::{AGENT_HZ, SECOND, agent, caller, caller_hears_next, heard_voices, objections};
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions};

const CLIENTS: usize = 300;
/// Meta's largest.
const BODY: usize = 3 * 1024 * 1024;
/// `http.max_webhook_bytes`, by default 32 MiB, twice because a buffer that grows is copied, and for each connection its
/// buffer and the uncounted part of its body, with the allocator's slack. All bodies together have 900 MB.
const MOST_MB: u64 = 64 + 150;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "sends 900 MB: make drills"]
async fn a_flood_of_large_unsigned_bodies_takes_bounded_memory() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let (meta, agent) = (Meta::start(MetaOptions::default()).await?, Agent::start(agent()).await?);
    let program = Program::start(&folder, &meta, &agent, TestOptions::default()).await?;
    let live = meta.place_call(caller()).await?;
    live.wait_until(Stage::Accepted).await?;
    caller_hears_next(&live, SECOND).await?;
    let before = memory_mb(program.id(), "VmRSS")?;

    let request = request();
    let flood = join_all((0..CLIENTS).map(|_| status_of(program.url(), &request)));
    let during = async {
        let call = meta.place_call(caller()).await?;
        call.wait_until(Stage::Accepted).await?;
        caller_hears_next(&live, SECOND).await
    };
    let (statuses, heard) = tokio::join!(flood, during);
    assert_eq!(heard_voices(&heard?), [AGENT_HZ], "{}", live.seen());
    assert_eq!(objections(&live), [], "{}", live.seen());
    let statuses = statuses.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let count = |wanted: Option<u16>| statuses.iter().filter(|status| **status == wanted).count();
    let (unsigned, no_room, cut) = (count(Some(401)), count(Some(503)), count(None));
    assert_eq!(unsigned + no_room + cut, CLIENTS, "{statuses:?}");
    let more = memory_mb(program.id(), "VmHWM")?.saturating_sub(before);
    assert!(more <= MOST_MB, "{more} MB");
    report(
        "flood of large bodies",
        &format!(
            "{CLIENTS} unsigned bodies of 3 MB at once: {more} MB more at the peak ({before} MB before), {unsigned} read \
             and refused, {} refused unread, 1 of 1 call accepted",
            no_room + cut
        ),
    );
    Ok(())
}

fn request() -> Vec<u8> {
    let head = format!("POST /webhooks/whatsapp HTTP/1.1\r\nhost: a\r\ncontent-length: {BODY}\r\n\r\n");
    [head.into_bytes(), vec![b' '; BODY]].concat()
}

/// The status of the response; None if the connection was cut before it.
async fn status_of(service: &str, request: &[u8]) -> anyhow::Result<Option<u16>> {
    let address = service.strip_prefix("http://").context("an address")?;
    let asked = async {
        let mut client = TcpStream::connect(address).await?;
        // It fails if the service has refused it already.
        let _ = client.write_all(request).await;
        let mut head = [0; 12];
        let is_whole = client.read_exact(&mut head).await.is_ok();
        let status = std::str::from_utf8(&head).ok().and_then(|head| head.strip_prefix("HTTP/1.1 ")?.parse().ok());
        anyhow::Ok(status.filter(|_| is_whole))
    };
    timeout(DEADLINE, asked).await.context("there is no answer")?
}
