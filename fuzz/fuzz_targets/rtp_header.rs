//! RTP headers: what is read stays inside the packet, and what we write reads the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_media::rtp::{FIXED_HEADER_BYTES, RtpHeader};

fuzz_target!(|packet: &[u8]| {
    let Some((header, length)) = RtpHeader::parse(packet) else { return };
    assert!((FIXED_HEADER_BYTES..=packet.len()).contains(&length));
    assert_eq!(RtpHeader::parse(&header.to_bytes()), Some((header, FIXED_HEADER_BYTES)));
});
