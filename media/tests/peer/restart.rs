//! Candidates that come later, and ICE restarts: a browser whose network changed keeps its call.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use patchcord_media::peer::{Peer, PeerError, PeerEvent, PeerOptions};
use patchcord_media::rtp::RtpHeader;
use patchcord_media::sdp::{Fragment, Offer};
use str0m::Candidate;
use str0m::change::SdpAnswer;

use crate::lite::{Call, Foreigner, connect, talk, talk_on};
use crate::network::{LEFT, Network, PeerEnd, RIGHT, address, milliseconds, options};

const ELSEWHERE: &str = "198.51.100.9:3000";

/// A browser-like page, whose offer holds no candidate, and our answer.
fn answered() -> (Call, PeerOptions, String, String) {
    let now = Instant::now();
    let mut page = Foreigner::new(false, now);
    let (offer, pending) = page.offer();
    let options = options(&[RIGHT], 22);
    let bare = without_candidates(&offer);
    let (peer, answer) = Peer::answer(&options, &Offer::parse(&bare).unwrap(), now).unwrap();
    page.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&answer).unwrap()).unwrap();
    (Network::new(page, PeerEnd::new(peer), &[RIGHT], now, 1), options, offer, answer)
}

fn without_candidates(sdp: &str) -> String {
    sdp.lines().filter(|line| !line.starts_with("a=candidate")).map(|line| format!("{line}\r\n")).collect()
}

/// What of an SDP a fragment repeats.
fn fragment(sdp: &str) -> Fragment {
    let is_ice = |line: &&str| ["a=ice-", "a=candidate", "m="].iter().any(|start| line.starts_with(start));
    Fragment::parse(&sdp.lines().filter(is_ice).map(|line| format!("{line}\r\n")).collect::<String>()).unwrap()
}

/// Our answer with the credentials of our fragment.
fn renewed(answer: &str, fragment: &str) -> String {
    let lines = answer.lines().map(|line| {
        let name = line.split_once(':').map(|(name, _)| name).filter(|name| name.starts_with("a=ice-"));
        name.and_then(|name| fragment.lines().find(|new| new.starts_with(name))).unwrap_or(line)
    });
    lines.map(|line| format!("{line}\r\n")).collect()
}

#[test]
fn candidates_may_come_after_the_answer() {
    let (mut network, options, offer, _) = answered();
    // Nothing of the page arrives, so that only its candidate tells us where it is.
    let checks = Rc::new(Cell::new(0));
    let counted = checks.clone();
    network.filter = Box::new(move |datagram, _| {
        counted.set(counted.get() + usize::from(datagram.to == address(LEFT) && datagram.is_stun()));
        datagram.to != address(RIGHT)
    });
    network.run_for(milliseconds(500));
    assert_eq!(checks.get(), 0);
    let now = network.now;
    let trickled = network.right.peer.take_fragment(&options, &fragment(&offer), Some("0"), now);
    assert_eq!(trickled, Ok(None));
    network.run_for(milliseconds(500));
    assert!(checks.get() > 0);

    network.filter = Box::new(|_, _| true);
    assert!(connect(&mut network, milliseconds(1000)));
    talk(&mut network, 10);
    assert_eq!((network.left.heard.len(), network.right.packets.len()), (10, 10));
}

#[test]
fn a_page_that_changes_its_network_keeps_its_session() {
    let (mut network, options, _, answer) = answered();
    assert!(connect(&mut network, milliseconds(1000)));
    talk(&mut network, 10);

    // The old network is gone, the new one is another address.
    network.filter = Box::new(|datagram, _| datagram.from != address(LEFT) && datagram.to != address(LEFT));
    let mut change = network.left.rtc.sdp_api();
    change.ice_restart(false);
    let (offer, pending) = change.apply().unwrap();
    let now = network.now;
    let restarted = fragment(&without_candidates(&offer.to_sdp_string()));
    let reply = network.right.peer.take_fragment(&options, &restarted, Some("0"), now).unwrap().unwrap();
    assert_eq!(network.right.peer.local_ufrags().count(), 2);
    let renewed = SdpAnswer::from_sdp_string(&renewed(&answer, &reply)).unwrap();
    network.left.rtc.sdp_api().accept_answer(pending, renewed).unwrap();
    network.left.rtc.add_local_candidate(Candidate::host(address(ELSEWHERE), "udp").unwrap());

    let moved =
        |network: &Call| network.right.peer.stats().path.is_some_and(|(_, remote)| remote == address(ELSEWHERE));
    assert!(network.run_until(Duration::from_secs(3), moved));
    assert_eq!(network.right.peer.local_ufrags().count(), 1);
    let (heard, packets) = (network.left.heard.len(), network.right.packets.len());
    talk_on(&mut network, 10, 10);
    assert_eq!((network.left.heard.len() - heard, network.right.packets.len() - packets), (10, 10));
    let connected = network.right.events.iter().filter(|event| matches!(event, PeerEvent::Connected { .. }));
    assert_eq!(connected.count(), 1, "no second handshake");
}

