//! SDP at the boundary: Meta's fixtures read, our answers written, foreign text refused.

use std::time::Instant;

use patchcord_media::peer::{Peer, PeerError};
use patchcord_media::sdp::{Answer, Direction, Offer, SdpError, Setup};
use proptest::prelude::*;

use crate::network::{address, options};

const OFFER_2025: &str = include_str!("../fixtures/sdp-offer-user-initiated-2025-10.sdp");
const OFFER_2026: &str = include_str!("../fixtures/sdp-offer-user-initiated-2026-10.sdp");
const OFFER_IPV4: &str = include_str!("../fixtures/sdp-offer-user-initiated-ipv4-only.sdp");
const OFFER_OLD: &str = include_str!("../fixtures/sdp-offer-user-initiated-doc-sample-extmap.sdp");
const OFFER_SDES: &str = include_str!("../fixtures/sdp-offer-sdes.sdp");
const OFFER_BUSINESS: &str = include_str!("../fixtures/sdp-offer-business-initiated-doc-sample.sdp");
const ANSWER_DOC: &str = include_str!("../fixtures/sdp-answer-business-initiated-doc-sample.sdp");
const ANSWER_PASSIVE: &str = include_str!("../fixtures/sdp-answer-business-initiated-setup-passive.sdp");
const ANSWERS: [&str; 3] = [
    include_str!("../fixtures/sdp-answer-accepted-2025-10.sdp"),
    include_str!("../fixtures/sdp-answer-recommended.sdp"),
    include_str!("../fixtures/sdp-answer-rejected-three-fingerprints.sdp"),
];
const DATA: &str =
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:data\r\na=sctp-port:5000\r\n";
const VIDEO_REFUSED: &str =
    "m=video 0 UDP/TLS/RTP/SAVPF 97\r\nc=IN IP4 127.0.0.1\r\na=mid:video\r\na=inactive\r\na=rtpmap:97 VP8/90000\r\n";
const VIDEO_INACTIVE: &str =
    "m=video 9 UDP/TLS/RTP/SAVPF 97 98\r\nc=IN IP4 127.0.0.1\r\na=mid:video\r\na=inactive\r\na=rtpmap:97 VP8/90000\r\n";
/// Several fingerprints, other media on both sides of the audio, one direction, spaces at the ends of lines.
const OFFER_UNUSUAL: &str = include_str!("../fixtures/sdp-offer-unusual.sdp");
const OFFERS: [&str; 6] = [OFFER_2025, OFFER_2026, OFFER_IPV4, OFFER_OLD, OFFER_BUSINESS, OFFER_UNUSUAL];

#[test]
fn metas_offer_is_understood() {
    let offer = Offer::parse(OFFER_2026).unwrap();
    assert_eq!(offer.mid.as_deref(), Some("audio"));
    assert!(offer.bundle && offer.ice_lite);
    assert_eq!(offer.setup, Setup::Actpass);
    assert_eq!(offer.ufrag.len(), 16);
    assert!(offer.pwd.ends_with("=="));
    assert_eq!(offer.opus.payload_type, 111);
    assert!(offer.opus.fmtp.as_deref().unwrap().contains("useinbandfec=1"));
    assert_eq!(offer.telephone_event, Some(126));
    let addresses = offer.remote_candidates();
    assert_eq!(addresses.len(), 2);
    assert!(addresses[0].is_ipv6() && addresses[1].is_ipv4());
    assert!(offer.candidates[0].priority > offer.candidates[1].priority);
    assert_eq!((offer.fingerprints.len(), offer.direction), (1, Direction::SendRecv));
}

#[test]
fn every_offer_is_answered_with_what_it_asks_for() {
    for text in OFFERS {
        let offer = Offer::parse(text).unwrap();
        let (_, answer) = Peer::answer(&options(&["198.51.100.10:40000"], 7), &offer, Instant::now()).unwrap();
        assert!(answer.ends_with("\r\n") && answer.lines().count() == answer.matches("\r\n").count());
        let answer = Answer::parse(&answer).unwrap();
        assert_eq!(answer.mid, offer.mid);
        assert_eq!(answer.bundle, offer.bundle);
        assert_eq!(answer.opus, offer.opus);
        assert_eq!(answer.telephone_event, offer.telephone_event);
        assert_eq!(answer.direction, offer.direction.answered());
        assert_eq!((&answer.refused_before, &answer.refused_behind), (&offer.refused_before, &offer.refused_behind));
        assert_eq!(answer.setup, Setup::Active);
        assert_eq!(answer.remote_candidates(), [address("198.51.100.10:40000")]);
        assert!(!answer.ice_lite);
    }
}

