//! An app's webhook: notes what it gets, and answers as the test says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use url::Url;

pub(super) enum Answer {
    Status(u16),
    /// With `retry-after` in seconds.
    StatusAfter(u16, u64),
    Hang,
}

pub(super) struct Received {
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
    pub(super) is_acknowledged: bool,
    pub(super) at: Instant,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("there is no {name}"))
    }

    pub(super) fn call_id(&self) -> String {
        self.json()["call_id"].as_str().unwrap().to_owned()
    }

    pub(super) fn sequence(&self) -> u64 {
        self.json()["sequence"].as_u64().unwrap()
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Decides by how many requests came before.
type Decide = Arc<dyn Fn(usize) -> Answer + Send + Sync>;

pub(super) struct Receiver {
    pub(super) url: Url,
    received: mpsc::UnboundedReceiver<Received>,
    socket: Option<TcpSocket>,
    app: Option<Router>,
    task: Option<JoinHandle<()>>,
}

impl Receiver {
    pub(super) async fn start(decide: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let mut receiver = Self::bind(decide).await;
        receiver.listen();
        receiver
    }

    /// Has its port, and refuses connections until [`Receiver::listen`].
    pub(super) async fn bind(decide: impl Fn(usize) -> Answer + Send + Sync + 'static) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let url = Url::parse(&format!("http://{}/events?app=1", socket.local_addr().unwrap())).unwrap();
        let (sender, received) = mpsc::unbounded_channel();
        let count = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let decide: Decide = Arc::new(decide);
        let app = Router::new().route("/events", post(take)).with_state((sender, count, decide));
        Self { url, received, socket: Some(socket), app: Some(app), task: None }
    }

    pub(super) fn listen(&mut self) {
        let listener: TcpListener = self.socket.take().unwrap().listen(1024).unwrap();
        let app = self.app.take().unwrap();
        self.task = Some(tokio::spawn(async move { axum::serve(listener, app).await.unwrap() }));
    }

    pub(super) async fn next(&mut self) -> Received {
        tokio::time::timeout(super::LONG, self.received.recv()).await.expect("a request comes in time").unwrap()
    }

    /// What came since the last look.
    pub(super) fn all(&mut self) -> Vec<Received> {
        std::iter::from_fn(|| self.received.try_recv().ok()).collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

type Shared = (mpsc::UnboundedSender<Received>, Arc<std::sync::atomic::AtomicUsize>, Decide);

async fn take(State((sender, count, decide)): State<Shared>, headers: HeaderMap, body: axum::body::Bytes) -> Response {
    let answer = decide(count.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
    let is_acknowledged = matches!(answer, Answer::Status(200..=299));
    let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    sender.send(Received { headers, body: body.to_vec(), is_acknowledged, at: Instant::now() }).unwrap();
    match answer {
        Answer::Status(status) => StatusCode::from_u16(status).unwrap().into_response(),
        Answer::StatusAfter(status, seconds) => {
            (StatusCode::from_u16(status).unwrap(), [("retry-after", seconds.to_string())]).into_response()
        }
        Answer::Hang => std::future::pending().await,
    }
}
