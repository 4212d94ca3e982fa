//! What phones write, what we answer, and what nobody should write.

use proptest::prelude::*;

use crate::audio_terms::PayloadTypes;

use super::*;

/// As a PBX offers: several codecs, one of them unknown, and video.
const PBX: &str = "v=0\r\no=- 1821 1821 IN IP4 198.51.100.4\r\ns=PBX\r\nc=IN IP4 198.51.100.4\r\nt=0 0\r\n\
    m=audio 11414 RTP/AVP 9 8 0 107 101 13\r\na=rtpmap:9 G722/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\n\
    a=rtpmap:107 opus/48000/2\r\na=fmtp:107 useinbandfec=1\r\na=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\n\
    a=ptime:30\r\na=maxptime:150\r\na=sendrecv\r\nm=video 9000 RTP/AVP 99\r\na=rtpmap:99 H264/90000\r\n";

const KEY: &str = "WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

/// As a desk phone with SRTP answers.
fn encrypted(tag: u32) -> String {
    format!(
        "v=0\no=root 7 7 IN IP6 2001:db8::5\ns=call\nc=IN IP6 2001:db8::5\nt=0 0\nm=audio 5004 RTP/SAVP 0 101\n\
         a=crypto:9 F8_128_HMAC_SHA1_80 inline:{KEY}\na=crypto:{tag} AES_CM_128_HMAC_SHA1_80 inline:{KEY}|2^20\n\
         a=rtpmap:101 telephone-event/8000/1\na=rtcp-mux\n"
    )
}

fn session(codecs: &[Codec], encryption: Encryption) -> PhoneSession {
    let address = "203.0.113.7:40000".parse().unwrap();
    PhoneSession::new(PhoneSessionOptions { address, codecs: codecs.to_vec(), encryption })
}

fn parse(text: &str) -> PhoneDescription {
    PhoneDescription::parse(text).unwrap()
}

/// The fields of `o=`: session id and version.
fn origin(sdp: &str) -> (u64, u64) {
    let line = sdp.lines().find(|line| line.starts_with("o=")).unwrap();
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    (numbers[0], numbers[1])
}

#[test]
fn an_offer_of_a_pbx_is_answered_with_the_codec_that_needs_no_transcoding() {
    let offer = parse(PBX);
    let answer = session(&Codec::ALL, Encryption::Accepted).answer(&offer).unwrap();
    assert_eq!(answer.terms.audio.codec, Codec::Opus);
    assert_eq!(answer.terms.audio.payload_types, PayloadTypes::both(107));
    assert_eq!(answer.terms.audio.packet_length, Duration::from_millis(20));
    assert_eq!(answer.terms.remote, Some("198.51.100.4:11414".parse().unwrap()));
    assert_eq!(answer.terms.remote_rtcp, Some("198.51.100.4:11415".parse().unwrap()));
    let read = parse(&answer.sdp);
    assert_eq!(read.formats, [Format { codec: Codec::Opus, payload_type: 107 }]);
    assert_eq!(read.telephone_events, [(8_000, 101)]);
    assert_eq!(read.refused_behind, offer.refused_behind);
    assert!(answer.sdp.contains("m=video 0 RTP/AVP 99\r\n"));
}

#[test]
fn a_leg_without_opus_takes_the_phones_packet_length_and_comfort_noise() {
    let terms = session(&[Codec::Pcmu, Codec::Pcma], Encryption::Accepted).answer(&parse(PBX)).unwrap().terms;
    assert_eq!((terms.audio.codec, terms.audio.payload_types), (Codec::Pcmu, PayloadTypes::both(0)));
    assert_eq!((terms.audio.comfort_noise, terms.audio.packet_length), (Some(13), Duration::from_millis(30)));
    assert_eq!(terms.audio.telephone_event.map(|event| event.clock_hz), Some(8_000));
}

#[test]
fn packet_lengths_are_those_that_we_send() {
    let length = |lines: &str| {
        parse(&PBX.replace("a=ptime:30\r\na=maxptime:150\r\n", lines)).packet_length.map(|length| length.as_millis())
    };
    assert_eq!(length(""), None);
    assert_eq!(length("a=maxptime:40\r\n"), None);
    assert_eq!(length("a=maxptime:10\r\n"), Some(10));
    assert_eq!(length("a=ptime:20.0\r\n"), Some(20));
    assert_eq!(length("a=ptime:40\r\na=maxptime:30\r\n"), Some(30));
    assert_eq!(length("a=ptime:5\r\n"), Some(10));
    assert_eq!(length("a=ptime:4000000000\r\n"), Some(60));
    assert_eq!(length("a=ptime:-20\r\n"), None);
}

