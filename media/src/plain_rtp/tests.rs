//! Packets of the phone, of its successors, and of strangers.

use super::*;
use crate::audio_terms::Codec;
use crate::rtcp::{RtcpPart, read_compound};
use crate::sdp::phone::{CryptoSuite, Encryption, MasterKey, PhoneDescription, PhoneSession, PhoneSessionOptions};

const OURS: &str = "203.0.113.7:40000";
const PHONE: &str = "198.51.100.4:5004";

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn options(latching: Option<&[&str]>) -> PlainRtpOptions {
    let latching = latching.map(|ips| ips.iter().map(|ip| ip.parse().unwrap()).collect());
    PlainRtpOptions { socket: address(OURS), ssrc: 1, allow_private: false, latching }
}

fn session(at: &str, encryption: Encryption) -> PhoneSession {
    PhoneSession::new(PhoneSessionOptions { address: address(at), codecs: vec![Codec::Pcmu], encryption })
}

/// What our session and that of a phone at an address agree on: our terms, and the phone's.
fn agreed(phone_at: &str, encryption: Encryption) -> (PhoneTerms, PhoneTerms) {
    let (mut ours, mut theirs) = (session(OURS, encryption), session(phone_at, encryption));
    let offer = PhoneDescription::parse(&theirs.offer().unwrap()).unwrap();
    let answer = ours.answer(&offer).unwrap();
    let accepted = theirs.accept_answer(&PhoneDescription::parse(&answer.sdp).unwrap()).unwrap();
    (answer.terms, accepted)
}

fn header(ssrc: u32, sequence: u16) -> RtpHeader {
    RtpHeader { payload_type: 0, marker: false, sequence, timestamp: 160 * u32::from(sequence), ssrc }
}

fn packet(ssrc: u32, sequence: u16) -> Vec<u8> {
    [&header(ssrc, sequence).to_bytes()[..], &[0xff; 160]].concat()
}

fn plain(latching: Option<&[&str]>, now: Instant) -> PlainRtp {
    PlainRtp::new(options(latching), &agreed(PHONE, Encryption::Accepted).0, now).unwrap()
}

#[test]
fn only_the_negotiated_address_is_heard_and_spoken_to() {
    let now = Instant::now();
    let mut plain = plain(None, now);
    for sequence in 0..20 {
        assert!(plain.receive(address("198.51.100.4:5006"), &packet(9, sequence), now).is_none());
        assert!(plain.receive(address("192.0.2.66:5004"), &packet(9, sequence), now).is_none());
        assert!(plain.receive(address(PHONE), &packet(7, sequence), now).is_some());
        let mapped = address("[::ffff:198.51.100.4]:5004");
        assert!(plain.receive(mapped, &packet(7, 100 + sequence), now).is_some());
    }
    assert_eq!(plain.stats().dropped.foreign, 40);
    assert_eq!(plain.stats().packets_in, 40);
    assert_eq!(plain.send_rtp(header(1, 0), &[0xff; 160], now).unwrap().to, address(PHONE));
}

#[test]
fn a_phone_behind_a_nat_is_followed_once_a_run_of_packets_proves_it() {
    let now = Instant::now();
    let mut plain = plain(Some(&["192.0.2.10"]), now);
    let (nat, stranger) = (address("192.0.2.10:61000"), address("192.0.2.66:5004"));
    let hears =
        |plain: &mut PlainRtp, from, ssrc, sequence| plain.receive(from, &packet(ssrc, sequence), now).is_some();
    for sequence in 0..20 {
        assert!(!hears(&mut plain, stranger, 9, sequence));
    }
    // A gap in the run, another SSRC and another payload type begin it anew.
    for (ssrc, sequence) in [(7, 1), (7, 2), (7, 4), (8, 5), (7, 6), (7, 7), (7, 8), (7, 9)] {
        assert!(!hears(&mut plain, nat, ssrc, sequence));
    }
    assert_eq!(plain.send_rtp(header(1, 0), &[], now).unwrap().to, address(PHONE), "not proven yet");
    assert!(!hears(&mut plain, nat, 7, 10), "the last packet of the proof");
    assert!(hears(&mut plain, nat, 7, 11));
    assert_eq!(plain.send_rtp(header(1, 1), &[], now).unwrap().to, nat);
    // Locked: neither the address of the SDP nor another port is heard.
    for sequence in 12..40 {
        assert!(!hears(&mut plain, address(PHONE), 7, sequence));
        assert!(!hears(&mut plain, address("192.0.2.10:61002"), 7, sequence));
    }
}

