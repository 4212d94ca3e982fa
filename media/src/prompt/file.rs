//! Sound files: WAV, MP3, FLAC, Ogg Vorbis and Ogg Opus become mono samples at 16 kHz.
//!
//! The containers are walked here, because encoders that stream leave lengths, granule positions and block sizes in
//! them that are not true: what counts is the bytes that are there. The sound in them is decoded by libraries, mixed
//! down and resampled packet by packet, so a file costs no more memory than ten minutes of mono, whatever its rate
//! and its channels, and no more work than [`MAX_WORK`].

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

/// What decoding a file may cost, in samples of all channels: ten minutes of stereo at 96 kHz fit in.
///
/// Ten minutes of eight channels at 192 kHz are 920 million samples, and silence of that kind fits into 1 MB of FLAC.
const MAX_WORK: u64 = 128_000_000;

/// What a packet costs beside its samples, so that many tiny packets are bounded too.
const PACKET_WORK: u64 = 100;

/// What it costs to set up a decoder and a resampler.
const SOUND_WORK: u64 = 10_000;

/// A wave that stays below this is not heard, even 20 dB louder: about -68 dBFS, a dozen of the lowest bits of 16.
const INAUDIBLE: f32 = 0.0004;

/// What a file holds.
#[derive(Debug)]
pub(super) struct Contents {
    /// Mono at 16 kHz, full scale 1.0, never empty.
    pub samples: Vec<f32>,
    /// What is not heard as its author may expect, each once.
    pub warnings: Vec<PromptWarning>,
}

/// Decodes a whole file, all sounds in it one after the other. `extension` appears in the error only.
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
    // The decoders are other people's code and the file is yet others' bytes: a panic between them costs this file,
    // not the process.
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
            // A file may end in a sound of no length, such as the header of a stream that was never sent.
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

/// The sounds of a file, told apart by content: a wrong extension is no reason to refuse a good sound. None at all if
/// the content is of no kind that we read.
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

/// A sound that cannot be decoded stands among the others with its reason.
type Sounds<'a> = Vec<Result<Sound<'a>, PromptError>>;

/// Titles and cover pictures stand before the sound and look like anything (ID3v2.4 §3.1). A tag longer than the file
/// has a wrong size; then the sound is looked for behind the tag's header.
fn behind_id3(mut bytes: &[u8]) -> &[u8] {
    while let Some(size) = id3_size(bytes) {
        bytes = bytes.get(size..).filter(|rest| !rest.is_empty()).unwrap_or(&bytes[ID3_HEADER_BYTES..]);
    }
    bytes
}

const ID3_HEADER_BYTES: usize = 10;

/// How long the ID3v2 tag is that begins here.
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

/// What decoding may still cost. Counted, not timed, so that a file is refused or taken on every machine alike.
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