#[test]
fn our_offer_is_answered_by_another_session_and_both_agree() {
    for encryption in [Encryption::Accepted, Encryption::Required] {
        for codec in Codec::ALL {
            let (mut caller, mut callee) = (session(&Codec::ALL, encryption), session(&[codec], encryption));
            let offer = parse(&caller.offer().unwrap());
            let answer = callee.answer(&offer).unwrap();
            let terms = caller.accept_answer(&parse(&answer.sdp)).unwrap();
            assert_eq!(terms.audio, AudioTerms { ..answer.terms.audio });
            assert_eq!(terms.audio.codec, codec);
            assert_eq!(terms.audio.telephone_event.map(|event| event.clock_hz), Some(codec.clock_hz()));
            assert_eq!((terms.remote, terms.remote_rtcp), (answer.terms.remote, answer.terms.remote_rtcp));
            assert_eq!(terms.srtp.is_some(), encryption == Encryption::Required);
            if let (Some(ours), Some(theirs)) = (terms.srtp, answer.terms.srtp) {
                assert_eq!(ours, SdesKeys { suite: theirs.suite, local: theirs.remote, remote: theirs.local });
                assert_eq!(ours.suite, CryptoSuite::AesCm128HmacSha1_80);
            }
        }
    }
}

#[test]
fn a_codec_that_was_not_offered_is_an_error_and_an_answer_nobody_waits_for_another() {
    let mut session = session(&[Codec::Pcma], Encryption::Accepted);
    session.offer().unwrap();
    let answer = PBX.replace("9 8 0 107 101 13", "9 0 101");
    assert_eq!(session.accept_answer(&parse(&answer)), Err(NegotiationError::CodecNotOffered));
    assert_eq!(session.accept_answer(&parse(PBX)), Err(NegotiationError::UnexpectedAnswer));
    assert_eq!(session.answer(&parse(&answer)), Err(NegotiationError::NoCommonCodec));
    assert_eq!(session.terms(), None);
}

#[test]
fn a_codec_that_changes_in_a_call_is_refused_and_the_terms_stay() {
    let mut session = session(&Codec::ALL, Encryption::Accepted);
    let before = session.answer(&parse(PBX)).unwrap();
    let without_opus = PBX.replace("9 8 0 107 101 13", "8 0 101");
    assert_eq!(session.answer(&parse(&without_opus)), Err(NegotiationError::CodecChanged));
    assert_eq!(session.terms(), Some(&before.terms));
    let ours = parse(&session.offer().unwrap());
    assert_eq!(ours.formats, [Format { codec: Codec::Opus, payload_type: 107 }], "only the codec in use is offered");
    assert_eq!(session.accept_answer(&parse(&without_opus)), Err(NegotiationError::CodecChanged));
    assert_eq!(session.terms(), Some(&before.terms));
}

#[test]
fn every_way_to_hold_is_answered_and_ends() {
    let mut session = session(&Codec::ALL, Encryption::Accepted);
    let first = session.answer(&parse(PBX)).unwrap();
    for (from, to, direction) in [
        ("a=sendrecv", "a=sendonly", Direction::RecvOnly),
        ("a=sendrecv", "a=inactive", Direction::Inactive),
        ("c=IN IP4 198.51.100.4", "c=IN IP4 0.0.0.0", Direction::RecvOnly),
        ("c=IN IP4 198.51.100.4", "c=IN IP6 ::", Direction::RecvOnly),
        ("a=sendrecv", "a=recvonly", Direction::SendOnly),
    ] {
        let offer = parse(&PBX.replace(from, to));
        let held = session.answer(&offer).unwrap();
        assert_eq!((held.terms.direction, parse(&held.sdp).direction), (direction, direction), "{to}");
        assert_eq!(offer.is_hold(), direction != Direction::SendOnly, "{to}");
        assert_eq!(held.terms.remote.is_none(), from.starts_with('c'), "{to}");
        let resumed = session.answer(&parse(PBX)).unwrap();
        assert_eq!(resumed.terms, first.terms);
    }
}

