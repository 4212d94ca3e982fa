//! A minimal phone: Patchcord's own peer, so that one core runs hundreds. It offers, or answers as a bot.

use std::cell::{Cell, RefCell};
use std::io::IoSliceMut;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use patchcord_media::peer::{Consent, Identity, LocalAddress, Peer, PeerEvent, PeerOptions};
use patchcord_media::rtp::RtpHeader;
use patchcord_media::sdp::{Answer, Offer};
use patchcord_simulator::Speech;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

use crate::machine;

const OPUS: u8 = 111;
const FRAME: Duration = Duration::from_millis(20);
/// 20 ms at RTP's 48 kHz.
const TICKS_PER_FRAME: u32 = 960;
/// Between two looks at its timers, before it talks.
const CONNECTING_EVERY: Duration = Duration::from_millis(10);
/// Datagrams read from a socket before other phones have their turn.
const TURN: usize = 16;

/// One phone and its way through a call.
pub struct Phone {
    peer: RefCell<Peer>,
    socket: UdpSocket,
    address: SocketAddr,
    ssrc: u32,
    speech: Speech,
    /// Its offer for the connect webhook, or its answer.
    pub sdp: String,
    /// When the next frame is said, from accept on.
    next_at: Cell<Option<Instant>>,
    sequence: Cell<u16>,
    /// RTP packets sent.
    pub sent: Cell<u64>,
    /// RTP packets heard.
    pub heard: Cell<u64>,
    /// When media came up.
    pub connected_at: Cell<Option<Instant>>,
    notes: RefCell<Option<Notes>>,
}

/// A phone's notes.
#[derive(Debug, Default)]
pub struct Notes {
    /// Packets that came.
    pub arrivals: Vec<Arrival>,
    /// When packets were handed to the kernel (by [`machine::clock`]), with their place in the speech.
    pub departures: Vec<(Duration, usize)>,
}

/// A packet that came.
#[derive(Debug)]
pub struct Arrival {
    /// When the kernel had it, by [`machine::clock`].
    pub at: Duration,
    /// RTP's.
    pub sequence: u16,
    /// One Opus packet.
    pub payload: Bytes,
}

/// By how much each step from packet to packet was off 20 ms, in milliseconds.
pub fn off_pace_ms(arrivals: &[Arrival]) -> Vec<f64> {
    let steps = arrivals.windows(2).map(|pair| (pair[1].at.as_secs_f64() - pair[0].at.as_secs_f64()) * 1e3);
    steps.map(|step| (step - 20.0).abs()).collect()
}

impl Phone {
    /// A phone that has its offer ready.
    pub async fn new(identity: &Arc<Identity>, speech: Speech) -> anyhow::Result<Rc<Self>> {
        Self::make(identity, speech, |options| Ok(Peer::offer(options, Instant::now())?)).await
    }

    /// One that has its answer to this offer ready.
    pub async fn answering(identity: &Arc<Identity>, speech: Speech, offer: &str) -> anyhow::Result<Rc<Self>> {
        let offer = Offer::parse(offer)?;
        Self::make(identity, speech, |options| Ok(Peer::answer(options, &offer, Instant::now())?)).await
    }

