//! BrowserLeg: the RTP leg of a page, or of an endpoint that answers our offer, shared by the worker, which has its
//! datagrams, and the task, which has its audio.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use patchcord_media::peer::{PeerError, PeerOptions, Transmit};
use patchcord_media::rtp_leg::{Received, RtpLeg, RtpLegEvent};
use patchcord_media::sdp::{Answer, Fragment, Offer};
use tokio::sync::Notify;

/// The number of a page's connection within its call.
pub type BrowserId = u32;

/// Sends datagrams without waiting.
pub(crate) trait Wire {
    fn send(&self, transmit: &Transmit);
}

/// The RTP leg of one page. Borrowed between two awaits only.
pub(crate) struct BrowserLeg {
    leg: RefCell<RtpLeg>,
    /// For ICE restarts.
    options: PeerOptions,
    /// The name of the media section in the page's SDP.
    mid: Option<String>,
    wire: Box<dyn Wire>,
    /// Something arrived.
    news: Notify,
    /// A task carries its audio.
    is_claimed: Cell<bool>,
    has_left: Cell<bool>,
}

/// The worker's side.
impl BrowserLeg {
    /// A leg that is being connected.
    pub fn new(leg: RtpLeg, options: PeerOptions, mid: Option<String>, wire: Box<dyn Wire>) -> Self {
        let (news, is_claimed, has_left) = (Notify::new(), Cell::new(false), Cell::new(false));
        Self { leg: RefCell::new(leg), options, mid, wire, news, is_claimed, has_left }
    }

    /// Takes a datagram that `socket` received.
    pub fn receive(&self, (socket, from): (SocketAddr, SocketAddr), datagram: &[u8], now: Instant) {
        self.leg.borrow_mut().receive(socket, from, datagram, now);
        self.flush();
        self.news.notify_one();
    }

    /// Whether a STUN message from an unknown address is the page's.
    pub fn is_authentic_stun(&self, datagram: &[u8]) -> bool {
        self.leg.borrow_mut().is_authentic_stun(datagram)
    }

    /// Takes the answer to our offer.
    pub fn accept_answer(&self, answer: &Answer, now: Instant) -> Result<(), PeerError> {
        let taken = self.leg.borrow_mut().accept_answer(answer, now);
        self.flush();
        self.news.notify_one();
        taken
    }

    /// Takes candidates of the page, or restarts ICE: then the reply is our fragment.
    pub fn take_fragment(&self, fragment: &Fragment, now: Instant) -> Result<Option<String>, PeerError> {
        let taken = self.leg.borrow_mut().take_fragment(&self.options, fragment, self.mid.as_deref(), now);
        self.flush();
        self.news.notify_one();
        taken
    }

    /// Answers a later offer of a phone.
    pub fn answer_again(&self, offer: &Offer, now: Instant) -> Result<String, PeerError> {
        let answer = self.leg.borrow_mut().answer_again(&self.options, offer, now);
        self.flush();
        self.news.notify_one();
        answer
    }

    /// Our user name in the newest ICE session: another one after each restart.
    pub fn newest_ufrag(&self) -> String {
        self.leg.borrow().local_ufrags().last().unwrap_or_default().to_owned()
    }

    /// The page leaves.
    pub fn leave(&self) {
        self.has_left.set(true);
        self.news.notify_one();
    }

    pub fn is_claimed(&self) -> bool {
        self.is_claimed.get()
    }

    /// Says goodbye to the page.
    pub fn close(&self, now: Instant) {
        self.leg.borrow_mut().close(now);
        self.flush();
    }

    /// Sends what is ready.
    pub fn flush(&self) {
        let mut leg = self.leg.borrow_mut();
        while let Some(transmit) = leg.poll_transmit() {
            self.wire.send(&transmit);
        }
    }
}

/// The task's side.
impl BrowserLeg {
    /// A task carries it, or will.
    pub fn claim(&self) {
        self.is_claimed.set(true);
    }

    pub(in crate::agent) async fn news(&self) {
        self.news.notified().await;
    }

    pub(in crate::agent) fn has_left(&self) -> bool {
        self.has_left.get()
    }

    pub(in crate::agent) fn handle_timeout(&self, now: Instant) {
        self.leg.borrow_mut().handle_timeout(now);
    }

    pub(in crate::agent) fn poll_timeout(&self) -> Option<Instant> {
        self.leg.borrow().poll_timeout()
    }

    pub(in crate::agent) fn shift_deadlines(&self, gap: Duration, now: Instant) {
        self.leg.borrow_mut().shift_deadlines(gap, now);
    }

    pub(in crate::agent) fn start(&self, now: Instant) {
        self.leg.borrow_mut().start(now);
    }

    pub(in crate::agent) fn poll_event(&self) -> Option<RtpLegEvent> {
        self.leg.borrow_mut().poll_event()
    }

    pub(in crate::agent) fn poll_received(&self, now: Instant) -> Option<Received> {
        self.leg.borrow_mut().poll_received(now)
    }

    pub(in crate::agent) fn relay(&self, packet: &[u8], now: Instant) {
        self.leg.borrow_mut().relay(packet, now);
    }

    /// A page that negotiated no keys, or has too many to hear, misses it.
    pub(in crate::agent) fn send_key(&self, digit: char) {
        let _ = self.leg.borrow_mut().push_digits(digit.encode_utf8(&mut [0; 4]));
    }
}
