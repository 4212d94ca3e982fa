//! MixEncoder: turns mixed frames into the format that a listener takes.

use bytes::{BufMut, Bytes, BytesMut};

use super::sum::RATE;
use crate::opus::{Encoder, OpusError, Profile, SampleRate};
use crate::resample::Resampler;

/// Room for a frame at any rate. The memory is reused once the frames before have been sent.
const CHUNK_BYTES: usize = 2 * 1024;

#[derive(Debug)]
pub(crate) struct MixEncoder {
    format: Format,
    chunk: BytesMut,
}

#[derive(Debug)]
enum Format {
    Pcm { resampler: Box<Resampler>, samples: Vec<i16> },
    Opus { encoder: Encoder, packet: Vec<u8> },
}

impl MixEncoder {
    /// PCM at `rate`, or Opus packets for None.
    pub fn new(rate: Option<SampleRate>) -> Result<Self, OpusError> {
        rate.map_or_else(Self::opus, |rate| Ok(Self::pcm(rate)))
    }

    pub fn pcm(rate: SampleRate) -> Self {
        let samples = Vec::with_capacity(rate.samples_per_frame());
        let format = Format::Pcm { resampler: Box::new(Resampler::new(RATE, rate)), samples };
        Self { format, chunk: BytesMut::new() }
    }

    pub fn opus() -> Result<Self, OpusError> {
        let encoder = Encoder::new(RATE, Profile::Eco)?;
        Ok(Self { format: Format::Opus { encoder, packet: Vec::new() }, chunk: BytesMut::new() })
    }

    /// Encodes one 20 ms frame at the mixer's rate. None if libopus refuses it.
    pub fn encode(&mut self, frame: &[i16]) -> Option<Bytes> {
        match &mut self.format {
            Format::Pcm { resampler, samples } => {
                samples.clear();
                resampler.process(frame, samples);
                if self.chunk.capacity() < 2 * samples.len() {
                    self.chunk.reserve(CHUNK_BYTES);
                }
                for sample in samples {
                    self.chunk.put_i16_le(*sample);
                }
            }
            Format::Opus { encoder, packet } => {
                encoder.encode(frame, packet).ok()?;
                self.chunk.extend_from_slice(packet);
            }
        }
        Some(self.chunk.split().freeze())
    }
}
