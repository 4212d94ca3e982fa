//! The peer against another stack (str0m), lite like Meta and full like a browser.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use patchcord_media::peer::{Peer, PeerEvent};
use patchcord_media::rtp::RtpHeader;
use patchcord_media::sdp::{Answer, Offer};
use str0m::change::{SdpAnswer, SdpOffer, SdpPendingOffer};
use str0m::media::{Direction, MediaKind, Mid};
use str0m::net::{Protocol, Receive};
use str0m::rtp::RtpWrite;
use str0m::{Candidate, Event, Input, Output, Rtc};

use crate::network::{Datagram, End, LEFT, Network, PeerEnd, RIGHT, address, milliseconds, options};

/// The other stack, with what it has heard.
pub struct Foreigner {
    pub rtc: Rtc,
    pub connected: bool,
    pub heard: Vec<Vec<u8>>,
    pub mid: Option<Mid>,
    timeout: Option<Instant>,
}

/// What is the same in every direction of a call.
#[derive(Clone, Copy)]
struct Case {
    lite: bool,
    /// The foreigner opens the handshake.
    foreigner_is_client: bool,
    seed: u64,
    loss: f64,
}

const META: Case = Case { lite: true, foreigner_is_client: false, seed: 1, loss: 0.0 };

impl Foreigner {
    pub fn new(lite: bool, now: Instant) -> Foreigner {
        let mut rtc = Rtc::builder()
            .set_crypto_provider(Arc::new(str0m::crypto::from_feature_flags()))
            .set_ice_lite(lite)
            .set_rtp_mode(true)
            .clear_codecs()
            .enable_opus(true, false)
            .build(now);
        rtc.add_local_candidate(Candidate::host(address(LEFT), "udp").unwrap());
        Foreigner { rtc, connected: false, heard: Vec::new(), mid: None, timeout: Some(now) }
    }

    pub fn offer(&mut self) -> (String, SdpPendingOffer) {
        let mut change = self.rtc.sdp_api();
        self.mid = Some(change.add_media(MediaKind::Audio, Direction::SendRecv, None, None, None));
        let (offer, pending) = change.apply().unwrap();
        (offer.to_sdp_string(), pending)
    }

    pub fn say(&mut self, number: u64, payload: &[u8], now: Instant) {
        let Some(mid) = self.mid else { return };
        let mut direct = self.rtc.direct_api();
        let stream = direct.stream_tx_by_mid(mid, None).unwrap();
        let time = (number * 960) as u32;
        stream.write_rtp(RtpWrite::new(111.into(), number.into(), time, now, payload.to_vec()));
    }
}

impl End for Foreigner {
    fn receive(&mut self, datagram: &Datagram, now: Instant) {
        let received = Receive::new(Protocol::Udp, datagram.from, datagram.to, &datagram.data);
        let Ok(received) = received else { return };
        self.rtc.handle_input(Input::Receive(now, received)).unwrap();
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, SocketAddr, Vec<u8>)> {
        loop {
            match self.rtc.poll_output().unwrap() {
                Output::Transmit(transmit) => {
                    return Some((transmit.source, transmit.destination, transmit.contents.to_vec()));
                }
                Output::Timeout(at) => {
                    self.timeout = Some(at);
                    return None;
                }
                Output::Event(Event::Connected) => self.connected = true,
                Output::Event(Event::RtpPacket(packet)) => self.heard.push(packet.payload.to_vec()),
                Output::Event(Event::MediaAdded(media)) => self.mid = Some(media.mid),
                Output::Event(_) => {}
            }
        }
    }

    fn poll_timeout(&mut self) -> Option<Instant> {
        self.timeout
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.rtc.handle_input(Input::Timeout(now)).unwrap();
    }
}

pub type Call = Network<Foreigner, PeerEnd>;

/// The foreigner offers, as Meta does when a user calls.
fn user_calls(case: Case) -> Call {
    let now = Instant::now();
    let mut foreigner = Foreigner::new(case.lite, now);
    let (offer, pending) = foreigner.offer();
    let setup = if case.foreigner_is_client { "a=setup:active" } else { "a=setup:actpass" };
    let offer = Offer::parse(&offer.replace("a=setup:actpass", setup)).unwrap();
    assert_eq!(offer.ice_lite, case.lite);
    let (peer, answer) = Peer::answer(&options(&[RIGHT], 22), &offer, now).unwrap();
    let answer = SdpAnswer::from_sdp_string(&answer).unwrap();
    foreigner.rtc.sdp_api().accept_answer(pending, answer).unwrap();
    network(case, foreigner, peer, now)
}

/// We offer, as when a business calls.
fn business_calls(case: Case) -> Call {
    let now = Instant::now();
    let mut foreigner = Foreigner::new(case.lite, now);
    let (mut peer, offer) = Peer::offer(&options(&[RIGHT], 22), now).unwrap();
    // The foreigner answers `passive` to `actpass`, and what is left to `passive`.
    let setup = if case.foreigner_is_client { "a=setup:passive" } else { "a=setup:actpass" };
    let offer = SdpOffer::from_sdp_string(&offer.replace("a=setup:actpass", setup)).unwrap();
    let answer = foreigner.rtc.sdp_api().accept_offer(offer).unwrap();
    let answer = Answer::parse(&answer.to_sdp_string()).unwrap();
    peer.accept_answer(&answer, now).unwrap();
    network(case, foreigner, peer, now)
}

