//! Telephone events (RFC 4733): any payloads at any times. Every press is given at most once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_media::dtmf::KeyReader;

fuzz_target!(|packets: Vec<(u32, Vec<u8>)>| {
    let mut reader = KeyReader::new(8);
    let mut given = 0;
    for (timestamp, payload) in &packets {
        if let Some(key) = reader.read(*timestamp, payload) {
            assert!("0123456789*#ABCD".contains(key.digit), "{key:?}");
            assert!(key.duration_ms <= u32::from(u16::MAX) / 8, "{key:?}");
            given += 1;
        }
        let again = reader.read(*timestamp, payload);
        let is_end = payload.get(1).is_some_and(|flags| flags & 0x80 != 0);
        assert!(!is_end || again.is_none(), "a repeated end is a key of its own");
    }
    assert!(given <= packets.len());
});
