//! Two peers find each other, talk, fall silent and part.

use std::time::Duration;

use patchcord_media::peer::{CloseReason, PeerEvent};

use crate::network::{Datagram, LEFT, PairOptions, RIGHT, address, milliseconds, offerer_is_client, options};

#[test]
fn two_peers_connect_and_hear_each_other() {
    let mut network = PairOptions::default().build();
    assert!(network.connect(milliseconds(500)));
    let connected = PeerEvent::Connected { socket: address(LEFT), remote: address(RIGHT) };
    assert_eq!(network.left.events, [connected]);
    network.talk_for(500);
    network.run_for(milliseconds(100));
    assert_eq!(network.left.packets.len(), 500);
    assert_eq!(network.right.packets.len(), 500);
    let packet = &network.right.packets[300];
    assert_eq!((packet.ssrc, packet.sequence, packet.timestamp), (11, 300, 288_000));
    assert_eq!(packet.payload[..], [44; 50]);

    let stats = network.left.peer.stats();
    assert_eq!((stats.packets_in, stats.packets_out, stats.lost), (500, 500, 0));
    assert_eq!((stats.bytes_in, stats.bytes_out), (25_000, 25_000));
    assert_eq!(stats.remote_ssrc, Some(22));
    assert_eq!(stats.srtp_profile, Some("AEAD_AES_128_GCM"));
    let round_trip = stats.round_trip.unwrap();
    assert!(round_trip.abs_diff(milliseconds(60)) < milliseconds(5), "{round_trip:?}");
    assert_eq!(stats.dropped, Default::default());
}

#[test]
fn either_side_can_open_the_handshake() {
    let mut network = PairOptions { offer: offerer_is_client, ..PairOptions::default() }.build();
    assert!(network.connect(milliseconds(500)));
    network.talk_for(10);
    network.run_for(milliseconds(100));
    assert_eq!(network.left.packets.len(), 10);
    assert_eq!(network.right.packets.len(), 10);
}

/// RFC 8122 §5: the certificate may match any of them, whichever end checks it.
#[test]
fn a_certificate_may_match_any_of_several_fingerprints() {
    fn before(text: String) -> String {
        text.replacen("a=fingerprint", &format!("{OTHER}a=fingerprint"), 1)
    }
    fn behind(text: String) -> String {
        text.replacen("a=setup", &format!("{OTHER}a=setup"), 1)
    }
    const OTHER: &str = "a=fingerprint:sha-512 00:11\r\na=fingerprint:sha-256 \
        00:01:02:03:04:05:06:07:08:09:0A:0B:0C:0D:0E:0F:10:11:12:13:14:15:16:17:18:19:1A:1B:1C:1D:1E:1F\r\n";
    for rewrite in [before as fn(String) -> String, behind, |text| offerer_is_client(before(text))] {
        let answer = |answer| behind(before(answer));
        let mut network = PairOptions { offer: rewrite, answer, ..PairOptions::default() }.build();
        assert!(network.connect(milliseconds(500)));
    }
}

/// RFC 3264 §6.1, and §5.1: reports flow whatever the direction.
#[test]
fn a_remote_that_takes_no_sound_gets_reports_alone() {
    for (direction, heard) in [("sendonly", [0, 50]), ("recvonly", [50, 0]), ("inactive", [0, 0])] {
        let offer: fn(String) -> String = match direction {
            "sendonly" => |offer| offer.replace("a=sendrecv", "a=sendonly"),
            "recvonly" => |offer| offer.replace("a=sendrecv", "a=recvonly"),
            _ => |offer| offer.replace("a=sendrecv", "a=inactive"),
        };
        let mut network = PairOptions { offer, ..PairOptions::default() }.build();
        let (reports, reported) = std::sync::mpsc::channel();
        network.filter = Box::new(move |datagram, _| {
            if datagram.is_rtcp() && datagram.from == address(RIGHT) {
                reports.send(()).unwrap();
            }
            true
        });
        assert!(network.connect(milliseconds(500)));
        network.talk_for(50);
        network.run_for(Duration::from_secs(6));
        assert_eq!([network.left.packets.len(), network.right.packets.len()], heard, "{direction}");
        assert!(reported.try_recv().is_ok(), "{direction}");
    }
}

#[test]
fn nothing_but_checks_and_handshake_is_sent_before_the_first_sound() {
    let mut network = PairOptions::default().build();
    network.filter = Box::new(|datagram, _| {
        assert!(datagram.is_stun() || datagram.is_dtls());
        true
    });
    assert!(network.connect(milliseconds(500)));
    network.run_for(Duration::from_secs(20));
}

#[test]
fn a_remote_deaf_for_a_while_is_up_as_soon_as_it_listens() {
    for deaf_for in [3, 11, 40] {
        for offer in [(|offer| offer) as fn(String) -> String, offerer_is_client] {
            let mut network = PairOptions { offer, ..PairOptions::default() }.build();
            network.delay = milliseconds(1);
            let wakes = network.start + Duration::from_secs(deaf_for);
            network.filter = Box::new(move |_, now| now >= wakes);
            assert!(network.connect(Duration::from_secs(deaf_for + 1)));
            let took = network.left.connected_at.max(network.right.connected_at).unwrap() - wakes;
            assert!(took <= milliseconds(60), "{took:?} after {deaf_for} s");
        }
    }
}

