//! Slow clients, and more of them than there is room for: each is cut off in time, and the probes of an
//! orchestrator are answered meanwhile.

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use patchcord_simulator::agent::Agent;
use patchcord_simulator::meta::{Meta, MetaOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::drills::report;
use crate::people::agent;
use crate::program::Program;
use crate::service::{DEADLINE, Folder, TestOptions, TestService};

const EMPTY: &str = r#"{"object":"whatsapp_business_account","entry":[]}"#;
/// Longer than any test.
const NEVER: &str = "1h";

/// A service with these keys of `[http]`; other deadlines never pass.
async fn service(http: &[(&str, &str)]) -> anyhow::Result<TestService> {
    TestService::start_with("prompt:goodbye", options(http)).await
}

fn options(http: &[(&str, &str)]) -> TestOptions {
    let timeouts = ["head_timeout", "body_timeout", "write_timeout", "idle_timeout"];
    let never = timeouts.iter().filter(|name| http.iter().all(|(given, _)| given != *name));
    let never = never.map(|name| format!("{name} = \"{NEVER}\"\n"));
    let given = http.iter().map(|(name, value)| match value.parse::<u64>().is_ok() || value.starts_with('[') {
        true => format!("{name} = {value}\n"),
        false => format!("{name} = \"{value}\"\n"),
    });
    TestOptions { http: never.chain(given).collect(), ..TestOptions::default() }
}

/// A client on a raw socket.
struct Raw(TcpStream);

impl Raw {
    async fn connect(service: &str) -> anyhow::Result<Self> {
        let address = service.strip_prefix("http://").context("an address")?.trim_end_matches('/');
        Ok(Self(timeout(DEADLINE, TcpStream::connect(address)).await??))
    }

    /// Connects and sends this.
    async fn say(service: &str, text: &str) -> anyhow::Result<Self> {
        let mut client = Self::connect(service).await?;
        client.0.write_all(text.as_bytes()).await?;
        Ok(client)
    }

    /// Connects and stops in the middle of a webhook's body, once the service reads it.
    async fn busy(service: &str) -> anyhow::Result<Self> {
        let mut client = Self::say(service, &post(EMPTY.len(), "expect: 100-continue\r\n")).await?;
        client.stop_in_body().await?;
        Ok(client)
    }

    async fn stop_in_body(&mut self) -> anyhow::Result<()> {
        assert_eq!(self.status().await?, 100);
        Ok(self.0.write_all(&EMPTY.as_bytes()[..10]).await?)
    }

    /// Sends the rest of the body.
    async fn finish(&mut self) -> anyhow::Result<u16> {
        self.0.write_all(&EMPTY.as_bytes()[10..]).await?;
        self.status().await
    }

    /// The status of the next response; its body is read too.
    async fn status(&mut self) -> anyhow::Result<u16> {
        let read = async {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(self.0.read_u8().await.context("the head of an answer")?);
            }
            let head = String::from_utf8(head)?.to_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            let mut body = vec![0; length.map_or(Ok(0), str::parse)?];
            self.0.read_exact(&mut body).await.context("the body of an answer")?;
            anyhow::Ok(head.split(' ').nth(1).context("a status")?.parse()?)
        };
        timeout(DEADLINE, read).await.context("there is no answer")?
    }

    /// Waits until the service has closed the connection without a response.
    async fn ends_closed(mut self) -> anyhow::Result<()> {
        let mut rest = Vec::new();
        match timeout(DEADLINE, self.0.read_to_end(&mut rest)).await.context("the connection stays open")? {
            Ok(_) => assert_eq!(String::from_utf8_lossy(&rest), ""),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset),
        }
        Ok(())
    }

    /// Whether nothing has arrived, not even the end of the stream.
    fn is_open(&self) -> bool {
        matches!(self.0.try_read(&mut [0]), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
    }
}

/// The head of a webhook.
fn post(length: usize, headers: &str) -> String {
    format!("POST /webhooks/whatsapp HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n{headers}\r\n")
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")
}

