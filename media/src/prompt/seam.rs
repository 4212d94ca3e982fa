//! Seam: the transition from a prompt's end back to its start, encoded once like the prompt itself.

use bytes::Bytes;

use super::encode::Track;
use crate::opus::{OpusError, Profile, SampleRate};

/// Length of the crossfade, 200 ms: long enough to hide where music restarts, short enough not to overlap words.
const FADE_FRAMES: usize = 10;

/// The seam has an encoder of its own. It first encodes this much of the audio before, so that its first packet is predicted
/// from what the listener's decoder has decoded.
const WARM_UP_FRAMES: usize = 25;

/// The frame that the seam leads back to.
pub(super) const BACK_TO: usize = FADE_FRAMES + SETTLE_FRAMES;

/// After the crossfade the seam's encoder continues for this long, so that the decoder has decoded the very audio from
/// which the prompt's own packets are predicted when they take over again.
const SETTLE_FRAMES: usize = 5;

/// One second. Shorter audio is a signal, which repeats with its own pause.
const SHORTEST_FRAMES: usize = 50;

/// The packets between the end and the start of a looped prompt.
///
/// The first pass plays the prompt's frames up to `leave_before`, then the seam, then the frames from `back_to` on.
/// A pass is therefore one crossfade (200 ms) shorter than the audio.
#[derive(Debug)]
pub(super) struct Seam {
    pub(super) frames: Box<[Bytes]>,
    /// The prompt's frame that the seam replaces.
    pub(super) leave_before: usize,
    /// The prompt's frame that follows the seam.
    pub(super) back_to: usize,
}

impl Seam {
    /// Encodes the seam of audio whose first frame is `frames_before` frames after the start of its prompt. None for audio
    /// under a second.
    ///
    /// `sound` is the whole audio, perhaps with a partial last frame: the crossfade ends exactly where the audio ends.
    pub(super) fn baked(
        sound: &[i16],
        frames_before: usize,
        rate: SampleRate,
        profile: Profile,
    ) -> Result<Option<Self>, OpusError> {
        let frame = rate.samples_per_frame();
        let count = sound.len().div_ceil(frame);
        if count < SHORTEST_FRAMES {
            return Ok(None);
        }
        let leave = count - FADE_FRAMES;
        let mut track = Track::new(rate, profile)?;
        for warm_up in sound[leave.saturating_sub(WARM_UP_FRAMES) * frame..leave * frame].chunks(frame) {
            track.hear(warm_up)?;
        }
        let end = &sound[leave * frame..];
        let beginning = &sound[..BACK_TO * frame];
        let mut mixed = crossfaded(end, &beginning[..end.len()]);
        mixed.extend_from_slice(&beginning[end.len()..]);
        for (index, part) in mixed.chunks(frame).enumerate() {
            match index {
                0 => track.push_entry(part)?,
                _ => track.push(part)?,
            }
        }
        Ok(Some(Self {
            frames: track.into_frames().into(),
            leave_before: frames_before + leave,
            back_to: frames_before + BACK_TO,
        }))
    }
}

/// Crossfades `end` into `beginning`, which are equally long, at even loudness.
///
/// Uncorrelated audio adds in power, correlated audio in amplitude; the gain follows the correlation of the two.
fn crossfaded(end: &[i16], beginning: &[i16]) -> Vec<i16> {
    let likeness = likeness(end, beginning);
    let count = end.len() as f64;
    let mix = |(index, (&end, &beginning)): (usize, (&i16, &i16))| {
        let (rising, falling) = ((index as f64 + 0.5) / count * std::f64::consts::FRAC_PI_2).sin_cos();
        let power = 1.0 + 2.0 * rising * falling * likeness;
        ((f64::from(end) * falling + f64::from(beginning) * rising) / power.sqrt()).round() as i16
    };
    end.iter().zip(beginning).enumerate().map(mix).collect()
}

/// Correlation: 0 for unrelated or opposite waves, 1 for equal ones.
fn likeness(left: &[i16], right: &[i16]) -> f64 {
    let product = |left: &[i16], right: &[i16]| -> f64 {
        left.iter().zip(right).map(|(left, right)| f64::from(*left) * f64::from(*right)).sum()
    };
    let powers = (product(left, left) * product(right, right)).sqrt();
    if powers == 0.0 { 0.0 } else { (product(left, right) / powers).clamp(0.0, 1.0) }
}
