//! A browser page with a microphone: full ICE, DTLS-SRTP, Opus, and an ICE restart when its network changes.
//!
//! It offers, or answers as a bot's server does. The test carries the SDP between the page and the service, as the page's
//! script would.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
pub use str0m::media::Direction;
use str0m::media::{MediaKind, Mid, Pt};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc};
use tokio::net::UdpSocket;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep_until, timeout};

use crate::DEADLINE;
use crate::phone::ear::{HeardPacket, digits, play};
use crate::phone::shell::now;
use crate::phone::stack::add_telephone_events;
use crate::phone::voice::{Voice, VoicePacket};
use crate::sound::PHONE_RATE;
use crate::speech::Speech;
use crate::watched::{Watched, WatchedGuard};

/// What the page may be asked at once; more waits.
const ORDERS: usize = 32;
/// str0m names the clock of the RTP line, and the service that of the events.
const EVENTS_OF_STR0M: &str = "telephone-event/48000";
const EVENTS_ON_THE_WIRE: &str = "telephone-event/8000";

/// A page that runs until it is dropped.
#[derive(Debug)]
pub struct Page {
    /// Its own description.
    sdp: String,
    orders: mpsc::Sender<Order>,
    state: Arc<Watched<PageState>>,
}

#[derive(Debug, Default)]
struct PageState {
    is_connected: bool,
    is_closed: bool,
    heard: Vec<HeardPacket>,
}

#[derive(Debug)]
enum Order {
    TakeAnswer(String, oneshot::Sender<anyhow::Result<()>>),
    ChangeNetwork(oneshot::Sender<anyhow::Result<String>>),
    OfferAgain(Direction, oneshot::Sender<anyhow::Result<String>>),
    TakeFragment(String, oneshot::Sender<anyhow::Result<()>>),
    Press(String),
    Say(Speech),
    Mute,
    Close,
}

