//! The open connections: how many are allowed, what each waits for, and which gives way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use crate::address::AddressRange;
use crate::config::http::Limits;
use crate::http::client_address::home_of;

/// A client that has just connected is about to send its request and is not evicted.
const GRACE: Duration = Duration::from_millis(100);

/// All connections of one kind.
pub(super) struct Connections {
    most: usize,
    most_of_an_address: usize,
    /// Addresses with no limit of their own.
    proxies: Vec<AddressRange>,
    open: Mutex<Open>,
}

/// Why there is no room for one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoRoom {
    InAll,
    OfAddress,
    Descriptors,
}

impl NoRoom {
    /// The metric's label.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::InAll => "connections",
            Self::OfAddress => "address",
            Self::Descriptors => "descriptors",
        }
    }
}

#[derive(Default)]
struct Open {
    next_id: u64,
    connections: HashMap<u64, Arc<Connection>>,
}

impl Connections {
    pub(super) fn new(limits: &Limits, proxies: Vec<AddressRange>) -> Arc<Self> {
        Arc::new(Self {
            most: limits.max_connections,
            most_of_an_address: limits.max_connections_per_address,
            proxies,
            open: Mutex::default(),
        })
    }

    /// Not limited per address.
    pub(super) fn of_any_address(most: usize) -> Arc<Self> {
        Arc::new(Self { most, most_of_an_address: most, proxies: Vec::new(), open: Mutex::default() })
    }

    /// A place for a new connection, whose first head must arrive within `head_within`. If necessary, a connection that only
    /// waits is evicted.
    pub(super) fn admit(self: &Arc<Self>, from: IpAddr, head_within: Duration, now: Instant) -> Result<Seat, NoRoom> {
        let mut open = self.open();
        let is_proxy = self.proxies.iter().any(|range| range.contains(from));
        let home = home_of(from);
        let is_of_home = |connection: &Connection| connection.home == home && !connection.is_known();
        if !is_proxy && open.count(is_of_home) >= self.most_of_an_address && !open.evict(is_of_home, now) {
            return Err(NoRoom::OfAddress);
        }
        if open.connections.len() >= self.most && !open.evict(|_| true, now) {
            return Err(NoRoom::InAll);
        }
        open.next_id += 1;
        let id = open.next_id;
        let connection = Arc::new(Connection::new(from, head_within, now));
        open.connections.insert(id, connection.clone());
        Ok(Seat { connections: self.clone(), id, connection })
    }

    /// Evicts the connection that has waited longest, if one waits.
    pub(super) fn evict(&self, now: Instant) {
        self.open().evict(|_| true, now);
    }

    /// Locked briefly, never across an await.
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn count(&self, which: impl Fn(&Connection) -> bool) -> usize {
        self.connections.values().filter(|connection| which(connection)).count()
    }

    /// Unknown clients go first: a proxy may be about to send a webhook on a connection that it keeps open. If the first
    /// candidate has only just connected, nothing is evicted.
    fn evict(&mut self, which: impl Fn(&Connection) -> bool, now: Instant) -> bool {
        let waiting =
            self.connections.iter().filter(|(_, connection)| which(connection)).filter_map(|(id, connection)| {
                let state = connection.state();
                state.waits.map(|wait| (state.is_known, wait.since, *id, wait.gives_way_from))
            });
        let Some((.., id, Some(from))) = waiting.min() else { return false };
        if from > now {
            return false;
        }
        if let Some(connection) = self.connections.remove(&id) {
            connection.state().is_evicted = true;
            connection.changed.notify_one();
        }
        metrics::counter!("patchcord_http_evicted_total").increment(1);
        true
    }
}

/// The place of one connection, freed on drop.
pub(super) struct Seat {
    connections: Arc<Connections>,
    id: u64,
    connection: Arc<Connection>,
}

impl Seat {
    pub(super) fn connection(&self) -> Arc<Connection> {
        self.connection.clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.connections.open().connections.remove(&self.id);
    }
}

/// One connection, as handlers see it.
pub(crate) struct Connection {
    /// The remote end: a client, or the proxy in front of it.
    pub(crate) from: IpAddr,
    home: IpAddr,
    state: Mutex<State>,
    /// Notified when a wait begins or the connection is evicted.
    changed: Notify,
}

