//! Bodies of webhooks, after their signature: all are read or refused, and nothing grows without bound.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord::whatsapp::webhook::parse;

fuzz_target!(|body: &[u8]| {
    if let Ok(notices) = parse(body) {
        assert!(notices.len() <= body.len());
    }
});
