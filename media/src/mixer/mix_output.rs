//! MixOutput: what the caller hears while a mixer is there: the source's own packets, replaced by encoded mix only when
//! needed.

use super::sum::{FRAME_SAMPLES, Frame, RATE, SILENT, is_loud};
use crate::opus::{Decoder, Encoder, MAX_ENCODED_BYTES, OpusError, Profile, SILENCE};

/// Frames that a decoder needs to converge when it starts in the middle of a word.
const WARM_FRAMES: u32 = 3;
/// Frames the mix continues after the last audio: both decoders and the encoder lag by some milliseconds.
const TAIL_FRAMES: u32 = 2;
/// Mixing ends in a pause of the agent's speech, where the change is inaudible. Music has no pauses: it is handed back
/// to the source after 2 s, with a jump of some milliseconds, by which the mix lags behind the source.
const LEAVE_WITHIN_FRAMES: u32 = 100;

#[derive(Debug)]
pub(super) struct MixOutput {
    decoder: Decoder,
    encoder: Encoder,
    pcm: Vec<i16>,
    /// The source's current frame, decoded.
    source: Frame,
    /// The source's previous frame, decoded.
    before: Frame,
    /// Frames decoded in a row.
    warm: u32,
    /// The last frame went to the caller unmixed and was not silence.
    passed_talk: bool,
    mixing: Mixing,
    /// Scratch for packets that only prime the encoder.
    discarded: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mixing {
    No,
    Spurt {
        /// Frames since the last audio.
        quiet: u32,
        /// Frames since another source was last there to be mixed.
        unneeded: u32,
    },
}

/// The input of one tick.
pub(super) struct Mix<'a> {
    /// Everything the caller should hear, mixed.
    pub(super) frame: &'a Frame,
    /// The frame is not silence.
    pub(super) talking: bool,
    /// The source contributes to it.
    pub(super) source_talks: bool,
    /// Something beside the source is there to be mixed, even if silent in this tick.
    pub(super) needed: bool,
}

impl MixOutput {
    pub(super) fn new(profile: Profile) -> Result<Self, OpusError> {
        Ok(Self {
            decoder: Decoder::new(RATE)?,
            encoder: Encoder::new(RATE, profile)?,
            pcm: Vec::with_capacity(FRAME_SAMPLES),
            source: SILENT,
            before: SILENT,
            warm: 0,
            passed_talk: false,
            mixing: Mixing::No,
            discarded: Vec::with_capacity(MAX_ENCODED_BYTES),
        })
    }

    /// Decodes the source's packet.
    pub(super) fn decode_source(&mut self, on_air: &[u8]) {
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

    /// A tick in which nothing needs the decoded source.
    pub(super) fn idle(&mut self) {
        self.warm = 0;
        self.passed_talk = false;
    }

    /// The source's current frame.
    pub(super) fn source(&self) -> &Frame {
        &self.source
    }

    pub(super) fn is_mixing(&self) -> bool {
        self.mixing != Mixing::No
    }

    /// Replaces `on_air` with the encoded mix and returns true, or leaves the source's packet as it is.
    pub(super) fn mix(&mut self, mix: &Mix<'_>, on_air: &mut Vec<u8>) -> bool {
        self.mixing = self.next_mixing(mix);
        if !self.is_mixing() {
            self.passed_talk = mix.source_talks;
            return false;
        }
        if self.encoder.encode(mix.frame, on_air).is_err() {
            // libopus has no reason to refuse a frame of the right length. If it does, the RTP line must still continue.
            on_air.clear();
            on_air.extend_from_slice(&SILENCE);
        }
        true
    }

    fn next_mixing(&mut self, mix: &Mix<'_>) -> Mixing {
        match self.mixing {
            Mixing::No => {
                let ready = !mix.source_talks || self.warm > WARM_FRAMES;
                if !(mix.needed && mix.talking && ready) {
                    return Mixing::No;
                }
                self.open();
                Mixing::Spurt { quiet: 0, unneeded: 0 }
            }
            Mixing::Spurt { quiet, unneeded } => {
                let quiet = if mix.talking { 0 } else { quiet + 1 };
                let unneeded = if mix.needed { 0 } else { unneeded + 1 };
                let pause = unneeded > TAIL_FRAMES && !is_loud(&self.source) && !is_loud(&self.before);
                if quiet > TAIL_FRAMES || pause || unneeded > LEAVE_WITHIN_FRAMES {
                    return Mixing::No;
                }
                Mixing::Spurt { quiet, unneeded }
            }
        }
    }

    /// The caller's decoder has just decoded packets of another encoder, so this one starts from a reset. In the middle of
    /// a talk-spurt it first encodes the caller's previous frame, so that encoder and decoder predict from the same audio.
    fn open(&mut self) {
        let _ = self.encoder.reset();
        if self.passed_talk {
            let _ = self.encoder.encode(&self.before, &mut self.discarded);
        }
    }
}
