//! Files that people drop into the prompts' folder: whatever they are, they are refused in words or made frames of.
#![no_main]

use libfuzzer_sys::fuzz_target;
use patchcord_media::prompt::{MAX_DURATION, Prompt};

fuzz_target!(|file: &[u8]| {
    let Ok(prompt) = Prompt::from_file(file, None) else { return };
    assert!(!prompt.frames().is_empty());
    // One frame before the sound, one after it, and the last of it filled up.
    assert!(prompt.frames().len() as u32 <= 50 * MAX_DURATION.as_secs() as u32 + 3);
});
