//! Tones: the built-in prompts, made of sine waves, so that a first start needs no files.

use std::f64::consts::TAU;

use super::Builtin;
use crate::opus::SampleRate;

/// Wideband is all that a call carries.
pub(super) const RATE: SampleRate = SampleRate::Hz16000;

/// The European supervisory tone (ETSI TR 101 041): 425 Hz for ringing and for busy.
const SUPERVISORY_HZ: f64 = 425.0;

/// The beep of an answering machine, where ears and telephones are most sensitive.
const BEEP_HZ: f64 = 1000.0;

/// About -18 dBFS: clearly audible, not startling.
const LOUD: f64 = 4000.0;

/// Hold music stays in the background.
const SOFT: f64 = 1600.0;

/// Length of fades; a sudden edge clicks.
const EDGE_SECONDS: f64 = 0.010;

/// Mono samples at [`RATE`].
pub(super) fn samples(builtin: Builtin) -> Vec<i16> {
    match builtin {
        Builtin::Ringback => [tone(SUPERVISORY_HZ, 1.0), pause(4.0)].concat(),
        Builtin::Busy => [tone(SUPERVISORY_HZ, 0.5), pause(0.5)].concat(),
        // E, C, G: a falling chime signals the end.
        Builtin::Goodbye => [659.26, 523.25, 392.0].into_iter().flat_map(|hz| note(hz, 0.35, LOUD)).collect(),
        Builtin::Beep => tone(BEEP_HZ, 0.3),
        // C, E, G, A and back in slow notes, each decaying before the next.
        Builtin::Hold => {
            [261.63, 329.63, 392.0, 440.0, 392.0, 329.63].into_iter().flat_map(|hz| note(hz, 1.2, SOFT)).collect()
        }
    }
}

/// An even tone with soft edges.
fn tone(hz: f64, seconds: f64) -> Vec<i16> {
    render(seconds, |at| {
        let edge = (at.min(seconds - at) / EDGE_SECONDS).clamp(0.0, 1.0);
        LOUD * edge * (TAU * hz * at).sin()
    })
}

/// A struck note: a soft attack, a little of its octave, and a full decay.
fn note(hz: f64, seconds: f64, level: f64) -> Vec<i16> {
    render(seconds, |at| {
        let attack = (at / EDGE_SECONDS).min(1.0);
        let decay = (1.0 - at / seconds).powi(2);
        let wave = (TAU * hz * at).sin() + 0.3 * (TAU * 2.0 * hz * at).sin();
        level * attack * decay * wave
    })
}

fn pause(seconds: f64) -> Vec<i16> {
    render(seconds, |_| 0.0)
}

fn render(seconds: f64, wave: impl Fn(f64) -> f64) -> Vec<i16> {
    let hz = f64::from(RATE.hz());
    let count = (seconds * hz).round() as u32;
    (0..count).map(|index| wave(f64::from(index) / hz) as i16).collect()
}
