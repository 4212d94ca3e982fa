//! Text messages of an agent: each is understood, ignored, or answered with a sentence that is not long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord::agent::dialect::native::parse;

fuzz_target!(|text: &str| {
    if let Err(sentence) = parse(text) {
        assert!(!sentence.is_empty());
        assert!(sentence.len() <= text.len() + 1000, "an error of {} bytes", sentence.len());
    }
});