impl Page {
    /// A page on loopback that says this once it is connected.
    ///
    /// # Errors
    /// When no socket can be opened.
    pub async fn start(speech: Speech) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut rtc = stack();
        add_candidate(&mut rtc, socket.local_addr()?)?;
        let mut change = rtc.sdp_api();
        let mid = change.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None);
        let (offer, pending) = change.apply().context("an offer")?;
        let offer = offer.to_sdp_string().replace(EVENTS_OF_STR0M, EVENTS_ON_THE_WIRE);
        let mut running = Running::new(rtc, socket, speech);
        (running.mid, running.pending) = (Some(mid), Some(pending));
        Ok(running.start(offer))
    }

    /// A page on loopback that answers this offer, and says this once it is connected.
    ///
    /// # Errors
    /// When no socket can be opened or the offer cannot be used.
    pub async fn answering(offer: &str, speech: Speech) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut rtc = stack();
        add_candidate(&mut rtc, socket.local_addr()?)?;
        let offer = SdpOffer::from_sdp_string(&offer.replace(EVENTS_ON_THE_WIRE, EVENTS_OF_STR0M))?;
        let answer = rtc.sdp_api().accept_offer(offer)?.to_sdp_string().replace(EVENTS_OF_STR0M, EVENTS_ON_THE_WIRE);
        Ok(Running::new(rtc, socket, speech).start(answer))
    }

    /// Its SDP offer.
    #[must_use]
    pub fn offer(&self) -> &str {
        &self.sdp
    }

    /// Its SDP answer, if it answers.
    #[must_use]
    pub fn answer(&self) -> &str {
        &self.sdp
    }

    /// Its offer without candidates, as a page that trickles sends it.
    #[must_use]
    pub fn bare_offer(&self) -> String {
        without_candidates(&self.sdp)
    }

    /// The fragment that it trickles.
    #[must_use]
    pub fn fragment(&self) -> String {
        fragment(&self.sdp)
    }

    /// The service has answered.
    ///
    /// # Errors
    /// When the answer cannot be used.
    pub async fn take_answer(&self, sdp: &str) -> anyhow::Result<()> {
        self.order(|done| Order::TakeAnswer(sdp.to_owned(), done)).await?
    }

    /// A later offer of it, in this direction: to hold, or to come back. [`take_answer`](Self::take_answer) follows.
    ///
    /// # Errors
    /// When nothing would change.
    pub async fn offer_again(&self, direction: Direction) -> anyhow::Result<String> {
        self.order(|done| Order::OfferAgain(direction, done)).await?
    }

    /// It changes to another network: gives its offer with an ICE restart, without a candidate. The old one is gone.
    ///
    /// # Errors
    /// When ICE cannot be restarted.
    pub async fn offer_elsewhere(&self) -> anyhow::Result<String> {
        self.order(Order::ChangeNetwork).await?
    }

    /// It changes to another network: gives the fragment of its ICE restart. The old one is gone.
    ///
    /// # Errors
    /// When ICE cannot be restarted.
    pub async fn change_network(&self) -> anyhow::Result<String> {
        self.order(Order::ChangeNetwork).await?.map(|offer| fragment(&offer))
    }

    /// The service's fragment after a change of network.
    ///
    /// # Errors
    /// When the fragment cannot be used.
    pub async fn take_fragment(&self, fragment: &str) -> anyhow::Result<()> {
        self.order(|done| Order::TakeFragment(fragment.to_owned(), done)).await?
    }

    /// Presses keys.
    pub async fn press(&self, digits: &str) {
        self.tell(Order::Press(digits.to_owned())).await;
    }

    /// Says something else.
    pub async fn say(&self, speech: Speech) {
        self.tell(Order::Say(speech)).await;
    }

    /// Sends no more RTP.
    pub async fn mute(&self) {
        self.tell(Order::Mute).await;
    }

    /// Leaves, and says so on the connection (DTLS).
    pub async fn close(&self) {
        self.tell(Order::Close).await;
    }

    /// Waits until the connection is over.
    ///
    /// # Errors
    /// When it is not in time.
    pub async fn closed(&self) -> anyhow::Result<()> {
        self.wait_until(DEADLINE, |state| state.is_closed).await.context("the page is still connected")
    }

    /// Waits until ICE and DTLS are done.
    ///
    /// # Errors
    /// When they are not in time.
    pub async fn connected(&self) -> anyhow::Result<()> {
        self.wait_until(DEADLINE, |state| state.is_connected).await.context("the page is not connected")
    }

    /// What it hears from now on, for this long, at [`PHONE_RATE`].
    ///
    /// # Errors
    /// When it hears less in time.
    pub async fn hear_next(&self, time: Duration) -> anyhow::Result<Vec<i16>> {
        let before = self.state().heard.len();
        let samples = time.as_millis() as usize * PHONE_RATE as usize / 1000;
        let frames = samples / (PHONE_RATE as usize / 50);
        self.wait_until(time + DEADLINE, |state| state.heard.len() >= before + frames)
            .await
            .with_context(|| format!("it heard {} packets", self.state().heard.len() - before))?;
        let mut pcm = play(&self.state().heard[before..])?;
        pcm.truncate(samples);
        Ok(pcm)
    }

    /// Everything it has heard.
    #[must_use]
    pub fn heard_packets(&self) -> Vec<HeardPacket> {
        self.state().heard.clone()
    }

    /// The keys it has heard.
    #[must_use]
    pub fn heard_digits(&self) -> String {
        digits(&self.state().heard)
    }

    /// Waits until it has heard just these keys.
    ///
    /// # Errors
    /// When it has not in time; the error says which it heard.
    pub async fn wait_for_digits(&self, wanted: &str) -> anyhow::Result<()> {
        let heard = self.wait_until(DEADLINE, |state| digits(&state.heard) == wanted).await;
        heard.with_context(|| format!("the page heard the keys {:?}, not {wanted:?}", self.heard_digits()))
    }

    async fn order<T>(&self, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> anyhow::Result<T> {
        let (done, taken) = oneshot::channel();
        self.tell(order(done)).await;
        taken.await.context("the page is gone")
    }

    async fn tell(&self, order: Order) {
        // A page that failed hears nothing, which the test sees.
        let _ = self.orders.send(order).await;
    }

    async fn wait_until(&self, within: Duration, is_true: impl Fn(&PageState) -> bool) -> anyhow::Result<()> {
        Ok(timeout(within, self.state.wait(|state| is_true(state).then_some(()))).await?)
    }

    fn state(&self) -> WatchedGuard<'_, PageState> {
        self.state.lock()
    }
}