#[test]
fn sound_goes_the_old_way_until_the_new_one_is_found() {
    let (mut network, options, offer, _) = answered();
    assert!(connect(&mut network, milliseconds(1000)));
    let now = network.now;
    let mut other = fragment(&offer);
    other.ufrag = "other".to_owned();
    assert!(network.right.peer.take_fragment(&options, &other, None, now).unwrap().is_some());
    talk(&mut network, 10);
    assert_eq!((network.left.heard.len(), network.right.packets.len()), (10, 10));
}

#[test]
fn a_peer_without_a_remote_takes_no_fragment() {
    let now = Instant::now();
    let options = options(&[RIGHT], 22);
    let (mut peer, offer) = Peer::offer(&options, now).unwrap();
    let taken = peer.take_fragment(&options, &fragment(&offer), None, now);
    assert_eq!(taken, Err(PeerError::UnexpectedAnswer));
}

#[test]
fn a_phone_holds_and_comes_back_by_later_offers_and_may_restart_ice() {
    let (mut network, options, offer, answer) = answered();
    assert!(connect(&mut network, milliseconds(1000)));
    talk(&mut network, 10);
    let version = |sdp: &str| sdp.lines().find_map(|line| line.strip_prefix("o=- ")).unwrap().to_owned();
    let kept = |sdp: &str, name: &str| sdp.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    let number = |sdp: &str| version(sdp).split(' ').nth(1).unwrap().parse::<u64>().unwrap();

    for (direction, answered) in [("sendonly", "recvonly"), ("inactive", "inactive"), ("sendrecv", "sendrecv")] {
        let held = Offer::parse(&offer.replace("a=sendrecv", &format!("a={direction}"))).unwrap();
        let now = network.now;
        let said = network.right.peer.answer_again(&options, &held, now).unwrap();
        assert!(said.contains(&format!("a={answered}\r\n")), "{said}");
        for name in ["a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup", "a=ssrc"] {
            assert_eq!(kept(&said, name), kept(&answer, name));
        }
        assert_eq!(version(&said).split(' ').next(), version(&answer).split(' ').next());
        assert!(number(&said) > number(&answer));
        let header = RtpHeader { payload_type: 111, marker: false, sequence: 1010, timestamp: 9600, ssrc: 22 };
        let sends = network.right.peer.send_rtp(header, &[1; 40], now).is_some();
        assert_eq!(sends, direction == "sendrecv");
    }

    let mut change = network.left.rtc.sdp_api();
    change.ice_restart(true);
    let (restart, pending) = change.apply().unwrap();
    let now = network.now;
    let restart = Offer::parse(&restart.to_sdp_string()).unwrap();
    let said = network.right.peer.answer_again(&options, &restart, now).unwrap();
    assert_ne!(kept(&said, "a=ice-ufrag"), kept(&answer, "a=ice-ufrag"));
    assert_eq!(network.right.peer.local_ufrags().count(), 2);
    network.left.rtc.sdp_api().accept_answer(pending, SdpAnswer::from_sdp_string(&said).unwrap()).unwrap();
    assert!(network.run_until(Duration::from_secs(3), |network| network.right.peer.local_ufrags().count() == 1));
    let before = network.left.heard.len();
    talk_on(&mut network, 11, 10);
    assert_eq!(network.left.heard.len() - before, 10);
}

#[test]
fn a_later_offer_with_another_certificate_or_role_changes_nothing() {
    let (mut network, options, offer, _) = answered();
    assert!(connect(&mut network, milliseconds(1000)));
    let fingerprint = offer.lines().find(|line| line.starts_with("a=fingerprint")).unwrap();
    let other = format!("a=fingerprint:sha-256 {}", ["AA"; 32].join(":"));
    for changed in [offer.replace(fingerprint, &other), offer.replace("a=setup:actpass", "a=setup:active")] {
        let changed = Offer::parse(&changed.replace("a=sendrecv", "a=inactive")).unwrap();
        let now = network.now;
        assert_eq!(network.right.peer.answer_again(&options, &changed, now), Err(PeerError::OtherConnection));
    }
    talk(&mut network, 10);
    assert_eq!((network.left.heard.len(), network.right.packets.len()), (10, 10));
}