fn network(case: Case, foreigner: Foreigner, peer: Peer, now: Instant) -> Call {
    let mut network = Network::new(foreigner, PeerEnd::new(peer), &[RIGHT], now, case.seed);
    network.loss = case.loss;
    network
}

pub fn connect(network: &mut Call, within: Duration) -> bool {
    network.run_until(within, |network| network.left.connected && network.right.peer.is_connected())
}

pub fn talk(network: &mut Call, frames: u16) {
    talk_on(network, 0, frames);
}

/// Both sides say so many frames, from this number on.
pub fn talk_on(network: &mut Call, first: u16, frames: u16) {
    for number in first..first + frames {
        let header = RtpHeader {
            payload_type: 111,
            marker: false,
            sequence: 1000 + number,
            timestamp: u32::from(number) * 960,
            ssrc: 22,
        };
        let now = network.now;
        let sent = network.right.peer.send_rtp(header, &[number as u8; 40], now).unwrap();
        network.send(Datagram { from: sent.socket, to: sent.to, data: sent.data.to_vec() });
        network.left.say(number.into(), &[number as u8; 30], now);
        network.run_for(milliseconds(20));
    }
    network.run_for(milliseconds(200));
}

fn all_cases(mut each: impl FnMut(Case, fn(Case) -> Call)) {
    for call in [user_calls as fn(Case) -> Call, business_calls] {
        for lite in [true, false] {
            for foreigner_is_client in [true, false] {
                each(Case { lite, foreigner_is_client, ..META }, call);
            }
        }
    }
}

#[test]
fn a_call_from_or_to_another_stack_connects_and_is_heard() {
    all_cases(|case, call| {
        let mut network = call(case);
        assert!(connect(&mut network, milliseconds(1000)), "lite {}", case.lite);
        talk(&mut network, 50);
        assert_eq!(network.left.heard.len(), 50);
        assert_eq!(network.left.heard[7], [7; 40]);
        assert_eq!(network.right.packets.len(), 50);
        assert_eq!(network.right.packets[9].payload[..], [9; 30]);
        assert_eq!(network.right.peer.stats().dropped, Default::default());
    });
}

#[test]
fn a_meta_that_gets_our_answer_late_is_up_at_once() {
    for late in [3, 11, 29] {
        let mut network = user_calls(META);
        network.delay = milliseconds(1);
        let wakes = network.start + Duration::from_secs(late);
        network.filter = Box::new(move |datagram, now| datagram.to != address(LEFT) || now >= wakes);
        assert!(connect(&mut network, Duration::from_secs(late + 2)));
        let took = network.right.connected_at.unwrap() - wakes;
        assert!(took <= milliseconds(60), "{took:?} after {late} s");
    }
}

/// How many of 320 calls come up within `limit`. The other stack's own chance is not seeded.
fn come_up(loss: f64, limit: Duration) -> usize {
    let mut up = 0;
    all_cases(|case, call| {
        for seed in 0..40 {
            let mut network = call(Case { seed, loss, ..case });
            up += usize::from(connect(&mut network, limit));
        }
    });
    println!("{up} of 320 up within {limit:?} at {loss} loss");
    up
}

#[test]
fn calls_with_another_stack_survive_loss() {
    assert_eq!(come_up(0.05, Duration::from_secs(20)), 320);
    // The other stack doubles the wait between its flights: five lost ones take 15 s.
    assert!(come_up(0.20, Duration::from_secs(10)) >= 304);
}

#[test]
fn a_forged_role_conflict_does_not_take_the_control_from_us() {
    let mut network = user_calls(META);
    let wakes = network.start + Duration::from_secs(1);
    network.filter = Box::new(move |datagram, now| datagram.to != address(LEFT) || now >= wakes);
    for _ in 0..20 {
        network.inject(forged_check(), Duration::ZERO);
        network.run_for(milliseconds(50));
    }
    assert!(connect(&mut network, milliseconds(500)));
    assert_eq!(network.right.peer.stats().dropped.stun, 20);
}

/// A binding request that says "I control, and my tie breaker beats yours", unsigned.
fn forged_check() -> Datagram {
    let mut data = vec![0, 1, 0, 12, 0x21, 0x12, 0xa4, 0x42];
    data.extend([9; 12]);
    data.extend([0x80, 0x2a, 0, 8]);
    data.extend([0xff; 8]);
    Datagram { from: address(LEFT), to: address(RIGHT), data }
}

#[test]
fn noise_does_not_make_us_end_the_handshake_of_the_other_side() {
    for case in [META, Case { foreigner_is_client: true, ..META }] {
        let mut network = user_calls(case);
        // A ChangeCipherSpec of nonsense, which the endpoint answers with a fatal alert.
        let data = vec![20, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 40, 0, 2, 9, 9];
        for _ in 0..60 {
            let from = address(LEFT);
            let to = address(RIGHT);
            network.inject(Datagram { from, to, data: data.clone() }, Duration::ZERO);
            network.run_for(milliseconds(5));
        }
        assert!(connect(&mut network, milliseconds(500)));
    }
}

#[test]
fn a_lite_remote_that_hangs_up_is_noticed() {
    let mut network = user_calls(META);
    assert!(connect(&mut network, milliseconds(500)));
    network.filter = Box::new(|datagram, _| datagram.from != address(LEFT));
    let gone = network.run_until(Duration::from_secs(35), |network| network.right.peer.close_reason().is_some());
    assert!(gone);
    assert!(network.right.events.contains(&PeerEvent::ConsentLost));
}