#[test]
fn a_late_run_proves_nothing_and_a_reinvite_opens_the_latch_again() {
    let start = Instant::now();
    let mut plain = plain(Some(&["192.0.2.10"]), start);
    let nat = address("192.0.2.10:61000");
    let prove = |plain: &mut PlainRtp, at: Instant| {
        for sequence in 0..10 {
            plain.receive(nat, &packet(7, sequence), at);
        }
        plain.send_rtp(header(1, 0), &[], at).unwrap().to == nat
    };
    let late = start + LATCH_WITHIN;
    assert!(!prove(&mut plain, late));
    plain.renegotiate(&agreed(PHONE, Encryption::Accepted).0, late).unwrap();
    assert!(prove(&mut plain, late));
    // The same SDP again, as for hold: the proven address stays.
    plain.renegotiate(&agreed(PHONE, Encryption::Accepted).0, late).unwrap();
    assert_eq!(plain.send_rtp(header(1, 1), &[], late).unwrap().to, nat);
    plain.renegotiate(&agreed("198.51.100.4:6000", Encryption::Accepted).0, late).unwrap();
    assert_eq!(plain.send_rtp(header(1, 2), &[], late).unwrap().to, address("198.51.100.4:6000"));
}

#[test]
fn a_private_address_is_refused_or_must_be_found() {
    let now = Instant::now();
    let (terms, _) = agreed("10.0.0.5:5004", Encryption::Accepted);
    assert_eq!(PlainRtp::new(options(None), &terms, now).err(), Some(PlainRtpError::AddressRefused));
    let mut plain = PlainRtp::new(options(Some(&["192.0.2.10"])), &terms, now).unwrap();
    assert!(!plain.can_send() && plain.send_rtp(header(1, 0), &[], now).is_none());
    for sequence in 0..5 {
        plain.receive(address("192.0.2.10:61000"), &packet(7, sequence), now);
    }
    assert_eq!(plain.send_rtp(header(1, 0), &[], now).unwrap().to, address("192.0.2.10:61000"));
    let allowed = PlainRtpOptions { allow_private: true, ..options(None) };
    assert!(PlainRtp::new(allowed, &terms, now).is_ok_and(|plain| plain.can_send()));
}

#[test]
fn another_sender_is_followed_at_its_second_packet_and_interleaved_ones_are_not() {
    let now = Instant::now();
    let mut plain = plain(None, now);
    let mut hears = |ssrc, sequence| plain.receive(address(PHONE), &packet(ssrc, sequence), now).is_some();
    assert!(hears(7, 1));
    for sequence in 0..50 {
        assert!(hears(7, 2 + sequence) && !hears(8, 900 + sequence), "{sequence}");
    }
    assert!(hears(8, 950), "the old one is silent");
    assert!(!hears(7, 60) && hears(7, 61));
}

#[test]
fn encrypted_audio_passes_both_ways_and_nobody_elses_does() {
    let now = Instant::now();
    let (ours, theirs) = agreed(PHONE, Encryption::Required);
    let mut plain = PlainRtp::new(options(None), &ours, now).unwrap();
    let there = PlainRtpOptions { socket: address(PHONE), ssrc: 7, ..options(None) };
    let mut phone = PlainRtp::new(there, &theirs, now).unwrap();
    // Across the wrap of the sequence numbers, with re-INVITEs that keep the keys.
    for number in 0..70_000_u32 {
        let sequence = (number & 0xffff) as u16;
        if number % 20_000 == 19_999 {
            plain.renegotiate(&ours, now).unwrap();
        }
        let sent = phone.send_rtp(header(7, sequence), b"hello", now).unwrap();
        assert_eq!(plain.receive(sent.socket, &sent.data, now).unwrap().payload, &b"hello"[..], "{number}");
        let sent = plain.send_rtp(header(1, sequence), b"hallo", now).unwrap();
        assert_eq!(phone.receive(sent.socket, &sent.data, now).unwrap().payload, &b"hallo"[..], "{number}");
    }
    assert_eq!(plain.stats().srtp_profile, Some("AES128_CM_HMAC_SHA1_80"));
    for sequence in 0..10 {
        assert!(plain.receive(address(PHONE), &packet(8, sequence), now).is_none(), "in clear, from its address");
    }
    assert_eq!(plain.stats().dropped.unauthenticated, 10);
    let again = phone.send_rtp(header(7, 5000), b"hello", now).unwrap();
    assert!(plain.receive(again.socket, &again.data, now).is_some(), "forgeries change nothing");
}

