//! Opus packets of a caller or an agent: what they say of themselves is what a decoder makes of them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_media::opus::{Decoder, MAX_PACKET_TICKS, SampleRate, inspect};

fuzz_target!(|packet: &[u8]| {
    let Ok(facts) = inspect(packet) else { return };
    assert!((1..=48).contains(&facts.frames), "{facts:?}");
    assert!((120..=MAX_PACKET_TICKS).contains(&facts.duration), "{facts:?}");
    let mut decoder = Decoder::new(SampleRate::Hz8000).expect("libopus opens a decoder");
    let mut pcm = Vec::new();
    // A packet may look sound and not decode; then nothing is left of it.
    let decoded = decoder.decode(packet, &mut pcm).unwrap_or(0);
    assert_eq!(pcm.len(), decoded);
    // Whatever the packet is, a loss before it is made good in full length.
    if decoder.decode_lost(Some(packet), 480, &mut pcm).is_ok() {
        assert_eq!(pcm.len(), decoded + 480);
    }
});