#[derive(Clone, Copy)]
struct State {
    /// None while a request is in progress.
    waits: Option<Wait>,
    /// Whether it has presented an API key or a signature of Meta's.
    is_known: bool,
    /// Whether another connection has taken its place.
    is_evicted: bool,
}

/// A wait for the head of a request.
#[derive(Clone, Copy)]
struct Wait {
    since: Instant,
    until: Instant,
    /// None before the socket has been read and was empty.
    gives_way_from: Option<Instant>,
    /// Whether the first byte of the head has arrived.
    has_begun: bool,
}

impl Connection {
    fn new(from: IpAddr, head_within: Duration, now: Instant) -> Self {
        let waits = Some(Wait { since: now, until: now + head_within, gives_way_from: None, has_begun: true });
        let state = State { waits, is_known: false, is_evicted: false };
        Self { from, home: home_of(from), state: Mutex::new(state), changed: Notify::new() }
    }

    /// The client is authenticated, so its address's limit no longer counts it.
    pub(crate) fn is_now_known(&self) {
        self.state().is_known = true;
    }

    /// A request is in progress.
    pub(super) fn is_busy(&self) {
        self.state().waits = None;
    }

    /// The response is sent; the next request must begin within this time.
    pub(super) fn is_idle(&self, idle_timeout: Duration, now: Instant) {
        self.state().waits =
            Some(Wait { since: now, until: now + idle_timeout, gives_way_from: Some(now), has_begun: false });
        self.changed.notify_one();
    }

    /// The socket was empty.
    pub(super) fn has_read_nothing(&self, now: Instant) {
        if let Some(wait) = self.state().waits.as_mut() {
            wait.gives_way_from.get_or_insert(now + GRACE);
        }
    }

    /// Bytes have arrived. After an idle period they begin a head.
    pub(super) fn has_read(&self, head_timeout: Duration, now: Instant) {
        if let Some(wait) = self.state().waits.as_mut().filter(|wait| !wait.has_begun) {
            (wait.has_begun, wait.until) = (true, now + head_timeout);
            self.changed.notify_one();
        }
    }

    /// Completes when a deadline has passed or the connection is evicted.
    pub(super) async fn is_over(&self) {
        loop {
            let state = *self.state();
            if state.is_evicted {
                return;
            }
            let Some(wait) = state.waits else {
                self.changed.notified().await;
                continue;
            };
            let is_late = timeout_at(wait.until, self.changed.notified()).await.is_err();
            if is_late && self.waits_until() == Some(wait.until) {
                let waiting_for = if wait.has_begun { "head" } else { "request" };
                metrics::counter!("patchcord_http_timeouts_total", "waiting_for" => waiting_for).increment(1);
                return;
            }
        }
    }

    /// The deadline of the present wait; None while the client is not waited for.
    fn waits_until(&self) -> Option<Instant> {
        self.state().waits.map(|wait| wait.until)
    }

    fn is_known(&self) -> bool {
        self.state().is_known
    }

    /// Locked briefly, never across an await.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const SECOND: Duration = Duration::from_secs(1);

    fn connections(most: usize, most_of_an_address: usize) -> Arc<Connections> {
        let limits =
            Limits { max_connections: most, max_connections_per_address: most_of_an_address, ..Limits::default() };
        Connections::new(&limits, vec!["10.0.0.0/8".parse().unwrap()])
    }

    /// A connection whose socket has been empty since then.
    fn admit(connections: &Arc<Connections>, from: &str, now: Instant) -> Result<Seat, NoRoom> {
        let seat = connections.admit(from.parse().unwrap(), HEAD, now)?;
        seat.connection.has_read_nothing(now);
        Ok(seat)
    }

    /// A connection with a request in progress.
    fn busy(connections: &Arc<Connections>, from: &str) -> Result<Seat, NoRoom> {
        let seat = admit(connections, from, Instant::now() + HEAD)?;
        seat.connection.is_busy();
        Ok(seat)
    }

    async fn is_evicted(seat: &Seat) -> bool {
        tokio::time::timeout(Duration::ZERO, seat.connection.is_over()).await.is_ok()
    }

