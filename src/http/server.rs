//! The HTTP server: hyper behind deadlines, and a bounded number of connections.
//!
//! A connection that only waits (a head that is half there, or no request at all) gives way to a new one when there is no
//! room, the longest wait first. When every connection is busy, a few more are taken all the same, for a moment: they
//! answer the probes of an orchestrator, and everybody else with 503.

mod connections;
mod stream;

pub(super) use connections::Connection;

use std::convert::Infallible;
use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::error::ApiError;
use crate::config::http::{Http, Limits};
use connections::{Connections, NoRoom, Seat};
use stream::{RequestBody, ResponseBody, TimedStream, UnreadBody};

/// Taken for a moment when there is no room: enough for the probes, also while strangers knock.
const CROWD: usize = 64;
/// For one of these to ask and to be answered.
const CROWD_WITHIN: Duration = Duration::from_secs(2);
/// What is answered whatever else is going on: a restart by an orchestrator that hears nothing would end all calls.
const PROBES: [&str; 2] = ["/livez", "/readyz"];
/// Until the next try when there are no descriptors, unless a connection ends before.
const BACK_OFF: Duration = Duration::from_millis(100);
/// A flood is one line of the log in so long.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// Of one connection, each way. A head of more than twice as much is refused with 431.
const BUFFER_BYTES: usize = 64 * 1024;

/// A running server.
pub struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves what comes to the listener, with so many descriptors at most: the rest is for calls.
    pub fn start(listener: TcpListener, router: Router, config: &Http, descriptors: usize) -> Self {
        let (stop, stopping) = watch::channel(false);
        let crowd = CROWD.min(descriptors / 2);
        let max_connections = config.limits.max_connections.min(descriptors - crowd);
        let limits = Limits { max_connections, ..config.limits.clone() };
        let door = Door {
            listener,
            router: TowerToHyperService::new(router),
            connections: Connections::new(&limits, config.proxies.clone()),
            crowd: Connections::of_any_address(crowd),
            limits: Arc::new(limits),
            spare: spare_descriptor(),
            warned: None,
            stopping,
        };
        Self { stop, task: tokio::spawn(door.run()) }
    }

    /// Takes no more requests and waits for those under way; false when they were cut after this time.
    pub async fn stop(mut self, within: Duration) -> bool {
        self.stop.send_replace(true);
        let is_done = timeout(within, &mut self.task).await.is_ok();
        // The connections belong to the task and end with it.
        self.task.abort();
        is_done
    }
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    router: TowerToHyperService<Router>,
    limits: Arc<Limits>,
    connections: Arc<Connections>,
    /// Those for whom there is no room.
    crowd: Arc<Connections>,
    /// Given up when there is no other descriptor, so that a probe can be heard.
    spare: Option<File>,
    warned: Option<Instant>,
    stopping: watch::Receiver<bool>,
}

impl Door {
    async fn run(mut self) {
        let mut open = JoinSet::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, from)) => self.take(stream, from, &mut open),
                    Err(error) => self.recover(&error, &mut open).await,
                },
                Some(_) = open.join_next() => {}
                () = is_true(&mut self.stopping) => break,
            }
        }
        drop(self.listener);
        while open.join_next().await.is_some() {}
    }

    fn take(&mut self, stream: TcpStream, from: SocketAddr, open: &mut JoinSet<()>) {
        // A failure leaves the default, which is only slower.
        let _ = stream.set_nodelay(true);
        self.spare = self.spare.take().or_else(spare_descriptor);
        let from = from.ip().to_canonical();
        let admitted = match self.spare {
            Some(_) => self.connections.admit(from, self.limits.head_timeout, Instant::now()),
            // This connection has the last descriptor and is not to keep it.
            None => Err(NoRoom::Descriptors),
        };
        match admitted {
            Ok(seat) => {
                let (router, limits, stopping) = (self.router.clone(), self.limits.clone(), self.stopping.clone());
                open.spawn(serve(stream, seat, router, limits, stopping));
            }
            Err(why) => {
                self.warn(why);
                if let Ok(seat) = self.crowd.admit(from, CROWD_WITHIN, Instant::now()) {
                    open.spawn(serve_in_crowd(stream, seat, self.router.clone(), self.limits.clone()));
                }
            }
        }
    }

    /// After a failed accept.
    async fn recover(&mut self, error: &io::Error, open: &mut JoinSet<()>) {
        use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
        // The client has given up, and the next one is as good as any.
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return;
        }
        self.connections.evict(Instant::now());
        self.crowd.evict(Instant::now());
        if self.spare.take().is_some() {
            return;
        }
        self.warn(NoRoom::Descriptors);
        // A connection that ends leaves its descriptor.
        let ended = async {
            if open.join_next().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        // Either way it is time to try again.
        let _ = timeout(BACK_OFF, ended).await;
    }

    /// Counts, and says it once a minute.
    fn warn(&mut self, why: NoRoom) {
        metrics::counter!("patchcord_http_refused_total", "reason" => why.label()).increment(1);
        let now = Instant::now();
        if self.warned.is_some_and(|at| now - at < WARN_EVERY) {
            return;
        }
        self.warned = Some(now);
        match why {
            NoRoom::InAll => warn!("http.max_connections = {} are busy: more are refused", self.limits.max_connections),
            NoRoom::OfAddress => warn!(
                "one address has http.max_connections_per_address = {} busy connections: more are refused; if it is a \
                 proxy, name it in http.proxies",
                self.limits.max_connections_per_address
            ),
            NoRoom::Descriptors => warn!("there are no more file descriptors for HTTP: raise their limit (nofile)"),
        }
    }
}

