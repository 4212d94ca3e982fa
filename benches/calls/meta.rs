//! A minimal Meta: signed webhooks written by hand, and a Graph API that accepts every request and notes its time.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::phone::Phone;

/// Signs the webhooks.
pub const APP_SECRET: &str = "bench-app-secret";
/// The access token of the service's requests.
pub const ACCESS_TOKEN: &str = "bench-access-token";
/// The business number's node.
pub const PHONE_NUMBER_ID: &str = "200000000000002";

const SUCCESS: &str = r#"{"messaging_product":"whatsapp","success":true}"#;
const FRAME: Duration = Duration::from_millis(20);

/// A Graph on a port of its own. Dropping it ends it and all phones.
pub struct Meta {
    /// For the service's configuration.
    pub graph_url: String,
    state: Rc<State>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct State {
    calls: RefCell<HashMap<String, Rc<Call>>>,
    accepted: Cell<usize>,
    rejected: Cell<usize>,
    /// Calls that the service has placed, and nobody has taken yet.
    placed: RefCell<VecDeque<Placed>>,
    /// How many it has placed.
    connects: Cell<usize>,
    changed: Notify,
    is_hushed: Cell<bool>,
}

/// One call as Meta sees it.
pub struct Call {
    /// Meta's id of the call.
    pub wacid: String,
    /// Who calls.
    pub phone: Rc<Phone>,
    /// When the connect webhook was written.
    pub posted_at: Cell<Option<Instant>>,
    /// When `pre_accept` was read.
    pub pre_accept_at: Cell<Option<Instant>>,
    talk_phase: Duration,
    running: JoinHandle<()>,
}

/// A call that the service has placed.
#[derive(Debug)]
pub struct Placed {
    /// Meta's id of the call.
    pub wacid: String,
    /// The app's tracker.
    pub tracker: String,
    /// The service's offer.
    pub offer: String,
    /// When `connect` was read.
    pub connect_at: Instant,
}

/// What a request did.
enum Taken {
    Nothing,
    Accepted(Rc<Call>),
    /// Gives the new call's id.
    Connected(String),
}

impl Meta {
    /// Starts Graph.
    pub async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let graph_url = format!("http://{}", listener.local_addr()?);
        let state = Rc::<State>::default();
        let server = tokio::task::spawn_local({
            let state = state.clone();
            async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let state = state.clone();
                    // The service may close its connection whenever it wants.
                    tokio::task::spawn_local(async move { drop(state.serve(stream).await) });
                }
            }
        });
        Ok(Self { graph_url, state, server })
    }

    /// From now on accepted callers listen and send nothing.
    pub fn hush(&self) {
        self.state.is_hushed.set(true);
    }

    /// A phone that rings and is not announced yet.
    pub fn ring(&self, phone: Rc<Phone>) -> Rc<Call> {
        let number = self.state.calls.borrow().len();
        let call = Rc::new(Call {
            wacid: format!("wacid.bench{number:06}"),
            running: phone.start(),
            phone,
            posted_at: Cell::new(None),
            pre_accept_at: Cell::new(None),
            // Spread by the golden ratio: evenly, however many there are.
            talk_phase: FRAME.mul_f64((number as f64 * 0.618_033_988_75).fract()),
        });
        self.state.calls.borrow_mut().insert(call.wacid.clone(), call.clone());
        call
    }

    /// The next call that the service places.
    pub async fn next_placed(&self, within: Duration) -> anyhow::Result<Placed> {
        let waiting = async {
            loop {
                if let Some(placed) = self.state.placed.borrow_mut().pop_front() {
                    return placed;
                }
                self.state.changed.notified().await;
            }
        };
        tokio::time::timeout(within, waiting).await.context("no connect came")
    }

    /// Waits until this many calls are accepted; gives the number at the timeout.
    pub async fn accepted(&self, calls: usize, within: Duration) -> usize {
        let waiting = async {
            while self.state.accepted.get() < calls {
                self.state.changed.notified().await;
            }
        };
        // Out of time: what there is is told.
        let _ = tokio::time::timeout(within, waiting).await;
        self.state.accepted.get()
    }

    /// Waits until this many calls are accepted or rejected; gives both numbers at the timeout.
    pub async fn settled(&self, calls: usize, within: Duration) -> (usize, usize) {
        let count = || (self.state.accepted.get(), self.state.rejected.get());
        let waiting = async {
            while count().0 + count().1 < calls {
                self.state.changed.notified().await;
            }
        };
        // Out of time: what there is is told.
        let _ = tokio::time::timeout(within, waiting).await;
        count()
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        self.server.abort();
        for call in self.state.calls.borrow().values() {
            call.running.abort();
        }
    }
}