    async fn make(
        identity: &Arc<Identity>,
        speech: Speech,
        peer: impl FnOnce(&PeerOptions) -> anyhow::Result<(Peer, String)>,
    ) -> anyhow::Result<Rc<Self>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = socket.local_addr()?;
        let ssrc = rand::random();
        let options = PeerOptions {
            identity: identity.clone(),
            addresses: vec![LocalAddress { socket: address, advertised: address }],
            consent: Consent { warn_after: Duration::from_secs(5), fail_after: Duration::from_secs(30) },
            allow_private: true,
            ssrc,
        };
        let (peer, sdp) = peer(&options)?;
        Ok(Rc::new(Self {
            peer: RefCell::new(peer),
            socket,
            address,
            ssrc,
            speech,
            sdp,
            next_at: Cell::new(None),
            sequence: Cell::new(0),
            sent: Cell::new(0),
            heard: Cell::new(0),
            connected_at: Cell::new(None),
            notes: RefCell::new(None),
        }))
    }

    /// Runs until the task is aborted.
    pub fn start(self: &Rc<Self>) -> JoinHandle<()> {
        let phone = self.clone();
        tokio::task::spawn_local(async move { phone.run().await })
    }

    /// Meta has the service's answer.
    pub fn learn_answer(&self, answer: &str) -> anyhow::Result<()> {
        let answer = Answer::parse(answer)?;
        self.peer.borrow_mut().accept_answer(&answer, Instant::now())?;
        self.drain();
        Ok(())
    }

    /// Meta replied 200 to accept: talks from `delay` later on, so that phones do not talk in step.
    pub fn accepted(&self, delay: Duration) {
        self.next_at.set(Some(Instant::now() + delay));
    }

    /// Takes notes from now on.
    pub fn take_notes(&self) -> anyhow::Result<()> {
        setsockopt(&self.socket, sockopt::ReceiveTimestampns, &true)?;
        self.notes.replace(Some(Notes::default()));
        Ok(())
    }

    /// The notes since then; takes no more.
    pub fn notes(&self) -> Notes {
        self.notes.take().unwrap_or_default()
    }

    async fn run(&self) {
        let mut buffer = [0; 2048];
        let mut timers_at = Instant::now();
        loop {
            let wake_at = self.next_at.get().unwrap_or(timers_at);
            tokio::select! {
                readable = self.socket.readable() => if readable.is_ok() {
                    self.read(&mut buffer);
                },
                () = tokio::time::sleep_until(wake_at.into()) => {
                    timers_at = Instant::now() + CONNECTING_EVERY;
                    self.speak();
                }
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) {
        for _ in 0..TURN {
            let Ok((length, from, at)) = self.receive(buffer) else { break };
            let packet = self.peer.borrow_mut().receive(self.address, from, &buffer[..length], Instant::now());
            let Some(packet) = packet else { continue };
            self.heard.set(self.heard.get() + 1);
            if let Some(notes) = &mut *self.notes.borrow_mut() {
                notes.arrivals.push(Arrival { at, sequence: packet.sequence, payload: packet.payload });
            }
        }
        self.drain();
    }

    /// The time is zero unless notes are taken.
    fn receive(&self, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr, Duration)> {
        if self.notes.borrow().is_some() {
            return self.socket.try_io(Interest::READABLE, || receive_stamped(&self.socket, buffer));
        }
        self.socket.try_recv_from(buffer).map(|(length, from)| (length, from, Duration::ZERO))
    }

    fn speak(&self) {
        let now = Instant::now();
        if self.peer.borrow().poll_timeout().is_some_and(|at| at <= now) {
            self.peer.borrow_mut().handle_timeout(now);
        }
        self.drain();
        while let Some(at) = self.next_at.get().filter(|at| *at <= now) {
            self.next_at.set(Some(at + FRAME));
            let sequence = self.sequence.get();
            self.sequence.set(sequence.wrapping_add(1));
            let header = RtpHeader {
                payload_type: OPUS,
                marker: sequence == 0,
                sequence,
                timestamp: u32::from(sequence).wrapping_mul(TICKS_PER_FRAME),
                ssrc: self.ssrc,
            };
            let payload = self.speech.frame(usize::from(sequence));
            let began = machine::clock();
            if let Some(transmit) = self.peer.borrow_mut().send_rtp(header, &payload, now)
                && self.socket.try_send_to(&transmit.data, transmit.to).is_ok()
            {
                self.sent.set(self.sent.get() + 1);
            }
            if let Some(notes) = &mut *self.notes.borrow_mut() {
                notes.departures.push((began, usize::from(sequence)));
            }
        }
    }

    fn drain(&self) {
        let mut peer = self.peer.borrow_mut();
        while let Some(transmit) = peer.poll_transmit() {
            // A full socket loses the datagram, as a network would.
            let _ = self.socket.try_send_to(&transmit.data, transmit.to);
        }
        while let Some(event) = peer.poll_event() {
            if let PeerEvent::Connected { .. } = event {
                self.connected_at.set(Some(Instant::now()));
            }
        }
    }
}

/// A datagram with the moment at which the kernel had it: a phone among hundreds is served later than that.
fn receive_stamped(socket: &UdpSocket, buffer: &mut [u8]) -> std::io::Result<(usize, SocketAddr, Duration)> {
    let mut space = nix::cmsg_space!(TimeSpec);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = recvmsg::<SockaddrIn>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::empty())?;
    let stamped = message.cmsgs()?.find_map(|told| match told {
        ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
        _ => None,
    });
    // A datagram that came before the option was set has no stamp.
    let at = stamped.unwrap_or_else(machine::clock);
    let from = message.address.ok_or_else(|| std::io::Error::other("a datagram from nowhere"))?;
    Ok((message.bytes, SocketAddr::V4(SocketAddrV4::from(from)), at))
}
