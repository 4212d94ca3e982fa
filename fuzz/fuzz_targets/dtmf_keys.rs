//! Telephone events (RFC 4733): any payloads at any times. Every press is given at most once.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use patchcord_media::dtmf::KeyReader;

fuzz_target!(|packets: Vec<(u32, u8, Vec<u8>)>| {
    let mut reader = KeyReader::new(8);
    let mut now = Instant::now();
    let mut given = 0;
    for (timestamp, pause_ms, payload) in &packets {
        now += Duration::from_millis((*pause_ms).into());
        let lost = reader.handle_timeout(now);
        let told = reader.read(*timestamp, payload, now);
        for key in told.into_iter().chain([lost]).flatten() {
            assert!("0123456789*#ABCD".contains(key.digit), "{key:?}");
            given += 1;
        }
        let is_end = payload.get(1).is_some_and(|flags| flags & 0x80 != 0);
        let again = reader.read(*timestamp, payload, now);
        assert!(!is_end || again == [None, None], "a repeated end is a key of its own");
    }
    // A packet can end the press before it and its own.
    assert!(given <= packets.len());
});