/// The page on its socket.
struct Running {
    rtc: Rtc,
    mid: Option<Mid>,
    pending: Option<SdpPendingOffer>,
    /// The service's first answer, which later ones change.
    answer: String,
    socket: UdpSocket,
    /// To a network that the service does not know yet.
    has_moved: bool,
    deadline: Instant,
    voice: Voice,
    state: Arc<Watched<PageState>>,
}

impl Running {
    fn new(rtc: Rtc, socket: UdpSocket, speech: Speech) -> Self {
        Self {
            rtc,
            mid: None,
            pending: None,
            answer: String::new(),
            socket,
            has_moved: false,
            deadline: now(),
            voice: Voice::new(speech, 0, rand::random::<u16>() / 2, rand::random()),
            state: Arc::default(),
        }
    }

    fn start(self, sdp: String) -> Page {
        let (orders, inbox) = mpsc::channel(ORDERS);
        let state = self.state.clone();
        tokio::spawn(self.run(inbox));
        Page { sdp, orders, state }
    }

    async fn run(mut self, mut inbox: mpsc::Receiver<Order>) {
        let mut buffer = vec![0; 2048];
        while self.rtc.is_alive() {
            if self.drain().is_err() {
                return;
            }
            let next = self.voice.next_at().map_or(self.deadline, |at| at.min(self.deadline));
            tokio::select! {
                biased;
                order = inbox.recv() => match order {
                    Some(order) => self.obey(order).await,
                    None => return,
                },
                received = self.socket.recv_from(&mut buffer) => {
                    if let Ok((length, from)) = received {
                        self.receive(from, &buffer[..length]);
                    }
                }
                () = sleep_until(next.into()) => self.speak(),
            }
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::TakeAnswer(sdp, done) => {
                self.answer = sdp.replace(EVENTS_ON_THE_WIRE, EVENTS_OF_STR0M);
                let taken = self.accept(&self.answer.clone()).and_then(|()| self.move_on());
                let _ = done.send(taken);
            }
            Order::ChangeNetwork(done) => {
                let _ = done.send(self.change_network().await);
            }
            Order::OfferAgain(direction, done) => {
                let _ = done.send(self.offer_again(direction));
            }
            Order::TakeFragment(fragment, done) => {
                let _ = done.send(self.take_fragment(&fragment));
            }
            Order::Press(digits) => self.voice.press(&digits),
            Order::Say(speech) => {
                self.voice.say(speech);
                self.voice.start(now());
            }
            Order::Mute => self.voice.stop(),
            Order::Close => drop(self.rtc.close()),
        }
    }

    fn accept(&mut self, answer: &str) -> anyhow::Result<()> {
        let pending = self.pending.take().context("an offer that waits")?;
        let answer = SdpAnswer::from_sdp_string(answer)?;
        self.rtc.sdp_api().accept_answer(pending, answer)?;
        self.handle_timeout();
        Ok(())
    }

