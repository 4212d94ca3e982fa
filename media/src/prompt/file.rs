//! Audio files: WAV, MP3, FLAC, Ogg Vorbis and Ogg Opus become mono samples at 16 kHz.
//!
//! The containers are read by our own code and not by a crate, because streaming encoders leave wrong lengths, granule
//! positions and block sizes in them: only the bytes that are there count. Libraries decode the audio, which is mixed down
//! and resampled packet by packet, so a file costs no more memory than ten minutes of mono, whatever its rate and channels,
//! and no more work than [`MAX_WORK`].

mod wav;
mod mp3;
mod flac;
mod ogg;
mod sound;
mod mixdown;

use std::panic::{AssertUnwindSafe, catch_unwind};

use symphonia::core::errors::Error as DecodeError;

use super::{MAX_FILE_BYTES, PromptError, PromptWarning};
use sound::Sound;

/// Bound on decoding a file, in samples of all channels: ten minutes of stereo at 96 kHz fit.
///
/// Ten minutes of eight channels at 192 kHz are 920 million samples, and silence of that kind fits into 1 MB of FLAC.
const MAX_WORK: u64 = 128_000_000;

/// Cost of a packet beside its samples, so that many tiny packets are bounded too.
const PACKET_WORK: u64 = 100;

/// Cost of setting up a decoder and a resampler.
const SOUND_WORK: u64 = 10_000;

/// A peak below this is inaudible even 20 dB louder: about -68 dBFS.
const INAUDIBLE: f32 = 0.0004;

/// The content of a file.
#[derive(Debug)]
pub(super) struct Contents {
    /// Mono at 16 kHz, full scale 1.0, never empty.
    pub samples: Vec<f32>,
    /// What may sound different from what its author expects, each once.
    pub warnings: Vec<PromptWarning>,
}

/// Decodes a whole file, all streams in it one after the other. `extension` is used in the error only.
pub(super) fn read(bytes: &[u8], extension: Option<&str>) -> Result<Contents, PromptError> {
    read_within(&mut Work::new(MAX_WORK), bytes, extension)
}

fn read_within(work: &mut Work, bytes: &[u8], extension: Option<&str>) -> Result<Contents, PromptError> {
    if bytes.is_empty() {
        return Err(PromptError::Empty);
    }
    if bytes.len() > MAX_FILE_BYTES {
        return Err(PromptError::TooManyBytes);
    }
    // Third-party decoders read third-party bytes: a panic in them costs this file, not the process.
    catch_unwind(AssertUnwindSafe(|| decode(work, bytes, extension)))
        .unwrap_or_else(|_| Err(PromptError::Undecodable("the decoder failed on it".into())))
}

fn decode(work: &mut Work, bytes: &[u8], extension: Option<&str>) -> Result<Contents, PromptError> {
    let sounds = sounds(bytes, work)?;
    if sounds.is_empty() {
        return Err(PromptError::UnknownFormat { extension: extension.map(str::to_owned) });
    }
    let mut contents = Contents { samples: Vec::new(), warnings: Vec::new() };
    let mut failure = PromptError::NoSound;
    let mut is_incomplete = false;
    for sound in sounds {
        match sound.and_then(|sound| sound.decode(work, &mut contents)) {
            Ok(()) => {}
            Err(error @ (PromptError::TooLong | PromptError::TooMuchWork)) => return Err(error),
            // A file may end in an empty stream, such as the header of one that was never sent.
            Err(PromptError::NoSound) => {}
            Err(error) => {
                is_incomplete = true;
                failure = error;
            }
        }
    }
    if contents.samples.is_empty() {
        return Err(failure);
    }
    if is_incomplete {
        contents.warn(PromptWarning::SoundLeftOut);
    }
    if contents.samples.iter().all(|sample| sample.abs() < INAUDIBLE) {
        contents.warn(PromptWarning::Silent);
    }
    Ok(contents)
}

/// The streams of a file, recognised by content: a wrong extension is no reason to refuse a valid file. Empty if the format
/// is not supported.
fn sounds<'a>(bytes: &'a [u8], work: &mut Work) -> Result<Sounds<'a>, PromptError> {
    let content = behind_id3(bytes);
    // Zeros are what a removed tag leaves.
    let start = content.iter().position(|byte| *byte != 0).unwrap_or(0);
    let content = &content[start..];
    match content {
        [b'f', b'L', b'a', b'C', ..] => flac::sounds(content, work),
        [b'O', b'g', b'g', b'S', ..] => ogg::sounds(content, work),
        _ if wav::is_wav(content) => wav::sounds(content, work),
        _ => mp3::sounds(content, work),
    }
}

/// A stream, or the reason why it cannot be decoded.
type Sounds<'a> = Vec<Result<Sound<'a>, PromptError>>;

/// Titles and cover pictures precede the audio and look like anything (ID3v2.4 §3.1). A tag longer than the file has a
/// wrong size; then the audio is searched for after the tag's header.
fn behind_id3(mut bytes: &[u8]) -> &[u8] {
    while let Some(size) = id3_size(bytes) {
        bytes = bytes.get(size..).filter(|rest| !rest.is_empty()).unwrap_or(&bytes[ID3_HEADER_BYTES..]);
    }
    bytes
}

const ID3_HEADER_BYTES: usize = 10;

/// Length of the ID3v2 tag that starts here.
fn id3_size(bytes: &[u8]) -> Option<usize> {
    let &[b'I', b'D', b'3', _, _, flags, a, b, c, d, ..] = bytes else { return None };
    let content = [a, b, c, d].iter().fold(0, |size, byte| size << 7 | usize::from(byte & 0x7f));
    let footer = if flags & 0b0001_0000 != 0 { ID3_HEADER_BYTES } else { 0 };
    Some(ID3_HEADER_BYTES + content + footer)
}

impl Contents {
    fn warn(&mut self, warning: PromptWarning) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

/// Remaining bound on decoding. Counted, not timed, so that every machine accepts and refuses the same files.
struct Work {
    left: u64,
}

impl Work {
    fn new(left: u64) -> Self {
        Self { left }
    }

    fn spend(&mut self, samples: u64) -> Result<(), PromptError> {
        self.left = self.left.checked_sub(samples).ok_or(PromptError::TooMuchWork)?;
        Ok(())
    }

    fn spend_sound(&mut self) -> Result<(), PromptError> {
        self.spend(SOUND_WORK)
    }
}

impl From<DecodeError> for PromptError {
    fn from(error: DecodeError) -> Self {
        Self::Undecodable(error.to_string())
    }
}

#[cfg(test)]
mod tests;
