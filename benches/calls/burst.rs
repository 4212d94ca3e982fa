//! Bursts of tone in silence, which identify a moment of audio at the other end.

use patchcord_simulator::sound;

/// 20 ms at 16 kHz.
const SAMPLES: usize = 320;
/// Frames from one burst to the next: longer than any delay to be measured.
pub const PERIOD: usize = 20;
/// The frame of the period with the burst. The coder has settled before it.
pub const AT: usize = 8;
/// Frames without a burst before one begins: more than its last samples reach into.
const REST: usize = 4;
/// Between the burst (7,800, of which the coder's look-ahead leaves two thirds) and the coder's noise.
const LOUD: f64 = 1_000.0;

/// One period of 16 kHz samples.
pub fn period() -> Vec<i16> {
    let mut samples = vec![0; PERIOD * SAMPLES];
    samples[AT * SAMPLES..(AT + 1) * SAMPLES].copy_from_slice(&sound::tone(1000.0, 16_000, 20));
    samples
}

/// The samples of a binary message.
pub fn samples(bytes: &[u8]) -> Vec<i16> {
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Detects the frame in which a burst begins.
#[derive(Debug, Default)]
pub struct Onsets {
    quiet_frames: usize,
}

impl Onsets {
    /// Takes the next frame.
    pub fn begins(&mut self, samples: &[i16]) -> bool {
        let is_loud = sound::rms(samples) > LOUD;
        let begins = is_loud && self.quiet_frames >= REST;
        self.quiet_frames = if is_loud { 0 } else { self.quiet_frames + 1 };
        begins
    }
}