/// `/dev/null`, whose place another file can take.
fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}

async fn is_true(value: &mut watch::Receiver<bool>) {
    // A dropped sender is a stop as well.
    let _ = value.wait_for(|is_true| *is_true).await;
}

/// One connection from its first request to its last.
async fn serve(
    stream: TcpStream,
    seat: Seat,
    router: TowerToHyperService<Router>,
    limits: Arc<Limits>,
    mut stopping: watch::Receiver<bool>,
) {
    let connection = seat.connection();
    let (leave_unread, unread_bodies) = mpsc::channel(1);
    let answer = |request| answer(&router, &connection, &limits, &leave_unread, request);
    let stream = TokioIo::new(TimedStream::new(stream, seat, limits.clone()));
    let http = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(stream, service_fn(answer))
        .with_upgrades();
    let mut http = std::pin::pin!(http);
    let mut discarding = std::pin::pin!(discard(unread_bodies));
    // Errors are the client's: it went away, or broke HTTP, and has its answer where there is one.
    tokio::select! {
        biased;
        () = connection.is_over() => {}
        _ = &mut http => {}
        () = &mut discarding => {}
        () = is_true(&mut stopping) => {
            http.as_mut().graceful_shutdown();
            tokio::select! {
                _ = http => {}
                () = discarding => {}
            }
        }
    }
}

/// One request of a client for whom there is no room.
async fn serve_in_crowd(stream: TcpStream, seat: Seat, router: TowerToHyperService<Router>, limits: Arc<Limits>) {
    let connection = seat.connection();
    let stream = TokioIo::new(TimedStream::new(stream, seat, limits.clone()));
    let (leave_unread, unread_bodies) = mpsc::channel(1);
    let (router, connection, limits, leave_unread) = (&router, &connection, &limits, &leave_unread);
    let answer = |request: hyper::Request<Incoming>| async move {
        match PROBES.contains(&request.uri().path()) {
            true => answer(router, connection, limits, leave_unread, request).await,
            false => Ok(no_room()),
        }
    };
    let http = http1::Builder::new()
        .header_read_timeout(None)
        .keep_alive(false)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(stream, service_fn(answer));
    tokio::select! {
        biased;
        () = connection.is_over() => {}
        // Too late or not, nothing more is owed to it.
        _ = timeout(CROWD_WITHIN, http) => {}
        () = discard(unread_bodies) => {}
    }
}

/// Reads what requests left of their bodies, for as long as the connection lasts.
async fn discard(mut unread_bodies: mpsc::Receiver<UnreadBody>) {
    while let Some(unread) = unread_bodies.recv().await {
        unread.discard().await;
    }
    std::future::pending::<()>().await;
}

/// One request, timed at both ends.
async fn answer(
    router: &TowerToHyperService<Router>,
    connection: &Arc<Connection>,
    limits: &Limits,
    unread_bodies: &mpsc::Sender<UnreadBody>,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    connection.is_busy();
    // Who waits for a 100 (Continue) sends no body when it reads another answer.
    let is_asking = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let (body, unread) = RequestBody::new(body, limits.body_timeout);
    let mut request = Request::from_parts(head, Body::new(body));
    request.extensions_mut().insert(connection.clone());
    let response = router.call(request).await?;
    if !is_asking {
        // The last one is still being read: this client sends more than it should.
        let _ = unread_bodies.try_send(unread);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // From now on the socket has rules of its own.
        return Ok(response);
    }
    Ok(response.map(|body| Body::new(ResponseBody::new(body, connection.clone(), limits.idle_timeout))))
}

fn no_room() -> Response {
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_room", "too many connections: try again later");
    error.with_header(header::RETRY_AFTER, HeaderValue::from_static("1")).into_response()
}