#[test]
fn our_answer_is_this_text() {
    let mut options = options(&["10.0.0.5:40000", "[2001:db8:1::10]:40001"], 2_774_420_133);
    options.addresses[0].advertised = address("198.51.100.10:50000");
    let offer = Offer::parse(OFFER_2026).unwrap();
    let (peer, answer) = Peer::answer(&options, &offer, Instant::now()).unwrap();
    let fingerprint = options.identity.fingerprint().to_string();
    let answer = answer.replace(&fingerprint, "<hash>").replace(peer.local_ufrag(), "<ufrag>");
    let lines: Vec<&str> = answer
        .lines()
        .map(|line| match line {
            _ if line.starts_with("o=") => "o=<session>",
            _ if line.starts_with("a=ice-pwd:") => "a=ice-pwd:<pwd>",
            _ => line,
        })
        .collect();
    let expected = "\
v=0
o=<session>
s=-
t=0 0
a=group:BUNDLE audio
a=msid-semantic: WMS patchcord
m=audio 50000 UDP/TLS/RTP/SAVPF 111 126
c=IN IP4 198.51.100.10
a=rtcp:9 IN IP4 0.0.0.0
a=candidate:1 1 udp 2130706431 198.51.100.10 50000 typ host
a=candidate:2 1 udp 2130706175 2001:db8:1::10 40001 typ host
a=end-of-candidates
a=ice-ufrag:<ufrag>
a=ice-pwd:<pwd>
a=fingerprint:sha-256 <hash>
a=setup:active
a=mid:audio
a=sendrecv
a=msid:patchcord audio
a=rtcp-mux
a=rtpmap:111 opus/48000/2
a=fmtp:111 maxaveragebitrate=20000;maxplaybackrate=16000;minptime=20;sprop-maxcapturerate=16000;useinbandfec=1
a=rtpmap:126 telephone-event/8000
a=ptime:20
a=maxptime:20
a=ssrc:2774420133 cname:patchcord";
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn both_kinds_of_metas_answers_are_accepted() {
    for (text, setup) in [(ANSWER_DOC, Setup::Active), (ANSWER_PASSIVE, Setup::Passive)] {
        let now = Instant::now();
        let (mut peer, offer) = Peer::offer(&options(&["198.51.100.10:40000"], 7), now).unwrap();
        assert_eq!(Offer::parse(&offer).unwrap().setup, Setup::Actpass);
        let answer = Answer::parse(text).unwrap();
        assert_eq!(answer.setup, setup);
        peer.accept_answer(&answer, now).unwrap();
        assert_eq!(peer.accept_answer(&answer, now), Err(PeerError::UnexpectedAnswer));
    }
    for text in ANSWERS {
        Answer::parse(text).unwrap();
    }
}

#[test]
fn errors_say_what_is_wrong() {
    let without =
        |line: &str| OFFER_2026.lines().filter(|other| !other.starts_with(line)).collect::<Vec<_>>().join("\n");
    let parse = |text: &str| Offer::parse(text).unwrap_err();
    assert_eq!(parse(OFFER_SDES), SdpError::Sdes);
    assert_eq!(parse(""), SdpError::NoAudio);
    assert_eq!(parse(&without("a=fingerprint")), SdpError::NoFingerprint);
    assert_eq!(parse(&OFFER_2026.replace("sha-256", "sha-1")), SdpError::FingerprintNotSha256);
    assert_eq!(parse(&without("a=ice-pwd")), SdpError::NoIceCredentials);
    assert_eq!(parse(&without("a=ice-ufrag")), SdpError::NoIceCredentials);
    assert_eq!(parse(&OFFER_2026.replace("opus/48000", "opus/8000")), SdpError::NoOpus);
    assert_eq!(parse(&without("m=audio")), SdpError::NoAudio);
    assert_eq!(parse(&OFFER_2026.replace("m=audio 3480", "m=audio 0")), SdpError::AudioRefused);
    assert_eq!(parse(&format!("{OFFER_2026}{}", VIDEO_REFUSED.repeat(16))), SdpError::TooManyMedia);
    assert_eq!(parse(&format!("{OFFER_2026}m=video\r\n")), SdpError::Malformed { line: 28 });
    assert_eq!(parse(&OFFER_2026.replacen("s=-", "s=\0", 1)), SdpError::ControlCharacter { line: 3 });
    assert_eq!(parse("v=0\nhello"), SdpError::Malformed { line: 2 });
    assert_eq!(parse(&OFFER_2026.replace("setup:actpass", "setup:holdconn")), SdpError::Malformed { line: 16 });
    assert_eq!(parse(&"a".repeat(70_000)), SdpError::TooLong);
    assert_eq!(parse(&"a=b\n".repeat(2000)), SdpError::TooManyLines);
    assert_eq!(Answer::parse(OFFER_2026).unwrap_err(), SdpError::NoSetup);
}

#[test]
fn line_ends_and_levels_do_not_matter() {
    let expected = Offer::parse(OFFER_2026).unwrap();
    let unix = OFFER_2026.replace("\r\n", "\n");
    assert_eq!(Offer::parse(&unix).unwrap(), expected);
    assert_eq!(Offer::parse(unix.trim_end()).unwrap(), expected);
    let moved = ["a=ice-ufrag", "a=ice-pwd", "a=fingerprint", "a=setup"];
    let (session, media): (Vec<&str>, Vec<&str>) =
        unix.lines().partition(|line| moved.iter().any(|name| line.starts_with(name)));
    let at = media.iter().position(|line| line.starts_with("m=")).unwrap();
    let lines = [&media[..at], &session, &media[at..]].concat();
    assert_eq!(Offer::parse(&lines.join("\n")).unwrap(), expected);
}

/// Flag attributes have no colon, so whatever is trimmed only behind a colon is not trimmed there.
#[test]
fn spaces_tabs_and_the_case_of_names_do_not_matter() {
    let expected = Offer::parse(OFFER_2026).unwrap();
    let rewritten = |rewrite: fn(&str) -> String| OFFER_2026.lines().map(rewrite).collect::<String>();
    for (what, text) in [
        ("a trailing space", rewritten(|line| format!("{line} \r\n"))),
        ("a trailing tab", rewritten(|line| format!("{line}\t\n"))),
        ("a leading space", rewritten(|line| format!(" {line}\r\n"))),
        ("two carriage returns", rewritten(|line| format!("{line}\r\r\n"))),
        ("spaces around the sign", rewritten(|line| format!("{}\r\n", line.replacen('=', " = ", 1)))),
        ("a space behind the colon", rewritten(|line| format!("{}\r\n", line.replacen(':', ": ", 1)))),
        ("a space before the colon", rewritten(|line| format!("{}\r\n", line.replacen(':', " :", 1)))),
        ("two spaces for one", rewritten(|line| format!("{}\r\n", line.replace(' ', "  ")))),
        ("tabs for spaces", rewritten(|line| format!("{}\r\n", line.replace(' ', "\t")))),
        ("a byte order mark", format!("\u{feff}{OFFER_2026}")),
        ("upper case", upper_case_names(OFFER_2026)),
        ("other words in upper case", OFFER_2026.replace("actpass", "ACTPASS").replace("sha-256", "SHA-256")),
    ] {
        assert_eq!(Offer::parse(&text).as_ref(), Ok(&expected), "{what}");
    }
}

fn upper_case_names(text: &str) -> String {
    text.lines()
        .map(|line| match line.split_once(':') {
            Some((name, value)) if line.starts_with("a=") => format!("a={}:{value}\r\n", name[2..].to_uppercase()),
            None if line.starts_with("a=") => format!("a={}\r\n", line[2..].to_uppercase()),
            _ => format!("{line}\r\n"),
        })
        .collect()
}

#[test]
fn every_sha_256_fingerprint_is_kept_and_other_hash_functions_are_passed_over() {
    let [first, second] = ["11", "22"].map(|byte| [byte; 32].join(":"));
    let with = |lines: &str| OFFER_2026.replacen("a=setup", &format!("{lines}a=setup"), 1);
    let own = Offer::parse(OFFER_2026).unwrap().fingerprints[0];
    let kept = |text: &str| -> Vec<String> {
        Offer::parse(text).unwrap().fingerprints.iter().map(ToString::to_string).collect()
    };
    let text = with(&format!("a=fingerprint:sha-256 {first}\r\na=fingerprint:SHA-256 {second}\r\n"));
    assert_eq!(kept(&text), [own.to_string(), first.clone(), second]);
    let text = with("a=fingerprint:sha-1 00\r\na=fingerprint:sha-512 11:22\r\n");
    assert_eq!(kept(&text), [own.to_string()]);
    // Those of the section stand for those of the session.
    let session = OFFER_2026.replacen("m=audio", &format!("a=fingerprint:sha-256 {first}\r\nm=audio"), 1);
    assert_eq!(kept(&session), [own.to_string()]);
}

#[test]
fn other_media_are_refused_with_port_0_in_their_places() {
    let before = OFFER_2026.replacen("m=audio", &format!("{VIDEO_INACTIVE}m=audio"), 1);
    let audio = ["m=audio 40000 UDP/TLS/RTP/SAVPF 111 126"];
    let video = ["m=video 0 UDP/TLS/RTP/SAVPF 97", "a=mid:video"];
    let data = ["m=application 0 UDP/DTLS/SCTP webrtc-datachannel", "a=mid:data"];
    let second_audio = ["m=audio 0 UDP/TLS/RTP/SAVPF 0"];
    let cases: [(String, Vec<&str>); 6] = [
        (format!("{OFFER_2026}{DATA}"), [&audio[..], &data].concat()),
        (format!("{OFFER_2026}{VIDEO_REFUSED}"), [&audio[..], &video].concat()),
        (format!("{OFFER_2026}{VIDEO_INACTIVE}"), [&audio[..], &video].concat()),
        (before, [&video[..], &audio].concat()),
        (format!("{OFFER_2026}m=audio 9 UDP/TLS/RTP/SAVPF 0\r\n"), [&audio[..], &second_audio].concat()),
        (format!("{OFFER_2026}{VIDEO_INACTIVE}{DATA}"), [&audio[..], &video, &data].concat()),
    ];
    for (text, sections) in cases {
        let text = text.replace("BUNDLE audio", "BUNDLE audio video data");
        let offer = Offer::parse(&text).unwrap();
        let (_, answer) = Peer::answer(&options(&["198.51.100.10:40000"], 7), &offer, Instant::now()).unwrap();
        let lines = answer.lines().filter(|line| line.starts_with("m=") || line.starts_with("a=mid:"));
        assert_eq!(lines.filter(|line| *line != "a=mid:audio").collect::<Vec<_>>(), sections);
        assert!(answer.contains("a=group:BUNDLE audio\r\n"), "{answer}");
        // What the other section says is not the audio's.
        assert_eq!((offer.direction, offer.mid.as_deref()), (Direction::SendRecv, Some("audio")));
        Answer::parse(&answer).unwrap();
    }
}

/// A section that nobody uses may hold what it likes.
#[test]
fn nonsense_in_another_section_does_not_cost_the_call() {
    let nonsense = "a=setup:holdconn\r\na=ice-ufrag:x\r\na=fingerprint:sha-256 00\r\na=mid:two words\r\nnothing\r\n";
    let offer = Offer::parse(&format!("{OFFER_2026}m=video 9 UDP/TLS/RTP/SAVPF\r\n{nonsense}")).unwrap();
    assert_eq!(offer.refused_behind.len(), 1);
    assert_eq!(offer.ufrag, Offer::parse(OFFER_2026).unwrap().ufrag);
}

#[test]
fn of_two_audio_sections_the_one_that_can_be_used_is_answered() {
    let sdes = "m=audio 9 RTP/SAVP 0\r\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\r\na=mid:sdes\r\n";
    for sdes in [sdes, "m=audio 0 RTP/AVP 0\r\na=mid:sdes\r\n"] {
        let offer = Offer::parse(&OFFER_2026.replacen("m=audio", &format!("{sdes}m=audio"), 1)).unwrap();
        assert_eq!((offer.mid.as_deref(), offer.refused_before.len()), (Some("audio"), 1));
    }
}

#[test]
fn the_answer_mirrors_the_direction_of_the_offer() {
    for (offered, answered) in [
        ("a=sendrecv", "a=sendrecv"),
        ("a=sendonly", "a=recvonly"),
        ("a=recvonly", "a=sendonly"),
        ("a=inactive", "a=inactive"),
        ("a=inactive ", "a=inactive"),
        ("a=unknown", "a=sendrecv"),
    ] {
        let in_section = OFFER_2026.replace("a=sendrecv", offered);
        let in_session =
            OFFER_2026.replace("a=sendrecv\r\n", "").replacen("m=audio", &format!("{offered}\r\nm=audio"), 1);
        for text in [in_section, in_session] {
            let offer = Offer::parse(&text).unwrap();
            let (_, answer) = Peer::answer(&options(&["198.51.100.10:40000"], 7), &offer, Instant::now()).unwrap();
            assert!(answer.lines().any(|line| line == answered), "{offered}: {answer}");
        }
    }
}

#[test]
fn parameters_on_several_lines_are_one_list() {
    let parameters = |text: &str| Offer::parse(text).unwrap().opus.fmtp.clone().unwrap();
    let both = parameters(&format!("{OFFER_IPV4}a=fmtp:111 stereo=0\r\n"));
    assert_eq!(both, format!("{};stereo=0", parameters(OFFER_IPV4)));
}

#[test]
fn the_twenty_candidates_of_the_highest_priorities_are_kept() {
    let line = |port: u32, priority: u32| format!("a=candidate:1 1 udp {priority} 203.0.113.9 {port} typ host\r\n");
    let mut text = OFFER_IPV4.to_owned();
    (1..=40).for_each(|port| text += &line(port, port));
    // The same address again takes no second place.
    (0..30).for_each(|_| text += &line(40, 40));
    let offer = Offer::parse(&text).unwrap();
    let ports: Vec<u16> = offer.remote_candidates()[1..].iter().map(|address| address.port()).collect();
    assert_eq!(ports, (22..=40).rev().collect::<Vec<u16>>());
    assert_eq!(offer.candidates[0], Offer::parse(OFFER_IPV4).unwrap().candidates[0]);
}

#[test]
fn candidates_that_cannot_be_used_are_skipped_and_the_rest_bounded() {
    let mut text = OFFER_IPV4.to_owned();
    for line in [
        "a=candidate:1 1 udp 1 5b4d3d96-ea9b-44a8-87e6-11a1ad21a3bc.local 5000 typ host",
        "a=candidate:1 1 tcp 1 203.0.113.9 9 typ host tcptype active",
        "a=candidate:1 2 udp 1 203.0.113.9 5001 typ host",
        "a=candidate:1 1 udp 1 203.0.113.9 0 typ host",
        "a=candidate:",
    ] {
        text += &format!("{line}\r\n");
    }
    assert_eq!(Offer::parse(&text).unwrap().candidates.len(), 1);
    for port in 1..900 {
        text += &format!("a=candidate:1 1 udp 1 203.0.113.9 {port} typ host\r\n");
    }
    assert_eq!(Offer::parse(&text).unwrap().candidates.len(), 20);
}

#[test]
fn ten_thousand_candidates_and_a_megabyte_are_refused_at_once() {
    let mut text = OFFER_2026.to_owned();
    for port in 1..=10_000 {
        text += &format!("a=candidate:1 1 udp 1 203.0.113.9 {port} typ host\r\n");
    }
    assert_eq!(Offer::parse(&text).unwrap_err(), SdpError::TooLong);
    assert_eq!(Offer::parse(&"x".repeat(1 << 20)).unwrap_err(), SdpError::TooLong);
}

#[test]
fn a_lite_remote_with_only_private_addresses_needs_permission() {
    let text = OFFER_IPV4.replace("203.0.113", "192.168.1");
    let text = text.replace("198.51.100", "192.168.1").replace("192.0.2", "192.168.2");
    let offer = Offer::parse(&text).unwrap();
    let mut options = options(&["198.51.100.10:40000"], 7);
    let refused = Peer::answer(&options, &offer, Instant::now()).err();
    assert_eq!(refused, Some(PeerError::NoRemoteAddress));
    options.allow_private = true;
    assert!(Peer::answer(&options, &offer, Instant::now()).is_ok());
}

#[test]
fn a_description_does_not_tell_its_secrets() {
    let offer = Offer::parse(OFFER_2026).unwrap();
    let told = format!("{offer:?}");
    assert!(!told.contains(&offer.pwd) && !told.contains(&offer.ufrag));
    assert!(!told.contains(&offer.remote_candidates()[0].ip().to_string()));
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in ".{0,400}") {
        let _ = Offer::parse(&text);
    }

    #[test]
    fn mutated_offers_are_read_or_refused(
        which in 0..OFFERS.len(),
        more in 0..4_usize,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let more = ["", DATA, VIDEO_REFUSED, VIDEO_INACTIVE][more];
        let mut bytes = format!("{}{more}", OFFERS[which]).into_bytes();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(cut.index(bytes.len()) + 1);
        if let Ok(offer) = Offer::parse(&String::from_utf8_lossy(&bytes)) {
            prop_assert!(offer.candidates.len() <= 20);
            let options = options(&["198.51.100.10:40000"], 7);
            if let Ok((_, answer)) = Peer::answer(&options, &offer, Instant::now()) {
                prop_assert!(answer.len() < 8192);
                let answer = Answer::parse(&answer).unwrap();
                prop_assert_eq!(&answer.mid, &offer.mid);
                prop_assert_eq!(&answer.opus, &offer.opus);
                prop_assert_eq!(answer.direction, offer.direction.answered());
                prop_assert_eq!(&answer.refused_before, &offer.refused_before);
                prop_assert_eq!(&answer.refused_behind, &offer.refused_behind);
            }
        }
    }
}
