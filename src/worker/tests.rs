//! A worker on its own: which port a call gets, and what the worker answers when there is no room.

use std::cell::RefCell;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::path::Path;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::time::{Duration, Instant};

use patchcord_media::bridge::Bridge;
use patchcord_media::peer::{Consent, Identity, LocalAddress, Peer, PeerOptions};
use patchcord_media::rtp_leg::RtpLeg;
use patchcord_media::sdp::{Answer, Offer};
use tokio::sync::{mpsc, oneshot};

use super::answering::rtp_leg_options;
use super::call_media::{CallMedia, Services, Transport};
use super::endpoints::{Endpoint, EndpointId, Endpoints};
use super::load::LoadLimits;
use super::ports::Ports;
use super::sockets::PortSockets;
use super::tick::Tick;
use super::{Command, MediaOptions, Report, Silence, Worker, WorkerHandle, WorkerOptions, placement, start};
use crate::agent::port::PortHost;
use crate::agent::{Instances, SocketOptions};
use crate::call::end::{EndReason, Shortage};
use crate::call::event::CallId;
use crate::call::route::BargeIn;
use crate::prompts::PromptLibrary;
use crate::settings::CurrentSettings;
use crate::whatsapp::webhook::{self, Notice};

const CONNECT: &[u8] = include_bytes!("../../tests/fixtures/whatsapp/webhook-connect-user-initiated-2025-10.json");

/// As configured by default.
const SILENCE: Silence = Silence {
    warn_after: Duration::from_secs(5),
    consent_lost_after: Duration::from_secs(30),
    end_after: Duration::from_secs(120),
};

/// A real offer: its relay's address is always the same.
fn offer() -> Offer {
    let notices = webhook::parse(CONNECT).unwrap();
    let Some(Notice::Connect(connect)) = notices.first() else { panic!("the fixture holds a connect") };
    Offer::parse(&connect.session.sdp).unwrap()
}

/// A worker with so many UDP ports.
fn worker(ports: u16) -> WorkerHandle {
    let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().min(65_000);
    start(worker_options(first..=first + ports - 1), 0, 1).unwrap().0
}

fn worker_options(ports: RangeInclusive<u16>) -> WorkerOptions {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
    let roots = rustls::RootCertStore::empty();
    WorkerOptions {
        identity: Arc::new(Identity::generate().unwrap()),
        addresses: vec![(loopback, loopback)],
        ports,
        allow_private: false,
        silence: SILENCE,
        load: LoadLimits { lateness: Duration::from_secs(1), share: 1.0 },
        sockets: SocketOptions {
            tls: Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()),
            connect_timeout: Duration::from_secs(8),
            idle_timeout: Duration::from_secs(20),
            instances: Instances::default(),
            sip: None,
            settings: CurrentSettings::default(),
        },
        prompts: PromptLibrary::load(Path::new("nowhere")).unwrap(),
        recordings: None,
        settings: CurrentSettings::default(),
    }
}

async fn answer(worker: &WorkerHandle) -> (CallId, Result<u16, EndReason>) {
    let call = CallId::generate();
    let (reply, answered) = oneshot::channel();
    let (reports, _) = mpsc::channel(1);
    let answer = super::Answer { offer: offer(), media: media_options(call.clone()), reports, reply };
    worker.send(Command::Answer(answer)).await.unwrap();
    (call, answered.await.unwrap().map(|sdp| port_of(&sdp)))
}

fn media_options(call: CallId) -> MediaOptions {
    MediaOptions { call, description: Box::default(), barge_in: BargeIn::Off, record: false, hold: "hold".to_owned() }
}

async fn release(worker: &WorkerHandle, call: CallId) {
    let (reply, released) = oneshot::channel();
    worker.send(Command::Release { call, reason: "test", reply }).await.unwrap();
    released.await.unwrap();
}

fn port_of(sdp: &str) -> u16 {
    let media = sdp.lines().find_map(|line| line.strip_prefix("m=audio ")).unwrap();
    media.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn two_calls_from_one_relay_get_a_port_each_and_a_left_port_rests() {
    let worker = worker(40);
    let (first, first_port) = answer(&worker).await;
    let (_, second_port) = answer(&worker).await;
    let (first_port, second_port) = (first_port.unwrap(), second_port.unwrap());
    assert_ne!(first_port, second_port);
    release(&worker, first).await;
    let (_, third_port) = answer(&worker).await;
    let third_port = third_port.unwrap();
    assert!(third_port != first_port && third_port != second_port, "the first call's slot rests for 30 s");
}

#[tokio::test]
async fn a_call_for_which_no_port_is_left_is_refused_as_overload() {
    let worker = worker(1);
    // The one port may be held by another program, which comes to the same for this test's second call.
    let _ = answer(&worker).await;
    assert_eq!(answer(&worker).await.1, Err(EndReason::Overloaded(Shortage::Ports)));
}

/// Stands in for whatever may stop a thread: it waits for a word while it is woken there.
struct Blocking(Mutex<std::sync::mpsc::Receiver<()>>);

impl Wake for Blocking {
    fn wake(self: Arc<Self>) {
        // Goes on when the test is over, too.
        let _ = self.0.lock().unwrap().recv();
    }
}

#[tokio::test]
async fn a_worker_that_is_stuck_has_no_pulse_until_it_goes_on() {
    let (stuck, other) = (worker(1), worker(1));
    let (go_on, word) = std::sync::mpsc::channel();
    let (reply, mut released) = oneshot::channel();
    let waker = Waker::from(Arc::new(Blocking(Mutex::new(word))));
    assert!(Pin::new(&mut released).poll(&mut Context::from_waker(&waker)).is_pending());
    stuck.send(Command::Release { call: CallId::generate(), reason: "test", reply }).await.unwrap();
    until(|now| stuck.is_late(now)).await;
    until(|now| !other.is_late(now)).await;
    answer(&other).await.1.unwrap();
    let _place = other.take_place();
    let workers = [stuck.clone(), other.clone()];
    until(|now| placement::best(&workers, now).calls() == 1).await;
    go_on.send(()).unwrap();
    until(|now| !stuck.is_late(now)).await;
    let stood_still = stuck.pulse().stood_still(Instant::now());
    assert!(stood_still > Duration::from_secs(1));
    println!("drill  {:<28} stuck for {stood_still:.1?}: the next call got another worker", "stuck media worker");
}

/// Waits until this holds.
async fn until(holds: impl Fn(Instant) -> bool) {
    let look = async {
        while !holds(Instant::now()) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), look).await.unwrap();
}

