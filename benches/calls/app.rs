//! The app beside the service: sends requests and reads events on a thread of higher priority than all phones, so that the
//! figures show the service and not the load around it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Error, Message};

use crate::machine;

/// An API key with all scopes.
pub const KEY: &str = "patchcord_bench_0123456789";
/// Deadline of one response, and of the next event of a busy service.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// The configuration of the app's key.
pub fn section() -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, KEY.as_bytes());
    let sha256: String = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "[api]\nkeys = [{{ id = \"bench\", sha256 = \"{sha256}\", scopes = [\"calls:write\", \"admin\"], requests_per_second = 1000 }}]\n"
    )
}

/// Runs this concurrently.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    let (done, is_done) = oneshot::channel();
    std::thread::Builder::new().name("app".to_owned()).spawn(move || {
        go_first();
        // The caller may have given up.
        let _ = done.send(work());
    })?;
    is_done.await.context("the app's thread failed")?
}

/// As far as the system permits.
fn go_first() {
    let Ok(path) = std::fs::read_link("/proc/thread-self") else { return };
    let Some(thread) = path.file_name().and_then(|name| name.to_str()) else { return };
    let _ = Command::new("chrt").args(["-f", "-p", "20", thread]).output();
}

/// One connection for API requests.
pub struct Api {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Api {
    /// Connects to the service.
    pub fn connect(service: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(service)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
        Ok(Self { stream, bytes: Vec::new() })
    }

    /// The response, and the time until it was complete.
    pub fn get(&mut self, path: &str) -> anyhow::Result<(Value, Duration)> {
        let request = format!("GET {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\n\r\n");
        let (answer, took, _) = self.ask(path, &request)?;
        Ok((answer, took))
    }

    /// Posts a body; gives the response and the time at which the request was written.
    pub fn post(&mut self, path: &str, body: &Value) -> anyhow::Result<(Value, Instant)> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let (answer, _, began) = self.ask(path, &request)?;
        Ok((answer, began))
    }

    fn ask(&mut self, path: &str, request: &str) -> anyhow::Result<(Value, Duration, Instant)> {
        let began = Instant::now();
        self.stream.write_all(request.as_bytes())?;
        let (head, length) = loop {
            match whole(&self.bytes)? {
                Some(found) => break found,
                None => self.read_on()?,
            }
        };
        let took = began.elapsed();
        anyhow::ensure!(self.bytes.starts_with(b"HTTP/1.1 20"), "{path}: {}", String::from_utf8_lossy(&self.bytes));
        let answer = serde_json::from_slice(&self.bytes[head..head + length])?;
        self.bytes.drain(..head + length);
        Ok((answer, took, began))
    }

    fn read_on(&mut self) -> anyhow::Result<()> {
        let mut buffer = [0; 16 * 1024];
        let count = self.stream.read(&mut buffer)?;
        anyhow::ensure!(count > 0, "the connection was closed");
        self.bytes.extend_from_slice(&buffer[..count]);
        Ok(())
    }
}

/// Offset and length of the first message's body, once it is complete.
pub fn whole(bytes: &[u8]) -> anyhow::Result<Option<(usize, usize)>> {
    let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.map_or(Ok(0), |text| text.trim().parse())?;
    Ok((bytes.len() >= end + 4 + length).then_some((end + 4, length)))
}

/// From the time in each event to its arrival, in ms, until there are no more events. Events have whole
/// milliseconds, so each figure may be up to one too long.
pub fn listen(service: SocketAddr) -> anyhow::Result<Vec<f64>> {
    let stream = TcpStream::connect(service)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWERED_WITHIN))?;
    let mut request = format!("ws://{service}/v1/events").into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {KEY}").parse()?);
    let (mut socket, _) = tungstenite::client(request, stream).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut waits = Vec::new();
    loop {
        match socket.read() {
            Ok(Message::Text(text)) => {
                let now = machine::clock();
                let event: Value = serde_json::from_str(&text)?;
                let at = humantime::parse_rfc3339(event["occurred_at"].as_str().context("an event without its time")?)?;
                let at = at.duration_since(std::time::UNIX_EPOCH)?;
                waits.push(now.saturating_sub(at).as_secs_f64() * 1e3);
            }
            Ok(_) => {}
            Err(Error::Io(error)) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(waits);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
