//! How long sound takes to the agent and back, told from packet sizes: Opus spends few bytes on silence and
//! many on a tone, so nobody has to decode.

use std::time::{Duration, Instant};

/// A packet of more bytes is sound. Silence takes up to about 10, with redundancy 20.
const LOUD_BYTES: usize = 28;
/// So many quiet packets (200 ms) must come before a loud one to make it the beginning of a burst.
const QUIET_PACKETS: u32 = 10;
/// An echo that takes longer belongs to no burst.
const LONGEST: Duration = Duration::from_secs(1);

/// Watches both directions for the beginnings of bursts.
#[derive(Debug, Default)]
pub(crate) struct EchoWatch {
    said: Run,
    heard: Run,
    burst_at: Option<Instant>,
}

/// How long one direction has been quiet.
#[derive(Debug, Default)]
struct Run {
    quiet: u32,
}

impl Run {
    /// Whether a packet begins a burst.
    fn begins(&mut self, bytes: usize) -> bool {
        if bytes <= LOUD_BYTES {
            self.quiet = self.quiet.saturating_add(1);
            return false;
        }
        std::mem::take(&mut self.quiet) >= QUIET_PACKETS
    }
}

impl EchoWatch {
    pub(crate) fn said(&mut self, bytes: usize, now: Instant) {
        if self.said.begins(bytes) {
            self.burst_at = Some(now);
        }
    }

    /// The time since the burst was said, if this packet is the beginning of its echo.
    pub(crate) fn heard(&mut self, bytes: usize, now: Instant) -> Option<Duration> {
        if !self.heard.begins(bytes) {
            return None;
        }
        let took = now.saturating_duration_since(self.burst_at.take()?);
        (took <= LONGEST).then_some(took)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speech::Speech;

    #[test]
    fn the_bursts_of_the_load_are_found_in_their_echo() {
        let (speech, start) = (Speech::bursts().unwrap(), Instant::now());
        let mut watch = EchoWatch::default();
        let mut echoes = Vec::new();
        for index in 0..500 {
            let now = start + Duration::from_millis(20 * index as u64);
            watch.said(speech.frame(index).len(), now);
            if index >= 3 {
                echoes.extend(watch.heard(speech.frame(index - 3).len(), now));
            }
        }
        // The burst at the very beginning comes after no silence and does not count.
        assert_eq!(echoes, [Duration::from_millis(60); 4]);
    }
}