#[tokio::test]
async fn only_a_signed_check_is_admitted_from_another_address() -> anyhow::Result<()> {
    let now = Instant::now();
    let phone_at = SocketAddr::from(([203, 0, 113, 9], 4000));
    let (mut phone, offer) = Peer::offer(&peer_options(vec![phone_at])?, now)?;
    let (media, answer, _told) = media_for(&Offer::parse(&offer)?)?;
    let answer = Answer::parse(&answer)?;
    phone.accept_answer(&answer, now)?;
    let check = loop {
        phone.handle_timeout(phone.poll_timeout().unwrap());
        if let Some(check) = phone.poll_transmit() {
            break check.data.to_vec();
        }
    };
    let mut forged = check.clone();
    // Of the transaction's number: what is signed is no longer what was.
    forged[10] ^= 1;

    let worker = bare_worker()?;
    let socket = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    assert!(worker.endpoints.borrow_mut().place(&[], now).is_some_and(|placed| placed.port == 0));
    worker.endpoints.borrow_mut().add(&Endpoint { media: Rc::new(media), id: EndpointId::Caller }, &[], now);
    let from = |number: u16| SocketAddr::from(([198, 51, 100, 1], 1000 + number));
    let is_admitted = |number: u16| worker.endpoints.borrow().at(0, &from(number)).is_some();
    for number in 0..100 {
        worker.receive(0, socket, from(number), &forged, now);
        assert!(!is_admitted(number), "{number}");
    }
    for number in 0..100 {
        worker.receive(0, socket, from(number), &check, now);
        worker.receive(0, socket, from(number), &forged, now);
    }
    assert_eq!((0..100).filter(|number| is_admitted(*number)).count(), 16);
    Ok(())
}

/// A worker without thread and sockets.
fn bare_worker() -> anyhow::Result<Worker> {
    Ok(Worker {
        endpoints: RefCell::new(Endpoints::new(Ports::new(40_000..=40_009, 0, 1))),
        sockets: RefCell::default(),
        media: RefCell::default(),
        agents: RefCell::default(),
        tick: Tick::new(&Arc::default()),
        options: worker_options(40_000..=40_009),
        index: 0,
        status: Arc::default(),
    })
}

fn peer_options(addresses: Vec<SocketAddr>) -> anyhow::Result<PeerOptions> {
    Ok(PeerOptions {
        identity: Arc::new(Identity::generate()?),
        addresses: addresses.into_iter().map(|socket| LocalAddress { socket, advertised: socket }).collect(),
        allow_private: true,
        ssrc: 1,
        consent: Consent::default(),
    })
}

/// A call to which nothing has connected.
fn media() -> anyhow::Result<(CallMedia, mpsc::Receiver<Report>)> {
    let (media, _, told) = media_for(&offer())?;
    Ok((media, told))
}

/// A call with this offer, and its answer.
fn media_for(offer: &Offer) -> anyhow::Result<(CallMedia, String, mpsc::Receiver<Report>)> {
    let now = Instant::now();
    let sockets = PortSockets::open([SocketAddr::from((Ipv4Addr::LOCALHOST, 0))].into_iter())?;
    // Nothing is sent from there.
    let options = peer_options(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 4002))])?;
    let (peer, answer) = Peer::answer(&options, offer, now)?;
    let (reports, told) = mpsc::channel(1000);
    let services = Services {
        prompts: PromptLibrary::load(Path::new("nowhere"))?,
        recordings: None,
        reports,
        pulse: Arc::default(),
        worker: Weak::new(),
    };
    let caller = Transport::new(0, Rc::new(sockets), peer.local_ufrag().to_owned());
    let leg = RtpLeg::new(peer, &rtp_leg_options(offer, options.ssrc, SILENCE), now);
    let bridge = Bridge::new(leg, now);
    Ok((CallMedia::new(media_options(CallId::generate()), services, caller, bridge), answer, told))
}

#[tokio::test]
async fn a_bug_in_one_call_ends_it_once_and_nothing_is_done_with_it_any_more() -> anyhow::Result<()> {
    let (media, mut told) = media()?;
    assert_eq!(media.contained(|| 1), Some(1));
    assert!(told.try_recv().is_err());
    for _ in 0..2 {
        let with_bug = || {
            let _bridge = media.bridge().borrow_mut();
            panic!("a bug")
        };
        assert_eq!(media.contained(with_bug), None::<()>);
    }
    assert!(matches!(told.try_recv(), Ok(Report::Broken)));
    assert!(told.try_recv().is_err(), "reported once");
    let hours_later = Instant::now() + Duration::from_secs(7200);
    assert_eq!(media.visit(hours_later), None);
    assert!(told.try_recv().is_err(), "a live call would report silence of hours");
    media.contained(|| media.close(hours_later));
    Ok(())
}
