//! Prompt: audio encoded once into 20 ms Opus frames and shared by all calls.

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

/// Longest prompt: ten minutes are 3 MB of Opus and a few seconds of encoding.
pub const MAX_DURATION: Duration = Duration::from_secs(600);

/// Largest file: six minutes of uncompressed CD audio, or ten minutes of uncompressed wideband.
pub const MAX_FILE_BYTES: usize = 64 * 1024 * 1024;

/// Most channels: those of a 7.1 film.
pub const MAX_CHANNELS: usize = 8;

/// Sample rates of files, in Hz.
pub const RATES_HZ: RangeInclusive<u32> = 8_000..=192_000;

/// Audio ready to be sent. Cloning shares the frames.
#[derive(Debug, Clone)]
pub struct Prompt {
    sound: Arc<Encoded>,
}

#[derive(Debug)]
struct Encoded {
    frames: Box<[Bytes]>,
    /// None for prompts that repeat without a crossfade.
    seam: Option<Seam>,
    warnings: Box<[PromptWarning]>,
}

/// The prompts that need no file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Builtin {
    /// Ringback tone.
    Ringback,
    /// A slow, quiet chime for callers on hold.
    Hold,
    /// Three falling notes before a hang-up.
    Goodbye,
    /// Busy tone.
    Busy,
    /// One short note: speak now, or you are being recorded.
    Beep,
}

/// How often prompts play.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Once; silence follows.
    Once,
    /// In a loop until something else is on air.
    Loop,
}

/// Why a file cannot be a prompt. Each text tells its author what is wrong and what to do.
#[derive(Debug, Error)]
pub enum PromptError {
    /// No bytes at all.
    #[error("the file is empty; copy it again")]
    Empty,
    /// More than [`MAX_FILE_BYTES`].
    #[error("the file has more than {} MB; convert it to MP3 or Ogg Opus", MAX_FILE_BYTES / (1024 * 1024))]
    TooManyBytes,
    /// The content has no supported format, whatever the extension.
    #[error(
        "the content is not WAV, MP3, FLAC, Ogg Vorbis or Ogg Opus{}; convert it to one of them",
        .extension.as_ref().map(|extension| format!(", though the file is named .{extension}")).unwrap_or_default()
    )]
    UnknownFormat {
        /// The file's extension.
        extension: Option<String>,
    },
    /// The format is supported, but not this variety of it, or its headers are broken; with the decoder's reason.
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
    /// More samples in all channels, or more packets, than ten minutes of ordinary audio have.
    #[error("the file takes more work to decode than a prompt may; convert it to mono with 16000 samples a second")]
    TooMuchWork,
    /// The file ends before four fifths of its announced duration.
    #[error("the file breaks off before its end; copy it again")]
    BreaksOff,
    /// More than a fifth of its packets do not decode.
    #[error("more than a fifth of the file is damaged or is no sound; copy or convert it again")]
    Broken,
    /// A valid file without samples.
    #[error("there is no sound in the file; record or export it again")]
    NoSound,
    /// The encoder failed.
    #[error(transparent)]
    Opus(#[from] OpusError),
}

impl Prompt {
    /// Reads an audio file: WAV, MP3, FLAC, Ogg Vorbis or Ogg Opus, recognised by content. `extension` is used in error
    /// texts only.
    ///
    /// Several streams in one file are played one after the other. The channels are mixed down evenly, or one of them is
    /// used where they cancel each other. The audio is resampled to 16 kHz, the bandwidth of a call, and normalised to the
    /// loudness of all prompts. A truncated file is accepted if four fifths of it are there; an Ogg file, which does not
    /// announce its length, always. [`Prompt::warnings`] reports both.
    pub fn from_file(bytes: &[u8], extension: Option<&str>) -> Result<Self, PromptError> {
        let contents = file::read(bytes, extension)?;
        let rate = wideband::RATE;
        Self::encode(&loudness::levelled(&contents.samples, rate.hz()), rate, &contents.warnings)
    }

    /// Encodes mono samples without changing their loudness. The last frame is padded with silence.
    ///
    /// One frame of silence precedes, to let the listener's decoder settle, and one follows, because the encoder lags by
    /// 6.5 ms. Audio of a second or more also gets a seam for looping, a crossfade from its end into its start.
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

    /// Encodes a built-in prompt. Tones need no complex encoding, and every start of the service waits for them. They start
    /// and end in silence, and a cadence must keep its pause, so they loop without a seam.
    pub fn builtin(builtin: Builtin) -> Result<Self, PromptError> {
        let frames = encoded(&tones::samples(builtin), tones::RATE, Profile::Eco)?;
        Ok(Self { sound: Arc::new(Encoded { frames, seam: None, warnings: Box::default() }) })
    }

    /// The Opus packets of one pass, 20 ms each; never empty.
    pub fn frames(&self) -> &[Bytes] {
        &self.sound.frames
    }

    /// Duration of one pass.
    pub fn duration(&self) -> Duration {
        crate::opus::FRAME * self.frames().len() as u32
    }

    /// What may sound different from what the file's author expects.
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

    /// Its name in `prompt:NAME`.
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

/// Frames of silence before the audio.
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
