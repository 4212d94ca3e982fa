//! One phone on real sockets: a task that carries datagrams, orders and time to the pure [`Phone`].

use std::future::{Future, pending};
use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};

use crate::network::{Network, NetworkOptions};
use crate::phone::answer::Answer;
use crate::phone::voice::KeyPacket;
use crate::phone::{Phone, PhoneCounts, PhoneEvent, PhoneOutput};
use crate::speech::Speech;

/// Orders that may wait for the phone; those who give them wait for a place.
const ORDERS: usize = 32;
/// Datagrams taken from a socket before time and orders get their turn.
const DATAGRAMS_AT_ONCE: usize = 64;

/// What a phone can be told while it runs.
#[derive(Debug)]
pub(crate) enum Order {
    LearnAnswer(Box<Answer>),
    Accepted,
    Dtmf(String),
    KeyPackets(Vec<KeyPacket>),
    SpeakAs(usize),
    Say(Speech),
    GoSilent,
    SpeakAgain,
    Vanish,
    Network(NetworkOptions),
    Count,
}

/// The way to a running phone. When all are dropped the phone ends.
#[derive(Debug, Clone)]
pub(crate) struct PhoneLine(mpsc::Sender<(Order, oneshot::Sender<PhoneCounts>)>);

impl PhoneLine {
    /// A line without a phone.
    pub(crate) fn to_nobody() -> Self {
        Self(mpsc::channel(1).0)
    }

    /// Gives an order and waits until it has taken effect; a phone that is gone ignores it.
    pub(crate) async fn order(&self, order: Order) -> PhoneCounts {
        let (done, taken) = oneshot::channel();
        if self.0.send((order, done)).await.is_err() {
            return PhoneCounts::default();
        }
        taken.await.unwrap_or_default()
    }
}

/// A phone about to run.
pub(crate) struct PhoneShell<F> {
    pub(crate) phone: Phone,
    pub(crate) sockets: Vec<UdpSocket>,
    pub(crate) network: NetworkOptions,
    pub(crate) seed: u64,
    pub(crate) on_event: F,
}

impl<F: FnMut(PhoneEvent) + Send + 'static> PhoneShell<F> {
    /// The way to the phone, and the future to spawn.
    pub(crate) fn start(self) -> io::Result<(PhoneLine, impl Future<Output = ()> + Send + 'static)> {
        let (sender, orders) = mpsc::channel(ORDERS);
        let mut sockets = Vec::with_capacity(self.sockets.len());
        for socket in self.sockets {
            sockets.push((socket.local_addr()?, socket));
        }
        let running = Running {
            phone: self.phone,
            sockets,
            orders,
            to_phone: Network::new(self.network.to_phone, self.seed),
            to_service: Network::new(self.network.to_service, self.seed ^ 1),
            on_event: self.on_event,
            buffer: vec![0; 2048],
        };
        Ok((PhoneLine(sender), running.run()))
    }
}

struct Running<F> {
    phone: Phone,
    sockets: Vec<(SocketAddr, UdpSocket)>,
    orders: mpsc::Receiver<(Order, oneshot::Sender<PhoneCounts>)>,
    to_phone: Network<Datagram>,
    to_service: Network<Datagram>,
    on_event: F,
    buffer: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Datagram {
    source: SocketAddr,
    destination: SocketAddr,
    bytes: Vec<u8>,
}

impl AsRef<[u8]> for Datagram {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl<F: FnMut(PhoneEvent) + Send + 'static> Running<F> {
    async fn run(mut self) {
        loop {
            self.drain();
            let deadline = self.deadline();
            tokio::select! {
                biased;
                order = self.orders.recv() => match order {
                    Some((order, done)) => self.obey(order, done),
                    None => return,
                },
                () = readable(self.sockets.first()) => self.read(0),
                () = readable(self.sockets.get(1)) => self.read(1),
                () = sleep_until(deadline) => self.phone.handle_timeout(now()),
            }
        }
    }

    fn obey(&mut self, order: Order, done: oneshot::Sender<PhoneCounts>) {
        match order {
            Order::LearnAnswer(answer) => self.phone.learn_answer(&answer, now()),
            Order::Accepted => self.phone.accepted(now()),
            Order::Dtmf(digits) => self.phone.send_dtmf(&digits),
            Order::KeyPackets(packets) => self.phone.send_key_packets(&packets),
            Order::SpeakAs(sender) => self.phone.speak_as(sender),
            Order::Say(speech) => self.phone.say(speech),
            Order::GoSilent => self.phone.go_silent(),
            Order::SpeakAgain => self.phone.speak_again(now()),
            Order::Vanish => self.phone.vanish(),
            Order::Network(network) => {
                self.to_phone.change(network.to_phone);
                self.to_service.change(network.to_service);
            }
            Order::Count => {}
        }
        // Who gave the order may have stopped waiting.
        let _ = done.send(self.phone.counts());
    }

    fn read(&mut self, index: usize) {
        let Some((destination, socket)) = self.sockets.get(index) else { return };
        for _ in 0..DATAGRAMS_AT_ONCE {
            // An error (port unreachable and the like) means nothing to a relay.
            let Ok((length, source)) = socket.try_recv_from(&mut self.buffer) else { return };
            let at = now();
            self.phone.witness(&self.buffer[..length], at);
            if self.to_phone.is_perfect() {
                self.phone.receive(source, *destination, &self.buffer[..length], at);
                continue;
            }
            let bytes = self.buffer[..length].to_vec();
            self.to_phone.send(Datagram { source, destination: *destination, bytes }, at);
        }
    }

    /// Carries data in both directions until nothing is due.
    fn drain(&mut self) {
        let at = now();
        if self.phone.deadline().is_some_and(|deadline| deadline <= at) {
            self.phone.handle_timeout(at);
        }
        while let Some(datagram) = self.to_phone.poll(at) {
            self.phone.receive(datagram.source, datagram.destination, &datagram.bytes, at);
        }
        while let Some(output) = self.phone.poll_output() {
            match output {
                PhoneOutput::Transmit { source, destination, datagram } => {
                    let datagram = Datagram { source, destination, bytes: datagram };
                    if self.to_service.is_perfect() {
                        self.transmit(&datagram);
                    } else {
                        self.to_service.send(datagram, at);
                    }
                }
                PhoneOutput::Event(event) => (self.on_event)(event),
            }
        }
        while let Some(datagram) = self.to_service.poll(at) {
            self.transmit(&datagram);
        }
    }

    fn transmit(&self, datagram: &Datagram) {
        if let Some((_, socket)) = self.sockets.iter().find(|(address, _)| *address == datagram.source) {
            // A full socket loses the datagram, as a network would.
            let _ = socket.try_send_to(&datagram.bytes, datagram.destination);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        [self.phone.deadline(), self.to_phone.deadline(), self.to_service.deadline()].into_iter().flatten().min()
    }
}

async fn readable(socket: Option<&(SocketAddr, UdpSocket)>) {
    match socket {
        // An error shows when reading.
        Some((_, socket)) => drop(socket.readable().await),
        None => pending().await,
    }
}

/// Never, if there is no deadline.
pub(crate) async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}

/// Tokio's clock, which tests may stop.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
