//! A mix on its way to the agent, in the agent's own form.

use bytes::{BufMut, Bytes, BytesMut};

use crate::opus::{Encoder, OpusError, Profile, SampleRate};
use crate::resample::Resampler;

/// Of every mix.
const RATE: SampleRate = SampleRate::Hz16000;
/// Room for a frame at any rate; the memory comes back when the frames before have been sent.
const CHUNK_BYTES: usize = 2 * 1024;

#[derive(Debug)]
pub(crate) struct MixedForm {
    form: Form,
    chunk: BytesMut,
}

#[derive(Debug)]
enum Form {
    Pcm { resampler: Box<Resampler>, samples: Vec<i16> },
    Opus { encoder: Encoder, packet: Vec<u8> },
}

impl MixedForm {
    /// Samples at `rate`, or Opus packets.
    pub fn new(rate: Option<SampleRate>) -> Result<Self, OpusError> {
        rate.map_or_else(Self::opus, |rate| Ok(Self::pcm(rate)))
    }

    pub fn pcm(rate: SampleRate) -> Self {
        let samples = Vec::with_capacity(rate.samples_per_frame());
        Self { form: Form::Pcm { resampler: Box::new(Resampler::new(RATE, rate)), samples }, chunk: BytesMut::new() }
    }

    pub fn opus() -> Result<Self, OpusError> {
        let encoder = Encoder::new(RATE, Profile::Eco)?;
        Ok(Self { form: Form::Opus { encoder, packet: Vec::new() }, chunk: BytesMut::new() })
    }

    /// 20 ms as the agent takes them.
    pub fn hear(&mut self, frame: &[i16]) -> Option<Bytes> {
        match &mut self.form {
            Form::Pcm { resampler, samples } => {
                samples.clear();
                resampler.process(frame, samples);
                if self.chunk.capacity() < 2 * samples.len() {
                    self.chunk.reserve(CHUNK_BYTES);
                }
                for sample in samples {
                    self.chunk.put_i16_le(*sample);
                }
            }
            Form::Opus { encoder, packet } => {
                encoder.encode(frame, packet).ok()?;
                self.chunk.extend_from_slice(packet);
            }
        }
        Some(self.chunk.split().freeze())
    }
}
