//! Agents that refuse the connection: the cause is in the event, in `/v1/agents`, and in the log. Also the valid responses
//! to our upgrade request.

use std::sync::Arc;

use anyhow::Context;
use patchcord_simulator::agent::{Agent, AgentOptions, Behaviour};
use patchcord_simulator::call::Stage;
use patchcord_simulator::meta::{Meta, MetaOptions};
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::api::client::{Client, READER, keys};
use crate::people::{
    AGENT_HZ, CALLER_HZ, SECOND, agent, caller, caller_hears_first, heard_voices, objections, quiet_caller,
};
use crate::program::Program;
use crate::service::{Folder, TestOptions, TestService};

const LIST: &str = include_str!("../fixtures/agent-upgrade/list.txt");
const TWO_LINES: &str = include_str!("../fixtures/agent-upgrade/two-lines.txt");

/// One after the other in one call: each fails for another reason, and the last one joins.
#[tokio::test(flavor = "multi_thread")]
async fn each_refusal_has_its_cause_in_the_event_and_in_the_api() -> anyhow::Result<()> {
    let mut servers = JoinSet::new();
    let closed = TcpSocket::new_v4()?;
    closed.bind("127.0.0.1:0".parse()?)?;
    let mut agents = Vec::new();
    let mut table = Vec::new();
    for (answer, cause) in [
        ("401 Unauthorized", "HTTP 401 Unauthorized"),
        ("403 Forbidden", "HTTP 403 Forbidden"),
        ("404 Not Found", "HTTP 404 Not Found"),
        ("200 OK", "HTTP 200 OK instead of a WebSocket"),
        ("426 Upgrade Required", "HTTP 426 Upgrade Required"),
        ("503 Service Unavailable", "HTTP 503 Service Unavailable"),
        ("302 Found\r\nLocation: ws://127.0.0.1/?confidential", "HTTP 302 Found, and redirects are not followed"),
    ] {
        let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 12\r\n\r\nconfidential");
        let agent = answering(answer).await?;
        table.push((agent.url(), cause));
        agents.push(agent);
    }
    for (line, cause) in [
        ("Sec-WebSocket-Protocol: chat", "a subprotocol that was not offered"),
        ("Sec-WebSocket-Accept: d3Jvbmc=", "Sec-WebSocket-Accept"),
    ] {
        let head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade";
        let accept = if line.contains("Accept") { "" } else { "Sec-WebSocket-Accept: ACCEPT\r\n" };
        let agent = answering(format!("{head}\r\n{accept}{line}\r\n\r\n")).await?;
        table.push((agent.url(), cause));
        agents.push(agent);
    }
    table.push((format!("ws://{}/call", closed.local_addr()?), "no TCP connection: Connection refused"));
    // A label of a name has at most 63 octets (RFC 1035 §2.3.4), so no resolver of any network knows this one.
    table.push((format!("ws://{}/call", "a".repeat(64)), "its host name cannot be resolved"));
    table.push((format!("wss://{}/call", plain_port(&mut servers).await?), "the answer is not TLS"));
    table.push((format!("ws://{}/call", tls_alert(&mut servers).await?), "the answer is TLS"));
    table.push((format!("wss://{}/call", unknown_certificate(&mut servers).await?), "certificate"));
    let joins = answering(LIST.to_owned()).await?;

    let fallback: Vec<String> = table[1..].iter().map(|(url, _)| url.clone()).chain([joins.url()]).collect();
    let first = format!("{}?token=confidential", table[0].0);
    let options = TestOptions { route: format!("fallback = {fallback:?}"), api: keys(), ..TestOptions::default() };
    let mut service = TestService::start_with(&first, options).await?;
    let call = service.call(quiet_caller()).await?;
    for (attempt, (url, cause)) in table.iter().enumerate() {
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!((&lost["attempt"], &lost["failure"]), (&attempt.into(), &"refused".into()), "{url}: {lost}");
        assert!(lost["detail"].as_str().is_some_and(|detail| detail.contains(cause)), "{url}, {cause}: {lost}");
    }
    assert_eq!(service.event("call.agent_joined").await?.data["attempt"], table.len());
    call.wait_until(Stage::FirstPacket).await?;

    let found = Client::new(&service, READER).get("/v1/agents").await?.body;
    let outcome_of = |url: &str| {
        let found = found["agents"].as_array()?.iter().find(|agent| agent["url"] == url)?;
        Some(found["last_outcome"].clone())
    };
    for (url, cause) in &table {
        let outcome = outcome_of(url).with_context(|| format!("{url} in {found}"))?;
        assert_eq!(outcome["outcome"], "refused", "{url}: {outcome}");
        assert!(outcome["detail"].as_str().is_some_and(|detail| detail.contains(cause)), "{url}, {cause}: {outcome}");
    }
    let outcome = outcome_of(&joins.url()).context("the agent that joined")?;
    assert_eq!((&outcome["outcome"], &outcome["detail"]), (&"joined".into(), &Value::Null));
    assert!(!found.to_string().contains("confidential"), "{found}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_does_not_answer_is_given_up_with_what_was_waited_for() -> anyhow::Result<()> {
    let silent = Agent::start(AgentOptions { behaviour: Behaviour::NeverAnswerHandshake, ..agent() }).await?;
    let secure = silent.url().replace("ws://", "wss://");
    let options = TestOptions {
        route: format!("fallback = [\"{secure}\"]"),
        calls: "agent_timeout = \"1s\"".to_owned(),
        ..TestOptions::default()
    };
    let mut service = TestService::start_with(&silent.url(), options).await?;
    let call = service.call(quiet_caller()).await?;
    for cause in ["the WebSocket upgrade took longer than 1 s", "the TLS handshake took longer than 1 s"] {
        let lost = service.event("call.agent_lost").await?.data;
        assert_eq!((&lost["failure"], &lost["detail"]), (&"no_answer".into(), &cause.into()), "{lost}");
    }
    let ended = service.end_of(&call).await?;
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("TLS handshake")), "{ended}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_says_why_an_agent_was_not_reached_and_nothing_secret() -> anyhow::Result<()> {
    let folder = Folder::new()?;
    let meta = Meta::start(MetaOptions::default()).await?;
    let answer = "HTTP/1.1 401 confidential\r\nSet-Cookie: confidential\r\nContent-Length: 12\r\n\r\nconfidential";
    let refusing = answering(answer.to_owned()).await?;
    let mut program = Program::start(&folder, &meta, &refusing, TestOptions::default()).await?;
    let _call = meta.place_call(quiet_caller()).await?;
    let line = program.line_with("could not be reached").await?;
    assert!(line.contains(" WARN ") && line.contains("HTTP 401 Unauthorized"), "{line}");
    let line = program.line_with("no_agent").await?;
    assert!(line.contains(" INFO ") && line.contains("HTTP 401 Unauthorized"), "{line}");
    let log = program.finish().await?;
    assert!(!log.contains("confidential"), "{log}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_is_taken_in_any_form_that_the_rfc_allows() -> anyhow::Result<()> {
    let with_hints = format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{TWO_LINES}");
    for answer in [LIST, TWO_LINES, &with_hints] {
        let agent = answering(answer.to_owned()).await?;
        let service = TestService::start(&agent.url()).await?;
        let call = service.call(caller()).await?;
        let session = agent.wait_for_session(1).await?;
        assert_eq!(session.header("sec-websocket-protocol"), Some("patchcord.v1"));
        assert_eq!(heard_voices(&caller_hears_first(&call, SECOND).await?), [AGENT_HZ], "{answer}");
        assert_eq!(heard_voices(&session.hear_for(SECOND).await?), [CALLER_HZ], "{answer}");
        assert_eq!(agent.connections(), 1, "{answer}");
        assert_eq!(objections(&call), [], "{}", call.seen());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_sends_right_behind_its_answer_is_not_lost() -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let mut service = TestService::start(&format!("ws://{}/call", listener.local_addr()?)).await?;
    let call = service.call(quiet_caller()).await?;
    let (mut stream, _) = listener.accept().await?;
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    let request = String::from_utf8(request)?;
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).context("a key")?;
    let mut answer = LIST.replace("ACCEPT", &derive_accept_key(key.as_bytes())).into_bytes();
    // One text frame (RFC 6455 §5.2), in the same segment.
    let bye = br#"{"type":"bye"}"#;
    answer.extend([0x81, bye.len() as u8]);
    answer.extend(bye);
    stream.write_all(&answer).await?;
    assert_eq!(service.end_of(&call).await?["reason"], "agent_hung_up");
    Ok(())
}

/// An agent that answers the upgrade with these bytes.
async fn answering(answer: String) -> anyhow::Result<Agent> {
    Agent::start(AgentOptions { behaviour: Behaviour::AnswerHandshake(answer), ..agent() }).await
}

/// A server without TLS. Gives its address.
async fn plain_port(servers: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<String> {
    saying(servers, b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n").await
}

/// A TLS server that gets a plain request.
async fn tls_alert(servers: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<String> {
    saying(servers, &[0x15, 0x03, 0x01, 0x00, 0x02, 0x02, 0x46]).await
}

async fn saying(servers: &mut JoinSet<anyhow::Result<()>>, said: &'static [u8]) -> anyhow::Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    servers.spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(said).await?;
        // Unread bytes would reset the connection before this is read.
        stream.read_to_end(&mut Vec::new()).await?;
        Ok(())
    });
    Ok(address)
}

/// A server with a self-signed certificate.
async fn unknown_certificate(servers: &mut JoinSet<anyhow::Result<()>>) -> anyhow::Result<String> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(own.signing_key.serialize_der().into());
    let config =
        rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![own.cert.der().clone()], key)?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    servers.spawn(async move {
        let (stream, _) = listener.accept().await?;
        // The client leaves during the handshake.
        let _ = TlsAcceptor::from(Arc::new(config)).accept(stream).await;
        Ok(())
    });
    Ok(address)
}
