//! A worker on its own: who is seated where, and what it answers when there is no room.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use patchcord_media::peer::Identity;
use patchcord_media::sdp::Offer;
use tokio::sync::{mpsc, oneshot};

use super::{Answer, Command, Silence, WorkerHandle, WorkerOptions, start};
use crate::call::end::EndReason;
use crate::call::event::CallId;
use crate::call::route::BargeIn;
use crate::prompts::PromptLibrary;
use crate::settings::CurrentSettings;
use crate::whatsapp::webhook::{self, Notice};

const CONNECT: &[u8] = include_bytes!("../../tests/fixtures/whatsapp/webhook-connect-user-initiated-2025-10.json");

/// A real offer: its relay's address is always the same.
fn offer() -> Offer {
    let notices = webhook::parse(CONNECT).unwrap();
    let Some(Notice::Connect(connect)) = notices.first() else { panic!("the fixture holds a connect") };
    Offer::parse(&connect.session.sdp).unwrap()
}

/// A worker with so many UDP ports.
fn worker(ports: u16) -> WorkerHandle {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port().min(65_000);
    let loopback: IpAddr = Ipv4Addr::LOCALHOST.into();
    let roots = rustls::RootCertStore::empty();
    let options = WorkerOptions {
        identity: Arc::new(Identity::generate().unwrap()),
        addresses: vec![(loopback, loopback)],
        ports: first..=first + ports - 1,
        allow_private: false,
        silence: Silence { warn_after: Duration::from_secs(5), end_after: Duration::from_secs(30) },
        tls: Arc::new(rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()),
        prompts: PromptLibrary::load(Path::new("nowhere")).unwrap(),
        recordings: None,
        settings: CurrentSettings::default(),
    };
    start(options, 0, 1).unwrap().0
}

async fn answer(worker: &WorkerHandle) -> (CallId, Result<u16, EndReason>) {
    let call = CallId::generate();
    let (reply, answered) = oneshot::channel();
    let (reports, _) = mpsc::channel(1);
    let start = Box::default();
    let barge_in = BargeIn::Off;
    let answer = Answer {
        call: call.clone(),
        offer: offer(),
        start,
        barge_in,
        record: false,
        hold: "hold".to_owned(),
        reports,
        reply,
    };
    worker.send(Command::Answer(answer)).await.unwrap();
    (call, answered.await.unwrap().map(|sdp| port_of(&sdp)))
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
    assert!(third_port != first_port && third_port != second_port, "the first call's seat rests for 30 s");
    assert_eq!(worker.calls(), 2);
}

#[tokio::test]
async fn a_call_for_which_no_port_is_left_is_refused_as_overload() {
    let worker = worker(1);
    // The one port may be held by another program, which comes to the same for this test's second call.
    let _ = answer(&worker).await;
    assert_eq!(answer(&worker).await.1, Err(EndReason::Overloaded));
}