#[test]
fn a_hello_before_the_path_is_kept() {
    // The left end offers and so nominates; the right one is client and may only speak once
    // nominated, so the left end's answers to the nomination are held back.
    let mut network = PairOptions::default().build();
    let opens = network.start + Duration::from_secs(1);
    network.filter = Box::new(move |datagram, now| {
        let is_success = datagram.data[..2] == [1, 1];
        now >= opens || !(is_success && datagram.to == address(LEFT))
    });
    network.run_for(milliseconds(990));
    assert!(!network.left.peer.is_connected());
    assert!(network.connect(milliseconds(400)));
}

#[test]
fn ipv6_works_alone_and_beside_ipv4() {
    let alone = (["[2001:db8::1]:1000"], ["[2001:db8::2]:2000"]);
    let mut network = PairOptions {
        left: options(&alone.0, 11),
        right: options(&alone.1, 22),
        right_sockets: alone.1.to_vec(),
        ..PairOptions::default()
    }
    .build();
    assert!(network.connect(milliseconds(500)));

    let left = [LEFT, "[2001:db8::1]:1000"];
    let right = [RIGHT, "[2001:db8::2]:2000"];
    for family_works in [SocketFamily::V4, SocketFamily::V6] {
        let mut network = PairOptions {
            left: options(&left, 11),
            right: options(&right, 22),
            right_sockets: right.to_vec(),
            ..PairOptions::default()
        }
        .build();
        network.filter = Box::new(move |datagram, _| datagram.to.is_ipv4() == (family_works == SocketFamily::V4));
        assert!(network.connect(milliseconds(500)));
        network.talk_for(5);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SocketFamily {
    V4,
    V6,
}

#[test]
fn a_goodbye_ends_the_other_side() {
    let mut network = PairOptions::default().build();
    assert!(network.connect(milliseconds(500)));
    network.left.peer.close(network.now);
    network.run_for(milliseconds(200));
    let last = network.right.events.last();
    assert_eq!(last, Some(&PeerEvent::Closed(CloseReason::ClosedByRemote)));
    assert_eq!(network.left.peer.poll_timeout(), None);
    assert_eq!(network.right.peer.poll_timeout(), None);
    assert_eq!(network.left.events.len(), 1);
}

#[test]
fn a_silent_remote_is_reported_and_given_up() {
    let mut network = PairOptions::default().build();
    assert!(network.connect(milliseconds(500)));
    let cut = network.now;
    network.filter = Box::new(|_, _| false);
    let warned =
        network.run_until(Duration::from_secs(40), |network| network.left.events.contains(&PeerEvent::ConsentLost));
    assert!(warned);
    let after = network.now - cut;
    assert!((milliseconds(2900)..=milliseconds(6000)).contains(&after), "{after:?}");
    let expired = network.run_until(Duration::from_secs(40), |network| {
        network.left.peer.close_reason() == Some(CloseReason::ConsentExpired)
    });
    assert!(expired);
    let after = network.now - cut;
    assert!((Duration::from_secs(27)..=Duration::from_secs(31)).contains(&after), "{after:?}");
}

#[test]
fn a_remote_that_answers_again_is_reported() {
    let mut network = PairOptions::default().build();
    assert!(network.connect(milliseconds(500)));
    network.filter = Box::new(|_, _| false);
    network.run_for(Duration::from_secs(10));
    network.filter = Box::new(|_, _| true);
    network.run_for(Duration::from_secs(3));
    let told = &network.left.events[1..];
    assert_eq!(told, [PeerEvent::ConsentLost, PeerEvent::ConsentRegained]);
}

#[test]
fn a_connected_peer_wakes_about_once_a_second() {
    let mut network = PairOptions::default().build();
    assert!(network.connect(milliseconds(500)));
    network.run_for(Duration::from_secs(2));
    network.left.timeouts = 0;
    network.run_for(Duration::from_secs(60));
    assert!(network.left.timeouts <= 75, "{}", network.left.timeouts);
}

#[test]
fn reports_tell_loss_and_round_trip() {
    let mut network = PairOptions { seed: 7, ..PairOptions::default() }.build();
    assert!(network.connect(milliseconds(500)));
    let mut count = 0;
    network.filter = Box::new(move |datagram, _| {
        let is_sound = datagram.data[0] >= 128 && !datagram.is_rtcp();
        count += u32::from(is_sound && datagram.to == address(RIGHT));
        !(is_sound && datagram.to == address(RIGHT) && count.is_multiple_of(10))
    });
    network.talk_for(1000);
    let right = network.right.peer.stats();
    assert!((95..=101).contains(&right.lost), "{}", right.lost);
    let left = network.left.peer.stats();
    assert!(left.remote_lost.is_some_and(|lost| (60..=101).contains(&lost)), "{:?}", left.remote_lost);
    assert!((8..=11).contains(&left.remote_loss_percent));
    assert!(left.round_trip.unwrap().abs_diff(milliseconds(60)) < milliseconds(3));
}

#[test]
fn a_replayed_packet_is_dropped() {
    let mut network = PairOptions::default().build();
    assert!(network.connect(milliseconds(500)));
    let (copies, copied) = std::sync::mpsc::channel();
    network.filter = Box::new(move |datagram: &Datagram, _| {
        if datagram.data[0] >= 128 {
            copies.send(datagram.clone()).unwrap();
        }
        true
    });
    network.talk_for(20);
    network.run_for(milliseconds(100));
    for copy in copied.try_iter() {
        network.inject(copy, milliseconds(1));
    }
    network.run_for(milliseconds(100));
    assert_eq!(network.right.packets.len(), 20);
    assert_eq!(network.right.peer.stats().dropped.replayed, 20);
}