    async fn change_network(&mut self) -> anyhow::Result<String> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let mut change = self.rtc.sdp_api();
        change.ice_restart(false);
        let (offer, pending) = change.apply().context("an ICE restart")?;
        (self.socket, self.pending, self.has_moved) = (socket, Some(pending), true);
        Ok(without_candidates(&offer.to_sdp_string()).replace(EVENTS_OF_STR0M, EVENTS_ON_THE_WIRE))
    }

    fn offer_again(&mut self, direction: Direction) -> anyhow::Result<String> {
        let mid = self.mid.context("a connection")?;
        let mut change = self.rtc.sdp_api();
        change.set_direction(mid, direction);
        let (offer, pending) = change.apply().context("a change")?;
        self.pending = Some(pending);
        Ok(offer.to_sdp_string().replace(EVENTS_OF_STR0M, EVENTS_ON_THE_WIRE))
    }

    /// The restart forgets the addresses of before, so the new one comes after it.
    fn move_on(&mut self) -> anyhow::Result<()> {
        if std::mem::take(&mut self.has_moved) {
            add_candidate(&mut self.rtc, self.socket.local_addr()?)?;
            self.handle_timeout();
        }
        Ok(())
    }

    fn take_fragment(&mut self, fragment: &str) -> anyhow::Result<()> {
        self.accept(&renewed(&self.answer, fragment))?;
        self.move_on()
    }

    fn receive(&mut self, from: SocketAddr, datagram: &[u8]) {
        let Ok(local) = self.socket.local_addr() else { return };
        if let Ok(receive) = Receive::new(Protocol::Udp, from, local, datagram) {
            let _ = self.rtc.handle_input(Input::Receive(now(), receive));
        }
    }

    fn speak(&mut self) {
        for packet in self.voice.speak(now()) {
            self.write(packet);
        }
        self.handle_timeout();
    }

    fn write(&mut self, packet: VoicePacket) {
        let mut direct = self.rtc.direct_api();
        let Some(stream) = self.mid.and_then(|mid| direct.stream_tx_by_mid(mid, None)) else { return };
        let payload_type = Pt::new_with_value(packet.payload_type);
        let write = RtpWrite::new(payload_type, packet.sequence.into(), packet.timestamp, now(), packet.payload);
        stream.write_rtp(write.marker(packet.marker));
    }

    fn handle_timeout(&mut self) {
        let _ = self.rtc.handle_input(Input::Timeout(now()));
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        loop {
            match self.rtc.poll_output()? {
                Output::Transmit(transmit) => {
                    // From the network that is gone nothing is sent.
                    if self.socket.local_addr().is_ok_and(|local| local == transmit.source) {
                        let _ = self.socket.try_send_to(&transmit.contents, transmit.destination);
                    }
                }
                Output::Timeout(at) => {
                    self.deadline = at;
                    return Ok(());
                }
                Output::Event(Event::MediaAdded(media)) => self.mid = Some(media.mid),
                Output::Event(Event::Closed) => self.state().is_closed = true,
                Output::Event(Event::Connected) => {
                    self.voice.start(now());
                    self.state().is_connected = true;
                }
                Output::Event(Event::RtpPacket(packet)) => {
                    let heard = HeardPacket {
                        at: now(),
                        payload_type: *packet.header.payload_type,
                        seq: packet.header.sequence_number,
                        timestamp: packet.header.timestamp,
                        ssrc: *packet.header.ssrc,
                        marker: packet.header.marker,
                        len: packet.payload.len(),
                        payload: packet.payload,
                    };
                    self.state().heard.push(heard);
                }
                Output::Event(_) => {}
            }
        }
    }

    fn state(&self) -> WatchedGuard<'_, PageState> {
        self.state.lock()
    }
}

/// Opus and telephone events, as raw RTP.
fn stack() -> Rtc {
    let mut config = Rtc::builder()
        .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
        .set_rtp_mode(true)
        .clear_codecs()
        .enable_opus(true, false);
    add_telephone_events(config.codec_config());
    config.build(now())
}

fn add_candidate(rtc: &mut Rtc, address: SocketAddr) -> anyhow::Result<()> {
    rtc.add_local_candidate(Candidate::host(address, "udp").context("a host candidate")?);
    Ok(())
}

fn without_candidates(sdp: &str) -> String {
    sdp.lines().filter(|line| !line.starts_with("a=candidate")).map(|line| format!("{line}\r\n")).collect()
}

/// What of an SDP a fragment repeats.
fn fragment(sdp: &str) -> String {
    let is_ice = |line: &&str| ["a=ice-", "a=candidate", "m="].iter().any(|start| line.starts_with(start));
    sdp.lines().filter(is_ice).map(|line| format!("{line}\r\n")).collect()
}

/// An answer with the credentials of a fragment.
fn renewed(answer: &str, fragment: &str) -> String {
    let lines = answer.lines().map(|line| {
        let name = line.split_once(':').map(|(name, _)| name).filter(|name| name.starts_with("a=ice-"));
        name.and_then(|name| fragment.lines().find(|new| new.starts_with(name))).unwrap_or(line)
    });
    lines.map(|line| format!("{line}\r\n")).collect()
}