async fn ask(service: &str, path: &str) -> anyhow::Result<u16> {
    Raw::say(service, &get(path)).await?.status().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_whole_is_waited_for_only_so_long() -> anyhow::Result<()> {
    let service = service(&[("head_timeout", "200ms")]).await?;
    let url = service.url("");
    let mut half_open = Vec::new();
    for begun in ["", "G", "GET /livez HTTP/1.1\r\n", "POST /webhooks/whatsapp HTTP/1.1\r\nhost: a\r\ncontent-len"] {
        for _ in 0..5 {
            half_open.push(Raw::say(&url, begun).await?);
        }
    }
    assert_eq!(ask(&url, "/livez").await?, 200);
    // Also after a complete request.
    let mut second = Raw::say(&url, &get("/readyz")).await?;
    assert_eq!(second.status().await?, 200);
    second.0.write_all(b"GET /readyz").await?;
    half_open.push(second);
    for client in half_open {
        client.ends_closed().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_go_on_is_answered_408() -> anyhow::Result<()> {
    let service = service(&[("body_timeout", "200ms")]).await?;
    let url = service.url("");
    let mut slow = Raw::busy(&url).await?;
    let mut chunked = Raw::say(
        &url,
        "POST /webhooks/whatsapp HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n",
    )
    .await?;
    for client in [&mut slow, &mut chunked] {
        assert_eq!(client.status().await?, 408);
    }
    slow.ends_closed().await?;
    chunked.ends_closed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_asks_and_never_reads_is_cut() -> anyhow::Result<()> {
    let service = service(&[("write_timeout", "200ms")]).await?;
    let mut client = Raw::connect(&service.url("")).await?;
    let request = get("/openapi.json").repeat(100);
    // Once the buffers of both sockets are full, both sides block until the service closes.
    let asked = timeout(DEADLINE, async { while client.0.write_all(request.as_bytes()).await.is_ok() {} });
    asked.await.context("the service holds the connection for ever")?;
    assert_eq!(service.get("/livez").await?.status, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_next_request_is_closed() -> anyhow::Result<()> {
    let service = service(&[("idle_timeout", "200ms")]).await?;
    let mut client = Raw::say(&service.url(""), &get("/livez")).await?;
    assert_eq!(client.status().await?, 200);
    client.ends_closed().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_without_measure_is_refused() -> anyhow::Result<()> {
    let service = service(&[]).await?;
    let long = format!("GET /livez HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(1_000_000));
    let mut client = Raw::connect(&service.url("")).await?;
    // It is refused before it is complete.
    let _ = client.0.write_all(long.as_bytes()).await;
    assert_eq!(client.status().await?, 431);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_only_wait_give_way_to_new_ones() -> anyhow::Result<()> {
    let service = service(&[("max_connections", "3")]).await?;
    let url = service.url("");
    let mut kept = Raw::say(&url, &get("/livez")).await?;
    assert_eq!(kept.status().await?, 200);
    let body = EMPTY.as_bytes();
    let signed = format!("x-hub-signature-256: {}\r\n", service.meta.signature(body));
    kept.0.write_all((post(body.len(), &signed) + EMPTY).as_bytes()).await?;
    assert_eq!(kept.status().await?, 200);
    let half_open = [Raw::say(&url, "GET").await?, Raw::say(&url, "GET").await?];
    let third = client_with_room(&url).await?;
    let [first, second] = half_open;
    first.ends_closed().await?;
    assert!(second.is_open());
    // Unknown clients are evicted before a connection that has presented Meta's signature.
    let fourth = client_with_room(&url).await?;
    second.ends_closed().await?;
    kept.0.write_all(get("/livez").as_bytes()).await?;
    assert_eq!(kept.status().await?, 200);
    drop((third, fourth));
    Ok(())
}

/// Retries until it is not refused: a connection that has just been opened is not evicted at once.
async fn client_with_room(url: &str) -> anyhow::Result<Raw> {
    let asked = async {
        loop {
            let mut client = Raw::say(url, &get("/metrics")).await?;
            if client.status().await? == 200 {
                break anyhow::Ok(client);
            }
        }
    };
    timeout(DEADLINE, asked).await.context("nothing gives way")?
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_connections_are_busy_the_probes_are_answered_and_nothing_else() -> anyhow::Result<()> {
    let service = service(&[("max_connections", "3")]).await?;
    let url = service.url("");
    let mut busy = Vec::new();
    for _ in 0..3 {
        busy.push(Raw::busy(&url).await?);
    }
    for _ in 0..10 {
        // Some send nothing.
        let _silent = Raw::connect(&url).await?;
        assert_eq!(ask(&url, "/livez").await?, 200);
        assert_eq!(ask(&url, "/readyz").await?, 200);
        assert_eq!(ask(&url, "/metrics").await?, 503);
        let posted = service.post_signed(EMPTY).await?;
        assert_eq!((posted.status, posted.content_type.as_str()), (503, "application/problem+json"));
    }
    for client in &mut busy {
        assert_eq!(client.finish().await?, 401, "nobody has signed it");
    }
    assert_eq!(ask(&url, "/metrics").await?, 200);
    assert_eq!(service.post_signed(EMPTY).await?.status, 200);
    report("all connections busy", "20 of 20 probes answered 200, everything else 503");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_address_has_its_share_unless_it_shows_who_it_is() -> anyhow::Result<()> {
    let service = service(&[("max_connections_per_address", "2"), ("proxies", "[]")]).await?;
    let url = service.url("");
    let signed = format!("x-hub-signature-256: {}\r\n", service.meta.signature(EMPTY.as_bytes()));
    let mut known = Vec::new();
    for _ in 0..3 {
        let mut client = Raw::say(&url, &(post(EMPTY.len(), &signed) + EMPTY)).await?;
        assert_eq!(client.status().await?, 200);
        client.0.write_all(post(EMPTY.len(), "expect: 100-continue\r\n").as_bytes()).await?;
        client.stop_in_body().await?;
        known.push(client);
    }
    let _strangers = [Raw::busy(&url).await?, Raw::busy(&url).await?];
    assert_eq!(ask(&url, "/metrics").await?, 503);
    assert_eq!(ask(&url, "/livez").await?, 200);
    assert!(known.iter().all(Raw::is_open));

    let behind_a_proxy =
        TestService::start_with("prompt:goodbye", options(&[("max_connections_per_address", "2")])).await?;
    let url = behind_a_proxy.url("");
    let mut clients = Vec::new();
    for _ in 0..10 {
        clients.push(Raw::busy(&url).await?);
    }
    assert_eq!(ask(&url, "/metrics").await?, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_share_a_bounded_memory_and_calls_come_through() -> anyhow::Result<()> {
    const MOST: usize = 3 * 1024 * 1024;
    let service = service(&[("max_webhook_bytes", &MOST.to_string())]).await?;
    let url = service.url("");
    // There is no room for two of them, so all but one are refused, although none is complete.
    let unfinished = post(MOST, "") + &" ".repeat(MOST - 1);
    let mut clients: FuturesUnordered<_> = (0..20).map(|_| status_of_unfinished(&url, &unfinished)).collect();
    for _ in 0..19 {
        assert_eq!(clients.next().await.context("a client")??, 503);
    }
    let padded = |length: usize| EMPTY.to_owned() + &" ".repeat(length - EMPTY.len());
    assert_eq!(service.post_signed(padded(10_000)).await?.status, 200);
    drop(clients);
    let is_taken = async || service.post_signed(padded(MOST)).await.is_ok_and(|posted| posted.status == 200);
    let taken = async { while !is_taken().await {} };
    timeout(DEADLINE, taken).await.context("the memory is not given back")
}

async fn status_of_unfinished(url: &str, request: &str) -> anyhow::Result<u16> {
    let mut client = Raw::connect(url).await?;
    // It fails if the service has refused it already.
    let _ = client.0.write_all(request.as_bytes()).await;
    client.status().await
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_the_probes_are_answered() -> anyhow::Result<()> {
    const DESCRIPTORS: usize = 96;
    for is_busy in [false, true] {
        let folder = Folder::new()?;
        let meta = Meta::start(MetaOptions::default()).await?;
        let agent = Agent::start(agent()).await?;
        let options = options(&[("max_connections", "1000")]);
        let mut program = Program::start(&folder, &meta, &agent, options).await?;
        program.limit_files(Some(DESCRIPTORS as u64))?;
        let url = program.url().to_owned();
        let says = if is_busy { post(1000, "") + "abc" } else { "GET /livez".to_owned() };
        let mut clients = Vec::new();
        for _ in 0..DESCRIPTORS {
            clients.push(Raw::say(&url, &says).await?);
        }
        program.line_with("no file descriptors are left").await?;
        assert_eq!(ask(&url, "/livez").await?, 200);
        if is_busy {
            // Their end is not what made room.
            let open = clients.iter().filter(|client| client.is_open()).count();
            assert!(open > DESCRIPTORS / 3, "{open} are open");
        }
        drop(clients);
        program.signal("TERM")?;
        assert!(program.ended().await?.success());
    }
    Ok(())
}