#[test]
fn the_version_grows_with_each_change_and_the_session_stays() {
    let mut session = session(&Codec::ALL, Encryption::Accepted);
    let first = origin(&session.answer(&parse(PBX)).unwrap().sdp);
    let same = origin(&session.answer(&parse(PBX)).unwrap().sdp);
    let held = origin(&session.answer(&parse(&PBX.replace("sendrecv", "sendonly"))).unwrap().sdp);
    let resumed = origin(&session.answer(&parse(PBX)).unwrap().sdp);
    assert_eq!((same, held.1, resumed.1), (first, first.1 + 1, first.1 + 2));
    assert_eq!((held.0, resumed.0), (first.0, first.0));
}

#[test]
fn keys_outlive_a_reinvite_and_the_tag_is_that_of_the_offer() {
    let mut session = session(&Codec::ALL, Encryption::Required);
    let first = session.answer(&parse(&encrypted(3))).unwrap();
    assert!(first.sdp.contains("a=crypto:3 AES_CM_128_HMAC_SHA1_80 inline:"));
    assert_eq!(first.terms.remote, Some("[2001:db8::5]:5004".parse().unwrap()));
    assert_eq!(first.terms.remote_rtcp, first.terms.remote);
    let again = session.answer(&parse(&encrypted(4))).unwrap();
    assert_eq!(again.terms.srtp, first.terms.srtp);
    let ours = parse(&session.offer().unwrap());
    assert_eq!(ours.transport.cryptos.len(), 1);
    assert_eq!(session.accept_answer(&parse(&encrypted(1))).unwrap().srtp, first.terms.srtp);
    assert_eq!(session.answer(&parse(PBX)).map(drop), Err(NegotiationError::NotEncrypted));
}

#[test]
fn keys_beside_a_plain_profile_are_taken_by_who_has_them_and_left_by_others() {
    let mut ours = session(&Codec::ALL, Encryption::Offered);
    let text = ours.offer().unwrap();
    let offer = parse(&text);
    assert_eq!((offer.transport.profile, offer.transport.cryptos.len()), (RtpProfile::Avp { feedback: false }, 3));
    for (encryption, is_encrypted) in
        [(Encryption::Accepted, false), (Encryption::Offered, true), (Encryption::Required, true)]
    {
        let (mut ours, mut theirs) = (ours.clone(), session(&Codec::ALL, encryption));
        let answer = theirs.answer(&offer).unwrap();
        assert_eq!(parse(&answer.sdp).transport.profile, RtpProfile::Avp { feedback: false });
        let terms = ours.accept_answer(&parse(&answer.sdp)).unwrap();
        assert_eq!((terms.srtp.is_some(), answer.terms.srtp.is_some()), (is_encrypted, is_encrypted));
        // What was agreed on is offered again.
        let again = parse(&ours.offer().unwrap());
        assert_eq!(again.transport.cryptos.len(), usize::from(is_encrypted));
        let answer = theirs.answer(&again).unwrap();
        assert_eq!(ours.accept_answer(&parse(&answer.sdp)).unwrap().srtp, terms.srtp);
    }
    let other_profile = ours.clone().accept_answer(&parse(&encrypted(1))).unwrap();
    assert!(other_profile.srtp.is_some());
    let other_suite = parse(&encrypted(2).replace("RTP/SAVP", "RTP/AVP"));
    assert_eq!(ours.accept_answer(&other_suite), Err(NegotiationError::NoUsableKey));
}

#[test]
fn an_answer_without_keys_is_refused_where_they_are_required() {
    let mut ours = session(&Codec::ALL, Encryption::Required);
    for answer in [PBX.to_owned(), encrypted(1).replace("RTP/SAVP", "RTP/AVP")] {
        ours.offer().unwrap();
        assert_eq!(ours.accept_answer(&parse(&answer)), Err(NegotiationError::NotEncrypted));
    }
}