#[test]
fn every_suite_encrypts_audio_and_reports() {
    let now = Instant::now();
    for suite in CryptoSuite::ALL {
        let [local, remote] = [(); 2].map(|()| MasterKey::random(suite).unwrap());
        let (ours, theirs) = agreed(PHONE, Encryption::Accepted);
        let keys = |local: &MasterKey, remote: &MasterKey| {
            Some(SdesKeys { suite, local: local.clone(), remote: remote.clone() })
        };
        let ours = PhoneTerms { srtp: keys(&local, &remote), ..ours };
        let theirs = PhoneTerms { srtp: keys(&remote, &local), ..theirs };
        let mut plain = PlainRtp::new(options(None), &ours, now).unwrap();
        let there = PlainRtpOptions { socket: address(PHONE), ssrc: 7, ..options(None) };
        let mut phone = PlainRtp::new(there, &theirs, now).unwrap();
        let sent = plain.send_rtp(header(1, 1), b"hallo", now).unwrap();
        assert!(!sent.data.ends_with(b"hallo"));
        assert_eq!(phone.receive(sent.socket, &sent.data, now).unwrap().payload, &b"hallo"[..], "{suite:?}");
        assert!(phone.receive(sent.socket, &sent.data, now).is_none(), "a replay");
        let due = plain.poll_timeout().unwrap();
        plain.handle_timeout(due);
        let report = plain.poll_transmit().unwrap();
        phone.receive(report.socket, &report.data, due);
        assert_eq!(phone.media_at(), Some(due), "{suite:?}");
    }
}

#[test]
fn a_new_key_of_the_phone_replaces_its_own_only() {
    let now = Instant::now();
    let (ours, theirs) = agreed(PHONE, Encryption::Required);
    let (_, other) = agreed(PHONE, Encryption::Required);
    let (before, after) = (ours.srtp.clone().unwrap(), other.srtp.unwrap());
    let mut plain = PlainRtp::new(options(None), &ours, now).unwrap();
    let there = PlainRtpOptions { socket: address(PHONE), ssrc: 7, ..options(None) };
    let mut phone = PlainRtp::new(there, &theirs, now).unwrap();
    let ours = PhoneTerms { srtp: Some(SdesKeys { remote: after.local.clone(), ..before.clone() }), ..ours };
    plain.renegotiate(&ours, now).unwrap();
    let theirs = PhoneTerms { srtp: Some(SdesKeys { local: after.local, remote: before.local, ..before }), ..theirs };
    phone.renegotiate(&theirs, now).unwrap();
    let sent = phone.send_rtp(header(7, 1), b"hello", now).unwrap();
    assert!(plain.receive(sent.socket, &sent.data, now).is_some());
    let sent = plain.send_rtp(header(1, 1), b"hallo", now).unwrap();
    assert!(phone.receive(sent.socket, &sent.data, now).is_some());
}

#[test]
fn reports_flow_to_the_port_above_and_end_with_a_goodbye() {
    let now = Instant::now();
    let (terms, _) = agreed(PHONE, Encryption::Accepted);
    let rtcp = address("198.51.100.4:5005");
    let terms = PhoneTerms { remote_rtcp: Some(rtcp), ..terms };
    let mut plain = PlainRtp::new(options(None), &terms, now).unwrap();
    plain.send_rtp(header(1, 0), &[0; 160], now).unwrap();
    plain.receive(address(PHONE), &packet(7, 1), now).unwrap();
    let due = plain.poll_timeout().unwrap();
    plain.handle_timeout(due);
    let report = plain.poll_transmit().unwrap();
    assert_eq!(report.to, rtcp);
    let part = read_compound(&report.data).next();
    let Some(RtcpPart::SenderReport { ssrc: 1, info, blocks }) = part else { panic!("{part:?}") };
    // Five seconds of an 8 kHz clock after timestamp 0.
    assert_eq!((info.packets, info.bytes, info.timestamp), (1, 160, 40_000));
    assert!(blocks.about(7).is_some());
    plain.receive(address("192.0.2.1:5005"), &report.data, now);
    assert_eq!(plain.stats().dropped.foreign, 1);
    plain.receive(rtcp, &report.data, due);
    assert_eq!(plain.media_at(), Some(due));
    plain.close(due);
    let goodbye = plain.poll_transmit().unwrap();
    assert!(read_compound(&goodbye.data).any(|part| part == RtcpPart::Goodbye));
    assert!(plain.poll_transmit().is_none() && plain.send_rtp(header(1, 2), &[], due).is_none());
    assert!(plain.receive(address(PHONE), &packet(7, 2), due).is_none());
}

proptest::proptest! {
    #[test]
    fn any_datagrams_are_taken_or_dropped(
        latches: bool,
        datagrams in proptest::collection::vec(proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80), 0..30),
    ) {
        let now = Instant::now();
        let mut plain = plain(latches.then_some(&["192.0.2.10"]), now);
        for datagram in datagrams {
            plain.receive(address(PHONE), &datagram, now);
            plain.receive(address("192.0.2.10:1"), &datagram, now);
        }
    }
}
