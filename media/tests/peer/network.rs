//! A network of two ends with a virtual clock: delay, seeded loss, and a hand that may interfere.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchcord_media::peer::{Consent, Identity, LocalAddress, Peer, PeerEvent, PeerOptions};
use patchcord_media::rtp::{RtpHeader, RtpPacket};
use patchcord_media::sdp::{Answer, Offer};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub const LEFT: &str = "203.0.113.1:1000";
pub const RIGHT: &str = "203.0.113.2:2000";

pub fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub fn options(addresses: &[&str], ssrc: u32) -> PeerOptions {
    let addresses = addresses.iter().map(|text| LocalAddress { socket: address(text), advertised: address(text) });
    PeerOptions {
        identity: Arc::new(Identity::generate().unwrap()),
        addresses: addresses.collect(),
        consent: Consent::default(),
        allow_private: false,
        ssrc,
    }
}

/// One end of the network.
pub trait End {
    fn receive(&mut self, datagram: &Datagram, now: Instant);
    fn poll_transmit(&mut self) -> Option<(SocketAddr, SocketAddr, Vec<u8>)>;
    fn poll_timeout(&mut self) -> Option<Instant>;
    fn handle_timeout(&mut self, now: Instant);
}

/// A peer with what it has told.
pub struct PeerEnd {
    pub peer: Peer,
    pub events: Vec<PeerEvent>,
    pub packets: Vec<RtpPacket>,
    pub connected_at: Option<Instant>,
    pub timeouts: usize,
}

impl PeerEnd {
    pub fn new(peer: Peer) -> PeerEnd {
        PeerEnd { peer, events: Vec::new(), packets: Vec::new(), connected_at: None, timeouts: 0 }
    }

    fn listen(&mut self, now: Instant) {
        while let Some(event) = self.peer.poll_event() {
            if matches!(event, PeerEvent::Connected { .. }) {
                self.connected_at = Some(now);
            }
            self.events.push(event);
        }
    }
}

impl End for PeerEnd {
    fn receive(&mut self, datagram: &Datagram, now: Instant) {
        let packet = self.peer.receive(datagram.to, datagram.from, &datagram.data, now);
        self.packets.extend(packet);
        self.listen(now);
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        let transmit = self.peer.poll_transmit()?;
        Some((transmit.socket, transmit.to, transmit.data.to_vec()))
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.peer.poll_timeout()
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.timeouts += 1;
        self.peer.handle_timeout(now);
        self.listen(now);
    }
}

/// A datagram on its way.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datagram {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub data: Vec<u8>,
}

impl Datagram {
    pub fn is_dtls(&self) -> bool {
        (20..=63).contains(&self.data[0])
    }

    pub fn is_stun(&self) -> bool {
        self.data[0] < 4
    }

    pub fn is_rtcp(&self) -> bool {
        self.data[0] >= 128 && (192..224).contains(&self.data[1])
    }
}

/// Whether a datagram may pass.
pub type Filter = Box<dyn FnMut(&Datagram, Instant) -> bool>;

/// Both ends and what lies between them.
pub struct Network<L, R> {
    pub left: L,
    pub right: R,
    pub start: Instant,
    pub now: Instant,
    pub delay: Duration,
    pub loss: f64,
    pub filter: Filter,
    rng: StdRng,
    on_the_way: BinaryHeap<Reverse<(Instant, u64, Datagram)>>,
    count: u64,
    right_sockets: Vec<SocketAddr>,
}

impl<L: End, R: End> Network<L, R> {
    pub fn new(left: L, right: R, right_sockets: &[&str], start: Instant, seed: u64) -> Self {
        Network {
            left,
            right,
            start,
            now: start,
            delay: milliseconds(30),
            loss: 0.0,
            filter: Box::new(|_, _| true),
            rng: StdRng::seed_from_u64(seed),
            on_the_way: BinaryHeap::new(),
            count: 0,
            right_sockets: right_sockets.iter().map(|text| address(text)).collect(),
        }
    }

    /// Puts a datagram on the way, past loss and filter.
    pub fn inject(&mut self, datagram: Datagram, after: Duration) {
        self.count += 1;
        let item = (self.now + after, self.count, datagram);
        self.on_the_way.push(Reverse(item));
    }

    /// Puts what an end wants to send on the way.
    pub fn send(&mut self, datagram: Datagram) {
        let lost = self.rng.random_bool(self.loss);
        let passes = (self.filter)(&datagram, self.now);
        if passes && !lost {
            self.inject(datagram, self.delay);
        }
    }

