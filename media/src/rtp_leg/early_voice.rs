//! EarlyVoice: the remote's voice before media start. Nobody should be heard then, so it shows that somebody is there.

use crate::opus::inspect;

/// So much voice is told, in 48 kHz ticks: a person who says "hello?" to a silent line, not a click.
const TOLD_AT: u32 = 48_000;
/// Keys (RFC 4733) and encoded silence are not longer.
const SILENCE_BYTES: usize = 8;

/// Counts voice by the sender's own voice-activity bits, without decoding.
#[derive(Debug, Default)]
pub(super) struct EarlyVoice {
    ticks: u32,
    is_told: bool,
}

impl EarlyVoice {
    /// Takes one authentic packet.
    pub(super) fn hear(&mut self, payload: &[u8]) {
        if payload.len() <= SILENCE_BYTES {
            return;
        }
        let Ok(facts) = inspect(payload) else { return };
        // CELT packets have no such bit.
        if facts.voice != Some(false) {
            self.ticks = self.ticks.saturating_add(facts.duration);
        }
    }

    /// True once, when there was a second of it.
    pub(super) fn poll(&mut self) -> bool {
        self.ticks >= TOLD_AT && !std::mem::replace(&mut self.is_told, true)
    }
}
