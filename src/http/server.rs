//! The HTTP server: hyper behind deadlines, and a bounded number of connections.
//!
//! When all places are taken, a connection that only waits (for the rest of a head, or for any request) gives way to a new
//! one, the longest wait first. When every connection is busy, a few more are accepted for a moment: they get answers to an
//! orchestrator's probes, and 503 for everything else.

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
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::error::ApiError;
use crate::agent::websocket::OpenedSocket;
use crate::config::http::{Http, Limits};
use connections::{Connections, NoRoom, Seat};
use stream::{RequestBody, ResponseBody, TimedStream, UnreadBody};

/// Extra connections accepted when there is no room: enough for the probes during a flood.
const CROWD: usize = 64;
/// Deadline of one such connection, request and response together.
const CROWD_WITHIN: Duration = Duration::from_secs(2);
/// Always answered: an orchestrator that gets no answer restarts the service, which would end all calls.
const PROBES: [&str; 2] = ["/livez", "/readyz"];
/// Between two attempts to accept while there are no descriptors, unless a connection ends earlier.
const BACK_OFF: Duration = Duration::from_millis(100);
/// A flood is logged once in this time.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// A client whose system acknowledges nothing for this long is gone: it died or lost its network without closing TCP. By
/// default Linux goes on for a quarter of an hour.
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(20);
/// Buffer of one connection in each direction. A head of more than twice this size gets 431.
const BUFFER_BYTES: usize = 64 * 1024;

/// The port at the remote end of a request's connection. With the address of the client it is unique among live connections.
#[derive(Clone, Copy)]
pub(super) struct RemotePort(pub(super) u16);

/// A running server.
pub struct Server {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Serves the listener with at most `descriptors` connections: the other descriptors are for calls.
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

    /// Takes no more requests and waits for those in progress; false if they were cut off after this time.
    pub async fn stop(mut self, within: Duration) -> bool {
        self.stop.send_replace(true);
        let is_done = timeout(within, &mut self.task).await.is_ok();
        // The task owns the connections and ends them.
        self.task.abort();
        is_done
    }
}

/// Takes a connection out of HTTP once its response is sent. It keeps its place for as long as it lives. None if it ended
/// before.
pub(super) async fn leave_http(upgrade: OnUpgrade) -> Option<OpenedSocket> {
    let upgraded = upgrade.await.ok()?.downcast::<TokioIo<TimedStream>>().ok()?;
    let (stream, seat) = upgraded.io.into_inner().into_parts();
    Some(OpenedSocket { stream: stream.into_std().ok()?, received: upgraded.read_buf, place: Box::new(seat) })
}

/// On failure the defaults stay, which are only slower.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED_FOR));
}

/// Accepts connections.
struct Door {
    listener: TcpListener,
    router: TowerToHyperService<Router>,
    limits: Arc<Limits>,
    connections: Arc<Connections>,
    /// Connections beyond the limit.
    crowd: Arc<Connections>,
    /// Closed when there is no other descriptor, so that a probe can be accepted.
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
        prepare(&stream);
        self.spare = self.spare.take().or_else(spare_descriptor);
        let from = from.ip().to_canonical();
        let admitted = match self.spare {
            Some(_) => self.connections.admit(from, self.limits.head_timeout, Instant::now()),
            // This connection has the last descriptor and must not keep it.
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
        // The client has gone; accept the next one.
        if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
            return;
        }
        self.connections.evict(Instant::now());
        self.crowd.evict(Instant::now());
        if self.spare.take().is_some() {
            return;
        }
        self.warn(NoRoom::Descriptors);
        // A connection that ends frees its descriptor.
        let ended = async {
            if open.join_next().await.is_none() {
                std::future::pending::<()>().await;
            }
        };
        // In both cases accept can be tried again.
        let _ = timeout(BACK_OFF, ended).await;
    }

    /// Counts each refusal and logs once a minute.
    fn warn(&mut self, why: NoRoom) {
        metrics::counter!("patchcord_http_refused_total", "reason" => why.label()).increment(1);
        let now = Instant::now();
        if self.warned.is_some_and(|at| now - at < WARN_EVERY) {
            return;
        }
        self.warned = Some(now);
        match why {
            NoRoom::InAll => {
                warn!("all http.max_connections = {} are busy: refusing more", self.limits.max_connections);
            }
            NoRoom::OfAddress => warn!(
                "one address has http.max_connections_per_address = {} busy connections: refusing more; if it is a \
                 proxy, name it in http.proxies",
                self.limits.max_connections_per_address
            ),
            NoRoom::Descriptors => warn!("no file descriptors are left for HTTP: raise the limit nofile"),
        }
    }
}

/// `/dev/null`: closing it frees a descriptor.
fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}

async fn is_true(value: &mut watch::Receiver<bool>) {
    // A dropped sender means stop too.
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
    let port = RemotePort(stream.peer_addr().map_or(0, |remote| remote.port()));
    let (leave_unread, unread_bodies) = mpsc::channel(1);
    let answer = |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(port);
        answer(&router, &connection, &limits, &leave_unread, request)
    };
    let stream = TokioIo::new(TimedStream::new(stream, seat, limits.clone()));
    let http = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(BUFFER_BYTES)
        .serve_connection(stream, service_fn(answer))
        .with_upgrades();
    let mut http = std::pin::pin!(http);
    let mut discarding = std::pin::pin!(discard(unread_bodies));
    // An error is the client's: it left, or broke HTTP and already has its response.
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

/// One request on a connection beyond the limit.
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
        // Answered or not, the connection is closed now.
        _ = timeout(CROWD_WITHIN, http) => {}
        () = discard(unread_bodies) => {}
    }
}

/// Drains unread request bodies for as long as the connection lasts.
async fn discard(mut unread_bodies: mpsc::Receiver<UnreadBody>) {
    while let Some(unread) = unread_bodies.recv().await {
        unread.discard().await;
    }
    std::future::pending::<()>().await;
}

/// One request with deadlines for its body and its response.
async fn answer(
    router: &TowerToHyperService<Router>,
    connection: &Arc<Connection>,
    limits: &Limits,
    unread_bodies: &mpsc::Sender<UnreadBody>,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    connection.is_busy();
    // A client that waits for 100 Continue sends no body after any other response.
    let is_asking = request.headers().contains_key(header::EXPECT);
    let (head, body) = request.into_parts();
    let (body, unread) = RequestBody::new(body, limits.body_timeout);
    let mut request = Request::from_parts(head, Body::new(body));
    request.extensions_mut().insert(connection.clone());
    let response = router.call(request).await?;
    if !is_asking {
        // The previous body is still being drained: this client sends too much.
        let _ = unread_bodies.try_send(unread);
    }
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        // From now on the WebSocket has deadlines of its own.
        return Ok(response);
    }
    Ok(response.map(|body| Body::new(ResponseBody::new(body, connection.clone(), limits.idle_timeout))))
}

fn no_room() -> Response {
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "no_room", "too many connections: try again later");
    error.with_header(header::RETRY_AFTER, HeaderValue::from_static("1")).into_response()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_whose_machine_is_gone_is_given_up_by_the_system() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        prepare(&stream);
        assert_eq!(socket2::SockRef::from(&stream).tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED_FOR));
    }
}
