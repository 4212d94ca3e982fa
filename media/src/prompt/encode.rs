//! Track: PCM encoded into consecutive 20 ms Opus packets.

use bytes::Bytes;

use crate::opus::{Encoder, OpusError, Profile, SampleRate};

/// One encoder and the packets it has made.
pub(super) struct Track {
    encoder: Encoder,
    frame: Vec<i16>,
    packet: Vec<u8>,
    frames: Vec<Bytes>,
}

impl Track {
    pub(super) fn new(rate: SampleRate, profile: Profile) -> Result<Self, OpusError> {
        Ok(Self {
            encoder: Encoder::new(rate, profile)?,
            frame: Vec::with_capacity(rate.samples_per_frame()),
            packet: Vec::new(),
            frames: Vec::new(),
        })
    }

    /// Adds one frame. A short `pcm` is padded with silence.
    pub(super) fn push(&mut self, pcm: &[i16]) -> Result<(), OpusError> {
        self.hear(pcm)?;
        self.frames.push(Bytes::copy_from_slice(&self.packet));
        Ok(())
    }

    /// Adds one frame whose packet is not predicted from those before it, so that another track can lead to it.
    pub(super) fn push_entry(&mut self, pcm: &[i16]) -> Result<(), OpusError> {
        self.encoder.set_prediction(false)?;
        self.push(pcm)?;
        self.encoder.set_prediction(true)
    }

    /// Encodes a frame only to prime the encoder, and drops its packet.
    pub(super) fn hear(&mut self, pcm: &[i16]) -> Result<(), OpusError> {
        self.frame.clear();
        self.frame.extend_from_slice(pcm);
        self.frame.resize(self.encoder.rate().samples_per_frame(), 0);
        self.encoder.encode(&self.frame, &mut self.packet)
    }

    pub(super) fn into_frames(self) -> Vec<Bytes> {
        self.frames
    }
}
