//! Datagrams of strangers at the port of a call that connects: nothing panics, and nobody gets in.
#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use patchcord_media::peer::{Consent, Identity, LocalAddress, Peer, PeerOptions, stun_request_ufrag};
use patchcord_media::sdp::Offer;

const OFFER: &str = include_str!("../../media/tests/fixtures/sdp-offer-user-initiated-2026-10.sdp");

static SOCKET: LazyLock<SocketAddr> = LazyLock::new(|| "127.0.0.1:4000".parse().expect("an address"));
static OPTIONS: LazyLock<PeerOptions> = LazyLock::new(|| PeerOptions {
    identity: Arc::new(Identity::generate().expect("an identity")),
    addresses: vec![LocalAddress { socket: *SOCKET, advertised: *SOCKET }],
    consent: Consent::default(),
    allow_private: true,
    ssrc: 1,
});

#[derive(Debug, Arbitrary)]
struct Datagram {
    /// From an address of the offer, or from elsewhere.
    from_candidate: bool,
    after_ms: u8,
    bytes: Vec<u8>,
}

fuzz_target!(|datagrams: Vec<Datagram>| {
    let mut now = Instant::now();
    let offer = Offer::parse(OFFER).expect("Meta's own offer");
    let (mut peer, _) = Peer::answer(&OPTIONS, &offer, now).expect("it can be answered");
    let candidate = offer.remote_candidates()[0];
    for datagram in datagrams {
        let from = if datagram.from_candidate { candidate } else { SocketAddr::from(([127, 0, 0, 9], 9)) };
        now += Duration::from_millis(datagram.after_ms.into());
        let _ = stun_request_ufrag(&datagram.bytes);
        assert!(peer.receive(*SOCKET, from, &datagram.bytes, now).is_none(), "a stranger is heard");
        peer.handle_timeout(now);
        while peer.poll_transmit().is_some() {}
        while peer.poll_event().is_some() {}
    }
    assert!(!peer.is_connected());
});