impl State {
    /// One connection of the service's, request after request.
    async fn serve(&self, mut stream: TcpStream) -> anyhow::Result<()> {
        stream.set_nodelay(true)?;
        let mut bytes = Vec::new();
        loop {
            let (head, length) = read_message(&mut stream, &mut bytes).await?;
            let request: Value =
                serde_json::from_slice(&bytes[head..head + length]).context("a request that is not JSON")?;
            let taken = self.take(&request)?;
            bytes.drain(..head + length);
            let body = match &taken {
                Taken::Connected(wacid) => {
                    json!({ "messaging_product": "whatsapp", "calls": [{ "id": wacid }] }).to_string()
                }
                Taken::Nothing | Taken::Accepted(_) => SUCCESS.to_owned(),
            };
            let reply = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
                body.len()
            );
            stream.write_all(reply.as_bytes()).await?;
            if let Taken::Connected(_) = &taken {
                self.changed.notify_waiters();
            }
            if let Taken::Accepted(call) = taken {
                if !self.is_hushed.get() {
                    call.phone.accepted(call.talk_phase);
                }
                self.accepted.set(self.accepted.get() + 1);
                self.changed.notify_waiters();
            }
        }
    }

    fn take(&self, request: &Value) -> anyhow::Result<Taken> {
        if request["action"] == "connect" {
            return self.connect(request);
        }
        let id = request["call_id"].as_str().context("a request without call_id")?;
        // A call with a broken offer has no phone.
        let Some(call) = self.calls.borrow().get(id).cloned() else { return Ok(Taken::Nothing) };
        match request["action"].as_str() {
            Some("pre_accept") => {
                call.pre_accept_at.set(Some(Instant::now()));
                let answer = request["session"]["sdp"].as_str().context("no answer in pre_accept")?;
                call.phone.learn_answer(answer)?;
                Ok(Taken::Nothing)
            }
            Some("accept") => Ok(Taken::Accepted(call)),
            Some("reject") => {
                self.rejected.set(self.rejected.get() + 1);
                self.changed.notify_waiters();
                Ok(Taken::Nothing)
            }
            _ => Ok(Taken::Nothing),
        }
    }

    fn connect(&self, request: &Value) -> anyhow::Result<Taken> {
        let connect_at = Instant::now();
        let tracker = request["biz_opaque_callback_data"].as_str().unwrap_or_default().to_owned();
        let wacid = format!("wacid.placed{:06}", self.connects.replace(self.connects.get() + 1));
        let offer = request["session"]["sdp"].as_str().context("no offer in connect")?.to_owned();
        self.placed.borrow_mut().push_back(Placed { wacid: wacid.clone(), tracker, offer, connect_at });
        Ok(Taken::Connected(wacid))
    }
}

/// One connection for webhooks, kept open.
pub struct Webhooks {
    stream: TcpStream,
    service: SocketAddr,
    key: aws_lc_rs::hmac::Key,
}

