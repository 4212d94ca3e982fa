//! Air: the caller's line while others may speak on it: heard, and mixed only when it must be.

use super::sum::{FRAME_SAMPLES, Frame, RATE, SILENT, is_loud};
use crate::opus::{Decoder, Encoder, MAX_ENCODED_BYTES, OpusError, Profile, SILENCE};

/// A decoder that begins in the middle of a word needs so many frames until it sounds like the word.
const WARM_FRAMES: u32 = 3;
/// After the last sound the mix goes on so long: both decoders and the encoder are some milliseconds behind.
const TAIL_FRAMES: u32 = 2;
/// Mixing ends in a pause of the agent's, where nobody can hear the change. Music has no pauses: it is handed over
/// after 2 s, with a jump of some milliseconds, because the mix is that much behind the source.
const LEAVE_WITHIN_FRAMES: u32 = 100;

#[derive(Debug)]
pub(super) struct Air {
    decoder: Decoder,
    encoder: Encoder,
    pcm: Vec<i16>,
    /// What the source has on air, decoded.
    source: Frame,
    /// What it had one frame before.
    before: Frame,
    /// Frames decoded without a break.
    warm: u32,
    /// The last frame went to the caller as it was, and had sound.
    passed_sound: bool,
    mixing: Mixing,
    thrown_away: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mixing {
    No,
    Spurt {
        /// Frames since the last sound.
        quiet: u32,
        /// Frames since there was last somebody to mix.
        unneeded: u32,
    },
}

/// What is to be mixed in one tick.
pub(super) struct Mix<'a> {
    /// All that the caller should hear.
    pub(super) sound: &'a Frame,
    /// There is something in it.
    pub(super) sounding: bool,
    /// Something of it is the source's.
    pub(super) source_talks: bool,
    /// Somebody beside the source is there to be mixed, even if silent now.
    pub(super) needed: bool,
}

impl Air {
    pub(super) fn new(profile: Profile) -> Result<Self, OpusError> {
        Ok(Self {
            decoder: Decoder::new(RATE)?,
            encoder: Encoder::new(RATE, profile)?,
            pcm: Vec::with_capacity(FRAME_SAMPLES),
            source: SILENT,
            before: SILENT,
            warm: 0,
            passed_sound: false,
            mixing: Mixing::No,
            thrown_away: Vec::with_capacity(MAX_ENCODED_BYTES),
        })
    }

    /// Decodes what the source has put on air.
    pub(super) fn hear(&mut self, on_air: &[u8]) {
        if self.warm == 0 {
            // A decoder that will not be reset still decodes.
            let _ = self.decoder.reset();
        }
        self.warm = self.warm.saturating_add(1);
        self.before = self.source;
        self.pcm.clear();
        let _ = self.decoder.decode(on_air, &mut self.pcm);
        self.pcm.resize(FRAME_SAMPLES, 0);
        self.source.copy_from_slice(&self.pcm);
    }

    /// Nobody needs to know what is on air.
    pub(super) fn sleep(&mut self) {
        self.warm = 0;
        self.passed_sound = false;
    }

    /// What the source has on air.
    pub(super) fn source(&self) -> &Frame {
        &self.source
    }

    pub(super) fn is_mixing(&self) -> bool {
        self.mixing != Mixing::No
    }

    /// Puts the mix on air, if there is any; says so. Otherwise `on_air` stays as the source made it.
    pub(super) fn mix(&mut self, mix: &Mix<'_>, on_air: &mut Vec<u8>) -> bool {
        self.mixing = self.next_mixing(mix);
        if !self.is_mixing() {
            self.passed_sound = mix.source_talks;
            return false;
        }
        if self.encoder.encode(mix.sound, on_air).is_err() {
            // libopus has no reason to refuse a frame of the right length. If it does, the line must still go on.
            on_air.clear();
            on_air.extend_from_slice(&SILENCE);
        }
        true
    }

    fn next_mixing(&mut self, mix: &Mix<'_>) -> Mixing {
        match self.mixing {
            Mixing::No => {
                let ready = !mix.source_talks || self.warm > WARM_FRAMES;
                if !(mix.needed && mix.sounding && ready) {
                    return Mixing::No;
                }
                self.open();
                Mixing::Spurt { quiet: 0, unneeded: 0 }
            }
            Mixing::Spurt { quiet, unneeded } => {
                let quiet = if mix.sounding { 0 } else { quiet + 1 };
                let unneeded = if mix.needed { 0 } else { unneeded + 1 };
                let pause = unneeded > TAIL_FRAMES && !is_loud(&self.source) && !is_loud(&self.before);
                if quiet > TAIL_FRAMES || pause || unneeded > LEAVE_WITHIN_FRAMES {
                    return Mixing::No;
                }
                Mixing::Spurt { quiet, unneeded }
            }
        }
    }

    /// The caller's decoder has just heard packets this encoder did not make. It starts afresh; in the middle of a
    /// sound it is first given what the caller has heard last, so that both predict from the same.
    fn open(&mut self) {
        let _ = self.encoder.reset();
        if self.passed_sound {
            let _ = self.encoder.encode(&self.before, &mut self.thrown_away);
        }
    }
}
