//! Prompt: a sound encoded once into 20 ms Opus frames and shared by every call.

mod warning;
mod file;
mod wideband;
mod loudness;
mod encode;
mod seam;
mod cursor;
mod tones;

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use thiserror::Error;

use crate::opus::{OpusError, Profile, SampleRate};
use encode::Track;
use seam::Seam;

pub use warning::PromptWarning;

pub(crate) use cursor::Cursor;

/// No prompt is longer: ten minutes are 3 MB of Opus and a few seconds of encoding.
pub const MAX_DURATION: Duration = Duration::from_secs(600);

/// No file is bigger. Six minutes of CD sound fit in uncompressed, and ten minutes of all that a call carries.
pub const MAX_FILE_BYTES: usize = 64 * 1024 * 1024;

/// More channels than a 7.1 film has are not a prompt.
pub const MAX_CHANNELS: usize = 8;

/// The sample rates of files, in Hz: from a telephone's to a studio's.
pub const RATES_HZ: RangeInclusive<u32> = 8_000..=192_000;

/// A sound ready to be sent. Cloning shares the frames.
#[derive(Debug, Clone)]
pub struct Prompt {
    sound: Arc<Encoded>,
}

#[derive(Debug)]
struct Encoded {
    frames: Box<[Bytes]>,
    /// None for sounds that repeat as they are.
    seam: Option<Seam>,
    warnings: Box<[PromptWarning]>,
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
    /// One short note: speak now, or you are being recorded.
    Beep,
}

/// How often prompts play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// To their end; silence follows.
    Once,
    /// From the beginning again until something else is on air.
    Loop,
}

/// Why a sound cannot be a prompt. Each text says what is wrong and what to do, to the person who made the file.
#[derive(Debug, Error)]
pub enum PromptError {
    /// No bytes at all.
    #[error("the file is empty; copy it again")]
    Empty,
    /// More than [`MAX_FILE_BYTES`].
    #[error("the file has more than {} MB; convert it to MP3 or Ogg Opus", MAX_FILE_BYTES / (1024 * 1024))]
    TooManyBytes,
    /// The content is of no kind that we read, whatever the extension says.
    #[error(
        "the content is not WAV, MP3, FLAC, Ogg Vorbis or Ogg Opus{}; convert it to one of them",
        .extension.as_ref().map(|extension| format!(", though the file is named .{extension}")).unwrap_or_default()
    )]
    UnknownFormat {
        /// The file's extension.
        extension: Option<String>,
    },
    /// The kind is known, but not this variety of it, or its headers are broken; with the decoder's reason.
    #[error("the sound cannot be decoded: {0}; convert it to WAV with 16 bits")]
    Undecodable(String),
    /// More than [`MAX_CHANNELS`], or none.
    #[error("a prompt has 1 to {MAX_CHANNELS} channels, not {0}; convert it to mono")]
    Channels(usize),
    /// Outside [`RATES_HZ`].
    #[error(
        "a prompt has {lowest} to {highest} samples a second, not {0}; convert it to 16000",
        lowest = RATES_HZ.start(), highest = RATES_HZ.end()
    )]
    SampleRate(u32),
    /// Longer than [`MAX_DURATION`].
    #[error("a prompt lasts at most {} minutes; cut the file", MAX_DURATION.as_secs() / 60)]
    TooLong,
    /// More samples in all channels, or more packets, than ten minutes of any ordinary sound have.
    #[error("the file takes more work to decode than a prompt may; convert it to mono with 16000 samples a second")]
    TooMuchWork,
    /// The file ends before four fifths of the sound that it announces.
    #[error("the file breaks off before its end; copy it again")]
    BreaksOff,
    /// More than a fifth of its packets do not decode.
    #[error("more than a fifth of the file is damaged or is no sound; copy or convert it again")]
    Broken,
    /// A good file without a single sample.
    #[error("there is no sound in the file; record or export it again")]
    NoSound,
    /// A refusal of the encoder.
    #[error(transparent)]
    Opus(#[from] OpusError),
}

