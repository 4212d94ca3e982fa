//! Sum: several frames added, without wrapping around.

use crate::opus::SampleRate;
use crate::playout::power;

/// All mixing happens at the bandwidth of a WhatsApp call.
pub(super) const RATE: SampleRate = SampleRate::Hz16000;
/// Samples in 20 ms at [`RATE`].
pub(super) const FRAME_SAMPLES: usize = 320;

/// 20 ms of mono audio.
pub(super) type Frame = [i16; FRAME_SAMPLES];

pub(super) const SILENT: Frame = [0; FRAME_SAMPLES];

/// Up to here (-2.5 dB of full scale) a sum is passed unchanged. A single voice is rarely louder.
const KNEE: i32 = 24_576;
const ABOVE_KNEE: i64 = i16::MAX as i64 - KNEE as i64;

/// A frame this loud contains speech: an RMS of 100, -50 dB of full scale. Streamed silence and microphone hum are below.
const LOUD_POWER: i64 = 100 * 100;

/// Wide enough for everybody a mix can hold.
pub(super) struct Sum([i32; FRAME_SAMPLES]);

impl Sum {
    pub(super) fn new() -> Self {
        Self([0; FRAME_SAMPLES])
    }

    pub(super) fn add(&mut self, frame: &Frame) {
        for (sum, sample) in self.0.iter_mut().zip(frame) {
            *sum += i32::from(*sample);
        }
    }

    pub(super) fn limited(&self) -> Frame {
        self.0.map(limit)
    }
}

/// Soft limiter: approaches full scale and never exceeds it, without a step, a corner or state.
fn limit(sum: i32) -> i16 {
    let size = i64::from(sum.abs());
    let over = size - i64::from(KNEE);
    if over <= 0 {
        return sum as i16;
    }
    let bent = i64::from(KNEE) + ABOVE_KNEE * over / (ABOVE_KNEE + over);
    (bent * i64::from(sum.signum())) as i16
}

/// Whether somebody speaks in this frame.
pub(super) fn is_loud(frame: &Frame) -> bool {
    power(frame) > LOUD_POWER
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_normal_level_passes_as_it_is_and_too_much_is_bent() {
        assert_eq!(limit(24_000), 24_000);
        assert_eq!(limit(-24_000), -24_000);
        assert!(limit(40_000) > 29_000);
        assert!((32_000..=i16::MAX).contains(&limit(11 * 32_767)));
    }

    proptest! {
        #[test]
        fn louder_is_never_quieter_and_never_wraps(low in -400_000i32..400_000, more in 0i32..1000) {
            let (quiet, loud) = (limit(low), limit(low + more));
            prop_assert!(quiet <= loud);
            prop_assert!(i32::from(loud) - i32::from(quiet) <= more + 1);
            prop_assert_eq!(limit(-low), -quiet);
        }
    }
}
