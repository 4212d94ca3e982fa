//! Timeline: sequence numbers and timestamps of the one unbroken RTP line towards a remote, whatever is on air.

use std::time::Duration;

/// RTP clock ticks in one 20 ms frame. Opus counts 48 000 a second at every sample rate (RFC 7587 §4.1).
pub const TICKS_PER_FRAME: u32 = 960;

/// Duration of `ticks` of the RTP clock of Opus.
pub(crate) fn duration_of(ticks: u32) -> Duration {
    Duration::from_micros(u64::from(ticks) * 1000 / 48)
}

/// Hands out one [`Stamp`] per 20 ms frame.
///
/// A second SSRC, a sequence jump or a repeated timestamp breaks the phone's audio, so prompts, agents and silence all get
/// their numbers here.
#[derive(Debug, Clone)]
pub struct Timeline {
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    talking: bool,
}

/// The RTP header fields of one frame (RFC 3550 §5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The same for the whole call.
    pub ssrc: u32,
    /// One more than the frame before it, wrapping.
    pub sequence: u16,
    /// 48 kHz ticks, wrapping.
    pub timestamp: u32,
    /// The first frame of a talk-spurt (RFC 3551 §4.1).
    pub marker: bool,
}

impl Timeline {
    /// The first frame gets exactly these numbers. RFC 3550 §5.1 wants them random, which is up to the owner.
    pub fn new(ssrc: u32, first_sequence: u16, first_timestamp: u32) -> Self {
        Self { ssrc, sequence: first_sequence, timestamp: first_timestamp, talking: false }
    }

    /// The stamp of the next frame. `talking` is false for silence; the first talking frame after it is marked.
    pub fn next(&mut self, talking: bool) -> Stamp {
        self.next_lasting(TICKS_PER_FRAME, talking)
    }

    /// The stamp of a packet that lasts this many ticks of the line's clock.
    pub fn next_lasting(&mut self, ticks: u32, talking: bool) -> Stamp {
        let stamp = Stamp {
            ssrc: self.ssrc,
            sequence: self.sequence,
            timestamp: self.timestamp,
            marker: talking && !self.talking,
        };
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(ticks);
        self.talking = talking;
        stamp
    }

    /// Passes over `frames` ticks in which nothing was sent.
    ///
    /// Time advances but no sequence number is used up: a missing sequence number would read as network loss. What follows
    /// counts as a new talk-spurt, which is how a receiver learns to re-anchor its playout.
    pub fn skip(&mut self, frames: u32) {
        if frames == 0 {
            return;
        }
        self.timestamp = self.timestamp.wrapping_add(TICKS_PER_FRAME.wrapping_mul(frames));
        self.talking = false;
    }

    /// Passes over `ticks` of the line's clock in which nothing was sent; see [`skip`](Self::skip).
    pub fn skip_ticks(&mut self, ticks: u32) {
        self.timestamp = self.timestamp.wrapping_add(ticks);
        self.talking = false;
    }

    /// The SSRC of this line.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// The timestamp the next frame gets, in 48 kHz ticks; sender reports quote it.
    pub fn next_timestamp(&self) -> u32 {
        self.timestamp
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_frame_has_the_given_numbers() {
        let mut timeline = Timeline::new(7, u16::MAX, u32::MAX);
        assert_eq!(timeline.next(false), Stamp { ssrc: 7, sequence: u16::MAX, timestamp: u32::MAX, marker: false });
        let second = timeline.next(true);
        assert_eq!((second.sequence, second.timestamp), (0, 959));
    }

    #[test]
    fn only_the_first_frame_of_a_talk_spurt_is_marked() {
        let mut timeline = Timeline::new(1, 0, 0);
        let markers: Vec<bool> =
            [true, true, false, false, true, true].into_iter().map(|talking| timeline.next(talking).marker).collect();
        assert_eq!(markers, [true, false, false, false, true, false]);
    }

    #[test]
    fn missed_ticks_move_time_but_use_no_numbers() {
        let mut timeline = Timeline::new(1, 10, 0);
        timeline.next(true);
        timeline.skip(3);
        let after = timeline.next(true);
        assert_eq!(after.sequence, 11);
        assert_eq!(after.timestamp, 4 * TICKS_PER_FRAME);
        assert!(after.marker);
    }

    proptest! {
        #[test]
        fn every_step_is_one_number_and_whole_frames(
            first_sequence: u16,
            first_timestamp: u32,
            steps in prop::collection::vec((any::<bool>(), prop_oneof![9 => Just(0u32), 1 => any::<u32>()]), 2..300),
        ) {
            let mut timeline = Timeline::new(1, first_sequence, first_timestamp);
            let mut expected_sequence = first_sequence;
            let mut expected_timestamp = first_timestamp;
            for (talking, skipped) in steps {
                timeline.skip(skipped);
                expected_timestamp = expected_timestamp.wrapping_add(skipped.wrapping_mul(TICKS_PER_FRAME));
                let stamp = timeline.next(talking);
                prop_assert_eq!(stamp.sequence, expected_sequence);
                prop_assert_eq!(stamp.timestamp, expected_timestamp);
                prop_assert!(talking || !stamp.marker);
                expected_sequence = expected_sequence.wrapping_add(1);
                expected_timestamp = expected_timestamp.wrapping_add(TICKS_PER_FRAME);
            }
        }
    }
}
