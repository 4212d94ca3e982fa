//! SDP from SIP phones: an offer that can be read can be answered, and our answer can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_media::audio_terms::Codec;
use patchcord_media::sdp::phone::{Encryption, PhoneDescription, PhoneSession, PhoneSessionOptions};

fuzz_target!(|text: &str| {
    let Ok(remote) = PhoneDescription::parse(text) else { return };
    let options = PhoneSessionOptions {
        address: "203.0.113.7:40000".parse().expect("an address"),
        codecs: Codec::ALL.to_vec(),
        encryption: Encryption::Accepted,
    };
    let mut session = PhoneSession::new(options.clone());
    session.offer().expect("an offer needs nothing foreign");
    let _ = session.accept_answer(&remote);
    let Ok(answer) = PhoneSession::new(options).answer(&remote) else { return };
    let read = PhoneDescription::parse(&answer.sdp).expect("our answers are readable");
    assert_eq!((&read.refused_before, &read.refused_behind), (&remote.refused_before, &remote.refused_behind));
    assert_eq!(read.direction, answer.terms.direction);
});
