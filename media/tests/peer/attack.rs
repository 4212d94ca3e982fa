//! Strangers who forge datagrams, and remotes who are not who they say.

use std::time::Duration;

use patchcord_media::peer::{CloseReason, Identity, PeerEvent};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::network::{Datagram, LEFT, Pair, PairOptions, RIGHT, address, milliseconds, offerer_is_client};

fn to_right(data: Vec<u8>) -> Datagram {
    Datagram { from: address(LEFT), to: address(RIGHT), data }
}

fn connected() -> Pair {
    let mut network = PairOptions::default().build();
    assert!(network.connect(milliseconds(500)));
    network
}

/// A DTLS record in the clear.
fn record(kind: u8, epoch: u8, number: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, 0xfe, 0xfd, 0, epoch];
    bytes.extend(&number.to_be_bytes()[2..]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn forged_signs_of_life_do_not_keep_a_dead_call() {
    let mut network = connected();
    network.filter = Box::new(|_, _| false);
    // A binding indication, and a binding request without a signature.
    let mut indication = vec![0, 0x11, 0, 0, 0x21, 0x12, 0xa4, 0x42];
    indication.extend([5; 12]);
    let mut request = indication.clone();
    request[1] = 1;
    let cut = network.now;
    let ended = network.run_until(Duration::from_secs(40), |network| network.right.peer.close_reason().is_some());
    assert!(ended);
    let mut network = connected();
    network.filter = Box::new(|_, _| false);
    for _ in 0..400 {
        network.inject(to_right(indication.clone()), milliseconds(1));
        network.inject(to_right(request.clone()), milliseconds(1));
        network.run_for(milliseconds(100));
    }
    let reason = network.right.peer.close_reason();
    assert_eq!(reason, Some(CloseReason::ConsentExpired));
    assert!(network.now > cut);
}

#[test]
fn replayed_answers_do_not_keep_a_dead_call() {
    let mut network = connected();
    let (copies, copied) = std::sync::mpsc::channel();
    network.filter = Box::new(move |datagram, _| {
        if datagram.is_stun() && datagram.to == address(RIGHT) {
            copies.send(datagram.clone()).unwrap();
        }
        true
    });
    network.run_for(Duration::from_secs(10));
    network.filter = Box::new(|_, _| false);
    let copies: Vec<Datagram> = copied.try_iter().collect();
    assert!(copies.len() >= 8);
    for _ in 0..35 {
        for copy in &copies {
            network.inject(copy.clone(), milliseconds(1));
        }
        network.run_for(Duration::from_secs(1));
    }
    let reason = network.right.peer.close_reason();
    assert_eq!(reason, Some(CloseReason::ConsentExpired));
}

#[test]
fn a_forged_alert_or_record_does_not_end_a_handshake() {
    for offer in [(|offer| offer) as fn(String) -> String, offerer_is_client] {
        for (kind, number, body) in [
            (21, 40, &[2, 40][..]),
            (21, 40, &[1, 0]),
            (23, 40, b"data"),
            (22, (1 << 48) - 1, &[1; 40]),
            (24, 40, &[0; 4]),
            (20, 40, &[9; 4]),
        ] {
            let mut network = PairOptions { offer, ..PairOptions::default() }.build();
            for _ in 0..40 {
                network.inject(to_right(record(kind, 0, number, body)), milliseconds(1));
                network.run_for(milliseconds(5));
            }
            assert!(network.connect(milliseconds(200)), "record {kind} {number}");
        }
    }
}

#[test]
fn a_forged_goodbye_does_not_end_a_call() {
    let mut network = connected();
    for number in 0..50 {
        network.inject(to_right(record(21, 0, number, &[1, 0])), milliseconds(1));
        network.inject(to_right(record(21, 1, number, &[1, 0])), milliseconds(1));
    }
    network.run_for(Duration::from_secs(5));
    assert_eq!(network.right.peer.close_reason(), None);
    network.talk_for(5);
    network.run_for(milliseconds(100));
    assert_eq!(network.right.packets.len(), 5);
}

#[test]
fn sound_from_elsewhere_is_dropped() {
    let mut network = connected();
    network.filter = Box::new(|datagram, _| datagram.data[0] < 128);
    let elsewhere = address("203.0.113.66:666");
    network.right.peer.receive(address(RIGHT), elsewhere, &[0x80; 60], network.now);
    assert_eq!(network.right.peer.stats().dropped.foreign, 1);
}

#[test]
fn a_certificate_that_the_sdp_does_not_name_ends_the_call() {
    let rewrites: [fn(String) -> String; 2] =
        [|offer| other_fingerprint(&offer), |offer| other_fingerprint(&offerer_is_client(offer))];
    for offer in rewrites {
        let mut network = PairOptions { offer, ..PairOptions::default() }.build();
        network.run_for(Duration::from_secs(2));
        let expected = PeerEvent::Closed(CloseReason::FingerprintMismatch);
        assert_eq!(network.right.events, [expected]);
    }
    let mut network = PairOptions { answer: |answer| other_fingerprint(&answer), ..PairOptions::default() }.build();
    network.run_for(Duration::from_secs(2));
    let reason = network.left.peer.close_reason();
    assert_eq!(reason, Some(CloseReason::FingerprintMismatch));
}

fn other_fingerprint(text: &str) -> String {
    let other = Identity::generate().unwrap().fingerprint();
    let lines = text.lines().map(|line| match line.strip_prefix("a=fingerprint:") {
        Some(_) => format!("a=fingerprint:sha-256 {other}"),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\r\n")
}

#[test]
fn mutated_datagrams_neither_panic_nor_end_a_call() {
    let seed = 5;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let mut network = PairOptions::default().build();
    let (copies, copied) = std::sync::mpsc::channel();
    network.filter = Box::new(move |datagram, _| {
        if datagram.to == address(RIGHT) {
            copies.send(datagram.clone()).unwrap();
        }
        true
    });
    assert!(network.connect(milliseconds(500)));
    network.talk_for(300);
    let corpus: Vec<Datagram> = copied.try_iter().collect();
    for _ in 0..100_000 {
        let mut datagram = corpus[rng.random_range(0..corpus.len())].clone();
        for _ in 0..rng.random_range(1..4) {
            let at = rng.random_range(0..datagram.data.len());
            datagram.data[at] = rng.random();
        }
        datagram.data.truncate(rng.random_range(1..=datagram.data.len()));
        network.right.peer.receive(datagram.to, datagram.from, &datagram.data, network.now);
        while network.right.peer.poll_transmit().is_some() {}
    }
    assert_eq!(network.right.peer.close_reason(), None);
    network.run_for(milliseconds(100));
    network.right.packets.clear();
    for number in 300..400 {
        network.talk(number);
        network.run_for(milliseconds(20));
    }
    network.run_for(milliseconds(100));
    assert_eq!(network.right.packets.len(), 100);
}

#[test]
fn a_fresh_peer_survives_mutated_handshakes() {
    let seed = 6;
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    for round in 0..200 {
        let mut network = PairOptions { seed: round, ..PairOptions::default() }.build();
        network.run_for(milliseconds(rng.random_range(0..400)));
        for _ in 0..60 {
            let mut data: Vec<u8> = (0..rng.random_range(1..100)).map(|_| rng.random()).collect();
            data[0] = [0, 1, 20, 22, 23, 128][rng.random_range(0..6)];
            network.inject(to_right(data), milliseconds(1));
        }
        assert!(network.connect(Duration::from_secs(3)), "round {round}");
    }
}