#[test]
fn keys_that_cannot_be_used_are_named() {
    let parsed = |from: &str, to: &str| PhoneDescription::parse(&encrypted(1).replace(from, to)).map(drop);
    assert_eq!(parsed("|2^20", ""), Ok(()));
    for (from, to) in
        [("|2^20", "|2^20|1:4"), ("|2^20", "|1:4"), ("|2^20", ";inline:abc"), (KEY, "c2hvcnQ"), ("1 AES", "x AES")]
    {
        assert_eq!(parsed(from, to), Err(SdpError::NoKeys), "{to}");
    }
    assert_eq!(parsed("|2^20", "|2^20 WSH=64"), Ok(()));
    assert_eq!(parsed("|2^20", "|2^20 UNENCRYPTED_SRTP"), Err(SdpError::NoKeys));
    let mut session = session(&Codec::ALL, Encryption::Required);
    session.offer().unwrap();
    let other_tag = session.accept_answer(&parse(&encrypted(2)));
    assert_eq!(other_tag, Err(NegotiationError::NoUsableKey), "tag 2 is another suite");
}

#[test]
fn of_two_audio_sections_the_encrypted_one_is_taken_if_its_keys_are_usable() {
    let section = encrypted(1).split_once("m=audio").unwrap().1.to_owned();
    let both = format!("{PBX}m=audio{section}");
    let answer = session(&Codec::ALL, Encryption::Required).answer(&parse(&both)).unwrap();
    assert!(answer.terms.srtp.is_some());
    assert!(answer.sdp.contains("m=audio 0 RTP/AVP 9\r\n") && answer.sdp.contains("m=audio 40000 RTP/SAVP 0 101\r\n"));
    let unusable = parse(&both.replace("AES_CM_128_HMAC_SHA1_80", "AES_CM_128_HMAC_SHA1_32"));
    assert_eq!(unusable.transport.profile, RtpProfile::Avp { feedback: false });
}

#[test]
fn what_is_no_plain_audio_is_refused_by_name() {
    let refused = |from: &str, to: &str| PhoneDescription::parse(&PBX.replace(from, to)).map(drop);
    assert_eq!(refused("m=audio 11414", "m=audio 0"), Err(SdpError::AudioRefused));
    assert_eq!(refused("RTP/AVP 9", "UDP/TLS/RTP/SAVPF 9"), Err(SdpError::NotPlainRtp));
    assert_eq!(refused("c=IN IP4 198.51.100.4\r\n", ""), Err(SdpError::NoAddress));
    assert_eq!(refused("c=IN IP4 198.51.100.4", "c=IN IP4 pbx.example"), Err(SdpError::Malformed { line: 4 }));
    assert_eq!(refused("m=audio", "m=text"), Err(SdpError::NoAudio));
    assert_eq!(refused("RTP/AVP 9", "RTP/SAVP 9"), Err(SdpError::NoKeys));
}

#[test]
fn no_key_or_address_is_in_a_debug_output() {
    let mut session = session(&Codec::ALL, Encryption::Required);
    let answer = session.answer(&parse(&encrypted(1))).unwrap();
    let shown = format!("{:?} {:?}", parse(&encrypted(1)), answer.terms.srtp);
    assert!(!shown.contains("2001:db8") && !shown.contains(KEY) && shown.contains("MasterKey(..)"), "{shown}");
}

proptest! {
    #[test]
    fn a_mutated_sdp_is_read_or_refused_and_what_is_read_is_answered(
        encrypted_offer: bool,
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..4usize), 0..12),
    ) {
        let mut bytes = if encrypted_offer { encrypted(1).into_bytes() } else { PBX.as_bytes().to_vec() };
        for (index, byte, removed) in edits {
            let at = index.index(bytes.len());
            let end = (at + removed).min(bytes.len());
            bytes.splice(at..end, [byte]);
        }
        let Ok(offer) = PhoneDescription::parse(&String::from_utf8_lossy(&bytes)) else { return Ok(()) };
        let mut ours = session(&Codec::ALL, Encryption::Accepted);
        let Ok(answer) = ours.answer(&offer) else { return Ok(()) };
        let read = PhoneDescription::parse(&answer.sdp).expect("what we write we read");
        prop_assert_eq!(read.direction, answer.terms.direction);
        prop_assert_eq!(read.transport.profile, offer.transport.profile);
        prop_assert_eq!((&read.refused_before, &read.refused_behind), (&offer.refused_before, &offer.refused_behind));
        prop_assert_eq!(read.formats[0].codec, answer.terms.audio.codec);
    }
}
