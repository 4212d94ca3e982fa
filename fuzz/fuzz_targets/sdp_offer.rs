//! SDP from Meta: an offer that can be read can be answered, and our answer can be read.
#![no_main]

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use libfuzzer_sys::fuzz_target;
use patchcord_media::peer::{Consent, Identity, LocalAddress, Peer, PeerOptions};
use patchcord_media::sdp::{Answer, Offer};

static OPTIONS: LazyLock<PeerOptions> = LazyLock::new(|| {
    let socket: SocketAddr = "127.0.0.1:4000".parse().expect("an address");
    PeerOptions {
        identity: Arc::new(Identity::generate().expect("an identity")),
        addresses: vec![LocalAddress { socket, advertised: socket }],
        consent: Consent::default(),
        allow_private: true,
        ssrc: 1,
    }
});

fuzz_target!(|text: &str| {
    let now = Instant::now();
    if let Ok(answer) = Answer::parse(text) {
        assert!(answer.remote_candidates().len() <= 20);
        let (mut peer, _) = Peer::offer(&OPTIONS, now).expect("an offer needs nothing foreign");
        let _ = peer.accept_answer(&answer, now);
    }
    let Ok(offer) = Offer::parse(text) else { return };
    assert!(offer.remote_candidates().len() <= 20);
    // An offer without a usable address is refused; nothing else is.
    let Ok((mut peer, answer)) = Peer::answer(&OPTIONS, &offer, now) else { return };
    let answer = Answer::parse(&answer).expect("our answers are readable");
    assert_eq!((&answer.refused_before, &answer.refused_behind), (&offer.refused_before, &offer.refused_behind));
    assert_eq!(answer.direction, offer.direction.answered());
    peer.handle_timeout(now);
    while peer.poll_transmit().is_some() {}
});
