//! Calls that the app signals: from its request with Meta's offer to our answer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use crate::app;
use crate::scene::{Route, Scene};

const OFFER: &str = include_str!("../../tests/simulator/fixtures/sdp-offer-user-initiated-2026-10.sdp");
const CALLS: usize = 250;
const CALLS_PER_SECOND: u32 = 50;
/// The first ones, which warm up connections and the allocator.
const WARM: usize = 25;
/// A call is hung up when so many came after it: about a second later.
const LIVE_CALLS: usize = 50;
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// From each request written to its response read, in ms, at the rate of
/// [`setup::offer_to_answer`](crate::setup::offer_to_answer).
pub async fn answer_times() -> anyhow::Result<Vec<f64>> {
    let scene = Scene::start_with(Route::HoldMusic, &app::section()).await?;
    let service = scene.service.http;
    app::beside(move || place_all(service)).await
}

fn place_all(service: SocketAddr) -> anyhow::Result<Vec<f64>> {
    let mut stream = TcpStream::connect(service)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    let (began, mut waits, mut ids) = (Instant::now(), Vec::new(), Vec::new());
    for number in 0..WARM + CALLS {
        let due = began + Duration::from_secs(1) * number as u32 / CALLS_PER_SECOND;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let body = json!({ "signaling": "external", "wacid": format!("wacid.bench{number}"), "offer": OFFER });
        let written_at = Instant::now();
        let call = post(&mut stream, "/v1/calls", &body)?;
        let took = written_at.elapsed();
        anyhow::ensure!(call["answer"].as_str().is_some_and(|answer| answer.starts_with("v=0")), "{call}");
        ids.push(call["id"].as_str().context("an id")?.to_owned());
        if number >= WARM {
            waits.push(took.as_secs_f64() * 1e3);
        }
        if let Some(over) = number.checked_sub(LIVE_CALLS) {
            post(&mut stream, &format!("/v1/calls/{}/actions/hangup", ids[over]), &json!({}))?;
        }
    }
    Ok(waits)
}

fn post(stream: &mut TcpStream, path: &str, body: &Value) -> anyhow::Result<Value> {
    let body = body.to_string();
    let (key, length) = (app::KEY, body.len());
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    let (head, length) = loop {
        if let Some(found) = app::whole(&bytes)? {
            break found;
        }
        let count = stream.read(&mut buffer)?;
        anyhow::ensure!(count > 0, "the connection was closed");
        bytes.extend_from_slice(&buffer[..count]);
    };
    anyhow::ensure!(bytes.starts_with(b"HTTP/1.1 20"), "{path}: {}", String::from_utf8_lossy(&bytes));
    Ok(serde_json::from_slice(&bytes[head..head + length])?)
}
