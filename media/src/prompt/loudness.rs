//! Loudness: all prompts are equally loud, however they were recorded (EBU R 128, ITU-R BS.1770).

use ebur128::{EbuR128, Mode};

/// Target: about as loud as a close voice in a call.
const TARGET_LUFS: f64 = -19.0;

/// Highest true peak, in dB below full scale.
const PEAK_DB: f64 = -1.0;

/// Largest gain: noise and near-silence stay quiet.
const GAIN_AT_MOST_DB: f64 = 20.0;

/// Loudness is measured over 400 ms (BS.1770). Shorter audio is normalised by its peak; at this level it is about as loud
/// as the others, be it a tone or a syllable.
const SHORT_PEAK_DB: f64 = -12.0;

/// Normalises mono samples (full scale 1.0) to the loudness of prompts. Silence stays silence.
///
/// One gain for the whole prompt, so its dynamics stay. It is lowered where a peak would exceed the limit, so audio with
/// rare, high peaks ends up below the target.
pub(super) fn levelled(sound: &[f32], hz: u32) -> Vec<i16> {
    let gain = gain_db(sound, hz).map_or(0.0, |decibels| 10f64.powf(decibels / 20.0));
    sound.iter().map(|sample| (f64::from(*sample) * gain * f64::from(i16::MAX)).round() as i16).collect()
}

/// None for silence.
fn gain_db(sound: &[f32], hz: u32) -> Option<f64> {
    let mut meter = EbuR128::new(1, hz, Mode::I | Mode::TRUE_PEAK).ok()?;
    meter.add_frames_f32(sound).ok()?;
    let peak_db = 20.0 * meter.true_peak(0).ok()?.log10();
    let loudness = meter.loudness_global().ok()?;
    if !peak_db.is_finite() {
        return None;
    }
    let wanted = match loudness.is_finite() {
        true => TARGET_LUFS - loudness,
        false => SHORT_PEAK_DB - peak_db,
    };
    Some(wanted.min(GAIN_AT_MOST_DB).min(PEAK_DB - peak_db))
}