impl Prompt {
    /// Reads a sound file: WAV, MP3, FLAC, Ogg Vorbis or Ogg Opus, told apart by content. `extension` is used to name
    /// the file's error better, and for nothing else.
    ///
    /// Several sounds in one file are played one after the other. The channels are mixed down evenly, or one of them is
    /// taken where they cancel each other; the sound is resampled to 16 kHz, which is all that a call carries, and
    /// brought to the loudness of all prompts. A file that breaks off is taken if four fifths of it are there; of an
    /// Ogg file, which does not announce its length, any beginning is taken. [`Prompt::warnings`] tells of both.
    pub fn from_file(bytes: &[u8], extension: Option<&str>) -> Result<Self, PromptError> {
        let contents = file::read(bytes, extension)?;
        let rate = wideband::RATE;
        Self::encode(&loudness::levelled(&contents.samples, rate.hz()), rate, &contents.warnings)
    }

    /// Encodes mono samples as loud as they are. The last frame is filled up with silence.
    ///
    /// One frame of silence leads, so that the decoder of a listener settles whatever it heard before, and one
    /// follows, because the encoder is 6.5 ms behind its input. A sound of a second or more also gets a seam for
    /// repeating, a crossfade from its end into its beginning.
    pub fn from_pcm(pcm: &[i16], rate: SampleRate) -> Result<Self, PromptError> {
        Self::encode(pcm, rate, &[])
    }

    fn encode(pcm: &[i16], rate: SampleRate, warnings: &[PromptWarning]) -> Result<Self, PromptError> {
        if rate.duration(pcm.len() as u64) > MAX_DURATION {
            return Err(PromptError::TooLong);
        }
        let frames = encoded(pcm, rate, Profile::Prompt)?;
        let seam = Seam::baked(pcm, LEAD_FRAMES, rate, Profile::Prompt)?;
        Ok(Self { sound: Arc::new(Encoded { frames, seam, warnings: warnings.into() }) })
    }

    /// Makes a built-in prompt. Tones need no care in encoding, and every start of the service waits for them. They
    /// begin and end in quiet, and a cadence must keep its pause, so they repeat as they are.
    pub fn builtin(builtin: Builtin) -> Result<Self, PromptError> {
        let frames = encoded(&tones::samples(builtin), tones::RATE, Profile::Eco)?;
        Ok(Self { sound: Arc::new(Encoded { frames, seam: None, warnings: Box::default() }) })
    }

    /// The Opus packets of one pass, 20 ms each; never empty.
    pub fn frames(&self) -> &[Bytes] {
        &self.sound.frames
    }

    /// How long it plays once.
    pub fn duration(&self) -> Duration {
        crate::opus::FRAME * self.frames().len() as u32
    }

    /// What is not heard as the file's author may expect.
    pub fn warnings(&self) -> &[PromptWarning] {
        &self.sound.warnings
    }

    fn seam(&self) -> Option<&Seam> {
        self.sound.seam.as_ref()
    }
}

impl Builtin {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Ringback, Self::Hold, Self::Goodbye, Self::Busy, Self::Beep];

    /// The name it goes by in `prompt:NAME`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ringback => "ringback",
            Self::Hold => "hold",
            Self::Goodbye => "goodbye",
            Self::Busy => "busy",
            Self::Beep => "beep",
        }
    }

    /// The built-in prompt of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|builtin| builtin.name() == name)
    }
}

/// Frames of silence before the sound.
const LEAD_FRAMES: usize = 1;

fn encoded(pcm: &[i16], rate: SampleRate, profile: Profile) -> Result<Box<[Bytes]>, OpusError> {
    let mut track = Track::new(rate, profile)?;
    for _ in 0..LEAD_FRAMES {
        track.push(&[])?;
    }
    for (index, frame) in pcm.chunks(rate.samples_per_frame()).enumerate() {
        match index {
            seam::BACK_TO => track.push_entry(frame)?,
            _ => track.push(frame)?,
        }
    }
    track.push(&[])?;
    Ok(track.into_frames().into())
}

#[cfg(test)]
mod tests;
