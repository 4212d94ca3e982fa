//! Messages of speech models: each is understood, passed over, or answered with a sentence that is not long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord::agent::ModelVendor;

fuzz_target!(|messages: Vec<&str>| {
    for vendor in ModelVendor::ALL {
        let longest = messages.iter().map(|message| message.len()).max().unwrap_or_default();
        for sentence in vendor.mistakes_of(&messages) {
            assert!(!sentence.is_empty());
            assert!(sentence.len() <= longest + 1000, "an error of {} bytes", sentence.len());
        }
    }
});