    fn collect(&mut self) {
        while let Some((from, to, data)) = self.left.poll_transmit() {
            self.send(Datagram { from, to, data });
        }
        while let Some((from, to, data)) = self.right.poll_transmit() {
            self.send(Datagram { from, to, data });
        }
    }

    /// Lets time pass, at most until `until`. A timer that is overdue is served a millisecond later.
    pub fn step(&mut self, until: Instant) {
        self.collect();
        let soon = self.now + milliseconds(1);
        let timers = [self.left.poll_timeout(), self.right.poll_timeout()];
        let timer = timers.into_iter().flatten().min().map(|at| at.max(soon));
        let arrival = self.on_the_way.peek().map(|Reverse((at, ..))| *at);
        let next = [timer, arrival].into_iter().flatten().min();
        self.now = next.unwrap_or(until).clamp(self.now, until);
        while let Some(Reverse((at, ..))) = self.on_the_way.peek()
            && *at <= self.now
        {
            let Some(Reverse((_, _, datagram))) = self.on_the_way.pop() else { break };
            if self.right_sockets.contains(&datagram.to) {
                self.right.receive(&datagram, self.now);
            } else {
                self.left.receive(&datagram, self.now);
            }
            self.collect();
        }
        if self.left.poll_timeout().is_some_and(|at| at <= self.now) {
            self.left.handle_timeout(self.now);
        }
        if self.right.poll_timeout().is_some_and(|at| at <= self.now) {
            self.right.handle_timeout(self.now);
        }
        self.collect();
    }

    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.now < until {
            self.step(until);
        }
    }

    /// Runs until `done`, at most for `limit`. Whether it was done.
    pub fn run_until(&mut self, limit: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let until = self.now + limit;
        while !done(self) {
            if self.now >= until {
                return false;
            }
            self.step(until);
        }
        true
    }
}

/// Two peers; the left one offers.
pub type Pair = Network<PeerEnd, PeerEnd>;

/// How the two peers differ from the usual.
pub struct PairOptions {
    pub left: PeerOptions,
    pub right: PeerOptions,
    pub right_sockets: Vec<&'static str>,
    pub seed: u64,
    /// Rewrites the offer on its way, for example its `setup`.
    pub offer: fn(String) -> String,
    /// Rewrites the answer on its way.
    pub answer: fn(String) -> String,
}

impl Default for PairOptions {
    fn default() -> PairOptions {
        PairOptions {
            left: options(&[LEFT], 11),
            right: options(&[RIGHT], 22),
            right_sockets: vec![RIGHT],
            seed: 1,
            offer: |offer| offer,
            answer: |answer| answer,
        }
    }
}

impl PairOptions {
    pub fn build(&self) -> Pair {
        let now = Instant::now();
        let (mut left, offer) = Peer::offer(&self.left, now).unwrap();
        let offer = Offer::parse(&(self.offer)(offer)).unwrap();
        let (right, answer) = Peer::answer(&self.right, &offer, now).unwrap();
        let answer = Answer::parse(&(self.answer)(answer)).unwrap();
        left.accept_answer(&answer, now).unwrap();
        Network::new(PeerEnd::new(left), PeerEnd::new(right), &self.right_sockets, now, self.seed)
    }
}

/// The answerer is DTLS server: the offer says that the offerer will open.
pub fn offerer_is_client(offer: String) -> String {
    offer.replace("a=setup:actpass", "a=setup:active")
}

impl Pair {
    pub fn right_address(&self) -> SocketAddr {
        self.right_sockets[0]
    }

    pub fn both_connected(&self) -> bool {
        self.left.peer.is_connected() && self.right.peer.is_connected()
    }

    pub fn connect(&mut self, limit: Duration) -> bool {
        self.run_until(limit, Pair::both_connected)
    }

    /// Both ends send a packet each.
    pub fn talk(&mut self, number: u32) {
        let header = |ssrc| RtpHeader {
            payload_type: 111,
            marker: number == 0,
            sequence: (number & 0xffff) as u16,
            timestamp: number * 960,
            ssrc,
        };
        let payload = [number as u8; 50];
        for transmit in [
            self.left.peer.send_rtp(header(11), &payload, self.now),
            self.right.peer.send_rtp(header(22), &payload, self.now),
        ]
        .into_iter()
        .flatten()
        {
            self.send(Datagram { from: transmit.socket, to: transmit.to, data: transmit.data.to_vec() });
        }
    }

    /// Both ends talk for so many frames of 20 ms.
    pub fn talk_for(&mut self, frames: u32) {
        for number in 0..frames {
            self.talk(number);
            self.run_for(milliseconds(20));
        }
    }
}
