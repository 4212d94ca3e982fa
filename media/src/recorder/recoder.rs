//! Recoder: decodes and re-encodes packets that cannot be copied: frames of 40 and 60 ms, and packets shorter than 20 ms.

use super::delimited;
use crate::opus::{Decoder, Encoder, OpusError, Profile, SampleRate};

/// Sufficient for wideband audio.
const RATE: SampleRate = SampleRate::Hz16000;

/// A rest shorter than this at the end of a run is dropped: 10 ms.
const HALF_FRAME_SAMPLES: usize = 160;

/// The codec pair of one caller, created when the first packet needs it.
#[derive(Default)]
pub(super) struct Recoder {
    coders: Option<(Decoder, Encoder)>,
    pcm: Vec<i16>,
    frame: Vec<u8>,
    scratch: Vec<u8>,
}

impl Recoder {
    /// Whether the next packet starts a new frame.
    pub(super) fn is_empty(&self) -> bool {
        self.pcm.is_empty()
    }

    /// Takes one packet and passes on the 20 ms packets that are complete, self-delimited.
    pub(super) fn push(&mut self, packet: &[u8], take: impl FnMut(&[u8])) -> Result<(), OpusError> {
        let (decoder, _) = match &mut self.coders {
            Some(coders) => coders,
            none => none.insert((Decoder::new(RATE)?, Encoder::new(RATE, Profile::Eco)?)),
        };
        decoder.decode(packet, &mut self.pcm)?;
        self.encode(take)
    }

    /// Ends the run: the rest becomes a last frame if it is long enough.
    pub(super) fn flush(&mut self, take: impl FnMut(&[u8])) -> Result<(), OpusError> {
        if self.pcm.len() >= HALF_FRAME_SAMPLES {
            self.pcm.resize(RATE.samples_per_frame(), 0);
        }
        self.encode(take)?;
        self.pcm.clear();
        Ok(())
    }

    fn encode(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), OpusError> {
        let Some((_, encoder)) = &mut self.coders else { return Ok(()) };
        let whole = self.pcm.len() - self.pcm.len() % RATE.samples_per_frame();
        for samples in self.pcm[..whole].chunks(RATE.samples_per_frame()) {
            encoder.encode(samples, &mut self.frame)?;
            if let [toc, body @ ..] = self.frame.as_slice() {
                delimited::write(*toc, &[body], &mut self.scratch);
                take(&self.scratch);
            }
        }
        self.pcm.drain(..whole);
        Ok(())
    }
}
