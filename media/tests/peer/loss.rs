//! Handshakes on a bad network: every one comes up, whatever was lost.

use std::time::Duration;

use crate::network::{PairOptions, milliseconds, offerer_is_client};

const SEEDS: u64 = 100;

#[test]
fn handshakes_survive_five_percent_loss() {
    all_come_up(0.05, Duration::from_secs(3));
}

#[test]
fn handshakes_survive_twenty_percent_loss() {
    all_come_up(0.20, Duration::from_secs(15));
}

#[test]
fn handshakes_survive_forty_percent_loss() {
    all_come_up(0.40, Duration::from_secs(30));
}

fn all_come_up(loss: f64, within: Duration) {
    let mut slowest = (Duration::ZERO, 0);
    let mut options = PairOptions::default();
    for offer in [(|offer| offer) as fn(String) -> String, offerer_is_client] {
        options.offer = offer;
        for seed in 0..SEEDS {
            options.seed = seed;
            let mut network = options.build();
            network.loss = loss;
            let up = network.connect(within);
            assert!(up, "seed {seed} at {loss} loss: {:?}", network.left.peer.stats());
            slowest = slowest.max((network.now - network.start, seed));
        }
    }
    println!("loss {loss}: slowest {:?} with seed {}", slowest.0, slowest.1);
}

#[test]
fn any_single_lost_handshake_datagram_costs_little() {
    for offer in [(|offer| offer) as fn(String) -> String, offerer_is_client] {
        for lost in 0..12 {
            let mut network = PairOptions { offer, ..PairOptions::default() }.build();
            let mut seen = 0;
            network.filter = Box::new(move |datagram, _| {
                seen += u32::from(datagram.is_dtls());
                !(datagram.is_dtls() && seen == lost + 1)
            });
            assert!(network.connect(milliseconds(1500)), "datagram {lost} lost");
        }
    }
}

#[test]
fn four_lost_datagrams_of_the_other_side_in_a_row_are_survived() {
    for offer in [(|offer| offer) as fn(String) -> String, offerer_is_client] {
        for lost in 1..12 {
            let mut network = PairOptions { offer, ..PairOptions::default() }.build();
            let mut seen = 0;
            let deaf = network.right_address();
            network.filter = Box::new(move |datagram, _| {
                let counts = datagram.is_dtls() && datagram.from == deaf;
                seen += u32::from(counts);
                !(counts && seen <= lost)
            });
            assert!(network.connect(Duration::from_secs(15)), "first {lost} lost");
        }
    }
}

#[test]
fn a_handshake_comes_up_however_long_the_other_side_was_deaf_to_it() {
    for offer in [(|offer| offer) as fn(String) -> String, offerer_is_client] {
        for seconds in [1, 3, 5, 9, 15, 25, 40] {
            let mut network = PairOptions { offer, ..PairOptions::default() }.build();
            let opens = network.start + Duration::from_secs(seconds);
            network.filter = Box::new(move |datagram, now| !datagram.is_dtls() || now >= opens);
            network.run_for(Duration::from_secs(seconds));
            assert!(network.connect(milliseconds(1500)), "deaf for {seconds} s");
        }
    }
}

#[test]
fn a_handshake_cut_in_the_middle_goes_on() {
    for offer in [(|offer| offer) as fn(String) -> String, offerer_is_client] {
        for passed in 1..8 {
            let mut network = PairOptions { offer, ..PairOptions::default() }.build();
            let opens = network.start + Duration::from_secs(12);
            let mut seen = 0;
            network.filter = Box::new(move |datagram, now| {
                seen += u32::from(datagram.is_dtls());
                !datagram.is_dtls() || seen <= passed || now >= opens
            });
            assert!(network.connect(milliseconds(13_500)), "cut after {passed}");
        }
    }
}
