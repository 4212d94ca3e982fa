//! Prompt: a sound encoded once into 20 ms Opus frames and shared by every call.

mod tones;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::opus::{Encoder, OpusError, Profile, SampleRate};

/// No prompt is longer: ten minutes are 3 MB of Opus and a second or two of encoding at the start.
pub const MAX_DURATION: Duration = Duration::from_secs(600);

/// A sound ready to be sent. Cloning shares the frames.
#[derive(Debug, Clone)]
pub struct Prompt {
    frames: Arc<[Bytes]>,
}

/// The prompts that need no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// The tone of a phone that rings at the other end.
    Ringback,
    /// A slow, quiet chime for someone who waits.
    Hold,
    /// Three falling notes before we hang up.
    Goodbye,
    /// The tone of a line that is taken.
    Busy,
}

/// How often a prompt plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// To its end; silence follows.
    Once,
    /// From the beginning again until something else is on air.
    Loop,
}

/// Why a sound cannot be a prompt.
#[derive(Debug, Error)]
pub enum PromptError {
    /// The bytes are not a readable WAV file.
    #[error("not a readable WAV file: {0}")]
    Wav(#[from] hound::Error),
    /// A WAV file of another kind than 16-bit integer samples.
    #[error("a WAV prompt has 16-bit integer samples, not {bits}-bit {format}")]
    SampleFormat {
        /// Bits a sample.
        bits: u16,
        /// `integer` or `float`.
        format: &'static str,
    },
    /// More channels than two.
    #[error("a prompt is mono or stereo, not {0} channels")]
    Channels(u16),
    /// Longer than [`MAX_DURATION`].
    #[error("a prompt lasts at most {} s, not {} s", MAX_DURATION.as_secs(), .0.as_secs())]
    TooLong(Duration),
    /// A rate that Opus does not take, or a refusal of the encoder.
    #[error(transparent)]
    Opus(#[from] OpusError),
}

/// Where one call stands in its prompts.
#[derive(Debug)]
pub(crate) struct Cursor {
    prompts: Vec<Prompt>,
    repeat: Repeat,
    playing: usize,
    next: usize,
}

impl Prompt {
    /// Encodes mono samples. The last frame is filled up with silence.
    ///
    /// One frame of silence leads, so that the decoder of a listener settles whatever it heard before, and one
    /// follows, because the encoder is 6.5 ms behind its input.
    pub fn from_pcm(pcm: &[i16], rate: SampleRate) -> Result<Self, PromptError> {
        Self::encoded(pcm, rate, Profile::Prompt)
    }

    fn encoded(pcm: &[i16], rate: SampleRate, profile: Profile) -> Result<Self, PromptError> {
        let duration = rate.duration(pcm.len() as u64);
        if duration > MAX_DURATION {
            return Err(PromptError::TooLong(duration));
        }
        let mut encoder = Encoder::new(rate, profile)?;
        let silence = vec![0; rate.samples_per_frame()];
        let mut packet = Vec::new();
        let mut encode = |frame: &[i16]| -> Result<Bytes, PromptError> {
            encoder.encode(frame, &mut packet)?;
            Ok(Bytes::copy_from_slice(&packet))
        };
        let mut frames = vec![encode(&silence)?];
        for sound in pcm.chunks(silence.len()) {
            let mut frame = sound.to_vec();
            frame.resize(silence.len(), 0);
            frames.push(encode(&frame)?);
        }
        frames.push(encode(&silence)?);
        Ok(Self { frames: frames.into() })
    }

    /// Reads a WAV file: 16-bit integer samples, mono or stereo (mixed down), at 8, 16, 24 or 48 kHz.
    pub fn from_wav(bytes: &[u8]) -> Result<Self, PromptError> {
        let mut reader = hound::WavReader::new(bytes)?;
        let spec = reader.spec();
        if (spec.bits_per_sample, spec.sample_format) != (16, hound::SampleFormat::Int) {
            return Err(PromptError::SampleFormat {
                bits: spec.bits_per_sample,
                format: match spec.sample_format {
                    hound::SampleFormat::Int => "integer",
                    hound::SampleFormat::Float => "float",
                },
            });
        }
        if !(1..=2).contains(&spec.channels) {
            return Err(PromptError::Channels(spec.channels));
        }
        let rate = SampleRate::try_from(spec.sample_rate)?;
        let duration = rate.duration(u64::from(reader.duration()));
        if duration > MAX_DURATION {
            return Err(PromptError::TooLong(duration));
        }
        let samples = reader.samples::<i16>().collect::<Result<Vec<_>, _>>()?;
        match spec.channels {
            1 => Self::from_pcm(&samples, rate),
            _ => Self::from_pcm(&mixed_down(&samples), rate),
        }
    }

    /// Makes a built-in prompt. Tones need no care in encoding, and every start of the service waits for them.
    pub fn builtin(builtin: Builtin) -> Result<Self, PromptError> {
        Self::encoded(&tones::samples(builtin), tones::RATE, Profile::Eco)
    }

    /// The Opus packets, 20 ms each; never empty.
    pub fn frames(&self) -> &[Bytes] {
        &self.frames
    }

    /// How long it plays once.
    pub fn duration(&self) -> Duration {
        crate::opus::FRAME * self.frames.len() as u32
    }
}

impl Builtin {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Ringback, Self::Hold, Self::Goodbye, Self::Busy];

    /// The name it goes by in `prompt:NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ringback => "ringback",
            Self::Hold => "hold",
            Self::Goodbye => "goodbye",
            Self::Busy => "busy",
        }
    }

    /// The built-in prompt of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.name() == name)
    }
}

impl Cursor {
    pub(crate) fn new(prompts: Vec<Prompt>, repeat: Repeat) -> Self {
        Self { prompts, repeat, playing: 0, next: 0 }
    }

    /// Copies the next frame to `out`. True with the last one.
    pub(crate) fn fill(&mut self, out: &mut Vec<u8>) -> bool {
        let frames = &self.prompts[self.playing].frames;
        out.clear();
        out.extend_from_slice(&frames[self.next]);
        self.next = (self.next + 1) % frames.len();
        if self.next > 0 {
            return false;
        }
        self.playing = (self.playing + 1) % self.prompts.len();
        self.playing == 0 && self.repeat == Repeat::Once
    }
}

fn mixed_down(stereo: &[i16]) -> Vec<i16> {
    let (pairs, _) = stereo.as_chunks::<2>();
    pairs.iter().map(|[left, right]| ((i32::from(*left) + i32::from(*right)) / 2) as i16).collect()
}

#[cfg(test)]
mod tests;