    #[tokio::test]
    async fn what_only_waits_gives_way_the_longest_wait_first_and_strangers_before_friends() {
        let (connections, start) = (connections(3, 3), Instant::now());
        let friend = admit(&connections, "192.0.2.1", start).unwrap();
        friend.connection.is_now_known();
        let second = admit(&connections, "192.0.2.3", start + 2 * SECOND).unwrap();
        let first = admit(&connections, "192.0.2.2", start + SECOND).unwrap();
        let _third = busy(&connections, "192.0.2.4").unwrap();
        assert_eq!((is_evicted(&first).await, is_evicted(&second).await), (true, false));
        let _fourth = busy(&connections, "192.0.2.5").unwrap();
        assert_eq!((is_evicted(&second).await, is_evicted(&friend).await), (true, false));
        let fifth = busy(&connections, "192.0.2.6").unwrap();
        assert!(is_evicted(&friend).await);
        assert_eq!(busy(&connections, "192.0.2.7").map(drop), Err(NoRoom::InAll));
        // The places of those that were evicted are taken already.
        drop((first, second, friend));
        assert_eq!(busy(&connections, "192.0.2.7").map(drop), Err(NoRoom::InAll));
        drop(fifth);
        assert_eq!(busy(&connections, "192.0.2.7").map(drop), Ok(()));
    }

    #[test]
    fn a_connection_that_has_just_come_is_heard_first() {
        let (connections, start) = (connections(1, 1), Instant::now());
        let admit = |at| connections.admit("192.0.2.1".parse().unwrap(), HEAD, at);
        let first = admit(start).unwrap();
        assert_eq!(admit(start + SECOND).map(drop), Err(NoRoom::OfAddress), "nobody has listened to the first");
        first.connection.has_read_nothing(start + SECOND);
        first.connection.has_read_nothing(start + 2 * SECOND);
        assert_eq!(admit(start + SECOND + GRACE / 2).map(drop), Err(NoRoom::OfAddress));
        assert_eq!(admit(start + SECOND + GRACE).map(drop), Ok(()));
    }

    #[test]
    fn an_address_has_its_share_unless_it_is_a_proxy_or_shows_who_it_is() {
        let connections = connections(100, 2);
        let mut held: Vec<Seat> = (0..2).map(|_| busy(&connections, "192.0.2.1").unwrap()).collect();
        assert_eq!(busy(&connections, "192.0.2.1").map(drop), Err(NoRoom::OfAddress));
        held.push(busy(&connections, "192.0.2.2").unwrap());
        held[0].connection.is_now_known();
        held.push(busy(&connections, "192.0.2.1").unwrap());
        assert_eq!(busy(&connections, "192.0.2.1").map(drop), Err(NoRoom::OfAddress));
        for _ in 0..50 {
            held.push(busy(&connections, "10.1.2.3").unwrap());
        }
        // One host of IPv6 has as many addresses as it likes.
        held.extend(["2001:db8::1", "2001:db8::2"].map(|from| busy(&connections, from).unwrap()));
        assert_eq!(busy(&connections, "2001:db8::3").map(drop), Err(NoRoom::OfAddress));
        assert_eq!(busy(&connections, "2001:db8:0:1::3").map(drop), Ok(()));
    }

    #[test]
    fn a_rest_ends_with_the_first_byte_and_more_of_them_do_not_prolong_a_head() {
        let (connections, start) = (connections(1, 1), Instant::now());
        let seat = admit(&connections, "192.0.2.1", start).unwrap();
        let connection = seat.connection();
        connection.has_read(HEAD, start + 5 * SECOND);
        assert_eq!(connection.waits_until(), Some(start + HEAD));
        connection.is_busy();
        connection.has_read(HEAD, start + 6 * SECOND);
        assert_eq!(connection.waits_until(), None);
        connection.is_idle(100 * SECOND, start + 7 * SECOND);
        assert_eq!(connection.waits_until(), Some(start + 107 * SECOND));
        connection.has_read(HEAD, start + 20 * SECOND);
        connection.has_read(HEAD, start + 25 * SECOND);
        assert_eq!(connection.waits_until(), Some(start + 30 * SECOND));
    }
}
