//! Messages of apps in every dialect: each is understood, passed over, or answered with a sentence that is not long.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord::agent::DialectName;

fuzz_target!(|messages: Vec<&str>| {
    for dialect in DialectName::ALL {
        let longest = messages.iter().map(|message| message.len()).max().unwrap_or_default();
        for sentence in dialect.mistakes_of(&messages) {
            assert!(!sentence.is_empty());
            assert!(sentence.len() <= longest + 1000, "an error of {} bytes", sentence.len());
        }
    }
});
