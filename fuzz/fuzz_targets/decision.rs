//! Answers of a decision webhook: all are read or refused, and no decision is longer than it may be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord::calls::decision_webhook::read;

fuzz_target!(|answer: &[u8]| {
    if let Ok(decision) = read(answer) {
        assert!(decision.commands.len() <= 16);
        assert!(decision.client_state.is_none_or(|state| state.len() <= 4096));
    }
});