impl Webhooks {
    /// Connects to the service.
    pub async fn connect(service: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(service).await?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            service,
            key: aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, APP_SECRET.as_bytes()),
        })
    }

    /// Announces a call to the service.
    pub async fn announce(&mut self, call: &Call) -> anyhow::Result<()> {
        let request = self.request(&connect(&call.wacid, &call.phone.sdp));
        call.posted_at.set(Some(Instant::now()));
        self.post(&request).await
    }

    /// Announces a call with an invalid offer.
    pub async fn announce_broken(&mut self, number: usize) -> anyhow::Result<()> {
        let request = self.request(&connect(&format!("wacid.broken{number:06}"), "v=0\r\n"));
        self.post(&request).await
    }

    /// The relay's answer to a call that the service placed; gives the time at which it was written.
    pub async fn answer(&mut self, call: &Placed, answer: &str) -> anyhow::Result<Instant> {
        let request = self.request(&envelope(&json!({
            "id": call.wacid, "from": "12025550199", "event": "connect", "timestamp": unix_s().to_string(),
            "direction": "BUSINESS_INITIATED", "biz_opaque_callback_data": call.tracker,
            "session": {"sdp": answer, "sdp_type": "answer"},
        })));
        let posted_at = Instant::now();
        self.post(&request).await?;
        Ok(posted_at)
    }

    /// The callee accepts.
    pub async fn pick_up(&mut self, call: &Placed) -> anyhow::Result<()> {
        let status = json!({
            "id": call.wacid, "timestamp": unix_s().to_string(), "type": "call", "status": "ACCEPTED",
            "biz_opaque_callback_data": call.tracker,
        });
        let request = self.request(&with_value("statuses", &status));
        self.post(&request).await
    }

    /// The callee hangs up.
    pub async fn hang_up_placed(&mut self, call: &Placed) -> anyhow::Result<()> {
        let now = unix_s().to_string();
        let request = self.request(&envelope(&json!({
            "id": call.wacid, "from": "12025550199", "event": "terminate", "timestamp": now, "start_time": now,
            "end_time": now, "duration": 1, "direction": "BUSINESS_INITIATED", "status": "COMPLETED",
        })));
        self.post(&request).await
    }

    /// The caller hangs up.
    pub async fn hang_up(&mut self, call: &Call) -> anyhow::Result<()> {
        call.running.abort();
        let body = envelope(&json!({
            "id": call.wacid, "from": "12025550143", "to": "12025550199", "event": "terminate",
            "timestamp": unix_s().to_string(), "direction": "USER_INITIATED", "status": "COMPLETED",
        }));
        let request = self.request(&body);
        self.post(&request).await
    }

    fn request(&self, body: &str) -> Vec<u8> {
        let signature: String = aws_lc_rs::hmac::sign(&self.key, body.as_bytes())
            .as_ref()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        format!(
            "POST /webhooks/whatsapp HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\nx-hub-signature-256: sha256={signature}\r\ncontent-length: {}\r\n\r\n{body}",
            self.service,
            body.len(),
        )
        .into_bytes()
    }

    async fn post(&mut self, request: &[u8]) -> anyhow::Result<()> {
        self.stream.write_all(request).await?;
        let mut reply = Vec::new();
        read_message(&mut self.stream, &mut reply).await?;
        anyhow::ensure!(
            reply.starts_with(b"HTTP/1.1 200"),
            "a webhook was refused: {}",
            String::from_utf8_lossy(&reply)
        );
        Ok(())
    }
}

fn connect(wacid: &str, offer: &str) -> String {
    envelope(&json!({
        "id": wacid, "from": "12025550143", "to": "12025550199", "event": "connect",
        "timestamp": unix_s().to_string(), "direction": "USER_INITIATED",
        "session": {"sdp": offer, "sdp_type": "offer"},
    }))
}

fn envelope(call: &Value) -> String {
    with_value("calls", call)
}

fn with_value(kind: &str, value: &Value) -> String {
    json!({
        "object": "whatsapp_business_account",
        "entry": [{"id": "100000000000001", "changes": [{"field": "calls", "value": {
            "messaging_product": "whatsapp",
            "metadata": {"display_phone_number": "12025550199", "phone_number_id": PHONE_NUMBER_ID},
            "contacts": [{"profile": {"name": "Example Caller"}, "wa_id": "12025550143"}],
            kind: [value],
        }}]}],
    })
    .to_string()
}

fn unix_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Reads on until one whole HTTP message is there: where its body begins, and how long that is.
async fn read_message(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> anyhow::Result<(usize, usize)> {
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = std::str::from_utf8(&bytes[..end])?.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(Ok(0), |text| text.trim().parse())?;
            if bytes.len() >= end + 4 + length {
                return Ok((end + 4, length));
            }
        }
        anyhow::ensure!(stream.read_buf(bytes).await? > 0, "the connection was closed");
    }
}
