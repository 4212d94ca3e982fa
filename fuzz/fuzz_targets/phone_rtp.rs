//! Datagrams from the address of a SIP phone, without and with latching: no panic, no memory, and the call gets whole
//! frames at the pace of its clock.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;
use patchcord_media::audio_terms::Codec;
use patchcord_media::phone_leg::PhoneLeg;
use patchcord_media::plain_rtp::{PlainRtp, PlainRtpOptions};
use patchcord_media::rtp_leg::RtpLegOptions;
use patchcord_media::sdp::phone::{Encryption, PhoneDescription, PhoneSession, PhoneSessionOptions};

const OFFER: &str = "v=0\no=- 1 1 IN IP4 198.51.100.4\ns=-\nc=IN IP4 198.51.100.4\nt=0 0\n\
    m=audio 5004 RTP/AVP 0 107 13 101\na=rtpmap:107 opus/48000/2\na=rtpmap:101 telephone-event/8000\n";

#[derive(Arbitrary, Debug)]
struct Input {
    opus: bool,
    latches: bool,
    /// After how many milliseconds each arrives, and from which of three ports.
    datagrams: Vec<(u8, u8, Vec<u8>)>,
}

fuzz_target!(|input: Input| {
    let start = Instant::now();
    let ours = "203.0.113.7:40000".parse().expect("an address");
    let codec = if input.opus { Codec::Opus } else { Codec::Pcmu };
    let options = PhoneSessionOptions { address: ours, codecs: vec![codec], encryption: Encryption::Accepted };
    let offer = PhoneDescription::parse(OFFER).expect("it is ours");
    let terms = PhoneSession::new(options).answer(&offer).expect("it is ours").terms;
    let latching = input.latches.then(Vec::new);
    let plain = PlainRtpOptions { socket: ours, ssrc: 1, allow_private: false, latching };
    let options = RtpLegOptions {
        ssrc: 1,
        first_sequence: 0,
        first_timestamp: 0,
        audio: terms.audio,
        silence_warn_after: Duration::from_secs(5),
        silence_end_after: Duration::from_secs(30),
    };
    let mut leg = PhoneLeg::new(PlainRtp::new(plain, &terms, start).expect("a public address"), &options, start);
    leg.start(start);
    let (mut now, mut frames) = (start, 0);
    for (wait, port, datagram) in input.datagrams {
        now += Duration::from_millis(wait.into());
        leg.handle_timeout(now);
        let from = format!("198.51.100.4:{}", 5003 + u16::from(port % 3)).parse().expect("an address");
        leg.receive(ours, from, &datagram, now);
        while let Some(audio) = leg.poll_audio() {
            frames += 1;
            assert!(codec == Codec::Opus || audio.len() == 320);
        }
        while leg.poll_key().is_some() || leg.poll_event().is_some() || leg.poll_transmit().is_some() {}
    }
    assert!(codec == Codec::Opus || frames <= 1 + (now - start).as_millis() / 20);
});
